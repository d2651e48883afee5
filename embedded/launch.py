"""Becomes another program, after tying its life to the parent's and giving up root if asked.

Run as `python -I -S launch.py PARENT_PID SIGNAL USER PROGRAM ARGUMENT...` (`USER` `-` keeps the present one). A small
program of its own instead of `preexec_fn`, which must not be used where the parent has threads. The process id stays
the same throughout, so that the parent's handle on it is good.
"""

import ctypes
import os
import pwd
import signal
import sys

PR_SET_PDEATHSIG = 1


def become(parent: int, signal_number: int, user: str, argv: list[str]) -> None:
    """Replace this process with `argv`, which gets `signal_number` as soon as `parent` is gone (Linux)."""
    for ignored_by_python in (signal.SIGPIPE, signal.SIGXFSZ):  # and so by what we become, which does not expect it
        signal.signal(ignored_by_python, signal.SIG_DFL)
    if user != "-":
        entry = pwd.getpwnam(user)
        os.setgroups([])
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)
    if sys.platform == "linux":
        # After the change of user, which would reset it.
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal_number, 0, 0, 0)
        if os.getppid() != parent:  # it died before we asked to be told
            sys.exit(1)
    os.execv(argv[0], argv)  # noqa: S606  no shell is wanted


if __name__ == "__main__":
    become(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:])

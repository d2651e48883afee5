"""Child processes that never outlive us, and the places where their sockets and programs can be reached."""

import contextlib
import hashlib
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LAUNCHER = Path(__file__).with_name("launch.py")
UNPRIVILEGED_USER = "nobody"
SOCKET_PATH_MAX_BYTES = 107
# For what may have much to do before it answers: a log to read after a crash, a database to migrate. To be ended in the
# middle of it means to begin anew.
LONG_START_S = 600.0
LOOPBACK = "127.0.0.1"
_NEAR = {"": LOOPBACK, "0.0.0.0": LOOPBACK, "::": "::1"}


class PartFailedError(Exception):
    """An embedded part did not start, or died; the text says which and shows the end of its log."""


class AlreadyRunningError(PartFailedError):
    """The data directory is in use by another, living process."""

    def __init__(self, part: str, data: Path, pid: int) -> None:
        super().__init__(f"{part} is already running on {data} (process {pid})")
        self.pid = pid


def spawn(
    argv: list[str],
    *,
    log: Path | None = None,
    stdout: int | None = None,
    on_parent_death: signal.Signals = signal.SIGTERM,
    user: str | None = None,
    stdin: bytes | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    pass_fds: tuple[int, ...] = (),
) -> subprocess.Popen[bytes]:
    """Start `argv` in a session of its own (a terminal's Ctrl-C reaches us alone, and we stop things in order).

    `on_parent_death` is sent to it when we die, however we die (Linux; when the thread that calls this ends, to be
    exact, so call it from one that stays). `log` collects its output, appended; without one it is inherited. `stdout`
    takes its standard output elsewhere (a file descriptor or `subprocess.PIPE`). `stdin` is fed to it, else it has
    none.
    """
    launcher = [sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid()), str(int(on_parent_death)), user or "-"]
    with contextlib.ExitStack() as stack:
        output = stack.enter_context(log.open("ab")) if log is not None else None
        process = subprocess.Popen(
            [*launcher, *argv],
            stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
            stdout=stdout if stdout is not None else output,
            stderr=output,
            env=dict(env) if env is not None else None,
            cwd=cwd,
            pass_fds=pass_fds,
            start_new_session=True,
        )
    if stdin is not None and process.stdin is not None:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(stdin)
            process.stdin.close()
    return process


def stop(process: subprocess.Popen[bytes], how: signal.Signals = signal.SIGTERM, timeout_s: float = 10) -> int:
    """Ask `process` to end, insist after `timeout_s`; answers its exit status."""
    if process.poll() is None:
        process.send_signal(how)
        try:
            return process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait()


def wait_until(
    ready: Callable[[], bool], process: subprocess.Popen[bytes], part: str, log: Path | None, timeout_s: float = 20
) -> None:
    """Poll `ready` every 5 ms until it holds; raises `PartFailedError` when `process` ends first or time is up."""
    deadline = time.monotonic() + timeout_s
    while not ready():
        if process.poll() is not None:
            raise PartFailedError(f"{part} ended at its start (status {process.returncode})\n{tail(log)}")
        if time.monotonic() > deadline:
            process.kill()
            process.wait()
            raise PartFailedError(f"{part} did not answer within {timeout_s:g} s\n{tail(log)}")
        time.sleep(0.005)


def tail(log: Path | None, lines: int = 12) -> str:
    """The last lines of a log, for an error message."""
    if log is None or not log.exists():
        return ""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def is_alive(pid: int) -> bool:
    """Whether a process of this id exists and is not merely waiting to be collected."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return True


def near(host: str) -> str:
    """Where programs on this machine find what listens at `host`."""
    return _NEAR.get(host, host)


def address_of(host: str, port: int) -> str:
    """`http://HOST:PORT`, as a URL writes it."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on at the moment."""
    with socket.create_server((LOOPBACK, 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def reachable_by_others(path: Path) -> bool:
    """Whether an unprivileged user can walk down to `path`: every directory above it lets others pass."""
    resolved = path.resolve()
    return all(parent.stat().st_mode & stat.S_IXOTH for parent in [resolved, *resolved.parents] if parent.is_dir())


def socket_directory(data: Path, owner: int) -> Path:
    """A short directory for the sockets of the part whose data lie in `data`, the same at every start.

    Socket paths may have 107 bytes and data directories are deeper than that sooner or later. Only `owner` (a user's
    number) and root get in, so that what listens there needs no password.
    """
    name = f"lectern-{owner}-{hashlib.sha256(os.fsencode(data.resolve())).hexdigest()[:12]}"
    directory = Path(tempfile.gettempdir()) / name
    if len(os.fsencode(directory / ".s.PGSQL.5432")) > SOCKET_PATH_MAX_BYTES:
        directory = Path("/tmp") / name  # noqa: S108  the owner is checked below
    with contextlib.suppress(FileExistsError):
        directory.mkdir(mode=0o700)
        if owner != os.geteuid():
            os.chown(directory, owner, -1)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != owner or found.st_mode & 0o077:
        raise PartFailedError(f"{directory} belongs to somebody else or is open to others; remove it and try again")
    return directory

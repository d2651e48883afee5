"""Makes `.venv` and keeps it as the requirements say. Run by `bin/setup` with any Python; nothing but stdlib."""

import argparse
import contextlib
import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
PIP = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "PIP_ROOT_USER_ACTION": "ignore"}
LOG_EVERY_S = 5.0
NO_VENV = """This Python ({python}) cannot make virtual environments: its modules venv or ensurepip are missing.
Debian, Ubuntu: apt-get install python3-venv"""


def main() -> int:
    """Bring the environment up to date for what was asked; answers the exit status."""
    parser = argparse.ArgumentParser(prog="bin/setup")
    parser.add_argument("--dev", action="store_true")
    parser.add_argument("--node", action="store_true")
    arguments = parser.parse_args()
    groups = ["run", *(["dev"] if arguments.dev else []), *(["node"] if arguments.node else [])]
    if not _stale(groups):
        return 0
    try:
        with (ROOT / ".setup.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # two commands at once: the second waits, and finds it done
            stale = _stale(groups)
            if not stale:
                return 0
            if not _interpreter_works() and (status := _make()) != 0:
                return status
            return _install(stale)
    except OSError as error:  # the tree is somebody else's, or the disk is full
        print(f"bin/setup: {VENV} cannot be used as it is, and not be made anew: {error}", file=sys.stderr)
        return 1


def requirements(group: str) -> Path:
    """The pinned and hashed packages of a group."""
    return ROOT / "requirements" / f"{group}.txt"


def _stamp(group: str) -> Path:
    return VENV / f".lectern-{group}"


def _fingerprint(group: str) -> str:
    """Of the packages, and of the place: an environment that was moved does not work."""
    return f"{hashlib.sha256(requirements(group).read_bytes()).hexdigest()} {VENV}\n"


def _stale(groups: list[str]) -> list[str]:
    def fresh(group: str) -> bool:
        with contextlib.suppress(OSError):
            return (VENV / "bin" / "python").exists() and _stamp(group).read_text() == _fingerprint(group)
        return False

    return [group for group in groups if not fresh(group)]


def _interpreter_works() -> bool:
    with contextlib.suppress(OSError):
        probe = "import pip, sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))"
        command = [str(VENV / "bin" / "python"), "-c", probe]
        moved = VENV.joinpath("bin", "activate").read_text().find(str(VENV)) < 0
        return not moved and subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 0
    return False


def _make() -> int:
    if any(importlib.util.find_spec(module) is None for module in ("venv", "ensurepip")):
        print(NO_VENV.format(python=sys.executable), file=sys.stderr)
        return 1
    print(f"Making .venv with Python {sys.version.split()[0]}", flush=True)
    shutil.rmtree(VENV, ignore_errors=True)
    done = subprocess.run([sys.executable, "-m", "venv", VENV], check=False, stdout=sys.stderr)
    if done.returncode != 0:
        shutil.rmtree(VENV, ignore_errors=True)
        print(NO_VENV.format(python=sys.executable), file=sys.stderr)
    return done.returncode


def _install(groups: list[str]) -> int:
    """All stale groups in one go: their versions agree, and pip says so if they do not."""
    count = len({package for group in groups for package in _packages(group)})
    progress = Progress(f"Installing {count} packages ({', '.join(groups)}), once", count)
    command = [str(VENV / "bin" / "python"), "-m", "pip", "install", "--require-hashes", "--no-deps"]
    for group in groups:
        _stamp(group).unlink(missing_ok=True)
        command += ["-r", str(requirements(group))]
    # pip's own words are many and partly about this machine's settings: they are shown only if it fails.
    command += ["--progress-bar", "off"]
    said: list[str] = []
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, **PIP},
        text=True,
        errors="replace",
    ) as pip:
        assert pip.stdout is not None
        for line in pip.stdout:
            said.append(line.rstrip())
            progress.hear(line)
    progress.end()
    if pip.returncode == 0:
        for group in groups:
            _stamp(group).write_text(_fingerprint(group))
    else:
        print("\n".join(quote(said)), file=sys.stderr)
        print("bin/setup: pip could not install the packages; is there a network?", file=sys.stderr)
    return pip.returncode


def _packages(group: str) -> list[str]:
    lines = requirements(group).read_text().splitlines()
    return [line.partition("==")[0] for line in lines if line[:1].isalnum()]


def quote(said: list[str]) -> list[str]:
    """What a failed pip said that matters: its last lines, without the warnings."""
    return [line for line in said if not line.startswith("WARNING:")][-25:]


class Progress:
    """How far pip has come: at a terminal one line that is written over, in a log one now and then."""

    def __init__(self, title: str, count: int) -> None:
        self._title = title
        self._count = count
        self._seen = 0
        self._is_terminal = sys.stdout.isatty()
        self._told_at = time.monotonic()
        print(title, end="" if self._is_terminal else "\n", flush=True)

    def hear(self, line: str) -> None:
        """One line of pip's."""
        if line.startswith(("Collecting ", "Requirement already satisfied: ")):
            self._seen = min(self._seen + 1, self._count)
            self._tell(f"fetching {self._seen} of {self._count}")
        elif line.startswith("Installing collected packages"):
            self._tell("unpacking", important=True)

    def end(self) -> None:
        """Finish the line."""
        if self._is_terminal:
            print(f"\r\x1b[2K{self._title}", flush=True)

    def _tell(self, text: str, *, important: bool = False) -> None:
        if self._is_terminal:
            width = shutil.get_terminal_size().columns - 1
            print(f"\r\x1b[2K{f'{self._title}: {text}'[:width]}", end="", flush=True)
        elif important or time.monotonic() - self._told_at >= LOG_EVERY_S:
            self._told_at = time.monotonic()
            print(f"  {text}", flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("\nbin/setup: interrupted; the next time it begins again")

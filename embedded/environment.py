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
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
PIP = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "PIP_ROOT_USER_ACTION": "ignore"}
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
    with (ROOT / ".setup.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two commands at once: the second waits, and finds it done
        stale = _stale(groups)
        if not stale:
            return 0
        if not _interpreter_works() and (status := _make()) != 0:
            return status
        return _install(stale)


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
    count = sum(line[:1].isalnum() for group in groups for line in requirements(group).read_text().splitlines())
    print(f"Installing {count} packages ({', '.join(groups)}), once", flush=True)
    command = [str(VENV / "bin" / "python"), "-m", "pip", "install", "--require-hashes", "--no-deps"]
    for group in groups:
        _stamp(group).unlink(missing_ok=True)
        command += ["-r", str(requirements(group))]
    # A terminal sees pip's own progress; a log one line and what goes wrong.
    if not sys.stdout.isatty():
        command.append("--quiet")
    done = subprocess.run(command, check=False, env={**os.environ, **PIP}, stdin=subprocess.DEVNULL)
    if done.returncode == 0:
        for group in groups:
            _stamp(group).write_text(_fingerprint(group))
    else:
        print("bin/setup: pip could not install the packages; is there a network?", file=sys.stderr)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())

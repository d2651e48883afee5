import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from embedded import environment, processes

COMMANDS = sorted(path.name for path in (processes.ROOT / "bin").iterdir())
# Those that do nothing without a word.
FIRST_WORDS = {"admin": ("jobs",), "bench": ("live",)}


@pytest.fixture
def venv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    venv = tmp_path / ".venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").touch()
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    monkeypatch.setattr(environment, "VENV", venv)
    (tmp_path / "requirements").mkdir()
    for group in ("run", "dev"):
        environment.requirements(group).write_text(f"{group}==1\n")
        environment._stamp(group).write_text(environment._fingerprint(group))
    return venv


@pytest.mark.usefixtures("venv")
def test_an_environment_as_the_requirements_say_is_left_alone() -> None:
    assert environment._stale(["run", "dev"]) == []


@pytest.mark.usefixtures("venv")
def test_a_group_whose_requirements_changed_is_stale() -> None:
    environment.requirements("dev").write_text("dev==2\n")
    assert environment._stale(["run", "dev"]) == ["dev"]


def test_an_environment_without_its_interpreter_is_stale(venv: Path) -> None:
    (venv / "bin" / "python").unlink()
    assert environment._stale(["run"]) == ["run"]


def test_an_environment_that_was_moved_is_stale(venv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = venv.with_name("moved")
    venv.rename(moved)
    monkeypatch.setattr(environment, "VENV", moved)
    assert environment._stale(["run"]) == ["run"]


def test_a_python_without_venv_is_told_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment.importlib.util, "find_spec", lambda _: None)
    assert environment._make() == 1
    assert "python3-venv" in capsys.readouterr().err


def test_a_tree_that_cannot_be_written_is_told_and_not_a_traceback(
    venv: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (venv / "bin" / "python").unlink()
    (venv.parent / ".setup.lock").mkdir()  # which root cannot write to either
    monkeypatch.setattr(sys, "argv", ["bin/setup"])
    assert environment.main() == 1
    assert str(venv) in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_says_what_it_does_at_once_and_from_anywhere(command: str, tmp_path: Path) -> None:
    alone = tmp_path / "bin" / command
    alone.parent.mkdir()
    shutil.copy(processes.ROOT / "bin" / command, alone)
    done = subprocess.run(
        [f"./{command}", "--help"], cwd=alone.parent, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: bin/{command}")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_works_on_its_own_tree_wherever_the_shell_looks_for_folders(command: str, tmp_path: Path) -> None:
    for tree in (tmp_path / "ours", tmp_path / "other"):
        (tree / "bin").mkdir(parents=True)
        (tree / "bin" / "setup").write_text(f"#!/bin/sh\necho set up {tree.name}\nexit 7\n")
        (tree / "bin" / "setup").chmod(0o755)
        (tree / "embedded").mkdir()
        (tree / "embedded" / "environment.py").write_text(f"print('set up {tree.name}')\nexit(7)\n")
    shutil.copy(processes.ROOT / "bin" / command, tmp_path / "ours" / "bin" / command)
    done = subprocess.run(
        [f"bin/{command}", *FIRST_WORDS.get(command, ())],
        cwd=tmp_path / "ours",
        env={**os.environ, "CDPATH": str(tmp_path / "other")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (7, "set up ours\n")


def test_a_machine_without_a_fitting_python_is_told_so(tmp_path: Path) -> None:
    for name in ("dirname", "sh"):
        (tmp_path / name).symlink_to(f"/bin/{name}" if Path(f"/bin/{name}").exists() else f"/usr/bin/{name}")
    old = tmp_path / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    command = ["/bin/sh", str(processes.ROOT / "bin" / "setup")]
    done = subprocess.run(command, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Python 3.11, 3.12 or 3.13 is needed" in done.stderr


def test_setup_needs_nothing_but_the_standard_library() -> None:
    script = str(processes.ROOT / "embedded" / "environment.py")
    done = subprocess.run([sys.executable, "-I", "-S", script, "--help"], capture_output=True, check=False)
    assert done.returncode == 0


def test_what_a_failed_pip_said_is_shown_without_its_warnings() -> None:
    said = ["Collecting aiohttp", "WARNING: Location 'file:///x' is ignored", "ERROR: no matching distribution"]
    assert environment.quote(said) == ["Collecting aiohttp", "ERROR: no matching distribution"]


def test_a_log_gets_the_progress_of_an_installation_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "LOG_EVERY_S", 0)
    progress = environment.Progress("Installing 2 packages", 2)
    for line in (
        "Collecting aiohttp==1",
        "  Using cached aiohttp.whl",
        "Collecting yarl==1",
        "Installing collected packages: x",
    ):
        progress.hear(line)
    progress.end()
    assert capsys.readouterr().out.splitlines() == [
        "Installing 2 packages", "  fetching 1 of 2", "  fetching 2 of 2", "  unpacking",
    ]  # fmt: skip

"""The floors of the house, as pyproject.toml draws them."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# The module and who may not even be heard of in it.
FORBIDDEN = {"locust": ("server", "actors", "handlers", "tests/support", "embedded", "standins")}


def test_no_floor_imports_one_above_it() -> None:
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_patches_the_interpreter_is_never_imported_by_the_product() -> None:
    for module, directories in FORBIDDEN.items():
        for directory in directories:
            for path in (ROOT / directory).rglob("*.py"):
                text = path.read_text(encoding="utf-8")
                assert f"import {module}" not in text, path
                assert f"from {module}" not in text, path


def test_tests_do_not_shadow_what_they_test() -> None:
    assert list((ROOT / "tests").rglob("__init__.py")) == []


def test_sql_holds_no_python() -> None:
    assert list((ROOT / "sql").rglob("*.py")) == []

import fcntl
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from embedded import npm
from embedded.npm import NpmFailedError


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "package-lock.json").write_text("{}")
    monkeypatch.setattr(npm, "ROOT", tmp_path)
    monkeypatch.setattr(npm, "MODULES", tmp_path / "node_modules")
    monkeypatch.setattr(npm, "STAMP", tmp_path / "node_modules" / ".lectern")
    fake = tmp_path / "npm"
    fake.write_text('#!/bin/sh\nmkdir -p node_modules\necho "$@" >> asked\n')
    fake.chmod(0o755)
    monkeypatch.setattr(npm, "npm", lambda: [str(fake)])
    return tmp_path


def asked(root: Path) -> list[str]:
    return (root / "asked").read_text().splitlines()


def test_the_packages_are_fetched_once(root: Path) -> None:
    npm.install()
    npm.install()
    assert asked(root) == ["ci --no-audit --no-fund --ignore-scripts --omit=dev"]


def test_they_are_fetched_again_when_the_lock_changes(root: Path) -> None:
    npm.install()
    (root / "package-lock.json").write_text('{"lockfileVersion": 3}')
    assert not npm.is_fresh()
    npm.install()
    assert len(asked(root)) == 2


def test_what_only_tests_need_is_fetched_for_them_and_then_there_for_all(root: Path) -> None:
    npm.install()
    npm.install(dev=True)
    npm.install()
    assert asked(root)[1:] == ["ci --no-audit --no-fund --ignore-scripts"]


def test_what_npm_complains_about_is_passed_on(root: Path) -> None:
    (root / "npm").write_text("#!/bin/sh\necho no network >&2\nexit 1\n")
    with pytest.raises(NpmFailedError, match="no network"):
        npm.install()
    assert not npm.is_fresh()


def test_who_has_no_home_lends_npm_one(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/nonexistent")
    (root / "npm").write_text('#!/bin/sh\nmkdir -p node_modules "$HOME/.npm"\necho "$HOME" >> asked\n')
    npm.install()
    [lent] = asked(root)
    assert not Path(lent).exists(), "it is gone afterwards"


def test_who_has_a_home_keeps_what_npm_finds_there(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(root))
    (root / "npm").write_text('#!/bin/sh\nmkdir -p node_modules\necho "$HOME" >> asked\n')
    npm.install()
    assert asked(root) == [str(root)]


def test_two_at_once_fetch_them_once(root: Path) -> None:
    (root / "npm").write_text('#!/bin/sh\nmkdir node_modules || exit 1\nsleep 0.3\necho "$@" >> asked\n')
    with ThreadPoolExecutor() as pool:
        for each in [pool.submit(npm.install) for _ in range(2)]:
            each.result()
    assert len(asked(root)) == 1


def test_an_npm_that_outlives_who_started_it_is_waited_for(root: Path) -> None:
    (root / "npm").write_text("#!/bin/sh\nmkdir node_modules\nsleep 60 >/dev/null 2>&1 &\necho $! > left\n")
    npm.install()
    left = int((root / "left").read_text())
    try:
        with (root / ".npm.lock").open() as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.kill(left, signal.SIGKILL)


def test_a_tree_that_cannot_be_written_is_told_like_any_other_failure(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(npm, "ROOT", root / "package-lock.json" / "..")
    monkeypatch.setattr(npm, "is_fresh", lambda **_: False)
    with pytest.raises(NpmFailedError):
        npm.install()

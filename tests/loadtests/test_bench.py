"""The bench works; how fast anything is decides no test."""

import json
import shutil
import subprocess
import sys

import pytest

from tests.support.server_process import ROOT

pytestmark = [
    pytest.mark.timeout(170),
    pytest.mark.skipif(shutil.which("cc") is None, reason="the load generator needs a C compiler"),
]


def bench(*arguments: str) -> dict:
    command = [sys.executable, "-m", "loadtests.bench", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=160)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_frames_go_through_the_whole_path_beside_a_bare_echo() -> None:
    found = bench("live", "--sessions", "20", "--rounds", "1", "--seconds", "0.5")
    for server in ("whole path", "bare echo"):
        assert found[server]["answers"] > 0
        assert found[server]["errors"] == found[server]["lost"] == found[server]["refused"] == 0
    assert found["of the echo, by CPU"] > 0


def test_the_core_is_measured_without_sockets() -> None:
    assert bench("checkpoints", "--sessions", "30", "--rounds", "1")["alone"]["rows_per_s"] > 0
    assert bench("replay", "--sessions", "30")["seconds"] > 0

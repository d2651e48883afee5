"""The bench works; how fast anything is decides no test."""

import json
import shutil
import subprocess
import sys

import pytest

from loadtests.bench.overload import judge
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


@pytest.mark.slow
def test_the_core_is_measured_without_sockets() -> None:
    assert bench("checkpoints", "--sessions", "30", "--rounds", "1")["alone"]["rows_per_s"] > 0
    assert bench("replay", "--sessions", "30")["seconds"] > 0


def test_a_rest_route_is_measured_beside_plain_aiohttp_and_what_is_missing_is_named() -> None:
    found = bench("rest", "--rounds", "1", "--seconds", "0.3")
    assert found["lectern"]["errors"] == found["aiohttp"]["errors"] == 0
    assert found["aiohttp"]["lectern of it, by CPU"] > 0
    assert found["skipped"] == ["starlette", "fastapi", "litestar", "blacksheep", "fastify"]


def test_overload_is_judged_by_its_seconds() -> None:
    seconds = [
        {"at_s": 1.0, "live": 300, "refused": 0, "lost": 0, "frames": 1500, "p99_ms": 5.0},
        {"at_s": 2.0, "live": 600, "refused": 0, "lost": 0, "frames": 3000, "p99_ms": 40.0},
        {"at_s": 3.0, "live": 620, "refused": 280, "lost": 0, "frames": 3100, "p99_ms": 60.0},
        {"at_s": 4.0, "live": 320, "refused": 300, "lost": 0, "frames": 1600, "p99_ms": 9.0},
        {"at_s": 5.0, "live": 600, "refused": 300, "lost": 0, "frames": 1600, "p99_ms": 9.0},
        {"at_s": 6.0, "live": 620, "refused": 580, "lost": 0, "frames": 3100, "p99_ms": 50.0},
    ]
    found = judge(seconds, 3.0)
    assert found["ratio of the worst second"] == 1.5
    assert found["others are in after, s"] == 2.0
    assert judge(seconds[:2], 3.0)["saturated"] is False

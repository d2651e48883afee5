"""`bin/loadtest` as it is called, against a double of the product."""

import asyncio
import json
import re
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from loadtests.__main__ import PURCHASES, SCENARIO, locust_command, parse
from tests.support.fake_lectern import FakeLectern

ROOT = Path(__file__).resolve().parents[2]


async def run(*arguments: str, module: str = "loadtests", cwd: Path = ROOT) -> tuple[int | None, str]:
    """Exit status and output of the scenario."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, *arguments,
        cwd=cwd, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        async with asyncio.timeout(60):
            out, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    return process.returncode, out.decode()


def test_every_option_is_told_by_its_help():
    told = set(re.findall(r"^#   (--[a-z-]+)", (ROOT / "bin" / "loadtest").read_text(), re.MULTILINE))
    assert told == {f"--{name.replace('_', '-')}" for name in vars(parse([]))}


def test_the_defaults_are_fifty_players_for_thirty_seconds():
    command = locust_command(parse([]))
    asked = dict(pairwise(command))
    assert asked["--users"] == "50"
    assert asked["--run-time"] == "30s"
    assert asked["--host"] == "http://127.0.0.1:8080"
    assert "--processes" not in command


@pytest.mark.parametrize("nonsense", ["--players=0", "--seconds=-1", "--seconds=nan", "--processes=0"])
def test_a_run_of_nobody_or_of_no_time_is_refused(nonsense: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit, match="2"):
        parse([nonsense])
    assert "more than 0" in capsys.readouterr().err


def test_all_players_have_time_to_watch_in_a_short_run():
    command = locust_command(parse(["--players", "5", "--seconds", "3"]))
    assert dict(pairwise(command))["--spawn-rate"] == "5.0"


async def test_locust_itself_finds_the_scenarios_from_any_directory(tmp_path: Path):
    scenarios = ",".join(str(scenario) for scenario in (SCENARIO, PURCHASES))
    status, out = await run("-f", scenarios, "--list", module="locust", cwd=tmp_path)
    assert status == 0, out
    assert {"Learner", "Buyer"} <= set(out.split())


async def test_players_watch_and_the_table_tells_how_it_was(tmp_path: Path):
    fake, file = FakeLectern(), tmp_path / "figures.json"
    async with fake.running() as base_url:
        arguments = ("--host", base_url, "--players", "5", "--seconds", "3", "--interval-s", "0.1")
        status, out = await run(*arguments, "--accounts", str(tmp_path / "accounts"), "--figures", str(file))
        assert status == 0, out
        told: dict[str, Any] = json.loads(file.read_text())
        assert told["sessions"] == len(fake.sessions) == 5
        assert told["frames"] == sum(len(held.arrivals) for held in fake.sessions.values())
        assert told["frames_lost"] == told["frames_twice"] == told["errors"] == 0
        assert told["ack_ms"]["p99"] >= told["ack_ms"]["p50"] > 0
        assert {held.status for held in fake.sessions.values()} == {"ended"}
        assert fake.registered == 2
        for word in ("sessions", "frames", "acks", "reconnects", "errors", "p50", "p95", "p99", "decision"):
            assert word in out
        assert list((tmp_path / "accounts").iterdir())


async def test_a_server_that_breaks_its_promises_makes_it_fail(tmp_path: Path):
    fake = FakeLectern()
    fake.twist = lambda message: {**message, "saved": 10**6} if message["type"] == "ack" else message
    async with fake.running() as base_url:
        arguments = ("--host", base_url, "--players", "1", "--seconds", "3", "--interval-s", "0.1")
        status, out = await run(*arguments, "--accounts", str(tmp_path))
    assert status == 1
    assert "an ack covers what was never sent or applied" in out


async def test_no_server_is_a_failure(unused_tcp_port: int, tmp_path: Path):
    (tmp_path / "file").touch()
    nowhere = ("--accounts", str(tmp_path / "file"), "--figures", str(tmp_path / "file" / "figures.json"))
    status, out = await run("--host", f"127.0.0.1:{unused_tcp_port}", "--players", "1", "--seconds", "1", *nowhere)
    assert status == 1
    assert re.search("no session: .*Connection refused", out)
    assert "the accounts are not kept" in out
    assert "the figures are not written" in out
    assert "Traceback" not in out


@pytest.mark.slow
async def test_several_processes_add_up(tmp_path: Path):
    fake, file = FakeLectern(), tmp_path / "figures.json"
    async with fake.running() as base_url:
        arguments = ("--host", base_url, "--players", "4", "--seconds", "4", "--interval-s", "0.1", "--processes", "2")
        status, out = await run(*arguments, "--accounts", str(tmp_path / "accounts"), "--figures", str(file))
        assert status == 0, out
        told = json.loads(file.read_text())
        assert told["sessions"] == len(fake.sessions) == 4
        assert told["frames"] == sum(len(held.arrivals) for held in fake.sessions.values())

"""The host as a process of its own, killed when it suits it least."""

from __future__ import annotations

import asyncio
import io
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import FormData
from aiohttp.test_utils import unused_port

from standins.video_host.__main__ import read_arguments, settings_from
from standins.video_host.clip import cached_clip

ROOT = Path(__file__).resolve().parents[3]
BEARER = {"Authorization": "Bearer t"}


def command_line(folder: Path, key_pem: str, port: int) -> list[str]:
    (folder / "key.pem").write_text(key_pem)
    data = ["--port", str(port), "--data", str(folder / "data"), "--account-id", "a", "--api-token", "t"]
    return [*data, "--signing-key-file", str(folder / "key.pem"), "--key-id", "k"]


@asynccontextmanager
async def running_host(arguments: list[str], url: str) -> AsyncIterator[asyncio.subprocess.Process]:
    command = [sys.executable, "-m", "standins.video_host", *arguments]
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stderr=asyncio.subprocess.DEVNULL)
    try:
        async with asyncio.timeout(30), aiohttp.ClientSession() as http:
            while True:
                try:
                    async with http.get(f"{url}/livez"):
                        break
                except aiohttp.ClientConnectionError:
                    await asyncio.sleep(0.05)
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def until(http: aiohttp.ClientSession, video_url: str, done: Callable[[dict[str, Any]], bool]) -> None:
    while True:
        async with http.get(video_url, headers=BEARER) as answer:
            if done((await answer.json())["result"]["status"]):
                return
        await asyncio.sleep(0.02)


async def test_a_kill_in_the_middle_of_an_encoding_costs_only_time(tmp_path: Path, key_pair: tuple[str, str]) -> None:
    port = unused_port()
    arguments, url = command_line(tmp_path, key_pair[0], port), f"http://127.0.0.1:{port}"
    api = f"{url}/client/v4/accounts/a/stream"
    form = FormData()
    form.add_field("file", io.BytesIO(await asyncio.to_thread(cached_clip(seconds=20).read_bytes)), filename="a.mp4")
    async with aiohttp.ClientSession() as http:
        async with running_host(arguments, url) as host, asyncio.timeout(60):
            async with http.post(f"{api}/direct_upload", headers=BEARER, json={"maxDurationSeconds": 60}) as answer:
                reserved = (await answer.json())["result"]
            async with http.post(reserved["uploadURL"], data=form) as answer:
                assert answer.status == 200
            await until(http, f"{api}/{reserved['uid']}", lambda status: float(status.get("pctComplete", 0)) > 0)
            host.kill()
            await host.wait()
        async with running_host(arguments, url) as host, asyncio.timeout(60):
            await until(http, f"{api}/{reserved['uid']}", lambda status: status["state"] == "ready")
            host.send_signal(signal.SIGTERM)
            assert await host.wait() == 0
    files = {path.name for path in (tmp_path / "data" / "videos" / reserved["uid"]).iterdir()}
    assert files == {"video.json", "media"}


def test_the_command_line_says_all_that_is_needed(tmp_path: Path, key_pair: tuple[str, str]) -> None:
    arguments = command_line(tmp_path, key_pair[0], 9001)
    settings = settings_from(read_arguments(arguments))
    assert (settings.public_url, settings.allow_origins) == ("http://127.0.0.1:9001", ("*",))
    assert (settings.account_id, settings.api_token, settings.key_id) == ("a", "t", "k")
    more = ["--public-url", "http://video.test/", "--allow-origin", "http://a", "--allow-origin", "http://b"]
    settings = settings_from(read_arguments([*arguments, *more]))
    assert (settings.public_url, settings.allow_origins) == ("http://video.test", ("http://a", "http://b"))


def test_a_key_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read_arguments(["--port", "1", "--data", "d", "--account-id", "a", "--api-token", "t", "--key-id", "k"])
    assert "--public-key-file" in capsys.readouterr().err

"""Uploads and deletions whose video host is killed in the middle of them end as if nothing had happened."""

from __future__ import annotations

import asyncio
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from embedded import npm
from standins.video_host.clip import make_clip
from tests.support.uploads import ENDS_WITHIN_S, padded_clip, playing

SCRIPT = Path(__file__).resolve().parents[1] / "support" / "tus_upload.mjs"
MIB = 1024 * 1024


# -- tus ---------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def sending(clip: Path, url: str) -> AsyncIterator[Process]:
    """tus-js-client at work; gone when the block ends, wherever it is."""
    command = [*npm.node(), str(SCRIPT), str(clip), url, str(5 * MIB)]
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, env=npm.environment())
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def past(process: Process, sent: int) -> int:
    """How far it is when it is past so many bytes."""
    assert process.stdout is not None
    async with asyncio.timeout(ENDS_WITHIN_S):
        while line := await process.stdout.readline():
            if int(line) > sent:
                return int(line)
    raise AssertionError("it ended before")


@pytest.mark.parametrize("size_mb", [12, pytest.param(250, marks=pytest.mark.slow)])
async def test_tus_js_client_goes_on_after_the_host_and_then_itself_was_cut_off(
    postgres_dsn: str, redis_url: str, tmp_path: Path, size_mb: int
) -> None:
    if not await asyncio.to_thread((npm.MODULES / "tus-js-client").exists):
        pytest.skip("no tus-js-client: bin/test fetches it")
    clip = await asyncio.to_thread(padded_clip, tmp_path / "clip.mp4", size_mb * 1_000_000)
    form_bytes = 200_000_000 if size_mb > 200 else 1_000_000
    async with playing(postgres_dsn, redis_url, tmp_path, form_bytes=form_bytes) as scene:
        begun = (await scene.begin(clip)).body
        assert begun["upload"]["method"] == "tus"
        url = begun["upload"]["url"]
        async with sending(clip, url) as client:
            await past(client, clip.stat().st_size // 4)
            await scene.host.restart()
            await past(client, clip.stat().st_size // 2)
        async with sending(clip, url) as client:
            assert await past(client, 0) > clip.stat().st_size // 4, "not from the beginning"
            assert client.stdout is not None
            await client.stdout.read()
            assert await client.wait() == 0
        video = await scene.ends(begun["video"]["id"])
        assert (video["status"], video["error"]) == ("ready", None)
        assert (await scene.asked(f"/{video['cloudflare_uid']}"))[1]["size"] == clip.stat().st_size


# -- whenever it dies --------------------------------------------------------------------------------------------------


async def send_form(clip: Path, url: str, cut_at: int | None = None) -> int:
    """The status; 0 when the connection broke, which it does when so many bytes were sent."""

    async def content() -> AsyncIterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="clip.mp4"\r\n\r\n'
        whole = await asyncio.to_thread(clip.read_bytes)
        yield whole[:cut_at]
        if cut_at is not None:
            await asyncio.sleep(30)
        yield b"\r\n--b--\r\n"

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    try:
        async with (
            aiohttp.ClientSession() as http,
            http.post(url, data=content(), headers=headers) as answer,
        ):
            return answer.status
    except aiohttp.ClientError:
        return 0


STEPS = ["before", "arriving", "encoding", "untold", "deleting", "deleted"]


@pytest.mark.parametrize(
    "step", [pytest.param(step, marks=[] if step == "encoding" else pytest.mark.slow) for step in STEPS]
)
async def test_whenever_the_host_is_killed_the_end_is_right(
    postgres_dsn: str, redis_url: str, tmp_path: Path, step: str
) -> None:
    clip = await asyncio.to_thread(make_clip, tmp_path / "clip.mp4", seconds=1, size=(320, 240))
    async with playing(postgres_dsn, redis_url, tmp_path) as scene:
        host, teacher = scene.host, scene.teacher
        if step == "before":
            host.kill()
            refused = await scene.begin(clip)
            assert (refused.status, refused.code) == (503, "upstream_unavailable")
            assert int(refused.headers["Retry-After"]) > 0
            await host.start()
        begun = (await scene.begin(clip)).body
        video_id, uid, url = begun["video"]["id"], begun["video"]["cloudflare_uid"], begun["upload"]["url"]
        if step == "arriving":
            broken = asyncio.create_task(send_form(clip, url, cut_at=1000))
            part = host.directory / "data" / "videos" / uid / "source.part"
            async with asyncio.timeout(30):
                while not part.exists():  # noqa: ASYNC110  # nothing tells us
                    await asyncio.sleep(0.01)
            await host.restart()
            assert await broken == 0
        assert await send_form(clip, url) == 200
        if step == "encoding":
            host.kill()
            host.webhook_url = None  # nobody tells: it is found out
            assert (await teacher.get(f"/api/videos/{video_id}")).status == 200
            await host.start()
        if step == "untold":
            async with asyncio.timeout(ENDS_WITHIN_S):
                while (await scene.asked(f"/{uid}"))[1]["status"]["state"] != "ready":  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            await host.restart()
        assert (await scene.ends(video_id))["status"] == "ready"
        assert [video["uid"] for video in (await scene.asked())[1]] == [uid]

        if step == "deleting":
            host.kill()
        assert (await teacher.delete(f"/api/videos/{video_id}")).status == 204
        if step == "deleted":
            await host.restart()
        if step == "deleting":
            await host.start()
        await scene.gone(uid)
        assert (await scene.asked())[1] == []
        assert (await teacher.get(f"/api/videos/{video_id}")).status == 404

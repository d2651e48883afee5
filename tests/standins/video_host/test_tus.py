"""Resumable uploads: what arrived stays, whoever dies, and nothing else is taken."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiohttp import ClientError

from standins.video_host.clip import cached_clip
from standins.video_host.tus import CHUNK_UNIT_BYTES
from tests.standins.video_host.conftest import API, BEARER, Host

TUS = {"Tus-Resumable": "1.0.0"}
UNIT = CHUNK_UNIT_BYTES


def metadata(**members: str | None) -> str:
    good: dict[str, str | None] = {"maxDurationSeconds": "60", "name": "clip.mp4"} | members
    return ",".join(f"{key} {b64encode(value.encode()).decode()}" for key, value in good.items() if value is not None)


async def create(host: Host, length: int | str, **members: str | None) -> tuple[int, str, str]:
    """(status, path of the upload address, uid) of a new upload of so many bytes."""
    headers = BEARER | TUS | {"Upload-Length": str(length), "Upload-Metadata": metadata(**members)}
    async with host.client.post(f"{API}?direct_user=true", headers=headers) as answer:
        path = answer.headers.get("Location", "").removeprefix(host.settings.public_url)
        return answer.status, path, answer.headers.get("stream-media-id", "")


async def offset(host: Host, path: str) -> int:
    async with host.client.head(path, headers=TUS) as answer:
        assert answer.status == 200
        return int(answer.headers["Upload-Offset"])


async def send(host: Host, path: str, at: int, content: Any, **headers: str) -> int:
    """The status of sending a chunk."""
    sent = TUS | {"Upload-Offset": str(at), "Content-Type": "application/offset+octet-stream"} | headers
    async with host.client.patch(path, data=content, headers=sent) as answer:
        return answer.status


@pytest.fixture
async def host(start_host: Callable[..., Awaitable[Host]]) -> Host:
    return await start_host(min_chunk_bytes=UNIT)


async def test_a_file_sent_in_chunks_over_a_cut_and_a_restart_becomes_a_video(
    host: Host, start_host: Callable[..., Awaitable[Host]]
) -> None:
    clip = await asyncio.to_thread(cached_clip(seconds=6).read_bytes)
    status, path, uid = await create(host, len(clip))
    assert status == 201
    assert len(clip) > UNIT + 1000, "the clip is cut in two"

    async def cut() -> Any:
        yield clip[:1000]
        raise ConnectionError("the line is cut")

    async with asyncio.timeout(30):
        while await offset(host, path) != 1000:
            # What was on its way when the line was cut may be lost with it.
            with suppress(ClientError, ConnectionError):
                await send(host, path, 0, cut(), **{"Content-Length": str(UNIT)})
    await host.client.close()
    host = await start_host(min_chunk_bytes=UNIT, public_url=host.settings.public_url)
    assert await offset(host, path) == 1000
    assert await send(host, path, 1000, clip[1000 : 1000 + UNIT]) == 204
    assert await send(host, path, 1000 + UNIT, clip[1000 + UNIT :]) == 204
    assert await offset(host, path) == len(clip), "also for who did not hear the last answer"
    assert (await host.settled(uid))["status"]["state"] == "ready"
    assert await offset(host, path) == len(clip)
    assert await send(host, path, len(clip), b"") == 409


async def test_a_kill_after_the_last_byte_is_made_up_for(
    host: Host, start_host: Callable[..., Awaitable[Host]]
) -> None:
    _, path, uid = await create(host, 5)
    await host.client.close()
    folder = host.settings.data_dir / "videos" / uid
    (folder / "source.tus").write_bytes(b"12345")
    host = await start_host(min_chunk_bytes=UNIT, public_url=host.settings.public_url)
    assert await offset(host, path) == 5
    assert (await host.settled(uid))["status"]["errorReasonCode"] == "ERR_NON_VIDEO"


@pytest.mark.parametrize(
    ("length", "members", "status"),
    [
        ("0", {}, 400), ("-1", {}, 400), ("x", {}, 400), ("30000000001", {}, 413),
        (10, {"maxDurationSeconds": None}, 400), (10, {"maxDurationSeconds": "0"}, 400),
        (10, {"maxDurationSeconds": "36001"}, 400), (10, {"expiry": "tomorrow"}, 400),
        (10, {"expiry": (datetime.now(UTC) + timedelta(hours=7)).isoformat()}, 400),
        (10, {"expiry": (datetime.now(UTC) + timedelta(hours=5)).isoformat()}, 201),
    ],
)  # fmt: skip
async def test_an_upload_that_cannot_be_is_not_begun(host: Host, length: Any, members: Any, status: int) -> None:
    assert (await create(host, length, **members))[0] == status


async def test_only_the_customer_makes_uploads(host: Host) -> None:
    async with host.client.post(f"{API}?direct_user=true", headers=TUS | {"Upload-Length": "5"}) as answer:
        assert answer.status == 401


async def test_chunks_that_do_not_fit_are_refused_and_change_nothing(host: Host) -> None:
    _, path, _ = await create(host, 3 * UNIT)
    assert await send(host, path, 0, bytes(UNIT)) == 204
    for at, content, headers, status in (
        (0, bytes(UNIT), {}, 409),
        (2 * UNIT, bytes(UNIT), {}, 409),
        (UNIT, bytes(UNIT + 1), {}, 400),
        (UNIT, bytes(5), {}, 400),
        (UNIT, bytes(3 * UNIT), {}, 413),
        (UNIT, bytes(UNIT), {"Content-Type": "video/mp4"}, 415),
        (UNIT, bytes(UNIT), {"Tus-Resumable": "0.2.2"}, 412),
    ):
        assert await send(host, path, at, content, **headers) == status
        assert await offset(host, path) == UNIT
    assert await send(host, path + "x", 0, b"") == 404
    assert await host.upload(path.replace("/tus/", "/upload/"), b"form") == 404


async def test_of_two_who_send_at_once_one_waits(host: Host) -> None:
    _, path, _ = await create(host, 2 * UNIT)
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slowly() -> Any:
        yield bytes(10)
        begun.set()
        await go_on.wait()
        yield bytes(UNIT - 10)

    first = asyncio.create_task(send(host, path, 0, slowly(), **{"Content-Length": str(UNIT)}))
    await begun.wait()
    async with asyncio.timeout(30):
        while await send(host, path, 0, bytes(UNIT)) != 423:  # noqa: ASYNC110  # nothing tells us
            await asyncio.sleep(0.01)
    go_on.set()
    assert await first == 204


async def test_an_address_expires_unless_all_is_here(start_host: Callable[..., Awaitable[Host]]) -> None:
    moment = [datetime.now(UTC)]
    host = await start_host(min_chunk_bytes=UNIT, now=lambda: moment[0])
    _, path, _ = await create(host, UNIT)
    moment[0] += timedelta(minutes=31)
    assert await send(host, path, 0, bytes(UNIT)) == 410


async def test_a_browser_of_another_origin_may_upload(host: Host) -> None:
    asked = {"Origin": "http://a", "Access-Control-Request-Method": "PATCH"}
    async with host.client.options("/tus/x", headers=asked) as answer:
        assert answer.status == 204
        assert "PATCH" in answer.headers["Access-Control-Allow-Methods"]
        assert "Upload-Offset" in answer.headers["Access-Control-Allow-Headers"]
    async with host.client.options("/tus/x") as answer:
        assert answer.headers["Tus-Version"] == "1.0.0"
    _, path, _ = await create(host, 5)
    async with host.client.head(path, headers=TUS | {"Origin": "http://a"}) as answer:
        assert "Upload-Offset" in answer.headers["Access-Control-Expose-Headers"]

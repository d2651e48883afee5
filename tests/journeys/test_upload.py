"""From a file on an instructor's disk to segments that only those who may watch can fetch."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import aiohttp
import jwt
import m3u8
import pytest

from demo.accounts import ADMIN
from demo.client import CallRefused, Client
from embedded.system import System
from standins.video_host.clip import make_clip

ENCODED_WITHIN_S = 60
WEBHOOK = '"path":"/api/videos/webhooks/cloudflare","status":200'


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:
        yield session


@pytest.fixture
async def instructor(system: System, http: aiohttp.ClientSession) -> Client:
    """The demo's administrator, whose role includes an instructor's."""
    client = Client(http, system.local_address)
    await client.sign_in(ADMIN.email, ADMIN.password)
    return client


async def register(system: System, http: aiohttp.ClientSession, name: str) -> Client:
    client = Client(http, system.local_address)
    await client.register(name, f"{name}@example.org", "correct horse battery")
    return client


async def begin_upload(instructor: Client, clip: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(course, answer of the upload's route) of a new published course with one lecture."""
    course = await instructor.call("POST", "/api/courses", {"title": "Uploads", "status": "published"})
    lecture = await instructor.call("POST", f"/api/courses/{course['id']}/lectures", {"title": "A clip of one's own"})
    body = {"lecture_id": lecture["id"], "title": "Clip", **description(clip)}
    return course, await instructor.call("POST", "/api/videos/upload", body)


def description(clip: Path) -> dict[str, Any]:
    return {"filename": clip.name, "size_bytes": clip.stat().st_size}


async def until_final(client: Client, video_id: str) -> dict[str, Any]:
    """The video's row when it is `ready` or `error`."""
    async with asyncio.timeout(ENCODED_WITHIN_S):
        while True:
            video: dict[str, Any] = await client.call("GET", f"/api/videos/{video_id}")
            if video["status"] in ("ready", "error"):
                return video
            await asyncio.sleep(0.1)


async def first_segment(http: aiohttp.ClientSession, manifest: str) -> str:
    """The address of the first segment of the lowest rung, as a player finds it."""
    variants = m3u8.loads(await text(http, manifest), uri=manifest).playlists
    rung = min(variants, key=lambda variant: variant.stream_info.bandwidth).absolute_uri
    return str(m3u8.loads(await text(http, rung), uri=rung).segments[0].absolute_uri)


async def text(http: aiohttp.ClientSession, address: str) -> str:
    async with http.get(address) as answer:
        assert answer.status == 200, address
        return await answer.text()


async def status(http: aiohttp.ClientSession, address: str) -> int:
    async with http.get(address) as answer:
        return answer.status


async def test_a_clip_is_uploaded_encoded_announced_and_played_by_those_who_may(
    system: System, http: aiohttp.ClientSession, instructor: Client, tmp_path: Path
) -> None:
    clip = make_clip(tmp_path / "clip.mp4", seconds=5)
    course, begun = await begin_upload(instructor, clip)
    assert begun["video"]["status"] == "pending_upload"
    told_before = (system.logs / "server.log").read_text().count(WEBHOOK)

    await instructor.send_file(begun["upload"]["url"], clip)
    video = await until_final(instructor, begun["video"]["id"])
    assert video["status"] == "ready"
    assert video["duration_seconds"] == pytest.approx(5, abs=0.2)
    async with asyncio.timeout(30):
        while (system.logs / "server.log").read_text().count(WEBHOOK) == told_before:  # noqa: ASYNC110
            await asyncio.sleep(0.05)

    learner = await register(system, http, "uploads-learner")
    with pytest.raises(CallRefused, match="not_entitled"):
        await learner.call("GET", f"/api/videos/{video['id']}")
    await learner.call("POST", "/api/enrollments", {"course_id": course["id"]})
    session = await learner.call("POST", f"/api/videos/{video['id']}/sessions", {"viewport": [1280, 720]})
    assert [rung["height"] for rung in session["ladder"]] == [240, 360]
    assert session["segment_s"] == 2.0

    segment = await first_segment(http, session["playback"]["hls"])
    async with http.get(segment) as answer:
        assert answer.status == 200
        assert (await answer.read())[4:8] in (b"styp", b"moof", b"sidx")
    token = urlsplit(segment).path.split("/")[1]
    assert await status(http, segment.replace(f"/{token}/", f"/{video_uid(token)}/")) in (401, 403)
    assert await status(http, segment.replace(f"/{token}/", f"/{token[:-8]}AAAAAAAA/")) in (401, 403)
    assert await status(http, urljoin(segment, "/")) in (401, 403, 404)


def video_uid(token: str) -> str:
    """The id that a playback token is for."""
    return str(jwt.decode(token, options={"verify_signature": False})["sub"])


async def test_a_file_that_is_no_video_ends_as_an_error_that_says_so(instructor: Client, tmp_path: Path) -> None:
    letter = tmp_path / "letter.mp4"
    letter.write_text("Dear video host, this is only a letter.\n" * 100)
    _, begun = await begin_upload(instructor, letter)
    await instructor.send_file(begun["upload"]["url"], letter)
    video = await until_final(instructor, begun["video"]["id"])
    assert video["status"] == "error"
    assert "video" in video["error"]
    assert "playback" not in video or video["playback"] is None


async def test_an_upload_address_is_good_once(instructor: Client, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", seconds=1, size=(320, 240))
    _, begun = await begin_upload(instructor, clip)
    await instructor.send_file(begun["upload"]["url"], clip)
    with pytest.raises(CallRefused) as refused:
        await instructor.send_file(begun["upload"]["url"], clip)
    assert 400 <= refused.value.status < 500

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urljoin

import m3u8
import pytest

from standins.video_host.store import STORE

StartHost = Callable[..., Awaitable[Any]]
CAPTIONS = b"WEBVTT\n\n00:00.000 --> 00:01.000\nHi\n"
THINGS = [
    "manifest/video.m3u8",
    "manifest/240p/index.m3u8",
    "manifest/240p/init.mp4",
    "manifest/360p/segment_00000.m4s",
    "manifest/audio/segment_00001.m4s",
    "manifest/captions/en.m3u8",
    "manifest/captions/en.vtt",
    "thumbnails/thumbnail.jpg",
]


async def walk(host: Any, base: str) -> dict[str, tuple[str, int]]:
    """Follow the playlists from the master as a player does: path to (content type, bytes) of all that is named."""
    found: dict[str, tuple[str, int]] = {}

    async def fetch(path: str) -> str:
        async with host.client.get(path) as answer:
            assert answer.status == 200, path
            body = await answer.read()
        found[path.removeprefix(base)] = (answer.content_type, len(body))
        return path if not path.endswith(".m3u8") else body.decode()

    path = base + "manifest/video.m3u8"
    master = m3u8.loads(await fetch(path))
    for uri in [p.uri for p in master.playlists] + [m.uri for m in master.media]:
        playlist = m3u8.loads(await fetch(urljoin(path, uri)))
        for name in [s.uri for s in playlist.segments] + [s.uri for s in playlist.segment_map]:
            await fetch(urljoin(urljoin(path, uri), name))
    return found


async def test_a_player_finds_everything_under_its_token(host_with_video: tuple[Any, str]) -> None:
    host, uid = host_with_video
    assert (await host.put_captions(uid, CAPTIONS))[0] == 200
    found = await walk(host, f"/{host.sign(uid)}/")
    assert found["manifest/video.m3u8"][0] == "application/vnd.apple.mpegurl"
    assert found["manifest/360p/index.m3u8"][0] == "application/vnd.apple.mpegurl"
    assert found["manifest/360p/init.mp4"][0] == "video/mp4"
    assert found["manifest/captions/en.vtt"][0] == "text/vtt"
    for rung in ("240p", "360p"):
        segments = [entry for path, entry in found.items() if path.startswith(f"manifest/{rung}/segment_")]
        assert len(segments) == 3
        assert {content_type for content_type, _ in segments} == {"video/iso.segment"}


async def test_what_the_master_playlist_says_of_rates_is_true(host_with_video: tuple[Any, str]) -> None:
    host, uid = host_with_video
    base = f"/{host.sign(uid)}/"
    found = await walk(host, base)
    async with host.client.get(base + "manifest/video.m3u8") as answer:
        variants = m3u8.loads(await answer.text()).playlists

    def mean_bps(rendition: str) -> float:
        return sum(size for path, (_, size) in found.items() if f"{rendition}/segment_" in path) * 8 / 6

    assert [variant.stream_info.resolution for variant in variants] == [(426, 240), (640, 360)]
    for variant in variants:
        rung = mean_bps(variant.uri.split("/")[0])
        assert variant.stream_info.average_bandwidth == pytest.approx(rung + mean_bps("audio"), rel=0.02)
        assert variant.stream_info.average_bandwidth <= variant.stream_info.bandwidth
        assert rung == pytest.approx(variant.stream_info.bandwidth, rel=0.15)


@pytest.mark.parametrize("thing", THINGS)
async def test_without_a_good_token_there_is_nothing(host_with_video: tuple[Any, str], thing: str) -> None:
    host, uid = host_with_video
    assert (await host.put_captions(uid, CAPTIONS))[0] == 200
    good = host.sign(uid)
    bad = [uid, good[:-8] + "AAAAAAAA", host.sign(uid, exp=int(time.time()) - 1), host.sign(uid, kid="other"), "a.b.c"]
    for token, status in [(good, 200), *((token, 401) for token in bad), (host.sign("another"), 404), ("unknown", 404)]:
        async with host.client.get(f"/{token}/{thing}") as answer:
            assert answer.status == status, token


async def test_a_video_that_requires_no_signature_plays_by_its_uid(host_with_video: tuple[Any, str]) -> None:
    host, uid = host_with_video
    host.client.server.app[STORE].videos[uid].require_signed_urls = False
    assert len(await walk(host, f"/{uid}/")) > 8


async def test_nothing_but_the_media_can_be_reached(host_with_video: tuple[Any, str]) -> None:
    host, uid = host_with_video
    token = host.sign(uid)
    for path in (
        *("manifest/..%2fvideo.json", "manifest/240p/..%2f..%2f..%2fvideo.json", "manifest/240p/segment_1.m4s"),
        *("manifest/captions/..%2f..%2fvideo.vtt", "manifest/captions/de.vtt", "manifest/video.mpd", "video.json"),
        "manifest/1080p/index.m3u8",
    ):
        async with host.client.get(f"/{token}/{path}") as answer:
            assert answer.status == 404, path


async def test_a_video_that_is_not_ready_does_not_play(start_host: StartHost) -> None:
    host = await start_host()
    uid, _ = await host.reserve()
    async with host.client.get(f"/{uid}/manifest/video.m3u8") as answer:
        assert answer.status == 404


async def test_segments_may_be_cached_as_long_as_the_token_lives_and_playlists_not(
    host_with_video: tuple[Any, str],
) -> None:
    host, uid = host_with_video
    token = host.sign(uid, exp=int(time.time()) + 100)
    async with host.client.get(f"/{token}/manifest/240p/segment_00000.m4s") as segment:
        age_s = int(segment.headers["Cache-Control"].removeprefix("public, max-age="))
        assert 40 <= age_s <= 100
    for playlist in ("manifest/video.m3u8", "manifest/240p/index.m3u8"):
        async with host.client.get(f"/{token}/{playlist}") as answer:
            assert answer.headers["Cache-Control"] == "no-store"


async def test_a_part_of_a_segment_can_be_asked_for(host_with_video: tuple[Any, str]) -> None:
    host, uid = host_with_video
    path = f"/{host.sign(uid)}/manifest/240p/segment_00000.m4s"
    async with host.client.get(path) as whole, host.client.get(path, headers={"Range": "bytes=10-19"}) as part:
        content = await whole.read()
        assert (part.status, await part.read()) == (206, content[10:20])
        assert part.headers["Content-Range"] == f"bytes 10-19/{len(content)}"
    async with host.client.get(path, headers={"Range": "bytes=99999999-"}) as answer:
        assert answer.status == 416
    async with host.client.head(path) as answer:
        assert (answer.status, answer.content_length) == (200, len(content))


async def test_a_page_of_another_origin_may_play_measure_and_send_cmcd(host_with_video: tuple[Any, str]) -> None:
    host, uid = host_with_video
    path = f"/{host.sign(uid)}/manifest/240p/segment_00000.m4s"
    origin = {"Origin": "http://classroom.test"}
    asked = {"Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "cmcd-request,range"}
    async with host.client.options(path, headers=origin | asked) as answer:
        assert answer.status == 204
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        allowed = answer.headers["Access-Control-Allow-Headers"].lower().split(", ")
        assert {"range", "cmcd-request", "cmcd-object", "cmcd-status", "cmcd-session"} <= set(allowed)
    for good in (path, "/nonsense"):
        async with host.client.get(good, headers=origin) as answer:
            assert answer.headers["Access-Control-Allow-Origin"] == "*"
            assert answer.headers["Timing-Allow-Origin"] == "*"
            assert "Content-Range" in answer.headers["Access-Control-Expose-Headers"]


async def test_origins_can_be_narrowed(start_host: StartHost) -> None:
    host = await start_host(allow_origins=("http://a.test",))
    async with host.client.get("/x/manifest/video.m3u8", headers={"Origin": "http://a.test"}) as answer:
        assert answer.headers["Access-Control-Allow-Origin"] == "http://a.test"
        assert answer.headers["Vary"] == "Origin"
    async with host.client.get("/x/manifest/video.m3u8", headers={"Origin": "http://b.test"}) as answer:
        assert "Access-Control-Allow-Origin" not in answer.headers


async def test_the_api_is_not_for_browsers(start_host: StartHost) -> None:
    host = await start_host()
    async with host.client.get("/client/v4/accounts/acc0/stream", headers={"Origin": "http://a.test"}) as answer:
        assert "Access-Control-Allow-Origin" not in answer.headers


async def test_the_thumbnail_is_a_picture(host_with_video: tuple[Any, str]) -> None:
    host, uid = host_with_video
    async with asyncio.timeout(30), host.client.get(f"/{host.sign(uid)}/thumbnails/thumbnail.jpg") as answer:
        assert (await answer.read())[:3] == b"\xff\xd8\xff"
        assert answer.content_type == "image/jpeg"

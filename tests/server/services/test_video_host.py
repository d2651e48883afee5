"""The client of the video host, against a server that speaks the host's protocol."""

import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import jwt
import pytest

from server.clock import Clock
from server.config import Cloudflare
from server.services.outside import (
    ServiceAway,
    ServiceError,
    ServiceHasNone,
    ServiceNotConfigured,
    ServiceRefused,
    ServiceSlow,
)
from server.services.video_host import VideoHost, WebhookRefused, read_video
from tests.support.cloudflare import (
    KEY_ID,
    LADDER,
    MASTER,
    StreamHost,
    sign_webhook,
    signing_key,
    signing_key_pem,
)


class SetClock(Clock):
    """A clock that stands where it is set."""

    def __init__(self) -> None:
        self.time = datetime.now(UTC).replace(second=0, microsecond=0)

    def now(self) -> datetime:
        return self.time


@pytest.fixture
def clock() -> SetClock:
    """A clock that stands."""
    return SetClock()


@pytest.fixture
async def host(stream: StreamHost, clock: SetClock) -> AsyncIterator[VideoHost]:
    """A client of the running host."""
    async with aiohttp.ClientSession() as http:
        yield VideoHost(http, Cloudflare(**stream.settings), clock)


async def upload(host: VideoHost) -> str:
    """A video at the host; its uid."""
    upload = await host.create_upload(name="a.mp4", creator="somebody", max_duration_s=600, size_bytes=1000)
    return upload.uid


async def test_an_upload_asks_for_signed_addresses_and_a_limit(
    host: VideoHost, stream: StreamHost, clock: SetClock
) -> None:
    upload = await host.create_upload(name="a.mp4", creator="somebody", max_duration_s=600, size_bytes=1000)
    assert (upload.method, upload.url) == ("form", f"{stream.origin}/upload/{upload.uid}")
    assert upload.expires_at == clock.time + timedelta(hours=1)
    assert stream.uploads == [
        {
            "maxDurationSeconds": 600,
            "expiry": upload.expires_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "creator": "somebody",
            "requireSignedURLs": True,
            "meta": {"name": "a.mp4"},
        }
    ]


async def test_a_video_s_state_is_told_in_our_words(host: VideoHost, stream: StreamHost) -> None:
    uid = await upload(host)
    assert (await host.get_video(uid)).status == "pending_upload"
    for state in ("downloading", "queued", "inprogress"):
        stream.set_state(uid, state)
        video = await host.get_video(uid)
        assert (video.status, video.duration_s, video.error) == ("processing", None, None)
    stream.set_state(uid, "error", reason="The file is not a video.")
    video = await host.get_video(uid)
    assert (video.status, video.error) == ("error", "The file is not a video.")
    stream.make_ready(uid, 12.5)
    video = await host.get_video(uid)
    assert (video.status, video.duration_s, video.error) == ("ready", 12.5, None)
    assert video.thumbnail_url is not None


async def test_what_is_deleted_twice_is_deleted(host: VideoHost, stream: StreamHost) -> None:
    uid = await upload(host)
    await host.delete_video(uid)
    await host.delete_video(uid)
    assert stream.videos == {}
    with pytest.raises(ServiceHasNone):
        await host.get_video(uid)


async def test_captions_go_to_the_host_and_come_back(host: VideoHost) -> None:
    uid = await upload(host)
    await host.put_captions(uid, "en", b"WEBVTT\n\n")
    assert await host.get_captions(uid, "en") == b"WEBVTT\n\n"
    await host.delete_captions(uid, "en")
    with pytest.raises(ServiceHasNone):
        await host.get_captions(uid, "en")
    with pytest.raises(ServiceHasNone):
        await host.delete_captions(uid, "en")


async def test_the_ladder_is_read_from_the_manifest(host: VideoHost, stream: StreamHost) -> None:
    uid = await upload(host)
    assert await host.fetch_ladder(uid) == (LADDER, 4.0)
    stream.master = MASTER + "#EXT-X-STREAM-INF:BANDWIDTH=0\nunknown.m3u8\n"
    assert await host.fetch_ladder(uid) == (LADDER, 4.0), "what has no bandwidth is no rung"
    odd = ["RESOLUTION=1x1", "BANDWIDTH", "BANDWIDTH=x", "BANDWIDTH=inf", f"BANDWIDTH={'9' * 400}", "BANDWIDTH=-1"]
    odd += [f"BANDWIDTH=1000000,RESOLUTION={size}" for size in ("1920", "x", "99999999999999999999")]
    masters = [f"#EXTM3U\n#EXT-X-STREAM-INF:{attributes}\nv.m3u8\n" for attributes in odd]
    masters += [
        f"#EXTM3U\n{line}\n" for line in ("#EXT-X-KEY:URI=k", "#EXT-X-MAP:X=1", "#EXTINF:99999999999999999999,\ns")
    ]
    for master in ("garbage", "#EXTM3U\n", "\ufeff", None, *masters):
        stream.master = master
        with pytest.raises(ServiceRefused):
            await host.fetch_ladder(uid)


async def test_a_playback_address_is_signed_for_one_video_and_a_time(
    host: VideoHost, stream: StreamHost, clock: SetClock
) -> None:
    playback = host.playback("video-1")
    assert playback is not None
    assert set(playback) == {"hls", "dash", "expires_at"}
    origin, _, rest = playback["hls"].partition("/ey")
    assert (origin, rest.partition("/")[2]) == (stream.origin, "manifest/video.m3u8")
    token = "ey" + rest.partition("/")[0]
    assert playback["dash"] == f"{stream.origin}/{token}/manifest/video.mpd"
    claims = jwt.decode(token, signing_key().public_key(), algorithms=["RS256"])
    start = int(clock.time.timestamp())
    assert claims == {"sub": "video-1", "kid": KEY_ID, "nbf": start - 60, "exp": start + 3600}
    assert jwt.get_unverified_header(token)["kid"] == KEY_ID
    assert playback["expires_at"] == clock.time + timedelta(seconds=3600)


async def test_the_same_address_is_given_for_a_minute(host: VideoHost, clock: SetClock) -> None:
    first = host.playback("video-1")
    clock.time += timedelta(seconds=59)
    assert host.playback("video-1") == first
    assert host.playback("video-2") != first
    clock.time += timedelta(seconds=1)
    assert host.playback("video-1") != first


async def test_an_address_ends_with_the_right_to_it(host: VideoHost, clock: SetClock) -> None:
    for ends_in_s, lasts_s in ((90, 90), (7200, 3600)):
        playback = host.playback("video-1", clock.time + timedelta(seconds=ends_in_s))
        assert playback is not None
        assert playback["expires_at"] == clock.time + timedelta(seconds=lasts_s)


async def test_a_short_time_to_live_is_kept(stream: StreamHost, clock: SetClock) -> None:
    clock.time += timedelta(seconds=1.5)
    async with aiohttp.ClientSession() as http:
        playback = VideoHost(http, Cloudflare(**stream.settings | {"playback_ttl_s": 2}), clock).playback("video-1")
    assert playback is not None
    assert 1 <= (playback["expires_at"] - clock.time).total_seconds() <= 2


async def test_webhooks_are_taken_only_when_signed_about_now(host: VideoHost, clock: SetClock) -> None:
    body, now = b'{"uid": "x"}', clock.time.timestamp()
    for at in (now, now - 300, now + 300):
        host.verify_webhook(sign_webhook(body, at=at)["Webhook-Signature"], body)
    good = sign_webhook(body, at=now)["Webhook-Signature"]
    refused: list[tuple[str | None, bytes]] = [
        (sign_webhook(body, at=now - 301)["Webhook-Signature"], body),
        (sign_webhook(body, at=now + 301)["Webhook-Signature"], body),
        (sign_webhook(body, at=now, secret="other")["Webhook-Signature"], body),
        (good, body + b" "),
        (good[:-1], body),
        (good.replace("sig1", "sig2"), body),
        (f"time={'9' * 400},sig1={'0' * 64}", body),
        ("time=\u0661,sig1=" + "0" * 64, body),
        ("", body),
        (None, body),
    ]
    for header, said in refused:
        with pytest.raises(WebhookRefused):
            host.verify_webhook(header, said)


@pytest.mark.parametrize(
    ("status", "error"),
    [(500, ServiceAway), (503, ServiceAway), (429, ServiceAway), (403, ServiceRefused), (404, ServiceHasNone)],
)
async def test_a_host_that_refuses_or_fails_says_which(
    host: VideoHost, stream: StreamHost, status: int, error: type[ServiceError]
) -> None:
    stream.failing = status
    with pytest.raises(error):
        await host.get_video("x")


async def test_a_page_in_place_of_the_host_is_no_answer_of_its(host: VideoHost, stream: StreamHost) -> None:
    stream.failing = 200
    for asking in (host.get_video("x"), host.get_captions("x", "en"), host.put_captions("x", "en", b"WEBVTT")):
        with pytest.raises(ServiceAway):
            await asking


async def test_a_host_that_hangs_is_not_waited_for(host: VideoHost, stream: StreamHost) -> None:
    stream.answering.clear()
    started = time.monotonic()
    with pytest.raises(ServiceSlow):
        await host.get_video("x", timeout_s=0.05)
    async with aiohttp.ClientSession() as http:
        with pytest.raises(ServiceSlow):
            await VideoHost(http, Cloudflare(**stream.settings | {"timeout_s": 0.2})).get_video("x")
    assert time.monotonic() - started < stream.settings["timeout_s"]


async def test_a_host_that_is_not_there_is_away() -> None:
    settings = Cloudflare(api_base="http://127.0.0.1:1/client/v4", account_id="a", api_token="t")
    async with aiohttp.ClientSession() as http:
        with pytest.raises(ServiceAway):
            await VideoHost(http, settings).delete_video("x")


async def test_without_settings_nothing_is_asked_and_nothing_signed() -> None:
    async with aiohttp.ClientSession() as http:
        host = VideoHost(http, Cloudflare())
        assert host.playback("x") is None
        with pytest.raises(ServiceNotConfigured):
            await host.get_video("x")
        with pytest.raises(ServiceNotConfigured):
            await host.fetch_ladder("x")
        with pytest.raises(ServiceNotConfigured):
            host.verify_webhook("time=1,sig1=" + "0" * 64, b"")


async def test_a_domain_without_a_scheme_is_https_and_the_key_may_come_on_one_line() -> None:
    settings = Cloudflare(
        signing_key_id="k",
        signing_key_pem=signing_key_pem().replace("\n", "\\n"),
        customer_domain="customer-x.cloudflarestream.com",
    )
    async with aiohttp.ClientSession() as http:
        playback = VideoHost(http, settings).playback("x")
        assert playback is not None
        assert playback["hls"].startswith("https://customer-x.cloudflarestream.com/ey")
        with pytest.raises(ValueError, match="signing_key_pem"):
            VideoHost(http, Cloudflare(signing_key_pem="not a key"))


@pytest.mark.parametrize(
    "said",
    [None, [], "x", {}, {"uid": 5}, {"uid": "../x"}, {"uid": "x\0"}, {"uid": ""}, {"uid": "x" * 65}],
)
def test_what_names_no_video_is_none(said: Any) -> None:
    assert read_video(said) is None


def test_absurd_members_of_a_video_are_left_out() -> None:
    video = read_video({"uid": "x", "status": "ready", "duration": float("nan"), "thumbnail": 5})
    assert video is not None
    assert (video.status, video.duration_s, video.thumbnail_url) == ("processing", None, None)
    video = read_video({"uid": "x", "status": {"state": "error", "errorReasonText": "a\0b\ud800"}, "duration": True})
    assert video is not None
    assert (video.status, video.error, video.duration_s) == ("error", "ab?", None)


async def test_who_does_not_want_to_wait_does_not_have_the_host_left_alone(host: VideoHost, stream: StreamHost) -> None:
    uid = await upload(host)
    stream.answering.clear()
    for _ in range(6):
        with pytest.raises(ServiceSlow):
            await host.get_video(uid, timeout_s=0.01)
    stream.answering.set()
    assert (await host.get_video(uid)).uid == uid

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest

from standins.video_host import encoder
from standins.video_host.clip import cached_clip

StartHost = Callable[..., Awaitable[Any]]
NOW = datetime.now(UTC)
API = "/client/v4/accounts/acc0/stream"


@pytest.mark.parametrize(
    ("account", "authorization", "status"),
    [
        ("acc0", None, 401),
        ("acc0", "Bearer wrong", 401),
        ("acc0", "Basic api-token", 401),
        ("b", "Bearer api-token", 403),
    ],
)
async def test_a_wrong_token_or_account_gets_cloudflares_error(
    start_host: StartHost, account: str, authorization: str | None, status: int
) -> None:
    host = await start_host()
    headers = {"Authorization": authorization} if authorization else {}
    async with host.client.get(f"/client/v4/accounts/{account}/stream", headers=headers) as answer:
        body = await answer.json()
    assert answer.status == status
    assert (body["success"], body["errors"]) == (False, [{"code": 10000, "message": "Authentication error"}])


async def test_a_reserved_video_waits_for_its_file(start_host: StartHost) -> None:
    host = await start_host()
    uid, _ = await host.reserve(requireSignedURLs=True, meta={"name": "One"}, creator="user-7")
    status, answer = await host.call("GET", f"/{uid}")
    video = answer["result"]
    assert (status, answer["success"], answer["errors"]) == (200, True, [])
    assert video["status"] == {"state": "pendingupload", "errorReasonCode": "", "errorReasonText": ""}
    assert (video["uid"], video["meta"], video["creator"]) == (uid, {"name": "One"}, "user-7")
    assert (video["requireSignedURLs"], video["readyToStream"], video["uploaded"]) == (True, False, None)
    assert (video["duration"], video["input"]) == (-1, {"width": -1, "height": -1})
    assert video["maxDurationSeconds"] == 60


@pytest.mark.parametrize(
    "wish",
    [
        {},
        {"maxDurationSeconds": 0},
        {"maxDurationSeconds": 36_001},
        {"maxDurationSeconds": "soon"},
        {"maxDurationSeconds": 60, "expiry": (NOW + timedelta(seconds=30)).isoformat()},
        {"maxDurationSeconds": 60, "expiry": (NOW + timedelta(hours=7)).isoformat()},
        {"maxDurationSeconds": 60, "expiry": "tomorrow"},
        [],
    ],
)
async def test_an_impossible_reservation_is_refused(start_host: StartHost, wish: object) -> None:
    host = await start_host()
    status, answer = await host.call("POST", "/direct_upload", json=wish)
    assert (status, answer["success"], answer["errors"][0]["code"]) == (400, False, 10005)
    assert (await host.call("GET", ""))[1]["result"] == []


async def test_an_upload_becomes_a_video_and_its_address_is_spent(start_host: StartHost) -> None:
    host = await start_host()
    uid, path = await host.reserve()
    clip = cached_clip(seconds=6).read_bytes()
    assert await host.upload(path, clip) == 200
    assert await host.upload(path, clip) == 409
    video = await host.settled(uid)
    assert video["status"] == {
        "state": "ready",
        "pctComplete": "100.000000",
        "errorReasonCode": "",
        "errorReasonText": "",
    }
    assert video["readyToStream"]
    assert video["duration"] == pytest.approx(6, abs=0.05)
    assert (video["size"], video["input"]) == (len(clip), {"width": 640, "height": 360})
    assert video["playback"]["hls"] == f"{host.settings.public_url}/{uid}/manifest/video.m3u8"
    assert not (host.settings.data_dir / "videos" / uid / "source").exists()


async def test_progress_is_told_while_encoding(start_host: StartHost, monkeypatch: pytest.MonkeyPatch) -> None:
    encode, noted, encoded, seen = encoder.encode, [], asyncio.Event(), asyncio.Event()

    async def encode_and_wait(source: Any, picture: Any, most_s: float, folder: Any, note: Any) -> None:
        await encode(source, picture, most_s, folder, lambda done_s: (noted.append(done_s), note(done_s)))
        encoded.set()
        await seen.wait()

    monkeypatch.setattr("standins.video_host.encoder.encode", encode_and_wait)
    host = await start_host()
    uid, path = await host.reserve()
    await host.upload(path, cached_clip(seconds=20).read_bytes())
    async with asyncio.timeout(60):
        await encoded.wait()
    told = (await host.call("GET", f"/{uid}"))[1]["result"]["status"]
    seen.set()
    assert told["state"] == "inprogress"
    assert 0 < float(told["pctComplete"]) < 100
    assert any(0 < done_s <= 20 for done_s in noted)
    assert (await host.settled(uid))["status"]["state"] == "ready"


async def test_only_one_of_two_uploads_at_once_gets_in(start_host: StartHost) -> None:
    host = await start_host()
    _, path = await host.reserve()
    statuses = await asyncio.gather(*(host.upload(path, b"x" * 1_000_000) for _ in range(3)))
    assert sorted(statuses) == [200, 409, 409]


async def test_an_upload_that_breaks_off_may_be_tried_again(start_host: StartHost) -> None:
    host = await start_host()
    uid, path = await host.reserve()

    async def half() -> Any:
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + b"x" * 100_000
        raise ConnectionError("the train went into a tunnel")

    with pytest.raises((aiohttp.ClientError, ConnectionError)):
        await host.client.post(path, data=half(), headers={"Content-Type": "multipart/form-data; boundary=b"})
    async with asyncio.timeout(30):
        # The host notices a moment later that the connection is gone.
        statuses = [409]
        while statuses[-1] == 409:
            statuses.append(await host.upload(path, b"not a video"))
    assert statuses[-1] == 200
    assert (await host.settled(uid))["size"] == len(b"not a video")


async def test_an_upload_to_a_video_that_is_deleted_meanwhile_comes_to_nothing(start_host: StartHost) -> None:
    host = await start_host()
    uid, path = await host.reserve()

    async def body() -> Any:
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + b"x" * 100_000
        assert (await host.call("DELETE", f"/{uid}"))[0] == 200
        yield b"x" * 100_000 + b"\r\n--b--\r\n"

    async with host.client.post(
        path, data=body(), headers={"Content-Type": "multipart/form-data; boundary=b"}
    ) as answer:
        assert answer.status == 404
    assert not (host.settings.data_dir / "videos" / uid).exists()


@pytest.mark.parametrize(
    "body", [b"--b\r\n", b"--b\r\nx", b"--b\r\n: \r\n\r\nx", b"\xff\x00", b"--b\r\nA: \x00\r\n\r\n"]
)
async def test_a_torn_form_is_a_bad_request(start_host: StartHost, body: bytes) -> None:
    host = await start_host()
    _, path = await host.reserve()
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    async with host.client.post(path, data=body, headers=headers) as answer:
        assert answer.status == 400
    assert await host.upload(path, b"whole") == 200


async def test_an_upload_above_the_limit_is_refused_and_may_be_mended(start_host: StartHost) -> None:
    host = await start_host(max_upload_bytes=100_000)
    _, path = await host.reserve()
    assert await host.upload(path, b"x" * 100_001) == 413
    assert await host.upload(path, b"x" * 1_000_000) == 413
    assert await host.upload(path, b"x" * 100_000) == 200


async def test_an_upload_after_its_time_is_refused(start_host: StartHost) -> None:
    now = [NOW]
    host = await start_host(now=lambda: now[0])
    _, path = await host.reserve(expiry=(NOW + timedelta(minutes=2)).isoformat())
    now[0] += timedelta(minutes=3)
    assert await host.upload(path, b"late") == 410


async def test_a_form_without_a_file_is_refused(start_host: StartHost) -> None:
    host = await start_host()
    _, path = await host.reserve()
    assert await host.upload(path, b"x", field="other") == 400
    assert await host.upload(path, b"") == 400
    async with host.client.post(path, data=b"raw bytes") as answer:
        assert answer.status == 400
    async with host.client.post(path, data=b"x", headers={"Content-Type": "multipart/form-data"}) as answer:
        assert answer.status == 400
    assert await host.upload("/upload/unknown", b"x") == 404


async def test_a_deleted_video_is_gone(host_with_video: tuple[Any, str]) -> None:
    host, uid = host_with_video
    assert await host.call("DELETE", f"/{uid}") == (200, {"result": "", "success": True, "errors": [], "messages": []})
    for method in ("GET", "DELETE"):
        status, answer = await host.call(method, f"/{uid}")
        assert (status, answer["success"], answer["errors"]) == (404, False, [{"code": 10003, "message": "Not Found"}])
    assert not (host.settings.data_dir / "videos" / uid).exists()


async def test_a_video_deleted_while_it_encodes_frees_the_encoder(
    start_host: StartHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = encoder.encode

    async def encode_and_wait(*arguments: Any) -> None:
        await encode(*arguments)
        await asyncio.Event().wait()  # it does not end before it is seen

    monkeypatch.setattr("standins.video_host.encoder.encode", encode_and_wait)
    host = await start_host()
    long, path = await host.reserve()
    await host.upload(path, cached_clip(seconds=20).read_bytes())
    short, path = await host.reserve()
    await host.upload(path, b"text")
    await host.once(long, "inprogress")
    assert (await host.call("DELETE", f"/{long}"))[0] == 200
    assert (await host.settled(short))["status"]["state"] == "error"
    assert not (host.settings.data_dir / "videos" / long).exists()


async def test_the_list_is_newest_first_and_can_be_narrowed(start_host: StartHost) -> None:
    host = await start_host()
    first, _ = await host.reserve(meta={"name": "Redis"}, creator="a")
    second, _ = await host.reserve(meta={"name": "Postgres"}, creator="b")

    async def listed(query: str) -> list[str]:
        _, answer = await host.call("GET", query)
        return [video["uid"] for video in answer["result"]]

    assert await listed("") == [second, first]
    assert await listed("?limit=1") == [second]
    assert await listed("?creator=a") == [first]
    assert await listed("?search=post") == [second]
    assert await listed("?status=ready") == []
    assert (await host.call("GET", "?limit=many"))[0] == 400


async def test_captions_are_put_listed_read_and_taken_away(start_host: StartHost) -> None:
    host = await start_host()
    uid, _ = await host.reserve()
    english = {"language": "en", "label": "English", "generated": False, "status": "ready"}
    vtt = "\ufeffWEBVTT\n\n00:00.000 --> 00:01.000\nGrüße\n"
    status, answer = await host.put_captions(uid, vtt.encode())
    assert (status, answer["result"]) == (200, english)
    assert (await host.call("GET", f"/{uid}/captions"))[1]["result"] == [english]
    assert (await host.call("GET", f"/{uid}/captions/en"))[1]["result"] == english
    async with host.client.get(f"{API}/{uid}/captions/en/vtt", headers={"Authorization": "Bearer api-token"}) as file:
        assert (file.content_type, await file.text()) == ("text/vtt", vtt.removeprefix("\ufeff"))
    assert (await host.call("DELETE", f"/{uid}/captions/en"))[0] == 200
    assert (await host.call("GET", f"/{uid}/captions"))[1]["result"] == []
    assert (await host.call("DELETE", f"/{uid}/captions/en"))[0] == 404


async def test_captions_that_are_none_are_refused(start_host: StartHost) -> None:
    host = await start_host()
    uid, _ = await host.reserve()
    assert (await host.put_captions(uid, b"WEBVTTX\n"))[0] == 400
    assert (await host.put_captions(uid, b"WEBVTT\n", field="other"))[0] == 400
    assert (await host.put_captions(uid, b"WEBVTT\n", language="no_such"))[0] == 400
    assert (await host.put_captions("unknown", b"WEBVTT\n"))[0] == 404
    big = b"WEBVTT\n" + b"x" * (10 * 1024 * 1024)
    assert (await host.put_captions(uid, big))[0] == 413


async def test_an_unknown_route_of_the_api_answers_in_its_shape(start_host: StartHost) -> None:
    host = await start_host()
    for method, path in (("GET", "/a/b/c/d/e"), ("PATCH", "/x")):
        status, answer = await host.call(method, path)
        assert status in (404, 405)
        assert (answer["success"], answer["errors"][0]["code"]) == (False, 7003)


async def test_captions_are_generated_after_a_while_and_give_way_to_a_person_s(
    host_with_video: tuple[Any, str], start_host: StartHost
) -> None:
    host, uid = host_with_video
    await host.client.close()
    moment = [datetime.now(UTC)]
    host = await start_host(now=lambda: moment[0])
    status, answer = await host.call("POST", f"/{uid}/captions/en/generate")
    assert (status, answer["result"]["status"], answer["result"]["generated"]) == (200, "inprogress", True)
    assert (await host.call("POST", f"/{uid}/captions/en/generate"))[0] == 409
    assert (await host.call("POST", f"/{uid}/captions/xx/generate"))[0] == 400
    assert (await host.call("GET", f"/{uid}/captions"))[1]["result"][0]["status"] == "inprogress"
    moment[0] += timedelta(seconds=2)
    (captions,) = (await host.call("GET", f"/{uid}/captions"))[1]["result"]
    assert (captions["language"], captions["status"], captions["generated"]) == ("en", "ready", True)
    await host.put_captions(uid, b"WEBVTT\n\n00:00.000 --> 00:01.000\nBy hand\n")
    (captions,) = (await host.call("GET", f"/{uid}/captions"))[1]["result"]
    assert captions["generated"] is False

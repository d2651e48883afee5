"""What is done at the video host after answers went out, for as long as it takes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg
import pytest
from aiohttp import web

from server.http.keys import CONFIG, DATABASE, HOSTING
from server.services.video_host import HostedVideo
from tests.support.app import AppClient, serving, settings
from tests.support.cloudflare import MASTER, StreamHost, sign_webhook, webhook_body
from tests.support.local_server import LocalServer
from tests.support.people import People, Person
from tests.support.statements import note_sizes, noted_sizes
from tests.support.waiting import blocked, until

if TYPE_CHECKING:
    Sql = asyncpg.Connection[asyncpg.Record]
VTT = (
    b"WEBVTT\n\n00:00.000 --> 00:04.000\nQueues are first in, first out.\n\n01:00.000 --> 01:04.000\nStacks are not.\n"
)
TEXT_VTT = {"Content-Type": "text/vtt"}


@pytest.fixture
async def client(postgres_dsn: str, redis_url: str, stream: StreamHost) -> AsyncIterator[AppClient]:
    config = settings(
        postgres_dsn,
        redis_url,
        cloudflare=stream.settings | {"replaced_ttl_s": 0.3},
        jobs={"poll_s": 0.02, "backoff_s": 0.01, "reconcile_s": 0.05},
        breaker={"open_s": 0.05},
        limits={"write": {"rate": 0}, "read": {"rate": 0}, "auth": {"rate": 0}},
    )
    async with serving(config) as client:
        yield client


@pytest.fixture
async def teacher(client: AppClient, sql: Sql) -> Person:
    return await People(client, sql).join("teacher", "instructor")


@pytest.fixture
async def lecture(teacher: Person) -> Any:
    course = await teacher.make("/api/courses", {"title": "Queues", "status": "published"})
    return await teacher.make(f"/api/courses/{course['id']}/lectures", {"title": "A"})


async def upload(teacher: Person, lecture: Any, title: str = "V") -> Any:
    """A new video that waits for its bytes."""
    body = {"lecture_id": lecture["id"], "title": title, "filename": "a.mp4", "size_bytes": 10}
    return (await teacher.make("/api/videos/upload", body))["video"]


async def once(sql: Sql, query: str, *arguments: Any, wanted: Any = True) -> None:
    """Wait until a query's value is so."""
    value = None
    try:
        async with asyncio.timeout(30):
            while (value := await sql.fetchval(query, *arguments)) != wanted:  # noqa: ASYNC110  # nothing tells us
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"{query}: {value!r}, not {wanted!r}") from None


STATUS = "SELECT status FROM videos WHERE id = $1::text::uuid"
SAID = "SELECT string_agg(text, ' | ' ORDER BY from_s) FROM transcript_chunks WHERE video_id = $1::text::uuid"


# -- status ------------------------------------------------------------------------------------------------------------


async def test_what_no_webhook_told_is_found_out_and_nobody_has_to_look(
    teacher: Person, lecture: Any, stream: StreamHost, sql: Sql
) -> None:
    video = await upload(teacher, lecture)
    stream.set_state(video["cloudflare_uid"], "inprogress")
    await once(sql, STATUS, video["id"], wanted="processing")
    stream.make_ready(video["cloudflare_uid"])
    await once(sql, STATUS, video["id"], wanted="ready")
    await once(sql, "SELECT count(*) FROM jobs WHERE kind = 'video_status'", wanted=0)


async def test_what_is_said_twice_at_once_happens_once(
    postgres_dsn: str, redis_url: str, stream: StreamHost, sql: Sql
) -> None:
    config = settings(postgres_dsn, redis_url, cloudflare=stream.settings, jobs={"poll_s": 60})
    async with serving(config) as client:
        teacher = await People(client, sql).join("teacher", "instructor")
        course = await teacher.make("/api/courses", {"title": "Queues"})
        video = await upload(teacher, await teacher.make(f"/api/courses/{course['id']}/lectures", {"title": "A"}))
        assert client.app is not None
        hosting, settled = client.app[HOSTING], []

        async def hear(video_id: UUID) -> None:
            settled.append(str(video_id))

        hosting.settled = hear
        hosted = HostedVideo(video["cloudflare_uid"], "ready", 100.0, None, None)
        onlooker = await asyncpg.connect(postgres_dsn)
        async with sql.transaction():
            await sql.execute("SELECT FROM videos FOR UPDATE")
            telling = [asyncio.create_task(hosting.note(hosted)) for _ in range(3)]
            await blocked(onlooker, by=len(telling))
        await asyncio.gather(*telling)
        await onlooker.close()
        kinds = await sql.fetch("SELECT kind FROM jobs WHERE kind <> 'video_status' ORDER BY kind")
        assert [row["kind"] for row in kinds] == ["video_ladder", "video_text"]
        assert settled == [video["id"]]


async def test_a_failure_is_told_in_words_that_help(
    teacher: Person, lecture: Any, stream: StreamHost, sql: Sql
) -> None:
    video = await upload(teacher, lecture)
    stream.set_state(video["cloudflare_uid"], "error", code="ERR_NON_VIDEO", reason="Not recognized.")
    await once(sql, STATUS, video["id"], wanted="error")
    assert "MP4" in (await teacher.get(f"/api/videos/{video['id']}")).body["error"]


async def test_the_ladder_that_is_kept_has_the_rungs_that_came_after_the_video_was_ready(
    teacher: Person, lecture: Any, stream: StreamHost, sql: Sql
) -> None:
    video = await upload(teacher, lecture)
    stream.master = (
        MASTER.partition("#EXT-X-STREAM-INF:BANDWIDTH=2000000")[0] + "#EXT-X-STREAM-INF:BANDWIDTH=4\n240.m3u8\n"
    )
    stream.make_ready(video["cloudflare_uid"])["status"]["pctComplete"] = "39.000000"
    await once(sql, "SELECT jsonb_array_length(ladder) FROM videos", wanted=1)
    stream.master = MASTER
    await once(sql, "SELECT count(*) FROM jobs WHERE kind = 'video_ladder' AND error IS NOT NULL", wanted=1)
    stream.make_ready(video["cloudflare_uid"])["status"]["pctComplete"] = "100.000000"
    await once(sql, "SELECT jsonb_array_length(ladder) FROM videos", wanted=2)


async def test_a_host_that_is_away_for_long_kills_no_job(
    teacher: Person, lecture: Any, stream: StreamHost, sql: Sql
) -> None:
    gone, stays = await upload(teacher, lecture, "gone"), await upload(teacher, lecture, "stays")
    stream.failing = 500
    assert (await teacher.delete(f"/api/videos/{gone['id']}")).status == 204
    await once(sql, "SELECT count(*) FROM jobs WHERE error IS NOT NULL", wanted=2)
    # What was asked for just now is tried soon again.
    await sql.execute("UPDATE jobs SET created_at = now() + interval '1 hour'")
    asked = len(stream.asked)
    await until(lambda: len(stream.asked) > asked + 4)
    assert await sql.fetchval("SELECT max(attempts) FROM jobs") <= 1
    stream.make_ready(stays["cloudflare_uid"])
    stream.failing = None
    await once(sql, STATUS, stays["id"], wanted="ready")
    await until(lambda: list(stream.videos) == [stays["cloudflare_uid"]])


async def test_what_the_host_refuses_is_dead_after_eight_attempts_and_can_be_tried_again(
    teacher: Person, lecture: Any, stream: StreamHost, sql: Sql
) -> None:
    video = await upload(teacher, lecture)
    await sql.execute("DELETE FROM jobs")
    stream.failing = 403
    assert (await teacher.delete(f"/api/videos/{video['id']}")).status == 204
    await once(sql, "SELECT count(*) FROM jobs WHERE error IS NOT NULL", wanted=1)
    await sql.execute("UPDATE jobs SET attempts = 7, run_at = now()")
    await once(sql, "SELECT attempts FROM jobs WHERE dead_at IS NOT NULL", wanted=8)
    stream.failing = None
    await sql.execute("UPDATE jobs SET attempts = 0, run_at = now(), dead_at = NULL")
    await until(lambda: stream.videos == {})


# -- replacing ---------------------------------------------------------------------------------------------------------


async def test_the_old_video_plays_until_the_new_one_is_ready_and_goes_when_nobody_watches_it(
    client: AppClient, teacher: Person, lecture: Any, stream: StreamHost, sql: Sql
) -> None:
    async def shown() -> str:
        title: str = (await teacher.get(f"/api/lectures/{lecture['id']}")).body["video"]["title"]
        return title

    async def make_ready(video: Any) -> None:
        body = webhook_body(stream.make_ready(video["cloudflare_uid"]))
        assert (
            await teacher.post("/api/videos/webhooks/cloudflare", data=body, headers=sign_webhook(body))
        ).status == 200

    old = await upload(teacher, lecture, "old")
    await make_ready(old)
    failed = await upload(teacher, lecture, "failed")
    stream.set_state(failed["cloudflare_uid"], "error")
    await once(sql, STATUS, failed["id"], wanted="error")
    new = await upload(teacher, lecture, "new")
    assert await shown() == "old"
    session = await teacher.make(f"/api/videos/{old['id']}/sessions", {})
    await make_ready(new)
    assert await shown() == "new"
    jobs = "SELECT error FROM jobs WHERE kind = 'video_retirement'"
    await once(sql, jobs, wanted="not done yet")
    assert old["cloudflare_uid"] in stream.videos, "somebody still watches"
    assert (await teacher.get(f"/api/videos/{old['id']}")).body["playback"]
    await sql.execute("UPDATE video_sessions SET status = 'ended', ended_at = now()")
    await until(lambda: old["cloudflare_uid"] not in stream.videos)
    kept = (await teacher.get(f"/api/videos/{old['id']}")).body
    assert (kept["status"], kept["cloudflare_uid"], kept.get("playback")) == ("ready", None, None)
    assert (await teacher.get(f"/api/videos/sessions/{session['session_id']}")).status == 200
    assert (await teacher.post(f"/api/videos/{old['id']}/sessions", {})).code == "video_not_ready"
    assert await shown() == "new"
    assert await sql.fetchval("SELECT lecture_video_id($1::text::uuid)", lecture["id"]) == UUID(new["id"])


async def test_one_whose_successor_is_deleted_in_time_plays_again(
    client: AppClient, teacher: Person, lecture: Any, stream: StreamHost, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(client.app[CONFIG].cloudflare.__dict__, "replaced_ttl_s", 3600.0)
    old, new = await upload(teacher, lecture, "old"), await upload(teacher, lecture, "new")
    for video in (new, old):  # the newer one is ready first, and stays the lecture's
        stream.make_ready(video["cloudflare_uid"])
        await once(sql, STATUS, video["id"], wanted="ready")
    assert (await teacher.get(f"/api/lectures/{lecture['id']}")).body["video"]["title"] == "new"
    assert (await teacher.delete(f"/api/videos/{new['id']}")).status == 204
    await sql.execute("UPDATE jobs SET run_at = now() WHERE kind = 'video_retirement'")  # an hour later
    await once(sql, "SELECT count(*) FROM jobs WHERE kind = 'video_retirement'", wanted=0)
    assert (await teacher.get(f"/api/lectures/{lecture['id']}")).body["video"]["playback"]


# -- transcripts -------------------------------------------------------------------------------------------------------


async def test_a_video_without_captions_gets_some_and_what_they_say_is_found(
    teacher: Person, lecture: Any, stream: StreamHost, sql: Sql
) -> None:
    video = await upload(teacher, lecture)
    uid = video["cloudflare_uid"]
    stream.make_ready(uid)
    await until(lambda: (uid, "en") in stream.generated)
    assert (await teacher.get(f"/api/videos/{video['id']}/captions/en")).status == 404
    stream.captions[uid, "en"] = VTT
    stream.generated[uid, "en"] = "ready"
    await once(sql, SAID, video["id"], wanted="Queues are first in, first out. | Stacks are not.")
    assert (await teacher.get(f"/api/videos/{video['id']}/captions/en")).body == VTT
    found = await sql.fetch("SELECT from_s, to_s, lang FROM transcript_chunks WHERE tsv @@ wanted_words('stack')")
    assert [tuple(row) for row in found] == [(60.0, 64.0, "en")]


async def test_pieces_get_their_embeddings_where_a_model_makes_them(
    postgres_dsn: str, redis_url: str, stream: StreamHost, sql: Sql
) -> None:
    asked: list[Any] = []

    async def embed(request: web.Request) -> web.Response:
        asked.append(body := await request.json())
        if len(asked) == 1:
            return web.Response(status=500)
        vectors = [{"index": n, "embedding": [n + 0.5, len(text)]} for n, text in enumerate(body["input"])]
        return web.json_response({"data": vectors[::-1]})

    model = web.Application()
    model.router.add_post("/v1/embeddings", embed)
    async with LocalServer(model) as server:
        config = settings(
            postgres_dsn,
            redis_url,
            cloudflare=stream.settings,
            jobs={"poll_s": 0.02},
            openai={"base_url": str(server.make_url("/v1")), "api_key": "k", "embedding_model": "m"},
        )
        async with serving(config) as client:
            teacher = await People(client, sql).join("teacher", "instructor")
            course = await teacher.make("/api/courses", {"title": "Queues"})
            lecture = await teacher.make(f"/api/courses/{course['id']}/lectures", {"title": "A"})
            video = await upload(teacher, lecture)
            stream.captions[video["cloudflare_uid"], "en"] = VTT
            stream.make_ready(video["cloudflare_uid"])
            await once(sql, "SELECT count(*) FROM transcript_chunks WHERE embedding IS NOT NULL", wanted=2)
    assert asked[-1] == {"model": "m", "input": ["A. Queues are first in, first out.", "A. Stacks are not."]}
    nearest = "SELECT text FROM transcript_chunks ORDER BY embedding <-> '[1.5, 15]' LIMIT 1"
    assert await sql.fetchval(nearest) == "Stacks are not."


async def test_captions_that_change_change_what_is_found(
    teacher: Person, lecture: Any, stream: StreamHost, sql: Sql
) -> None:
    video = await upload(teacher, lecture)
    stream.make_ready(video["cloudflare_uid"])
    await until(lambda: stream.generated != {})
    path = f"/api/videos/{video['id']}/captions"
    assert (await teacher.put(f"{path}/de", data=VTT, headers=TEXT_VTT)).status == 204
    await once(sql, SAID, video["id"], wanted="Queues are first in, first out. | Stacks are not.")
    await sql.execute("DELETE FROM jobs")
    stream.generated.clear()
    assert (await teacher.put(f"{path}/en", data=VTT.replace(b"Stacks", b"Heaps"), headers=TEXT_VTT)).status == 204
    await once(sql, SAID, video["id"], wanted="Queues are first in, first out. | Heaps are not.")
    for lang in ("de", "en"):
        assert (await teacher.delete(f"{path}/{lang}")).status == 204
    await once(sql, SAID, video["id"], wanted=None)
    await once(sql, "SELECT count(*) FROM jobs", wanted=0)
    assert stream.generated == {}, "who deletes captions wants none"


async def test_what_captions_say_is_found_when_they_are_stored(
    postgres_dsn: str, redis_url: str, stream: StreamHost, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.http.hosting.INDEXED_WITHIN_S", 30.0)
    config = settings(postgres_dsn, redis_url, cloudflare=stream.settings, jobs={"poll_s": 60})
    async with serving(config) as client:
        teacher = await People(client, sql).join("teacher", "instructor")
        course = await teacher.make("/api/courses", {"title": "Queues"})
        lecture = await teacher.make(f"/api/courses/{course['id']}/lectures", {"title": "A"})
        video = await upload(teacher, lecture)
        stream.make_ready(video["cloudflare_uid"])
        assert client.app is not None
        await client.app[HOSTING].note(HostedVideo(video["cloudflare_uid"], "ready", 100.0, None, None))
        path = f"/api/videos/{video['id']}/captions/en"
        assert (await teacher.put(path, data=VTT, headers=TEXT_VTT)).status == 204
        assert await sql.fetchval(SAID, video["id"]) == "Queues are first in, first out. | Stacks are not."
        assert (await teacher.delete(path)).status == 204
        assert await sql.fetchval(SAID, video["id"]) is None


async def test_what_long_captions_say_is_kept_some_pieces_at_a_time(
    teacher: Person, lecture: Any, stream: StreamHost, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.http.texts.KEPT_AT_ONCE", 2)
    await note_sizes(sql, "INSERT", "transcript_chunks")
    video = await upload(teacher, lecture)
    cues = [f"00:0{minute}:00.000 --> 00:0{minute}:20.000\nQueue {minute}.\n" for minute in range(5)]
    stream.make_ready(video["cloudflare_uid"])
    await until(lambda: stream.generated != {})
    path = f"/api/videos/{video['id']}/captions/de"
    said = "\n".join(("WEBVTT\n", *cues)).encode()
    assert (await teacher.put(path, data=said, headers=TEXT_VTT)).status == 204
    await once(sql, SAID, video["id"], wanted=" | ".join(f"Queue {minute}." for minute in range(5)))
    assert (await noted_sizes(sql, "transcript_chunks"))[-3:] == [2, 2, 1]


async def test_captions_that_change_while_they_are_read_are_read_again(
    client: AppClient, teacher: Person, lecture: Any, stream: StreamHost, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = await upload(teacher, lecture)
    uid = video["cloudflare_uid"]
    stream.captions[uid, "en"] = VTT
    host, database = client.app[HOSTING]._host, client.app[DATABASE]  # type: ignore[union-attr]
    read = host.get_captions

    async def overtaken(*of: str) -> bytes:
        before = await read(*of)
        if before == VTT:
            stream.captions[uid, "en"] = VTT.replace(b"Stacks", b"Heaps")
            # Not by `sql`, which looks meanwhile.
            await database.execute("UPDATE videos SET captions_version = captions_version + 1")
        return before

    monkeypatch.setattr(host, "get_captions", overtaken)
    stream.make_ready(uid)
    await once(sql, SAID, video["id"], wanted="Queues are first in, first out. | Heaps are not.")

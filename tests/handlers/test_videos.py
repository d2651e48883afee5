"""Videos: uploading past us, what the host says and when, who may watch, captions."""

import asyncio
import io
import json
from base64 import b64decode
from collections.abc import Callable
from datetime import datetime
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from server.data import history
from tests.support.app import serving, settings
from tests.support.cloudflare import LADDER, StreamHost, sign_webhook, webhook_body
from tests.support.people import Answer, People, Person
from tests.support.statements import note_sizes, noted_sizes
from tests.support.waiting import blocked, until

WEBHOOK = "/api/videos/webhooks/cloudflare"
TEXT_VTT = {"Content-Type": "text/vtt"}
VTT = b"WEBVTT\n\n00:00.000 --> 00:01.000\nHello\n"


@pytest.fixture
def overrides(stream: StreamHost) -> dict[str, dict[str, Any]]:
    """The application's video host is that one."""
    return {"cloudflare": stream.settings, "jobs": {"poll_s": 0.02}, "sessions": {"entitled_s": 0.1}}


@pytest.fixture
async def teacher(people: People) -> Person:
    """An instructor."""
    return await people.join("teacher", "instructor")


@pytest.fixture
async def lecture(teacher: Person) -> Any:
    """A lecture of a free, published course."""
    course = await teacher.make("/api/courses", {"title": "Queues", "status": "published"})
    return await teacher.make(f"/api/courses/{course['id']}/lectures", {"title": "A"})


def new_upload(lecture: Any) -> dict[str, Any]:
    """A body for an upload."""
    return {"lecture_id": lecture["id"], "title": "Intro", "filename": "intro.mp4", "size_bytes": 10_000}


@pytest.fixture
async def video(teacher: Person, lecture: Any) -> Any:
    """A video that waits for its bytes."""
    return (await teacher.make("/api/videos/upload", new_upload(lecture)))["video"]


async def once(person: Person, path: str, condition: Callable[[Any], bool]) -> Any:
    """What is shown when it is so, by what the application does by itself."""
    async with asyncio.timeout(30):
        while not condition(shown := (await person.get(path)).body):  # noqa: ASYNC110  # nothing tells us
            await asyncio.sleep(0.01)
    return shown


async def tell(person: Person, said: dict[str, Any], **signed: Any) -> Answer:
    """A webhook of the host."""
    body = webhook_body(said)
    return await person.post(WEBHOOK, data=body, headers=sign_webhook(body, **signed))


# -- uploading ---------------------------------------------------------------------------------------------------------


async def test_an_upload_goes_straight_to_the_host(teacher: Person, lecture: Any, stream: StreamHost) -> None:
    answer = await teacher.post("/api/videos/upload", new_upload(lecture) | {"max_duration_seconds": 60})
    assert answer.status == 201
    video, upload = answer.body["video"], answer.body["upload"]
    assert answer.headers["Location"] == f"/api/videos/{video['id']}"
    assert set(upload) == {"method", "url", "expires_at"}
    assert (upload["method"], upload["url"]) == ("form", f"{stream.origin}/upload/{video['cloudflare_uid']}")
    assert set(video) == {
        "id", "lecture_id", "title", "description", "status", "duration_seconds", "thumbnail_url", "visibility",
        "upload_user_id", "error", "created_at", "updated_at", "cloudflare_uid",
    }  # fmt: skip
    assert (video["status"], video["visibility"], video["upload_user_id"]) == ("pending_upload", "private", teacher.id)
    assert stream.uploads[0]["maxDurationSeconds"] == 60
    assert stream.uploads[0]["creator"] == teacher.id


async def test_an_upload_whose_lecture_is_gone_meanwhile_leaves_nothing_at_the_host(
    teacher: Person, lecture: Any, stream: StreamHost
) -> None:
    stream.answering.clear()
    begun = asyncio.create_task(teacher.post("/api/videos/upload", new_upload(lecture)))
    await until(lambda: len(stream.asked) == 1)
    assert (await teacher.delete(f"/api/lectures/{lecture['id']}")).status == 204
    stream.answering.set()
    answer = await begun
    assert (answer.status, answer.pointers) == (422, ["/lecture_id"])
    assert stream.videos == {}
    assert len(stream.uploads) == 1


async def test_an_upload_and_the_lectures_deletion_do_not_wait_for_each_other(
    teacher: Person, lecture: Any, stream: StreamHost, sql: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    async with sql.transaction():  # as whoever deletes the lecture and has locked it
        await sql.execute("SELECT FROM lectures WHERE id = $1 FOR NO KEY UPDATE", lecture["id"])
        begun = asyncio.create_task(teacher.post("/api/videos/upload", new_upload(lecture)))
        await blocked(sql)
        await sql.execute("DELETE FROM lectures WHERE id = $1", lecture["id"])
    answer = await begun
    assert (answer.status, answer.pointers) == (422, ["/lecture_id"])
    assert stream.videos == {}


@pytest.mark.parametrize("deleted_too", [False, True])
async def test_what_happens_to_a_video_and_its_lectures_deletion_do_not_wait_for_each_other(
    teacher: Person,
    people: People,
    video: Any,
    stream: StreamHost,
    sql: "asyncpg.Connection[asyncpg.Record]",
    deleted_too: bool,
) -> None:
    path = f"/api/videos/{video['id']}"
    async with sql.transaction():  # as whoever deletes the lecture and has locked it
        await sql.execute("SELECT FROM lectures FOR NO KEY UPDATE")
        said = {} if deleted_too else stream.make_ready(video["cloudflare_uid"])
        begun = asyncio.create_task(teacher.delete(path) if deleted_too else tell(people.stranger, said))
        await blocked(sql)
        await sql.execute("DELETE FROM lectures")
    assert (await begun).status == (204 if deleted_too else 200)


async def test_a_videos_length_and_the_deletion_of_a_lecture_before_it_do_not_wait_for_each_other(
    teacher: Person, lecture: Any, sql: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    lectures = f"/api/courses/{lecture['course_id']}/lectures"
    later = await teacher.make(lectures, {"title": "B"})
    async with sql.transaction():  # as where the host tells of the later one's video
        await sql.execute("SELECT FROM lectures WHERE id = $1 FOR NO KEY UPDATE", later["id"])
        begun = asyncio.create_task(teacher.delete(f"/api/lectures/{lecture['id']}"))
        await blocked(sql)
        await sql.execute("UPDATE lectures SET duration = 5 WHERE id = $1", later["id"])
    assert (await begun).status == 204
    left = (await teacher.get(lectures)).body["items"]
    assert [(row["id"], row["sequence_order"], row["duration"]) for row in left] == [(later["id"], 1, 5)]
    course = (await teacher.get(f"/api/courses/{lecture['course_id']}")).body
    assert (course["lecture_count"], course["duration"]) == (1, 5)


async def test_a_large_file_is_sent_by_tus(teacher: Person, lecture: Any, stream: StreamHost) -> None:
    for size_bytes, method in ((200_000_000, "form"), (200_000_001, "tus"), (30_000_000_000, "tus")):
        begun = await teacher.make("/api/videos/upload", new_upload(lecture) | {"size_bytes": size_bytes})
        assert begun["upload"]["method"] == method
    uid = begun["video"]["cloudflare_uid"]
    assert begun["upload"]["url"] == f"{stream.origin}/tus/{uid}"
    told = stream.uploads[-1]
    assert (told["Upload-Length"], told["Tus-Resumable"], told["Upload-Creator"]) == (
        "30000000000",
        "1.0.0",
        teacher.id,
    )
    wish = dict(pair.split(" ") for pair in told["Upload-Metadata"].split(",") if " " in pair)
    assert {key: b64decode(value).decode() for key, value in wish.items()} == {
        "maxDurationSeconds": "14400",
        "name": "intro.mp4",
        "expiry": begun["upload"]["expires_at"],
    }
    assert told["Upload-Metadata"].endswith(",requiresignedurls")


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("size_bytes", 0), ("size_bytes", 30_000_000_001), ("size_bytes", "10"), ("size_bytes", 2**63),
        ("filename", ""),
        ("lecture_id", "x"), ("max_duration_seconds", 21_601), ("title", ""), ("title", " "), ("status", "ready"),
    ],
)  # fmt: skip
async def test_what_is_no_upload_is_pointed_at(
    teacher: Person, lecture: Any, stream: StreamHost, member: str, value: Any
) -> None:
    answer = await teacher.post("/api/videos/upload", new_upload(lecture) | {member: value})
    assert (answer.status, answer.pointers) == (422, [f"/{member}"])
    assert stream.asked == []


async def test_only_the_course_s_owner_uploads(teacher: Person, people: People, lecture: Any) -> None:
    draft = await teacher.make("/api/courses", {"title": "Draft"})
    hidden = await teacher.make(f"/api/courses/{draft['id']}/lectures", {"title": "A"})
    other = await people.join("other", "instructor")
    assert (await people.stranger.post("/api/videos/upload", new_upload(lecture))).status == 401
    assert (await other.post("/api/videos/upload", new_upload(lecture))).status == 403
    for lecture_id in (hidden["id"], str(uuid4())):
        answer = await other.post("/api/videos/upload", new_upload({"id": lecture_id}))
        assert (answer.status, answer.pointers) == (422, ["/lecture_id"])


@pytest.mark.parametrize(
    ("failing", "status", "code"), [(500, 503, "upstream_unavailable"), (401, 502, "upstream_failed")]
)
async def test_a_host_that_fails_leaves_no_video(
    teacher: Person, lecture: Any, stream: StreamHost, failing: int, status: int, code: str
) -> None:
    stream.failing = failing
    answer = await teacher.post("/api/videos/upload", new_upload(lecture))
    assert (answer.status, answer.code) == (status, code)
    assert int(answer.headers["Retry-After"]) > 0
    assert (await teacher.get(f"/api/lectures/{lecture['id']}")).body["video"] is None


async def test_a_host_that_hangs_is_told_in_time(
    postgres_dsn: str, redis_url: str, stream: StreamHost, sql: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    stream.answering.clear()
    config = settings(postgres_dsn, redis_url, cloudflare=stream.settings | {"timeout_s": 0.2})
    async with serving(config) as client:
        teacher = await People(client, sql).join("teacher", "instructor")
        course = await teacher.make("/api/courses", {"title": "Queues"})
        lecture = await teacher.make(f"/api/courses/{course['id']}/lectures", {"title": "A"})
        answer = await teacher.post("/api/videos/upload", new_upload(lecture))
    assert (answer.status, answer.code) == (504, "upstream_timed_out")
    assert int(answer.headers["Retry-After"]) > 0


async def test_while_the_host_is_away_what_needs_it_says_so_at_once_and_all_else_works(
    teacher: Person, lecture: Any, video: Any, stream: StreamHost, people: People
) -> None:
    await tell(people.stranger, stream.make_ready(video["cloudflare_uid"]))
    stream.failing = 500
    path = f"/api/videos/{video['id']}"
    needs = [("POST", "/api/videos/upload", new_upload(lecture)), ("GET", f"{path}/captions/en", None)]
    for method, needed, body in needs * 3:
        answer = await teacher.ask(method, needed, body)
        assert (answer.status, answer.code) == (503, "upstream_unavailable")
        assert int(answer.headers["Retry-After"]) > 0
    # By us alone: the ladder of what is ready is asked for meanwhile.
    asked = [path for path in stream.asked if path.endswith("direct_upload")]
    assert (await teacher.post(*needs[0][1:])).status == 503
    assert [path for path in stream.asked if path.endswith("direct_upload")] == asked, "it failed too often"
    assert (await teacher.get(path)).body["playback"]["hls"]
    assert (await teacher.put(path, {"title": "Renamed"})).status == 200
    assert (await teacher.post(f"{path}/sessions", {})).status == 201
    assert (await teacher.get(f"/api/lectures/{lecture['id']}")).body["video"]["title"] == "Renamed"
    assert (await teacher.delete(path)).status == 204


async def test_without_a_host_its_routes_say_so_and_the_others_work(
    postgres_dsn: str, redis_url: str, sql: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    async with serving(settings(postgres_dsn, redis_url)) as client:
        teacher = await People(client, sql).join("teacher", "instructor")
        course = await teacher.make("/api/courses", {"title": "Queues", "status": "published"})
        lecture = await teacher.make(f"/api/courses/{course['id']}/lectures", {"title": "A"})
        for answer in (
            await teacher.post("/api/videos/upload", new_upload(lecture)),
            await teacher.post(WEBHOOK, {"uid": "x"}),
        ):
            assert (answer.status, answer.code) == (503, "not_configured")
        row = await sql.fetchrow(
            "INSERT INTO videos (lecture_id, upload_user_id, title, cloudflare_uid, status)"
            " VALUES ($1, $2, 'V', 'uid', 'ready') RETURNING id",
            lecture["id"],
            teacher.id,
        )
        assert row is not None
        shown = await teacher.get(f"/api/videos/{row['id']}")
        assert shown.status == 200
        assert "playback" not in shown.body


# -- what the host says ------------------------------------------------------------------------------------------------


async def test_a_webhook_makes_a_video_ready_with_its_ladder(
    teacher: Person, people: People, video: Any, stream: StreamHost, sql: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    for _ in range(2):
        answer = await tell(people.stranger, stream.make_ready(video["cloudflare_uid"]))
        assert answer.status == 200
    shown = (await teacher.get(f"/api/videos/{video['id']}")).body
    assert (shown["status"], shown["duration_seconds"], shown["error"]) == ("ready", 90.5, None)
    assert set(shown["playback"]) == {"hls", "dash", "expires_at"}
    assert shown["thumbnail_url"].startswith(f"{stream.origin}/ey")
    async with teacher.client.session.get(shown["playback"]["hls"]) as manifest:
        assert manifest.status == 200
    async with asyncio.timeout(30):  # a host that takes long over it is asked again by a job
        while (row := await sql.fetchrow("SELECT ladder, segment_s FROM videos WHERE ladder IS NOT NULL")) is None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert (json.loads(row["ladder"]), row["segment_s"]) == (LADDER, 4.0)


async def test_a_video_is_ready_even_if_its_manifest_cannot_be_had(
    teacher: Person, people: People, video: Any, stream: StreamHost, sql: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    stream.master = None
    assert (await tell(people.stranger, stream.make_ready(video["cloudflare_uid"]))).status == 200
    assert (await teacher.get(f"/api/videos/{video['id']}")).body["status"] == "ready"
    assert await sql.fetchval("SELECT ladder FROM videos") is None


async def test_what_comes_late_changes_nothing_back(
    teacher: Person, people: People, video: Any, stream: StreamHost
) -> None:
    uid = video["cloudflare_uid"]

    async def status_after(said: dict[str, Any]) -> tuple[str, str | None]:
        assert (await tell(people.stranger, said)).status == 200
        shown = (await teacher.get(f"/api/lectures/{video['lecture_id']}")).body["video"]
        return shown["status"], shown["error"]

    assert await status_after(stream.set_state(uid, "inprogress")) == ("processing", None)
    assert await status_after(stream.set_state(uid, "pendingupload")) == ("processing", None)
    assert await status_after(stream.set_state(uid, "error", reason="Bad file")) == ("error", "Bad file")
    assert await status_after(stream.set_state(uid, "inprogress")) == ("error", "Bad file")
    assert await status_after(stream.make_ready(uid)) == ("ready", None)
    assert await status_after(stream.set_state(uid, "error", reason="Late")) == ("ready", None)
    assert await status_after(stream.set_state(uid, "inprogress")) == ("ready", None)


async def test_webhooks_of_no_use_are_taken_and_bad_ones_refused(
    people: People, video: Any, stream: StreamHost
) -> None:
    said = stream.make_ready(video["cloudflare_uid"])
    assert (await tell(people.stranger, said | {"uid": "0" * 32})).status == 200
    assert (await tell(people.stranger, {"live": True})).status == 200
    for signed in ({"at": 1}, {"secret": "wrong"}, {"at": 9_999_999_999}):
        answer = await tell(people.stranger, said, **signed)
        assert (answer.status, answer.code) == (401, "bad_signature")
    assert (await people.stranger.post(WEBHOOK, said)).status == 401
    garbage = await people.stranger.post(WEBHOOK, data=b"{", headers=sign_webhook(b"{"))
    assert (garbage.status, garbage.code) == (400, "malformed_json")
    deep = b"[" * 100_000
    assert (await people.stranger.post(WEBHOOK, data=deep, headers=sign_webhook(deep))).status == 400


async def test_an_owner_who_looks_finds_out_what_no_webhook_told(
    teacher: Person, people: People, video: Any, stream: StreamHost, sql: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    path = f"/api/videos/{video['id']}"
    stream.set_state(video["cloudflare_uid"], "inprogress")
    await once(teacher, path, lambda shown: shown["status"] == "processing")
    stream.make_ready(video["cloudflare_uid"])
    await once(teacher, path, lambda shown: shown["status"] == "ready")
    async with asyncio.timeout(30):
        while await sql.fetchval("SELECT count(*) FROM jobs WHERE kind <> 'video_text'"):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert await sql.fetchval("SELECT segment_s FROM videos") == 4.0
    about = f"GET /client/v4/accounts/account/stream/{video['cloudflare_uid']}"
    asked = stream.asked.count(about)
    assert (await teacher.get(path)).body["status"] == "ready"
    assert stream.asked.count(about) == asked


async def test_a_host_that_is_away_does_not_keep_an_owner_from_looking(
    teacher: Person, video: Any, stream: StreamHost
) -> None:
    stream.failing = 500
    shown = await teacher.get(f"/api/videos/{video['id']}")
    assert (shown.status, shown.body["status"]) == (200, "pending_upload")
    stream.failing = None
    stream.answering.clear()
    shown = await teacher.get(f"/api/videos/{video['id']}")
    assert (shown.status, shown.body["status"]) == (200, "pending_upload")


@pytest.mark.parametrize("knows", [True, False])
async def test_an_upload_that_never_came_has_failed(
    teacher: Person, video: Any, stream: StreamHost, sql: "asyncpg.Connection[asyncpg.Record]", knows: bool
) -> None:
    if not knows:
        stream.videos.clear()
    path = f"/api/videos/{video['id']}"
    assert (await teacher.get(path)).body["status"] == "pending_upload"
    await sql.execute("UPDATE videos SET upload_expires_at = now() - interval '1 day'")
    shown = await once(teacher, path, lambda shown: shown["status"] == "error")
    assert "not finished in time" in shown["error"]


async def test_many_who_look_at_once_ask_the_host_once(
    postgres_dsn: str, redis_url: str, stream: StreamHost, sql: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    config = settings(postgres_dsn, redis_url, cloudflare=stream.settings | {"poll_s": 60})
    async with serving(config) as client:
        teacher = await People(client, sql).join("teacher", "instructor")
        course = await teacher.make("/api/courses", {"title": "Queues"})
        lecture = await teacher.make(f"/api/courses/{course['id']}/lectures", {"title": "A"})
        video = (await teacher.make("/api/videos/upload", new_upload(lecture)))["video"]
        await asyncio.gather(*(teacher.get(f"/api/videos/{video['id']}") for _ in range(10)))
    assert sum(line.startswith("GET /client") for line in stream.asked) == 1


# -- who may watch -----------------------------------------------------------------------------------------------------


async def test_who_may_watch_goes_by_enrolment_visibility_and_preview(
    teacher: Person, people: People, lecture: Any, video: Any, stream: StreamHost
) -> None:
    await tell(people.stranger, stream.make_ready(video["cloudflare_uid"]))
    path, stranger, passer_by = f"/api/videos/{video['id']}", people.stranger, await people.join("passer-by")
    learner = await people.join("learner")
    await learner.make("/api/enrollments", {"course_id": lecture["course_id"]})

    async def statuses() -> list[int]:
        return [(await person.get(path)).status for person in (stranger, passer_by, learner, teacher)]

    assert await statuses() == [401, 403, 200, 200]
    await teacher.put(path, {"visibility": "preview"})
    assert await statuses() == [401, 200, 200, 200]
    await teacher.put(path, {"visibility": "public"})
    assert await statuses() == [200, 200, 200, 200]
    await teacher.put(path, {"visibility": "private"})
    await teacher.put(f"/api/lectures/{lecture['id']}", {"is_preview": True})
    assert await statuses() == [200, 200, 200, 200]
    shown = (await passer_by.get(path)).body
    assert "cloudflare_uid" not in shown
    assert shown["playback"]["hls"].endswith("/manifest/video.m3u8")
    whole = (await stranger.get(f"/api/lectures/{lecture['id']}")).body
    assert whole["video"]["playback"] == shown["playback"]
    await teacher.put(f"/api/courses/{lecture['course_id']}", {"status": "draft"})
    assert await statuses() == [401, 404, 200, 200]
    unknown = await passer_by.get(f"/api/videos/{uuid4()}")
    assert (unknown.status, unknown.code) == (404, "video_not_found")


async def test_a_video_is_changed_by_its_course_s_owner(teacher: Person, people: People, video: Any) -> None:
    path = f"/api/videos/{video['id']}"
    changed = await teacher.put(path, {"title": "New"})
    assert (changed.status, changed.body["title"], changed.body["visibility"]) == (200, "New", "private")
    other = await people.join("other", "instructor")
    for answer in (await other.put(path, {"title": "X"}), await other.delete(path)):
        assert (answer.status, answer.code) == (403, "forbidden")
    for change in ({"visibility": "all"}, {"title": None}, {"status": "ready"}):
        assert (await teacher.put(path, change)).status == 422


async def test_a_deleted_video_is_gone_at_the_host_too_however_long_that_takes(
    teacher: Person, video: Any, stream: StreamHost
) -> None:
    path = f"/api/videos/{video['id']}"
    stream.failing = 500
    assert (await teacher.delete(path)).status == 204
    assert (await teacher.get(path)).status == 404
    await until(lambda: sum(asked.startswith("DELETE") for asked in stream.asked) >= 2)
    assert stream.videos != {}
    stream.failing = None
    await until(lambda: stream.videos == {})


@pytest.mark.parametrize("what", ["lectures", "courses"])
async def test_videos_go_with_their_lecture_or_course_at_the_host_too(
    teacher: Person, lecture: Any, video: Any, stream: StreamHost, sql: "asyncpg.Connection[asyncpg.Record]", what: str
) -> None:
    assert stream.videos != {}
    path = f"/api/{what}/{lecture['id'] if what == 'lectures' else lecture['course_id']}"
    assert (await teacher.delete(path)).status == 204
    assert (await teacher.get(f"/api/videos/{video['id']}")).status == 404
    await until(lambda: stream.videos == {})
    async with asyncio.timeout(30):
        while await sql.fetchval("SELECT count(*) FROM jobs WHERE kind = 'video_removal'"):  # noqa: ASYNC110  # nothing tells us
            await asyncio.sleep(0.01)


async def test_a_right_that_ends_takes_the_addresses_and_the_socket_along(
    teacher: Person, people: People, video: Any, stream: StreamHost, sql: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await tell(people.stranger, stream.make_ready(video["cloudflare_uid"]))
    learner = await people.join("learner")
    course_id = (await teacher.get(f"/api/lectures/{video['lecture_id']}")).body["course_id"]
    await learner.make("/api/enrollments", {"course_id": course_id})
    ends_at = await sql.fetchval("UPDATE enrollments SET expires_at = now() + interval '10 min' RETURNING expires_at")
    path = f"/api/videos/{video['id']}"
    session = await learner.make(f"{path}/sessions", {})
    lecture = (await learner.get(f"/api/lectures/{video['lecture_id']}")).body
    for playback in ((await learner.get(path)).body["playback"], session["playback"], lecture["video"]["playback"]):
        assert datetime.fromisoformat(playback["expires_at"]) <= ends_at
    assert datetime.fromisoformat((await teacher.get(path)).body["playback"]["expires_at"]) > ends_at
    protocols = ("lectern.v1", f"bearer.{session['token']}")
    async with learner.client.ws_connect(f"/api/videos/ws/{session['session_id']}", protocols=protocols) as socket:
        async with asyncio.timeout(30):
            assert (await socket.receive_json())["type"] == "hello"
            await sql.execute("UPDATE enrollments SET expires_at = now()")
            async for _ in socket:
                pass
        assert socket.close_code == 4403


async def test_a_video_deleted_while_it_is_watched_ends_its_sessions(
    teacher: Person, people: People, video: Any, stream: StreamHost
) -> None:
    await tell(people.stranger, stream.make_ready(video["cloudflare_uid"]))
    session = await teacher.make(f"/api/videos/{video['id']}/sessions", {})
    protocols = ("lectern.v1", f"bearer.{session['token']}")
    async with teacher.client.ws_connect(f"/api/videos/ws/{session['session_id']}", protocols=protocols) as socket:
        async with asyncio.timeout(30):
            assert (await socket.receive_json())["type"] == "hello"
            assert (await teacher.delete(f"/api/videos/{video['id']}")).status == 204
            async for _ in socket:
                pass
        assert socket.close_code == 4404, "there is no such session, which is no matter of rights"
    assert (await teacher.get(f"/api/videos/sessions/{session['session_id']}")).status == 404


async def test_new_credentials_say_how_long_all_of_them_are_good(
    teacher: Person, people: People, video: Any, stream: StreamHost, sql: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await tell(people.stranger, stream.make_ready(video["cloudflare_uid"]))
    session = await teacher.make(f"/api/videos/{video['id']}/sessions", {})
    await sql.execute("UPDATE video_sessions SET created_at = now() - interval '1 hour'")
    protocols = ("lectern.v1", f"bearer.{session['token']}")
    async with teacher.client.ws_connect(f"/api/videos/ws/{session['session_id']}", protocols=protocols) as socket:
        async with asyncio.timeout(30):
            while (told := await socket.receive_json())["type"] != "token":
                pass
    addresses_end, all_end = (datetime.fromisoformat(at) for at in (told["playback"]["expires_at"], told["expires_at"]))
    assert all_end == addresses_end, "the session's token is good for longer"


async def test_who_leaves_a_course_in_mid_lecture_watches_no_longer(
    teacher: Person, people: People, video: Any, stream: StreamHost
) -> None:
    await tell(people.stranger, stream.make_ready(video["cloudflare_uid"]))
    course_id = (await teacher.get(f"/api/lectures/{video['lecture_id']}")).body["course_id"]

    async def watch(person: Person) -> Any:
        session = await person.make(f"/api/videos/{video['id']}/sessions", {})
        protocols = ("lectern.v1", f"bearer.{session['token']}")
        return await person.client.ws_connect(f"/api/videos/ws/{session['session_id']}", protocols=protocols)

    leaver, stayer = await people.join("leaver"), await people.join("stayer")
    for learner in (leaver, stayer):
        await learner.make("/api/enrollments", {"course_id": course_id})
    async with await watch(leaver) as left, await watch(stayer) as stays:
        assert (await leaver.delete(f"/api/enrollments/courses/{course_id}")).status == 204
        async with asyncio.timeout(30):
            async for _ in left:
                pass
        assert left.close_code == 4403
        assert not stays.closed
        await stays.send_json({"type": "bye"})
        async for _ in stays:
            pass
        assert stays.close_code == 1000


# -- captions ----------------------------------------------------------------------------------------------------------


async def test_captions_are_stored_at_the_host_and_read_by_those_who_watch(
    teacher: Person, people: People, lecture: Any, video: Any
) -> None:
    path = f"/api/videos/{video['id']}/captions/en"
    learner, passer_by = await people.join("learner"), await people.join("passer-by")
    await learner.make("/api/enrollments", {"course_id": lecture["course_id"]})
    assert (await teacher.get(path)).status == 404
    stored = await teacher.put(path, data=VTT, headers={"Content-Type": "text/vtt"})
    assert stored.status == 204
    for person in (teacher, learner):
        read = await person.get(path)
        assert (read.status, read.body) == (200, VTT)
        assert read.headers["Content-Type"] == "text/vtt; charset=utf-8"
    assert (await passer_by.get(path)).status == 403
    assert (await people.stranger.get(path)).status == 401
    for person in (learner, passer_by):
        assert (await person.put(path, data=VTT, headers={"Content-Type": "text/vtt"})).status == 403
        assert (await person.delete(path)).status == 403
    assert (await teacher.delete(path)).status == 204
    assert (await teacher.delete(path)).status == 404


async def test_a_language_has_one_set_of_captions_in_whatever_case_it_is_asked_for(
    teacher: Person, video: Any, stream: StreamHost
) -> None:
    path = f"/api/videos/{video['id']}/captions"
    assert (await teacher.put(f"{path}/PT-br", data=VTT, headers=TEXT_VTT)).status == 204
    assert (await teacher.get(f"{path}/pt-BR")).body == (await teacher.get(f"{path}/pt-br")).body == VTT
    assert set(stream.captions) == {(video["cloudflare_uid"], "pt-BR")}
    assert (await teacher.delete(f"{path}/pt-br")).status == 204
    assert (await teacher.get(f"{path}/pt-BR")).status == 404


async def test_the_host_is_asked_for_captions_once_whoever_reads_them_and_anew_when_they_change(
    teacher: Person, people: People, lecture: Any, video: Any, stream: StreamHost
) -> None:
    def asked() -> int:
        return sum("/captions" in one for one in stream.asked)

    path = f"/api/videos/{video['id']}/captions"
    await teacher.put(f"/api/courses/{lecture['course_id']}", {"status": "published"})
    await teacher.put(f"/api/videos/{video['id']}", {"visibility": "public"})
    for text in (VTT, VTT.replace(b"Hello", b"Good-bye")):
        assert (await teacher.put(f"{path}/en", data=text, headers=TEXT_VTT)).status == 204
        stream.asked.clear()
        stream.answering.clear()
        together = asyncio.gather(*(people.stranger.get(f"{path}/en") for _ in range(5)))
        await until(lambda: asked() > 0)
        stream.answering.set()
        assert [answer.body for answer in [*await together, await people.stranger.get(f"{path}/en")]] == [text] * 6
        assert asked() == 1
    for lang in ("de", "fr", "aa", "aa-bb"):
        assert (await people.stranger.get(f"{path}/{lang}")).status == 404
    assert asked() == 3, "what other languages there are it tells at once"
    assert (await teacher.put(f"{path}/de", data=VTT, headers=TEXT_VTT)).status == 204
    assert (await people.stranger.get(f"{path}/de")).body == VTT
    assert (await teacher.delete(f"{path}/en")).status == 204
    assert (await people.stranger.get(f"{path}/en")).status == 404


async def test_who_has_the_captions_is_told_so_until_they_change(
    teacher: Person, people: People, lecture: Any, video: Any
) -> None:
    path = f"/api/videos/{video['id']}/captions/en"
    await teacher.put(f"/api/courses/{lecture['course_id']}", {"status": "published"})
    await teacher.put(f"/api/videos/{video['id']}", {"visibility": "public"})
    assert (await teacher.put(path, data=VTT, headers=TEXT_VTT)).status == 204
    for person, kept in ((teacher, "private, no-cache"), (people.stranger, "public, max-age=5")):
        first = await person.get(path)
        tag = {"If-None-Match": first.headers["ETag"]}
        again = await person.get(path, headers=tag)
        assert (first.body, again.status, again.body) == (VTT, 304, b"")
        for answer in (first, again):
            assert (answer.headers["Cache-Control"], answer.headers["Vary"]) == (kept, "Authorization, Origin")
    await teacher.put(path, data=VTT + b"!", headers=TEXT_VTT)
    assert (await teacher.get(path, headers=tag)).body == VTT + b"!"


@pytest.mark.parametrize("failing", [500, None])
async def test_while_the_host_is_away_captions_are_those_that_it_gave(
    teacher: Person, video: Any, stream: StreamHost, sql: "asyncpg.Connection[asyncpg.Record]",
    monkeypatch: pytest.MonkeyPatch, failing: int | None,
) -> None:  # fmt: skip
    monkeypatch.setattr("server.http.hosting._CAPTIONS_AGAIN_S", 0.05)
    path = f"/api/videos/{video['id']}/captions"
    stream.captions[video["cloudflare_uid"], "en"] = VTT
    assert (await teacher.get(f"{path}/en")).body == VTT
    stream.failing = failing
    if failing is None:
        stream.answering.clear()  # it takes the question, and does not answer
    for _ in range(2):
        assert (await teacher.get(f"{path}/en")).body == VTT
        await sql.execute("UPDATE captions SET asked_at = '-infinity'")  # long ago
    stream.failing = 500
    stream.answering.set()
    assert (await teacher.get(f"{path}/de")).status == 503
    await sql.execute("UPDATE videos SET captions_version = captions_version + 1")
    assert (await teacher.get(f"{path}/en")).status == 503, "they were changed: nobody here knows how"


async def test_captions_that_change_at_the_host_itself_are_seen_later(
    teacher: Person, video: Any, stream: StreamHost, sql: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    path, uid = f"/api/videos/{video['id']}/captions", video["cloudflare_uid"]
    stream.captions[uid, "en"] = VTT
    assert [(await teacher.get(f"{path}/{lang}")).status for lang in ("en", "de")] == [200, 404]
    stream.captions = {(uid, "de"): VTT}
    assert [(await teacher.get(f"{path}/{lang}")).status for lang in ("en", "de")] == [200, 404]
    await sql.execute("UPDATE captions SET asked_at = now() - interval '11 minutes'")
    await sql.execute("UPDATE caption_languages SET asked_at = now() - interval '11 minutes'")
    assert [(await teacher.get(f"{path}/{lang}")).status for lang in ("en", "de")] == [404, 200]


async def test_captions_that_were_read_while_they_changed_are_not_kept(
    teacher: Person, video: Any, stream: StreamHost, sql: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    path = f"/api/videos/{video['id']}/captions/en"
    stream.captions[video["cloudflare_uid"], "en"] = VTT
    stream.answering.clear()
    reading = asyncio.create_task(teacher.get(path))
    await until(lambda: any(asked.endswith("/vtt") for asked in stream.asked))
    # Another process has changed them, and been asked for them since.
    await sql.execute("UPDATE videos SET captions_version = 1")
    await sql.execute("INSERT INTO captions (video_id, lang, version, vtt) VALUES ($1, 'en', 1, 'new')", video["id"])
    stream.answering.set()
    assert (await reading).body == VTT
    assert (await teacher.get(path)).body == b"new"


async def test_a_video_that_the_host_has_no_more_takes_no_captions(
    teacher: Person, video: Any, stream: StreamHost, sql: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    path = f"/api/videos/{video['id']}/captions/en"
    stream.videos.clear()  # its upload expired
    for uid in (video["cloudflare_uid"], None):  # None: it was replaced
        await sql.execute("UPDATE videos SET cloudflare_uid = $1", uid)
        for answer in (
            await teacher.put(path, data=VTT, headers={"Content-Type": "text/vtt"}),
            await teacher.get(path),
            await teacher.delete(path),
        ):
            assert (answer.status, answer.code) == (404, "not_found")


@pytest.mark.parametrize(
    ("lang", "kind", "body", "status"),
    [
        ("en", "application/json", VTT, 415),
        ("en", "text/vtt; x*=idna''a", VTT, 415),
        ("en", "text/vtt", b"", 422),
        ("en", "text/vtt", b"WEBVTTX", 422),
        ("en", "text/vtt", b"WEBVTT\n\xff", 422),
        ("en", "text/vtt", b"WEBVTT\n\0", 422),
        ("en", "text/vtt", b"WEBVTT\n" + b"x" * 10_000_000, 413),
        ("english-!", "text/vtt", VTT, 422),
        ("%00", "text/vtt", VTT, 404),
        ("pt-BR", "text/vtt", b"\xef\xbb\xbf" + VTT, 204),
        ("en", "text/vtt", VTT + b"x" * 2_000_000, 204),
    ],
)
async def test_only_webvtt_is_captions(
    teacher: Person, video: Any, lang: str, kind: str, body: bytes, status: int
) -> None:
    path = f"/api/videos/{video['id']}/captions/{lang}"
    assert (await teacher.put(path, data=io.BytesIO(body), headers={"Content-Type": kind})).status == status


async def test_captions_that_begin_past_all_time_are_stored(
    teacher: Person, people: People, video: Any, stream: StreamHost
) -> None:
    await tell(people.stranger, stream.make_ready(video["cloudflare_uid"]))
    never = b"9" * 5000 + b":00:00.000"
    path = f"/api/videos/{video['id']}/captions/de"
    stored = await teacher.put(
        path, data=VTT + b"\n" + never + b" --> " + never + b"\nNever\n", headers={"Content-Type": "text/vtt"}
    )
    assert stored.status == 204, stored.body


@pytest.mark.parametrize("what", ["lectures", "videos"])
async def test_what_very_many_have_watched_is_deleted_some_at_a_time(
    teacher: Person,
    lecture: Any,
    video: Any,
    sql: "asyncpg.Connection[asyncpg.Record]",
    monkeypatch: pytest.MonkeyPatch,
    what: str,
) -> None:
    """A hundred thousand sessions take longer than a statement may: then a lecture could never be deleted."""
    monkeypatch.setattr(history, "MOST", 3)
    await note_sizes(sql, "DELETE", "video_sessions", "video_viewers")
    await sql.execute(
        "INSERT INTO video_sessions (video_id, lecture_id, user_id, ladder, segment_s, status)"
        " SELECT $1, $2, $3, '[]', 4, CASE WHEN n = 1 THEN 'active' ELSE 'ended' END FROM generate_series(1, 8) AS n",
        video["id"], lecture["id"], teacher.id,
    )  # fmt: skip
    await sql.execute(
        "INSERT INTO video_viewers SELECT $1, DATE '2026-01-01' + n, $2 FROM generate_series(1, 7) AS n",
        video["id"], teacher.id,
    )  # fmt: skip
    subject = {"lectures": lecture, "videos": video}[what]
    assert (await teacher.delete(f"/api/{what}/{subject['id']}")).status == 204
    assert await noted_sizes(sql, "video_sessions") == [3, 3, 1, 1]
    assert await noted_sizes(sql, "video_viewers") == [3, 3, 1]


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_captions_of_what_is_no_language_are_pointed_at(teacher: Person, video: Any, method: str) -> None:
    answer = await teacher.ask(method, f"/api/videos/{video['id']}/captions/{uuid4()}")
    assert (answer.status, answer.pointers) == (422, ["/lang"])

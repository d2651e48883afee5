"""What open pages are told, by whichever process they hang on: for those whom it concerns, and for as long."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, TypeAlias

import aiohttp
import asyncpg
import pytest
from aiohttp import WSMsgType
from structlog.testing import capture_logs

from server.app import drain_core
from server.http.keys import EVENTS, HOSTING
from server.services.video_host import HostedVideo
from tests.support.app import AppClient, serving, settings
from tests.support.lectures import Lecture, make_lecture
from tests.support.people import PASSWORD, Answer, People, Person

Sql: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
# So long whatever is awaited may take on a busy machine.
PATIENCE_S = 60
FAST = {"checkpoint_s": 0.05, "sweep_s": 0.3, "entitled_s": 0.2, "slow_reader_s": 1.0}


@dataclass
class Page:
    """An open page's socket."""

    socket: "aiohttp.ClientWebSocketResponse[bool]"

    async def say(self, **frame: Any) -> None:
        """One frame."""
        await self.socket.send_json(frame)

    async def hears(self, *kinds: str) -> Any:
        """The next frame of one of these types."""
        async with asyncio.timeout(PATIENCE_S):
            while (frame := await self.socket.receive_json())["type"] not in kinds:
                pass
        return frame

    async def watches(self, **subject: str) -> Any:
        """Watch it; what the server says to that."""
        await self.say(type="watch", **subject)
        return await self.hears("watching", "error")

    async def closed_with(self) -> int | None:
        """What the close frame says, when it has come."""
        async with asyncio.timeout(PATIENCE_S):
            while (message := await self.socket.receive()).type is WSMsgType.TEXT:
                pass
        return message.data if message.type is WSMsgType.CLOSE else None


@dataclass
class Two:
    """Two processes' worth of application on the same parts, and a free course."""

    here: AppClient
    there: AppClient
    lecture: Lecture
    people: People

    async def page(self, person: Person, client: AppClient | None = None) -> Page:
        """A page of the person's, at the other process unless told otherwise."""
        protocols = ("lectern.v1", f"bearer.{person.token}")
        return Page(await (client or self.there).ws_connect("/api/events", protocols=protocols))

    async def learner(self, name: str) -> Person:
        """Enrolled."""
        person = await self.people.join(name)
        await person.make("/api/enrollments", {"course_id": self.course})
        return person

    @property
    def course(self) -> str:
        """Its id."""
        return str(self.lecture.course_id)

    async def topic(self, person: Person, title: str = "Why?") -> Any:
        """A new topic of the course."""
        return await person.make("/api/forums/topics", {"course_id": self.course, "title": title, "content": "How?"})


@pytest.fixture
async def two(postgres_dsn: str, redis_url: str, sql: Sql) -> AsyncIterator[Two]:
    lecture = await make_lecture(postgres_dsn)
    unlimited = {name: {"rate": 0} for name in ("auth", "read", "write", "login_account", "login_address", "telemetry")}
    events = {"look_s": 0.05, "watched_max": 3}
    config = settings(postgres_dsn, redis_url, limits=unlimited, sessions=FAST, events=events)
    async with AsyncExitStack() as stack:
        here, there = [await stack.enter_async_context(serving(config)) for _ in range(2)]
        yield Two(here, there, lecture, People(here, sql))


async def post(person: Person, topic: Any, content: str = "So.", **more: Any) -> Any:
    """A new post."""
    return await person.make(f"/api/forums/topics/{topic['id']}/posts", {"content": content}, **more)


# -- forums ------------------------------------------------------------------------------------------------------------


async def test_who_watches_a_topic_is_told_of_its_posts_and_of_no_others(two: Two) -> None:
    ada, ben = await two.learner("ada"), await two.learner("ben")
    topic, other = await two.topic(ada), await two.topic(ada)
    page = await two.page(ben)
    watching = {"type": "watching", "topic_id": topic["id"], "course_id": two.course}
    assert await page.watches(topic_id=topic["id"]) == watching
    await post(ada, other)
    made = await post(ada, topic)
    told = {"type": "post", "course_id": two.course, "topic_id": topic["id"], "post_id": made["id"], "user_id": ada.id}
    assert await page.hears("post") == told | {"change": "created"}
    await ada.put(f"/api/forums/posts/{made['id']}", {"content": "Thus."})
    assert await page.hears("post") == told | {"change": "edited"}
    await ada.put(f"/api/forums/posts/{made['id']}/solution", {})
    assert await page.hears("post") == told | {"change": "solution"}
    await ada.delete(f"/api/forums/posts/{made['id']}")
    assert await page.hears("post") == told | {"change": "deleted"}
    await page.socket.close()


async def test_who_watches_a_course_is_told_of_all_its_topics(two: Two) -> None:
    ada = await two.learner("ada")
    page = await two.page(ada)
    assert (await page.watches(course_id=two.course))["topic_id"] is None
    topic = await two.topic(ada)
    told = {"type": "topic", "course_id": two.course, "topic_id": topic["id"], "user_id": ada.id}
    assert await page.hears("topic", "post") == told | {"change": "created"}
    await post(ada, topic)
    assert (await page.hears("topic", "post"))["type"] == "post"
    await ada.put(f"/api/forums/topics/{topic['id']}", {"title": "Wherefore?"})
    assert await page.hears("topic", "post") == told | {"change": "changed"}
    await ada.delete(f"/api/forums/topics/{topic['id']}")
    assert await page.hears("topic", "post") == told | {"change": "deleted"}
    await page.say(type="unwatch", course_id=two.course)
    await page.watches(course_id=two.course)  # in order: the one before has been heard by now
    await page.say(type="unwatch", course_id=two.course)
    second = await two.topic(ada)
    assert (await page.watches(topic_id=second["id"]))["type"] == "watching"
    await post(ada, second)
    assert (await page.hears("topic", "post"))["type"] == "post"
    await page.socket.close()


async def test_a_post_is_told_when_it_can_be_read_also_under_an_idempotency_key(two: Two) -> None:
    ada, ben = await two.learner("ada"), await two.learner("ben")
    topic = await two.topic(ada)
    page = await two.page(ben)
    await page.watches(topic_id=topic["id"])
    for n in range(5):
        headers = {"Idempotency-Key": str(n)}
        posting = asyncio.create_task(post(ada, topic, headers=headers))
        told = await page.hears("post")
        assert (await ben.get(f"/api/forums/posts/{told['post_id']}")).status == 200
        await posting
        await post(ada, topic, headers=headers)  # the same again: nothing new to tell
    page_of_posts = (await ben.get(f"/api/forums/topics/{topic['id']}")).body
    assert page_of_posts["post_count"] == 6
    await page.say(type="watch")
    assert (await page.hears("post", "error"))["type"] == "error"
    await page.socket.close()


async def test_nobody_watches_what_may_not_be_known(two: Two, sql: Sql) -> None:
    ada, eve = await two.learner("ada"), await two.people.join("eve")
    topic = await two.topic(ada)
    page = await two.page(eve)
    nothing = "00000000-0000-7000-8000-000000000000"
    for subject in ({"topic_id": topic["id"]}, {"course_id": two.course}):
        assert (await page.watches(**subject))["code"] == "not_entitled"
    await sql.execute("UPDATE courses SET status = 'draft'")
    hidden = [await page.watches(topic_id=topic["id"]), await page.watches(course_id=two.course)]
    assert hidden == [await page.watches(topic_id=nothing), await page.watches(course_id=nothing)]
    assert [error["code"] for error in hidden] == ["topic_not_found", "course_not_found"]
    await post(ada, topic)
    await page.say(type="bye")
    assert await page.closed_with() == 1000


async def test_watching_ends_with_the_right_to_it(two: Two) -> None:
    ada, ben = await two.learner("ada"), await two.learner("ben")
    topic = await two.topic(ada)
    page, quiet = await two.page(ben), await two.page(ben, two.here)
    for each in (page, quiet):
        await each.watches(topic_id=topic["id"])
    assert (await ben.delete(f"/api/enrollments/courses/{two.course}")).status == 204
    await post(ada, topic, "not for ben")
    for each in (page, quiet):
        assert await each.hears("post", "revoked") == {"type": "revoked", "course_id": two.course}
    await ben.make("/api/enrollments", {"course_id": two.course})
    await page.watches(topic_id=topic["id"])
    made = await post(ada, topic)
    assert (await page.hears("post", "revoked"))["post_id"] == made["id"]
    for each in (page, quiet):
        await each.socket.close()


async def test_a_right_that_ends_silently_is_noticed_without_a_post(two: Two, sql: Sql) -> None:
    ada = await two.learner("ada")
    page = await two.page(ada)
    await page.watches(course_id=two.course)
    await sql.execute("UPDATE enrollments SET expires_at = now() - interval '1 second'")
    assert (await page.hears("revoked"))["course_id"] == two.course
    await page.socket.close()


async def test_a_page_watches_so_many_and_no_more(two: Two) -> None:
    ada = await two.learner("ada")
    topics = [await two.topic(ada) for _ in range(4)]
    page = await two.page(ada)
    for topic in (*topics[:3], topics[0]):
        assert (await page.watches(topic_id=topic["id"]))["type"] == "watching"
    assert (await page.watches(topic_id=topics[3]["id"]))["code"] == "too_many_watched"
    await page.say(type="unwatch", topic_id=topics[0]["id"])
    assert (await page.watches(topic_id=topics[3]["id"]))["type"] == "watching"
    await page.socket.close()


# -- oneself -----------------------------------------------------------------------------------------------------------


async def report(person: Person, session: Any, seq: int, position: float) -> None:
    """A frame of the session's."""
    frame = {"seq": seq, "position": position, "cmcd": {"sta": "p"}}
    answer = await person.post(f"/api/videos/sessions/{session['session_id']}/network", frame)
    assert answer.status == 202, answer.body


async def test_another_device_is_told_where_the_first_one_is(two: Two) -> None:
    ada, ben = await two.learner("ada"), await two.learner("ben")
    session = await ada.make(f"/api/videos/{two.lecture.video_id}/sessions", {"device": "phone"})
    page, own, foreign = await two.page(ada), await two.page(ada), await two.page(ben)
    await own.say(type="playing", session_id=session["session_id"])
    for seq, position in ((1, 61.0), (2, 65.5)):
        await report(ada, session, seq, position)
        told = await page.hears("progress")
        while told["position"] != position:
            told = await page.hears("progress")
        assert told["session_id"] == session["session_id"]
        assert (told["lecture_id"], told["course_id"]) == (str(two.lecture.lecture_id), two.course)
        assert (told["sta"], told["device"]) == ("p", "phone")
    late = await two.page(ada)
    assert (await late.hears("progress"))["position"] == 65.5
    # Neither the page that plays it nor another user's was told; both still hear.
    for other, who in ((own, ada), (foreign, ben)):
        topic = await two.topic(who)
        await other.say(type="watch", topic_id=topic["id"])
        await other.hears("watching")
        await post(who, topic)
        assert (await other.hears("progress", "post"))["type"] == "post"
    for each in (page, own, foreign, late):
        await each.socket.close()


async def test_a_device_without_a_session_tells_where_it_is_too(two: Two) -> None:
    ada, ben = await two.learner("ada"), await two.learner("ben")
    page, foreign = await two.page(ada), await two.page(ben)
    path = f"/api/progress/lectures/{two.lecture.lecture_id}"
    assert (await ada.put(path, {"completed": True})).status == 200
    assert (await ada.put(path, {"position": 12.5})).status == 200
    told = await page.hears("progress")
    assert (told["lecture_id"], told["course_id"]) == (str(two.lecture.lecture_id), two.course)
    assert (told["position"], told["session_id"], told["device"]) == (12.5, None, None)
    assert (await ben.put(path, {"position": 3})).status == 200
    assert (await foreign.hears("progress"))["position"] == 3, "and not 12.5, which is another's"
    for each in (page, foreign):
        await each.socket.close()


async def test_an_enrolment_by_whomever_is_told(two: Two, sql: Sql) -> None:
    ada = await two.people.join("ada")
    page = await two.page(ada)
    await ada.make("/api/enrollments", {"course_id": two.course})
    assert await page.hears("enrollment") == {"type": "enrollment", "course_id": two.course, "is_active": True}
    await sql.execute("UPDATE enrollments SET is_active = false")
    assert (await page.hears("enrollment"))["is_active"] is False
    assert await page.hears("revoked") == {"type": "revoked", "course_id": two.course}
    await page.socket.close()


async def test_an_enrolment_that_ends_in_a_transaction_begun_before_it_is_told(two: Two, sql: Sql) -> None:
    ada = await two.people.join("ada")
    page = await two.page(ada)
    async with sql.transaction():
        await sql.fetchval("SELECT now()")
        await ada.make("/api/enrollments", {"course_id": two.course})
        assert (await page.hears("enrollment"))["is_active"] is True
        await sql.execute("UPDATE enrollments SET is_active = false")
    assert (await page.hears("enrollment"))["is_active"] is False
    await page.socket.close()


async def test_an_enrolment_that_ends_revokes_nothing_that_one_has_otherwise(two: Two, sql: Sql) -> None:
    ada = await two.learner("ada")
    await sql.execute("UPDATE courses SET creator_id = $1", ada.id)
    page = await two.page(ada)
    await sql.execute("UPDATE enrollments SET is_active = false")
    while (await page.hears("enrollment"))["is_active"]:
        pass
    assert (await page.watches(course_id=two.course))["type"] == "watching"
    await two.topic(ada)
    assert (await page.hears("topic", "revoked"))["type"] == "topic"
    await page.socket.close()


async def test_who_uploaded_a_video_is_told_that_it_is_ready_or_has_failed(two: Two, sql: Sql) -> None:
    people = People(two.here, sql)
    ada = await people.join("ada", "instructor")
    page = await two.page(ada)
    assert two.here.app is not None
    hosting = two.here.app[HOSTING]
    for status, error in (("ready", None), ("error", "Not a video.")):
        video_id = await sql.fetchval(
            "INSERT INTO videos (lecture_id, upload_user_id, title, cloudflare_uid, status)"
            " VALUES ($1, $2, 'A', $3, 'processing') RETURNING id",
            two.lecture.lecture_id,
            ada.id,
            status,
        )
        hosted = HostedVideo(status, status, 10.0, None, error)
        await hosting.note(hosted, ladder_s=0.01)
        await hosting.note(hosted, ladder_s=0.01)  # a webhook that comes twice is told once
        told = await page.hears("video")
        assert (told["video_id"], told["lecture_id"]) == (str(video_id), str(two.lecture.lecture_id))
        assert (told["status"], told["error"]) == (status, error)
    await page.socket.close()


async def test_a_new_password_says_so_and_closes(two: Two) -> None:
    ada = await two.learner("ada")
    pages = [await two.page(ada), await two.page(ada, two.here)]
    body = {"current_password": PASSWORD, "new_password": "another battery"}
    assert (await ada.put("/api/auth/me/password", body)).status == 204
    for page in pages:
        assert await page.hears("revoked") == {"type": "revoked", "course_id": None}
        assert await page.closed_with() == 4401


# -- the socket --------------------------------------------------------------------------------------------------------


async def opening(two: Two, *protocols: str, **headers: str) -> Answer:
    """How an opening is refused."""
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await two.here.ws_connect("/api/events", protocols=protocols, headers=headers)
    return Answer(refused.value.status, None, refused.value.headers)


async def test_it_is_opened_as_a_sessions_socket_is(two: Two) -> None:
    ada = await two.learner("ada")
    session = await ada.make(f"/api/videos/{two.lecture.video_id}/sessions", {})
    assert (await opening(two, "lectern.v1")).status == 401
    assert (await opening(two, "lectern.v1", "bearer.x")).status == 401
    assert (await opening(two, "lectern.v1", f"bearer.{session['token']}")).status == 401
    assert (await opening(two, f"bearer.{ada.token}")).status == 400
    for origin in ("https://evil.example", "http://["):
        assert (await opening(two, "lectern.v1", f"bearer.{ada.token}", Origin=origin)).status == 403
    assert (await ada.get("/api/events")).status == 426
    headers = {"Authorization": f"Bearer {ada.token}"}
    socket = await two.here.ws_connect("/api/events", protocols=("lectern.v1",), headers=headers)
    assert socket.protocol == "lectern.v1"
    await socket.close()


async def test_three_bad_frames_close_it(two: Two) -> None:
    ada = await two.learner("ada")
    page = await two.page(ada)
    both = f'{{"type": "watch", "course_id": "{two.course}", "topic_id": "{two.course}"}}'
    for text in (both, '{"x": ' + "[" * 4000 + "]" * 4000 + "}"):
        await page.socket.send_str(text)
        assert (await page.hears("error"))["code"] == "bad_frame"
    await page.socket.send_str('{"type": "watch", "course_id": 1}')
    assert await page.closed_with() == 4400


async def test_an_error_of_ours_closes_it_with_1011_and_is_in_the_log(two: Two, sql: Sql) -> None:
    page = await two.page(await two.learner("ada"))
    await sql.execute("ALTER TABLE forum_topics RENAME TO mislaid")
    with capture_logs() as logs:
        await page.say(type="watch", topic_id=two.course)
        assert (await page.hears("bye"))["code"] == 1011
        assert await page.closed_with() == 1011
    assert "socket_failed" in [line["event"] for line in logs]


async def test_a_process_that_stops_sends_its_pages_elsewhere(two: Two) -> None:
    ada = await two.learner("ada")
    page = await two.page(ada, two.here)
    assert two.here.app is not None
    await drain_core(two.here.app)
    told = await page.hears("bye")
    assert told["code"] == 1012
    assert told["retry_ms"] > 0
    assert await page.closed_with() == 1012


async def test_a_page_that_does_not_read_is_cut_and_holds_up_nobody(two: Two) -> None:
    ada, ben = await two.learner("ada"), await two.learner("ben")
    topic = await two.topic(ada)
    slow, quick = await two.page(ben), await two.page(ada)
    for page in (slow, quick):
        await page.watches(topic_id=topic["id"])
    response = slow.socket._response
    assert response.connection is not None
    assert response.connection.transport is not None
    response.connection.transport.pause_reading()  # type: ignore[attr-defined]
    assert two.there.app is not None
    events = two.there.app[EVENTS]
    listeners = list(events._watching[next(iter(events._watching))])
    assert len(listeners) == 2
    payload = b'{"type":"filler","text":"' + b"x" * 60_000 + b'"}'
    (behind,) = [listener for listener in listeners if str(listener.user_id) == ben.id]
    async with asyncio.timeout(PATIENCE_S):
        while behind.socket.offer(payload):  # noqa: ASYNC110 - nothing tells us
            await asyncio.sleep(0)
    await post(ada, topic)
    assert (await quick.hears("post"))["topic_id"] == topic["id"]
    async with asyncio.timeout(PATIENCE_S):
        while behind in events._pages.get(behind.user_id, ()):  # noqa: ASYNC110 - nothing tells us
            await asyncio.sleep(0.02)
    response.connection.transport.resume_reading()  # type: ignore[attr-defined]  # or the close waits for an answer
    await quick.socket.close()
    await slow.socket.close()

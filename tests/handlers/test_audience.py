"""What a course's owner is told of a video's audience."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from aiohttp import WSServerHandshakeError
from structlog.testing import capture_logs

from server.app import drain_core
from server.http.keys import TOKENS
from tests.support.app import AppClient, serving, settings
from tests.support.lectures import LADDER, Lecture, frame, make_learner, make_lecture

FAST = {"checkpoint_s": 0.05, "figures_s": 0.05, "reaper_s": 0.1, "rest_idle_s": 0.2, "sweep_s": 0.3, "grace_s": 0.0}
FAST["live_interval_s"] = 0.05
Sql = Any


class Room:
    """A video of 100 s, its owner, and learners who watch it."""

    def __init__(self, client: AppClient, lecture: Lecture, dsn: str) -> None:
        self.client = client
        self.lecture = lecture
        self.dsn = dsn
        self.path = f"/api/videos/{lecture.video_id}"

    def headers(self, user_id: Any, role: str = "student") -> dict[str, str]:
        assert self.client.app is not None
        return {"Authorization": f"Bearer {self.client.app[TOKENS].issue_access(user_id, role, 1)[0]}"}

    @property
    def owner(self) -> dict[str, str]:
        return self.headers(self.lecture.instructor_id, "instructor")

    async def learner(self, name: str) -> dict[str, str]:
        return self.headers(await make_learner(self.dsn, self.lecture.course_id, name=name))

    async def watch(self, learner: dict[str, str], *frames: dict[str, Any], bye: bool = True) -> dict[str, Any]:
        """A session in which these frames are sent; over when all is saved, unless it goes on."""
        answer = await self.client.post(f"{self.path}/sessions", json={}, headers=learner)
        assert answer.status == 201, await answer.text()
        session = await answer.json()
        protocols = ("lectern.v1", f"bearer.{session['token']}")
        socket = await self.client.ws_connect(f"/api/videos/ws/{session['session_id']}", protocols=protocols)
        for each in frames:
            await socket.send_json(each)
        if bye:
            await socket.send_json({"type": "bye"})
            async with asyncio.timeout(30):
                while not (await socket.receive()).type.name.startswith("CLOS"):
                    pass
        return session | {"socket": socket}

    async def analytics(self, **days: str) -> dict[str, Any]:
        answer = await self.client.get(f"{self.path}/analytics", params=days, headers=self.owner)
        assert answer.status == 200, await answer.text()
        return await answer.json()


@pytest.fixture
async def room(postgres_dsn: str, redis_url: str) -> AsyncIterator[Room]:
    lecture = await make_lecture(postgres_dsn, duration_s=100)
    unlimited = {"read": {"rate": 0}, "write": {"rate": 0}}
    async with serving(settings(postgres_dsn, redis_url, sessions=FAST, limits=unlimited)) as client:
        yield Room(client, lecture, postgres_dsn)


def playing(first: int, last: int, at: float = 0.0, **cmcd: Any) -> list[dict[str, Any]]:
    """Frames with these numbers, one for each second played from `at` on."""
    return [frame(n, at + n - first, cmcd={"sta": "p", **cmcd}) for n in range(first, last + 1)]


async def test_analytics_tell_what_was_watched_and_how_it_played(room: Room) -> None:
    ada, ben = await room.learner("ada"), await room.learner("ben")
    begun = frame(1, 0, cmcd={"sta": "s"})
    await room.watch(
        ada, begun, frame(2, 0, cmcd={"sta": "p", "msd": 400, "br": 800}), *playing(3, 12, 1, br=800),
        frame(13, 10, cmcd={"sta": "r", "bs": True, "bsd": 500}), *playing(14, 23, 11, br=1600),
    )  # fmt: skip
    await room.watch(ada, *playing(1, 11, 90, br=1600), frame(12, 50, cmcd={"sta": "k"}), *playing(13, 18, 50, br=1600))
    await room.watch(ben, *playing(1, 6))
    await room.watch(ben, begun)
    told = await room.analytics()
    assert (told["sessions"], told["starts"], told["exits_before_start"]) == (4, 3, 1)
    assert (told["views"], told["unique_viewers"]) == (2, 1)
    assert told["watch_time"] == 20 + 15 + 5
    assert told["retention"][:21] == pytest.approx([2 / 3] * 5 + [1 / 3] * 15 + [0])
    assert (told["completions"], told["completion"], told["rewinds"], told["switches"]) == (0, 0, 1, 1)
    assert told["startup_ms"] == {"p50": pytest.approx(400, rel=0.05), "p95": pytest.approx(400, rel=0.05)}
    assert (told["stalls"], told["stall_time"]) == (1, 0.5)
    assert told["rebuffer_ratio"] == pytest.approx(0.5 / 40.5)
    assert [rung["seconds"] for rung in told["time_per_rung"]] == [0, 10, 25, 0]
    assert [rung["br"] for rung in told["time_per_rung"]] == [rung["br"] for rung in LADDER]
    assert told["mean_bitrate_kbps"] == pytest.approx((10 * 800 + 25 * 1600) / 35)
    assert sum(told["decisions_by_reason"].values()) >= 4


async def test_a_session_counts_on_the_utc_day_it_was_created(room: Room, sql: Sql) -> None:
    ada, ben = await room.learner("ada"), await room.learner("ben")
    midnight = datetime(2026, 3, 1, tzinfo=UTC)
    for learner, at in ((ada, midnight - timedelta(microseconds=1)), (ada, midnight), (ben, midnight)):
        session = await room.watch(learner, bye=False)
        await sql.execute(
            "UPDATE video_sessions SET created_at = $2 WHERE id = $1::text::uuid", session["session_id"], at
        )
        for each in (*playing(1, 12), {"type": "bye"}):
            await session["socket"].send_json(each)
        while not (await asyncio.wait_for(session["socket"].receive(), 30)).type.name.startswith("CLOS"):
            pass

    async def seen(**days: str) -> tuple[int, int, float]:
        told = await room.analytics(**days)
        return told["views"], told["unique_viewers"], told["watch_time"]

    assert await seen() == (3, 2, 33)
    assert await seen(to="2026-02-28") == (1, 1, 11)
    assert await seen(**{"from": "2026-03-01"}) == (2, 2, 22)
    assert await seen(**{"from": "2026-02-28", "to": "2026-03-01"}) == (3, 2, 33)
    assert await seen(**{"from": "2026-03-02"}) == (0, 0, 0)


@pytest.mark.parametrize(
    ("query", "pointer"),
    [("from=yesterday", "/from"), ("to=2026-02-30", "/to"), ("from=0", "/from"), ("from=0001-01-01", "/from"),
     ("from=1795996800", "/from"), ("to=1795996800", "/to"), ("to=2026-W05-1", "/to"), ("to=2026/01/31", "/to"),
     ("from=2026-03-02&to=2026-03-01", "/to")],
)  # fmt: skip
async def test_days_that_are_none_are_pointed_at(room: Room, query: str, pointer: str) -> None:
    answer = await room.client.get(f"{room.path}/analytics?{query}", headers=room.owner)
    assert answer.status == 422
    assert [fault["pointer"] for fault in (await answer.json())["errors"]] == [pointer]


async def test_a_session_that_nobody_came_to_is_an_exit_before_the_start(room: Room, sql: Sql) -> None:
    ada = await room.learner("ada")
    answer = await room.client.post(f"{room.path}/sessions", json={}, headers=ada)
    session_id = (await answer.json())["session_id"]
    await sql.execute(
        "UPDATE video_sessions SET seen_at = now() - interval '2 minutes' WHERE id = $1::text::uuid", session_id
    )
    async with asyncio.timeout(30):
        while (told := await room.analytics())["exits_before_start"] != 1:  # noqa: ASYNC110  # nothing tells us
            await asyncio.sleep(0.05)
    assert (told["sessions"], told["starts"], told["views"]) == (1, 0, 0)


# Who watches now ------------------------------------------------------------------------------------------------------


async def test_an_owner_sees_who_watches_whichever_process_holds_them(
    room: Room, postgres_dsn: str, redis_url: str
) -> None:
    ada = await room.learner("ada")
    socket = await room.client.ws_connect(f"{room.path}/live/ws", protocols=("lectern.v1",), headers=room.owner)
    first = await asyncio.wait_for(socket.receive_json(), 30)
    assert (first["type"], first["watching"], first["viewers"]) == ("live", 0, [])

    async def until(holds: Any) -> dict[str, Any]:
        async with asyncio.timeout(30):
            while not holds(message := await socket.receive_json()):
                pass
        return message

    async with serving(settings(postgres_dsn, redis_url, sessions=FAST)) as other:
        elsewhere = Room(other, room.lecture, postgres_dsn)
        frames = playing(1, 4, 20, br=800, bl=6000, pr=1.5, bsd=250, msd=300)
        session = await elsewhere.watch(ada, *frames, bye=False)
        told = await until(lambda m: m["playing"] == 1 and m["viewers"][0]["position"] == 23)
        viewer = told["viewers"][0]
        assert viewer["session_id"] == session["session_id"]
        expected = {
            "username": "ada", "sta": "p", "playback_rate": 1.5, "bitrate_kbps": 800, "buffer": 6.0, "stall_ms": 1000,
            "startup_ms": 300, "stalls": 0,
        }  # fmt: skip
        assert {name: viewer[name] for name in expected} == expected
        assert viewer["reason"]
        answer = await room.client.get(f"{room.path}/live", headers=room.owner)
        assert (await answer.json())["viewers"] == told["viewers"]
        await session["socket"].close()
        await until(lambda m: m["watching"] == 0)
    await socket.send_json({"type": "bye"})
    assert (await until(lambda m: m["type"] == "bye"))["code"] == 1000  # another second's news may come before it


async def test_the_live_socket_ends_with_its_right_its_video_and_its_process(room: Room, postgres_dsn: str) -> None:
    ada = await room.learner("ada")
    with pytest.raises(WSServerHandshakeError) as refused:
        await room.client.ws_connect(f"{room.path}/live/ws", protocols=("lectern.v1",), headers=ada)
    assert refused.value.status == 403

    async def code(act: Any) -> int | None:
        socket = await room.client.ws_connect(f"{room.path}/live/ws", protocols=("lectern.v1",), headers=room.owner)
        await act(socket)
        async with asyncio.timeout(30):
            while not (await socket.receive()).type.name.startswith("CLOS"):
                pass
        return socket.close_code

    async def chatter(socket: Any) -> None:
        for _ in range(3):
            await socket.send_str('{"type": "telemetry", "seq": 1, "position": 1}')

    async def delete(_: Any) -> None:
        connection = await asyncpg.connect(postgres_dsn)
        await connection.execute("DELETE FROM videos WHERE id = $1", room.lecture.video_id)
        await connection.close()

    async def drain(_: Any) -> None:
        assert room.client.app is not None
        await drain_core(room.client.app)

    assert await code(chatter) == 4400
    assert await code(delete) == 4404
    room.lecture = await make_lecture(postgres_dsn)
    room.path = f"/api/videos/{room.lecture.video_id}"
    assert await code(drain) == 1012


async def test_the_live_socket_ends_with_1011_when_what_it_would_tell_cannot_be_read(room: Room, sql: Sql) -> None:
    watching = await room.watch(await room.learner("ada"), *playing(1, 2), bye=False)
    socket = await room.client.ws_connect(f"{room.path}/live/ws", protocols=("lectern.v1",), headers=room.owner)
    with capture_logs() as logs:
        async with asyncio.timeout(30):
            while (told := await socket.receive_json())["type"] == "live":
                await sql.execute("UPDATE video_sessions SET state = '[]'")
            assert (told["code"], (await socket.receive()).data) == (1011, 1011)
    assert "socket_failed" in [line["event"] for line in logs]
    await watching["socket"].close()

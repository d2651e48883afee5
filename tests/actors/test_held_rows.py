"""A row that somebody else holds, as a transaction under way does, delays its own session and nobody else."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID, uuid4

import asyncpg
import pytest

from actors.checkpoints import TOUCH_S
from actors.video_session.actor import VideoSession
from actors.video_session.messages import encode_frame
from handlers.audience import ALL_TIME
from server.data.streams import stream_key
from tests.actors.conftest import Place
from tests.actors.test_figures import shown
from tests.support.core import Core, Listener, eventually, insert_session, report, running, state_of
from tests.support.lectures import make_learner

pytestmark = pytest.mark.timeout(150)

ROW = "SELECT FROM video_sessions WHERE id = $1 FOR UPDATE"
PROGRESS = "SELECT FROM progress WHERE user_id = (SELECT user_id FROM video_sessions WHERE id = $1) FOR UPDATE"
either = pytest.mark.parametrize("lock", [ROW, PROGRESS], ids=["session", "progress"])


@asynccontextmanager
async def held(place: Place, lock: str, session_id: UUID) -> AsyncIterator[None]:
    """Another connection's transaction, in which these rows are locked."""
    connection = await asyncpg.connect(place.dsn)
    try:
        async with connection.transaction():
            assert await connection.fetch(lock, session_id)
            yield
    finally:
        await connection.close()


async def watching(core: Core, place: Place, count: int) -> list[tuple[VideoSession, Listener]]:
    """So many sessions that have saved a frame; one in the middle is of a learner of her own."""
    other_id = await make_learner(place.dsn, place.lecture.course_id, name="other")
    owners = [other_id if n == count // 2 else place.user_id for n in range(count)]
    opened = [await core.open(await insert_session(core.db, place.lecture, user_id)) for user_id in owners]
    await play(core, opened, 1)
    await eventually(lambda: all(listener.saved == 1 for _, listener in opened))
    return opened


async def play(core: Core, opened: list[tuple[VideoSession, Listener]], seq: int) -> None:
    for session, _ in opened:
        core.runtime.submit(session, report(seq))
    await asyncio.sleep(0)


async def _watched(core: Core, place: Place, seconds: float) -> bool:
    return (await shown(core, place.lecture.video_id, ALL_TIME, ALL_TIME))["watch_time"] == seconds


async def last_seqs(core: Core) -> dict[UUID, int]:
    return {row["id"]: row["last_seq"] for row in await core.db.fetch("SELECT id, last_seq FROM video_sessions")}


@either
async def test_one_held_row_delays_its_session_alone(core: Core, place: Place, lock: str) -> None:
    opened = await watching(core, place, 300)
    session, listener = opened[150]
    others = [other for other in opened if other[0] is not session]
    async with held(place, lock, session.id):
        for seq in (2, 3):
            await play(core, opened, seq)
            await eventually(lambda seq=seq: all(other.saved == seq for _, other in others))  # type: ignore[misc]
        assert listener.saved == 1
    await eventually(lambda: listener.saved == 3)
    await core.runtime.drain(30.0)
    assert set((await last_seqs(core)).values()) == {3}
    assert state_of(await core.row(session.id))["frames"] == 3
    watched = "SELECT watched_ranges::text FROM progress JOIN video_sessions USING (user_id, lecture_id) WHERE id = $1"
    assert await core.db.fetchval(watched, session.id) == "{[1000,3000)}"
    await eventually(lambda: _watched(core, place, 300 * 2.0))


@either
async def test_who_leaves_while_its_row_is_held_lets_the_others_leave(core: Core, place: Place, lock: str) -> None:
    opened = await watching(core, place, 40)
    stays, _ = opened[20]
    async with held(place, lock, stays.id):
        await play(core, opened, 2)
        await eventually(lambda: all(session.state.seq == 2 for session, _ in opened))
        for session, listener in opened:
            core.runtime.detach(session, listener)
        await eventually(lambda: list(core.runtime.registry) == [stays])
    await eventually(lambda: not list(core.runtime.registry))
    rows = await core.db.fetch("SELECT last_seq, owner FROM video_sessions")
    assert {(row["last_seq"], row["owner"]) for row in rows} == {(2, None)}


@either
async def test_a_process_that_drains_gives_up_all_but_the_held_one(core: Core, place: Place, lock: str) -> None:
    opened = await watching(core, place, 300)
    stays, listener = opened[150]
    async with held(place, lock, stays.id):
        await play(core, opened, 2)
        await eventually(lambda: all(other.saved == 2 for session, other in opened if session is not stays))
        await core.runtime.drain(30.0)  # which does not wait for the one
        assert listener.ended == (1012, "restart")
        await eventually(lambda: _is_alone(core, stays.id))
    await eventually(lambda: _is_free(core, stays.id))
    assert (await core.row(stays.id))["last_seq"] == 2


async def _is_alone(core: Core, session_id: UUID) -> bool:
    rows = await core.db.fetch("SELECT id FROM video_sessions WHERE owner IS NOT NULL")
    return [row["id"] for row in rows] == [session_id]


async def _is_free(core: Core, session_id: UUID) -> bool:
    return (await core.row(session_id))["owner"] is None


async def test_who_is_silent_is_seen_though_another_row_is_held(still_core: Core, place: Place) -> None:
    opened = [await still_core.open(await place.new_session(still_core)) for _ in range(3)]
    checkpoints = still_core.runtime.checkpoints
    await checkpoints.save_changed()
    await still_core.db.execute("UPDATE video_sessions SET seen_at = now() - interval '1 hour'")
    for session, _ in opened:
        session.saved_at -= TOUCH_S + 1
    unseen = "SELECT count(*) FROM video_sessions WHERE seen_at < now() - interval '1 minute'"
    async with held(place, ROW, opened[1][0].id):
        await checkpoints.touch([session for session, _ in opened])
        assert await still_core.db.fetchval(unseen) == 1
    await checkpoints.touch([opened[1][0]])
    assert await still_core.db.fetchval(unseen) == 0
    assert not any(listener.ended for _, listener in opened)


async def test_a_held_row_keeps_the_reaper_from_one_session_alone(place: Place) -> None:
    async with running(place.dsn, place.redis_url, start=False) as core:
        held_one = await lost(core, place)
    async with running(place.dsn, place.redis_url) as heir:
        async with held(place, PROGRESS, held_one):
            await eventually(lambda: _all_but(heir, held_one))
            assert (await heir.row(held_one))["last_seq"] == 0
        await eventually(lambda: _is_free(heir, held_one))
        assert (await heir.row(held_one))["last_seq"] == 1


async def lost(core: Core, place: Place) -> UUID:
    """Twenty sessions of a dead process with a frame in each one's stream; the one of a learner of her own."""
    other_id = await make_learner(place.dsn, place.lecture.course_id, name="other")
    by_hand = "INSERT INTO progress (user_id, lecture_id) VALUES ($1, $2)"
    await core.db.execute(by_hand, other_id, place.lecture.lecture_id)
    for user_id in [place.user_id] * 19 + [other_id]:
        session_id = await insert_session(core.db, place.lecture, user_id, owner=uuid4(), status="active")
        await core.redis.xadd(stream_key(session_id), {"prev": 0, "frame": encode_frame(report(1))}, id="1-0")
    return session_id


async def _all_but(core: Core, session_id: UUID) -> bool:
    seqs = await last_seqs(core)
    return all(seq == 1 for other, seq in seqs.items() if other != session_id)

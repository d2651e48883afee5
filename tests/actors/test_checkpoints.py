"""Checkpoints: fenced, in batches, repeatable; one row that Postgres refuses spoils no other."""

from uuid import UUID

import pytest

from actors.video_session.actor import VideoSession
from embedded.postgres import Postgres
from server.data.migrate import migrate
from tests.actors.conftest import Place
from tests.support.core import Core, Listener, eventually, insert_session, report, running, state_of
from tests.support.lectures import make_learner, make_lecture

pytestmark = pytest.mark.timeout(60)


async def fed(core: Core, session_id: UUID, frames: int) -> tuple[VideoSession, Listener]:
    """A session claimed for a socket that has applied this many frames."""
    session, listener = await core.open(session_id)
    await core.feed(session, frames)
    return session, listener


async def test_a_zombie_overwrites_nothing_trims_nothing_and_is_dropped(still_core: Core, place: Place) -> None:
    session_id = await place.new_session(still_core)
    zombie, gone = await fed(still_core, session_id, 3)
    async with running(place.dsn, place.redis_url, start=False) as other:
        heir, _ = await fed(other, session_id, 2)
        assert heir.state.frames == 5  # what the zombie acknowledged came from the stream
        await other.runtime.checkpoints.save_changed()
        await still_core.runtime.checkpoints.save([zombie.checkpoint(release=True)])
        row = await other.row(session_id)
        assert (row["last_seq"], row["epoch"], row["owner"]) == (5, 2, other.runtime.registry.process_id)
        assert await still_core.redis.xlen(zombie.key) == 5
    assert gone.ended == (4409, "superseded")
    assert zombie.dropped
    assert still_core.runtime.registry.get(session_id) is None


@pytest.mark.parametrize("claimed_by", ["rest", "reaper"])
async def test_who_is_fenced_off_by_no_socket_may_come_back(still_core: Core, place: Place, claimed_by: str) -> None:
    session_id = await place.new_session(still_core)
    session, listener = await still_core.open(session_id)
    async with running(place.dsn, place.redis_url, start=False) as other:
        await other.runtime.claim(session_id, claimed_by)
    await still_core.runtime.checkpoints.check_fences([session])
    assert listener.ended == (1012, "restart")


async def test_a_session_whose_row_is_gone_closes_4404(still_core: Core, place: Place) -> None:
    session_id = await place.new_session(still_core)
    _, listener = await fed(still_core, session_id, 1)
    await still_core.db.execute("DELETE FROM video_sessions WHERE id = $1", session_id)
    await still_core.runtime.checkpoints.save_changed()
    assert listener.ended == (4404, "session_not_found")


async def test_the_same_batch_sent_again_adds_nothing(still_core: Core, place: Place) -> None:
    session_id = await place.new_session(still_core)
    session, _ = await fed(still_core, session_id, 5)
    checkpoint = session.checkpoint(release=False)
    progress = "SELECT watched_ranges::text, position_ms, last_watched_at FROM progress WHERE user_id = $1"
    await still_core.runtime.checkpoints.save([checkpoint])
    row, seen = await still_core.row(session_id), await still_core.db.fetchrow(progress, place.user_id)
    await still_core.runtime.checkpoints.save([checkpoint])  # as after an answer that was lost
    again = await still_core.row(session_id)
    for name in ("state", "last_seq", "duplicates", "status"):
        assert again[name] == row[name]
    assert await still_core.db.fetchrow(progress, place.user_id) == seen
    assert seen is not None
    assert (seen["watched_ranges"], seen["position_ms"]) == ("{[1000,5000)}", 5000)


async def test_an_older_checkpoint_never_overwrites_a_newer(still_core: Core, place: Place) -> None:
    session_id = await place.new_session(still_core)
    session, _ = await fed(still_core, session_id, 2)
    older = session.checkpoint(release=False)
    await still_core.feed(session, 1)
    await still_core.runtime.checkpoints.save([session.checkpoint(release=False)])
    await still_core.runtime.checkpoints.save([older])
    assert (await still_core.row(session_id))["last_seq"] == 3


async def test_a_row_that_postgres_refuses_is_found_and_the_others_are_saved(still_core: Core, place: Place) -> None:
    fine = [await fed(still_core, await place.new_session(still_core), 2) for _ in range(6)]
    bad, listener = fine.pop(3)
    bad.state.position_ms = 2**40  # no column takes it
    bad.version += 1
    await still_core.runtime.checkpoints.save_changed()
    assert listener.ended == (1011, "internal_error")
    assert (await still_core.row(bad.id))["last_seq"] == 0
    for session, other in fine:
        assert (await still_core.row(session.id))["last_seq"] == 2
        assert other.saved == 2


async def test_saved_entries_are_trimmed_and_unsaved_ones_stay(still_core: Core, place: Place) -> None:
    session_id = await place.new_session(still_core)
    session, _ = await fed(still_core, session_id, 70)
    checkpoint = session.checkpoint(release=False)
    await still_core.redis.xadd(session.key, {"prev": 70, "frame": b"{}"}, id="71-0")
    await still_core.runtime.checkpoints.save([checkpoint])
    assert [entry_id for entry_id, _ in await still_core.redis.xrange(session.key)] == [b"71-0"]


async def test_while_postgres_is_paused_frames_are_acknowledged_and_saved_later(
    own_postgres: Postgres, redis_url: str
) -> None:
    await migrate(own_postgres.dsn)
    lecture = await make_lecture(own_postgres.dsn)
    user_id = await make_learner(own_postgres.dsn, lecture.course_id)
    async with running(own_postgres.dsn, redis_url) as core:
        session_id = await insert_session(core.db, lecture, user_id)
        session, listener = await core.open(session_id)
        core.runtime.submit(session, report(1))
        await eventually(lambda: listener.saved == 1)
        own_postgres.kill()
        for seq in range(2, 12):
            core.runtime.submit(session, report(seq))
        await eventually(lambda: listener.applied == 11)
        assert listener.saved == 1
        own_postgres.start()
        await eventually(lambda: listener.saved == 11, 15)
        state = state_of(await core.row(session_id))
        assert (state["frames"], state["gaps"]) == (11, 0)


async def test_a_session_that_nobody_watches_is_saved_and_let_go(core: Core, place: Place) -> None:
    session_id = await place.new_session(core)
    session, listener = await core.open(session_id)
    core.runtime.submit(session, report(1))
    await eventually(lambda: listener.applied == 1)
    core.runtime.detach(session, listener)
    await eventually(lambda: core.runtime.registry.get(session_id) is None)
    row = await core.row(session_id)
    assert (row["last_seq"], row["owner"], row["status"]) == (1, None, "active")
    assert not await core.redis.exists(session.key) or await core.redis.xlen(session.key) == 0

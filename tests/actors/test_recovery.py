"""From a checkpoint and a stream to the session as it was."""

import asyncio

from actors.video_session.messages import encode_frame
from tests.actors.conftest import Place
from tests.support.core import Core, eventually, report, running, state_of


async def test_a_session_resumes_with_what_was_applied_but_never_saved(still_core: Core, place: Place) -> None:
    session_id = await place.new_session(still_core)
    first, _ = await still_core.open(session_id)
    await still_core.feed(first, 3)
    await still_core.runtime.checkpoints.save_changed()
    await still_core.feed(first, 1500)  # more than is read at once
    async with running(place.dsn, place.redis_url, start=False) as elsewhere:
        second, _ = await elsewhere.open(session_id)
        assert second.epoch == first.epoch + 1
        assert second.saved == (3, 0)
        assert second.state == first.state


async def test_what_redis_lost_the_player_is_asked_for_again(still_core: Core, place: Place) -> None:
    session_id = await place.new_session(still_core)
    first, _ = await still_core.open(session_id)
    await still_core.feed(first, 3)
    await still_core.runtime.checkpoints.save_changed()
    await still_core.feed(first, 3)
    await still_core.redis.flushall()
    await still_core.feed(first, 2)
    async with running(place.dsn, place.redis_url) as elsewhere:
        second, listener = await elsewhere.open(session_id)
        assert second.state.seq == 3  # what `hello.seq` says: 4 to 8 are sent again
        for seq in range(4, 10):
            elsewhere.runtime.submit(second, report(seq))
        await eventually(lambda: listener.saved == 9)
        state = state_of(await elsewhere.row(session_id))
        assert (state["frames"], state["gaps"]) == (9, 0)


async def test_an_entry_that_cannot_be_applied_does_not_stop_a_replay(still_core: Core, place: Place) -> None:
    session_id = await place.new_session(still_core)
    first, _ = await still_core.open(session_id)
    await still_core.feed(first, 1)
    await still_core.redis.xadd(first.key, {"prev": 1, "frame": b"\xff"}, id="2-0")
    await still_core.redis.xadd(first.key, {"prev": 2, "frame": encode_frame(report(3))}, id="3-0")
    async with running(place.dsn, place.redis_url, start=False) as elsewhere:
        second, _ = await elsewhere.open(session_id)
        assert (second.state.seq, second.state.frames) == (3, 2)
        assert await still_core.redis.xlen("dead:telemetry") == 1


async def test_two_claims_at_once_leave_one_owner(place: Place) -> None:
    async with running(place.dsn, place.redis_url) as one, running(place.dsn, place.redis_url) as two:
        session_id = await place.new_session(one)
        opened = await asyncio.gather(*(core.open(session_id) for core in (one, two, one, two)))
        await eventually(lambda: sum(listener.ended is None for _, listener in opened) == 1)
        epochs = [session.epoch for session, _ in opened]
        assert sorted(epochs) == [1, 2, 3, 4]
        (winner,) = [session for session, listener in opened if listener.ended is None]
        assert winner.epoch == 4
        assert {listener.ended for _, listener in opened} == {None, (4409, "superseded")}

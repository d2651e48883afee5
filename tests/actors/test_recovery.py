"""From a checkpoint and a stream to the session as it was."""

import asyncio

import pytest

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


async def test_what_somebody_trimmed_away_the_player_is_asked_for_again(still_core: Core, place: Place) -> None:
    """The stream keeps its top, which must not stand in the way of what is sent again."""
    session_id = await place.new_session(still_core)
    first, _ = await still_core.open(session_id)
    await still_core.feed(first, 3)
    await still_core.runtime.checkpoints.save_changed()
    await still_core.feed(first, 3)
    await still_core.redis.xtrim(first.key, maxlen=0, approximate=False)
    async with running(place.dsn, place.redis_url) as elsewhere:
        second, listener = await elsewhere.open(session_id)
        assert second.state.seq == 3
        for seq in range(4, 10):
            elsewhere.runtime.submit(second, report(seq))
        await eventually(lambda: listener.saved == 9)
        state = state_of(await elsewhere.row(session_id))
        assert (state["frames"], state["gaps"]) == (9, 0)


async def test_what_is_no_stream_is_no_session_lost(still_core: Core, place: Place) -> None:
    session_id = await place.new_session(still_core)
    first, _ = await still_core.open(session_id)
    await still_core.feed(first, 1)
    await still_core.runtime.checkpoints.save_changed()
    await still_core.redis.set(first.key, "somebody else's")
    async with running(place.dsn, place.redis_url) as elsewhere:
        second, listener = await elsewhere.open(session_id)
        elsewhere.runtime.submit(second, report(2))
        await eventually(lambda: listener.saved == 2)


@pytest.mark.parametrize("beacons", [[7], [None, 7], [None, None, 7, 9]], ids=str)
@pytest.mark.parametrize("at_the_owner", [False, True])
@pytest.mark.parametrize("left", [0, 2], ids=["all", "the last seconds"])
async def test_what_redis_lost_is_asked_for_again_also_where_a_beacon_came_first(
    still_core: Core, place: Place, beacons: list[int | None], at_the_owner: bool, left: int
) -> None:
    """4 to 6 are acknowledged and lost; then a beacon leaps over them, and the owner dies before it saves."""
    session_id = await place.new_session(still_core)
    first, _ = await still_core.open(session_id)
    await still_core.feed(first, 3)
    await still_core.runtime.checkpoints.save_changed()
    await still_core.feed(first, 3)
    await still_core.redis.flushall()
    for seq in range(1, left + 1):
        await still_core.redis.xadd(first.key, {"prev": seq - 1, "frame": encode_frame(report(seq))}, id=f"{seq}-0")
    cursor = first.state.cursor if at_the_owner else (3, 0)
    for seq in beacons:
        await still_core.streams.append(
            first.key, cursor, [(seq, encode_frame(report(seq)))], 100, by_owner=at_the_owner
        )
    async with running(place.dsn, place.redis_url, start=False) as elsewhere:
        second, _ = await elsewhere.open(session_id)
        assert (second.state.seq, second.state.gaps) == (3, 0)


async def test_what_a_player_left_out_is_no_loss_of_redis(still_core: Core, place: Place) -> None:
    """A beacon leaps, at the owner or elsewhere, while Redis has the stream: it was accepted, and stays."""
    session_id = await place.new_session(still_core)
    first, _ = await still_core.open(session_id)
    await still_core.streams.append(first.key, (0, 0), [(3, encode_frame(report(3)))], 100, by_owner=True)
    await still_core.streams.append(first.key, (0, 0), [(7, encode_frame(report(7)))], 100)
    async with running(place.dsn, place.redis_url, start=False) as elsewhere:
        second, _ = await elsewhere.open(session_id)
        assert (second.state.seq, second.state.frames, second.state.gaps) == (7, 2, 5)


async def test_who_is_not_sure_is_so_until_the_owner_has_saved(still_core: Core, place: Place) -> None:
    session_id = await place.new_session(still_core)
    first, _ = await still_core.open(session_id)
    await still_core.streams.append(first.key, (0, 0), [(3, encode_frame(report(3)))], 100)
    await still_core.streams.append(first.key, (3, 0), [(7, encode_frame(report(7)))], 100)
    assert [entry.prev for entry in await still_core.streams.read_after(first.key, (0, 0), 10)] == [2, 3]


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


async def test_a_foreign_entry_leads_no_replay_astray(still_core: Core, place: Place) -> None:
    session_id = await place.new_session(still_core)
    first, _ = await still_core.open(session_id)
    await still_core.feed(first, 2)
    await still_core.redis.xadd(first.key, {"foo": "bar"})
    async with running(place.dsn, place.redis_url) as elsewhere:
        second, listener = await elsewhere.open(session_id)
        assert (second.state.seq, second.state.gaps) == (2, 0)
        elsewhere.runtime.submit(second, report(3))
        await eventually(lambda: listener.saved == 3)
        assert (second.state.frames, second.state.gaps) == (3, 0)
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

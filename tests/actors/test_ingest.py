"""Frames into Redis and out again, also when Redis fails."""

import asyncio
import os
import signal
from typing import Any

import pytest

from embedded.valkey import Valkey
from tests.actors.conftest import Place
from tests.support.core import Core, eventually, report, running, state_of

pytestmark = pytest.mark.timeout(60)


async def test_a_burst_is_applied_in_order_and_acknowledged(core: Core, place: Place) -> None:
    session, listener = await core.open(await place.new_session(core))
    for seq in range(1, 701):
        core.runtime.submit(session, report(seq))
    await eventually(lambda: listener.applied == 700)
    assert (session.state.frames, session.state.gaps, session.state.position_ms) == (700, 0, 700_000)
    assert not session.pending
    await eventually(lambda: listener.saved == 700)


async def test_many_sessions_are_served_in_one_round_trip(core: Core, place: Place) -> None:
    opened = [await core.open(await place.new_session(core)) for _ in range(20)]
    before = (await core.redis.info("commandstats"))["cmdstat_xread"]["calls"]
    for session, _ in opened:
        core.runtime.submit(session, report(1))
    await eventually(lambda: all(listener.applied == 1 for _, listener in opened))
    after = (await core.redis.info("commandstats"))["cmdstat_xread"]["calls"]
    assert after - before <= 3


async def test_while_redis_is_away_frames_wait_and_come_in_once(place: Place, own_valkey: Valkey) -> None:
    async with running(place.dsn, own_valkey.url) as core:
        session_id = await place.new_session(core)
        session, listener = await core.open(session_id)
        core.runtime.submit(session, report(1))
        await eventually(lambda: listener.saved == 1)
        own_valkey.kill()
        for seq in (2, 3, 5):
            core.runtime.submit(session, report(seq))
        await asyncio.sleep(0.3)
        assert (listener.applied, len(session.pending)) == (1, 3)
        own_valkey.start()
        await eventually(lambda: listener.saved == 5)
        state = state_of(await core.row(session_id))
        assert (state["frames"], state["gaps"], session.duplicates) == (4, 1, 0)


async def test_who_waits_for_a_session_is_told_of_that_one_alone(
    place: Place, own_valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(place.dsn, own_valkey.url) as core:
        ingest, ask, rounds = core.runtime.ingest, core.streams.write_and_read, []

        async def counted(*args: Any) -> Any:
            rounds.append(args)
            return await ask(*args)

        monkeypatch.setattr(core.streams, "write_and_read", counted)
        (one, _), (other, _) = [await core.open(await place.new_session(core)) for _ in range(2)]
        own_valkey.kill()
        core.runtime.submit(one, report(1))
        core.runtime.submit(other, report(1))
        await eventually(lambda: one.pending[0].tried and other.pending[0].tried)
        if rounds[-1][0][0].key == other.key:  # who comes first
            one, other = other, one
        served, before = asyncio.create_task(ingest.served(other, 30.0)), len(rounds)
        await eventually(lambda: len(rounds) > before + 2)
        core.runtime.registry.drop(one, 4409, "superseded")
        assert await ingest.served(one, 30.0)
        await asyncio.wait([served], timeout=0.1)
        assert not served.done()
        own_valkey.start()
        assert await served
        assert other.state.seq == 1


async def test_who_gave_up_waiting_is_forgotten_while_redis_is_away(place: Place, own_valkey: Valkey) -> None:
    async with running(place.dsn, own_valkey.url) as core:
        ingest = core.runtime.ingest
        session, _ = await core.open(await place.new_session(core))
        own_valkey.kill()
        core.runtime.submit(session, report(1))
        for _ in range(5):
            assert not await ingest.served(session, 0.01)
        await eventually(lambda: not ingest._waiters)
        own_valkey.start()
        await eventually(lambda: session.state.seq == 1)


async def test_a_paused_redis_makes_no_frame_count_twice(place: Place, own_valkey: Valkey) -> None:
    async with running(place.dsn, own_valkey.url, redis_timeout_s=0.5) as core:
        session, listener = await core.open(await place.new_session(core))
        core.runtime.submit(session, report(1))
        await eventually(lambda: listener.applied == 1)
        assert own_valkey.pid is not None
        os.kill(own_valkey.pid, signal.SIGSTOP)
        for seq in (2, 3):
            core.runtime.submit(session, report(seq))
        await asyncio.sleep(0.8)  # longer than the client waits: nobody knows whether they went in
        os.kill(own_valkey.pid, signal.SIGCONT)
        core.runtime.submit(session, report(4))
        await eventually(lambda: listener.applied == 4)
        assert (session.state.frames, session.state.gaps, session.duplicates) == (4, 0, 0)


async def test_what_a_full_redis_refuses_waits_and_comes_in_once(core: Core, place: Place) -> None:
    session, listener = await core.open(await place.new_session(core))
    core.runtime.submit(session, report(1))
    await eventually(lambda: listener.saved == 1)
    await core.redis.config_set("maxmemory", 1)  # `noeviction`
    try:
        for seq in (2, 3):
            core.runtime.submit(session, report(seq))
        await eventually(lambda: all(pending.tried for pending in session.pending))
        assert (listener.applied, len(session.pending)) == (1, 2)
    finally:
        await core.redis.config_set("maxmemory", 0)
    await eventually(lambda: listener.saved == 3)
    assert (session.state.frames, session.state.gaps, session.duplicates) == (3, 0, 0)


async def test_a_wiped_redis_loses_nothing_of_a_held_session(core: Core, place: Place) -> None:
    session_id = await place.new_session(core)
    session, listener = await core.open(session_id)
    for seq in range(1, 51):
        core.runtime.submit(session, report(seq))
        if seq == 25:
            await core.redis.flushall()
        await asyncio.sleep(0)
    await eventually(lambda: listener.saved == 50)
    state = state_of(await core.row(session_id))
    assert (state["frames"], state["gaps"]) == (50, 0)


async def test_an_older_stream_that_came_back_is_begun_anew(core: Core, place: Place) -> None:
    """A Redis restored from another day may hold ids above ours, of which nothing can be read."""
    session, listener = await core.open(await place.new_session(core))
    core.runtime.submit(session, report(1))
    await eventually(lambda: listener.applied == 1)
    await core.redis.delete(session.key)
    await core.redis.xadd(session.key, {"frame": b"x"}, id="9-0")
    await core.redis.xtrim(session.key, maxlen=0, approximate=False)
    core.runtime.submit(session, report(2))
    await eventually(lambda: listener.applied == 2)
    assert session.state.frames == 2


async def test_what_cannot_be_applied_goes_to_the_dead_letters(core: Core, place: Place) -> None:
    session, listener = await core.open(await place.new_session(core))
    await core.redis.xadd(session.key, {"prev": 0, "frame": b"nonsense"}, id="1-0")
    core.runtime.submit(session, report(2))
    await eventually(lambda: listener.applied == 2)
    ((_, letter),) = await core.redis.xrange("dead:telemetry")
    assert (letter[b"stream"], letter[b"id"], letter[b"frame"]) == (session.key.encode(), b"1-0", b"nonsense")
    assert session.state.frames == 1


async def test_an_entry_whose_number_no_player_may_send_is_not_followed(still_core: Core, place: Place) -> None:
    """Such as the time of day, by which Redis numbers what is added without an id; what was applied and is not saved
    stays in the stream."""
    session_id = await place.new_session(still_core)
    session, _ = await still_core.open(session_id)
    await still_core.feed(session, 2)
    foreign: bytes = await still_core.redis.xadd(session.key, {"foo": "bar"})
    async with running(place.dsn, place.redis_url, checkpoint_s=60.0) as core:
        session, listener = await core.open(session_id)
        await core.redis.xadd(session.key, {"foo": "bar"})
        for seq in (3, 4):
            core.runtime.submit(session, report(seq))
            await eventually(lambda seq=seq: listener.applied == seq)
        assert (session.state.frames, session.state.gaps) == (4, 0)
        assert [e.seq for e in await core.streams.read_after(session.key, (0, 0), 10)] == [1, 2, 3, 4]
        letters = await core.redis.xrange("dead:telemetry")
        assert len(letters) == 2
        assert letters[0][1][b"id"] == foreign


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
async def test_a_key_that_is_no_stream_holds_nobody_up(core: Core, place: Place, busy: bool) -> None:
    broken, told = await core.open(await place.new_session(core))
    session, listener = await core.open(await place.new_session(core))
    await core.redis.set(broken.key, "somebody else's")
    if busy:
        core.runtime.submit(broken, report(1))
    assert await core.runtime.ingest.served(broken, 20.0)
    core.runtime.submit(session, report(1))
    await eventually(lambda: listener.applied == 1)
    if not busy:
        core.runtime.submit(broken, report(1))
    await eventually(lambda: told.applied == 1)


async def test_a_crowded_session_is_not_read_until_it_moves(place: Place, own_valkey: Valkey) -> None:
    async with running(place.dsn, own_valkey.url, unacked_max=3) as core:
        session, listener = await core.open(await place.new_session(core))
        own_valkey.kill()
        for seq in (1, 2, 3):
            assert not core.runtime.crowded(session)
            core.runtime.submit(session, report(seq))
        assert core.runtime.crowded(session)
        own_valkey.start()
        async with asyncio.timeout(30):
            while core.runtime.crowded(session):
                await core.runtime.room(session)
        assert listener.applied == 3

"""Who is dead, as far as a process can tell; after an outage of Postgres nobody is taken for dead too soon."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any
from uuid import uuid4

import pytest

from embedded.postgres import Postgres
from server.data.db import PostgresAway, queries
from tests.actors.conftest import Place
from tests.support.core import Core, SetClock, eventually, report, running
from tests.support.pausing import paused

sessions = queries("sessions")
ALIVE_S = 5.0


async def beats(core: Core, clock: SetClock, seconds: int) -> None:
    """So many seconds in which this process says every second that it lives."""
    for _ in range(seconds):
        clock.now_s += 1
        await core.runtime.pulse.beat()


async def test_who_could_not_say_that_it_lives_takes_nobody_for_dead_until_the_others_had_their_chance(
    place: Place,
) -> None:
    clock = SetClock()
    async with running(place.dsn, place.redis_url, start=False, clock=clock, process_alive_s=ALIVE_S) as core:
        owner = uuid4()
        session_id = await place.new_session(core, owner=owner)
        await beats(core, clock, 3)
        clock.now_s += 10  # Postgres was away: neither this process nor the owner could beat
        assert not core.runtime.pulse.steady
        assert await core.runtime.reaper.reap() == 0
        await core.runtime.pulse.beat()
        assert await core.runtime.reaper.reap() == 0

        row = await sessions.get_own_session(core.db, session_id=session_id, user_id=place.user_id, alive_s=ALIVE_S)
        assert (row["owner"], row["owner_alive"]) == (owner, False)
        delivered = await core.runtime.deliver(dict(row), [report(1)])
        assert delivered is not None
        assert delivered[0].accepted == 1
        assert (await core.row(session_id))["owner"] == owner, "a beacon took the session of a live socket"

        await beats(core, clock, 5)
        assert await core.runtime.reaper.reap() == 1
        row = await core.row(session_id)
        assert (row["owner"], row["last_seq"]) == (None, 1)


async def test_what_a_postgres_that_hung_is_asked_meanwhile_takes_nobody_for_dead_either(
    own_postgres: Postgres, own_place: Place
) -> None:
    settings: dict[str, Any] = {"start": False, "process_alive_s": 1.0}
    async with (
        running(own_place.dsn, own_place.redis_url, **settings) as one,
        running(own_place.dsn, own_place.redis_url, postgres_timeout_s=0.5, **settings) as two,
    ):
        await two.runtime.pulse.beat()
        assert await two.runtime.reaper.reap() == 0  # from here on it is one message
        asked_by = await two.db.fetchval("SELECT pg_backend_pid()")
        await one.runtime.pulse.beat()
        await two.runtime.pulse.beat()
        session, listener = await one.open(await own_place.new_session(one))
        with paused(own_postgres):
            with pytest.raises(PostgresAway):
                await two.runtime.reaper.reap()
            await asyncio.sleep(1.0)
        gone = "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $1"
        await eventually(lambda: one.db.fetchval(gone, asked_by))
        await one.runtime.checkpoints.check_fences([session])
        assert listener.ended is None


async def test_a_process_that_has_just_begun_may_take_what_the_dead_left(place: Place) -> None:
    clock = SetClock()
    async with running(place.dsn, place.redis_url, start=False, clock=clock) as core:
        await place.new_session(core, owner=uuid4())
        await core.runtime.pulse.beat()
        assert core.runtime.pulse.steady
        assert await core.runtime.reaper.reap() == 1


async def test_a_process_whose_connections_are_all_busy_says_that_it_lives_all_the_same(
    still_core: Core, place: Place
) -> None:
    async with AsyncExitStack() as busy:
        for _ in range(still_core.db.pool_size):
            await busy.enter_async_context(still_core.db.connection())
        await still_core.runtime.pulse.beat()
        assert still_core.runtime.pulse.steady

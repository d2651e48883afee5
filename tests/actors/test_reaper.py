"""What nobody holds is finished: sessions of dead processes, strays, those long unseen."""

from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from redis.exceptions import RedisError

from actors import reaper
from actors.reaper import MOST
from actors.video_session.messages import encode_frame
from embedded.valkey import Valkey
from server.data import db
from server.data.db import PostgresAway, queries
from server.data.streams import DEAD_LETTERS, stream_key
from tests.actors.conftest import Place
from tests.support.core import Core, eventually, insert_session, report, running, state_of


async def test_a_dead_process_sessions_are_folded_saved_and_released(still_core: Core, place: Place) -> None:
    session_id = await place.new_session(still_core, owner=uuid4(), status="active", epoch=4)
    for seq in (1, 2, 3):
        await still_core.redis.xadd(
            stream_key(session_id), {"prev": seq - 1, "frame": encode_frame(report(seq))}, id=f"{seq}-0"
        )
    assert await still_core.runtime.reaper.reap() == 1
    row = await still_core.row(session_id)
    assert (row["last_seq"], row["epoch"], row["owner"], row["claimed_by"]) == (3, 5, None, "reaper")
    assert (state_of(row)["frames"], row["status"]) == (3, "active")
    assert await still_core.runtime.reaper.reap() == 0


async def test_a_session_that_was_taken_over_by_a_process_that_died_is_folded_and_stays_ended(
    still_core: Core, place: Place
) -> None:
    session_id = await place.new_session(still_core, owner=uuid4(), status="ended", epoch=4)
    entry = {"prev": 0, "frame": encode_frame(report(1))}
    await still_core.redis.xadd(stream_key(session_id), entry, id="1-0")
    assert await still_core.runtime.reaper.reap() == 1
    row = await still_core.row(session_id)
    assert (row["last_seq"], row["owner"], row["status"]) == (1, None, "ended")
    assert await still_core.runtime.reaper.reap() == 0


@pytest.mark.parametrize("status", ["active", "ended"])
async def test_what_was_claimed_by_a_statement_whose_answer_was_lost_is_folded_all_the_same(
    still_core: Core, place: Place, monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    """As after a Postgres that hung: what is asked of it meanwhile it does when it goes on, for nobody."""
    session_id = await place.new_session(still_core, owner=uuid4(), status=status)
    entry = {"prev": 0, "frame": encode_frame(report(1))}
    await still_core.redis.xadd(stream_key(session_id), entry, id="1-0")
    claim_orphans = reaper.sessions_sql.claim_orphans

    async def claim_for_nobody(*args: Any, **names: Any) -> None:
        await claim_orphans(*args, **names)
        raise PostgresAway("no answer in time")

    with monkeypatch.context() as patch:
        patch.setattr(reaper.sessions_sql, "claim_orphans", claim_for_nobody)
        with pytest.raises(PostgresAway):
            await still_core.runtime.reaper.reap()
    assert (await still_core.row(session_id))["owner"] == still_core.runtime.registry.process_id
    assert await still_core.runtime.reaper.reap() == 1
    row = await still_core.row(session_id)
    assert (row["last_seq"], row["owner"], row["status"]) == (1, None, status)
    assert await still_core.runtime.reaper.reap() == 0


async def test_what_a_dead_process_left_does_not_take_back_where_another_device_got_to(
    still_core: Core, place: Place
) -> None:
    session_id = await place.new_session(still_core)
    async with running(place.dsn, place.redis_url, start=False) as dead:
        first, _ = await dead.open(session_id)
        await dead.feed(first, 3)  # acknowledged, not saved; then the process dies
    there = (place.user_id, place.lecture.lecture_id, 500_000)
    put = "INSERT INTO progress (user_id, lecture_id, position_ms) VALUES ($1, $2, $3)"
    await still_core.db.execute(put, *there)
    assert await still_core.runtime.reaper.reap() == 1
    assert (await still_core.row(session_id))["last_seq"] == 3
    progress = await still_core.db.fetchrow(
        "SELECT position_ms, watched_ranges::text FROM progress WHERE user_id = $1", place.user_id
    )
    assert progress is not None
    assert tuple(progress) == (500_000, "{[1000,3000)}")


async def test_what_a_paused_process_still_took_moves_the_learner_on_from_where_the_reaper_left_them(
    still_core: Core, place: Place
) -> None:
    session_id = await place.new_session(still_core)
    async with running(place.dsn, place.redis_url, start=False) as paused:
        session, _ = await paused.open(session_id)
        await paused.feed(session, 3)
        assert await still_core.runtime.reaper.reap() == 1  # it seemed to be dead
        await paused.feed(session, 2)  # and goes on
        await paused.runtime.checkpoints.check_fences([session])
    assert await still_core.runtime.reaper.reap() == 1
    assert (await still_core.row(session_id))["last_seq"] == 5
    position = "SELECT position_ms FROM progress WHERE user_id = $1"
    assert await still_core.db.fetchval(position, place.user_id) == 5000


async def test_a_socket_learns_of_a_takeover_that_a_reaper_has_finished_before(still_core: Core, place: Place) -> None:
    session_id = await place.new_session(still_core)
    session, listener = await still_core.open(session_id)
    await queries("sessions").end_sessions(still_core.db, ids=[session_id], owner=uuid4())  # whose process died then
    async with running(place.dsn, place.redis_url, start=False) as other:
        assert await other.runtime.reaper.reap() == 1
    await still_core.runtime.checkpoints.check_fences([session])
    assert listener.ended == (4409, "superseded")


async def test_many_are_reaped_two_batches_by_turns_and_each_is_claimed_once(still_core: Core, place: Place) -> None:
    runtime = still_core.runtime
    stray_id = await place.new_session(still_core, owner=runtime.registry.process_id)
    runtime.registry.strays[stray_id] = 0.0
    orphans = [await place.new_session(still_core, owner=uuid4()) for _ in range(2 * MOST + 20)]
    for session_id in orphans[::50]:
        entry = {"prev": 0, "frame": encode_frame(report(1))}
        await still_core.redis.xadd(stream_key(session_id), entry, id="1-0")
    assert await runtime.reaper.reap_all() == len(orphans) + 1
    assert not runtime.registry.strays
    found = await still_core.db.fetch(
        "SELECT id, epoch, owner, last_seq FROM video_sessions WHERE id = ANY ($1)", [stray_id, *orphans]
    )
    folded = set(orphans[::50])
    assert all((row["epoch"], row["owner"], row["last_seq"]) == (1, None, row["id"] in folded) for row in found)


async def test_a_living_process_keeps_its_sessions(core: Core, still_core: Core, place: Place) -> None:
    session, listener = await core.open(await place.new_session(core))
    assert await still_core.runtime.reaper.reap() == 0
    core.runtime.submit(session, report(1))
    await eventually(lambda: listener.saved == 1)
    assert listener.ended is None


@pytest.mark.parametrize(("unseen_s", "status"), [(10, "active"), (61, "suspended"), (3601, "ended")])
async def test_who_was_not_seen_for_long_is_suspended_then_ended(
    still_core: Core, place: Place, unseen_s: int, status: str
) -> None:
    session_id = await place.new_session(still_core)
    await still_core.db.execute(
        "UPDATE video_sessions SET seen_at = now() - make_interval(secs => $2) WHERE id = $1", session_id, unseen_s
    )
    await still_core.runtime.reaper.reap()
    row = await still_core.row(session_id)
    assert row["status"] == status
    assert (row["ended_at"] is not None) == (status == "ended")


async def test_what_was_there_before_a_process_waits_for_its_players_and_what_came_since_does_not(place: Place) -> None:
    async with running(place.dsn, place.redis_url, grace_s=60.0) as core:
        long_ago = datetime.now(UTC) - timedelta(minutes=2)
        before = await place.new_session(core, owner=uuid4(), seen_at=long_ago)
        since = await place.new_session(core, owner=uuid4())

        async def finished() -> bool:
            return (await core.row(since))["owner"] is None

        await eventually(finished)
        assert (await core.row(before))["epoch"] == 0


async def test_a_claim_that_redis_cut_short_is_finished_by_its_own_process(place: Place, own_valkey: Valkey) -> None:
    async with running(place.dsn, own_valkey.url, start=False) as core:
        session_id = await insert_session(core.db, place.lecture, place.user_id)
        await core.redis.xadd(stream_key(session_id), {"prev": 0, "frame": encode_frame(report(1))}, id="1-0")
        own_valkey.kill()
        with pytest.raises(RedisError):
            await core.runtime.claim(session_id, "socket")
        assert (await core.row(session_id))["owner"] == core.runtime.registry.process_id
        with pytest.raises(RedisError):
            await core.runtime.reaper.reap()
        own_valkey.start()
        assert await core.runtime.reaper.reap() == 1
        row = await core.row(session_id)
        assert (row["last_seq"], row["owner"]) == (1, None)
        assert not core.runtime.registry.strays


async def test_a_young_process_finishes_its_own_strays_however_long_unseen(place: Place) -> None:
    """A session that was last seen before this process began, and that it ended while Redis was away."""
    async with running(place.dsn, place.redis_url, start=False, grace_s=60.0) as core:
        registry, long_ago = core.runtime.registry, datetime.now(UTC) - timedelta(minutes=2)
        ended = await place.new_session(core, owner=registry.process_id, status="ended", seen_at=long_ago)
        held = await place.new_session(core, owner=registry.process_id, seen_at=long_ago)
        registry.strays |= dict.fromkeys([ended, held], 0.0)
        assert await core.runtime.reaper.reap() == 2
        assert not registry.strays
        assert [(await core.row(session_id))["owner"] for session_id in (ended, held)] == [None, None]


async def test_a_session_that_cannot_be_read_is_kept_for_an_operator_and_stops_no_other(
    still_core: Core, place: Place
) -> None:
    redis = still_core.redis
    broken = await place.new_session(still_core, owner=uuid4(), state='{"seq":"x"}')
    sound = [await place.new_session(still_core, owner=uuid4()) for _ in range(4)]
    for session_id in sound:
        entry = {"prev": 0, "frame": encode_frame(report(1))}
        await redis.xadd(stream_key(session_id), entry, id="1-0")
    assert await still_core.runtime.reaper.reap() == 5
    rows = [await still_core.row(session_id) for session_id in sound]
    assert {(row["last_seq"], row["owner"]) for row in rows} == {(1, None)}
    row = await still_core.row(broken)
    assert (row["state"], row["owner"]) == ('{"seq":"x"}', still_core.runtime.registry.process_id)
    kept = [fields for _, fields in await redis.xrevrange(DEAD_LETTERS, count=1)]
    assert [(fields[b"stream"].decode(), fields[b"state"]) for fields in kept] == [(stream_key(broken), b'{"seq":"x"}')]
    assert await still_core.runtime.reaper.reap() == 0, "it is not tried again and again"


async def test_all_are_reaped_at_once_also_those_that_have_ended(
    still_core: Core, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reaper, "MOST", 5)
    for _ in range(15):
        await place.new_session(still_core, owner=uuid4())
        await place.new_session(still_core, owner=uuid4(), status="ended")
    assert await still_core.runtime.reaper.reap_all() == 30


async def test_a_claim_that_comes_through_after_it_was_given_up_is_finished(
    still_core: Core, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(db, "LEFT_OFF_S", 60.0)
    async with running(place.dsn, place.redis_url, start=False, postgres_timeout_s=0.2) as core:
        registry = core.runtime.registry
        session_id = await place.new_session(core)
        async with still_core.db.transaction() as holder:
            await holder.execute("SELECT 1 FROM video_sessions WHERE id = $1 FOR UPDATE", session_id)
            with pytest.raises(PostgresAway):
                await core.runtime.claim(session_id, "socket")
            assert await core.runtime.reaper.reap() == 0
            assert list(registry.strays) == [session_id]

        async def claimed() -> bool:
            return (await core.row(session_id))["owner"] == registry.process_id

        await eventually(claimed)
        assert await core.runtime.reaper.reap() == 1
        assert (await core.row(session_id))["owner"] is None
        assert not registry.strays


async def test_an_opening_that_fails_beside_a_live_socket_has_nobody_reap_its_session(
    still_core: Core, place: Place
) -> None:
    async with running(place.dsn, place.redis_url, start=False, postgres_timeout_s=0.2) as core:
        session_id = await place.new_session(core)
        session, listener = await core.open(session_id)
        async with AsyncExitStack() as busy:
            for _ in range(core.db.pool_size):
                await busy.enter_async_context(core.db.connection())
            with pytest.raises(PostgresAway):
                await core.runtime.claim(session_id, "socket")
        assert not core.runtime.registry.strays, "nothing was asked for"
        async with still_core.db.transaction() as holder:
            await holder.execute("SELECT 1 FROM video_sessions WHERE id = $1 FOR UPDATE", session_id)
            with pytest.raises(PostgresAway):
                await core.runtime.claim(session_id, "socket")
            await eventually(lambda: nobody_waits(still_core))
        assert await core.runtime.reaper.reap() == 0
        await core.runtime.checkpoints.check_fences([session])
        assert listener.ended is None


async def nobody_waits(core: Core) -> bool:
    """Whether no statement waits for a row."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    return await core.db.fetchval(waiting) == 0

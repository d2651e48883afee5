"""The life of sessions: claimed, fed from beside, drained; several processes on the same parts."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from actors.video_session.actor import VideoSession
from actors.video_session.messages import MAX_SEQ_JUMP, BadFrame, encode_frame
from embedded.postgres import Postgres
from embedded.valkey import Valkey
from server.clock import Clock
from server.data.db import PostgresAway, queries
from server.data.streams import Appended, StreamFull
from tests.actors.conftest import Place
from tests.support.core import Core, Listener, SetClock, eventually, report, running, state_of
from tests.support.pausing import paused

sessions = queries("sessions")


async def own(core: Core, session_id: UUID, user_id: UUID) -> dict[str, Any]:
    """The row as a REST frame's handler reads it."""
    return dict(await sessions.get_own_session(core.db, session_id=session_id, user_id=user_id, alive_s=30.0))


async def test_what_was_never_made_or_has_ended_cannot_be_claimed(core: Core, place: Place) -> None:
    assert await core.runtime.claim(uuid4(), "socket") is None
    assert await core.runtime.claim(await place.new_session(core, status="ended"), "socket") is None


async def test_a_claim_that_postgres_comes_to_when_nobody_waits_any_more_ends_no_socket(
    own_postgres: Postgres, own_place: Place
) -> None:
    """As a Postgres that hung for seconds does what it was asked meanwhile, when it goes on."""
    async with (
        running(own_place.dsn, own_place.redis_url, start=False) as one,
        running(own_place.dsn, own_place.redis_url, start=False, postgres_timeout_s=0.5) as two,
    ):
        session_id = await own_place.new_session(one)
        session, listener = await one.open(session_id)
        asked_at = (await own(two, session_id, own_place.user_id))["read_at"]
        assert await two.runtime.claim(uuid4(), "socket") is None  # from here on it is one message
        asked_by = await two.db.fetchval("SELECT pg_backend_pid()")
        with paused(own_postgres), pytest.raises(PostgresAway):
            await two.runtime.claim(session_id, "socket", asked_at=asked_at)
        gone = "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $1"
        await eventually(lambda: one.db.fetchval(gone, asked_by))
        await one.runtime.checkpoints.check_fences([session])
        assert listener.ended is None


async def test_a_claim_that_comes_too_late_is_told_from_one_of_what_is_not_there(core: Core, place: Place) -> None:
    long_ago = datetime.now(UTC) - timedelta(minutes=1)
    with pytest.raises(PostgresAway):
        await core.runtime.claim(await place.new_session(core), "socket", asked_at=long_ago)
    assert await core.runtime.claim(uuid4(), "socket", asked_at=long_ago) is None
    assert await core.runtime.claim(await place.new_session(core, status="ended"), "socket", asked_at=long_ago) is None


async def test_an_opening_that_fails_for_want_of_redis_leaves_the_live_socket_alone(
    place: Place, own_valkey: Valkey
) -> None:
    async with (
        running(place.dsn, own_valkey.url) as one,
        running(place.dsn, own_valkey.url, start=False, redis_timeout_s=0.3) as two,
    ):
        await two.runtime.pulse.beat()  # or the reaper of `one` may be quicker than its nudge
        session_id = await place.new_session(one)
        session, listener = await one.open(session_id)
        with paused(own_valkey), pytest.raises(RedisError):
            await two.runtime.open(await own(two, session_id, place.user_id))
        await one.runtime.checkpoints.check_fences([session])
        assert listener.ended is None
        assert await two.runtime.open(await own(two, session_id, place.user_id))
        await eventually(lambda: listener.ended == (4409, "superseded"))


async def test_bye_ends_a_session_with_all_that_came_before_it(core: Core, place: Place) -> None:
    session_id = await place.new_session(core)
    session, listener = await core.open(session_id)
    for seq in range(1, 31):
        core.runtime.submit(session, report(seq))
    await core.runtime.end(session)
    await eventually(lambda: listener.ended is not None)
    assert listener.ended == (1000, "bye")
    row = await core.row(session_id)
    assert (row["status"], row["last_seq"], row["owner"]) == ("ended", 30, None)

    async def is_swept() -> bool:
        return not await core.redis.exists(session.key)

    await eventually(is_swept)


async def test_a_session_ends_when_the_frames_that_came_before_bye_are_in(place: Place, own_valkey: Valkey) -> None:
    async with running(place.dsn, own_valkey.url, checkpoint_s=0.1) as core:
        session_id = await place.new_session(core)
        session, listener = await core.open(session_id)
        core.runtime.submit(session, report(1))
        await eventually(lambda: listener.saved == 1)
        own_valkey.kill()
        core.runtime.submit(session, report(2))
        core.runtime.submit(session, report(3))
        await core.runtime.end(session)
        await core.runtime.checkpoints.save_changed()
        assert listener.ended is None
        assert (await core.row(session_id))["status"] == "active"
        own_valkey.start()
        await eventually(lambda: listener.ended is not None)
        assert listener.ended == (1000, "bye")
        row = await core.row(session_id)
        assert (row["status"], row["last_seq"], row["owner"]) == ("ended", 3, None)


async def test_a_session_whose_player_left_with_bye_ends_when_redis_is_back(place: Place, own_valkey: Valkey) -> None:
    async with running(place.dsn, own_valkey.url, checkpoint_s=0.1) as core:
        session_id = await place.new_session(core)
        session, listener = await core.open(session_id)
        own_valkey.kill()
        core.runtime.submit(session, report(1))
        await core.runtime.end(session)
        core.runtime.detach(session, listener)
        session.closed_at = Clock().monotonic() - 10.0
        await core.runtime.checkpoints.save_changed()
        own_valkey.start()

        async def has_ended() -> bool:
            return (await core.row(session_id))["status"] == "ended"

        await eventually(has_ended)
        row = await core.row(session_id)
        assert (row["last_seq"], row["owner"]) == (1, None)
        assert core.runtime.registry.get(session_id) is None


async def test_who_drains_does_not_end_a_session_whose_last_frames_are_not_in(place: Place, own_valkey: Valkey) -> None:
    async with running(place.dsn, own_valkey.url) as core:
        session_id = await place.new_session(core)
        session, listener = await core.open(session_id)
        own_valkey.kill()
        core.runtime.submit(session, report(1))
        await core.runtime.end(session)
        await core.runtime.drain(60.0)
        assert listener.ended == (1012, "restart"), "it says them, and bye, again elsewhere"
        assert (await core.row(session_id))["status"] == "active"


async def test_frames_do_not_wait_for_what_else_is_told(place: Place) -> None:
    async with running(place.dsn, place.redis_url, sweep_s=60.0) as core:
        session_id = await place.new_session(core)
        session, listener = await core.open(session_id)
        core.runtime.submit(session, report(1))
        await eventually(lambda: listener.applied == 1)
        go_on, heard = asyncio.Event(), []

        async def hear(subject_id: UUID) -> None:
            heard.append(subject_id)
            await go_on.wait()

        core.runtime.hearers["slow"] = hear
        first, second = uuid4(), uuid4()
        await core.streams.nudge("no such", "thing")
        await core.streams.nudge("slow", first)
        await core.streams.nudge("slow", second)
        await core.streams.append(session.key, session.state.cursor, [(2, encode_frame(report(2)))], 100)
        await core.streams.nudge("frames", session_id)
        await eventually(lambda: listener.applied == 2)
        assert heard == [first]
        go_on.set()
        await eventually(lambda: heard == [first, second])


async def test_a_beacon_claims_what_nobody_holds_and_lets_it_go_again(place: Place) -> None:
    async with running(place.dsn, place.redis_url, rest_idle_s=0.1) as core:
        session_id = await place.new_session(core)
        delivered = await core.runtime.deliver(await own(core, session_id, place.user_id), [report(None, 3.0)])
        assert delivered is not None
        assert delivered[0].accepted == 1
        await eventually(lambda: core.runtime.registry.get(session_id) is None)
        row = await core.row(session_id)
        assert (row["last_seq"], row["last_sub"], row["owner"], row["claimed_by"]) == (0, 1, None, "rest")
        assert state_of(row)["position_ms"] == 3000


async def test_a_beacon_at_another_process_reaches_the_owner_and_kicks_nobody(place: Place) -> None:
    async with running(place.dsn, place.redis_url) as one, running(place.dsn, place.redis_url) as two:
        session_id = await place.new_session(one)
        session, listener = await one.open(session_id)
        one.runtime.submit(session, report(1))
        await eventually(lambda: listener.saved == 1)
        delivered = await two.runtime.deliver(await own(two, session_id, place.user_id), [report(2), report(1)])
        assert delivered is not None
        assert (delivered[0].accepted, delivered[0].duplicates) == (1, 1)
        assert delivered[1] is not None
        await eventually(lambda: listener.saved == 2)
        assert listener.ended is None
        assert len(two.runtime.registry) == 0


async def test_a_beacon_kicks_nobody_who_took_over_what_was_claimed_here_in_vain(place: Place) -> None:
    async with running(place.dsn, place.redis_url) as one, running(place.dsn, place.redis_url, start=False) as two:
        session_id = await place.new_session(one)
        two.runtime.registry.strays[session_id] = 0.0
        session, listener = await one.open(session_id)
        await two.runtime.deliver(await own(two, session_id, place.user_id), [report(1)])
        await eventually(lambda: listener.applied == 1)
        assert (await one.row(session_id))["epoch"] == session.epoch
        assert listener.ended is None


@asynccontextmanager
async def being_opened(core: Core, session_id: UUID) -> AsyncIterator[asyncio.Task[tuple[VideoSession, Listener]]]:
    """The opening of a socket that has claimed its session and got no further; it goes on at the end."""
    runtime, claimed, go_on = core.runtime, asyncio.Event(), asyncio.Event()
    announce = runtime.announce_claim

    async def announce_late(session_id: UUID, epoch: int) -> None:
        claimed.set()
        await go_on.wait()
        await announce(session_id, epoch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtime, "announce_claim", announce_late)
        opening = asyncio.create_task(core.open(session_id))
        await claimed.wait()
    yield opening
    go_on.set()
    await opening


async def test_a_beacon_kicks_no_socket_that_is_opened_in_the_same_moment(core: Core, place: Place) -> None:
    session_id = await place.new_session(core)
    row = await own(core, session_id, place.user_id)
    async with being_opened(core, session_id) as opening:
        delivered = await core.runtime.deliver(row, [report(1)])
    assert delivered is not None
    assert delivered[0].accepted == 1
    session, listener = opening.result()
    await eventually(lambda: listener.applied == 1)
    await core.runtime.checkpoints.check_fences([session])
    assert listener.ended is None


async def test_nobody_takes_a_session_that_is_opened_once_more_after_it_was_claimed_in_vain(
    core: Core, place: Place
) -> None:
    registry = core.runtime.registry
    session_id = await place.new_session(core, owner=registry.process_id)
    registry.strays[session_id] = 0.0
    async with being_opened(core, session_id) as opening:
        await core.runtime.deliver(await own(core, session_id, place.user_id), [report(1)])
        assert await core.runtime.reaper.reap() == 0
    session, listener = opening.result()
    await eventually(lambda: listener.applied == 1)
    await core.runtime.checkpoints.check_fences([session])
    assert listener.ended is None


async def test_a_beacon_of_a_session_that_ends_in_the_same_moment_is_told_so(core: Core, place: Place) -> None:
    session_id = await place.new_session(core)
    row = await own(core, session_id, place.user_id)
    await core.db.execute("UPDATE video_sessions SET status = 'ended' WHERE id = $1", session_id)
    assert await core.runtime.deliver(row, [report(1)]) is None


async def let_go(core: Core, session: VideoSession, listener: Listener) -> None:
    """The session's socket ends, and what it brought is saved."""
    core.runtime.detach(session, listener)
    await core.runtime.checkpoints.save_changed()
    assert session.dropped


@pytest.mark.parametrize("first", ["the beacon", "the socket's end"])
async def test_a_beacon_beside_the_end_of_its_socket_is_saved_soon(
    still_core: Core, place: Place, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    session_id = await place.new_session(still_core)
    session, listener = await still_core.open(session_id)
    await still_core.feed(session, 1)
    append = still_core.streams.append

    async def append_meanwhile(*arguments: Any, **options: Any) -> Appended:
        if first == "the socket's end":
            await let_go(still_core, session, listener)
        appended = await append(*arguments, **options)
        if first == "the beacon":
            await let_go(still_core, session, listener)
        return appended

    monkeypatch.setattr(still_core.streams, "append", append_meanwhile)
    delivered = await still_core.runtime.deliver(await own(still_core, session_id, place.user_id), [report(2)])
    assert delivered is not None
    assert delivered[0].accepted == 1
    assert await still_core.runtime.reaper.reap() == 1
    row = await still_core.row(session_id)
    assert (row["last_seq"], row["owner"], row["status"]) == (2, None, "active")


async def test_a_beacon_elsewhere_beside_the_end_of_its_socket_is_saved_soon(still_core: Core, place: Place) -> None:
    async with running(place.dsn, place.redis_url, start=False) as other:
        await still_core.runtime.pulse.beat()
        session_id = await place.new_session(still_core)
        session, listener = await still_core.open(session_id)
        await still_core.feed(session, 1)
        row = await own(other, session_id, place.user_id)
        await let_go(still_core, session, listener)
        delivered = await other.runtime.deliver(row, [report(2)])
        assert delivered is not None
        assert len(other.runtime.registry) == 0
        assert await other.runtime.reaper.reap() == 1
        assert (await other.row(session_id))["last_seq"] == 2


async def test_a_beacon_elsewhere_that_its_owner_did_not_hear_of_is_saved_soon(still_core: Core, place: Place) -> None:
    session_id = await place.new_session(still_core)
    session, listener = await still_core.open(session_id)
    await still_core.feed(session, 1)
    await still_core.streams.append(session.key, (1, 0), [(2, encode_frame(report(2)))], 100)
    await let_go(still_core, session, listener)
    assert await still_core.runtime.reaper.reap() == 1
    assert (await still_core.row(session_id))["last_seq"] == 2


async def test_a_beacon_that_comes_before_the_end_of_its_session_is_not_lost_with_the_stream(
    still_core: Core, place: Place
) -> None:
    session_id = await place.new_session(still_core)
    session, listener = await still_core.open(session_id)
    await still_core.feed(session, 1)
    await still_core.streams.append(session.key, (1, 0), [(2, encode_frame(report(2)))], 100)
    session.bye = True
    await let_go(still_core, session, listener)
    assert await still_core.runtime.reaper.reap() == 1
    row = await still_core.row(session_id)
    assert (row["last_seq"], row["owner"], row["status"]) == (2, None, "ended")
    assert not await still_core.redis.exists(session.key)


async def test_a_beacon_before_the_end_of_its_session_is_not_lost_where_redis_is_away_at_the_end(
    still_core: Core, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object) -> None:
        raise RedisConnectionError

    session_id = await place.new_session(still_core)
    session, listener = await still_core.open(session_id)
    await still_core.feed(session, 1)
    await still_core.streams.append(session.key, (1, 0), [(2, encode_frame(report(2)))], 100)
    session.bye = True
    with monkeypatch.context() as outage:
        outage.setattr(still_core.streams, "list_unread", away)
        await let_go(still_core, session, listener)
    assert (await still_core.row(session_id))["status"] == "ended"
    assert await still_core.runtime.reaper.reap() == 1
    row = await still_core.row(session_id)
    assert (row["last_seq"], row["owner"], row["status"]) == (2, None, "ended")
    assert not await still_core.redis.exists(session.key)


async def test_a_beacon_that_comes_after_the_end_of_its_session_is_told_so(still_core: Core, place: Place) -> None:
    async with running(place.dsn, place.redis_url, start=False) as other:
        await still_core.runtime.pulse.beat()
        session_id = await place.new_session(still_core)
        session, listener = await still_core.open(session_id)
        row = await own(other, session_id, place.user_id)
        session.bye = True
        await let_go(still_core, session, listener)
        assert await other.runtime.deliver(row, [report(1)]) is None


async def test_only_a_newer_socket_keeps_a_player_from_coming_back(core: Core, place: Place) -> None:
    session_id = await place.new_session(core)
    _, listener = await core.open(session_id)
    await core.runtime.claim(session_id, "rest")
    assert listener.ended == (1012, "restart")


async def test_a_beacon_with_an_absurd_seq_writes_nothing(core: Core, place: Place) -> None:
    session_id = await place.new_session(core)
    row = await own(core, session_id, place.user_id)
    with pytest.raises(BadFrame):
        await core.runtime.deliver(row, [report(1), report(MAX_SEQ_JUMP + 2)])
    assert await core.redis.keys("tel:*") == []


async def test_frames_that_nobody_saves_are_refused_some_day(place: Place) -> None:
    async with running(place.dsn, place.redis_url, start=False, unsaved_max=3) as core:
        session_id = await place.new_session(core)
        await core.open(session_id)
        async with running(place.dsn, place.redis_url, unsaved_max=3) as other:
            await core.runtime.pulse.beat()
            row = await own(core, session_id, place.user_id)
            await other.runtime.deliver(row, [report(1), report(2), report(3)])
            with pytest.raises(StreamFull):
                await other.runtime.deliver(row, [report(4)])


async def test_a_session_claimed_elsewhere_tells_its_old_socket_even_without_a_nudge(place: Place) -> None:
    async with running(place.dsn, place.redis_url) as one, running(place.dsn, place.redis_url) as two:
        session_id = await place.new_session(one)
        _, first = await one.open(session_id)
        _, second = await two.open(session_id)
        await eventually(lambda: first.ended is not None)
        assert (first.ended, second.ended) == ((4409, "superseded"), None)
        # Behind the nudges stands the sweep: here nobody was told.
        await two.db.execute(
            "UPDATE video_sessions SET epoch = epoch + 1, claimed_by = 'rest' WHERE id = $1", session_id
        )
        await eventually(lambda: second.ended is not None)
        assert second.ended == (1012, "restart")


async def take_over(core: Core, session_id: UUID) -> None:
    """What the making of another session does with one that is too many."""
    process_id = core.runtime.registry.process_id
    await core.runtime.finish(await sessions.end_sessions(core.db, ids=[session_id], owner=process_id))


async def test_what_an_owner_acknowledges_that_hears_late_of_a_takeover_counts(still_core: Core, place: Place) -> None:
    async with running(place.dsn, place.redis_url, start=False) as other:
        session_id = await place.new_session(other)
        session, listener = await other.open(session_id)
        await other.feed(session, 3)
        await take_over(still_core, session_id)
        assert (await still_core.row(session_id))["last_seq"] == 3
        await other.feed(session, 2)
        assert listener.applied == 5
        await other.runtime.checkpoints.check_fences([session])
        assert listener.ended == (4409, "superseded")
        assert await still_core.runtime.reaper.reap() == 1
        row = await still_core.row(session_id)
        assert (row["last_seq"], row["owner"], row["status"]) == (5, None, "ended")
        assert state_of(row)["frames"] == 5
        assert not await still_core.redis.exists(session.key)


async def test_a_takeover_is_through_when_it_says_so_whatever_the_reaper_does_meanwhile(
    still_core: Core, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = still_core.runtime
    announce = runtime.announce_claim

    async def beside_the_reaper(session_id: UUID, epoch: int) -> None:
        assert await runtime.reaper.reap() == 0
        await announce(session_id, epoch)

    async with running(place.dsn, place.redis_url, start=False) as other:
        session_id = await place.new_session(other)
        session, _ = await other.open(session_id)
        await other.feed(session, 3)
        monkeypatch.setattr(runtime, "announce_claim", beside_the_reaper)
        await take_over(still_core, session_id)
        assert (await still_core.row(session_id))["last_seq"] == 3


async def test_what_a_takeover_could_not_fold_the_reaper_does(
    still_core: Core, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(_rows: object) -> None:
        raise RedisConnectionError("away")

    async with running(place.dsn, place.redis_url, start=False) as other:
        session_id = await place.new_session(other)
        session, _ = await other.open(session_id)
        await other.feed(session, 3)
        with monkeypatch.context() as patch:
            patch.setattr(still_core.runtime.reaper, "finish", away)
            await take_over(still_core, session_id)
        assert (await still_core.row(session_id))["last_seq"] == 0
        assert await still_core.runtime.reaper.reap() == 1
        row = await still_core.row(session_id)
        assert (row["last_seq"], row["owner"], row["status"]) == (3, None, "ended")


async def test_after_a_takeover_its_own_process_takes_no_more_of_a_session(core: Core, place: Place) -> None:
    session_id = await place.new_session(core)
    session, listener = await core.open(session_id)
    for seq in range(1, 31):
        core.runtime.submit(session, report(seq))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(core.runtime, "_nudged", lambda _: None)  # it hears of it late
        patch.setattr("actors.runtime.SERVED_S", 30.0)
        await take_over(core, session_id)
    assert listener.ended == (4409, "superseded")

    async def is_let_go() -> bool:
        """At once, but where a checkpoint of its own was on its way: then it is looked through once more."""
        row = await core.row(session_id)
        return (row["status"], row["owner"]) == ("ended", None)

    await eventually(is_let_go)
    assert (await core.row(session_id))["last_seq"] >= listener.applied

    async def is_swept() -> bool:
        return not await core.redis.exists(session.key)

    await eventually(is_swept)


async def test_while_frames_wait_for_redis_or_postgres_they_are_acknowledged_every_five_seconds(place: Place) -> None:
    clock = SetClock()
    async with running(place.dsn, place.redis_url, start=False, clock=clock) as core:
        session, listener = await core.open(await place.new_session(core))

        async def acknowledged(at_s: float) -> list[tuple[int, int]]:
            """What is said at this time, as (seq, saved)."""
            told, clock.now_s = len(listener.acks), at_s
            await core.runtime.remind()
            return [(ack.seq, ack.saved) for ack in listener.acks[told:]]

        await core.feed(session, 2)
        session.answer(1000.0)
        assert await acknowledged(1004.9) == []
        assert await acknowledged(1005.0) == [(2, 0)]  # Postgres does not know them yet
        assert await acknowledged(1009.9) == []
        assert await acknowledged(1010.0) == [(2, 0)]
        await core.runtime.checkpoints.save_changed()
        saved_at_s = clock.now_s = 1010.5
        await core.runtime.checkpoints.tell()
        assert (listener.applied, listener.saved) == (2, 2)
        assert await acknowledged(saved_at_s + 60.0) == []  # nothing waits
        session.accept(report(3))
        assert await acknowledged(saved_at_s + 61.0) == [(2, 2)]  # Redis has not taken it


async def test_a_newer_socket_knows_how_many_frames_the_older_one_was_refused(place: Place) -> None:
    async with running(place.dsn, place.redis_url, checkpoint_s=600.0) as core:
        session_id = await place.new_session(core)
        first, listener = await core.open(session_id)
        for seq in (1, 2, 1, 2, 2):
            core.runtime.submit(first, report(seq))
        await eventually(lambda: listener.applied == 2)  # and nothing is saved
        second, _ = await core.open(session_id)
        core.runtime.submit(second, report(1))
        await core.runtime.checkpoints.save_changed()
        assert (await core.row(session_id))["duplicates"] == 4


async def test_draining_saves_releases_and_sends_everybody_elsewhere(core: Core, place: Place) -> None:
    opened = [await core.open(await place.new_session(core)) for _ in range(3)]
    for session, _ in opened:
        core.runtime.submit(session, report(1))
    await eventually(lambda: all(listener.applied == 1 for _, listener in opened))
    await core.runtime.drain(20.0)
    for session, listener in opened:
        assert listener.ended == (1012, "restart")
        assert listener.retry_ms
        row = await core.row(session.id)
        assert (row["last_seq"], row["owner"], row["status"]) == (1, None, "active")
    session = await core.runtime.claim(opened[0][0].id, "socket")
    assert session is not None
    late = Listener()
    core.runtime.attach(session, late)
    assert late.ended == (1012, "restart")
    assert late.retry_ms


async def test_what_comes_while_a_drain_ends_the_sockets_is_saved_too(
    still_core: Core, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, listener = await still_core.open(await place.new_session(still_core))
    await still_core.feed(session, 1)
    save_changed = still_core.runtime.checkpoints.save_changed

    async def and_one_more(*, release: bool) -> None:
        await save_changed(release=release)
        await still_core.feed(session, 1)

    monkeypatch.setattr(still_core.runtime.checkpoints, "save_changed", and_one_more)
    await still_core.runtime.drain(20.0)
    assert listener.ended == (1012, "restart")
    assert listener.applied == 2
    row = await still_core.row(session.id)
    assert (row["last_seq"], row["owner"]) == (2, None)


async def test_a_drain_does_not_wait_for_a_redis_that_is_gone(place: Place, own_valkey: Valkey) -> None:
    async with running(place.dsn, own_valkey.url) as core:
        session_id = await place.new_session(core)
        session, listener = await core.open(session_id)
        core.runtime.submit(session, report(1))
        await eventually(lambda: listener.applied == 1)
        own_valkey.kill()
        began = asyncio.get_running_loop().time()
        await core.runtime.drain(60.0)
        assert asyncio.get_running_loop().time() - began < 30.0
        assert listener.ended == (1012, "restart")
        assert (await core.row(session_id))["last_seq"] == 1


async def test_a_drain_does_not_wait_for_a_postgres_that_does_not_answer(still_core: Core, place: Place) -> None:
    session, listener = await still_core.open(await place.new_session(still_core))
    await still_core.feed(session, 3)
    async with AsyncExitStack() as busy:
        for _ in range(still_core.db.pool_size):
            await busy.enter_async_context(still_core.db.connection())
        await still_core.runtime.drain(0.1)
    assert listener.ended == (1012, "restart")
    assert (await still_core.row(session.id))["last_seq"] == 0
    async with running(place.dsn, place.redis_url, start=False) as elsewhere:
        heir, _ = await elsewhere.open(session.id)
        assert heir.state.frames == 3, "the stream has the rest"


async def test_the_newest_claim_of_a_session_wins_in_whichever_order_they_come_through(
    still_core: Core, place: Place
) -> None:
    session_id = await place.new_session(still_core)
    older = await still_core.runtime.claim(session_id, "socket")
    newer = await still_core.runtime.claim(session_id, "socket")
    assert older is not None
    still_core.runtime.registry.add(older)
    assert still_core.runtime.registry.get(session_id) is newer
    late = Listener()
    still_core.runtime.attach(older, late)
    assert late.ended == (4409, "superseded")


async def test_a_stopped_process_says_that_it_is_gone(place: Place) -> None:
    async with running(place.dsn, place.redis_url) as core:
        process_id = core.runtime.registry.process_id
    async with running(place.dsn, place.redis_url, start=False) as other:
        assert not await other.db.fetchval("SELECT EXISTS (SELECT 1 FROM processes WHERE id = $1)", process_id)

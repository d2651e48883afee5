"""Checkpoints: fenced, in batches, repeatable; one row that Postgres refuses spoils no other."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from structlog.testing import capture_logs

from actors.checkpoints import CHUNK, TOUCH_S, Checkpoints
from actors.registry import Registry
from actors.video_session.actor import Checkpoint, VideoSession
from embedded.postgres import Postgres
from server.config import Sessions
from server.data.db import PostgresAway
from tests.actors.conftest import Place
from tests.support.core import Core, Listener, SetClock, eventually, report, running, state_of
from tests.support.lectures import LADDER
from tests.support.virtual_time import VirtualClock, run_virtually

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


@pytest.mark.parametrize("ended_by", ["rest", "reaper"])
async def test_a_session_that_was_ended_elsewhere_closes_4404(still_core: Core, place: Place, ended_by: str) -> None:
    session, listener = await still_core.open(await place.new_session(still_core))
    await still_core.db.execute(
        "UPDATE video_sessions SET status = 'ended', epoch = epoch + 1, owner = NULL, claimed_by = $2 WHERE id = $1",
        session.id,
        ended_by,
    )
    await still_core.runtime.checkpoints.check_fences([session])
    assert listener.ended == (4404, "session_not_found"), "there is nothing to come back to"


async def test_a_silent_session_counts_as_seen_while_it_is_ours(still_core: Core, place: Place) -> None:
    session_id = await place.new_session(still_core)
    session, listener = await fed(still_core, session_id, 1)
    checkpoints = still_core.runtime.checkpoints
    await checkpoints.save_changed()
    unseen = "UPDATE video_sessions SET seen_at = now() - interval '1 hour' WHERE id = $1"
    await still_core.db.execute(unseen, session_id)
    seen = "SELECT seen_at > now() - interval '1 minute' FROM video_sessions WHERE id = $1"
    await checkpoints.touch([session])
    assert not await still_core.db.fetchval(seen, session_id)  # it was saved just now
    session.saved_at -= TOUCH_S + 1
    await checkpoints.touch([session])
    assert await still_core.db.fetchval(seen, session_id)
    async with running(place.dsn, place.redis_url, start=False) as other:
        await other.open(session_id)
    await still_core.db.execute(unseen, session_id)
    session.saved_at -= TOUCH_S + 1
    await checkpoints.touch([session])
    assert not await still_core.db.fetchval(seen, session_id)
    assert listener.ended == (4409, "superseded")


async def test_a_silent_session_counts_as_seen_also_where_that_is_asked_of_short_times(place: Place) -> None:
    async with running(place.dsn, place.redis_url, live_window_s=1.0) as core:
        session_id = await place.new_session(core)
        await core.open(session_id)
        seen = "SELECT seen_at > created_at + interval '1 second' FROM video_sessions WHERE id = $1"
        await eventually(lambda: core.db.fetchval(seen, session_id), timeout_s=5.0)


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


ELSEWHERE = "UPDATE progress SET position_ms = 1500000, last_watched_at = '2020-01-01Z' WHERE user_id = $1"
WHERE = "SELECT position_ms FROM progress WHERE user_id = $1 AND last_watched_at = '2020-01-01Z'"


async def still(core: Core, session: VideoSession, position: float) -> None:
    """One more frame from a player who does not move."""
    session.accept(report(session.highest + 1, position, cmcd={"sta": "a"}))
    session.take_written(1)
    await core.runtime.checkpoints.save_changed()


async def test_who_is_paused_does_not_take_back_where_another_device_got_to(still_core: Core, place: Place) -> None:
    session_id = await place.new_session(still_core)
    session, _ = await fed(still_core, session_id, 5)
    await still_core.runtime.checkpoints.save_changed()
    await still_core.db.execute(ELSEWHERE, place.user_id)
    await still(still_core, session, 5.0)
    assert (await still_core.row(session_id))["last_seq"] == 6
    assert await still_core.db.fetchval(WHERE, place.user_id) == 1_500_000
    async with running(place.dsn, place.redis_url, start=False) as other:  # as after a night with the lid closed
        again, _ = await other.open(session_id)
        await still(other, again, 5.0)
        assert (await other.row(session_id))["last_seq"] == 7
        assert await other.db.fetchval(WHERE, place.user_id) == 1_500_000
        await still(other, again, 4.0)  # somebody moved it
        assert await other.db.fetchval("SELECT position_ms FROM progress WHERE user_id = $1", place.user_id) == 4000


async def test_who_plays_a_little_and_goes_back_to_the_same_place_has_watched_it(
    still_core: Core, place: Place
) -> None:
    session, _ = await fed(still_core, await place.new_session(still_core), 2)
    await still_core.runtime.checkpoints.save_changed()
    session.accept(report(3, 4.0))
    session.take_written(1)
    await still(still_core, session, 2.0)
    watched = "SELECT watched_ranges::text FROM progress WHERE user_id = $1"
    assert await still_core.db.fetchval(watched, place.user_id) == "{[1000,4000)}"


async def test_a_place_of_which_nobody_knows_whether_it_was_saved_is_told_again(still_core: Core, place: Place) -> None:
    session, _ = await fed(still_core, await place.new_session(still_core), 2)
    for _ in range(2):
        assert session.checkpoint(release=False).position_ms == 2000
    await still_core.runtime.checkpoints.save_changed()
    assert session.checkpoint(release=False).position_ms is None
    session.state.position_ms = 9000
    session.checkpoint(release=False)  # and no answer
    session.state.position_ms = 2000
    assert session.checkpoint(release=False).position_ms == 2000


async def test_an_older_checkpoint_never_overwrites_a_newer(still_core: Core, place: Place) -> None:
    session_id = await place.new_session(still_core)
    session, _ = await fed(still_core, session_id, 2)
    older = session.checkpoint(release=False)
    await still_core.feed(session, 1)
    await still_core.runtime.checkpoints.save([session.checkpoint(release=False)])
    await still_core.runtime.checkpoints.save([older])
    assert (await still_core.row(session_id))["last_seq"] == 3


async def test_a_checkpoint_that_began_before_another_change_does_not_set_the_time_back(
    still_core: Core, place: Place
) -> None:
    later = datetime.now(UTC) + timedelta(minutes=1)
    session_id = await place.new_session(still_core, updated_at=later)
    await fed(still_core, session_id, 1)
    await still_core.runtime.checkpoints.save_changed()
    row = await still_core.row(session_id)
    assert (row["last_seq"], row["updated_at"]) == (1, later)


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
        assert (session.saved[0], other.ended) == (2, None)


async def test_saved_entries_are_trimmed_and_unsaved_ones_stay(still_core: Core, place: Place) -> None:
    session_id = await place.new_session(still_core)
    session, _ = await fed(still_core, session_id, 70)
    checkpoint = session.checkpoint(release=False)
    await still_core.redis.xadd(session.key, {"prev": 70, "frame": b"{}"}, id="71-0")
    await still_core.runtime.checkpoints.save([checkpoint])
    assert [entry_id for entry_id, _ in await still_core.redis.xrange(session.key)] == [b"71-0"]


async def test_while_postgres_is_paused_frames_are_acknowledged_and_saved_later(
    own_postgres: Postgres, own_place: Place
) -> None:
    async with running(own_place.dsn, own_place.redis_url) as core:
        session_id = await own_place.new_session(core)
        session, listener = await core.open(session_id)
        core.runtime.submit(session, report(1))
        await eventually(lambda: listener.saved == 1)
        own_postgres.kill()
        for seq in range(2, 12):
            core.runtime.submit(session, report(seq))
        await eventually(lambda: listener.applied == 11)
        assert listener.saved == 1
        own_postgres.start()
        await eventually(lambda: listener.saved == 11)
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


class Unwritten(Checkpoints):
    """Notes when which sessions were saved; Postgres takes everything at once."""

    def __init__(self, count: int, checkpoint_s: float) -> None:
        self.registry, clock = Registry(uuid4()), VirtualClock()
        nothing: Any = None
        settings = Sessions(checkpoint_s=checkpoint_s)
        super().__init__(self.registry, nothing, nothing, settings, clock, complete_share=0.9)
        self.sessions = [changed_session(clock.monotonic()) for _ in range(count)]
        self.saved: list[tuple[float, set[UUID]]] = []
        for session in self.sessions:
            self.registry.add(session)

    async def write(self, checkpoints: Sequence[Checkpoint], seen: bool) -> set[UUID]:
        assert seen
        ids = {checkpoint.session.id for checkpoint in checkpoints}
        self.saved.append((asyncio.get_running_loop().time(), ids))
        return ids

    async def run_for(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self.run(), seconds)


def changed_session(now: float) -> VideoSession:
    """A session with something to save."""
    row = dict.fromkeys(("video_id", "user_id", "lecture_id", "viewport", "length_ms", "decisions", "claimed_by"))
    row |= dict.fromkeys(("resume_ms", "last_seq", "last_sub", "duplicates"), 0)
    session = VideoSession(
        row | {"id": uuid4(), "epoch": 1, "state": "{}", "ladder": LADDER, "save_data": False}, now=now
    )
    session.version += 1
    return session


def test_what_is_saved_rests_until_it_changes_and_is_not_looked_at() -> None:
    async def scenario() -> None:
        checkpoints = Unwritten(2, checkpoint_s=1.0)
        for session in checkpoints.sessions:
            session.peer = Listener()
        await checkpoints.run_for(20.0)  # the video's figures, too, have what the sessions add
        registry, (first, second) = checkpoints.registry, checkpoints.sessions
        assert (list(registry.restless), set(registry.resting)) == ([], {first, second})
        checkpoints.saved.clear()
        await checkpoints.run_for(3.0)
        assert checkpoints.saved == []
        second.accept(report(1))
        assert (list(registry.restless), list(registry.resting)) == ([second], [first])
        second.take_written(1)
        await checkpoints.run_for(1.0)
        assert [ids for _, ids in checkpoints.saved] == [{second.id}]
        registry.drop(first, 1012, "restart")
        assert (list(registry.restless), list(registry.resting)) == ([], [second])

    run_virtually(scenario())


async def test_whoever_reports_hears_that_it_is_saved_with_the_next_acknowledgement_and_others_half_a_second_later(
    place: Place,
) -> None:
    clock = SetClock()
    async with running(place.dsn, place.redis_url, start=False, clock=clock) as core:
        (reports, busy), (waits, silent) = [await core.open(await place.new_session(core)) for _ in range(2)]
        for session in (reports, waits):
            await core.feed(session, 1)
        checkpoints = core.runtime.checkpoints
        await checkpoints.save_changed()
        clock.now_s += 0.3
        reports.answer(clock.now_s)  # as of its next frame
        await checkpoints.tell()
        assert ([ack.saved for ack in busy.acks], [ack.saved for ack in silent.acks]) == ([0, 1], [0])
        clock.now_s += 0.2
        await checkpoints.tell()
        await checkpoints.tell()
        assert ([ack.saved for ack in busy.acks], [ack.saved for ack in silent.acks]) == ([0, 1], [0, 1])


async def test_who_is_let_go_is_told_at_once_what_is_saved(still_core: Core, place: Place) -> None:
    session, listener = await still_core.open(await place.new_session(still_core))
    await still_core.feed(session, 2)
    await still_core.runtime.checkpoints.save_changed(release=True)
    assert listener.saved == 2


@pytest.mark.parametrize("change", [lambda s: s.count_duplicates(1), lambda s: s.changed()])
def test_whatever_changes_a_session_at_rest_has_it_saved(change: Callable[[VideoSession], None]) -> None:
    async def scenario() -> None:
        checkpoints = Unwritten(1, checkpoint_s=1.0)
        (session,) = checkpoints.sessions
        session.peer = Listener()
        await checkpoints.run_for(20.0)
        assert session in checkpoints.registry.resting
        change(session)
        assert session in checkpoints.registry.restless
        await checkpoints.run_for(1.5)
        assert session.saved_version == session.version

    run_virtually(scenario())


@pytest.mark.parametrize(("sessions", "most"), [(5, 1), (160, 10), (10_000, CHUNK)])
def test_sessions_are_saved_once_a_round_and_evenly_over_it(sessions: int, most: int) -> None:
    async def scenario() -> list[tuple[float, set[UUID]]]:
        checkpoints = Unwritten(sessions, checkpoint_s=2.0)
        await checkpoints.run_for(1.999)
        assert all(session.saved_version == session.version for session in checkpoints.sessions)
        return checkpoints.saved

    saved = run_virtually(scenario())
    assert sum(len(ids) for _, ids in saved) == sessions
    assert max(len(ids) for _, ids in saved) == most
    times = [at for at, _ in saved]
    assert max(later - at for at, later in pairwise(times)) == pytest.approx(2.0 / len(times))


def test_a_session_whose_socket_ended_is_saved_at_once() -> None:
    async def scenario() -> None:
        checkpoints = Unwritten(4, checkpoint_s=2.0)
        running = asyncio.create_task(checkpoints.run_for(1.0))
        await asyncio.sleep(0.1)
        last = checkpoints.sessions[-1]
        assert last.saved_version < last.version
        checkpoints.kick(last)
        await asyncio.sleep(0.001)
        assert last.saved_version == last.version
        await running
        assert [len(ids) for _, ids in checkpoints.saved] == [1, 1, 1]  # in between the others have their turn as ever

    run_virtually(scenario())


def test_a_session_that_came_in_the_middle_of_a_round_waits_no_longer_than_one() -> None:
    async def scenario() -> None:
        checkpoints = Unwritten(10, checkpoint_s=2.0)
        running = asyncio.create_task(checkpoints.run_for(5.0))
        await asyncio.sleep(0.9)
        late = changed_session(asyncio.get_running_loop().time())
        checkpoints.registry.add(late)
        await asyncio.sleep(2.0 + 2.0 / 10)
        assert late.saved_version == late.version
        await running

    run_virtually(scenario())


def test_where_postgres_is_slow_who_left_is_still_saved_between_two_parts() -> None:
    async def scenario() -> None:
        checkpoints = Unwritten(10, checkpoint_s=1.0)
        write = checkpoints.write

        async def slowly(batch: Sequence[Checkpoint], seen: bool) -> set[UUID]:
            await asyncio.sleep(1.0)
            return await write(batch, seen)

        checkpoints.write = slowly  # type: ignore[method-assign,assignment]
        running = asyncio.create_task(checkpoints.run_for(5.0))
        await asyncio.sleep(0.1)
        last = checkpoints.sessions[-1]
        checkpoints.kick(last)
        await asyncio.sleep(2.0)
        assert last.saved_version == last.version
        await running

    run_virtually(scenario())


def test_who_leaves_all_the_time_takes_nobody_elses_turn() -> None:
    async def scenario() -> None:
        checkpoints = Unwritten(10, checkpoint_s=1.0)
        write = checkpoints.write

        async def slowly(batch: Sequence[Checkpoint], seen: bool) -> set[UUID]:
            await asyncio.sleep(0.05)
            return await write(batch, seen)

        async def leave() -> None:
            while True:
                session = changed_session(asyncio.get_running_loop().time())
                checkpoints.registry.add(session)
                checkpoints.kick(session)
                await asyncio.sleep(0.01)

        checkpoints.write = slowly  # type: ignore[method-assign,assignment]
        leaving = asyncio.create_task(leave())
        await checkpoints.run_for(2.0)
        leaving.cancel()
        assert all(session.saved_version == session.version for session in checkpoints.sessions)

    run_virtually(scenario())


class Holding(Unwritten):
    """Of some sessions somebody holds the rows; what was attempted is noted, and how it ended."""

    def __init__(self, count: int, held: int) -> None:
        super().__init__(count, checkpoint_s=1.0)
        for session in self.sessions:
            session.peer = Listener()
        self.held = {session.id for session in self.sessions[count // 2 :][:held]}
        self.attempts: list[int] = []

    async def write(self, checkpoints: Sequence[Checkpoint], seen: bool) -> set[UUID]:
        self.attempts.append(len(checkpoints))
        if not self.held.isdisjoint(checkpoint.session.id for checkpoint in checkpoints):
            await asyncio.sleep(0.5)
            raise asyncpg.LockNotAvailableError("canceling statement due to lock timeout")
        return await super().write(checkpoints, seen)

    @property
    def unsaved(self) -> set[UUID]:
        return {session.id for session in self.sessions if session.saved_version < session.version}

    async def run_for(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.gather(self.run(), self.try_again()), seconds)


@pytest.mark.parametrize("sessions", [1, 300, 4000])
def test_who_shares_a_part_with_a_held_row_is_saved_within_seconds_and_who_does_not_at_once(sessions: int) -> None:
    async def scenario() -> None:
        checkpoints = Holding(sessions, held=1)
        await checkpoints.run_for(1.6)
        assert len(checkpoints.unsaved) <= CHUNK
        await checkpoints.run_for(4.0)
        assert checkpoints.unsaved == checkpoints.held
        checkpoints.held = set()
        await checkpoints.run_for(1.0)
        assert not checkpoints.unsaved
        assert set().union(*(ids for _, ids in checkpoints.saved)) == {session.id for session in checkpoints.sessions}

    run_virtually(scenario())


def test_while_many_rows_are_held_the_others_have_their_turn_and_attempts_stay_few() -> None:
    async def scenario() -> None:
        checkpoints = Holding(1000, held=500)
        await checkpoints.run_for(9.0)
        assert len(checkpoints.unsaved) < 600
        for session in checkpoints.sessions[:400]:
            session.changed()
        checkpoints.attempts.clear()
        await checkpoints.run_for(10.0)
        assert checkpoints.unsaved.isdisjoint(session.id for session in checkpoints.sessions[:400])
        assert len(checkpoints.attempts) < 80
        checkpoints.held = set()
        await checkpoints.run_for(2.0)
        assert not checkpoints.unsaved

    run_virtually(scenario())


class Away(Unwritten):
    """Postgres answers nobody but after a while that it cannot."""

    def __init__(self, count: int, answers_after_s: float) -> None:
        super().__init__(count, checkpoint_s=1.0)
        for session in self.sessions:
            session.peer = Listener()
        self.answers_after_s = answers_after_s
        self.tried: list[set[UUID]] = []
        self.back = False

    async def write(self, checkpoints: Sequence[Checkpoint], seen: bool) -> set[UUID]:
        if self.back:
            return await super().write(checkpoints, seen)
        self.tried.append({checkpoint.session.id for checkpoint in checkpoints})
        await asyncio.sleep(self.answers_after_s)
        raise PostgresAway("away")


@pytest.mark.parametrize("answers_after_s", [0.0, 2.5])
def test_while_postgres_is_away_a_round_is_one_attempt_each_with_others(answers_after_s: float) -> None:
    async def scenario() -> None:
        checkpoints = Away(1000, answers_after_s)
        await asyncio.sleep(1.0)
        with capture_logs() as logs:
            await checkpoints.run_for(30.0)
        assert 8 <= len(checkpoints.tried) <= 30
        assert len(logs) == pytest.approx(len(checkpoints.tried), abs=1)
        assert all(first.isdisjoint(second) for first, second in pairwise(checkpoints.tried))
        checkpoints.back = True
        await checkpoints.run_for(1.1)
        assert all(session.saved_version == session.version for session in checkpoints.sessions)

    run_virtually(scenario())


def test_a_part_that_postgres_never_answers_takes_only_its_own_turn() -> None:
    async def scenario() -> None:
        checkpoints = Unwritten(160, checkpoint_s=1.0)
        write, lost = checkpoints.write, checkpoints.sessions[0].id

        async def answer(batch: Sequence[Checkpoint], seen: bool) -> set[UUID]:
            if any(checkpoint.session.id == lost for checkpoint in batch):
                await asyncio.sleep(2.5)
                raise PostgresAway("no answer in time")
            return await write(batch, seen)

        checkpoints.write = answer  # type: ignore[method-assign,assignment]
        await asyncio.sleep(1.0)
        await checkpoints.run_for(5.0)
        assert sum(len(ids) for _, ids in checkpoints.saved) == 150

    run_virtually(scenario())

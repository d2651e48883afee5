"""Checkpoints: every second all changed sessions of the process, some at a time, each time in one fenced statement.

A checkpoint passes only under the epoch that it was claimed with. A session that does not pass is a zombie: it is
dropped, nothing of its stream is trimmed, and its socket learns who took it.

Where Postgres does not answer the round ends, and the next begins with those who did not have their turn. Where
somebody holds a row for longer than a moment, the part with it is put off: it is tried again beside the rounds, in
smaller and smaller parts, until whoever is held up is alone. So a held row delays its own session, others by seconds.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, count, takewhile
from uuid import UUID

import asyncpg
import structlog

from actors.outages import postponed
from actors.registry import Registry
from actors.video_session.actor import Checkpoint, VideoSession
from server import metrics
from server.clock import Clock
from server.config import Sessions
from server.data.db import DATABASE_AWAY, Database, queries
from server.data.streams import REDIS_AWAY, Streams

log = structlog.get_logger()
sessions_sql = queries("sessions")

# Sessions of one statement at most: to pack a row takes the loop's time, to write it Postgres', while frames wait.
CHUNK = 128
# So many parts a round has at least: a thousand sessions at once would be felt once a second.
PARTS = 16
# Statements under way when all is saved at once: the next is packed while Postgres writes the one before, or waits for
# the disk.
WRITERS = 3
# A session's stream is trimmed when this many of its entries are saved.
TRIM = 64
# A session with a socket but nothing to save is renewed this often, so that it counts as seen; where
# `sessions.live_window_s` is short, within half of that.
TOUCH_S = 20.0
# So many in one statement.
TOUCHED = 500
# How Postgres refuses a row.
REFUSED = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError)
# How it says that somebody holds a row: longer than `save_checkpoints` waits, or in a deadlock. Nothing was written.
HELD = (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError)
# Frames that Redis did not take are let go this long after their socket went: the player still holds them.
GIVE_UP_S = 4.0
# So long a player may wait to hear that `saved` moved: the acknowledgement of its next frame says so too, and to write
# to a socket costs a quarter of what all else about a frame does.
UNTOLD_S = 0.5


class Checkpoints:
    """Saves what changed, tells players, trims streams, drops zombies and sessions that nobody needs."""

    def __init__(
        self,
        registry: Registry,
        db: Database,
        streams: Streams,
        settings: Sessions,
        clock: Clock,
        *,
        complete_share: float,
    ) -> None:
        self._registry = registry
        self._db = db
        self._streams = streams
        self._settings = settings
        self._clock = clock
        self._share = complete_share
        self._linger_s = min(settings.rest_idle_s, settings.suspend_after_s)
        self._touch_s = min(TOUCH_S, settings.live_window_s / 2)
        self._left: set[VideoSession] = set()
        self._kicked = asyncio.Event()
        self._saving = asyncio.Lock()
        # Sessions that are put off, with what is to be written of each; the rounds leave them out.
        self._held_up: dict[VideoSession, Checkpoint] = {}
        # In which parts: those of several before those who are known to be held up, each in their turn.
        self._put_off: asyncio.PriorityQueue[tuple[bool, int, Sequence[Checkpoint], bool]] = asyncio.PriorityQueue()
        self._turns = count()
        # Whose players do not know yet what is saved, and since when (monotonic seconds).
        self._untold: deque[tuple[VideoSession, float]] = deque()

    def kick(self, session: VideoSession) -> None:
        """Save this session soon, not only when its turn comes: its socket ended."""
        self._left.add(session)
        self._kicked.set()

    async def run(self) -> None:
        """Save until cancelled: each session once in `checkpoint_s` if it changed, evenly over that time, and those of
        sockets that end in between."""
        loop = asyncio.get_running_loop()
        while True:
            # Who came in the middle of the last round has their turn in the middle of this one; who was tried in vain,
            # after those who were not.
            held = sorted(self._registry.restless, key=lambda session: max(session.saved_at, session.tried_at))
            size = max(1, min(CHUNK, math.ceil(len(held) / PARTS)))
            parts = [held[start : start + size] for start in range(0, len(held), size)] or [[]]
            try:
                await self.touch(held)
                await self.touch(self._registry.resting)
                for part in parts:
                    until = loop.time() + self._settings.checkpoint_s / len(parts)
                    await self._save_part(part)
                    while await self._kicked_before(until):
                        left, self._left = self._left, set()
                        await self._save_part(left)
                        if loop.time() >= until:
                            break  # who leaves all the time takes nobody else's turn
            except DATABASE_AWAY as error:
                postponed("checkpoint_postponed", error)
                await asyncio.sleep(self._settings.checkpoint_s)

    async def try_again(self) -> None:
        """Save what is put off, until cancelled. Raises PostgresAway.

        One statement after the other, each of which waits for the row that is held: so there are few of them, however
        long that lasts and however many rows they are.
        """
        while True:
            alone, turn, checkpoints, seen = await self._put_off.get()
            # Some may have been saved meanwhile, or put off anew with more to write.
            due = [checkpoint for checkpoint in checkpoints if self._held_up.get(checkpoint.session) is checkpoint]
            try:
                if due:
                    await self._send(due, seen)
            except HELD:
                self._put_off_halves(due, seen)
            except BaseException:
                self._put_off.put_nowait((alone, turn, due, seen))
                raise

    async def tell(self) -> None:
        """Tell players of what is saved where no acknowledgement of a frame did so within `UNTOLD_S`."""
        now = self._clock.monotonic()
        while self._untold and self._untold[0][1] <= now - UNTOLD_S:
            session, since = self._untold.popleft()
            if session.last_ack_at <= since:
                session.send_ack(now)

    async def _kicked_before(self, until: float) -> bool:
        """Wait for a socket to end, until then (by the loop's clock) at most; whether one did."""
        try:
            async with asyncio.timeout_at(until):
                await self._kicked.wait()
        except TimeoutError:
            return False
        self._kicked.clear()
        return True

    async def touch(self, held: Iterable[VideoSession]) -> None:
        """Say of sessions with a socket but nothing to save that they are seen; `held` are sorted by when they were
        saved. Raises PostgresAway."""
        long_ago = self._clock.monotonic() - self._touch_s
        due = [
            session
            for session in takewhile(lambda session: session.saved_at < long_ago, held)
            if session.peer is not None and session.version == session.saved_version
        ]
        for start in range(0, len(due), TOUCHED):
            part = {session.id: session for session in due[start : start + TOUCHED] if not session.dropped}
            async with self._saving, self._db.connection() as connection:
                rows = await sessions_sql.touch_sessions(
                    connection,
                    owner=self._registry.process_id,
                    ids=sorted(part),
                    epochs=[part[session_id].epoch for session_id in sorted(part)],
                )
            now = self._clock.monotonic()
            for row in rows:
                session = part.pop(row["id"])
                session.saved_at = now
                self._registry.rest(session)
            if part:
                await self.check_fences(part.values())

    async def _save_part(self, sessions: Iterable[VideoSession]) -> None:
        async with self._saving:
            free = [session for session in sessions if session not in self._held_up]
            for batch in self._batches(free, release=False):
                await self.save(batch)

    async def save_changed(self, *, release: bool = False) -> None:
        """Save every session that changed, now, but those held up; with `release` all, given up, those held up apart
        from the others. What is put off `try_again` saves. Raises PostgresAway."""
        async with self._saving:
            free = [session for session in self._registry if session not in self._held_up]
            held_up = [session for session in self._registry if release and session in self._held_up]
            batches = chain(self._batches(free, release=release), self._batches(held_up, release=release))

            async def work() -> None:
                for batch in batches:
                    await self.save(batch)
                    await asyncio.sleep(0)  # what waits has its turn between two batches

            for outcome in await asyncio.gather(*(work() for _ in range(WRITERS)), return_exceptions=True):
                if isinstance(outcome, BaseException):
                    raise outcome

    def _batches(self, sessions: Iterable[VideoSession], *, release: bool) -> Iterator[list[Checkpoint]]:
        """What is due of these, in batches sorted by id, each taken when it is asked for: all at once would hold the
        loop."""
        now = self._clock.monotonic()
        due: list[Checkpoint] = []
        # Most of those who are silent are left out before they are asked: there may be ten thousand.
        asked = [
            session
            for session in sessions
            if release or session.version != session.saved_version or session.version != session.figured_version
            or session.peer is None or session.bye
        ]  # fmt: skip
        for session in asked:
            if not session.dropped and (checkpoint := self._due(session, now, release)):
                due.append(checkpoint)
                if len(due) == CHUNK:
                    yield sorted(due, key=_id)
                    due = []
        if due:
            yield sorted(due, key=_id)

    def _due(self, session: VideoSession, now: float, release: bool) -> Checkpoint | None:
        leave = release or session.ends or self._is_idle(session, now)
        figured = session.figured_version == session.version or now - session.figured_at < self._settings.figures_s
        if leave or not figured or session.version != session.saved_version:
            return session.checkpoint(release=leave, complete_share=self._share if leave or not figured else None)
        return None

    def _is_idle(self, session: VideoSession, now: float) -> bool:
        # Who said `bye` is to end with all that came before it, and its player may never come back to say so again.
        give_up_s = self._settings.end_after_s if session.bye else GIVE_UP_S
        return session.idle(now, self._linger_s, give_up_s)

    async def save_late(self, sessions: Iterable[VideoSession]) -> None:
        """Save of these, which were let go, what came to them after their last checkpoint. Raises PostgresAway."""
        late = sorted((s for s in sessions if s.version != s.saved_version or s.pending), key=lambda s: s.id.int)
        for start in range(0, len(late), CHUNK):
            await self.save([self.last(session) for session in late[start : start + CHUNK]])

    def last(self, session: VideoSession) -> Checkpoint:
        """What to write of a session that is given up."""
        return session.checkpoint(release=True, complete_share=self._share)

    async def save(self, checkpoints: Sequence[Checkpoint], *, seen: bool = True) -> None:
        """Write these, of sessions sorted by id, and act on what came of each, or put them off. Raises PostgresAway."""
        try:
            await self._send(checkpoints, seen)
        except HELD as error:
            postponed("checkpoint_held_up", error, sessions=len(checkpoints))
            self._held_up.update((checkpoint.session, checkpoint) for checkpoint in checkpoints)
            self._put_off_halves(checkpoints, seen)

    async def _send(self, checkpoints: Sequence[Checkpoint], seen: bool) -> None:
        """As `save`, but nothing is put off. Raises one of HELD, PostgresAway."""
        await asyncio.sleep(0)  # they were just taken; to pack them takes as long again
        started = self._clock.monotonic()
        for checkpoint in checkpoints:
            checkpoint.session.tried_at = started
        try:
            saved = await self.write(checkpoints, seen)
        except REFUSED as error:
            await self._bisect(checkpoints, seen, error)
            return
        self._let_on(checkpoints)
        now = self._clock.monotonic()
        metrics.CHECKPOINT_SECONDS.observe(now - started)
        passed = [c for c in checkpoints if c.session.id in saved]
        metrics.CHECKPOINT_ROWS.inc(len(passed))
        metrics.CHECKPOINT_FIGURES.inc(sum(c.sums is not None for c in passed))
        metrics.CHECKPOINT_BYTES.inc(sum(len(c.state) for c in passed))
        metrics.FENCED_WRITES.inc(len(checkpoints) - len(passed))
        for checkpoint in passed:
            if checkpoint.session.saved_as(checkpoint, now):
                self._untold.append((checkpoint.session, now))
                if checkpoint.released:
                    checkpoint.session.send_ack(now)  # it may be the last word
            self._registry.rest(checkpoint.session)
            self._drop_if_done(checkpoint, now)
        await self._trim(passed)
        if fenced := [c.session for c in checkpoints if c.session.id not in saved]:
            await self.check_fences(fenced)

    async def write(self, checkpoints: Sequence[Checkpoint], seen: bool) -> set[UUID]:
        """The statement alone; whose rows passed. Raises one of REFUSED, HELD, PostgresAway."""
        ids = [c.session.id for c in checkpoints]
        async with self._db.connection() as connection:
            passed = await sessions_sql.save_checkpoints(
                connection,
                owner=self._registry.process_id,
                ids=ids,
                epochs=[c.session.epoch for c in checkpoints],
                states=[c.state.decode() for c in checkpoints],
                seqs=[c.cursor[0] for c in checkpoints],
                subs=[str(c.cursor[1]) for c in checkpoints],
                duplicates=[c.duplicates for c in checkpoints],
                decisions=[c.decision.decode() for c in checkpoints],
                ranges=[c.ranges for c in checkpoints],
                positions=[c.position_ms for c in checkpoints],
                seen=seen,
                released=[c.released for c in checkpoints],
                statuses=[c.status for c in checkpoints],
                sums=[None if c.sums is None else "{" + ",".join(map(str, c.sums)) + "}" for c in checkpoints],
                percents=[c.percents for c in checkpoints],
                complete_share=self._share,
            )
        return set(ids if passed is None else passed)

    def _put_off_halves(self, checkpoints: Sequence[Checkpoint], seen: bool) -> None:
        """Somebody holds a row of these: leave them to `try_again`."""
        half = len(checkpoints) // 2
        for part in (checkpoints[:half], checkpoints[half:]):
            if part:
                self._put_off.put_nowait((half == 0, next(self._turns), part, seen))

    def _let_on(self, checkpoints: Sequence[Checkpoint]) -> None:
        """These are done with: the rounds have their sessions again."""
        for checkpoint in checkpoints if self._held_up else ():
            if self._held_up.get(checkpoint.session) is checkpoint:
                del self._held_up[checkpoint.session]

    async def _bisect(self, checkpoints: Sequence[Checkpoint], seen: bool, error: Exception) -> None:
        """Postgres refuses a row among these: save the others, give the one up."""
        if len(checkpoints) > 1:
            half = len(checkpoints) // 2
            await self.save(checkpoints[:half], seen=seen)
            await self.save(checkpoints[half:], seen=seen)
            return
        refused = checkpoints[0]
        session = refused.session
        self._let_on(checkpoints)
        metrics.DEAD_LETTERS.inc()
        log.error("checkpoint_refused", session=str(session.id), error=repr(error), state=refused.state.decode())
        self._registry.drop(session, 1011, "internal_error")
        try:
            await self._streams.bury_state(session.key, refused.cursor, refused.state, repr(error))
        except REDIS_AWAY as away:
            postponed("dead_letter_not_kept", away, session=str(session.id))

    def _drop_if_done(self, checkpoint: Checkpoint, now: float) -> None:
        """A session that was given up goes, unless something came in between: then the next checkpoint, under the same
        epoch, takes it back."""
        session = checkpoint.session
        idle = self._is_idle(session, now)
        if checkpoint.released and session.version == checkpoint.version and (idle or checkpoint.status):
            self._registry.drop(session, 1000 if session.bye else 1012, "bye" if session.bye else "restart")

    async def _trim(self, checkpoints: Sequence[Checkpoint]) -> None:
        """Drop from the streams what is saved. Who gave a session up looks once more whether something came to it
        meanwhile; who brought it looks afterwards whether somebody has the session (`Runtime.deliver`). Where Redis is
        away in that moment the reaper looks later, at what has ended. Raises PostgresAway."""
        trim = [c for c in checkpoints if c.released or c.frames - c.session.trimmed_frames >= TRIM]
        if not trim:
            return
        gone = [c for c in trim if c.released and self._registry.get(c.session.id) is not c.session]
        try:
            await self._streams.trim({c.session.key: c.cursor for c in trim if c.status != "ended"})
            unread = await self._streams.list_unread({c.session.key: c.cursor for c in gone})
            for checkpoint in trim:
                if checkpoint.status == "ended":
                    await self._streams.restart(checkpoint.session.key, checkpoint.cursor)
        except REDIS_AWAY as error:
            postponed("trim_postponed", error)
            # Of what has ended nobody would read the stream again, as a claim does of all others.
            unread = {c.session.key for c in gone if c.status == "ended"}
        else:
            for checkpoint in trim:
                checkpoint.session.trimmed_frames = checkpoint.frames
        if left := [c.session.id for c in gone if c.session.key in unread]:
            await sessions_sql.give_to_reaper(self._db, session_ids=left)

    async def check_fences(self, sessions: Iterable[VideoSession]) -> None:
        """Compare epochs with the rows; drop the sessions that are somebody else's now. Raises PostgresAway.

        Whoever took a session may be done with it before we hear of that: what we acknowledged since is the reaper's.
        """
        held = {session.id: session for session in sessions}
        async with self._db.connection() as connection:
            rows = await sessions_sql.list_fenced(
                connection, ids=list(held), epochs=[session.epoch for session in held.values()]
            )
        for row in rows:
            session = held[row["id"]]
            if row["epoch"] is None:
                self._registry.drop(session, 4404, "session_not_found")
            else:
                metrics.FENCED.inc()
                self._registry.fence_off(session, row["claimed_by"])
        if left := [row["id"] for row in rows if held[row["id"]].unsaved]:
            await sessions_sql.give_to_reaper(self._db, session_ids=left)


def _id(checkpoint: Checkpoint) -> int:
    return checkpoint.session.id.int

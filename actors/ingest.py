"""Frames into Redis and out again: one loop for all sessions of the process.

Self-clocked: when nothing is in flight a frame goes out at once, else when the last batch is answered, so that there
is no queue when idle and batches form by themselves under load. A frame leaves its session's pending ones only when it
was read back and applied; until then it is written again under the same id, which Redis refuses if it has it.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import structlog

from actors.outages import postponed
from actors.video_session.actor import VideoSession, decide_all
from server import metrics
from server.clock import Clock
from server.config import Sessions
from server.data.streams import REDIS_AWAY, Entry, Streams, Write, Written

log = structlog.get_logger()

# Bounds of one round trip: sessions, frames per session written, entries per session read. What more sessions hold than
# these is out of the processor's cache by the time that they are answered.
BATCH, FRAMES, ENTRIES = 200, 256, 512
# Round trips begin at least this far apart: at thousands of frames a second one alone costs several times as much as in
# company. Who comes after a pause still waits for nobody. Timers of the loop know whole milliseconds: with a full one
# most pauses are that long on top of the round trip, with a little less about half of them.
PACE_S = 0.0009
BACKOFF_S, MOST_BACKOFF_S = 0.05, 1.0


class _Came:
    """What came of one round trip: whether all went well, which sessions have something to tell, frames applied and
    left out, entries that could not be applied, sessions whose stream is in its own way."""

    __slots__ = ("dead", "frames", "gaps", "moved", "stuck", "well")

    def __init__(self) -> None:
        self.well = True
        self.moved: list[VideoSession] = []
        self.frames = self.gaps = 0
        self.dead: list[tuple[VideoSession, Entry, str]] = []
        self.stuck: list[VideoSession] = []


class Ingest:
    """The dispatcher. `mark` a session that has frames to write or may have entries to read."""

    def __init__(self, streams: Streams, settings: Sessions, clock: Clock) -> None:
        self._streams = streams
        self._settings = settings
        self._clock = clock
        self._dirty: dict[VideoSession, None] = {}
        self._wake = asyncio.Event()
        self._waiters: defaultdict[VideoSession, list[asyncio.Future[None]]] = defaultdict(list)

    def mark(self, session: VideoSession) -> None:
        """Look after this session in the next round trip."""
        if not self._dirty:
            self._wake.set()
        self._dirty[session] = None

    async def served(self, session: VideoSession, timeout_s: float) -> bool:
        """Wait until a round trip that begins from now on has looked after the session; False after `timeout_s`."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters[session].append(waiter)
        self.mark(session)
        try:
            async with asyncio.timeout(timeout_s):
                await waiter
        except TimeoutError:
            return False
        return True

    async def run(self) -> None:
        """Serve marked sessions until cancelled."""
        backoff_s = BACKOFF_S
        next_at = 0.0
        while True:
            await self._wake.wait()
            if (early_s := next_at - self._clock.monotonic()) > 0:
                await asyncio.sleep(early_s)
            next_at = self._clock.monotonic() + PACE_S
            batch = list(itertools.islice(self._dirty, BATCH))
            for session in batch:
                del self._dirty[session]
            if not self._dirty:
                self._wake.clear()
            for session in batch:
                if session.dropped:
                    _wake(self._waiters.pop(session, ()))
            if await self._serve([session for session in batch if not session.dropped]):
                backoff_s = BACKOFF_S
            else:
                await asyncio.sleep(backoff_s)
                backoff_s = min(2 * backoff_s, MOST_BACKOFF_S)

    async def _serve(self, batch: list[VideoSession]) -> bool:
        """One round trip; whether all went well."""
        if not batch:
            return True
        waiters = {session: self._waiters.pop(session, []) for session in batch} if self._waiters else {}
        now = self._clock.monotonic()
        writes = [session.next_write(FRAMES) for session in batch]
        kept_since = now - self._settings.stream_ttl_s / 24
        renew = [session for session in batch if session.kept_at < kept_since]
        try:
            written, read = await self._streams.write_and_read(
                [write for write in writes if write is not None],
                {s.key: s.state.cursor for s, write in zip(batch, writes, strict=True) if write is None},
                ENTRIES,
                [session.key for session in renew],
            )
        except REDIS_AWAY as error:
            postponed("redis_away", error, sessions=len(batch))
            self._put_back(batch, writes, waiters)
            return False
        answered_at = self._clock.monotonic()
        metrics.INGEST_SECONDS.observe(answered_at - now)
        came, answers = _Came(), iter(written)
        for session, write in zip(batch, writes, strict=True):
            answer = None if write is None else next(answers)
            self._settle(session, write, answer, read, came)
        for session, write in zip(batch, writes, strict=True) if renew else ():
            if session.kept_at < kept_since and (write is not None or session.key in read):
                session.kept_at = now
        decide_all(came.moved, self._settings.decision_ttl_ms)
        metrics.ACKS.inc(sum([session.answer(answered_at) for session in came.moved]))
        metrics.FRAMES.inc(came.frames)
        metrics.GAPS.inc(came.gaps)
        for session, entry, reason in came.dead:
            await self._bury(session, entry, reason)
        for session in came.stuck:
            await self._restart_stream(session)
        _wake(itertools.chain.from_iterable(waiters.values()))
        return came.well

    def _put_back(
        self,
        batch: list[VideoSession],
        writes: list[Write | None],
        waiters: Mapping[VideoSession, list[asyncio.Future[None]]],
    ) -> None:
        for session, write in zip(batch, writes, strict=True):
            if write is not None:
                session.mark_tried(len(write.frames))
            self.mark(session)
        for session, waiting in waiters.items():
            if left := [waiter for waiter in waiting if not waiter.done()]:
                self._waiters[session] += left

    def _settle(
        self,
        session: VideoSession,
        write: Write | None,
        answer: Written | None,
        read: Mapping[str, Sequence[Entry]],
        came: _Came,
    ) -> None:
        """Bring one session up to what Redis answered about its frames, and to what was read of its stream."""
        state = session.state
        entries: Sequence[Entry] = ()
        frames, gaps = state.frames, state.gaps
        if answer is not None and answer.whole:
            dead = session.take_written(answer.added)
        else:
            entries = read.get(session.key, ())
            if write is not None and answer is not None:
                dead = self._settle_in_part(session, len(write.frames), answer, entries, came)
            else:
                dead = session.take(entries)
        if dead:
            came.dead += [(session, entry, error) for entry, error in dead]
        if entries or (answer is not None and answer.error is None):
            came.moved.append(session)
            came.frames += state.frames - frames
            came.gaps += state.gaps - gaps
        if session.pending or len(entries) == ENTRIES:
            self.mark(session)

    def _settle_in_part(
        self, session: VideoSession, count: int, answer: Written, entries: Sequence[Entry], came: _Came
    ) -> list[tuple[Entry, str]]:
        """The same where not all of its `count` frames are new and all there is; the entries that cannot be applied."""
        if answer.error is None:
            session.settle_write(count, answer.added)
        else:
            came.well = False
            session.mark_tried(count)
            log.warning("frame_refused_by_redis", session=str(session.id), error=answer.error)
        dead = session.take(entries)
        if answer.added < count and session.pending and not entries:
            came.well = False
            if answer.error is None:
                came.stuck.append(session)
        return dead

    async def _restart_stream(self, session: VideoSession) -> None:
        """The stream refuses frames above our cursor as too old and has nothing above it either: what lay there is lost
        or was not a player's, and its top is in the way. All that it holds is applied here, so begin it anew; unless we
        are a zombie, and the session's new owner has written since we looked."""
        try:
            if await self._streams.restart(session.key, session.state.cursor, keep=True):
                session.kept_at = -math.inf  # the new one knows no time to live yet
                metrics.STREAMS_LOST.inc()
                log.error("stream_restarted", session=str(session.id), cursor=session.state.cursor)
        except REDIS_AWAY as error:
            postponed("redis_away", error, sessions=1)

    async def _bury(self, session: VideoSession, entry: Entry, error: str) -> None:
        metrics.DEAD_LETTERS.inc()
        log.error("dead_letter", session=str(session.id), entry=f"{entry.seq}-{entry.sub}", error=error)
        try:
            await self._streams.bury(session.key, entry, error, remove=not session.passed(entry))
        except REDIS_AWAY as away:
            postponed("dead_letter_not_kept", away, session=str(session.id))


def _wake(waiters: Iterable[asyncio.Future[None]]) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(None)

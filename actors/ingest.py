"""Frames into Redis and out again: one loop for all sessions of the process.

Self-clocked: when nothing is in flight a frame goes out at once, else when the last batch is answered, so that there
is no queue when idle and batches form by themselves under load. A frame leaves its session's pending ones only when it
was read back and applied; until then it is written again under the same id, which Redis refuses if it has it.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import structlog

from actors.outages import postponed
from actors.video_session.actor import VideoSession
from server import metrics
from server.clock import Clock
from server.config import Sessions
from server.data.streams import REDIS_AWAY, Entry, Streams, Write, Written

log = structlog.get_logger()

# Bounds of one round trip: sessions, frames per session written, entries per session read.
BATCH, FRAMES, ENTRIES = 1000, 256, 512
BACKOFF_S, MOST_BACKOFF_S = 0.05, 1.0


class Ingest:
    """The dispatcher. `mark` a session that has frames to write or may have entries to read."""

    def __init__(self, streams: Streams, settings: Sessions, clock: Clock) -> None:
        self._streams = streams
        self._settings = settings
        self._clock = clock
        self._dirty: dict[VideoSession, None] = {}
        self._wake = asyncio.Event()
        # Acknowledgements of this round trip: counting each would cost as much as making it.
        self._acks = 0
        self._waiters: defaultdict[VideoSession, list[asyncio.Future[None]]] = defaultdict(list)

    def mark(self, session: VideoSession) -> None:
        """Look after this session in the next round trip."""
        self._dirty[session] = None
        self._wake.set()

    async def served(self, session: VideoSession, timeout_s: float) -> bool:
        """Wait until a round trip that begins from now on has looked after the session; False after `timeout_s`."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters[session].append(waiter)
        self.mark(session)
        done, _ = await asyncio.wait([waiter], timeout=timeout_s)
        return bool(done)

    async def run(self) -> None:
        """Serve marked sessions until cancelled."""
        backoff_s = BACKOFF_S
        while True:
            await self._wake.wait()
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
        waiters = [waiter for session in batch for waiter in self._waiters.pop(session, ())]
        now = self._clock.monotonic()
        writes = {session: write for session in batch if (write := session.next_write(FRAMES))}
        renew = [session for session in batch if now - session.kept_at > self._settings.stream_ttl_s / 24]
        try:
            written, read = await self._streams.write_and_read(
                list(writes.values()),
                {session.key: session.state.cursor for session in batch},
                ENTRIES,
                [session.key for session in renew],
            )
        except REDIS_AWAY as error:
            postponed("redis_away", error, sessions=len(batch))
            self._put_back(batch, writes, waiters)
            return False
        answered_at = self._clock.monotonic()
        metrics.INGEST_SECONDS.observe(answered_at - now)
        for session in renew:
            session.kept_at = now if session.key in read or session in writes else session.kept_at
        results = dict(zip(writes, written, strict=True))
        dead: list[tuple[VideoSession, Entry, str]] = []
        stuck: list[VideoSession] = []
        well, frames, gaps = True, 0, 0
        for session in batch:
            result = results.get(session)
            entries = read.get(session.key, ())
            count = len(writes[session].frames) if result is not None else 0
            before, holes = session.state.frames, session.state.gaps
            well &= self._settle(session, count, result, entries, dead, answered_at)
            frames += session.state.frames - before
            gaps += session.state.gaps - holes
            if result is not None and result.added < count and session.pending and not entries:
                well = False
                if result.error is None:
                    stuck.append(session)
        metrics.FRAMES.inc(frames)
        metrics.GAPS.inc(gaps)
        metrics.ACKS.inc(self._acks)
        self._acks = 0
        for session, entry, reason in dead:
            await self._bury(session, entry, reason)
        for session in stuck:
            await self._restart_stream(session)
        _wake(waiters)
        return well

    def _put_back(
        self, batch: list[VideoSession], writes: Mapping[VideoSession, Write], waiters: list[asyncio.Future[None]]
    ) -> None:
        for session in batch:
            if session in writes:
                session.mark_tried(len(writes[session].frames))
            self.mark(session)
        if waiters:
            # Whom they wait for does not matter any more: any later round trip that succeeds covers this batch.
            self._waiters[batch[0]].extend(waiters)

    def _settle(
        self,
        session: VideoSession,
        count: int,
        result: Written | None,
        entries: Sequence[Entry],
        dead: list[tuple[VideoSession, Entry, str]],
        now: float,
    ) -> bool:
        """Bring one session up to what Redis answered about its `count` frames and its stream; whether all went well.
        Entries that cannot be applied are added to `dead`."""
        taken = result is not None and result.error is None
        if result is not None and result.whole:
            dead += [(session, entry, error) for entry, error in session.take_written(count)]
        elif result is not None and taken:
            session.settle_write(count, result.added)
        elif result is not None:
            session.mark_tried(count)
            log.warning("frame_refused_by_redis", session=str(session.id), error=result.error)
        if entries:
            dead += [(session, entry, error) for entry, error in session.take(entries)]
        if taken or entries:
            moved = bool(entries) or (result is not None and result.whole)
            self._acks += session.answer(self._settings.decision_ttl_ms, now, moved=moved)
        if session.pending or len(entries) == ENTRIES:
            self.mark(session)
        return result is None or taken

    async def _restart_stream(self, session: VideoSession) -> None:
        """The stream refuses frames above our cursor as too old and has nothing above it either: what it held is lost
        and its top is in the way. All that it held is applied here, so begin it anew; unless we are a zombie, and the
        session's new owner has written since we looked."""
        try:
            if await self._streams.restart(session.key, session.state.cursor):
                metrics.STREAMS_LOST.inc()
                log.error("stream_restarted", session=str(session.id), cursor=session.state.cursor)
        except REDIS_AWAY as error:
            postponed("redis_away", error, sessions=1)

    async def _bury(self, session: VideoSession, entry: Entry, error: str) -> None:
        metrics.DEAD_LETTERS.inc()
        log.error("dead_letter", session=str(session.id), entry=f"{entry.seq}-{entry.sub}", error=error)
        try:
            await self._streams.bury(session.key, entry, error)
        except REDIS_AWAY as away:
            postponed("dead_letter_not_kept", away, session=str(session.id))


def _wake(waiters: Iterable[asyncio.Future[None]]) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(None)

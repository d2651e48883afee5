"""Finishes what nobody holds: replays and saves sessions whose owner died, suspends and ends those long unseen."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from typing import Any

import structlog

from actors.checkpoints import Checkpoints, sessions_sql
from actors.outages import postponed
from actors.pulse import Pulse
from actors.recovery import recover
from actors.registry import Registry
from server import metrics
from server.clock import Clock
from server.config import Sessions
from server.data.db import DATABASE_AWAY, Database
from server.data.streams import REDIS_AWAY, Streams, stream_key

log = structlog.get_logger()

MOST = 100
# Between our clock and that of Postgres lies the time that a query takes.
SLACK_S = 1.0
# A claim of which nothing was heard for so long never went through, nor will.
SETTLED_S = 60.0


class Reaper:
    """In a process's first `grace_s` only its own strays and those that were seen since its start: after a crash of all
    processes players get to come back first."""

    def __init__(
        self,
        registry: Registry,
        checkpoints: Checkpoints,
        db: Database,
        streams: Streams,
        settings: Sessions,
        clock: Clock,
        pulse: Pulse,
    ) -> None:
        self._registry = registry
        self._checkpoints = checkpoints
        self._db = db
        self._streams = streams
        self._settings = settings
        self._clock = clock
        self._pulse = pulse
        self._began_at = clock.monotonic()
        # Until then a claim whose answer was lost may still go through: of what it claimed nobody would know.
        self._lost_until = -math.inf

    async def run(self) -> None:
        """Reap until cancelled."""
        while True:
            try:
                await self.reap_all()
            except (*DATABASE_AWAY, *REDIS_AWAY) as error:
                postponed("reaper_postponed", error)
            await asyncio.sleep(self._settings.reaper_s)

    async def reap_all(self) -> int:
        """Reap until nobody is due, two batches by turns: while Postgres writes one the other is folded. How many there
        were. Raises PostgresAway, RedisError."""
        reaped = 0

        async def work(*, strays: bool) -> None:
            nonlocal reaped
            more = True
            while more:
                count = await self.reap(strays=strays)
                reaped += count
                more = count >= MOST  # of those that have ended as many may come beside

        for outcome in await asyncio.gather(work(strays=True), work(strays=False), return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome
        return reaped

    async def reap(self, *, strays: bool = True) -> int:
        """Claim what is due, fold what its streams still hold, save it and let it go; how many there were. None while
        this process cannot tell who is dead.

        Of several at once only one may look after this process's own strays: what one is about, the next would claim
        again.
        """
        if not self._pulse.steady:
            return 0
        began_at = self._clock.monotonic()
        # Whom we hold is no stray: an opening that failed beside it matters only where its claim went through, and then
        # the sweep drops it first.
        own = {id_: at for id_, at in self._registry.strays.items() if strays and self._registry.get(id_) is None}
        try:
            async with self._db.connection() as connection:
                rows = await sessions_sql.claim_orphans(
                    connection,
                    owner=self._registry.process_id,
                    as_of=self._pulse.seen_at,
                    alive_s=self._settings.process_alive_s,
                    suspend_after_s=self._settings.suspend_after_s,
                    end_after_s=self._settings.end_after_s,
                    seen_within_s=self._young_s(),
                    strays=list(own),
                    lost=strays and began_at < self._lost_until,
                    most=MOST,
                )
        except BaseException:
            self._lost_until = self._clock.monotonic() + SETTLED_S
            raise
        try:
            await self.finish(sorted(rows, key=lambda row: row["id"]))
        except BaseException:
            self._registry.strays.update((row["id"], began_at) for row in rows)
            raise
        finished = {row["id"] for row in rows}
        settled_at = began_at - SETTLED_S
        for id_, at in own.items():
            # Who was not found may yet become ours: the claim waits for the row, or for Postgres to go on.
            gone = id_ in finished or (at < settled_at and len(rows) < MOST)
            if gone and self._registry.strays.get(id_) == at:
                del self._registry.strays[id_]
        return len(rows)

    def _young_s(self) -> float | None:
        """How old this process is while it is young, else None."""
        age_s = self._clock.monotonic() - self._began_at
        return age_s + SLACK_S if age_s < self._settings.grace_s else None

    async def finish(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Fold what the streams of sessions that were just claimed still hold, save them and let them go. What cannot
        be read stays as it is, under our name, and is kept for an operator. Raises PostgresAway, RedisError."""
        done = []
        for row in rows:
            try:
                session = await recover(row, self._streams, self._clock)
            except REDIS_AWAY:
                raise
            except Exception as error:  # whatever one session does, the others go on
                await self._give_up(row, error)
                continue
            session.retire_as = row["retire_as"]
            done.append(self._checkpoints.last(session))
        if done:
            await self._checkpoints.save(done, seen=False)
            metrics.REAPED.inc(len(done))

    async def _give_up(self, row: Mapping[str, Any], error: Exception) -> None:
        metrics.DEAD_LETTERS.inc()
        log.error("session_unreadable", session=str(row["id"]), exc_info=error)
        cursor = row["last_seq"], int(row["last_sub"])
        await self._streams.bury_state(stream_key(row["id"]), cursor, row["state"].encode(), repr(error))

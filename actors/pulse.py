"""This process's sign of life in Postgres, and how far the silence of others may be believed."""

from __future__ import annotations

import math
from datetime import datetime
from uuid import UUID

from actors.outages import looked_at
from server.clock import Clock
from server.data.db import Database, queries

sessions_sql = queries("sessions")

BEAT_S = 1.0


class Pulse:
    """Beats once a second (`processes.seen_at`). A hint, never a lock: correctness is the epoch's alone.

    Who could not say itself that it lives must not conclude from the others' silence that they are dead: after an
    outage of Postgres all rows are equally old, and the first process to be back would take every other's sessions.
    """

    def __init__(self, db: Database, process_id: UUID, clock: Clock, alive_s: float) -> None:
        self.process_id = process_id
        self._db = db
        self._clock = clock
        self._alive_s = alive_s
        self._beaten_at = math.inf  # not yet
        # The same by the clock of Postgres.
        self.seen_at: datetime | None = None
        self._distrusts_until = -math.inf

    @property
    def steady(self) -> bool:
        """Whether a process that was not seen for `sessions.process_alive_s` is dead as far as one can tell."""
        now = self._clock.monotonic()
        return now - self._beaten_at <= 2 * BEAT_S and now >= self._distrusts_until

    async def beat(self) -> None:
        """Say that this process lives. Raises PostgresAway."""
        with looked_at("postgres"):
            async with self._db.connection() as connection:
                self.seen_at = await sessions_sql.beat(connection, process_id=self.process_id)
        now = self._clock.monotonic()
        if math.isfinite(self._beaten_at) and now - self._beaten_at > 2 * BEAT_S:
            self._distrusts_until = now + self._alive_s
        self._beaten_at = now

    async def cease(self) -> None:
        """Say that this process is gone: what it still owns may be taken at once. Raises PostgresAway."""
        async with self._db.connection() as connection:
            await sessions_sql.leave(connection, process_id=self.process_id)

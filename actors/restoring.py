"""A state that Postgres refused, given to it once more by an operator when what was wrong is mended."""

from __future__ import annotations

from uuid import UUID, uuid4

from actors.checkpoints import REFUSED, Checkpoints, sessions_sql
from actors.recovery import recover
from actors.registry import Registry
from server.clock import Clock
from server.config import Sessions
from server.data.db import Database
from server.data.dead_letters import Outcome
from server.data.streams import Streams


class Restorer:
    """Does as a reaper does, but begins with the state of the letter, for the stream may be gone."""

    def __init__(self, db: Database, streams: Streams, settings: Sessions, *, complete_share: float) -> None:
        self._db = db
        self._streams = streams
        self._clock = Clock()
        self._registry = Registry(uuid4())
        self._checkpoints = Checkpoints(
            self._registry, db, streams, settings, self._clock, complete_share=complete_share
        )

    async def restore(self, session_id: UUID, cursor: tuple[int, int], state: bytes) -> Outcome:
        """Claim the session, apply what its stream holds after the state, save it and let it go. A player who watches
        opens another socket (1012). Raises PostgresAway, RedisError.
        """
        standing = await sessions_sql.get_standing(self._db, session_id=session_id)
        if standing is not None and (standing["last_seq"], int(standing["last_sub"])) >= cursor:
            return Outcome.SAVED
        row = await sessions_sql.claim_session(
            self._db,
            session_id=session_id,
            owner=self._registry.process_id,
            claimed_by="reaper",
            expected=None,
            until=None,
        )
        if row is None:
            return Outcome.GONE
        refused = {"state": state, "last_seq": cursor[0], "last_sub": cursor[1]}
        session = await recover({**row, **refused}, self._streams, self._clock)
        session.placed = None  # no row ever had this state, and no progress its place
        try:
            passed = await self._checkpoints.write([session.checkpoint(release=True)], seen=False)
        except REFUSED:
            return Outcome.REFUSED
        return Outcome.REPLAYED if passed else Outcome.TAKEN

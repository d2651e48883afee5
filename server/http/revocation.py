"""When a role or a password changes, `users.ver` rises, and what was opened with a token of before ends.

Requests see it in `Versions`; sockets are looked at here. Whoever changes a user announces it, so that every process
knows at once; should the announcement be lost, each process asks every few seconds who was changed lately.
"""

import asyncio
import contextlib
from collections.abc import Mapping
from uuid import UUID

from server.data.db import DATABASE_AWAY, Database, queries
from server.data.streams import Streams
from server.http.auth import Versions
from server.http.socket import Sockets
from server.logs import get_logger

REVOKED = "revoked"
CREDENTIALS = 4401, "credentials"
# A change is dated when its transaction began, and seen when that is through: none takes as long.
LONGEST_S = 60.0

_users = queries("principals")
log = get_logger()


class Revocation:
    """The end of sockets whose users' versions moved on, in every process."""

    def __init__(
        self, database: Database, versions: Versions, sockets: Sockets, streams: Streams, max_age_s: float
    ) -> None:
        self._database = database
        self._versions = versions
        self._sockets = sockets
        self._streams = streams
        # A socket may have been opened on a version that was cached just before it changed.
        self._max_age_s = max_age_s
        self._every_s = max(max_age_s / 2, 0.2)

    async def announce(self, user_id: UUID) -> None:
        """A change of this user was committed. Never raises when Redis or Postgres is away: then it is found later."""
        await self.heard(user_id)
        await self._streams.announce(REVOKED, user_id)

    async def heard(self, user_id: UUID) -> None:
        """Some process changed this user."""
        self._versions.forget(user_id)
        with contextlib.suppress(*DATABASE_AWAY):
            ver = await _users.get_user_version(self._database, user_id=user_id)
            self._end_older({user_id: ver})

    async def run(self) -> None:
        """Ask who was changed again and again, until cancelled."""
        loop = asyncio.get_running_loop()
        asked_at = loop.time()
        while True:
            await asyncio.sleep(self._every_s)
            began_at = loop.time()
            within_s = began_at - asked_at + self._max_age_s + LONGEST_S
            try:
                rows = await _users.list_changed_versions(self._database, within_s=within_s)
                self._end_older({row["id"]: row["ver"] for row in rows})
                asked_at = began_at
            except DATABASE_AWAY as error:
                log.warning("postponed", error=repr(error))
            except Exception:
                log.exception("revocation_failed")

    def _end_older(self, versions: Mapping[UUID, int | None]) -> None:
        """End the sockets of these users that were opened with an older version, or whose user is gone."""
        for socket in self._sockets if versions else ():
            ver = versions.get(socket.principal.id, 0)
            if ver is None or ver > socket.principal.ver:
                socket.end(*CREDENTIALS)

"""When a role or a password changes, `users.ver` rises, and what was opened with a token of before ends.

Requests see it in `Versions`; sockets are looked at here. Whoever changes a user announces it, so that every process
knows at once; should the announcement be lost, each process compares all of its sockets every few seconds.
"""

import asyncio
import contextlib
from collections.abc import Iterable
from uuid import UUID

from server.data.db import DATABASE_AWAY, Database, queries
from server.data.streams import Streams
from server.http.auth import Versions
from server.http.socket import Socket, Sockets
from server.logs import get_logger

REVOKED = "revoked"
CREDENTIALS = 4401, "credentials"
# Sockets that one statement asks about.
SLICE = 1000

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
        self._every_s = max(max_age_s / 2, 0.2)

    async def announce(self, user_id: UUID) -> None:
        """A change of this user was committed. Never raises when Redis or Postgres is away: then it is found later."""
        await self.heard(user_id)
        await self._streams.announce(REVOKED, user_id)

    async def heard(self, user_id: UUID) -> None:
        """Some process changed this user."""
        self._versions.forget(user_id)
        with contextlib.suppress(*DATABASE_AWAY):
            await self._end_revoked(socket for socket in self._sockets if socket.principal.id == user_id)

    async def run(self) -> None:
        """Look at all sockets again and again, until cancelled."""
        while True:
            await asyncio.sleep(self._every_s)
            try:
                await self._end_revoked(self._sockets)
            except DATABASE_AWAY as error:
                log.warning("postponed", error=repr(error))
            except Exception:
                log.exception("revocation_failed")

    async def _end_revoked(self, sockets: Iterable[Socket]) -> None:
        every = list(sockets)
        for start in range(0, len(every), SLICE):
            held = every[start : start + SLICE]
            rows = await _users.list_revoked(
                self._database,
                ids=[socket.principal.id for socket in held],
                versions=[socket.principal.ver for socket in held],
            )
            if revoked := {row["id"] for row in rows}:
                for socket in held:
                    if socket.principal.id in revoked:
                        socket.end(*CREDENTIALS)

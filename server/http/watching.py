"""Who watches at this process's sockets: new credentials before the old ones run out, and the end of those who may not
watch any more."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import structlog

from server.clock import Clock
from server.config import Config
from server.data.db import DATABASE_AWAY, Database, Record, queries
from server.data.streams import Streams
from server.http.auth import Claims, Tokens
from server.http.socket import Socket
from server.services.video_host import VideoHost
from server.timer_wheel import TimerWheel

# What processes tell one another when somebody may have lost access.
ACCESS_ENDED = "access_ended"
# Sockets that one statement asks about.
ASKED_AT_ONCE = 1000
# Credentials are renewed when this share of their time is left.
RENEW_SHARE = 0.2
RETRY_S = 5.0
# How often it is looked for credentials that run out, and how finely they are told apart.
RENEWALS_S = 1.0
RENEWALS_STEP_S = 0.25
NOT_ENTITLED = 4403, "not_entitled"

log = structlog.get_logger()
sessions = queries("sessions")


@dataclass(slots=True)
class Watcher:
    """Who watches what at a session's socket, and when new credentials are due (monotonic seconds)."""

    session_id: UUID
    video_id: UUID
    claims: Claims
    renew_at: float


class Watching:
    """The watchers by socket. `credentials` makes a message of a session's token, its playback addresses and until when
    both are good."""

    def __init__(
        self,
        config: Config,
        database: Database,
        streams: Streams,
        tokens: Tokens,
        video_host: VideoHost,
        clock: Clock,
        credentials: Callable[[str, dict[str, Any] | None, datetime], bytes],
    ) -> None:
        self._config = config
        self._database = database
        self._streams = streams
        self._tokens = tokens
        self._video_host = video_host
        self._clock = clock
        self._credentials = credentials
        self._watchers: dict[Socket, Watcher] = {}
        self._renewals: TimerWheel[Socket] = TimerWheel(RENEWALS_STEP_S, clock.monotonic())

    def __iter__(self) -> Iterator[tuple[Socket, Watcher]]:
        return iter(self._watchers.items())

    def add(self, socket: Socket, watcher: Watcher) -> None:
        """Somebody watches from now on."""
        self._watchers[socket] = watcher
        self._renewals.put(socket, watcher.renew_at)

    def remove(self, socket: Socket) -> None:
        """The socket has ended."""
        self._renewals.remove(socket, self._watchers.pop(socket).renew_at)

    # Credentials -----------------------------------------------------------------------------------------------------

    def token(self, session_id: UUID, user_id: UUID, ver: int, role: str) -> str:
        """A new token of a session's."""
        return self._tokens.issue_session(user_id, session_id, ver, role, self._config.sessions.token_ttl_s)[0]

    def playback(self, video: Record) -> dict[str, Any] | None:
        """Signed addresses that are good no longer than the viewer's right to watch."""
        uid = video["cloudflare_uid"]
        return self._video_host.playback(uid, video["ends_at"]) if uid else None

    def first_renewal(self, age_s: float, ends_at: datetime | None) -> float:
        """When a session of this age needs new credentials (monotonic seconds).

        Its first ones are as old as itself, and what an earlier socket renewed is not known here: one that is older
        than they are good for gets new ones at once. Whose right to watch ends meanwhile is told so then, by a code
        that keeps players from coming back.
        """
        pause_s = min(max(0.0, self._renewed_every_s() - age_s), self._left_s(ends_at))
        return self._clock.monotonic() + pause_s

    async def renew(self) -> None:
        """Send new credentials where the old ones run out soon; end the sockets of those whose right to watch has
        ended. While Postgres is away it is tried again."""
        now = self._clock.monotonic()
        due = self._renewals.due(now)
        for socket in due:  # whatever comes between, each has its turn again
            self._plan(socket, now + RETRY_S)
        for socket in due:
            if watcher := self._watchers.get(socket):  # else it ended while another was asked about
                with suppress(*DATABASE_AWAY):
                    self._plan(socket, await self._renew(socket, watcher))

    def _plan(self, socket: Socket, renew_at: float) -> None:
        if watcher := self._watchers.get(socket):
            self._renewals.remove(socket, watcher.renew_at)
            watcher.renew_at = renew_at
            self._renewals.put(socket, renew_at)

    async def _renew(self, socket: Socket, watcher: Watcher) -> float:
        """When to look again. Raises DATABASE_AWAY."""
        claims = watcher.claims
        video = await sessions.get_watchable_video(
            self._database, video_id=watcher.video_id, viewer_id=claims.sub, viewer_role=claims.role
        )
        if video is None or not video["may_watch"]:
            socket.end(*NOT_ENTITLED)
            return math.inf
        left_s = self._left_s(video["ends_at"])
        token, playback = self.token(watcher.session_id, claims.sub, claims.ver, claims.role), self.playback(video)
        expires_at = self._clock.now() + timedelta(seconds=min(self._config.sessions.token_ttl_s, left_s))
        if playback is not None:
            expires_at = min(expires_at, playback["expires_at"])
        socket.send(self._credentials(token, playback, expires_at))
        return self._clock.monotonic() + min(self._renewed_every_s(), left_s)

    def _renewed_every_s(self) -> float:
        """Early enough that the old ones are still good when it is next looked for them."""
        least_s = min(self._config.sessions.token_ttl_s, self._video_host.playback_least_s)
        return max(0.0, least_s * (1 - RENEW_SHARE) - RENEWALS_S)

    def _left_s(self, ends_at: datetime | None) -> float:
        """Until the right to watch ends; a moment more, so that it has ended when one asks again."""
        return math.inf if ends_at is None else max(0.0, (ends_at - self._clock.now()).total_seconds()) + 0.1

    # Access ----------------------------------------------------------------------------------------------------------

    async def announce_access_ended(self, user_id: UUID) -> None:
        """Somebody may have lost access: every process looks at their sockets now. Never raises when Redis or Postgres
        is away: then it is found later."""
        await self.hear_access_ended(user_id)
        await self._streams.announce(ACCESS_ENDED, user_id)

    async def hear_access_ended(self, user_id: UUID) -> None:
        """Some process learned that somebody may have lost access. Never raises when Postgres is away."""
        with suppress(*DATABASE_AWAY):
            await self.end_unentitled(user_id)

    async def end_unentitled(self, user_id: UUID | None = None) -> None:
        """End the sockets of those who may not watch any more: who left or got their money back, whose course was
        closed; of one user or of all. Raises DATABASE_AWAY."""
        held = [each for each in self if user_id is None or each[1].claims.sub == user_id]
        for start in range(0, len(held), ASKED_AT_ONCE):
            part = held[start : start + ASKED_AT_ONCE]
            rows = await sessions.list_unentitled(
                self._database,
                video_ids=[watcher.video_id for _, watcher in part],
                viewer_ids=[watcher.claims.sub for _, watcher in part],
                roles=[watcher.claims.role for _, watcher in part],
            )
            for row in rows:
                part[row["place"] - 1][0].end(*NOT_ENTITLED)

    async def run(self) -> None:
        """Ask of all, every `sessions.entitled_s`, until cancelled: rights end in more ways than are announced."""
        while True:
            await asyncio.sleep(self._config.sessions.entitled_s)
            try:
                await self.end_unentitled()
            except DATABASE_AWAY as error:
                log.warning("not_asked_who_may_watch", error=str(error))

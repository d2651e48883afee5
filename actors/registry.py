"""Which sessions this process holds."""

from __future__ import annotations

import random
from collections.abc import Iterator
from uuid import UUID

from actors.video_session.actor import Peer, VideoSession
from server import metrics

# Players told to come back do so spread over this time.
RETRY_MS = (100, 1500)


def retry_ms() -> int:
    """When a player should come back: jittered, so that a thousand of them do not come at once."""
    return random.randint(*RETRY_MS)


def end(peer: Peer, code: int, reason: str) -> None:
    """Close a player's socket with this code, and say when to come back where the code asks for that."""
    peer.end(code, reason, retry_ms() if code in (1012, 1013) else None)


class Registry:
    """The sessions by id; at most one object each, that of the highest epoch."""

    def __init__(self, process_id: UUID) -> None:
        self.process_id = process_id
        self._sessions: dict[UUID, VideoSession] = {}
        # Each is in one of these. Those at rest are in the order in which they were saved: of ten thousand silent ones
        # only those that are due have to be looked at.
        self.restless: dict[VideoSession, None] = {}
        self.resting: dict[VideoSession, None] = {}
        self._told = self._stir
        # Claimed by this process, perhaps, and yet not held, for a part was away in between; since when (monotonic
        # seconds). The reaper finishes them.
        self.strays: dict[UUID, float] = {}

    def __iter__(self) -> Iterator[VideoSession]:
        return iter(self._sessions.values())

    def __len__(self) -> int:
        return len(self._sessions)

    def get(self, session_id: UUID) -> VideoSession | None:
        """The session if this process holds it."""
        return self._sessions.get(session_id)

    def add(self, session: VideoSession) -> None:
        """Hold a session that was just claimed; one of a lower epoch is superseded, of a higher one wins."""
        self.strays.pop(session.id, None)
        held = self._sessions.get(session.id)
        if held is not None and held.epoch > session.epoch:
            self.fence_off(session, held.claimed_by)
            return
        if held is not None:
            self.fence_off(held, session.claimed_by)
        self._sessions[session.id] = session
        self.restless[session] = None
        metrics.SESSIONS.set(len(self._sessions))

    def rest(self, session: VideoSession) -> None:
        """The session was saved or seen just now: when it is at rest, it is not looked at until it changes."""
        if session.at_rest and self._sessions.get(session.id) is session:
            self._forget(session)
            self.resting[session] = None
            session.on_stir = self._told

    def _stir(self, session: VideoSession) -> None:
        self._forget(session)
        self.restless[session] = None

    def _forget(self, session: VideoSession) -> None:
        session.on_stir = None
        self.restless.pop(session, None)
        self.resting.pop(session, None)

    def fence_off(self, session: VideoSession, claimed_by: str | None) -> None:
        """Let go of a session that was claimed under a higher epoch. Its player is to come back, unless it was its own
        newer socket."""
        superseded = claimed_by == "socket"
        self.drop(session, 4409 if superseded else 1012, "superseded" if superseded else "restart")

    def drop(self, session: VideoSession, code: int, reason: str) -> None:
        """Let go of a session and end its socket, if it has one, with this close code."""
        session.dropped_as = code, reason
        if self._sessions.get(session.id) is session:
            del self._sessions[session.id]
            self._forget(session)
        metrics.SESSIONS.set(len(self._sessions))
        if session.peer is not None:
            end(session.peer, code, reason)
            session.peer = None

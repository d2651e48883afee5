"""A user's conversation in this process: the sockets that listen to it, and the answer that is given here, if any.

What sockets are told is read from the user's stream, from each one's own cursor, whoever writes it: so all of them see
the same, on whichever process they are, and one that comes back goes on where it left off. A task exists only while
there is something to read.
"""

from __future__ import annotations

import asyncio
from typing import Protocol
from uuid import UUID

import structlog

from actors.conversation.answering import Answering
from actors.conversation.messages import Delta, Failed, encode
from actors.conversation.state import rest_of
from actors.conversation.turns import Turns, closing_frame
from actors.outages import AWAY, postponed
from server.data.answers import END, Answers, Entry
from server.data.db import Record

log = structlog.get_logger()

# Entries that are read at once.
PAGE = 500
RETRY_S = 0.25


class Peer(Protocol):
    """The client's end of a socket, as a conversation sees it. Nothing here blocks or raises."""

    def send(self, payload: bytes) -> None:
        """Send one frame."""

    def end(self, code: int, reason: str, retry_ms: int | None = None) -> None:
        """Say `bye`, then close with this code."""


class Listener:
    """A socket, and up to where it has been told what is in the stream.

    `lacks` is a turn of which it has not got everything, with the last chunk that it has: the stream has a hole, or an
    end that says nothing, so the rest comes from Postgres when the turn has ended.
    """

    __slots__ = ("cursor", "followed", "lacks", "peer")

    def __init__(self, peer: Peer, cursor: tuple[int, int]) -> None:
        self.peer = peer
        self.cursor = cursor
        self.followed: set[int] = set()
        self.lacks: tuple[int, int] | None = None

    @property
    def waits_for(self) -> tuple[int, int] | None:
        """The turn whose end it has not been told yet, and the last chunk that it has of it."""
        if self.lacks is not None:
            return self.lacks
        turn, chunk = self.cursor
        return self.cursor if turn and chunk < END else None

    def follow(self, turn: int, chunk: int) -> None:
        """Tell it the turn from after this chunk on."""
        self.cursor = turn, chunk
        self.lacks = None
        self.followed.add(turn)

    def take(self, entry: Entry) -> None:
        """Tell it an entry of the stream, unless it has it."""
        at = entry.turn, entry.chunk
        if at <= self.cursor:
            return
        turn, chunk = self.cursor
        follows = turn == entry.turn and chunk + 1 == entry.chunk
        self.cursor = at
        if entry.chunk == 0:
            self.lacks = None
            self.followed.add(entry.turn)
            self.peer.send(entry.content)
        elif entry.chunk == END:
            had = chunk if turn == entry.turn else 0
            told_by_row = not entry.content
            if self.lacks is None and (told_by_row or (entry.turn in self.followed and had != entry.chunks)):
                self.lacks = entry.turn, had
            if self.lacks is None:
                self.peer.send(entry.content)
        elif self.lacks is None:
            if follows:
                self.peer.send(encode(Delta(entry.turn, entry.chunk, entry.content.decode(errors="replace"))))
            else:
                self.lacks = entry.turn, chunk if turn == entry.turn else 0

    def tell_rest(self, row: Record, after: int) -> None:
        """Tell it a turn that has ended, from its row, from after this chunk on."""
        for number, text in rest_of(row["text"] or "", row["chunks"], after):
            self.peer.send(encode(Delta(row["number"], number, text)))
        self.peer.send(encode(closing_frame(row)))


class Conversation:
    """One user's."""

    def __init__(self, user_id: UUID, turns: Turns, answers: Answers) -> None:
        self.user_id = user_id
        self.listeners: set[Listener] = set()
        self.answering: Answering | None = None
        self._turns = turns
        self._answers = answers
        self._pump: asyncio.Task[None] | None = None
        self._again = False

    @property
    def is_idle(self) -> bool:
        """Whether nobody needs it."""
        return not self.listeners and self.answering is None

    def wake(self) -> None:
        """There is news in the stream, maybe."""
        self._again = True
        if self.listeners and (self._pump is None or self._pump.done()):
            self._pump = asyncio.create_task(self._tell())

    def close(self) -> None:
        """Tell nothing any more."""
        if self._pump is not None:
            self._pump.cancel()

    async def _tell(self) -> None:
        while self._again and self.listeners:
            self._again = False
            try:
                await self._read()
                if any(listener.lacks and listener.cursor[1] == END for listener in self.listeners):
                    await self.catch_up()
            except AWAY as error:
                postponed("answers_postponed", error)
                self._again = True
                await asyncio.sleep(RETRY_S)
            except Exception:
                log.exception("conversation_failed", user=str(self.user_id))

    async def _read(self) -> None:
        """Tell every listener what lies after its cursor."""
        entries = [Entry(0, 0, b"")]
        while entries and self.listeners:
            behind = min(listener.cursor for listener in self.listeners)
            entries = await self._answers.read_after(self.user_id, behind, PAGE)
            for entry in entries:
                for listener in self.listeners:
                    listener.take(entry)
            if len(entries) < PAGE:
                return

    async def catch_up(self) -> None:
        """Behind the stream: tell those who wait for the end of a turn that has ended, says Postgres. Raises AWAY."""
        for listener in list(self.listeners):
            waited = listener.waits_for
            if waited is None:
                continue
            turn, after = waited
            row = await self._turns.get(self.user_id, turn)
            if listener.waits_for != waited or (row is not None and row["status"] == "running"):
                continue
            listener.cursor, listener.lacks = max(listener.cursor, (turn, END)), None
            if row is None:
                listener.peer.send(encode(Failed(turn, "deleted", False)))
            elif turn in listener.followed:
                listener.tell_rest(row, after)
            else:
                listener.peer.send(encode(closing_frame(row)))

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
from actors.conversation.messages import Accepted, Delta, Failed, encode
from actors.conversation.state import rest_of
from actors.conversation.turns import Turns, closing_frame
from actors.outages import AWAY, postponed
from server.data.answers import END, Answers, Entry
from server.data.db import Record

log = structlog.get_logger()

# Entries that are read at once.
PAGE = 500
RETRY_S = 0.25
# Turns before one that is told of which a listener has heard nothing: so many are told it, the newest.
MOST_MISSED = 50


class Peer(Protocol):
    """The client's end of a socket, as a conversation sees it. Nothing here blocks or raises."""

    def send(self, payload: bytes) -> None:
        """Send one frame."""

    def end(self, code: int, reason: str, retry_ms: int | None = None) -> None:
        """Say `bye`, then close with this code."""


class Listener:
    """A socket, and up to where it has been told what is in the stream.

    `unfinished` are turns of which the stream does not tell it everything, each with the last chunk that it has: there
    was a hole, an end that says nothing, or the next turn's opening before any end. The rest comes from Postgres when
    the turn has ended. `missed` are those that it was told nothing of when a later one came: they are told between two
    answers, for a client follows one at a time.
    """

    __slots__ = ("cursor", "followed", "missed", "peer", "unfinished")

    def __init__(self, peer: Peer, cursor: tuple[int, int]) -> None:
        self.peer = peer
        self.cursor = cursor
        self.followed: set[int] = set()
        self.missed: set[int] = set()
        self.unfinished: dict[int, int] = {}

    @property
    def waits_for(self) -> dict[int, int]:
        """The turns whose end it has not been told yet, each with the last chunk that it has of it."""
        turn, chunk = self.cursor
        return ({turn: chunk} if turn and chunk < END else {}) | self.unfinished | dict.fromkeys(self.missed, 0)

    @property
    def is_behind(self) -> bool:
        """Whether a turn has ended, by the stream, of which it lacks something that can be told now."""
        turn, chunk = self.cursor
        missed = bool(self.missed) and chunk == END
        return missed or any(unfinished < turn or chunk == END for unfinished in self.unfinished)

    def follow(self, turn: int, chunk: int) -> None:
        """Tell it the turn from after this chunk on."""
        self.followed.add(turn)
        if turn < self.cursor[0]:
            self.unfinished[turn] = chunk
            return
        self._go_on_to(turn, chunk)
        self.unfinished.pop(turn, None)

    def take(self, entry: Entry) -> None:
        """Tell it an entry of the stream, unless it has it."""
        if entry[:2] <= self.cursor:
            return
        follows = self.cursor == (entry.turn, entry.chunk - 1)
        had = self.cursor[1] if self.cursor[0] == entry.turn else 0
        self._go_on_to(entry.turn, entry.chunk)
        if entry.chunk == 0:
            self.followed.add(entry.turn)
            self.peer.send(entry.content)
        elif entry.chunk == END:
            has_all = entry.turn not in self.followed or had == entry.chunks
            if has_all and entry.content and entry.turn not in self.unfinished:
                self.peer.send(entry.content)
            else:
                self.unfinished.setdefault(entry.turn, had)
        elif follows and entry.turn not in self.unfinished:
            self.peer.send(encode(Delta(entry.turn, entry.chunk, entry.content.decode(errors="replace"))))
        else:
            self.unfinished.setdefault(entry.turn, had)

    def _go_on_to(self, turn: int, chunk: int) -> None:
        """Set its cursor. Of a turn that is left before its end nothing more is read, and nothing of those between."""
        left, had = self.cursor
        if left != turn and had < END:
            self.unfinished.setdefault(left, had)
        self.missed.update(range(max(left + 1, turn - MOST_MISSED), turn))
        self.cursor = turn, chunk

    def finish(self, turn: int) -> None:
        """Its end is told from its row: what the stream still has of it is told no more."""
        self.unfinished.pop(turn, None)
        self.missed.discard(turn)
        self.cursor = max(self.cursor, (turn, END))

    def pass_over(self, turn: int) -> None:
        """What the stream has of it is told no more, of which it was told nothing yet."""
        self._go_on_to(turn, END)

    def tell_whole(self, row: Record) -> None:
        """Tell it a turn that has ended, from its row, of which it was told nothing."""
        self.followed.add(row["number"])
        asked = row["client_msg_id"], row["number"], row["question"], row["conversation_id"]
        self.peer.send(encode(Accepted(*asked)))
        self.tell_rest(row, 0)

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
                if any(listener.is_behind for listener in self.listeners):
                    await self.catch_up()
            except AWAY as error:
                postponed("answers_postponed", error)
                # Who waits for nothing is woken when there is news, and by the sweep.
                self._again = any(listener.waits_for for listener in self.listeners)
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
            for turn, after in sorted(listener.waits_for.items()):
                row = await self._turns.get(self.user_id, turn)
                if listener.waits_for.get(turn) != after or (row is not None and row["status"] == "running"):
                    continue
                missed = turn in listener.missed
                if missed and listener.cursor[1] < END:
                    continue  # it is being told another
                listener.finish(turn)
                if missed:
                    if row is not None:
                        listener.tell_whole(row)
                elif row is None:
                    listener.peer.send(encode(Failed(turn, "deleted", False)))
                elif turn in listener.followed:
                    listener.tell_rest(row, after)
                else:
                    listener.peer.send(encode(closing_frame(row)))

    async def tell_missed(self, newest: int) -> None:
        """Behind the stream: tell the turns that came and went while Redis was away, up to the newest. Raises AWAY."""
        for listener in list(self.listeners):
            for turn in range(listener.cursor[0] + 1, newest + 1):
                row = await self._turns.get(self.user_id, turn)
                if row is not None and row["status"] == "running":
                    break  # the stream tells it
                if turn <= listener.cursor[0]:
                    continue  # the stream has told it meanwhile
                listener.pass_over(turn)
                if row is not None:
                    listener.tell_whole(row)

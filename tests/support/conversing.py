"""A conversation's parts as plain objects that fail when they are told to: Postgres, Redis, and a model that speaks in
virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast
from uuid import UUID, uuid4

import orjson
from redis.exceptions import ConnectionError as RedisConnectionError

from actors.conversation.answering import Answering, Parts
from actors.conversation.grounding import Grounding
from actors.conversation.passages import Passage, Span
from actors.conversation.prompt import Said
from actors.conversation.turns import Outcome, Place, Question, Turn, Turns, Viewer
from server.config import Chat
from server.data.answers import END, Answers, Entry
from server.data.db import PostgresAway
from server.services.outside import ServiceError
from server.services.tutor import Answer, Tutor, Usage
from tests.support.virtual_time import VirtualClock

USER = UUID(int=7)
SAID = "A queue gives back what came first."


@dataclass
class Model:
    """Says `words`, one in `word_s` seconds; fails as `error` after `fails_after` words."""

    words: Sequence[str] = ("one ", "two ", "three")
    word_s: float = 0.1
    error: ServiceError | None = None
    fails_after: int = 0
    usage: Usage | None = field(default_factory=lambda: Usage(100, 3))
    asked: list[Any] = field(default_factory=list)
    given_up: int = 0
    is_configured: bool = True

    def cost_micros(self, usage: Usage) -> int:
        """A token costs one."""
        return usage.prompt_tokens + usage.completion_tokens

    @asynccontextmanager
    async def asking(self, messages: Any) -> AsyncIterator[Answer]:
        """As `Tutor.asking`."""
        self.asked.append(messages)
        answer = Answer(self._speak(), self.usage, "stop")
        try:
            yield answer
        except asyncio.CancelledError:
            self.given_up += 1
            raise

    async def _speak(self) -> AsyncIterator[str]:
        for place, word in enumerate(self.words):
            if self.error is not None and place == self.fails_after:
                raise self.error
            await asyncio.sleep(self.word_s)
            yield word
        if self.error is not None:
            raise self.error


@dataclass
class Stream:
    """A user's stream as Redis keeps it: ids only rise. `away` for the next so many calls, which are yet carried out
    when `unheard`: then their answer got lost."""

    entries: list[Entry] = field(default_factory=list)
    away: int = 0
    unheard: bool = False
    trimmed: int = 0

    async def append(self, _user_id: UUID, turn: int, chunk: int, content: bytes, chunks: int = 0) -> bool:
        """As `Answers.append`."""
        await asyncio.sleep(0)
        is_new = not self.entries or (turn, chunk) > self.entries[-1][:2]
        if self.away > 0:
            self.away -= 1
            if self.unheard and is_new:
                self.entries.append(Entry(turn, chunk, content, chunks))
            raise RedisConnectionError
        if is_new:
            self.entries.append(Entry(turn, chunk, content, chunks))
        return is_new

    async def read_after(self, _user_id: UUID, cursor: tuple[int, int], count: int) -> list[Entry]:
        """As `Answers.read_after`."""
        await asyncio.sleep(0)
        return [entry for entry in self.entries if entry[:2] > cursor][:count]

    async def delete(self, _user_id: UUID) -> None:
        """As `Answers.delete`."""
        self.entries.clear()

    async def trim(self, _user_id: UUID, turn: int) -> None:
        """As `Answers.trim`."""
        self.entries = [entry for entry in self.entries if entry[:2] >= (turn, END)]

    @property
    def end(self) -> dict[str, Any]:
        """The frame of the last entry, which is an end."""
        assert self.entries[-1].chunk == END
        frame: dict[str, Any] = orjson.loads(self.entries[-1].content)
        return frame


@dataclass
class Rows:
    """The turns as Postgres keeps them. `away` for the next so many calls."""

    epoch: int = 1
    row: dict[str, Any] | None = None
    away: int = 0
    said_before: list[Said] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    exists: bool = True

    async def begin(self, viewer: Viewer, question: Question, *, ask_model: bool, **_: Any) -> Turn:
        """As `Turns.begin`."""
        text = question.message or ""
        return Turn(uuid4(), 1, self.epoch, viewer, question.id, UUID(int=9), text, Place(), ask_model)

    async def said(self, _turn: Turn) -> list[Said]:
        """As `Turns.said`."""
        return self.said_before

    async def finish(self, turn_id: UUID, epoch: int, outcome: Outcome) -> bool:
        """As `Turns.finish`."""
        if self.away > 0:
            self.away -= 1
            raise PostgresAway
        if not self.exists or epoch != self.epoch or self.row is not None:
            return False
        self.outcomes.append(outcome)
        self.row = {
            "id": turn_id, "number": 1, "conversation_id": UUID(int=9), "client_msg_id": "m1",
            "question": "What is a queue?", "status": outcome.status, "code": outcome.code,
            "retryable": outcome.retryable, "source": outcome.source, "chunks": list(outcome.chunks),
            "text": outcome.text or None, "message_id": UUID(int=5) if outcome.text else None,
            "citations": list(outcome.citations), "recommendations": [], "prompt_tokens": outcome.prompt_tokens,
            "completion_tokens": outcome.completion_tokens,
        }  # fmt: skip
        return True

    async def standing(self, ids: Sequence[UUID]) -> dict[UUID, dict[str, Any]]:
        """As `Turns.standing`."""
        status = "running" if self.row is None else self.row["status"]
        return {turn_id: {"status": status, "epoch": self.epoch} for turn_id in ids if self.exists}

    async def get(self, _user_id: UUID, number: int) -> dict[str, Any] | None:
        """As `Turns.get`; a turn after the first runs."""
        running = {"number": number, "status": "running", "chunks": [], "text": None}
        return ((number == 1 and self.row) or running) if self.exists else None


@dataclass
class Shelf:
    """One passage, for whatever is asked. `error` is raised instead."""

    error: Exception | None = None

    async def ground(self, _turn: Turn) -> Grounding:
        """As `Material.ground`."""
        if self.error is not None:
            raise self.error
        span = Span(0, len(SAID), 0, 30_000, None)
        passage = Passage(UUID(int=1), UUID(int=2), None, 0, 30_000, None, "Queues", SAID, 1.0, (span,))
        return Grounding((passage,), False)

    async def recommend(self, _turn: Turn) -> list[dict[str, Any]]:
        """As `Material.recommend`."""
        return []


@dataclass
class Stage:
    """All of them; `answering` begins the one turn that there is."""

    model: Model = field(default_factory=Model)
    stream: Stream = field(default_factory=Stream)
    rows: Rows = field(default_factory=Rows)
    shelf: Shelf = field(default_factory=Shelf)
    settings: Chat = field(default_factory=lambda: Chat(chunk_ms=50))
    told: list[bool] = field(default_factory=list)

    def answering(self, *, may_ask: bool = True, tell: Callable[[bool], None] | None = None) -> Answering:
        """The answer to the turn, not begun yet."""
        turn = Turn(uuid4(), 1, 1, Viewer(USER, "student"), "m1", UUID(int=9), "What is a queue?", Place(), may_ask)
        return Answering(turn, self.parts, tell or self.told.append)

    @property
    def parts(self) -> Parts:
        """What answers are made with."""
        return Parts(
            cast(Turns, self.rows), cast(Answers, self.stream), cast(Tutor, self.model), self.shelf, self.settings,
            VirtualClock(),
        )  # fmt: skip

    @property
    def streamed(self) -> str:
        """What went by of the answer."""
        return b"".join(entry.content for entry in self.stream.entries if 0 < entry.chunk < END).decode()


class Ear:
    """A socket that keeps what it is told."""

    def __init__(self) -> None:
        self.frames: list[dict[str, Any]] = []

    def send(self, payload: bytes) -> None:
        """One frame."""
        self.frames.append(orjson.loads(payload))

    def end(self, code: int, reason: str, retry_ms: int | None = None) -> None:
        """Not here."""
        raise AssertionError(f"closed with {code} {reason} {retry_ms}")

    @property
    def kinds(self) -> list[str]:
        """The kinds of frames, each as often as it came in a row once."""
        kinds = [frame["type"] for frame in self.frames]
        return [kind for place, kind in enumerate(kinds) if place == 0 or kinds[place - 1] != kind]

    @property
    def text(self) -> str:
        """What it was told of answers."""
        return "".join(frame["text"] for frame in self.frames if frame["type"] == "delta")

    @property
    def chunks(self) -> list[int]:
        """The numbers of the parts."""
        return [frame["chunk"] for frame in self.frames if frame["type"] == "delta"]

"""One answer while it is given: the material is found, the model asked exactly once, and what it says moved into the
user's stream; then all of it is written to Postgres under the turn's epoch.

Two tasks: one reads the model, the other writes, chunk by chunk, each as large as what came while the one before was on
its way. A model that is away, or refuses, before its first word is replaced by the material's own words.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import structlog

from actors.conversation.grounding import Grounding
from actors.conversation.messages import Accepted, Failed, encode
from actors.conversation.passages import citations_of, extractive_answer
from actors.conversation.prompt import Layout, lay_out, tokens_of
from actors.conversation.turns import Outcome, Turn, Turns, closing_frame
from actors.outages import postponed
from server import metrics
from server.clock import Clock
from server.config import Chat
from server.data.answers import END, Answers
from server.data.db import DATABASE_AWAY, Record
from server.data.streams import REDIS_AWAY
from server.services.outside import (
    ServiceError,
    ServiceLeftAlone,
    ServiceNotConfigured,
    ServicePutsOff,
    ServiceRefused,
)
from server.services.tutor import Tutor, Usage

log = structlog.get_logger()

NOTICE = "No language model answers just now, so this is quoted from the course itself:"
NOTHING = "No language model answers just now, and I find nothing about this in what you may watch and read."
# What could not be written to a part that is away is tried again so often.
RETRY_S = 0.2
# An ended answer waits so long for Redis; whoever listens then gets the rest from Postgres.
FLUSH_S = 2.0
# What did not cost anything, as far as one can tell: the model was not asked, or refused to begin.
_FREE = (ServiceNotConfigured, ServiceLeftAlone, ServicePutsOff, ServiceRefused)
# Of an Outcome, what it cost.
_TAKEN = ("prompt_tokens", "completion_tokens", "tokens", "micros")


class Material(Protocol):
    """Where answers come from."""

    async def ground(self, turn: Turn) -> Grounding:
        """The passages that fit the question, of what its asker may watch and read. Raises DATABASE_AWAY."""

    async def recommend(self, turn: Turn) -> Sequence[dict[str, Any]]:
        """Courses to go on with, `{course_id, title, reason}`. Raises DATABASE_AWAY."""


class Parts(NamedTuple):
    """What answers are made with."""

    turns: Turns
    answers: Answers
    tutor: Tutor
    material: Material
    settings: Chat
    clock: Clock


class Answering:
    """The answer to one turn. `tell` is called whenever there is news in the user's stream, or (True) news that Redis
    does not have."""

    def __init__(self, turn: Turn, parts: Parts, tell: Callable[[bool], None]) -> None:
        self.turn = turn
        self.parts = parts
        self._tell = tell
        self._texts: list[str] = []
        self._chunks: list[int] = []
        self._waiting = ""
        self._news = asyncio.Event()
        self._closed = False
        self._stopped_as: Outcome | None = None
        self._fenced = False
        self._reading: asyncio.Task[Outcome] | None = None
        self._layout: Layout | None = None
        self._row: Record | None = None
        # Whether Redis did not take what it was told last.
        self._away = False
        # Set to the turn's row (as `get_turn` has it) when it has ended, and Redis knows or is away; None when it was
        # taken from us.
        self.ended: asyncio.Future[Record | None] = asyncio.get_running_loop().create_future()

    @property
    def text(self) -> str:
        """What was said so far."""
        return "".join(self._texts)

    # From outside ----------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """End it on request: what was said stays."""
        self._end_as(Outcome("stopped"))

    def interrupt(self) -> None:
        """End it because the process stops: it may be asked again."""
        self._end_as(Outcome("failed", code="interrupted", retryable=True))

    def fence(self) -> None:
        """The turn is another's, or gone."""
        self._fenced = True
        self._end_as(Outcome("failed"))

    def _end_as(self, outcome: Outcome) -> None:
        self._stopped_as = self._stopped_as or outcome
        if self._reading is not None:
            self._reading.cancel()

    # The answer ------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Answer, and see it through to its end."""
        metrics.CHAT_RUNNING.inc()
        writing = asyncio.create_task(self._write())
        self._reading = asyncio.create_task(self._answer())
        if self._stopped_as is not None:  # before it began
            self._reading.cancel()
        try:
            outcome = await self._outcome(self._reading)
            self._closed = True
            self._news.set()
            if not self._fenced:
                await self._finish(outcome, writing)
        except Exception:
            log.exception("turn_failed", turn=str(self.turn.id))
        finally:
            writing.cancel()
            self._reading.cancel()
            metrics.CHAT_RUNNING.dec()
            if not self.ended.done():
                self.ended.set_result(self._row)

    async def _outcome(self, reading: asyncio.Task[Outcome]) -> Outcome:
        try:
            return await reading
        except asyncio.CancelledError:
            if self._stopped_as is None:
                raise
            return replace(self._stopped_as, source="model" if self._texts else None, **self._estimate())
        except Exception:
            log.exception("answer_failed", turn=str(self.turn.id))
            return Outcome("failed", code="internal_error", retryable=True, source="model", **self._estimate())

    async def _answer(self) -> Outcome:
        turn, parts = self.turn, self.parts
        try:
            grounding = await parts.material.ground(turn)
            recommended = list(await parts.material.recommend(turn))
            said = await parts.turns.said(turn)
        except DATABASE_AWAY as error:
            postponed("answer_not_grounded", error)
            return Outcome("failed", code="database_unavailable", retryable=True)
        settings = parts.settings
        layout = lay_out(
            turn.question, grounding.passages, said, recommended,
            prompt_tokens=settings.prompt_tokens, history_tokens=settings.history_tokens, watching=grounding.watching,
        )  # fmt: skip
        taken: dict[str, Any] = {}
        if turn.may_ask:
            self._layout = layout
            outcome = await self._ask(layout)
            if outcome.status != "unanswered":
                return replace(outcome, recommendations=recommended)
            taken = {name: getattr(outcome, name) for name in _TAKEN}
        extract = extractive_answer(turn.question, grounding.passages, grounding.watching)
        self._say(f"{NOTICE}\n\n{extract.text}" if extract.text else NOTHING)
        metrics.CHAT_ANSWERS.labels("transcript").inc()
        citations = [citation.shown for citation in extract.citations]
        return Outcome("done", source="transcript", citations=citations, recommendations=recommended, **taken)

    async def _ask(self, layout: Layout) -> Outcome:
        """What the model made of it; `unanswered` when it did not say a word."""
        tutor, began = self.parts.tutor, self.parts.clock.monotonic()
        try:
            async with tutor.asking(layout.messages) as answer:
                async for text in answer.texts:
                    if not self._texts:
                        metrics.CHAT_FIRST_WORD.observe(self.parts.clock.monotonic() - began)
                    self._say(text)
        except ServiceError as error:
            log.warning("model_failed", turn=str(self.turn.id), error=str(error), said=len(self.text))
            if self._texts:
                return Outcome("failed", code="model_failed", retryable=True, source="model", **self._estimate())
            return Outcome("unanswered", **({} if isinstance(error, _FREE) else self._estimate()))
        taken = self._taken(answer.usage) if answer.usage is not None else self._estimate()
        if not self.text.strip():
            return Outcome("unanswered", **taken)
        metrics.CHAT_ANSWERS.labels("model").inc()
        citations = [citation.shown for citation in citations_of(self.text, layout.passages)]
        return Outcome("done", source="model", citations=citations, **taken)

    def _taken(self, usage: Usage) -> dict[str, Any]:
        return {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "tokens": usage.prompt_tokens + usage.completion_tokens,
            "micros": self.parts.tutor.cost_micros(usage),
        }

    def _estimate(self) -> dict[str, Any]:
        """What a model that was asked, and did not tell, took about."""
        if self._layout is None:
            return {}
        given = sum(tokens_of(message["content"]) for message in self._layout.messages)
        return self._taken(Usage(given, tokens_of(self.text)))

    def _say(self, text: str) -> None:
        """More of the answer. What Postgres and UTF-8 cannot hold is left out."""
        text = text.replace("\0", "").encode(errors="replace").decode()
        if text:
            self._texts.append(text)
            self._waiting += text
            self._news.set()

    # Into the stream, and into Postgres ------------------------------------------------------------------------------

    async def _write(self) -> None:
        """Move what is said into the user's stream until all of it is there, or Redis says that the turn is over."""
        turn = self.turn
        chunk = 0
        content = encode(Accepted(turn.message_id, turn.number, turn.question, turn.conversation_id))
        while await self._append(chunk, content):
            self._tell(False)
            await asyncio.sleep(self.parts.settings.chunk_ms / 1000)
            while not self._waiting:
                if self._closed:
                    return
                self._news.clear()
                await self._news.wait()
            text, self._waiting = self._waiting, ""
            self._chunks.append(len(text))
            chunk, content = chunk + 1, text.encode()

    async def _append(self, chunk: int, content: bytes) -> bool:
        """Add one entry, however long Redis is away. What is refused and may be there already is there; else the turn
        has been ended by somebody else, or what lies in the stream is nobody's, and goes."""
        turn, answers = self.turn, self.parts.answers
        tried = False
        while True:
            try:
                added = await answers.append(turn.viewer.id, turn.number, chunk, content)
                self._away = False
                if added or tried:
                    return True
                if not await self._is_ours():
                    self.fence()
                    return False
                await answers.delete(turn.viewer.id)
            except REDIS_AWAY as error:
                self._put_off("chunk_postponed", error)
                tried = True
                await asyncio.sleep(RETRY_S)

    async def _is_ours(self) -> bool:
        """Whether the turn runs under our epoch, however long Postgres is away."""
        while True:
            try:
                row = (await self.parts.turns.standing([self.turn.id])).get(self.turn.id)
            except DATABASE_AWAY as error:
                postponed("chunk_postponed", error)
                await asyncio.sleep(RETRY_S)
            else:
                return row is not None and row["status"] == "running" and row["epoch"] == self.turn.epoch

    def _put_off(self, event: str, error: Exception) -> None:
        """Redis is away. Who waits for the turn's row waits for Redis no longer."""
        postponed(event, error)
        self._away = True
        self._let_go()

    def _let_go(self) -> None:
        if self._away and self._row is not None and not self.ended.done():
            self.ended.set_result(self._row)

    async def _finish(self, outcome: Outcome, writing: asyncio.Task[None]) -> None:
        """Postgres first: what is told to have ended has. Then what is still to be written, and the end."""
        turn, parts = self.turn, self.parts
        # What waits is one more chunk. If Redis does not take it in time, by the end's count everybody lacks it, and is
        # told it from the row.
        waiting = [len(self._waiting)] if self._waiting else []
        outcome = replace(outcome, text=self.text, chunks=[*self._chunks, *waiting])
        finished, row = await self._save(outcome)
        if row is None:
            writing.cancel()
            await self._tell_end(encode(Failed(turn.number, "deleted", False)), len(outcome.chunks))
            with contextlib.suppress(*REDIS_AWAY):
                await parts.answers.trim(turn.viewer.id, turn.number)
            return
        # After an unknown outcome the same is written again, and finds it done.
        if not finished and row["status"] != outcome.status:
            metrics.FENCED_WRITES.inc()
            return
        self._row = row
        self._let_go()
        metrics.CHAT_TURNS.labels(outcome.code or outcome.status).inc()
        metrics.CHAT_TOKENS.inc(outcome.tokens or 0)
        await asyncio.wait([writing], timeout=FLUSH_S)
        writing.cancel()
        await self._tell_end(encode(closing_frame(row)), len(outcome.chunks))

    async def _save(self, outcome: Outcome) -> tuple[bool, Record | None]:
        """What `Turns.finish` gave, and the turn as it stands then, however long Postgres is away."""
        while True:
            try:
                finished = await self.parts.turns.finish(self.turn.id, self.turn.epoch, outcome)
                return finished, await self.parts.turns.get(self.turn.viewer.id, self.turn.number)
            except DATABASE_AWAY as error:
                postponed("turn_postponed", error)
                await asyncio.sleep(RETRY_S)

    async def _tell_end(self, content: bytes, chunks: int) -> None:
        """Where the next turn has begun already Redis refuses it: who listens is told it from the row then."""
        turn = self.turn
        deadline = self.parts.clock.monotonic() + FLUSH_S
        while True:
            try:
                await self.parts.answers.append(turn.viewer.id, turn.number, END, content, chunks)
            except REDIS_AWAY as error:
                self._put_off("end_postponed", error)
                if self.parts.clock.monotonic() < deadline:
                    await asyncio.sleep(RETRY_S)
                    continue
                self._tell(True)
            else:
                self._tell(False)
            return

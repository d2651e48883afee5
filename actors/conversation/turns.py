"""Turns in Postgres: begun once, one at a time and within a budget; finished once, by whoever holds the epoch."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg

from actors.conversation.messages import Done, Failed, TurnUsage
from actors.conversation.prompt import Said
from server.config import Chat
from server.data.db import Connection, Database, Record, queries

chat_sql = queries("chat")

# Messages of before that are looked at, however short they are.
_MOST_SAID = 40
_UNLIMITED = 1 << 62


class TurnRefused(Exception):
    """A message that becomes no turn; `pointer` names the member at fault."""

    def __init__(self, detail: str, pointer: str = "") -> None:
        super().__init__(detail)
        self.detail = detail
        self.pointer = pointer


class TurnBusy(TurnRefused):
    """Another turn of the user's is being answered."""

    def __init__(self, turn: int) -> None:
        super().__init__(f"Turn {turn} is still being answered: stop it, or wait for its end.")
        self.turn = turn


class TurnOrphaned(Exception):
    """A turn of the user's is left by a process that died; it has to be ended before another begins."""


class BudgetSpent(TurnRefused):
    """The user has had today's share of the model."""

    def __init__(self) -> None:
        super().__init__("You have used up what the tutor may answer you today; it goes on after midnight (UTC).")


class Viewer(NamedTuple):
    """Who asks."""

    id: UUID
    role: str


class Place(NamedTuple):
    """What a question is about: a course, maybe a lecture of it, maybe its very second."""

    course_id: UUID | None = None
    lecture_id: UUID | None = None
    position_ms: int | None = None


class Question(NamedTuple):
    """A message as it came; `watching` is where the session that it named stands.

    With `kept_s` its id is an idempotency key's: it means a turn for so long, and one that failed and may be asked
    again is asked again when the message comes again.
    """

    id: str
    message: str | None
    course_id: UUID | None = None
    watching: Place | None = None
    conversation_id: UUID | None = None
    retry_of: int | None = None
    kept_s: float | None = None


@dataclass(frozen=True, slots=True)
class Turn:
    """A turn that has begun under `epoch`. `may_ask`: a model may be asked, as far as the budgets go."""

    id: UUID
    number: int
    epoch: int
    viewer: Viewer
    message_id: str
    conversation_id: UUID
    question: str
    place: Place
    may_ask: bool


class Seen(NamedTuple):
    """A message that is a turn already; an `orphan` runs, and its process is dead."""

    number: int
    question: str
    conversation_id: UUID
    running: bool
    orphan: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What becomes of a turn. `tokens` and `micros` are what it took; None: as much as was reserved."""

    status: str
    text: str = ""
    chunks: Sequence[int] = ()
    code: str | None = None
    retryable: bool = False
    source: str | None = None
    citations: Sequence[dict[str, Any]] = ()
    recommendations: Sequence[dict[str, Any]] = ()
    prompt_tokens: int = 0
    completion_tokens: int = 0
    tokens: int | None = 0
    micros: int | None = 0


class Turns:
    """All raise DATABASE_AWAY. `reserve` are the tokens and millionths that a turn may take at most."""

    def __init__(self, db: Database, settings: Chat, owner: UUID, alive_s: float, reserve: tuple[int, int]) -> None:
        self._db = db
        self._settings = settings
        self._owner = owner
        self._alive_s = alive_s
        self._reserve = reserve

    async def begin(
        self, viewer: Viewer, question: Question, *, ask_model: bool, held: Collection[UUID]
    ) -> Turn | Seen:
        """Make a message a turn, or find the turn that it is.

        Raises TurnBusy, BudgetSpent, TurnRefused, and TurnOrphaned where the running turn's process is dead or (of this
        process) does not know of it.
        """
        try:
            return await self._begin(viewer, question, ask_model, held)
        except asyncpg.ForeignKeyViolationError:
            pointer = "/course_id" if question.watching is None else "/video_session_id"
            raise TurnRefused("What this is about has just been deleted.", pointer) from None

    async def _begin(self, viewer: Viewer, question: Question, ask_model: bool, held: Collection[UUID]) -> Turn | Seen:
        async with self._db.transaction() as tx:
            last_turn = await chat_sql.lock_account(tx, user_id=viewer.id)
            if question.kept_s is not None:
                failed = await chat_sql.free_message_id(
                    tx, user_id=viewer.id, client_msg_id=question.id, kept_s=question.kept_s
                )
                question = question._replace(retry_of=failed)
            if (seen := await self._seen(tx, viewer.id, question.id, held)) is not None:
                return seen
            await self._check_free(tx, viewer.id, held)
            retried = await self._retried(tx, viewer.id, question.retry_of)
            text = question.message if question.message is not None else retried and retried["question"]
            if not text:
                raise TurnRefused("There is nothing to answer.", "/message")
            place = await self._place(tx, viewer, question, retried)
            conversation_id = await self._conversation(tx, viewer.id, question, retried)
            tokens, micros = await self._reserve_for(tx, viewer.id) if ask_model else (0, 0)
            row = await chat_sql.insert_turn(
                tx,
                user_id=viewer.id,
                conversation_id=conversation_id,
                number=last_turn + 1,
                client_msg_id=question.id,
                retry_of=retried and retried["id"],
                owner=self._owner,
                question=text,
                **place._asdict(),
                reserved_tokens=tokens,
                reserved_micros=micros,
            )
            if retried is None or text != retried["question"]:
                await chat_sql.insert_message(tx, turn_id=row["id"], message=text)
            return Turn(
                row["id"], last_turn + 1, row["epoch"], viewer, question.id, conversation_id, text, place, tokens > 0
            )

    async def _seen(self, tx: Connection, user_id: UUID, client_msg_id: str, held: Collection[UUID]) -> Seen | None:
        row = await chat_sql.get_turn_by_message(
            tx, user_id=user_id, client_msg_id=client_msg_id, alive_s=self._alive_s
        )
        if row is None:
            return None
        running = row["status"] == "running"
        orphan = running and not self._is_alive(row, held)
        return Seen(row["number"], row["question"], row["conversation_id"], running, orphan)

    def _is_alive(self, row: Record, held: Collection[UUID]) -> bool:
        """Whether somebody answers a turn that runs; `held` are those that are answered here."""
        return row["id"] in held if row["owner"] == self._owner else bool(row["owner_alive"])

    async def _check_free(self, tx: Connection, user_id: UUID, held: Collection[UUID]) -> None:
        row = await chat_sql.get_running(tx, user_id=user_id, alive_s=self._alive_s)
        if row is None:
            return
        raise TurnBusy(row["number"]) if self._is_alive(row, held) else TurnOrphaned

    async def _retried(self, tx: Connection, user_id: UUID, number: int | None) -> Record | None:
        if number is None:
            return None
        row: Record | None = await chat_sql.get_turn(tx, user_id=user_id, number=number)
        if row is None:
            raise TurnRefused("There is no such turn.", "/retry_of")
        if row["status"] == "done":
            raise TurnRefused("This turn was answered: there is nothing to try again.", "/retry_of")
        return row

    async def _place(self, tx: Connection, viewer: Viewer, question: Question, retried: Record | None) -> Place:
        if question.course_id not in (None, question.watching and question.watching.course_id):
            found = await chat_sql.get_visible_course(
                tx, course_id=question.course_id, viewer_id=viewer.id, viewer_role=viewer.role
            )
            if found is None:
                raise TurnRefused("There is no such course.", "/course_id")
        if question.watching is not None:
            return question.watching
        if question.course_id is not None:
            return Place(question.course_id)
        return Place(*(retried[name] for name in Place._fields)) if retried is not None else Place()

    async def _conversation(self, tx: Connection, user_id: UUID, question: Question, retried: Record | None) -> UUID:
        wanted = question.conversation_id or (retried and retried["conversation_id"])
        if wanted is not None:
            found: UUID | None = await chat_sql.touch_conversation(tx, conversation_id=wanted, user_id=user_id)
            if found is None:
                raise TurnRefused("There is no such conversation.", "/conversation_id")
            return found
        idle_s = self._settings.conversation_idle_s
        newest = await chat_sql.touch_newest_conversation(tx, user_id=user_id, idle_s=idle_s)
        return newest or await chat_sql.insert_conversation(tx, user_id=user_id)  # type: ignore[no-any-return]

    async def _reserve_for(self, tx: Connection, user_id: UUID) -> tuple[int, int]:
        """What was reserved; nothing where all users together have spent today's share. Raises BudgetSpent."""
        tokens, micros = self._reserve
        most = self._settings.user_tokens_per_day
        if await chat_sql.reserve_tokens(tx, user_id=user_id, tokens=tokens, most=most) is None:
            raise BudgetSpent
        cap = round(self._settings.spend_per_day * 1_000_000)
        if cap and await chat_sql.reserve_spend(tx, micros=micros, most=cap) is not None:
            return tokens, micros
        await chat_sql.reserve_tokens(tx, user_id=user_id, tokens=-tokens, most=_UNLIMITED)
        return 0, 0

    async def said(self, turn: Turn) -> list[Said]:
        """What was said before in the turn's conversation, newest first."""
        rows = await chat_sql.list_said(self._db, conversation_id=turn.conversation_id, most=_MOST_SAID)
        return [Said(row["is_user"], row["message"]) for row in rows]

    async def finish(self, turn_id: UUID, epoch: int, outcome: Outcome) -> bool:
        """Write the outcome under the epoch; False when the turn is another's by now, or has ended."""
        finished = await chat_sql.finish_turn(
            self._db,
            turn_id=turn_id,
            epoch=epoch,
            status=outcome.status,
            code=outcome.code,
            retryable=outcome.retryable,
            source=outcome.source,
            chunks=list(outcome.chunks),
            message=outcome.text,
            citations=list(outcome.citations),
            recommendations=list(outcome.recommendations),
            prompt_tokens=outcome.prompt_tokens,
            completion_tokens=outcome.completion_tokens,
            tokens=outcome.tokens,
            micros=outcome.micros,
        )
        return finished is not None

    async def get(self, user_id: UUID, number: int) -> Record | None:
        """One of the user's turns, with its answer."""
        row: Record | None = await chat_sql.get_turn(self._db, user_id=user_id, number=number)
        return row

    async def newest(self, user_id: UUID) -> tuple[int, Record | None]:
        """The number of the user's newest turn (0: none), and the one that runs."""
        row: Record | None = await chat_sql.get_newest(self._db, user_id=user_id, alive_s=self._alive_s)
        if row is None:
            return 0, None
        return row["last_turn"], None if row["number"] is None else row

    async def numbers(self, user_ids: Collection[UUID]) -> dict[UUID, int]:
        """The numbers of these users' newest turns; who never asked anything is missing."""
        rows = await chat_sql.list_newest(self._db, user_ids=list(user_ids))
        return {row["user_id"]: row["last_turn"] for row in rows}

    async def claim_orphans(
        self, held: Collection[UUID], as_of: datetime | None, user_id: UUID | None, most: int
    ) -> list[Record]:
        """Take over turns whose process is dead, of one user or of all; `as_of` is when this process was seen last, by
        the clock of Postgres (None: never, and nobody is thought to be dead), and `held` are its own since."""
        rows: list[Record] = await chat_sql.claim_orphans(
            self._db, owner=self._owner, held=list(held), as_of=as_of, alive_s=self._alive_s, user_id=user_id, most=most
        )
        return rows

    async def standing(self, ids: Collection[UUID]) -> dict[UUID, Record]:
        """Where these turns stand; those that were deleted are missing."""
        return {row["id"]: row for row in await chat_sql.list_standing(self._db, ids=list(ids))}

    async def ask_stop(self, user_id: UUID, client_msg_id: str) -> UUID | None:
        """Note that the turn of this message shall end; which that is, None when it does not run."""
        turn_id: UUID | None = await chat_sql.ask_stop(self._db, user_id=user_id, client_msg_id=client_msg_id)
        return turn_id


def closing_frame(row: Record | dict[str, Any]) -> Done | Failed:
    """What is told of a turn that has ended, by its row (of `get_turn`)."""
    if row["status"] == "failed":
        return Failed(row["number"], row["code"] or "failed", row["retryable"], row["message_id"])
    return Done(
        turn=row["number"],
        message_id=row["message_id"],
        citations=row["citations"] or [],
        recommendations=row["recommendations"] or [],
        usage=TurnUsage(row["prompt_tokens"], row["completion_tokens"]),
        source=row["source"] or "transcript",
        stopped=row["status"] == "stopped",
        conversation_id=row["conversation_id"],
    )

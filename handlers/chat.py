"""The tutor: a question by REST, waited for; a socket on which answers stream; what was said before."""

from __future__ import annotations

import asyncio
import math
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import Annotated, Any, Literal
from uuid import UUID, uuid4

from aiohttp import web
from pydantic import BaseModel, Field, StringConstraints

from actors.conversation import messages
from actors.conversation.actor import Listener
from actors.conversation.conversations import Conversations
from actors.conversation.messages import Ask, ChatError, Resume, Stop, encode, parse_chat_frame
from actors.conversation.recommendations import place_of, recommend
from actors.conversation.turns import BudgetSpent, Place, Question, TurnBusy, TurnRefused, Viewer
from actors.video_session.messages import BadFrame, Bye
from server import metrics
from server.config import Config
from server.data.audit import audit_foreign
from server.data.db import DATABASE_AWAY, Record, queries
from server.data.streams import REDIS_AWAY
from server.http.auth import Principal
from server.http.keys import CLOCK, LIMITER, SOCKETS
from server.http.members import is_blank
from server.http.paging import Page, PageQuery, page, read_cursor
from server.http.problems import (
    ChatBudgetSpent,
    Forbidden,
    TurnFailed,
    TutorBusy,
    Unauthorized,
    UserNotFound,
    ValidationFailed,
)
from server.http.routing import STUDENT, Body, Call, Routes
from server.http.socket import PROTOCOL, Goodbye, Socket, admit

routes = Routes("chat")
chat = queries("chat")

CONVERSATIONS: web.AppKey[Conversations] = web.AppKey("conversations", Conversations)
# Whoever waits by REST waits for all of an answer (`openai.total_s`), and for what is done before and after it.
ANSWER_TIMEOUT_S = 150.0


def _lease_s(config: Config) -> float:
    """How long a key is in use that nobody renews.

    Two thirds of it are left, or more, when a process dies: until then that is known.
    """
    return 1.5 * config.sessions.process_alive_s + 2


class NewMessage(Body):
    """A question: about a course, or about the very second at which a session of one's own is."""

    message: Annotated[str, StringConstraints(min_length=1, max_length=8000)]
    course_id: UUID | None = None
    video_session_id: UUID | None = None
    conversation_id: UUID | None = None


class SpokenCitation(BaseModel):
    """Words that are said there: in a lecture, between two of its seconds."""

    course_id: UUID
    lecture_id: UUID
    from_: Annotated[float, Field(alias="from")]
    to: float
    quote: str


class WrittenCitation(BaseModel):
    """Words that stand there: in a file, on a page if it has pages."""

    file_id: UUID
    page: int | None = None
    quote: str


Citation = SpokenCitation | WrittenCitation


class Recommendation(BaseModel):
    """A published course to go on with, and why."""

    course_id: UUID
    title: str
    reason: str


class Usage(BaseModel):
    """What an answer took, in the model's tokens; zeros where no model was asked."""

    prompt_tokens: int
    completion_tokens: int


class Answer(BaseModel):
    """An answer. `source`: a model's, or quoted from the material (`transcript`) where no model answered; `stopped`: on
    request, before its end."""

    message_id: UUID | None
    turn: int
    conversation_id: UUID
    text: str
    citations: list[Citation]
    recommendations: list[Recommendation]
    usage: Usage
    source: Literal["model", "transcript"]
    stopped: bool


class ChatMessage(BaseModel):
    """Something that was said, by the learner (`is_user`) or by the tutor; `position` in seconds of the lecture.
    `status` is its turn's."""

    id: UUID
    conversation_id: UUID
    turn: int
    status: Literal["running", "done", "stopped", "failed"]
    message: str
    is_user: bool
    course_id: UUID | None
    lecture_id: UUID | None
    position: float | None
    citations: list[Citation]
    recommendations: list[Recommendation]
    created_at: datetime
    updated_at: datetime


@routes.post(
    "/api/chat/message", role=STUDENT, body=NewMessage, answer=Answer, rate="chat", timeout_s=ANSWER_TIMEOUT_S,
    lease_s=_lease_s, idempotency="honoured",
    problems=(TutorBusy, ChatBudgetSpent, TurnFailed, ValidationFailed),
)  # fmt: skip
async def ask_tutor(call: Call[NewMessage]) -> dict[str, Any]:
    """Ask the tutor and wait for the whole answer; the same turn as on the socket, which tells it too.

    With the same `Idempotency-Key` it is the same turn: the model is asked once. One that failed and may be asked again
    is asked again, as a turn of its own; so is one whose process died, some seconds after that.
    """
    viewer = Viewer(call.user.id, call.user.role)
    try:
        question = await _question(call, viewer, _message_id(call), call.body)
        question = question._replace(kept_s=call.config.server.idempotency_ttl_s)
        number = await call.app[CONVERSATIONS].ask(viewer, question)
    except TurnRefused as refusal:
        metrics.CHAT_REFUSED.labels(_reason(refusal)).inc()
        raise _problem(call, refusal) from None
    row = await call.app[CONVERSATIONS].ended(viewer.id, number)
    if row is None or row["status"] == "failed":
        reason, text = (row["code"], row["text"] or "") if row else ("deleted", "")
        raise TurnFailed(turn=number, reason=reason, text=text, retryable=bool(row and row["retryable"]))
    return _answer(row)


@routes.get(
    "/api/chat/history/{user_id}", role=STUDENT, query=PageQuery, answer=Page[ChatMessage], rate="read",
    problems=(UserNotFound,),
)  # fmt: skip
async def list_history(call: Call[None]) -> dict[str, Any]:
    """What was said, newest first: one's own; an administrator's look at another's is noted."""
    user_id = call.path.user_id
    (after_id,) = read_cursor(call.query.cursor, UUID) or (None,)
    async with call.db.transaction() as tx:
        if not await _may_read(call, tx):
            raise UserNotFound
        await audit_foreign(tx, call.user.id, user_id, "chat_read", "user", user_id)
        rows = await chat.list_history(tx, user_id=user_id, after_id=after_id, page_size=call.query.limit + 1)
    return page(call, [_shown(row) for row in rows], key=lambda row: (row["id"],))


@routes.delete("/api/chat/history/{user_id}", role=STUDENT, rate="write", problems=(UserNotFound, Forbidden))
async def delete_history(call: Call[None]) -> None:
    """Delete all that one said and was told; an answer that is being given ends. A budget that was used stays used."""
    if call.path.user_id != call.user.id:
        raise Forbidden if await _may_read(call, call.db) else UserNotFound
    await call.app[CONVERSATIONS].forget(call.user.id)


@routes.get(
    "/api/chat/recommendations", role=STUDENT, query=PageQuery, answer=Page[Recommendation], rate="read"
)  # fmt: skip
async def list_recommendations(call: Call[None]) -> dict[str, Any]:
    """Courses to go on with, best first, with why: published ones that one has not, a few in all."""
    after = read_cursor(call.query.cursor, float, UUID)
    told = await recommend(call.db, call.user.id)
    if after is not None:
        told = tuple(one for one in told if one.place > place_of(*after))
    answer = page(call, told, key=lambda one: (one.score, one.course_id))
    return answer | {"items": [one.shown for one in answer["items"]]}


@routes.socket(
    "/ws/chat/{user_id}", rate="read", problems=(Unauthorized, UserNotFound),
    messages={"receive": messages.FROM_CLIENT, "send": (*messages.TO_CLIENT, Goodbye)},
)  # fmt: skip
async def open_chat_socket(call: Call[None]) -> web.StreamResponse:
    """One's conversation with the tutor: every socket of a user's is told the same, whichever asked.

    A turn that is being answered when a socket opens is told it after `resume`; of later ones it is told everything.
    """
    async with asyncio.timeout(call.config.server.handler_timeout_s):
        viewer = await admit(call.request)
    if viewer.id != call.path.user_id:
        raise UserNotFound
    socket = await call.app[SOCKETS].accept(call.request, "chat", viewer)
    try:
        await _converse(call, socket, viewer)
    except (*DATABASE_AWAY, *REDIS_AWAY):
        socket.end(1013, "part_away", 1000)
    except Exception:
        socket.fail(user=str(viewer.id))
    finally:
        await socket.closed()
    return socket.response


async def _converse(call: Call[None], socket: Socket, principal: Principal) -> None:
    conversations = call.app[CONVERSATIONS]
    listener, running, last_turn = await conversations.listen(principal.id, socket)
    socket.send(_hello(call, principal.id, running, last_turn))
    conversations.attach(principal.id, listener)
    try:
        async for text in socket.texts():
            try:
                frame = parse_chat_frame(text)
            except BadFrame as error:
                socket.answer_offence(encode(ChatError("bad_frame", error.told)))
                continue
            if isinstance(frame, Bye):
                socket.end(1000, "bye")
            else:
                await _serve(call, Viewer(principal.id, principal.role), listener, frame)
    finally:
        conversations.detach(principal.id, listener)


async def _serve(call: Call[None], viewer: Viewer, listener: Listener, frame: Ask | Stop | Resume) -> None:
    """Do what one frame asks for; what cannot be done now is said."""
    conversations = call.app[CONVERSATIONS]
    try:
        if isinstance(frame, Ask):
            await _ask(call, viewer, listener, frame)
        elif isinstance(frame, Stop):
            await conversations.stop_answer(viewer.id, frame.id)
        else:
            await conversations.resume(viewer.id, listener, frame.turn, frame.chunk)
    except DATABASE_AWAY:
        error = ChatError(
            "database_unavailable", "The database does not answer.", True, getattr(frame, "id", None), 1000
        )
        listener.peer.send(encode(error))


async def _ask(call: Call[None], viewer: Viewer, listener: Listener, frame: Ask) -> None:
    verdict = await call.app[LIMITER].take("chat", str(viewer.id))
    if verdict is not None and not verdict.allowed:
        metrics.CHAT_REFUSED.labels("rate_limited").inc()
        wait_ms = verdict.retry_after_s * 1000
        listener.peer.send(encode(ChatError("rate_limited", "Too many messages.", True, frame.id, wait_ms)))
        return
    try:
        question = await _question(call, viewer, frame.id, frame)
        await call.app[CONVERSATIONS].ask(viewer, question, listener)
    except TurnRefused as refusal:
        reason = _reason(refusal)
        metrics.CHAT_REFUSED.labels(reason).inc()
        code = "validation_failed" if reason == "refused" else reason
        detail = f"{refusal.detail} ({refusal.pointer})" if refusal.pointer else refusal.detail
        retry_ms = 1000 * _until_midnight_s(call) if reason == "budget_spent" else None
        listener.peer.send(encode(ChatError(code, detail, reason != "refused", frame.id, retry_ms)))


# Parts of the above --------------------------------------------------------------------------------------------------


async def _question(call: Call[Any], viewer: Viewer, message_id: str, asked: NewMessage | Ask) -> Question:
    """The question as the conversation takes it. Raises TurnRefused, DATABASE_AWAY."""
    text, most = asked.message, call.config.chat.message_characters
    if text is not None and (is_blank(text) or len(text.strip()) > most):
        raise TurnRefused(f"A message has 1 to {most} characters.", "/message")
    if text is not None and "\0" in text:
        raise TurnRefused("The text holds what is no character.", "/message")
    watching: Place | None = None
    if asked.video_session_id is not None:
        watching = await call.app[CONVERSATIONS].where(asked.video_session_id, viewer.id)
        if watching is None:
            raise TurnRefused("There is no such session.", "/video_session_id")
    retry_of = asked.retry_of if isinstance(asked, Ask) else None
    return Question(message_id, text and text.strip(), asked.course_id, watching, asked.conversation_id, retry_of)


def _message_id(call: Call[NewMessage]) -> str:
    """The same for the same key and body; without a key never the same."""
    key = call.request.headers.get("Idempotency-Key")
    if key is None:
        return f"rest:{uuid4()}"
    body = call.body.model_dump_json(exclude_unset=True).encode()
    return f"key:{key}:{blake2b(body, digest_size=16).hexdigest()}"


def _reason(refusal: TurnRefused) -> str:
    match refusal:
        case TurnBusy():
            return "busy"
        case BudgetSpent():
            return "budget_spent"
        case _:
            return "refused"


def _problem(call: Call[Any], refusal: TurnRefused) -> TutorBusy | ChatBudgetSpent | ValidationFailed:
    match refusal:
        case TurnBusy():
            return TutorBusy(refusal.detail, turn=refusal.turn)
        case BudgetSpent():
            return ChatBudgetSpent(headers={"Retry-After": str(_until_midnight_s(call))})
        case _:
            return ValidationFailed.at(refusal.pointer, refusal.detail)


def _until_midnight_s(call: Call[Any]) -> int:
    """When a new day's budget begins (UTC)."""
    now = call.app[CLOCK].now().astimezone(UTC)
    midnight = (now + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    return math.ceil((midnight - now).total_seconds())


async def _may_read(call: Call[Any], connection: Any) -> bool:
    if call.path.user_id == call.user.id:
        return True
    return call.user.role == "admin" and await chat.has_user(connection, user_id=call.path.user_id)


def _hello(call: Call[None], user_id: UUID, running: Record | None, last_turn: int) -> bytes:
    settings = call.config
    limits = messages.ChatLimits(settings.sessions.frame_bytes, settings.chat.message_characters)
    heartbeat_s = settings.sessions.heartbeat_s
    turn, message_id = (running["number"], running["client_msg_id"]) if running else (None, None)
    return encode(messages.ChatHello(PROTOCOL, user_id, turn, message_id, last_turn, heartbeat_s, limits))


def _answer(row: Record) -> dict[str, Any]:
    return {
        "message_id": row["message_id"],
        "turn": row["number"],
        "conversation_id": row["conversation_id"],
        "text": row["text"] or "",
        "citations": row["citations"] or [],
        "recommendations": row["recommendations"] or [],
        "usage": {"prompt_tokens": row["prompt_tokens"], "completion_tokens": row["completion_tokens"]},
        "source": row["source"] or "transcript",
        "stopped": row["status"] == "stopped",
    }


def _shown(row: Record) -> dict[str, Any]:
    position_ms = row["position_ms"]
    return {**row, "position": None if position_ms is None else position_ms / 1000}

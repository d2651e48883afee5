"""The frames of a conversation's socket, in one place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any
from uuid import UUID

import msgspec
from msgspec import Meta, Struct

from actors.video_session.messages import Bye, read_frame

MOST_CHUNKS = 1 << 53

# Postgres keeps no NUL.
Id = Annotated[str, Meta(min_length=1, max_length=128, pattern="^[^\\u0000]*$")]
# What any message may be called: one that came by REST is named by its idempotency key, and a digest of its body.
TurnId = Annotated[str, Meta(min_length=1, max_length=320, pattern="^[^\\u0000]*$")]
Number = Annotated[int, Meta(ge=1, lt=1 << 31)]


class Ask(Struct, tag="message", tag_field="type"):
    """A question. `id` is the client's own: one that comes again is the same turn, and asked once.

    With `retry_of`, the number of a turn that failed or was stopped, `message` and what it was about may be left out.
    """

    id: Id
    message: str | None = None
    course_id: UUID | None = None
    video_session_id: UUID | None = None
    conversation_id: UUID | None = None
    retry_of: Number | None = None


class Stop(Struct, tag="stop", tag_field="type"):
    """End the answer to the message with this id; what was said so far stays."""

    id: TurnId


class Resume(Struct, tag="resume", tag_field="type"):
    """Send again what came after this chunk of a turn; 0: all of it."""

    turn: Number
    chunk: Annotated[int, Meta(ge=0, le=MOST_CHUNKS)] = 0


class ChatLimits(Struct):
    """What a client may send: bytes of a frame, characters of a message."""

    frame_bytes: int
    message_characters: int


class ChatHello(Struct, tag="hello", tag_field="type"):
    """The socket is open. `turn` is the number of the turn that is being answered, if there is one: `resume` it to have
    its text; its end is told in any case. `id` is that of its message: `stop` it. `last_turn` is the newest, 0: there
    is none."""

    protocol: str
    user_id: UUID
    turn: int | None
    id: str | None
    last_turn: int
    heartbeat_s: float
    limits: ChatLimits


class Accepted(Struct, tag="accepted", tag_field="type"):
    """A message has become this turn, or is it already; told to all sockets of the user."""

    id: str
    turn: int
    message: str
    conversation_id: UUID


class Delta(Struct, tag="delta", tag_field="type"):
    """The next part of an answer; `chunk` counts from 1 within a turn, without a gap."""

    turn: int
    chunk: int
    text: str


class TurnUsage(Struct):
    """What an answer took, in the model's tokens; zeros where no model was asked."""

    prompt_tokens: int
    completion_tokens: int


class Done(Struct, tag="done", tag_field="type"):
    """The answer is whole, or was stopped on request (`stopped`). `source`: `model`, or `transcript` when the material
    itself was quoted. `message_id` is null when it was stopped before its first word.

    A citation is `{course_id, lecture_id, from, to, quote}` in seconds or `{file_id, page?, quote}`; a recommendation
    `{course_id, title, reason}`.
    """

    turn: int
    message_id: UUID | None
    citations: list[dict[str, Any]]
    recommendations: list[dict[str, Any]]
    usage: TurnUsage
    source: str
    stopped: bool
    conversation_id: UUID


class Failed(Struct, tag="failed", tag_field="type"):
    """The answer ends here. What was said of it stays, under `message_id`; a `retryable` one may be asked again by a
    message with a new id and `retry_of`."""

    turn: int
    code: str
    retryable: bool
    message_id: UUID | None = None


class ChatError(Struct, tag="error", tag_field="type"):
    """A frame was refused; `id` is that of its message. Worth another try after `retry_ms` where that is given."""

    code: str
    detail: str
    retryable: bool = False
    id: str | None = None
    retry_ms: int | None = None


FROM_CLIENT: Sequence[type[Struct]] = (Ask, Stop, Resume, Bye)
TO_CLIENT: Sequence[type[Struct]] = (ChatHello, Accepted, Delta, Done, Failed, ChatError)

_decoder: msgspec.json.Decoder[Ask | Stop | Resume | Bye] = msgspec.json.Decoder(Ask | Stop | Resume | Bye)


def parse_chat_frame(text: str) -> Ask | Stop | Resume | Bye:
    """The message in one text frame; unknown members are ignored. Raises BadFrame."""
    return read_frame(_decoder, text)


def encode(frame: Struct) -> bytes:
    """A frame as JSON."""
    return msgspec.json.encode(frame)

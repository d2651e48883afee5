"""The socket of a page: what concerns its user elsewhere, and what becomes of the forums that it watches."""

import asyncio
from uuid import UUID

import msgspec
from aiohttp import web
from msgspec import Struct

from actors.video_session.messages import BadFrame, Bye, Error, read_frame
from server.data.db import DATABASE_AWAY
from server.http.events import EVENTS as TOLD
from server.http.events import Events, Listener
from server.http.keys import EVENTS, SOCKETS
from server.http.problems import Unauthorized
from server.http.routing import Call, Routes
from server.http.socket import Goodbye, Socket, admit

routes = Routes("events")


class Watch(Struct, tag="watch", tag_field="type", forbid_unknown_fields=True):
    """Tell me what becomes of a topic, or of a course's whole forum: one of the two."""

    topic_id: UUID | None = None
    course_id: UUID | None = None


class Unwatch(Struct, tag="unwatch", tag_field="type", forbid_unknown_fields=True):
    """Tell me no more of it."""

    topic_id: UUID | None = None
    course_id: UUID | None = None


class Playing(Struct, tag="playing", tag_field="type", forbid_unknown_fields=True):
    """The session that this page plays, null for none: tell me of the others alone."""

    session_id: UUID | None


class Watching(Struct, tag="watching", tag_field="type"):
    """From now on you are told of it."""

    topic_id: UUID | None
    course_id: UUID


_decoder: msgspec.json.Decoder[Watch | Unwatch | Playing | Bye] = msgspec.json.Decoder(Watch | Unwatch | Playing | Bye)


@routes.socket(
    "/api/events",
    rate="read",
    problems=(Unauthorized,),
    messages={
        "receive": (Watch, Unwatch, Playing, Bye),
        "send": (Watching, *TOLD, Error, Goodbye),
    },
)
async def open_events_socket(call: Call[None]) -> web.StreamResponse:
    """What concerns one elsewhere, one socket a page: how far another device is, an enrolment, an upload that is ready.

    With `watch` also what is written in forums, where one is entitled and for as long. Best effort: whoever was away
    asks the routes.
    """
    async with asyncio.timeout(call.config.server.handler_timeout_s):
        viewer = await admit(call.request)
    socket = await call.app[SOCKETS].accept(call.request, "events", viewer)
    events = call.app[EVENTS]
    listener = events.join(socket)
    try:
        await _hear(call, socket, events, listener)
    except Exception:
        socket.fail(user=str(viewer.id))
    finally:
        events.leave(listener)
        await socket.closed()
    return socket.response


async def _hear(call: Call[None], socket: Socket, events: Events, listener: Listener) -> None:
    async for text in socket.texts():
        try:
            frame = _parse(text)
        except BadFrame as error:
            socket.answer_offence(msgspec.json.encode(Error("bad_frame", error.told)))
            continue
        match frame:
            case Bye():
                socket.end(1000, "bye")
            case Playing():
                listener.own_session = frame.session_id
            case Unwatch():
                events.unwatch(listener, _subject(frame))
            case Watch():
                socket.send(msgspec.json.encode(await _watch(call, events, listener, frame)))


def _parse(text: str) -> Watch | Unwatch | Playing | Bye:
    """Raises BadFrame."""
    frame = read_frame(_decoder, text)
    if isinstance(frame, Watch | Unwatch) and (frame.topic_id is None) == (frame.course_id is None):
        raise BadFrame("Either `topic_id` or `course_id` is needed.")
    return frame


def _subject(frame: Watch | Unwatch) -> UUID:
    subject_id = frame.topic_id or frame.course_id
    assert subject_id is not None
    return subject_id


async def _watch(call: Call[None], events: Events, listener: Listener, frame: Watch) -> Watching | Error:
    """What the page is answered."""
    try:
        async with asyncio.timeout(call.config.server.handler_timeout_s):
            found = await events.find_watched(listener, topic_id=frame.topic_id, course_id=frame.course_id)
    except (*DATABASE_AWAY, TimeoutError):
        return Error("database_unavailable", "Ask again later.", retryable=True)
    if found is None:
        kind = "topic" if frame.topic_id else "course"
        return Error(f"{kind}_not_found", f"There is no such {kind}, or none that you may know of.")
    if not found["viewer_entitled"]:
        return Error("not_entitled", "The course is there, but you are not enrolled in it.")
    if not events.watch(listener, _subject(frame), found["course_id"]):
        return Error("too_many_watched", f"A page watches {call.config.events.watched_max} at most.")
    return Watching(frame.topic_id, found["course_id"])

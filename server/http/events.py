"""What concerns a user elsewhere, told to the pages that the user has open.

Whoever changes something tells it as news to every process; each hands it to those of its pages that wait for it and
may know of it, which is asked of Postgres for every piece of news. How far video sessions came, and who is enrolled, is
not told by anybody: while pages are open their process looks, so that nothing is paid on the way of telemetry, and who
enrols somebody need not know of us.

All of it is best effort: the routes are the truth.
"""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Literal
from uuid import UUID

import msgspec
from msgspec import Struct

from server import metrics
from server.config import Events as Settings
from server.data.db import DATABASE_AWAY, Database, Record, queries
from server.data.streams import Streams
from server.http.socket import Socket
from server.logs import get_logger

# How other processes call what we tell them.
NEWS = "news"
# News that wait here to be handed on, and users that one statement asks about.
MOST_WAITING = 1000
SLICE = 1000

_events = queries("events")
log = get_logger()


class PostEvent(Struct, tag="post", tag_field="type"):
    """Something became of a post in a topic or course that is watched."""

    change: Literal["created", "edited", "deleted", "solution"]
    course_id: UUID
    topic_id: UUID
    post_id: UUID
    # Whose doing it was.
    user_id: UUID


class TopicEvent(Struct, tag="topic", tag_field="type"):
    """Something became of a topic that is watched, or of a watched course."""

    change: Literal["created", "changed", "deleted"]
    course_id: UUID
    topic_id: UUID
    user_id: UUID


class VideoEvent(Struct, tag="video", tag_field="type"):
    """A video that one uploaded is `ready`, or has failed (`error`)."""

    video_id: UUID
    lecture_id: UUID
    status: Literal["ready", "error"]
    error: str | None


class ProgressEvent(Struct, tag="progress", tag_field="type"):
    """Another device moved on in a lecture: where it is (s), and how it plays (`sta` as in CMCD). `session_id` and
    `video_id` are those of its video session, null where it keeps its progress without one."""

    session_id: UUID | None
    video_id: UUID | None
    lecture_id: UUID
    course_id: UUID
    position: float
    sta: str | None
    device: str | None
    at: datetime


class EnrollmentEvent(Struct, tag="enrollment", tag_field="type"):
    """One was enrolled in a course, or is no more."""

    course_id: UUID
    is_active: bool


class RevokedEvent(Struct, tag="revoked", tag_field="type"):
    """One is not entitled to this course any more: what was watched of its forum no longer is; without `course_id`
    one's credentials hold no longer, and the socket is closed with 4401."""

    course_id: UUID | None = None


class News(Struct):
    """An event on its way between processes; `to` is the only user whom it concerns, None: who watches."""

    event: PostEvent | TopicEvent | VideoEvent | ProgressEvent
    to: UUID | None = None


Event = PostEvent | TopicEvent | VideoEvent | ProgressEvent | EnrollmentEvent | RevokedEvent
EVENTS = (ProgressEvent, EnrollmentEvent, PostEvent, TopicEvent, VideoEvent, RevokedEvent)
_read_news = msgspec.json.Decoder(News).decode
_TOLD = {event: metrics.EVENTS.labels(str(event.__struct_config__.tag)) for event in EVENTS}


class Listener:
    """One open page."""

    def __init__(self, socket: Socket) -> None:
        self.socket = socket
        self.user_id = socket.principal.id
        self.role = socket.principal.role
        # By what is watched (a topic or a course), its course.
        self.watched: dict[UUID, UUID] = {}
        # The session that the page itself plays: of it there is nothing to tell.
        self.own_session: UUID | None = None
        # What was told last: of sessions that moved the place in their streams, of enrolments the time of their change
        # and what they were changed to, for who began first may write last, and then the time stays.
        self.moved: dict[UUID, tuple[int, str]] = {}
        self.enrolled: dict[UUID, tuple[datetime, bool]] = {}


class Events:
    """The open pages of this process, and what they wait for."""

    def __init__(self, database: Database, streams: Streams, settings: Settings, entitled_s: float) -> None:
        self._database = database
        self._streams = streams
        self._settings = settings
        self._entitled_s = entitled_s
        self._pages: dict[UUID, set[Listener]] = defaultdict(set)
        self._watching: dict[UUID, set[Listener]] = defaultdict(set)
        self._waiting: asyncio.Queue[News] = asyncio.Queue(MOST_WAITING)

    # Pages -----------------------------------------------------------------------------------------------------------

    def join(self, socket: Socket) -> Listener:
        """A page is open."""
        listener = Listener(socket)
        socket.parting = msgspec.json.encode(RevokedEvent())
        self._pages[listener.user_id].add(listener)
        return listener

    def leave(self, listener: Listener) -> None:
        """A page is gone."""
        for subject_id in list(listener.watched):
            self.unwatch(listener, subject_id)
        _discard(self._pages, listener.user_id, listener)

    def watch(self, listener: Listener, subject_id: UUID, course_id: UUID) -> bool:
        """Tell the page what becomes of a topic or course, which it may know of; False when it watches too many."""
        if subject_id not in listener.watched:
            if len(listener.watched) >= self._settings.watched_max:
                return False
            metrics.EVENT_WATCHES.inc()
        listener.watched[subject_id] = course_id
        self._watching[subject_id].add(listener)
        return True

    def unwatch(self, listener: Listener, subject_id: UUID) -> None:
        """No more of it."""
        if listener.watched.pop(subject_id, None) is not None:
            metrics.EVENT_WATCHES.dec()
            _discard(self._watching, subject_id, listener)

    async def find_watched(
        self, listener: Listener, *, topic_id: UUID | None = None, course_id: UUID | None = None
    ) -> Record | None:
        """The course of a topic, or the course, and whether the page's user is entitled to it (`course_id`,
        `viewer_entitled`); None when there is none that may be known. Raises DATABASE_AWAY."""
        row: Record | None = await _events.find_watched(
            self._database,
            topic_id=topic_id,
            course_id=course_id,
            viewer_id=listener.user_id,
            viewer_role=listener.role,
        )
        return row

    # News ------------------------------------------------------------------------------------------------------------

    async def announce(
        self, event: PostEvent | TopicEvent | VideoEvent | ProgressEvent, to: UUID | None = None
    ) -> None:
        """Something was committed. Never raises when Redis is away: then nobody is told."""
        await self._streams.announce(NEWS, msgspec.json.encode(News(event, to)).decode())

    async def announce_video(self, video_id: UUID) -> None:
        """A video became ready or failed. Raises DATABASE_AWAY."""
        row = await _events.get_settled_video(self._database, video_id=video_id)
        if row is not None:
            event = VideoEvent(row["id"], row["lecture_id"], row["status"], row["error"])
            await self.announce(event, to=row["upload_user_id"])

    def heard(self, text: str) -> None:
        """Some process has news. Nothing is waited for here: those who listen also hear of frames."""
        if not self._pages:
            return
        try:
            self._waiting.put_nowait(_read_news(text))
        except (msgspec.MsgspecError, asyncio.QueueFull) as error:
            metrics.EVENTS_DROPPED.inc()
            log.warning("news_dropped", error=repr(error))

    async def run(self) -> None:
        """Hand news on until cancelled."""
        while True:
            news = await self._waiting.get()
            with self._forgiving("news_dropped"):
                await self._hand_on(news)

    async def _hand_on(self, news: News) -> None:
        event = news.event
        if isinstance(event, VideoEvent | ProgressEvent):
            self._tell(self._pages.get(news.to, ()) if news.to else (), event)
            return
        watching = self._watching.get(event.topic_id, set()) | self._watching.get(event.course_id, set())
        if not watching:
            return
        entitled = await self._list_entitled([(listener, event.course_id) for listener in watching])
        self._tell((listener for listener in watching if (listener, event.course_id) in entitled), event)
        if isinstance(event, TopicEvent) and event.change == "deleted":
            for listener in list(self._watching.get(event.topic_id, ())):
                self.unwatch(listener, event.topic_id)

    def _tell(self, listeners: Iterable[Listener], event: Event) -> None:
        payload = msgspec.json.encode(event)
        for listener in list(listeners):
            if listener.socket.offer(payload):
                _TOLD[type(event)].inc()
            elif not listener.socket.ending:
                # It would miss this one without knowing: it shall come back, and ask the routes.
                metrics.EVENTS_DROPPED.inc()
                metrics.SLOW_READERS.inc()
                listener.socket.end(4508, "slow_reader")

    # Rights ----------------------------------------------------------------------------------------------------------

    async def _list_entitled(self, pairs: Sequence[tuple[Listener, UUID]]) -> set[tuple[Listener, UUID]]:
        """Those who may know of what they watch; the others are told that they may not, and watch it no longer."""
        entitled = set()
        for start in range(0, len(pairs), SLICE):
            part = pairs[start : start + SLICE]
            rows = await _events.list_entitled(
                self._database,
                user_ids=[listener.user_id for listener, _ in part],
                roles=[listener.role for listener, _ in part],
                course_ids=[course_id for _, course_id in part],
            )
            entitled |= {part[row["place"] - 1] for row in rows}
        for listener, course_id in set(pairs) - entitled:
            for subject_id in [subject for subject, course in listener.watched.items() if course == course_id]:
                self.unwatch(listener, subject_id)
            self._tell([listener], RevokedEvent(course_id))
        return entitled

    async def _check_rights(self) -> None:
        pairs = {
            (listener, course_id)
            for pages in self._pages.values()
            for listener in pages
            for course_id in listener.watched.values()
        }
        await self._list_entitled(list(pairs))

    # What is looked at -----------------------------------------------------------------------------------------------

    async def look(self) -> None:
        """Look where the sessions of those who have pages open are, and who was enrolled, until cancelled."""
        checked_at = 0.0
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._settings.look_s)
            with self._forgiving("not_looked"):
                await self._look_at_sessions()
                await self._look_at_enrollments()
                if loop.time() - checked_at >= self._entitled_s:
                    checked_at = loop.time()
                    await self._check_rights()

    async def _look_at_sessions(self) -> None:
        for pages in self._slices():
            rows = await _events.list_moved_sessions(
                self._database,
                user_ids=[listener.user_id for listener in pages],
                own_session_ids=[listener.own_session for listener in pages],
                within_s=self._settings.moved_s,
            )
            for listener, found in _by_page(pages, rows):
                known, listener.moved = listener.moved, {row["id"]: (row["last_seq"], row["last_sub"]) for row in found}
                news = [row for row in found if known.get(row["id"]) != listener.moved[row["id"]]]
                for row in news:
                    self._tell([listener], _progress(row))

    async def _look_at_enrollments(self) -> None:
        ended: list[tuple[Listener, UUID]] = []
        for pages in self._slices():
            rows = await _events.list_changed_enrollments(
                self._database,
                user_ids=[listener.user_id for listener in pages],
                within_s=3 * self._settings.look_s + 1,
            )
            for listener, found in _by_page(pages, rows):
                changes = {row["course_id"]: (row["updated_at"], row["is_active"]) for row in found}
                known, listener.enrolled = listener.enrolled, changes
                news = [row for row in found if known.get(row["course_id"]) != changes[row["course_id"]]]
                for row in news:
                    self._tell([listener], EnrollmentEvent(row["course_id"], row["is_active"]))
                ended += [(listener, row["course_id"]) for row in news if not row["is_active"]]
        # What was paid otherwise, or is one's own, is not lost with the enrolment.
        await self._list_entitled(ended)

    def _slices(self) -> Iterable[list[Listener]]:
        every = [listener for pages in self._pages.values() for listener in pages]
        return [every[start : start + SLICE] for start in range(0, len(every), SLICE)]

    @contextlib.contextmanager
    def _forgiving(self, what: str) -> Iterator[None]:
        """What goes wrong is logged, and the next news or look begins anew."""
        try:
            yield
        except DATABASE_AWAY as error:
            metrics.EVENTS_DROPPED.inc()
            log.warning(what, error=repr(error))
        except Exception:
            metrics.EVENTS_DROPPED.inc()
            log.exception(what)


def _by_page(pages: Sequence[Listener], rows: Sequence[Record]) -> Iterable[tuple[Listener, list[Record]]]:
    """Each page with its rows, which say by `place` (from 1) whose they are."""
    found: dict[int, list[Record]] = defaultdict(list)
    for row in rows:
        found[row["place"]].append(row)
    return [(listener, found.get(place, [])) for place, listener in enumerate(pages, start=1)]


def _progress(row: Record) -> ProgressEvent:
    return ProgressEvent(
        session_id=row["id"],
        video_id=row["video_id"],
        lecture_id=row["lecture_id"],
        course_id=row["course_id"],
        position=row["position_ms"] / 1000,
        sta=row["sta"],
        device=row["device"],
        at=row["seen_at"],
    )


def _discard(index: dict[UUID, set[Listener]], key: UUID, listener: Listener) -> None:
    held = index.get(key)
    if held is not None:
        held.discard(listener)
        if not held:
            del index[key]

"""A video's audience, for the course's owner: who watches it now, and what was watched of it."""

import asyncio
import re
from dataclasses import dataclass
from datetime import date, datetime
from typing import Annotated, Any
from uuid import UUID

import msgspec
from aiohttp import web
from msgspec import Struct
from pydantic import BaseModel, BeforeValidator, Field

from actors.video_session.figures import REASONS
from actors.video_session.messages import BadFrame, Bye, Error, parse_socket_frame
from actors.video_session.state import load_state
from server.data.db import DATABASE_AWAY, Record, queries
from server.domain import figures
from server.http.keys import CLOCK, SOCKETS
from server.http.problems import Forbidden, Unauthorized, ValidationFailed, VideoNotFound
from server.http.routing import STUDENT, Call, Query, Routes
from server.http.socket import Goodbye, Socket, admit

routes = Routes("audience")
audience = queries("audience")

# The sums over all days stand under the earliest day that there is.
ALL_TIME = date.min
FIRST_DAY = date(1970, 1, 1)
_DAY = re.compile("[0-9]{4}-[0-9]{2}-[0-9]{2}")


def _only_a_day(text: str) -> str:
    """pydantic's own reading takes seconds since 1970 for a day too."""
    if not _DAY.fullmatch(text):
        raise ValueError("must be a day such as 2026-01-31")
    return text


Day = Annotated[date, BeforeValidator(_only_a_day, json_schema_input_type=date), Field(ge=FIRST_DAY)]


class Days(Query):
    """UTC days, both included; a session counts on the day it was created. Without any: all time."""

    first: Annotated[Day | None, Field(alias="from")] = None
    last: Annotated[Day | None, Field(alias="to")] = None


class Startup(BaseModel):
    """Start-up delays, ms, within 1 %."""

    p50: float | None
    p95: float | None


class RungTime(BaseModel):
    """`br` in kbit/s, picture in pixels; how long it was shown."""

    rung: int
    br: float
    width: int | None = None
    height: int | None = None
    seconds: float


class Analytics(BaseModel):
    """A video's figures, summed over its sessions. Times are seconds where the name says nothing else; shares are 0 to
    1, and null where there is nothing that they could be a share of.

    A session is a view when 10 s or half of the video were watched; `unique_viewers` had at least one. `watch_time` is
    the sessions' `watched_seconds`; `play_time` is how long they played, repeats included, at the rate they played at.
    `completion` is the share of views in which 90 % (`progress.complete_share`) were watched. `retention` has for each
    percent of the video the share of `starts`, sessions in which playing began, that watched any part of it. A rewind
    is a step back of 1 s or more. `exits_before_start` are over or suspended without that playing began.
    `rebuffer_ratio` is `stall_time` over itself and `play_time`. `mean_bitrate_kbps` is weighted by time.
    """

    video_id: UUID
    first: Annotated[date | None, Field(alias="from")]
    last: Annotated[date | None, Field(alias="to")]
    sessions: int
    starts: int
    exits_before_start: int
    views: int
    unique_viewers: int
    watch_time: float
    play_time: float
    completions: int
    completion: float | None
    retention: Annotated[list[float], Field(min_length=100, max_length=100)]
    rewinds: int
    startup_ms: Startup
    stalls: int
    stall_time: float
    rebuffer_ratio: float | None
    mean_bitrate_kbps: float | None
    time_per_rung: list[RungTime]
    switches: int
    decisions_by_reason: dict[str, int]


@routes.get(
    "/api/videos/{video_id}/analytics",
    role=STUDENT,
    query=Days,
    answer=Analytics,
    problems=(VideoNotFound, Forbidden, ValidationFailed),
    rate="read",
)
async def get_analytics(call: Call[None]) -> dict[str, Any]:
    """What was watched of a video of one's own course, of all time or of some days.

    Sessions that go on are counted as of the last `sessions.figures_s`, those that are over as they are.
    """
    video = await _get_own(call)
    first, last = call.query.first, call.query.last
    if first and last and first > last:
        raise ValidationFailed.at("/to", "must not be before `from`")
    all_time = first is None and last is None
    days = {"video_id": video["id"], "first_day": first or FIRST_DAY, "last_day": last or date.max}
    summed = days | ({"first_day": ALL_TIME, "last_day": ALL_TIME} if all_time else {})
    sums = {row["slot"]: row["value"] for row in await audience.sum_figures(call.db, **summed)}
    shown = figures.report(sums, video["ladder"] or [], REASONS)
    if not all_time and first != last:
        shown["unique_viewers"] = await audience.count_viewers(call.db, **days)
    waiting = await audience.count_waiting(call.db, **days)
    shown["exits_before_start"] = max(0, shown["sessions"] - shown["starts"] - waiting)
    return {"video_id": video["id"], "first": first, "last": last, **shown}


# Who watches now ------------------------------------------------------------------------------------------------------

MOST_VIEWERS = 100


@dataclass(frozen=True, slots=True)
class Viewer:
    """One who watches: where (s), how it plays (`sta` as in CMCD; null before any report), at which rate and bitrate
    (kbit/s), with how much buffered (s); what its session had to bear so far (ms)."""

    session_id: UUID
    user_id: UUID
    username: str
    device: str | None
    since: datetime
    position: float
    sta: str | None
    playback_rate: float
    bitrate_kbps: float | None
    buffer: float | None
    stalls: int
    stall_ms: float
    startup_ms: float | None
    decided_rung: int | None
    reason: str | None


class Live(Struct, tag="live", tag_field="type"):
    """Who watches now, told once a second: how many, how many of them play and stall, and the newest 100 of them."""

    at: datetime
    watching: int
    playing: int
    stalled: int
    viewers: list[Viewer]


class ShownLive(BaseModel):
    """Who watches now: how many, how many of them play and stall, and the newest 100 of them."""

    at: datetime
    watching: int
    playing: int
    stalled: int
    viewers: list[Viewer]


@routes.get(
    "/api/videos/{video_id}/live",
    role=STUDENT,
    answer=ShownLive,
    problems=(VideoNotFound, Forbidden),
    rate="read",
)
async def get_live(call: Call[None]) -> dict[str, Any]:
    """Who watches a video of one's own course now, as of their sessions' last checkpoints: a second ago, or so."""
    video = await _get_own(call)
    shown: dict[str, Any] = msgspec.to_builtins(await _look(call, video["id"]))
    return shown


@routes.socket(
    "/api/videos/{video_id}/live/ws",
    rate="read",
    problems=(Unauthorized, VideoNotFound, Forbidden),
    messages={"receive": (Bye,), "send": (Live, Error, Goodbye)},
)
async def open_live_socket(call: Call[None]) -> web.StreamResponse:
    """Who watches a video of one's own course, once a second. Nothing but `bye` is said by whoever looks on."""
    async with asyncio.timeout(call.config.server.handler_timeout_s):
        call.viewer = viewer = await admit(call.request)
        await _get_own(call)
    socket = await call.app[SOCKETS].accept(call.request, "live", viewer)
    telling = asyncio.create_task(_tell(call, socket))
    try:
        await _hear(socket)
    except Exception:
        socket.fail(video=str(call.path.video_id))
    finally:
        telling.cancel()
        await socket.closed()
    return socket.response


async def _tell(call: Call[None], socket: Socket) -> None:
    """Say who watches until the socket ends, or the right to know it does. What a slow reader misses it misses."""
    while not socket.ending:
        try:
            await _get_own(call)
            socket.send_decision(msgspec.json.encode(await _look(call, call.path.video_id)))
        except (VideoNotFound, Forbidden) as refusal:
            socket.end(4404 if isinstance(refusal, VideoNotFound) else 4403, refusal.code)
        except DATABASE_AWAY:
            pass  # the next second tries again
        except Exception:
            socket.fail(video=str(call.path.video_id))
        await asyncio.sleep(call.config.sessions.live_interval_s)


async def _hear(socket: Socket) -> None:
    async for text in socket.texts():
        try:
            if isinstance(parse_socket_frame(text), Bye):
                socket.end(1000, "bye")
                continue
            raise BadFrame("Nothing but `bye` is taken here.")
        except BadFrame as error:
            socket.answer_offence(msgspec.json.encode(Error("bad_frame", error.detail)))


async def _look(call: Call[Any], video_id: UUID) -> Live:
    rows = await audience.list_live(call.db, video_id=video_id, most=MOST_VIEWERS)
    watching, playing, stalled = (rows[0][name] for name in ("watching", "playing", "stalled")) if rows else (0, 0, 0)
    return Live(call.app[CLOCK].now(), watching, playing, stalled, [_viewer(row) for row in rows])


def _viewer(row: Record) -> Viewer:
    state = load_state(row["state"], (row["last_seq"], int(row["last_sub"])))
    position_ms = row["resume_ms"] if state.position_ms is None else state.position_ms
    decision = row["decision"] or {}
    buffer_ms = state.quality.buffer_ms
    return Viewer(
        session_id=row["id"],
        user_id=row["user_id"],
        username=row["username"],
        device=row["device"],
        since=row["created_at"],
        position=position_ms / 1000,
        sta=state.player_state,
        playback_rate=state.quality.playback_rate,
        bitrate_kbps=state.bitrate_kbps,
        buffer=None if buffer_ms is None else buffer_ms / 1000,
        stalls=state.stalls,
        stall_ms=state.stall_ms,
        startup_ms=state.startup_ms,
        decided_rung=decision.get("rung"),
        reason=decision.get("reason"),
    )


async def _get_own(call: Call[Any]) -> Record:
    """The video of the path, of a course of the caller's. Raises VideoNotFound, Forbidden."""
    video: Record | None = await audience.get_video(
        call.db, video_id=call.path.video_id, viewer_id=call.user.id, viewer_role=call.user.role
    )
    if video is None:
        raise VideoNotFound
    if not video["viewer_owns"]:
        raise Forbidden
    return video

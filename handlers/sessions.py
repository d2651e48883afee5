"""Video sessions: made by a player that is about to watch, fed over a socket or by REST, read by their owners."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Annotated, Any, Literal
from uuid import UUID

import asyncpg
import msgspec
import structlog
from aiohttp import web
from pydantic import BaseModel, Field, StringConstraints

from actors.runtime import Runtime
from actors.video_session import cmcd, messages, quality
from actors.video_session.actor import VideoSession
from actors.video_session.messages import (
    BadFrame,
    Bye,
    Report,
    Rung,
    Telemetry,
    parse_rest_frame,
    parse_socket_frame,
)
from actors.video_session.quality import QualityState
from actors.video_session.state import load_state
from server import metrics
from server.data.db import Record, queries
from server.data.neighbours import name_of
from server.data.streams import REDIS_AWAY, StreamFull
from server.http.auth import API, SESSION, Claims, bearer_token, verify_current
from server.http.keys import CONFIG, EDGE, SOCKETS, VIDEO_HOST, WATCHING
from server.http.members import Playback
from server.http.parsing import Whole, check_json, media_type
from server.http.problems import (
    BodyTooLarge,
    NotEntitled,
    Overloaded,
    SessionEnded,
    SessionNotFound,
    TooManySessions,
    Unauthorized,
    UnsupportedMediaType,
    ValidationFailed,
    VideoNotFound,
    VideoNotReady,
)
from server.http.routing import SELF_SERVED, STUDENT, Body, Call, Query, Routes, arriving, throttle
from server.http.socket import Goodbye, Socket, check_opening
from server.http.watching import Watcher
from server.services.outside import ServiceError

routes = Routes("sessions")
sessions = queries("sessions")
videos = queries("videos")
log = structlog.get_logger()


CORE: web.AppKey[Runtime] = web.AppKey("core", Runtime)

# For a video whose manifest cannot be read just now: what a video host usually makes, so that nobody has to wait.
USUAL_LADDER = [
    {"rung": 0, "br": 400, "width": 426, "height": 240},
    {"rung": 1, "br": 800, "width": 640, "height": 360},
    {"rung": 2, "br": 1500, "width": 854, "height": 480},
    {"rung": 3, "br": 3000, "width": 1280, "height": 720},
]
USUAL_SEGMENT_S = 4.0
LADDER_TIMEOUT_S = 1.5
# What others on a network get is no reason to wait.
NEIGHBOURS_TIMEOUT_S = 0.3
# Of a handler's time what a takeover may wait for what it ended.
FINISHING_SHARE = 1 / 3
MOST_FRAMES = 100
CMCD_TYPE = "application/cmcd"
CMCD_BYTES = 262_144

Telemetries = Annotated[list[Telemetry], msgspec.Meta(max_length=MOST_FRAMES)]
Pixels = Annotated[int, Field(ge=0, le=100_000), Whole]
Word = Annotated[str, StringConstraints(max_length=200)]


class NewSession(Body):
    """What a player says of itself before it watches."""

    device: Word | None = None
    viewport: Annotated[list[Pixels], Field(min_length=2, max_length=2)] | None = None
    connection: Word | None = None
    save_data: bool = False
    player: Word | None = None
    takeover: bool = False


class LadderRung(BaseModel):
    """`br` in kbit/s, picture in pixels."""

    rung: int
    br: float
    width: int | None = None
    height: int | None = None


class QualityDecision(BaseModel):
    """Advice for the player, good for `ttl_ms`. `cmsd` is CTA-5006's: maximum suggested bitrate `mb` and estimated
    throughput `etp`, both kbit/s (`etp` is `mb` before anything was measured); `du` on a full link that many share.
    `abandon`: give up what is being fetched above `rung`."""

    n: int
    epoch: int
    rung: int
    cmsd: dict[str, int | bool]
    reason: str
    ttl_ms: int
    abandon: bool = False


class Session(BaseModel):
    """A session that was just made."""

    session_id: UUID
    ws_url: str
    token: str
    playback: Playback | None
    ladder: list[LadderRung]
    segment_s: float
    resume_position: float
    decision: QualityDecision


class SessionState(BaseModel):
    """Where a session stands in Postgres: exact folds of what its player sent. Seconds, milliseconds, bytes."""

    id: UUID
    video_id: UUID
    user_id: UUID
    status: Literal["active", "suspended", "ended"]
    claimed_by: Literal["socket", "rest", "reaper"] | None
    epoch: int
    last_seq: int
    saved_seq: int
    frames: int
    segments: int
    bytes: int
    duplicates: int
    gaps: int
    position: float | None
    resume_position: float
    watched_seconds: float
    stalls: int
    stall_ms: float
    startup_ms: float | None
    switches: int
    decision: QualityDecision | None
    created_at: datetime
    updated_at: datetime
    ended_at: datetime | None


class Beacon(Query):
    """Credentials for senders that cannot set headers, and what CMCD says of a request in its address."""

    token: Annotated[str, Field(max_length=4096)] | None = None
    cmcd: Annotated[str | None, Field(alias="CMCD", max_length=2048)] = None


class Accepted(BaseModel):
    """What became of frames sent by REST."""

    accepted: int
    duplicates: int
    decision: QualityDecision | None


class Position(Body):
    """Where the learner is; `sta` and `pr` as in CMCD."""

    position: Annotated[float, Field(ge=0, le=1_000_000)]
    seq: Annotated[int, Field(ge=1, le=messages.MAX_SEQ), Whole] | None = None
    sta: Annotated[str, StringConstraints(max_length=16)] | None = None
    pr: Annotated[float, Field(ge=0)] | None = None


@routes.post(
    "/api/videos/{video_id}/sessions", role=STUDENT, body=NewSession, answer=Session, status=201,
    location="/api/videos/sessions/{session_id}", rate="write", asks_outside=True,
    problems=(VideoNotFound, NotEntitled, VideoNotReady, TooManySessions),
)  # fmt: skip
async def create_session(call: Call[NewSession]) -> dict[str, Any]:
    """Begin to watch a video."""
    video = await sessions.get_watchable_video(
        call.db, video_id=call.path.video_id, viewer_id=call.user.id, viewer_role=call.user.role
    )
    if video is None:
        raise VideoNotFound
    if not video["may_watch"]:
        raise NotEntitled
    if video["status"] != "ready" or video["cloudflare_uid"] is None:
        raise VideoNotReady
    ladder, segment_s = await _ladder(call, video)
    decision = _first_decision(ladder, call.body, call.config.sessions.decision_ttl_ms)
    state = {"quality": await _known_network(call)}
    core = call.app[CORE]
    with core.strays_where_it_fails() as ours:  # it may be committed all the same
        async with call.db.transaction() as tx:
            ended = await _make_room(call, tx)
            ours.update(row["id"] for row in ended)
            members = {"ladder": ladder, "segment_s": segment_s, "decision": decision, "state": state}
            row = await _insert_session(call, tx, video, members)
    # The new one is there: where Redis does not answer, the reaper finishes those before it.
    with suppress(TimeoutError):
        async with asyncio.timeout(call.config.server.handler_timeout_s * FINISHING_SHARE):
            await core.finish([dict(row) for row in ended])
    watching = call.app[WATCHING]
    return {
        "session_id": row["id"],
        "ws_url": _ws_url(call, row["id"]),
        "token": watching.token(row["id"], call.user.id, call.user.ver, call.user.role),
        "playback": watching.playback(video),
        "ladder": ladder,
        "segment_s": segment_s,
        "resume_position": row["resume_ms"] / 1000,
        "decision": decision,
    }


@routes.get(
    "/api/videos/sessions/{session_id}", role=STUDENT, answer=SessionState, rate="read", problems=(SessionNotFound,)
)
async def get_session(call: Call[None]) -> dict[str, Any]:
    """A session as its last checkpoint has it."""
    row = await sessions.get_session(
        call.db, session_id=call.path.session_id, viewer_id=call.user.id, viewer_role=call.user.role
    )
    if row is None:
        raise SessionNotFound
    return _shown(row)


@routes.post(
    "/api/videos/sessions/{session_id}/progress", role=SELF_SERVED, body=Position, answer=Accepted, status=202,
    rate="telemetry", problems=(Unauthorized, SessionNotFound, SessionEnded),
)  # fmt: skip
@routes.put(
    "/api/videos/sessions/{session_id}/progress", role=SELF_SERVED, body=Position, answer=Accepted, status=202,
    rate="telemetry", problems=(Unauthorized, SessionNotFound, SessionEnded),
)  # fmt: skip
async def put_progress(call: Call[Position]) -> dict[str, Any]:
    """Tell where the learner is."""
    claims = await _session_claims(call.request, bearer_token(call.request), call.path.session_id)
    told = {key: value for key in ("sta", "pr") if (value := getattr(call.body, key)) is not None}
    frame = {"position": call.body.position, "cmcd": told}
    if call.body.seq is not None:
        frame["seq"] = call.body.seq
    return await _deliver(call, claims.sub, [parse_rest_frame(frame)])


@routes.post(
    "/api/videos/sessions/{session_id}/network", role=SELF_SERVED, answer=Accepted, status=202, rate="telemetry",
    query=Beacon, content=("application/json", "text/plain", "application/cmcd"), reads=Telemetry | Telemetries,
    problems=(Unauthorized, SessionNotFound, SessionEnded, UnsupportedMediaType, BodyTooLarge),
)  # fmt: skip
async def post_network(call: Call[None]) -> dict[str, Any]:
    """Send one telemetry frame, or an array of up to 100, as on the socket; or CMCD as players send it by themselves.

    CMCD (CTA-5004, version 1 or 2) comes as up to 100 lines of `application/cmcd`, each a frame; or with an empty body
    as one frame, in the headers `CMCD-Request`, `CMCD-Object`, `CMCD-Status`, `CMCD-Session` or in `?CMCD=`. What
    cannot be read of it is left out. A player that does not tell its playhead (`pt`) moves no position.

    The session's token may stand in `?token=`, for `navigator.sendBeacon` and players that only know an address.
    """
    token = bearer_token(call.request) or call.query.token
    claims = await _session_claims(call.request, token, call.path.session_id)
    if media_type(call.request) not in ("application/json", "text/plain", "application/octet-stream", CMCD_TYPE):
        raise UnsupportedMediaType
    async with arriving(call.request):
        raw = await call.request.read()
    return await _deliver(call, claims.sub, _frames_of(call, raw))


@routes.socket(
    "/api/videos/ws/{session_id}", rate="read", problems=(Unauthorized, SessionNotFound),
    messages={"receive": messages.FROM_PLAYER, "send": (*messages.TO_PLAYER, Goodbye)},
)  # fmt: skip
async def open_session_socket(call: Call[None]) -> web.StreamResponse:
    """The session's socket: telemetry in; acknowledgements and decisions out."""
    session, watcher = await _claim(call)
    socket = await call.app[SOCKETS].accept(call.request, "session", watcher.claims.principal)
    socket.response.serve_with(partial(_serve, call.app, session, watcher, socket))
    return socket.response


async def _serve(app: web.Application, session: VideoSession, watcher: Watcher, socket: Socket) -> None:
    """The session's socket from when it is open to its end."""
    core, watching = app[CORE], app[WATCHING]
    watching.add(socket, watcher)
    try:
        socket.send(_hello(app, session, watcher.claims))
        core.attach(session, socket)
        await _converse(core, session, socket)
    except Exception:
        socket.fail(session=str(session.id))
    finally:
        watching.remove(socket)
        core.detach(session, socket)
        await socket.closed()


async def _claim(call: Call[None]) -> tuple[VideoSession, Watcher]:
    """The session whose socket is asked for, as ours, and who asks. What it took to find out is not kept while the
    socket lives. Raises what `check_opening` does, SessionNotFound."""
    token = check_opening(call.request)
    async with asyncio.timeout(call.config.server.handler_timeout_s):
        claims = await _session_claims(call.request, token, call.path.session_id)
        row = await _own_session(call, claims.sub)
        ends_at = await sessions.get_watch_end(
            call.db, video_id=row["video_id"], viewer_id=claims.sub, viewer_role=claims.role
        )
        session = None if row["status"] == "ended" else await call.app[CORE].open(row)
    if session is None:
        raise SessionNotFound
    renew_at = call.app[WATCHING].first_renewal(row["age_s"], ends_at)
    return session, Watcher(session.id, session.video_id, claims, renew_at)


async def _converse(core: Runtime, session: VideoSession, socket: Socket) -> None:
    """Take what the player sends until the socket ends: usual frames as they arrive, all others in their turn."""
    async for text in socket.texts(partial(core.take, session)):
        while core.crowded(session) and not socket.ending:
            socket.paused = True
            await core.room(session)
            socket.resume()
        try:
            frame = parse_socket_frame(text)
            if isinstance(frame, Bye):
                await core.end(session)
                continue
            core.submit(session, frame)
        except BadFrame as error:
            socket.answer_offence(messages.encode(messages.Error("bad_frame", error.told)))


# Parts of the above --------------------------------------------------------------------------------------------------


async def _session_claims(request: web.Request, token: str | None, session_id: UUID) -> Claims:
    """Who asks about a session: its own token's user, or an access token's. Raises Unauthorized, RateLimited."""
    if token is None:
        raise Unauthorized
    try:
        claims = await verify_current(request.app, token, API)
    except Unauthorized:
        claims = await verify_current(request.app, token, SESSION)
        if claims.session_id != session_id:
            raise Unauthorized("The token is another session's.") from None
    await throttle(request, f"{claims.sub}/{session_id}")
    return claims


async def _own_session(call: Call[Any], user_id: UUID) -> dict[str, Any]:
    row = await sessions.get_own_session(
        call.db, session_id=call.path.session_id, user_id=user_id, alive_s=call.config.sessions.process_alive_s
    )
    if row is None:
        raise SessionNotFound
    return dict(row)


def _frames_of(call: Call[None], raw: bytes) -> Sequence[Report]:
    """The frames in a body, or in headers or query where there is none. Raises MalformedJson, ValidationFailed,
    BodyTooLarge."""
    content = raw.strip()
    if not content:
        headers = [value for name in cmcd.HEADERS for value in call.request.headers.getall(name, ())]
        if told := ",".join(filter(None, (*headers, call.query.cmcd))):
            return _parse_lines({"/CMCD" if call.query.cmcd else "": told})
    if media_type(call.request) == CMCD_TYPE or (content and content[:1] not in b'{["' and b"=" in content[:32]):
        if len(raw) > CMCD_BYTES:
            raise BodyTooLarge
        # Not `splitlines`: a text within a line may hold U+2028 and its like.
        lines = filter(None, map(str.strip, content.decode("utf-8", "replace").split("\n")))
        return _parse_lines({f"/{index}": line for index, line in enumerate(lines)})
    return _parse_frames(check_json(raw))


def _parse_lines(lines: Mapping[str, str]) -> list[Report]:
    """A frame for each line of CMCD, by its pointer. Raises ValidationFailed where nothing of a line can be read."""
    if not 1 <= len(lines) <= MOST_FRAMES:
        raise ValidationFailed.at("", f"There must be 1 to {MOST_FRAMES} lines of CMCD.")
    members = {pointer: cmcd.parse_members(line) for pointer, line in lines.items()}
    bad = [pointer for pointer, found in members.items() if not found]
    if bad:
        raise ValidationFailed(errors=[{"pointer": pointer, "detail": "This is no CMCD."} for pointer in bad])
    metrics.CMCD_FRAMES.inc(len(members))
    return [cmcd.report_of(found) for found in members.values()]


async def _deliver(call: Call[Any], user_id: UUID, frames: Sequence[Report]) -> dict[str, Any]:
    row = await _own_session(call, user_id)
    if row["status"] == "ended":
        raise SessionEnded
    try:
        delivered = await call.app[CORE].deliver(row, frames)
    except BadFrame as error:
        raise ValidationFailed.at(error.pointer, error.detail) from None
    except StreamFull:
        raise Overloaded("Too many frames of this session wait to be saved.") from None
    if delivered is None:
        raise SessionEnded
    appended, decision = delivered
    return {"accepted": appended.accepted, "duplicates": appended.duplicates, "decision": decision}


def _parse_frames(value: Any) -> list[Report]:
    """One frame or an array of them. Raises ValidationFailed that names every offence; then nothing is written."""
    given = value if isinstance(value, list) else [value]
    if len(given) > MOST_FRAMES:
        raise ValidationFailed.at("", f"At most {MOST_FRAMES} frames at once.")
    frames: list[Report] = []
    errors: list[dict[str, str]] = []
    for index, item in enumerate(given):
        prefix = f"/{index}" if isinstance(value, list) else ""
        try:
            if not isinstance(item, dict):
                raise BadFrame("A frame is a JSON object.")
            frames.append(parse_rest_frame(item))
        except BadFrame as error:
            errors.append({"pointer": prefix + error.pointer, "detail": error.detail})
    if errors:
        raise ValidationFailed(errors=errors)
    return frames


async def _ladder(call: Call[Any], video: Record) -> tuple[list[dict[str, Any]], float]:
    """The video's ladder and segment length (s): from its row, else from its manifest, else what is usual."""
    if video["ladder"] and video["segment_s"]:
        return video["ladder"], video["segment_s"]
    try:
        ladder, segment_s = await call.app[VIDEO_HOST].fetch_ladder(video["cloudflare_uid"], LADDER_TIMEOUT_S)
    except ServiceError as error:
        log.warning("ladder_not_read", video=str(video["id"]), error=repr(error))
        return USUAL_LADDER, USUAL_SEGMENT_S
    await videos.set_ladder(call.db, video_id=video["id"], ladder=ladder, segment_s=segment_s)
    return ladder, segment_s


async def _known_network(call: Call[NewSession]) -> dict[str, Any]:
    """The caller's network as the session's quality state has it: its name, and what others there get."""
    if not call.config.sessions.learn_networks:
        return {}
    address = call.app[EDGE].client_address(call.request)
    network = name_of(address, call.body.connection, call.config.auth.secret)
    with suppress(*REDIS_AWAY, TimeoutError):
        async with asyncio.timeout(NEIGHBOURS_TIMEOUT_S):
            return {"network": network, "prior_kbps": await call.app[CORE].neighbours.expected_kbps(network) or 0.0}
    return {"network": network}


def _first_decision(ladder: Sequence[Mapping[str, Any]], body: NewSession, ttl_ms: int) -> dict[str, Any]:
    """What to begin with, before anything is measured."""
    viewport_px = (body.viewport[0], body.viewport[1]) if body.viewport else None
    rungs = msgspec.convert(ladder, list[Rung])
    decided = quality.decide(quality.Question(QualityState(), rungs, viewport_px=viewport_px, save_data=body.save_data))
    advice: dict[str, Any] = msgspec.to_builtins(decided.advice(n=0, epoch=0, ttl_ms=ttl_ms))
    return advice


async def _make_room(call: Call[NewSession], tx: Any) -> Sequence[Record]:
    """Hold the limit on live sessions per user; those that a takeover ended, for `Runtime.finish`."""
    settings = call.config.sessions
    await sessions.lock_viewer(tx, user_id=call.user.id)
    live = await sessions.list_live_sessions(tx, user_id=call.user.id, window_s=settings.live_window_s)
    surplus = len(live) - settings.max_live_per_user + 1
    if surplus <= 0:
        return []
    if not call.body.takeover:
        raise TooManySessions(sessions=[dict(row) for row in live])
    owner = call.app[CORE].registry.process_id
    rows: Sequence[Record] = await sessions.end_sessions(tx, ids=[row["id"] for row in live[-surplus:]], owner=owner)
    return rows


async def _insert_session(call: Call[NewSession], tx: Any, video: Record, members: Mapping[str, Any]) -> Record:
    """The session's row. Raises VideoNotFound for a video that was deleted meanwhile."""
    body = call.body
    try:
        row: Record = await sessions.insert_session(
            tx,
            video_id=video["id"],
            user_id=call.user.id,
            lecture_id=video["lecture_id"],
            device=body.device,
            viewport=body.viewport,
            network=body.connection,
            save_data=body.save_data,
            player=body.player,
            **members,
        )
    except asyncpg.ForeignKeyViolationError:
        raise VideoNotFound from None
    return row


def _ws_url(call: Call[Any], session_id: UUID) -> str:
    """Where the session's socket is, as the client reached us."""
    public = call.config.server.public_url.rstrip("/")
    if not public:
        public = f"{call.app[EDGE].scheme(call.request)}://{call.request.host}"
    return f"{public.replace('http', 'ws', 1)}/api/videos/ws/{session_id}"


def _hello(app: web.Application, session: VideoSession, claims: Claims) -> bytes:
    settings, limit = app[CONFIG].sessions, app[CONFIG].limits.telemetry
    position_ms = session.state.position_ms
    assert session.advice is not None, "a claim decides"
    return messages.encode(
        messages.Hello(
            protocol=messages.PROTOCOL,
            session_id=session.id,
            epoch=session.epoch,
            seq=session.state.seq,
            saved=session.saved[0],
            resume_position=(session.resume_ms if position_ms is None else position_ms) / 1000,
            ladder=session.ladder,
            decision=session.advice,
            token=app[WATCHING].token(session.id, claims.sub, claims.ver, claims.role),
            heartbeat_s=settings.heartbeat_s,
            limits=messages.Limits(
                frame_bytes=settings.frame_bytes,
                rate=limit.rate,
                per_s=limit.per_s,
                burst=limit.at_once,
                interval_ms=settings.interval_ms,
            ),
        )
    )


def _shown(row: Record) -> dict[str, Any]:
    state = load_state(row["state"], (row["last_seq"], int(row["last_sub"])))
    position_ms = row["resume_ms"] if state.position_ms is None else state.position_ms
    return {
        **{name: row[name] for name in SessionState.model_fields if name in row.keys()},  # noqa: SIM118 - a Record
        "saved_seq": row["last_seq"],
        "frames": state.frames,
        "segments": state.segments,
        "bytes": state.bytes,
        "gaps": state.gaps,
        "position": None if state.position_ms is None else state.position_ms / 1000,
        "resume_position": position_ms / 1000,
        "watched_seconds": state.watched_total_ms / 1000,
        "stalls": state.stalls,
        "stall_ms": _plain(state.stall_ms),
        "startup_ms": _plain(state.startup_ms),
        "switches": state.switches,
        "decision": None if row["decision"] is None else msgspec.json.decode(row["decision"]),
    }


def _plain(number: float | None) -> float | None:
    """A whole number without its `.0`."""
    return int(number) if number is not None and number == int(number) else number

"""Video sessions: made by a player that is about to watch, fed over a socket or by REST, read by their owners."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
import structlog
from aiohttp import web
from pydantic import BaseModel, Field, StringConstraints

from actors.runtime import Runtime
from actors.video_session import messages, quality
from actors.video_session.actor import VideoSession
from actors.video_session.messages import BadFrame, Bye, Rung, Telemetry, parse_rest_frame, parse_socket_frame
from actors.video_session.quality import QualityState
from actors.video_session.state import load_state
from server.data.db import DATABASE_AWAY, Record, queries
from server.data.streams import StreamFull
from server.http.auth import API, SESSION, Claims, bearer_token, verify_current
from server.http.keys import CLOCK, SOCKETS, TOKENS, VIDEO_HOST
from server.http.problems import (
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
from server.http.routing import SELF_SERVED, STUDENT, Body, Call, Query, Routes, arriving, check_json, throttle
from server.http.socket import Goodbye, Socket, check_opening
from server.services.outside import ServiceError

routes = Routes("sessions")
sessions = queries("sessions")
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
MOST_FRAMES = 100
OFFENCES = 3
# Credentials are renewed when this share of their time is left.
RENEW_SHARE = 0.2
RETRY_S = 5.0

Pixels = Annotated[int, Field(ge=0, le=100_000)]
Word = Annotated[str, StringConstraints(max_length=200)]


class NewSession(Body):
    """What a player says of itself before it watches."""

    device: Word | None = None
    viewport: Annotated[list[Pixels], Field(min_length=2, max_length=2)] | None = None
    connection: Word | None = None
    save_data: bool = False
    player: Word | None = None
    takeover: bool = False


class Playback(BaseModel):
    """Signed addresses of the manifests."""

    hls: str
    dash: str
    expires_at: datetime


class LadderRung(BaseModel):
    """`br` in kbit/s, picture in pixels."""

    rung: int
    br: float
    width: int | None = None
    height: int | None = None


class QualityDecision(BaseModel):
    """Advice for the player, good for `ttl_ms`. `cmsd` is CTA-5006's: maximum suggested bitrate `mb` and, once it was
    measured, estimated throughput `etp`, both kbit/s."""

    n: int
    epoch: int
    rung: int
    cmsd: dict[str, int]
    reason: str
    ttl_ms: int


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
    claimed_by: str | None
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
    """Credentials for senders that cannot set headers."""

    token: Annotated[str, Field(max_length=4096)] | None = None


class Accepted(BaseModel):
    """What became of frames sent by REST."""

    accepted: int
    duplicates: int
    decision: QualityDecision | None


class Position(Body):
    """Where the learner is; `sta` and `pr` as in CMCD."""

    position: Annotated[float, Field(ge=0, le=1_000_000)]
    seq: Annotated[int, Field(ge=1, le=messages.MAX_SEQ)] | None = None
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
    if video["status"] != "ready":
        raise VideoNotReady
    ladder, segment_s = await _ladder(call, video)
    decision = _first_decision(ladder, call.body, call.config.sessions.decision_ttl_ms)
    async with call.db.transaction() as tx:
        ended = await _make_room(call, tx)
        row = await sessions.insert_session(
            tx,
            video_id=video["id"],
            user_id=call.user.id,
            lecture_id=video["lecture_id"],
            device=call.body.device,
            viewport=call.body.viewport,
            network=call.body.connection,
            save_data=call.body.save_data,
            player=call.body.player,
            ladder=ladder,
            segment_s=segment_s,
            decision=decision,
        )
    for session_id in ended:
        await call.app[CORE].announce_claim(session_id)
    token, _ = _session_token(call, row["id"], call.user.id, call.user.ver, call.user.role)
    return {
        "session_id": row["id"],
        "ws_url": _ws_url(call, row["id"]),
        "token": token,
        "playback": call.app[VIDEO_HOST].playback(video["cloudflare_uid"]) if video["cloudflare_uid"] else None,
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
    cmcd = {key: value for key in ("sta", "pr") if (value := getattr(call.body, key)) is not None}
    frame = {"position": call.body.position, "cmcd": cmcd}
    if call.body.seq is not None:
        frame["seq"] = call.body.seq
    return await _deliver(call, claims.sub, [parse_rest_frame(frame)])


@routes.post(
    "/api/videos/sessions/{session_id}/network", role=SELF_SERVED, answer=Accepted, status=202, rate="telemetry",
    query=Beacon, content=("application/json", "text/plain"), problems=(Unauthorized, SessionNotFound, SessionEnded),
)  # fmt: skip
async def post_network(call: Call[None]) -> dict[str, Any]:
    """Send one telemetry frame, or an array of up to 100, as on the socket.

    The session's token may stand in `?token=`, for `navigator.sendBeacon`.
    """
    token = bearer_token(call.request) or call.query.token
    claims = await _session_claims(call.request, token, call.path.session_id)
    if call.request.content_type not in ("application/json", "text/plain", "application/octet-stream"):
        raise UnsupportedMediaType
    async with arriving(call.request):
        raw = await call.request.read()
    return await _deliver(call, claims.sub, _parse_frames(check_json(raw)))


@routes.socket(
    "/api/videos/ws/{session_id}", rate="read", problems=(Unauthorized, SessionNotFound),
    messages={"receive": messages.FROM_PLAYER, "send": (*messages.TO_PLAYER, Goodbye)},
)  # fmt: skip
async def open_session_socket(call: Call[None]) -> web.StreamResponse:
    """The session's socket: telemetry in; acknowledgements and decisions out."""
    opening = check_opening(call.request)
    core = call.app[CORE]
    async with asyncio.timeout(call.config.server.handler_timeout_s):
        claims = await _session_claims(call.request, opening.token, call.path.session_id)
        row = await _own_session(call, claims.sub)
        session = None if row["status"] == "ended" else await core.claim(row["id"], "socket")
    if session is None:
        raise SessionNotFound
    socket = await call.app[SOCKETS].accept(call.request, "session", claims.principal)
    renewal = asyncio.create_task(_renew(call, session, claims, socket, row["age_s"]))
    try:
        socket.send(_hello(call, session, claims))
        core.attach(session, socket)
        await _converse(core, session, socket)
    except Exception:
        log.exception("socket_failed", session=str(session.id))
        socket.end(1011, "internal_error")
    finally:
        renewal.cancel()
        core.detach(session, socket)
        await socket.closed()
    return socket.response


async def _converse(core: Runtime, session: VideoSession, socket: Socket) -> None:
    """Take what the player sends until the socket ends."""

    def take(text: str) -> bool:
        """The usual frame, as it arrives. What has to wait or to be answered is left to the loop below."""
        if core.crowded(session):
            return False
        try:
            frame = parse_socket_frame(text)
            if isinstance(frame, Bye):
                return False
            core.submit(session, frame)
        except BadFrame:
            return False
        return True

    offences = 0
    async for text in socket.texts(take):
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
            offences += 1
            if offences >= OFFENCES:
                socket.end(4400, "bad_frames")
                return
            where = f" at {error.pointer}" if error.pointer else ""
            socket.send(messages.encode(messages.Error("bad_frame", error.detail + where)))


async def _renew(call: Call[None], session: VideoSession, claims: Claims, socket: Socket, age_s: float) -> None:
    """Send new credentials before the old ones run out, for as long as the socket lives.

    A session's first ones are `age_s` old, and what an earlier socket renewed is not known here: a session that is
    older than that gets new ones at once.
    """
    ttl_s = min(call.config.sessions.token_ttl_s, call.config.cloudflare.playback_ttl_s)
    pause_s = max(0.0, ttl_s * (1 - RENEW_SHARE) - age_s)
    while True:
        await asyncio.sleep(pause_s)
        try:
            video = await sessions.get_watchable_video(
                call.db, video_id=session.video_id, viewer_id=claims.sub, viewer_role=claims.role
            )
        except DATABASE_AWAY:
            pause_s = min(RETRY_S, pause_s)
            continue
        pause_s = ttl_s * (1 - RENEW_SHARE)
        if video is None or not video["may_watch"]:
            socket.end(4403, "not_entitled")
            return
        token, _ = _session_token(call, session.id, claims.sub, claims.ver, claims.role)
        uid = video["cloudflare_uid"]
        playback = call.app[VIDEO_HOST].playback(uid) if uid else None
        expires_at = call.app[CLOCK].now() + timedelta(seconds=ttl_s)
        socket.send(messages.encode(messages.Token(token, playback, expires_at)))


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


async def _deliver(call: Call[Any], user_id: UUID, frames: Sequence[Telemetry]) -> dict[str, Any]:
    row = await _own_session(call, user_id)
    if row["status"] == "ended":
        raise SessionEnded
    try:
        delivered = await call.app[CORE].deliver(row, frames)
    except BadFrame as error:
        raise ValidationFailed(errors=[{"pointer": error.pointer, "detail": error.detail}]) from None
    except StreamFull:
        raise Overloaded("Too many frames of this session wait to be saved.") from None
    if delivered is None:
        raise SessionEnded
    appended, decision = delivered
    return {"accepted": appended.accepted, "duplicates": appended.duplicates, "decision": decision}


def _parse_frames(value: Any) -> list[Telemetry]:
    """One frame or an array of them. Raises ValidationFailed that names every offence; then nothing is written."""
    given = value if isinstance(value, list) else [value]
    if len(given) > MOST_FRAMES:
        raise ValidationFailed(errors=[{"pointer": "", "detail": f"At most {MOST_FRAMES} frames at once."}])
    frames, errors = [], []
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
        async with asyncio.timeout(LADDER_TIMEOUT_S):
            ladder, segment_s = await call.app[VIDEO_HOST].fetch_ladder(video["cloudflare_uid"])
    except (ServiceError, TimeoutError) as error:
        log.warning("ladder_not_read", video=str(video["id"]), error=repr(error))
        return USUAL_LADDER, USUAL_SEGMENT_S
    await sessions.set_ladder(call.db, video_id=video["id"], ladder=ladder, segment_s=segment_s)
    return ladder, segment_s


def _first_decision(ladder: Sequence[Mapping[str, Any]], body: NewSession, ttl_ms: int) -> dict[str, Any]:
    """What to begin with, before anything is measured."""
    viewport_px = (body.viewport[0], body.viewport[1]) if body.viewport else None
    decided = quality.decide(
        QualityState(), msgspec.convert(ladder, list[Rung]), viewport_px=viewport_px, save_data=body.save_data
    )
    advice: dict[str, Any] = msgspec.to_builtins(decided.advice(n=0, epoch=0, ttl_ms=ttl_ms))
    return advice


async def _make_room(call: Call[NewSession], tx: Any) -> list[UUID]:
    """Hold the limit on live sessions per user; the ids of those that a takeover ended."""
    settings = call.config.sessions
    await sessions.lock_viewer(tx, user_id=call.user.id)
    live = await sessions.list_live_sessions(tx, user_id=call.user.id, window_s=settings.live_window_s)
    surplus = len(live) - settings.max_live_per_user + 1
    if surplus <= 0:
        return []
    if not call.body.takeover:
        raise TooManySessions(sessions=[dict(row) for row in live])
    rows = await sessions.end_sessions(tx, ids=[row["id"] for row in live[-surplus:]])
    return [row["id"] for row in rows]


def _session_token(call: Call[Any], session_id: UUID, user_id: UUID, ver: int, role: str) -> tuple[str, datetime]:
    ttl_s = call.config.sessions.token_ttl_s
    return call.app[TOKENS].issue_session(user_id, session_id, ver, role, ttl_s)


def _ws_url(call: Call[Any], session_id: UUID) -> str:
    """Where the session's socket is, as the client reached us."""
    public = call.config.server.public_url.rstrip("/")
    if not public:
        public = f"{call.request.scheme}://{call.request.host}"
    return f"{public.replace('http', 'ws', 1)}/api/videos/ws/{session_id}"


def _hello(call: Call[None], session: VideoSession, claims: Claims) -> bytes:
    settings, limit = call.config.sessions, call.config.limits.telemetry
    token, _ = _session_token(call, session.id, claims.sub, claims.ver, claims.role)
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
            token=token,
            heartbeat_s=settings.heartbeat_s,
            limits=messages.Limits(
                frame_bytes=settings.frame_bytes,
                rate=limit.rate,
                per_s=limit.per_s,
                burst=limit.burst,
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
        "decision": row["decision"] or None,
    }


def _plain(number: float | None) -> float | None:
    """A whole number without its `.0`."""
    return int(number) if number is not None and number == int(number) else number

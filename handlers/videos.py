"""Videos: one-time upload addresses, what the host says of them, playback by signed address, captions.

The host tells us by webhook when a video is ready. A webhook may be lost, so while a video is not final its owner's
looking at it asks the host as well, at most once every `cloudflare.poll_s`.
"""

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal
from uuid import UUID

import orjson
from aiohttp import web
from pydantic import BaseModel, Field

from server.data.db import Database, Record, queries
from server.domain.captions import NotCaptions, check_captions
from server.domain.videos import show_video
from server.http.keys import CLOCK, VIDEO_HOST
from server.http.members import Description, Title, Video
from server.http.problems import (
    BodyTooLarge,
    Forbidden,
    MalformedJson,
    NotConfigured,
    NotEntitled,
    NotFound,
    SignatureInvalid,
    Unauthorized,
    UnsupportedMediaType,
    UpstreamFailed,
    UpstreamTimedOut,
    ValidationFailed,
    VideoNotFound,
)
from server.http.routing import PUBLIC, SELF_SERVED, STUDENT, Body, Call, Change, Routes, arriving
from server.logs import get_logger
from server.services.outside import ServiceError, ServiceHasNone
from server.services.video_host import HostedVideo, VideoHost, WebhookRefused, read_video

routes = Routes("videos")
videos = queries("videos")
log = get_logger()

# What the host takes in one form; above it wants a resumable upload.
FORM_BYTES = 200_000_000
CAPTION_BYTES = 10_000_000
# Asking the host takes as long as `cloudflare.timeout_s` lets it.
_ASKS_HOST_S = 15.0
# Videos that a process tells the host to delete at once.
_REMOVALS = 10
# Where an answer does not depend on the host it is not kept waiting for it.
_POLL_S = 1.0
_LADDER_S = 2.0
_HOST_PROBLEMS = (NotConfigured, UpstreamFailed, UpstreamTimedOut)
_LANGUAGE = re.compile(r"[a-zA-Z]{2,3}(-[a-zA-Z0-9]{2,8}){0,3}", re.ASCII)


class NewUpload(Body):
    """A video to be uploaded for a lecture."""

    lecture_id: UUID
    title: Title
    description: Description = ""
    filename: Annotated[str, Field(min_length=1, max_length=255)]
    size_bytes: Annotated[int, Field(ge=1, le=FORM_BYTES)]
    max_duration_seconds: Annotated[int, Field(ge=1, le=21_600)] = 14_400


class VideoChange(Change):
    """The members of a video to be changed."""

    title: Title = ""
    description: Description = ""
    visibility: Literal["private", "preview", "public"] = "private"


class Upload(BaseModel):
    """Where the bytes go, once: a POST of `multipart/form-data` with the member `file`."""

    method: Literal["form", "tus"]
    url: str
    expires_at: datetime


class NewVideo(BaseModel):
    """The video's row, and where to send its bytes."""

    video: Video
    upload: Upload


@routes.post(
    "/api/videos/upload",
    role=STUDENT,
    body=NewUpload,
    answer=NewVideo,
    status=201,
    location="/api/videos/{video[id]}",
    problems=(Forbidden, *_HOST_PROBLEMS),
    rate="write",
    timeout_s=_ASKS_HOST_S,
)
async def create_upload(call: Call[NewUpload]) -> Mapping[str, Any]:
    """Make a video of one's own course and an address to which its bytes are sent, straight to the video host."""
    body = call.body
    lecture = await videos.get_lecture(
        call.db, lecture_id=body.lecture_id, viewer_id=call.user.id, viewer_role=call.user.role
    )
    if lecture is not None and not lecture["viewer_owns"]:
        raise Forbidden
    if lecture is None:
        raise ValidationFailed(errors=[{"pointer": "/lecture_id", "detail": "There is no such row."}])
    uid, url, expires_at = await call.app[VIDEO_HOST].create_upload(
        name=body.filename, creator=str(call.user.id), max_duration_s=body.max_duration_seconds
    )
    video = await videos.insert_video(
        call.db,
        lecture_id=body.lecture_id,
        upload_user_id=call.user.id,
        title=body.title,
        description=body.description,
        cloudflare_uid=uid,
    )
    return {
        "video": _show(call, video, owner=True, may_watch=True),
        "upload": {"method": "form", "url": url, "expires_at": expires_at},
    }


@routes.get(
    "/api/videos/{video_id}",
    role=PUBLIC,
    answer=Video,
    problems=(Unauthorized, VideoNotFound, NotEntitled),
    rate="read",
)
async def get_video(call: Call[None]) -> dict[str, Any]:
    """A video with its signed addresses, for the entitled and those whom its visibility lets in."""
    video = await _get_watchable(call)
    if video["viewer_owns"] and await _check_with_host(call, video):
        video = await _get_watchable(call)
    return _show(call, video, owner=video["viewer_owns"], may_watch=True)


@routes.put(
    "/api/videos/{video_id}",
    role=STUDENT,
    body=VideoChange,
    answer=Video,
    problems=(VideoNotFound, Forbidden),
    rate="write",
)
async def update_video(call: Call[VideoChange]) -> dict[str, Any]:
    """Change a video of one's own course; members that are absent stay as they are."""
    video = await _get_own(call)
    members: dict[str, Any] = {"title": None, "description": None, "visibility": None}
    changed = await videos.update_video(
        call.db, video_id=video["id"], **members | call.body.model_dump(exclude_unset=True)
    )
    if changed is None:
        raise VideoNotFound
    return _show(call, changed, owner=True, may_watch=True)


@routes.delete(
    "/api/videos/{video_id}",
    role=STUDENT,
    status=204,
    problems=(VideoNotFound, Forbidden),
    rate="write",
)
async def delete_video(call: Call[None]) -> None:
    """Delete a video of one's own course. The host is told until it has deleted it too."""
    video = await _get_own(call)
    await videos.delete_video(call.db, video_id=video["id"])


async def remove_at_host(db: Database, host: VideoHost, *, pause_s: float) -> None:
    """Delete at the host what was deleted here and is due; what fails is due again later. Seconds."""
    for row in await videos.claim_removals(db, count=_REMOVALS, pause_s=pause_s):
        uid = row["cloudflare_uid"]
        try:
            await host.delete_video(uid)
        except ServiceError as error:
            log.warning("video_not_removed", uid=uid, tries=row["tries"], error=str(error))
        else:
            await videos.forget_removal(db, cloudflare_uid=uid)


# -- what the host says ------------------------------------------------------------------------------------------------


@routes.post(
    "/api/videos/webhooks/cloudflare",
    role=SELF_SERVED,
    rate=None,
    content=("application/json",),
    problems=(SignatureInvalid, MalformedJson, NotConfigured),
)
async def take_webhook(call: Call[None]) -> web.Response:
    """What the video host says of a video. Signed; said twice it counts once; a video that is ready stays so."""
    async with arriving(call.request):
        body = await call.request.read()
    try:
        call.app[VIDEO_HOST].verify_webhook(call.request.headers.get("Webhook-Signature"), body)
        said = orjson.loads(body)
    except WebhookRefused:
        raise SignatureInvalid from None
    except orjson.JSONDecodeError:
        raise MalformedJson from None
    hosted = read_video(said)
    if hosted is not None:
        await _note(call, hosted)
    return web.Response()


async def _check_with_host(call: Call[Any], video: Record) -> bool:
    """Ask the host about a video that is not final, if it was not asked just now. Whether it told something."""
    host, settings = call.app[VIDEO_HOST], call.config.cloudflare
    if video["status"] in ("ready", "error") or not host.is_configured:
        return False
    uid = await videos.claim_check(call.db, video_id=video["id"], pause_s=settings.poll_s)
    if uid is None:
        return False
    try:
        hosted = await host.get_video(uid, timeout_s=_POLL_S)
    except ServiceError as error:
        age = call.app[CLOCK].now() - video["created_at"]
        if not isinstance(error, ServiceHasNone) or age < timedelta(seconds=settings.upload_ttl_s):
            log.warning("video_host_not_asked", video_id=str(video["id"]), error=str(error))
            return False
        hosted = HostedVideo(uid, "error", None, None, "The upload was not finished in time.")
    await _note(call, hosted, ladder_s=_POLL_S)
    return True


async def _note(call: Call[Any], hosted: HostedVideo, ladder_s: float = _LADDER_S) -> None:
    """Keep what the host says, and with a video that is ready its ladder, if that can be had now."""
    row = await videos.note_status(
        call.db,
        cloudflare_uid=hosted.uid,
        status=hosted.status,
        duration_seconds=hosted.duration_s,
        thumbnail_url=hosted.thumbnail_url,
        error=hosted.error,
    )
    if row is None or row["status"] != "ready":
        return
    try:
        ladder, segment_s = await call.app[VIDEO_HOST].fetch_ladder(hosted.uid, timeout_s=ladder_s)
    except ServiceError as error:
        # Ready all the same: the ladder is fetched again when a session needs it.
        log.warning("ladder_not_fetched", video_id=str(row["id"]), error=str(error))
        return
    await videos.set_ladder(call.db, video_id=row["id"], ladder=ladder, segment_s=segment_s)


# -- captions ----------------------------------------------------------------------------------------------------------


@routes.put(
    "/api/videos/{video_id}/captions/{lang}",
    role=STUDENT,
    status=204,
    content=("text/vtt",),
    problems=(VideoNotFound, Forbidden, BodyTooLarge, UnsupportedMediaType, ValidationFailed, *_HOST_PROBLEMS),
    rate="write",
    timeout_s=_ASKS_HOST_S,
)
async def put_captions(call: Call[None]) -> None:
    """Store WebVTT (UTF-8, up to 10 MB) as the captions of a language."""
    video, lang = await _get_own(call), _language(call)
    vtt = await _read_captions(call.request)
    await call.app[VIDEO_HOST].put_captions(_uid(video), lang, vtt)


@routes.get(
    "/api/videos/{video_id}/captions/{lang}",
    role=PUBLIC,
    produces="text/vtt",
    problems=(Unauthorized, VideoNotFound, NotEntitled, NotFound, ValidationFailed, *_HOST_PROBLEMS),
    rate="read",
    timeout_s=_ASKS_HOST_S,
)
async def get_captions(call: Call[None]) -> web.Response:
    """The captions of a language as WebVTT, for those who may watch the video."""
    video, lang = await _get_watchable(call), _language(call)
    try:
        vtt = await call.app[VIDEO_HOST].get_captions(_uid(video), lang)
    except ServiceHasNone:
        raise NotFound("There are no captions in this language.") from None
    return web.Response(body=vtt, content_type="text/vtt", charset="utf-8")


@routes.delete(
    "/api/videos/{video_id}/captions/{lang}",
    role=STUDENT,
    status=204,
    problems=(VideoNotFound, Forbidden, NotFound, ValidationFailed, *_HOST_PROBLEMS),
    rate="write",
    timeout_s=_ASKS_HOST_S,
)
async def delete_captions(call: Call[None]) -> None:
    """Delete the captions of a language."""
    video, lang = await _get_own(call), _language(call)
    try:
        await call.app[VIDEO_HOST].delete_captions(_uid(video), lang)
    except ServiceHasNone:
        raise NotFound("There are no captions in this language.") from None


def _language(call: Call[Any]) -> str:
    lang: str = call.path.lang
    if not _LANGUAGE.fullmatch(lang):
        raise ValidationFailed(errors=[{"pointer": "/lang", "detail": "must be a language tag such as en or pt-BR"}])
    return lang


async def _read_captions(request: web.Request) -> bytes:
    """The body, read no further than it may be long. Raises BodyTooLarge, UnsupportedMediaType, ValidationFailed."""
    if request.content_type not in ("text/vtt", "text/plain", "application/octet-stream"):
        raise UnsupportedMediaType("The body must be text/vtt.", headers={"Accept": "text/vtt"})
    vtt = bytearray()
    async with arriving(request):
        async for chunk in request.content.iter_chunked(65_536):
            vtt += chunk
            if len(vtt) > CAPTION_BYTES:
                raise BodyTooLarge
    try:
        return check_captions(bytes(vtt))
    except NotCaptions as fault:
        raise ValidationFailed(errors=[{"pointer": "", "detail": str(fault)}]) from None


# -- what several of them do -------------------------------------------------------------------------------------------


def _show(call: Call[Any], video: Any, *, owner: bool, may_watch: bool) -> dict[str, Any]:
    return show_video(video, owner=owner, may_watch=may_watch, sign=call.app[VIDEO_HOST].sign_playback)


def _uid(video: Record) -> str:
    """The host's id. Raises NotFound for a video that never had one."""
    uid: str | None = video["cloudflare_uid"]
    if uid is None:
        raise NotFound
    return uid


async def _get_watchable(call: Call[Any]) -> Record:
    """The video of the path. Raises VideoNotFound, NotEntitled, and Unauthorized for strangers in both cases."""
    video: Record | None = await videos.get_video(
        call.db, video_id=call.path.video_id, viewer_id=call.viewer_id, viewer_role=call.viewer_role
    )
    if video is None or not video["viewer_may_watch"]:
        raise Unauthorized if call.viewer is None else VideoNotFound if video is None else NotEntitled
    return video


async def _get_own(call: Call[Any]) -> Record:
    """The video of the path, of a course of the caller's. Raises VideoNotFound, Forbidden."""
    video: Record | None = await videos.get_video(
        call.db, video_id=call.path.video_id, viewer_id=call.user.id, viewer_role=call.user.role
    )
    if video is None:
        raise VideoNotFound
    if not video["viewer_owns"]:
        raise Forbidden
    return video

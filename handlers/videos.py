"""Videos: one-time upload addresses, what the host says of them, playback by signed address, captions.

The host tells us by webhook when a video is ready. A webhook may be lost, so a job asks as well
(`server.http.hosting`), and while a video is not final so does its owner's looking at it, at most once every
`cloudflare.poll_s`.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import orjson
from aiohttp import hdrs, web
from pydantic import BaseModel, Field

from server.data.audit import audit_foreign
from server.data.db import Record, queries
from server.data.history import FORGETS_WITHIN_S, forget_history
from server.domain.captions import NotCaptions, canonical_language, check_captions
from server.domain.videos import VideoVisibility, show_video
from server.http.hosting import INDEXED_WITHIN_S, ask_for_status, ask_for_text
from server.http.keys import HOSTING, VIDEO_HOST
from server.http.members import Description, Title, Video
from server.http.parsing import Whole, media_type
from server.http.problems import (
    OUTSIDE_PROBLEMS,
    BodyTooLarge,
    Forbidden,
    MalformedJson,
    NotConfigured,
    NotEntitled,
    NotFound,
    SignatureInvalid,
    Unauthorized,
    UnsupportedMediaType,
    ValidationFailed,
    VideoNotFound,
)
from server.http.routing import PUBLIC, SELF_SERVED, STUDENT, Body, Call, Change, Routes, arriving, cacheable
from server.logs import get_logger
from server.services.outside import ServiceError, ServiceHasNone
from server.services.video_host import LANGUAGE, HostedUpload, WebhookRefused, read_video

routes = Routes("videos")
videos = queries("videos")
jobs = queries("jobs")
log = get_logger()

# The largest file that the host takes.
MOST_BYTES = 30_000_000_000
CAPTION_BYTES = 10_000_000
# Asking the host takes as long as `cloudflare.timeout_s` lets it.
_ASKS_HOST_S = 15.0
# Where an answer does not depend on the host it is not kept waiting for it.
_POLL_S = 1.0


class NewUpload(Body):
    """A video to be uploaded for a lecture."""

    lecture_id: UUID
    title: Title
    description: Description = ""
    filename: Annotated[str, Field(min_length=1, max_length=255)]
    size_bytes: Annotated[int, Field(ge=1, le=MOST_BYTES), Whole]
    max_duration_seconds: Annotated[int, Field(ge=1, le=21_600), Whole] = 14_400


class VideoChange(Change):
    """The members of a video to be changed."""

    title: Title = ""
    description: Description = ""
    visibility: VideoVisibility = "private"


class Upload(BaseModel):
    """Where the bytes go, once: `form` is a POST of `multipart/form-data` with the member `file`; `tus` (1.0.0, for
    more than 200 MB) is an upload that was created already, to be begun and resumed with HEAD and PATCH, in chunks of
    a multiple of 256 KiB, 5 MiB at least."""

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
    problems=(Forbidden, *OUTSIDE_PROBLEMS),
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
        raise _no_lecture()
    upload = await call.app[VIDEO_HOST].create_upload(
        name=body.filename,
        creator=str(call.user.id),
        max_duration_s=body.max_duration_seconds,
        size_bytes=body.size_bytes,
    )
    try:
        video = await _keep_upload(call, lecture["creator_id"], upload)
    except Exception:
        # The lecture is gone, or Postgres is. Where the host does not hear of it either, the address expires.
        with suppress(ServiceError):
            await call.app[VIDEO_HOST].delete_video(upload.uid)
        raise
    return {
        "video": _show(call, video),
        "upload": {"method": upload.method, "url": upload.url, "expires_at": upload.expires_at},
    }


async def _keep_upload(call: Call[NewUpload], owner_id: UUID, upload: HostedUpload) -> Record:
    """The row of a video that the host waits for, and a job that looks after it. Raises ValidationFailed."""
    body = call.body
    async with call.db.transaction() as tx:
        video: Record | None = await videos.insert_video(
            tx,
            lecture_id=body.lecture_id,
            upload_user_id=call.user.id,
            title=body.title,
            description=body.description,
            cloudflare_uid=upload.uid,
            upload_expires_at=upload.expires_at,
        )
        if video is None:
            raise _no_lecture()
        await audit_foreign(tx, call.user.id, owner_id, "video_created", "lecture", body.lecture_id)
        in_s = min(call.config.cloudflare.poll_s, call.config.jobs.reconcile_s)
        await ask_for_status(tx, video["id"], in_s)
    return video


def _no_lecture() -> ValidationFailed:
    return ValidationFailed.at("/lecture_id", "There is no such row.")


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
    return _show(call, video, owner=video["viewer_owns"], until=video["viewer_ends_at"])


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
    video = await _get_own(call, "video_changed")
    members: dict[str, Any] = {"title": None, "description": None, "visibility": None}
    changed = await videos.update_video(
        call.db, video_id=video["id"], **members | call.body.model_dump(exclude_unset=True)
    )
    if changed is None:
        raise VideoNotFound
    return _show(call, changed)


@routes.delete(
    "/api/videos/{video_id}",
    role=STUDENT,
    status=204,
    problems=(VideoNotFound, Forbidden),
    rate="write",
    timeout_s=FORGETS_WITHIN_S,
)
async def delete_video(call: Call[None]) -> None:
    """Delete a video of one's own course. The host is told until it has deleted it too."""
    video = await _get_own(call, "video_deleted")
    await forget_history(call.db, [video["id"]])
    await videos.delete_video(call.db, video_id=video["id"])


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
        await call.app[HOSTING].note(hosted)
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
        log.warning("video_host_not_asked", video_id=str(video["id"]), error=str(error))
        return False
    await call.app[HOSTING].note(hosted, ladder_s=_POLL_S)
    return True


# -- captions ----------------------------------------------------------------------------------------------------------


@routes.put(
    "/api/videos/{video_id}/captions/{lang}",
    role=STUDENT,
    status=204,
    content=("text/vtt",),
    problems=(
        VideoNotFound,
        Forbidden,
        NotFound,
        BodyTooLarge,
        UnsupportedMediaType,
        ValidationFailed,
        *OUTSIDE_PROBLEMS,
    ),
    rate="write",
    timeout_s=_ASKS_HOST_S + INDEXED_WITHIN_S,
)
async def put_captions(call: Call[None]) -> None:
    """Store WebVTT (UTF-8, up to 10 MB) as the captions of a language."""
    video, lang = await _get_own(call, "captions_changed"), _language(call)
    vtt = await _read_captions(call.request)
    try:
        async with _changing_captions(call, video):
            await call.app[VIDEO_HOST].put_captions(_uid(video), lang, vtt)
    except ServiceHasNone:
        raise NotFound("The video host does not have this video.") from None


@routes.get(
    "/api/videos/{video_id}/captions/{lang}",
    role=PUBLIC,
    also=(304,),
    produces="text/vtt",
    problems=(Unauthorized, VideoNotFound, NotEntitled, NotFound, ValidationFailed, *OUTSIDE_PROBLEMS),
    rate="read",
    timeout_s=_ASKS_HOST_S,
)
async def get_captions(call: Call[None]) -> web.Response:
    """The captions of a language as WebVTT, for those who may watch the video."""
    video, lang = await _get_watchable(call), _language(call)
    vtt = await call.app[HOSTING].captions(video["id"], _uid(video), lang)
    if vtt is None:
        raise NotFound("There are no captions in this language.")
    return cacheable(call, vtt, {hdrs.CONTENT_TYPE: "text/vtt; charset=utf-8"})


@routes.delete(
    "/api/videos/{video_id}/captions/{lang}",
    role=STUDENT,
    status=204,
    problems=(VideoNotFound, Forbidden, NotFound, ValidationFailed, *OUTSIDE_PROBLEMS),
    rate="write",
    timeout_s=_ASKS_HOST_S + INDEXED_WITHIN_S,
)
async def delete_captions(call: Call[None]) -> None:
    """Delete the captions of a language."""
    video, lang = await _get_own(call, "captions_deleted"), _language(call)
    try:
        async with _changing_captions(call, video):
            await call.app[VIDEO_HOST].delete_captions(_uid(video), lang)
    except ServiceHasNone:
        raise NotFound("There are no captions in this language.") from None


@asynccontextmanager
async def _changing_captions(call: Call[Any], video: Record) -> AsyncIterator[None]:
    """Around telling the host: what is said in the video is kept anew, and found when we answer unless that takes long.
    Also if we do not live to hear the host's answer."""
    async with call.db.transaction() as tx:
        job_id = await ask_for_text(tx, video["id"], in_s=2 * _ASKS_HOST_S)
    yield
    await videos.change_captions(call.db, video_id=video["id"])
    if not await call.app[HOSTING].index_now(job_id, video["id"]):
        await jobs.hurry_job(call.db, job_id=job_id)


def _language(call: Call[Any]) -> str:
    lang: str = call.path.lang
    if not LANGUAGE.fullmatch(lang):
        raise ValidationFailed.at("/lang", "must be a language tag such as en or pt-BR")
    return canonical_language(lang)


async def _read_captions(request: web.Request) -> bytes:
    """The body, read no further than it may be long. Raises BodyTooLarge, UnsupportedMediaType, ValidationFailed."""
    if media_type(request) not in ("text/vtt", "text/plain", "application/octet-stream"):
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
        raise ValidationFailed.at("", str(fault)) from None


# -- what several of them do -------------------------------------------------------------------------------------------


def _show(call: Call[Any], video: Any, *, owner: bool = True, until: datetime | None = None) -> dict[str, Any]:
    sign = call.app[VIDEO_HOST].sign_playback
    return show_video(video, owner=owner, may_watch=True, until=until, sign=sign)


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


async def _get_own(call: Call[Any], action: str) -> Record:
    """The video of the path, of a course of the caller's; an administrator's `action` is noted before it is done.

    Raises VideoNotFound, Forbidden.
    """
    video: Record | None = await videos.get_video(
        call.db, video_id=call.path.video_id, viewer_id=call.user.id, viewer_role=call.user.role
    )
    if video is None:
        raise VideoNotFound
    if not video["viewer_owns"]:
        raise Forbidden
    await audit_foreign(call.db, call.user.id, video["creator_id"], action, "video", video["id"])
    return video

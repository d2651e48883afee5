"""The API under `/client/v4/accounts/{account}/stream`, in Cloudflare's shapes, and the one-time upload address."""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
import secrets
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, BinaryIO

from aiohttp import BodyPartReader, hdrs, web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Handler
from pydantic import AwareDatetime, BaseModel, Field, ValidationError

from standins.video_host.encoder import ENCODER
from standins.video_host.store import SETTINGS, STORE, Video

log = logging.getLogger(__name__)

PREFIX = "/client/v4/accounts/{account}/stream"
CHUNK_BYTES = 256 * 1024
FORM_OVERHEAD_BYTES = 64 * 1024
MAX_CAPTIONS_BYTES = 10 * 1024 * 1024
UPLOAD_TTL = timedelta(minutes=30)
SHORTEST_TTL, LONGEST_TTL = timedelta(minutes=2), timedelta(hours=6)
LANGUAGES = {
    **{"ar": "Arabic", "de": "German", "en": "English", "es": "Spanish", "fr": "French", "hi": "Hindi"},
    **{"it": "Italian", "ja": "Japanese", "ko": "Korean", "nl": "Dutch", "pl": "Polish", "pt": "Portuguese"},
    **{"ru": "Russian", "tr": "Turkish", "uk": "Ukrainian", "zh": "Chinese"},
}

routes = web.RouteTableDef()


class DirectUpload(BaseModel):
    """Body of `direct_upload`. Members that this host does not know are ignored, as Cloudflare does."""

    maxDurationSeconds: Annotated[int, Field(ge=1, le=36_000)]  # noqa: N815  the wire's own names
    requireSignedURLs: bool = False  # noqa: N815
    meta: dict[str, Any] = Field(default_factory=dict)
    expiry: AwareDatetime | None = None
    creator: Annotated[str, Field(max_length=64)] | None = None
    allowedOrigins: list[str] = Field(default_factory=list)  # noqa: N815
    scheduledDeletion: AwareDatetime | None = None  # noqa: N815
    thumbnailTimestampPct: Annotated[float, Field(ge=0, le=1)] = 0.0  # noqa: N815


class ApiError(Exception):
    """Answered in Cloudflare's error shape."""

    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


def _success(result: object, status: int = 200, **more: object) -> web.Response:
    return web.json_response({"result": result, "success": True, "errors": [], "messages": [], **more}, status=status)


def _failure(status: int, code: int, message: str) -> web.Response:
    body = {"result": None, "success": False, "errors": [{"code": code, "message": message}], "messages": []}
    return web.json_response(body, status=status)


@web.middleware
async def speak_cloudflare(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Check the API token, and give every error of the API Cloudflare's shape."""
    if not request.path.startswith("/client/v4/"):
        return await handler(request)
    try:
        _authenticate(request)
        return await handler(request)
    except ApiError as error:
        return _failure(error.status, error.code, error.message)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(step) for step in first["loc"])
        return _failure(400, 10005, f"Bad Request: {where}: {first['msg']}")
    except web.HTTPException as error:
        return _failure(error.status, 7003, error.reason)


def _authenticate(request: web.Request) -> None:
    settings = request.app[SETTINGS]
    scheme, _, token = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(token.strip().encode(), settings.api_token.encode()):
        raise ApiError(401, 10000, "Authentication error")
    if request.match_info.get("account", settings.account_id) != settings.account_id:
        raise ApiError(403, 10000, "Authentication error")


def _named_video(request: web.Request) -> Video:
    video = request.app[STORE].get(request.match_info["uid"])
    if video is None:
        raise ApiError(404, 10003, "Not Found")
    _write_generated(request, video)
    return video


def _wire_time(time: datetime | None) -> str | None:
    return time.isoformat(timespec="microseconds").replace("+00:00", "Z") if time is not None else None


def describe_video(video: Video, public_url: str) -> dict[str, object]:
    """The video object of the API and of webhooks. What is not known yet is -1, as Cloudflare has it."""
    status: dict[str, object] = {
        "state": video.state,
        "errorReasonCode": video.error_code,
        "errorReasonText": video.error_text,
    }
    if video.state in ("inprogress", "ready", "error"):
        status["pctComplete"] = f"{video.percent:.6f}"
    base = f"{public_url}/{video.uid}"
    return {
        "uid": video.uid,
        "creator": video.creator,
        "thumbnail": f"{base}/thumbnails/thumbnail.jpg",
        "thumbnailTimestampPct": video.thumbnail_at,
        "readyToStream": video.state == "ready",
        "readyToStreamAt": _wire_time(video.ready),
        "status": status,
        "meta": video.meta,
        "created": _wire_time(video.created),
        "modified": _wire_time(video.modified),
        "scheduledDeletion": _wire_time(video.scheduled_deletion),
        "size": video.size,
        "preview": f"{base}/watch",
        "allowedOrigins": video.allowed_origins,
        "requireSignedURLs": video.require_signed_urls,
        "uploaded": _wire_time(video.uploaded),
        "uploadExpiry": _wire_time(video.upload_expiry),
        "maxSizeBytes": None,
        "maxDurationSeconds": video.max_duration_s,
        "duration": round(video.duration_s, 3) if video.duration_s is not None else -1,
        "input": {"width": video.width or -1, "height": video.height or -1},
        "playback": {"hls": f"{base}/manifest/video.m3u8", "dash": f"{base}/manifest/video.mpd"},
        "watermark": None,
    }


@routes.post(PREFIX + "/direct_upload")
async def create_direct_upload(request: web.Request) -> web.Response:
    """Make a video that waits for its file, and a one-time address for it."""
    settings = request.app[SETTINGS]
    wish = DirectUpload.model_validate_json(await request.read())
    now = settings.now()
    expiry = wish.expiry or now + UPLOAD_TTL
    if not now + SHORTEST_TTL <= expiry <= now + LONGEST_TTL:
        raise ApiError(400, 10005, "Bad Request: expiry must lie between 2 minutes and 6 hours from now")
    video = Video(
        uid=secrets.token_hex(16),
        upload_key=secrets.token_hex(16),
        created=now,
        modified=now,
        upload_expiry=expiry,
        max_duration_s=wish.maxDurationSeconds,
        require_signed_urls=wish.requireSignedURLs,
        allowed_origins=wish.allowedOrigins,
        meta=wish.meta,
        creator=wish.creator or request.headers.get("Upload-Creator"),
        scheduled_deletion=wish.scheduledDeletion,
        thumbnail_at=wish.thumbnailTimestampPct,
    )
    request.app[STORE].add(video)
    return _success({"uid": video.uid, "uploadURL": f"{settings.public_url}/upload/{video.upload_key}"})


@routes.get(PREFIX)
async def list_videos(request: web.Request) -> web.Response:
    """Newest first; `?status=`, `?creator=`, `?search=` in the name, `?limit=` (1000)."""
    query = request.query
    wanted = [
        video
        for video in sorted(request.app[STORE].videos.values(), key=lambda video: video.created, reverse=True)
        if query.get("status", video.state) == video.state
        and query.get("creator", video.creator) == video.creator
        and query.get("search", "").lower() in str(video.meta.get("name", "")).lower()
    ]
    limit = query.get("limit", "1000")
    if not limit.isdecimal():
        raise ApiError(400, 10005, "Bad Request: limit")
    url = request.app[SETTINGS].public_url
    videos = [describe_video(video, url) for video in wanted[: int(limit)]]
    return _success(videos, total=len(wanted), range=len(videos))


@routes.get(PREFIX + "/{uid}")
async def get_video(request: web.Request) -> web.Response:
    """One video."""
    return _success(describe_video(_named_video(request), request.app[SETTINGS].public_url))


@routes.delete(PREFIX + "/{uid}")
async def delete_video(request: web.Request) -> web.Response:
    """Delete a video in any state, its encoding too."""
    video = _named_video(request)
    store = request.app[STORE]
    store.forget(video)
    await request.app[ENCODER].abandon(video.uid)
    await asyncio.to_thread(store.sweep, video.uid)
    return _success("")


@routes.get(PREFIX + "/{uid}/captions")
async def list_captions(request: web.Request) -> web.Response:
    """All captions of a video, with those that are being generated."""
    video = _named_video(request)
    known = video.captions | {language: _label(language) for language in video.generating}
    return _success([_caption(video, language, label) for language, label in sorted(known.items())])


@routes.post(PREFIX + "/{uid}/captions/{language}/generate")
async def generate_captions(request: web.Request) -> web.Response:
    """Write captions from the sound, which takes a while. What is said this stand-in cannot hear, and says so."""
    video, language = _named_video(request), request.match_info["language"]
    if language not in LANGUAGES:
        raise ApiError(400, 10005, "Bad Request: captions cannot be generated in this language")
    if video.state != "ready":
        raise ApiError(400, 10005, "Bad Request: the video is not ready")
    if language in video.captions or language in video.generating:
        raise ApiError(409, 10005, "There are captions in this language")
    settings = request.app[SETTINGS]
    video.generating[language] = settings.now() + timedelta(seconds=settings.generation_s)
    request.app[STORE].save(video)
    return _success(_caption(video, language, _label(language)))


def _write_generated(request: web.Request, video: Video) -> None:
    """Captions whose time has come."""
    store, now = request.app[STORE], request.app[SETTINGS].now()
    for language in [language for language, due in video.generating.items() if due <= now]:
        seconds = max(1, int(video.duration_s or 1))
        cues = [
            f"{_cue_time(at)} --> {_cue_time(min(at + 5, seconds))}\n(Generated: what is said from second {at} on.)\n"
            for at in range(0, seconds, 5)
        ]
        store.write(video.uid, f"captions/{language}.vtt", "\n".join(["WEBVTT\n", *cues]).encode())
        del video.generating[language]
        video.captions[language] = _label(language)
        video.generated.append(language)
        store.save(video)


def _cue_time(seconds: int) -> str:
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.000"


def _label(language: str) -> str:
    return LANGUAGES.get(language.split("-", maxsplit=1)[0].lower(), language)


@routes.put(PREFIX + "/{uid}/captions/{language}")
async def put_captions(request: web.Request) -> web.Response:
    """Set the captions in one language: a form with the WebVTT as `file`."""
    video, language = _named_video(request), request.match_info["language"]
    if not re.fullmatch(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*", language):
        raise ApiError(400, 10005, "Bad Request: the language is not a BCP 47 tag")
    text = await _read_captions(await _form_file(request))
    if not re.match(rb"WEBVTT(?=[ \t\r\n]|$)", text):
        raise ApiError(400, 10005, "Bad Request: the file is not WebVTT")
    store = request.app[STORE]
    if store.get(video.uid) is None:  # deleted while it arrived
        raise ApiError(404, 10003, "Not Found")
    store.write(video.uid, f"captions/{language}.vtt", text)
    video.captions[language] = _label(language)
    video.generating.pop(language, None)
    video.generated = [other for other in video.generated if other != language]
    store.save(video)
    return _success(_caption(video, language, video.captions[language]))


async def _read_captions(part: BodyPartReader) -> bytes:
    text = bytearray()
    while chunk := await part.read_chunk(CHUNK_BYTES):
        text += chunk
        if len(text) > MAX_CAPTIONS_BYTES:
            raise ApiError(413, 10009, "The captions file is too large")
    return bytes(text).removeprefix(b"\xef\xbb\xbf")


@routes.get(PREFIX + "/{uid}/captions/{language}")
async def get_captions(request: web.Request) -> web.Response:
    """What is known about the captions in one language."""
    return _success(_caption(_named_video(request), *_named_captions(request)))


@routes.get(PREFIX + "/{uid}/captions/{language}/vtt")
async def get_captions_file(request: web.Request) -> web.StreamResponse:
    """The captions themselves."""
    video, (language, _) = _named_video(request), _named_captions(request)
    path = request.app[STORE].folder(video.uid) / "captions" / f"{language}.vtt"
    return web.FileResponse(path, headers={"Content-Type": "text/vtt; charset=utf-8"})


@routes.delete(PREFIX + "/{uid}/captions/{language}")
async def delete_captions(request: web.Request) -> web.Response:
    """Take the captions in one language away."""
    video, (language, _) = _named_video(request), _named_captions(request)
    store = request.app[STORE]
    del video.captions[language]
    store.save(video)
    (store.folder(video.uid) / "captions" / f"{language}.vtt").unlink(missing_ok=True)
    return _success("")


def _named_captions(request: web.Request) -> tuple[str, str]:
    language = request.match_info["language"]
    label = _named_video(request).captions.get(language)
    if label is None:
        raise ApiError(404, 10003, "Not Found")
    return language, label


def _caption(video: Video, language: str, label: str) -> dict[str, object]:
    is_generating = language in video.generating
    return {
        "language": language,
        "label": label,
        "generated": is_generating or language in video.generated,
        "status": "inprogress" if is_generating else "ready",
    }


@routes.post("/upload/{key}")
async def receive_upload(request: web.Request) -> web.Response:
    """Take the file of a direct upload, once; an upload that breaks off may be tried again."""
    settings, store = request.app[SETTINGS], request.app[STORE]
    video = store.by_upload_key(request.match_info["key"])
    if video is None or video.tus_length is not None:
        raise web.HTTPNotFound(text="no such upload address")
    if video.uid in request.app[UPLOADS] or video.state != "pendingupload":
        raise web.HTTPConflict(text="this upload address has been used")
    if settings.now() > video.upload_expiry:
        raise web.HTTPGone(text="this upload address has expired")
    if (request.content_length or 0) > settings.max_upload_bytes + FORM_OVERHEAD_BYTES:
        raise web.HTTPRequestEntityTooLarge(settings.max_upload_bytes, request.content_length or 0)
    request.app[UPLOADS].add(video.uid)
    try:
        try:
            size = await _receive_file(request, video)
        except ApiError as error:
            raise web.HTTPBadRequest(text=error.message) from error
        except FileNotFoundError as error:
            raise web.HTTPNotFound(text="the video was deleted meanwhile") from error
        video.state, video.size, video.uploaded = "queued", size, settings.now()
        store.save(video)
    finally:
        request.app[UPLOADS].discard(video.uid)
    request.app[ENCODER].wake()
    return web.Response()


async def _receive_file(request: web.Request, video: Video) -> int:
    """Stream the form's file into the video's folder as `source`; returns its size in bytes."""
    limit = request.app[SETTINGS].max_upload_bytes
    part = await _form_file(request)
    folder = request.app[STORE].folder(video.uid)
    incoming = folder / "source.part"
    size = 0
    try:
        with _create(incoming) as file:
            while chunk := await part.read_chunk(CHUNK_BYTES):
                size += len(chunk)
                if size > limit:
                    raise web.HTTPRequestEntityTooLarge(limit, size)
                await asyncio.to_thread(file.write, chunk)
        if size == 0:
            raise ApiError(400, 10005, "the file is empty")
        incoming.rename(folder / "source")
    finally:
        await asyncio.to_thread(incoming.unlink, missing_ok=True)
    return size


def _create(path: Path) -> BinaryIO:
    # Not in a thread: if we were cancelled there, the open file would be nobody's.
    return path.open("wb")


async def _form_file(request: web.Request) -> BodyPartReader:
    """The part named `file` of a multipart form, not yet read."""
    if request.content_type != "multipart/form-data":
        raise ApiError(400, 10005, "Bad Request: expected multipart/form-data")
    try:
        form = await request.multipart()
        while part := await form.next():
            if isinstance(part, BodyPartReader) and part.name == "file":
                return part
    except (ValueError, HttpProcessingError) as error:  # no boundary, or not what was announced
        raise ApiError(400, 10005, "Bad Request: malformed form") from error
    raise ApiError(400, 10005, "Bad Request: the form has no file")


# Videos whose file is arriving just now: a second upload at the same time is refused like one that comes later.
UPLOADS = web.AppKey("uploads", set[str])

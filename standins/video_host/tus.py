"""Resumable uploads by tus 1.0.0 with Cloudflare's particulars: the customer's API makes a one-time address
(`?direct_user=true`), to which the bytes are sent in chunks, straight from the browser, and go on where they broke off.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
import secrets
from datetime import datetime
from pathlib import Path

from aiohttp import hdrs, web

from standins.video_host.api import (
    LONGEST_TTL,
    PREFIX,
    SHORTEST_TTL,
    UPLOAD_TTL,
    ApiError,
)
from standins.video_host.encoder import ENCODER
from standins.video_host.store import SETTINGS, STORE, Video

VERSION = "1.0.0"
# As Cloudflare says: but for the last one chunks are whole multiples of this, and not too small or large.
CHUNK_UNIT_BYTES = 256 * 1024
LARGEST_CHUNK_BYTES = 200 * 1024 * 1024
READ_BYTES = 1024 * 1024
LONGEST_VIDEO_S = 36_000

routes = web.RouteTableDef()

# Uploads to which somebody is sending just now; of two at once the second would write over the first.
SENDING = web.AppKey("tus_sending", set[str])


@routes.post(PREFIX)
async def create_upload(request: web.Request) -> web.Response:
    """Make a video that waits for so many bytes; its one-time address in `Location`, its id in `stream-media-id`."""
    settings = request.app[SETTINGS]
    if request.query.get("direct_user") != "true":
        raise ApiError(400, 10005, "Bad Request: this host takes uploads of direct users alone")
    if request.headers.get("Tus-Resumable") != VERSION:
        raise ApiError(412, 10005, f"Bad Request: Tus-Resumable must be {VERSION}")
    length = request.headers.get("Upload-Length", "")
    if not re.fullmatch(r"[0-9]{1,15}", length) or int(length) == 0:
        raise ApiError(400, 10005, "Bad Request: Upload-Length")
    if int(length) > settings.max_tus_bytes:
        raise ApiError(413, 10006, "The file is too large")
    wish = read_metadata(request.headers.get("Upload-Metadata", ""))
    seconds = wish.get("maxdurationseconds", "")
    if not re.fullmatch(r"[0-9]{1,6}", seconds) or not 1 <= int(seconds) <= LONGEST_VIDEO_S:
        raise ApiError(400, 10005, "Bad Request: maxDurationSeconds")
    now = settings.now()
    video = Video(
        uid=secrets.token_hex(16),
        upload_key=secrets.token_hex(16),
        created=now,
        modified=now,
        upload_expiry=_expiry(wish.get("expiry"), now),
        max_duration_s=int(seconds),
        require_signed_urls="requiresignedurls" in wish,
        meta={"name": wish.get("name", "")},
        creator=request.headers.get("Upload-Creator"),
        tus_length=int(length),
    )
    request.app[STORE].add(video)
    return web.Response(
        status=201,
        headers={
            "Location": f"{settings.public_url}/tus/{video.upload_key}",
            "stream-media-id": video.uid,
            "Tus-Resumable": VERSION,
        },
    )


def _expiry(wish: str | None, now: datetime) -> datetime:
    if wish is None:
        return now + UPLOAD_TTL
    try:
        expiry = datetime.fromisoformat(wish)
    except ValueError:
        expiry = None
    if expiry is None or expiry.tzinfo is None or not now + SHORTEST_TTL <= expiry <= now + LONGEST_TTL:
        raise ApiError(400, 10005, "Bad Request: expiry must lie between 2 minutes and 6 hours from now")
    return expiry


def read_metadata(header: str) -> dict[str, str]:
    """`Upload-Metadata`, `key base64, key, ...`, with keys in lower case. Raises ApiError."""
    found = {}
    for pair in filter(None, (pair.strip() for pair in header.split(","))):
        key, _, value = pair.partition(" ")
        try:
            found[key.lower()] = base64.b64decode(value, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            raise ApiError(400, 10005, "Bad Request: Upload-Metadata") from None
    return found


@routes.options("/tus/{key}")
async def tell(request: web.Request) -> web.Response:
    """What is spoken here."""
    return web.Response(
        status=204,
        headers={
            "Tus-Version": VERSION,
            "Tus-Resumable": VERSION,
            "Tus-Extension": "creation,expiration",
            "Tus-Max-Size": str(request.app[SETTINGS].max_tus_bytes),
        },
    )


@routes.head("/tus/{key}")
async def get_offset(request: web.Request) -> web.Response:
    """How many bytes are here; all of them also when the video has been made of them since."""
    return web.Response(headers=_headers(request, _named_upload(request)))


@routes.patch("/tus/{key}")
async def receive_chunk(request: web.Request) -> web.Response:
    """Take bytes from where the last ones ended. What arrived before a connection broke off is kept."""
    video = _named_upload(request)
    if request.content_type != "application/offset+octet-stream":
        raise web.HTTPUnsupportedMediaType(text="a chunk is application/offset+octet-stream")
    if video.upload_key in request.app[SENDING]:
        return web.Response(status=423, text="another request is sending to this upload")
    request.app[SENDING].add(video.upload_key)
    try:
        _check_chunk(request, video)
        await _take(request, video)
        await _finish(request, video)
    finally:
        request.app[SENDING].discard(video.upload_key)
    return web.Response(status=204, headers=_headers(request, video))


def _check_chunk(request: web.Request, video: Video) -> None:
    here, whole = offset_of(request.app, video), video.tus_length or 0
    if request.headers.get("Upload-Offset") != str(here):
        raise web.HTTPConflict(text=f"Upload-Offset is {here}")
    size = request.content_length
    if size is None or here + size == whole:
        return
    if here + size > whole:
        raise web.HTTPRequestEntityTooLarge(whole - here, size)
    smallest = request.app[SETTINGS].min_chunk_bytes
    if not smallest <= size <= LARGEST_CHUNK_BYTES or size % CHUNK_UNIT_BYTES:
        raise web.HTTPBadRequest(text=f"a chunk is a multiple of {CHUNK_UNIT_BYTES} bytes, at least {smallest}")


async def _take(request: web.Request, video: Video) -> None:
    whole, path = video.tus_length or 0, _bytes_of(request.app, video)
    try:
        file = path.open("ab", buffering=0)
    except FileNotFoundError:
        raise web.HTTPNotFound(text="the video was deleted meanwhile") from None
    with file:
        async for chunk in request.content.iter_chunked(READ_BYTES):
            if file.tell() + len(chunk) > whole:
                raise web.HTTPRequestEntityTooLarge(whole, file.tell() + len(chunk))
            await asyncio.to_thread(file.write, chunk)


async def _finish(request: web.Request, video: Video) -> None:
    store = request.app[STORE]
    if store.get(video.uid) is None or offset_of(request.app, video) != video.tus_length:
        return
    store.complete_tus(video)
    request.app[ENCODER].wake()


def _named_upload(request: web.Request) -> Video:
    settings, video = request.app[SETTINGS], request.app[STORE].by_upload_key(request.match_info["key"])
    if request.headers.get("Tus-Resumable") != VERSION:
        raise web.HTTPPreconditionFailed(headers={"Tus-Version": VERSION}, text=f"Tus-Resumable must be {VERSION}")
    if video is None or video.tus_length is None:
        raise web.HTTPNotFound(text="no such upload address")
    if video.state == "pendingupload" and settings.now() > video.upload_expiry:
        raise web.HTTPGone(text="this upload address has expired")
    if request.method == hdrs.METH_PATCH and video.state != "pendingupload":
        raise web.HTTPConflict(text="this upload is complete")
    return video


def _headers(request: web.Request, video: Video) -> dict[str, str]:
    return {
        "Tus-Resumable": VERSION,
        "Upload-Offset": str(offset_of(request.app, video)),
        "Upload-Length": str(video.tus_length),
        "Upload-Expires": video.upload_expiry.strftime("%a, %d %b %Y %H:%M:%S GMT"),
        "stream-media-id": video.uid,
        "Cache-Control": "no-store",
    }


def offset_of(app: web.Application, video: Video) -> int:
    """How many bytes of an upload have arrived."""
    if video.state != "pendingupload":
        return video.tus_length or 0
    try:
        return _bytes_of(app, video).stat().st_size
    except FileNotFoundError:
        return 0


def _bytes_of(app: web.Application, video: Video) -> Path:
    return app[STORE].folder(video.uid) / "source.tus"

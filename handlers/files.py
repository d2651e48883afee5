"""Files that are there: reading, listing, deleting. How they come is in `uploads`.

Who may read a file is said by one SQL function, `may_read_file`. Its bytes come from the store by an address signed for
a short time; only those of public files that are small pass through us.
"""

import asyncio
import re
from datetime import datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

from aiohttp import hdrs, web
from aiohttp.helpers import ETAG_ANY
from pydantic import BaseModel, Field

from server import metrics
from server.data.audit import audit_foreign
from server.data.db import Record, queries
from server.data.jobs import Job, putting_off
from server.domain.files import (
    ACTIVE,
    Purpose,
    best_thumbnail,
    disposition,
    object_key,
    served_type,
    show_file,
    thumbnail_name,
)
from server.http.keys import CLOCK, DATABASE
from server.http.members import File
from server.http.paging import Digits, Page, PageQuery, page, read_cursor
from server.http.problems import (
    OUTSIDE_PROBLEMS,
    FileNotFound,
    FileNotReady,
    Forbidden,
    NotConfigured,
    RangeNotSatisfiable,
    Unauthorized,
)
from server.http.routing import ANONYMOUS, PUBLIC, STUDENT, Call, Query, Reply, Routes, store_of, untimed
from server.services.objects import Objects, chunks_of
from server.services.outside import SERVICE_AWAY, ServiceAway, ServiceHasNone

routes = Routes("files")
files = queries("files")

# A reader of a public file that takes nothing for so long is cut.
_STUCK_S = 30.0
# The last no bytes, of which aiohttp makes the whole.
_LAST_NONE = re.compile("bytes=-0+", re.IGNORECASE)

Size = Annotated[
    Annotated[int, Field(ge=1, le=4096), Digits] | None,
    Field(description="A small one of the picture, at least so long and wide."),
]


class FileFilter(PageQuery):
    """One's own files, or those of a course that one may read."""

    course_id: UUID | None = None
    purpose: Purpose | None = None


class Download(Query):
    """How the bytes are wanted."""

    redirect: Annotated[bool, Field(description="`false` answers the address as JSON.")] = True
    size: Size = None


class PublicDownload(Query):
    """What of it is wanted."""

    size: Size = None


class DownloadAddress(BaseModel):
    """Where the file is, whole or by Range, until `expires_at`."""

    url: str
    expires_at: datetime


@routes.get("/api/files", role=STUDENT, query=FileFilter, answer=Page[File], rate="read")
async def list_files(call: Call[None]) -> dict[str, Any]:
    """One's own files, or with `course_id` those of the course that one may read; newest first."""
    (after,) = read_cursor(call.query.cursor, UUID) or (None,)
    wanted = {"purpose": call.query.purpose, "after_id": after, "page_size": call.query.limit + 1}
    if call.query.course_id is None:
        rows = await files.list_own_files(call.db, viewer_id=call.user.id, **wanted)
    else:
        viewer = {"viewer_id": call.user.id, "viewer_role": call.user.role}
        rows = await files.list_course_files(call.db, course_id=call.query.course_id, **viewer, **wanted)
    return page(call, [show_file(row) for row in rows], key=lambda row: (row["id"],))


@routes.get(
    "/api/files/{file_id}",
    role=PUBLIC,
    query=Download,
    answer=DownloadAddress,
    also=(302,),
    problems=(Unauthorized, FileNotFound, FileNotReady, NotConfigured),
    rate="read",
)
async def get_file(call: Call[None]) -> Reply | web.Response:
    """The way to the bytes: a redirect to an address that is good for some minutes and honours Range."""
    row = await _get_readable(call)
    if row["status"] != "ready":
        raise FileNotReady
    ttl_s = call.config.files.download_ttl_s
    url = await _sign(call, row, call.query.size, ttl_s)
    if call.query.redirect:
        return web.Response(status=302, headers={hdrs.LOCATION: url})
    expires_at = call.app[CLOCK].now() + timedelta(seconds=ttl_s)
    return Reply({"url": url, "expires_at": expires_at.replace(microsecond=0)})


@routes.get(
    "/api/files/{file_id}/metadata",
    role=PUBLIC,
    answer=File,
    problems=(Unauthorized, FileNotFound),
    rate="read",
)
async def get_file_metadata(call: Call[None]) -> dict[str, Any]:
    """What there is to know of a file."""
    return show_file(await _get_readable(call))


@routes.delete("/api/files/{file_id}", role=STUDENT, status=204, problems=(FileNotFound, Forbidden), rate="write")
async def delete_file(call: Call[None]) -> None:
    """Delete a file of one's own or of one's own course. The store is told until it has deleted it too."""
    row = await _get_readable(call)
    if not row["viewer_may_remove"]:
        raise Forbidden
    async with call.db.transaction() as tx:
        if row["owner_id"] != call.user.id:
            await audit_foreign(tx, call.user.id, row["keeper_id"], "file_deleted", "file", row["id"])
        await files.delete_file(tx, file_id=row["id"])


@routes.get(
    "/api/files/public/{file_id}",
    role=ANONYMOUS,
    query=PublicDownload,
    also=(206, 302, 304),
    produces="*/*",
    problems=(FileNotFound, RangeNotSatisfiable, *OUTSIDE_PROBLEMS),
    rate="read",
)
async def get_public_file(call: Call[None]) -> web.StreamResponse:
    """A public file, to be kept by anybody for a day. A large one, or one that a CDN has, is elsewhere (302)."""
    row = await files.get_public_file(call.db, file_id=call.path.file_id)
    if row is None:
        raise FileNotFound
    small = best_thumbnail(row["thumbnails"], call.query.size)
    headers = _headers(call, row, small)
    tag = headers[hdrs.ETAG].strip('"')
    if any(known.value in (tag, ETAG_ANY) for known in call.request.if_none_match or ()):
        return web.Response(status=304, headers=headers)
    content_type, key = _content_type(row, small), _key(row, small)
    cdn, settings = call.config.s3.cdn_base.rstrip("/"), call.config.files
    if cdn and content_type not in ACTIVE:
        return web.Response(status=302, headers=headers | {hdrs.LOCATION: f"{cdn}/{key}"})
    if small is None and row["size_bytes"] > settings.direct_bytes:
        headers[hdrs.CACHE_CONTROL] = (
            f"public, max-age={min(settings.download_ttl_s / 2, settings.public_max_age_s):.0f}"
        )
        url = await _sign(call, row, None, settings.download_ttl_s)
        return web.Response(status=302, headers=headers | {hdrs.LOCATION: url})
    headers[hdrs.CONTENT_TYPE] = served_type(content_type)
    return await _send(call, key, headers, None if small else row["size_bytes"])


def remover(app: web.Application) -> Any:
    """The work of jobs of the kind `remove_file`: what is in the store of a file that has no row."""

    async def remove(job: Job) -> None:
        file_id, visibility = UUID(job.payload["file_id"]), job.payload["visibility"]
        if await files.get_by_id(app[DATABASE], file_id=file_id) is not None:
            return
        with putting_off(job, *SERVICE_AWAY):
            await store_of(app).remove(object_key(file_id, visibility, ""), object_key(file_id, visibility))

    return remove


# -- what several of them do -------------------------------------------------------------------------------------------


async def _get_readable(call: Call[Any]) -> Record:
    """The file of the path. Raises FileNotFound, and Unauthorized for strangers."""
    row: Record | None = await files.get_file(
        call.db, file_id=call.path.file_id, viewer_id=call.viewer_id, viewer_role=call.viewer_role
    )
    if row is None:
        raise Unauthorized if call.viewer is None else FileNotFound
    return row


def _key(row: Record, small: dict[str, Any] | None) -> str:
    return object_key(row["id"], row["visibility"], thumbnail_name(small["size"]) if small else "original")


def _content_type(row: Record, small: dict[str, Any] | None) -> str:
    return "image/webp" if small else row["content_type"]


def _disposition(row: Record, small: dict[str, Any] | None) -> str:
    name = f"{row['filename'].rpartition('.')[0] or row['filename']}.webp" if small else row["filename"]
    return disposition(name, _content_type(row, small))


async def _sign(call: Call[Any], row: Record, size: int | None, ttl_s: float) -> str:
    small = best_thumbnail(row["thumbnails"], size)
    return await call.objects.sign_download(
        _key(row, small),
        content_type=served_type(_content_type(row, small)),
        disposition=_disposition(row, small),
        ttl_s=ttl_s,
    )


def _headers(call: Call[Any], row: Record, small: dict[str, Any] | None) -> dict[str, str]:
    """Of a public file. Its bytes never change; but a small one that was asked for may come yet."""
    is_final = small is not None or call.query.size is None
    max_age_s = call.config.files.public_max_age_s if is_final else call.config.server.public_max_age_s
    headers: dict[str, str] = {
        hdrs.ETAG: f'"{row["id"].hex}-{small["size"] if small else "original"}"',
        hdrs.CACHE_CONTROL: f"public, max-age={max_age_s:.0f}",
        hdrs.CONTENT_DISPOSITION: _disposition(row, small),
        hdrs.ACCEPT_RANGES: "bytes" if small is None else "none",
        # Kept from an `<img>`, which tells no origin, it would else be given to a page that may not read it then.
        hdrs.VARY: "Origin",
    }
    if row["content_type"] != "application/pdf":  # which browsers show by what a sandbox does not let in
        headers["Content-Security-Policy"] = "default-src 'none'; sandbox"
    return headers


async def _send(call: Call[Any], key: str, headers: dict[str, str], size_bytes: int | None) -> web.StreamResponse:
    """The bytes as they come from the store, or the range of them that is asked for. How many a small picture has is
    not known, and of it there are no ranges."""
    request, response = call.request, web.StreamResponse(headers=headers)
    wanted = None
    if size_bytes is not None and request.method == hdrs.METH_GET:
        wanted = _range_of(request, size_bytes, headers[hdrs.ETAG])
    store: Objects = call.objects
    untimed(request)  # the store has `s3.timeout_s` to begin, and to go on
    try:
        async with store.open_object(key, f"bytes={wanted[0]}-{wanted[-1]}" if wanted else None) as found:
            if wanted and size_bytes == found.content_length != len(wanted):
                wanted = None  # it gives out the whole, as anybody may
            expected = len(wanted) if wanted else size_bytes
            if expected and found.content_length not in (None, expected):
                raise ServiceAway(f"the store has {found.content_length} bytes of {key}, not {expected}")
            if wanted:
                response.set_status(206)
                response.headers[hdrs.CONTENT_RANGE] = f"bytes {wanted[0]}-{wanted[-1]}/{size_bytes}"
            response.content_length = found.content_length
            await response.prepare(request)
            if request.method == hdrs.METH_HEAD:
                return response
            async for chunk in chunks_of(found):
                if not await _write(request, response, chunk):
                    return response
                metrics.FILE_BYTES.labels("out").inc(len(chunk))
    except ServiceHasNone:
        raise FileNotFound from None
    await response.write_eof()
    return response


async def _write(request: web.Request, response: web.StreamResponse, chunk: bytes) -> bool:
    """Whether the reader is still there and took it."""
    try:
        async with asyncio.timeout(_STUCK_S):
            await response.write(chunk)
    except (ConnectionError, TimeoutError):
        if request.transport is not None:
            request.transport.abort()
        return False
    return True


def _range_of(request: web.Request, size_bytes: int, tag: str) -> range | None:
    """Which bytes are wanted; None for the whole, also where the range makes no sense or is that of another version.
    Raises RangeNotSatisfiable."""
    if request.headers.get(hdrs.IF_RANGE, tag) != tag:
        return None
    try:
        wanted = request.http_range
    except ValueError:
        return None
    if wanted.start is None and wanted.stop is None:
        return None
    start, stop, _ = wanted.indices(size_bytes)
    if start >= stop or _LAST_NONE.fullmatch(request.headers[hdrs.RANGE]):
        raise RangeNotSatisfiable(headers={hdrs.CONTENT_RANGE: f"bytes */{size_bytes}"})
    return range(start, stop)

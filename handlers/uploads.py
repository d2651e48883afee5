"""How files come: small ones through us, large ones in parts straight to the object store.

Before anything is stored a job is noted that takes it away again, and it is crossed out in the transaction that makes
the file's row: whatever dies in between leaves nothing behind.
"""

import io
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from tempfile import TemporaryFile
from typing import Annotated, Any
from uuid import UUID

from aiohttp import web
from pydantic import BaseModel, Field

from server import metrics
from server.data.audit import audit_foreign
from server.data.db import Connection, Record, queries
from server.data.jobs import Job, add_job, putting_off
from server.domain.files import (
    HEAD_BYTES,
    PICTURES,
    Purpose,
    Visibility,
    agrees,
    clean_filename,
    fault_of,
    kept_type,
    object_key,
    part_size_of,
    show_file,
    sizes_of_parts,
    thumbnail_name,
    type_of,
)
from server.http.keys import CONFIG, DATABASE
from server.http.keys import PICTURES as LOOKING
from server.http.members import File
from server.http.parsing import Whole
from server.http.problems import (
    OUTSIDE_PROBLEMS,
    Forbidden,
    QuotaExceeded,
    Unauthorized,
    UnsupportedMediaType,
    UploadCompleted,
    UploadNotFound,
    ValidationFailed,
)
from server.http.routing import STUDENT, Body, Call, Routes, store_of
from server.logs import get_logger
from server.services.objects import Objects, Part
from server.services.outside import SERVICE_AWAY, ServiceError, ServiceHasNone, ServiceRefused
from server.services.pictures import NotAPicture, Picture, PicturesBusy

routes = Routes("files")
files = queries("files")
jobs = queries("jobs")
log = get_logger()

# Kinds of jobs.
REMOVE = "remove_file"
LOOK = "look_at_picture"

# Storing 25 MiB, or putting a hundred parts together, and looking at a picture.
_STORES_S = 60.0
# What was stored and has no row after this long never gets one.
_NOTED_S = 600.0
# A picture for which there was no time is looked at again.
_LATER_S = 30.0
_SWEPT_AT_ONCE = 1000


class NewFile(Body):
    """What a file is for, and who may read it: its owner, those entitled to its course, everybody."""

    purpose: Purpose
    visibility: Visibility
    course_id: UUID | None = Field(None, description="A course of one's own; `visibility: course` needs it.")
    lecture_id: UUID | None = Field(None, description="A lecture of one's own course, where it is to be found.")


class NewFileUpload(NewFile):
    """A file that will be sent to the store in parts."""

    filename: Annotated[str, Field(min_length=1, max_length=1024)]
    size_bytes: Annotated[int, Field(ge=1, le=5_368_709_120), Whole]
    content_type: Annotated[str, Field(max_length=255)]


class FileUploadPart(BaseModel):
    """Where a part is PUT, with exactly as many bytes as `part_size` says, the last one with the rest."""

    number: int
    url: str


class FileUpload(BaseModel):
    """Where the bytes go. The `ETag` that each PUT answers is told when the upload is completed."""

    file_id: UUID
    upload_id: UUID
    part_size: int
    parts: list[FileUploadPart]
    expires_at: datetime


class ArrivedPart(Body):
    """A part that was sent, and the `ETag` of the answer to it."""

    number: Annotated[int, Field(ge=1, le=10_000), Whole]
    etag: Annotated[str, Field(min_length=1, max_length=256)]


class FileCompletion(Body):
    """All parts of an upload."""

    file_id: UUID
    upload_id: UUID
    parts: Annotated[list[ArrivedPart], Field(min_length=1, max_length=10_000)]


# -- through us --------------------------------------------------------------------------------------------------------


@routes.post(
    "/api/files/upload",
    role=STUDENT,
    form=NewFile,
    answer=File,
    status=201,
    location="/api/files/{id}",
    problems=(Forbidden, QuotaExceeded, *OUTSIDE_PROBLEMS),
    rate="write",
    timeout_s=_STORES_S,
)
async def upload_file(call: Call[NewFile]) -> dict[str, Any]:
    """Store a file of up to 25 MiB. What it is, its bytes say, not its name; what is not known is refused (415)."""
    sent = call.file
    course = await _check_place(call)
    if sent.size_bytes == 0:
        raise ValidationFailed.at("/file", "The file is empty.")
    content_type = type_of(sent.head)
    if fault := fault_of(call.body.purpose, content_type or ""):
        raise UnsupportedMediaType(fault)
    assert content_type is not None
    await _check_quota(call, call.db, sent.size_bytes)
    picture = await _look(call, sent.content, content_type)
    members = _members(call, course, clean_filename(sent.filename) or "file", sent.size_bytes, content_type)
    store = call.objects
    async with _noted(call) as (file_id, note):
        key = object_key(file_id, call.body.visibility)
        await store.put(key, sent.content, sent.size_bytes, kept_type(content_type))
        await _store_thumbnails(store, file_id, call.body.visibility, picture)
        async with call.db.transaction() as tx:
            row = await _insert(call, tx, file_id, course, members, "ready")
            row = await _keep_picture(tx, row, picture)
            await jobs.finish_job(tx, job_id=note, attempts=0)
    metrics.UPLOADS.labels("direct").inc()
    return show_file(row)


# -- in parts, to the store --------------------------------------------------------------------------------------------


@routes.post(
    "/api/files/upload/start",
    role=STUDENT,
    body=NewFileUpload,
    answer=FileUpload,
    status=201,
    location="/api/files/{file_id}/metadata",
    problems=(Forbidden, QuotaExceeded, *OUTSIDE_PROBLEMS),
    rate="write",
    timeout_s=_STORES_S,
)
async def start_upload(call: Call[NewFileUpload]) -> dict[str, Any]:
    """Begin an upload of up to 5 GiB: its parts are PUT to the store, in any order, which takes nothing but their exact
    sizes. Its bytes count against one's quota from now on; what is not completed within 24 h is swept."""
    body, settings = call.body, call.config.files
    course = await _check_place(call)
    filename, content_type = _check_announced(call)
    await _check_quota(call, call.db, body.size_bytes)
    part_size = part_size_of(body.size_bytes)
    members = _members(call, course, filename, body.size_bytes, content_type)
    store = call.objects
    async with _noted(call) as (file_id, note):
        key = object_key(file_id, body.visibility)
        store_id = await store.begin_upload(key, kept_type(content_type))
        sizes = sizes_of_parts(body.size_bytes, part_size)
        urls = await store.sign_parts(key, store_id, sizes, settings.upload_ttl_s)
        async with call.db.transaction() as tx:
            await _insert(call, tx, file_id, course, members, "pending")
            upload = await files.insert_upload(
                tx, file_id=file_id, store_upload_id=store_id, part_size=part_size, ttl_s=settings.upload_ttl_s
            )
            await jobs.finish_job(tx, job_id=note, attempts=0)
    metrics.UPLOADS.labels("begun").inc()
    parts = [{"number": number, "url": url} for number, url in enumerate(urls, start=1)]
    told = {"file_id": file_id, "upload_id": upload["id"], "expires_at": upload["expires_at"]}
    return told | {"part_size": part_size, "parts": parts}


@routes.post(
    "/api/files/upload/complete",
    role=STUDENT,
    body=FileCompletion,
    answer=File,
    problems=OUTSIDE_PROBLEMS,
    rate="write",
    timeout_s=_STORES_S,
)
async def complete_upload(call: Call[FileCompletion]) -> dict[str, Any]:
    """Make a file of the parts, after a look at what really arrived: sizes, ETags, and the type by its first bytes.

    What can be mended (a part is missing) may be completed again; content of another type takes the upload with it.
    Completing twice is as good as once.
    """
    body = call.body
    row = await files.get_upload(call.db, upload_id=body.upload_id, owner_id=call.user.id)
    if row is None:
        raise _no_upload()
    if row["id"] != body.file_id:
        raise ValidationFailed.at("/file_id", "It is not this upload's file.")
    if row["status"] == "ready":
        return show_file(row)
    store, key = call.objects, object_key(row["id"], row["visibility"])
    await _put_together(store, key, row, body.parts)
    picture = await _check_arrived(call, store, key, row)
    await _store_thumbnails(store, row["id"], row["visibility"], picture)
    async with call.db.transaction() as tx:
        ready = await files.make_ready(tx, file_id=row["id"])
        if ready is None:  # deleted meanwhile, perhaps before the parts became an object
            await add_job(tx, REMOVE, file_id=row["id"], visibility=row["visibility"])
        else:
            ready = await _keep_picture(tx, ready, picture)
    if ready is None:
        raise _no_upload()
    metrics.UPLOADS.labels("completed").inc()
    return show_file(ready)


@routes.delete(
    "/api/files/upload/{upload_id}", role=STUDENT, status=204, problems=(UploadNotFound, UploadCompleted), rate="write"
)
async def give_up_upload(call: Call[None]) -> None:
    """Give an upload up; what has arrived of it is deleted."""
    async with call.db.transaction() as tx:
        row = await files.get_own_upload(tx, upload_id=call.path.upload_id, owner_id=call.user.id)
        if row is None:
            raise UploadNotFound
        if row["status"] == "ready":
            raise UploadCompleted
        await files.delete_file(tx, file_id=row["id"])
    metrics.UPLOADS.labels("given_up").inc()


async def sweep(app: web.Application) -> None:
    """Delete uploads that were not completed in time, and forget those that were. Raises DATABASE_AWAY."""
    swept = await files.sweep_uploads(app[DATABASE], most=_SWEPT_AT_ONCE)
    metrics.UPLOADS.labels("swept").inc(swept)
    await files.forget_uploads(app[DATABASE], most=_SWEPT_AT_ONCE)


# -- what was announced, what arrived ----------------------------------------------------------------------------------


def _check_announced(call: Call[NewFileUpload]) -> tuple[str, str]:
    """The file's name and its type, without parameters. Raises ValidationFailed."""
    body, settings = call.body, call.config.files
    content_type = body.content_type.partition(";")[0].strip().lower()
    if fault := fault_of(body.purpose, content_type):
        raise ValidationFailed.at("/content_type", fault)
    most = settings.largest_bytes if body.purpose == "material" else settings.direct_bytes
    if body.size_bytes > most:
        raise ValidationFailed.at("/size_bytes", f"At most {most} bytes are taken.")
    filename = clean_filename(body.filename)
    if filename is None:
        raise ValidationFailed.at("/filename", "Nothing is left of this name.")
    return filename, content_type


async def _put_together(store: Objects, key: str, row: Record, told: Sequence[ArrivedPart]) -> None:
    """One object of the parts, when they are those that arrived. Raises ValidationFailed."""
    sizes = sizes_of_parts(row["size_bytes"], row["part_size"])
    if sorted(part.number for part in told) != list(range(1, len(sizes) + 1)):
        raise ValidationFailed.at("/parts", f"Each part from 1 to {len(sizes)} must be there once.")
    try:
        arrived = {part.number: part for part in await store.list_parts(key, row["store_upload_id"])}
    except ServiceHasNone:
        return  # somebody else completed it, or gave it up: whether there is an object tells
    errors = [
        {"pointer": f"/parts/{index}/{member}", "detail": detail}
        for index, part in enumerate(told)
        for member, detail in [_fault_of_part(part, arrived.get(part.number), sizes[part.number - 1])]
        if detail
    ]
    if errors:
        raise ValidationFailed(errors=errors[:100])
    try:
        await store.finish_upload(key, row["store_upload_id"], [arrived[number] for number in sorted(arrived)])
    except ServiceHasNone:
        return
    except ServiceRefused as error:
        log.warning("upload_refused", file_id=str(row["id"]), error=str(error))
        raise ValidationFailed.at("/parts", "The store refuses these parts.") from None


def _fault_of_part(told: ArrivedPart, part: Part | None, size_bytes: int) -> tuple[str, str | None]:
    if part is None:
        return "number", "This part has not arrived."
    if part.size_bytes != size_bytes:
        return "number", f"Of this part {part.size_bytes} bytes arrived, not {size_bytes}."
    return "etag", None if told.etag.strip('"') == part.etag else "What arrived has another ETag."


async def _check_arrived(call: Call[Any], store: Objects, key: str, row: Record) -> Picture | None:
    """Whether the object is what was announced, with what it shows if it is a picture.

    One that is not is deleted with its upload. Raises ValidationFailed.
    """
    try:
        size_bytes = await store.size_of(key)
        found = type_of(await store.read_head(key, HEAD_BYTES))
        if size_bytes != row["size_bytes"]:
            raise _Refused(f"{size_bytes} bytes arrived, not {row['size_bytes']}.")
        if not agrees(row["content_type"], found):
            raise _Refused(f"What arrived is not {row['content_type']}.")
        return await _look_at_stored(call, store, key, row)
    except ServiceHasNone:
        raise _no_upload() from None
    except (_Refused, NotAPicture) as fault:
        await files.delete_file(call.db, file_id=row["id"])
        metrics.UPLOADS.labels("refused").inc()
        raise ValidationFailed.at("", str(fault)) from None


class _Refused(Exception):
    """Why what arrived is not what was announced."""


# -- pictures ----------------------------------------------------------------------------------------------------------


async def _look(call: Call[NewFile], content: Any, content_type: str) -> Picture | None:
    """What the picture shows; None for what is none, and for a material that cannot be looked at. What is there to be
    shown as a picture has to be one: raises ValidationFailed."""
    if content_type not in PICTURES:
        return None
    try:
        picture = await call.app[LOOKING].look_at(content)
    except PicturesBusy:
        return None
    except NotAPicture as fault:
        if call.body.purpose == "material":
            return None
        raise ValidationFailed.at("/file", str(fault)) from None
    if not picture.thumbnails and call.body.purpose != "material":
        raise ValidationFailed.at("/file", "The picture has too many pixels.")
    return picture


async def _look_at_stored(call: Call[Any], store: Objects, key: str, row: Record) -> Picture | None:
    """As `_look`, for a picture in the store. Raises NotAPicture."""
    if row["content_type"] not in PICTURES or row["size_bytes"] > call.config.files.direct_bytes:
        return None
    try:
        picture = await _fetch_and_look(call.app, store, key)
    except (PicturesBusy, ServiceError) as error:
        log.warning("picture_not_looked_at", file_id=str(row["id"]), error=str(error))
        return None
    except NotAPicture:
        if row["purpose"] == "material":
            return None
        raise
    if not picture.thumbnails and row["purpose"] != "material":
        raise NotAPicture("The picture has too many pixels.")
    return picture


async def _fetch_and_look(app: web.Application, store: Objects, key: str) -> Picture:
    with TemporaryFile() as content:
        await store.fetch(key, content, app[CONFIG].files.direct_bytes)
        return await app[LOOKING].look_at(content)


async def _store_thumbnails(store: Objects, file_id: UUID, visibility: str, picture: Picture | None) -> None:
    for small in picture.thumbnails if picture else ():
        key = object_key(file_id, visibility, thumbnail_name(small.size))
        await store.put(key, io.BytesIO(small.content), len(small.content), "image/webp")


async def _keep_picture(tx: Connection, row: Record, picture: Picture | None) -> Record:
    """The row with what the picture shows; where it is not known yet a job will find out."""
    if picture is not None:
        return await _set_picture(tx, row["id"], picture) or row
    if row["content_type"] in PICTURES:
        await add_job(tx, LOOK, in_s=_LATER_S, file_id=row["id"])
    return row


async def _set_picture(db: Any, file_id: UUID, picture: Picture) -> Record | None:
    row: Record | None = await files.set_picture(
        db,
        file_id=file_id,
        width=picture.width,
        height=picture.height,
        thumbnails=[small.row for small in picture.thumbnails],
    )
    return row


def looker(app: web.Application) -> Any:
    """The work of jobs of the kind LOOK: pictures for which there was no time when they came."""

    async def look(job: Job) -> None:
        row = await files.get_by_id(app[DATABASE], file_id=UUID(job.payload["file_id"]))
        if row is None or row["width"] is not None or row["size_bytes"] > app[CONFIG].files.direct_bytes:
            return
        with putting_off(job, PicturesBusy, *SERVICE_AWAY):
            store = store_of(app)
            try:
                picture = await _fetch_and_look(app, store, object_key(row["id"], row["visibility"]))
            except NotAPicture:
                return
            await _store_thumbnails(store, row["id"], row["visibility"], picture)
        if await _set_picture(app[DATABASE], row["id"], picture) is None:
            await add_job(app[DATABASE], REMOVE, file_id=row["id"], visibility=row["visibility"])

    return look


# -- rows --------------------------------------------------------------------------------------------------------------


async def _check_place(call: Call[Any]) -> Record | None:
    """The course that the file is put into. Raises Forbidden, ValidationFailed."""
    body = call.body
    course_id = body.course_id
    if body.lecture_id is not None:
        course_id = await files.get_lecture_course(call.db, lecture_id=body.lecture_id)
        if course_id is None or body.course_id not in (None, course_id):
            raise ValidationFailed.at("/lecture_id", "There is no such row.")
    if course_id is None:
        if body.visibility == "course":
            raise ValidationFailed.at("/course_id", "A file for those of a course needs the course.")
        return None
    course: Record | None = await files.get_course(
        call.db, course_id=course_id, viewer_id=call.user.id, viewer_role=call.user.role
    )
    if course is None:
        raise ValidationFailed.at("/lecture_id" if body.lecture_id else "/course_id", "There is no such row.")
    if not course["viewer_owns"]:
        raise Forbidden
    return course


async def _check_quota(call: Call[Any], db: Any, size_bytes: int) -> None:
    if await files.count_bytes(db, user_id=call.user.id) + size_bytes > call.config.files.quota_bytes:
        raise QuotaExceeded


def _members(
    call: Call[Any], course: Record | None, filename: str, size_bytes: int, content_type: str
) -> dict[str, Any]:
    body = call.body
    return {
        "owner_id": call.user.id,
        "course_id": course and course["id"],
        "lecture_id": body.lecture_id,
        "filename": filename,
        "size_bytes": size_bytes,
        "content_type": content_type,
        "purpose": body.purpose,
        "visibility": body.visibility,
    }


@asynccontextmanager
async def _noted(call: Call[Any]) -> AsyncIterator[tuple[UUID, UUID]]:
    """A new file's id, and the job that takes away what is stored under it unless the block crosses it out."""
    file_id = await files.new_id(call.db)
    note = await add_job(call.db, REMOVE, in_s=_NOTED_S, file_id=file_id, visibility=call.body.visibility)
    yield file_id, note


async def _insert(
    call: Call[Any], tx: Connection, file_id: UUID, course: Record | None, members: Mapping[str, Any], status: str
) -> Record:
    """The file's row, when there is still room for it. One at a time per user. Raises QuotaExceeded, Unauthorized."""
    await files.lock_owner(tx, user_id=call.user.id)
    await _check_quota(call, tx, members["size_bytes"])
    row: Record | None = await files.insert_file(tx, file_id=file_id, status=status, **members)
    if row is None:
        raise Unauthorized
    if course is not None:
        await audit_foreign(tx, call.user.id, course["creator_id"], "file_created", "course", course["id"])
    return row


def _no_upload() -> ValidationFailed:
    """An upload that a body names is not there, or another's."""
    return ValidationFailed.at("/upload_id", "There is no such upload of yours, or it was given up.")

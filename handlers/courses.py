"""Courses and their lectures."""

from collections import Counter
from collections.abc import Collection
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit
from uuid import UUID

from pydantic import AfterValidator, BaseModel, Field

from server.data.audit import audit_foreign
from server.data.db import Connection, Query, Record, queries
from server.data.history import FORGETS_WITHIN_S, forget_history
from server.domain.files import show_file
from server.domain.money import NotAPrice, check_currency, parse_price
from server.domain.progress import show_progress
from server.domain.videos import show_video
from server.http.keys import VIDEO_HOST
from server.http.members import Description, File, Progress, Title, Video
from server.http.paging import Page, PageQuery, page, read_cursor
from server.http.parsing import Whole
from server.http.problems import (
    CourseNotFound,
    Forbidden,
    LectureNotFound,
    NotEntitled,
    Unauthorized,
    ValidationFailed,
)
from server.http.routing import INSTRUCTOR, PUBLIC, STUDENT, Body, Call, Change, Reply, Routes

routes = Routes("courses")
courses = queries("courses")

CourseStatus = Literal["draft", "published", "archived"]
CourseOrder = Literal["newest", "title", "popular", "price", "price_desc", "relevance"]
# How to list in an order, and of what kind the first value of its cursor is (the last is always the id).
ORDERS: dict[str, tuple[Query, type | None]] = {
    "newest": (courses.list_newest, None),
    "title": (courses.list_by_title, str),
    "popular": (courses.list_popular, int),
    "price": (courses.list_cheapest, Decimal),
    "price_desc": (courses.list_dearest, Decimal),
    "relevance": (courses.list_relevant, float),
}


# Where a course's picture is that is among the files.
OWN_PICTURES = "/api/files/public/"
NO_ADDRESS = "must be an http or https address"


def _web_address(url: str) -> str:
    """Only what a page may safely link to or show: no `javascript:`, no user names in front of the host."""
    parts = urlsplit(url)
    _ = parts.port  # raises ValueError where it is none
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or not url.isprintable():
        raise ValueError(NO_ADDRESS)
    return url


def _shown_address(url: str) -> str:
    """As `_web_address`, or what a course says of itself that has a picture."""
    return url if url.startswith(OWN_PICTURES) else _web_address(url)


WebAddress = Annotated[str, Field(max_length=2048), AfterValidator(_web_address)]
ShownAddress = Annotated[str, Field(max_length=2048), AfterValidator(_shown_address)]
Place = Annotated[int, Field(ge=1, le=100_000), Whole]
PICTURE = "A public picture among one's files: `thumbnail_url` becomes its address, in place of another."
Duration = Annotated[int, Field(ge=0, le=1_000_000), Whole]


class NewCourse(Body):
    """A course to be made; `price` is a decimal string, and `is_free` must agree with it."""

    title: Title
    description: Description = ""
    price: Annotated[str, Field(max_length=20)] = "0.00"
    currency: str | None = None
    thumbnail_url: WebAddress | None = None
    thumbnail_file_id: UUID | None = Field(None, description=PICTURE)
    status: CourseStatus = "draft"
    is_free: bool | None = None


class CourseChange(Change):
    """The members of a course to be changed."""

    title: Title = ""
    description: Description = ""
    price: Annotated[str, Field(max_length=20)] = ""
    currency: str = ""
    thumbnail_url: ShownAddress | None = Field(None, description="An http or https address, or what it is already.")
    thumbnail_file_id: UUID | None = Field(None, description=PICTURE)
    status: CourseStatus = "draft"
    is_free: bool | None = None


class CourseFilter(PageQuery):
    """Published courses; with `status` the caller's own drafts or archived ones."""

    q: Annotated[
        str | None,
        Field(
            max_length=200,
            description='Words in the title or description, `"a phrase"`, `or`, `-without`; accents and case do not'
            " matter, English words are found by their stems.",
        ),
    ] = None
    creator_id: UUID | None = None
    is_free: bool | None = None
    status: CourseStatus = "published"
    sort: Annotated[
        CourseOrder | None,
        Field(
            description="`newest` (the default), `title`, `popular` (most learners first), `price` (by the amount,"
            " cheapest first), `price_desc`, or `relevance` (the default with `q`; without it `newest`)."
        ),
    ] = None


class Course(BaseModel):
    """A course, with how many lectures and learners it has and its length in seconds."""

    id: UUID
    title: str
    description: str
    creator_id: UUID
    thumbnail_url: str | None
    price: Decimal
    currency: str
    is_free: bool
    status: CourseStatus
    lecture_count: int
    enrolled_count: int
    duration: int
    created_at: datetime
    updated_at: datetime


class LectureOrder(Body):
    """Every lecture of the course, each once, in the order that is wanted."""

    lecture_ids: Annotated[list[UUID], Field(max_length=10_000)]


class OrderedCourse(Course):
    """A course with its lectures' order."""

    lecture_ids: list[UUID]


class NewLecture(Body):
    """A lecture to be made; without `sequence_order` it becomes the last."""

    title: Title
    description: Description = ""
    video_url: WebAddress | None = None
    duration: Duration | None = None
    sequence_order: Place | None = None
    is_preview: bool = False


class LectureChange(Change):
    """The members of a lecture to be changed; a new `sequence_order` moves it and shifts those between."""

    title: Title = ""
    description: Description = ""
    video_url: WebAddress | None = None
    duration: Duration | None = None
    sequence_order: Place = 1
    is_preview: bool = False


class Lecture(BaseModel):
    """A lecture; `duration` is its video's where it has none of its own, `progress` the caller's when signed in."""

    id: UUID
    course_id: UUID
    title: str
    description: str
    video_url: str | None
    duration: int | None
    sequence_order: int
    is_preview: bool
    created_at: datetime
    updated_at: datetime
    progress: Progress | None = None


class WholeLecture(Lecture):
    """A lecture with what belongs to it."""

    video: Video | None
    files: list[File]


# -- courses -----------------------------------------------------------------------------------------------------------


@routes.post(
    "/api/courses",
    role=INSTRUCTOR,
    body=NewCourse,
    answer=Course,
    status=201,
    location="/api/courses/{id}",
    rate="write",
)
async def create_course(call: Call[NewCourse]) -> Record:
    """Make a course; a draft unless another status is given."""
    members = call.body.model_dump()
    if members["currency"] is None:
        members["currency"] = _default_currency(call)
    currencies = call.config.payments.currencies
    members["price"] = _check_price(members.pop("price"), members["currency"], members.pop("is_free"), currencies)
    picture_id = members.pop("thumbnail_file_id")
    async with call.db.transaction() as tx:
        course_id = await courses.insert_course(tx, creator_id=call.user.id, **members)
        if picture_id is not None:
            await _show_picture(call, tx, course_id, picture_id)
        return await _get_course(call, tx, course_id)


@routes.get("/api/courses", role=PUBLIC, query=CourseFilter, answer=Page[Course], problems=(Forbidden,), rate="read")
async def list_courses(call: Call[None]) -> dict[str, Any]:
    """Published courses, found and sorted; with `status=draft` or `archived` the caller's own (an admin's: all)."""
    wanted = call.query
    if wanted.status != "published" and wanted.creator_id not in (None, call.user.id) and not call.user.has("admin"):
        raise Forbidden("Only its creator sees what is not published.")
    q = (wanted.q or "").strip() or None
    order = (wanted.sort or "relevance") if q else (wanted.sort or "newest").replace("relevance", "newest")
    list_in_order, kind = ORDERS[order]
    names = ("after_id",) if kind is None else ("after_key", "after_id")
    kinds = (UUID,) if kind is None else (kind, UUID)
    rows = await list_in_order(
        call.db,
        viewer_id=call.viewer_id,
        viewer_role=call.viewer_role,
        status=wanted.status,
        creator_id=wanted.creator_id,
        is_free=wanted.is_free,
        q=q,
        page_size=wanted.limit + 1,
        **dict(zip(names, read_cursor(wanted.cursor, *kinds) or (None, None), strict=False)),
    )
    return page(call, rows, key=lambda row: (row["id"],) if kind is None else (row["sort_key"], row["id"]))


@routes.get("/api/courses/{course_id}", role=PUBLIC, answer=Course, problems=(CourseNotFound,), rate="read")
async def get_course(call: Call[None]) -> Record:
    """A course: a published one for everybody, others for their owner and the enrolled."""
    return await _get_course(call, call.db, call.path.course_id)


@routes.put(
    "/api/courses/{course_id}",
    role=STUDENT,
    body=CourseChange,
    answer=Course,
    problems=(CourseNotFound, Forbidden),
    rate="write",
)
async def update_course(call: Call[CourseChange]) -> Record:
    """Change a course of one's own; members that are absent stay as they are."""
    async with call.db.transaction() as tx:
        course = await _lock_own_course(call, tx, "course_changed")
        names = ("title", "description", "thumbnail_url", "price", "currency", "status")
        members = {name: course[name] for name in names} | call.body.model_dump(exclude_unset=True)
        # Its own it keeps, also where it is no longer offered.
        currencies = {*call.config.payments.currencies, course["currency"]}
        members["price"] = _check_price(
            str(members["price"]), members["currency"], members.pop("is_free", None), currencies
        )
        has_new_url = members["thumbnail_url"] != course["thumbnail_url"]
        if has_new_url and (members["thumbnail_url"] or "").startswith(OWN_PICTURES):
            raise ValidationFailed.at("/thumbnail_url", NO_ADDRESS)
        picture_id = members.pop("thumbnail_file_id", None)
        await courses.update_course(tx, course_id=course["id"], **members)
        if has_new_url or "thumbnail_file_id" in call.body.model_fields_set:
            await _show_picture(call, tx, course["id"], picture_id)
        return await _get_course(call, tx, course["id"])


@routes.delete(
    "/api/courses/{course_id}",
    role=STUDENT,
    answer=Course,
    also=(204,),
    problems=(CourseNotFound, Forbidden),
    rate="write",
)
async def delete_course(call: Call[None]) -> Reply | None:
    """Delete a course of one's own.

    Where somebody is or was enrolled, or paid, it is archived instead and its row answered with status 200: learners
    keep what they have, and nobody else comes in.
    """
    async with call.db.transaction() as tx:
        course = await _lock_own_course(call, tx, "course_deleted", courses.lock_course_wholly)
        if await courses.archive_if_taken(tx, course_id=course["id"]) is not None:
            return Reply(await _get_course(call, tx, course["id"]), status=200)
        await courses.delete_course(tx, course_id=course["id"])
    return None


# -- lectures ----------------------------------------------------------------------------------------------------------


@routes.post(
    "/api/courses/{course_id}/lectures",
    role=STUDENT,
    body=NewLecture,
    answer=Lecture,
    status=201,
    location="/api/lectures/{id}",
    problems=(CourseNotFound, Forbidden),
    rate="write",
)
async def create_lecture(call: Call[NewLecture]) -> Record:
    """Add a lecture at the end, or at `sequence_order`: where that place is taken the rest moves on by one."""
    members = call.body.model_dump()
    async with call.db.transaction() as tx:
        course = await _lock_own_course(call, tx, "lecture_created")
        if members["sequence_order"] is None:
            members["sequence_order"] = 1 + await courses.last_place(tx, course_id=course["id"])
        else:
            await courses.make_place(tx, course_id=course["id"], place=members["sequence_order"])
        lecture: Record = await courses.insert_lecture(tx, course_id=course["id"], **members)
        return lecture


@routes.get(
    "/api/courses/{course_id}/lectures",
    role=PUBLIC,
    query=PageQuery,
    answer=Page[Lecture],
    problems=(CourseNotFound,),
    rate="read",
)
async def list_lectures(call: Call[None]) -> dict[str, Any]:
    """The lectures in order, for everybody who may see the course; with one's own progress when signed in."""
    after_place, after_id = read_cursor(call.query.cursor, int, UUID) or (0, None)
    course_id: UUID = call.path.course_id
    entitled = await courses.get_right(
        call.db, course_id=course_id, viewer_id=call.viewer_id, viewer_role=call.viewer_role
    )
    if entitled is None:
        raise CourseNotFound
    rows = await courses.list_lectures(
        call.db, course_id=course_id, after_place=after_place, after_id=after_id, page_size=call.query.limit + 1
    )
    lectures = [_hide(dict(row), entitled=entitled) for row in rows]
    if call.viewer:
        await _merge_progress(call, call.viewer.id, lectures)
    return page(call, lectures, key=lambda lecture: (lecture["sequence_order"], lecture["id"]))


@routes.get(
    "/api/lectures/{lecture_id}",
    role=PUBLIC,
    answer=WholeLecture,
    problems=(Unauthorized, LectureNotFound, NotEntitled),
    rate="read",
)
async def get_lecture(call: Call[None]) -> dict[str, Any]:
    """A lecture with its video and files, for the entitled; a preview for everybody."""
    row = await courses.get_lecture(
        call.db, lecture_id=call.path.lecture_id, viewer_id=call.viewer_id, viewer_role=call.viewer_role
    )
    if row is None or not (row["viewer_entitled"] or row["is_preview"]):
        # Nothing but a preview is told to somebody whom we do not know, not even that it is there.
        raise Unauthorized if call.viewer is None else LectureNotFound if row is None else NotEntitled
    lecture = dict(row)
    video = await courses.get_lecture_video(
        call.db, lecture_id=row["id"], viewer_id=call.viewer_id, viewer_role=call.viewer_role
    )
    sign = call.app[VIDEO_HOST].sign_playback
    lecture["video"] = video and show_video(
        video, owner=row["viewer_owns"], may_watch=True, until=video["viewer_ends_at"], sign=sign
    )
    rows = await courses.list_lecture_files(
        call.db,
        lecture_id=row["id"],
        course_id=row["course_id"],
        viewer_id=call.viewer_id,
        viewer_role=call.viewer_role,
    )
    lecture["files"] = [show_file(file) for file in rows]
    if call.viewer:
        await _merge_progress(call, call.viewer.id, [lecture])
    return lecture


@routes.put(
    "/api/lectures/{lecture_id}",
    role=STUDENT,
    body=LectureChange,
    answer=Lecture,
    problems=(LectureNotFound, Forbidden),
    rate="write",
)
async def update_lecture(call: Call[LectureChange]) -> Record:
    """Change a lecture of one's own course; members that are absent stay as they are."""
    async with call.db.transaction() as tx:
        lecture = await _lock_own_lecture(call, tx, "lecture_changed")
        names = ("title", "description", "video_url", "duration", "sequence_order", "is_preview")
        members = {name: lecture[name] for name in names} | call.body.model_dump(exclude_unset=True)
        if members["sequence_order"] != lecture["sequence_order"]:
            places = {"old_place": lecture["sequence_order"], "new_place": members["sequence_order"]}
            await courses.close_gap(tx, course_id=lecture["course_id"], **places)
        await courses.update_lecture(tx, lecture_id=lecture["id"], **members)
        changed: Record = await courses.get_lecture(
            tx, lecture_id=lecture["id"], viewer_id=call.user.id, viewer_role=call.user.role
        )
        return changed


@routes.delete(
    "/api/lectures/{lecture_id}",
    role=STUDENT,
    status=204,
    problems=(LectureNotFound, Forbidden),
    rate="write",
    timeout_s=FORGETS_WITHIN_S,
)
async def delete_lecture(call: Call[None]) -> None:
    """Delete a lecture of one's own course, with its videos and what was watched of it; those after it move up."""
    key = {"lecture_id": call.path.lecture_id, "viewer_id": call.user.id, "viewer_role": call.user.role}
    async with call.db.transaction() as tx:
        await _lock_own_lecture(call, tx, "lecture_deleted")
    await forget_history(call.db, await courses.list_video_ids(call.db, lecture_id=call.path.lecture_id))
    async with call.db.transaction() as tx:
        lecture = await courses.lock_lecture(tx, **key)
        if lecture is None:
            raise LectureNotFound
        # In this order: lectures are locked before what counts them, as by whoever tells the length of a video.
        await courses.close_place(tx, course_id=lecture["course_id"], place=lecture["sequence_order"])
        await courses.delete_lecture(tx, lecture_id=lecture["id"])


@routes.put(
    "/api/courses/{course_id}/lectures/order",
    role=STUDENT,
    body=LectureOrder,
    answer=OrderedCourse,
    problems=(CourseNotFound, Forbidden),
    rate="write",
)
async def order_lectures(call: Call[LectureOrder]) -> dict[str, Any]:
    """Put all lectures of a course of one's own in this order, from 1 without a gap."""
    wanted = call.body.lecture_ids
    async with call.db.transaction() as tx:
        course = await _lock_own_course(call, tx, "lectures_ordered")
        known = {row["id"] for row in await courses.list_lecture_ids(tx, course_id=course["id"])}
        if errors := _faults_of_order(wanted, known):
            raise ValidationFailed(errors=errors)
        await courses.order_lectures(tx, course_id=course["id"], lecture_ids=wanted)
        return {**await _get_course(call, tx, course["id"]), "lecture_ids": wanted}


# -- what several of them do -------------------------------------------------------------------------------------------


async def _get_course(call: Call[Any], connection: Any, course_id: UUID) -> Record:
    """The course as the caller may see it. Raises CourseNotFound."""
    course: Record | None = await courses.get_course.together(
        connection, course_id=course_id, viewer_id=call.viewer_id, viewer_role=call.viewer_role
    )
    if course is None:
        raise CourseNotFound
    return course


async def _lock_own_course(call: Call[Any], tx: Connection, action: str, lock: Query = courses.lock_course) -> Record:
    """The course of the path, locked for what is called `action` where an administrator does it to another's.

    Raises CourseNotFound, or Forbidden where it is known but another's.
    """
    course: Record | None = await lock(
        tx, course_id=call.path.course_id, viewer_id=call.user.id, viewer_role=call.user.role
    )
    if course is None:
        raise CourseNotFound
    if not course["viewer_owns"]:
        raise Forbidden
    await audit_foreign(tx, call.user.id, course["creator_id"], action, "course", course["id"])
    return course


async def _lock_own_lecture(call: Call[Any], tx: Connection, action: str) -> Record:
    """The lecture of the path and its course, locked as for courses. Raises LectureNotFound, Forbidden."""
    lecture: Record | None = await courses.lock_lecture(
        tx, lecture_id=call.path.lecture_id, viewer_id=call.user.id, viewer_role=call.user.role
    )
    if lecture is None:
        raise LectureNotFound
    if not lecture["viewer_owns"]:
        raise Forbidden
    await audit_foreign(tx, call.user.id, lecture["creator_id"], action, "lecture", lecture["id"])
    return lecture


async def _show_picture(call: Call[Any], tx: Connection, course_id: UUID, file_id: UUID | None) -> None:
    """Make the file the course's picture; None: no file is. Raises ValidationFailed."""
    if not await courses.set_picture(tx, course_id=course_id, file_id=file_id, viewer_id=call.user.id):
        raise ValidationFailed.at("/thumbnail_file_id", "You have no such public picture.")


def _faults_of_order(wanted: list[UUID], known: set[UUID]) -> list[dict[str, str]]:
    """What keeps a list from being an order of the lectures: strangers, repetitions, gaps."""
    errors = []
    counts = Counter(wanted)
    for index, lecture_id in enumerate(wanted):
        if lecture_id not in known:
            errors.append({"pointer": f"/lecture_ids/{index}", "detail": "The course has no such lecture."})
        elif counts[lecture_id] > 1:
            errors.append({"pointer": f"/lecture_ids/{index}", "detail": "The lecture is named more than once."})
    if missing := len(known - set(wanted)):
        errors.append({"pointer": "/lecture_ids", "detail": f"Lectures of the course are missing: {missing}."})
    return errors[:100]


def _default_currency(call: Call[Any]) -> str:
    currencies = call.config.payments.currencies
    return "usd" if "usd" in currencies else currencies[0]


def _check_price(price: str, currency: str, is_free: bool | None, currencies: Collection[str]) -> Decimal:
    """The price, when it, its currency and `is_free` agree. Raises ValidationFailed."""
    pointer = "/currency"
    try:
        check_currency(currency, currencies)
        pointer = "/price"
        amount = parse_price(price, currency)
    except NotAPrice as fault:
        raise ValidationFailed.at(pointer, str(fault)) from None
    if is_free is not None and is_free != (amount == 0):
        raise ValidationFailed.at("/is_free", "must agree with the price")
    return amount


def _hide(lecture: dict[str, Any], *, entitled: bool) -> dict[str, Any]:
    """Everybody may read what there is to learn; where it is to be seen only those who may watch it."""
    if not (entitled or lecture["is_preview"]):
        lecture["video_url"] = None
    return lecture


async def _merge_progress(call: Call[Any], viewer_id: UUID, lectures: list[dict[str, Any]]) -> None:
    rows = await courses.list_own_progress(
        call.db, viewer_id=viewer_id, lecture_ids=[lecture["id"] for lecture in lectures]
    )
    known = {row["lecture_id"]: show_progress(row) for row in rows}
    for lecture in lectures:
        lecture["progress"] = known.get(lecture["id"])

"""What learners have watched, where they go on, and which courses they are enrolled in."""

from collections.abc import Mapping
from datetime import datetime
from functools import partial
from typing import Annotated, Any, Literal
from uuid import UUID

import asyncpg
from pydantic import BaseModel, Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator

from server.data.audit import audit_foreign
from server.data.db import Connection, Record, queries
from server.domain.progress import LONGEST_S, NotAPosition, parse_position, parse_range, show_progress
from server.http.events import ProgressEvent
from server.http.keys import EVENTS, WATCHING
from server.http.members import Enrollment, Progress
from server.http.paging import Page, PageQuery, page, read_cursor
from server.http.problems import (
    BadCursor,
    Conflict,
    CourseNotFound,
    EnrollmentNotFound,
    Forbidden,
    LectureNotFound,
    NotEntitled,
    PaymentRequired,
    RoleRequired,
    UserNotFound,
    ValidationFailed,
)
from server.http.routing import STUDENT, Body, Call, Change, Reply, Routes

routes = Routes("progress")
progress = queries("progress")


class ProgressChange(Change):
    """What was watched, in seconds with at most three decimals; `completed` by hand, which cannot be taken back."""

    watched_ranges: Annotated[list[tuple[float, float]], Field(max_length=1000)] = Field(default=[])
    position: float = 0
    completed: bool = False


def _id_or_me(text: Any, read: ValidatorFunctionWrapHandler) -> Any:
    """One fault of the member, not one for each thing that it may be."""
    try:
        return read(text)
    except ValidationError:
        raise ValueError("must be a user's id, or me") from None


UserId = Annotated[UUID | Literal["me"], WrapValidator(_id_or_me)]


class NewEnrollment(Body):
    """A course to be enrolled in; `user_id` is an admin's to give."""

    course_id: UUID
    user_id: UserId | None = None


class CourseProgressQuery(PageQuery):
    """For the course's owner: another learner's progress, or all learners'."""

    user_id: UserId = "me"
    view: Literal["learners"] | None = None


class ResumePoint(BaseModel):
    """A lecture and the second in it where a learner goes on."""

    lecture_id: UUID
    position: float


class CourseProgress(BaseModel):
    """How far a learner is in a course; `items` are the lectures begun, in order."""

    course_id: UUID
    lectures_total: int
    lectures_completed: int
    percent: float
    completed: bool
    resume: ResumePoint | None
    items: list[Progress]


class Learner(BaseModel):
    """How far one of a course's learners is."""

    user_id: UUID
    username: str
    enrolled_at: datetime
    lectures_total: int
    lectures_completed: int
    percent: float
    completed: bool


class Continuation(BaseModel):
    """Where to go on in a course that was begun: the lecture and the second in it."""

    course_id: UUID
    course_title: str
    thumbnail_url: str | None
    lecture_id: UUID
    lecture_title: str
    position: float
    duration: float | None
    percent: float
    last_watched_at: datetime


# -- progress ----------------------------------------------------------------------------------------------------------


@routes.put(
    "/api/progress/lectures/{lecture_id}",
    role=STUDENT,
    body=ProgressChange,
    answer=Progress,
    problems=(LectureNotFound, NotEntitled),
    rate="write",
)
async def update_progress(call: Call[ProgressChange]) -> dict[str, Any]:
    """Add what was watched of a lecture. What is known already never shrinks, a completion stays.

    One's open pages are told where one is.
    """
    ranges, position_ms = _parse_change(call.body)
    key = {"user_id": call.user.id, "lecture_id": call.path.lecture_id}
    async with call.db.transaction() as tx:
        lecture = await progress.get_lecture(
            tx, lecture_id=call.path.lecture_id, viewer_id=call.user.id, viewer_role=call.user.role
        )
        if lecture is None:
            raise LectureNotFound
        if not lecture["viewer_entitled"]:
            raise NotEntitled
        if lecture["end_ms"] is None:
            _check_reach(call.body)
        if position_ms is None and not await progress.lock_progress(tx, **key):
            await progress.insert_progress(tx, **key)
            await progress.lock_progress(tx, **key)
        row = await progress.record_progress(
            tx,
            **key,
            ranges=ranges,
            position_ms=position_ms,
            completed=call.body.completed,
            share=call.config.progress.complete_share,
        )
        shown = show_progress(row)
        if call.body.model_fields_set & {"watched_ranges", "position"}:
            event = ProgressEvent(
                None, None, row["lecture_id"], lecture["course_id"], shown["position"], None, None, row["updated_at"]
            )
            call.afterwards.append(partial(call.app[EVENTS].announce, event, to=call.user.id))
        return shown


@routes.get(
    "/api/progress/users/me",
    role=STUDENT,
    query=PageQuery,
    answer=Page[Progress],
    rate="read",
)
async def get_my_progress(call: Call[None]) -> dict[str, Any]:
    """The caller's progress in all lectures, the last watched first."""
    return await _list_progress(call, call.user.id)


@routes.get(
    "/api/progress/users/{user_id}",
    role=STUDENT,
    query=PageQuery,
    answer=Page[Progress],
    problems=(UserNotFound,),
    rate="read",
)
async def get_user_progress(call: Call[None]) -> dict[str, Any]:
    """A user's progress in all lectures, for that user and admins."""
    await _check_self_or_admin(call)
    return await _list_progress(call, call.path.user_id)


@routes.get(
    "/api/progress/courses/{course_id}",
    role=STUDENT,
    query=CourseProgressQuery,
    answer=CourseProgress | Page[Learner],
    problems=(CourseNotFound, UserNotFound, Forbidden),
    rate="read",
)
async def get_course_progress(call: Call[None]) -> BaseModel:
    """How far the caller is in a course; for its owner also another user (`user_id`), or all (`view=learners`).

    Learners come in pages; how far one of them is comes whole, and takes no `cursor`.
    """
    user_id = call.user.id if call.query.user_id == "me" else call.query.user_id
    course = await _get_course(call)
    if (user_id != call.user.id or call.query.view is not None) and not course["viewer_owns"]:
        raise Forbidden("Only the course's owner sees how far others are.")
    if call.query.view is not None:
        return await _list_learners(call, course["id"])
    if call.query.cursor is not None:
        raise BadCursor("Only `view=learners` comes in pages.")
    if user_id != call.user.id and not await progress.may_ask_about(
        call.db, user_id=user_id, course_id=course["id"], viewer_role=call.user.role
    ):
        raise UserNotFound
    totals = await progress.get_course_progress(call.db, user_id=user_id, course_id=course["id"])
    rows = await progress.list_course_progress(call.db, user_id=user_id, course_id=course["id"])
    resume = None
    if totals["resume_lecture_id"] is not None:
        resume = {"lecture_id": totals["resume_lecture_id"], "position": totals["resume_ms"] / 1000}
    return CourseProgress.model_validate({**totals, "resume": resume, "items": [show_progress(row) for row in rows]})


@routes.get("/api/progress/me/continue", role=STUDENT, query=PageQuery, answer=Page[Continuation], rate="read")
async def list_continuations(call: Call[None]) -> dict[str, Any]:
    """Where to go on: one lecture and second per course that was begun, the last watched first."""
    rows = await progress.list_resume_points(call.db, user_id=call.user.id, user_role=call.user.role, **_before(call))
    items = [
        {
            **row,
            "position": row["position_ms"] / 1000,
            "duration": row["end_ms"] and row["end_ms"] / 1000,
        }
        for row in rows
    ]
    return page(call, items, key=lambda item: (item["last_watched_at"], item["course_id"]))


# -- enrolments --------------------------------------------------------------------------------------------------------


@routes.post(
    "/api/enrollments",
    role=STUDENT,
    body=NewEnrollment,
    answer=Enrollment,
    status=201,
    also=(200,),
    location="/api/enrollments/users/{user_id}",
    problems=(PaymentRequired, RoleRequired, Conflict),
    rate="write",
)
async def create_enrollment(call: Call[NewEnrollment]) -> Reply:
    """Enrol in a course that is free, one's own, bought, or covered by one's subscription.

    Once enrolled the same row comes again, with status 200. What was bought stays bought after leaving; an enrolment by
    subscription lasts as long as the subscription, unless a right that lasts, such as an admin's gift, takes its place.
    """
    asked = call.body.user_id or "me"
    user_id = call.user.id if asked == "me" else asked
    if user_id != call.user.id and not call.user.has("admin"):
        raise RoleRequired("Only an admin enrols others.")
    async with call.db.transaction() as tx:
        await progress.lock_subscriptions(tx, user_id=user_id)
        course = await progress.lock_course(
            tx,
            course_id=call.body.course_id,
            viewer_id=call.user.id,
            viewer_role=call.user.role,
            user_id=user_id,
        )
        if course is None:
            raise _missing("/course_id")
        if not await progress.user_exists(tx, user_id=user_id):
            raise _missing("/user_id")
        return await _enrol(call, tx, course, user_id)


@routes.get("/api/enrollments/users/me", role=STUDENT, query=PageQuery, answer=Page[Enrollment], rate="read")
async def get_my_enrollments(call: Call[None]) -> dict[str, Any]:
    """The caller's enrolments, the newest first."""
    return await _list_enrollments(call, call.user.id)


@routes.get(
    "/api/enrollments/users/{user_id}",
    role=STUDENT,
    query=PageQuery,
    answer=Page[Enrollment],
    problems=(UserNotFound,),
    rate="read",
)
async def get_user_enrollments(call: Call[None]) -> dict[str, Any]:
    """A user's enrolments, for that user and admins."""
    await _check_self_or_admin(call)
    return await _list_enrollments(call, call.path.user_id)


@routes.get(
    "/api/enrollments/courses/{course_id}",
    role=STUDENT,
    query=PageQuery,
    answer=Page[Enrollment],
    problems=(CourseNotFound, Forbidden),
    rate="read",
)
async def get_course_enrollments(call: Call[None]) -> dict[str, Any]:
    """Who is enrolled in a course, for its owner; the newest first."""
    course = await _get_course(call)
    if not course["viewer_owns"]:
        raise Forbidden
    rows = await progress.list_course_enrollments(call.db, course_id=course["id"], **_before(call))
    return page(call, rows, key=lambda row: (row["enrolled_at"], row["user_id"]))


@routes.delete(
    "/api/enrollments/courses/{course_id}",
    role=STUDENT,
    status=204,
    problems=(EnrollmentNotFound,),
    rate="write",
)
async def end_enrollment(call: Call[None]) -> None:
    """Leave a course; what was watched is kept. Sockets that played it end (4403)."""
    if await progress.end_enrollment(call.db, user_id=call.user.id, course_id=call.path.course_id) is None:
        raise EnrollmentNotFound
    call.afterwards.append(partial(call.app[WATCHING].announce_access_ended, call.user.id))


# -- what several of them do -------------------------------------------------------------------------------------------


def _parse_change(body: ProgressChange) -> "tuple[list[asyncpg.Range[int]], int | None]":
    """Ranges and position in milliseconds, the position None when it is absent. Raises ValidationFailed."""
    ranges, errors, position_ms = [], [], None
    for index, pair in enumerate(body.watched_ranges):
        try:
            ranges.append(asyncpg.Range(*parse_range(pair)))
        except NotAPosition as fault:
            errors.append({"pointer": f"/watched_ranges/{index}", "detail": str(fault)})
    if "position" in body.model_fields_set:
        try:
            position_ms = parse_position(body.position)
        except NotAPosition as fault:
            errors.append({"pointer": "/position", "detail": str(fault)})
    if errors:
        raise ValidationFailed(errors=errors)
    return ranges, position_ms


def _check_reach(body: ProgressChange) -> None:
    """Where a lecture's end is not known nothing is cut, so what lies past the longest there can be is refused. Raises
    ValidationFailed."""
    late = [f"/watched_ranges/{index}" for index, (_, end) in enumerate(body.watched_ranges) if end > LONGEST_S]
    if body.position > LONGEST_S:
        late.append("/position")
    if late:
        raise ValidationFailed(errors=[{"pointer": p, "detail": f"must be at most {LONGEST_S} seconds"} for p in late])


async def _enrol(call: Call[Any], tx: Connection, course: Mapping[str, Any], user_id: UUID) -> Reply:
    """Enrol by the best right there is; one that ends by itself gives way to one that does not, and to no other.

    Raises PaymentRequired, Conflict.
    """
    key = {"user_id": user_id, "course_id": course["id"]}
    known = await progress.get_enrollment(tx, **key)
    is_active = known is not None and known["is_active"]
    if is_active and known["expires_at"] is None:
        return Reply(known, status=200)
    try:
        right = _right_to_enrol(call, course, user_id)
    except (PaymentRequired, Conflict):
        if is_active:
            return Reply(known, status=200)
        raise
    was_written = await progress.upsert_enrollment(tx, **key, **right) is not None
    if was_written:
        await audit_foreign(tx, call.user.id, user_id, "user_enrolled", "user", user_id, course_id=str(course["id"]))
    is_new = was_written and not is_active
    return Reply(await progress.get_enrollment(tx, **key), status=201 if is_new else 200)


def _right_to_enrol(call: Call[Any], course: Mapping[str, Any], user_id: UUID) -> dict[str, Any]:
    """By what right the user may be enrolled in the course, and until when. Raises PaymentRequired, Conflict."""
    right: dict[str, Any] = {"transaction_id": None, "expires_at": None}
    if course["transaction_id"] is not None:
        return right | {"source": "purchase", "transaction_id": course["transaction_id"]}
    if course["status"] == "archived":
        raise Conflict("The course is archived and takes no new learners.")
    if course["creator_id"] == user_id:
        return right | {"source": "own"}
    if course["is_free"] and user_id == call.user.id:
        return right | {"source": "free"}
    if user_id != call.user.id:
        return right | {"source": "admin"}
    if course["covered_until"] is not None:
        return right | {"source": "subscription", "expires_at": course["covered_until"]}
    if call.user.has("admin"):
        return right | {"source": "admin"}
    raise PaymentRequired


def _missing(pointer: str) -> ValidationFailed:
    return ValidationFailed.at(pointer, "There is no such row.")


def _before(call: Call[Any]) -> dict[str, Any]:
    """The parameters of a list that is ordered by a time and an id, the latest first."""
    before_at, before_id = read_cursor(call.query.cursor, datetime, UUID) or (None, None)
    return {"before_at": before_at, "before_id": before_id, "page_size": call.query.limit + 1}


async def _check_self_or_admin(call: Call[Any]) -> None:
    """Raises UserNotFound for everybody else, and for a user that is not there."""
    if call.path.user_id == call.user.id:
        return
    if not (call.user.has("admin") and await progress.user_exists(call.db, user_id=call.path.user_id)):
        raise UserNotFound


async def _get_course(call: Call[Any]) -> Record:
    """The course of the path, if the caller may know of it. Raises CourseNotFound."""
    course: Record | None = await progress.get_course(
        call.db, course_id=call.path.course_id, viewer_id=call.user.id, viewer_role=call.user.role
    )
    if course is None:
        raise CourseNotFound
    return course


async def _list_progress(call: Call[Any], user_id: UUID) -> dict[str, Any]:
    rows = await progress.list_user_progress(call.db, user_id=user_id, **_before(call))
    return page(call, [show_progress(row) for row in rows], key=lambda p: (p["last_watched_at"], p["lecture_id"]))


async def _list_enrollments(call: Call[Any], user_id: UUID) -> dict[str, Any]:
    rows = await progress.list_user_enrollments(call.db, user_id=user_id, **_before(call))
    return page(call, rows, key=lambda row: (row["enrolled_at"], row["course_id"]))


async def _list_learners(call: Call[Any], course_id: UUID) -> Page[Learner]:
    rows = await progress.list_learners(call.db, course_id=course_id, **_before(call))
    answer = page(call, rows, key=lambda row: (row["enrolled_at"], row["user_id"]))
    return Page[Learner].model_validate({**answer, "items": [dict(row) for row in answer["items"]]})

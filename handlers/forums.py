"""The forum of a course: topics, posts, solutions, and what each reader has read."""

from datetime import datetime
from functools import partial
from typing import Annotated, Any, Literal
from uuid import UUID

import asyncpg
from pydantic import AfterValidator, BaseModel, Field

from server.data.audit import audit_foreign
from server.data.db import Connection, Record, queries
from server.domain.progress import NotAPosition, parse_position
from server.http.events import PostEvent, TopicEvent
from server.http.keys import EVENTS
from server.http.members import Title, not_blank
from server.http.paging import Page, PageQuery, page, read_cursor
from server.http.problems import (
    BadCursor,
    CourseNotFound,
    Forbidden,
    NotEntitled,
    PostNotFound,
    Problem,
    TopicHasPosts,
    TopicLocked,
    TopicNotFound,
    ValidationFailed,
)
from server.http.routing import STUDENT, Body, Call, Change, Routes

routes = Routes("forums")
forums = queries("forums")

Content = Annotated[
    str,
    Field(
        min_length=1, max_length=20_000, description="Kept exactly as written; pages show it as Markdown, sanitised."
    ),
    AfterValidator(not_blank),
]
Position = Annotated[float, Field(ge=0, le=1_000_000, description="Seconds, with at most three decimals.")]


class NewTopic(Body):
    """A topic and its first post; `position` is a second of the lecture `lecture_id`, one of the course's."""

    course_id: UUID
    title: Title
    content: Content
    lecture_id: UUID | None = None
    position: Position | None = None


class TopicChange(Change):
    """The members of a topic to be changed: its author changes the title, the course's owner all."""

    title: Title = ""
    is_pinned: bool = False
    is_locked: bool = False


class PostText(Body):
    """What a post says."""

    content: Content


class Solution(Body):
    """Whether the post is its topic's solution."""

    is_solution: bool = True


class TopicFilter(PageQuery):
    """Which topics of a course."""

    q: Annotated[
        str | None,
        Field(
            max_length=200,
            description='Words in the title or the first 500 posts, `"a phrase"`, `or`, `-without`, understood as when'
            " courses are searched; the best match comes first, whatever is pinned.",
        ),
    ] = None
    solved: Annotated[bool | None, Field(description="Only those with a solution, or only those without.")] = None
    lecture_id: Annotated[UUID | None, Field(description="Only those about this lecture.")] = None
    unread: Annotated[bool | None, Field(description="Only those with posts of others that one has not read.")] = None


class Topic(BaseModel):
    """A topic. `username` is its author's, null when they left; `position` is seconds into the lecture.

    `post_count` leaves out deleted posts; `unread` counts posts of others that the caller has not read yet.
    """

    id: UUID
    course_id: UUID
    creator_id: UUID
    username: str | None
    title: str
    lecture_id: UUID | None
    position: float | None
    is_pinned: bool
    is_locked: bool
    solved_post_id: UUID | None
    post_count: int
    last_post_at: datetime
    unread: int
    created_at: datetime
    updated_at: datetime


class Post(BaseModel):
    """A post. A deleted one (`deleted_at`) stays in its place with an empty `content`.

    `username` and `avatar_url` are its author's, null when they left; `edited_at` is null unless it was edited.
    """

    id: UUID
    topic_id: UUID
    user_id: UUID
    username: str | None
    avatar_url: str | None
    by_course_owner: bool
    content: str
    is_solution: bool
    edited_at: datetime | None
    deleted_at: datetime | None
    created_at: datetime
    updated_at: datetime


class WholeTopic(Topic):
    """A topic with a page of its posts, the oldest first."""

    posts: Page[Post]


# -- topics ------------------------------------------------------------------------------------------------------------


@routes.get(
    "/api/forums/courses/{course_id}/topics",
    role=STUDENT,
    query=TopicFilter,
    answer=Page[Topic],
    problems=(CourseNotFound, NotEntitled),
    rate="read",
)
async def list_topics(call: Call[None]) -> dict[str, Any]:
    """The topics of a course: pinned ones first, then by last activity; with `q` the best match first.

    Who reads on page by page without `q` sees every topic once, in the order of the first page, whatever is posted
    and pinned meanwhile.
    """
    course = await _get_course(call, call.db, call.path.course_id)
    if course is None:
        raise CourseNotFound
    q = (call.query.q or "").strip()
    wanted = {
        "course_id": course["id"],
        "viewer_id": call.user.id,
        "lecture_id": call.query.lecture_id,
        "solved": call.query.solved,
        "unread": call.query.unread,
        "page_size": call.query.limit + 1,
    }
    if q:
        rank, after_id = read_cursor(call.query.cursor, float, UUID) or (None, None)
        rows = await forums.list_relevant(call.db, q=q, after_rank=rank, after_id=after_id, **wanted)
        return page(call, rows, key=lambda row: (row["rank"], row["id"]))
    place = read_cursor(call.query.cursor, datetime, str, bool, datetime, UUID) or (None,) * 5
    members = dict(zip(("as_of", "seen", "after_pinned", "after_at", "after_id"), place, strict=True))
    try:
        rows = await forums.list_active(call.db, **members, **wanted)
    except asyncpg.InvalidTextRepresentationError:
        raise BadCursor from None
    return page(call, rows, key=lambda row: (row["as_of"], row["seen"], row["was_pinned"], row["active_at"], row["id"]))


@routes.post(
    "/api/forums/topics",
    role=STUDENT,
    body=NewTopic,
    answer=WholeTopic,
    status=201,
    location="/api/forums/topics/{id}",
    problems=(NotEntitled,),
    rate="write",
)
async def create_topic(call: Call[NewTopic]) -> dict[str, Any]:
    """Begin a topic with its first post, in a course that one takes or owns."""
    body = call.body
    position_ms = _check_position(body)
    async with call.db.transaction() as tx:
        if await _get_course(call, tx, body.course_id) is None:
            raise ValidationFailed.at("/course_id", "There is no such row.")
        topic_id = await forums.insert_topic(
            tx,
            course_id=body.course_id,
            creator_id=call.user.id,
            title=body.title,
            lecture_id=body.lecture_id,
            position_ms=position_ms,
        )
        post_id = await forums.insert_post(tx, topic_id=topic_id, user_id=call.user.id, content=body.content)
        _tell_topic(call, "created", body.course_id, topic_id)
        posts = [await _get_post(call, tx, post_id)]
        return {**await _get_topic(call, tx, topic_id), "posts": {"items": posts, "next_cursor": None, "next": None}}


@routes.get(
    "/api/forums/topics/{topic_id}",
    role=STUDENT,
    query=PageQuery,
    answer=WholeTopic,
    problems=(TopicNotFound, NotEntitled),
    rate="read",
)
async def get_topic(call: Call[None]) -> dict[str, Any]:
    """A topic with a page of its posts. What is on the page counts as read from now on; `unread` is what is left."""
    (after_id,) = read_cursor(call.query.cursor, UUID) or (None,)
    async with call.db.transaction() as tx:
        topic = await _get_topic(call, tx, call.path.topic_id)
        rows = await forums.list_posts(tx, topic_id=topic["id"], after_id=after_id, page_size=call.query.limit + 1)
        posts = page(call, rows, key=lambda row: (row["id"],))
        unread = topic["unread"]
        if unread and posts["items"]:
            reader = {"topic_id": topic["id"], "user_id": call.user.id}
            await forums.mark_read(tx, **reader, post_id=posts["items"][-1]["id"])
            unread = await forums.count_unread(tx, **reader)
    return {**topic, "unread": unread, "posts": posts}


@routes.put(
    "/api/forums/topics/{topic_id}",
    role=STUDENT,
    body=TopicChange,
    answer=Topic,
    problems=(TopicNotFound, NotEntitled, Forbidden),
    rate="write",
)
async def update_topic(call: Call[TopicChange]) -> Record:
    """Change the title of a topic of one's own; pin, unpin, lock or unlock any in a course of one's own."""
    changes = call.body.model_dump(exclude_unset=True)
    async with call.db.transaction() as tx:
        topic = await _lock_topic(call, tx)
        if not (topic["viewer_owns_course"] or (topic["creator_id"] == call.user.id and changes.keys() <= {"title"})):
            raise Forbidden
        await _audit(call, tx, topic, topic["creator_id"], "topic_changed", "forum_topic", **_flags(changes))
        members = {name: topic[name] for name in ("title", "is_pinned", "is_locked")} | changes
        await forums.update_topic(tx, topic_id=topic["id"], **members)
        _tell_topic(call, "changed", topic["course_id"], topic["id"])
        return await _get_topic(call, tx, topic["id"])


@routes.delete(
    "/api/forums/topics/{topic_id}",
    role=STUDENT,
    status=204,
    problems=(TopicNotFound, NotEntitled, Forbidden, TopicHasPosts),
    rate="write",
)
async def delete_topic(call: Call[None]) -> None:
    """Delete a topic with its posts: one's own while nobody else has posted in it, any in a course of one's own."""
    async with call.db.transaction() as tx:
        topic = await _lock_topic(call, tx)
        if not topic["viewer_owns_course"]:
            if topic["creator_id"] != call.user.id:
                raise Forbidden
            if await forums.others_have_posted(tx, topic_id=topic["id"], user_id=call.user.id):
                raise TopicHasPosts
        await _audit(call, tx, topic, topic["creator_id"], "topic_deleted", "forum_topic")
        await forums.delete_topic(tx, topic_id=topic["id"])
        _tell_topic(call, "deleted", topic["course_id"], topic["id"])


# -- posts -------------------------------------------------------------------------------------------------------------


@routes.post(
    "/api/forums/topics/{topic_id}/posts",
    role=STUDENT,
    body=PostText,
    answer=Post,
    status=201,
    location="/api/forums/posts/{id}",
    problems=(TopicNotFound, NotEntitled, TopicLocked),
    rate="write",
)
async def create_post(call: Call[PostText]) -> Record:
    """Post in a topic; in a locked one the course's owner alone does."""
    async with call.db.transaction() as tx:
        topic = await _lock_topic(call, tx)
        if topic["is_locked"] and not topic["viewer_owns_course"]:
            raise TopicLocked
        post_id = await forums.insert_post(tx, topic_id=topic["id"], user_id=call.user.id, content=call.body.content)
        _tell_post(call, "created", topic["course_id"], topic["id"], post_id)
        return await _get_post(call, tx, post_id)


@routes.get("/api/forums/posts/{post_id}", role=STUDENT, answer=Post, problems=(PostNotFound, NotEntitled), rate="read")
async def get_post(call: Call[None]) -> Record:
    """One post; it does not count as read by this."""
    return await _get_post(call, call.db, call.path.post_id)


@routes.put(
    "/api/forums/posts/{post_id}",
    role=STUDENT,
    body=PostText,
    answer=Post,
    problems=(PostNotFound, NotEntitled, Forbidden),
    rate="write",
)
async def update_post(call: Call[PostText]) -> Record:
    """Say a post of one's own otherwise; nobody edits another's."""
    async with call.db.transaction() as tx:
        post = await _lock_post(call, tx)
        if post["user_id"] != call.user.id:
            raise Forbidden
        await forums.update_post(tx, post_id=post["id"], content=call.body.content)
        _tell_post(call, "edited", post["course_id"], post["topic_id"], post["id"])
        return await _get_post(call, tx, post["id"])


@routes.delete(
    "/api/forums/posts/{post_id}",
    role=STUDENT,
    status=204,
    problems=(PostNotFound, NotEntitled, Forbidden),
    rate="write",
)
async def delete_post(call: Call[None]) -> None:
    """Delete a post of one's own, or any in a course of one's own: its place stays, its words do not."""
    async with call.db.transaction() as tx:
        post = await _lock_post(call, tx)
        if not (post["viewer_owns_course"] or post["user_id"] == call.user.id):
            raise Forbidden
        await _audit(call, tx, post, post["user_id"], "post_deleted", "forum_post")
        await forums.delete_post(tx, post_id=post["id"])
        _tell_post(call, "deleted", post["course_id"], post["topic_id"], post["id"])


@routes.put(
    "/api/forums/posts/{post_id}/solution",
    role=STUDENT,
    body=Solution,
    answer=Post,
    problems=(PostNotFound, NotEntitled, Forbidden),
    rate="write",
)
async def set_solution(call: Call[Solution]) -> Record:
    """Call a post the solution of a topic of one's own, or in a course of one's own; another no longer is it."""
    async with call.db.transaction() as tx:
        post = await _lock_post(call, tx)
        if not (post["viewer_owns_course"] or post["topic_creator_id"] == call.user.id):
            raise Forbidden
        if call.body.is_solution:
            await forums.unset_other_solution(tx, topic_id=post["topic_id"], post_id=post["id"])
        await forums.set_solution(tx, post_id=post["id"], is_solution=call.body.is_solution)
        _tell_post(call, "solution", post["course_id"], post["topic_id"], post["id"])
        return await _get_post(call, tx, post["id"])


# -- what several of them do -------------------------------------------------------------------------------------------


def _tell_topic(
    call: Call[Any], change: Literal["created", "changed", "deleted"], course_id: UUID, topic_id: UUID
) -> None:
    """Tell those who watch, when it is committed."""
    event = TopicEvent(change, course_id, topic_id, call.user.id)
    call.afterwards.append(partial(call.app[EVENTS].announce, event))


def _tell_post(
    call: Call[Any],
    change: Literal["created", "edited", "deleted", "solution"],
    course_id: UUID,
    topic_id: UUID,
    post_id: UUID,
) -> None:
    """Tell those who watch, when it is committed."""
    event = PostEvent(change, course_id, topic_id, post_id, call.user.id)
    call.afterwards.append(partial(call.app[EVENTS].announce, event))


def _check_position(topic: NewTopic) -> int | None:
    """The topic's place in its lecture, in milliseconds. Raises ValidationFailed."""
    if topic.position is None:
        return None
    fault = "needs a `lecture_id`"
    if topic.lecture_id is not None:
        try:
            return parse_position(topic.position)
        except NotAPosition as error:
            fault = str(error)
    raise ValidationFailed.at("/position", fault)


def _flags(changes: dict[str, Any]) -> dict[str, bool]:
    """What may stand in the audit's log: no words of a person's."""
    return {name: value for name, value in changes.items() if isinstance(value, bool)}


async def _audit(
    call: Call[Any], tx: Connection, row: Record, author_id: UUID, action: str, subject: str, **details: Any
) -> None:
    """Note what an administrator does to another's words in another's course."""
    if author_id != call.user.id:
        await audit_foreign(tx, call.user.id, row["course_creator_id"], action, subject, row["id"], **details)


async def _get_course(call: Call[Any], connection: Any, course_id: UUID) -> Record | None:
    """The course, None when the caller may not know of it. Raises NotEntitled."""
    course: Record | None = await forums.get_course(connection, course_id=course_id, **_viewer(call))
    if course is not None and not course["viewer_entitled"]:
        raise NotEntitled
    return course


async def _get_topic(call: Call[Any], connection: Any, topic_id: UUID) -> Record:
    """The topic as it is shown. Raises TopicNotFound, NotEntitled."""
    return _readable(await forums.get_topic(connection, topic_id=topic_id, **_viewer(call)), TopicNotFound)


async def _lock_topic(call: Call[Any], tx: Connection) -> Record:
    """The topic of the path, locked. Raises TopicNotFound, NotEntitled."""
    return _readable(await forums.lock_topic(tx, topic_id=call.path.topic_id, **_viewer(call)), TopicNotFound)


async def _get_post(call: Call[Any], connection: Any, post_id: UUID) -> Record:
    """The post as it is shown. Raises PostNotFound, NotEntitled."""
    return _readable(await forums.get_post(connection, post_id=post_id, **_viewer(call)), PostNotFound)


async def _lock_post(call: Call[Any], tx: Connection) -> Record:
    """The post of the path and its topic, locked. Raises PostNotFound (also for a deleted one), NotEntitled."""
    return _readable(await forums.lock_post(tx, post_id=call.path.post_id, **_viewer(call)), PostNotFound)


def _viewer(call: Call[Any]) -> dict[str, Any]:
    return {"viewer_id": call.user.id, "viewer_role": call.user.role}


def _readable(row: Record | None, missing: type[Problem]) -> Record:
    """What the caller may know of and read. Raises `missing`, NotEntitled."""
    if row is None:
        raise missing
    if not row["viewer_entitled"]:
        raise NotEntitled
    return row

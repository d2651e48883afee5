"""A video that can be watched, by SQL alone: for tests that need no encoder."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg
import orjson

LADDER = [
    {"rung": 0, "br": 300, "width": 426, "height": 240},
    {"rung": 1, "br": 800, "width": 640, "height": 360},
    {"rung": 2, "br": 1600, "width": 960, "height": 540},
    {"rung": 3, "br": 3200, "width": 1280, "height": 720},
]


@dataclass(frozen=True)
class Lecture:
    """A published free course's first lecture, and its video."""

    instructor_id: UUID
    course_id: UUID
    lecture_id: UUID
    video_id: UUID


async def make_lecture(dsn: str, *, duration_s: float = 600.0, status: str = "published") -> Lecture:
    """Insert an instructor, a course, a lecture and its ready video."""
    connection = await asyncpg.connect(dsn)
    try:
        row = await connection.fetchrow(
            """
            WITH u AS (INSERT INTO users (username, email, password_hash, role)
                       SELECT 'instructor-' || n, 'instructor-' || n || '@example.org', 'x', 'instructor'
                       FROM (SELECT count(*) AS n FROM users) AS c RETURNING id),
                 c AS (INSERT INTO courses (creator_id, title, status)
                       SELECT id, 'Live servers', $1 FROM u RETURNING id),
                 l AS (INSERT INTO lectures (course_id, title, sequence_order)
                       SELECT id, 'Folds', 1 FROM c RETURNING id),
                 v AS (INSERT INTO videos (lecture_id, upload_user_id, title, cloudflare_uid, status, duration_seconds,
                                           ladder, segment_s)
                       SELECT l.id, u.id, 'Folds', 'uid-' || l.id, 'ready', $2, $3::text::jsonb, 2 FROM l, u
                       RETURNING id)
            SELECT u.id, c.id, l.id, v.id FROM u, c, l, v
            """,
            status,
            duration_s,
            orjson.dumps(LADDER).decode(),
        )
    finally:
        await connection.close()
    return Lecture(*row)


async def make_learner(
    dsn: str, course_id: UUID | None = None, *, name: str = "learner", role: str = "student"
) -> UUID:
    """Insert a user, enrolled in the course if one is given."""
    connection = await asyncpg.connect(dsn)
    try:
        user_id: UUID = await connection.fetchval(
            "INSERT INTO users (username, email, password_hash, role) VALUES ($1, $1 || '@example.org', 'x', $2)"
            " RETURNING id",
            name,
            role,
        )
        if course_id is not None:
            await connection.execute(
                "INSERT INTO enrollments (user_id, course_id, source) VALUES ($1, $2, 'free')", user_id, course_id
            )
    finally:
        await connection.close()
    return user_id


def frame(seq: int, position: float, **members: Any) -> dict[str, Any]:
    """A telemetry frame of a playing lecture."""
    return {"type": "telemetry", "seq": seq, "position": position, **members}

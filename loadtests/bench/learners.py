"""Learners with sessions, by SQL: the bench measures frames, not registrations."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from uuid import UUID

import asyncpg
import orjson

from loadtests.bench.stage import SECRET
from server.data.migrate import migrate
from server.http.auth import Tokens

LADDER = [
    {"rung": 0, "br": 300, "width": 426, "height": 240},
    {"rung": 1, "br": 800, "width": 640, "height": 360},
    {"rung": 2, "br": 1600, "width": 960, "height": 540},
    {"rung": 3, "br": 3200, "width": 1280, "height": 720},
]
DURATION_S = 100_000.0

_MAKE = """
WITH u AS (INSERT INTO users (username, email, password_hash, role)
           SELECT 'bench-' || n, 'bench-' || n || '@example.org', 'x', 'student' FROM generate_series(1, $1::int) AS n
           RETURNING id),
     t AS (INSERT INTO users (username, email, password_hash, role)
           VALUES ('bench', 'bench@example.org', 'x', 'instructor') RETURNING id),
     c AS (INSERT INTO courses (creator_id, title, status, description)
           SELECT id, 'Live servers', 'published', 'What a live server is made of.' FROM t RETURNING id),
     l AS (INSERT INTO lectures (course_id, title, sequence_order) SELECT id, 'Folds', 1 FROM c RETURNING id),
     v AS (INSERT INTO videos (lecture_id, upload_user_id, title, cloudflare_uid, status, duration_seconds, ladder,
                               segment_s)
           SELECT l.id, t.id, 'Folds', 'uid', 'ready', $2, $3::text::jsonb, 4 FROM l, t RETURNING id, lecture_id),
     e AS (INSERT INTO enrollments (user_id, course_id, source) SELECT u.id, c.id, 'free' FROM u, c),
     s AS (INSERT INTO video_sessions (video_id, user_id, lecture_id, ladder, segment_s)
           SELECT v.id, u.id, v.lecture_id, $3::text::jsonb, 4 FROM u, v RETURNING id, user_id)
SELECT s.id, s.user_id, c.id AS course_id FROM s, c
"""


@dataclass(frozen=True)
class Sessions:
    """Sessions of one learner each, and targets for the load generator."""

    course_id: UUID
    ids: list[UUID]
    user_ids: list[UUID]
    targets: list[str]

    def access_token(self) -> str:
        """Of the first learner."""
        return Tokens(SECRET, access_ttl_s=86_400).issue_access(self.user_ids[0], "student", 1)[0]


def make_sessions(dsn: str, count: int) -> Sessions:
    """Insert `count` learners who are enrolled in one course, each with a session of its one lecture."""
    return asyncio.run(_make(dsn, count))


async def _make(dsn: str, count: int) -> Sessions:
    await migrate(dsn)
    connection = await asyncpg.connect(dsn)
    try:
        rows = await connection.fetch(_MAKE, count, DURATION_S, orjson.dumps(LADDER).decode())
        await connection.execute("ANALYZE")
    finally:
        await connection.close()
    tokens = Tokens(SECRET)
    targets = []
    for row in rows:
        token, _ = tokens.issue_session(row["user_id"], row["id"], 1)
        targets.append(f"/api/videos/ws/{row['id']} {token}")
    return Sessions(rows[0]["course_id"], [r["id"] for r in rows], [r["user_id"] for r in rows], targets)

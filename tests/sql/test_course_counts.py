"""A course's counts are kept, not counted: whoever changes what at once, they are what counting would give."""

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

Sql = Any
DIFFERENCES = """
    SELECT s.id, s.lecture_count, s.enrolled_count, s.duration, counted.*
    FROM shown_courses AS s CROSS JOIN LATERAL (
        SELECT
            (SELECT count(*) FROM lectures WHERE course_id = s.id) AS lectures,
            (SELECT count(*) FROM enrollments
             WHERE course_id = s.id AND is_active AND (expires_at IS NULL OR expires_at > now())) AS enrolled,
            (SELECT coalesce(round(sum(coalesce(nullif(l.duration, 0) * 1000, (
                SELECT nullif(round(v.duration_seconds * 1000), 0) FROM videos AS v
                WHERE v.lecture_id = l.id AND v.duration_seconds IS NOT NULL
                ORDER BY (v.status = 'ready') DESC, v.id DESC LIMIT 1))) / 1000.0), 0)
             FROM lectures AS l WHERE l.course_id = s.id) AS length_s
    ) AS counted
    WHERE (s.lecture_count, s.enrolled_count, s.duration) IS DISTINCT FROM (lectures, enrolled, length_s::integer)
"""
# Each changes some rows, chosen anew by every call.
CHANGES = [
    "INSERT INTO lectures (course_id, title, sequence_order, duration)"
    " SELECT id, 'L', 1 + (random() * 1000000000)::integer, CASE WHEN random() < 0.5 THEN (random() * 100)::integer END"
    " FROM courses",
    "DELETE FROM lectures WHERE id = (SELECT a_lecture())",
    "UPDATE lectures SET duration = nullif((random() * 3)::integer, 0) WHERE id = (SELECT a_lecture())",
    "UPDATE lectures SET title = 'M', end_ms = 7 WHERE id = (SELECT a_lecture())",
    "INSERT INTO videos (lecture_id, upload_user_id, title, duration_seconds)"
    " SELECT l.id, u.id, 'V', random() * 100 FROM users AS u, (SELECT id FROM lectures ORDER BY random() LIMIT 3) AS l"
    " LIMIT 3",
    "UPDATE videos SET status = 'ready' WHERE id = (SELECT a_video())",
    "UPDATE videos SET duration_seconds = CASE WHEN random() < 0.7 THEN random() * 50 END"
    " WHERE id = (SELECT a_video())",
    "DELETE FROM videos WHERE id = (SELECT a_video())",
    "INSERT INTO enrollments (user_id, course_id, source) SELECT u.id, c.id, 'free' FROM users AS u, courses AS c"
    " WHERE random() < 0.2 ON CONFLICT (user_id, course_id) DO UPDATE SET is_active = true, expires_at = NULL",
    "UPDATE enrollments SET is_active = false WHERE random() < 0.2",
    "UPDATE enrollments SET expires_at = now() + CASE WHEN random() < 0.5 THEN -1 ELSE 1 END * interval '1 day'"
    " WHERE random() < 0.2",
    "DELETE FROM enrollments WHERE random() < 0.1",
]


@pytest.fixture
async def connections(postgres_dsn: str) -> AsyncIterator[list[Sql]]:
    """Four connections to a database with three courses and some users."""
    opened = [await asyncpg.connect(postgres_dsn) for _ in range(4)]
    await opened[0].execute("""
        CREATE FUNCTION a_lecture() RETURNS uuid LANGUAGE sql AS 'SELECT id FROM lectures ORDER BY random() LIMIT 1';
        CREATE FUNCTION a_video() RETURNS uuid LANGUAGE sql AS 'SELECT id FROM videos ORDER BY random() LIMIT 1';
        INSERT INTO users (username, email, password_hash)
            SELECT 'u' || n, n || '@example.com', '' FROM generate_series(1, 5) AS n;
        INSERT INTO courses (creator_id, title) SELECT id, 'C' FROM users LIMIT 3;
    """)
    yield opened
    for connection in opened:
        await connection.close()


async def change_at_random(connection: Sql, chance: random.Random, times: int) -> int:
    """Many changes, some taken back: on purpose, or for a deadlock or a lecture that is gone. How many stayed."""
    stayed = 0
    for _ in range(times):
        try:
            async with connection.transaction():
                for change in chance.sample(CHANGES, chance.choice((1, 1, 1, 2))):
                    await connection.execute(change)
                if chance.random() < 0.2:
                    raise LookupError
            stayed += 1
        except (LookupError, asyncpg.DeadlockDetectedError, asyncpg.IntegrityConstraintViolationError):
            pass
    return stayed


async def test_counts_are_what_counting_gives_after_changes_at_once(connections: list[Sql]) -> None:
    for connection in connections:
        await connection.execute("SET deadlock_timeout = '20ms'")
    chances = [random.Random(seed) for seed in range(len(connections))]
    stayed = await asyncio.gather(
        *(change_at_random(connection, chance, 60) for connection, chance in zip(connections, chances, strict=True))
    )
    assert sum(stayed) > 100
    rows = await connections[0].fetch("SELECT lecture_count, enrolled_count, duration FROM shown_courses")
    assert any(row["lecture_count"] and row["duration"] for row in rows)
    assert await connections[0].fetch(DIFFERENCES) == []


async def test_counts_go_with_their_course(connections: list[Sql]) -> None:
    sql = connections[0]
    for change in (CHANGES[0], CHANGES[4]):
        await sql.execute(change)
    await sql.execute("DELETE FROM courses")
    assert await sql.fetchval("SELECT count(*) FROM course_counts") == 0


async def test_who_enrols_neither_changes_nor_locks_the_course(connections: list[Sql]) -> None:
    sql, other = connections[:2]
    before = await sql.fetch("SELECT id, updated_at FROM courses ORDER BY id")
    async with other.transaction():
        await other.execute("SELECT 1 FROM courses FOR NO KEY UPDATE")
        await sql.execute(
            "INSERT INTO enrollments (user_id, course_id, source)"
            " SELECT u.id, c.id, 'free' FROM users AS u, courses AS c",
            timeout=60,
        )
    assert await sql.fetch("SELECT id, updated_at FROM courses ORDER BY id") == before

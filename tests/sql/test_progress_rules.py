"""The database's own rules of progress: any number of writers, in batches, lose nothing."""

from typing import Any
from uuid import UUID

import asyncpg
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from server.data.db import queries

Sql = Any
RECORD = "SELECT * FROM record_progress($1, $2, $3::text[]::int4multirange[], $4, $5, 0.9)"


@pytest.fixture
async def sql(sql: Sql) -> Sql:
    """With one user, one course and two lectures: 100 s, and of unknown length."""
    await sql.execute("""
        INSERT INTO users (username, email, password_hash) VALUES ('ada', 'ada@example.com', '');
        INSERT INTO courses (creator_id, title, status) SELECT id, 'C', 'published' FROM users;
        INSERT INTO lectures (course_id, title, duration, sequence_order)
            SELECT id, 'A', 100, 1 FROM courses UNION ALL SELECT id, 'B', NULL, 2 FROM courses;
    """)
    return sql


async def ids(sql: Sql) -> tuple[UUID, UUID, UUID]:
    """The user and the two lectures."""
    rows = await sql.fetch("SELECT id FROM lectures ORDER BY sequence_order")
    return await sql.fetchval("SELECT id FROM users"), rows[0]["id"], rows[1]["id"]


def pairs(ranges: list[Any]) -> list[tuple[int, int]]:
    """A multirange as plain pairs."""
    return [(r.lower, r.upper) for r in ranges]


async def test_entries_of_one_lecture_in_one_batch_are_folded(sql: Sql) -> None:
    user, first, second = await ids(sql)
    rows = await sql.fetch(
        RECORD,
        [user] * 4,
        [first, second, first, first],
        ["{[0,10)}", "{}", "{[5,20)}", None],
        [10, None, 20, None],
        [False, True, False, None],
    )
    kept = {row["lecture_id"]: row for row in rows}
    assert len(rows) == 2
    assert (pairs(kept[first]["watched_ranges"]), kept[first]["position_ms"]) == ([(0, 20)], 20)
    assert (kept[first]["completed"], kept[second]["completed"]) == (False, True)


async def test_a_batch_that_is_sent_again_adds_nothing(sql: Sql) -> None:
    user, first, _ = await ids(sql)
    batch = ([user], [first], ["{[0,95000)}"], [95_000], [False])
    one = await sql.fetchrow(RECORD, *batch)
    two = await sql.fetchrow(RECORD, *batch)
    for name in ("watched_ranges", "position_ms", "completed", "completed_at"):
        assert one[name] == two[name]
    assert one["completed"]


@hypothesis_settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(st.lists(st.lists(st.tuples(st.integers(0, 130), st.integers(0, 40)), max_size=4), max_size=5))
async def test_what_is_kept_is_the_union_whatever_comes_when(sql: Sql, writes: list[list[tuple[int, int]]]) -> None:
    user, first, _ = await ids(sql)
    await sql.execute("DELETE FROM progress")
    seen: set[int] = set()
    was_complete = False
    for write in writes:
        ranges = ",".join(f"[{start * 1000},{(start + length) * 1000})" for start, length in write)
        row = await sql.fetchrow(RECORD, [user], [first], [f"{{{ranges}}}"], [None], [False])
        seen |= {second for start, length in write for second in range(start, min(start + length, 100))}
        assert {s for a, b in pairs(row["watched_ranges"]) for s in range(a // 1000, b // 1000)} == seen
        was_complete = was_complete or len(seen) >= 90
        assert row["completed"] == was_complete


async def test_no_more_than_two_thousand_ranges_are_kept_apart_and_none_is_lost(sql: Sql) -> None:
    """Those with the least between them grow together."""
    user, _, second = await ids(sql)

    async def record(starts: range) -> tuple[int, bool]:
        """How many are kept now, and whether what was recorded is among it."""
        ranges = "{" + ",".join(f"[{start},{start + 1})" for start in starts) + "}"
        row = await sql.fetchrow(RECORD, [user], [second], [ranges], [None], [False])
        covers = "SELECT watched_ranges @> $1::text::int4multirange FROM progress"
        return len(row["watched_ranges"]), await sql.fetchval(covers, ranges)

    sent = [range(0, 10_000, 10), range(1_000_000, 1_003_000, 3), range(2_000_000, 2_010_000, 10)]
    assert [await record(starts) for starts in sent] == [(1000, True), (2000, True), (2000, True)]
    before = await sql.fetchval("SELECT watched_ranges FROM progress")
    assert pairs(before)[:2] == [(0, 1), (10, 11)], "what lies far apart stays so"
    assert pairs(before)[1000] == (1_000_000, 1_002_998)
    assert [await record(starts) for starts in sent] == [(2000, True)] * 3
    assert await sql.fetchval("SELECT watched_ranges FROM progress") == before


async def test_where_a_learner_goes_on_wraps_around_to_what_was_left_out(sql: Sql) -> None:
    user, first, second = await ids(sql)
    course = await sql.fetchval("SELECT id FROM courses")

    async def resume() -> Any:
        return await sql.fetchrow("SELECT * FROM resume_point($1, $2)", user, course)

    assert await resume() is None
    await sql.fetch(RECORD, [user], [second], ["{}"], [7], [True])
    place = await resume()
    assert (place["lecture_id"], place["position_ms"]) == (first, 0)
    await sql.fetch(RECORD, [user], [first], ["{}"], [7], [True])
    assert await resume() is None


async def test_who_began_first_and_writes_last_does_not_set_the_time_back(postgres_dsn: str, sql: Sql) -> None:
    user, first, _ = await ids(sql)
    slow = await asyncpg.connect(postgres_dsn)
    async with slow.transaction():
        await slow.fetchval("SELECT now()")
        (before,) = await sql.fetch(RECORD, [user], [first], ["{[0,10)}"], [10], [False])
        (after,) = await slow.fetch(RECORD, [user], [first], ["{[10,20)}"], [20], [False])
    await slow.close()
    assert after["updated_at"] == before["updated_at"] >= after["created_at"]
    assert pairs(after["watched_ranges"]) == [(0, 20)]


async def test_only_all_of_a_course_s_lectures_are_100_percent(sql: Sql) -> None:
    """Of 2,000 the last one is less than half a tenth of a percent."""
    await sql.execute("""
        INSERT INTO lectures (course_id, title, sequence_order)
            SELECT c.id, 'L', n FROM courses AS c, generate_series(3, 2000) AS n;
        INSERT INTO progress (user_id, lecture_id, completed)
            SELECT u.id, l.id, l.sequence_order > 1 FROM users AS u, lectures AS l;
    """)
    how_far = "SELECT percent, completed FROM users AS u, courses AS c, course_progress(u.id, c.id)"
    assert tuple(await sql.fetchrow(how_far)) == (99.9, False)
    await sql.execute("UPDATE progress SET completed = true")
    assert tuple(await sql.fetchrow(how_far)) == (100.0, True)


async def test_a_page_of_learners_looks_at_no_others(sql: Sql) -> None:
    """Of a course with very many learners each page would take as long as all of them, and be given up in the end."""
    await sql.execute("""
        INSERT INTO users (username, email, password_hash)
            SELECT 'u' || n, n || '@x.io', '' FROM generate_series(1, 9) AS n;
        INSERT INTO enrollments (user_id, course_id, source) SELECT u.id, c.id, 'free' FROM users AS u, courses AS c;
    """)
    page = queries("progress").statements["list_learners"]
    async with sql.transaction():
        await sql.execute("SET LOCAL track_functions = 'all'")
        given = {"course_id": await sql.fetchval("SELECT id FROM courses"), "page_size": 3}
        learners = await sql.fetch(page.sql, *(given.get(name) for name in page.parameters))
        asked = await sql.fetchval("SELECT calls FROM pg_stat_xact_user_functions WHERE funcname = 'course_progress'")
    assert (len(learners), asked) == (3, 3)

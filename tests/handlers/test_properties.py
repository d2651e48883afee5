"""What holds whatever is done, in whatever order and however much at once."""

import asyncio
import random
from itertools import pairwise
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.support.people import People, Person

Sql = Any
PROPERTY = hypothesis_settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
SORTS = ("newest", "title", "popular", "price", "price_desc", "relevance")


@pytest.fixture
async def teacher(people: People) -> Person:
    """An instructor."""
    return await people.join("teacher", "instructor")


# -- pages -------------------------------------------------------------------------------------------------------------

# Few values, so that many rows are alike in all but their ids.
COURSES = st.lists(
    st.tuples(
        st.sampled_from(["a", "A", "á", "b", "ﷺ" * 60, "\x01" * 60]), st.sampled_from([0, 5, 7]), st.integers(0, 2)
    ),
    max_size=8,
)


async def add_courses(sql: Sql, creator: UUID, made: list[tuple[str, int, int]]) -> list[str]:
    """Published courses that are found by the word `sorted`, with so many learners; their ids."""
    ids = []
    for title, price, learners in made:
        course = await sql.fetchval(
            "INSERT INTO courses (creator_id, title, description, price, status)"
            " VALUES ($1, $2, repeat('sorted ', $3), $4, 'published') RETURNING id",
            creator,
            title,
            1 + learners,
            price,
        )
        await sql.execute(
            "INSERT INTO enrollments (user_id, course_id, source)"
            " SELECT id, $1, 'free' FROM users WHERE username LIKE 'learner-%' ORDER BY id LIMIT $2",
            course,
            learners,
        )
        ids.append(str(course))
    return ids


@pytest.mark.parametrize("sort", SORTS)
@PROPERTY
@given(first=COURSES, meanwhile=st.lists(COURSES, max_size=4), limit=st.integers(1, 4))
async def test_pages_of_courses_neither_skip_nor_repeat_while_courses_come(
    people: People, sql: Sql, sort: str, first: list[Any], meanwhile: list[list[Any]], limit: int
) -> None:
    await sql.execute(
        "INSERT INTO users (username, email, password_hash)"
        " SELECT 'learner-' || n, n || '@example.com', '' FROM generate_series(1, 2) AS n ON CONFLICT DO NOTHING"
    )
    creator = await sql.fetchval(
        "INSERT INTO users (username, email, password_hash) VALUES ($1, $1, '') RETURNING id", uuid4().hex
    )
    there, coming = await add_courses(sql, creator, first), list(meanwhile)
    seen: list[str] = []
    path = f"/api/courses?creator_id={creator}&q=sorted&sort={sort}&limit={limit}"
    while path:
        answer = await people.stranger.get(path)
        assert answer.status == 200, answer.body
        assert len(answer.body["items"]) <= limit
        seen += [course["id"] for course in answer.body["items"]]
        path = answer.body["next"]
        if coming:
            await add_courses(sql, creator, coming.pop())
    assert len(seen) == len(set(seen))
    assert [course for course in seen if course in there] == sorted(there, key=seen.index)
    whole = await people.stranger.get(f"/api/courses?creator_id={creator}&q=sorted&sort={sort}&limit=100")
    order = [course["id"] for course in whole.body["items"]]
    assert seen == [course for course in order if course in seen]


@PROPERTY
@given(first=st.integers(0, 7), meanwhile=st.lists(st.integers(0, 2), max_size=4), limit=st.integers(1, 3))
async def test_pages_of_enrolments_neither_skip_nor_repeat_while_learners_come(
    teacher: Person, sql: Sql, first: int, meanwhile: list[int], limit: int
) -> None:
    course = await teacher.make("/api/courses", {"title": "Queues", "status": "published"})

    async def enrol(count: int) -> list[str]:
        rows = await sql.fetch(
            "WITH u AS (INSERT INTO users (username, email, password_hash)"
            "           SELECT md5(random()::text), md5(random()::text), '' FROM generate_series(1, $2) RETURNING id)"
            " INSERT INTO enrollments (user_id, course_id, source) SELECT id, $1, 'free' FROM u RETURNING user_id",
            course["id"],
            count,
        )
        return [str(row["user_id"]) for row in rows]

    for view, coming in (("enrollments", list(meanwhile)), ("progress", list(meanwhile))):
        there = {*await enrol(first)}
        seen: list[str] = []
        path = f"/api/{view}/courses/{course['id']}?limit={limit}" + ("&view=learners" if view == "progress" else "")
        while path:
            answer = (await teacher.get(path)).body
            seen += [row["user_id"] for row in answer["items"]]
            path = answer["next"]
            if coming:
                await enrol(coming.pop())
        assert len(seen) == len(set(seen))
        assert there <= set(seen)


# -- what was watched --------------------------------------------------------------------------------------------------

LENGTH_MS = 5000
MOMENT = st.integers(0, LENGTH_MS + 1500)
WRITES = st.lists(st.lists(st.tuples(MOMENT, MOMENT).map(sorted), max_size=3), min_size=1, max_size=6)


@PROPERTY
@given(writes=WRITES)
async def test_what_was_watched_is_what_counting_milliseconds_one_by_one_gives(
    teacher: Person, writes: list[list[list[int]]]
) -> None:
    course = await teacher.make("/api/courses", {"title": "Queues"})
    lecture = await teacher.make(f"/api/courses/{course['id']}/lectures", {"title": "A", "duration": LENGTH_MS // 1000})
    seen: set[int] = set()
    was_complete = False
    for write in writes:
        body = {"watched_ranges": [[start / 1000, end / 1000] for start, end in write]}
        row = (await teacher.put(f"/api/progress/lectures/{lecture['id']}", body)).body
        seen |= {ms for start, end in write for ms in range(start, min(end, LENGTH_MS))}
        told = [range(round(start * 1000), round(end * 1000)) for start, end in row["watched_ranges"]]
        assert sum(map(len, told)) == len(seen)
        assert {ms for piece in told for ms in piece} == seen
        assert all(before.stop < after.start for before, after in pairwise(told))
        assert row["watched_duration"] == len(seen) // 1000
        was_complete = was_complete or len(seen) >= 0.9 * LENGTH_MS
        assert row["completed"] is was_complete
    progress = (await teacher.get(f"/api/progress/courses/{course['id']}")).body
    assert progress["percent"] == (100.0 if was_complete else 0.0)


# -- order -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_is_done_to_lectures_at_once_each_has_a_place_of_its_own(teacher: Person, seed: int) -> None:
    chance = random.Random(seed)
    course = await teacher.make("/api/courses", {"title": "Queues"})
    path = f"/api/courses/{course['id']}/lectures"
    ids = [(await teacher.make(path, {"title": str(n)}))["id"] for n in range(8)]
    doomed = ids[:3]

    def change() -> Any:
        kind = chance.choice(("append", "insert", "move", "order"))
        if kind == "append":
            return teacher.post(path, {"title": "new"})
        if kind == "insert":
            return teacher.post(path, {"title": "new", "sequence_order": chance.randint(1, 9)})
        if kind == "move":
            return teacher.put(f"/api/lectures/{chance.choice(ids[3:])}", {"sequence_order": chance.randint(1, 9)})
        return teacher.put(f"{path}/order", {"lecture_ids": chance.sample(ids, len(ids))})

    changes = [change() for _ in range(30)] + [teacher.delete(f"/api/lectures/{lecture}") for lecture in doomed]
    chance.shuffle(changes)
    answers = await asyncio.gather(*changes)
    # An order that names one who is gone, or leaves one out who has come, is refused as a whole.
    assert {answer.status for answer in answers} <= {200, 201, 204, 422}
    made = {answer.body["id"] for answer in answers if answer.status == 201}
    listed = (await teacher.get(f"{path}?limit=100")).body["items"]
    places = [lecture["sequence_order"] for lecture in listed]
    assert places == sorted(set(places))
    assert {lecture["id"] for lecture in listed} == {*ids[3:], *made}
    whole = await teacher.put(f"{path}/order", {"lecture_ids": [lecture["id"] for lecture in listed][::-1]})
    assert whole.status == 200
    again = (await teacher.get(f"{path}?limit=100")).body["items"]
    assert [lecture["sequence_order"] for lecture in again] == list(range(1, len(listed) + 1))


async def test_orders_wished_at_once_leave_one_of_them(
    teacher: Person, sql: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    course = await teacher.make("/api/courses", {"title": "Queues"})
    path = f"/api/courses/{course['id']}/lectures"
    ids = [(await teacher.make(path, {"title": str(n)}))["id"] for n in range(6)]
    wishes = [random.Random(n).sample(ids, len(ids)) for n in range(12)]
    answers = await asyncio.gather(*(teacher.put(f"{path}/order", {"lecture_ids": wish}) for wish in wishes))
    assert {answer.status for answer in answers} == {200}
    listed = [lecture["id"] for lecture in (await teacher.get(path)).body["items"]]
    assert listed in wishes

"""What was watched never shrinks, completions never un-happen, and who may be enrolled."""

import asyncio
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
import pytest_asyncio

from server.data.db import queries
from tests.support.pausing import losing_connections
from tests.support.people import People, Person
from tests.support.standing import *  # noqa: F403  fixtures
from tests.support.standing import STANDING
from tests.support.waiting import blocked

pytestmark = STANDING


@pytest_asyncio.fixture(loop_scope="module")
async def teacher(people: People) -> Person:
    """An instructor."""
    return await people.join("teacher", "instructor")


@pytest_asyncio.fixture(loop_scope="module")
async def course(teacher: Person) -> Any:
    """A free, published course."""
    return await teacher.make("/api/courses", {"title": "Queues", "status": "published"})


@pytest_asyncio.fixture(loop_scope="module")
async def lectures(teacher: Person, course: Any) -> list[Any]:
    """Two lectures of 100 s and one of unknown length."""
    path = f"/api/courses/{course['id']}/lectures"
    members: list[dict[str, Any]] = [{"title": "A", "duration": 100}, {"title": "B", "duration": 100}, {"title": "C"}]
    return [await teacher.make(path, m) for m in members]


@pytest_asyncio.fixture(loop_scope="module")
async def student(people: People, course: Any) -> Person:
    """A student who is enrolled in the course."""
    student = await people.join("student")
    await student.make("/api/enrollments", {"course_id": course["id"]})
    return student


async def watch(person: Person, lecture: Any, **change: Any) -> Any:
    """PUT progress; the row."""
    answer = await person.put(f"/api/progress/lectures/{lecture['id']}", change)
    assert answer.status == 200, answer.body
    return answer.body


# -- progress ----------------------------------------------------------------------------------------------------------


async def test_ranges_are_united_and_counted_once(student: Person, lectures: list[Any]) -> None:
    row = await watch(student, lectures[0], watched_ranges=[[0, 10], [5, 20.5]], position=20.5)
    assert set(row) == {
        "user_id", "lecture_id", "watched_duration", "watched_ranges", "position", "completed", "completed_at",
        "last_watched_at", "created_at", "updated_at",
    }  # fmt: skip
    assert (row["watched_ranges"], row["watched_duration"], row["position"]) == ([[0.0, 20.5]], 20, 20.5)
    row = await watch(student, lectures[0], watched_ranges=[[30, 30], [60, 61.25]])
    assert (row["watched_ranges"], row["watched_duration"]) == ([[0.0, 20.5], [60.0, 61.25]], 21)
    assert row["position"] == 20.5
    assert (row["completed"], row["completed_at"]) == (False, None)
    assert (await watch(student, lectures[0]))["watched_duration"] == 21


async def test_what_lies_past_the_end_is_cut_there(student: Person, lectures: list[Any]) -> None:
    row = await watch(student, lectures[0], watched_ranges=[[80, 1000], [500, 1e15]], position=101)
    assert (row["watched_ranges"], row["position"]) == ([[80.0, 100.0]], 100.0)


async def test_nine_tenths_complete_a_lecture_and_it_stays_so(student: Person, lectures: list[Any]) -> None:
    row = await watch(student, lectures[0], watched_ranges=[[0, 89.999]])
    assert row["completed"] is False
    row = await watch(student, lectures[0], watched_ranges=[[89.999, 90]])
    assert row["completed"] is True
    again = await watch(student, lectures[0], completed=False, position=0)
    assert (again["completed"], again["completed_at"]) == (True, row["completed_at"])


async def test_a_lecture_is_completed_by_hand(student: Person, lectures: list[Any]) -> None:
    row = await watch(student, lectures[2], completed=True)
    assert (row["completed"], row["watched_duration"]) == (True, 0)
    assert row["completed_at"] is not None


async def test_without_a_known_end_nothing_is_cut_and_nothing_completes(student: Person, lectures: list[Any]) -> None:
    row = await watch(student, lectures[2], watched_ranges=[[0, 100_000]])
    assert (row["watched_duration"], row["completed"]) == (100_000, False)
    row = await watch(student, lectures[2], watched_ranges=[[999_990, 1_000_000]], position=1_000_000)
    assert (row["watched_ranges"][-1], row["position"]) == ([999_990, 1_000_000], 1_000_000)


async def test_without_a_known_end_what_is_later_than_can_be_kept_is_refused_not_cut(
    student: Person, lectures: list[Any]
) -> None:
    change = {"watched_ranges": [[0, 5], [999_990, 1_000_000.001], [1e15, 1e15]], "position": 1_000_020}
    refused = await student.put(f"/api/progress/lectures/{lectures[2]['id']}", change)
    assert (refused.status, refused.pointers) == (422, ["/watched_ranges/1", "/watched_ranges/2", "/position"])
    assert (await student.get("/api/progress/users/me")).body["items"] == []


async def test_the_video_s_length_is_the_end_where_the_lecture_has_none(
    student: Person, teacher: Person, lectures: list[Any], sql: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await sql.execute(
        "INSERT INTO videos (lecture_id, upload_user_id, title, duration_seconds) VALUES ($1, $2, 'V', 50.5)",
        lectures[2]["id"],
        teacher.id,
    )
    row = await watch(student, lectures[2], watched_ranges=[[0, 60]])
    assert (row["watched_ranges"], row["completed"]) == ([[0.0, 50.5]], True)


@pytest.mark.parametrize("is_first", [True, False])
async def test_a_write_without_a_position_keeps_that_of_a_device_that_writes_at_once(
    student: Person, lectures: list[Any], sql: "asyncpg.Connection[asyncpg.Record]", is_first: bool
) -> None:
    if not is_first:
        await watch(student, lectures[0], position=1)
    async with sql.transaction():
        await sql.execute(
            "INSERT INTO progress (user_id, lecture_id, position_ms) VALUES ($1, $2, 60000)"
            " ON CONFLICT (user_id, lecture_id) DO UPDATE SET position_ms = EXCLUDED.position_ms",
            student.id, lectures[0]["id"],
        )  # fmt: skip
        other = asyncio.ensure_future(watch(student, lectures[0], watched_ranges=[[0, 10]]))
        await blocked(sql)
    row = await other
    assert (row["position"], row["watched_ranges"]) == (60.0, [[0.0, 10.0]])


@pytest.mark.parametrize("is_first", [True, False])
async def test_a_lecture_that_is_deleted_while_one_writes_is_not_there(
    student: Person, lectures: list[Any], sql: "asyncpg.Connection[asyncpg.Record]", is_first: bool
) -> None:
    if not is_first:
        await watch(student, lectures[0], position=1)
    async with sql.transaction():
        await sql.execute("DELETE FROM lectures WHERE id = $1", lectures[0]["id"])
        path = f"/api/progress/lectures/{lectures[0]['id']}"
        written = asyncio.ensure_future(student.put(path, {"watched_ranges": [[0, 10]]}))
        await blocked(sql)
    answer = await written
    assert (answer.status, answer.code) == (404, "lecture_not_found")


async def test_devices_that_write_at_once_lose_nothing(student: Person, lectures: list[Any]) -> None:
    await asyncio.gather(*(watch(student, lectures[2], watched_ranges=[[n, n + 1]]) for n in range(40)))
    assert (await watch(student, lectures[2]))["watched_ranges"] == [[0.0, 40.0]]


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"watched_ranges": [[0, 5], [5, 4]]}, "/watched_ranges/1"),
        ({"watched_ranges": [[-1, 4]]}, "/watched_ranges/0"),
        ({"watched_ranges": [[0, 1.0005]]}, "/watched_ranges/0"),
        ({"watched_ranges": [[0, 1, 2]]}, "/watched_ranges/0"),
        ({"watched_ranges": [["0", 1]]}, "/watched_ranges/0/0"),
        ({"watched_ranges": [[0, True]]}, "/watched_ranges/0/1"),
        ({"watched_ranges": "all"}, "/watched_ranges"),
        ({"watched_ranges": [[0, 1]] * 1001}, "/watched_ranges"),
        ({"position": -0.001}, "/position"),
        ({"position": "5"}, "/position"),
        ({"position": None}, "/position"),
        ({"completed": 1}, "/completed"),
        ({"watched_duration": 5}, "/watched_duration"),
    ],
)
async def test_what_is_no_progress_is_pointed_at(
    student: Person, lectures: list[Any], change: dict[str, Any], pointer: str
) -> None:
    answer = await student.put(f"/api/progress/lectures/{lectures[0]['id']}", change)
    assert (answer.status, answer.pointers) == (422, [pointer])


async def test_who_is_not_entitled_records_nothing_but_a_preview(
    teacher: Person, people: People, course: Any, lectures: list[Any]
) -> None:
    passer_by = await people.join("passer-by")
    paths = [f"/api/progress/lectures/{lecture['id']}" for lecture in lectures]
    assert (await people.stranger.put(paths[0], {})).status == 401
    refused = await passer_by.put(paths[0], {"position": 1})
    assert (refused.status, refused.code) == (403, "not_entitled")
    await teacher.put(f"/api/lectures/{lectures[1]['id']}", {"is_preview": True})
    assert (await passer_by.put(paths[1], {"position": 1})).status == 200
    await teacher.put(f"/api/courses/{course['id']}", {"status": "draft"})
    for path in (paths[1], f"/api/progress/lectures/{uuid4()}"):
        assert (await passer_by.put(path, {"position": 1})).code == "lecture_not_found"


async def test_a_course_s_progress_is_counted_in_lectures(
    student: Person, course: Any, lectures: list[Any], teacher: Person
) -> None:
    path = f"/api/progress/courses/{course['id']}"
    nothing = (await student.get(path)).body
    assert nothing == {
        "course_id": course["id"], "lectures_total": 3, "lectures_completed": 0, "percent": 0.0, "completed": False,
        "resume": None, "items": [],
    }  # fmt: skip
    await watch(student, lectures[1], position=7.5)
    row = await watch(student, lectures[0], completed=True)
    some = (await student.get(path)).body
    assert (some["lectures_completed"], some["percent"], some["completed"]) == (1, 33.3, False)
    assert some["resume"] == {"lecture_id": lectures[1]["id"], "position": 7.5}
    assert some["items"][0] == row
    assert [item["lecture_id"] for item in some["items"]] == [lectures[0]["id"], lectures[1]["id"]]
    for lecture in lectures:
        await watch(student, lecture, completed=True)
    all_of_it = (await student.get(path)).body
    assert (all_of_it["percent"], all_of_it["completed"], all_of_it["resume"]) == (100.0, True, None)
    with losing_connections() as asked:
        assert (await student.get(path)).body == all_of_it
    assert {queries("progress").get_course_progress.sql, queries("progress").list_course_progress.sql} <= asked
    empty = await teacher.make("/api/courses", {"title": "Empty", "status": "published"})
    none = (await student.get(f"/api/progress/courses/{empty['id']}")).body
    assert (none["lectures_total"], none["percent"], none["completed"]) == (0, 0.0, False)


async def test_how_far_others_are_only_the_owner_sees(
    student: Person, teacher: Person, people: People, course: Any, lectures: list[Any]
) -> None:
    await watch(student, lectures[0], completed=True)
    path = f"/api/progress/courses/{course['id']}"
    other = await people.join("other")
    for query in (f"user_id={student.id}", "view=learners"):
        assert (await other.get(f"{path}?{query}")).status == 403
    assert (await teacher.get(f"{path}?user_id={student.id}")).body["lectures_completed"] == 1
    learners = (await teacher.get(f"{path}?view=learners")).body
    assert [(item["user_id"], item["percent"]) for item in learners["items"]] == [(student.id, 33.3)]
    assert learners["next"] is None
    for who in (student.id, "me"):
        assert (await student.get(f"{path}?user_id={who}")).body["lectures_completed"] == 1
    nobody = await student.get(f"{path}?user_id=nobody")
    assert (nobody.status, nobody.pointers) == (422, ["/user_id"])
    assert (await student.get(f"/api/progress/courses/{uuid4()}")).status == 404


async def test_learners_come_in_pages_and_how_far_one_is_comes_whole(
    teacher: Person, people: People, course: Any, lectures: list[Any]
) -> None:
    learners = [await people.join(name) for name in ("ada", "ben")]
    for learner in learners:
        await learner.make("/api/enrollments", {"course_id": course["id"]})
    for lecture in lectures:
        await watch(teacher, lecture, position=1)
    path = f"/api/progress/courses/{course['id']}"
    first = (await teacher.get(f"{path}?view=learners&limit=1")).body
    second = (await teacher.get(first["next"])).body
    assert [item["username"] for item in first["items"] + second["items"]] == [who.name for who in reversed(learners)]
    assert len((await teacher.get(f"{path}?limit=1")).body["items"]) == 3
    for query in ("cursor=x", "view=learners&cursor=x", f"cursor={first['next_cursor']}"):
        refused = await teacher.get(f"{path}?{query}")
        assert (refused.status, refused.code) == (400, "bad_cursor"), query


async def test_an_owner_asks_about_learners_of_the_course_and_an_administrator_about_everybody(
    student: Person, teacher: Person, people: People, course: Any, lectures: list[Any]
) -> None:
    await watch(student, lectures[0], completed=True)
    admin, other = await people.join("root", "admin"), await people.join("other")
    asked = [
        (teacher, student.id, 200), (teacher, other.id, 404), (teacher, str(uuid4()), 404),
        (admin, student.id, 200), (admin, other.id, 200), (admin, str(uuid4()), 404),
        (student, other.id, 403), (student, str(uuid4()), 403),
    ]  # fmt: skip
    for person, user_id, status in asked:
        answer = await person.get(f"/api/progress/courses/{course['id']}?user_id={user_id}")
        assert answer.status == status, (person.name, user_id)
        assert answer.code in (None, "user_not_found", "forbidden")


async def test_a_user_s_progress_is_theirs_and_admins_to_see(
    student: Person, people: People, lectures: list[Any]
) -> None:
    rows = [await watch(student, lecture, position=1) for lecture in lectures]
    mine = (await student.get("/api/progress/users/me")).body
    assert mine["items"] == rows[::-1]
    assert (await student.get(f"/api/progress/users/{student.id}")).body == mine
    first = (await student.get("/api/progress/users/me?limit=2")).body
    assert first["items"] + (await student.get(first["next"])).body["items"] == mine["items"]
    admin, other = await people.join("root", "admin"), await people.join("other")
    assert (await admin.get(f"/api/progress/users/{student.id}")).body["items"] == mine["items"]
    for person, user_id in ((other, student.id), (other, uuid4()), (admin, uuid4())):
        answer = await person.get(f"/api/progress/users/{user_id}")
        assert (answer.status, answer.code) == (404, "user_not_found")


async def test_one_goes_on_where_one_was(student: Person, teacher: Person, course: Any, lectures: list[Any]) -> None:
    async def places() -> list[tuple[str, str, float]]:
        answer = await student.get("/api/progress/me/continue")
        assert answer.status == 200
        return [(item["course_title"], item["lecture_title"], item["position"]) for item in answer.body["items"]]

    other = await teacher.make("/api/courses", {"title": "Stacks", "status": "published"})
    stack = await teacher.make(f"/api/courses/{other['id']}/lectures", {"title": "S"})
    assert await places() == []
    await student.make("/api/enrollments", {"course_id": other["id"]})
    await watch(student, lectures[0], position=12)
    await watch(student, stack, position=3)
    assert await places() == [("Stacks", "S", 3.0), ("Queues", "A", 12.0)]
    await watch(student, lectures[0], completed=True)
    assert await places() == [("Queues", "B", 0.0), ("Stacks", "S", 3.0)]
    await student.delete(f"/api/enrollments/courses/{course['id']}")
    assert await places() == [("Stacks", "S", 3.0)]


async def test_one_goes_on_no_later_than_at_the_end_of_a_lecture_that_was_made_shorter(
    student: Person, teacher: Person, course: Any, lectures: list[Any]
) -> None:
    await watch(student, lectures[0], position=12)
    assert (await teacher.put(f"/api/lectures/{lectures[0]['id']}", {"duration": 10})).status == 200
    progress = (await student.get(f"/api/progress/courses/{course['id']}")).body
    assert progress["resume"] == {"lecture_id": lectures[0]["id"], "position": 10.0}
    (place,) = (await student.get("/api/progress/me/continue")).body["items"]
    assert (place["position"], place["duration"]) == (10.0, 10.0)


# -- enrolments --------------------------------------------------------------------------------------------------------


async def test_one_enrols_in_a_free_course_once(people: People, course: Any) -> None:
    student = await people.join("student")
    answer = await student.post("/api/enrollments", {"course_id": course["id"]})
    assert answer.status == 201
    assert set(answer.body) == {
        "user_id", "course_id", "transaction_id", "source", "enrolled_at", "expires_at", "is_active", "progress",
        "created_at", "updated_at",
    }  # fmt: skip
    assert (answer.body["user_id"], answer.body["source"], answer.body["is_active"]) == (student.id, "free", True)
    for oneself in ({}, {"user_id": "me"}, {"user_id": student.id}, {"user_id": None}):
        again = await student.post("/api/enrollments", {"course_id": course["id"]} | oneself)
        assert (again.status, again.body) == (200, answer.body)
    listed = (await student.get("/api/enrollments/users/me")).body["items"]
    assert listed == [answer.body]
    assert (await student.get(f"/api/courses/{course['id']}")).body["enrolled_count"] == 1


async def test_of_many_enrolments_at_once_one_is_made(people: People, course: Any) -> None:
    student = await people.join("student")
    answers = await asyncio.gather(*(student.post("/api/enrollments", {"course_id": course["id"]}) for _ in range(8)))
    assert sorted(answer.status for answer in answers) == [200] * 7 + [201]


async def test_a_course_with_a_price_wants_to_be_paid(people: People, teacher: Person) -> None:
    course = await teacher.make("/api/courses", {"title": "Paid", "status": "published", "price": "5.00"})
    student, admin = await people.join("student"), await people.join("root", "admin")
    answer = await student.post("/api/enrollments", {"course_id": course["id"]})
    assert (answer.status, answer.code) == (402, "payment_required")
    assert (await teacher.make("/api/enrollments", {"course_id": course["id"]}))["source"] == "own"
    given = await admin.make("/api/enrollments", {"course_id": course["id"], "user_id": student.id})
    assert (given["user_id"], given["source"]) == (student.id, "admin")
    assert (await student.post("/api/enrollments", {"course_id": course["id"]})).status == 200


async def test_what_was_bought_and_not_given_back_is_taken_up_again(
    people: People, teacher: Person, sql: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    course = await teacher.make("/api/courses", {"title": "Paid", "status": "published", "price": "5.00"})
    student = await people.join("student")
    transaction = await sql.fetchval(
        "INSERT INTO transactions (user_id, course_id, amount, currency, succeeded_at, refunded_amount)"
        " VALUES ($1, $2, 5, 'usd', now(), 1) RETURNING id",
        student.id,
        course["id"],
    )
    row = (await student.post("/api/enrollments", {"course_id": course["id"]})).body
    assert (row["source"], row["transaction_id"], row["is_active"]) == ("purchase", str(transaction), True)
    assert (await student.delete(f"/api/enrollments/courses/{course['id']}")).status == 204
    assert (await student.post("/api/enrollments", {"course_id": course["id"]})).status == 201
    await student.delete(f"/api/enrollments/courses/{course['id']}")
    assert (await teacher.delete(f"/api/courses/{course['id']}")).body["status"] == "archived"
    assert (await student.post("/api/enrollments", {"course_id": course["id"]})).status == 201
    await student.delete(f"/api/enrollments/courses/{course['id']}")
    await sql.execute("UPDATE transactions SET refunded_amount = amount WHERE id = $1", transaction)
    assert (await student.post("/api/enrollments", {"course_id": course["id"]})).status == 422
    await teacher.put(f"/api/courses/{course['id']}", {"status": "published"})
    assert (await student.post("/api/enrollments", {"course_id": course["id"]})).status == 402


async def subscribe(sql: "asyncpg.Connection[asyncpg.Record]", student: Person) -> None:
    """A subscription that covers every course for a month."""
    await sql.execute(
        """
        WITH p AS (INSERT INTO plans (plan_name, monthly, yearly, currency, covers_all, past_due_days)
                   VALUES ('all', 9, 90, 'usd', true, 7)
                   ON CONFLICT (plan_name) DO UPDATE SET covers_all = true RETURNING id)
        INSERT INTO subscriptions (user_id, plan_id, status, billing_period, price, currency, current_period_end)
        SELECT $1, id, 'active', 'monthly', 9, 'usd', now() + interval '30 days' FROM p
        """,
        student.id,
    )


async def test_a_subscription_opens_and_enrols_while_it_lives(
    people: People, teacher: Person, sql: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    course = await teacher.make("/api/courses", {"title": "Paid", "status": "published", "price": "5.00"})
    lecture = await teacher.make(f"/api/courses/{course['id']}/lectures", {"title": "A"})
    draft = await teacher.make("/api/courses", {"title": "Draft", "price": "5.00"})
    student = await people.join("student")
    await subscribe(sql, student)
    assert (await student.get(f"/api/courses/{draft['id']}")).status == 404
    assert (await student.get(f"/api/lectures/{lecture['id']}")).status == 200
    await watch(student, lecture, position=3)
    row = await student.make("/api/enrollments", {"course_id": course["id"]})
    assert row["source"] == "subscription"
    assert row["expires_at"] is not None
    assert (await teacher.get(f"/api/courses/{course['id']}")).body["enrolled_count"] == 1
    assert (await teacher.delete(f"/api/courses/{course['id']}")).body["status"] == "archived"
    assert (await student.get(f"/api/lectures/{lecture['id']}")).status == 200
    await sql.execute("UPDATE subscriptions SET status = 'canceled' WHERE user_id = $1", student.id)
    assert (await student.get(f"/api/lectures/{lecture['id']}")).status == 404
    assert (await teacher.get(f"/api/courses/{course['id']}")).body["enrolled_count"] == 0


async def test_nobody_is_enrolled_by_a_subscription_that_ends_in_that_moment(
    people: People, teacher: Person, sql: "asyncpg.Connection[asyncpg.Record]", standing_dsn: str
) -> None:
    course = await teacher.make("/api/courses", {"title": "Paid", "status": "published", "price": "5.00"})
    student = await people.join("student")
    await subscribe(sql, student)
    ending = await asyncpg.connect(standing_dsn)
    try:
        async with ending.transaction():
            await ending.execute("UPDATE subscriptions SET status = 'canceled' WHERE user_id = $1", student.id)
            enrolling = asyncio.create_task(student.post("/api/enrollments", {"course_id": course["id"]}))
            await blocked(sql)
    finally:
        await ending.close()
    assert (await enrolling).code == "payment_required"


async def test_a_gift_to_who_is_enrolled_by_a_subscription_outlives_it(
    people: People, teacher: Person, sql: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    course = await teacher.make("/api/courses", {"title": "Paid", "status": "published", "price": "5.00"})
    lecture = await teacher.make(f"/api/courses/{course['id']}/lectures", {"title": "A"})
    student, admin = await people.join("student"), await people.join("root", "admin")
    await subscribe(sql, student)
    before = await student.make("/api/enrollments", {"course_id": course["id"]})
    given = await admin.post("/api/enrollments", {"course_id": course["id"], "user_id": student.id})
    assert (given.status, given.body["source"], given.body["expires_at"]) == (200, "admin", None)
    assert given.body["enrolled_at"] == before["enrolled_at"]
    again = await student.post("/api/enrollments", {"course_id": course["id"]})
    assert (again.status, again.body["source"]) == (200, "admin")
    await sql.execute("UPDATE subscriptions SET status = 'canceled' WHERE user_id = $1", student.id)
    assert (await student.get(f"/api/lectures/{lecture['id']}")).status == 200


async def test_who_is_enrolled_by_a_subscription_is_told_so_again_when_the_course_is_archived(
    people: People, teacher: Person, sql: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    course = await teacher.make("/api/courses", {"title": "Paid", "status": "published", "price": "5.00"})
    student = await people.join("student")
    await subscribe(sql, student)
    row = await student.make("/api/enrollments", {"course_id": course["id"]})
    await teacher.delete(f"/api/courses/{course['id']}")
    again = await student.post("/api/enrollments", {"course_id": course["id"]})
    assert (again.status, again.body["expires_at"]) == (200, row["expires_at"])


async def test_what_cannot_be_enrolled_in_is_pointed_at(people: People, teacher: Person, course: Any) -> None:
    student, admin = await people.join("student"), await people.join("root", "admin")
    draft = await teacher.make("/api/courses", {"title": "Draft"})
    for course_id in (draft["id"], str(uuid4())):
        answer = await student.post("/api/enrollments", {"course_id": course_id})
        assert (answer.status, answer.pointers) == (422, ["/course_id"])
    for user_id in (str(uuid4()), "nobody", ""):
        nobody = await admin.post("/api/enrollments", {"course_id": course["id"], "user_id": user_id})
        assert (nobody.status, nobody.pointers) == (422, ["/user_id"])
    other = await student.post("/api/enrollments", {"course_id": course["id"], "user_id": admin.id})
    assert other.status == 403
    await teacher.put(f"/api/courses/{course['id']}", {"status": "archived"})
    assert (await teacher.post("/api/enrollments", {"course_id": course["id"]})).status == 409


async def test_who_leaves_keeps_what_was_watched(student: Person, course: Any, lectures: list[Any]) -> None:
    await watch(student, lectures[0], watched_ranges=[[0, 5]])
    path = f"/api/enrollments/courses/{course['id']}"
    assert (await student.delete(path)).status == 204
    gone = await student.delete(path)
    assert (gone.status, gone.code) == (404, "enrollment_not_found")
    assert (await student.put(f"/api/progress/lectures/{lectures[0]['id']}", {})).status == 403
    assert (await student.get("/api/enrollments/users/me")).body["items"] == []
    await student.make("/api/enrollments", {"course_id": course["id"]})
    assert (await watch(student, lectures[0]))["watched_duration"] == 5


async def test_an_enrolment_that_ran_out_gives_nothing(
    student: Person, course: Any, lectures: list[Any], sql: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await sql.execute("UPDATE enrollments SET expires_at = now() WHERE user_id = $1", student.id)
    assert [item["is_active"] for item in (await student.get("/api/enrollments/users/me")).body["items"]] == [False]
    assert (await student.get(f"/api/lectures/{lectures[0]['id']}")).status == 403
    again = await student.post("/api/enrollments", {"course_id": course["id"]})
    assert (again.status, again.body["expires_at"]) == (201, None)


async def test_who_is_enrolled_only_the_owner_sees(
    student: Person, teacher: Person, people: People, course: Any
) -> None:
    path = f"/api/enrollments/courses/{course['id']}"
    listed = (await teacher.get(path)).body["items"]
    assert [(item["user_id"], item["progress"]) for item in listed] == [(student.id, 0.0)]
    assert (await student.get(path)).status == 403
    other = await people.join("other", "instructor")
    assert (await other.get(f"/api/enrollments/courses/{uuid4()}")).status == 404
    assert (await other.get(f"/api/enrollments/users/{student.id}")).status == 404
    admin = await people.join("root", "admin")
    assert len((await admin.get(f"/api/enrollments/users/{student.id}")).body["items"]) == 1

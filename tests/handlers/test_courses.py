"""Courses and lectures: who sees and changes what, prices, and an order that never collides."""

import asyncio
import base64
import json
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
import pytest_asyncio

from tests.support.people import People, Person
from tests.support.standing import *  # noqa: F403  fixtures
from tests.support.standing import STANDING

pytestmark = STANDING

COURSE: dict[str, Any] = {"title": "Queues", "status": "published"}


@pytest_asyncio.fixture(loop_scope="module")
async def teacher(people: People) -> Person:
    """An instructor."""
    return await people.join("teacher", "instructor")


@pytest_asyncio.fixture(loop_scope="module")
async def student(people: People) -> Person:
    """A student who is enrolled in nothing."""
    return await people.join("student")


@pytest_asyncio.fixture(loop_scope="module")
async def bare_catalogue(sql: "asyncpg.Connection[asyncpg.Record]") -> None:
    """What other tests have made is listed no more."""
    await sql.execute("UPDATE courses SET status = 'archived' WHERE status <> 'archived'")


async def make_lectures(teacher: Person, course: Any, *titles: str) -> list[Any]:
    """Lectures appended in this order."""
    path = f"/api/courses/{course['id']}/lectures"
    return [await teacher.make(path, {"title": title}) for title in titles]


async def titles_of(person: Person, course: Any) -> list[str]:
    """The lectures' titles in the course's order."""
    answer = await person.get(f"/api/courses/{course['id']}/lectures?limit=100")
    assert answer.status == 200
    return [lecture["title"] for lecture in answer.body["items"]]


# -- courses -----------------------------------------------------------------------------------------------------------


async def test_a_new_course_is_a_free_draft_unless_told_otherwise(teacher: Person) -> None:
    answer = await teacher.post("/api/courses", {"title": "Queues"})
    assert answer.status == 201
    course = answer.body
    assert answer.headers["Location"] == f"/api/courses/{course['id']}"
    assert set(course) == {
        "id", "title", "description", "creator_id", "thumbnail_url", "price", "currency", "is_free", "status",
        "lecture_count", "enrolled_count", "duration", "created_at", "updated_at",
    }  # fmt: skip
    assert course["creator_id"] == teacher.id
    assert (course["price"], course["currency"], course["is_free"], course["status"]) == ("0.00", "usd", True, "draft")
    assert (course["lecture_count"], course["enrolled_count"], course["duration"]) == (0, 0, 0)
    assert course["created_at"].endswith("Z")


@pytest.mark.parametrize(
    ("price", "currency", "shown"),
    [("49", "usd", "49.00"), ("0.5", "eur", "0.50"), ("999999.99", "gbp", "999999.99"), ("1200", "jpy", "1200.00")],
)
async def test_a_price_is_kept_to_the_cent(teacher: Person, price: str, currency: str, shown: str) -> None:
    course = await teacher.make("/api/courses", COURSE | {"price": price, "currency": currency, "is_free": False})
    assert (course["price"], course["currency"], course["is_free"]) == (shown, currency, False)


@pytest.mark.parametrize(
    ("members", "pointer"),
    [
        ({"price": "0.49"}, "/price"),
        ({"price": "1000000.00"}, "/price"),
        ({"price": "1.001"}, "/price"),
        ({"price": "1e3"}, "/price"),
        ({"price": "NaN"}, "/price"),
        ({"price": "-1.00"}, "/price"),
        ({"price": "१.००"}, "/price"),
        ({"price": 49}, "/price"),
        ({"price": 49.5}, "/price"),
        ({"price": None}, "/price"),
        ({"price": "12.50", "currency": "jpy"}, "/price"),
        ({"currency": "xxx"}, "/currency"),
        ({"currency": "USD"}, "/currency"),
        ({"currency": ""}, "/currency"),
        ({"price": "10.00", "is_free": True}, "/is_free"),
        ({"is_free": False}, "/is_free"),
        ({"title": ""}, "/title"),
        ({"title": " \t"}, "/title"),
        ({"title": "t" * 201}, "/title"),
        ({"status": "deleted"}, "/status"),
        ({"thumbnail_url": "javascript:alert(1)"}, "/thumbnail_url"),
        ({"thumbnail_url": "https://x.io:99999/"}, "/thumbnail_url"),
        ({"creator_id": str(uuid4())}, "/creator_id"),
    ],
)
async def test_what_is_no_course_is_pointed_at(teacher: Person, members: dict[str, Any], pointer: str) -> None:
    answer = await teacher.post("/api/courses", COURSE | members)
    assert (answer.status, answer.code, answer.pointers) == (422, "validation_failed", [pointer])


async def test_students_and_strangers_make_no_courses(student: Person, people: People) -> None:
    assert (await student.post("/api/courses", COURSE)).status == 403
    assert (await people.stranger.post("/api/courses", COURSE)).status == 401


async def test_what_is_not_published_is_like_a_random_id_to_others(
    teacher: Person, student: Person, people: People
) -> None:
    other = await people.join("other", "instructor")
    for status in ("draft", "archived"):
        course = await teacher.make("/api/courses", COURSE | {"status": status})
        for person in (people.stranger, student, other):
            hidden = await person.get(f"/api/courses/{course['id']}")
            random = await person.get(f"/api/courses/{uuid4()}")
            assert (hidden.status, hidden.code) == (random.status, random.code) == (404, "course_not_found")
            assert (await person.get(f"/api/courses/{course['id']}/lectures")).status == 404
        assert (await other.put(f"/api/courses/{course['id']}", {"title": "Mine"})).status == 404
        assert (await teacher.get(f"/api/courses/{course['id']}")).status == 200


async def test_an_archived_course_stays_open_to_those_enrolled(teacher: Person, student: Person) -> None:
    course = await teacher.make("/api/courses", COURSE)
    await student.make("/api/enrollments", {"course_id": course["id"]})
    assert (await teacher.put(f"/api/courses/{course['id']}", {"status": "archived"})).status == 200
    assert (await student.get(f"/api/courses/{course['id']}")).status == 200


async def test_only_the_creator_and_admins_change_a_course(teacher: Person, student: Person, people: People) -> None:
    course = await teacher.make("/api/courses", COURSE | {"description": "All about them"})
    path = f"/api/courses/{course['id']}"
    other, admin = await people.join("other", "instructor"), await people.join("root", "admin")
    assert (await people.stranger.put(path, {"title": "X"})).status == 401
    for person in (student, other):
        answer = await person.put(path, {"title": "X"})
        assert (answer.status, answer.code) == (403, "forbidden")
    changed = await admin.put(path, {"title": "Queues and stacks", "price": "5.00"})
    assert changed.status == 200
    kept = {key: value for key, value in course.items() if key not in ("title", "price", "is_free", "updated_at")}
    assert {key: changed.body[key] for key in kept} == kept
    assert (changed.body["title"], changed.body["price"], changed.body["is_free"]) == (
        "Queues and stacks",
        "5.00",
        False,
    )


async def test_a_change_is_checked_together_with_what_stays(teacher: Person) -> None:
    course = await teacher.make("/api/courses", COURSE | {"price": "5.50"})
    path = f"/api/courses/{course['id']}"
    for change, pointer in (
        ({"currency": "jpy"}, "/price"),
        ({"is_free": True}, "/is_free"),
        ({"title": None}, "/title"),
    ):
        assert (await teacher.put(path, change)).pointers == [pointer]
    unchanged = await teacher.put(path, {})
    assert unchanged.status == 200
    assert unchanged.body["price"] == "5.50"


async def test_a_course_in_a_currency_that_is_no_longer_offered_is_changed_and_keeps_it(
    teacher: Person, sql: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    course = await teacher.make("/api/courses", COURSE | {"price": "5.50"})
    path = f"/api/courses/{course['id']}"
    await sql.execute("UPDATE courses SET currency = 'chf' WHERE id = $1", course["id"])  # it was when it was made
    changed = await teacher.put(path, {"title": "Stacks"})
    assert (changed.status, changed.body["title"], changed.body["currency"]) == (200, "Stacks", "chf")
    assert (await teacher.put(path, {"price": "6.00", "currency": "chf"})).body["price"] == "6.00"
    assert (await teacher.put(path, {"currency": "usd"})).status == 200
    assert (await teacher.put(path, {"currency": "chf"})).pointers == ["/currency"]


@pytest.mark.usefixtures("bare_catalogue")
async def test_published_courses_are_listed_newest_first_in_pages(teacher: Person, people: People) -> None:
    made = [(await teacher.make("/api/courses", COURSE | {"title": f"C{n}"}))["title"] for n in range(5)]
    await teacher.make("/api/courses", {"title": "Draft"})
    seen, path = [], "/api/courses?limit=2"
    while path:
        answer = await people.stranger.get(path)
        assert answer.status == 200
        assert len(answer.body["items"]) <= 2
        seen += [course["title"] for course in answer.body["items"]]
        path = answer.body["next"]
        if len(seen) == 2:  # one that comes meanwhile is neither shown twice nor hides another
            await teacher.make("/api/courses", COURSE | {"title": "Late"})
    assert seen == made[::-1]


@pytest.mark.usefixtures("bare_catalogue")
async def test_lists_are_narrowed_by_creator_price_and_words(teacher: Person, people: People) -> None:
    other = await people.join("other", "instructor")
    await teacher.make("/api/courses", COURSE | {"title": "Databases", "description": "Indexes and joins"})
    await other.make("/api/courses", COURSE | {"title": "Streams", "price": "9.00"})

    async def titles(query: str) -> list[str]:
        answer = await people.stranger.get(f"/api/courses?{query}")
        assert answer.status == 200
        return [course["title"] for course in answer.body["items"]]

    assert await titles(f"creator_id={other.id}") == ["Streams"]
    assert await titles("is_free=true") == ["Databases"]
    assert await titles("is_free=false") == ["Streams"]
    assert await titles("q=join") == ["Databases"]
    assert await titles("q=%22no+such%22+words-") == []
    assert await titles("q=") == ["Streams", "Databases"]


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("query", ["Databases"]), ("QUERIES", ["Databases"]), ("the queries", ["Databases"]),
        ("cafe", ["Kaffee"]), ("CAFÉ", ["Kaffee"]), ("größe", ["Kaffee"]), ("GRÖSSE", ["Kaffee"]),
        ("ｃａｆｅ", ["Kaffee"]),
        ("кошки", ["Кошки"]), ("КОШКИ", ["Кошки"]), ("die", ["Kaffee"]),
        ('"joins and indexes"', ["Databases"]), ('"indexes and joins"', []),
        ("кошки or cafe", ["Кошки", "Kaffee"]), ("joins -queries", []), ("joins -cafe", ["Databases"]),
        ("  ", ["Кошки", "Kaffee", "Databases"]), ("&|!():*<->'", []), ("\\", []),
        ("-" * 200, []), ("joins " + "- " * 97, ["Databases"]),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("bare_catalogue")
async def test_words_are_found_in_any_language_case_and_spelling(
    teacher: Person, people: People, typed: str, found: list[str]
) -> None:
    for title, description in (
        ("Databases", "Queries, joins and indexes"),
        ("Kaffee", "Die Größe des Café\u0301s"),
        ("Кошки", "О кошках"),
    ):
        await teacher.make("/api/courses", COURSE | {"title": title, "description": description})
    answer = await people.stranger.get("/api/courses", params={"q": typed, "sort": "newest"})
    assert answer.status == 200
    assert [course["title"] for course in answer.body["items"]] == found


@pytest.mark.usefixtures("bare_catalogue")
async def test_what_is_found_comes_by_how_well_it_fits(teacher: Person, people: People) -> None:
    for title, description in (
        ("Stacks", "Not only queues"),
        ("Queues", "Queues, and queues of queues"),
        ("Trees", "No line to stand in"),
        ("Heaps", "Queues with priorities; queues that sort"),
    ):
        await teacher.make("/api/courses", COURSE | {"title": title, "description": description})
    path, seen = "/api/courses?q=queue&limit=1", []
    while path:
        answer = (await people.stranger.get(path)).body
        seen += [course["title"] for course in answer["items"]]
        path = answer["next"]
    assert seen == ["Queues", "Heaps", "Stacks"]


@pytest.mark.usefixtures("bare_catalogue")
async def test_lists_are_sorted_as_one_asks(teacher: Person, student: Person, people: People) -> None:
    for title, price in (("b", "9.00"), ("Ä", "0.00"), ("C", "0.50"), ("a", "9.00")):
        await teacher.make("/api/courses", COURSE | {"title": title, "price": price})
    free = (await teacher.get("/api/courses?is_free=true")).body["items"][0]
    await student.make("/api/enrollments", {"course_id": free["id"]})

    async def titles(sort: str) -> str:
        answer = await people.stranger.get(f"/api/courses?sort={sort}")
        return "".join(course["title"] for course in answer.body["items"])

    assert await titles("newest") == await titles("relevance") == "aCÄb"
    assert await titles("title") == "ÄabC"
    assert await titles("popular") == "ÄaCb"
    assert await titles("price") == "ÄCba"
    assert await titles("price_desc") == "abCÄ"


@pytest.mark.usefixtures("bare_catalogue")
async def test_drafts_are_listed_to_their_creator_alone(teacher: Person, student: Person, people: People) -> None:
    await teacher.make("/api/courses", {"title": "Draft"})
    path = "/api/courses?status=draft"
    assert (await people.stranger.get(path)).status == 401
    assert (await student.get(path)).body["items"] == []
    assert [course["title"] for course in (await teacher.get(path)).body["items"]] == ["Draft"]
    admin = await people.join("root", "admin")
    assert [course["title"] for course in (await admin.get(path)).body["items"]] == ["Draft"]
    assert (await student.get(f"{path}&creator_id={teacher.id}")).status == 403


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("limit=0", 422), ("limit=101", 422), ("limit=x", 422), ("cursor=x", 400), ("cursor=W10", 400),
        ("creator_id=7", 422), ("is_free=perhaps", 422), ("status=gone", 422), ("q=%00", 422),
        ("sort=best", 422), ("q=" + "q" * 201, 422), ("sort=title&cursor=WyIwMTg4Il0", 400),
    ],
)  # fmt: skip
async def test_a_malformed_query_is_refused(people: People, query: str, status: int) -> None:
    assert (await people.stranger.get(f"/api/courses?{query}")).status == status


async def test_a_course_that_nobody_took_is_deleted(teacher: Person) -> None:
    course = await teacher.make("/api/courses", COURSE)
    (lecture,) = await make_lectures(teacher, course, "A")
    assert (await teacher.delete(f"/api/courses/{course['id']}")).status == 204
    for path in (f"/api/courses/{course['id']}", f"/api/lectures/{lecture['id']}"):
        assert (await teacher.get(path)).status == 404
        assert (await teacher.delete(path)).status == 404


@pytest.mark.parametrize("left", [False, True])
async def test_a_course_that_somebody_took_is_archived_and_stays_theirs(
    teacher: Person, student: Person, people: People, left: bool
) -> None:
    course = await teacher.make("/api/courses", COURSE)
    (lecture,) = await make_lectures(teacher, course, "A")
    path = f"/api/courses/{course['id']}"
    await student.make("/api/enrollments", {"course_id": course["id"]})
    if left:
        await student.delete(f"/api/enrollments/courses/{course['id']}")
    answer = await teacher.delete(path)
    assert (answer.status, answer.body["status"]) == (200, "archived")
    assert (await teacher.get(path)).status == 200
    assert (await teacher.delete(path)).status == 200
    other = await people.join("other")
    for person in (other, people.stranger):
        assert (await person.get(path)).status == 404
    assert (await other.post("/api/enrollments", {"course_id": course["id"]})).status == 422
    assert (await student.get(path)).status == (404 if left else 200)
    assert (await student.get(f"/api/lectures/{lecture['id']}")).status == (404 if left else 200)
    again = await student.post("/api/enrollments", {"course_id": course["id"]})
    assert again.status == (422 if left else 200)


async def test_a_course_that_somebody_paid_for_is_archived(
    teacher: Person, student: Person, sql: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    course = await teacher.make("/api/courses", COURSE | {"price": "5.00"})
    await sql.execute(
        "INSERT INTO transactions (user_id, course_id, amount, currency, failed_at) VALUES ($1, $2, 5, 'usd', now())",
        student.id,
        course["id"],
    )
    assert (await teacher.delete(f"/api/courses/{course['id']}")).body["status"] == "archived"


async def test_who_enrols_while_a_course_is_deleted_is_in_or_is_told(teacher: Person, people: People) -> None:
    students = [await people.join(f"s{n}") for n in range(6)]
    course = await teacher.make("/api/courses", COURSE)
    path = f"/api/courses/{course['id']}"
    enrolled, deleted = students[:3], students[3:]
    answers = await asyncio.gather(
        *(person.post("/api/enrollments", {"course_id": course["id"]}) for person in enrolled),
        teacher.delete(path),
        *(person.post("/api/enrollments", {"course_id": course["id"]}) for person in deleted),
    )
    statuses = [answer.status for answer in answers if answer is not answers[3]]
    assert set(statuses) <= {201, 422}
    assert answers[3].status == (200 if 201 in statuses else 204)


@pytest.mark.parametrize(
    ("sort", "key"),
    [
        ("relevance", 1e300), ("relevance", None), ("relevance", "x"), ("popular", 2**40), ("popular", 0.5),
        ("popular", True), ("price", "NaN"), ("price", "1e999999"), ("price", "Infinity"), ("price", "-1"),
        ("price_desc", ["1"]), ("title", "x" * 300), ("title", "\\' OR 1=1"), ("title", 7), ("newest", 7),
    ],
)  # fmt: skip
async def test_a_made_up_cursor_is_refused_or_leads_somewhere(people: People, sort: str, key: Any) -> None:
    cursor = base64.urlsafe_b64encode(json.dumps([key, str(uuid4())]).encode()).decode().rstrip("=")
    answer = await people.stranger.get("/api/courses", params={"q": "x", "sort": sort, "cursor": cursor})
    assert answer.status in (200, 400, 422)


# -- lectures ----------------------------------------------------------------------------------------------------------


async def test_lectures_are_appended_or_put_in_between(teacher: Person) -> None:
    course = await teacher.make("/api/courses", COURSE)
    path = f"/api/courses/{course['id']}/lectures"
    await make_lectures(teacher, course, "A", "B", "C")
    answer = await teacher.post(path, {"title": "X", "sequence_order": 2, "duration": 90})
    assert (answer.status, answer.headers["Location"]) == (201, f"/api/lectures/{answer.body['id']}")
    assert set(answer.body) == {
        "id", "course_id", "title", "description", "video_url", "duration", "sequence_order", "is_preview",
        "created_at", "updated_at",
    }  # fmt: skip
    assert answer.body["sequence_order"] == 2
    far = await teacher.make(path, {"title": "Z", "sequence_order": 50})
    assert far["sequence_order"] == 50
    assert await titles_of(teacher, course) == ["A", "X", "B", "C", "Z"]
    counted = (await teacher.get(f"/api/courses/{course['id']}")).body
    assert (counted["lecture_count"], counted["duration"]) == (5, 90)


async def test_lectures_inserted_at_once_never_collide(teacher: Person) -> None:
    course = await teacher.make("/api/courses", COURSE)
    path = f"/api/courses/{course['id']}/lectures"
    wishes = [{"title": f"L{n}"} | ({"sequence_order": 1} if n % 2 else {}) for n in range(100)]
    answers = await asyncio.gather(*(teacher.post(path, wish) for wish in wishes))
    assert {answer.status for answer in answers} == {201}
    listed = (await teacher.get(f"{path}?limit=100")).body["items"]
    assert [lecture["sequence_order"] for lecture in listed] == list(range(1, 101))


@pytest.mark.parametrize(("place", "order"), [(1, "CABD"), (2, "ACBD"), (4, "ABDC"), (9, "ABDC")])
async def test_a_lecture_moves_and_those_between_make_way(teacher: Person, place: int, order: str) -> None:
    course = await teacher.make("/api/courses", COURSE)
    lectures = await make_lectures(teacher, course, *"ABCD")
    moved = await teacher.put(f"/api/lectures/{lectures[2]['id']}", {"sequence_order": place})
    assert (moved.status, moved.body["sequence_order"], moved.body["title"]) == (200, place, "C")
    assert "".join(await titles_of(teacher, course)) == order


async def test_lectures_moved_at_once_never_collide(teacher: Person) -> None:
    course = await teacher.make("/api/courses", COURSE)
    lectures = await make_lectures(teacher, course, *"ABCDE")
    moves = [(lecture["id"], place) for lecture in lectures for place in (1, 3, 5)]
    answers = await asyncio.gather(
        *(teacher.put(f"/api/lectures/{lecture}", {"sequence_order": place}) for lecture, place in moves)
    )
    assert {answer.status for answer in answers} == {200}
    assert sorted(await titles_of(teacher, course)) == list("ABCDE")


async def test_everybody_reads_the_titles_but_not_where_to_watch(teacher: Person, people: People) -> None:
    course = await teacher.make("/api/courses", COURSE)
    path = f"/api/courses/{course['id']}/lectures"
    await teacher.make(path, {"title": "A", "video_url": "https://example.com/a"})
    await teacher.make(path, {"title": "B", "video_url": "https://example.com/b", "is_preview": True})
    listed = (await people.stranger.get(path)).body["items"]
    assert [(lecture["title"], lecture["video_url"]) for lecture in listed] == [
        ("A", None), ("B", "https://example.com/b"),
    ]  # fmt: skip
    assert all("progress" not in lecture for lecture in listed)
    assert (await teacher.get(path)).body["items"][0]["video_url"] == "https://example.com/a"


async def test_own_progress_is_merged_into_the_list(teacher: Person, student: Person) -> None:
    course = await teacher.make("/api/courses", COURSE)
    first, _second = await make_lectures(teacher, course, "A", "B")
    await student.make("/api/enrollments", {"course_id": course["id"]})
    await student.put(f"/api/progress/lectures/{first['id']}", {"watched_ranges": [[0, 12.5]], "position": 12.5})
    listed = (await student.get(f"/api/courses/{course['id']}/lectures")).body["items"]
    assert listed[0]["progress"]["watched_duration"] == 12
    assert listed[1]["progress"] is None
    one = (await student.get(f"/api/lectures/{first['id']}")).body
    assert one["progress"]["position"] == 12.5


async def test_a_lecture_is_read_by_the_entitled_and_a_preview_by_everybody(
    teacher: Person, student: Person, people: People
) -> None:
    course = await teacher.make("/api/courses", COURSE)
    lecture, preview = await make_lectures(teacher, course, "A", "B")
    await teacher.put(f"/api/lectures/{preview['id']}", {"is_preview": True})
    path = f"/api/lectures/{lecture['id']}"
    assert (await people.stranger.get(path)).status == 401
    assert (await people.stranger.get(f"/api/lectures/{uuid4()}")).status == 401
    answer = await student.get(path)
    assert (answer.status, answer.code) == (403, "not_entitled")
    for person in (people.stranger, student):
        assert (await person.get(f"/api/lectures/{preview['id']}")).status == 200
    await student.make("/api/enrollments", {"course_id": course["id"]})
    read = await student.get(path)
    assert read.status == 200
    assert (read.body["video"], read.body["files"], read.body["progress"]) == (None, [], None)


async def test_a_draft_s_lectures_are_like_random_ids_to_others(teacher: Person, student: Person) -> None:
    course = await teacher.make("/api/courses", {"title": "Draft"})
    (lecture,) = await make_lectures(teacher, course, "A")
    await teacher.put(f"/api/lectures/{lecture['id']}", {"is_preview": True})
    for lecture_id in (lecture["id"], uuid4()):
        for answer in (
            await student.get(f"/api/lectures/{lecture_id}"),
            await student.put(f"/api/lectures/{lecture_id}", {"title": "X"}),
        ):
            assert (answer.status, answer.code) == (404, "lecture_not_found")


async def test_lectures_of_another_s_course_are_not_to_be_changed(
    teacher: Person, student: Person, people: People
) -> None:
    course = await teacher.make("/api/courses", COURSE)
    (lecture,) = await make_lectures(teacher, course, "A")
    for person in (student, await people.join("other", "instructor")):
        assert (await person.put(f"/api/lectures/{lecture['id']}", {"title": "X"})).status == 403
        assert (await person.post(f"/api/courses/{course['id']}/lectures", {"title": "X"})).status == 403


async def test_a_subset_of_a_lecture_is_changed(teacher: Person) -> None:
    course = await teacher.make("/api/courses", COURSE)
    lecture = await teacher.make(f"/api/courses/{course['id']}/lectures", {"title": "A", "duration": 60})
    changed = (await teacher.put(f"/api/lectures/{lecture['id']}", {"description": "New"})).body
    assert (changed["title"], changed["duration"], changed["description"]) == ("A", 60, "New")
    cleared = (await teacher.put(f"/api/lectures/{lecture['id']}", {"duration": None})).body
    assert cleared["duration"] is None


async def test_a_lecture_without_a_length_of_its_own_is_as_long_as_its_video(
    teacher: Person, sql: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    course = await teacher.make("/api/courses", COURSE)
    (lecture,) = await make_lectures(teacher, course, "A")
    path, listing = f"/api/lectures/{lecture['id']}", f"/api/courses/{course['id']}/lectures"
    insert = "INSERT INTO videos (lecture_id, upload_user_id, title, duration_seconds) VALUES ($1, $2, 'V', $3)"
    await sql.execute(insert, lecture["id"], teacher.id, None)
    assert (await teacher.get(path)).body["duration"] is None
    await sql.execute(insert, lecture["id"], teacher.id, 89.6)
    for shown in (
        (await teacher.get(path)).body,
        (await teacher.get(listing)).body["items"][0],
        (await teacher.put(path, {"description": "New"})).body,
        (await teacher.get(f"/api/courses/{course['id']}")).body,
    ):
        assert shown["duration"] == 90
    kept = await sql.fetchval("SELECT duration FROM lectures WHERE id = $1", lecture["id"])
    assert kept is None, "a change of something else keeps none of it"
    assert (await teacher.put(path, {"duration": 60})).body["duration"] == 60


async def test_a_course_that_is_longer_than_an_integer_has_seconds_is_shown(
    teacher: Person, people: People, sql: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    course = await teacher.make("/api/courses", COURSE)
    await sql.execute(
        "INSERT INTO lectures (course_id, title, sequence_order, duration)"
        " SELECT $1, 'L', n, 1000000 FROM generate_series(1, 2148) AS n",
        course["id"],
    )
    assert (await people.stranger.get(f"/api/courses/{course['id']}")).body["duration"] == 2**31 - 1
    assert (await people.stranger.get("/api/courses")).status == 200


@pytest.mark.parametrize(
    "members",
    [
        {"sequence_order": 0}, {"sequence_order": 2**31}, {"sequence_order": 1.5}, {"duration": -1},
        {"duration": 10**7}, {"is_preview": "yes"}, {"video_url": "ftp://example.com"}, {"title": None}, {"id": "x"},
    ],
)  # fmt: skip
async def test_what_is_no_lecture_is_pointed_at(teacher: Person, members: dict[str, Any]) -> None:
    course = await teacher.make("/api/courses", COURSE)
    answer = await teacher.post(f"/api/courses/{course['id']}/lectures", {"title": "A"} | members)
    assert (answer.status, answer.pointers) == (422, [f"/{next(iter(members))}"])


async def test_a_lecture_that_is_deleted_leaves_no_gap(teacher: Person, student: Person) -> None:
    course = await teacher.make("/api/courses", COURSE)
    lectures = await make_lectures(teacher, course, *"ABC")
    await student.make("/api/enrollments", {"course_id": course["id"]})
    for lecture in lectures[:2]:
        await student.put(f"/api/progress/lectures/{lecture['id']}", {"completed": True})
    assert (await teacher.delete(f"/api/lectures/{lectures[1]['id']}")).status == 204
    listed = (await teacher.get(f"/api/courses/{course['id']}/lectures")).body["items"]
    assert [(lecture["title"], lecture["sequence_order"]) for lecture in listed] == [("A", 1), ("C", 2)]
    assert (await teacher.get(f"/api/lectures/{lectures[1]['id']}")).status == 404
    assert (await teacher.get(f"/api/courses/{course['id']}")).body["lecture_count"] == 2
    progress = (await student.get(f"/api/progress/courses/{course['id']}")).body
    assert (progress["lectures_total"], progress["lectures_completed"], progress["percent"]) == (2, 1, 50.0)


@pytest.mark.parametrize("edit", ["insert before", "delete before", "delete the last read", "move before", "none"])
async def test_who_reads_on_after_an_edit_goes_on_behind_the_lecture_read_last(teacher: Person, edit: str) -> None:
    course = await teacher.make("/api/courses", COURSE)
    first, second, *_, last = await make_lectures(teacher, course, *"ABCDE")
    path = f"/api/courses/{course['id']}/lectures"
    read = (await teacher.get(f"{path}?limit=2")).body
    assert [lecture["title"] for lecture in read["items"]] == ["A", "B"]
    match edit:
        case "insert before":
            await teacher.make(path, {"title": "X", "sequence_order": 1})
        case "delete before":
            await teacher.delete(f"/api/lectures/{first['id']}")
        case "delete the last read":
            await teacher.delete(f"/api/lectures/{second['id']}")
        case "move before":
            await teacher.put(f"/api/lectures/{last['id']}", {"sequence_order": 1})
    rest = [lecture["title"] for lecture in (await teacher.get(read["next"])).body["items"]]
    assert rest == ["C", "D"]


async def test_lectures_are_put_into_an_order_as_a_whole(teacher: Person) -> None:
    course = await teacher.make("/api/courses", COURSE)
    ids = [lecture["id"] for lecture in await make_lectures(teacher, course, *"ABC")]
    await teacher.make(f"/api/courses/{course['id']}/lectures", {"title": "D", "sequence_order": 9})
    ids.append((await teacher.get(f"/api/courses/{course['id']}/lectures")).body["items"][3]["id"])
    path = f"/api/courses/{course['id']}/lectures/order"
    wanted = [ids[2], ids[0], ids[3], ids[1]]
    answer = await teacher.put(path, {"lecture_ids": wanted})
    assert (answer.status, answer.body["id"], answer.body["lecture_ids"]) == (200, course["id"], wanted)
    listed = (await teacher.get(f"/api/courses/{course['id']}/lectures")).body["items"]
    assert [(lecture["id"], lecture["sequence_order"]) for lecture in listed] == list(
        zip(wanted, (1, 2, 3, 4), strict=True)
    )
    stranger = (await make_lectures(teacher, await teacher.make("/api/courses", COURSE), "X"))[0]["id"]
    for wrong, pointers in (
        (wanted[:3], ["/lecture_ids"]),
        ([], ["/lecture_ids"]),
        ([*wanted, wanted[0]], ["/lecture_ids/0", "/lecture_ids/4"]),
        ([*wanted, stranger], ["/lecture_ids/4"]),
        ([*wanted, str(uuid4())], ["/lecture_ids/4"]),
        ([*wanted[:3], 7], ["/lecture_ids/3"]),
    ):
        refused = await teacher.put(path, {"lecture_ids": wrong})
        assert (refused.status, refused.pointers) == (422, pointers)
    assert [
        lecture["id"] for lecture in (await teacher.get(f"/api/courses/{course['id']}/lectures")).body["items"]
    ] == wanted

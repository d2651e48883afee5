"""A request that is sent twice with one `Idempotency-Key` happens once."""

import asyncio
from typing import Any
from uuid import uuid4

import aiohttp
import asyncpg
import pytest

from handlers import courses
from server.data.db import queries
from server.http.auth import Tokens
from server.http.keys import CONFIG, DATABASE
from server.http.problems import DatabaseUnavailable, RequestTimedOut
from tests.support.app import AppClient
from tests.support.people import People, Person
from tests.support.server_process import SECRET, ServerProcess


@pytest.fixture
async def teacher(people: People) -> Person:
    return await people.join("teacher", "instructor")


def key() -> dict[str, str]:
    return {"Idempotency-Key": str(uuid4())}


async def count(sql: "asyncpg.Connection[asyncpg.Record]", table: str = "courses") -> int:
    return await sql.fetchval(f"SELECT count(*) FROM {table}")  # type: ignore[no-any-return]  # noqa: S608


async def test_the_same_key_and_body_get_the_first_answer_again(
    teacher: Person, sql: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    headers = key()
    first = await teacher.post("/api/courses", {"title": "A"}, headers=headers)
    again = await teacher.post("/api/courses", {"title": "A"}, headers=headers)
    assert (first.status, again.status) == (201, 201)
    assert again.body == first.body
    assert again.headers["Location"] == first.headers["Location"]
    assert again.headers["Content-Type"] == first.headers["Content-Type"]
    assert again.headers["Idempotency-Replayed"] == "true"
    assert "Idempotency-Replayed" not in first.headers
    assert await count(sql) == 1


async def test_who_asks_again_twice_at_once_gets_the_answer_twice(
    teacher: Person, sql: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    headers = key()
    first = await teacher.post("/api/courses", {"title": "A"}, headers=headers)
    async with sql.transaction():  # as whoever is being told it at this moment
        names = {"user_id": teacher.id, "key": headers["Idempotency-Key"]}
        assert await queries("idempotency").lock_key(sql, **names)
        again = await teacher.post("/api/courses", {"title": "A"}, headers=headers)
        assert (again.status, again.body) == (201, first.body)
        other = await teacher.post("/api/courses", {"title": "B"}, headers=headers)
        assert (other.status, other.code) == (422, "idempotency_key_reused")


async def test_the_members_order_makes_no_other_body(
    teacher: Person, sql: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    headers = key() | {"Content-Type": "application/json"}
    for raw in (b'{"title": "A", "status": "draft"}', b'{"status":"draft","title":"A"}'):
        assert (await teacher.post("/api/courses", data=raw, headers=headers)).status == 201
    assert await count(sql) == 1


async def test_another_body_or_route_is_refused(teacher: Person, sql: "asyncpg.Connection[asyncpg.Record]") -> None:
    headers = key()
    course = await teacher.post("/api/courses", {"title": "A"}, headers=headers)
    other = await teacher.post("/api/courses", {"title": "B"}, headers=headers)
    assert (other.status, other.code) == (422, "idempotency_key_reused")
    elsewhere = await teacher.post(f"/api/courses/{course.body['id']}/lectures", {"title": "A"}, headers=headers)
    assert (elsewhere.status, elsewhere.code) == (422, "idempotency_key_reused")
    assert await count(sql) == 1


async def test_a_key_is_its_users_alone(
    teacher: Person, people: People, sql: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    headers = key()
    other = await people.join("other", "instructor")
    answers = [await person.post("/api/courses", {"title": "A"}, headers=headers) for person in (teacher, other)]
    assert [answer.status for answer in answers] == [201, 201]
    assert answers[0].body["id"] != answers[1].body["id"]


async def test_fifty_at_once_make_one_row(teacher: Person, sql: "asyncpg.Connection[asyncpg.Record]") -> None:
    headers = key()
    answers = await asyncio.gather(*(teacher.post("/api/courses", {"title": "A"}, headers=headers) for _ in range(50)))
    assert await count(sql) == 1
    assert {answer.status for answer in answers} <= {201, 409}
    assert {answer.code for answer in answers if answer.status == 409} <= {"idempotency_key_in_use"}
    assert len({answer.body["id"] for answer in answers if answer.status == 201}) == 1
    assert (await teacher.post("/api/courses", {"title": "A"}, headers=headers)).status == 201


async def test_while_the_first_still_runs_the_key_is_in_use(
    teacher: Person, sql: "asyncpg.Connection[asyncpg.Record]", monkeypatch: pytest.MonkeyPatch
) -> None:
    reached, go_on = asyncio.Event(), asyncio.Event()
    insert = courses.courses.insert_course

    async def slow(*args: Any, **values: Any) -> Any:
        reached.set()
        await go_on.wait()
        return await insert(*args, **values)

    monkeypatch.setattr(courses.courses, "insert_course", slow)
    headers = key()
    first = asyncio.create_task(teacher.post("/api/courses", {"title": "A"}, headers=headers))
    await asyncio.wait_for(reached.wait(), 30)
    second = await teacher.post("/api/courses", {"title": "A"}, headers=headers)
    go_on.set()
    assert (second.status, second.code, second.body["retryable"]) == (409, "idempotency_key_in_use", True)
    assert (await first).status == 201


async def test_a_refusal_is_kept_and_a_failure_of_ours_is_not(
    teacher: Person, sql: "asyncpg.Connection[asyncpg.Record]", monkeypatch: pytest.MonkeyPatch
) -> None:
    insert = courses.courses.insert_course

    def failing(failure: Exception) -> Any:
        async def insert_and_fail(*args: Any, **values: Any) -> None:
            await insert(*args, **values)
            raise failure

        return insert_and_fail

    headers = key()
    for failure, status in ((RuntimeError("a bug"), 500), (DatabaseUnavailable(), 503), (RequestTimedOut(), 408)):
        monkeypatch.setattr(courses.courses, "insert_course", failing(failure))
        assert (await teacher.post("/api/courses", {"title": "A"}, headers=headers)).status == status
        assert await count(sql) == 0
    monkeypatch.setattr(courses.courses, "insert_course", insert)
    assert (await teacher.post("/api/courses", {"title": "A"}, headers=headers)).status == 201

    headers, nowhere = key(), f"/api/courses/{uuid4()}/lectures"
    first = await teacher.post(nowhere, {"title": "A"}, headers=headers)
    again = await teacher.post(nowhere, {"title": "A"}, headers=headers)
    assert (first.status, again.status) == (404, 404)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.headers["Content-Type"] == "application/problem+json"
    assert again.body == first.body


async def test_what_never_reached_the_handler_takes_no_key(
    teacher: Person, people: People, sql: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    headers = key()
    assert (await teacher.post("/api/courses", {"title": ""}, headers=headers)).status == 422
    student = await people.join("student")
    assert (await student.post("/api/courses", {"title": "A"}, headers=headers)).status == 403
    assert await count(sql, "idempotency_keys") == 0
    assert (await teacher.post("/api/courses", {"title": "A"}, headers=headers)).status == 201


@pytest.mark.parametrize("bad", ["", "x" * 256, "a\tb"])
async def test_a_key_has_1_to_255_characters(teacher: Person, bad: str) -> None:
    answer = await teacher.post("/api/courses", {"title": "A"}, headers={"Idempotency-Key": bad})
    assert (answer.status, answer.code) == (400, "malformed_request")
    answer = await teacher.post("/api/courses", {"title": "A"}, headers={"Idempotency-Key": "x" * 255})
    assert answer.status == 201


async def test_a_key_is_forgotten_after_its_time_and_swept(
    teacher: Person, sql: "asyncpg.Connection[asyncpg.Record]", client: AppClient
) -> None:
    assert client.app is not None
    headers = key()
    first = await teacher.make("/api/courses", {"title": "A"}, headers=headers)
    until = await sql.fetchval("SELECT expires_at - now() > interval '23 h 59 min' FROM idempotency_keys")
    assert until
    await sql.execute("UPDATE idempotency_keys SET expires_at = now()")
    second = await teacher.make("/api/courses", {"title": "B"}, headers=headers)
    assert second["id"] != first["id"]
    sweep = queries("idempotency").sweep_keys
    assert await sweep(client.app[DATABASE], most=10) == 0
    await sql.execute("UPDATE idempotency_keys SET expires_at = now()")
    assert await sweep(client.app[DATABASE], most=10) == 1


async def test_what_asks_outside_runs_under_a_lease_that_a_dead_process_cannot_keep(
    teacher: Person, sql: "asyncpg.Connection[asyncpg.Record]", monkeypatch: pytest.MonkeyPatch
) -> None:
    """No transaction is held meanwhile: the row that says so can be seen and changed from beside."""
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def hanging(*_: Any, **__: Any) -> None:
        reached.set()
        await go_on.wait()

    monkeypatch.setattr("handlers.sessions.sessions.get_watchable_video", hanging)
    path, headers = f"/api/videos/{uuid4()}/sessions", key()
    first = asyncio.create_task(teacher.post(path, {}, headers=headers))
    await asyncio.wait_for(reached.wait(), 30)
    longest_s = teacher.client.app[CONFIG].server.handler_timeout_s + 2
    left_s = await sql.fetchval("SELECT extract(epoch FROM running_until - now())::float FROM idempotency_keys")
    assert 0 < left_s <= longest_s
    in_use = await teacher.post(path, {}, headers=headers)
    assert (in_use.status, in_use.code) == (409, "idempotency_key_in_use")
    await sql.execute("UPDATE idempotency_keys SET running_until = now()")  # as if that process had died long ago
    go_on.set()
    assert (await teacher.post(path, {}, headers=headers)).status == 404
    assert (await first).status == 404
    replayed = await teacher.post(path, {}, headers=headers)
    assert (replayed.status, replayed.headers["Idempotency-Replayed"]) == (404, "true")


async def test_a_failure_outside_frees_the_key_for_the_same_request(
    teacher: Person, sql: "asyncpg.Connection[asyncpg.Record]", monkeypatch: pytest.MonkeyPatch
) -> None:
    async def failing(*_: Any, **__: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("handlers.sessions.sessions.get_watchable_video", failing)
    path, headers = f"/api/videos/{uuid4()}/sessions", key()
    assert (await teacher.post(path, {}, headers=headers)).status == 500
    monkeypatch.undo()
    other = await teacher.post(path, {"device": "tv"}, headers=headers)
    assert (other.status, other.code) == (422, "idempotency_key_reused")
    assert (await teacher.post(path, {}, headers=headers)).status == 404


async def test_a_killed_process_leaves_keys_free_and_nothing_done_twice(
    postgres_dsn: str, redis_url: str, sql: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    user_id = await sql.fetchval(
        "INSERT INTO users (username, email, password_hash, role) VALUES ('t', 't@x', '', 'instructor') RETURNING id"
    )
    token, _ = Tokens(SECRET).issue_access(user_id, "instructor", 1)
    keys = [str(uuid4()) for _ in range(60)]
    async with ServerProcess(postgres_dsn, redis_url) as server, aiohttp.ClientSession() as http:
        answered = asyncio.Event()

        async def create(key: str) -> int:
            headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": key}
            try:
                async with http.post(f"{server.base_url}/api/courses", json={"title": key}, headers=headers) as answer:
                    answered.set()
                    return answer.status
            except aiohttp.ClientError:
                return 0

        first = asyncio.gather(*(create(key) for key in keys))
        await asyncio.wait_for(answered.wait(), 30)
        await server.restart()
        assert set(await first) <= {0, 201}
        assert {await create(key) for key in keys} == {201}
    assert await sql.fetchval("SELECT array_agg(title ORDER BY title) FROM courses") == sorted(keys)

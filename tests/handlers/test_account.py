"""One's own account: changed, taken along, left."""

import asyncio
import json
from typing import Any, TypeAlias

import asyncpg
import pytest
from aiohttp import WSMessage, WSMsgType

from server.data.db import queries
from server.http.keys import CONFIG, REDIS
from tests.support.app import AppClient
from tests.support.lectures import make_lecture
from tests.support.people import PASSWORD, Answer, People, Person

Sql: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
ANOTHER = "another battery staple"
# Rows that stay after an erasure, and why.
KEPT = {
    "audit_log": "who did what to whom must stay",
    "courses": "learners use them",
    "forum_posts": "others answered them; they have no name then",
    "forum_topics": "others answered them; they have no name then",
    "customers": "money",
    "refunds": "money",
    "subscriptions": "money",
    "transactions": "money",
    "video_viewers": "a video's viewers are counted, by rows without a name",
    "videos": "learners watch them",
}


@pytest.fixture
async def ada(people: People) -> Person:
    return await people.join("ada")


async def sign_in(person: Person, password: str, login: str = "ada") -> Answer:
    return await person.post("/api/auth/login", {"login": login, "password": password})


async def change_password(person: Person, current: str = PASSWORD, new: str = ANOTHER) -> Answer:
    return await person.put("/api/auth/me/password", {"current_password": current, "new_password": new})


# Changing it ----------------------------------------------------------------------------------------------------------


async def test_name_and_address_are_changed_and_the_rest_stays(ada: Person, sql: Sql) -> None:
    await sql.execute("UPDATE users SET email_verified = true")
    renamed = await ada.ask("PATCH", "/api/auth/me", {"username": "Countess"})
    assert (renamed.status, renamed.body["username"], renamed.body["email"]) == (200, "Countess", "ada@example.com")
    assert renamed.body["email_verified"] is True
    moved = await ada.ask("PATCH", "/api/auth/me", {"email": "countess@example.com"})
    assert (moved.body["username"], moved.body["email"]) == ("Countess", "countess@example.com")
    assert moved.body["email_verified"] is False
    assert (await ada.get("/api/auth/me")).body == moved.body
    assert (await ada.ask("PATCH", "/api/auth/me", {})).body["username"] == "Countess"
    assert (await sign_in(ada, PASSWORD, "COUNTESS")).status == 200


async def test_what_is_taken_or_not_ones_own_to_set_is_refused(ada: Person, people: People) -> None:
    await people.join("ben")
    for body, status, code in (
        ({"username": "BEN"}, 409, "username_taken"),
        ({"email": "Ben@Example.com"}, 409, "email_taken"),
        ({"role": "admin"}, 422, "validation_failed"),
        ({"email_verified": True}, 422, "validation_failed"),
        ({"username": None}, 422, "validation_failed"),
        ({"avatar_file_id": "0198a1b2-0000-7000-8000-000000000000"}, 422, "validation_failed"),
    ):
        answer = await ada.ask("PATCH", "/api/auth/me", body)
        assert (answer.status, answer.code) == (status, code), body
    assert (await ada.ask("PATCH", "/api/auth/me", {"username": "ADA"})).body["username"] == "ADA"
    assert (await ada.ask("PATCH", "/api/auth/me", {"avatar_file_id": None})).body["avatar_url"] is None


# The password ---------------------------------------------------------------------------------------------------------


async def test_a_new_password_is_good_and_the_old_one_is_not(ada: Person) -> None:
    wrong = await change_password(ada, "not my password")
    assert (wrong.status, wrong.code) == (403, "wrong_password")
    common = await change_password(ada, PASSWORD, "password123")
    assert (common.status, common.pointers) == (422, ["/new_password"])
    assert (await change_password(ada)).status == 204
    assert (await sign_in(ada, PASSWORD)).status == 401
    assert (await sign_in(ada, ANOTHER)).status == 200


async def test_a_new_password_signs_out_everywhere_but_here(ada: Person) -> None:
    elsewhere = (await sign_in(ada, PASSWORD)).body
    assert (await change_password(ada)).status == 204
    for token in (ada.token, elsewhere["access_token"]):
        assert (await Person(ada.client, token=token).get("/api/auth/me")).status == 401
    assert (await ada.post("/api/auth/refresh", {"refresh_token": elsewhere["refresh_token"]})).status == 401
    here = await ada.post("/api/auth/refresh", {"refresh_token": ada.refresh_token})
    assert here.status == 200
    assert (await Person(ada.client, token=here.body["access_token"]).get("/api/auth/me")).status == 200


async def test_a_new_password_ends_open_sockets(ada: Person, postgres_dsn: str) -> None:
    lecture = await make_lecture(postgres_dsn)
    await ada.make("/api/enrollments", {"course_id": str(lecture.course_id)})
    session = await ada.make(f"/api/videos/{lecture.video_id}/sessions", {})
    socket = await ada.client.ws_connect(
        f"/api/videos/ws/{session['session_id']}", protocols=("lectern.v1", f"bearer.{session['token']}")
    )
    assert (await change_password(ada)).status == 204
    async with asyncio.timeout(30):
        while (message := await socket.receive()).type is WSMsgType.TEXT:
            pass
    assert (message.type, message.data) == (WSMsgType.CLOSE, 4401)


async def test_of_two_who_change_the_password_at_once_one_does(ada: Person) -> None:
    answers = await asyncio.gather(*(change_password(ada, PASSWORD, f"{ANOTHER} {n}") for n in range(4)))
    assert {answer.status for answer in answers} <= {204, 401, 403}
    assert [answer.status for answer in answers].count(204) == 1


async def test_who_signs_in_while_the_password_changes_has_nothing_of_it(ada: Person) -> None:
    answers = await asyncio.gather(change_password(ada), *(sign_in(ada, PASSWORD) for _ in range(10)))
    for answer in answers[1:]:
        if answer.status == 200:  # it was in before the change: its tokens are worth nothing now
            left = await ada.post("/api/auth/refresh", {"refresh_token": answer.body["refresh_token"]})
            assert left.status == 401


# Taking everything along ----------------------------------------------------------------------------------------------


async def tables_naming_a_user(sql: Sql) -> set[str]:
    rows = await sql.fetch(
        "SELECT DISTINCT conrelid::regclass::text AS name FROM pg_constraint"
        " WHERE contype = 'f' AND confrelid = 'users'::regclass"
    )
    return {row["name"] for row in rows}


def named(prefix: str) -> set[str]:
    return {name.removeprefix(prefix) for name in queries("personal").statements if name.startswith(prefix)}


async def test_every_table_that_names_a_user_is_exported(sql: Sql) -> None:
    assert await tables_naming_a_user(sql) == named("export_")


async def test_every_table_that_names_a_user_is_erased_or_stays_for_a_reason(sql: Sql) -> None:
    # Jobs name users in what they are about, not by a key, and are gone in minutes unless they cannot be done.
    assert await tables_naming_a_user(sql) | {"jobs"} == named("erase_") | KEPT.keys()
    assert not named("erase_") & KEPT.keys()


async def lead_a_life(person: Person, people: People, dsn: str) -> dict[str, Any]:
    """Something in every table that names a user."""
    lecture = await make_lecture(dsn)
    await person.make("/api/enrollments", {"course_id": str(lecture.course_id)})
    await person.put(f"/api/progress/lectures/{lecture.lecture_id}", {"watched_ranges": [[0, 10]], "position": 10})
    session = await person.make(f"/api/videos/{lecture.video_id}/sessions", {"device": "Ada's phone"})
    course = await person.make("/api/courses", {"title": "Engines", "status": "published"})
    return {"lecture": lecture, "session": session, "course": course}


async def test_an_export_holds_what_one_did_and_nothing_secret_or_of_others(
    people: People, postgres_dsn: str, sql: Sql
) -> None:
    ada, ben = await people.join("ada", "instructor"), await people.join("ben")
    life = await lead_a_life(ada, people, postgres_dsn)
    answer = await ada.get("/api/auth/me/export")
    assert answer.status == 200
    assert answer.headers["Content-Disposition"].startswith("attachment")
    assert answer.body["account"] == (await ada.get("/api/auth/me")).body
    tables = answer.body["tables"]
    assert tables.keys() == await tables_naming_a_user(sql)
    assert [row["title"] for row in tables["courses"]] == ["Engines"]
    assert [row["course_id"] for row in tables["enrollments"]] == [str(life["lecture"].course_id)]
    assert tables["progress"][0]["watched_ranges_ms"] == [[0, 10_000]]
    assert [(row["id"], row["device"]) for row in tables["video_sessions"]] == [
        (life["session"]["session_id"], "Ada's phone")
    ]
    assert [row["network"] for row in tables["sign_in_addresses"]] == ["127.0.0.1/32"]
    text = json.dumps(answer.body)
    for secret in ("password_hash", "token_hash", "$2b$", ada.refresh_token, ben.id, ben.name + "@"):
        assert secret not in text


# Leaving --------------------------------------------------------------------------------------------------------------


async def test_who_left_is_nobody_and_name_and_address_are_free(people: People, postgres_dsn: str, sql: Sql) -> None:
    ada = await people.join("ada", "instructor")
    life = await lead_a_life(ada, people, postgres_dsn)
    wrong = await ada.ask("DELETE", "/api/auth/me", {"current_password": "not my password"})
    assert (wrong.status, wrong.code) == (403, "wrong_password")
    assert (await ada.ask("DELETE", "/api/auth/me", {"current_password": PASSWORD})).status == 204
    assert (await ada.get("/api/auth/me")).status == 401
    assert (await ada.post("/api/auth/refresh", {"refresh_token": ada.refresh_token})).status == 401
    assert (await sign_in(ada, PASSWORD)).status == 401
    row = await sql.fetchrow("SELECT * FROM users WHERE id = $1", ada.id)
    assert row is not None
    assert "ada" not in f"{row['username']}{row['email']}".replace(str(row["id"]), "")
    assert (row["role"], row["password_hash"], row["avatar_url"]) == ("student", "", None)
    for table in ("refresh_tokens", "sign_in_addresses", "progress"):
        assert await sql.fetchval(f"SELECT count(*) FROM {table} WHERE user_id = $1", ada.id) == 0  # noqa: S608
    session = await sql.fetchrow("SELECT * FROM video_sessions WHERE id = $1", life["session"]["session_id"])
    assert session is not None
    assert (session["status"], session["device"]) == ("ended", None)
    # What others have of them stays.
    assert (await people.stranger.get(f"/api/courses/{life['course']['id']}")).status == 200
    again = await people.join("ada")
    assert again.id != ada.id


async def test_what_the_tutor_said_to_who_left_is_gone_from_redis_too(people: People, client: AppClient) -> None:
    ada = await people.join("ada")
    assert (await ada.post("/api/chat/message", {"message": "What is my name?"})).status == 200
    redis = client.app[REDIS]
    assert await redis.keys(f"chat:*{ada.id}") != []
    assert (await ada.ask("DELETE", "/api/auth/me", {"current_password": PASSWORD})).status == 204
    assert await redis.keys(f"chat:*{ada.id}") == []


async def test_what_another_device_was_sending_while_one_left_goes_too(
    client: AppClient, ada: Person, postgres_dsn: str, sql: Sql
) -> None:
    lecture = await make_lecture(postgres_dsn)
    async with sql.transaction():  # two requests that are not through when one leaves
        await sql.execute("INSERT INTO progress (user_id, lecture_id) VALUES ($1, $2)", ada.id, lecture.lecture_id)
        await sql.execute(
            "INSERT INTO enrollments (user_id, course_id, source) VALUES ($1, $2, 'free')", ada.id, lecture.course_id
        )
        assert (await ada.ask("DELETE", "/api/auth/me", {"current_password": PASSWORD})).status == 204
    waits_s = await sql.fetchval(
        "SELECT extract(epoch FROM run_at - now()) FROM jobs WHERE payload ->> 'user_id' = $1", ada.id
    )
    assert client.app is not None
    assert waits_s > client.app[CONFIG].files.receive_timeout_s  # a file may be arriving for so long
    await sql.execute("UPDATE jobs SET run_at = now()")
    async with asyncio.timeout(30):
        while await sql.fetchval("SELECT count(*) FROM jobs"):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    assert await sql.fetchval("SELECT count(*) FROM progress WHERE user_id = $1", ada.id) == 0
    assert not await sql.fetchval("SELECT is_active FROM enrollments WHERE user_id = $1", ada.id)


async def test_who_leaves_is_signed_out_before_redis_is_waited_for(
    client: AppClient, ada: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    socket = await client.ws_connect("/api/events", protocols=("lectern.v1", f"bearer.{ada.token}"))
    assert client.app is not None
    told: list[WSMessage] = []

    async def stand_still(*_: object) -> None:
        told.append(await socket.receive())
        raise TimeoutError

    monkeypatch.setattr(client.app[REDIS], "delete", stand_still)
    monkeypatch.setattr("handlers.account.ANNOUNCED_WITHIN_S", 30.0)
    assert (await ada.ask("DELETE", "/api/auth/me", {"current_password": PASSWORD})).status == 204
    assert [message.json()["type"] for message in told] == ["revoked"]


async def test_who_leaves_twice_at_once_left_once(ada: Person, sql: Sql) -> None:
    async with sql.transaction():
        await sql.execute("SELECT 1 FROM users WHERE id = $1 FOR UPDATE", ada.id)
        leaving = [asyncio.create_task(ada.ask("DELETE", "/api/auth/me", {"current_password": PASSWORD})) for _ in "12"]
        async with asyncio.timeout(30):
            while await sql.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted") < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    assert [answer.status for answer in await asyncio.gather(*leaving)] == [204, 204]
    assert await sql.fetchval("SELECT ver FROM users WHERE id = $1", ada.id) == 2
    assert await sql.fetchval("SELECT count(*) FROM jobs WHERE kind = 'leftovers'") == 1


async def test_nobody_signs_in_to_what_was_erased(people: People, sql: Sql) -> None:
    ada = await people.join("ada")
    await ada.ask("DELETE", "/api/auth/me", {"current_password": PASSWORD})
    row = await sql.fetchrow("SELECT username, email FROM users WHERE id = $1", ada.id)
    assert row is not None
    for login in row:
        for password in ("", PASSWORD, "nobody has this password"):
            refused = await people.stranger.post("/api/auth/login", {"login": login, "password": password})
            assert (refused.status, refused.code) == (401, "bad_credentials")


async def test_nobody_can_take_the_name_that_another_will_need_to_leave(people: People, sql: Sql) -> None:
    ada, ben = await people.join("ada"), await people.join("ben")
    await ada.ask("DELETE", "/api/auth/me", {"current_password": PASSWORD})
    row = await sql.fetchrow("SELECT username, email FROM users WHERE id = $1", ada.id)
    assert row is not None
    account = {"username": "mal", "email": "mal@example.com", "password": PASSWORD}
    for member, taken in row.items():
        refused = await people.stranger.post("/api/auth/register", account | {member: taken.replace(ada.id, ben.id)})
        assert (refused.status, refused.pointers) == (422, [f"/{member}"])


async def test_who_left_is_not_among_the_users(people: People) -> None:
    admin, ada = await people.join("root", "admin"), await people.join("ada")
    await ada.ask("DELETE", "/api/auth/me", {"current_password": PASSWORD})
    assert [row["username"] for row in (await admin.get("/api/auth/users")).body["items"]] == ["root"]
    assert (await admin.get(f"/api/auth/users/{ada.id}")).status == 404
    assert (await admin.post(f"/api/auth/users/{ada.id}/roles", {"role": "admin"})).status == 404
    assert (await admin.get(f"/api/enrollments/users/{ada.id}")).status == 404
    assert (await admin.get(f"/api/progress/users/{ada.id}")).status == 404


async def test_the_last_admin_does_not_leave(people: People) -> None:
    admin = await people.join("root", "admin")
    refused = await admin.ask("DELETE", "/api/auth/me", {"current_password": PASSWORD})
    assert (refused.status, refused.code) == (409, "last_admin")
    assert (await admin.get("/api/auth/me")).status == 200
    await people.join("second", "admin")
    assert (await admin.ask("DELETE", "/api/auth/me", {"current_password": PASSWORD})).status == 204

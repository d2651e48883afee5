"""Registering, signing in, and what keeps somebody signed in."""

import asyncio
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import asyncpg
import bcrypt
import pytest
import pytest_asyncio

from server.http.keys import PASSWORDS
from tests.support.app import AppClient
from tests.support.people import PASSWORD, People, Person
from tests.support.standing import *  # noqa: F403  fixtures
from tests.support.standing import STANDING

pytestmark = STANDING

ADA: dict[str, Any] = {"username": "Ada", "email": "Ada@Example.com", "password": PASSWORD}


@pytest.fixture(scope="module")
def overrides() -> dict[str, dict[str, Any]]:
    """A token may come again for as long as a test takes."""
    return {"auth": {"refresh_grace_s": 300.0}}


@pytest_asyncio.fixture(loop_scope="module")
async def nobody_else(sql: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Whoever other tests have registered goes by another name."""
    await sql.execute("UPDATE users SET username = id::text, email = id || '@example.org'")


@pytest.fixture
def people(client: AppClient, sql: "asyncpg.Connection[asyncpg.Record]", nobody_else: None) -> People:
    """They have the names that they are given."""
    return People(client, sql)


@pytest.fixture
def anybody(people: People) -> Person:
    """Somebody who is not signed in."""
    return people.stranger


async def test_a_new_user_is_a_signed_in_student(anybody: Person) -> None:
    answer = await anybody.post("/api/auth/register", ADA | {"username": "Ada"})
    assert answer.status == 201
    assert answer.headers["Location"] == "/api/auth/me"
    assert set(answer.body) == {"user", "access_token", "token_type", "expires_in", "refresh_token"}
    assert (answer.body["token_type"], answer.body["expires_in"]) == ("Bearer", 900)
    user = answer.body["user"]
    assert set(user) == {
        "id", "username", "email", "role", "email_verified", "avatar_url", "created_at", "updated_at",
    }  # fmt: skip
    assert (user["username"], user["email"], user["role"]) == ("Ada", "Ada@Example.com", "student")
    anybody.token = answer.body["access_token"]
    me = await anybody.get("/api/auth/me")
    assert me.status == 200
    assert me.body == user


async def test_names_and_addresses_are_unique_in_any_case(anybody: Person) -> None:
    await anybody.make("/api/auth/register", ADA)
    taken = await anybody.post("/api/auth/register", ADA | {"username": "aDA", "email": "other@example.com"})
    assert (taken.status, taken.code) == (409, "username_taken")
    taken = await anybody.post("/api/auth/register", ADA | {"username": "other", "email": "aDA@eXample.com"})
    assert (taken.status, taken.code) == (409, "email_taken")


async def test_of_many_who_want_a_name_at_once_one_gets_it(anybody: Person) -> None:
    wishes = [ADA | {"email": f"ada{n}@example.com"} for n in range(8)]
    answers = await asyncio.gather(*(anybody.post("/api/auth/register", wish) for wish in wishes))
    assert sorted(answer.status for answer in answers) == [201] + [409] * 7


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("role", "admin"),
        ("username", ""),
        ("username", "a b"),
        ("username", "a@b.example"),
        ("username", "zero\u200bwidth"),
        ("username", "\u3164"),
        ("username", "ada\ufe0f"),
        ("username", "n" * 65),
        ("username", 5),
        ("username", None),
        ("email", "nobody"),
        ("email", "no body@example.com"),
        ("email", "a@b"),
        ("email", "a@b@example.com"),
        ("email", "a" * 250 + "@example.com"),
        ("password", "seven77"),
        ("password", "x" * 257),
        ("password", "password123"),
        ("password", "PassWord123"),
        ("password", 12345678),
    ],
)
async def test_what_is_no_registration_is_pointed_at(anybody: Person, member: str, value: Any) -> None:
    answer = await anybody.post("/api/auth/register", ADA | {member: value})
    assert (answer.status, answer.code) == (422, "validation_failed")
    assert answer.pointers == [f"/{member}"]


async def test_every_character_of_any_password_counts(anybody: Person) -> None:
    long = "ж" * 255
    await anybody.make("/api/auth/register", ADA | {"password": long + "1"})
    wrong = await anybody.post("/api/auth/login", {"login": "ada", "password": long + "2"})
    assert (wrong.status, wrong.code) == (401, "bad_credentials")
    right = await anybody.post("/api/auth/login", {"login": "ada", "password": long + "1"})
    assert right.status == 200


async def test_one_signs_in_by_name_or_address_in_any_case(anybody: Person) -> None:
    await anybody.make("/api/auth/register", ADA)
    for login in ("ada", "ADA", "ada@example.com", "ADA@EXAMPLE.COM"):
        answer = await anybody.post("/api/auth/login", {"login": login, "password": PASSWORD})
        assert answer.status == 200
        assert answer.body["user"]["username"] == "Ada"


async def test_an_unknown_user_and_a_wrong_password_are_told_alike(anybody: Person) -> None:
    await anybody.make("/api/auth/register", ADA)
    answers = [
        await anybody.post("/api/auth/login", {"login": login, "password": "not this one"})
        for login in ("ada", "nobody", "nobody@example.com", "")
    ]
    for answer in answers:
        answer.body.pop("request_id")
        assert answer.status == 401
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert answer.body == answers[0].body


async def test_a_stale_token_in_the_header_does_not_keep_one_from_signing_in(anybody: Person) -> None:
    await anybody.make("/api/auth/register", ADA)
    anybody.token = "stale"
    assert (await anybody.post("/api/auth/login", {"login": "ada", "password": PASSWORD})).status == 200


async def test_a_refresh_token_is_good_once_and_gives_the_next(people: People) -> None:
    ada = await people.join("ada")
    first = await ada.post("/api/auth/refresh", {"refresh_token": ada.refresh_token})
    assert first.status == 200
    assert first.body["refresh_token"] != ada.refresh_token
    second = await ada.post("/api/auth/refresh", {"refresh_token": first.body["refresh_token"]})
    assert second.status == 200
    assert (await Person(ada.client, token=second.body["access_token"]).get("/api/auth/me")).status == 200


async def test_a_token_sent_again_within_the_grace_harms_nothing(people: People) -> None:
    ada = await people.join("ada")
    first = await ada.post("/api/auth/refresh", {"refresh_token": ada.refresh_token})
    again = await ada.post("/api/auth/refresh", {"refresh_token": ada.refresh_token})
    assert (again.status, again.code) == (401, "refresh_spent")
    assert (await ada.post("/api/auth/refresh", {"refresh_token": first.body["refresh_token"]})).status == 200


async def test_a_token_used_again_later_ends_its_family_and_no_other(
    people: People, sql: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    ada = await people.join("ada")
    elsewhere = await ada.post("/api/auth/login", {"login": "ada", "password": PASSWORD})
    first = await ada.post("/api/auth/refresh", {"refresh_token": ada.refresh_token})
    await sql.execute("UPDATE refresh_tokens SET used_at = used_at - interval '301 seconds' WHERE user_id = $1", ada.id)
    for stolen in (ada.refresh_token, first.body["refresh_token"], ada.refresh_token):
        answer = await ada.post("/api/auth/refresh", {"refresh_token": stolen})
        assert (answer.status, answer.code) == (401, "refresh_reused")
    assert (await ada.post("/api/auth/refresh", {"refresh_token": elsewhere.body["refresh_token"]})).status == 200


async def test_fifty_refreshes_of_one_token_give_exactly_one_pair(people: People) -> None:
    ada = await people.join("ada")
    answers = await asyncio.gather(
        *(ada.post("/api/auth/refresh", {"refresh_token": ada.refresh_token}) for _ in range(50))
    )
    assert (
        sorted((answer.status, answer.code) for answer in answers if answer.status != 200)
        == [(401, "refresh_spent")] * 49
    )


async def test_a_token_that_is_out_of_date_or_unknown_is_refused(
    people: People, sql: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    ada = await people.join("ada")
    await sql.execute("UPDATE refresh_tokens SET expires_at = now() WHERE user_id = $1", ada.id)
    for token in (ada.refresh_token, "unknown", ""):
        answer = await ada.post("/api/auth/refresh", {"refresh_token": token})
        assert (answer.status, answer.code) == (401, "unauthorized")


async def test_logging_out_ends_the_family_and_may_be_repeated(people: People) -> None:
    ada = await people.join("ada")
    first = await ada.post("/api/auth/refresh", {"refresh_token": ada.refresh_token})
    for _ in range(2):
        assert (await ada.post("/api/auth/logout", {"refresh_token": ada.refresh_token})).status == 204
    answer = await ada.post("/api/auth/refresh", {"refresh_token": first.body["refresh_token"]})
    assert answer.status == 401


async def test_a_valid_token_is_told_whose_it_is(people: People) -> None:
    ada = await people.join("ada", "instructor")
    answer = await people.stranger.post("/api/auth/validate", {"token": ada.token})
    assert answer.status == 200
    assert set(answer.body) == {"valid", "user_id", "role", "expires_at"}
    assert (answer.body["valid"], answer.body["user_id"], answer.body["role"]) == (True, ada.id, "instructor")
    assert answer.body["expires_at"].endswith("Z")


async def test_a_token_that_is_not_valid_is_told_so_alone(
    people: People, sql: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    ada = await people.join("ada")
    await sql.execute("UPDATE users SET ver = ver + 1 WHERE id = $1", ada.id)
    for token in (ada.token, "x", "", "a.b.c"):
        answer = await people.stranger.post("/api/auth/validate", {"token": token})
        assert (answer.status, answer.body) == (200, {"valid": False})
    refused = await ada.get("/api/auth/me")
    assert (refused.status, refused.headers["WWW-Authenticate"]) == (401, "Bearer")


async def test_a_flood_of_sign_ins_is_told_to_come_back_and_counts_for_nothing(
    client: AppClient, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = await people.join("ada")
    with monkeypatch.context() as patch:
        patch.setattr(client.app[PASSWORDS], "_waiting", 1_000_000)
        for login, password in (("ada", PASSWORD), ("ada", "wrong password"), ("nobody", PASSWORD)):
            refused = await people.stranger.post("/api/auth/login", {"login": login, "password": password})
            assert (refused.status, refused.code, refused.headers["Retry-After"]) == (503, "overloaded", "2")
        assert (await ada.get("/api/auth/me")).status == 200
    assert (await people.stranger.post("/api/auth/login", {"login": "ada", "password": PASSWORD})).status == 200


async def test_a_password_is_looked_at_to_the_end_however_slow_the_machine_is(
    people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed_s = 0.0

    def slowly(work: Callable[..., Any]) -> Callable[..., Any]:
        def done(*args: Any) -> Any:
            nonlocal passed_s
            passed_s += 1000.0
            time.sleep(0.2)  # in which it would be seen that the handler's time is over
            return work(*args)

        return done

    monkeypatch.setattr("server.http.deadlines.time", SimpleNamespace(monotonic=lambda: time.monotonic() + passed_s))
    for name in ("hashpw", "checkpw"):
        monkeypatch.setattr(bcrypt, name, slowly(getattr(bcrypt, name)))
    ada = await people.join("ada")
    assert (await people.stranger.post("/api/auth/login", {"login": "ada", "password": PASSWORD})).status == 200
    change = {"current_password": PASSWORD, "new_password": "another long password"}
    assert (await ada.put("/api/auth/me/password", change)).status == 204
    monkeypatch.setattr("server.http.passwords.LONGEST_S", 0.1)
    late = await people.stranger.post("/api/auth/login", {"login": "ada", "password": PASSWORD})
    assert (late.status, late.code) == (503, "overloaded")
    assert int(late.headers["Retry-After"]) > 0


async def test_who_is_not_signed_in_has_no_account_to_see(client: AppClient, people: People) -> None:
    answer = await people.stranger.get("/api/auth/me")
    assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, "Bearer")

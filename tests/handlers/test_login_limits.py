"""How often a password may be tried, and that no stranger locks the owner out."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, TypeAlias, cast

import asyncpg
import pytest

from embedded.valkey import Valkey
from server.config import Limits
from server.http.keys import PASSWORDS, REDIS, TRIES
from tests.support.app import AppClient, serving, serving_unlimited, settings
from tests.support.core import eventually
from tests.support.pausing import paused
from tests.support.people import PASSWORD, Answer, People, Person

Sql: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
A_DAY_S = 86_400
HOME, ELSEWHERE = "198.51.100.7", "203.0.113.9"


@pytest.fixture
def overrides() -> dict[str, dict[str, Any]]:
    """As many tries as by default, none of which comes back while a test lasts; addresses as a proxy tells them."""
    limits: dict[str, Any] = {name: {"rate": 0} for name in ("auth", "read", "write")}
    limits |= {"login_account": {"rate": 10, "per_s": A_DAY_S, "burst": 10}}
    limits |= {"login_address": {"rate": 40, "per_s": A_DAY_S, "burst": 40}}
    return {"limits": limits, "server": {"trusted_proxies": ["127.0.0.0/8"]}}


async def sign_in(person: Person, password: str, address: str, login: str = "ada") -> Answer:
    return await person.post(
        "/api/auth/login", {"login": login, "password": password}, headers={"X-Forwarded-For": address}
    )


@pytest.fixture
async def ada(people: People) -> Person:
    """Registered from 127.0.0.1."""
    return await people.join("ada")


async def test_ten_wrong_passwords_from_an_address_are_all_that_it_has(ada: Person) -> None:
    for _ in range(10):
        assert (await sign_in(ada, "wrong password", ELSEWHERE)).status == 401
    for password in ("wrong password", PASSWORD):
        refused = await sign_in(ada, password, ELSEWHERE)
        assert (refused.status, refused.code) == (429, "rate_limited")
        assert 0 < int(refused.headers["Retry-After"]) <= A_DAY_S / 10
        assert (refused.headers["RateLimit-Limit"], refused.headers["RateLimit-Remaining"]) == ("10", "0")
    assert (await sign_in(ada, PASSWORD, HOME)).status == 200


async def test_many_tries_at_once_are_no_more_than_the_limit(ada: Person) -> None:
    answers = await asyncio.gather(*(sign_in(ada, "wrong password", ELSEWHERE) for _ in range(30)))
    assert sorted(answer.status for answer in answers) == [401] * 10 + [429] * 20


async def test_many_tries_at_once_at_several_processes_are_no_more_than_the_limit(
    ada: Person, postgres_dsn: str, redis_url: str, overrides: dict[str, dict[str, Any]]
) -> None:
    async with serving_unlimited(postgres_dsn, redis_url, overrides) as elsewhere:
        there = Person(elsewhere)
        tries = [sign_in(person, "wrong password", ELSEWHERE) for person in (ada, there) for _ in range(15)]
        answers = await asyncio.gather(*tries)
    assert sorted(answer.status for answer in answers) == [401] * 10 + [429] * 20


async def test_right_passwords_at_once_are_no_failures(ada: Person) -> None:
    answers = await asyncio.gather(*(sign_in(ada, PASSWORD, ELSEWHERE) for _ in range(30)))
    assert [answer.status for answer in answers] == [200] * 30
    for _ in range(10):
        assert (await sign_in(ada, "wrong password", ELSEWHERE)).status == 401
    assert (await sign_in(ada, PASSWORD, ELSEWHERE)).status == 429


async def test_of_right_and_wrong_passwords_at_once_only_the_wrong_ones_are_counted(ada: Person) -> None:
    passwords = [PASSWORD, "wrong password", PASSWORD] * 9
    answers = await asyncio.gather(*(sign_in(ada, password, ELSEWHERE) for password in passwords))
    told = list(zip(passwords, (answer.status for answer in answers), strict=True))
    assert told == [(password, 200 if password == PASSWORD else 401) for password in passwords]


async def test_whom_the_right_passwords_of_others_keep_waiting_too_long_is_told_to_come_back(
    ada: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not that they were wrong."""
    app = cast(AppClient, ada.client).app
    looked_at, verify = asyncio.Event(), app[PASSWORDS].verify

    async def slowly(password: str, stored: str | None) -> bool:
        await looked_at.wait()
        return await verify(password, stored)

    monkeypatch.setattr(app[PASSWORDS], "verify", slowly)
    monkeypatch.setattr(app[TRIES], "wait_s", 0.1)
    first = [asyncio.ensure_future(sign_in(ada, PASSWORD, ELSEWHERE)) for _ in range(10)]
    await eventually(lambda: len(app[TRIES].at(("login_account", f"{ada.id}@{ELSEWHERE}", 1.0))) == 10)
    late = await sign_in(ada, PASSWORD, ELSEWHERE)
    assert (late.status, late.code) == (503, "overloaded")
    assert int(late.headers["Retry-After"]) > 0
    looked_at.set()
    assert [answer.status for answer in await asyncio.gather(*first)] == [200] * 10


async def test_name_and_address_are_one_account(ada: Person) -> None:
    for n in range(10):
        login = ("ada", "ADA@EXAMPLE.COM", "Ada", "ada@example.com")[n % 4]
        assert (await sign_in(ada, "wrong password", ELSEWHERE, login)).status == 401
    assert (await sign_in(ada, "wrong password", ELSEWHERE)).status == 429


async def test_right_passwords_are_not_counted_against_the_account(ada: Person) -> None:
    for _ in range(15):
        assert (await sign_in(ada, PASSWORD, HOME)).status == 200
    assert (await sign_in(ada, "wrong password", HOME)).status == 401


async def test_an_account_that_is_not_there_is_limited_alike(ada: Person) -> None:
    told = {}
    for login in ("ada", "nobody"):
        answers = [await sign_in(ada, "wrong password", ELSEWHERE, login) for _ in range(12)]
        told[login] = [(answer.status, answer.code, "Retry-After" in answer.headers) for answer in answers]
    assert told["ada"] == told["nobody"]


async def test_a_stranger_with_many_addresses_does_not_lock_the_owner_out(ada: Person) -> None:
    """Ten times the limit from all addresses; those from which the owner signed in lately are exempt."""
    assert (await sign_in(ada, PASSWORD, HOME)).status == 200
    for n in range(100):
        assert (await sign_in(ada, "wrong password", f"192.0.2.{n // 10}")).status == 401
    assert (await sign_in(ada, "wrong password", "192.0.2.99")).status == 429
    assert (await sign_in(ada, PASSWORD, "192.0.2.98")).status == 429
    assert (await sign_in(ada, PASSWORD, HOME)).status == 200


async def test_an_address_of_long_ago_is_any_address(ada: Person, sql: Sql) -> None:
    assert (await sign_in(ada, PASSWORD, HOME)).status == 200
    await sql.execute("UPDATE sign_in_addresses SET seen_at = now() - interval '31 days'")
    for n in range(100):
        await sign_in(ada, "wrong password", f"192.0.2.{n // 10}")
    assert (await sign_in(ada, PASSWORD, HOME)).status == 429


async def test_a_whole_ipv6_network_is_one_address(ada: Person) -> None:
    for n in range(10):
        assert (await sign_in(ada, "wrong password", f"2001:db8::{n}")).status == 401
    assert (await sign_in(ada, "wrong password", "2001:db8::ffff")).status == 429
    assert (await sign_in(ada, "wrong password", "2001:db8:0:1::1")).status == 401


async def test_forty_tries_from_an_address_are_all_that_it_has_for_whatever_account(ada: Person) -> None:
    for n in range(40):
        assert (await sign_in(ada, "wrong password", ELSEWHERE, f"somebody{n}")).status == 401
    assert (await sign_in(ada, PASSWORD, ELSEWHERE)).status == 429
    assert (await sign_in(ada, PASSWORD, HOME)).status == 200


async def test_a_whole_school_signs_in_from_one_address(ada: Person) -> None:
    for _ in range(45):
        assert (await sign_in(ada, PASSWORD, ELSEWHERE)).status == 200
    assert (await sign_in(ada, "wrong password", ELSEWHERE, "somebody")).status == 401


async def test_the_current_password_is_no_easier_to_guess(people: People, ada: Person) -> None:
    body = {"current_password": "wrong password", "new_password": "another battery"}
    for _ in range(10):
        assert (await ada.put("/api/auth/me/password", body)).code == "wrong_password"
    assert (await ada.put("/api/auth/me/password", body | {"current_password": PASSWORD})).status == 429
    assert (await ada.ask("DELETE", "/api/auth/me", {"current_password": PASSWORD})).status == 429


def test_the_limits_are_those_that_are_promised() -> None:
    limits = Limits()
    assert (limits.login_account.rate, limits.login_account.per_s) == (10, 900)
    assert (limits.login_address.rate, limits.login_address.per_s) == (40, 900)


@pytest.fixture
async def frail(postgres_dsn: str, own_valkey: Valkey) -> AsyncIterator[AppClient]:
    async with serving(settings(postgres_dsn, own_valkey.url)) as client:
        yield client


async def test_while_redis_is_away_nobody_signs_in_but_who_is_signed_in_stays(
    frail: AppClient, own_valkey: Valkey, sql: Sql
) -> None:
    ada = await People(frail, sql).join("ada")
    own_valkey.stop()
    for password in (PASSWORD, "wrong password"):
        refused = await ada.post("/api/auth/login", {"login": "ada", "password": password})
        assert (refused.status, refused.code) == (503, "redis_unavailable")
        assert int(refused.headers["Retry-After"]) > 0
    renewed = await ada.post("/api/auth/refresh", {"refresh_token": ada.refresh_token})
    assert renewed.status == 200
    ada.token = renewed.body["access_token"]
    body = {"current_password": PASSWORD, "new_password": "another battery"}
    assert (await ada.put("/api/auth/me/password", body)).status == 204
    own_valkey.start()
    assert (await ada.post("/api/auth/login", {"login": "ada", "password": "another battery"})).status == 200


async def test_a_right_password_that_redis_counts_when_nobody_waits_any_more_is_no_failure(
    postgres_dsn: str, own_valkey: Valkey, sql: Sql, overrides: dict[str, dict[str, Any]]
) -> None:
    overrides["redis"] = {"timeout_s": 0.5, "count_timeout_s": 0.5}
    async with serving(settings(postgres_dsn, own_valkey.url, **overrides)) as client:
        ada = await People(client, sql).join("ada")
        await client.app[REDIS].ping()  # so that there is a connection
        with paused(own_valkey):
            assert (await ada.post("/api/auth/login", {"login": "ada", "password": PASSWORD})).status == 503
        await eventually(lambda: own_valkey.command("KEYS", "limit:login*") == b"*0\r\n")

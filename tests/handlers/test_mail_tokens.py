"""Proving an address, and setting a password that was forgotten."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any, TypeAlias

import asyncpg
import pytest

from tests.support.app import AppClient, serving, settings
from tests.support.mail import LINK, MailBox, token_of
from tests.support.people import PASSWORD, Answer, People, Person

Sql: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
ANOTHER = "another battery staple"
VERIFY, RESET = "Confirm your e-mail", "Set a new password"


@pytest.fixture
def overrides(box: MailBox) -> dict[str, dict[str, Any]]:
    return {
        "smtp": box.settings,
        "jobs": {"poll_s": 0.05, "backoff_s": 0.1},
        "server": {"public_url": "https://learn.example.org/"},
    }


@pytest.fixture
async def ada(people: People) -> Person:
    return await people.join("ada")


async def forget(person: Person, email: str = "ada@example.com", **more: Any) -> Answer:
    return await person.post("/api/auth/password/forgot", {"email": email}, **more)


async def reset(person: Person, token: str, password: str = ANOTHER) -> Answer:
    return await person.post("/api/auth/password/reset", {"token": token, "new_password": password})


async def sign_in(person: Person, password: str) -> Answer:
    return await person.post("/api/auth/login", {"login": "ada", "password": password})


# Proving an address ---------------------------------------------------------------------------------------------------


async def test_who_registers_gets_a_mail_and_proves_the_address_once(ada: Person, box: MailBox) -> None:
    mail = await box.get(VERIFY, "ada@example.com")
    assert LINK.findall(mail.text)[0].startswith("https://learn.example.org/#/verify/")
    token = token_of(mail)
    assert (await ada.post("/api/auth/email/verify", {"token": token})).status == 204
    assert (await ada.get("/api/auth/me")).body["email_verified"] is True
    again = await ada.post("/api/auth/email/verify", {"token": token})
    assert (again.status, again.code, again.pointers) == (422, "bad_token", ["/token"])


async def test_a_mail_is_sent_again_when_asked_for_and_not_when_there_is_nothing_to_prove(
    ada: Person, box: MailBox, sql: Sql
) -> None:
    await box.get(VERIFY, "ada@example.com")
    assert (await ada.post("/api/auth/email/verify/resend")).status == 202
    token = token_of(await box.get(VERIFY, "ada@example.com"))
    await ada.post("/api/auth/email/verify", {"token": token})
    assert (await ada.post("/api/auth/email/verify/resend")).status == 202
    await settled(sql)
    assert box.mails == []


async def test_a_link_proves_the_address_that_it_was_sent_to_and_no_other(ada: Person, box: MailBox) -> None:
    before = token_of(await box.get(VERIFY, "ada@example.com"))
    await ada.ask("PATCH", "/api/auth/me", {"email": "ada@elsewhere.example"})
    assert (await ada.post("/api/auth/email/verify", {"token": before})).code == "bad_token"
    assert "no longer come here" in (await box.get("address was changed", "ada@example.com")).text
    after = token_of(await box.get(VERIFY, "ada@elsewhere.example"))
    assert (await ada.post("/api/auth/email/verify", {"token": after})).status == 204
    assert (await ada.get("/api/auth/me")).body["email_verified"] is True


# A forgotten password -------------------------------------------------------------------------------------------------


async def test_a_forgotten_password_is_set_anew_and_one_is_signed_out_everywhere(ada: Person, box: MailBox) -> None:
    assert (await forget(ada, "ADA@Example.com")).status == 202
    token = token_of(await box.get(RESET, "ada@example.com"))
    assert (await reset(ada, token, "password123")).pointers == ["/new_password"]
    assert (await reset(ada, token)).status == 204
    assert (await sign_in(ada, PASSWORD)).status == 401
    assert (await ada.get("/api/auth/me")).status == 401
    assert (await ada.post("/api/auth/refresh", {"refresh_token": ada.refresh_token})).status == 401
    answer = await sign_in(ada, ANOTHER)
    assert (answer.status, answer.body["user"]["email_verified"]) == (200, True)
    await box.get("password was changed", "ada@example.com")


async def test_of_many_who_use_a_link_at_once_one_does(ada: Person, box: MailBox) -> None:
    await forget(ada)
    token = token_of(await box.get(RESET, "ada@example.com"))
    answers = await asyncio.gather(*(reset(ada, token, f"{ANOTHER} {n}") for n in range(10)))
    assert sorted((answer.status, answer.code) for answer in answers) == [(204, None)] + [(422, "bad_token")] * 9


async def test_of_many_links_that_are_used_at_once_one_is_good(ada: Person, box: MailBox) -> None:
    for _ in range(3):  # they met nearly every time
        tokens = []
        for _ in range(5):
            await forget(ada)
            tokens.append(token_of(await box.get(RESET, "ada@example.com")))
        answers = await asyncio.gather(*(reset(ada, token, f"{ANOTHER} {token}") for token in tokens))
        assert sorted((answer.status, answer.code) for answer in answers) == [(204, None)] + [(422, "bad_token")] * 4
        await box.get("password was changed", "ada@example.com")


async def test_a_link_is_good_for_its_time_and_its_purpose(ada: Person, box: MailBox, sql: Sql) -> None:
    verify = token_of(await box.get(VERIFY, "ada@example.com"))
    await forget(ada)
    token = token_of(await box.get(RESET, "ada@example.com"))
    ttl = await sql.fetchval("SELECT max(expires_at - created_at) FROM mail_tokens")
    assert ttl.total_seconds() == 1800
    await sql.execute("UPDATE mail_tokens SET expires_at = now()")
    for wrong in (token, verify, "", "x" * 43):
        assert (await reset(ada, wrong)).code == "bad_token"
        assert (await ada.post("/api/auth/email/verify", {"token": wrong})).code == "bad_token"
    await sql.execute("UPDATE mail_tokens SET expires_at = now() + interval '1 minute'")
    assert (await reset(ada, verify)).code == "bad_token"
    assert (await ada.post("/api/auth/email/verify", {"token": token})).code == "bad_token"
    assert (await reset(ada, token)).status == 204


@pytest.mark.parametrize("change", ["password", "email"])
async def test_a_link_of_before_a_change_is_good_for_nothing(ada: Person, box: MailBox, change: str) -> None:
    await forget(ada)
    token = token_of(await box.get(RESET, "ada@example.com"))
    if change == "password":
        await ada.put("/api/auth/me/password", {"current_password": PASSWORD, "new_password": "a third battery"})
    else:
        await ada.ask("PATCH", "/api/auth/me", {"email": "ada@elsewhere.example"})
    assert (await reset(ada, token)).code == "bad_token"


@pytest.mark.parametrize("used", ["by its reader", "for nothing, since the password was changed"])
async def test_a_link_that_is_good_no_more_stays_so_when_its_mail_is_sent_again(
    ada: Person, box: MailBox, sql: Sql, used: str
) -> None:
    """The process that sent it died before that was noted."""
    await box.get(VERIFY, "ada@example.com")
    await settled(sql)
    await sql.execute(
        "CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;"
        "CREATE TRIGGER die BEFORE DELETE ON jobs FOR EACH ROW EXECUTE FUNCTION die()"
    )
    await forget(ada)
    token = token_of(await box.get(RESET, "ada@example.com"))
    if used == "by its reader":
        assert (await reset(ada, token)).status == 204
    else:
        await ada.put("/api/auth/me/password", {"current_password": PASSWORD, "new_password": ANOTHER})
    await box.get("password was changed", "ada@example.com")
    await forget(ada)  # another one, which sweeps what is out of date
    await box.get(RESET, "ada@example.com")
    await sql.execute("DROP TRIGGER die ON jobs; UPDATE jobs SET run_at = now()")
    await settled(sql)
    assert (await reset(ada, token, "a third battery")).code == "bad_token"
    assert token not in [token_of(mail) for mail in box.mails if mail.subject == RESET]


async def test_what_is_kept_of_a_token_is_its_hash_alone(ada: Person, box: MailBox, sql: Sql) -> None:
    await forget(ada)
    token = token_of(await box.get(RESET, "ada@example.com"))
    for table in ("mail_tokens", "jobs", "users"):
        rows = await sql.fetch(f"SELECT t::text AS row FROM {table} AS t")  # noqa: S608
        assert not any(token in row["row"] for row in rows)


async def test_an_unknown_address_is_answered_alike_and_the_same_is_done(ada: Person, box: MailBox, sql: Sql) -> None:
    """Nothing is looked up while the caller waits: one row is written, whoever is meant."""
    await box.get(VERIFY, "ada@example.com")
    await sql.execute("ALTER TABLE jobs ADD COLUMN seen boolean; CREATE TABLE seen AS SELECT payload FROM jobs LIMIT 0")
    await sql.execute(
        "CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN INSERT INTO seen VALUES (NEW.payload); RETURN NEW; END $$;"
        "CREATE TRIGGER see BEFORE INSERT ON jobs FOR EACH ROW EXECUTE FUNCTION see()"
    )
    told = []
    for email in ("ada@example.com", "nobody@example.com", "no address at all", ""):
        answer = await forget(ada, email)
        told.append((answer.status, answer.body))
    assert set(told) == {(202, b"")}
    assert await sql.fetchval("SELECT count(*) FROM seen") == 4
    await box.get(RESET, "ada@example.com")
    await settled(sql)
    assert box.mails == []


async def test_the_link_leads_where_the_configuration_says_whatever_host_was_asked(ada: Person, box: MailBox) -> None:
    headers = {"Host": "evil.example", "X-Forwarded-Host": "evil.example", "Origin": "https://evil.example"}
    await forget(ada, headers=headers)
    mail = await box.get(RESET, "ada@example.com")
    assert LINK.findall(mail.text)[0].startswith("https://learn.example.org/#/reset/")
    assert "evil" not in mail.text


async def test_nobodys_box_is_flooded(ada: Person, box: MailBox, sql: Sql) -> None:
    for _ in range(20):
        assert (await forget(ada)).status == 202
    await settled(sql)
    sent = [mail for mail in box.mails if mail.subject == RESET]
    assert len(sent) == 5
    assert (await reset(ada, token_of(sent[0]))).status == 204


async def test_who_mistypes_an_address_again_and_again_can_still_prove_the_right_one(ada: Person, box: MailBox) -> None:
    for n in range(6):
        address = f"ada{n}@example.com"
        assert (await ada.ask("PATCH", "/api/auth/me", {"email": address})).status == 200
        token = token_of(await box.get(VERIFY, address))
    assert (await ada.post("/api/auth/email/verify", {"token": token})).status == 204
    assert (await ada.get("/api/auth/me")).body["email_verified"] is True


async def test_nobodys_box_is_flooded_by_who_gives_accounts_its_address(
    postgres_dsn: str, redis_url: str, box: MailBox, sql: Sql
) -> None:
    limits = {name: {"rate": 0} for name in ("auth", "write")}
    config = settings(postgres_dsn, redis_url, limits=limits, smtp=box.settings, jobs={"poll_s": 0.05})
    async with serving(config) as client:
        mallory = await People(client, sql).join("mallory")
        for spelling in ("ada@example.com", "Ada@Example.com") * 10:
            for address in (spelling, "mallory@example.com"):
                changed = await mallory.ask("PATCH", "/api/auth/me", {"email": address})
                assert changed.status == 200
        await settled(sql)
    assert len([mail for mail in box.mails if "ada@" in mail.recipients[0].lower()]) == config.limits.mail.rate == 10


async def test_a_mail_that_could_not_be_sent_does_not_count(
    postgres_dsn: str, redis_url: str, box: MailBox, sql: Sql, closed_port: int
) -> None:
    limits = {"auth": {"rate": 0}, "mail": {"rate": 1, "per_s": 3600}}
    jobs = {"poll_s": 0.05, "backoff_s": 0.05}
    away = {"host": "127.0.0.1", "port": closed_port, "timeout_s": 1}
    async with serving(settings(postgres_dsn, redis_url, limits=limits, smtp=away, jobs=jobs)) as client:
        await People(client, sql).join("ada")
        async with asyncio.timeout(30):
            while await sql.fetchval("SELECT max(attempts) FROM jobs") < 3:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    async with serving(settings(postgres_dsn, redis_url, limits=limits, smtp=box.settings, jobs=jobs)):
        await box.get(VERIFY, "ada@example.com")


async def test_who_left_gets_no_mails_and_leaves_none_behind(ada: Person, box: MailBox, sql: Sql) -> None:
    await box.get(VERIFY, "ada@example.com")
    await sql.execute("UPDATE jobs SET run_at = now() + interval '1 hour'")
    await forget(ada)
    assert (await ada.ask("DELETE", "/api/auth/me", {"current_password": PASSWORD})).status == 204
    await forget(ada)
    await settled(sql)
    assert [mail for mail in box.mails if mail.subject == RESET and "password" not in mail.text] == []
    assert await sql.fetchval("SELECT count(*) FROM jobs WHERE kind = 'mail'") == 0
    assert await sql.fetchval("SELECT count(*) FROM mail_tokens") == 0


async def test_who_leaves_while_a_mail_is_written_leaves_none_behind(ada: Person, box: MailBox, sql: Sql) -> None:
    await box.get(VERIFY, "ada@example.com")
    await settled(sql)
    async with sql.transaction():
        await sql.execute("SELECT 1 FROM users WHERE id = $1 FOR UPDATE", ada.id)
        await forget(ada)
        async with asyncio.timeout(30):
            while not await sql.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        await sql.execute("UPDATE users SET erased_at = now() WHERE id = $1", ada.id)
    await settled(sql)
    assert await sql.fetchval("SELECT count(*) FROM mail_tokens WHERE purpose = 'reset'") == 0
    assert [mail.subject for mail in box.mails] == []


async def settled(sql: Sql) -> None:
    """Until every mail is sent, or given up."""
    async with asyncio.timeout(30):
        while await sql.fetchval("SELECT count(*) FROM jobs WHERE kind = 'mail' AND dead_at IS NULL"):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_a_change_is_told_however_late_and_a_link_that_is_over_is_not_sent(
    ada: Person, box: MailBox, sql: Sql
) -> None:
    await box.get(VERIFY, "ada@example.com")
    await sql.execute(
        "CREATE FUNCTION delay() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN NEW.created_at := now() - interval '31 minutes'; RETURN NEW; END $$;"
        "CREATE TRIGGER delay BEFORE INSERT ON jobs FOR EACH ROW EXECUTE FUNCTION delay()"
    )
    await forget(ada)
    await ada.ask("PATCH", "/api/auth/me", {"email": "ada@elsewhere.example"})  # which asks for proof, too
    await settled(sql)
    await ada.put("/api/auth/me/password", {"current_password": PASSWORD, "new_password": ANOTHER})
    await settled(sql)
    assert [(mail.subject, mail.recipients) for mail in box.mails] == [
        ("Your e-mail address was changed", ["ada@example.com"]),
        ("Your password was changed", ["ada@elsewhere.example"]),
    ]


# Without a mail server, and with a dead one ---------------------------------------------------------------------------


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port where nobody listens, and nobody else begins to meanwhile."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


async def test_a_dead_mail_server_delays_mails_and_nothing_else(
    postgres_dsn: str, redis_url: str, sql: Sql, closed_port: int
) -> None:
    limits = {name: {"rate": 0} for name in ("auth", "write", "login_account", "login_address")}
    config = settings(
        postgres_dsn, redis_url, limits=limits,
        smtp={"host": "127.0.0.1", "port": closed_port, "timeout_s": 1}, jobs={"poll_s": 0.05, "backoff_s": 3600},
    )  # fmt: skip
    async with serving(config) as client:
        ada = await People(client, sql).join("ada")
        assert (await forget(ada)).status == 202
        async with asyncio.timeout(30):
            while await sql.fetchval("SELECT count(*) FROM jobs WHERE error IS NOT NULL") < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert await sql.fetchval("SELECT bool_and(error LIKE 'ServiceAway%' AND dead_at IS NULL) FROM jobs")
        assert (await client.get("/readyz")).status == 200


@pytest.fixture
async def silent(postgres_dsn: str, redis_url: str) -> AsyncIterator[AppClient]:
    limits = {name: {"rate": 0} for name in ("auth", "write", "login_account", "login_address")}
    async with serving(settings(postgres_dsn, redis_url, limits=limits)) as client:
        yield client


async def test_without_a_mail_server_only_what_must_have_one_is_refused(silent: AppClient, sql: Sql) -> None:
    ada = await People(silent, sql).join("ada")
    assert (await forget(ada)).status == 202
    resent = await ada.post("/api/auth/email/verify/resend")
    assert (resent.status, resent.code) == (503, "not_configured")
    assert (await ada.ask("PATCH", "/api/auth/me", {"email": "ada@elsewhere.example"})).status == 200
    assert await sql.fetchval("SELECT count(*) FROM jobs") == 0

"""What an operator does about accounts and jobs."""

import asyncio
import io
import json
from collections.abc import AsyncIterator

import pytest

from server import admin
from server.data.db import Database
from server.data.jobs import Hopeless, Job, Jobs, add_job
from server.http.mails import hash_token
from tests.support.app import AppClient, serving, settings
from tests.support.jobs import run_due
from tests.support.people import PASSWORD, Person

LIMITS = {name: {"rate": 0} for name in ("auth", "read", "write", "login_account", "login_address")}


@pytest.fixture
async def client(postgres_dsn: str, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AppClient]:
    monkeypatch.setenv("LECTERN_POSTGRES__DSN", postgres_dsn)
    monkeypatch.setenv("LECTERN_REDIS__URL", redis_url)
    monkeypatch.setenv("LECTERN_AUTH__BCRYPT_COST", "4")
    async with serving(settings(postgres_dsn, redis_url, limits=LIMITS)) as client:
        yield client


async def run(monkeypatch: pytest.MonkeyPatch, *arguments: str, stdin: str = "") -> int:
    monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
    return await asyncio.to_thread(admin.main, arguments)


async def sign_in(client: AppClient, login: str, password: str) -> Person:
    answer = await Person(client).post("/api/auth/login", {"login": login, "password": password})
    return Person(client, token=answer.body.get("access_token"), name=answer.body.get("user", {}).get("role", ""))


async def test_an_operator_makes_an_admin_and_changes_roles_and_passwords(
    client: AppClient, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await run(monkeypatch, "create-admin", "root", "root@example.com", stdin=f"{PASSWORD}\n") == 0
    root = await sign_in(client, "root", PASSWORD)
    assert root.name == "admin"
    assert await run(monkeypatch, "set-role", "ROOT@example.com", "student") == 1
    assert "last administrator" in capsys.readouterr().err

    ada = await Person(client).make(
        "/api/auth/register", {"username": "ada", "email": "ada@example.com", "password": PASSWORD}
    )
    assert await run(monkeypatch, "set-role", "ada", "instructor") == 0
    assert (await Person(client, token=ada["access_token"]).get("/api/auth/me")).status == 401
    assert await run(monkeypatch, "set-password", "ada", stdin="another battery\n") == 0
    assert (await sign_in(client, "ada", PASSWORD)).token is None
    person = await sign_in(client, "ada", "another battery")
    assert person.name == "instructor"
    assert await run(monkeypatch, "sign-out", "ada") == 0
    assert (await person.get("/api/auth/me")).status == 401

    capsys.readouterr()
    assert await run(monkeypatch, "audit") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["action"] for line in lines] == [
        "signed_out", "password_set", "role_set", "admin_created",
    ]  # fmt: skip
    assert PASSWORD not in "".join(lines)


@pytest.mark.parametrize(
    ("arguments", "stdin", "told"),
    [
        (("set-role", "nobody", "admin"), "", "nobody is called"),
        (("create-admin", "a b", "a@example.com"), PASSWORD, "username: must hold no blanks"),
        (("create-admin", "root", "root@example.com"), "password123", "most common"),
        (("create-admin", "root", "root@example.com"), "short", "password: "),
        (("jobs", "retry", "0198a1b2-0000-7000-8000-000000000000"), "", "no such job"),
    ],
)
async def test_what_cannot_be_done_is_told_with_its_reason(
    client: AppClient, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...], stdin: str, told: str,
) -> None:  # fmt: skip
    assert await run(monkeypatch, *arguments, stdin=stdin) == 1
    assert told in capsys.readouterr().err


async def test_dead_jobs_are_listed_and_tried_again(
    client: AppClient, postgres_dsn: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def fail(_job: Job) -> None:
        raise Hopeless("no such address")

    database = await Database.open(postgres_dsn, pool_size=2, timeout_s=5)
    await add_job(database, "wave", to="Ada")
    await run_due(Jobs(database, settings(postgres_dsn, "").jobs, {"wave": fail}))
    capsys.readouterr()
    assert await run(monkeypatch, "jobs", "list", "--dead") == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert (json.loads(line)["kind"], json.loads(line)["error"]) == ("wave", "Hopeless: no such address")
    assert await run(monkeypatch, "jobs", "retry") == 0
    assert await run(monkeypatch, "jobs", "list", "--dead") == 0
    assert capsys.readouterr().out == "1 to be tried again\n"
    await database.close()


async def test_a_password_that_an_operator_sets_is_not_undone_by_a_link_of_before(
    client: AppClient, postgres_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = await Person(client).make(
        "/api/auth/register", {"username": "ada", "email": "ada@example.com", "password": PASSWORD}
    )
    database = await Database.open(postgres_dsn, pool_size=2, timeout_s=5)
    await database.execute(
        "INSERT INTO mail_tokens (user_id, purpose, email, token_hash, expires_at)"
        " VALUES ($1, 'reset', 'ada@example.com', $2, now() + interval '30 minutes')",
        ada["user"]["id"],
        hash_token("stolen"),
    )
    await database.close()
    assert await run(monkeypatch, "set-password", "ada", stdin="another battery\n") == 0
    body = {"token": "stolen", "new_password": "a third battery"}
    undone = await Person(client).post("/api/auth/password/reset", body)
    assert (undone.status, undone.code) == (422, "bad_token")


@pytest.mark.parametrize("count", ["0", "-1", "99999999999999999999", "many"])
@pytest.mark.parametrize(
    "command", ["audit --count", "jobs list --count", "events list --count", "dead-letters list --limit"]
)
def test_a_number_of_lines_that_cannot_be_is_told(capsys: pytest.CaptureFixture[str], command: str, count: str) -> None:
    with pytest.raises(SystemExit) as end:
        admin.main([*command.split(), count])
    assert end.value.code == 2
    assert command.rsplit(maxsplit=1)[-1] in capsys.readouterr().err


async def test_what_postgres_refuses_is_told_in_a_line(
    client: AppClient, empty_postgres_dsn: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await run(monkeypatch, "sign-out", "a\udc80") == 1
    monkeypatch.setenv("LECTERN_POSTGRES__DSN", empty_postgres_dsn)
    assert await run(monkeypatch, "audit") == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("bin/admin: DataError: ")
    assert second == 'bin/admin: UndefinedTableError: relation "audit_log" does not exist'


@pytest.mark.parametrize(
    ("setting", "command"), [("POSTGRES__DSN", ["audit"]), ("REDIS__URL", ["dead-letters", "list"])]
)
def test_without_a_part_it_says_which_setting(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], setting: str, command: list[str]
) -> None:
    monkeypatch.delenv(f"LECTERN_{setting}", raising=False)
    assert admin.main(command) == 2
    assert f"LECTERN_{setting}" in capsys.readouterr().err


def test_a_database_that_is_not_there_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], postgres_dsn: str
) -> None:
    monkeypatch.setenv("LECTERN_POSTGRES__DSN", postgres_dsn.replace("/test_", "/no_such_test_"))
    assert admin.main(["audit"]) == 1
    assert "does not exist" in capsys.readouterr().err

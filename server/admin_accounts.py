"""What `bin/admin` does about accounts and jobs."""

import argparse
import asyncio
import contextlib
import getpass
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import asyncpg
import orjson
from pydantic import TypeAdapter, ValidationError
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from server.config import Config, check_named
from server.data.audit import audit
from server.data.db import Database, Record, queries
from server.data.streams import REDIS_AWAY, Streams
from server.http.auth import RANKS
from server.http.members import EmailAddress, Password, Username
from server.http.passwords import Passwords
from server.http.revocation import REVOKED

admin = queries("admin")
account = queries("account")
users = queries("users")
entries = queries("audit")
jobs = queries("jobs")


Work = Callable[[Config, Database, argparse.Namespace], Awaitable[None]]


class Refused(Exception):
    """It was not done; the text says why."""


@asynccontextmanager
async def connected_postgres(config: Config) -> AsyncIterator[Database]:
    """Postgres as the settings name it."""
    check_named(config, "postgres.dsn")
    db = await Database.open(config.postgres.dsn, pool_size=1, timeout_s=config.postgres.timeout_s)
    try:
        yield db
    finally:
        await db.close()


@asynccontextmanager
async def connected_redis(config: Config) -> AsyncIterator[Redis]:
    """Redis as the settings name it."""
    check_named(config, "redis.url")
    timeout_s = config.redis.timeout_s
    async with Redis.from_url(
        config.redis.url,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), 0),
    ) as client:
        yield client


def with_database(work: Work) -> Callable[[Config, argparse.Namespace], Coroutine[Any, Any, int]]:
    """A command that is given Postgres; 1 when it was refused."""

    async def run(config: Config, options: argparse.Namespace) -> int:
        async with connected_postgres(config) as database:
            try:
                await work(config, database, options)
            except (Refused, asyncpg.IntegrityConstraintViolationError) as error:
                print(f"bin/admin: {error}", file=sys.stderr)
                return 1
        return 0

    return run


async def create_admin(config: Config, database: Database, options: argparse.Namespace) -> None:
    """Make an administrator; the password is asked for, or read from standard input."""
    username, email = _checked("username", Username, options.username), _checked("email", EmailAddress, options.email)
    password_hash = await _new_hash(config)
    async with database.transaction() as tx:
        row = await admin.insert_admin(tx, username=username, email=email, password_hash=password_hash)
        if row is None:
            raise Refused("a user of this name or address is there already; set-role makes one an administrator")
        await audit(tx, None, "admin_created", "user", row["id"])
    print(f"{username} is an administrator")


async def set_role(config: Config, database: Database, options: argparse.Namespace) -> None:
    """Give a user exactly this role; tokens and sockets of before end."""
    user = await _find(database, options.user)
    async with database.transaction() as tx:
        before = await users.lock_user(tx, user_id=user["id"])
        if before is None:
            raise Refused("the user has just gone")
        if before["role"] != options.role:
            await users.set_role(tx, user_id=user["id"], role=options.role)
            await audit(tx, None, "role_set", "user", user["id"], before=before["role"], after=options.role)
    await _announce(config, user["id"])
    print(f"{user['username']} has the role {options.role}")


async def set_password(config: Config, database: Database, options: argparse.Namespace) -> None:
    """Set a user's password, which is asked for or read from standard input, and sign the user out everywhere.

    Links that were sent before set no password any more.
    """
    user = await _find(database, options.user)
    password_hash = await _new_hash(config)
    async with database.transaction() as tx:
        await admin.set_password(tx, user_id=user["id"], password_hash=password_hash)
        await account.end_families(tx, user_id=user["id"], but_for=None)
        await account.forget_resets(tx, user_id=user["id"])
        await audit(tx, None, "password_set", "user", user["id"])
    await _announce(config, user["id"])
    print(f"{user['username']} has another password and is signed out everywhere")


async def sign_out(config: Config, database: Database, options: argparse.Namespace) -> None:
    """Sign a user out everywhere."""
    user = await _find(database, options.user)
    async with database.transaction() as tx:
        await admin.raise_version(tx, user_id=user["id"])
        await account.end_families(tx, user_id=user["id"], but_for=None)
        await audit(tx, None, "signed_out", "user", user["id"])
    await _announce(config, user["id"])
    print(f"{user['username']} is signed out everywhere")


async def list_audit(_config: Config, database: Database, options: argparse.Namespace) -> None:
    """What administrators did, newest first, an object a line."""
    for row in await entries.list_entries(database, count=options.count):
        print_row(row)


async def list_jobs(_config: Config, database: Database, options: argparse.Namespace) -> None:
    """What is to be done, or could not be, newest first, an object a line."""
    for row in await jobs.list_jobs(database, only_dead=options.dead, count=options.count):
        print_row(row)


async def retry_jobs(_config: Config, database: Database, options: argparse.Namespace) -> None:
    """Try a job again, or all dead ones."""
    count = await jobs.retry_jobs(database, job_id=options.job_id)
    if options.job_id and not count:
        raise Refused("there is no such job")
    print(f"{count} to be tried again")


async def _find(database: Database, login: str) -> Record:
    row: Record | None = await users.find_user(database, login=login)
    if row is None:
        raise Refused(f"nobody is called {login}")
    return row


async def _new_hash(config: Config) -> str:
    """Of a password that is asked for; never an argument, which every user of the machine can see."""
    if sys.stdin.isatty():
        password = await asyncio.to_thread(getpass.getpass, "Password: ")
    else:
        password = (await asyncio.to_thread(sys.stdin.readline)).rstrip("\r\n")
    passwords = Passwords(config.auth.bcrypt_cost)
    try:
        return await passwords.hash(_checked("password", Password, password))
    finally:
        passwords.close()


def _checked(name: str, kind: Any, text: str) -> str:
    """What routes take they take here. Raises Refused, which names it."""
    try:
        value: str = TypeAdapter(kind).validate_python(text)
    except ValidationError as error:
        fault = error.errors(include_input=False)[0]["msg"].removeprefix("Value error, ")
        raise Refused(f"{name}: {fault}") from None
    return value


async def _announce(config: Config, user_id: UUID) -> None:
    """Tell the processes; without Redis they find it within 5 s."""
    if config.redis.url:
        async with connected_redis(config) as redis:
            with contextlib.suppress(*REDIS_AWAY):
                await Streams(redis).nudge(REVOKED, user_id)


def print_row(row: Record) -> None:
    """As JSON on a line of its own."""
    print(orjson.dumps(dict(row), default=str, option=orjson.OPT_UTC_Z).decode())


def _declared(work: Work, *positional: str, **options: dict[str, Any]) -> Callable[[argparse.ArgumentParser], None]:
    """What declares a command's arguments and options (`count={"type": int}` is `--count`)."""

    def declare(parser: argparse.ArgumentParser) -> None:
        for name in positional:
            parser.add_argument(name, choices=list(RANKS) if name == "role" else None)
        for name, option in options.items():
            parser.add_argument(f"--{name}", **option)
        parser.set_defaults(run=with_database(work))

    return declare


def _declare_jobs(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="one JSON object a line, newest first")
    _declared(list_jobs, dead={"action": "store_true"}, count=COUNT)(listing)
    retrying = actions.add_parser("retry", help="one again, or all dead ones")
    retrying.add_argument("job_id", nargs="?", type=UUID, metavar="ID")
    retrying.set_defaults(run=with_database(retry_jobs))


MOST_LINES = 1_000_000


def count_of_lines(text: str) -> int:
    """How many lines are wanted, at most. Raises ValueError or ArgumentTypeError, which argparse tells."""
    count = int(text)
    if not 1 <= count <= MOST_LINES:
        raise argparse.ArgumentTypeError(f"must be from 1 to {MOST_LINES}")
    return count


COUNT: dict[str, Any] = {"type": count_of_lines, "default": 50}

# By name: what it is for, and what declares its options and sets `run`.
COMMANDS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], Any]]] = {
    "create-admin": ("Make an administrator.", _declared(create_admin, "username", "email")),
    "set-role": ("Give a user exactly this role.", _declared(set_role, "user", "role")),
    "set-password": ("Set a user's password; it is read from standard input.", _declared(set_password, "user")),
    "sign-out": ("Sign a user out everywhere.", _declared(sign_out, "user")),
    "audit": ("What administrators did, newest first.", _declared(list_audit, count=COUNT)),
    "jobs": ("Work that is done later, such as mails.", _declare_jobs),
}

"""Forward-only migrations: `sql/migrations/NNNN_name.sql`, in order, each in a transaction, never changed later.

Several processes may start at once: an advisory lock lets one of them work while the others wait. Those of the release
before serve meanwhile: a table that somebody holds is asked for again later, or everybody would queue behind us.
"""

import argparse
import asyncio
import hashlib
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from server.config import ConfigError, check_named, load_config
from server.logs import get_logger

MIGRATIONS_DIR = Path(__file__).resolve().parents[2] / "sql" / "migrations"

log = get_logger()

# How long a migration waits for a table, holding those that it has: less than the second after which Postgres looks
# for a deadlock, which it would end by failing somebody's request. And the pause before it begins anew.
LOCK_WAIT_S = 0.5
PAUSE_S = 1.0

LEAST_POSTGRES = 18  # which has uuidv7()
_LOCK = 7_423_001  # any number that only migrations use
_NAME = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")
_TABLE = """
    CREATE TABLE IF NOT EXISTS schema_migrations (
        number integer PRIMARY KEY,
        name text NOT NULL,
        checksum text NOT NULL,
        applied_at timestamptz NOT NULL DEFAULT now()
    )
"""


class MigrationError(Exception):
    """The files and the database disagree, or a migration failed; the text is meant for the operator."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file; `checksum` is its SHA-256 in hex."""

    number: int
    name: str
    sql: str
    checksum: str


def read_migrations(directory: Path = MIGRATIONS_DIR) -> list[Migration]:
    """The files in order. Raises MigrationError on a name that does not fit or a number given twice."""
    found: dict[int, Migration] = {}
    for path in sorted(directory.glob("*.sql")):
        match = _NAME.fullmatch(path.name)
        if match is None:
            raise MigrationError(f"{path.name}: a migration is called NNNN_name.sql")
        number, text = int(match[1]), path.read_text(encoding="utf-8")
        if number in found:
            raise MigrationError(f"{path.name} and {found[number].name} have the same number")
        found[number] = Migration(number, path.name, text, hashlib.sha256(text.encode()).hexdigest())
    return list(found.values())


async def migrate(dsn: str, directory: Path = MIGRATIONS_DIR, *, lock_timeout_s: float = 600.0) -> list[str]:
    """Apply what is missing and name it. Raises MigrationError, or OSError and asyncpg's errors when unreachable.

    Args:
        lock_timeout_s: how long to wait for another process that migrates, and for the tables of each migration.
    """
    migrations = read_migrations(directory)
    connection = await asyncpg.connect(dsn, timeout=10, server_settings={"application_name": "lectern-migrate"})
    try:
        await _check_server(connection)
        await _lock(connection, lock_timeout_s)
        return await _apply_missing(connection, migrations, lock_timeout_s)
    finally:
        connection.terminate()  # which also lets go of the lock


async def _check_server(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    """What a migration would only tell by what it happens to miss first. Raises MigrationError."""
    version = connection.get_server_version()
    if version.major < LEAST_POSTGRES:
        raise MigrationError(f"Postgres {LEAST_POSTGRES} or newer is needed, this is {version.major}.{version.minor}")
    encoding = await connection.fetchval("SHOW server_encoding")
    if encoding != "UTF8":
        raise MigrationError(f"the database's encoding must be UTF8, and is {encoding}")


async def _lock(connection: "asyncpg.Connection[asyncpg.Record]", timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await connection.execute("SELECT pg_advisory_lock($1)", _LOCK)
    except TimeoutError:
        raise MigrationError(f"another process has been migrating for {timeout_s:g} s") from None


async def _apply_missing(
    connection: "asyncpg.Connection[asyncpg.Record]", migrations: list[Migration], timeout_s: float
) -> list[str]:
    await connection.execute(_TABLE)
    rows = await connection.fetch("SELECT number, name, checksum FROM schema_migrations ORDER BY number")
    applied = {row["number"]: row for row in rows}
    _compare(applied, migrations)
    names = []
    for migration in migrations:
        if migration.number not in applied:
            await _apply_when_free(connection, migration, timeout_s)
            names.append(migration.name)
    return names


def _compare(applied: dict[int, asyncpg.Record], migrations: list[Migration]) -> None:
    """What was applied must still be there, unchanged, and nothing may be slipped in before it."""
    by_number = {migration.number: migration for migration in migrations}
    for number, row in applied.items():
        migration = by_number.get(number)
        if migration is None:
            raise MigrationError(
                f"{row['name']} was applied to this database, but its file is gone; is this an older release?"
            )
        if migration.checksum != row["checksum"]:
            raise MigrationError(f"{migration.name} was changed after it had been applied")
    newest = max(applied, default=0)
    for migration in migrations:
        if migration.number < newest and migration.number not in applied:
            raise MigrationError(f"{migration.name} comes before what has been applied already")


async def _apply_when_free(
    connection: "asyncpg.Connection[asyncpg.Record]", migration: Migration, timeout_s: float
) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while True:
        try:
            return await _apply(connection, migration)
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError) as error:
            if loop.time() + PAUSE_S > deadline:
                raise MigrationError(f"{migration.name}: its tables were in use for {timeout_s:g} s") from error
            log.warning("migration_waits", file=migration.name, error=str(error))
        except asyncpg.PostgresError as error:
            raise MigrationError(f"{migration.name}: {error}") from error
        await asyncio.sleep(PAUSE_S)


async def _apply(connection: "asyncpg.Connection[asyncpg.Record]", migration: Migration) -> None:
    async with connection.transaction():
        await connection.execute(f"SET LOCAL lock_timeout = {round(1000 * LOCK_WAIT_S)}")
        await connection.execute(migration.sql)
        await connection.execute(
            "INSERT INTO schema_migrations (number, name, checksum) VALUES ($1, $2, $3)",
            migration.number,
            migration.name,
            migration.checksum,
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m server.data.migrate`: exit code 0 when all is applied, 1 when not, 2 for a bad setting."""
    argparse.ArgumentParser(prog="bin/migrate", description="Applies the missing migrations.").parse_args(arguments)
    try:
        config = load_config()
        check_named(config, "postgres.dsn")
    except ConfigError as error:
        print(f"lectern: {error}", file=sys.stderr)
        return 2
    try:
        names = asyncio.run(migrate(config.postgres.dsn))
    except (MigrationError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError, ValueError) as error:
        print(f"lectern: {error}", file=sys.stderr)
        return 1
    print("\n".join(names) or "Nothing to apply.")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Real Postgres, Valkey and S3 for tests, started once a session; see `tests/conftest.py` for the fixtures."""

import asyncio
import itertools
import os
import shutil
import tempfile
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from embedded.postgres import Postgres

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = "migrated"
Result = TypeVar("Result")
_numbers = itertools.count(1)


@contextmanager
def data_directory() -> Iterator[Path]:
    """A temporary directory that `nobody` can walk into too (pytest's own are closed to others)."""
    directory = Path(tempfile.mkdtemp(prefix="lectern-test-"))
    directory.chmod(0o755)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def run_apart(work: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine on a loop of its own in a thread of its own, so that the test's loop is not touched."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


def migrate_template(postgres: Postgres) -> None:
    """Make the database that every test's own is copied from."""
    from server.data.migrate import migrate  # noqa: PLC0415  a broken migration fails the tests that need it

    postgres.execute(f"CREATE DATABASE {TEMPLATE}")
    run_apart(migrate(postgres.dsn_of(TEMPLATE)))


@contextmanager
def fresh_database(postgres: Postgres, template: str) -> Iterator[str]:
    """The DSN of a new database (a copy takes about 30 ms), dropped afterwards whoever is still connected."""
    name = f"test_{os.getpid()}_{next(_numbers)}"
    postgres.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    try:
        yield postgres.dsn_of(name)
    finally:
        postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")

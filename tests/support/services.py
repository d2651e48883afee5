"""Real Postgres, Valkey and S3 for tests, started once a session; see `tests/conftest.py` for the fixtures."""

import asyncio
import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE
from typing import Any, TypeVar

from embedded.postgres import Postgres, program

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = "data"
TEMPLATE = "migrated"
MEMORY = Path("/dev/shm")
ROOM_BYTES = 4 << 30
Result = TypeVar("Result")
_numbers = itertools.count(1)


@contextmanager
def data_directory() -> Iterator[Path]:
    """A temporary directory that `nobody` can walk into too (pytest's own are closed to others).

    In memory where there is room: a database is copied for nearly every test, which a busy disk makes ten times slower.
    """
    roomy = MEMORY.is_dir() and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > ROOM_BYTES
    directory = Path(tempfile.mkdtemp(prefix="lectern-test-", dir=MEMORY if roomy else None))
    directory.chmod(0o755)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def run_apart(work: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine on a loop of its own in a thread of its own, so that the test's loop is not touched."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


def make_cluster(directory: Path) -> None:
    """Put there what a Postgres has on disk that was started for the first time, which takes it more than a second."""
    with data_directory() as place:
        server = Postgres(place, durable=False)
        server.start()
        server.stop()
        _copy(server.data, directory / CLUSTER)


@contextmanager
def started_postgres(made: Path) -> Iterator[Postgres]:
    """A Postgres of one's own that goes on from what `make_cluster` has made."""
    with data_directory() as place:
        server = Postgres(place, durable=False)
        server.data.parent.mkdir(parents=True, exist_ok=True)
        _copy(made / CLUSTER, server.data)
        server.start()
        try:
            yield server
        finally:
            server.stop()


def _copy(source: Path, target: Path) -> None:
    # With its owner, who is not who runs the tests where that is root.
    subprocess.run(["cp", "-a", source, target], check=True)


def migrate_template(postgres: Postgres) -> None:
    """Make the database that every test's own is copied from."""
    from server.data.migrate import migrate  # noqa: PLC0415  a broken migration fails the tests that need it

    postgres.execute(f"CREATE DATABASE {TEMPLATE}")
    run_apart(migrate(postgres.dsn_of(TEMPLATE)))


class Psql:
    """A psql that stays open: starting one, and a connection for it, takes longer than most of what is asked here."""

    def __init__(self, postgres: Postgres) -> None:
        command = [str(program("psql")), "-XAtqw", "-v", "ON_ERROR_STOP=1", "-d", postgres.dsn_of("postgres")]
        self._process = subprocess.Popen(command, stdin=PIPE, stdout=PIPE, stderr=subprocess.STDOUT, text=True)

    def execute(self, statement: str) -> None:
        """Run one that answers no rows; raises RuntimeError with what psql says of it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{statement};\n\\echo done\n")
        self._process.stdin.flush()
        if (said := self._process.stdout.readline()) != "done\n":
            raise RuntimeError(f"{statement}: {said}")

    def close(self) -> None:
        """End it."""
        self._process.communicate()


@contextmanager
def fresh_database(postgres: Postgres, psql: Psql, template: str) -> Iterator[str]:
    """The DSN of a new database (a copy takes about 15 ms), dropped afterwards whoever is still connected."""
    name = f"test_{os.getpid()}_{next(_numbers)}"
    psql.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
    try:
        yield postgres.dsn_of(name)
    finally:
        psql.execute(f"DROP DATABASE {name} WITH (FORCE)")

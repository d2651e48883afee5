import asyncio
import itertools
import os
import pwd
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import asyncpg
import pytest

from embedded import postgres, processes
from embedded.postgres import Postgres
from embedded.processes import AlreadyRunningError, PartFailedError
from tests.support.core import eventually
from tests.support.services import data_directory

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives up root")


@pytest.fixture
def directory() -> Iterator[Path]:
    with data_directory() as path:
        yield path


@pytest.fixture
def server(directory: Path) -> Iterator[Postgres]:
    server = Postgres(directory, durable=False)
    server.start()
    yield server
    server.stop()


async def test_a_test_has_a_migrated_database_of_its_own(postgres_dsn: str) -> None:
    connection = await asyncpg.connect(postgres_dsn)
    assert await connection.fetchval("SELECT count(*) FROM users") == 0
    assert await connection.fetchval("SELECT current_setting('server_version_num')::int") >= 180_000
    await connection.close()


async def test_an_empty_database_has_no_tables(empty_postgres_dsn: str) -> None:
    connection = await asyncpg.connect(empty_postgres_dsn)
    assert await connection.fetchval("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 0
    await connection.close()


async def test_what_was_committed_survives_a_kill(server: Postgres) -> None:
    dsn = server.dsn
    connection = await asyncpg.connect(dsn)
    await connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    server.kill()
    assert server.pid is None
    connection.terminate()

    server.start()

    assert server.dsn == dsn
    connection = await asyncpg.connect(dsn)
    assert await connection.fetchval("SELECT answer FROM kept") == 42
    await connection.close()


async def test_it_starts_again_as_soon_as_the_last_child_of_a_killed_one_is_gone(server: Postgres) -> None:
    connection = await asyncpg.connect(server.dsn)
    child = await connection.fetchval("SELECT pg_backend_pid()")
    os.kill(child, signal.SIGSTOP)
    server.kill()
    connection.terminate()
    starting = asyncio.create_task(asyncio.to_thread(server.start))
    try:
        await eventually(lambda: postgres.CHILDREN_LEFT in server.log.read_text())
    finally:
        os.kill(child, signal.SIGCONT)
    await starting
    assert server.execute("SELECT 1") == "1\n"


def test_starting_twice_is_starting_once(server: Postgres) -> None:
    pid = server.pid
    server.start()
    assert server.pid == pid


def test_a_second_server_on_the_same_data_is_refused_with_the_first_ones_process(server: Postgres) -> None:
    with pytest.raises(AlreadyRunningError) as refused:
        Postgres(server.data.parent).start(wait_for_other_s=0.1)
    assert refused.value.pid == server.pid


def test_a_process_id_that_something_else_has_now_is_no_second_server(directory: Path) -> None:
    server = Postgres(directory, durable=False)
    server.start()
    server.kill()
    pid_file = server.data / "postmaster.pid"
    lines = pid_file.read_text().splitlines()
    pid_file.write_text("\n".join([str(os.getpid()), *lines[1:]]) + "\n")
    assert server._other() is None


def test_a_stopped_server_leaves_no_sockets(directory: Path) -> None:
    server = Postgres(directory, durable=False)
    server.start()
    sockets = server._socket_directory()
    server.stop()
    assert not sockets.exists()


def test_a_directory_deeper_than_a_socket_path_may_be_is_fine(directory: Path) -> None:
    server = Postgres(directory / ("deep" * 30) / ("deeper" * 20), durable=False)
    server.start()
    assert server.execute("SELECT 1").strip() == "1"
    server.stop()


def test_an_initialisation_that_was_cut_short_is_done_again(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Postgres(directory, durable=False)
    with monkeypatch.context() as patch:
        patch.setattr(server, "_program", lambda _: Path("/bin/false"))
        with pytest.raises(PartFailedError, match="could not make"):
            server.start()
    assert not list(directory.glob("pg18*/"))
    server.start()
    server.stop()


def test_a_start_that_fails_shows_the_end_of_the_log(server: Postgres) -> None:
    server.stop()
    (server.data / "postgresql.conf").write_text("no_such_setting = 1\n")
    with pytest.raises(PartFailedError, match="no_such_setting"):
        server.start()


def test_a_statement_that_fails_says_why(server: Postgres) -> None:
    with pytest.raises(PartFailedError, match="no_such_table"):
        server.execute("SELECT * FROM no_such_table")


def test_one_that_has_much_to_read_before_it_answers_is_waited_for(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Five minutes, as after a crash, between the first look and the next.
    clock = itertools.chain([0.0], itertools.repeat(300.0))
    monkeypatch.setattr(processes, "time", SimpleNamespace(monotonic=lambda: next(clock), sleep=time.sleep))
    server = Postgres(directory, durable=False)
    server.start()
    assert server.execute("SELECT 1").strip() == "1"
    server.stop()


async def test_what_the_environment_says_of_another_postgres_is_not_about_this_one(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"PGPORT": "5433", "PGSSLMODE": "verify-full", "PGOPTIONS": "-c nonsense=1"}.items():
        monkeypatch.setenv(name, value)
    server = Postgres(directory, durable=False)
    try:
        await asyncio.to_thread(server.start)
        connection = await asyncpg.connect(server.dsn)
        assert await connection.fetchval("SELECT 1") == 1
        await connection.close()
    finally:
        server.stop()


@as_root
def test_under_root_it_runs_as_nobody(server: Postgres) -> None:
    assert Path(f"/proc/{server.pid}").stat().st_uid == pwd.getpwnam("nobody").pw_uid


@as_root
def test_under_root_closed_places_are_left_for_open_ones(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = directory / "closed"
    closed.mkdir(mode=0o700)
    monkeypatch.setattr(postgres, "SHARED_DATA", directory / "data")
    monkeypatch.setattr(postgres, "SHARED_PROGRAMS", directory / "programs")
    reachable = processes.reachable_by_others
    wheel = postgres._wheel_programs()
    monkeypatch.setattr(processes, "reachable_by_others", lambda path: path != wheel and reachable(path))

    server = Postgres(closed / "data", durable=False)
    server.start()

    assert server.data.is_relative_to(directory / "data")
    assert Path(f"/proc/{server.pid}/exe").readlink().is_relative_to(directory / "programs")
    server.stop()


@as_root
@pytest.mark.parametrize("place", ["closed/data", "data"])
def test_root_may_close_all_that_it_makes_to_others(
    place: str, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (directory / "closed").mkdir(mode=0o700)
    wheel = postgres._wheel_programs()
    ours = directory / "environment" / wheel.parent.name
    shutil.copytree(wheel, ours / wheel.name, symlinks=True)
    libraries = f"{wheel.parent.name}.libs"
    shutil.copytree(wheel.parent.with_name(libraries), ours.with_name(libraries))
    for made in [directory / "environment", *(directory / "environment").rglob("*")]:
        made.chmod(made.stat().st_mode & 0o700)
    monkeypatch.setattr(postgres, "_wheel_programs", lambda: ours / wheel.name)
    monkeypatch.setattr(postgres, "SHARED_DATA", directory / "apart" / "data")
    monkeypatch.setattr(postgres, "SHARED_PROGRAMS", directory / "apart" / "programs")
    before = os.umask(0o077)
    try:
        server = Postgres(directory / place, durable=False)
        server.start()
        assert server.execute("SELECT 1").strip() == "1"
        server.stop()
    finally:
        os.umask(before)


@as_root
def test_data_that_lie_apart_go_with_their_directory(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "SHARED_DATA", directory / "data")
    closed = directory / "closed"
    closed.mkdir(mode=0o700)

    def start(place: Path) -> str:
        """What is found there, with what is left for the next."""
        server = Postgres(place, durable=False)
        server.start()
        assert Postgres(place).dsn == server.dsn
        try:
            server.execute("CREATE TABLE IF NOT EXISTS starts (at text)")
            server.execute(f"INSERT INTO starts VALUES ('{place.name}')")  # noqa: S608
            return server.execute("SELECT string_agg(at, ' ') FROM starts").strip()
        finally:
            server.stop()

    assert start(closed / "first") == "first"
    assert start(closed / "first") == "first first"
    (closed / "first").rename(closed / "moved")
    assert start(closed / "moved") == "first first moved"
    assert start(closed / "first") == "first", "another one"
    shutil.rmtree(closed / "first")
    assert start(closed / "first") == "first", "and one made anew"


@as_root
def test_a_directory_of_before_finds_its_data_that_lie_apart(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "SHARED_DATA", directory / "data")
    before = directory / "closed" / "before"
    (before / "logs").mkdir(parents=True)
    (directory / "closed").chmod(0o700)
    by_path = Postgres(before).data
    server = Postgres(before, durable=False)
    server.start()
    server.stop()
    assert server.data == by_path
    assert Postgres(before).data == by_path

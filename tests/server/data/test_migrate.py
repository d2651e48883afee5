import asyncio
from pathlib import Path

import asyncpg
import pytest

from embedded.postgres import Postgres
from server.data import migrate as module
from server.data.migrate import MigrationError, migrate, read_migrations
from tests.support.services import Psql, fresh_database
from tests.support.waiting import blocked


def write(directory: Path, **files: str) -> Path:
    for name, sql in files.items():
        (directory / f"{name}.sql").write_text(sql)
    return directory


async def tables(dsn: str) -> set[str]:
    connection = await asyncpg.connect(dsn)
    rows = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    await connection.close()
    return {row["tablename"] for row in rows}


async def test_what_is_missing_is_applied_in_order_and_once(empty_postgres_dsn: str, tmp_path: Path) -> None:
    write(tmp_path, **{"0002_b": "ALTER TABLE a ADD x int", "0001_a": "CREATE TABLE a ()"})
    assert await migrate(empty_postgres_dsn, tmp_path) == ["0001_a.sql", "0002_b.sql"]
    assert await migrate(empty_postgres_dsn, tmp_path) == []
    write(tmp_path, **{"0003_c": "CREATE TABLE c ()"})
    assert await migrate(empty_postgres_dsn, tmp_path) == ["0003_c.sql"]
    assert await tables(empty_postgres_dsn) == {"a", "c", "schema_migrations"}


async def test_the_shipped_migrations_apply_to_an_empty_database(empty_postgres_dsn: str) -> None:
    assert await migrate(empty_postgres_dsn) == [migration.name for migration in read_migrations()]
    assert {"users", "video_sessions"} <= await tables(empty_postgres_dsn)


async def test_several_processes_at_once_apply_each_migration_once(empty_postgres_dsn: str, tmp_path: Path) -> None:
    write(tmp_path, **{"0001_a": "CREATE TABLE a (); SELECT pg_sleep(0.2)"})
    applied = await asyncio.gather(*(migrate(empty_postgres_dsn, tmp_path) for _ in range(4)))
    assert sorted(applied) == [[], [], [], ["0001_a.sql"]]


async def test_a_migration_that_fails_leaves_nothing_behind(empty_postgres_dsn: str, tmp_path: Path) -> None:
    write(tmp_path, **{"0001_a": "CREATE TABLE a ()", "0002_b": "CREATE TABLE b (); CREATE TABLE a ()"})
    with pytest.raises(MigrationError, match=r"0002_b\.sql.*already exists"):
        await migrate(empty_postgres_dsn, tmp_path)
    assert await tables(empty_postgres_dsn) == {"a", "schema_migrations"}


async def test_a_changed_missing_or_late_file_is_refused(empty_postgres_dsn: str, tmp_path: Path) -> None:
    write(tmp_path, **{"0001_a": "CREATE TABLE a ()", "0003_c": "CREATE TABLE c ()"})
    await migrate(empty_postgres_dsn, tmp_path)
    write(tmp_path, **{"0002_b": "CREATE TABLE b ()"})
    with pytest.raises(MigrationError, match="before"):
        await migrate(empty_postgres_dsn, tmp_path)
    (tmp_path / "0002_b.sql").unlink()
    write(tmp_path, **{"0001_a": "CREATE TABLE a (x int)"})
    with pytest.raises(MigrationError, match="changed"):
        await migrate(empty_postgres_dsn, tmp_path)
    (tmp_path / "0001_a.sql").unlink()
    with pytest.raises(MigrationError, match="gone"):
        await migrate(empty_postgres_dsn, tmp_path)


async def test_a_postgres_that_is_too_old_is_named(
    empty_postgres_dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LEAST_POSTGRES", 99)
    with pytest.raises(MigrationError, match="Postgres 99 or newer is needed, this is 18"):
        await migrate(empty_postgres_dsn, tmp_path)


async def test_a_database_that_is_not_utf_8_is_refused(postgres: Postgres, psql: Psql, tmp_path: Path) -> None:
    with fresh_database(postgres, psql, "template0 ENCODING SQL_ASCII LOCALE_PROVIDER libc LOCALE 'C'") as dsn:
        with pytest.raises(MigrationError, match="UTF8, and is SQL_ASCII"):
            await migrate(dsn, tmp_path)
        assert await tables(dsn) == set()


async def test_who_waits_for_another_process_gives_up_in_the_end(empty_postgres_dsn: str, tmp_path: Path) -> None:
    other = await asyncpg.connect(empty_postgres_dsn)
    await other.execute("SELECT pg_advisory_lock($1)", module._LOCK)
    with pytest.raises(MigrationError, match="another process"):
        await migrate(empty_postgres_dsn, tmp_path, lock_timeout_s=0.1)
    await other.close()


async def test_a_table_that_somebody_holds_is_waited_for_and_nobody_waits_behind_the_migration(
    empty_postgres_dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAUSE_S", 0.1)
    write(tmp_path, **{"0001_a": "CREATE TABLE a ()"})
    await migrate(empty_postgres_dsn, tmp_path)
    write(tmp_path, **{"0002_b": "CREATE TABLE b (); ALTER TABLE a ADD x int"})
    holder, reader = await asyncpg.connect(empty_postgres_dsn), await asyncpg.connect(empty_postgres_dsn)
    try:
        async with holder.transaction():  # such as a backup
            await holder.fetch("SELECT * FROM a")
            migrating = asyncio.create_task(migrate(empty_postgres_dsn, tmp_path))
            await blocked(reader)
            async with asyncio.timeout(30):
                await reader.fetch("SELECT * FROM a")
            assert not migrating.done()
        assert await migrating == ["0002_b.sql"]
    finally:
        await holder.close()
        await reader.close()


async def test_tables_that_are_never_free_are_told(
    empty_postgres_dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOCK_WAIT_S", 0.01)
    write(tmp_path, **{"0001_a": "CREATE TABLE a ()"})
    await migrate(empty_postgres_dsn, tmp_path)
    write(tmp_path, **{"0002_b": "ALTER TABLE a ADD x int"})
    holder = await asyncpg.connect(empty_postgres_dsn)
    async with holder.transaction():
        await holder.fetch("SELECT * FROM a")
        with pytest.raises(MigrationError, match=r"0002_b\.sql: its tables were in use"):
            await migrate(empty_postgres_dsn, tmp_path, lock_timeout_s=0.1)
    await holder.close()


@pytest.mark.parametrize(("first", "second"), [("1_a", "0002_b"), ("0001_a", "0001_b"), ("0001_A", "0002_b")])
def test_names_that_do_not_give_an_order_are_refused(tmp_path: Path, first: str, second: str) -> None:
    with pytest.raises(MigrationError):
        read_migrations(write(tmp_path, **{first: "", second: ""}))


def test_the_command_says_what_it_did_and_what_is_wrong(
    empty_postgres_dsn: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LECTERN_POSTGRES__DSN", empty_postgres_dsn)
    assert module.main([]) == 0
    assert "0001_floor.sql" in capsys.readouterr().out
    assert module.main([]) == 0
    assert "Nothing" in capsys.readouterr().out
    monkeypatch.setenv("LECTERN_POSTGRES__DSN", "postgresql:///x?host=/nowhere")
    assert module.main([]) == 1
    monkeypatch.setenv("LECTERN_POSTGRES__DSN", "postgresql://x:port/y")
    assert module.main([]) == 1
    monkeypatch.setenv("LECTERN_NONSENSE", "1")
    assert module.main([]) == 2
    assert "LECTERN_NONSENSE" in capsys.readouterr().err


def test_who_asks_for_what_it_cannot_do_gets_nothing_migrated(
    empty_postgres_dsn: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LECTERN_POSTGRES__DSN", empty_postgres_dsn)
    with pytest.raises(SystemExit, match="2"):
        module.main(["--dry-run"])
    assert "--dry-run" in capsys.readouterr().err
    assert module.main([]) == 0
    assert "0001_floor.sql" in capsys.readouterr().out


def test_no_database_is_migrated_that_nobody_has_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("LECTERN_POSTGRES__DSN", raising=False)
    assert module.main([]) == 2
    assert "LECTERN_POSTGRES__DSN" in capsys.readouterr().err

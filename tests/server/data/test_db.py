"""The pool and the named queries, on a real Postgres."""

import asyncio
import gc
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from embedded.postgres import Postgres
from server.data import db
from server.data.db import DATABASE_AWAY, Connection, ConnectionLost, Database, PostgresAway, Queries, queries
from tests.chaos.proxy import Link, Proxy, See
from tests.support.core import eventually
from tests.support.pausing import paused
from tests.support.services import data_directory

SQL = """
-- name: list_numbers(count)
SELECT n FROM generate_series(1, :count) AS n ORDER BY n;

-- name: get_pair(a, b)^
-- The parameters stand in another order than in the statement.
SELECT :b::int AS b, :a::int AS a, :a::int + 1 AS c;

-- name: get_nothing()^
SELECT 1 WHERE false;

-- name: get_count()$
SELECT count(*) FROM things;

-- name: insert_thing(id, data)<!
INSERT INTO things (id, data) VALUES (:id, :data) ON CONFLICT DO NOTHING RETURNING id, data;

-- name: update_things(data)!
UPDATE things SET data = :data;

-- name: get_thing(id)
SELECT wanted.place, things.*, txid_current() AS statement
FROM unnest(:id::int[]) WITH ORDINALITY AS wanted(id, place) JOIN things USING (id);
"""
THINGS = "CREATE TABLE things (id int PRIMARY KEY, data jsonb)"


@pytest.fixture
def named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Queries:
    (tmp_path / "things.sql").write_text(SQL)
    monkeypatch.setattr(db, "QUERIES_DIR", tmp_path)
    return queries.__wrapped__("things")


@pytest.fixture
async def database(empty_postgres_dsn: str) -> AsyncIterator[Database]:
    database = await Database.open(empty_postgres_dsn, pool_size=2, timeout_s=20.0)
    yield database
    await database.close()


async def test_what_a_query_gives_depends_on_its_sign(database: Database, named: Queries) -> None:
    async with database.connection() as connection:
        await connection.execute(THINGS)
        assert [row["n"] for row in await named.list_numbers(connection, count=3)] == [1, 2, 3]
        assert dict(await named.get_pair(connection, a=1, b=5)) == {"a": 1, "b": 5, "c": 2}
        assert await named.get_nothing(connection) is None
        assert dict(await named.insert_thing(connection, id=1, data={"k": [1, None]})) == {
            "id": 1,
            "data": {"k": [1, None]},
        }
        assert await named.insert_thing(connection, id=1, data={}) is None
        for n, data in ((2, "text"), (3, 3)):
            assert (await named.insert_thing(connection, data=data, id=n))["data"] == data
        assert await named.get_count(connection) == 3
        assert await named.update_things(connection, data=None) == 3


async def test_a_query_runs_on_the_pool_itself_too(database: Database, named: Queries) -> None:
    await database.execute(THINGS)
    assert len(await named.list_numbers(database, count=2)) == 2
    assert (await named.insert_thing(database, id=1, data={}))["id"] == 1
    assert await named.get_count(database) == 1
    assert await named.update_things(database, data=[]) == 1


async def test_who_asks_at_the_same_time_is_asked_for_in_one_statement(database: Database, named: Queries) -> None:
    """And each is given the own row, whatever others asked for, and however many leave before it comes."""
    await database.execute(THINGS)
    await database.execute("INSERT INTO things SELECT n, to_json(n) FROM generate_series(1, 500) AS n")
    asked = [asyncio.create_task(named.get_thing.together(database, id=n)) for n in (7, 3, 501, 7, 9)]
    await asyncio.sleep(0)
    asked[1].cancel()
    first, left, none, same, other = await asyncio.gather(*asked, return_exceptions=True)
    assert (first["id"], same["id"], other["id"], none) == (7, 7, 9, None)
    assert isinstance(left, asyncio.CancelledError)
    assert first["statement"] == same["statement"] == other["statement"]
    later = await named.get_thing.together(database, id=3)
    assert (later["id"], later["statement"] == first["statement"]) == (3, False)

    async with database.transaction() as tx:
        assert (await named.get_thing.together(tx, id=2))["data"] == 2
        assert await named.get_thing.together(tx, id=501) is None

    many = await asyncio.gather(*(named.get_thing.together(database, id=n) for n in range(1, 501)))
    assert [row["id"] for row in many] == list(range(1, 501))
    shares = [sum(row["statement"] == one for row in many) for one in dict.fromkeys(row["statement"] for row in many)]
    assert shares == [db.TOGETHER] * (500 // db.TOGETHER) + [500 % db.TOGETHER]


async def test_what_is_wrong_with_what_one_asks_for_harms_nobody_who_asks_at_the_same_time(
    database: Database, named: Queries
) -> None:
    await database.execute(THINGS)
    await database.execute("INSERT INTO things SELECT n, to_json(n) FROM generate_series(1, 3) AS n")
    await database.execute("ALTER TABLE things ADD COLUMN share int GENERATED ALWAYS AS (6 / (id - 4)) VIRTUAL")
    await database.execute("INSERT INTO things VALUES (4, null)")  # nobody can read it
    asked = (1, 4, 1 << 40, 3)
    told = await asyncio.gather(*(named.get_thing.together(database, id=n) for n in asked), return_exceptions=True)
    assert [one["share"] if isinstance(one, asyncpg.Record) else type(one) for one in told] == [
        -2, asyncpg.DivisionByZeroError, asyncpg.DataError, -6,
    ]  # fmt: skip


async def test_who_asks_together_is_told_together_when_postgres_does_not_answer(named: Queries) -> None:
    gone = Database("postgresql://nobody@127.0.0.1:1/none", pool_size=2, timeout_s=1.0)
    asked = [asyncio.create_task(named.get_thing.together(gone, id=n)) for n in (1, 2, 3)]
    await asyncio.sleep(0)
    asked[0].cancel()
    told = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(one) for one in told] == [asyncio.CancelledError, PostgresAway, PostgresAway]


async def test_a_failure_that_nobody_waits_for_any_more_is_nobodys_error(named: Queries) -> None:
    errors: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    gone = Database("postgresql://nobody@127.0.0.1:1/none", pool_size=2, timeout_s=1.0)
    asked = [asyncio.create_task(named.get_thing.together(gone, id=n)) for n in (1, 2)]
    await asyncio.sleep(0)
    while asked:
        asked.pop().cancel()
    await eventually(lambda: len(asyncio.all_tasks()) == 1)
    gc.collect()
    assert not errors


async def test_what_an_array_consists_of_is_asked_by_the_first_connection_alone(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(db, "_own_types", {})
    await database.execute("CREATE TYPE colour AS ENUM ('red')")
    own = "SELECT $1::uuid[] AS ids, '{[1,3)}'::int4multirange AS ranges"
    asked = "SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE 'WITH RECURSIVE typeinfo_tree%'"
    answers, counts = [], []
    async with database.connection() as first, database.connection() as second:
        for connection in (first, second):
            answers.append(dict(await connection.fetchrow(own, [UUID(int=7)])))
            counts.append(await connection.fetchval(asked))
            assert await connection.fetchval("SELECT '{red}'::colour[]") == ["red"], "of this database, and asked for"
    assert answers == [{"ids": [UUID(int=7)], "ranges": [asyncpg.Range(1, 3)]}] * 2
    assert counts == [1, 0]


async def test_a_wrong_name_is_told_with_the_right_ones(database: Database, named: Queries) -> None:
    with pytest.raises(AttributeError, match=r"things\.sql has no query nothing"):
        _ = named.nothing
    with pytest.raises(TypeError, match="get_pair takes b, a"):
        named.get_pair(database, a=1)
    with pytest.raises(KeyError):
        named.get_pair(database, a=1, c=2)
    with pytest.raises(TypeError, match="get_thing takes id"):
        await named.get_thing.together(database)


async def test_a_transaction_is_kept_at_its_end_and_undone_when_it_raises(database: Database, named: Queries) -> None:
    await database.execute(THINGS)
    async with database.transaction() as tx:
        await named.insert_thing(tx, id=1, data={})
    with pytest.raises(RuntimeError, match="changed my mind"):
        await _change_ones_mind(database, named)
    assert await named.get_count(database) == 1
    assert database.idle == 1, "the connection was kept"


async def test_who_stands_still_in_a_transaction_holds_nothing_that_others_wait_for(
    empty_postgres_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(db, "IDLE_IN_TRANSACTION_S", 0.2)
    database = await Database.open(empty_postgres_dsn, pool_size=2, timeout_s=20.0)
    await database.execute("CREATE TABLE rows (id int PRIMARY KEY, n int); INSERT INTO rows VALUES (1, 0)")

    async def stand_still() -> None:
        async with database.transaction() as still:
            await still.execute("UPDATE rows SET n = n + 1")
            await database.execute("UPDATE rows SET n = n + 10")  # waits until Postgres has undone the other
            await still.execute("UPDATE rows SET n = n + 100")

    with pytest.raises(DATABASE_AWAY):
        await stand_still()
    assert await database.fetchval("SELECT n FROM rows") == 10
    await database.close()


async def test_a_full_pool_is_told_in_time(database: Database) -> None:
    async with database.connection(), database.connection():
        database.timeout_s = 0.3
        with pytest.raises(PostgresAway):
            await database.fetchval("SELECT 1")
    assert await database.fetchval("SELECT 1") == 1


async def test_a_statement_that_takes_too_long_is_cut_and_its_connection_thrown_away(database: Database) -> None:
    hasty = Database(database.dsn, pool_size=2, timeout_s=0.3)
    started = time.monotonic()
    for context in (hasty.connection, hasty.transaction):
        with pytest.raises(PostgresAway):
            async with context() as connection:
                await connection.execute("SELECT pg_sleep(60)")
    assert time.monotonic() - started < 60
    hasty.timeout_s = 20.0  # of the connection that takes the place of those
    assert await hasty.fetchval("SELECT 1") == 1
    await hasty.close()


async def test_what_was_told_to_be_undone_is_not_done_later(database: Database, empty_postgres_dsn: str) -> None:
    await database.execute("CREATE TABLE things (id int)")
    hasty = await Database.open(empty_postgres_dsn, pool_size=1, timeout_s=0.2, application_name="hasty")
    async with database.transaction() as holder:
        await holder.execute("LOCK TABLE things")
        with pytest.raises(PostgresAway):
            await hasty.execute("INSERT INTO things VALUES (1)")
        gone = "SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'hasty' AND state = 'active'"
        await eventually(lambda: database.fetchval(gone))
    assert await database.fetchval("SELECT count(*) FROM things") == 0
    await hasty.close()


async def test_a_cancelled_statement_does_not_keep_its_caller(database: Database) -> None:
    started = time.monotonic()
    for context in (database.connection, database.transaction):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1), context() as connection:
                await connection.execute("SELECT pg_sleep(60)")
    assert time.monotonic() - started < database.timeout_s


async def test_nobody_there_is_told_at_once() -> None:
    with pytest.raises(PostgresAway):
        await Database.open("postgresql:///x?host=/nowhere", pool_size=1, timeout_s=0.5)


@pytest.fixture
async def own(own_postgres: Postgres) -> AsyncIterator[Database]:
    database = await Database.open(own_postgres.dsn, pool_size=3, timeout_s=20.0)
    yield database
    await database.close()


async def _hold(database: Database, connections: int) -> None:
    """Have so many at hand, however often one that is given up soon takes too long to come about."""
    async with asyncio.timeout(30):
        while database.idle < connections:
            with suppress(PostgresAway):
                await asyncio.gather(*(database.fetchval("SELECT pg_sleep(0.05)") for _ in range(connections)))


async def test_a_paused_server_is_told_in_time_and_forgotten_when_it_goes_on(own_postgres: Postgres) -> None:
    hasty = Database(own_postgres.dsn, pool_size=3, timeout_s=0.5)
    await _hold(hasty, 1)
    with paused(own_postgres):
        for attempt in (hasty.fetchval("SELECT 1"), _in_transaction(hasty), hasty.fetchval("SELECT 1")):
            with pytest.raises(PostgresAway):
                await attempt
    hasty.timeout_s = 20.0
    assert await hasty.fetchval("SELECT 1") == 1
    await hasty.close()


async def test_a_restart_costs_a_reader_and_a_transaction_nothing(own: Database, own_postgres: Postgres) -> None:
    for attempt in (lambda: own.fetchval("SELECT 1"), lambda: _in_transaction(own)):
        async with own.connection(), own.connection():
            pass  # two connections that will be stale
        await asyncio.to_thread(own_postgres.kill)
        await asyncio.to_thread(own_postgres.start)
        assert await attempt() == 1


async def test_a_server_that_is_gone_is_told_in_time(own: Database, own_postgres: Postgres) -> None:
    await asyncio.to_thread(own_postgres.stop)
    for attempt in (own.fetchval("SELECT 1"), _in_transaction(own)):
        with pytest.raises(PostgresAway):
            await attempt


async def test_a_connection_that_dies_in_use_is_told_as_postgres_away(own: Database, own_postgres: Postgres) -> None:
    for context in (own.connection, own.transaction):
        with pytest.raises(PostgresAway):
            await _restart_in_use(context(), own_postgres)
        assert await own.fetchval("SELECT 1") == 1


async def test_a_table_that_is_altered_meanwhile_is_told_once_and_as_postgres_away(database: Database) -> None:
    await database.execute(THINGS)

    async def look() -> None:
        async with database.transaction() as one, database.transaction() as other:
            await one.fetch("SELECT * FROM things")
            await other.fetch("SELECT * FROM things")

    await look()
    await database.execute("ALTER TABLE things ADD x int")
    with pytest.raises(PostgresAway):
        await look()
    await look()


class _EndKeptBack(Link):
    """The end of a connection does not come through."""

    async def pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _: See) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        await asyncio.Event().wait()


class _SlowToEnd(Proxy):
    link = _EndKeptBack


async def test_a_connection_whose_server_took_leave_is_lost_even_before_its_end_comes(own_postgres: Postgres) -> None:
    sockets = Path(own_postgres.dsn.partition("host=")[2])
    with data_directory() as places:
        async with _SlowToEnd(sockets / ".s.PGSQL.5432", places / ".s.PGSQL.5432"):
            database = await Database.open(f"postgresql://lectern@/lectern?host={places}", pool_size=1, timeout_s=20.0)
            for again in (True, False):
                pid = await database.fetchval("SELECT pg_backend_pid()")
                gone = await asyncio.to_thread(own_postgres.execute, f"SELECT pg_terminate_backend({pid}, 5000)")
                assert gone.strip() == "t"
                await asyncio.sleep(0.1)  # the leave comes through; what follows holds with and without it
                if again:
                    assert await database.fetchval("SELECT 1") == 1
                else:
                    with pytest.raises(ConnectionLost):
                        await database.execute("CREATE TABLE kept (n integer)")
            database.terminate()


async def test_whose_server_took_leave_of_all_connections_is_asked_again_on_a_new_one(own_postgres: Postgres) -> None:
    sockets = Path(own_postgres.dsn.partition("host=")[2])
    leave = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'lectern'"
    with data_directory() as places:
        async with _SlowToEnd(sockets / ".s.PGSQL.5432", places / ".s.PGSQL.5432"):
            database = await Database.open(f"postgresql://lectern@/lectern?host={places}", pool_size=3, timeout_s=20.0)
            for attempt in (
                lambda: database.fetchval("SELECT 1"),
                lambda: database.fetchval("WITH one AS (SELECT 1 AS n)\nSELECT n FROM one"),
                lambda: _in_transaction(database),
            ):
                await _hold(database, 3)
                assert (await asyncio.to_thread(own_postgres.execute, leave)).split() == ["t"] * 3
                await asyncio.sleep(0.1)  # what follows holds whether or not the leave has come
                assert await attempt() == 1
            database.terminate()


def test_a_statement_that_begins_with_with_is_asked_again_only_where_it_writes_nothing() -> None:
    reads = queries("grounding").find_pieces, queries("recommendations").list_candidates, queries("digests").list_unread
    writes = queries("sessions").save_checkpoints, queries("chat").finish_turn, queries("videos").delete_video
    assert [bool(db._READS.match(query.sql)) for query in (*reads, *writes)] == [True] * 3 + [False] * 3


async def test_when_one_connection_has_died_without_a_word_the_others_are_not_tried_one_by_one(
    own_postgres: Postgres,
) -> None:
    sockets = Path(own_postgres.dsn.partition("host=")[2])
    with data_directory() as places:
        async with Proxy(sockets / ".s.PGSQL.5432", places / ".s.PGSQL.5432") as proxy:
            database = Database(f"postgresql://lectern@/lectern?host={places}", pool_size=3, timeout_s=1.0)
            await _hold(database, 3)
            proxy.freeze()
            with pytest.raises(PostgresAway):
                await database.fetchval("SELECT 1")
            database.timeout_s = 20.0
            assert await asyncio.gather(*(database.fetchval("SELECT 1") for _ in range(3))) == [1, 1, 1]
            database.terminate()


async def test_what_is_wrong_with_a_statement_is_not_blamed_on_postgres(own: Database) -> None:
    for sql, argument in (("SELECT $1::int", "text"), ("SELECT 1/$1::int", 0)):
        with pytest.raises((asyncpg.DataError, asyncpg.InterfaceError)) as raised:
            await own.fetchval(sql, argument)
        assert not isinstance(raised.value, DATABASE_AWAY)


async def _restart_in_use(context: AbstractAsyncContextManager[Connection], server: Postgres) -> None:
    async with context as connection:
        await connection.execute("SELECT 1")
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
        await connection.execute("SELECT 1")


async def _in_transaction(database: Database) -> Any:
    async with database.transaction() as tx:
        return await tx.fetchval("SELECT 1")


async def _change_ones_mind(database: Database, named: Queries) -> None:
    async with database.transaction() as tx:
        await named.insert_thing(tx, id=2, data={})
        raise RuntimeError("changed my mind")


async def test_who_waits_for_a_connection_gets_it_in_turn_and_who_gave_up_loses_none(database: Database) -> None:
    async def ask(n: int, seconds: float) -> int:
        return await database.fetchval("SELECT $1::int FROM pg_sleep($2)", n, seconds)

    order: list[int] = []

    async def note(n: int) -> None:
        order.append(await ask(n, 0.01))

    holding = [asyncio.create_task(ask(n, 0.2)) for n in range(2)]
    await asyncio.sleep(0.05)
    waiting = [asyncio.create_task(note(n)) for n in range(20)]
    await asyncio.sleep(0)
    for task in waiting[5:10]:
        task.cancel()
    await asyncio.gather(*holding, *waiting, return_exceptions=True)
    assert sorted(order) == [*range(5), *range(10, 20)]
    assert (database.idle, database.used) == (2, 0)
    assert await asyncio.gather(*(ask(n, 0) for n in range(8))) == list(range(8))


async def test_the_place_of_a_connection_that_was_thrown_away_is_theirs_who_waited_not_theirs_who_come_new(
    empty_postgres_dsn: str,
) -> None:
    database = await Database.open(empty_postgres_dsn, pool_size=1, timeout_s=20.0)
    order: list[str] = []

    async def note(who: str) -> None:
        order.append(await database.fetchval("SELECT $1::text", who))

    async with database.connection() as held:
        waiting = asyncio.create_task(note("waited"))
        await asyncio.sleep(0)
        held.terminate()
    await note("new")  # at once: who waited has been told of the place, and not begun yet
    await waiting
    assert order == ["waited", "new"]
    await database.close()


async def test_who_is_handed_a_place_and_leaves_hands_it_on(empty_postgres_dsn: str) -> None:
    database = await Database.open(empty_postgres_dsn, pool_size=1, timeout_s=20.0)
    async with database.connection() as held:
        leaving, staying = (asyncio.create_task(database.fetchval("SELECT 1")) for _ in range(2))
        await asyncio.sleep(0)
        held.terminate()
    leaving.cancel()
    assert await staying == 1
    assert leaving.cancelled()
    assert (database.idle, database.used) == (1, 0)
    await database.close()


async def test_waiting_and_connecting_together_take_no_longer_than_is_allowed(own_postgres: Postgres) -> None:
    database = await Database.open(own_postgres.dsn, pool_size=1, timeout_s=0.5)
    with paused(own_postgres):
        async with database.connection() as held:
            waiting = asyncio.create_task(database.fetchval("SELECT 1"))
            await asyncio.sleep(0)
            database.timeout_s = 30.0  # whoever comes now has longer
            held.terminate()
        started = time.monotonic()
        with pytest.raises(PostgresAway):
            await waiting
    assert time.monotonic() - started < 30
    database.terminate()


async def test_all_who_wait_are_told_when_the_pool_is_closed(database: Database) -> None:
    started = time.monotonic()
    async with database.connection(), database.connection():
        waiting = [asyncio.create_task(database.fetchval("SELECT 1")) for _ in range(5)]
        await asyncio.sleep(0)
        database.terminate()
    told = await asyncio.gather(*waiting, return_exceptions=True)
    assert {type(error) for error in told} == {PostgresAway}
    assert time.monotonic() - started < database.timeout_s

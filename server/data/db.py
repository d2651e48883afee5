"""Postgres: one bounded pool per process, named queries, and failures that come in time.

A connection that was abandoned in mid-query (time-out, cancellation) is thrown away, not returned: waiting for a paused
server to confirm a cancellation or a rollback takes longer than a client is willing to wait.
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import aiosql
import asyncpg
import orjson
from aiosql.types import SQLOperationType

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

QUERIES_DIR = Path(__file__).resolve().parents[2] / "sql" / "queries"

Record = asyncpg.Record
Connection: TypeAlias = "PoolConnectionProxy[asyncpg.Record]"


class PostgresAway(Exception):
    """Postgres did not answer within `postgres.timeout_s`, or not at all."""


class ConnectionLost(PostgresAway):
    """The connection died, maybe long ago in the pool; whether its last statement was carried out is unknown."""


_LOST = (
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
)
# How Postgres says that it can't just now (a deadlock that it broke, or a standby that takes no writes yet): the same
# may work later, and nothing is wrong with what was asked. A closed connection (asyncpg's InterfaceError, which bad
# arguments are too) and a time-out are told as PostgresAway.
DATABASE_AWAY = (
    PostgresAway,
    *_LOST,
    asyncpg.InsufficientResourcesError,
    asyncpg.QueryCanceledError,
    asyncpg.DeadlockDetectedError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.SerializationError,
)


class _PooledConnection(asyncpg.Connection[asyncpg.Record] if TYPE_CHECKING else asyncpg.Connection):  # type: ignore[misc]
    """No reset statement on release: no session state is ever set through the pool, so it would only cost a round trip.
    asyncpg still rolls back a transaction that was left open."""

    def get_reset_query(self) -> str:
        return ""


class Database:
    """The pool. Times are seconds; everything here raises one of DATABASE_AWAY when Postgres does not answer in time.

    A Database can also be given to a named query in place of a connection: the statement then runs on a connection of
    its own, and a plain SELECT is asked again once if that connection turns out to be stale.
    """

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]", timeout_s: float) -> None:
        self.pool = pool
        self.timeout_s = timeout_s

    @classmethod
    async def open(cls, dsn: str, *, pool_size: int, timeout_s: float, application_name: str = "lectern") -> Self:
        """Connect. The pool never holds more than `pool_size` connections; jsonb columns are Python values."""
        pool = asyncpg.create_pool(
            dsn,
            min_size=1,
            max_size=pool_size,
            timeout=timeout_s,
            command_timeout=timeout_s,
            connection_class=_PooledConnection,
            init=_prepare_connection,
            server_settings={"application_name": application_name, "timezone": "UTC"},
        )
        async with _away(), asyncio.timeout(timeout_s):
            await pool
        return cls(pool, timeout_s)

    async def close(self) -> None:
        """Give connections in use a moment to finish, then cut them."""
        try:
            async with asyncio.timeout(self.timeout_s):
                await self.pool.close()
        except TimeoutError:
            self.pool.terminate()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection outside any transaction: every statement stands for itself."""
        connection = await self._acquire()
        try:
            with _watched(connection):
                yield connection
        finally:
            await self.pool.release(connection)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """A connection in a transaction: committed at the end of the block, rolled back when it raises."""
        connection, transaction = await self._begin()
        try:
            with _watched(connection):
                try:
                    yield connection
                except (TimeoutError, asyncio.CancelledError):
                    raise
                except BaseException:
                    if not _is_gone(connection):
                        await transaction.rollback()
                    raise
                await transaction.commit()
        finally:
            await self.pool.release(connection)

    async def fetch(self, sql: str, *args: Any) -> list[Record]:
        """All rows of one statement on a connection of its own."""
        return await self._once("fetch", sql, args)  # type: ignore[no-any-return]

    async def fetchrow(self, sql: str, *args: Any) -> Record | None:
        """The first row of one statement on a connection of its own."""
        return await self._once("fetchrow", sql, args)  # type: ignore[no-any-return]

    async def fetchval(self, sql: str, *args: Any) -> Any:
        """The first value of one statement on a connection of its own."""
        return await self._once("fetchval", sql, args)

    async def execute(self, sql: str, *args: Any) -> str:
        """The status ("UPDATE 1") of one statement on a connection of its own."""
        return await self._once("execute", sql, args)  # type: ignore[no-any-return]

    async def executemany(self, sql: str, args: Sequence[Sequence[Any]]) -> None:
        """One statement for many rows, all or none."""
        async with self.connection() as connection:
            await connection.executemany(sql, args)

    async def _once(self, method: str, sql: str, args: Sequence[Any]) -> Any:
        try:
            async with self.connection() as connection:
                return await getattr(connection, method)(sql, *args)
        except ConnectionLost:
            if not sql.lstrip().upper().startswith("SELECT"):
                raise
        async with self.connection() as connection:
            return await getattr(connection, method)(sql, *args)

    async def _acquire(self) -> Connection:
        async with _away():
            return await self.pool.acquire(timeout=self.timeout_s)

    async def _begin(self) -> tuple[Connection, Any]:
        """BEGIN, and once more on another connection if the first was stale: nothing has been executed yet."""
        for attempt in (1, 2):
            connection = await self._acquire()
            transaction = connection.transaction()
            try:
                with _watched(connection):
                    await transaction.start()
            except BaseException as error:
                _drop(connection)
                await self.pool.release(connection)
                if attempt == 1 and isinstance(error, ConnectionLost):
                    continue
                raise
            return connection, transaction
        raise AssertionError("unreachable")


class Within(Database):
    """A transaction under way, given to who expects a Database: what it calls a transaction is a savepoint here."""

    def __init__(self, connection: Connection, database: Database) -> None:
        super().__init__(database.pool, database.timeout_s)
        self._connection = connection

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """The transaction's connection; statements that fail are undone, the transaction goes on."""
        async with self.transaction() as connection:
            yield connection

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """A savepoint: released at the end of the block, rolled back to when it raises."""
        savepoint = self._connection.transaction()
        await savepoint.start()
        try:
            yield self._connection
        except (TimeoutError, asyncio.CancelledError):
            raise
        except BaseException:
            if not _is_gone(self._connection):
                await savepoint.rollback()
            raise
        await savepoint.commit()


@asynccontextmanager
async def _away() -> AsyncIterator[None]:
    """While connecting any refusal of the network or of a starting or full server means that Postgres is away."""
    try:
        yield
    except (OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.TooManyConnectionsError, *_LOST) as error:
        raise PostgresAway(str(error) or type(error).__name__) from error


@contextmanager
def _watched(connection: Connection) -> Iterator[None]:
    """Throw the connection away when it is abandoned in mid-query, and tell of its loss in one way."""
    try:
        yield
    except asyncio.CancelledError:
        _drop(connection)
        raise
    except TimeoutError as error:
        _drop(connection)
        raise PostgresAway("no answer in time") from error
    except (*_LOST, asyncpg.InternalClientError) as error:
        # The last is what asyncpg says of a connection whose server took leave and whose end has not come yet: its
        # state machine takes nothing any more, so nothing was sent.
        _drop(connection)
        raise ConnectionLost(str(error)) from error
    except (OSError, asyncpg.InterfaceError) as error:
        if not _is_gone(connection):
            raise
        raise ConnectionLost(str(error)) from error


def _drop(connection: Connection) -> None:
    """Close it at once, without a word to the server."""
    if not _is_gone(connection):
        connection.terminate()


def _is_gone(connection: Connection) -> bool:
    """Whether it is closed. The pool takes one that broke out of our hands: asking it then is an InterfaceError."""
    try:
        return connection.is_closed()
    except asyncpg.InterfaceError:
        return True


async def _prepare_connection(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    await connection.set_type_codec(
        "jsonb", encoder=_encode_jsonb, decoder=orjson.loads, schema="pg_catalog", format="text"
    )


def _encode_jsonb(value: Any) -> str:
    return orjson.dumps(value, default=str).decode()


class Query:
    """One named statement. `await query(connection, name=value, ...)`; what comes back depends on its sign.

    | `-- name: x(...)` | answer |
    |---|---|
    | none | `list[Record]` |
    | `^` | `Record` or None |
    | `$` | the first value or None |
    | `!` | how many rows it touched, `int` |
    | `<!` | `Record` or None, of what RETURNING gave |
    | `*!` | None; takes `rows`, a sequence of mappings |
    | `#` | None; a script without parameters |
    """

    __slots__ = ("name", "operation", "parameters", "sql")

    def __init__(self, name: str, sql: str, operation: Any, parameters: Sequence[str]) -> None:
        self.name = name
        self.sql = sql
        self.operation = operation
        self.parameters = tuple(parameters)

    def __call__(self, connection: Any, **values: Any) -> Coroutine[Any, Any, Any]:
        """`connection` is one of `Database.connection()`, `.transaction()`, or a Database. TypeError on other names."""
        if self.operation is SQLOperationType.INSERT_UPDATE_DELETE_MANY:
            rows = [[row[name] for name in self.parameters] for row in values["rows"]]
            return connection.executemany(self.sql, rows)  # type: ignore[no-any-return]
        if len(values) != len(self.parameters):
            raise TypeError(f"{self.name} takes {', '.join(self.parameters)}; got {', '.join(values)}")
        args = [values[name] for name in self.parameters]
        match self.operation:
            case SQLOperationType.SELECT:
                return connection.fetch(self.sql, *args)  # type: ignore[no-any-return]
            case SQLOperationType.SELECT_ONE | SQLOperationType.INSERT_RETURNING:
                return connection.fetchrow(self.sql, *args)  # type: ignore[no-any-return]
            case SQLOperationType.SELECT_VALUE:
                return connection.fetchval(self.sql, *args)  # type: ignore[no-any-return]
            case SQLOperationType.SCRIPT:
                return connection.execute(self.sql)  # type: ignore[no-any-return]
            case _:
                return _execute_counting(connection, self.sql, args)


async def _execute_counting(connection: Any, sql: str, args: Sequence[Any]) -> int:
    """How many rows a statement touched, from its status (`INSERT 0 3`, `UPDATE 3`)."""
    status: str = await connection.execute(sql, *args)
    count = status.rpartition(" ")[2]
    return int(count) if count.isdigit() else 0


class Queries:
    """The named queries of one domain: `queries("courses").get_course` is a Query."""

    def __init__(self, domain: str, statements: dict[str, Query]) -> None:
        self.domain = domain
        self.statements = statements

    def __getattr__(self, name: str) -> Query:
        try:
            query = self.__dict__["statements"][name]
        except KeyError:
            raise AttributeError(f"sql/queries/{self.__dict__.get('domain')}.sql has no query {name}") from None
        self.__dict__[name] = query
        return query  # type: ignore[no-any-return]


@cache
def queries(domain: str) -> Queries:
    """Load `sql/queries/<domain>.sql`."""
    loaded = aiosql.from_path(QUERIES_DIR / f"{domain}.sql", "asyncpg")
    statements = {}
    for name in loaded.available_queries:
        if not name.endswith("_cursor"):
            fn = getattr(loaded, name)
            order = loaded.driver_adapter.var_sorted[name]
            statements[name] = Query(name, fn.sql, fn.operation, order)
    return Queries(domain, statements)

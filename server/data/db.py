"""Postgres: one bounded pool per process, named queries, and failures that come in time.

A connection that was abandoned in mid-query (time-out, cancellation) is thrown away, not returned: waiting for a paused
server to confirm a cancellation or a rollback takes longer than a client is willing to wait. After a time-out or a loss
all the others give way to new ones before they are used again: what silenced one may have silenced all of them.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import aiosql
import asyncpg
import orjson
from aiosql.types import SQLOperationType

QUERIES_DIR = Path(__file__).resolve().parents[2] / "sql" / "queries"

Record = asyncpg.Record
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


class PostgresAway(Exception):
    """Postgres did not answer within `postgres.timeout_s`, or not at all."""


class NoAnswer(PostgresAway):
    """A statement was not answered in time; whether it was carried out is unknown."""


class ConnectionLost(PostgresAway):
    """The connection died, maybe long ago in the pool; whether its last statement was carried out is unknown."""


_LOST = (
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
)
# Of a connection that is good for nothing any more, as all of them may be, is also said that its server took leave and
# its end has not come yet (asyncpg's state machine takes nothing then, so nothing was sent), or that a release that
# takes over has altered a table, for which it has statements prepared (in a transaction nothing is asked again).
_USELESS = (*_LOST, asyncpg.InternalClientError, asyncpg.InvalidCachedStatementError)
# How Postgres says that it can't just now (a deadlock that it broke, a row that somebody holds for longer than the
# statement waits, or a standby that takes no writes yet): the same may work later, and nothing is wrong with what was
# asked. A closed connection (asyncpg's InterfaceError, which bad arguments are too) and a time-out are told as
# PostgresAway.
DATABASE_AWAY = (
    PostgresAway,
    *_LOST,
    asyncpg.InsufficientResourcesError,
    asyncpg.QueryCanceledError,
    asyncpg.DeadlockDetectedError,
    asyncpg.LockNotAvailableError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.SerializationError,
    asyncpg.IdleInTransactionSessionTimeoutError,
)
# A process that stands still in the middle of a transaction holds rows that others wait for: after this long Postgres
# undoes it. Nothing of ours waits for anything but Postgres in there.
IDLE_IN_TRANSACTION_S = 5.0


# Nor does a statement go on for longer than this after we have left off waiting for its answer: what a client was told
# is not done shall not be done later.
LEFT_OFF_S = 0.5


# A connection that was idle for so long may have been forgotten on the way.
STALE_S = 300.0
# Statements that each connection keeps prepared, the longest unused going first: all that there are.
PREPARED = 1000
# A statement that reads and no more, as it begins; a WITH may also write, and says so.
_READS = re.compile(r"\s*(SELECT\b|WITH\b(?!.*\b(INSERT|UPDATE|DELETE|MERGE)\b))", re.DOTALL | re.IGNORECASE)
# Types with lower numbers are Postgres' own, and the same in every database.
FIRST_OTHER_TYPE = 10_000
# Who asks together: of more Postgres would rather read whole tables, and to take their rows would hold up the loop.
TOGETHER = 64


class _Connection(asyncpg.Connection[asyncpg.Record] if TYPE_CHECKING else asyncpg.Connection):  # type: ignore[misc]
    """With what a Database remembers of it: its generation, and when it was used last (`time.monotonic`).

    Every connection of asyncpg asks Postgres anew what an array or a range consists of, which costs Postgres more than
    most statements. What one was told of Postgres' own types the others know.
    """

    __slots__ = ("generation", "used_at")

    generation: int
    used_at: float

    async def _introspect_types(self, typeoids: Sequence[int], timeout: float | None) -> tuple[Any, Any]:
        asked = frozenset(typeoids)
        if asked in _own_types:
            return _own_types[asked], _NO_STATEMENT
        types, statement = await super()._introspect_types(typeoids, timeout)
        if max(asked) < FIRST_OTHER_TYPE:
            _own_types[asked] = types
        return types, statement


_own_types: dict[frozenset[int], Any] = {}
# asyncpg prepares again what a statement without a name has taken the place of.
_NO_STATEMENT = SimpleNamespace(name="none")


class Database:
    """The pool. Times are seconds; everything here raises one of DATABASE_AWAY when Postgres does not answer in time.

    A connection that was used is handed to who waits longest, or kept at hand for who comes next.

    A Database can also be given to a named query in place of a connection: the statement then runs on a connection of
    its own, and one that only reads is asked again once if that connection turns out to be stale.
    """

    def __init__(self, dsn: str, *, pool_size: int, timeout_s: float, application_name: str = "lectern") -> None:
        self.dsn = dsn
        self.pool_size = pool_size
        self.timeout_s = timeout_s
        self._application_name = application_name
        # Kept, for to ask for it is a system call in Python 3.11.
        self._loop = asyncio.get_running_loop()
        # The one used last at the end.
        self._at_hand: list[_Connection] = []
        self._in_use: set[_Connection] = set()
        # Places where one is being opened, or will be by who was just handed the place.
        self._connecting = 0
        # Those of older generations are not used again.
        self._generation = 0
        # Who waits and until when, for a connection or (None) for a place to open one. All wait equally long, so the
        # first gives up first, and one timer is enough.
        self._waiters: deque[tuple[asyncio.Future[_Connection | None], float]] = deque()
        self._giving_up: asyncio.TimerHandle | None = None
        self._closing = False
        # By statement: whose arguments go along next, and their rows by place.
        self._together: dict[str, tuple[list[tuple[Any, ...]], asyncio.Task[dict[int, Record]]]] = {}

    @property
    def idle(self) -> int:
        """Connections that nobody uses just now."""
        return len(self._at_hand)

    @property
    def used(self) -> int:
        """Connections that somebody uses just now, and those that are being opened."""
        return len(self._in_use) + self._connecting

    @classmethod
    async def open(cls, dsn: str, *, pool_size: int, timeout_s: float, application_name: str = "lectern") -> Self:
        """Connect. There are never more than `pool_size` connections; jsonb and json columns are Python values."""
        database = cls(dsn, pool_size=pool_size, timeout_s=timeout_s, application_name=application_name)
        async with database.connection():
            return database

    async def close(self) -> None:
        """Give connections in use a moment to finish, then cut them."""
        self._closing = True
        until = time.monotonic() + self.timeout_s
        at_hand, self._at_hand = self._at_hand, []
        try:
            async with asyncio.timeout(self.timeout_s):
                for connection in at_hand:
                    await connection.close()
        except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            for connection in at_hand:
                connection.terminate()
        while self.used and time.monotonic() < until:  # noqa: ASYNC110 - once, at the end
            await asyncio.sleep(0.01)
        self.terminate()

    def terminate(self) -> None:
        """Cut all connections."""
        self._closing = True
        for connection in (*self._at_hand, *self._in_use):
            connection.terminate()
        self._at_hand.clear()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection outside any transaction: every statement stands for itself."""
        connection = await self._acquire()
        try:
            with self._watched(connection):
                yield connection
        finally:
            self._release(connection)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """A connection in a transaction: committed at the end of the block, rolled back when it raises."""
        connection, transaction = await self._begin()
        try:
            with self._watched(connection):
                try:
                    yield connection
                except (TimeoutError, asyncio.CancelledError):
                    raise
                except BaseException:
                    if not connection.is_closed():
                        await transaction.rollback()
                    raise
                await transaction.commit()
        finally:
            self._release(connection)

    async def fetch(self, sql: str, *args: Any) -> list[Record]:
        """All rows of one statement on a connection of its own."""
        return await self._once("fetch", sql, args)  # type: ignore[no-any-return]

    async def fetchrow(self, sql: str, *args: Any) -> Record | None:
        """The first row of one statement on a connection of its own."""
        return await self._once("fetchrow", sql, args)  # type: ignore[no-any-return]

    async def fetch_together(self, sql: str, *args: Any) -> Record | None:
        """The row for these arguments of a statement that takes arrays of them, and tells each row's `place`, from 1.

        Those who ask in the same turn of the loop share one round trip, and its failure, unless that is one of values.
        """
        if sql not in self._together:
            asked: list[tuple[Any, ...]] = []
            asking = self._loop.create_task(self._fetch_all(sql, asked))
            asking.add_done_callback(_hear)
            self._together[sql] = asked, asking
        asked, answer = self._together[sql]
        asked.append(args)
        place = len(asked)
        if place == TOGETHER:
            del self._together[sql]
        try:
            return (await asyncio.shield(answer)).get(place)
        except asyncpg.DataError:
            if len(asked) == 1:
                raise
        return await _fetch_one(self, sql, args)  # somebody's values or row are out of range, maybe not ours

    async def _fetch_all(self, sql: str, asked: list[tuple[Any, ...]]) -> dict[int, Record]:
        if self._together.get(sql, (None,))[0] is asked:  # nobody joins from here on
            del self._together[sql]
        return {row["place"]: row for row in await self.fetch(sql, *zip(*asked, strict=True))}

    async def fetchval(self, sql: str, *args: Any) -> Any:
        """The first value of one statement on a connection of its own."""
        return await self._once("fetchval", sql, args)

    async def execute(self, sql: str, *args: Any) -> str:
        """The status ("UPDATE 1") of one statement on a connection of its own."""
        return await self._once("execute", sql, args)  # type: ignore[no-any-return]

    async def _once(self, method: str, sql: str, args: Sequence[Any]) -> Any:
        try:
            return await self._ask(method, sql, args)
        except ConnectionLost:
            if not _READS.match(sql):
                raise
        return await self._ask(method, sql, args)

    async def _ask(self, method: str, sql: str, args: Sequence[Any]) -> Any:
        """As on `connection()`, without the cost of two context managers."""
        connection = await self._acquire()
        try:
            return await getattr(connection, method)(sql, *args)
        except BaseException as error:
            told = self._judge(connection, error)
            if told is error:
                raise
            raise told from error
        finally:
            self._release(connection)

    async def _acquire(self) -> _Connection:
        """In turn: while somebody waits nothing is at hand and no place is free.

        Raises PostgresAway after `timeout_s`, whether it went by with waiting or with connecting.
        """
        now = time.monotonic()
        while self._at_hand:
            connection = self._at_hand.pop()
            if now - connection.used_at < STALE_S and not connection.is_closed():
                self._in_use.add(connection)
                return connection
            connection.terminate()
        deadline = now + self.timeout_s
        if self.used < self.pool_size:
            self._connecting += 1
        elif (handed := await self._wait(deadline)) is not None:
            return handed
        return await self._connect(deadline)

    async def _connect(self, deadline: float) -> _Connection:
        """In a place that is counted as ours already."""
        generation = self._generation
        try:
            if self._closing:
                raise PostgresAway("the pool is closed")
            async with _away(), asyncio.timeout(deadline - time.monotonic()):
                connection = await asyncpg.connect(
                    self.dsn,
                    command_timeout=self.timeout_s,
                    statement_cache_size=PREPARED,
                    max_cached_statement_lifetime=0,
                    connection_class=_Connection,
                    server_settings={
                        "application_name": self._application_name,
                        "timezone": "UTC",
                        "statement_timeout": str(round(1000 * (self.timeout_s + LEFT_OFF_S))),
                        "idle_in_transaction_session_timeout": str(round(1000 * IDLE_IN_TRANSACTION_S)),
                    },
                )
                try:
                    await _prepare_connection(connection)
                except BaseException:
                    connection.terminate()
                    raise
        except BaseException:
            self._vacate()
            raise
        self._connecting -= 1
        connection.generation = generation
        self._in_use.add(connection)
        return connection

    async def _wait(self, deadline: float) -> _Connection | None:
        """For a connection that somebody else has used; None: for the place of one that was thrown away."""
        waiter: asyncio.Future[_Connection | None] = self._loop.create_future()
        self._waiters.append((waiter, deadline))
        if self._giving_up is None:
            self._giving_up = self._loop.call_later(self.timeout_s, self._give_up)
        try:
            return await waiter
        except asyncio.CancelledError:
            # It may have come at the very moment when we were cancelled.
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                if (connection := waiter.result()) is None:
                    self._vacate()
                else:
                    self._release(connection)
            raise

    def _give_up(self) -> None:
        """Tell those who have waited long enough."""
        now = time.monotonic()
        while self._waiters and (self._waiters[0][0].done() or self._waiters[0][1] <= now):
            waiter, _ = self._waiters.popleft()
            if not waiter.done():
                waiter.set_exception(PostgresAway("all connections are in use"))
        left_s = self._waiters[0][1] - now if self._waiters else None
        self._giving_up = None if left_s is None else self._loop.call_later(left_s, self._give_up)

    def _wake(self, connection: _Connection | None) -> bool:
        """Hand this to who waits longest; whether somebody waits."""
        while self._waiters:
            waiter, _ = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return True
        return False

    def _vacate(self) -> None:
        """Hand a place without a connection to who waits longest. It stays taken, so nobody new is quicker."""
        if not self._wake(None):
            self._connecting -= 1

    def _release(self, connection: _Connection) -> None:
        if (
            connection.is_closed()
            or connection.is_in_transaction()  # left open: Postgres undoes it
            or connection.generation != self._generation
            or self._closing
        ):
            self._in_use.discard(connection)
            connection.terminate()
            self._connecting += 1
            self._vacate()
        elif not self._wake(connection):
            self._in_use.discard(connection)
            connection.used_at = time.monotonic()
            self._at_hand.append(connection)

    @contextmanager
    def _watched(self, connection: _Connection) -> Iterator[None]:
        """Throw the connection away when it is abandoned in mid-query, and tell of its loss in one way."""
        try:
            yield
        except BaseException as error:
            told = self._judge(connection, error)
            if told is error:
                raise
            raise told from error

    def _judge(self, connection: _Connection, error: BaseException) -> BaseException:
        """What to raise for an error on a connection, thrown away when it is abandoned in mid-query or lost."""
        if isinstance(error, asyncio.CancelledError):
            connection.terminate()
        elif isinstance(error, TimeoutError):
            connection.terminate()
            self._renew(connection)
            return NoAnswer("no answer in time")
        elif isinstance(error, _USELESS) or (
            isinstance(error, OSError | asyncpg.InterfaceError) and connection.is_closed()
        ):
            connection.terminate()
            self._renew(connection)
            return ConnectionLost(str(error))
        return error

    def _renew(self, lost: _Connection) -> None:
        """Have all connections of this one's generation replaced before they are used again."""
        if lost.generation != self._generation:
            return  # those are newer
        self._generation += 1
        for connection in self._at_hand:
            connection.terminate()
        self._at_hand.clear()

    async def _begin(self) -> tuple[_Connection, Any]:
        """BEGIN, and once more on another connection if the first was stale: nothing has been executed yet."""
        for attempt in (1, 2):
            connection = await self._acquire()
            transaction = connection.transaction()
            try:
                with self._watched(connection):
                    await transaction.start()
            except BaseException as error:
                connection.terminate()
                self._release(connection)
                if attempt == 1 and isinstance(error, ConnectionLost):
                    continue
                raise
            return connection, transaction
        raise AssertionError("unreachable")


class Within(Database):
    """A transaction under way, given to who expects a Database: what it calls a transaction is a savepoint here."""

    def __init__(self, connection: Connection, database: Database) -> None:
        super().__init__(database.dsn, pool_size=0, timeout_s=database.timeout_s)
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
            if not self._connection.is_closed():
                await savepoint.rollback()
            raise
        await savepoint.commit()

    async def _ask(self, method: str, sql: str, args: Sequence[Any]) -> Any:
        async with self.connection() as connection:
            return await getattr(connection, method)(sql, *args)


def _hear(asking: asyncio.Task[Any]) -> None:
    """That it failed is nobody's business where all who asked have left."""
    if not asking.cancelled():
        asking.exception()


@asynccontextmanager
async def _away() -> AsyncIterator[None]:
    """While connecting any refusal means that Postgres is away: of the network, of a server that starts or is full, or
    of one that does not let us in any more (another password, a database under repair)."""
    try:
        yield
    except (OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.PostgresError) as error:
        raise PostgresAway(str(error) or type(error).__name__) from error


async def _prepare_connection(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    for name in ("jsonb", "json"):
        await connection.set_type_codec(
            name, encoder=_encode_json, decoder=orjson.loads, schema="pg_catalog", format="text"
        )


def _encode_json(value: Any) -> str:
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
    """

    __slots__ = ("name", "operation", "parameters", "sql")

    def __init__(self, name: str, sql: str, operation: Any, parameters: Sequence[str]) -> None:
        self.name = name
        self.sql = sql
        self.operation = operation
        self.parameters = tuple(parameters)

    def __call__(self, connection: Any, **values: Any) -> Coroutine[Any, Any, Any]:
        """On one of `Database.connection()`, `.transaction()`, or a Database. TypeError or KeyError on other names."""
        args = self._in_order(values)
        match self.operation:
            case SQLOperationType.SELECT:
                return connection.fetch(self.sql, *args)  # type: ignore[no-any-return]
            case SQLOperationType.SELECT_ONE | SQLOperationType.INSERT_RETURNING:
                return connection.fetchrow(self.sql, *args)  # type: ignore[no-any-return]
            case SQLOperationType.SELECT_VALUE:
                return connection.fetchval(self.sql, *args)  # type: ignore[no-any-return]
            case _:
                return _execute_counting(connection, self.sql, args)

    async def together(self, connection: Any, **values: Any) -> Record | None:
        """The row for one of each of a statement's arrays, as `Database.fetch_together` takes it; or None."""
        args = self._in_order(values)
        if isinstance(connection, Database):
            return await connection.fetch_together(self.sql, *args)
        return await _fetch_one(connection, self.sql, args)

    def _in_order(self, values: dict[str, Any]) -> list[Any]:
        if len(values) != len(self.parameters):
            raise TypeError(f"{self.name} takes {', '.join(self.parameters)}; got {', '.join(values)}")
        return [values[name] for name in self.parameters]


async def _fetch_one(connection: Any, sql: str, args: Sequence[Any]) -> Record | None:
    rows = await connection.fetch(sql, *([value] for value in args))
    return rows[0] if rows else None


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

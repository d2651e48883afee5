"""The harm that proxies do, on real Postgres and Valkey."""

import asyncio
from collections.abc import Awaitable
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import asyncpg
import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import OutOfMemoryError

from tests.chaos.proxy import PostgresProxy, Proxy, RedisProxy, command_of, end_of_answer, unix_socket_of
from tests.support.core import eventually
from tests.support.services import data_directory


def _place_of(dsn: str) -> tuple[str, str]:
    """A database's name, and where its server's sockets are."""
    place = urlsplit(dsn)
    return place.path[1:], parse_qs(place.query)["host"][0]


async def _each(*awaited: Awaitable[object]) -> None:
    for one in awaited:
        await one


@pytest.mark.parametrize("transaction", [True, False])
async def test_a_commit_gets_through_and_its_answer_does_not(empty_postgres_dsn: str, transaction: bool):
    database, sockets = _place_of(empty_postgres_dsn)
    with data_directory() as places:
        listen = places / ".s.PGSQL.5432"
        async with PostgresProxy(Path(sockets) / ".s.PGSQL.5432", listen, marker=b"INSERT INTO marked") as proxy:
            through = await asyncpg.connect(f"postgresql://lectern@/{database}?host={places}")
            await through.execute("CREATE TABLE marked (n integer)")
            if transaction:
                proxy.marker = b"nothing"
                await through.execute("BEGIN")
            proxy.to_cut = 1
            insert = through.fetch("INSERT INTO marked VALUES ($1::integer)", 1)
            with pytest.raises((asyncpg.PostgresConnectionError, OSError)):
                await (_each(insert, through.execute("COMMIT")) if transaction else insert)
            assert proxy.cuts == 1
            again = await asyncpg.connect(f"postgresql://lectern@/{database}?host={places}")
            assert await again.fetchval("SELECT count(*) FROM marked") == 1
            await again.close()


async def test_one_statement_is_held_back_until_it_is_let_go_and_others_pass(empty_postgres_dsn: str):
    database, sockets = _place_of(empty_postgres_dsn)
    insert = "INSERT INTO marked VALUES ($1::uuid)"
    held, other = uuid4(), uuid4()
    with data_directory() as places:
        listen = places / ".s.PGSQL.5432"
        async with PostgresProxy(Path(sockets) / ".s.PGSQL.5432", listen, marker=insert.encode()) as proxy:
            through = f"postgresql://lectern@/{database}?host={places}"
            first, second = await asyncpg.connect(through), await asyncpg.connect(through)
            await first.execute("CREATE TABLE marked (id uuid)")
            proxy.to_hold = held.bytes
            await first.execute(insert, other)
            waiting = asyncio.create_task(first.execute(insert, held))
            await eventually(lambda: proxy.held is not None)
            await second.execute(insert, held)  # only one is held back
            assert await second.fetchval("SELECT count(*) FROM marked") == 2
            assert not waiting.done()
            await proxy.let_go()
            assert await second.fetchval("SELECT count(*) FROM marked") == 3
            await waiting
            await first.execute(insert, held)
            await first.close()
            await second.close()


async def test_what_was_held_back_is_done_even_if_who_said_it_is_gone(empty_postgres_dsn: str):
    database, sockets = _place_of(empty_postgres_dsn)
    insert, held = "INSERT INTO marked VALUES ($1::uuid)", uuid4()
    with data_directory() as places:
        listen = places / ".s.PGSQL.5432"
        async with PostgresProxy(Path(sockets) / ".s.PGSQL.5432", listen, marker=insert.encode()) as proxy:
            direct = await asyncpg.connect(empty_postgres_dsn)
            await direct.execute("CREATE TABLE marked (id uuid)")
            through = await asyncpg.connect(f"postgresql://lectern@/{database}?host={places}")
            proxy.to_hold = held.bytes
            waiting = asyncio.create_task(through.execute(insert, held))
            await eventually(lambda: proxy.held is not None)
            through.terminate()
            with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
                await waiting
            await proxy.let_go()
            assert await direct.fetchval("SELECT count(*) FROM marked") == 1
            await direct.close()


async def test_one_write_fails_while_its_neighbours_succeed(redis_url: str):
    with data_directory() as places:
        async with RedisProxy(unix_socket_of(redis_url), places / "redis", prefix=b"tel:") as proxy:
            redis = Redis.from_url(f"unix://{places}/redis", retry=Retry(NoBackoff(), 0))
            proxy.to_refuse, proxy.every = 1, 2
            pipe = redis.pipeline(transaction=False)
            for n in (1, 2, 3):
                pipe.xadd(f"tel:{n}", {"n": n}, id="1-0")
            pipe.xread({"tel:1": "0", "tel:2": "0", "tel:3": "0"})
            first, second, third, read = await pipe.execute(raise_on_error=False)
            assert (first, third) == (b"1-0", b"1-0")
            assert isinstance(second, OutOfMemoryError)
            assert [key for key, _ in read] == [b"tel:1", b"tel:3"]
            proxy.to_refuse, proxy.every = 1, 1
            with pytest.raises(OutOfMemoryError):
                await redis.xadd("tel:2", {"n": 2}, id="1-0")
            assert await redis.xlen("tel:2") == 0
            assert proxy.refused == 2
            await redis.aclose()


async def test_a_frozen_connection_says_nothing_and_a_new_one_passes():
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server, Proxy(server.sockets[0].getsockname()[1]) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"one")
        assert await reader.read(100) == b"one"
        proxy.freeze()
        writer.write(b"two")
        later, other = await asyncio.open_connection("127.0.0.1", proxy.port)
        other.write(b"three")
        assert await later.read(100) == b"three"
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(100), 0.1)
        proxy.cut()
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        writer.close()
        other.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"+OK\r\n",
        b":5\r\n",
        b"$-1\r\n",
        b"$3\r\nabc\r\n",
        b"*2\r\n$1\r\na\r\n*1\r\n:1\r\n",
        b"*0\r\n",
        b"%1\r\n+a\r\n:1\r\n",
        b"_\r\n",
    ],
)
def test_an_answer_ends_where_it_ends_and_not_before(answer: bytes):
    assert end_of_answer(bytearray(answer + b"+next\r\n")) == len(answer)
    for cut in range(len(answer)):
        assert end_of_answer(bytearray(answer[:cut])) is None


def test_a_command_is_read_when_it_is_whole():
    said = b"*2\r\n$4\r\nPING\r\n$3\r\na\r\n\r\n"
    assert command_of(bytearray(said + b"*1")) == ([b"PING", b"a\r\n"], len(said))
    for cut in range(len(said)):
        assert command_of(bytearray(said[:cut])) is None

"""The hot connection: every way in which an answer can come late, in pieces, wrong or never."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from embedded.valkey import Valkey
from server.data.streams import REDIS_AWAY
from server.data.wire import Wire

PING = b"*1\r\n$4\r\nPING\r\n"


def client(url: str, **settings: object) -> Redis:
    return Redis.from_url(url, socket_timeout=20, socket_connect_timeout=20, retry=Retry(NoBackoff(), 0), **settings)  # type: ignore[no-any-return]


@pytest.fixture
async def wire(redis_url: str) -> AsyncIterator[Wire]:
    redis = client(redis_url)
    wire = Wire(redis)
    yield wire
    await wire.close()
    await redis.aclose()


async def test_answers_come_in_the_order_of_the_commands(wire: Wire) -> None:
    numbers = b"".join(b"*2\r\n$4\r\nECHO\r\n$5\r\n%05d\r\n" % n for n in range(2000))
    assert await wire.ask(numbers, 2000) == [b"%05d" % n for n in range(2000)]


async def test_a_refusal_stands_in_its_commands_place(wire: Wire) -> None:
    before, refused, after = await wire.ask(PING + b"*1\r\n$4\r\nNONE\r\n" + PING, 3)
    assert (before, after) == (b"PONG", b"PONG")
    assert isinstance(refused, ResponseError)


async def test_a_large_answer_comes_in_pieces(wire: Wire) -> None:
    big = b"x" * 3_000_000
    assert await wire.ask(b"*2\r\n$4\r\nECHO\r\n$%d\r\n%b\r\n" % (len(big), big), 1) == [big]


async def test_a_late_answer_is_never_taken_for_the_next(own_valkey: Valkey) -> None:
    redis = client(own_valkey.url)
    wire = Wire(redis)
    assert own_valkey.pid is not None
    assert await wire.ask(PING, 1) == [b"PONG"]
    os.kill(own_valkey.pid, signal.SIGSTOP)
    wire._timeout_s = 0.3
    with pytest.raises(RedisTimeoutError):
        await wire.ask(b"*2\r\n$4\r\nECHO\r\n$4\r\nlate\r\n", 1)
    os.kill(own_valkey.pid, signal.SIGCONT)
    wire._timeout_s = 20
    assert await wire.ask(PING, 1) == [b"PONG"]
    await wire.close()
    await redis.aclose()


async def test_who_stops_waiting_leaves_no_answer_behind(wire: Wire) -> None:
    await wire.ask(PING, 1)
    asking = asyncio.create_task(wire.ask(b"*2\r\n$4\r\nECHO\r\n$4\r\nlate\r\n", 1))
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert await wire.ask(PING, 1) == [b"PONG"]


async def test_a_redis_that_went_and_came_back_is_found_again(own_valkey: Valkey) -> None:
    redis = client(own_valkey.url)
    wire = Wire(redis)
    assert await wire.ask(PING, 1) == [b"PONG"]
    own_valkey.kill()
    for _ in range(2):
        with pytest.raises(REDIS_AWAY):
            await wire.ask(PING, 1)
    own_valkey.start()
    assert await wire.ask(PING, 1) == [b"PONG"]
    await wire.close()
    await redis.aclose()


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"", RedisConnectionError),
        (b"+PONG", RedisConnectionError),
        (b"?nonsense\r\n", RedisConnectionError),
        (b"+PONG\r\n", None),
    ],
)
async def test_what_is_no_answer_ends_the_connection(
    answer: bytes, error: type[Exception] | None, unused_tcp_port_factory: Callable[[], int]
) -> None:
    """Sent in single bytes by a server that hangs up at once."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1000):
            if b"PING" in data:
                for byte in answer:
                    writer.write(bytes([byte]))
                    await writer.drain()
                writer.close()
                return
            writer.write(b"+OK\r\n" * data.count(b"*"))  # whatever redis-py says of itself

    port = unused_tcp_port_factory()
    async with await asyncio.start_server(serve, "127.0.0.1", port):
        redis = client(f"redis://127.0.0.1:{port}/0")
        wire = Wire(redis)
        if error is None:
            assert await wire.ask(PING, 1) == [b"PONG"]
        else:
            with pytest.raises(error):
                await wire.ask(PING, 1)
        await wire.close()
        await redis.aclose()


async def test_it_signs_in_and_selects_as_the_address_says(own_valkey: Valkey) -> None:
    own_valkey.command("CONFIG", "SET", "requirepass", "secret")
    redis = client(own_valkey.url, password="secret", db=3)
    wire = Wire(redis)
    await wire.ask(b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\n1\r\n", 1)
    assert await redis.get("a") == b"1"
    assert "db3" in await redis.info("keyspace")
    await wire.close()
    await redis.aclose()

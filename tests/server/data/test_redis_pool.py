"""The connections to Redis, over a proxy that leads elsewhere from some moment on, as a name does after a failover."""

import asyncio
from pathlib import Path
from uuid import uuid4

import pytest
from redis.asyncio import Redis
from redis.exceptions import TimeoutError as RedisTimeoutError

from embedded.valkey import Valkey
from server.data.hot import HotStreams
from server.data.redis_pool import make_pool
from server.data.streams import REDIS_AWAY, Appended, Streams, Write, Written, stream_key
from tests.chaos.proxy import Proxy, unix_socket_of


@pytest.mark.parametrize("kind", [Streams, HotStreams])
async def test_after_a_failover_who_takes_writes_now_is_found_though_the_one_before_lives_on_as_its_copy(
    kind: type[Streams], own_valkey: Valkey, redis_url: str, tmp_path: Path
) -> None:
    key = stream_key(uuid4())
    async with (
        Proxy(unix_socket_of(own_valkey.url), tmp_path / "redis") as proxy,
        Redis.from_pool(make_pool(f"unix://{tmp_path / 'redis'}", size=1, timeout_s=20)) as redis,
    ):
        streams = kind(redis)

        async def write() -> list[Written]:
            return (await streams.write_and_read([Write(key, (0, 0), [(1, b"{}")])], {}, 10))[0]

        assert await write() == [Written(1, None, whole=True)]
        assert own_valkey.command("REPLICAOF", "127.0.0.1", "1") == b"+OK\r\n"
        proxy.target = unix_socket_of(redis_url)
        with pytest.raises(REDIS_AWAY):
            await write()
        assert await write() == [Written(1, None, whole=True)]
        await streams.close()


async def test_a_plain_command_that_a_copy_refuses_is_not_refused_twice(
    own_valkey: Valkey, redis_url: str, tmp_path: Path
) -> None:
    async with (
        Proxy(unix_socket_of(own_valkey.url), tmp_path / "redis") as proxy,
        Redis.from_pool(make_pool(f"unix://{tmp_path / 'redis'}", size=1, timeout_s=20)) as redis,
    ):
        assert await Streams(redis).append("x", (0, 0), [(1, b"{}")], 10) == Appended(1, 0)
        assert own_valkey.command("REPLICAOF", "127.0.0.1", "1") == b"+OK\r\n"
        proxy.target = unix_socket_of(redis_url)
        with pytest.raises(REDIS_AWAY):
            await Streams(redis).append("x", (0, 0), [(2, b"{}")], 10)
        assert await Streams(redis).append("x", (0, 0), [(2, b"{}")], 10) == Appended(1, 0)


async def test_of_connections_that_have_gone_silent_the_first_alone_costs_somebody_an_answer(
    own_valkey: Valkey, tmp_path: Path
) -> None:
    async with (
        Proxy(unix_socket_of(own_valkey.url), tmp_path / "redis") as proxy,
        Redis.from_pool(pool := make_pool(f"unix://{tmp_path / 'redis'}", size=9, timeout_s=20)) as redis,
    ):
        connections = [await pool.get_connection() for _ in range(9)]
        for connection in connections:
            await pool.release(connection)
        proxy.freeze()
        connection.socket_timeout = 0.1  # it is the next to be used
        with pytest.raises(RedisTimeoutError):
            await redis.ping()
        connection.socket_timeout = 20
        assert await asyncio.gather(*(redis.ping() for _ in range(9))) == [True] * 9

"""Networks are known by what was measured there, and by nothing that tells who or where."""

from collections.abc import Awaitable, Callable
from math import exp, log
from typing import Any

import pytest
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from embedded.valkey import Valkey
from server.data.neighbours import FEWEST, MOST, Neighbours, Part, name_of
from tests.support.pausing import paused

SECRET = "a secret of at least thirty-two bytes"


def test_a_network_is_a_24_or_a_48_over_one_kind_of_link() -> None:
    home = name_of("192.0.2.7", "wifi", SECRET)
    assert home == name_of("192.0.2.250", "wifi", SECRET) != name_of("192.0.3.7", "wifi", SECRET)
    assert home != name_of("192.0.2.7", None, SECRET)
    assert name_of("2001:db8:1:2::3", "wifi", SECRET) == name_of("2001:db8:1:ff::4", "wifi", SECRET)
    assert name_of("unix:", "wifi", SECRET) == ""


def test_only_the_secret_makes_the_name() -> None:
    assert name_of("192.0.2.7", "wifi", SECRET) != name_of("192.0.2.7", "wifi", SECRET[::-1])


@pytest.fixture
async def neighbours(redis: Redis) -> Neighbours:
    return Neighbours(redis)


async def test_a_few_sessions_make_a_mean_and_fewer_say_nothing(neighbours: Neighbours, redis: Redis) -> None:
    for count in range(FEWEST):
        assert await neighbours.expected_kbps("here") is None, count
        await neighbours.tell([("here", 1000.0 * 4 ** (count % 2))])
    expected = await neighbours.expected_kbps("here")
    assert expected == pytest.approx(exp((2 * log(1000) + log(4000)) / 3))
    assert await neighbours.expected_kbps("there") is None
    assert await redis.ttl("neighbours:here") > 0


async def test_old_sessions_fade(neighbours: Neighbours) -> None:
    await neighbours.tell([("here", 500.0)] * MOST)
    await neighbours.tell([("here", 5000.0)] * MOST)
    expected = await neighbours.expected_kbps("here")
    assert expected is not None
    assert 2500 < expected < 5000


@pytest.mark.parametrize(
    "ask",
    [
        lambda neighbours: neighbours.tell([("here", 1000.0)]),
        lambda neighbours: neighbours.share("one", {"here": Part(2, 0, 1000.0)}),
    ],
    ids=["tell", "share"],
)
async def test_what_a_redis_that_hangs_does_not_answer_costs_no_connection(
    own_valkey: Valkey, ask: Callable[[Neighbours], Awaitable[object]]
) -> None:
    patience: dict[str, Any] = {"timeout": 0.5, "socket_timeout": 0.5, "retry": Retry(NoBackoff(), 0)}
    pool = BlockingConnectionPool.from_url(own_valkey.url, max_connections=1, **patience)
    async with Redis.from_pool(pool) as client:
        assert await client.ping()  # a connection that is there
        with paused(own_valkey), pytest.raises(RedisError):
            await ask(Neighbours(client))
        assert await client.ping()

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import pytest
import redis.exceptions
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

import server.data.limits
from embedded.valkey import Valkey
from server.clock import Clock
from server.config import Limit, Limits
from server.data.limits import MOST_COUNTED, Bucket, Limiter, LocalCounts, Try, Verdict
from tests.chaos.proxy import Link, Proxy, unix_socket_of
from tests.support.core import eventually

SLOW = Limit(rate=1, per_s=1000, burst=3)


class Hand(Clock):
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def monotonic(self) -> float:
        return self.seconds


# Forty new connections at once, on whatever machine: one that stood still for a moment has no Redis that is away.
PATIENCE_S = 30.0


def limits(**classes: Limit) -> Limits:
    return Limits(**classes)  # type: ignore[arg-type]


def connect(url: str) -> Redis:
    return Redis.from_url(
        url, socket_timeout=PATIENCE_S, socket_connect_timeout=PATIENCE_S, retry=Retry(NoBackoff(), 0)
    )


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Redis]:
    client = connect(redis_url)
    yield client
    await client.aclose()


async def must(limiter: Limiter, name: str, who: str = "ada", tried: Try | None = None) -> Verdict:
    verdict = await limiter.take(name, who, tried=tried)
    assert verdict is not None
    return verdict


async def test_a_burst_is_allowed_at_once_and_then_one_for_each_that_came_back() -> None:
    clock = Hand()
    limiter = Limiter(limits(read=Limit(rate=2, per_s=10, burst=3)), clock)
    assert [(await must(limiter, "read")).remaining for _ in range(3)] == [2, 1, 0]
    refused = await must(limiter, "read")
    assert refused == Verdict(allowed=False, limit=3, remaining=0, reset_s=15, retry_after_s=5)
    clock.seconds += 4.9
    assert not (await must(limiter, "read")).allowed
    clock.seconds += 0.2
    assert (await must(limiter, "read")).allowed
    clock.seconds += 1000
    assert (await must(limiter, "read")) == Verdict(allowed=True, limit=3, remaining=2, reset_s=5, retry_after_s=0)


async def test_each_is_counted_apart_and_each_class_too() -> None:
    limiter = Limiter(limits(read=SLOW, write=SLOW), Hand())
    for _ in range(3):
        await must(limiter, "read")
    assert not (await must(limiter, "read")).allowed
    assert (await must(limiter, "read", "bob")).allowed
    assert (await must(limiter, "write")).allowed


async def test_a_rate_of_0_is_no_limit() -> None:
    limiter = Limiter(limits(write=Limit(rate=0, per_s=1, burst=0)), Hand())
    assert [await limiter.take("write", "ada") for _ in range(100)] == [None] * 100
    await limiter.give_back("write", "ada", Try())


@given(rate=st.integers(1, 50), per_s=st.integers(1, 100), burst=st.integers(1, 20), gaps=st.lists(st.floats(0, 20)))
def test_never_more_than_the_burst_and_what_came_back_since(
    rate: int, per_s: int, burst: int, gaps: list[float]
) -> None:
    bucket, counts, now, allowed = Bucket(Limit(rate=rate, per_s=per_s, burst=burst)), LocalCounts(), 5.0, 0
    for gap in gaps:
        now += gap
        verdict = counts.take("x", bucket, now)
        allowed += verdict.allowed
        assert 0 <= verdict.remaining < burst
        assert allowed <= burst + (now - 5.0) * rate / per_s + 1e-6
        if not verdict.allowed:  # Retry-After is no empty promise
            now += verdict.retry_after_s
            assert counts.take("x", bucket, now).allowed
            allowed += 1


async def test_all_processes_count_together_in_redis(client: Redis) -> None:
    processes = [Limiter(limits(write=SLOW), Clock(), client, wait_s=PATIENCE_S) for _ in range(4)]
    verdicts = await asyncio.gather(*(must(processes[n % 4], "write") for n in range(40)))
    assert sum(verdict.allowed for verdict in verdicts) == 3
    refused = next(verdict for verdict in verdicts if not verdict.allowed)
    assert 990 <= refused.retry_after_s <= 1000
    assert refused.reset_s <= 3000
    assert 0 < await client.pttl("limit:write:ada") <= 3_000_000


async def test_a_flood_is_counted_over_one_connection(client: Redis) -> None:
    limiter = Limiter(limits(login_account=SLOW), Clock(), client, wait_s=PATIENCE_S)
    before = (await client.info("stats"))["total_connections_received"]
    verdicts = await asyncio.gather(*(limiter.take("login_account", "ada", closed=True) for _ in range(1200)))
    assert sum(verdict.allowed for verdict in verdicts if verdict) == 3
    assert (await client.info("stats"))["total_connections_received"] - before <= 1


async def test_reads_are_counted_in_the_process_and_cost_no_round_trip(client: Redis) -> None:
    limiter = Limiter(limits(read=SLOW), Clock(), client)
    await must(limiter, "read")
    assert await client.dbsize() == 0


@pytest.mark.parametrize("name", ["read", "write"])
async def test_what_is_given_back_may_be_taken_again(client: Redis, name: str) -> None:
    limiter = Limiter(limits(read=SLOW, write=SLOW), Clock(), client, wait_s=PATIENCE_S)
    for _ in range(20):
        tried = Try()
        assert (await must(limiter, name, tried=tried)).allowed
        for _ in range(3):
            await limiter.give_back(name, "ada", tried)
    assert [(await must(limiter, name)).allowed for _ in range(5)] == [True, True, True, False, False]


async def test_who_is_stopped_while_giving_back_has_given_back(client: Redis) -> None:
    limiter = Limiter(limits(write=SLOW), Clock(), client, wait_s=PATIENCE_S)
    for _ in range(3):
        tried = Try()
        assert (await must(limiter, "write", tried=tried)).allowed
    giving = asyncio.create_task(limiter.give_back("write", "ada", tried))
    await asyncio.sleep(0)
    giving.cancel()
    await asyncio.wait([giving])
    assert giving.cancelled()
    assert (await must(limiter, "write")).allowed


async def test_what_is_given_back_before_it_was_taken_is_as_if_it_had_never_been(client: Redis) -> None:
    limiter = Limiter(limits(write=SLOW), Clock(), client, wait_s=PATIENCE_S)
    for late in [Try() for _ in range(3)]:
        late.there = True  # what was said to Redis is on its way yet
        for _ in range(2):
            await limiter.give_back("write", "ada", late)
        assert (await must(limiter, "write", tried=late)).remaining == 3
    assert [(await must(limiter, "write")).allowed for _ in range(4)] == [True, True, True, False]


class Deaf(Link):
    """What is said is lost, in one direction."""

    loses = ""

    def upward(self, data: bytes) -> bytes:
        return b"" if Deaf.loses == "requests" else data

    def downward(self, data: bytes) -> bytes:
        return b"" if Deaf.loses == "answers" else data


@pytest.mark.parametrize("loses", ["requests", "answers"])
async def test_what_redis_may_have_counted_is_given_back_when_it_is_heard_again(
    client: Redis, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loses: str
) -> None:
    monkeypatch.setattr(server.data.limits, "REDIS_PAUSE_S", 0.05)
    proxy = Proxy(unix_socket_of(redis_url), tmp_path / "redis")
    proxy.link = Deaf
    async with proxy, connect(f"unix://{tmp_path / 'redis'}") as far:
        classes, bucket, tried = limits(login_account=SLOW), "limit:login_account:ada", Try()
        patient = Limiter(classes, Clock(), far, wait_s=PATIENCE_S)
        limiter = Limiter(classes, Clock(), far, wait_s=0.1, closed_wait_s=0.1)
        if loses == "requests":
            await patient.take("login_account", "ada", tried=tried)
        else:
            while not await client.exists(bucket):
                monkeypatch.setattr(Deaf, "loses", "")
                await patient.take("login_account", "somebody else")  # so that there is a connection
                monkeypatch.setattr(Deaf, "loses", loses)
                with pytest.raises(redis.exceptions.ConnectionError):
                    await limiter.take("login_account", "ada", closed=True, tried=tried)
        monkeypatch.setattr(Deaf, "loses", "requests")
        await limiter.give_back("login_account", "ada", tried)
        assert await client.exists(bucket)
        monkeypatch.setattr(Deaf, "loses", "")
        await eventually(lambda: _is_free(client, bucket))
        limiter.close()


async def _is_free(client: Redis, bucket: str) -> bool:
    return not await client.exists(bucket)


async def test_a_limit_may_be_a_multiple_of_its_class(client: Redis) -> None:
    limiter = Limiter(limits(login_account=SLOW), Clock(), client, wait_s=PATIENCE_S)
    allowed = [verdict for _ in range(40) if (verdict := await limiter.take("login_account", "ada", times=10))]
    assert sum(verdict.allowed for verdict in allowed) == 30
    assert allowed[0].limit == 30


async def test_while_redis_is_away_each_process_counts_by_itself(own_valkey: Valkey) -> None:
    client = connect(own_valkey.url)
    limiter, other = (Limiter(limits(write=SLOW), Clock(), client, wait_s=PATIENCE_S) for _ in range(2))
    await must(limiter, "write")
    own_valkey.stop()
    assert [(await must(limiter, "write")).allowed for _ in range(5)] == [True, True, True, False, False]
    assert (await must(other, "write")).allowed
    await client.aclose()


async def test_while_redis_is_away_a_closed_limit_allows_nothing(own_valkey: Valkey) -> None:
    client = connect(own_valkey.url)
    limiter = Limiter(limits(login_account=SLOW), Clock(), client)
    own_valkey.stop()
    for _ in range(2):
        with pytest.raises(redis.exceptions.ConnectionError):
            await limiter.take("login_account", "ada", closed=True)
    await client.aclose()


def test_what_is_counted_here_is_bounded() -> None:
    counts, bucket = LocalCounts(), Bucket(SLOW)
    for n in range(MOST_COUNTED + 10):
        counts.take(str(n), bucket, 1.0)
    kept = cast(dict[str, float], counts._full_at)
    assert len(kept) <= MOST_COUNTED

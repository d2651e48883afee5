"""Rate limits: how often somebody may do something.

Each limit is a bucket of `burst` (0: of `rate`) that fills with `rate` per `per_s`, kept as one number, the time at
which it is full again (the generic cell rate algorithm, ITU-T I.371, annex A). `read` is counted in this process, since
a round trip would cost more than most reads; the others are counted in Redis, for all processes together. While Redis
is away they are counted here too, so that a limit is then one per process.
"""

import asyncio
import math
from collections.abc import Hashable, Mapping
from typing import Any, NamedTuple

import structlog
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from server.clock import Clock
from server.config import Limit, Limits
from server.data.streams import REDIS_AWAY

LOCAL = frozenset({"read"})
# How long Redis is not asked again after it had no answer.
REDIS_PAUSE_S = 1.0
MOST_COUNTED = 100_000
# Tries that are counted in one round trip.
MOST_AT_ONCE = 500

log = structlog.get_logger()


class Verdict(NamedTuple):
    """What became of a try. `reset_s`: until the whole `limit` is free again; `retry_after_s`: until the next one."""

    allowed: bool
    limit: int
    remaining: int
    reset_s: int
    retry_after_s: int


class Bucket:
    """One limit in the terms of the algorithm: a try takes `interval_s`, all of them together at most `span_s`."""

    __slots__ = ("interval_s", "limit", "span_s")

    def __init__(self, limit: Limit, times: float = 1.0) -> None:
        self.limit = max(1, int(limit.at_once * times))
        self.interval_s = limit.per_s / (limit.rate * times)
        self.span_s = self.limit * self.interval_s

    def judge(self, allowed: bool, ahead_s: float) -> Verdict:
        """`ahead_s`: how far the time at which the bucket is full lies ahead, after the try or without it."""
        if allowed:
            return Verdict(True, self.limit, int((self.span_s - ahead_s) / self.interval_s + 1e-6), _up(ahead_s), 0)
        wait_s = ahead_s + self.interval_s - self.span_s
        return Verdict(False, self.limit, 0, _up(ahead_s), max(1, _up(wait_s)))


def _up(seconds: float) -> int:
    return math.ceil(seconds - 1e-6)


class LocalCounts:
    """The buckets of this process, by whose they are."""

    def __init__(self) -> None:
        self._full_at: dict[Hashable, float] = {}

    def take(self, key: Hashable, bucket: Bucket, now: float, tries: int = 1) -> Verdict:
        """Take `tries` out of a bucket, or put some back (-1). `now` in seconds of a monotonic clock."""
        ahead_s = max(0.0, self._full_at.get(key, 0.0) - now)
        wanted_s = max(0.0, ahead_s + tries * bucket.interval_s)
        if wanted_s > bucket.span_s + 1e-9 and tries > 0:
            return bucket.judge(False, ahead_s)
        if len(self._full_at) >= MOST_COUNTED:
            self._forget(now)
        self._full_at[key] = now + wanted_s
        return bucket.judge(True, wanted_s)

    def _forget(self, now: float) -> None:
        """Drop the buckets that are full, or all, when somebody invents more of them than can be kept."""
        self._full_at = {key: full_at for key, full_at in self._full_at.items() if full_at > now}
        if len(self._full_at) >= MOST_COUNTED:
            self._full_at.clear()


# The same as LocalCounts.take, by Redis's own clock. ARGV: interval, span (microseconds), tries.
# Answers whether it is allowed and how far ahead the time lies at which the bucket is full (microseconds).
_TAKE = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local interval, span, tries = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local ahead = math.max(0, tonumber(redis.call('GET', KEYS[1]) or 0) - now)
local wanted = math.max(0, ahead + tries * interval)
if wanted > span and tries > 0 then return {0, ahead} end
if wanted == 0 then
  redis.call('DEL', KEYS[1])
else
  redis.call('SET', KEYS[1], string.format('%.0f', now + wanted), 'PX', math.ceil(wanted / 1000))
end
return {1, wanted}
"""


class _Try(NamedTuple):
    """What Redis is to count, and where its answer goes."""

    key: str
    arguments: tuple[int, int, int]
    answer: asyncio.Future[Any]


class Limiter:
    """Counts by class (the tables of `limits`) and by whom; without `redis` everything is counted in this process.

    An answer of Redis may take `wait_s`, or `closed_wait_s` where nothing is allowed without one.
    """

    def __init__(
        self,
        limits: Limits,
        clock: Clock,
        redis: Redis | None = None,
        *,
        wait_s: float = 0.5,
        closed_wait_s: float = 2.0,
    ) -> None:
        self._limits: Mapping[str, Limit] = dict(limits)
        self._clock = clock
        self._local = LocalCounts()
        self._buckets: dict[tuple[str, float], Bucket | None] = {}
        self._redis = redis
        self._wait_s = wait_s
        self._closed_wait_s = max(wait_s, closed_wait_s)
        self._ask_again_at = 0.0
        self._waiting: list[_Try] = []
        self._asking: asyncio.Task[None] | None = None

    async def take(self, name: str, who: Hashable, *, times: float = 1.0, closed: bool = False) -> Verdict | None:
        """Count one try of `who` against the class `name`; None when it has no limit.

        A refused try is not counted. `times` makes the limit so much larger. `closed`: while Redis is away nothing is
        allowed at all, and this raises a redis ConnectionError or TimeoutError.
        """
        bucket = self._bucket(name, times)
        if bucket is None:
            return None
        return await self._count(name, who, bucket, 1, closed)

    async def give_back(self, name: str, who: Hashable, *, times: float = 1.0) -> None:
        """Undo a `take` that shall not count after all, such as a sign-in that succeeded."""
        bucket = self._bucket(name, times)
        if bucket is None:
            return
        counting = asyncio.ensure_future(self._count(name, who, bucket, -1, False))
        try:
            await asyncio.shield(counting)
        except asyncio.CancelledError:  # who is stopped meanwhile has taken all the same
            await counting
            raise

    def _bucket(self, name: str, times: float) -> Bucket | None:
        try:
            return self._buckets[name, times]
        except KeyError:
            limit = self._limits[name]
            self._buckets[name, times] = bucket = Bucket(limit, times) if limit.rate else None
            return bucket

    async def _count(self, name: str, who: Hashable, bucket: Bucket, tries: int, closed: bool) -> Verdict:
        now = self._clock.monotonic()
        key = (name, who)
        if name in LOCAL or self._redis is None or (now < self._ask_again_at and not closed):
            return self._local.take(key, bucket, now, tries)
        try:
            wait_s = self._closed_wait_s if closed else self._wait_s
            return await self._count_in_redis(f"{name}:{who}", bucket, tries, wait_s)
        except REDIS_AWAY as error:
            log.warning("limits_counted_here", error=f"{type(error).__name__}: {error}")
            self._ask_again_at = self._clock.monotonic() + REDIS_PAUSE_S
            if closed:
                raise RedisConnectionError("Redis does not count") from error
            return self._local.take(key, bucket, now, tries)

    async def _count_in_redis(self, key: str, bucket: Bucket, tries: int, wait_s: float) -> Verdict:
        loop = asyncio.get_running_loop()
        arguments = (round(bucket.interval_s * 1e6), round(bucket.span_s * 1e6), tries)
        waiting = _Try(f"limit:{key}", arguments, loop.create_future())
        self._waiting.append(waiting)
        if self._asking is None or self._asking.done():
            self._asking = loop.create_task(self._ask(self._redis))
        async with asyncio.timeout(wait_s):
            allowed, ahead_us = await waiting.answer
        return bucket.judge(bool(allowed), ahead_us / 1e6)

    async def _ask(self, redis: Any) -> None:
        """Count all that wait, and those that come meanwhile in the next round trip: a call of its own for each would
        open a connection for each, and a flood, which is what limits are for, would have no more of them."""
        while self._waiting:
            waiting = [one for one in self._waiting if not one.answer.done()]
            batch, self._waiting = waiting[:MOST_AT_ONCE], waiting[MOST_AT_ONCE:]
            pipeline = redis.pipeline(transaction=False)
            for one in batch:
                pipeline.eval(_TAKE, 1, one.key, *one.arguments)
            try:
                async with asyncio.timeout(self._closed_wait_s):
                    answers = await pipeline.execute(raise_on_error=False)
            except REDIS_AWAY as error:
                answers = [error] * len(batch)
            for one, answer in zip(batch, answers, strict=True):
                if one.answer.done():  # nobody waits any more
                    continue
                if isinstance(answer, Exception):
                    one.answer.set_exception(answer)
                else:
                    one.answer.set_result(answer)

"""Rate limits: how often somebody may do something.

Each limit is a bucket of `burst` (0: of `rate`) that fills with `rate` per `per_s`, kept as one number, the time at
which it is full again (the generic cell rate algorithm, ITU-T I.371, annex A). `read` is counted in this process, since
a round trip would cost more than most reads; the others are counted in Redis, for all processes together. While Redis
is away they are counted here too, so that a limit is then one per process.

A try that shall not count after all is given back (`Try`). Redis may have counted it without our hearing so, or may
yet, when what was said to it before a silence arrives at last. So the try has a name there, to give it back twice, or
before it was taken, is as good as once, and we say so until we are heard.
"""

import asyncio
import math
import secrets
from collections.abc import Hashable, Mapping
from itertools import islice
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
# Tries that Redis is still to be told are given back.
MOST_OWED = 10_000

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


# The same as LocalCounts.take, by Redis's own clock. KEYS: the bucket and, of a try that may be given back, its name.
# ARGV: interval, span (microseconds), tries. Answers whether it is allowed and how far ahead the time lies at which the
# bucket is full (microseconds).
_TAKE = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local interval, span, tries = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local ahead = math.max(0, tonumber(redis.call('GET', KEYS[1]) or 0) - now)
local wanted = math.max(0, ahead + tries * interval)
local became = KEYS[2] and redis.call('GET', KEYS[2])
if became and tries > 0 then return {1, ahead} end
if wanted > span and tries > 0 then return {0, ahead} end
if KEYS[2] and tries > 0 then
  redis.call('SET', KEYS[2], 'taken', 'PX', math.ceil(span / 1000))
elseif became == 'taken' then
  redis.call('DEL', KEYS[2])
elseif KEYS[2] then
  redis.call('SET', KEYS[2], 'given back', 'PX', math.ceil(span / 1000))
  return {1, ahead}
end
if wanted == 0 then
  redis.call('DEL', KEYS[1])
else
  redis.call('SET', KEYS[1], string.format('%.0f', now + wanted), 'PX', math.ceil(wanted / 1000))
end
return {1, wanted}
"""


class Try:
    """One that may be given back: its name in Redis, and where it may be counted."""

    __slots__ = ("here", "name", "there")

    def __init__(self) -> None:
        self.name = secrets.token_hex(8)
        self.here = self.there = False


class _Request(NamedTuple):
    """What Redis is to count, where its answer goes, and until when it means anything (of the loop's clock)."""

    keys: tuple[str, ...]
    arguments: tuple[int, int, int]
    answer: asyncio.Future[Any]
    until: float


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
        self._waiting: list[_Request] = []
        self._asking: asyncio.Task[None] | None = None
        # What was given back and Redis has not heard of, by the try's name; it is said again when this timer is over.
        self._owed: dict[str, _Request] = {}
        self._said_again: asyncio.TimerHandle | None = None

    def close(self) -> None:
        """Leave off telling Redis what it has not heard."""
        self._owed.clear()
        if self._said_again is not None:
            self._said_again.cancel()

    async def take(
        self, name: str, who: Hashable, *, times: float = 1.0, closed: bool = False, tried: Try | None = None
    ) -> Verdict | None:
        """Count one try of `who` against the class `name`; None when it has no limit.

        A refused try is not counted. `times` makes the limit so much larger. `closed`: while Redis is away nothing is
        allowed at all, and this raises a redis ConnectionError or TimeoutError. `tried`: it may be given back, and must
        be after such an error.
        """
        bucket = self._bucket(name, times)
        if bucket is None:
            return None
        now = self._clock.monotonic()
        if name in LOCAL or self._redis is None or (now < self._ask_again_at and not closed):
            return self._take_here(name, who, bucket, tried)
        if tried is not None:
            tried.there = True
        try:
            verdict = await self._count_in_redis(_request(name, who, bucket, 1, tried), bucket, closed)
        except REDIS_AWAY as error:
            log.warning("limits_counted_here", error=f"{type(error).__name__}: {error}")
            self._ask_again_at = self._clock.monotonic() + REDIS_PAUSE_S
            if closed:
                raise RedisConnectionError("Redis does not count") from error
            return self._take_here(name, who, bucket, tried)
        if tried is not None:
            tried.there = verdict.allowed
        return verdict

    async def give_back(self, name: str, who: Hashable, tried: Try, *, times: float = 1.0) -> None:
        """Undo a `take` that shall not count after all, such as a sign-in that succeeded, whatever became of it.

        Returns when Redis has heard so, or soon; it then hears so when it is back.
        """
        bucket = self._bucket(name, times)
        if bucket is None:
            return
        if tried.here:
            tried.here = False
            self._local.take((name, who), bucket, self._clock.monotonic(), -1)
        if not tried.there or self._redis is None:
            return
        request = _request(name, who, bucket, -1, tried)
        if len(self._owed) >= MOST_OWED:
            self._owed.pop(next(iter(self._owed)))
        self._owed[request.keys[1]] = request
        self._ask_on()
        if self._clock.monotonic() >= self._ask_again_at:
            await asyncio.wait([request.answer], timeout=self._wait_s)

    def _bucket(self, name: str, times: float) -> Bucket | None:
        try:
            return self._buckets[name, times]
        except KeyError:
            limit = self._limits[name]
            self._buckets[name, times] = bucket = Bucket(limit, times) if limit.rate else None
            return bucket

    def _take_here(self, name: str, who: Hashable, bucket: Bucket, tried: Try | None) -> Verdict:
        verdict = self._local.take((name, who), bucket, self._clock.monotonic())
        if tried is not None:
            tried.here = verdict.allowed
        return verdict

    async def _count_in_redis(self, request: _Request, bucket: Bucket, closed: bool) -> Verdict:
        self._waiting.append(request)
        self._ask_on()
        async with asyncio.timeout(self._closed_wait_s if closed else self._wait_s):
            allowed, ahead_us = await request.answer
        return bucket.judge(bool(allowed), ahead_us / 1e6)

    def _ask_on(self) -> None:
        if self._asking is None or self._asking.done():
            self._asking = asyncio.get_running_loop().create_task(self._ask(self._redis))

    async def _ask(self, redis: Any) -> None:
        """Count all that wait, and those that come meanwhile in the next round trip: a call of its own for each would
        open a connection for each, and a flood, which is what limits are for, would have no more of them."""
        while self._waiting or (self._owed and self._said_again is None):
            owed = [] if self._said_again else list(islice(self._owed.values(), MOST_AT_ONCE))
            waiting = [one for one in self._waiting if not one.answer.done()]
            batch, self._waiting = owed + waiting[:MOST_AT_ONCE], waiting[MOST_AT_ONCE:]
            pipeline = redis.pipeline(transaction=False)
            for one in batch:
                pipeline.eval(_TAKE, len(one.keys), *one.keys, *one.arguments)
            try:
                async with asyncio.timeout(self._closed_wait_s):
                    answers = await pipeline.execute(raise_on_error=False)
            except REDIS_AWAY as error:
                answers = [error] * len(batch)
            self._hear(owed, answers)
            for one, answer in zip(batch[len(owed) :], answers[len(owed) :], strict=True):
                if one.answer.done():  # nobody waits any more
                    continue
                if isinstance(answer, Exception):
                    one.answer.set_exception(answer)
                else:
                    one.answer.set_result(answer)

    def _hear(self, owed: list[_Request], answers: list[Any]) -> None:
        """What was heard of what was given back is done with; the rest is said again, while it means anything."""
        loop = asyncio.get_running_loop()
        for one, answer in zip(owed, answers, strict=False):
            if isinstance(answer, Exception) and one.until > loop.time():
                self._said_again = self._said_again or loop.call_later(REDIS_PAUSE_S, self._say_again)
            else:
                self._owed.pop(one.keys[1], None)
                if not one.answer.done():
                    one.answer.set_result(answer)

    def _say_again(self) -> None:
        self._said_again = None
        self._ask_on()


def _request(name: str, who: Hashable, bucket: Bucket, tries: int, tried: Try | None) -> _Request:
    loop = asyncio.get_running_loop()
    key = f"limit:{name}:{who}"
    keys = (key,) if tried is None else (key, f"{{{key}}}:{tried.name}")  # in Redis Cluster where the bucket is
    arguments = (round(bucket.interval_s * 1e6), round(bucket.span_s * 1e6), tries)
    return _Request(keys, arguments, loop.create_future(), loop.time() + bucket.span_s)

"""What other sessions on the same network got and get, in Redis: sums for each network, and nothing of who.

A network is named by a keyed hash that only our secret can make, so whoever reads Redis learns no address from it. The
mean is of logarithms, since throughput differs by factors; old sessions fade.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

# As many sessions as a mean is worth something of; as many as it is made of at most; forgotten after so long.
FEWEST, MOST, KEPT_S = 3, 64, 7 * 86_400

_TELL = """
local n = redis.call('HINCRBY', KEYS[1], 'n', 1)
local sum = redis.call('HINCRBYFLOAT', KEYS[1], 'log_kbps', ARGV[1])
if n >= tonumber(ARGV[2]) then
    local half = math.floor(n / 2)
    redis.call('HSET', KEYS[1], 'n', half, 'log_kbps', tonumber(sum) / n * half)
end
redis.call('EXPIRE', KEYS[1], ARGV[3])
"""

# What a process says of its sessions on a network now, beside what others say; what is older than so many seconds is
# of a process that has none there any more. By Redis' own clock.
SAID_S = 15
_SHARE = """
local now = tonumber(redis.call('TIME')[1])
redis.call('HSET', KEYS[1], ARGV[1], string.format('%d %s %s %s', now, ARGV[2], ARGV[3], ARGV[4]))
redis.call('EXPIRE', KEYS[1], 4 * tonumber(ARGV[5]))
local sessions, short, kbps = 0, 0, 0
local said = redis.call('HGETALL', KEYS[1])
for i = 1, #said, 2 do
    local at, n, s, k = string.match(said[i + 1], '(%S+) (%S+) (%S+) (%S+)')
    if now - tonumber(at) > tonumber(ARGV[5]) then
        redis.call('HDEL', KEYS[1], said[i])
    else
        sessions, short, kbps = sessions + tonumber(n), short + tonumber(s), kbps + tonumber(k)
    end
end
return {sessions, short, tostring(kbps)}
"""


class Part(NamedTuple):
    """Sessions under way on a network, how many of them run out of buffer, and what they get together (kbit/s)."""

    sessions: int
    short: int
    kbps: float


def name_of(address: str, link: str | None, secret: str) -> str:
    """The name of the network of an IP address (its /24, or /48 of IPv6) over this kind of link; empty for none."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return ""
    network = ipaddress.ip_network((parsed, 24 if parsed.version == 4 else 48), strict=False)
    message = f"neighbours {network} {link or ''}".encode()
    return hmac.digest(secret.encode(), message, hashlib.sha256).hex()[:24]


class Neighbours:
    """Every call raises `redis.RedisError` when Redis is away; nothing depends on it."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._tell = redis.register_script(_TELL)
        self._share = redis.register_script(_SHARE)

    async def expected_kbps(self, network: str) -> float | None:
        """What sessions there usually get; None where too few have told."""
        count, total = await self._redis.hmget(_key(network), ["n", "log_kbps"])
        if count is None or total is None or int(count) < FEWEST:
            return None
        return math.exp(float(total) / int(count))

    async def tell(self, levels: Iterable[tuple[str, float]]) -> None:
        """Count sessions in: the network of each, and the throughput it had (kbit/s)."""
        async with self._pipeline() as pipe:
            for network, kbps in levels:
                await self._tell(keys=[_key(network)], args=[math.log(kbps), MOST, KEPT_S], client=pipe)
            await pipe.execute()

    async def share(self, process: str, parts: Mapping[str, Part]) -> dict[str, Part]:
        """Say what this process's sessions get on each network; what all processes' do."""
        async with self._pipeline() as pipe:
            for network, part in parts.items():
                args: list[str | int] = [process, part.sessions, part.short, f"{part.kbps:.0f}", SAID_S]
                await self._share(keys=[f"sharing:{network}"], args=args, client=pipe)
            totals = await pipe.execute()
        return {
            network: Part(int(sessions), int(short), float(kbps))
            for network, (sessions, short, kbps) in zip(parts, totals, strict=True)
        }

    def _pipeline(self) -> Pipeline:
        """To be left, not only executed: one whose scripts Redis could not be asked for keeps its connection."""
        return self._redis.pipeline(transaction=False)


def _key(network: str) -> str:
    return f"neighbours:{network}"

"""The connections to Redis that whoever needs one for a moment shares.

After a silence or a loss all others give way to new ones before they are used again, as those to Postgres do: what
silenced one may have silenced all of them, and who finds that out waits for `redis.timeout_s`.
"""

from typing import Any

from redis.asyncio import BlockingConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.maint_notifications import MaintNotificationsConfig

# A connection that is silent or lost, and a Redis that has become another's copy, as after a failover: it keeps its
# connections, and who bears its name now takes writes (the library leaves it with sentinels alone).
_USELESS = (RedisTimeoutError, RedisConnectionError, ReadOnlyError)


def make_pool(url: str, *, size: int, timeout_s: float) -> BlockingConnectionPool:
    """A pool that connects when it is first asked; who finds all connections in use waits for one, at most `timeout_s`.

    Raises ValueError, TypeError or RedisError for a URL that is none, or has an option that there is not.
    """
    # The library's other pool refuses whoever finds all connections in use, as if Redis were away. Its own retries
    # would write an entry twice. Without `protocol` the answers have one documented shape.
    pool = _Pool.from_url(
        url,
        max_connections=size,
        timeout=timeout_s,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), 0),
        # With them it does not look, before it uses a connection, whether Redis has closed it.
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
        driver_info=None,  # for each connection it reads the metadata of its package anew: half a millisecond
    )
    pool.connection_class = _telling(pool.connection_class, pool)
    pool.connection_class(**pool.connection_kwargs)  # which does not connect, but minds options that there are not
    return pool


class _Pool(BlockingConnectionPool):
    """Connections of older generations are not used again."""

    generation = 0

    async def ensure_connection(self, connection: Any) -> None:
        if connection.generation != self.generation:
            await connection.disconnect(nowait=True)
            connection.generation = self.generation
        await super().ensure_connection(connection)


def _telling(kind: type[AbstractConnection], pool: _Pool) -> type[AbstractConnection]:
    """Connections that end when they are good for nothing any more, and tell the pool whose they are."""

    class Telling(kind):  # type: ignore[misc, valid-type]
        generation: int | None = None

        async def read_response(self, *args: Any, **options: Any) -> Any:
            try:
                return await super().read_response(*args, **options)
            except _USELESS:
                if self.generation == pool.generation:  # else those that there are now are newer
                    pool.generation += 1
                await self.disconnect(nowait=True)
                raise

    return Telling

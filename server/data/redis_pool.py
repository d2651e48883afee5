"""The connections to Redis that whoever needs one for a moment shares."""

from typing import Any

from redis.asyncio import BlockingConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ReadOnlyError
from redis.maint_notifications import MaintNotificationsConfig


def make_pool(url: str, *, size: int, timeout_s: float) -> BlockingConnectionPool:
    """A pool that connects when it is first asked; who finds all connections in use waits for one, at most `timeout_s`.

    Raises ValueError, TypeError or RedisError for a URL that is none, or has an option that there is not.
    """
    # The library's other pool refuses whoever finds all connections in use, as if Redis were away. Its own retries
    # would write an entry twice. Without `protocol` the answers have one documented shape.
    pool = BlockingConnectionPool.from_url(
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
    pool.connection_class = _leaving_copies(pool.connection_class)
    pool.connection_class(**pool.connection_kwargs)  # which does not connect, but minds options that there are not
    return pool


def _leaving_copies(kind: type[AbstractConnection]) -> type[AbstractConnection]:
    """Connections that end where the Redis behind them has become another's copy, as after a failover: it keeps them,
    and who bears its name now takes writes. The library does so with sentinels alone."""

    class LeavingCopies(kind):  # type: ignore[misc, valid-type]
        async def read_response(self, *args: Any, **options: Any) -> Any:
            try:
                return await super().read_response(*args, **options)
            except ReadOnlyError:
                await self.disconnect(nowait=True)
                raise

    return LeavingCopies

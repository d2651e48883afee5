"""Waiting for what another process does, or Postgres."""

import asyncio
import time
from collections.abc import Callable

import asyncpg


def eventually(condition: Callable[[], bool], timeout_s: float = 60) -> bool:
    """Whether `condition` comes to hold within `timeout_s`; looked at every 10 ms. For tests without a loop."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


async def until(condition: Callable[[], bool]) -> None:
    """Until `condition` holds, in this process' own loop. Raises TimeoutError."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110  # nothing tells us
            await asyncio.sleep(0.01)


async def blocked(sql: "asyncpg.Connection[asyncpg.Record]", *, by: int = 1, timeout_s: float = 30) -> None:
    """Until somebody, or so many, wait for a lock in this database. Raises TimeoutError."""
    async with asyncio.timeout(timeout_s):
        while by > await sql.fetchval(  # noqa: ASYNC110  # nothing tells us
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        ):
            await asyncio.sleep(0.01)

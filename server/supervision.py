"""Work that goes on for as long as the process does."""

import asyncio
from collections.abc import Awaitable, Callable

from server.logs import get_logger

# What fails at once, and again and again, must not fill the log.
AGAIN_S = 1.0

log = get_logger()


async def supervise(name: str, run: Callable[[], Awaitable[None]]) -> None:
    """Run until it is done or cancelled: what nobody foresaw is logged, and the work begins anew."""
    while True:
        try:
            return await run()
        except Exception:
            log.exception("task_failed", task=name)
        await asyncio.sleep(AGAIN_S)

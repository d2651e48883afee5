"""What happens when Postgres or Redis cannot just now: it is said, counted, and the work is done later."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import structlog

from server import metrics
from server.data.db import DATABASE_AWAY
from server.data.streams import REDIS_AWAY

# How Postgres and Redis say that they can't just now.
AWAY = (*DATABASE_AWAY, *REDIS_AWAY)

log = structlog.get_logger()


def postponed(event: str, error: BaseException, **facts: Any) -> None:
    """Log that some work waits for a part (`error` is one of AWAY), and count it."""
    part = part_of(error)
    # Not `repr`: that of redis-py's errors leaves out what Redis said.
    log.warning(event, part=part, error=f"{type(error).__name__}: {error}", **facts)
    metrics.PART_FAILURES.labels(part).inc()


@contextmanager
def looked_at(part: str) -> Iterator[None]:
    """Keep whether the part answered what is asked of it within the block."""
    try:
        yield
    except AWAY:
        metrics.PART_UP.labels(part).set(0)
        raise
    metrics.PART_UP.labels(part).set(1)


def part_of(error: BaseException) -> str:
    """`postgres` or `redis`: which part spoke so."""
    return "postgres" if isinstance(error, DATABASE_AWAY) else "redis"

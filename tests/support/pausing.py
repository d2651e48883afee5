"""Servers that hang: alive, their sockets open, and deaf; and connections to Postgres that are lost."""

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psutil
import pytest

from embedded.postgres import Postgres
from embedded.valkey import Valkey
from server.data.db import ConnectionLost, Database


@contextmanager
def paused(server: Postgres | Valkey) -> Iterator[None]:
    """Every process of a server stopped, as on a machine that hangs."""
    assert server.pid is not None
    first = psutil.Process(server.pid)
    pids = [process.pid for process in (first, *first.children(recursive=True))]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


@contextmanager
def losing_connections() -> Iterator[set[str]]:
    """Whatever is asked of a Database loses its connection the first time; the statements that were asked."""
    asked, answer = set[str](), Database._ask

    async def lose_the_first(database: Database, method: str, sql: str, args: Sequence[Any]) -> Any:
        if sql in asked:
            return await answer(database, method, sql, args)
        asked.add(sql)
        raise ConnectionLost

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Database, "_ask", lose_the_first)
        yield asked

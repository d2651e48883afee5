"""Servers that hang: alive, their sockets open, and deaf."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from embedded.postgres import Postgres
from embedded.valkey import Valkey


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

"""Who is to be connected to, where some of its addresses are dead: nobody answers there, and nobody refuses."""

import asyncio
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from server.data.db import Database
from server.loop import LOOKUPS, Loop
from tests.chaos.proxy import Proxy

ROOT = Path(__file__).resolve().parents[2]
NAME = "two.example.org"


@pytest.fixture
def dead() -> Iterator[tuple[str, int]]:
    """A port whose queue is full: what comes next is not answered."""
    with socket.socket() as listener, socket.socket() as first:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        first.connect(listener.getsockname())
        yield listener.getsockname()


def test_of_a_name_one_address_may_be_dead(dead: tuple[str, int]) -> None:
    class Named(Loop):
        async def getaddrinfo(self, host: Any, *numbers: Any, **options: Any) -> Any:
            if host != NAME:
                return await super().getaddrinfo(host, *numbers, **options)
            addresses = dead, alive.getsockname()
            return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", address) for address in addresses]

    async def connect() -> Any:
        async with asyncio.timeout(30):
            _, writer = await asyncio.open_connection(NAME, 1)
        with closing(writer):
            return writer.get_extra_info("peername")

    with socket.create_server(("127.0.0.1", 0)) as alive, asyncio.Runner(loop_factory=Named) as runner:
        assert runner.run(connect()) == alive.getsockname()


def test_of_the_hosts_in_a_dsn_the_first_may_be_dead(dead: tuple[str, int], postgres_dsn: str) -> None:
    path, _, host = postgres_dsn.removeprefix("postgresql://lectern@").partition("?port=5432&sslmode=disable&host=")

    async def ask() -> Any:
        async with Proxy(Path(host) / ".s.PGSQL.5432") as proxy:
            hosts = f"127.0.0.1:{dead[1]},127.0.0.1:{proxy.port}"
            dsn = f"postgresql://lectern@{hosts}{path}?sslmode=disable&target_session_attrs=read-write"
            database = await Database.open(dsn, pool_size=1, timeout_s=30)
            try:
                return await database.fetchval("SELECT 1")
            finally:
                await database.close()

    with asyncio.Runner(loop_factory=Loop) as runner:
        assert runner.run(ask()) == 1


def test_many_names_that_nobody_answers_for_leave_room_to_look_up_others() -> None:
    program = """if True:
        import asyncio, psutil
        from server.loop import Loop
        async def look_up():
            await asyncio.get_running_loop().getaddrinfo("localhost", 1)
            return psutil.Process().num_threads()
        with asyncio.Runner(loop_factory=Loop) as runner:
            print(runner.run(look_up()))
    """
    told = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, check=True, timeout=60)
    assert int(told.stdout) > LOOKUPS

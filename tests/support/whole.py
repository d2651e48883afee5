"""The whole system as `bin/run` starts it, for journeys: embedded parts, the stand-in video host, the server."""

import asyncio
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import pytest

from demo.accounts import ADMIN
from demo.content import Course
from demo.seed import Place, Seed
from embedded.programs import Program
from embedded.system import VIDEO_HOST, System, is_free
from server.config import load_config
from server.listener import bind
from tests.support.server_process import PATIENCE
from tests.support.services import data_directory

START_TIMEOUT_S = 60.0


@contextmanager
def whole_system(data: Path) -> Iterator[System]:
    """Started on a free port, with the demo's administrator; stopped in order afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        # The environment may name parts of the machine that runs the tests; this is about the embedded ones.
        for name in [name for name in os.environ if name.startswith("LECTERN_")]:
            patch.delenv(name)
        system = System(load_config(), data, bind("127.0.0.1", two_free_ports()))
        try:
            system.start_stores()
            system.start_video_host()
            system.start_model()
            system.start_payments()
            system.settings |= PATIENCE | {"LECTERN_AUTH__BCRYPT_COST": "4"}  # every seed signs in a dozen times
            for server in system.start_servers((ADMIN.email, ADMIN.password)):
                server.await_ready(START_TIMEOUT_S)
            host = system.parts[VIDEO_HOST]
            assert isinstance(host, Program)
            host.await_ready(START_TIMEOUT_S)
            yield system
        finally:
            system.begin_stop()
            for part in reversed(system.parts.values()):
                part.stop()


def two_free_ports() -> int:
    """The first of two, for the server and the video host. Below those that outgoing connections take at any moment."""
    while True:
        port = random.randrange(20_000, 32_000)
        if is_free("127.0.0.1", port) and is_free("127.0.0.1", port + 1):
            return port


@pytest.fixture(scope="session")
def system() -> Iterator[System]:
    """One for all tests of a session; each brings courses of its own."""
    with data_directory() as directory, whole_system(directory) as running:
        yield running


def place_of(system: System) -> Place:
    """Where the seed finds it."""
    email, password = system.admin or ("", "")
    return Place(system.local_address, system.demo_clips, system.settings["LECTERN_POSTGRES__DSN"], email, password)


async def seed(system: System, *courses: Course) -> None:
    """Fill it with these courses as `bin/run` does with the demo's."""
    async with aiohttp.ClientSession() as http, asyncio.timeout(100):
        await Seed(http, place_of(system), courses).run()

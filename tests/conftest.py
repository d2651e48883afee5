"""Fixtures that every test may use. The parts are real, started once a session on free places, and gone afterwards.

`postgres_dsn`        a database of this test alone, migrated
`sql`                 a connection to it, past the application
`empty_postgres_dsn`  one of this test alone without any table
`redis_url`           the session's Valkey, emptied before the test
`redis`               a client of it
`object_store`        the session's S3 store (`endpoint_url`, `access_key`, `secret_key`, bucket `lectern`)
`box`, `model`, `stream`  a mail server, a language model and a video host, in the test's own process
`own_postgres`, `own_valkey`  servers of this test alone (started), to be killed, paused or restarted
`system`              everything as `bin/run` starts it, without the demo's courses
`page`, `browser`     Playwright (async) in a real Chromium; mark such tests `browser`
"""

import gc
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest
from hypothesis import HealthCheck, settings
from redis.asyncio import Redis

from embedded.postgres import Postgres
from embedded.s3 import ObjectStore
from embedded.valkey import Valkey
from tests.support import services
from tests.support.browser import browser, page
from tests.support.cloudflare import StreamHost, hosting
from tests.support.language_model import LanguageModel, speaking
from tests.support.mail import MailBox, catching
from tests.support.once import made_once
from tests.support.whole import system

__all__ = ["browser", "page", "system"]

# Whole files go to one worker each; the longest first, or one worker is left alone with them at the end.
LONGEST = (
    "journeys/test_first_start",
    "embedded/test_run",
    "server/test_api",
    "web/test_classroom",
    "web/test_coming_back",
    "demo/test_seed",
    "loadtests/test_qoe",
    "journeys/",
    "chaos/",
    "embedded/",
    "loadtests/",
    "server/test_",
)


def pytest_xdist_auto_num_workers() -> int:
    """Two for each core: most tests wait for servers of theirs, and with three on two a core is idle at times."""
    return 2 * (os.cpu_count() or 1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: next((n for n, start in enumerate(LONGEST) if start in item.nodeid), len(LONGEST)))


def pytest_configure(config: pytest.Config) -> None:
    """Properties are judged by what they find, never by how long an example took on a machine that stood still.

    The same commit draws the same examples, unless a `--hypothesis-seed` says others (`bin/test --all` does).
    """
    same = config.getoption("hypothesis_seed") is None
    settings.register_profile("lectern", deadline=None, derandomize=same, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("lectern")


@pytest.fixture(autouse=True)
def left_behind() -> Iterator[None]:
    """Fails the test itself, not whichever comes later, if it left something open or never awaited."""
    gc.freeze()  # what others made is not looked through again after each test
    yield
    gc.collect()


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a Postgres that was never used has on disk."""
    return made_once(tmp_path_factory, "cluster", services.make_cluster)


@pytest.fixture(scope="session")
def postgres(cluster: Path) -> Iterator[Postgres]:
    """The session's Postgres 18. Tests that stop or kill one want `own_postgres`."""
    with services.started_postgres(cluster) as server:
        yield server


@pytest.fixture(scope="session")
def migrated_postgres(postgres: Postgres) -> Postgres:
    """The session's Postgres with the template that `postgres_dsn` copies."""
    services.migrate_template(postgres)
    return postgres


@pytest.fixture(scope="session")
def psql(postgres: Postgres) -> Iterator[services.Psql]:
    """Makes and drops databases of the session's Postgres."""
    psql = services.Psql(postgres)
    yield psql
    psql.close()


@pytest.fixture
def postgres_dsn(migrated_postgres: Postgres, psql: services.Psql) -> Iterator[str]:
    """The DSN of a migrated database of this test alone."""
    with services.fresh_database(migrated_postgres, psql, services.TEMPLATE) as dsn:
        yield dsn


@pytest.fixture
async def sql(postgres_dsn: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A connection past the application, to arrange what takes long to come about and to look at what is stored."""
    connection = await asyncpg.connect(postgres_dsn)
    yield connection
    await connection.close()


@pytest.fixture
def empty_postgres_dsn(postgres: Postgres, psql: services.Psql) -> Iterator[str]:
    """The DSN of a database of this test alone, without tables."""
    with services.fresh_database(postgres, psql, "template0") as dsn:
        yield dsn


@pytest.fixture(scope="session")
def valkey() -> Iterator[Valkey]:
    """The session's Valkey. Tests that stop or kill one want `own_valkey`."""
    with services.data_directory() as directory:
        server = Valkey(directory, durable=False)
        server.start()
        yield server
        server.stop()


@pytest.fixture
def redis_url(valkey: Valkey) -> str:
    """The URL of an empty Valkey."""
    assert valkey.command("FLUSHALL") == b"+OK\r\n"
    return valkey.url


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    """A client of the Valkey that is empty."""
    async with Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture(scope="session")
def object_store() -> Iterator[ObjectStore]:
    """The session's S3 store with the bucket `lectern`."""
    with services.data_directory() as directory:
        store = ObjectStore(directory)
        store.start()
        yield store
        store.stop()


@pytest.fixture
async def box() -> AsyncIterator[MailBox]:
    """A mail server that keeps what it is sent."""
    async with catching() as box:
        yield box


@pytest.fixture
async def model() -> AsyncIterator[LanguageModel]:
    """A language model."""
    async with speaking() as model:
        yield model


@pytest.fixture
async def stream() -> AsyncIterator[StreamHost]:
    """A video host."""
    async with hosting() as stream:
        yield stream


@pytest.fixture
def own_postgres(cluster: Path) -> Iterator[Postgres]:
    """A Postgres of this test alone, to be killed, paused or restarted; its database `lectern` is empty."""
    with services.started_postgres(cluster) as server:
        yield server


@pytest.fixture
def own_valkey() -> Iterator[Valkey]:
    """A Valkey of this test alone, to be killed, paused or restarted."""
    with services.data_directory() as directory:
        server = Valkey(directory, durable=False)
        server.start()
        yield server
        server.stop()

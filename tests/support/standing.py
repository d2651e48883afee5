"""One application and one database for all tests of a module, each of which brings its own people and rows: to start an
application on a new database takes more than most tests do. What a test changes or counts by hand are rows of its own.

from tests.support.standing import *  # client, sql and people of the module instead of each test's own
pytestmark = STANDING
"""

from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
import pytest_asyncio

from embedded.postgres import Postgres
from embedded.valkey import Valkey
from tests.support import services
from tests.support.app import AppClient, serving_unlimited
from tests.support.people import People

__all__ = ["STANDING", "client", "overrides", "people", "sql", "standing_dsn"]

STANDING = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def standing_dsn(migrated_postgres: Postgres, psql: services.Psql) -> Iterator[str]:
    """The DSN of a migrated database of this module alone."""
    with services.fresh_database(migrated_postgres, psql, services.TEMPLATE) as dsn:
        yield dsn


@pytest.fixture(scope="module")
def overrides() -> dict[str, dict[str, Any]]:
    """Sections of the configuration that a module wants otherwise; its own must be the module's too."""
    return {}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(standing_dsn: str, valkey: Valkey, overrides: dict[str, dict[str, Any]]) -> AsyncIterator[AppClient]:
    """A client of the module's application, without rate limits."""
    assert valkey.command("FLUSHALL") == b"+OK\r\n"
    async with serving_unlimited(standing_dsn, valkey.url, overrides) as client:
        yield client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sql(standing_dsn: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A connection past the application."""
    connection = await asyncpg.connect(standing_dsn)
    yield connection
    await connection.close()


@pytest.fixture
def people(client: AppClient, sql: "asyncpg.Connection[asyncpg.Record]") -> People:
    """Makes users of this test alone: their names end on a number of its own."""
    return People(client, sql, mark=f"-{uuid4().hex[:12]}")

"""A running application and people of every role who speak to it."""

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from tests.support.app import AppClient, serving, settings
from tests.support.people import People


@pytest.fixture
def overrides() -> dict[str, dict[str, Any]]:
    """Sections of the configuration that a module's tests want otherwise."""
    return {}


@pytest.fixture
async def client(postgres_dsn: str, redis_url: str, overrides: dict[str, dict[str, Any]]) -> AsyncIterator[AppClient]:
    """A client of an application on a database of this test alone, without rate limits."""
    unlimited = {name: {"rate": 0} for name in ("auth", "read", "write", "login_account", "login_address")}
    async with serving(settings(postgres_dsn, redis_url, **{"limits": unlimited} | overrides)) as client:
        yield client


@pytest.fixture
async def sql(postgres_dsn: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A connection past the application, to arrange what takes long to come about and to look at what is stored."""
    connection = await asyncpg.connect(postgres_dsn)
    yield connection
    await connection.close()


@pytest.fixture
def people(client: AppClient, sql: "asyncpg.Connection[asyncpg.Record]") -> People:
    """Makes signed-in users: `await people.join("ada", "instructor")`."""
    return People(client, sql)

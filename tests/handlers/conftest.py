"""A running application and people of every role who speak to it."""

from collections.abc import AsyncIterator, Iterator
from functools import cache
from typing import Any

import asyncpg
import pytest
from aiohttp import web
from pydantic import TypeAdapter, ValidationError

from server.http.errors import problem_of
from server.http.openapi import problems_of, says_nothing
from server.http.routing import Endpoint
from tests.support.app import AppClient, serving_unlimited
from tests.support.people import People

declared = cache(TypeAdapter)  # to make one takes longer than most answers


@pytest.fixture(scope="module")
def departures() -> Iterator[list[str]]:
    """What was answered and is not what the route declares, as it comes in."""
    found: list[str] = []
    handle = Endpoint.handle

    async def checked(self: Endpoint, request: web.Request) -> web.StreamResponse:
        route = self.route
        try:
            response = await handle(self, request)
        except Exception as error:
            problem = type(problem_of(error))
            if problem not in problems_of(route):
                found.append(f"{route.method} {route.path} raised {problem.__name__}")
            raise
        if response.content_type == "application/problem+json":
            return response  # what was raised the first time, under the same idempotency key
        if response.status == 304 and route.has_etag:
            return response
        if not route.socket and response.status not in (route.status, *route.also, 204 if says_nothing(route) else 0):
            found.append(f"{route.method} {route.path} answered {response.status}")
        if route.answer is not None and isinstance(response, web.Response) and response.status not in (204, 302):
            assert isinstance(response.body, bytes)
            try:
                declared(route.answer).validate_json(response.body)
            except ValidationError as error:
                found.append(f"{route.method} {route.path}: {error}")
        return response

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Endpoint, "handle", checked)
        yield found


@pytest.fixture(autouse=True)
def undeclared(departures: list[str]) -> Iterator[None]:
    """Whatever a test asks for: what is answered must be what the route declares."""
    departures.clear()
    yield
    assert set(departures) == set()


@pytest.fixture
def overrides() -> dict[str, dict[str, Any]]:
    """Sections of the configuration that a module's tests want otherwise."""
    return {}


@pytest.fixture
async def client(postgres_dsn: str, redis_url: str, overrides: dict[str, dict[str, Any]]) -> AsyncIterator[AppClient]:
    """A client of an application on a database of this test alone, without rate limits."""
    async with serving_unlimited(postgres_dsn, redis_url, overrides) as client:
        yield client


@pytest.fixture
def people(client: AppClient, sql: "asyncpg.Connection[asyncpg.Record]") -> People:
    """Makes signed-in users: `await people.join("ada", "instructor")`."""
    return People(client, sql)

"""What the gateway counts, on the routes as they are declared."""

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from server.http.keys import DATABASE
from server.http.openapi import DECLARED
from server.http.routing import SELF_SERVED, Route
from tests.support.app import AppClient, bearer, serving, settings

CLASSES = ("auth", "read", "write", "chat", "telemetry")
SCARCE = {name: {"rate": 0.001, "per_s": 1, "burst": 1} for name in CLASSES}


@pytest.fixture
async def client(postgres_dsn: str, redis_url: str) -> AsyncIterator[AppClient]:
    async with serving(settings(postgres_dsn, redis_url, limits=SCARCE)) as client:
        yield client


def path_of(route: Route) -> str:
    """With ids of nothing put in."""
    path = route.template
    while "{" in path:
        name = path[path.index("{") : path.index("}") + 1]
        path = path.replace(name, str(uuid4()) if name.endswith("_id}") else "en")
    return path


async def test_every_route_that_declares_a_class_is_limited_by_it(client: AppClient) -> None:
    """Self-served routes find out themselves who calls, and are held in their own tests."""
    assert client.app is not None
    routes = [r for r in client.app[DECLARED] if r.rate is not None and r.role != SELF_SERVED and not r.socket]
    assert routes
    user_id = await client.app[DATABASE].fetchval(
        "INSERT INTO users (username, email, password_hash, role) VALUES ('ada', 'ada@x', '', 'admin') RETURNING id"
    )
    used = set()
    for route in sorted(routes, key=lambda r: (r.rate, r.role)):
        headers = bearer(client.app, "admin", user_id)
        counted = (route.rate, route.role == "anonymous")
        answer = await client.request(route.method, path_of(route), headers=headers, data=b"{")
        if counted not in used:
            used.add(counted)
            assert answer.status != 429, route.path
            assert answer.headers["RateLimit-Remaining"] == "0"
            answer = await client.request(route.method, path_of(route), headers=headers, data=b"{")
        assert answer.status == 429, route.path
        assert (await answer.json(content_type=None))["code"] == "rate_limited"
        assert int(answer.headers["Retry-After"]) > 0
        assert answer.headers["RateLimit-Limit"] == "1"


async def test_what_declares_no_class_is_not_counted(client: AppClient) -> None:
    for _ in range(5):
        answer = await client.get("/livez")
        assert answer.status == 200
        assert "RateLimit-Limit" not in answer.headers

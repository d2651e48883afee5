"""The application for tests: on real Postgres and Valkey, with short times, and a client that speaks to it.

@pytest.fixture
async def client(postgres_dsn, redis_url):
    async with serving(settings(postgres_dsn, redis_url)) as client:
        yield client
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, cast
from uuid import UUID, uuid4

from aiohttp import web
from aiohttp.test_utils import TestClient

from server.app import create_app
from server.clock import Clock
from server.config import Config, Limits
from server.data.db import Database
from server.data.limits import Limiter
from server.http.auth import Tokens, Versions
from server.http.edge import Edge
from server.http.keys import CLOCK, CONFIG, DATABASE, DRAINING, EDGE, LIMITER, TOKENS, VERSIONS
from server.http.middleware import edge_middleware, set_headers
from server.http.openapi import prepare_documents
from server.http.routing import Routes, add_routes
from tests.support.local_server import LocalServer

SECRET = "a secret for tests that is long enough"

# How fast an answer is promised to be is tested where it is the matter; elsewhere a busy machine may take its time.
PATIENCE = {
    "server": {"handler_timeout_s": 30.0, "ready_timeout_s": 20.0, "start_timeout_s": 60.0},
    "postgres": {"timeout_s": 20.0},
    "redis": {"timeout_s": 20.0, "count_timeout_s": 20.0},
    "s3": {"timeout_s": 20.0},
    "stripe": {"timeout_s": 20.0},
    "smtp": {"timeout_s": 20.0},
}

AppClient = TestClient[web.Request, web.Application]


def settings(postgres_dsn: str, redis_url: str, *, patient: bool = True, **sections: Any) -> Config:
    """A configuration for tests; `sections` overrides (`auth={"access_ttl_s": 1}`). `patient`: whether it has time."""
    tree: dict[str, Any] = {
        "postgres": {"dsn": postgres_dsn, "pool_size": 5},
        "redis": {"url": redis_url},
        "auth": {"secret": SECRET, "bcrypt_cost": 4, "version_cache_s": 0},
        "log": {"access": False, "level": "error"},
        "server": {"full_share": 1.0, "full_lag_s": 60.0},  # the test itself runs on the loop that is watched
    }
    for name, section in (*(PATIENCE if patient else {}).items(), *sections.items()):
        tree[name] = tree.get(name, {}) | section if isinstance(section, dict) else section
    return Config.model_validate(tree)


@asynccontextmanager
async def serving(config: Config, *, clock: Clock | None = None) -> AsyncIterator[AppClient]:
    """A client of an application that runs on these settings; its app is `client.app`."""
    async with TestClient(LocalServer(create_app(config, clock=clock))) as client:
        yield client


def serving_unlimited(
    postgres_dsn: str, redis_url: str, sections: dict[str, dict[str, Any]]
) -> AbstractAsyncContextManager[AppClient]:
    """The same on these sections, without rate limits unless they say which."""
    unlimited = {name: {"rate": 0} for name in Limits.model_fields}
    return serving(settings(postgres_dsn, redis_url, **{"limits": unlimited} | sections))


class Users:
    """Stands where the application keeps what it knows of `users.ver`; every user is at version 1 unless set."""

    def __init__(self) -> None:
        self.versions: dict[UUID, int | None] = {}

    async def current(self, _database: object, user_id: UUID, _shown: int) -> int | None:
        """The version a test gave the user."""
        return self.versions.get(user_id, 1)


def bare_app(*groups: Routes, **sections: dict[str, Any]) -> web.Application:
    """The HTTP floor around some routes, without Postgres and Redis behind it."""
    config = settings("", "", **sections)
    app = web.Application(middlewares=[edge_middleware], client_max_size=config.server.body_bytes)
    app[CONFIG] = config
    app[CLOCK] = Clock()
    app[EDGE] = Edge(config)
    app[DRAINING] = asyncio.Event()
    app[TOKENS] = Tokens(config.auth.secret)
    app[VERSIONS] = cast(Versions, Users())
    app[DATABASE] = cast(Database, None)
    app[LIMITER] = Limiter(config.limits, app[CLOCK])
    prepare_documents(app, add_routes(app, groups))
    app.on_response_prepare.append(set_headers)
    return app


def bearer(app: web.Application, role: str = "student", user_id: UUID | None = None, ver: int = 1) -> dict[str, str]:
    """The header of a signed-in user."""
    token, _ = app[TOKENS].issue_access(user_id or uuid4(), role, ver)
    return {"Authorization": f"Bearer {token}"}

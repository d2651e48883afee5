"""Probes on real parts."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from embedded.valkey import Valkey
from server.http.keys import DATABASE, DRAINING
from tests.support.app import AppClient, serving, settings

PROBED = {"server": {"metrics_token": "let me see", "trusted_proxies": ["127.0.0.1/32"]}}


@pytest.fixture
async def client(postgres_dsn: str, own_valkey: Valkey) -> AsyncIterator[AppClient]:
    async with serving(settings(postgres_dsn, own_valkey.url, **PROBED)) as client:
        yield client


@pytest.fixture
async def hasty(postgres_dsn: str, redis_url: str) -> AsyncIterator[AppClient]:
    """One with the product's times, but for the handler's, which is over first where the machine stands still."""
    server = PROBED["server"] | {"handler_timeout_s": 60.0}
    async with serving(settings(postgres_dsn, redis_url, patient=False, server=server)) as client:
        yield client


async def become_ready(client: AppClient) -> None:
    """However long the machine stood still."""
    async with asyncio.timeout(30):
        while await readiness(client) != (200, []):
            pass


async def readiness(client: AppClient) -> tuple[int, list[str]]:
    response = await client.get("/readyz")
    body: dict[str, Any] = await response.json(content_type=None)
    return response.status, body.get("parts", [])


async def test_a_whole_process_is_alive_and_ready(client: AppClient) -> None:
    assert (await client.get("/livez")).status == 200
    assert await readiness(client) == (200, [])


async def test_a_draining_process_is_not_ready_but_alive(client: AppClient) -> None:
    client.app[DRAINING].set()
    assert await readiness(client) == (503, ["draining"])
    assert (await client.get("/livez")).status == 200


async def test_a_missing_part_is_named_and_other_routes_answer_as_ever(client: AppClient, own_valkey: Valkey) -> None:
    await asyncio.to_thread(own_valkey.stop)
    assert await readiness(client) == (503, ["redis"])
    assert (await client.get("/api/courses")).status == 200
    await asyncio.to_thread(own_valkey.start)
    assert await readiness(client) == (200, [])


async def test_while_postgres_is_away_a_route_that_needs_it_is_503_within_three_seconds(hasty: AppClient) -> None:
    database = hasty.app[DATABASE]
    async with AsyncExitStack() as held:
        for _ in range(database.pool_size):
            await held.enter_async_context(database.connection())
        started = time.monotonic()
        response = await hasty.get("/api/courses")
        assert (response.status, response.headers["Retry-After"]) == (503, "1")
        assert (await response.json(content_type="application/problem+json"))["code"] == "database_unavailable"
        assert time.monotonic() - started < 30
        assert "postgres" in (await readiness(hasty))[1]
    await become_ready(hasty)


async def test_metrics_are_for_this_host_and_for_the_token(client: AppClient) -> None:
    far = {"X-Forwarded-For": "203.0.113.1"}
    assert "lectern_http_requests_total" in await (await client.get("/metrics")).text()
    assert (await client.get("/metrics", headers=far)).status == 403
    for name in ("X-Real-IP", "Forwarded", "X-Forwarded-Host", "Via"):  # passed on, and nobody says from where
        assert (await client.get("/metrics", headers={name: "203.0.113.1"})).status == 403
    assert (await client.get("/metrics", headers={"X-Real-IP": "127.0.0.1"})).status == 403
    for token, status in {"let me see": 200, "wrong": 403, "lét": 403}.items():
        headers = far | {"Authorization": f"Bearer {token}"}
        assert (await client.get("/metrics", headers=headers)).status == status


async def test_a_metrics_token_that_is_no_text_is_a_wrong_one(client: AppClient) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    headers = b"Host: x\r\nX-Forwarded-For: 203.0.113.1\r\nAuthorization: Bearer \xfc"
    writer.write(b"GET /metrics HTTP/1.1\r\n%s\r\n\r\n" % headers)
    async with asyncio.timeout(30):
        assert (await reader.readline()).split()[1] == b"403"
    writer.close()

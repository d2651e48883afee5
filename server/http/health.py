"""Probes and metrics."""

import asyncio
import hmac
from collections.abc import Awaitable
from typing import Any

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel

from server import metrics
from server.http.auth import bearer_token
from server.http.keys import CONFIG, DATABASE, DRAINING, EDGE, REDIS
from server.http.problems import Forbidden, NotReady, Unauthorized
from server.http.routing import ANONYMOUS, SELF_SERVED, Call, Routes

routes = Routes("operations")


class Health(BaseModel):
    """`ok`."""

    status: str


@routes.get("/livez", role=ANONYMOUS, rate=None, answer=Health)
async def get_liveness(_call: Call[None]) -> dict[str, str]:
    """Whether the process turns its loop; no other part is asked."""
    return {"status": "ok"}


@routes.get("/readyz", role=ANONYMOUS, rate=None, answer=Health, problems=(NotReady,))
async def get_readiness(call: Call[None]) -> dict[str, str]:
    """Whether this process should get traffic: Postgres and Redis answer and it is not draining.

    The problem's `parts` names what is missing: `postgres`, `redis`, `draining`.
    """
    app = call.app
    names = ("postgres", "redis")
    timeout_s = call.config.server.ready_timeout_s
    answers = await asyncio.gather(
        _in_time(app[DATABASE].fetchval("SELECT max(number) FROM schema_migrations"), timeout_s),
        _in_time(app[REDIS].ping(), timeout_s),
    )
    missing = [name for name, answer in zip(names, answers, strict=True) if not answer]
    if app[DRAINING].is_set():
        missing.append("draining")
    metrics.READY.set(not missing)
    if missing:
        raise NotReady(f"Not ready: {', '.join(missing)}.", parts=missing)
    return {"status": "ok"}


async def _in_time(asked: Awaitable[Any], timeout_s: float) -> Any:
    """The answer, or None: whatever goes wrong with a part means that it is missing."""
    try:
        async with asyncio.timeout(timeout_s):
            return await asked
    except Exception:
        return None


@routes.get("/metrics", role=SELF_SERVED, rate=None, produces="text/plain", problems=(Forbidden, Unauthorized))
async def get_metrics(call: Call[None]) -> web.Response:
    """Prometheus text, for this host and for who has `server.metrics_token`."""
    if not (call.app[EDGE].is_local(call.request) or _has_metrics_token(call)):
        raise Forbidden("Metrics are for this host and for who has the token.")
    metrics.POSTGRES_CONNECTIONS.labels("idle").set(call.db.idle)
    metrics.POSTGRES_CONNECTIONS.labels("used").set(call.db.used)
    return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})


def _has_metrics_token(call: Call[None]) -> bool:
    expected = call.app[CONFIG].server.metrics_token
    given = bearer_token(call.request) or ""
    return bool(expected) and hmac.compare_digest(given.encode("utf-8", "surrogateescape"), expected.encode())

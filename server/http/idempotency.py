"""The same request twice is done once: `Idempotency-Key`.

A request with a key runs in one transaction together with the record of its answer, under an advisory lock. Whatever
happens, either both are there or neither is: a process that dies in between leaves a free key and nothing done, and
the same request may simply be sent again. What asks a service outside must not hold a transaction meanwhile: it runs
under a lease, and a process that dies leaves the key free after the lease. Where that takes minutes, and the same
request beside the first does no harm, the lease is short and renewed meanwhile.

Kept is what was decided: success, and problems that will not go away by themselves. Failures of ours (5xx) and problems
that say `retryable` are not kept; the key is free again, where a service outside was asked for the same request alone,
which goes on with what the first has begun.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson
from aiohttp import hdrs, web

from server.data.db import DATABASE_AWAY, Connection, Database, Within, queries
from server.http.errors import problem_of
from server.http.problems import (
    IdempotencyKeyInUse,
    IdempotencyKeyRequired,
    IdempotencyKeyReused,
    MalformedRequest,
    Problem,
    instance_of,
    problem_response,
)
from server.logs import get_logger, request_id

HEADER = "Idempotency-Key"
REPLAYED = "Idempotency-Replayed"
LONGEST_KEY = 255
_KEPT_HEADERS = (hdrs.LOCATION, hdrs.CONTENT_TYPE)

log = get_logger()
_keys = queries("idempotency")

Run = Callable[[Database], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Claim:
    """A user's key and the hash of what it was sent with."""

    user_id: UUID
    key: str
    request_hash: bytes

    @property
    def names(self) -> dict[str, Any]:
        """How queries call it."""
        return {"user_id": self.user_id, "key": self.key}


def read_key(request: web.Request, *, required: bool) -> str | None:
    """The request's key; None without one. Raises MalformedRequest, IdempotencyKeyRequired."""
    key = request.headers.get(HEADER)
    if key is None:
        if required:
            raise IdempotencyKeyRequired
        return None
    if not 1 <= len(key) <= LONGEST_KEY or not key.isprintable():
        raise MalformedRequest(f"{HEADER} must have 1 to {LONGEST_KEY} printable characters.")
    return key


def claim(request: web.Request, user_id: UUID, key: str, body: Mapping[str, Any] | None) -> Claim:
    """What identifies a request: its method, its path with the query, and the members of its body in any order."""
    said = orjson.dumps(body, default=str, option=orjson.OPT_SORT_KEYS)
    return Claim(user_id, key, hashlib.sha256(f"{request.method} {request.path_qs}\n".encode() + said).digest())


async def answer_once(
    request: web.Request,
    database: Database,
    claimed: Claim,
    run: Run,
    *,
    ttl_s: float,
    lease_s: float | None = None,
    renewed: bool = False,
) -> web.StreamResponse:
    """The answer of `run`, or the kept one of the first time. `run` gets the database to work on.

    Args:
        ttl_s: how long an answer is kept.
        lease_s: how long `run` may take beside a service outside; None: it runs in one transaction with its record.
        renewed: whether it may take longer, and the lease is renewed meanwhile.

    Raises:
        IdempotencyKeyReused, IdempotencyKeyInUse, and what `run` raises.
    """
    if lease_s is None:
        async with database.transaction() as tx:
            kept = await _kept(tx, claimed)
            if kept is not None:
                return kept
            outcome = await _outcome(run, Within(tx, database))
            await _keep(tx, request, claimed, outcome, ttl_s)
        return _told(outcome)
    async with database.transaction() as tx:
        kept = await _kept(tx, claimed)
        if kept is not None:
            return kept
        await _keys.start_key(
            tx, **claimed.names, request_hash=claimed.request_hash, lease_s=lease_s, ttl_s=max(ttl_s, lease_s)
        )
    try:
        async with _renewing(database, claimed, lease_s) if renewed else nullcontext():
            outcome = await _outcome(run, database)
    except Exception:
        with suppress(*DATABASE_AWAY):  # then the lease frees it
            await _keys.release_key(database, **claimed.names)
        raise
    try:
        await _keep(database, request, claimed, outcome, ttl_s)
    except DATABASE_AWAY as error:
        log.warning("answer_not_kept", error=str(error))
    return _told(outcome)


async def _kept(tx: Connection, claimed: Claim) -> web.Response | None:
    """The first answer; None when there is none, and then this transaction alone is at the key."""
    alone = await _keys.lock_key(tx, **claimed.names)  # else somebody works at it, or is just told the answer as well
    row = await _keys.get_key(tx, **claimed.names)
    if row is not None and row["request_hash"] != claimed.request_hash:
        raise IdempotencyKeyReused
    if row is None or row["status"] is None:
        if not alone or (row is not None and row["is_running"]):
            raise IdempotencyKeyInUse
        return None
    return web.Response(status=row["status"], body=row["body"], headers={**row["headers"], REPLAYED: "true"})


@asynccontextmanager
async def _renewing(database: Database, claimed: Claim, lease_s: float) -> AsyncIterator[None]:
    async def renew() -> None:
        while True:
            await asyncio.sleep(lease_s / 3)
            with suppress(*DATABASE_AWAY):  # the next time, or it runs out
                await _keys.renew_key(database, **claimed.names, lease_s=lease_s)

    renewing = asyncio.create_task(renew())
    try:
        yield
    finally:
        renewing.cancel()
        await asyncio.wait([renewing])


async def _outcome(run: Run, database: Database) -> web.StreamResponse | Problem:
    """What was decided. Raises what shall not be kept."""
    try:
        return await run(database)
    except Exception as error:
        problem = problem_of(error)
        if problem.status >= 500 or problem.retryable:
            raise
        return problem


def _told(outcome: web.StreamResponse | Problem) -> web.StreamResponse:
    if isinstance(outcome, Problem):
        raise outcome
    return outcome


async def _keep(
    database: "Connection | Database", request: web.Request, claimed: Claim, outcome: Any, ttl_s: float
) -> None:
    response = outcome
    if isinstance(outcome, Problem):
        response = problem_response(outcome, instance_of(request), request_id.get())
    if not isinstance(response, web.Response):
        raise TypeError("a streamed answer cannot be kept: declare the route with idempotency='ignored'")
    await _keys.keep_answer(
        database,
        **claimed.names,
        request_hash=claimed.request_hash,
        status=response.status,
        headers={str(name): response.headers[name] for name in _KEPT_HEADERS if name in response.headers},
        body=response.body,
        ttl_s=ttl_s,
    )

"""What happens around every handler: request id, access log and metrics, security headers, CORS, problems.

One function does it in this order: one aiohttp middleware for each would cost more than most handlers.
"""

import re
import secrets
import time
from functools import cache
from http import HTTPStatus
from random import getrandbits
from typing import Any

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler
from prometheus_client import Counter, Histogram

from server import metrics
from server.http.errors import problem_of
from server.http.keys import CONFIG, DRAINING, EDGE
from server.http.problems import (
    DatabaseUnavailable,
    OriginRefused,
    Problem,
    RedisUnavailable,
    instance_of,
    problem_response,
)
from server.http.routing import VERDICT, Route, route_of
from server.logs import get_logger, request_id, write_access

REQUEST_ID = web.RequestKey("request_id", str)
# Set when the answer's head has gone out: from then on no other answer can be sent.
STARTED = web.RequestKey("started", bool)

_SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}").fullmatch
_EXPOSED = (
    "Accept-Ranges, Content-Disposition, Content-Range, ETag, Idempotency-Replayed, Location, RateLimit-Limit, "
    "RateLimit-Remaining, RateLimit-Reset, Retry-After, X-Request-Id"
)
# Every method that some route knows.
METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE"
_ALLOWED_HEADERS = (
    "Authorization, Content-Type, Idempotency-Key, If-None-Match, If-Range, Range, X-Request-Id, CMCD-Object, "
    "CMCD-Request, CMCD-Session, CMCD-Status"
)
# What probes ask every few seconds: counted, not logged.
_QUIET = frozenset({"/livez", "/readyz", "/metrics"})
# Whose failure an answer tells of.
_PARTS = {DatabaseUnavailable.code: "postgres", RedisUnavailable.code: "redis"}

log = get_logger()


@web.middleware
async def edge_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Around every request, also unknown ones: answers have an id, are counted and logged, and errors are problems."""
    started = time.perf_counter()
    identifier = choose_id(request)
    request[REQUEST_ID] = identifier
    request_id.set(identifier)
    route = route_of(request)
    status = 499  # the client went away
    try:
        response = await _answer(request, handler, route, identifier)
        status = response.status
        return response
    finally:
        _account(request, route, status, time.perf_counter() - started, identifier)


async def set_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Signal `on_response_prepare`: headers that every answer carries, sockets' and streams' too."""
    request[STARTED] = True
    headers = response.headers
    headers.popall(hdrs.SERVER, None)  # whose version is nobody's business
    headers["X-Request-Id"] = request.get(REQUEST_ID) or secrets.token_hex(16)
    headers["X-Content-Type-Options"] = "nosniff"
    # The next request belongs to another process; or nobody can tell where it begins, for this body cannot be read.
    app = request.app
    leaving = app[DRAINING].is_set() and response.status != HTTPStatus.SWITCHING_PROTOCOLS
    unread = hdrs.CONTENT_ENCODING in request.headers and not request.content.is_eof()
    if unread:
        # aiohttp would unpack it all for ten seconds, to come to the next request: a few kilobytes of gigabytes.
        request.protocol._lingering_time = 0.0
    if leaving or unread or request.content.exception() is not None:
        response.force_close()
        headers[hdrs.CONNECTION] = "close"
    if hdrs.CACHE_CONTROL not in headers:
        headers[hdrs.CACHE_CONTROL] = "no-store"
    verdict = request.get(VERDICT)
    if verdict is not None:
        headers["RateLimit-Limit"] = str(verdict.limit)
        headers["RateLimit-Remaining"] = str(verdict.remaining)
        headers["RateLimit-Reset"] = str(verdict.reset_s)
    edge = app[EDGE]
    if edge.secure:
        headers["Strict-Transport-Security"] = "max-age=31536000"
    if headers.get(hdrs.CONTENT_TYPE, "").startswith("text/html"):
        headers.setdefault("Content-Security-Policy", edge.page_policy)
        headers["Referrer-Policy"] = "same-origin"
        headers["Cross-Origin-Opener-Policy"] = "same-origin"
    origin = request.headers.get(hdrs.ORIGIN)
    if origin is not None:
        if "Origin" not in headers.get(hdrs.VARY, ""):
            headers.add(hdrs.VARY, "Origin")
        if edge.is_listed(origin):
            headers["Access-Control-Allow-Origin"] = origin
            headers["Access-Control-Expose-Headers"] = _EXPOSED


async def _answer(request: web.Request, handler: Handler, route: Route | None, identifier: str) -> web.StreamResponse:
    try:
        if request.method == hdrs.METH_OPTIONS and "Access-Control-Request-Method" in request.headers:
            return _preflight(request)
        return await handler(request)
    except Exception as error:
        if isinstance(error, web.HTTPException) and error.status < 400:
            raise
        if isinstance(error, ConnectionError) and request.transport is None:
            raise  # nobody is there to be answered, and that somebody leaves is no failure of ours
        problem = problem_of(error)
        if problem is not error:
            _log_cause(request, route, problem, error)
        if request.get(STARTED):
            raise  # half an answer is out: aiohttp closes the connection
        return problem_response(problem, instance_of(request), identifier)


def _log_cause(request: web.Request, route: Route | None, problem: Problem, error: Exception) -> None:
    """What the client is not told about a failure of ours or of a part behind us."""
    if problem.status == 500:
        metrics.HTTP_UNFORESEEN.labels(route.template if route else "none").inc()
        log.exception("unforeseen_error", method=request.method, path=request.path)
    elif problem.status > 500:
        log.warning(problem.code, path=request.path, error=f"{type(error).__name__}: {error}")
        if part := _PARTS.get(problem.code):
            metrics.PART_FAILURES.labels(part).inc()


def _preflight(request: web.Request) -> web.Response:
    """A browser asks whether a page of another origin may send a request."""
    if not request.app[EDGE].is_listed(request.headers.get(hdrs.ORIGIN, "")):
        raise OriginRefused
    return web.Response(
        status=204,
        headers={
            "Access-Control-Allow-Methods": METHODS,
            "Access-Control-Allow-Headers": _ALLOWED_HEADERS,
            "Access-Control-Max-Age": "7200",
        },
    )


def choose_id(request: web.BaseRequest) -> str:
    """The request's id: the client's, if sane."""
    given = request.headers.get("X-Request-Id")
    if given is not None and _SANE_ID(given):
        return given
    return f"{getrandbits(128):032x}"  # no secret, and a system call for it would be one for every request


@cache  # looking a metric's child up by its labels costs more than counting
def _requests(method: str, template: str, status: int) -> Counter:
    return metrics.HTTP_REQUESTS.labels(method, template, str(status))


@cache
def _durations(method: str, template: str) -> Histogram:
    return metrics.HTTP_DURATION.labels(method, template)


def _account(request: web.Request, route: Route | None, status: int, seconds: float, identifier: str) -> None:
    """Count and log one answered request."""
    # Unknown paths and methods are a client's to invent: they share one label.
    method, template = (request.method, route.template) if route else ("other", "none")
    _requests(method, template, status).inc()
    if not (route and route.socket):
        _durations(method, template).observe(seconds)
    if template not in _QUIET and request.app[CONFIG].log.access:
        write_access(_access_line(request, status, seconds, identifier))


def _access_line(request: web.Request, status: int, seconds: float, identifier: str) -> dict[str, Any]:
    """Never the query: it may hold a token."""
    return {
        "event": "request",
        "method": request.method,
        "path": request.path,
        "status": status,
        "ms": round(seconds * 1000, 2),
        "client": request.app[EDGE].client_address(request),
        "request_id": identifier,
    }

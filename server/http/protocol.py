"""What a client is told when its request never becomes one: HTTP that cannot be read, or that asks what we do not do.

aiohttp answers these by itself, outside of every middleware, in plain text and with what was sent in it.
"""

import re
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

from aiohttp import hdrs, web
from aiohttp.http_exceptions import BadHttpMethod, ContentEncodingError, LineTooLong

from server.http.errors import problem_of
from server.http.inbox import FITS
from server.http.middleware import METHODS, REQUEST_ID, choose_id
from server.http.problems import (
    InternalError,
    MalformedRequest,
    MethodNotAllowed,
    Problem,
    UnsupportedMediaType,
    instance_of,
    problem_response,
)
from server.http.routing import CONTENT_ENCODINGS, READABLE
from server.http.upgrades import Requests
from server.logs import get_logger

log = get_logger()

# How aiohttp quotes a first line that is right but for a method that it has not heard of: no request comes of it.
_OTHER_METHOD = re.compile(r"""\n  b['"][\w!#$%&'*+.^`|~-]+ \S+ HTTP/1\.[01]['"]""", re.ASCII)

# What `set_headers` gives all other answers; without a name of ours aiohttp would tell its version, and Python's.
_ALWAYS = {"X-Content-Type-Options": "nosniff", hdrs.CACHE_CONTROL: "no-store", hdrs.SERVER: "Lectern"}

_Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Runner(web.AppRunner):
    """Runs an application as `web.AppRunner` does, with problems for what no handler ever sees."""

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        return _Server(_refusing(made.request_handler), request_factory=made.request_factory, **made._kwargs)


def _refusing(handler: _Handler) -> _Handler:
    """An `Expect` that is not known is refused by aiohttp before the middleware is asked, in words that hold it, which
    fails where it is no text."""

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        if not request.headers.get("Expect", "").isascii():
            return _tell(request, MalformedRequest())
        try:
            return await handler(request)
        except web.HTTPClientError as error:
            return _tell(request, problem_of(error))

    return handle


class _Server(web.Server):
    def __call__(self) -> web.RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)


class _Waiting(Requests):
    """A connection's requests, and with them what cannot be read: the next one, or the rest of the last one's body.

    For aiohttp it is always the next one, and who waits for that body would wait until it is too late.
    """

    __slots__ = ("connection",)

    def __init__(self, connection: web.RequestHandler) -> None:
        super().__init__()
        # None once it is lost: what refers to itself would wait for the collector.
        self.connection: web.RequestHandler | None = connection

    def append(self, item: tuple[Any, Any]) -> None:
        """Called for each, and for what cannot be read as for one."""
        unread = getattr(item[0], "exc", None)
        if unread is not None:
            body = self[-1][1] if self else getattr(getattr(self.connection, "_current_request", None), "content", None)
            if body is not None and not body.is_eof():
                body.set_exception(web.RequestPayloadError(str(unread)))
        super().append(item)


class _Connection(web.RequestHandler):
    __slots__ = ()

    def __init__(self, *args: Any, **kw: Any) -> None:
        super().__init__(*args, **kw)
        if FITS:
            self._messages = _Waiting(self)  # type: ignore[assignment] # of a deque only these methods are used

    def connection_lost(self, exc: BaseException | None) -> None:
        """Called once, at its end."""
        super().connection_lost(exc)
        if isinstance(self._messages, _Waiting):
            self._messages.connection = None

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """A body that cannot be decoded was answered; that its rest cannot be read either is no news."""
        if not isinstance(kw.get("exc_info"), web.RequestPayloadError):
            super().log_exception(*args, **kw)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - it repeats what the client sent
    ) -> web.StreamResponse:
        """The answer, after which the connection is closed: where one request ends and the next begins is unknown."""
        if isinstance(exc, ConnectionError) and self.transport is None:
            raise exc  # who left in the middle of a request is not answered, and it is no failure of ours
        if request.writer.output_size > 0:
            raise ConnectionError("half an answer is out already")  # why no more comes, the middleware told the log
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            log.error("request_not_handled", path=request.path, exc_info=exc)
        response = _tell(request, _problem_of(status, exc))
        response.force_close()
        return response


def _problem_of(status: int, error: BaseException | None) -> Problem:
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return InternalError()
    if isinstance(error, BadHttpMethod) and _OTHER_METHOD.search(error.message):
        return MethodNotAllowed("No resource here knows this method.", headers={"Allow": METHODS})
    if isinstance(error, LineTooLong):
        return MalformedRequest("A line of the request's head is too long.")
    # One that aiohttp knows and cannot do, such as zstd; of one that it can do, it names that whose end is missing.
    if isinstance(error, ContentEncodingError) and error.message not in CONTENT_ENCODINGS:
        return UnsupportedMediaType("The body is encoded as we cannot read it.", headers=READABLE)
    return MalformedRequest("This is not HTTP as RFC 9112 has it.")


def _tell(request: web.BaseRequest, problem: Problem) -> web.Response:
    request[REQUEST_ID] = identifier = choose_id(request)
    response = problem_response(problem, instance_of(request), identifier)
    response.headers.update(_ALWAYS)
    response.headers["X-Request-Id"] = identifier
    return response

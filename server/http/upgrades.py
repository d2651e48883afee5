"""What a request that became a WebSocket need not keep while the socket lives.

aiohttp answers a connection's requests in one loop, which holds on to the request at hand: its headers, a token among
them, and everything made of them, three kilobytes that nobody asks for again. And a handler that serves the socket
keeps every middleware that it was called by. So a socket's handler may answer with a response that is `served`
afterwards, when all of them have returned, and `Requests` hands the loop a head that can be emptied.

Only `Opening` needs names that aiohttp does not promise. For a version that it was not tried with (`inbox.FITS`) it is
off, and nothing but memory is lost.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

_NO_HEADERS = CIMultiDictProxy(CIMultiDict[str]())
_NOWHERE = URL("/")


class Opening:
    """The head of a request that asks to become a socket, as aiohttp's own, which cannot be changed."""

    __slots__ = (
        "chunked", "compression", "headers", "method", "path", "raw_headers", "should_close", "upgrade", "url",
        "version",
    )  # fmt: skip

    def __init__(self, message: Any) -> None:
        for name in self.__slots__:
            setattr(self, name, getattr(message, name))

    def empty(self) -> None:
        """Let go of everything that was sent."""
        self.headers, self.raw_headers, self.path, self.url = _NO_HEADERS, (), "/", _NOWHERE


class Requests(list[Any]):
    """A connection's requests that wait to be answered, with their bodies, oldest first. A deque, which aiohttp has for
    it, takes 600 bytes while it is empty."""

    __slots__ = ()

    def popleft(self) -> tuple[Any, Any]:
        """The next one."""
        message, body = self.pop(0)
        return Opening(message) if getattr(message, "upgrade", False) else message, body


class ServedResponse(web.WebSocketResponse):
    """A WebSocketResponse that can be served after its handler has returned it."""

    _serve: Callable[[], Awaitable[None]] | None = None

    def serve_with(self, serve: Callable[[], Awaitable[None]]) -> None:
        """Have `serve` called when the handler and all middlewares have returned; afterwards the socket is closed."""
        self._serve = serve

    async def write_eof(self) -> None:  # type: ignore[override] # as in aiohttp's
        """aiohttp's last step with every response."""
        serve, self._serve = self._serve, None
        if serve is not None:
            if self._req is not None:
                _forget(self._req)
            self.headers.clear()
            await serve()
        await super().write_eof()


def _forget(request: Any) -> None:
    message = request._message
    if not isinstance(message, Opening):
        return
    message.empty()
    request._headers, request._rel_url = _NO_HEADERS, _NOWHERE
    request._cache, request._state, request._match_info = {}, {}, None

"""Text frames handed over as they arrive, past aiohttp's queue and the waking of a task for each.

aiohttp parses frames in `data_received` and puts messages into a queue that a task awaits; for a small frame the waking
costs more than all the rest. Here a text is first offered to whoever the socket is for, at once, while nothing waits in
the queue; what that one does not take goes into the queue as ever. Pings, closes, errors, backpressure and the parsing
itself stay aiohttp's.

This needs names that aiohttp does not promise. For a version that it was not tried with it is off: every frame
goes through the queue.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp import WebSocketError, WSCloseCode, WSMessage, WSMsgType, web

from server.http.upgrades import ServedResponse

Offer = Callable[[str], bool]

# aiohttp's versions whose reader was tried.
TRIED = "3.14."

try:
    from aiohttp._websocket.reader import WebSocketDataQueue, WebSocketReader

    FITS = aiohttp.__version__.startswith(TRIED)
except ImportError:  # pragma: no cover - another aiohttp
    FITS = False
    if not TYPE_CHECKING:
        WebSocketDataQueue = WebSocketReader = object

# Of messages that wait; the queue holds twice as many bytes before it stops reading.
_QUEUE_BYTES = 64 * 1024
_TEXT = WSMsgType.TEXT


class Inbox(WebSocketDataQueue):
    """aiohttp's queue, which offers texts first."""

    __slots__ = ("offer",)

    def __init__(self, protocol: Any, limit: int, *, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(protocol, limit, loop=loop)
        self.offer: Offer | None = None

    def feed_data(self, data: Any, size: int) -> None:
        """Called by the reader for every message. It must not raise: the compiled reader would swallow it."""
        if self.offer is None or self._size or data[0] is not _TEXT or not self.offer(data[1]):
            super().feed_data(data, size)

    def set_exception(self, exc: BaseException, *cause: BaseException) -> None:
        """Called by the reader when the peer breaks the protocol. It becomes a message: aiohttp would hang up together
        with its close, which a peer that looks late takes for a broken connection."""
        if isinstance(exc, WebSocketError):
            super().feed_data(WSMessage(WSMsgType.ERROR, exc, None), 0)
        else:
            super().set_exception(exc, *cause)


class _FirstFrame:
    """Reads until the head of the first frame is there. A client masks every frame (RFC 6455, 5.1), of which aiohttp
    takes no notice; one that does not do it at first never does, and nobody looks at the others."""

    __slots__ = ("_head", "_inbox", "_protocol", "_reader")

    def __init__(self, reader: WebSocketReader, inbox: Inbox, protocol: Any) -> None:
        self._reader = reader
        self._inbox = inbox
        self._protocol = protocol
        self._head = b""

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """As the reader's own, which takes over from here on."""
        self._head += data
        if len(self._head) < 2:
            return False, b""
        if not self._head[1] & 0x80:
            self._inbox.set_exception(WebSocketError(WSCloseCode.PROTOCOL_ERROR, "a frame that is not masked"))
            return True, b""
        self._protocol._payload_parser = self._reader
        return self._reader.feed_data(self._head)

    def feed_eof(self) -> None:
        """The connection has ended."""
        self._reader.feed_eof()


class DirectResponse(ServedResponse):
    """A WebSocketResponse whose texts are offered; set `offer` after `prepare`. Without compression or heartbeat."""

    inbox: Inbox

    def _post_start(self, request: web.BaseRequest, protocol: str | None, writer: Any) -> None:
        self._ws_protocol = protocol
        self._writer = writer
        loop = self._loop
        assert loop is not None
        self.inbox = self._reader = Inbox(request.protocol, _QUEUE_BYTES, loop=loop)
        self._parser = WebSocketReader(self._reader, self._max_msg_size, compress=False, decode_text=True)
        request.protocol.set_parser(_FirstFrame(self._parser, self.inbox, request.protocol))  # type: ignore[arg-type]
        request.protocol.keep_alive(False)
        request.protocol._parser = None  # no other request follows


def make_response(**options: Any) -> ServedResponse:
    """The best that this aiohttp allows."""
    return DirectResponse(**options) if FITS else ServedResponse(**options)


def offer_texts(response: web.WebSocketResponse, offer: Offer | None) -> None:
    """From now on offer every text that arrives while none waits; whether it is taken, `offer` answers. It must not
    raise. None: no more."""
    if isinstance(response, DirectResponse):
        response.inbox.offer = offer

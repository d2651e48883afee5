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


class _MaskedFrames:
    """Reads on for as long as every frame is masked, as a client's must be (RFC 6455, 5.1), of which aiohttp takes no
    notice."""

    __slots__ = ("_head", "_inbox", "_left", "_reader")

    def __init__(self, reader: WebSocketReader, inbox: Inbox) -> None:
        self._reader = reader
        self._inbox = inbox
        # The beginning of a frame whose size is not known yet, kept back; bytes to come of the one that is at hand.
        self._head = b""
        self._left = 0

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """As the reader's own."""
        size, at = len(data), self._left
        if at == 0 and size > 5 and not self._head:  # the usual case: one frame, and all of it
            code = data[1]
            if size == (code - 0x7A if code < 0xFE else 8 + (data[2] << 8 | data[3]) if code == 0xFE else 0):
                return self._reader.feed_data(data)
        if self._head:
            data, self._head = self._head + data, b""
            size = len(data)
        while at < size:
            code = data[at + 1] if at + 1 < size else 0x80  # a mask, until that is known
            if code < 0x80:
                self._reader.feed_data(data[:at])
                self._inbox.set_exception(WebSocketError(WSCloseCode.PROTOCOL_ERROR, "a frame that is not masked"))
                return True, b""
            head = 6 if code < 0xFE else 8 if code == 0xFE else 14
            if at + head > size:
                data, self._head = data[:at], data[at:]
                break
            at += head + (code - 0x80 if head == 6 else int.from_bytes(data[at + 2 : at + head - 4], "big"))
        self._left = 0 if self._head else at - size
        return self._reader.feed_data(data)

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
        request.protocol.set_parser(_MaskedFrames(self._parser, self.inbox))  # type: ignore[arg-type]
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

"""The server's end of WebSockets: openings, limits, heartbeats, slow readers, close codes.

Nothing here waits for a player. What a session says is written to the transport at once; when the player does not
read, an acknowledgement or a decision waits in a slot where a newer one replaces it, and a player that has not read for
`sessions.slow_reader_s` is cut. One ticker looks after all sockets of the process.

The close codes are in `server.domain.closes`.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator, Callable, Iterator

import msgspec
import structlog
from aiohttp import WebSocketError, WSMessage, WSMsgType, web
from aiohttp.hdrs import SEC_WEBSOCKET_PROTOCOL

from server import metrics
from server.clock import Clock
from server.config import Config, Limit
from server.domain.closes import CLOSES
from server.http.auth import API, Principal, bearer_token, verify_current
from server.http.inbox import make_response, offer_texts
from server.http.keys import CONFIG, DRAINING, EDGE, LOAD, SOCKETS
from server.http.problems import (
    MalformedRequest,
    NotReady,
    OriginRefused,
    Overloaded,
    SubprotocolRequired,
    TokenInQuery,
    Unauthorized,
    UpgradeRequired,
)
from server.http.routing import throttle
from server.http.upgrades import ServedResponse
from server.timer_wheel import TimerWheel

log = structlog.get_logger()

PROTOCOL = "lectern.v1"
BEARER = "bearer."
# Of WebSockets: RFC 6455's, and two drafts that differ in nothing that is looked at.
VERSIONS = "13", "8", "7"
SEND_BUFFER = 64 * 1024
# Bytes that wait in the process for one slow reader; above it acknowledgements and decisions wait in their slots.
OUTBOX = 16 * 1024
# Between two looks at whether a peer that asked for more than that has read it.
READ_UP_S = 0.05
# How long a peer may take to answer our close. Who did nothing wrong and is not to come back gets longer: it may be
# busy, and takes a connection that is gone when it answers for a broken one (1006).
CLOSE_S = 1.0
PATIENT_CLOSE_S = 10.0
PATIENT = frozenset({1000, 4401, 4403, 4404, 4409})
HALF_OPEN = 1.7
# When who is sent elsewhere comes back.
RETRY_MS = 200, 3000
# Codes that are not announced by a `bye`: what went wrong is the transport itself.
UNANNOUNCED = frozenset({1002, 1003, 1007, 1009})
CREDENTIALS_OVER = 4401
# The bad frame that ends a socket; those before it are answered.
OFFENCES = 3
# What aiohttp finds wrong with a frame, when it is no offence against the protocol itself.
_FAULTS = {1007: "not_utf8", 1009: "too_big"}
# Only what is in the table of close codes may be sent.
_CLOSED = {code: metrics.SOCKET_CLOSES.labels(str(code)) for code in CLOSES}

# Deals with a text at once, or declines it.
Take = Callable[[str], bool]


class Goodbye(msgspec.Struct, tag="bye", tag_field="type"):
    """Said just before a socket is closed with `code`; one may come back after `retry_ms`, null: see the code."""

    code: int
    retry_ms: int | None


def _is_whole(request: web.Request) -> bool:
    """Whether the headers of an opening (RFC 6455) are there and can be read."""
    try:
        return bool(web.WebSocketResponse(protocols=(PROTOCOL,)).can_prepare(request))
    except ValueError:  # a key of other bytes than ASCII
        return False


def check_opening(request: web.Request) -> str:
    """Everything about an opening that needs neither Postgres nor Redis; the token that it came with.

    Raises UpgradeRequired, MalformedRequest, TokenInQuery, SubprotocolRequired, OriginRefused, NotReady, Overloaded,
    Unauthorized.
    """
    version = request.headers.get("Sec-WebSocket-Version", VERSIONS[0])
    if request.headers.get("Upgrade", "").lower() != "websocket" or version not in VERSIONS:
        upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": VERSIONS[0]}
        raise UpgradeRequired(headers=upgrade)
    if "token" in request.query or "access_token" in request.query:
        raise TokenInQuery
    offered = [p.strip() for p in ",".join(request.headers.getall(SEC_WEBSOCKET_PROTOCOL, ())).split(",")]
    if PROTOCOL not in offered:
        raise SubprotocolRequired
    if not _is_whole(request):
        raise MalformedRequest("The opening of the WebSocket is not complete.")
    if not request.app[EDGE].origin_allowed(request):
        raise OriginRefused
    if request.app[DRAINING].is_set():
        raise NotReady
    if len(request.app[SOCKETS]) >= request.app[CONFIG].server.max_sockets or request.app[LOAD].full:
        metrics.SOCKETS_REFUSED.inc()
        raise Overloaded
    token = bearer_token(request) or next((p.removeprefix(BEARER) for p in offered if p.startswith(BEARER)), None)
    if not token:
        raise Unauthorized
    return token


async def admit(request: web.Request) -> Principal:
    """Who opens a socket by an access token. Raises what `check_opening` does, RateLimited, PostgresAway."""
    claims = await verify_current(request.app, check_opening(request), API)
    await throttle(request, claims.sub)
    return claims.principal


class Sockets:
    """All sockets of the process, and the one ticker that looks after them."""

    def __init__(self, config: Config, clock: Clock) -> None:
        self.config = config
        self.clock = clock
        self._open: set[Socket] = set()
        self._to_flush: list[Socket] = []
        self._pause_s = min(1.0, config.sessions.heartbeat_s / 30, config.sessions.slow_reader_s / 5)
        # Who may be silent by then.
        self._hearings: TimerWheel[Socket] = TimerWheel(self._pause_s / 4, clock.monotonic())
        # Written to, and not yet seen with all of it gone.
        self.unread: set[Socket] = set()
        self.hurried = False

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Socket]:
        return iter(tuple(self._open))

    async def accept(self, request: web.Request, kind: str, principal: Principal) -> Socket:
        """Upgrade. `kind` names the sort of socket in metrics; it lives as long as the principal's version is good."""
        response = make_response(
            protocols=(PROTOCOL,),
            timeout=PATIENT_CLOSE_S,
            autoping=False,
            autoclose=False,
            compress=False,  # 14 KB a connection, not 117
            max_msg_size=self.config.sessions.frame_bytes + 1,  # aiohttp refuses from this size on
        )
        response.headers[SEC_WEBSOCKET_PROTOCOL] = PROTOCOL  # where several headers offer some, aiohttp reads the first
        await response.prepare(request)
        transport = request.transport
        if transport is None:
            raise ConnectionResetError
        raw = transport.get_extra_info("socket")
        if raw is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        accepted = Socket(response, transport, principal, self, kind)
        self._open.add(accepted)
        self._hearings.put(accepted, accepted.hear_by)
        metrics.SOCKETS.labels(kind).inc()
        if self.hurried:  # its opening began before
            accepted.send_away()
        elif len(self._open) > self.config.server.max_sockets:  # others that were opening with it were quicker
            accepted.end(4503, "overloaded", random.randint(*RETRY_MS))  # noqa: S311 - not a secret
        return accepted

    def hurry(self) -> None:
        """The process stops: who has not answered a close has no longer than `CLOSE_S`."""
        self.hurried = True
        for each in self:
            each.hurry()

    def send_away(self) -> None:
        """The process stops: all who are still here come back to another."""
        for each in self:
            each.send_away()

    def forget(self, closed: Socket, kind: str) -> None:
        """A socket has ended."""
        if closed in self._open:
            self._open.discard(closed)
            self._hearings.remove(closed, closed.hear_by)
            metrics.SOCKETS.labels(kind).dec()

    def flush_soon(self, socket: Socket) -> None:
        """Write what waits in the socket's slots at the end of this turn of the loop.

        Then the writes of a batch follow each other closely: a peer's host that is still busy with the one before need
        not be woken for the next. An acknowledgement takes a decision along in one write.
        """
        if not self._to_flush:
            asyncio.get_running_loop().call_soon(self._flush_all)
        self._to_flush.append(socket)

    def _flush_all(self) -> None:
        sockets, self._to_flush = self._to_flush, []
        self.unread.update(sockets)
        for each in sockets:
            each.flush()

    async def run(self) -> None:
        """Tick until cancelled."""
        while True:
            await asyncio.sleep(self._pause_s)
            self.look(self.clock.monotonic())

    def look(self, now: float) -> None:
        """Look after slow readers and silent peers, which are few: of the others nothing needs to be asked."""
        self.unread = {each for each in list(self.unread) if each.check_reader(now)}
        for each in self._hearings.due(now):
            each.check_peer(now)
            if each in self._open:
                self._hearings.put(each, each.hear_by)


class Socket:
    """One WebSocket. Iterate over `texts()`; send with `send`, `send_ack`, `send_decision`; `end` it with a code."""

    __slots__ = (
        "_ack", "_allowance", "_allowed_at", "_blocked_at", "_clock", "_config", "_decision", "_ending", "_free",
        "_kind", "_left", "_limit", "_offences", "_paid", "_patience", "_sockets", "_take", "_to_flush", "_transport",
        "_waiting", "hear_by", "heard_at", "parting", "paused", "principal", "response",
    )  # fmt: skip

    def __init__(
        self,
        response: ServedResponse,
        transport: asyncio.Transport,
        principal: Principal,
        sockets: Sockets,
        kind: str,
    ) -> None:
        now = sockets.clock.monotonic()
        self.response = response
        self.principal = principal
        # True while what was received is not read on: then a silent peer is no sign of a lost one.
        self.paused = False
        # Said before a `bye` for credentials.
        self.parting: bytes | None = None
        self._transport = transport
        self._sockets = sockets
        self._kind = kind
        self._clock = sockets.clock
        self._config = sockets.config.sessions
        self._limit: Limit = sockets.config.limits.telemetry
        self._free = self._config.replay_burst
        self._allowance: float = self._limit.at_once
        self._allowed_at = self.heard_at = now
        # When it is looked whether the peer is silent (monotonic seconds).
        self.hear_by = now + self._config.heartbeat_s
        self._blocked_at: float | None = None
        self._ack: bytes | None = None
        self._decision: bytes | None = None
        self._ending: asyncio.Task[None] | None = None
        self._patience: asyncio.Timeout | None = None
        self._left: asyncio.Future[None] | None = None
        self._take: Take | None = None
        self._to_flush = False
        self._offences = 0
        # Whether `texts` waits for a message, and whether the one that it waits for is within the rate already.
        self._waiting = self._paid = False

    @property
    def ending(self) -> bool:
        """Whether the socket is closed or about to be."""
        return self._ending is not None or self.response.closed

    async def texts(self, take: Take | None = None) -> AsyncIterator[str]:
        """The text frames, until the socket ends; what is not text, or too much, ends it.

        With `take` every text is offered to it as it arrives, while none waits here. It answers whether it has dealt
        with the text, then that does not come here; it neither waits nor raises, and changes nothing when it declines.
        Without, a text may be answered by much more: who has not read that is not read on.
        """
        self._take = take
        if take is not None:
            offer_texts(self.response, self._offer)
        try:
            while not self.response.closed:
                if take is None:
                    await self._read_up()
                self._waiting = True
                message = await self.response.receive()
                self._waiting = False
                self.heard_at = self._clock.monotonic()
                if self._ending is not None and message.type in _CONTENT:
                    continue  # we have said our last word; what is waited for is the peer's
                if message.type in _COUNTED and not self._within_rate():
                    return
                if message.type is WSMsgType.TEXT:
                    yield message.data
                elif message.type is WSMsgType.PING:
                    self._pong(message.data)
                elif message.type is WSMsgType.BINARY:
                    self.end(1003, "not_text")
                elif message.type is WSMsgType.ERROR and isinstance(message.data, WebSocketError):
                    code = message.data.code
                    self.end(code, _FAULTS.get(code, "protocol_error"))  # but for an aiohttp that has closed already
                    return
                elif message.type is not WSMsgType.PONG:  # closed by either side
                    self._answer_close(message)
                    return
        finally:
            self._waiting = False
            if self._left is not None and not self._left.done():
                self._left.set_result(None)
            offer_texts(self.response, None)
            self._sockets.forget(self, self._kind)

    async def _read_up(self) -> None:
        """Wait until the peer has read most of what it was sent; the ticker cuts one that never does."""
        transport = self._transport
        while transport.get_write_buffer_size() > OUTBOX and not (self.ending or transport.is_closing()):
            self.paused = True
            await asyncio.sleep(READ_UP_S)
            self.resume()

    def _offer(self, text: str) -> bool:
        """A text has arrived: whether it is dealt with. If not, `texts` finds it in the queue."""
        take = self._take
        if not self._waiting or self._ending is not None or take is None:
            return False
        self.heard_at = self._clock.monotonic()
        if not self._allow():
            self._allowance += 1  # `texts` finds the same, and ends the socket
            return False
        try:
            taken = take(text)
        except Exception:  # it would be lost inside of aiohttp; as a declined one it comes up in `texts`
            log.exception("offer_failed")
            taken = False
        self._paid = not taken
        return taken

    async def closed(self) -> None:
        """Wait until an `end` under way is through."""
        if self._ending is not None:
            await asyncio.wait([self._ending])

    def resume(self) -> None:
        """Reading goes on: the peer had no chance to be heard meanwhile."""
        self.paused = False
        self.heard_at = self._clock.monotonic()

    # Sending ---------------------------------------------------------------------------------------------------------

    def send(self, payload: bytes) -> None:
        """Send one text frame; a peer that does not read is cut by the ticker."""
        if not self.ending:
            self._write(0x81, payload)

    def offer(self, payload: bytes) -> bool:
        """Send one text frame, unless too much waits for a peer that does not read; whether it was sent."""
        if self.ending or self._transport.get_write_buffer_size() > OUTBOX:
            return False
        self._write(0x81, payload)
        return True

    def send_ack(self, payload: bytes) -> None:
        """Send, or replace an acknowledgement that still waits."""
        self._ack = payload
        if not self._to_flush:
            self._to_flush = True
            self._sockets.flush_soon(self)

    def send_decision(self, payload: bytes) -> None:
        """Send, or replace a decision that still waits."""
        self._decision = payload
        if not self._to_flush:
            self._to_flush = True
            self._sockets.flush_soon(self)

    def _pong(self, payload: bytes) -> None:
        """Answer a ping, unless its sender does not read: pongs, too, must not pile up."""
        if self._transport.get_write_buffer_size() <= OUTBOX:
            self._write(0x8A, payload)

    def end(self, code: int, reason: str, retry_ms: int | None = None) -> None:
        """Say `bye` where the code is announced, close with it, and cut the connection when the peer does not answer
        the close. The first call counts."""
        if self._ending is None and not self.response.closed:
            self.flush()
            if code == CREDENTIALS_OVER and self.parting is not None:
                self._write(0x81, self.parting)
            _CLOSED[code].inc()
            self._ending = asyncio.create_task(self._end(code, reason, retry_ms))

    def send_away(self) -> None:
        """End it for this process stops: the peer comes back to another, not in the same moment as all others."""
        self.end(1012, "restart", random.randint(*RETRY_MS))  # noqa: S311 - not a secret

    def answer_offence(self, told: bytes) -> None:
        """The peer sent a bad frame: answer with `told`, or end the socket when that was one too many."""
        self._offences += 1
        if self._offences < OFFENCES:
            self.send(told)
        else:
            self.end(4400, "bad_frames")

    def fail(self, **facts: object) -> None:
        """Where an error was caught that nobody foresaw: log it, with `facts`, and end the socket."""
        log.exception("socket_failed", **facts)
        self.end(1011, "internal_error")

    async def _end(self, code: int, reason: str, retry_ms: int | None) -> None:
        if code not in UNANNOUNCED:
            self._write(0x81, msgspec.json.encode(Goodbye(code, retry_ms)))
        patient = code in PATIENT and not self._sockets.hurried
        try:
            async with asyncio.timeout(PATIENT_CLOSE_S if patient else CLOSE_S) as self._patience:
                if self._waiting:
                    await self._close_while_read(code, reason)
                else:
                    await self.response.close(code=code, message=reason.encode())
        except (TimeoutError, ConnectionError):
            self._transport.abort()
        finally:
            self._patience = None
            self._sockets.forget(self, self._kind)

    def _answer_close(self, message: WSMessage) -> None:
        """Where the peer closes: with the code that it gave, if any, for 1000 says that a session has ended."""
        if message.type is WSMsgType.CLOSE and self._ending is None:
            self._write(0x88, message.data.to_bytes(2, "big") if message.data else b"")
            self._transport.close()

    def hurry(self) -> None:
        """Wait no longer than `CLOSE_S` for the answer to our close, if we wait for one."""
        if self._patience is not None and not self._patience.expired():
            self._patience.reschedule(asyncio.get_running_loop().time() + CLOSE_S)

    async def _close_while_read(self, code: int, reason: str) -> None:
        """Close, and leave it to `texts` to read on until the peer has closed too.

        aiohttp's own `close` hangs up at once when somebody waits for a message, and a peer whose connection is gone
        before it has read our close takes it for a broken one (1006): it would come back where it should not.
        """
        self._left = asyncio.get_running_loop().create_future()
        self._write(0x88, code.to_bytes(2, "big") + reason.encode())
        await self._left
        self._transport.close()

    def flush(self) -> None:
        """Write what waits in the slots, if the peer reads."""
        self._to_flush = False
        transport = self._transport
        if self.ending or transport.is_closing() or transport.get_write_buffer_size() > OUTBOX:
            return
        # The decision first: the acknowledgement renews its time to live.
        decision, ack, self._decision, self._ack = self._decision, self._ack, None, None
        if decision is None:
            if ack is not None:
                transport.write(_frame(0x81, ack))
        elif ack is None:
            transport.write(_frame(0x81, decision))
        else:
            transport.write(_frame(0x81, decision) + _frame(0x81, ack))

    def _write(self, head: int, payload: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(_frame(head, payload))
            self._sockets.unread.add(self)

    # Limits and time -------------------------------------------------------------------------------------------------

    def _within_rate(self) -> bool:
        """Whether the message that has come is within the rate; ends the socket when not."""
        if self._paid:
            self._paid = False
            return True
        if not self._allow():
            self.end(4529, "too_many_frames", round(1000 * self._limit.per_s))
            return False
        return True

    def _allow(self) -> bool:
        """Count one more message; whether it is within the rate."""
        if self._free > 0:
            self._free -= 1
            return True
        if self._limit.rate == 0:
            return True
        gained = (self.heard_at - self._allowed_at) * self._limit.rate / self._limit.per_s
        self._allowance = min(self._limit.at_once, self._allowance + gained) - 1
        self._allowed_at = self.heard_at
        return self._allowance >= 0

    def check_peer(self, now: float) -> None:
        """It is `hear_by`: a peer that was silent for `heartbeat_s` is pinged, later given up."""
        heartbeat_s = self._config.heartbeat_s
        if self._transport.is_closing():
            self._sockets.forget(self, self._kind)
        elif self.paused:
            self.hear_by = now + heartbeat_s
        elif now - self.heard_at < heartbeat_s:
            self.hear_by = self.heard_at + heartbeat_s
        elif now - self.heard_at < HALF_OPEN * heartbeat_s:
            self.hear_by = self.heard_at + HALF_OPEN * heartbeat_s
            if not self.ending:
                self._write(0x89, b"")
        else:
            self.hear_by = now + heartbeat_s
            self._transport.abort()

    def check_reader(self, now: float) -> bool:
        """Cut a peer that does not read; whether it has to be looked at again although nothing more is written."""
        if self._transport.is_closing():
            self._sockets.forget(self, self._kind)
            return False
        if self._transport.get_write_buffer_size() == 0:
            self._blocked_at = None
            if self._ack is None and self._decision is None:
                return False
            self.flush()
        elif self._blocked_at is None:
            self._blocked_at = now
        elif now - self._blocked_at > self._config.slow_reader_s:
            metrics.SLOW_READERS.inc()
            _CLOSED[4508].inc()
            with contextlib.suppress(OSError):
                self._transport.write(b"\x88\x02" + (4508).to_bytes(2, "big"))
            self._transport.abort()
        return True


# What the limit counts, and what a peer says before it has seen our close.
_COUNTED = frozenset({WSMsgType.TEXT, WSMsgType.PING, WSMsgType.PONG})
_CONTENT = _COUNTED | {WSMsgType.BINARY}


def _frame(head: int, payload: bytes) -> bytes:
    """One whole unmasked frame. aiohttp's own `send_*` are coroutines that wait for a slow peer."""
    size = len(payload)
    if size < 126:
        return _HEADS[head, size] + payload
    if size < 1 << 16:
        return bytes((head, 126)) + size.to_bytes(2, "big") + payload
    return bytes((head, 127)) + size.to_bytes(8, "big") + payload


# Of a text, a close, a ping and a pong, by size.
_HEADS = {(head, size): bytes((head, size)) for head in (0x81, 0x88, 0x89, 0x8A) for size in range(126)}

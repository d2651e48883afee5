"""How many frames a socket takes, and how long a peer may be silent, by a clock that the test moves."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeAlias
from uuid import uuid4

import pytest
from aiohttp import ClientWebSocketResponse, WSMsgType, web
from aiohttp.test_utils import TestClient, make_mocked_request

from server.clock import Clock
from server.http import inbox
from server.http.auth import Principal
from server.http.problems import MalformedRequest
from server.http.socket import OUTBOX, PROTOCOL, Socket, Sockets, check_opening
from tests.support.app import settings
from tests.support.core import eventually
from tests.support.local_server import LocalServer

TEXT, PING, PONG = WSMsgType.TEXT, WSMsgType.PING, WSMsgType.PONG


class Hand(Clock):
    """A clock that a test moves."""

    seconds = 1000.0

    def monotonic(self) -> float:
        return self.seconds


class Peer:
    """A client of a server that says every text again. What is sent here has passed, or the test fails."""

    def __init__(self, socket: ClientWebSocketResponse, clock: Hand, sockets: Sockets) -> None:
        self.socket = socket
        self.clock = clock
        self.sockets = sockets

    def pass_time(self, seconds: float) -> None:
        """The clock goes on, with the ticker."""
        until = self.clock.seconds + seconds
        while self.clock.seconds < until:
            self.clock.seconds = min(self.clock.seconds + 20 / 30, until)
            self.sockets.look(self.clock.seconds)

    async def send(self, count: int, kind: WSMsgType = TEXT) -> None:
        """So many frames. Pongs are not answered: whether they have passed, the next frame shows."""
        for _ in range(count):
            await self._say(kind)
        for _ in range(count if kind != PONG else 0):
            answer = await self.socket.receive(30)
            assert (answer.type, answer.data) in ((TEXT, "x"), (PONG, b"x")), answer

    async def is_refused(self, kind: WSMsgType = TEXT) -> None:
        """One more is too many."""
        await self._say(kind)
        assert await self.socket.receive_json(timeout=30) == {"type": "bye", "code": 4529, "retry_ms": 1000}
        assert (await self.socket.receive(30)).type is WSMsgType.CLOSE
        assert self.socket.close_code == 4529

    async def _say(self, kind: WSMsgType) -> None:
        if kind is TEXT:
            await self.socket.send_str("x")
        else:
            await (self.socket.ping if kind is PING else self.socket.pong)(b"x")


Opened: TypeAlias = Callable[..., Awaitable[Peer]]


@pytest.fixture(params=["as they arrive", "declined", "through the queue"])
async def opened(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Opened]:
    """Opens a socket with these limits instead of the product's own: `await opened(sessions={"replay_burst": 0})`."""
    monkeypatch.setattr(inbox, "FITS", request.param != "through the queue")
    clients: list[TestClient[web.Request, web.Application]] = []

    async def open_socket(**sections: dict[str, object]) -> Peer:
        clock = Hand()
        sockets = Sockets(settings("", "", **sections), clock)

        async def echo(opening: web.Request) -> web.StreamResponse:
            socket = await sockets.accept(opening, "session", Principal(uuid4(), "student", 1))

            def take(text: str) -> bool:
                if request.param == "declined":
                    return False
                socket.send(text.encode())
                return True

            async for text in socket.texts(take):
                socket.send(text.encode())
            await socket.closed()
            return socket.response

        app = web.Application()
        app.router.add_get("/", echo)
        clients.append(client := TestClient(LocalServer(app)))
        await client.start_server()
        return Peer(await client.ws_connect("/", protocols=(PROTOCOL,), autoping=False), clock, sockets)

    yield open_socket
    for client in clients:
        await client.close()


@pytest.mark.parametrize("kind", [TEXT, PING])
async def test_512_are_free_then_40_pass_at_once_and_10_a_second(opened: Opened, kind: WSMsgType) -> None:
    peer = await opened()
    await peer.send(512 + 40, kind)
    peer.clock.seconds += 1
    await peer.send(10, kind)
    peer.clock.seconds += 0.95
    await peer.send(9, kind)
    await peer.is_refused(kind)


async def test_the_one_after_a_burst_is_refused(opened: Opened) -> None:
    peer = await opened()
    await peer.send(512 + 40)
    await peer.is_refused()


async def test_the_free_ones_are_those_of_the_opening_and_time_does_not_bring_them_back(opened: Opened) -> None:
    peer = await opened()
    await peer.send(500)
    peer.clock.seconds += 3600
    await peer.send(12 + 40)
    peer.clock.seconds += 3600
    await peer.send(40)
    await peer.is_refused()


@pytest.mark.parametrize("kind", [PING, PONG])
@pytest.mark.parametrize("last", [TEXT, PING, PONG])
async def test_pings_and_pongs_count_as_texts_do(opened: Opened, kind: WSMsgType, last: WSMsgType) -> None:
    peer = await opened(sessions={"replay_burst": 2}, limits={"telemetry": {"rate": 2, "burst": 5}})
    await peer.send(6, kind)
    await peer.send(1)
    await peer.is_refused(last)


async def test_a_rate_of_zero_limits_nothing(opened: Opened) -> None:
    peer = await opened(sessions={"replay_burst": 0}, limits={"telemetry": {"rate": 0, "burst": 1}})
    await peer.send(100)
    await peer.send(100, PING)
    await peer.send(1)


async def test_who_is_silent_for_20_s_is_pinged_and_who_answers_is_kept(opened: Opened) -> None:
    peer = await opened()
    for _ in range(3):
        peer.pass_time(19.9)
        await peer.send(1)  # which nothing came before
        peer.pass_time(21.0)
        assert (await peer.socket.receive(30)).type is PING
        await peer.socket.pong()
        await peer.send(1)


async def test_who_does_not_answer_is_gone_within_175_hundredths_of_the_heartbeat(opened: Opened) -> None:
    peer = await opened()
    peer.pass_time(33.9)
    assert len(peer.sockets) == 1
    peer.pass_time(35.0 - 33.9)
    assert (await peer.socket.receive(30)).type is PING
    assert (await peer.socket.receive(30)).type is WSMsgType.CLOSED
    assert peer.socket.close_code == 1006
    assert len(peer.sockets) == 0


async def test_who_said_something_in_between_is_silent_from_then_on(opened: Opened) -> None:
    peer = await opened()
    peer.pass_time(30.0)
    assert (await peer.socket.receive(30)).type is PING
    await peer.send(1)
    peer.pass_time(19.9)
    await peer.send(1)
    peer.pass_time(33.9)
    assert (await peer.socket.receive(30)).type is PING
    await peer.send(1)


async def test_who_does_not_read_long_answers_is_not_read_on_and_gets_them_all_in_the_end() -> None:
    sockets, answer, most = Sockets(settings("", "", limits={"telemetry": {"rate": 0}}), Clock()), b"x" * 50_000, 60
    answered: list[Socket] = []

    async def tell(opening: web.Request) -> web.StreamResponse:
        socket = await sockets.accept(opening, "chat", Principal(uuid4(), "student", 1))
        async for _ in socket.texts():
            answered.append(socket)
            socket.send(answer)
        await socket.closed()
        return socket.response

    app = web.Application()
    app.router.add_get("/", tell)
    async with TestClient(LocalServer(app)) as client:
        peer = await client.ws_connect("/", protocols=(PROTOCOL,))
        connection = peer._response.connection
        assert connection is not None
        assert connection.transport is not None
        connection.transport.pause_reading()
        for _ in range(most):
            await peer.send_str("more")
        await eventually(lambda: len(answered) == most or (bool(answered) and answered[0].paused))
        assert answered[0]._transport.get_write_buffer_size() <= OUTBOX + 2 * len(answer)
        connection.transport.resume_reading()
        for _ in range(most):
            assert await peer.receive_str(timeout=30) == answer.decode()
        await peer.close()


def test_an_opening_whose_key_is_none_is_malformed() -> None:
    headers = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Protocol": PROTOCOL,
        "Sec-WebSocket-Version": "13",
    }
    for key in ("", "x", "é", "dGhlIHNhbXBsZQ=="):
        with pytest.raises(MalformedRequest):
            check_opening(make_mocked_request("GET", "/", headers=headers | {"Sec-WebSocket-Key": key}))

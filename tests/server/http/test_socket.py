"""How many frames a socket takes, by a clock that the test moves: which one is the first too many, and no other."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeAlias
from uuid import uuid4

import pytest
from aiohttp import ClientWebSocketResponse, WSMsgType, web
from aiohttp.test_utils import TestClient

from server.clock import Clock
from server.http import inbox
from server.http.auth import Principal
from server.http.socket import PROTOCOL, Sockets
from tests.support.app import settings
from tests.support.local_server import LocalServer

TEXT, PING, PONG = WSMsgType.TEXT, WSMsgType.PING, WSMsgType.PONG


class Hand(Clock):
    """A clock that a test moves."""

    seconds = 1000.0

    def monotonic(self) -> float:
        return self.seconds


class Peer:
    """A client of a server that says every text again. What is sent here has passed, or the test fails."""

    def __init__(self, socket: ClientWebSocketResponse, clock: Hand) -> None:
        self.socket = socket
        self.clock = clock

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
        return Peer(await client.ws_connect("/", protocols=(PROTOCOL,), autoping=False), clock)

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

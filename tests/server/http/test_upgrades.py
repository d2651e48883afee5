"""What a socket's request leaves behind: nothing, and that is seen by nobody."""

import gc
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from aiohttp import WSMsgType, web

from server.http.inbox import make_response
from server.http.protocol import Runner
from server.http.upgrades import Requests

TOKEN = "a-token-of-which-nothing-is-kept"


class Place:
    """A server with a socket that is served after its handler, and what happened in which order."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.response: web.WebSocketResponse | None = None
        self.url = ""

    @web.middleware
    async def around(self, request: web.Request, handler: Any) -> web.StreamResponse:
        try:
            return await handler(request)  # type: ignore[no-any-return]
        finally:
            self.seen.append(("handled", request.headers.get("X-Token")))

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.response = response = make_response(compress=False)
        await response.prepare(request)

        async def serve() -> None:
            self.seen.append(("served", request.headers.get("X-Token"), request.path))
            async for message in response:
                if message.type is WSMsgType.TEXT:
                    await response.send_str(message.data)

        response.serve_with(serve)
        return response

    async def tell(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"path": request.path_qs, "token": request.headers.get("X-Token")})


def of_product(app: web.Application) -> web.AppRunner:
    return Runner(app, access_log=None)


@pytest.fixture(params=[of_product, web.AppRunner], ids=["our connections", "aiohttp's"])
async def place(request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    made: Callable[[web.Application], web.AppRunner] = request.param
    place = Place()
    app = web.Application(middlewares=[place.around])
    app.router.add_get("/socket", place.handle)
    app.router.add_get("/told", place.tell)
    runner = made(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    place.url = f"http://{host}:{port}"
    yield place
    await runner.cleanup()


async def test_a_socket_is_served_when_all_that_called_its_handler_has_returned(place: Place) -> None:
    async with aiohttp.ClientSession() as client, client.ws_connect(f"{place.url}/socket") as socket:
        await socket.send_str("one")
        assert (await socket.receive()).data == "one"
        assert [name for name, *_ in place.seen] == ["handled", "served"]
        await socket.close()
        assert socket.close_code == 1000


async def test_what_was_sent_is_let_go_before_a_socket_is_served(place: Place, request: pytest.FixtureRequest) -> None:
    ours = "our connections" in request.node.name
    url = f"{place.url}/socket?q={TOKEN}"
    async with aiohttp.ClientSession() as client, client.ws_connect(url, headers={"X-Token": TOKEN}) as socket:
        await socket.send_str("one")
        await socket.receive()
        assert place.seen[0] == ("handled", TOKEN)
        assert place.seen[1] == (("served", None, "/") if ours else ("served", TOKEN, "/socket"))
        if ours:
            assert not any(TOKEN in str(each) for each in referred_to(place.response))


async def test_a_request_that_asks_to_upgrade_and_stays_one_is_answered_as_ever(place: Place) -> None:
    sent = {"X-Token": TOKEN, "Connection": "Upgrade", "Upgrade": "h2c"}
    async with aiohttp.ClientSession() as client:
        for number in range(3):
            async with client.get(f"{place.url}/told?n={number}", headers=sent) as answer:
                assert await answer.json() == {"path": f"/told?n={number}", "token": TOKEN}


def test_requests_come_out_as_they_went_in() -> None:
    waiting = Requests()
    for number in range(3):
        waiting.append((SimpleNamespace(upgrade=False, number=number), None))
    assert [waiting.popleft()[0].number for _ in range(3)] == [0, 1, 2]
    with pytest.raises(IndexError):
        waiting.popleft()


def referred_to(thing: Any) -> list[Any]:
    """The request of a response, its head, and all that these refer to directly."""
    request = thing._req
    parts = [request, request._message, request._headers, request._rel_url]
    return [*parts, *gc.get_referents(*parts)]

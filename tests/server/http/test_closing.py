"""How sockets end: who has to know why has time to read it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias
from uuid import uuid4

import pytest
from aiohttp import ClientWebSocketResponse, WSMsgType, web
from aiohttp.test_utils import TestClient

from server.clock import Clock
from server.http import inbox, socket
from server.http.auth import Principal
from server.http.socket import PROTOCOL, Socket, Sockets
from tests.support.app import settings
from tests.support.core import eventually
from tests.support.local_server import LocalServer


class Place:
    """A server with one socket route."""

    def __init__(self) -> None:
        self.sockets = Sockets(settings("", ""), Clock())
        self.opened: list[Socket] = []
        self.gone: dict[Socket, asyncio.Event] = {}

    async def listen(self, opening: web.Request) -> web.StreamResponse:
        accepted = await self.sockets.accept(opening, "session", Principal(uuid4(), "student", 1))
        self.opened.append(accepted)
        self.gone[accepted] = asyncio.Event()
        async for _ in accepted.texts():
            pass
        await accepted.closed()
        self.gone[accepted].set()
        return accepted.response


Open: TypeAlias = Callable[[], Awaitable[tuple[Socket, ClientWebSocketResponse]]]


@pytest.fixture
def place() -> Place:
    return Place()


@pytest.fixture
async def connect(place: Place) -> AsyncIterator[Open]:
    app = web.Application()
    app.router.add_get("/", place.listen)
    async with TestClient(LocalServer(app)) as client:

        async def connect() -> tuple[Socket, ClientWebSocketResponse]:
            player = await client.ws_connect("/", protocols=(PROTOCOL,))
            return place.opened[-1], player

        yield connect


async def last_word(player: ClientWebSocketResponse) -> tuple[Any, Any]:
    """The code that the close frame names, and the one that the connection ended with."""
    async with asyncio.timeout(30):
        while (message := await player.receive()).type is WSMsgType.TEXT:
            pass
    return message.data, player.close_code


@pytest.mark.parametrize("code", [1000, 4401, 4403, 4404, 4409])
async def test_who_is_not_to_come_back_may_read_why_when_others_are_long_gone(
    place: Place, connect: Open, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setattr(socket, "CLOSE_S", 0.01)
    monkeypatch.setattr(socket, "PATIENT_CLOSE_S", 60.0)
    (told, busy), (flooding, _) = await connect(), await connect()
    told.end(code, "a_reason")
    flooding.end(4529, "too_many_frames", 1000)
    await asyncio.wait_for(place.gone[flooding].wait(), 30)
    assert await last_word(busy) == (code, code)
    await asyncio.wait_for(place.gone[told].wait(), 30)


async def test_a_process_that_stops_waits_no_longer_for_anybody(
    place: Place, connect: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "CLOSE_S", 0.01)
    monkeypatch.setattr(socket, "PATIENT_CLOSE_S", 600.0)
    (before, _), (after, _) = await connect(), await connect()
    before.end(4401, "credentials")
    await asyncio.sleep(0)  # the close is on its way
    place.sockets.hurry()
    after.end(4401, "credentials")
    for each in (before, after):
        await asyncio.wait_for(place.gone[each].wait(), 30)
    assert len(place.sockets) == 0


@pytest.mark.parametrize("said", [b"", b"\x03\xe8", b"\x03\xe9", b"\x0f\xa0silence"])
async def test_who_closes_is_answered_with_its_own_code(place: Place, connect: Open, said: bytes) -> None:
    accepted, player = await connect()
    await player._writer.send_frame(said, WSMsgType.CLOSE)
    message = await player.receive(30)
    assert (message.type, message.data) == (WSMsgType.CLOSE, int.from_bytes(said[:2], "big"))
    await asyncio.wait_for(place.gone[accepted].wait(), 30)


@pytest.mark.parametrize(
    ("said", "code"),
    [((b"x", 3), 1002), ((b"\xff\xfe", WSMsgType.TEXT), 1007), ((b"x" * 20_000, WSMsgType.TEXT), 1009)],
)
async def test_who_breaks_the_protocol_may_read_so_before_we_hang_up(
    place: Place, connect: Open, monkeypatch: pytest.MonkeyPatch, said: tuple[bytes, Any], code: int
) -> None:
    assert inbox.FITS, "otherwise aiohttp hangs up together with its close"
    monkeypatch.setattr(socket, "CLOSE_S", 60.0)
    accepted, player = await connect()
    await player._writer.send_frame(*said)
    await eventually(lambda: accepted.ending)
    message = await player.receive(30)
    assert (message.type, message.data) == (WSMsgType.CLOSE, code)
    assert player.close_code == code
    await asyncio.wait_for(place.gone[accepted].wait(), 30)


async def test_who_stops_sends_everybody_elsewhere_and_not_all_at_once(place: Place, connect: Open) -> None:
    players = [(await connect())[1] for _ in range(5)]
    place.sockets.send_away()
    said = [await asyncio.wait_for(player.receive_json(), 30) for player in players]
    assert {(told["type"], told["code"]) for told in said} == {("bye", 1012)}
    assert len({told["retry_ms"] for told in said}) > 1
    assert [await last_word(player) for player in players] == [(1012, 1012)] * 5


async def test_whose_opening_began_before_the_process_stopped_is_sent_elsewhere_at_once(
    place: Place, connect: Open
) -> None:
    place.sockets.hurry()
    _, player = await connect()
    told = await asyncio.wait_for(player.receive_json(), 30)
    assert (told["type"], told["code"]) == ("bye", 1012)
    assert told["retry_ms"] > 0
    assert await last_word(player) == (1012, 1012)

"""Frames handed over as they arrive, and through aiohttp's queue: whatever a peer does, both must say the same."""

import asyncio
import os
import struct
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import WSMsgType, web
from aiohttp.test_utils import TestServer

from server.http import inbox
from server.http.inbox import make_response, offer_texts

MASK = b"\x01\x02\x03\x04"
LIMIT = 1000


def frame(opcode: int, payload: bytes, *, fin: bool = True, wide: bool = False) -> bytes:
    """A masked frame, as a client sends it; a `wide` one says its size in eight bytes, however small."""
    head = bytes([(0x80 if fin else 0) | opcode])
    size = len(payload)
    if wide:
        head += b"\xff" + struct.pack(">Q", size)
    else:
        head += bytes([0x80 | size]) if size < 126 else b"\xfe" + struct.pack(">H", size)
    return head + MASK + bytes(b ^ MASK[i % 4] for i, b in enumerate(payload))


class Place:
    """A server with one socket route, and what its handler saw: `taken` at once, `queued` through the queue."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.queued: list[Any] = []
        self.declines: set[str] = set()
        self.waiting = False
        self.busy = asyncio.Event()
        self.busy.set()
        self.done = asyncio.Event()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        response = make_response(compress=False, autoping=False, max_msg_size=LIMIT, timeout=0.1)
        await response.prepare(request)

        def offer(text: str) -> bool:
            if not self.waiting or text in self.declines:
                return False
            self.taken.append(text)
            return True

        offer_texts(response, offer)
        try:
            await self.listen(response)
        finally:
            self.done.set()
        return response

    async def listen(self, response: web.WebSocketResponse) -> None:
        while True:
            self.waiting = True
            message = await response.receive()
            self.waiting = False
            if message.type in (WSMsgType.TEXT, WSMsgType.PING, WSMsgType.BINARY):
                self.queued.append(message.data)
                await self.busy.wait()
            elif message.type is WSMsgType.ERROR:
                await response.close(code=message.data.code)
                return
            elif message.type is not WSMsgType.PONG:
                return

    @property
    def texts(self) -> list[str]:
        """All texts, however they came; only for tests in which none is declined."""
        return [*self.taken, *(data for data in self.queued if isinstance(data, str))]


class Peer:
    """A client that says what it is told to, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def say(self, data: bytes) -> None:
        self.writer.write(data)


@pytest.fixture(params=[True, False], ids=["as they arrive", "through the queue"])
def direct(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    assert inbox.FITS, "aiohttp has a version that was not tried yet: try it, then raise inbox.TRIED"
    monkeypatch.setattr(inbox, "FITS", request.param)
    return request.param


@pytest.fixture
def place() -> Place:
    return Place()


@pytest.fixture
async def peer(place: Place, direct: bool) -> AsyncIterator[Peer]:
    app = web.Application()
    app.router.add_get("/", place.handle)
    async with TestServer(app) as server:
        reader, writer = await asyncio.open_connection(server.host, server.port)
        writer.write(
            b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        await reader.readuntil(b"\r\n\r\n")
        yield Peer(reader, writer)
        place.busy.set()
        writer.transport.abort()


async def until(holds: Any) -> None:
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110  # nothing tells us
            await asyncio.sleep(0.002)


async def test_texts_are_handed_over_and_never_twice(place: Place, peer: Peer, direct: bool) -> None:
    await until(lambda: place.waiting)
    peer.say(frame(1, b"one") + frame(1, b"two") + frame(1, "drei\u00df".encode()))
    await until(lambda: len(place.texts) == 3)
    assert place.texts == ["one", "two", "drei\u00df"]
    assert place.taken == (place.texts if direct else [])


async def test_a_text_in_fragments_and_in_single_bytes_is_one_text(place: Place, peer: Peer) -> None:
    for byte in frame(1, b"fra", fin=False) + frame(9, b"ping") + frame(0, b"gm", fin=False) + frame(0, b"ent"):
        peer.say(bytes([byte]))
        await asyncio.sleep(0)
    await until(lambda: place.texts)
    assert place.texts == ["fragment"]
    assert b"ping" in place.queued


async def test_what_was_declined_comes_through_the_queue_and_all_after_it_behind_it(place: Place, peer: Peer) -> None:
    place.declines = {"slow"}
    place.busy.clear()
    await until(lambda: place.waiting)
    peer.say(frame(1, b"slow") + frame(1, b"next") + frame(1, b"last"))
    await until(lambda: "slow" in place.queued)
    await asyncio.sleep(0.02)
    assert place.taken == []
    place.busy.set()
    await until(lambda: len(place.texts) == 3)
    assert place.queued == ["slow", "next", "last"]


async def test_a_peer_that_says_more_than_is_read_is_not_read_on(place: Place, peer: Peer) -> None:
    place.declines = {"0"}
    place.busy.clear()
    text = b"x" * 900
    peer.say(frame(1, b"0"))
    await until(lambda: place.queued)
    for _ in range(20_000):  # 18 MB: far more than socket buffers and the queue hold
        peer.say(frame(1, text))
    await asyncio.sleep(0.1)
    assert peer.writer.transport.get_write_buffer_size() > 1_000_000
    place.busy.set()
    await until(lambda: len(place.queued) + len(place.taken) == 20_001)


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (frame(8, struct.pack(">H", 1000)), 1000),
        (frame(8, struct.pack(">H", 4000) + b"bye"), 4000),
        (frame(1, b"\xff\xfe"), 1007),
        (frame(1, b"x" * (LIMIT + 1)), 1009),
        (frame(0, b"no beginning"), 1002),
        (b"\xf1" + frame(1, b"reserved bits")[1:], 1002),
    ],
)
async def test_closes_and_errors_are_those_of_aiohttp(place: Place, peer: Peer, said: bytes, code: int) -> None:
    peer.say(frame(1, b"before") + said + frame(1, b"after"))
    await asyncio.wait_for(place.done.wait(), 30)
    assert place.texts == ["before"]
    answer = 1000 if code >= 4000 else code  # aiohttp answers a close with 1000
    assert struct.pack(">H", answer) in await peer.reader.read(1000)


@pytest.mark.parametrize("step", [1, 3, 133, 10_000])
@pytest.mark.parametrize("size", [0, 119, 126])
async def test_a_frame_that_is_not_masked_is_found_wherever_it_begins(
    place: Place, peer: Peer, direct: bool, size: int, step: int
) -> None:
    """However the frames before it come in pieces; they are heard. (Through the queue nobody looks for it.)"""
    text = b"x" * size
    said = frame(1, text) + frame(9, b"") + frame(1, text, wide=True) + frame(1, b"all")
    said += b"\x81\x02{}" if direct else frame(8, b"\x03\xe8")
    for start in range(0, len(said), step):
        peer.say(said[start : start + step])
        await peer.writer.drain()
    assert (await peer.reader.read())[-4:] == b"\x88\x02" + struct.pack(">H", 1002 if direct else 1000)
    assert sorted(place.texts) == sorted([text.decode(), text.decode(), "all"])


async def test_a_cut_connection_ends_the_handler(place: Place, peer: Peer) -> None:
    peer.say(frame(1, os.urandom(20).hex().encode()))
    await until(lambda: place.texts)
    peer.writer.transport.abort()
    await asyncio.wait_for(place.done.wait(), 30)

"""A network between a browser and a server, as a trace tells it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

from loadtests.networks import Network

CHUNK_BYTES = 4096


class Link:
    """A proxy that lets a browser have a network: all that comes down shares its rate, first come first served.

    Not Chromium's own throttling: whenever its rate is changed it hands out at once what it held back.
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        self._begun: float | None = None  # before, everything is fast
        self._free_s = 0.0
        self._serving: set[asyncio.Task[None]] = set()

    def begin(self) -> None:
        """From now on the network is as it is."""
        self._begun = asyncio.get_running_loop().time()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[int]:
        """Listens on a port of the loopback, which it yields, and leaves nothing open."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
            for task in self._serving:
                task.cancel()
            await asyncio.gather(*self._serving, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._connected(reader, writer)
        finally:
            writer.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            method, target, rest = head.split(b" ", 2)
            address = urlsplit(target.decode() if method != b"CONNECT" else f"//{target.decode()}")
            there, onward = await asyncio.open_connection(address.hostname, address.port or 80)
            if method == b"CONNECT":
                writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
                await self._latency()
            else:
                path = address.path + (f"?{address.query}" if address.query else "")
                onward.write(b" ".join((method, path.encode(), rest)).replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
            up = asyncio.create_task(_pass_on(reader, onward))
            try:
                await (self._down if method != b"CONNECT" else self._tunnel)(there, writer)
            finally:
                up.cancel()
                onward.close()

    async def _down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """An answer: the round trip of its request and the rest as the rate allows."""
        first = True
        while chunk := await reader.read(CHUNK_BYTES):
            if first:
                await self._latency()
            first = False
            await self._deliver(len(chunk) * 8 / 1000)
            writer.write(chunk)
            await writer.drain()

    async def _tunnel(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A socket: what is told is answered a round trip later, and waits its turn among all that comes down."""
        loop = asyncio.get_running_loop()
        while chunk := await reader.read(CHUNK_BYTES):
            await self._deliver(len(chunk) * 8 / 1000)
            # Not awaited: what follows is under way meanwhile.
            loop.call_later(self._round_trip_s, _write, writer, chunk)

    @property
    def _round_trip_s(self) -> float:
        return self._network.rtt_s if self._begun is not None else 0

    async def _latency(self) -> None:
        await asyncio.sleep(self._round_trip_s)

    async def _deliver(self, kbit: float) -> None:
        """Wait until so much has come down, behind all that others asked for before."""
        if self._begun is None:
            return
        now_s = asyncio.get_running_loop().time() - self._begun
        self._free_s = self._network.finish_s(max(now_s, self._free_s), kbit)
        await asyncio.sleep(self._free_s - now_s)


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(CHUNK_BYTES):
        writer.write(chunk)
        await writer.drain()


def _write(writer: asyncio.StreamWriter, chunk: bytes) -> None:
    if not writer.is_closing():
        writer.write(chunk)

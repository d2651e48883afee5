"""A test's server leaves no connection to the tests that come after it."""

import asyncio
import socket

from aiohttp import web

from tests.support.local_server import LocalServer

MORE_THAN_IS_BUFFERED = 30_000_000


def test_a_peer_that_has_not_taken_all_of_an_answer_is_cut() -> None:
    async def serve(peer: socket.socket) -> None:
        app = web.Application()
        begun = asyncio.Event()

        async def answer(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            asyncio.get_running_loop().call_soon(begun.set)
            await response.write(bytes(MORE_THAN_IS_BUFFERED))
            return response

        app.router.add_get("/", answer)
        async with LocalServer(app, shutdown_timeout=0.1) as server:
            peer.connect((server.host, server.port))
            peer.send(b"GET / HTTP/1.1\r\nHost: lectern\r\n\r\n")
            await begun.wait()

    with socket.socket() as peer:
        asyncio.run(serve(peer))
        peer.settimeout(60)
        taken = 0
        try:
            while part := peer.recv(1 << 16):
                taken += len(part)
        except ConnectionResetError:
            pass
    assert taken < MORE_THAN_IS_BUFFERED


async def test_a_peer_that_is_just_being_accepted_is_not_left_behind() -> None:
    server = LocalServer(web.Application(), shutdown_timeout=0.1)
    await server.start_server()
    with socket.create_connection((server.host, server.port)) as peer:
        for _ in range(2):
            await asyncio.sleep(0)  # it is accepted, and not yet a connection
        await server.close()
        peer.settimeout(60)
        assert peer.recv(1) == b""

"""The least that a WebSocket server on aiohttp can do: send back what comes. `python -m loadtests.bench.echo PORT`."""

import gc
import sys

import uvloop
from aiohttp import WSMsgType, web


async def echo(request: web.Request) -> web.WebSocketResponse:
    """Everything the peer says, back to it."""
    socket = web.WebSocketResponse(compress=False)
    await socket.prepare(request)
    async for message in socket:
        if message.type is WSMsgType.TEXT:
            await socket.send_str(message.data)
    return socket


def main() -> None:
    """Serve until killed, with the collector set as ours is."""
    gc.set_threshold(10_000, 250, 1000)
    app = web.Application()
    app.router.add_get("/", echo)
    uvloop.install()
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None, access_log=None)


if __name__ == "__main__":
    main()

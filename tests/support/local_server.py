"""aiohttp's server for tests, which closes soon and leaves nothing behind."""

import asyncio
from typing import Any

from aiohttp.test_utils import TestServer
from aiohttp.web import AppRunner


class LocalServer(TestServer):
    """Lets handlers go on when their peer has hung up, as the product's server does; aiohttp's for tests cancels them.

    At its end it gives them `shutdown_timeout` seconds; aiohttp's gives a minute, whatever its constructor is told.

    Then a peer is cut that has not taken all of an answer, as a page that was closed in the middle of a segment: its
    connection would outlive the test's loop, to be found by whatever test collects it.
    """

    __test__ = False

    def __init__(self, *arguments: Any, shutdown_timeout: float = 1.0, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._shutdown_timeout = shutdown_timeout

    async def start_server(self, loop: asyncio.AbstractEventLoop | None = None, **options: Any) -> None:
        """Listen."""
        await super().start_server(loop, shutdown_timeout=self._shutdown_timeout, **options)

    async def _make_runner(self, **options: Any) -> AppRunner:
        return AppRunner(self.app, **{**options, "handler_cancellation": False})

    async def close(self) -> None:
        """Close, then cut what does not end by itself."""
        await self._stop_accepting()
        connections = self.runner.server.connections if self.runner is not None and self.runner.server else []
        transports = [connection.transport for connection in connections if connection.transport is not None]
        await super().close()
        for transport in transports:
            transport.abort()
        await asyncio.sleep(0)  # what ends is told in the loop's next turn

    async def _stop_accepting(self) -> None:
        """Python 3.11 loses a connection, open, that it has accepted and not yet attached when its server is closed."""
        loop = asyncio.get_running_loop()
        for site in self.runner.sites if self.runner is not None else ():
            for listening in site._server.sockets:
                loop.remove_reader(listening.fileno())
        for _ in range(4):
            await asyncio.sleep(0)  # accepted, attached, made, reading

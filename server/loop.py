"""The event loop: uvloop's, but for how it finds and reaches who has a name.

Of several addresses behind a name, or of the hosts in a DSN, one may be dead without a word, as after a failover.
uvloop waits two minutes for it, which is longer than anybody here waits, so that the next one is never come to.
"""

import asyncio
import os
from collections.abc import Callable
from socket import SOCK_STREAM
from typing import Any

import aiohappyeyeballs
import uvloop

# Names are looked up in libuv's threads, usually four: as many names of a service that nobody answers for would keep
# Postgres and Redis from being found, for ten seconds and more each.
LOOKUPS = 64
# The next address is tried so much later, beside the one before (RFC 8305).
NEXT_ADDRESS_S = 0.25
# Long enough for a request that was lost to be sent again, and short enough for a second host within `timeout_s`.
CONNECT_S = 1.2


class Loop(uvloop.Loop):
    """Connects to the first of a name's addresses that answers, or fails in time."""

    def __init__(self) -> None:
        os.environ.setdefault("UV_THREADPOOL_SIZE", str(LOOKUPS))  # read when the first thread is needed
        super().__init__()

    async def create_connection(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        host: str | None = None,
        port: int | None = None,
        *,
        family: int = 0,
        proto: int = 0,
        flags: int = 0,
        server_hostname: str | None = None,
        **options: Any,
    ) -> Any:
        """As any loop's: a transport and its protocol. Raises OSError, of which TimeoutError is one."""
        if host is not None:
            found = await self.getaddrinfo(host, port, family=family, type=SOCK_STREAM, proto=proto, flags=flags)
            async with asyncio.timeout(CONNECT_S):
                options["sock"] = await aiohappyeyeballs.start_connection(
                    found, happy_eyeballs_delay=NEXT_ADDRESS_S, loop=self
                )
            if options.get("ssl") and server_hostname is None:
                server_hostname = host
        return await super().create_connection(protocol_factory, server_hostname=server_hostname, **options)

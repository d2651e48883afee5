"""What stands before the embedded S3 store: `python -m embedded.s3_front HOST PORT UPSTREAM_PORT`.

rclone answers a request for a range with the range and status 200, where HTTP and every other store say 206: players
and clients that resume take that for the whole object. Everything else passes through as it is.
"""

import asyncio
import sys
from contextlib import AsyncExitStack
from typing import Any

from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector, hdrs, web
from yarl import URL

_CHUNK = 1 << 18
_OWN = frozenset({hdrs.CONNECTION, hdrs.KEEP_ALIVE, hdrs.TRANSFER_ENCODING, hdrs.UPGRADE, hdrs.EXPECT})
# Signatures cover what the client sent, and nothing must be added to it.
_ADDED = (hdrs.ACCEPT, hdrs.ACCEPT_ENCODING, hdrs.USER_AGENT, hdrs.CONTENT_TYPE)


def front(upstream_port: int) -> web.Application:
    """The application before the store on this port."""
    app = web.Application()
    upstream = web.AppKey("upstream", ClientSession)

    async def connect(app: web.Application):  # type: ignore[no-untyped-def]
        options: Any = {"timeout": ClientTimeout(total=None), "auto_decompress": False, "skip_auto_headers": _ADDED}
        async with ClientSession(connector=TCPConnector(limit=0), **options) as session:  # slow readers keep theirs
            app[upstream] = session
            yield

    async def pass_on(request: web.Request) -> web.StreamResponse:
        url = URL(f"http://127.0.0.1:{upstream_port}{request.raw_path}", encoded=True)
        headers = [(name, value) for name, value in request.headers.items() if name.title() not in _OWN]
        body = request.content.iter_chunked(_CHUNK) if request.body_exists else None
        async with AsyncExitStack() as stack:
            try:
                asked = request.app[upstream].request(
                    request.method, url, headers=headers, data=body, allow_redirects=False, max_line_size=65_536
                )
                answer = await stack.enter_async_context(asked)
            except (ClientError, OSError):
                raise web.HTTPBadGateway from None
            status = 206 if answer.status == 200 and hdrs.CONTENT_RANGE in answer.headers else answer.status
            response = web.StreamResponse(status=status)
            for name, value in answer.headers.items():
                if name.title() not in _OWN:
                    response.headers.add(name, value)
            try:
                await response.prepare(request)
                async for chunk in answer.content.iter_chunked(_CHUNK):
                    await response.write(chunk)
                await response.write_eof()
            except (ClientError, OSError):
                # Its head is out: that it breaks off is all that can still be told.
                if request.transport is not None:
                    request.transport.abort()
            return response

    app.cleanup_ctx.append(connect)
    app.router.add_route("*", "/{path:.*}", pass_on)
    return app


async def main(host: str, port: int, upstream_port: int) -> None:
    """Serve until the process ends."""
    runner = web.AppRunner(front(upstream_port), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))

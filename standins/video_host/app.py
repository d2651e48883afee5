"""Puts the host together: routes, browsers' rules about origins, and the two workers in the background."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import aiohttp
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from standins.video_host import api, playback, tus
from standins.video_host.encoder import ENCODER, Encoder
from standins.video_host.signing import PlaybackTokens
from standins.video_host.store import SETTINGS, STORE, Settings, Store
from standins.video_host.webhooks import DELIVERIES, Deliveries

UPLOAD_HEADERS = "Tus-Resumable, Upload-Offset, Upload-Length, Upload-Metadata"
REQUEST_HEADERS = f"{UPLOAD_HEADERS}, Range, Content-Type, CMCD-Request, CMCD-Object, CMCD-Status, CMCD-Session"
ANSWER_HEADERS = (
    f"{UPLOAD_HEADERS}, Location, Upload-Expires, stream-media-id, "
    "Accept-Ranges, Content-Length, Content-Range, Date, ETag"
)


def create_app(settings: Settings) -> web.Application:
    """The whole host as one application; its data folder belongs to it alone while it runs."""
    app = web.Application(middlewares=[answer_preflights, api.speak_cloudflare])
    app[SETTINGS] = settings
    app[STORE] = Store(settings)
    app[playback.TOKENS] = PlaybackTokens(settings.playback_key_pem, settings.key_id)
    app[api.UPLOADS] = set()
    app[tus.SENDING] = set()
    app.add_routes(tus.routes)
    app.add_routes(api.routes)
    app.add_routes(playback.routes)
    app.router.add_get("/livez", _live)
    app.on_response_prepare.append(_allow_origins)
    app.cleanup_ctx.append(_workers)
    return app


async def _live(_request: web.Request) -> web.Response:
    return web.Response(text="ok\n")


async def _workers(app: web.Application) -> AsyncIterator[None]:
    settings, store = app[SETTINGS], app[STORE]
    async with aiohttp.ClientSession() as http:
        app[DELIVERIES] = deliveries = Deliveries(store, settings, http)
        app[ENCODER] = encoder = Encoder(store, settings, on_end=deliveries.wake)
        workers = [asyncio.create_task(encoder.run(), name="encoder")]
        if settings.webhook_url is not None:
            workers.append(asyncio.create_task(deliveries.run(), name="webhooks"))
        yield
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


def _is_for_browsers(request: web.Request) -> bool:
    return not request.path.startswith("/client/")


@web.middleware
async def answer_preflights(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Browsers ask first, for players' CMCD headers too; the answer needs no token, for they send none."""
    is_preflight = request.method == hdrs.METH_OPTIONS and "Access-Control-Request-Method" in request.headers
    if not is_preflight or not _is_for_browsers(request):
        return await handler(request)
    return web.Response(
        status=204,
        headers={
            hdrs.ACCESS_CONTROL_ALLOW_METHODS: "GET, HEAD, POST, PATCH, OPTIONS",
            hdrs.ACCESS_CONTROL_ALLOW_HEADERS: REQUEST_HEADERS,
            hdrs.ACCESS_CONTROL_MAX_AGE: "86400",
        },
    )


async def _allow_origins(request: web.Request, response: web.StreamResponse) -> None:
    if not _is_for_browsers(request):
        return
    origin = playback.allow_origin(request)
    if origin != "*":
        response.headers[hdrs.VARY] = "Origin"
    if origin is not None:
        response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = origin
        response.headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = ANSWER_HEADERS
        # Without it browsers hide from players how long a segment really took.
        response.headers["Timing-Allow-Origin"] = origin

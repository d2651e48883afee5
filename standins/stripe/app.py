"""Puts the service together: the API, the control surface, the pages, and what happens in the background."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import aiohttp
from aiohttp import web

from standins.stripe import api, control, pages
from standins.stripe.due import run_due
from standins.stripe.store import SETTINGS, STORE, Settings, Store
from standins.stripe.webhooks import DELIVERIES, Deliveries

TICK_S = 0.5


def create_app(settings: Settings) -> web.Application:
    """The whole service as one application; its data folder belongs to it alone while it runs."""
    app = web.Application()
    app[SETTINGS] = settings
    app[STORE] = Store(settings)
    api.add_routes(app)
    app.add_routes(control.routes)
    app.add_routes(pages.routes)
    app.router.add_get("/livez", _live)
    app.cleanup_ctx.append(_workers)
    return app


async def _live(_request: web.Request) -> web.Response:
    return web.Response(text="ok\n")


async def _workers(app: web.Application) -> AsyncIterator[None]:
    async with aiohttp.ClientSession() as http:
        app[DELIVERIES] = deliveries = Deliveries(app[STORE], app[SETTINGS], http)
        workers = [
            asyncio.create_task(deliveries.run(), name="webhooks"),
            asyncio.create_task(_tick(app), name="due"),
        ]
        yield
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    app[STORE].close()


async def _tick(app: web.Application) -> None:
    while True:
        if run_due(app[STORE], app[SETTINGS]):
            app[DELIVERIES].wake()
        await asyncio.sleep(TICK_S)

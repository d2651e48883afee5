"""What of Stripe's subscriptions and invoices cannot be read."""

from collections.abc import AsyncIterator

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer

from server.clock import Clock
from server.config import Breaker, Stripe
from server.services.billing import Billing
from server.services.outside import ServiceRefused
from server.services.payments import Gateway


@pytest.fixture
async def billing() -> AsyncIterator[Billing]:
    """At a Stripe whose lists say nothing of what they hold."""

    async def answer(_request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "has_more": False, "data": [{"object": "thing", "metadata": 1}]})

    app = web.Application()
    app.router.add_get("/v1/{what}", answer)
    async with TestServer(app) as server, ClientSession() as http:
        settings = Stripe(api_base=str(server.make_url("")).rstrip("/"), secret_key="sk_test_x", timeout_s=20)
        yield Billing(Gateway(http, settings, Clock(), Breaker()))


async def test_lists_that_cannot_be_read_are_told_as_stripes_fault(billing: Billing) -> None:
    with pytest.raises(ServiceRefused, match=r"cannot be read: data\.0\.id"):
        await billing.list_paid("sub_1")
    with pytest.raises(ServiceRefused, match=r"cannot be read: data\.0\.id"):
        await billing.find("cus_1", "subscription_id", "1")

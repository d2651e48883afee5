"""One service per test, in the test's own loop, spoken to by Stripe's own library."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import stripe
from aiohttp import web
from aiohttp.test_utils import TestClient, unused_port

from standins.stripe.app import create_app
from standins.stripe.store import Settings
from tests.support.local_server import LocalServer

SECRET_KEY, WEBHOOK_SECRET = "sk_test_key", "whsec_secret"
BEARER = {"Authorization": f"Bearer {SECRET_KEY}"}


class Service:
    """A running service: `api` is the library's client, `control` its control surface."""

    def __init__(self, client: TestClient[Any, Any], settings: Settings, api: stripe.StripeClient) -> None:
        self.client, self.settings, self.api = client, settings, api.v1

    async def control(self, method: str, path: str, /, **body: Any) -> Any:
        """The JSON that `/_control` answers."""
        async with self.client.request(method, f"/_control/{path}", headers=BEARER, json=body) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.json()

    async def customer(self, method: str = "pm_card_visa") -> tuple[str, str]:
        """(id, id of the payment method) of a new customer who keeps this card."""
        customer = await self.api.customers.create_async({"email": "ada@example.org"})
        attached = await self.api.payment_methods.attach_async(method, {"customer": customer.id})
        return customer.id, attached.id

    async def pay(self, method: str = "pm_card_visa", amount: int = 4900, **more: Any) -> stripe.PaymentIntent:
        """A payment that is confirmed at once."""
        options = more.pop("options", {})
        params: dict[str, Any] = {
            "amount": amount,
            "currency": "usd",
            "payment_method": method,
            "confirm": True,
            "automatic_payment_methods": {"enabled": True, "allow_redirects": "never"},
        }
        return await self.api.payment_intents.create_async({**params, **more}, options)

    async def events(self) -> list[str]:
        """The types of all events, the oldest first."""
        return [event["type"] for event in await self.control("GET", "events")]

    async def ledger(self) -> dict[str, int]:
        """What is left by currency."""
        totals: dict[str, int] = (await self.control("GET", "ledger"))["totals"]
        return totals


class Receiver:
    """A webhook address that answers with the given statuses in turn, and then with the last."""

    def __init__(self, server: LocalServer) -> None:
        self.server = server
        self.answers = [200]
        self.calls: asyncio.Queue[stripe.Event] = asyncio.Queue()

    async def take(self, count: int) -> list[stripe.Event]:
        """The next events, whose signatures were good."""
        async with asyncio.timeout(30):
            return [await self.calls.get() for _ in range(count)]


@pytest.fixture
async def receiver(aiohttp_server: Any) -> Receiver:
    async def receive(request: web.Request) -> web.Response:
        header = request.headers["Stripe-Signature"]
        event = stripe.Webhook.construct_event(await request.read(), header, WEBHOOK_SECRET)
        receiver.calls.put_nowait(event)
        status = receiver.answers.pop(0) if len(receiver.answers) > 1 else receiver.answers[0]
        return web.Response(status=status)

    app = web.Application()
    app.router.add_post("/webhooks", receive)
    receiver = Receiver(await aiohttp_server(app))
    return receiver


@pytest.fixture
async def start(aiohttp_client: Any, tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[Service]]]:
    """Start a service with some settings changed; closing its client stops it as its process would stop."""
    https: list[stripe.AIOHTTPClient] = []

    async def start(**changes: Any) -> Service:
        url = f"http://127.0.0.1:{unused_port()}"
        settings = replace(
            Settings(tmp_path / "stripe", SECRET_KEY, url, webhook_secret=WEBHOOK_SECRET, webhook_backoff_s=0.02),
            **changes,
        )
        client = await aiohttp_client(LocalServer(create_app(settings), port=int(url.rpartition(":")[2])))
        https.append(stripe.AIOHTTPClient())
        api = stripe.StripeClient(SECRET_KEY, base_addresses={"api": url}, http_client=https[-1], max_network_retries=0)
        return Service(client, settings, api)

    yield start
    for http in https:
        await http.close_async()


@pytest.fixture
async def service(start: Callable[..., Awaitable[Service]]) -> Service:
    return await start()

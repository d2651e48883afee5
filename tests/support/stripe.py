"""The stand-in Stripe for tests: in this process, or as one of its own that is killed and started again.

async with payment_service(tmp_path) as stripe:
    config = settings(dsn, redis_url, stripe=stripe.settings)
    async with serving(config) as client:
        await stripe.tell(f"http://{client.host}:{client.port}/api/payments/webhooks/stripe")
        await stripe.control("POST", "answers", do="lose", path="/v1/payment_intents")
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp.test_utils import unused_port

from standins.stripe.app import create_app
from standins.stripe.store import Settings
from standins.stripe.webhooks import sign
from tests.support.local_server import LocalServer
from tests.support.standin_process import StandinProcess

SECRET_KEY, WEBHOOK_SECRET = "sk_test_lectern", "whsec_lectern"
TOLD_WITHIN_S = 30.0


class PaymentService:
    """What both have in common: `settings` is the section `stripe` that points there."""

    directory: Path
    origin: str

    @property
    def settings(self) -> dict[str, Any]:
        """Section `stripe` of a configuration."""
        return {
            "api_base": self.origin,
            "secret_key": SECRET_KEY,
            "publishable_key": "pk_test_lectern",
            "script_url": f"{self.origin}/endive/stripe.js",
            "webhook_secret": WEBHOOK_SECRET,
        }

    async def control(self, method: str, path: str, /, **body: Any) -> Any:
        """The JSON that `/_control` answers; see `standins/stripe/control.py`."""
        headers = {"Authorization": f"Bearer {SECRET_KEY}"}
        async with (
            aiohttp.ClientSession() as http,
            http.request(method, f"{self.origin}/_control/{path}", headers=headers, json=body) as answer,
        ):
            assert answer.status == 200, await answer.text()
            return await answer.json()

    async def events(self, *types: str) -> list[dict[str, Any]]:
        """All events, or those of some types, the oldest first, each with `delivery`."""
        return [e for e in await self.control("GET", "events") if not types or e["type"] in types]

    async def deliver(self, *events: dict[str, Any]) -> list[int | None]:
        """Tell these events now, in this order; the statuses answered."""
        answers = await self.control("POST", "webhooks/deliver", events=[event["id"] for event in events])
        return [answer["status"] for answer in answers]

    async def all_told(self) -> None:
        """Wait until no event is on its way."""
        async with asyncio.timeout(TOLD_WITHIN_S):
            while any((e["delivery"] or {}).get("state") == "pending" for e in await self.events()):  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    async def ledger(self) -> list[dict[str, Any]]:
        """Every line of the balance, the oldest first."""
        lines: list[dict[str, Any]] = (await self.control("GET", "ledger"))["lines"]
        return lines

    async def approve(self, intent: str, *, approved: bool = True) -> None:
        """What the card's holder answers the bank."""
        await self.control("POST", f"payment_intents/{intent}/authenticate", approved=approved)

    async def advance(self, seconds: float) -> None:
        """Move its clock on."""
        await self.control("POST", "clock", advance_s=seconds)


class LocalService(PaymentService):
    """In this process. `tell` restarts it, as its settings never change while it runs."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.origin = f"http://127.0.0.1:{unused_port()}"
        self._settings = Settings(
            directory, SECRET_KEY, self.origin, webhook_secret=WEBHOOK_SECRET, webhook_backoff_s=0.05
        )
        self._server: LocalServer | None = None

    async def start(self) -> None:
        """Answer from now on."""
        self._server = LocalServer(create_app(self._settings), port=int(self.origin.rpartition(":")[2]))
        await self._server.start_server()

    async def stop(self) -> None:
        """Answer no more; nothing is forgotten."""
        if self._server is not None:
            await self._server.close()
            self._server = None

    async def tell(self, webhook_url: str) -> None:
        """Where its events go from now on."""
        self._settings = replace(self._settings, webhook_url=webhook_url)
        await self.stop()
        await self.start()


@asynccontextmanager
async def payment_service(directory: Path) -> AsyncIterator[LocalService]:
    """One that runs in this process, without a webhook address until `tell`."""
    service = LocalService(directory / "stripe")
    await service.start()
    try:
        yield service
    finally:
        await service.stop()


class ServiceProcess(StandinProcess, PaymentService):
    """A process of its own; `webhook_url` may be set before a start."""

    def __init__(self, directory: Path) -> None:
        super().__init__("stripe")
        self.directory = directory
        self.webhook_url: str | None = None

    @property
    def options(self) -> list[str]:
        """Its command line."""
        options = ["--data", str(self.directory), "--secret-key", SECRET_KEY, "--webhook-backoff", "0.1"]
        if self.webhook_url is not None:
            options += ["--webhook-url", self.webhook_url, "--webhook-secret", WEBHOOK_SECRET]
        return options


@asynccontextmanager
async def payment_process(directory: Path) -> AsyncIterator[ServiceProcess]:
    """A process that is not started yet, and is gone afterwards."""
    service = ServiceProcess(directory / "stripe")
    try:
        yield service
    finally:
        service.kill()


def sign_webhook(body: bytes, *, at: float, secret: str = WEBHOOK_SECRET) -> dict[str, str]:
    """The headers of a webhook, signed at a moment (Unix seconds)."""
    return {"Stripe-Signature": sign(secret, int(at), body), "Content-Type": "application/json; charset=utf-8"}

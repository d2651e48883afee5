"""Telling the webhook address: signed, several at a time and so in any order, again and again until it answers 2xx."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import logging

import aiohttp
from aiohttp import web

from standins.stripe.store import Settings, Store
from standins.stripe.wire import Json

log = logging.getLogger(__name__)

ANSWER_TIMEOUT_S = 10
LONGEST_PAUSE_S = 60
AT_ONCE = 8


def sign(secret: str, time_s: int, body: bytes) -> str:
    """The `Stripe-Signature` header: HMAC-SHA256 over `<time>.<body>`."""
    digest = hmac.new(secret.encode(), f"{time_s}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={time_s},v1={digest}"


class Deliveries:
    """Delivers what the store says is on its way, the soonest due first."""

    def __init__(self, store: Store, settings: Settings, http: aiohttp.ClientSession) -> None:
        self._store = store
        self._settings = settings
        self._http = http
        self._wake = asyncio.Event()
        self._sending: dict[str, asyncio.Task[None]] = {}

    def wake(self) -> None:
        """There may be something to tell."""
        self._wake.set()

    async def run(self) -> None:
        """Work until cancelled."""
        try:
            while True:
                self._wake.clear()
                pause_s = self._send_due()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause_s):
                        await self._wake.wait()
        finally:
            for task in self._sending.values():
                task.cancel()

    def _send_due(self) -> float | None:
        """Begin what is due; how long until the next is, or None when something else will wake us."""
        for delivery in self._store.deliveries("pending"):
            pause_s: float = delivery["due"] - self._settings.wall()
            if pause_s > 0:
                return pause_s
            if len(self._sending) >= AT_ONCE:
                return None
            if delivery["event"] not in self._sending:
                task = asyncio.create_task(self._send(delivery), name=f"webhook {delivery['event']}")
                self._sending[delivery["event"]] = task
        return None

    async def _send(self, delivery: Json) -> None:
        try:
            status = await self.post(delivery["event"])
            self._note(delivery, told=status is not None and 200 <= status < 300)
        finally:
            del self._sending[delivery["event"]]
            self._wake.set()

    def _note(self, delivery: Json, *, told: bool) -> None:
        tries = delivery["tries"] + 1
        copies = delivery["copies"] - told
        if told and copies > 0:
            state, due = "pending", self._settings.wall()
        elif told:
            state, due = "delivered", delivery["due"]
        elif tries >= self._settings.webhook_tries:
            log.warning("gave up telling event %s after %d tries", delivery["event"], tries)
            state, due = "failed", delivery["due"]
        else:
            pause_s = min(LONGEST_PAUSE_S, self._settings.webhook_backoff_s * 2 ** min(tries - 1, 10))
            state, due = "pending", self._settings.wall() + pause_s
        with self._store.transaction():
            self._keep(delivery["event"], state, due, tries, copies)

    def _keep(self, event_id: str, state: str, due: float, tries: int, copies: int) -> None:
        self._store.set_delivery(event_id, state, due, tries, copies)
        event = self._store.get(event_id)
        if state == "delivered" and event is not None:
            self._store.put({**event, "pending_webhooks": 0})

    async def deliver(self, event_id: str) -> int | None:
        """Tell one now, whatever its state; the status that was answered, or None for no answer."""
        status = await self.post(event_id)
        if status is not None and 200 <= status < 300:
            with self._store.transaction():
                self._keep(event_id, "delivered", self._settings.wall(), 1, 0)
        return status

    async def post(self, event_id: str) -> int | None:
        """Send an event, signed at this moment."""
        event = self._store.get(event_id)
        if event is None or self._settings.webhook_url is None:
            return None
        body = json.dumps(event, indent=2).encode()
        headers = {
            "Content-Type": "application/json; charset=utf-8",
            "User-Agent": "Stripe/1.0 (+https://stripe.com/docs/webhooks)",
            # By the machine's clock: whoever checks it knows no other.
            "Stripe-Signature": sign(self._settings.webhook_secret, int(self._settings.wall()), body),
        }
        timeout = aiohttp.ClientTimeout(total=ANSWER_TIMEOUT_S)
        try:
            async with self._http.post(
                self._settings.webhook_url, data=body, headers=headers, timeout=timeout, allow_redirects=False
            ) as answer:
                return answer.status
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            log.info("event %s not delivered: %s", event_id, str(error) or type(error).__name__)
            return None


DELIVERIES = web.AppKey("deliveries", Deliveries)

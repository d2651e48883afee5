"""Many purchases, or subscriptions, at once, by two processes, while answers are lost and one of the processes is
killed: one charge."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest

from tests.support.people import PASSWORD
from tests.support.server_process import ServerProcess
from tests.support.shop import WEBHOOK, Shop, booked
from tests.support.stripe import LocalService, payment_service

pytestmark = pytest.mark.timeout(180)
SETTLED_WITHIN_S = 120.0
PRICE = 4900
PLANS = '[{"plan_name": "all", "monthly": "9.00", "yearly": "90.00", "currency": "usd", "courses": "all"}]'


class Buyer:
    """Somebody at several pages at once, each of which asks until it is told how it ended."""

    def __init__(self, http: aiohttp.ClientSession, bases: list[str]) -> None:
        self._http = http
        self._bases: Iterator[str] = itertools.cycle(bases)
        self.token = ""

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """Of the next process."""
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        url = next(self._bases) + path
        async with self._http.request(method, url, json=body, headers=headers) as answer:
            return answer.status, await answer.json(content_type=None)

    async def insist(self, key: str, path: str, wish: Any) -> tuple[int, Any]:
        """The answer that says how it ended."""
        while True:
            try:
                status, body = await self.ask("POST", path, wish, **{"Idempotency-Key": key})
            except (aiohttp.ClientError, TimeoutError):
                status, body = 0, {"retryable": True}
            if status in (201, 202, 402) or not body.get("retryable"):
                return status, body
            await asyncio.sleep(0.2)


@dataclass
class Market:
    """Two processes, one of which is told by Stripe, and somebody with a card who speaks to both."""

    mortal: ServerProcess
    stripe: LocalService
    sql: asyncpg.Connection[asyncpg.Record]
    buyer: Buyer

    def ask_at_once(self, path: str, wish: Any, keys: list[str]) -> list[asyncio.Task[tuple[int, Any]]]:
        """Each at the next process, from the mortal one on."""
        return [asyncio.create_task(self.buyer.insist(key, path, wish)) for key in keys]


@pytest.fixture
async def market(postgres_dsn: str, redis_url: str, tmp_path: Path) -> AsyncIterator[Market]:
    """Audited when it closes."""
    async with payment_service(tmp_path) as stripe:
        settings = {f"LECTERN_STRIPE__{name.upper()}": str(value) for name, value in stripe.settings.items()}
        settings |= {
            "LECTERN_PLANS": PLANS,
            # A key is in use for as long as what asked under it might take.
            "LECTERN_STRIPE__TIMEOUT_S": "2",
            "LECTERN_SERVER__HANDLER_TIMEOUT_S": "2.8",
            "LECTERN_JOBS__POLL_S": "0.2",
            "LECTERN_JOBS__RECONCILE_S": "0.5",
            "LECTERN_BREAKER__OPEN_S": "0.5",
        }
        async with (
            ServerProcess(postgres_dsn, redis_url, settings) as mortal,
            ServerProcess(postgres_dsn, redis_url, settings) as other,
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as http,
        ):
            await stripe.tell(other.base_url + WEBHOOK)
            sql = await asyncpg.connect(postgres_dsn)
            buyer = Buyer(http, [mortal.base_url, other.base_url])
            account = {"username": "ada", "email": "ada@example.com", "password": PASSWORD}
            buyer.token = (await buyer.ask("POST", "/api/auth/register", account))[1]["access_token"]
            assert (await buyer.insist("card", "/api/payments/methods", {"token": "pm_card_visa"}))[0] == 201
            yield Market(mortal, stripe, sql, buyer)
            await Shop(None, None, stripe, sql, None).audit()  # type: ignore[arg-type]
            await sql.close()


async def test_fifty_purchases_over_two_processes_with_lost_answers_and_a_kill_make_one_charge(market: Market) -> None:
    stripe, sql = market.stripe, market.sql
    # The first three charges go through and nobody hears of it; the fourth takes long.
    intents = "/v1/payment_intents"
    await stripe.control("POST", "answers", do="lose", path=intents, times=3)
    await stripe.control("POST", "answers", do="slow", path=intents, times=2, delay_s=1.5)
    keys = ["same"] * 25 + [f"other-{number}" for number in range(25)]
    asking = market.ask_at_once(f"/api/payments/purchase/course/{await for_sale(sql)}", {}, keys)
    await charged(stripe)
    await market.mortal.kill9()
    await asyncio.sleep(1)
    await market.mortal.start()
    async with asyncio.timeout(SETTLED_WITHIN_S):
        answers = await asyncio.gather(*asking)

    assert {status for status, _ in answers} <= {201, 409}
    assert {body["code"] for status, body in answers if status == 409} <= {"already_enrolled", "purchase_canceled"}
    bought = {body["transaction"]["id"] for status, body in answers if status == 201}
    assert len(bought) <= 1
    await stripe.all_told()
    (charge,) = booked(await stripe.ledger()).values()
    assert charge == (PRICE, 0, 0)
    paid = await sql.fetch("SELECT id FROM transactions WHERE is_paid(status)")
    assert [str(row["id"]) for row in paid] == list(booked(await stripe.ledger()))
    assert await sql.fetchval("SELECT count(*) FROM enrollments WHERE is_active") == 1


async def test_a_kill_between_stripes_beginning_of_a_subscription_and_ours_makes_one_charge(market: Market) -> None:
    stripe, sql = market.stripe, market.sql
    # Stripe begins it at once and says so too late for the process that asked.
    await stripe.control("POST", "answers", do="slow", path="/v1/subscriptions", delay_s=1.5)
    path, wish = "/api/payments/subscribe", {"plan_name": "all", "billing_period": "monthly"}
    asking = market.ask_at_once(path, wish, ["same"])
    await charged(stripe)
    await market.mortal.kill9()
    asking += market.ask_at_once(path, wish, ["same"] * 9 + [f"other-{number}" for number in range(5)])
    await market.mortal.start()
    async with asyncio.timeout(SETTLED_WITHIN_S):
        answers = await asyncio.gather(*asking)

    assert {status for status, _ in answers[:10]} == {201}
    assert {body["code"] for _, body in answers[10:]} == {"already_subscribed"}
    await stripe.all_told()
    rows = await sql.fetch("SELECT id, status FROM subscriptions")
    assert [(str(row["id"]), row["status"]) for row in rows] == [(answers[0][1]["id"], "active")]
    assert {body["id"] for _, body in answers[:10]} == {answers[0][1]["id"]}
    (charge,) = booked(await stripe.ledger()).values()
    assert charge == (900, 0, 0)


async def charged(stripe: LocalService) -> None:
    """Wait until Stripe has booked something."""
    async with asyncio.timeout(60):
        while not await stripe.ledger():  # noqa: ASYNC110  # nothing tells us
            await asyncio.sleep(0.01)


async def for_sale(sql: asyncpg.Connection[asyncpg.Record]) -> str:
    """A course."""
    return str(
        await sql.fetchval(
            """
            WITH u AS (INSERT INTO users (username, email, password_hash) VALUES ('t', 't@x.io', '') RETURNING id)
            INSERT INTO courses (creator_id, title, status, price, currency)
            SELECT id, 'Queues', 'published', 49, 'usd' FROM u RETURNING id
            """
        )
    )

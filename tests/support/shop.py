"""A course that costs money, people with cards, and Stripe, whose books are compared with ours at the end.

from tests.support.shop import overrides, shop, stripe

async def test_it(shop):
    ada = await shop.customer("ada")
    answer = await shop.buy(ada)
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias
from uuid import uuid4

import aiohttp
import asyncpg
import pytest

from server.domain.money import to_minor
from tests.support.app import AppClient
from tests.support.people import Answer, People, Person
from tests.support.stripe import LocalService, PaymentService, payment_service

Sql: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
SETTLES_WITHIN_S = 30.0
WEBHOOK = "/api/payments/webhooks/stripe"

ENROLLED_WITHOUT_PAYING = """
    SELECT e.user_id, e.course_id, e.transaction_id FROM enrollments AS e
    WHERE e.is_active AND e.source = 'purchase' AND NOT EXISTS (
        SELECT FROM transactions AS t
        WHERE t.id = e.transaction_id AND t.user_id = e.user_id AND t.course_id = e.course_id AND is_paid(t.status))
"""
PAID_WITHOUT_BEING_ENROLLED = """
    SELECT t.user_id, t.course_id, t.id FROM transactions AS t
    WHERE is_paid(t.status) AND t.course_id IS NOT NULL AND NOT EXISTS (
        SELECT FROM enrollments AS e
        WHERE e.user_id = t.user_id AND e.course_id = t.course_id AND e.is_active
          AND (e.expires_at IS NULL OR e.expires_at > now()))
"""


@dataclass
class Shop:
    """What tests of payments have."""

    people: People
    teacher: Person
    stripe: PaymentService
    sql: Sql
    course: Any
    # Who left a course that they had paid for is rightly not enrolled.
    left: set[str] = field(default_factory=set)

    async def make_course(self, price: str = "49.00", **more: Any) -> Any:
        """Another course that costs something."""
        return await self.teacher.make("/api/courses", {"title": "B", "status": "published", "price": price} | more)

    async def customer(self, name: str, card: str = "visa") -> Person:
        """A student with a card."""
        person = await self.people.join(name)
        await self.add_card(person, card)
        return person

    async def add_card(self, person: Person, card: str, **more: Any) -> Any:
        """One of Stripe's test cards."""
        return await person.make("/api/payments/methods", {"token": f"pm_card_{card}"} | more)

    async def buy(
        self, person: Person, course: Any = None, key: str | None = None, base_url: str = "", **body: Any
    ) -> Answer:
        """Ask for the course."""
        course = course or self.course
        path = f"{base_url}/api/payments/purchase/course/{course['id']}"
        return await person.post(path, body, headers={"Idempotency-Key": key or uuid4().hex})

    async def is_enrolled(self, person: Person, course: Any = None) -> bool:
        """Whether the course counts this person among its learners."""
        return bool(
            await self.sql.fetchval(
                "SELECT is_active FROM shown_enrollments WHERE user_id = $1 AND course_id = $2",
                person.id,
                (course or self.course)["id"],
            )
        )

    async def transaction(self, person: Person) -> Any:
        """The newest of this person's."""
        return (await person.get("/api/payments/transactions?limit=1")).body["items"][0]

    async def becomes(self, person: Person, status: str) -> Any:
        """The newest transaction when it has this status, by what happens by itself."""
        return await self.once(lambda: self.transaction(person), lambda row: row["status"] == status)

    async def once(self, look: Callable[[], Awaitable[Any]], holds: Callable[[Any], bool]) -> Any:
        """What is seen when it is so."""
        seen = None
        try:
            async with asyncio.timeout(SETTLES_WITHIN_S):
                while not holds(seen := await look()):  # noqa: ASYNC110  # nothing tells us
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(f"it stays {seen}") from None
        return seen

    async def audit(self) -> None:
        """Our books are Stripe's to the cent, and paid means enrolled."""
        theirs = booked(await self.stripe.ledger())
        ours = await self.our_books()
        assert ours == theirs
        assert await self.sql.fetch(ENROLLED_WITHOUT_PAYING) == []
        paid = await self.sql.fetch(PAID_WITHOUT_BEING_ENROLLED)
        assert [row for row in paid if str(row["user_id"]) not in self.left] == []

    async def our_books(self) -> dict[str, tuple[int, int, int]]:
        """By transaction, a subscription's by its payment intent: charged, given back, and taken away by disputes, in
        minor units."""
        rows = await self.sql.fetch(
            "SELECT t.*, (SELECT coalesce(sum(d.amount), 0) FROM disputes AS d"
            "  WHERE d.transaction_id = t.id AND d.status IN ('open', 'lost')) AS disputed_amount"
            " FROM transactions AS t WHERE t.succeeded_at IS NOT NULL"
        )
        return {
            str(row["id"] if row["course_id"] else row["transaction_reference"]): tuple(  # type: ignore[misc]
                to_minor(row[name], row["currency"]) for name in ("amount", "refunded_amount", "disputed_amount")
            )
            for row in rows
        }


def booked(ledger: list[dict[str, Any]]) -> dict[str, tuple[int, int, int]]:
    """The same by the lines of Stripe's balance, fees left out."""
    books: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    column = {"charge": 0, "payment": 0, "refund": 1, "refund_failure": 1, "adjustment": 2}
    for line in ledger:
        if line["type"] in column:
            at = column[line["type"]]
            name = line["metadata"].get("transaction_id", line["payment_intent"])
            books[name][at] += line["amount"] if at == 0 else -line["amount"]
    return {name: tuple(sums) for name, sums in books.items()}  # type: ignore[misc]


async def at_stripe(stripe: PaymentService, method: str, path: str, **form: str) -> Any:
    """What somebody does at Stripe's own desk."""
    headers = {"Authorization": f"Bearer {stripe.settings['secret_key']}"}
    async with (
        aiohttp.ClientSession() as http,
        http.request(method, stripe.origin + path, data=form or None, headers=headers) as answer,
    ):
        assert answer.status == 200, await answer.text()
        return await answer.json()


@asynccontextmanager
async def opened(people: People, stripe: PaymentService, sql: Sql) -> AsyncIterator[Shop]:
    """A shop, audited when it closes."""
    teacher = await people.join("teacher", "instructor")
    course = await teacher.make(
        "/api/courses", {"title": "Queues", "status": "published", "price": "49.00", "currency": "usd"}
    )
    shop = Shop(people, teacher, stripe, sql, course)
    yield shop
    await stripe.all_told()
    await shop.audit()


@pytest.fixture
async def stripe(tmp_path: Path) -> AsyncIterator[LocalService]:
    """Stripe."""
    async with payment_service(tmp_path) as stripe:
        yield stripe


@pytest.fixture
def overrides(stripe: LocalService) -> dict[str, dict[str, Any]]:
    """The application's account is there."""
    return {
        "stripe": stripe.settings,
        "jobs": {"poll_s": 0.05, "reconcile_s": 0.2},
        "breaker": {"open_s": 0.2},
    }


@pytest.fixture
async def shop(client: AppClient, people: People, stripe: LocalService, sql: Sql) -> AsyncIterator[Shop]:
    """A course that costs 49.00 usd."""
    await stripe.tell(str(client.make_url(WEBHOOK)))
    async with opened(people, stripe, sql) as shop:
        yield shop

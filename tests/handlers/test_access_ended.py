"""Whoever's right to watch ends with their money is shown out at once, whichever process has their socket.

Nobody looks at all sockets here while a test runs: what ends a socket is that somebody was told.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, TypeAlias
from uuid import UUID, uuid4

import aiohttp
import pytest

from tests.support.app import AppClient, serving, settings
from tests.support.lectures import make_lecture
from tests.support.people import People, Person
from tests.support.shop import WEBHOOK, Shop, Sql, stripe
from tests.support.stripe import LocalService

__all__ = ["stripe"]

Watching: TypeAlias = "aiohttp.ClientWebSocketResponse[bool]"
PATIENCE_S = 20
NEVER_S = 3600.0
PLANS = [
    {"plan_name": "all", "monthly": "9.00", "yearly": "90.00", "currency": "usd", "courses": "all"},
    {"plan_name": "few", "monthly": "5.00", "yearly": "50.00", "currency": "usd", "courses": []},
]


@dataclass
class Cinema:
    """Two processes' worth of application on the same parts, and a course that costs money: people pay at the one and
    watch at the other."""

    shop: Shop
    elsewhere: AppClient
    video_id: UUID

    async def watch(self, person: Person) -> Watching:
        """A video session's socket that was greeted."""
        return await self.open(await person.make(f"/api/videos/{self.video_id}/sessions", {}))

    async def open(self, session: Any) -> Watching:
        """A socket of the session that was greeted."""
        protocols = ("lectern.v1", f"bearer.{session['token']}")
        socket = await self.elsewhere.ws_connect(f"/api/videos/ws/{session['session_id']}", protocols=protocols)
        async with asyncio.timeout(PATIENCE_S):
            assert (await socket.receive_json())["type"] == "hello"
        return socket

    async def buyer(self, name: str) -> tuple[Watching, Any]:
        """Somebody who watches what they bought, and their transaction."""
        person = await self.shop.customer(name)
        assert (await self.shop.buy(person)).status == 201
        return await self.watch(person), await self.shop.transaction(person)


@pytest.fixture
async def cinema(postgres_dsn: str, redis_url: str, sql: Sql, stripe: LocalService) -> AsyncIterator[Cinema]:
    lecture = await make_lecture(postgres_dsn)
    await sql.execute("UPDATE courses SET price = 49, currency = 'usd'")
    config = settings(
        postgres_dsn,
        redis_url,
        stripe=stripe.settings,
        plans=PLANS,
        sessions={"entitled_s": NEVER_S},
        limits={name: {"rate": 0} for name in ("auth", "read", "write", "login_address")},
    )
    async with AsyncExitStack() as stack:
        here, elsewhere = [await stack.enter_async_context(serving(config)) for _ in range(2)]
        await stripe.tell(str(here.make_url(WEBHOOK)))
        people = People(here, sql)
        yield Cinema(
            Shop(people, people.stranger, stripe, sql, {"id": str(lecture.course_id)}), elsewhere, lecture.video_id
        )


async def ended_with(socket: Watching) -> int | None:
    """The code by which it is closed."""
    async with asyncio.timeout(PATIENCE_S):
        async for _ in socket:
            pass
    return socket.close_code


async def test_whose_money_went_back_watches_no_longer(cinema: Cinema) -> None:
    admin, stripe = await cinema.shop.people.join("root", "admin"), cinema.shop.stripe
    refunded, all_of_it = await cinema.buyer("ada")
    disputed, taken_back = await cinema.buyer("ben")
    cheaper, a_part = await cinema.buyer("cleo")

    await stripe.control("POST", "webhooks", mode="hold")
    for transaction, body in ((a_part, {"amount": "10.00"}), (all_of_it, {})):
        answer = await admin.post(f"/api/payments/transactions/{transaction['id']}/refund", body)
        assert answer.status == 200
    assert await ended_with(refunded) == 4403
    await stripe.control("POST", "webhooks", mode="send")
    await stripe.control("POST", "webhooks/deliver")
    await stripe.control("POST", "disputes", payment_intent=taken_back["transaction_reference"])
    assert await ended_with(disputed) == 4403

    await cheaper.send_json({"type": "bye"})
    assert await ended_with(cheaper) == 1000
    await stripe.all_told()
    await cinema.shop.audit()


async def test_who_leaves_a_course_watches_no_longer_and_does_not_come_back(cinema: Cinema) -> None:
    ada = await cinema.shop.customer("ada")
    assert (await cinema.shop.buy(ada)).status == 201
    session = await ada.make(f"/api/videos/{cinema.video_id}/sessions", {})
    socket = await cinema.open(session)
    assert (await ada.delete(f"/api/enrollments/courses/{cinema.shop.course['id']}")).status == 204
    assert await ended_with(socket) == 4403
    assert await ended_with(await cinema.open(session)) == 4403


async def test_whose_subscription_ended_watches_no_longer(cinema: Cinema) -> None:
    ada = await cinema.shop.customer("ada")
    wish = {"plan_name": "all", "billing_period": "monthly"}
    row = await ada.make("/api/payments/subscribe", wish, headers={"Idempotency-Key": uuid4().hex})
    socket = await cinema.watch(ada)
    path = f"/api/payments/subscriptions/{row['id']}"
    assert (await ada.delete(path)).body["cancel_at_period_end"]
    assert not socket.closed
    assert (await ada.delete(f"{path}?now=true")).body["status"] == "canceled"
    assert await ended_with(socket) == 4403


async def test_whose_subscription_is_changed_to_one_without_the_course_watches_no_longer(cinema: Cinema) -> None:
    ada = await cinema.shop.customer("ada")
    wish = {"plan_name": "all", "billing_period": "monthly"}
    row = await ada.make("/api/payments/subscribe", wish, headers={"Idempotency-Key": uuid4().hex})
    socket = await cinema.watch(ada)
    changed = await ada.put(f"/api/payments/subscriptions/{row['id']}", {"plan_name": "few"})
    assert changed.body["plan_name"] == "few"
    assert await ended_with(socket) == 4403

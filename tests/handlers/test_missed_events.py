"""Events of Stripe that never came: what somebody did at Stripe's own desk is learned of all the same."""

from typing import Any
from uuid import uuid4

import pytest

from server.http.keys import CHARGING, DATABASE, PAYMENT_EVENTS
from server.http.missed_events import TYPES, MissedEvents
from tests.support.app import AppClient
from tests.support.people import Person
from tests.support.shop import Shop, Sql, at_stripe, shop, stripe
from tests.support.stripe import LocalService

__all__ = ["shop", "stripe"]

EVENTS = "/v1/events"


@pytest.fixture
def overrides(stripe: LocalService) -> dict[str, Any]:
    """Nobody asks unless a test says so."""
    plan = {"plan_name": "all", "monthly": "9.00", "yearly": "90.00", "currency": "usd", "courses": "all"}
    return {
        "stripe": stripe.settings,
        "jobs": {"poll_s": 3600, "reconcile_s": 3600},
        "breaker": {"failures": 2, "open_s": 3600},
        "plans": [plan],
    }


@pytest.fixture
def missed(client: AppClient) -> MissedEvents:
    """What the application does every now and then, here whenever a test says so."""
    assert client.app is not None
    return MissedEvents(client.app[DATABASE], client.app[CHARGING].gateway, client.app[PAYMENT_EVENTS], 0.0)


async def bought(shop: Shop, name: str = "ada") -> tuple[Person, str]:
    """Somebody who has paid, all of which was told, and the payment intent; of what comes now nobody tells us."""
    person = await shop.customer(name)
    row = (await shop.buy(person)).body["transaction"]
    await shop.stripe.all_told()
    await shop.stripe.control("POST", "webhooks", mode="drop")
    return person, row["transaction_reference"]


async def refund(shop: Shop, intent: str, amount: int) -> None:
    """By somebody at Stripe's own desk."""
    await at_stripe(shop.stripe, "POST", "/v1/refunds", payment_intent=intent, amount=str(amount))


def test_all_that_is_asked_for_is_understood_and_stripe_takes_so_many_types(client: AppClient) -> None:
    assert client.app is not None
    assert set(TYPES) <= set(client.app[PAYMENT_EVENTS].kinds)
    assert len(TYPES) <= 20


async def test_money_that_was_given_back_at_stripe_is_learned_of(shop: Shop, missed: MissedEvents) -> None:
    ada, intent = await bought(shop)
    await refund(shop, intent, 1900)
    await missed.look()
    row = await shop.transaction(ada)
    assert (row["status"], row["refunded_amount"], await shop.is_enrolled(ada)) == ("partially_refunded", "19.00", True)
    await refund(shop, intent, 3000)
    await missed.look()
    assert ((await shop.transaction(ada))["status"], await shop.is_enrolled(ada)) == ("refunded", False)


async def test_a_dispute_is_learned_of_and_how_it_ended(shop: Shop, missed: MissedEvents) -> None:
    ada, intent = await bought(shop)
    dispute = await shop.stripe.control("POST", "disputes", payment_intent=intent)
    await missed.look()
    assert ((await shop.transaction(ada))["status"], await shop.is_enrolled(ada)) == ("disputed", False)
    await shop.stripe.control("POST", f"disputes/{dispute['id']}/close", won=True)
    await missed.look()
    assert ((await shop.transaction(ada))["status"], await shop.is_enrolled(ada)) == ("succeeded", True)


async def test_a_subscription_that_was_ended_at_stripe_has_ended(shop: Shop, sql: Sql, missed: MissedEvents) -> None:
    ada = await shop.customer("ada")
    wish = {"plan_name": "all", "billing_period": "monthly"}
    begun = await ada.post("/api/payments/subscribe", wish, headers={"Idempotency-Key": uuid4().hex})
    await shop.stripe.all_told()
    await shop.stripe.control("POST", "webhooks", mode="drop")
    stripe_id = await sql.fetchval("SELECT stripe_id FROM subscriptions")
    await at_stripe(shop.stripe, "DELETE", f"/v1/subscriptions/{stripe_id}")
    await missed.look()
    assert (await ada.get(f"/api/payments/subscriptions/{begun.body['id']}")).body["status"] == "canceled"


async def test_what_happened_before_anybody_was_to_pay_is_not_asked_for(
    shop: Shop, sql: Sql, missed: MissedEvents
) -> None:
    await missed.look()
    assert await sql.fetchval("SELECT since FROM event_walk") is None
    ada, intent = await bought(shop)
    await refund(shop, intent, 1900)
    await sql.execute("UPDATE customers SET created_at = now() + interval '1 day'")
    await missed.look()
    assert (await shop.transaction(ada))["refunded_amount"] == "0.00"
    await sql.execute("UPDATE event_walk SET since = 0")
    await missed.look()
    assert (await shop.transaction(ada))["refunded_amount"] == "19.00"


async def test_what_was_told_is_not_handled_again_and_a_walk_goes_on_where_the_last_began(
    shop: Shop, sql: Sql, missed: MissedEvents, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada, intent = await bought(shop)
    await refund(shop, intent, 1900)
    await missed.look()
    events = await shop.stripe.events(*TYPES)
    assert await sql.fetchval("SELECT since FROM event_walk") == events[-1]["created"]
    asked: list[int] = []
    gateway = missed._gateway
    listed = gateway.list_events

    async def noting(types: Any, *, since: int, after: str | None) -> Any:
        asked.append(since)
        return await listed(types, since=since, after=after)

    monkeypatch.setattr(gateway, "list_events", noting)
    before = await sql.fetch("SELECT id, updated_at FROM webhook_events ORDER BY id")
    await missed.look()
    assert await sql.fetch("SELECT id, updated_at FROM webhook_events ORDER BY id") == before
    assert events[-1]["created"] - 600 <= asked[0] < events[-1]["created"]
    assert (await shop.transaction(ada))["refunded_amount"] == "19.00"


async def test_many_are_taken_page_by_page_and_another_process_goes_on_after_a_crash(
    shop: Shop, sql: Sql, missed: MissedEvents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.services.payments._PAGE", 3)
    monkeypatch.setattr("server.http.missed_events._PAGES_A_ROUND", 2)
    ada, intent = await bought(shop)
    for _ in range(5):
        await refund(shop, intent, 100)
    await missed.look()
    assert await sql.fetchval("SELECT after IS NOT NULL FROM event_walk")
    assert (await shop.transaction(ada))["refunded_amount"] not in ("0.00", "5.00")
    # It died with a page taken and not kept: what is taken twice is taken once.
    await sql.execute("DELETE FROM jobs")
    for _ in range(5):
        await missed.look()
    assert (await shop.transaction(ada))["refunded_amount"] == "5.00"
    assert await sql.fetchval("SELECT after FROM event_walk") is None


async def test_a_page_whose_last_event_stripe_has_forgotten_is_looked_for_from_the_newest(
    shop: Shop, sql: Sql, missed: MissedEvents
) -> None:
    ada, intent = await bought(shop)
    await refund(shop, intent, 1900)
    await sql.execute("UPDATE event_walk SET since = 0, reached = 1, after = 'evt_forgotten'")
    await missed.look()
    await missed.look()
    assert (await shop.transaction(ada))["refunded_amount"] == "19.00"


async def test_one_that_cannot_be_taken_now_holds_no_other_up_and_is_taken_later(
    shop: Shop, sql: Sql, missed: MissedEvents
) -> None:
    ada = await shop.customer("ada")
    wish = {"plan_name": "all", "billing_period": "monthly"}
    await ada.post("/api/payments/subscribe", wish, headers={"Idempotency-Key": uuid4().hex})
    ben, intent = await bought(shop, "ben")
    stripe_id = await sql.fetchval("SELECT stripe_id FROM subscriptions")
    await at_stripe(shop.stripe, "DELETE", f"/v1/subscriptions/{stripe_id}")
    await shop.stripe.advance(3600)
    await refund(shop, intent, 1900)
    path = f"/v1/subscriptions/{stripe_id}"
    await shop.stripe.control("POST", "answers", do="fail", status=409, times=1000, method="GET", path=path)
    for _ in range(2):
        await missed.look()
    assert (await shop.transaction(ben))["refunded_amount"] == "19.00"
    assert await sql.fetchval("SELECT status FROM subscriptions") == "active"
    await shop.stripe.control("DELETE", "answers")
    await missed.look()
    assert await sql.fetchval("SELECT status FROM subscriptions") == "canceled"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 500, 501])
async def test_where_there_is_no_such_list_or_no_right_to_it_all_else_goes_on(
    shop: Shop, missed: MissedEvents, status: int
) -> None:
    _, intent = await bought(shop)
    await refund(shop, intent, 1900)
    await shop.stripe.control("POST", "answers", do="fail", status=status, times=1000, method="GET", path=EVENTS)
    for _ in range(10):
        await missed.look()
    ben = await shop.customer("ben")
    assert (await shop.buy(ben)).status == 201
    await shop.stripe.deliver(*await shop.stripe.events())


async def test_it_is_not_asked_more_often_however_many_processes_there_are(
    shop: Shop, client: AppClient, sql: Sql
) -> None:
    ada, intent = await bought(shop)
    assert client.app is not None
    parts = client.app[DATABASE], client.app[CHARGING].gateway, client.app[PAYMENT_EVENTS]
    await refund(shop, intent, 1900)
    await MissedEvents(*parts, 3600.0).look()
    await refund(shop, intent, 100)
    await MissedEvents(*parts, 3600.0).look()
    assert (await shop.transaction(ada))["refunded_amount"] == "19.00"
    await MissedEvents(*parts, 0.0).look()
    assert (await shop.transaction(ada))["refunded_amount"] == "20.00"

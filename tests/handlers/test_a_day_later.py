"""What is asked for again when Stripe may have forgotten, or has, that it was asked before: it is looked for, and never
charged a second time."""

from typing import Any

import pytest

from server.config import Breaker
from server.http.keys import CHARGING
from tests.support.shop import Shop, Sql, shop, stripe
from tests.support.stripe import LocalService

__all__ = ["shop", "stripe"]

# Stripe remembers keys for 24 h, and so do we those of our clients; 23 h after its beginning nothing is repeated there.
HOURS = (22.9, 23.1, 24.1)
HOUR_S = 3600


@pytest.fixture
def overrides(stripe: LocalService) -> dict[str, Any]:
    """No job finds out anything before the same request comes again."""
    return {
        "stripe": stripe.settings,
        "jobs": {"poll_s": 3600},
        "breaker": {"failures": 100},
        "plans": [{"plan_name": "all", "monthly": "9.00", "yearly": "90.00", "currency": "usd", "courses": "all"}],
    }


async def pass_hours(shop: Shop, sql: Sql, hours: float) -> None:
    """Move Stripe's clock, and ours by what it has written."""
    await shop.stripe.advance(hours * HOUR_S)
    for move in (
        "UPDATE transactions SET created_at = created_at - make_interval(secs => $1)",
        "UPDATE subscriptions SET created_at = created_at - make_interval(secs => $1)",
        "UPDATE refunds SET created_at = created_at - make_interval(secs => $1)",
        "UPDATE idempotency_keys SET expires_at = expires_at - make_interval(secs => $1)",
    ):
        await sql.execute(move, hours * HOUR_S)


async def charges(shop: Shop) -> int:
    return len([line for line in await shop.stripe.ledger() if line["type"] in ("charge", "payment")])


@pytest.mark.parametrize("hours", HOURS)
async def test_a_purchase_that_was_charged_without_an_answer_is_found(shop: Shop, sql: Sql, hours: float) -> None:
    ada = await shop.customer("ada")
    await shop.stripe.control("POST", "webhooks", mode="drop")
    await shop.stripe.control("POST", "answers", do="lose", path="/v1/payment_intents", times=2)
    assert (await shop.buy(ada, key="one")).status == 503
    await pass_hours(shop, sql, hours)
    answer = await shop.buy(ada, key="one")
    assert answer.status == 201 if hours < 24 else answer.code == "purchase_pending"
    assert await charges(shop) == 1
    if hours > 24:  # then it is a job's to find
        open_one = answer.body["transaction_id"]
        assert (await ada.delete(f"/api/payments/transactions/{open_one}")).code == "not_cancelable"
    assert await shop.is_enrolled(ada)


@pytest.mark.parametrize("hours", HOURS)
async def test_a_purchase_that_never_arrived_is_not_charged_when_its_key_may_be_forgotten(
    shop: Shop, sql: Sql, hours: float
) -> None:
    ada = await shop.customer("ada")
    await shop.stripe.control("POST", "answers", do="cut", path="/v1/payment_intents", times=2)
    assert (await shop.buy(ada, key="one")).status == 503
    await pass_hours(shop, sql, hours)
    answer = await shop.buy(ada, key="one")
    assert (answer.status, answer.code) == {
        22.9: (201, None), 23.1: (409, "purchase_canceled"), 24.1: (409, "purchase_pending"),
    }[hours]  # fmt: skip
    assert await charges(shop) == (hours < 23)


async def test_a_charge_that_was_sent_before_stripe_was_left_alone_is_not_forgotten(shop: Shop, sql: Sql) -> None:
    """The first try is lost after Stripe acted, the second is not made any more: the purchase must stay open."""
    ada = await shop.customer("ada")
    service = shop.teacher.client.app[CHARGING].gateway._service
    service._settings = Breaker(failures=1, open_s=60)
    await shop.stripe.control("POST", "webhooks", mode="drop")
    await shop.stripe.control("POST", "answers", do="lose", path="/v1/payment_intents")
    assert (await shop.buy(ada, key="one")).status == 503
    assert await sql.fetchval("SELECT canceled_at FROM transactions") is None
    service._open_until = 0.0  # a minute later
    assert (await shop.buy(ada, key="one")).status == 201
    assert await charges(shop) == 1


@pytest.mark.parametrize("fate", ["lose", "cut"])
async def test_a_subscription_is_looked_for_and_not_begun_anew(shop: Shop, sql: Sql, fate: str) -> None:
    ada = await shop.customer("ada")
    wish = {"plan_name": "all", "billing_period": "monthly"}
    await shop.stripe.control("POST", "webhooks", mode="drop")
    await shop.stripe.control("POST", "answers", do=fate, path="/v1/subscriptions", times=2)
    for expected in (503, 201 if fate == "lose" else 409):
        answer = await ada.post("/api/payments/subscribe", wish, headers={"Idempotency-Key": "one"})
        assert answer.status == expected
        await pass_hours(shop, sql, 23.1)
    assert await charges(shop) == (fate == "lose")


async def test_a_refund_whose_answer_was_lost_is_looked_for(shop: Shop, sql: Sql) -> None:
    ada, root = await shop.customer("ada"), await shop.people.join("root", "admin")
    bought = (await shop.buy(ada)).body["transaction"]
    await shop.stripe.control("POST", "webhooks", mode="drop")
    await shop.stripe.control("POST", "answers", do="lose", path="/v1/refunds", times=2)
    for expected in ("0.00", "10.00"):
        answer = await root.post(
            f"/api/payments/transactions/{bought['id']}/refund",
            {"amount": "10.00"},
            headers={"Idempotency-Key": "back"},
        )
        assert answer.body["refunded_amount"] == expected
        await pass_hours(shop, sql, 23.9)
        await sql.execute("DELETE FROM idempotency_keys")  # as if we had died before we answered
    assert len([line for line in await shop.stripe.ledger() if line["type"] == "refund"]) == 1

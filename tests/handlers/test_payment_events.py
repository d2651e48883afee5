"""What Stripe tells: once, in any order, and only what is truly Stripe's and truly of the row that it names."""

import asyncio
import io
import itertools
import json
import time
from typing import Any
from uuid import uuid4

import pytest
from prometheus_client import REGISTRY

from server.data.jobs import Job
from server.http.keys import PAYMENT_EVENTS
from server.http.payment_events import EVENT
from tests.support.app import AppClient, serving, settings
from tests.support.people import Answer, Person
from tests.support.shop import WEBHOOK, Shop, Sql, at_stripe, shop, stripe
from tests.support.stripe import LocalService, sign_webhook

__all__ = ["shop", "stripe"]

TABLES = ("transactions", "enrollments", "refunds", "disputes", "webhook_events", "payment_methods", "customers")


@pytest.fixture
def overrides(stripe: LocalService) -> dict[str, Any]:
    """No job asks Stripe: what becomes of a payment is what events say of it."""
    plan = {"plan_name": "all", "monthly": "9.00", "yearly": "90.00", "currency": "usd", "courses": "all"}
    return {"stripe": stripe.settings, "jobs": {"poll_s": 3600}, "plans": [plan]}


async def tell(shop: Shop, body: bytes | io.BytesIO, headers: dict[str, str] | None = None) -> Answer:
    """An event, signed now unless it is said how."""
    headers = headers or sign_webhook(bytes(body), at=time.time())  # type: ignore[arg-type]
    return await shop.people.stranger.post(WEBHOOK, data=body, headers=headers)


async def rows(sql: Sql) -> dict[str, Any]:
    """Everything about money."""
    return {table: [dict(row) for row in await sql.fetch(f"SELECT * FROM {table}")] for table in TABLES}  # noqa: S608


async def waiting(shop: Shop, person: Person) -> tuple[Any, dict[str, Any]]:
    """A purchase that waits for the bank, and the event that will say that it was paid."""
    purchase = (await shop.buy(person)).body["transaction"]
    await shop.stripe.all_told()
    await shop.stripe.control("POST", "webhooks", mode="hold")
    await shop.stripe.approve(purchase["transaction_reference"])
    (event,) = await shop.stripe.events("payment_intent.succeeded")
    event.pop("delivery")
    return purchase, event


def packed(event: dict[str, Any]) -> bytes:
    """As it goes over the wire."""
    return json.dumps(event).encode()


async def dead_of(sql: Sql) -> list[str]:
    """Why events are dead."""
    return [row["reason"] for row in await sql.fetch("SELECT reason FROM webhook_events WHERE status = 'dead'")]


def counted(outcome: str) -> float:
    """How many events ended so."""
    return REGISTRY.get_sample_value("lectern_payment_events_total", {"outcome": outcome}) or 0.0


# -- whose word it is --------------------------------------------------------------------------------------------------


async def test_what_is_not_truly_stripes_is_400_and_changes_nothing(shop: Shop, sql: Sql) -> None:
    ada = await shop.customer("ada", "threeDSecure2Required")
    _, event = await waiting(shop, ada)
    body, now = packed(event), time.time()
    signed = sign_webhook(body, at=now)
    signature, stale = (sign_webhook(body, at=at)["Stripe-Signature"] for at in (now, now - 360))
    text = {"Content-Type": "application/json"}
    refused: list[tuple[bytes, dict[str, str]]] = [
        (body, text),
        (body, sign_webhook(body, at=now, secret="whsec_other")),
        (body, sign_webhook(body, at=now - 360)),
        (body, sign_webhook(body, at=now + 360)),  # not 301: seconds go by until it is sent
        (body, text | {"Stripe-Signature": ""}),
        (body, text | {"Stripe-Signature": "t=,v1="}),
        (body, text | {"Stripe-Signature": f"t={int(now)}"}),
        (body, text | {"Stripe-Signature": f"t={int(now)},v1="}),
        (body, text | {"Stripe-Signature": signature.replace("v1=", "v0=")}),
        (body, text | {"Stripe-Signature": f"t={int(now)}0,{signature.partition(',')[2]}"}),
        *(
            (body, text | {"Stripe-Signature": stale.replace("t=", written) + f",t={int(now)}"})
            for written in ("t=", "t= ", "t=+")
        ),
        (body, text | {"Stripe-Signature": f"{signature},t={int(now)}"}),
        (body[:-1], signed),
        (body[: len(body) // 2], sign_webhook(body[: len(body) // 2], at=now)),
        (body + b" ", signed),
        (body.replace(b"4900", b"9900"), signed),
        (b"\xff\xfe" + body, sign_webhook(b"\xff\xfe" + body, at=now)),
        *((bad, sign_webhook(bad, at=now)) for bad in (b"", b"null", b"[]", b"{}", b'"x"', b'{"id": 1}', b"NaN")),
        *(
            (bad, sign_webhook(bad, at=now))
            for bad in (
                packed(event | {"id": ""}),
                packed(event | {"data": {}}),
                packed(event | {"data": {"object": []}}),
                packed(event | {"id": "evt_\0"}),
                b'{"id": "a", "id": "b", "type": "c", "data": {"object": {}}}',
            )
        ),
    ]
    before = await rows(sql)
    for bad, headers in refused:
        answer = await tell(shop, bad, headers)
        assert (answer.status, answer.code) == (400, "bad_event"), (bad[:80], headers)
    assert await rows(sql) == before
    large = packed(event | {"more": "x" * 1_048_577})
    assert (await tell(shop, io.BytesIO(large), sign_webhook(large, at=now))).status == 413
    assert await rows(sql) == before
    for at in (now - 240, now + 240):
        assert (await tell(shop, body, sign_webhook(body, at=at))).status == 200
    assert await shop.is_enrolled(ada)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"amount": 1}, "another amount than the transaction's"),
        ({"amount_received": 4899}, "another amount received than the transaction's"),
        ({"currency": "eur"}, "another currency than the transaction's"),
        ({"customer": "cus_other"}, "another customer than the transaction's"),
        ({"customer": None}, "another customer than the transaction's"),
        ({"id": "pi_other"}, "another payment intent than the transaction's"),
        ({"metadata": {"user_id": str(uuid4())}}, "another user_id than the transaction's"),
        ({"metadata": {"transaction_id": str(uuid4())}}, "there is no such transaction"),
        ({"amount": "much"}, "its object cannot be read: amount"),
    ],
)
async def test_what_is_signed_but_does_not_match_never_enrols_and_is_kept_as_dead(
    shop: Shop, sql: Sql, change: dict[str, Any], why: str
) -> None:
    ada = await shop.customer("ada", "threeDSecure2Required")
    purchase, event = await waiting(shop, ada)
    said = event["data"]["object"]
    changed = {**said, **change, "metadata": said["metadata"] | change.get("metadata", {})}
    forged = event | {"id": "evt_forged", "data": {"object": changed}}
    before = counted("dead")
    for _ in range(2):
        assert (await tell(shop, packed(forged))).status == 200
    assert not await shop.is_enrolled(ada)
    assert (await shop.transaction(ada))["status"] == "requires_action"
    assert await dead_of(sql) == [why]
    assert counted("dead") == before + 1
    kept = await sql.fetchval("SELECT facts::text FROM webhook_events WHERE status = 'dead'")
    assert "secret" not in kept
    assert "pm_" not in kept
    await shop.stripe.deliver(event)
    assert (await shop.becomes(ada, "succeeded"))["id"] == purchase["id"]


async def test_what_is_of_no_use_is_kept_as_dead_and_what_is_harmless_is_not(shop: Shop, sql: Sql) -> None:
    def event(kind: str, **said: Any) -> bytes:
        return packed({"id": f"evt_{kind}", "object": "event", "type": kind, "data": {"object": {"id": "x"} | said}})

    intent = {"id": "pi_foreign", "status": "succeeded", "amount": 1, "currency": "usd"}
    for kind, said in (
        ("coffee.brewed", {}),
        ("payment_intent.succeeded", intent),
        ("refund.created", {"amount": 1, "currency": "usd", "status": "succeeded"}),
        ("charge.dispute.created", {"amount": 1, "currency": "usd", "status": "lost", "payment_intent": "pi_foreign"}),
        ("customer.created", {}),
    ):
        assert (await tell(shop, event(kind, **said))).status == 200
    dead = await sql.fetch("SELECT type, reason FROM webhook_events WHERE status = 'dead' ORDER BY type")
    assert [(row["type"], row["reason"]) for row in dead] == [
        ("charge.dispute.created", "pi_foreign is no payment of ours"),
        ("coffee.brewed", "nothing is done with events of this type"),
        ("payment_intent.succeeded", "it is no payment of ours"),
        ("refund.created", "it is of no payment intent"),
    ]


@pytest.mark.parametrize(
    ("kind", "amount", "why"),
    [
        ("refund.created", 0, "a refund of nothing"),
        ("refund.created", -1, "-1 minor units of usd are no amount that can be kept"),
        ("charge.dispute.created", -1, "-1 minor units of usd are no amount that can be kept"),
        ("charge.dispute.created", 10**18, f"{10**18} minor units of usd are no amount that can be kept"),
    ],
)
async def test_an_amount_that_cannot_be_is_kept_as_dead(shop: Shop, sql: Sql, kind: str, amount: int, why: str) -> None:
    ada = await shop.customer("ada")
    intent = (await shop.buy(ada)).body["transaction"]["transaction_reference"]
    said = {"id": "x", "amount": amount, "currency": "usd", "status": "succeeded", "payment_intent": intent}
    event = {"id": "evt_odd", "object": "event", "type": kind, "data": {"object": said}}
    assert (await tell(shop, packed(event))).status == 200
    assert await dead_of(sql) == [why]
    assert (await shop.transaction(ada))["status"] == "succeeded"


# -- of whose subscription ---------------------------------------------------------------------------------------------


async def subscribe(shop: Shop, person: Person) -> Answer:
    """To everything, by the month; nothing of it is told before it is delivered."""
    await shop.stripe.control("POST", "webhooks", mode="hold")
    wish = {"plan_name": "all", "billing_period": "monthly"}
    return await person.post("/api/payments/subscribe", wish, headers={"Idempotency-Key": uuid4().hex})


async def event_of(shop: Shop, kind: str) -> Any:
    """The first of this type, under an id that nobody has heard of yet."""
    event = (await shop.stripe.events(kind))[0]
    event.pop("delivery")
    return event | {"id": f"evt_{uuid4().hex}"}


def is_of_an_invoice(event: Any) -> bool:
    """Whether it is about an invoice, not a subscription."""
    return bool(event["data"]["object"]["object"] == "invoice")


def of_another(event: Any, **metadata: str) -> Any:
    """The event as if it were of another subscription, of this metadata."""
    if is_of_an_invoice(event):
        details = {"subscription": "sub_other", "metadata": metadata}
        changed = {"parent": {"type": "subscription_details", "subscription_details": details}}
    else:
        changed = {"id": "sub_other", "metadata": metadata}
    return event | {"data": {"object": event["data"]["object"] | changed}}


def of_an_older_api(event: Any) -> Any:
    """An invoice's event as Stripe's API of before March 2025 has it."""
    said = dict(event["data"]["object"])
    details = said.pop("parent")["subscription_details"]
    said |= {"subscription": details["subscription"], "subscription_details": {"metadata": details["metadata"]}}
    return event | {"data": {"object": said}}


@pytest.mark.parametrize(
    "kind", ["customer.subscription.created", "customer.subscription.updated", "invoice.created", "invoice.paid"]
)
async def test_what_is_of_no_subscription_of_ours_is_kept_as_dead(shop: Shop, sql: Sql, kind: str) -> None:
    row = (await subscribe(shop, await shop.customer("ada"))).body
    event = await event_of(shop, kind)
    others = [of_another(event), *(of_another(event, subscription_id=named) for named in (str(uuid4()), row["id"]))]
    if is_of_an_invoice(event):
        others += [of_an_older_api(other) for other in others]
        others += [event | {"data": {"object": event["data"]["object"] | {"parent": None}}}]
    for number, other in enumerate(others):
        for _ in range(2):
            assert (await tell(shop, packed(other | {"id": f"evt_{number}"}))).status == 200
    assert await dead_of(sql) == ["it is of no subscription of ours"] * len(others)
    assert (await tell(shop, packed(event))).status == 200
    assert len(await dead_of(sql)) == len(others)


# What was begun when the answer was lost: past the rules, which know no way back.
FORGET = """
    SET session_replication_role = replica;
    UPDATE subscriptions SET stripe_id = NULL, status = 'incomplete', told_at = '-infinity';
    RESET session_replication_role
"""


async def test_what_is_told_before_we_know_stripes_id_of_a_subscription_is_never_dead(shop: Shop, sql: Sql) -> None:
    assert (await subscribe(shop, await shop.customer("ada"))).status == 201
    kinds = sorted({event["type"] for event in await shop.stripe.events()})
    told = [await event_of(shop, kind) for kind in kinds if kind.startswith(("customer.subscription.", "invoice."))]
    told += [of_an_older_api(event) | {"id": f"{event['id']}_older"} for event in told if is_of_an_invoice(event)]
    for event in told:
        await sql.execute(FORGET)
        assert (await tell(shop, packed(event))).status == 200
        if event["type"] in ("customer.subscription.updated", "invoice.paid"):
            assert await sql.fetchval("SELECT status FROM subscriptions") == "active"
    assert await dead_of(sql) == []
    assert len(told) >= 10, kinds


async def test_there_is_time_to_ask_a_slow_stripe(
    shop: Shop, postgres_dsn: str, redis_url: str, overrides: dict[str, Any]
) -> None:
    await subscribe(shop, await shop.customer("ada"))
    body = packed(await event_of(shop, "customer.subscription.updated"))
    hurried = overrides | {"server": {"handler_timeout_s": 0.5}}
    await shop.stripe.control("POST", "answers", do="slow", method="GET", path="/v1/subscriptions/", delay_s=1.0)
    async with serving(settings(postgres_dsn, redis_url, **hurried)) as client:
        answer = await client.post(WEBHOOK, data=body, headers=sign_webhook(body, at=time.time()))
        assert answer.status == 200


async def test_money_back_for_a_renewal_is_taken_though_its_invoice_was_not_told(shop: Shop, sql: Sql) -> None:
    ada = await shop.customer("ada")
    await subscribe(shop, ada)
    intent = await renewed(shop)
    await refund_at_stripe(shop, intent, 900)
    assert (await tell(shop, packed(await event_of(shop, "refund.created")))).status == 200
    row = await shop.transaction(ada)
    assert (row["transaction_reference"], row["status"]) == (intent, "refunded")
    assert await dead_of(sql) == []


async def test_a_dispute_of_a_renewal_is_taken_though_its_invoice_was_not_told(shop: Shop, sql: Sql) -> None:
    ada = await shop.customer("ada")
    await subscribe(shop, ada)
    intent = await renewed(shop)
    await shop.stripe.control("POST", "disputes", payment_intent=intent)
    assert (await tell(shop, packed(await event_of(shop, "charge.dispute.created")))).status == 200
    row = await shop.transaction(ada)
    assert (row["transaction_reference"], row["status"]) == (intent, "disputed")
    assert await dead_of(sql) == []


async def renewed(shop: Shop) -> str:
    """The payment intent of the second month, of which nobody has told us."""
    await shop.stripe.advance(31 * 86_400 + 7200)
    _, paid = await shop.stripe.events("payment_intent.succeeded")
    intent: str = paid["data"]["object"]["id"]
    return intent


async def test_a_dead_event_of_a_subscription_is_taken_once_more_by_asking_about_it(
    shop: Shop, sql: Sql, client: AppClient
) -> None:
    assert (await subscribe(shop, await shop.customer("ada"))).status == 201
    await sql.execute(FORGET)
    await sql.execute("UPDATE subscriptions SET stripe_id = 'sub_mistaken'")
    event = await event_of(shop, "customer.subscription.updated")
    assert (await tell(shop, packed(event))).status == 200
    assert await dead_of(sql) == ["it is of no subscription of ours"]
    await sql.execute(FORGET)
    await client.app[PAYMENT_EVENTS].retry(Job(uuid4(), EVENT, {"event_id": event["id"]}, 1, 0))
    assert await dead_of(sql) == []
    assert await sql.fetchval("SELECT status FROM subscriptions") == "active"


# -- once, and in any order --------------------------------------------------------------------------------------------


async def test_the_same_event_a_hundred_times_at_once_acts_once(shop: Shop, sql: Sql) -> None:
    ada = await shop.customer("ada", "threeDSecure2Required")
    _, event = await waiting(shop, ada)
    body = packed(event)
    before = counted("done"), counted("repeated")
    answers = await asyncio.gather(*(tell(shop, body) for _ in range(100)))
    assert {answer.status for answer in answers} == {200}
    assert (counted("done"), counted("repeated")) == (before[0] + 1, before[1] + 99)
    assert await sql.fetchval("SELECT count(*) FROM webhook_events WHERE id = $1", event["id"]) == 1
    assert await sql.fetchval("SELECT count(*) FROM enrollments") == 1
    assert await sql.fetchval("SELECT active_count FROM course_counts WHERE course_id = $1", shop.course["id"]) == 1


# The row as it was before anything was told of it: past the rules, which know no way back.
WIPE = """
    BEGIN;
    SET LOCAL session_replication_role = replica;
    UPDATE transactions SET status = 'pending', transaction_reference = NULL, needs_action = false, succeeded_at = NULL,
        refunded_amount = 0, is_disputed = false;
    DELETE FROM webhook_events; DELETE FROM refunds; DELETE FROM disputes; DELETE FROM enrollments; DELETE FROM jobs;
    UPDATE course_counts SET active_count = 0;
    COMMIT
"""
HISTORY = (
    "payment_intent.created",
    "payment_intent.requires_action",
    "payment_intent.succeeded",
    "charge.refunded",
    "refund.created",
    "charge.dispute.created",
    "charge.dispute.closed",
)


async def test_all_orders_of_the_events_of_one_payment_end_alike(shop: Shop, sql: Sql) -> None:
    """A payment that was approved, disputed, won, and given back in part; every event is told in every order."""
    ada = await shop.customer("ada", "threeDSecure2Required")
    purchase, _ = await waiting(shop, ada)
    intent = purchase["transaction_reference"]
    dispute = await shop.stripe.control("POST", "disputes", payment_intent=intent)
    await shop.stripe.control("POST", f"disputes/{dispute['id']}/close", won=True)
    await refund_at_stripe(shop, intent, 1900)
    history = [event for event in await shop.stripe.events(*HISTORY) if is_of(event, intent)]
    assert sorted({event["type"] for event in history}) == sorted(HISTORY)
    told = {event["type"]: packed({k: v for k, v in event.items() if k != "delivery"}) for event in history}
    ends = set()
    orders = list(itertools.permutations(told))
    for order in orders[:: len(orders) // 60]:
        await sql.execute(WIPE)
        for kind in order:
            assert (await tell(shop, told[kind])).status == 200
        row = await shop.transaction(ada)
        dead = await dead_of(sql)
        ends.add((row["status"], row["refunded_amount"], await shop.is_enrolled(ada), len(dead)))
    assert ends == {("partially_refunded", "19.00", True, 0)}


def is_of(event: dict[str, Any], intent: str) -> bool:
    """Whether the event is about this payment."""
    said = event["data"]["object"]
    return intent in (said["id"], said.get("payment_intent"))


async def refund_at_stripe(shop: Shop, intent: str, amount: int) -> None:
    """By somebody at the dashboard."""
    await at_stripe(shop.stripe, "POST", "/v1/refunds", payment_intent=intent, amount=str(amount))

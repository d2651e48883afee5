"""Subscriptions: what Stripe says of them is what they are, and whoever pays has access."""

import asyncio
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import asyncpg
import pytest

from server.data.db import queries
from server.data.jobs import Again, Job
from server.http.keys import CHARGING, CONFIG, DATABASE, SUBSCRIBING
from server.http.subscribing import LOOK, Subscribing
from tests.support.app import AppClient
from tests.support.people import PASSWORD, Answer, Person
from tests.support.shop import Shop, Sql, at_stripe, shop, stripe
from tests.support.stripe import SECRET_KEY, LocalService

__all__ = ["shop", "stripe"]

DAY_S, HOUR_S = 86_400, 3600
MONTH_S = 31 * DAY_S + 2 * HOUR_S
PLANS = [
    {"plan_name": "all", "monthly": "9.00", "yearly": "90.00", "currency": "usd", "courses": "all"},
    {"plan_name": "pro", "monthly": "29.00", "yearly": "290.00", "currency": "usd", "courses": "all"},
    {"plan_name": "euro", "monthly": "9.00", "yearly": "90.00", "currency": "eur", "courses": []},
]
SUBSCRIPTIONS = "/api/payments/subscriptions"
methods = queries("payments")


@pytest.fixture
def overrides(stripe: LocalService) -> dict[str, Any]:
    """The application's account is there, and so are some plans."""
    return {
        "stripe": stripe.settings,
        "jobs": {"poll_s": 0.05, "reconcile_s": 0.2},
        "breaker": {"open_s": 0.2},
        "plans": PLANS,
    }


async def subscribe(person: Person, plan: str = "all", period: str = "monthly", key: str = "", **more: Any) -> Answer:
    body = {"plan_name": plan, "billing_period": period, **more}
    return await person.post("/api/payments/subscribe", body, headers={"Idempotency-Key": key or uuid4().hex})


async def subscription(person: Person) -> Any:
    return (await person.get(SUBSCRIPTIONS)).body["items"][0]


async def becomes(shop: Shop, person: Person, **members: Any) -> Any:
    return await shop.once(
        lambda: subscription(person), lambda row: all(row[name] == value for name, value in members.items())
    )


async def may_watch(shop: Shop, person: Person) -> bool:
    found = await shop.sql.fetchval("SELECT entitled($1, 'student', $2)", person.id, shop.course["id"])
    return bool(found)


async def amounts(person: Person) -> list[str]:
    return [row["amount"] for row in (await person.get("/api/payments/transactions")).body["items"]]


def ends_at(row: Any) -> datetime:
    return datetime.fromisoformat(row["current_period_end"]).astimezone(UTC)


def another_process(client: AppClient) -> Subscribing:
    """Who knows what the database says, and nothing of who waits for whom in the application."""
    return Subscribing(client.app[CONFIG], client.app[DATABASE], client.app[CHARGING])


async def subscriber_untold(shop: Shop) -> tuple[Person, Any]:
    """A subscriber of whose subscription Stripe tells nothing any more, and the subscription."""
    ada = await shop.customer("ada")
    row = (await subscribe(ada)).body
    await shop.stripe.control("POST", "webhooks", mode="drop")
    return ada, row


# -- beginning ---------------------------------------------------------------------------------------------------------


async def owing(shop: Shop) -> Person:
    """A subscriber whose card could not pay the second month."""
    ada = await shop.customer("ada")
    await subscribe(ada, "pro")
    bad = await shop.add_card(ada, "chargeCustomerFail")
    await change(ada, payment_method_id=bad["id"])
    await shop.stripe.advance(MONTH_S)
    await becomes(shop, ada, status="past_due")
    return ada


async def test_plans_are_shown_to_everybody(shop: Shop) -> None:
    answer = await shop.people.stranger.get("/api/payments/plans")
    assert answer.status == 200
    assert [(plan["plan_name"], plan["prices"], plan["courses"]) for plan in answer.body["items"]] == [
        ("all", {"monthly": "9.00", "yearly": "90.00"}, "all"),
        ("euro", {"monthly": "9.00", "yearly": "90.00"}, []),
        ("pro", {"monthly": "29.00", "yearly": "290.00"}, "all"),
    ]
    first = (await shop.people.stranger.get("/api/payments/plans?limit=1")).body
    rest = (await shop.people.stranger.get(first["next"])).body
    assert rest["items"][0]["plan_name"] == "euro"


async def test_who_subscribes_has_access_at_once(shop: Shop) -> None:
    ada = await shop.customer("ada")
    assert not await may_watch(shop, ada)
    answer = await subscribe(ada)
    assert answer.status == 201
    row = answer.body
    assert answer.headers["Location"] == f"{SUBSCRIPTIONS}/{row['id']}"
    assert (row["plan_name"], row["status"], row["billing_period"], row["price"], row["currency"]) == (
        "all", "active", "monthly", "9.00", "usd",
    )  # fmt: skip
    assert row["next_billing_date"] == row["current_period_end"]
    assert (row["cancel_at_period_end"], row["canceled_at"]) == (False, None)
    assert row["payment_method_id"] == (await ada.get("/api/payments/methods")).body["items"][0]["id"]
    assert await may_watch(shop, ada)
    assert (await ada.post("/api/enrollments", {"course_id": shop.course["id"]})).status == 201
    assert await amounts(ada) == ["9.00"]
    [paid] = (await ada.get("/api/payments/transactions")).body["items"]
    assert (paid["status"], paid["subscription_id"], paid["course_id"]) == ("succeeded", row["id"], None)
    assert (await ada.get(f"{SUBSCRIPTIONS}/{row['id']}")).body["status"] == "active"


async def test_there_is_one_at_a_time_however_many_are_asked_for(shop: Shop) -> None:
    ada = await shop.customer("ada")
    answers = await asyncio.gather(*(subscribe(ada) for _ in range(5)))
    assert sorted(answer.status for answer in answers) == [201, 409, 409, 409, 409]
    assert {answer.code for answer in answers if answer.status == 409} == {"already_subscribed"}
    again = await subscribe(ada, "pro")
    assert again.body["subscription_id"] == (await subscription(ada))["id"]
    assert await amounts(ada) == ["9.00"]


async def test_the_same_request_again_is_the_same_subscription(shop: Shop) -> None:
    ada = await shop.customer("ada")
    await shop.stripe.control("POST", "answers", do="lose", path="/v1/subscriptions", times=2)
    first = await subscribe(ada, key="k")
    assert first.status == 503
    await shop.once(lambda: subscribe(ada, key="k"), lambda second: second.status == 201)  # the breaker closes
    assert len(await shop.stripe.ledger()) == 1


async def test_another_plan_under_the_key_of_a_lost_answer_is_refused(shop: Shop) -> None:
    ada = await shop.customer("ada")
    await shop.stripe.control("POST", "answers", do="lose", path="/v1/subscriptions", times=2)
    assert (await subscribe(ada, "all", key="k")).status == 503
    other = await subscribe(ada, "pro", key="k")
    assert (other.status, other.code) == (422, "idempotency_key_reused")
    await shop.once(lambda: subscribe(ada, "all", key="k"), lambda same: same.status == 201)
    assert (await subscription(ada))["plan_name"] == "all"


async def test_a_crash_between_stripes_answer_and_ours_is_found_by_a_job(shop: Shop, sql: Sql) -> None:
    ada = await shop.customer("ada")
    await shop.stripe.control("POST", "webhooks", mode="drop")
    await shop.stripe.control("POST", "answers", do="lose", path="/v1/subscriptions", times=2)
    assert (await subscribe(ada)).status == 503
    await becomes(shop, ada, status="active")
    assert await amounts(ada) == ["9.00"]
    assert await may_watch(shop, ada)


async def test_what_never_arrived_is_begun_by_the_same_request_or_given_up(shop: Shop, sql: Sql) -> None:
    ada, ben = await shop.customer("ada"), await shop.customer("ben")
    for person in (ada, ben):
        await shop.stripe.control("POST", "answers", do="cut", path="/v1/subscriptions", times=2)
        assert (await subscribe(person, key="k")).status == 503
        await asyncio.sleep(0.3)  # the breaker
    await shop.once(lambda: subscribe(ada, key="k"), lambda answer: answer.status == 201)
    row = await subscription(ben)
    given_up = await ben.delete(f"{SUBSCRIPTIONS}/{row['id']}")
    assert (given_up.status, given_up.body["status"]) == (200, "canceled")
    assert (await subscribe(ben, key="k")).status == 409
    assert len(await shop.stripe.ledger()) == 1


async def test_what_is_still_on_its_way_when_its_card_is_removed_begins_nothing(shop: Shop) -> None:
    ada = await shop.people.join("ada")
    card = await shop.add_card(ada, "visa")
    await shop.stripe.control("POST", "answers", do="cut", path="/v1/subscriptions", times=2)
    assert (await subscribe(ada, key="k")).status == 503
    await ada.delete(f"/api/payments/methods/{card['id']}")
    refused = await shop.once(lambda: subscribe(ada, key="k"), lambda answer: answer.status != 503)
    assert (refused.status, refused.body["failure_code"]) == (402, "payment_method_unusable")
    late = {"Authorization": f"Bearer {SECRET_KEY}", "Idempotency-Key": (await subscription(ada))["id"]}
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{shop.stripe.origin}/v1/subscriptions", headers=late, data={"customer": "cus_1"}) as answer,
    ):
        assert (await answer.json())["error"]["type"] == "idempotency_error"


async def test_a_card_is_forgotten_after_what_is_being_written_of_it(shop: Shop, sql: Sql, postgres_dsn: str) -> None:
    """Else who writes of it would wait for who forgets it, and the other way round."""
    ada = await shop.customer("ada")
    card = await sql.fetchrow("SELECT id, token_hash FROM payment_methods")
    writing = await asyncpg.connect(postgres_dsn)
    try:
        async with writing.transaction():
            assert await methods.find_method(writing, user_id=ada.id, token_hash=card["token_hash"])
            assert (await ada.delete(f"/api/payments/methods/{card['id']}")).status == 204
            await sql.execute("SET lock_timeout = '1ms'")
            with pytest.raises(asyncpg.LockNotAvailableError):
                await methods.forget_method(sql, method_id=card["id"])
    finally:
        await writing.close()
    await sql.execute("SET lock_timeout = 0")
    await methods.forget_method(sql, method_id=card["id"])
    assert await sql.fetchval("SELECT count(*) FROM payment_methods") == 0


async def test_what_broke_at_stripe_is_given_up_though_its_key_is_used_up(shop: Shop, sql: Sql) -> None:
    ada = await shop.customer("ada")
    await shop.stripe.control("POST", "answers", do="break", path="/v1/subscriptions")
    assert (await subscribe(ada, key="one")).status == 503
    path = f"{SUBSCRIPTIONS}/{(await subscription(ada))['id']}"
    assert (await ada.delete(path)).status == 503  # it may just be being made
    await sql.execute("UPDATE subscriptions SET created_at = created_at - interval '6 minutes'")
    given_up = await shop.once(lambda: ada.delete(path), lambda answer: answer.status != 503)
    assert (given_up.status, given_up.body["status"]) == (200, "canceled")
    assert (await subscribe(ada, key="two")).status == 201


async def test_a_declined_card_subscribes_nobody(shop: Shop) -> None:
    ada = await shop.customer("ada", "chargeCustomerFail")
    declined = await subscribe(ada, key="k")
    assert (declined.status, declined.code, declined.body["failure_code"]) == (402, "card_declined", "generic_decline")
    assert (await subscribe(ada, key="k")).status == 402
    assert (await subscription(ada))["status"] == "canceled"
    assert not await may_watch(shop, ada)
    good = await shop.add_card(ada, "visa")
    assert (await subscribe(ada, payment_method_id=good["id"])).status == 201


async def test_one_that_the_bank_asks_about_begins_when_it_is_approved(shop: Shop) -> None:
    ada = await shop.customer("ada", "threeDSecure2Required")
    answer = await subscribe(ada, key="k")
    assert answer.status == 202
    assert answer.body["status"] == "incomplete"
    assert answer.body["client_secret"].startswith("pi_")
    assert not await may_watch(shop, ada)
    assert (await subscribe(ada)).code == "already_subscribed"
    assert (await subscribe(ada, key="k")).body["client_secret"] == answer.body["client_secret"]
    await shop.stripe.approve(answer.body["client_secret"].partition("_secret_")[0])
    await becomes(shop, ada, status="active")
    assert await may_watch(shop, ada)
    assert await amounts(ada) == ["9.00"]


@pytest.mark.parametrize(
    ("card", "approved"), [("threeDSecure2Required", False), ("threeDSecureRequiredChargeDeclined", True)]
)
async def test_one_that_the_bank_refuses_ends_and_another_may_begin(shop: Shop, card: str, approved: bool) -> None:
    ada = await shop.customer("ada", card)
    answer = await subscribe(ada)
    assert answer.status == 202
    await shop.stripe.approve(answer.body["client_secret"].partition("_secret_")[0], approved=approved)
    await becomes(shop, ada, status="canceled")
    assert not await may_watch(shop, ada)
    good = await shop.add_card(ada, "visa")
    assert (await subscribe(ada, payment_method_id=good["id"])).status == 201
    assert await amounts(ada) == ["9.00"]


async def test_one_that_nobody_approves_is_given_up(shop: Shop, sql: Sql) -> None:
    ada = await shop.customer("ada", "threeDSecure2Required")
    assert (await subscribe(ada)).status == 202
    await sql.execute("UPDATE jobs SET created_at = created_at - interval '2 hours' WHERE kind = 'subscription_look'")
    await becomes(shop, ada, status="canceled")
    assert await shop.stripe.ledger() == []


async def test_what_cannot_be_subscribed_to_is_named(shop: Shop) -> None:
    ada = await shop.customer("ada")
    for member, pointer in (
        ({"plan_name": "none"}, "/plan_name"),
        ({"billing_period": "weekly"}, "/billing_period"),
        ({"payment_method_id": str(uuid4())}, "/payment_method_id"),
        ({"price": "0.50"}, "/price"),
    ):
        wish = {"plan_name": "all", "billing_period": "monthly"} | member
        answer = await ada.post("/api/payments/subscribe", wish, headers={"Idempotency-Key": uuid4().hex})
        assert (answer.status, answer.pointers) == (422, [pointer])
    without = await ada.post("/api/payments/subscribe", {"plan_name": "all", "billing_period": "monthly"})
    assert (without.status, without.code) == (400, "idempotency_key_required")


# -- changes -----------------------------------------------------------------------------------------------------------


async def change(person: Person, **members: Any) -> Answer:
    row = await subscription(person)
    return await person.put(f"{SUBSCRIPTIONS}/{row['id']}", members)


async def test_a_dearer_plan_costs_the_difference_at_once(shop: Shop) -> None:
    ada = await shop.customer("ada")
    before = (await subscribe(ada)).body
    answer = await change(ada, plan_name="pro")
    assert answer.status == 200
    assert (answer.body["plan_name"], answer.body["price"]) == ("pro", "29.00")
    assert answer.body["current_period_end"] == before["current_period_end"]
    assert await amounts(ada) == ["20.00", "9.00"]
    assert (await change(ada, plan_name="pro")).body["price"] == "29.00"
    assert len(await shop.stripe.ledger()) == 2


async def test_a_cheaper_plan_is_set_off_against_what_comes(shop: Shop) -> None:
    ada = await shop.customer("ada")
    await subscribe(ada, "pro")
    assert (await change(ada, plan_name="all")).body["price"] == "9.00"
    await shop.stripe.advance(MONTH_S)
    await shop.stripe.all_told()
    assert await amounts(ada) == ["29.00"]


async def test_another_period_begins_at_once(shop: Shop) -> None:
    ada = await shop.customer("ada")
    monthly = (await subscribe(ada)).body
    yearly = (await change(ada, billing_period="yearly")).body
    assert (yearly["billing_period"], yearly["price"]) == ("yearly", "90.00")
    assert (ends_at(yearly) - ends_at(monthly)).days > 300
    assert await amounts(ada) == ["81.00", "9.00"]


async def test_a_change_that_is_not_paid_leaves_everything(shop: Shop) -> None:
    ada = await shop.customer("ada")
    before = (await subscribe(ada)).body
    for card in ("chargeCustomerFail", "authenticationRequired"):
        bad = await shop.add_card(ada, card)
        answer = await change(ada, plan_name="pro", payment_method_id=bad["id"], cancel_at_period_end=True)
        assert (answer.status, answer.code) == (402, "card_declined")
        now = await subscription(ada)
        members = ("plan_name", "price", "payment_method_id", "cancel_at_period_end", "status", "current_period_end")
        assert [now[name] for name in members] == [before[name] for name in members]
    assert await amounts(ada) == ["9.00"]


async def test_a_change_whose_answer_is_lost_is_found_out(shop: Shop, sql: Sql) -> None:
    ada = await shop.customer("ada")
    await subscribe(ada)
    await shop.stripe.control("POST", "webhooks", mode="drop")
    await shop.stripe.control("POST", "answers", do="lose", path="/v1/subscriptions/", times=2)
    assert (await change(ada, plan_name="pro")).status == 503
    await becomes(shop, ada, plan_name="pro")
    assert sorted(await amounts(ada)) == ["20.00", "9.00"]


async def test_another_card_pays_from_now_on(shop: Shop) -> None:
    ada = await shop.customer("ada")
    await subscribe(ada)
    card = await shop.add_card(ada, "mastercard")
    assert (await change(ada, payment_method_id=card["id"])).body["payment_method_id"] == card["id"]
    await shop.stripe.advance(MONTH_S)
    await shop.once(lambda: amounts(ada), lambda paid: len(paid) == 2)
    assert (await shop.transaction(ada))["payment_method_id"] == card["id"]


async def test_what_cannot_be_changed_to_is_named(shop: Shop) -> None:
    ada, ben = await shop.customer("ada"), await shop.customer("ben")
    row = (await subscribe(ada)).body
    theirs = (await ben.get("/api/payments/methods")).body["items"][0]["id"]
    for wish, pointer in (
        ({"plan_name": "none"}, "/plan_name"),
        ({"plan_name": "euro"}, "/plan_name"),
        ({"payment_method_id": theirs}, "/payment_method_id"),
        ({"status": "active"}, "/status"),
        ({"plan_name": None}, "/plan_name"),
        ({"cancel_at_period_end": None}, "/cancel_at_period_end"),
    ):
        assert (await change(ada, **wish)).pointers == [pointer]
    assert (await change(ada)).status == 200
    for ask in (ben.get, ben.delete):
        assert (await ask(f"{SUBSCRIPTIONS}/{row['id']}")).status == 404
    assert (await ben.put(f"{SUBSCRIPTIONS}/{row['id']}", {"plan_name": "pro"})).status == 404


# -- ending ------------------------------------------------------------------------------------------------------------


async def test_it_ends_with_its_period_unless_that_is_taken_back(shop: Shop) -> None:
    ada = await shop.customer("ada")
    row = (await subscribe(ada)).body
    ending = (await ada.delete(f"{SUBSCRIPTIONS}/{row['id']}")).body
    assert (ending["status"], ending["cancel_at_period_end"], ending["next_billing_date"]) == ("active", True, None)
    assert ending["canceled_at"] is not None
    kept = (await change(ada, cancel_at_period_end=False)).body
    assert (kept["cancel_at_period_end"], kept["canceled_at"]) == (False, None)
    assert (await change(ada, cancel_at_period_end=True)).body["cancel_at_period_end"]
    assert await may_watch(shop, ada)
    await shop.stripe.advance(MONTH_S)
    await becomes(shop, ada, status="canceled")
    assert not await may_watch(shop, ada)
    assert await amounts(ada) == ["9.00"]


async def test_it_ends_at_once_with_its_enrolments_and_progress_is_kept(shop: Shop) -> None:
    ada = await shop.customer("ada")
    row = (await subscribe(ada)).body
    lecture = await shop.teacher.make(f"/api/courses/{shop.course['id']}/lectures", {"title": "One", "duration": 100})
    await ada.post("/api/enrollments", {"course_id": shop.course["id"]})
    watched = await ada.put(f"/api/progress/lectures/{lecture['id']}", {"watched_ranges": [[0, 50]]})
    assert watched.status == 200
    ended = await ada.delete(f"{SUBSCRIPTIONS}/{row['id']}?now=true")
    assert (ended.status, ended.body["status"]) == (200, "canceled")
    assert (await ada.delete(f"{SUBSCRIPTIONS}/{row['id']}?now=true")).body["status"] == "canceled"
    assert (await ada.get(f"/api/lectures/{lecture['id']}")).status == 403
    again = await change(ada, plan_name="pro")
    assert (again.status, again.code) == (409, "subscription_ended")
    assert (await subscribe(ada)).status == 201
    progress = (await ada.get(f"/api/progress/courses/{shop.course['id']}")).body
    assert progress["items"][0]["watched_duration"] == 50


async def test_one_that_waits_for_its_customer_is_given_up(shop: Shop) -> None:
    ada = await shop.customer("ada", "threeDSecure2Required")
    row = (await subscribe(ada)).body
    assert (await ada.delete(f"{SUBSCRIPTIONS}/{row['id']}")).body["status"] == "canceled"
    card = await shop.add_card(ada, "visa")
    assert (await subscribe(ada, payment_method_id=card["id"])).status == 201


async def test_one_that_was_paid_before_we_knew_ends_with_what_is_paid_for(shop: Shop) -> None:
    ada = await shop.customer("ada", "threeDSecure2Required")
    begun = (await subscribe(ada)).body
    await shop.stripe.control("POST", "webhooks", mode="drop")
    await shop.stripe.approve(begun["client_secret"].partition("_secret_")[0])
    ended = (await ada.delete(f"{SUBSCRIPTIONS}/{begun['id']}")).body
    assert (ended["status"], ended["cancel_at_period_end"]) == ("active", True)
    assert await may_watch(shop, ada)
    assert await amounts(ada) == ["9.00"]


async def test_one_that_is_paid_while_a_job_looks_at_it_is_not_given_up(
    shop: Shop, sql: Sql, client: AppClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = await shop.customer("ada", "threeDSecure2Required")
    begun = (await subscribe(ada)).body
    await shop.stripe.control("POST", "webhooks", mode="drop")
    subscribing = client.app[SUBSCRIBING]
    sync, waiting = subscribing.sync, [begun["client_secret"].partition("_secret_")[0]]

    async def sync_and_be_paid(subscription_id: UUID) -> Any:
        row = await sync(subscription_id)
        if waiting:
            await shop.stripe.approve(waiting.pop())
        return row

    monkeypatch.setattr(subscribing, "sync", sync_and_be_paid)
    with pytest.raises(Again):
        await subscribing.look(Job(uuid4(), LOOK, {"subscription_id": begun["id"]}, 1, 7200))
    monkeypatch.undo()
    assert (await subscription(ada))["status"] == "active"
    assert await may_watch(shop, ada)


async def test_whoever_leaves_pays_no_more(shop: Shop, sql: Sql) -> None:
    ada = await shop.customer("ada")
    await subscribe(ada)
    assert (await ada.delete("/api/auth/me", json={"current_password": PASSWORD})).status == 204
    await shop.once(lambda: sql.fetchval("SELECT status FROM subscriptions"), lambda status: status == "canceled")
    await shop.stripe.advance(MONTH_S)
    assert len(await shop.stripe.ledger()) == 1


# -- what happens at Stripe --------------------------------------------------------------------------------------------


async def test_a_renewal_is_a_transaction_and_moves_the_period_on(shop: Shop) -> None:
    ada = await shop.customer("ada")
    before = (await subscribe(ada)).body
    await shop.stripe.advance(MONTH_S)
    await shop.once(lambda: amounts(ada), lambda paid: paid == ["9.00", "9.00"])
    # Who is overtaken writes what was paid, and asks again for the rest.
    after = await shop.once(lambda: subscription(ada), lambda row: ends_at(row) > ends_at(before))
    assert after["status"] == "active"


async def test_a_charge_that_fails_keeps_access_for_a_week(shop: Shop, sql: Sql) -> None:
    ada = await shop.customer("ada")
    await subscribe(ada)
    bad = await shop.add_card(ada, "chargeCustomerFail")
    await change(ada, payment_method_id=bad["id"])
    await shop.stripe.advance(MONTH_S)
    late = await becomes(shop, ada, status="past_due")
    assert await may_watch(shop, ada)
    assert (await subscribe(ada)).code == "already_subscribed"
    await sql.execute("UPDATE subscriptions SET past_due_since = now() - interval '8 days'")
    assert not await may_watch(shop, ada)
    still = await change(ada, payment_method_id=bad["id"])
    assert (still.status, still.code) == (402, "card_declined")
    good = await shop.add_card(ada, "visa")
    assert (await change(ada, payment_method_id=good["id"])).body["status"] == "active"
    assert await may_watch(shop, ada)
    assert late["id"] == (await subscription(ada))["id"]
    assert await amounts(ada) == ["9.00", "9.00"]


async def test_another_plan_comes_after_what_is_due(shop: Shop) -> None:
    """Or the time that was not paid would be set off against it."""
    ada = await owing(shop)
    for wish in ({"plan_name": "all"}, {"billing_period": "yearly"}):
        refused = await change(ada, **wish)
        assert (refused.status, refused.code, refused.body["failure_code"]) == (
            402, "card_declined", "generic_decline",
        )  # fmt: skip
        now = await subscription(ada)
        assert (now["plan_name"], now["price"], now["status"]) == ("pro", "29.00", "past_due")
    good = await shop.add_card(ada, "visa")
    paid = (await change(ada, plan_name="all", payment_method_id=good["id"])).body
    assert (paid["plan_name"], paid["status"]) == ("all", "active")
    assert await amounts(ada) == ["29.00", "29.00"]


async def test_another_plan_comes_after_a_renewal_that_is_just_being_charged(shop: Shop) -> None:
    ada = await shop.customer("ada")
    before = (await subscribe(ada, "pro")).body
    stripes_now = (await shop.stripe.control("GET", "clock"))["now"]
    await shop.stripe.advance(ends_at(before).timestamp() - stripes_now + 60)
    after = (await change(ada, plan_name="all")).body
    assert (after["plan_name"], after["status"]) == ("all", "active")
    assert await amounts(ada) == ["29.00", "29.00"]


async def test_without_a_card_what_is_due_is_not_paid_and_the_plan_stays(shop: Shop, sql: Sql) -> None:
    ada = await owing(shop)
    for card in (await ada.get("/api/payments/methods")).body["items"]:
        assert (await ada.delete(f"/api/payments/methods/{card['id']}")).status == 204
    removals = "SELECT count(*) FROM jobs WHERE kind = 'method_removal'"
    await shop.once(lambda: sql.fetchval(removals), lambda left: left == 0)
    refused = await change(ada, plan_name="all")
    assert (refused.status, refused.body["failure_code"]) == (402, "payment_method_unusable")
    assert (await subscription(ada))["plan_name"] == "pro"


async def test_without_a_card_there_is_no_dearer_plan_and_a_cheaper_one_all_the_same(shop: Shop, sql: Sql) -> None:
    ada = await shop.customer("ada")
    await subscribe(ada, "pro")
    [card] = (await ada.get("/api/payments/methods")).body["items"]
    assert (await ada.delete(f"/api/payments/methods/{card['id']}")).status == 204
    removals = "SELECT count(*) FROM jobs WHERE kind = 'method_removal'"
    await shop.once(lambda: sql.fetchval(removals), lambda left: left == 0)
    refused = await change(ada, billing_period="yearly")
    assert (refused.status, refused.body["failure_code"]) == (402, "payment_method_unusable")
    assert (await subscription(ada))["billing_period"] == "monthly"
    assert (await change(ada, plan_name="all")).body["plan_name"] == "all"
    assert await amounts(ada) == ["29.00"]


async def test_one_that_ends_at_stripe_while_it_is_being_changed_has_ended(shop: Shop, sql: Sql) -> None:
    ada = await shop.customer("ada")
    await subscribe(ada)
    stripe_id = await sql.fetchval("SELECT stripe_id FROM subscriptions")
    await shop.stripe.control("POST", "webhooks", mode="drop")
    # Between asking for it and changing it the plan's product is made.
    await shop.stripe.control("POST", "answers", do="slow", delay_s=1, path="/v1/products")
    changing = asyncio.create_task(change(ada, plan_name="pro"))
    await asyncio.sleep(0.5)
    await at_stripe(shop.stripe, "DELETE", f"/v1/subscriptions/{stripe_id}")
    assert (await changing).code == "subscription_ended"
    assert (await subscription(ada))["status"] == "canceled"


async def test_one_that_is_never_paid_ends(shop: Shop) -> None:
    ada = await shop.customer("ada")
    await subscribe(ada)
    bad = await shop.add_card(ada, "chargeCustomerFail")
    await change(ada, payment_method_id=bad["id"])
    await shop.stripe.advance(MONTH_S + 20 * DAY_S)
    await becomes(shop, ada, status="canceled")
    assert not await may_watch(shop, ada)


async def test_events_in_any_order_and_however_often_come_to_the_same_end(shop: Shop, sql: Sql) -> None:
    ada = await shop.customer("ada")
    await shop.stripe.control("POST", "webhooks", mode="hold")
    row = (await subscribe(ada)).body
    await change(ada, plan_name="pro")
    await ada.delete(f"{SUBSCRIPTIONS}/{row['id']}?now=true")
    events = await shop.stripe.events()
    assert set(await shop.stripe.deliver(*events[::-1], *events)) == {200}
    now = await subscription(ada)
    assert (now["status"], now["plan_name"]) == ("canceled", "pro")
    assert await amounts(ada) == ["20.00", "9.00"]
    assert await sql.fetch("SELECT type, reason FROM webhook_events WHERE status = 'dead'") == []


async def test_older_news_never_take_the_place_of_newer(
    shop: Shop, client: AppClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada, row = await subscriber_untold(shop)
    elsewhere = another_process(client)
    # Another process asks; while the answer is on its way there the subscription is changed, and that is written.
    get, told, arrives = elsewhere.billing.get, asyncio.Event(), asyncio.Event()

    async def get_late(subscription_id: str) -> Any:
        found = await get(subscription_id)
        told.set()
        await arrives.wait()
        return found

    monkeypatch.setattr(elsewhere.billing, "get", get_late)
    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        asking = tasks.create_task(elsewhere.sync(UUID(row["id"])))
        await told.wait()
        assert (await change(ada, plan_name="pro")).body["plan_name"] == "pro"
        arrives.set()
    assert asking.result()["plan_name"] == "pro"
    now = await subscription(ada)
    assert (now["plan_name"], now["price"], now["id"]) == ("pro", "29.00", row["id"])


async def test_who_is_overtaken_again_and_again_takes_what_the_others_were_told(
    shop: Shop, client: AppClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada, row = await subscriber_untold(shop)
    elsewhere = another_process(client)
    get, plans = elsewhere.billing.get, iter(["pro", "all", "pro", "all"])
    changed = []

    async def get_late(subscription_id: str) -> Any:
        found = await get(subscription_id)
        changed.append((await change(ada, plan_name=next(plans))).body["plan_name"])
        return found

    monkeypatch.setattr(elsewhere.billing, "get", get_late)
    told = await elsewhere.sync(UUID(row["id"]))
    assert (changed, told["plan_name"]) == (["pro", "all"], "all")
    assert (await subscription(ada))["plan_name"] == "all"


async def test_a_clock_that_was_set_back_hides_no_news(shop: Shop, client: AppClient, sql: Sql) -> None:
    ada, row = await subscriber_untold(shop)
    await sql.execute("UPDATE subscriptions SET told_at = now() + interval '1 hour'")
    stripe_id = await sql.fetchval("SELECT stripe_id FROM subscriptions")
    await at_stripe(shop.stripe, "DELETE", f"/v1/subscriptions/{stripe_id}")
    told = await client.app[SUBSCRIBING].sync(UUID(row["id"]))
    assert (told["status"], (await subscription(ada))["status"]) == ("canceled", "canceled")


async def test_what_ended_at_stripe_is_changed_no_more_though_nobody_told_us(shop: Shop) -> None:
    ada, ben = await shop.customer("ada"), await shop.customer("ben")
    for person in (ada, ben):
        await subscribe(person)
        await change(person, cancel_at_period_end=True)
    await shop.stripe.control("POST", "webhooks", mode="drop")
    await shop.stripe.advance(MONTH_S)
    assert (await change(ada, plan_name="pro")).code == "subscription_ended"
    row = await subscription(ben)
    assert (await ben.delete(f"{SUBSCRIPTIONS}/{row['id']}")).body["status"] == "canceled"
    for person in (ada, ben):
        assert (await subscription(person))["status"] == "canceled"
        assert not await may_watch(shop, person)


async def test_lost_events_are_made_up_for_by_asking(shop: Shop, sql: Sql) -> None:
    ada = await shop.customer("ada")
    await subscribe(ada)
    await shop.stripe.control("POST", "webhooks", mode="drop")
    await shop.stripe.advance(MONTH_S)
    await sql.execute("UPDATE jobs SET run_at = now() WHERE kind = 'subscription_look'")
    await shop.once(lambda: amounts(ada), lambda paid: paid == ["9.00", "9.00"])


async def test_while_stripe_is_away_others_subscriptions_go_on(shop: Shop, stripe: LocalService) -> None:
    ada, ben = await shop.customer("ada"), await shop.customer("ben")
    await subscribe(ada)
    await stripe.stop()
    assert (await subscribe(ben)).status == 503
    assert (await change(ada, plan_name="pro")).status == 503
    assert await may_watch(shop, ada)
    assert (await ada.get(SUBSCRIPTIONS)).status == 200
    await stripe.start()


# -- money that goes back ----------------------------------------------------------------------------------------------


async def payments(person: Person) -> list[Any]:
    """The newest first."""
    items: list[Any] = (await person.get("/api/payments/transactions")).body["items"]
    return items


async def refund(person: Person, payment: Any, **body: Any) -> Answer:
    return await person.post(f"/api/payments/transactions/{payment['id']}/refund", body)


async def age(sql: Sql, payment: Any, days: int) -> None:
    """As if it had been paid so long ago."""
    await sql.execute("ALTER TABLE transactions DISABLE TRIGGER settle_transaction")
    earlier = "UPDATE transactions SET succeeded_at = now() - make_interval(days => $2) WHERE id = $1"
    await sql.execute(earlier, payment["id"], days)
    await sql.execute("ALTER TABLE transactions ENABLE TRIGGER settle_transaction")


async def ends_to_come(sql: Sql) -> int:
    found: int = await sql.fetchval("SELECT count(*) FROM jobs WHERE kind = 'subscription_end'")
    return found


@pytest.mark.parametrize("who", ["learner", "administrator"])
async def test_all_the_money_back_ends_the_subscription(shop: Shop, who: str) -> None:
    ada, admin = await shop.customer("ada"), await shop.people.join("root", "admin")
    await subscribe(ada, period="yearly")
    await ada.post("/api/enrollments", {"course_id": shop.course["id"]})
    [paid] = await payments(ada)
    refunded = await refund(ada if who == "learner" else admin, paid)
    assert (refunded.status, refunded.body["status"]) == (200, "refunded")
    await becomes(shop, ada, status="canceled")
    assert not await may_watch(shop, ada)
    await shop.stripe.advance(370 * DAY_S)
    assert await amounts(ada) == ["90.00"]


async def test_a_part_of_the_money_back_leaves_the_subscription(shop: Shop, sql: Sql) -> None:
    ada, admin = await shop.customer("ada"), await shop.people.join("root", "admin")
    await subscribe(ada)
    [paid] = await payments(ada)
    assert (await refund(admin, paid, amount="5.00")).body["status"] == "partially_refunded"
    assert await ends_to_come(sql) == 0
    assert await may_watch(shop, ada)


async def test_money_back_for_a_period_that_is_over_leaves_the_subscription(shop: Shop, sql: Sql) -> None:
    ada, admin = await shop.customer("ada"), await shop.people.join("root", "admin")
    await subscribe(ada)
    await shop.stripe.advance(MONTH_S)
    await shop.once(lambda: amounts(ada), lambda paid: len(paid) == 2)
    _, first = await payments(ada)
    await age(sql, first, 32)
    assert (await refund(admin, first)).body["status"] == "refunded"
    assert await ends_to_come(sql) == 0
    assert (await subscription(ada))["status"] == "active"


async def test_who_changed_the_plan_does_not_keep_it_by_giving_the_first_payment_back(shop: Shop) -> None:
    ada = await shop.customer("ada")
    await subscribe(ada)
    await change(ada, plan_name="pro")
    _, first = await payments(ada)
    assert (await refund(ada, first)).body["status"] == "refunded"
    await becomes(shop, ada, status="canceled")


@pytest.mark.parametrize("is_won", [True, False])
async def test_a_dispute_ends_the_subscription_when_it_is_lost(shop: Shop, sql: Sql, is_won: bool) -> None:
    ada = await shop.customer("ada")
    await subscribe(ada)
    [paid] = await payments(ada)
    dispute = await shop.stripe.control("POST", "disputes", payment_intent=paid["transaction_reference"])
    await shop.becomes(ada, "disputed")
    assert (await subscription(ada))["status"] == "active"
    await shop.stripe.control("POST", f"disputes/{dispute['id']}/close", won=is_won)
    if is_won:
        await shop.becomes(ada, "succeeded")
        assert await ends_to_come(sql) == 0
    await becomes(shop, ada, status="active" if is_won else "canceled")


async def test_who_watched_one_course_of_the_plan_takes_no_money_back(shop: Shop) -> None:
    ada, admin = await shop.customer("ada"), await shop.people.join("root", "admin")
    watched = await lecture_of(shop, shop.course)
    await lecture_of(shop, await shop.make_course(), duration=10_000)
    await subscribe(ada)
    [paid] = await payments(ada)
    await watch(ada, watched, 30)
    refused = await refund(ada, paid)
    assert (refused.status, refused.code) == (403, "refund_not_allowed")
    assert (await refund(admin, paid)).status == 200


async def test_what_was_open_without_the_subscription_may_have_been_watched(shop: Shop) -> None:
    ada = await shop.customer("ada")
    free = await shop.teacher.make("/api/courses", {"title": "Free", "status": "published"})
    bought, covered = await lecture_of(shop, shop.course), await lecture_of(shop, await shop.make_course())
    given = await lecture_of(shop, free)
    assert (await shop.buy(ada)).status == 201
    await subscribe(ada)
    for lecture, seconds in ((bought, 100), (given, 100), (covered, 29)):
        await watch(ada, lecture, seconds)
    paid, _ = await payments(ada)
    assert (await refund(ada, paid)).body["status"] == "refunded"


async def lecture_of(shop: Shop, course: Any, duration: int = 100) -> Any:
    return await shop.teacher.make(f"/api/courses/{course['id']}/lectures", {"title": "One", "duration": duration})


async def watch(person: Person, lecture: Any, seconds: int) -> None:
    answer = await person.put(f"/api/progress/lectures/{lecture['id']}", {"watched_ranges": [[0, seconds]]})
    assert answer.status == 200, answer.body


# -- what was made at Stripe's own desk --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("amount", "terms"),
    [
        ("500", {"[recurring][interval]": "month"}),
        ("0", {"[recurring][interval]": "week"}),
        ("500", {"[recurring][interval]": "month", "[recurring][interval_count]": "3"}),
    ],
)
async def test_a_price_made_at_stripe_leaves_the_plan_and_who_has_it_can_end_it(
    shop: Shop, sql: Sql, amount: str, terms: dict[str, str]
) -> None:
    ada = await shop.customer("ada")
    begun = (await subscribe(ada)).body
    stripe_id = await sql.fetchval("SELECT stripe_id FROM subscriptions")
    path = f"/v1/subscriptions/{stripe_id}"
    product = await at_stripe(shop.stripe, "POST", "/v1/products", name="for a friend")
    item = (await at_stripe(shop.stripe, "GET", path))["items"]["data"][0]["id"]
    price = {"[product]": product["id"], "[unit_amount]": amount, "[currency]": "usd"} | terms
    form = {f"items[0][price_data]{name}": value for name, value in price.items()}
    await at_stripe(shop.stripe, "POST", path, **{"items[0][id]": item, "metadata": ""}, **form)
    row = await becomes(shop, ada, price=f"{int(amount) / 100:.2f}")
    assert (row["plan_name"], row["billing_period"], row["status"]) == ("all", "monthly", "active")
    await shop.stripe.advance(3 * MONTH_S)
    await shop.once(lambda: subscription(ada), lambda now: now["current_period_end"] > row["current_period_end"])
    assert await may_watch(shop, ada)
    ended = await ada.delete(f"{SUBSCRIPTIONS}/{begun['id']}?now=true")
    assert (ended.status, ended.body["status"]) == (200, "canceled")
    assert (await subscribe(ada)).status == 201


@pytest.mark.parametrize(
    ("currency", "minor", "amount"),
    [
        ("jpy", 1_000_000, "1000000.00"),
        ("idr", 999_999_999_999, "9999999999.99"),
        ("kwd", 99_999_990, "99999.99"),
    ],
)
async def test_a_price_made_at_stripe_is_paid_and_given_back_whatever_its_currency_counts_in(
    shop: Shop, sql: Sql, currency: str, minor: int, amount: str
) -> None:
    there = (
        "INSERT INTO plans (plan_name, monthly, yearly, currency, covers_all, past_due_days)"
        " VALUES ('there', 5000, 50000, $1, true, 7)"
    )
    await sql.execute(there, currency)
    ada, root = await shop.customer("ada"), await shop.people.join("root", "admin")
    begun = (await subscribe(ada, "there")).body
    stripe_id = await sql.fetchval("SELECT stripe_id FROM subscriptions")
    path = f"/v1/subscriptions/{stripe_id}"
    item = (await at_stripe(shop.stripe, "GET", path))["items"]["data"][0]
    price = {"[product]": item["price"]["product"], "[unit_amount]": str(minor), "[currency]": currency}
    price |= {"[recurring][interval]": "month"}
    form = {f"items[0][price_data]{name}": value for name, value in price.items()}
    await at_stripe(shop.stripe, "POST", path, **{"items[0][id]": item["id"], "proration_behavior": "none"}, **form)
    await becomes(shop, ada, price=amount)
    await shop.stripe.advance(MONTH_S)
    await shop.once(lambda: subscription(ada), lambda now: now["current_period_end"] > begun["current_period_end"])
    paid = await shop.once(lambda: shop.transaction(ada), lambda row: row["amount"] == amount)
    refund = f"/api/payments/transactions/{paid['id']}/refund"
    part = await root.post(refund, {"amount": "5.00"})
    assert (part.status, part.body["refunded_amount"]) == (200, "5.00")
    back = await ada.post(refund, {})
    assert (back.status, back.body["status"], back.body["refunded_amount"]) == (200, "refunded", amount)
    await becomes(shop, ada, status="canceled")


async def test_who_was_deleted_at_stripe_subscribes_anew_by_a_new_card(shop: Shop, sql: Sql) -> None:
    ada = await shop.customer("ada")
    assert (await subscribe(ada)).status == 201
    customer = await sql.fetchval("SELECT stripe_id FROM customers")
    await at_stripe(shop.stripe, "DELETE", f"/v1/customers/{customer}")
    await becomes(shop, ada, status="canceled")
    assert not await may_watch(shop, ada)
    again = await subscribe(ada)
    assert (again.status, again.body["failure_code"]) == (402, "payment_method_unusable")
    await shop.add_card(ada, "visa")
    assert (await subscribe(ada)).status == 201
    assert await may_watch(shop, ada)


@pytest.mark.parametrize("later_s", [0, 60])
async def test_what_was_paid_for_when_its_subscriber_had_left_is_given_back(
    shop: Shop, sql: Sql, later_s: float
) -> None:
    ada = await shop.customer("ada", "threeDSecure2Required")
    begun = (await subscribe(ada)).body
    await shop.stripe.control("POST", "webhooks", mode="drop")
    # Stripe cannot be asked to end it before the bank's question is answered.
    await shop.stripe.control("POST", "answers", do="fail", status=409, times=1000, method="DELETE", path="/v1/")
    assert (await ada.ask("DELETE", "/api/auth/me", {"current_password": PASSWORD})).status == 204
    await shop.stripe.advance(later_s)
    await shop.stripe.approve(begun["client_secret"].partition("_secret_")[0])
    paid = "SELECT status FROM transactions"
    await shop.once(lambda: sql.fetchval(paid), lambda status: status == "refunded")
    await shop.stripe.control("DELETE", "answers")
    status = "SELECT status FROM subscriptions"
    await shop.once(lambda: sql.fetchval(status), lambda now: now == "canceled")

"""Money that goes back: by whom, how much, once, and what becomes of the enrolment; and money that is disputed."""

import asyncio
from typing import Any

import pytest

from server.data.db import queries
from server.http.keys import CHARGING, DATABASE
from server.services.outside import ServiceRefused
from tests.support.app import AppClient
from tests.support.people import PASSWORD, Person
from tests.support.shop import Shop, Sql, overrides, shop, stripe

__all__ = ["overrides", "shop", "stripe"]


async def bought(shop: Shop, person: Person) -> Any:
    """A transaction that was paid."""
    answer = await shop.buy(person)
    assert answer.status == 201, answer.body
    return answer.body["transaction"]


async def refund(person: Person, transaction: Any, key: str | None = None, **body: Any) -> Any:
    """Ask for money back."""
    headers = {"Idempotency-Key": key} if key else {}
    return await person.post(f"/api/payments/transactions/{transaction['id']}/refund", body, headers=headers)


async def refunds_booked(shop: Shop) -> int:
    """How many the books have."""
    return len([line for line in await shop.stripe.ledger() if line["type"] == "refund"])


# -- refunds -----------------------------------------------------------------------------------------------------------


async def test_all_money_back_ends_the_enrolment_and_keeps_what_was_watched(shop: Shop, sql: Sql) -> None:
    lecture = await shop.teacher.make(f"/api/courses/{shop.course['id']}/lectures", {"title": "A", "duration": 100})
    ada = await shop.customer("ada")
    transaction = await bought(shop, ada)
    await ada.put(f"/api/progress/lectures/{lecture['id']}", {"watched_ranges": [[0, 20]]})
    answer = await refund(ada, transaction, reason="too easy")
    assert answer.status == 200
    assert (answer.body["status"], answer.body["refunded_amount"]) == ("refunded", "49.00")
    assert not await shop.is_enrolled(ada)
    assert (await ada.get(f"/api/lectures/{lecture['id']}")).code == "not_entitled"
    assert await sql.fetchval("SELECT covered(watched_ranges) FROM progress") == 20_000
    again = await refund(ada, transaction)
    assert (again.status, again.code) == (409, "not_refundable")
    more = await refund(ada, transaction, amount="0.01")
    assert (more.status, more.pointers) == (422, ["/amount"])
    assert (await shop.buy(ada)).status == 201


async def test_a_part_of_the_money_back_keeps_access_and_more_than_is_left_is_refused(shop: Shop) -> None:
    ada, root = await shop.customer("ada"), await shop.people.join("root", "admin")
    transaction = await bought(shop, ada)
    part = await refund(root, transaction, amount="20.00")
    assert (part.status, part.body["status"], part.body["refunded_amount"]) == (200, "partially_refunded", "20.00")
    assert await shop.is_enrolled(ada)
    for amount in ("29.01", "0.00", "-1.00", "1.001", "1e1", "NaN", "x"):
        refused = await refund(root, transaction, amount=amount)
        assert (refused.status, refused.pointers) == (422, ["/amount"]), amount
    rest = await refund(root, transaction)
    assert (rest.body["status"], rest.body["refunded_amount"]) == ("refunded", "49.00")
    assert not await shop.is_enrolled(ada)
    entries = (await root.get("/api/auth/me/export")).body["tables"]["audit_log"]
    assert [entry["details"]["amount"] for entry in entries if entry["action"] == "refund_requested"] == [
        "20.00",
        "29.00",
    ]


async def test_who_paid_takes_it_back_in_time_and_unwatched_and_an_admin_at_any_time(shop: Shop, sql: Sql) -> None:
    lecture = await shop.teacher.make(f"/api/courses/{shop.course['id']}/lectures", {"title": "A", "duration": 100})
    ada, ben = await shop.customer("ada"), await shop.customer("ben")
    root = await shop.people.join("root", "admin")
    early, watched = await bought(shop, ada), await bought(shop, ben)
    assert (await refund(ben, early)).code == "transaction_not_found"
    assert (await refund(shop.teacher, early)).code == "transaction_not_found"
    await ben.put(f"/api/progress/lectures/{lecture['id']}", {"watched_ranges": [[0, 30]]})
    assert (await refund(ben, watched)).code == "refund_not_allowed"
    await sql.execute("ALTER TABLE transactions DISABLE TRIGGER settle_transaction")
    await sql.execute(
        "UPDATE transactions SET succeeded_at = now() - interval '14 days 1 minute' WHERE id = $1", early["id"]
    )
    await sql.execute("ALTER TABLE transactions ENABLE TRIGGER settle_transaction")
    late = await refund(ada, early)
    assert (late.status, late.code) == (403, "refund_not_allowed")
    for transaction in (early, watched):
        assert (await refund(root, transaction)).body["status"] == "refunded"


async def test_what_was_never_paid_is_not_given_back(shop: Shop) -> None:
    ada = await shop.customer("ada", "chargeCustomerFail")
    declined = (await shop.buy(ada)).body
    answer = await refund(ada, {"id": declined["transaction_id"]})
    assert (answer.status, answer.code) == (409, "not_refundable")


@pytest.mark.parametrize("fate", ["lose", "cut", "fail"])
async def test_a_refund_whose_answer_is_lost_is_done_once(shop: Shop, fate: str) -> None:
    ada = await shop.customer("ada")
    transaction = await bought(shop, ada)
    await shop.stripe.control("POST", "answers", do=fate, path="/v1/refunds", times=2)
    answer = await refund(ada, transaction, key="one", amount="10.00")
    assert answer.status in (200, 202)  # a lost one may have been told by its event in between
    again = await refund(ada, transaction, key="one", amount="10.00")
    assert again.headers["Idempotency-Replayed"] == "true"
    await shop.becomes(ada, "partially_refunded")
    await shop.stripe.all_told()
    assert await refunds_booked(shop) == 1


async def test_a_refund_whose_answer_cannot_be_read_is_done_once(
    shop: Shop, client: AppClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada, gateway = await shop.customer("ada"), client.app[CHARGING].gateway
    transaction, truly = await bought(shop, ada), gateway.refund

    async def refund_unreadably(**asked: Any) -> Any:
        await truly(**asked)
        monkeypatch.undo()
        raise ServiceRefused("Stripe's answer cannot be read: id")

    await shop.stripe.control("POST", "webhooks", mode="drop")
    monkeypatch.setattr(gateway, "refund", refund_unreadably)
    assert (await refund(ada, transaction)).status == 502
    await shop.becomes(ada, "refunded")
    assert await refunds_booked(shop) == 1


async def test_a_refund_for_any_reason_is_done_though_stripe_was_away(shop: Shop) -> None:
    ada = await shop.customer("ada")
    transaction = await bought(shop, ada)
    await shop.stripe.control("POST", "answers", do="cut", path="/v1/refunds", times=9)
    assert (await refund(ada, transaction, reason="duplicate")).status == 202
    await shop.stripe.control("DELETE", "answers")
    await shop.becomes(ada, "refunded")
    await shop.stripe.all_told()
    assert await refunds_booked(shop) == 1


async def test_many_refunds_at_once_give_back_no_more_than_was_paid(shop: Shop) -> None:
    ada = await shop.customer("ada")
    transaction = await bought(shop, ada)
    answers = await asyncio.gather(*(refund(ada, transaction, amount="20.00") for _ in range(6)))
    assert sorted(answer.status for answer in answers) == [200, 200, 422, 422, 422, 422]


async def test_the_same_refund_after_a_crash_finds_its_row(shop: Shop, sql: Sql) -> None:
    """As if the process had died after Stripe's answer, and the key's lease were over."""
    ada = await shop.customer("ada")
    transaction = await bought(shop, ada)
    await refund(ada, transaction, key="one", amount="10.00")
    await sql.execute("DELETE FROM idempotency_keys WHERE key = 'one'")
    again = await refund(ada, transaction, key="one", amount="10.00")
    assert (again.status, again.body["refunded_amount"]) == (200, "10.00")
    assert await refunds_booked(shop) == 1


async def test_the_same_refund_after_it_was_refused_is_asked_for_again(shop: Shop) -> None:
    ada = await shop.customer("ada")
    transaction = await bought(shop, ada)
    await shop.stripe.control("POST", "answers", do="fail", status=400, path="/v1/refunds", times=2)
    for _ in range(2):
        refused = await refund(ada, transaction, key="one")
        assert (refused.status, refused.code) == (502, "upstream_failed")
    done = await refund(ada, transaction, key="one")
    assert (done.status, done.body["status"]) == (200, "refunded")
    assert (await refund(ada, transaction, key="one")).headers["Idempotency-Replayed"] == "true"
    assert await refunds_booked(shop) == 1


async def test_a_refund_that_stripe_broke_on_is_asked_for_anew_and_done_once(shop: Shop, sql: Sql) -> None:
    """Its error is the answer to whatever comes under the same key, for a day."""
    ada = await shop.customer("ada")
    transaction = await bought(shop, ada)
    await shop.stripe.control("POST", "answers", do="break", path="/v1/refunds")
    assert (await refund(ada, transaction, amount="10.00")).status == 202
    age = "UPDATE refunds SET created_at = now() - make_interval(mins => $1)"
    looks = "SELECT error FROM jobs WHERE kind = 'payment_refund' AND run_at > now() AND error <> ''"
    for minutes, why in ((4, "Stripe answered 500"), (6, "a refund may just"), (9, "a refund may just")):
        await sql.execute(age, minutes)
        await sql.execute("UPDATE jobs SET run_at = now(), error = NULL")
        assert (await shop.once(lambda: sql.fetchval(looks), bool)).startswith(why)
        assert await refunds_booked(shop) == 0
    await sql.execute(age, 11)
    await shop.becomes(ada, "partially_refunded")
    assert await refunds_booked(shop) == 1


async def test_a_refund_made_at_stripe_is_learned_of(shop: Shop, stripe: Any) -> None:
    ada = await shop.customer("ada")
    transaction = await bought(shop, ada)
    await made_at_stripe(stripe, transaction["transaction_reference"], amount=4900)
    await shop.becomes(ada, "refunded")
    assert not await shop.is_enrolled(ada)


async def test_a_refund_that_takes_its_time_counts_at_once_and_one_that_fails_not(shop: Shop) -> None:
    ada, ben = await shop.customer("ada", "pendingRefund"), await shop.customer("ben", "refundFail")
    slow = await refund(ada, await bought(shop, ada))
    assert slow.body["status"] == "refunded"
    assert not await shop.is_enrolled(ada)
    await refund(ben, await bought(shop, ben))
    await shop.stripe.advance(3 * 86_400)
    await shop.becomes(ben, "succeeded")
    assert await shop.is_enrolled(ben)


async def test_another_refund_that_is_told_before_the_first_is_known_to_have_failed_is_taken(
    shop: Shop, sql: Sql
) -> None:
    ada = await shop.customer("ada", "refundFail")
    transaction = await bought(shop, ada)
    await shop.stripe.control("POST", "answers", do="fail", status=403, times=1000, method="GET", path="/v1/events")
    await shop.stripe.control("POST", "webhooks", mode="hold")
    assert (await refund(ada, transaction)).status == 200
    await shop.stripe.advance(3 * 86_400)
    await made_at_stripe(shop.stripe, transaction["transaction_reference"])
    [_, second] = await shop.stripe.events("refund.created")
    assert await shop.stripe.deliver(second) == [200]
    assert (await shop.transaction(ada))["refunded_amount"] == "49.00"
    assert (await refund(ada, transaction)).code == "not_refundable"
    assert await sql.fetchval("SELECT count(*) FROM webhook_events WHERE status = 'dead'") == 0
    await shop.stripe.control("POST", "webhooks", mode="send")
    await shop.stripe.advance(3 * 86_400)
    await shop.stripe.control("POST", "webhooks/deliver")
    await shop.becomes(ada, "succeeded")


async def made_at_stripe(stripe: Any, intent: str, **params: Any) -> None:
    """By somebody at the dashboard."""
    import aiohttp  # noqa: PLC0415

    headers = {"Authorization": f"Bearer {stripe.settings['secret_key']}"}
    data = {"payment_intent": intent, **{name: str(value) for name, value in params.items()}}
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{stripe.origin}/v1/refunds", data=data, headers=headers) as answer,
    ):
        assert answer.status == 200, await answer.text()


# -- bought twice ------------------------------------------------------------------------------------------------------


async def test_a_course_that_was_paid_twice_after_all_is_given_back_once(shop: Shop, stripe: Any) -> None:
    """The first is declined for want of approval, but somebody still has its page open and pays there."""
    ada = await shop.customer("ada", "threeDSecure2Required")
    first = (await shop.buy(ada)).body
    await shop.stripe.control("POST", "answers", do="cut", method="POST", path="/v1/payment_intents/", times=50)
    await shop.stripe.approve(first["transaction"]["transaction_reference"], approved=False)
    await shop.becomes(ada, "failed")
    await shop.add_card(ada, "visa", is_default=True)
    assert (await shop.buy(ada)).status == 201
    second = await shop.transaction(ada)
    await shop.stripe.control("DELETE", "answers")
    await confirmed_elsewhere(stripe, first)
    path = f"/api/payments/transactions/{first['transaction']['id']}"

    async def look() -> Any:
        return (await ada.get(path)).body["status"]

    await shop.once(look, lambda status: status in ("refunded", "canceled", "failed"))
    await shop.stripe.all_told()
    await shop.once(look, lambda status: status != "succeeded")
    assert await shop.is_enrolled(ada)
    assert (await shop.transaction(ada))["id"] == second["id"]


async def paid_twice(shop: Shop, stripe: Any, card: str = "visa") -> tuple[Person, str]:
    """Whoever paid for the course twice, and the path of the payment that nobody waits for, made by this card."""
    ada = await shop.customer("ada", "threeDSecure2Required")
    first = (await shop.buy(ada)).body
    intent = first["transaction"]["transaction_reference"]
    cancel = f"/v1/payment_intents/{intent}/cancel"
    await shop.stripe.control("POST", "answers", do="fail", status=400, path=cancel, times=50)
    await shop.stripe.approve(intent, approved=False)
    await shop.becomes(ada, "failed")
    await shop.add_card(ada, "visa", is_default=True)
    assert (await shop.buy(ada)).status == 201
    await confirmed_elsewhere(stripe, first, card)
    return ada, f"/api/payments/transactions/{first['transaction']['id']}"


async def status_is(shop: Shop, person: Person, path: str, status: str) -> None:
    """Sooner or later."""

    async def look() -> Any:
        return (await person.get(path)).body["status"]

    await shop.once(look, lambda seen: seen == status)


async def dead_refunds(sql: Sql) -> list[Any]:
    """Why operators have to see to them."""
    rows = await sql.fetch("SELECT error FROM jobs WHERE kind = 'payment_refund' AND dead_at IS NOT NULL")
    return [row["error"] for row in rows]


async def test_what_was_paid_twice_and_stripe_will_not_give_back_is_seen_and_can_be_tried_again(
    shop: Shop, sql: Sql, stripe: Any, client: AppClient
) -> None:
    await shop.stripe.control("POST", "answers", do="fail", status=400, path="/v1/refunds")
    ada, path = await paid_twice(shop, stripe)
    [why] = await shop.once(lambda: dead_refunds(sql), bool)
    assert "Stripe answered 400" in why
    assert (await ada.get(path)).body["status"] == "succeeded"
    await queries("jobs").retry_jobs(client.app[DATABASE], job_id=None)
    await status_is(shop, ada, path, "refunded")
    assert await shop.is_enrolled(ada)
    assert await refunds_booked(shop) == 1
    assert await dead_refunds(sql) == []


async def test_what_was_paid_twice_and_comes_back_from_the_bank_is_seen_and_can_be_tried_again(
    shop: Shop, sql: Sql, stripe: Any, client: AppClient
) -> None:
    ada, path = await paid_twice(shop, stripe, card="refundFail")
    await status_is(shop, ada, path, "refunded")
    await shop.stripe.advance(3 * 86_400)
    await status_is(shop, ada, path, "succeeded")
    assert await dead_refunds(sql) == ["the refund came back"]
    await queries("jobs").retry_jobs(client.app[DATABASE], job_id=None)
    await status_is(shop, ada, path, "refunded")
    await shop.stripe.all_told()
    assert await refunds_booked(shop) == 2


async def test_what_was_paid_twice_is_given_back_after_a_dispute_that_is_won(shop: Shop, sql: Sql, stripe: Any) -> None:
    await shop.stripe.control("POST", "answers", do="fail", status=400, path="/v1/refunds")
    ada, path = await paid_twice(shop, stripe)
    await shop.once(lambda: dead_refunds(sql), bool)
    intent = (await ada.get(path)).body["transaction_reference"]
    dispute = await shop.stripe.control("POST", "disputes", payment_intent=intent)
    await status_is(shop, ada, path, "disputed")
    await shop.stripe.control("POST", f"disputes/{dispute['id']}/close", won=True)
    await status_is(shop, ada, path, "refunded")
    assert await shop.is_enrolled(ada)


async def confirmed_elsewhere(stripe: Any, purchase: Any, card: str = "visa") -> None:
    """With the client secret, as a browser may as long as the intent is open."""
    import aiohttp  # noqa: PLC0415

    intent = purchase["transaction"]["transaction_reference"]
    data = {"client_secret": purchase["client_secret"], "payment_method": f"pm_card_{card}"}
    headers = {"Authorization": f"Bearer {stripe.settings['secret_key']}"}
    url = f"{stripe.origin}/v1/payment_intents/{intent}/confirm"
    async with aiohttp.ClientSession() as http, http.post(url, data=data, headers=headers):
        return


# -- disputes ----------------------------------------------------------------------------------------------------------


async def test_a_dispute_suspends_and_one_that_is_won_restores(shop: Shop) -> None:
    ada = await shop.customer("ada")
    transaction = await bought(shop, ada)
    dispute = await shop.stripe.control(
        "POST", "disputes", payment_intent=transaction["transaction_reference"], reason="fraudulent"
    )
    await shop.becomes(ada, "disputed")
    assert not await shop.is_enrolled(ada)
    assert (await ada.post("/api/enrollments", {"course_id": shop.course["id"]})).code == "payment_required"
    assert (await shop.buy(ada)).code == "purchase_disputed"
    assert (await refund(ada, transaction)).code == "not_refundable"
    await shop.stripe.control("POST", f"disputes/{dispute['id']}/close", won=True)
    await shop.becomes(ada, "succeeded")
    assert await shop.is_enrolled(ada)


async def test_who_won_their_money_back_has_to_pay_again(shop: Shop) -> None:
    ada = await shop.customer("ada")
    transaction = await bought(shop, ada)
    dispute = await shop.stripe.control("POST", "disputes", payment_intent=transaction["transaction_reference"])
    await shop.stripe.control("POST", f"disputes/{dispute['id']}/close", won=False)
    await shop.stripe.all_told()
    assert (await shop.transaction(ada))["status"] == "disputed"
    assert not await shop.is_enrolled(ada)
    assert (await shop.buy(ada)).status == 201
    assert await shop.is_enrolled(ada)


# -- who left ----------------------------------------------------------------------------------------------------------


async def leave(person: Person) -> None:
    """For good."""
    assert (await person.ask("DELETE", "/api/auth/me", {"current_password": PASSWORD})).status == 204


async def status_of(sql: Sql) -> str:
    """Of the one transaction, whose owner cannot ask any more."""
    status: str = await sql.fetchval("SELECT status FROM transactions")
    return status


async def test_what_waits_for_the_bank_is_given_up_at_once_when_its_buyer_leaves(shop: Shop, sql: Sql) -> None:
    ada = await shop.customer("ada", "threeDSecure2Required")
    assert (await shop.buy(ada)).status == 202
    await sql.execute("UPDATE jobs SET run_at = now() + interval '1 hour'")
    await leave(ada)
    await shop.once(lambda: status_of(sql), lambda status: status == "canceled")


async def test_what_was_paid_when_its_buyer_had_left_is_given_back(shop: Shop, sql: Sql) -> None:
    ada = await shop.customer("ada", "threeDSecure2Required")
    intent = (await shop.buy(ada)).body["transaction"]["transaction_reference"]
    # Stripe cannot be asked to give it up before the bank's question is answered.
    path = f"/v1/payment_intents/{intent}/cancel"
    await shop.stripe.control("POST", "answers", do="fail", status=409, times=1000, path=path)
    await leave(ada)
    await shop.stripe.approve(intent)
    await shop.once(lambda: status_of(sql), lambda status: status == "refunded")
    assert await refunds_booked(shop) == 1
    assert await sql.fetchval("SELECT count(*) FROM enrollments WHERE is_active") == 0


async def test_what_is_just_being_noted_as_paid_when_its_buyer_leaves_is_given_back(shop: Shop, sql: Sql) -> None:
    ada = await shop.customer("ada", "threeDSecure2Required")
    intent = (await shop.buy(ada)).body["transaction"]["transaction_reference"]
    await shop.stripe.control("POST", "webhooks", mode="drop")
    async with sql.transaction():
        await sql.execute("SELECT 1 FROM transactions FOR UPDATE")
        await shop.stripe.approve(intent)
        waits = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        await shop.once(lambda: sql.fetchval(waits), lambda waiting: waiting > 0)
        await leave(ada)
    await shop.once(lambda: status_of(sql), lambda status: status == "refunded")
    assert await refunds_booked(shop) == 1


@pytest.mark.parametrize(("meanwhile", "status"), [(True, "refunded"), (False, "succeeded")])
async def test_what_was_paid_while_its_buyer_was_leaving_is_given_back(
    shop: Shop, sql: Sql, meanwhile: bool, status: str
) -> None:
    """Leaving takes a while, and who notes a payment meanwhile cannot know of it."""
    ada = await shop.customer("ada")
    await bought(shop, ada)
    await leave(ada)
    if meanwhile:
        await sql.execute("UPDATE users SET erased_at = t.succeeded_at - interval '1 ms' FROM transactions AS t")
    await sql.execute("UPDATE jobs SET run_at = now() WHERE kind = 'leftovers'")
    jobs = "SELECT count(*) FROM jobs WHERE kind IN ('leftovers', 'payment_refund')"
    await shop.once(lambda: sql.fetchval(jobs), lambda left: left == 0)
    assert await status_of(sql) == status
    shop.left.add(ada.id)


async def test_what_somebody_gave_back_at_stripe_meanwhile_is_no_work_for_an_operator(shop: Shop, sql: Sql) -> None:
    ada = await shop.customer("ada", "threeDSecure2Required")
    intent = (await shop.buy(ada)).body["transaction"]["transaction_reference"]
    await shop.stripe.control("POST", "webhooks", mode="drop")
    for method, path in (("GET", "/v1/"), ("POST", "/v1/payment_intents")):
        await shop.stripe.control("POST", "answers", do="fail", status=409, times=1000, method=method, path=path)
    await leave(ada)
    await shop.stripe.approve(intent)
    await made_at_stripe(shop.stripe, intent)
    await shop.stripe.control("DELETE", "answers")
    await shop.once(lambda: status_of(sql), lambda status: status == "refunded")
    jobs = "SELECT count(*) FROM jobs WHERE kind LIKE 'payment_refund%' AND dead_at IS NULL"
    await shop.once(lambda: sql.fetchval(jobs), lambda left: left == 0)
    assert await sql.fetchval("SELECT count(*) FROM jobs WHERE dead_at IS NOT NULL") == 0
    assert await refunds_booked(shop) == 1


async def test_what_was_paid_before_its_buyer_left_stays_paid(shop: Shop, sql: Sql) -> None:
    ada = await shop.customer("ada")
    transaction = await bought(shop, ada)
    dispute = await shop.stripe.control("POST", "disputes", payment_intent=transaction["transaction_reference"])
    await shop.becomes(ada, "disputed")
    await leave(ada)
    await shop.stripe.control("POST", f"disputes/{dispute['id']}/close", won=True)
    await shop.once(lambda: status_of(sql), lambda status: status == "succeeded")
    assert await sql.fetchval("SELECT count(*) FROM refunds") == 0
    shop.left.add(ada.id)

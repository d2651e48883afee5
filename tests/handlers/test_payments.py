"""Cards and purchases: what is paid is enrolled, once, and no card number comes in."""

import asyncio
from uuid import uuid4

import pytest

from tests.support.app import serving_unlimited
from tests.support.people import PASSWORD, People
from tests.support.shop import Shop, Sql, at_stripe, overrides, shop, stripe
from tests.support.stripe import LocalService

__all__ = ["overrides", "shop", "stripe"]

CARD_NUMBERS = ("4242424242424242", "4242 4242 4242 4242", "4242-4242-4242-4242", "378282246310005", "5555555555554444")


# -- cards -------------------------------------------------------------------------------------------------------------


async def test_a_card_is_shown_by_its_last_digits_and_its_token_never(shop: Shop, sql: Sql) -> None:
    ada = await shop.people.join("ada")
    card = await shop.add_card(ada, "visa")
    assert set(card) == {
        "id", "provider", "brand", "card_last_four", "card_expiry", "is_default", "created_at", "updated_at",
    }  # fmt: skip
    assert (card["provider"], card["brand"], card["card_last_four"], card["is_default"]) == (
        "stripe", "visa", "4242", True,
    )  # fmt: skip
    month, _, year = card["card_expiry"].partition("/")
    assert (len(month), len(year)) == (2, 4)
    assert (await ada.get(f"/api/payments/methods/{card['id']}")).body == card
    sealed = await sql.fetchval("SELECT sealed_token FROM payment_methods")
    assert b"pm_" not in sealed
    everything = str([await ada.get(path) for path in ("/api/payments/methods", "/api/auth/me/export")])
    assert "pm_" not in everything.replace("payment_method", "")


async def test_the_first_card_is_the_default_and_another_takes_its_place(shop: Shop) -> None:
    ada = await shop.people.join("ada")
    first, second, third = [await shop.add_card(ada, name) for name in ("visa", "mastercard", "amex")]
    listed = (await ada.get("/api/payments/methods")).body["items"]
    assert [(row["id"], row["is_default"]) for row in listed] == [
        (third["id"], False), (second["id"], False), (first["id"], True),
    ]  # fmt: skip
    fourth = await shop.add_card(ada, "discover", is_default=True)
    assert fourth["is_default"]
    assert (await ada.delete(f"/api/payments/methods/{fourth['id']}")).status == 204
    assert (await ada.delete(f"/api/payments/methods/{fourth['id']}")).status == 404
    assert (await ada.get(f"/api/payments/methods/{fourth['id']}")).code == "payment_method_not_found"
    listed = (await ada.get("/api/payments/methods")).body["items"]
    assert [row["is_default"] for row in listed] == [True, False, False]


async def test_a_removed_card_is_forgotten_here_and_at_stripe(shop: Shop, sql: Sql) -> None:
    ada = await shop.customer("ada")
    bought = (await shop.buy(ada)).body["transaction"]
    card = (await ada.get("/api/payments/methods")).body["items"][0]
    assert bought["payment_method_id"] == card["id"]
    assert (await ada.delete(f"/api/payments/methods/{card['id']}")).status == 204
    await shop.once(lambda: sql.fetchval("SELECT count(*) FROM payment_methods"), lambda count: count == 0)
    assert [event["type"] for event in await shop.stripe.events("payment_method.detached")] != []
    assert (await shop.transaction(ada))["payment_method_id"] is None


async def test_the_same_card_again_is_the_same_row_and_anothers_is_refused(shop: Shop) -> None:
    ada, ben = await shop.people.join("ada"), await shop.people.join("ben")
    first = await shop.add_card(ada, "visa")
    attached = (await shop.stripe.events("payment_method.attached"))[0]["data"]["object"]["id"]
    again = await ada.post("/api/payments/methods", {"token": attached})
    assert (again.status, again.body["id"]) == (200, first["id"])
    refused = await ben.post("/api/payments/methods", {"token": attached})
    assert (refused.status, refused.pointers) == (422, ["/token"])
    unknown = await ben.post("/api/payments/methods", {"token": "pm_unknown"})
    assert (unknown.status, unknown.pointers) == (422, ["/token"])
    declined = await ben.post("/api/payments/methods", {"token": "pm_card_visa_chargeDeclined"})
    assert (declined.status, declined.code) == (402, "card_declined")


async def test_a_card_that_is_being_removed_is_not_taken_again(shop: Shop, sql: Sql) -> None:
    ada = await shop.people.join("ada")
    card = await shop.add_card(ada, "visa")
    token = (await shop.stripe.events("payment_method.attached"))[0]["data"]["object"]["id"]
    # Stripe is not told yet.
    detaching = f"/v1/payment_methods/{token}/detach"
    await shop.stripe.control("POST", "answers", do="fail", status=409, times=1000, path=detaching)
    assert (await ada.delete(f"/api/payments/methods/{card['id']}")).status == 204
    again = await ada.post("/api/payments/methods", {"token": token})
    assert (again.status, again.pointers) == (422, ["/token"])


async def test_who_was_deleted_at_stripe_can_pay_again_by_a_new_card(shop: Shop, sql: Sql) -> None:
    ada = await shop.customer("ada", "threeDSecure2Required")
    waiting = (await shop.buy(ada)).body["transaction"]
    customer = await sql.fetchval("SELECT stripe_id FROM customers")
    await at_stripe(shop.stripe, "DELETE", f"/v1/customers/{customer}")
    other = await shop.make_course()
    assert (await shop.buy(ada, other)).body["failure_code"] == "payment_method_unusable"
    card = await shop.add_card(ada, "visa")
    assert [row["id"] for row in (await ada.get("/api/payments/methods")).body["items"]] == [card["id"]]
    assert (await shop.buy(ada, other)).status == 201
    # What was begun before is Ada's still.
    assert (await ada.delete(f"/api/payments/transactions/{waiting['id']}")).body["status"] == "canceled"
    assert (await shop.buy(ada)).status == 201


async def test_a_customer_on_whom_stripe_broke_is_made_anew(shop: Shop) -> None:
    ada = await shop.people.join("ada")
    await shop.stripe.control("POST", "answers", do="break", path="/v1/customers")
    assert (await ada.post("/api/payments/methods", {"token": "pm_card_visa"})).status == 503
    await shop.once(
        lambda: ada.post("/api/payments/methods", {"token": "pm_card_visa"}), lambda answer: answer.status == 201
    )


@pytest.mark.parametrize("number", CARD_NUMBERS)
async def test_a_card_number_is_refused_wherever_it_stands_and_never_said_again(shop: Shop, number: str) -> None:
    ada = await shop.people.join("ada")
    for body, pointer in (
        ({"token": number}, "/token"),
        ({"token": f"pm_{number}"}, "/token"),
        ({"token": "pm_card_visa", "number": number}, "/number"),
        ({"token": "pm_card_visa", "card": {"number": number, "cvc": "123"}}, "/card"),
        ({"token": "pm_card_visa", number: True}, "/[card number]"),
    ):
        answer = await ada.post("/api/payments/methods", body)
        assert (answer.status, answer.pointers) == (422, [pointer]), body
        assert number not in str(answer.body)
    refund = await ada.post(f"/api/payments/transactions/{uuid4()}/refund", {"reason": f"by {number}"})
    assert (refund.status, refund.pointers) == (422, ["/reason"])


# -- purchases ---------------------------------------------------------------------------------------------------------


async def test_what_is_paid_is_enrolled(shop: Shop) -> None:
    ada = await shop.customer("ada")
    answer = await shop.buy(ada)
    assert answer.status == 201
    transaction, enrollment = answer.body["transaction"], answer.body["enrollment"]
    assert answer.headers["Location"] == f"/api/payments/transactions/{transaction['id']}"
    assert set(transaction) == {
        "id", "user_id", "course_id", "subscription_id", "payment_method_id", "amount", "currency", "status",
        "refunded_amount", "transaction_reference", "failure_code", "created_at", "updated_at",
    }  # fmt: skip
    assert (transaction["status"], transaction["amount"], transaction["currency"]) == ("succeeded", "49.00", "usd")
    assert transaction["transaction_reference"].startswith("pi_")
    assert (enrollment["source"], enrollment["transaction_id"], enrollment["is_active"]) == (
        "purchase", transaction["id"], True,
    )  # fmt: skip
    assert (await ada.get(f"/api/payments/transactions/{transaction['id']}")).body == transaction
    again = await shop.buy(ada)
    assert (again.status, again.code) == (409, "already_enrolled")


async def test_a_purchase_needs_a_key_and_the_same_key_gives_the_same_answer(shop: Shop) -> None:
    ada = await shop.customer("ada")
    path = f"/api/payments/purchase/course/{shop.course['id']}"
    refused = await ada.post(path, {})
    assert (refused.status, refused.code) == (400, "idempotency_key_required")
    first = await shop.buy(ada, key="one")
    again = await shop.buy(ada, key="one")
    assert (again.status, again.body) == (201, first.body)
    assert again.headers["Idempotency-Replayed"] == "true"
    other = await shop.make_course()
    reused = await shop.buy(ada, other, key="one")
    assert (reused.status, reused.code) == (422, "idempotency_key_reused")


async def test_who_need_not_pay_is_told_so(shop: Shop) -> None:
    ada, root = await shop.customer("ada"), await shop.people.join("root", "admin")
    free = await shop.make_course("0.00")
    draft = await shop.make_course(status="draft")
    for person, course, status, code in (
        (ada, free, 409, "course_is_free"),
        (shop.teacher, shop.course, 409, "already_entitled"),
        (root, shop.course, 409, "already_entitled"),
        (ada, draft, 404, "course_not_found"),
        (ada, {"id": uuid4()}, 404, "course_not_found"),
    ):
        answer = await shop.buy(person, course)
        assert (answer.status, answer.code) == (status, code)
    await root.make("/api/enrollments", {"course_id": shop.course["id"], "user_id": ada.id})
    assert (await shop.buy(ada)).code == "already_enrolled"


async def test_without_a_card_of_ones_own_nothing_is_bought(shop: Shop) -> None:
    ada, ben = await shop.people.join("ada"), await shop.customer("ben")
    assert (await shop.buy(ada)).pointers == ["/payment_method_id"]
    bens = (await ben.get("/api/payments/methods")).body["items"][0]["id"]
    assert (await shop.buy(ada, payment_method_id=bens)).pointers == ["/payment_method_id"]


async def test_who_left_what_they_bought_enrols_again_without_paying(shop: Shop) -> None:
    ada = await shop.customer("ada")
    await shop.buy(ada)
    await ada.delete(f"/api/enrollments/courses/{shop.course['id']}")
    assert (await shop.buy(ada)).code == "already_enrolled"
    assert (await ada.post("/api/enrollments", {"course_id": shop.course["id"]})).status == 201


@pytest.mark.parametrize(("currency", "price", "minor"), [("eur", "0.50", 50), ("jpy", "4900.00", 4900)])
async def test_amounts_are_exact_in_every_currency(shop: Shop, currency: str, price: str, minor: int) -> None:
    ada = await shop.customer("ada")
    course = await shop.make_course(price, currency=currency)
    answer = await shop.buy(ada, course)
    assert (answer.status, answer.body["transaction"]["amount"]) == (201, price)
    (line,) = [line for line in await shop.stripe.ledger() if line["type"] == "charge"]
    assert (line["amount"], line["currency"]) == (minor, currency)


async def test_the_price_is_that_of_the_moment_it_was_asked_for(shop: Shop) -> None:
    ada = await shop.customer("ada", "threeDSecure2Required")
    waiting = (await shop.buy(ada, key="k")).body["transaction"]
    await shop.teacher.put(f"/api/courses/{shop.course['id']}", {"price": "99.00"})
    await shop.stripe.approve(waiting["transaction_reference"])
    assert (await shop.becomes(ada, "succeeded"))["amount"] == "49.00"


# -- declined, and to be approved --------------------------------------------------------------------------------------


async def test_a_declined_card_buys_nothing_and_another_does(shop: Shop) -> None:
    ada = await shop.customer("ada", "chargeCustomerFail")
    answer = await shop.buy(ada, key="one")
    assert (answer.status, answer.code, answer.body["failure_code"]) == (402, "card_declined", "generic_decline")
    row = await shop.transaction(ada)
    assert (row["id"], row["status"]) == (answer.body["transaction_id"], "failed")
    assert not await shop.is_enrolled(ada)
    assert (await shop.buy(ada, key="one")).status == 402
    await shop.once(lambda: shop.stripe.events("payment_intent.canceled"), bool)
    await shop.stripe.all_told()
    assert (await shop.transaction(ada))["status"] == "failed"
    await shop.add_card(ada, "visa", is_default=True)
    assert (await shop.buy(ada)).status == 201


async def test_a_purchase_that_the_bank_wants_approved_waits_for_it(shop: Shop) -> None:
    ada = await shop.customer("ada", "threeDSecure2Required")
    answer = await shop.buy(ada)
    assert answer.status == 202
    transaction = answer.body["transaction"]
    assert (transaction["status"], answer.body["enrollment"]) == ("requires_action", None)
    assert answer.body["client_secret"].startswith(transaction["transaction_reference"])
    assert answer.body["action_url"].startswith(shop.stripe.origin)
    pending = await shop.buy(ada)
    assert (pending.status, pending.code) == (409, "purchase_pending")
    assert pending.body["transaction_id"] == transaction["id"]
    await shop.stripe.approve(transaction["transaction_reference"])
    await shop.becomes(ada, "succeeded")
    assert await shop.is_enrolled(ada)


async def test_who_does_not_approve_has_bought_nothing(shop: Shop) -> None:
    ada = await shop.customer("ada", "threeDSecure2Required")
    transaction = (await shop.buy(ada)).body["transaction"]
    await shop.stripe.approve(transaction["transaction_reference"], approved=False)
    await shop.becomes(ada, "failed")
    assert not await shop.is_enrolled(ada)


async def test_a_purchase_can_be_given_up_while_it_is_open(shop: Shop) -> None:
    ada, ben = await shop.customer("ada", "threeDSecure2Required"), await shop.customer("ben")
    transaction = (await shop.buy(ada, key="one")).body["transaction"]
    path = f"/api/payments/transactions/{transaction['id']}"
    assert (await ben.delete(path)).status == 404
    answer = await ada.delete(path)
    assert (answer.status, answer.body["status"]) == (200, "canceled")
    refused = await ada.delete(path)
    assert (refused.status, refused.code) == (409, "not_cancelable")
    (event,) = await shop.stripe.events("payment_intent.canceled")
    assert event["data"]["object"]["id"] == transaction["transaction_reference"]
    await shop.add_card(ada, "visa", is_default=True)
    assert (await shop.buy(ada)).status == 201
    bought = (await shop.transaction(ada))["id"]
    assert (await ada.delete(f"/api/payments/transactions/{bought}")).code == "not_cancelable"


async def test_an_abandoned_purchase_is_given_up_in_the_end(shop: Shop, sql: Sql) -> None:
    ada = await shop.customer("ada", "threeDSecure2Required")
    await shop.buy(ada)
    await sql.execute("UPDATE jobs SET created_at = created_at - interval '2 hours'")
    await shop.becomes(ada, "canceled")


# -- answers that are lost ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fate", ["lose", "cut", "fail"])
async def test_a_lost_answer_charges_once_and_the_same_request_ends_it(shop: Shop, fate: str) -> None:
    ada = await shop.customer("ada")
    await shop.stripe.control("POST", "answers", do=fate, path="/v1/payment_intents", times=2)
    lost = await shop.buy(ada, key="one")
    assert (lost.status, lost.body["retryable"]) == (503, True)
    answer = await shop.buy(ada, key="one")
    assert answer.status == 201
    assert len([line for line in await shop.stripe.ledger() if line["type"] == "charge"]) == 1


async def test_what_was_charged_without_an_answer_is_found_out_by_itself(shop: Shop) -> None:
    ada = await shop.customer("ada")
    await shop.stripe.control("POST", "webhooks", mode="drop")
    await shop.stripe.control("POST", "answers", do="lose", path="/v1/payment_intents", times=2)
    assert (await shop.buy(ada)).status == 503
    await shop.becomes(ada, "succeeded")
    assert await shop.is_enrolled(ada)


async def test_what_never_reached_stripe_is_not_charged_later(shop: Shop) -> None:
    ada = await shop.customer("ada")
    await shop.stripe.control("POST", "answers", do="cut", path="/v1/payment_intents", times=2)
    assert (await shop.buy(ada, key="one")).status == 503
    transaction = await shop.transaction(ada)
    assert transaction["status"] == "pending"
    assert (await shop.buy(ada, key="two")).code == "purchase_pending"
    answer = await ada.delete(f"/api/payments/transactions/{transaction['id']}")
    assert (answer.status, answer.body["status"]) == (200, "canceled")
    late = await shop.buy(ada, key="one")
    assert (late.status, late.code) == (409, "purchase_canceled")
    assert await shop.stripe.ledger() == []


async def test_what_broke_at_stripe_is_given_up_though_its_key_is_used_up(shop: Shop, sql: Sql) -> None:
    ada = await shop.customer("ada")
    await shop.stripe.control("POST", "answers", do="break", path="/v1/payment_intents")
    assert (await shop.buy(ada, key="one")).status == 503
    path = f"/api/payments/transactions/{(await shop.transaction(ada))['id']}"
    assert (await ada.delete(path)).status == 503  # it may just be being made
    await sql.execute("UPDATE transactions SET created_at = created_at - interval '6 minutes'")
    given_up = await shop.once(lambda: ada.delete(path), lambda answer: answer.status != 503)
    assert (given_up.status, given_up.body["status"]) == (200, "canceled")
    assert (await shop.buy(ada, key="two")).status == 201


async def test_while_stripe_is_left_alone_nothing_stays_open(shop: Shop, stripe: LocalService) -> None:
    ada = await shop.customer("ada")
    await stripe.stop()
    answers = [await shop.buy(ada, key=str(number)) for number in range(8)]
    assert {answer.status for answer in answers} <= {503, 409}
    await stripe.start()
    for number in range(8):
        await shop.once(lambda n=number: shop.buy(ada, key=str(n)), lambda answer: answer.status != 503)
    assert len([line for line in await shop.stripe.ledger() if line["type"] == "charge"]) == 1


async def test_many_at_once_charge_once(shop: Shop) -> None:
    ada = await shop.customer("ada")
    keys = ["same"] * 10 + [str(number) for number in range(10)]
    answers = await asyncio.gather(*(shop.buy(ada, key=key) for key in keys))
    assert [answer.status for answer in answers].count(201) >= 1
    assert {answer.code for answer in answers if answer.status != 201} <= {
        "idempotency_key_in_use", "purchase_pending", "already_enrolled",
    }  # fmt: skip
    assert len([line for line in await shop.stripe.ledger() if line["type"] == "charge"]) == 1


# -- whose it is -------------------------------------------------------------------------------------------------------


async def test_transactions_are_ones_own(shop: Shop) -> None:
    ada, ben = await shop.customer("ada"), await shop.customer("ben")
    root = await shop.people.join("root", "admin")
    bought = (await shop.buy(ada)).body["transaction"]
    assert (await ben.get("/api/payments/transactions")).body["items"] == []
    for person in (ben, root, shop.teacher):
        answer = await person.get(f"/api/payments/transactions/{bought['id']}")
        assert (answer.status, answer.code) == (404, "transaction_not_found")


async def test_who_left_has_no_card_any_more_and_what_was_paid_stays(shop: Shop, sql: Sql) -> None:
    ada = await shop.customer("ada")
    await shop.buy(ada)
    shop.left.add(ada.id)
    export = (await ada.get("/api/auth/me/export")).body["tables"]
    assert [row["card_last_four"] for row in export["payment_methods"]] == ["4242"]
    assert (await ada.ask("DELETE", "/api/auth/me", {"current_password": PASSWORD})).status == 204
    await shop.once(lambda: sql.fetchval("SELECT count(*) FROM payment_methods"), lambda count: count == 0)
    assert await sql.fetchval("SELECT status FROM transactions") == "succeeded"


async def test_who_left_is_charged_for_nothing_that_waits_for_the_bank(shop: Shop, sql: Sql) -> None:
    ada = await shop.customer("ada", "threeDSecure2Required")
    assert (await shop.buy(ada)).status == 202
    assert (await ada.ask("DELETE", "/api/auth/me", {"current_password": PASSWORD})).status == 204
    await shop.once(lambda: sql.fetchval("SELECT status FROM transactions"), lambda status: status == "canceled")
    assert await shop.stripe.ledger() == []


async def test_without_stripe_nothing_is_begun(postgres_dsn: str, redis_url: str, sql: Sql) -> None:
    async with serving_unlimited(postgres_dsn, redis_url, {}) as client:
        people = People(client, sql)
        teacher, ada = await people.join("teacher", "instructor"), await people.join("ada")
        course = await teacher.make("/api/courses", {"title": "Queues", "status": "published", "price": "49.00"})
        await sql.execute(
            "INSERT INTO payment_methods (user_id, sealed_token, token_hash, brand, card_last_four, card_expiry,"
            " is_default) VALUES ($1, '', '', 'visa', '4242', '12/2040', true)",
            ada.id,
        )
        key = {"Idempotency-Key": "one"}
        answer = await ada.post(f"/api/payments/purchase/course/{course['id']}", {}, headers=key)
        assert (answer.status, answer.code) == (503, "not_configured")
        assert await sql.fetchval("SELECT count(*) FROM transactions") == 0

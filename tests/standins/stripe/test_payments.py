from __future__ import annotations

import asyncio
from typing import Any

import pytest
import stripe

from tests.standins.stripe.conftest import Service

NOT_MUCH = {"enabled": True, "allow_redirects": "never"}


async def test_a_confirmed_payment_is_charged_and_tells_so(service: Service) -> None:
    customer, method = await service.customer()
    intent = await service.pay(method, customer=customer, metadata={"order": "7"}, expand=["latest_charge"])
    assert (intent.status, intent.amount_received, intent.metadata["order"]) == ("succeeded", 4900, "7")
    charge = intent.latest_charge
    assert isinstance(charge, stripe.Charge)
    assert (charge.paid, charge.amount, charge.payment_method, charge.metadata["order"]) == (True, 4900, method, "7")
    assert (await service.events())[-3:] == ["payment_intent.created", "charge.succeeded", "payment_intent.succeeded"]
    assert await service.ledger() == {"usd": 4900}


@pytest.mark.parametrize(
    ("card", "code", "decline_code"),
    [
        ("pm_card_visa_chargeDeclined", "card_declined", "generic_decline"),
        ("pm_card_chargeDeclined", "card_declined", "generic_decline"),
        ("pm_card_chargeDeclinedInsufficientFunds", "card_declined", "insufficient_funds"),
        ("pm_card_chargeDeclinedExpiredCard", "expired_card", "expired_card"),
        ("pm_card_chargeDeclinedProcessingError", "processing_error", "processing_error"),
    ],
)
async def test_a_card_that_is_declined_at_once_can_neither_pay_nor_be_kept(
    service: Service, card: str, code: str, decline_code: str
) -> None:
    with pytest.raises(stripe.CardError) as paying:
        await service.pay(card)
    error = paying.value.error
    assert error is not None
    assert (paying.value.http_status, error.code, error.decline_code) == (402, code, decline_code)
    assert error.payment_intent.status == "requires_payment_method"
    intent = await service.api.payment_intents.retrieve_async(error.payment_intent.id)
    assert intent.last_payment_error is not None
    assert intent.last_payment_error.code == code
    customer = await service.api.customers.create_async()
    with pytest.raises(stripe.CardError):
        await service.api.payment_methods.attach_async(card, {"customer": customer.id})
    assert await service.ledger() == {}


async def test_a_card_that_is_declined_on_charge_is_kept_and_another_may_pay_instead(service: Service) -> None:
    customer, method = await service.customer("pm_card_chargeCustomerFail")
    with pytest.raises(stripe.CardError) as declined:
        await service.pay(method, customer=customer)
    assert declined.value.error is not None
    intent = declined.value.error.payment_intent
    again = await service.api.payment_intents.confirm_async(intent.id, {"payment_method": "pm_card_visa"})
    assert (again.status, again.last_payment_error) == ("succeeded", None)
    assert "payment_intent.payment_failed" in await service.events()
    charges = await service.api.charges.list_async({"payment_intent": intent.id})
    assert [charge.status for charge in charges.data] == ["succeeded", "failed"]


async def test_a_card_expires(service: Service) -> None:
    customer, method = await service.customer()
    await service.control("POST", "clock", advance_s=400 * 86_400)
    with pytest.raises(stripe.CardError) as declined:
        await service.pay(method, customer=customer)
    assert declined.value.code == "expired_card"
    await service.api.payment_methods.update_async(method, {"card": {"exp_year": 2099}})
    assert (await service.pay(method, customer=customer)).status == "succeeded"


# -- 3-D Secure --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("approved", [True, False])
async def test_the_holder_is_asked_on_a_page_and_sent_back(service: Service, approved: bool) -> None:
    intent = await service.pay("pm_card_threeDSecure2Required", return_url="http://learn.test/back?a=1")
    assert (intent.status, intent.latest_charge) == ("requires_action", None)
    assert intent.next_action is not None
    assert intent.next_action.redirect_to_url is not None
    url = intent.next_action.redirect_to_url.url
    assert url is not None
    path = url.removeprefix(service.settings.public_url)
    async with service.client.get(path) as page:
        assert "49.00 usd" in await page.text()
    async with service.client.post(
        path, data={"approved": "yes" if approved else "no"}, allow_redirects=False
    ) as answer:
        assert answer.status == 303
        back = answer.headers["Location"]
    assert back.startswith(f"http://learn.test/back?a=1&payment_intent={intent.id}&")
    assert back.endswith("succeeded" if approved else "failed")
    after = await service.api.payment_intents.retrieve_async(intent.id)
    assert after.status == ("succeeded" if approved else "requires_payment_method")
    assert await service.ledger() == ({"usd": 4900} if approved else {})


async def test_without_an_address_to_return_to_the_page_of_the_browser_is_told_where_to_ask(service: Service) -> None:
    intent = await service.pay("pm_card_authenticationRequired")
    assert intent.next_action is not None
    assert intent.next_action.type == "use_stripe_sdk"
    browser = stripe.StripeClient(
        service.settings.publishable_key,
        base_addresses={"api": service.settings.public_url},
        http_client=(http := stripe.AIOHTTPClient()),
    )
    assert intent.client_secret is not None
    seen = await browser.v1.payment_intents.retrieve_async(intent.id, {"client_secret": intent.client_secret})
    assert seen.status == "requires_action"
    with pytest.raises(stripe.AuthenticationError):
        await browser.v1.payment_intents.list_async()
    with pytest.raises(stripe.InvalidRequestError):
        await browser.v1.payment_intents.retrieve_async(intent.id, {"client_secret": "x"})
    await http.close_async()
    done = await service.control("POST", f"payment_intents/{intent.id}/authenticate", approved=True)
    assert done["status"] == "succeeded"


async def test_nobody_can_be_asked_while_nobody_is_there(service: Service) -> None:
    customer, method = await service.customer("pm_card_authenticationRequired")
    for absent in ({"off_session": True}, {"error_on_requires_action": True}):
        with pytest.raises(stripe.CardError) as refused:
            await service.pay(method, customer=customer, **absent)
        assert refused.value.code == "authentication_required"


async def test_a_card_that_was_set_up_asks_no_more(service: Service) -> None:
    customer, method = await service.customer("pm_card_authenticationRequiredOnSetup")
    first = await service.pay(method, customer=customer, setup_future_usage="off_session")
    await service.control("POST", f"payment_intents/{first.id}/authenticate")
    assert (await service.pay(method, customer=customer, off_session=True)).status == "succeeded"


async def test_an_approved_payment_may_be_declined_after_all(service: Service) -> None:
    intent = await service.pay("pm_card_authenticationRequiredChargeDeclinedInsufficientFunds")
    after = await service.control("POST", f"payment_intents/{intent.id}/authenticate", approved=True)
    assert after["status"] == "requires_payment_method"
    assert after["last_payment_error"]["decline_code"] == "insufficient_funds"


# -- what cannot be done -----------------------------------------------------------------------------------------------


async def test_an_open_payment_is_given_up_and_no_other(service: Service) -> None:
    open_one = await service.pay("pm_card_threeDSecure2Required")
    given_up = await service.api.payment_intents.cancel_async(open_one.id, {"cancellation_reason": "abandoned"})
    assert (given_up.status, given_up.cancellation_reason) == ("canceled", "abandoned")
    paid = await service.pay()
    for intent in (open_one, paid):
        with pytest.raises(stripe.InvalidRequestError) as refused:
            await service.api.payment_intents.cancel_async(intent.id)
        assert refused.value.code == "payment_intent_unexpected_state"
    with pytest.raises(stripe.InvalidRequestError) as refused:
        await service.api.payment_intents.confirm_async(paid.id)
    assert "already succeeded" in str(refused.value)


@pytest.mark.parametrize(
    ("params", "code", "param"),
    [
        ({"amount": 49}, "amount_too_small", "amount"),
        ({"amount": 100_000_000}, "amount_too_large", "amount"),
        ({"amount": "x"}, "parameter_invalid_integer", "amount"),
        ({"customer": "cus_none"}, "resource_missing", "customer"),
        ({"payment_method": "pm_none"}, "resource_missing", "payment_method"),
        ({"payment_method_types": ["card"]}, "payment_method_types_no_longer_supported", "payment_method_types"),
        ({"colour": "red"}, "parameter_unknown", "colour"),
        ({"metadata": {"a" * 41: "b"}}, None, f"metadata[{'a' * 41}]"),
        ({"automatic_payment_methods": {"enabled": True}}, None, None),
        ({"expand": ["nothing"]}, None, "expand"),
    ],
)
async def test_what_is_wrong_is_named_and_nothing_is_left_behind(
    service: Service, params: dict[str, Any], code: str | None, param: str | None
) -> None:
    with pytest.raises(stripe.InvalidRequestError) as refused:
        await service.pay(**params)
    assert (refused.value.http_status, refused.value.code, refused.value.param) == (400, code, param)
    assert (await service.api.payment_intents.list_async()).data == []
    assert await service.events() == []


async def test_an_amount_is_needed(service: Service) -> None:
    with pytest.raises(stripe.InvalidRequestError) as refused:
        await service.api.payment_intents.create_async({"currency": "usd"})  # type: ignore[typeddict-item]
    assert (refused.value.code, refused.value.param) == ("parameter_missing", "amount")


async def test_another_customers_card_pays_nothing(service: Service) -> None:
    _, method = await service.customer()
    other = await service.api.customers.create_async()
    for params in ({"customer": other.id}, {}):
        with pytest.raises(stripe.InvalidRequestError):
            await service.pay(method, **params)


async def test_a_card_without_a_customer_pays_once_and_one_taken_away_never_again(service: Service) -> None:
    once = await service.api.payment_methods.create_async({"type": "card", "card": {"token": "tok_visa"}})
    assert (await service.pay(once.id)).status == "succeeded"
    customer, kept = await service.customer("pm_card_mastercard")
    assert (await service.api.payment_methods.detach_async(kept)).customer is None
    for method in (once.id, kept):
        with pytest.raises(stripe.InvalidRequestError):
            await service.pay(method)
        with pytest.raises(stripe.InvalidRequestError):
            await service.api.payment_methods.attach_async(method, {"customer": customer})


async def test_a_wrong_key_and_an_unknown_address_are_told(service: Service) -> None:
    client = stripe.StripeClient(
        "sk_test_wrong",
        base_addresses={"api": service.settings.public_url},
        http_client=(http := stripe.AIOHTTPClient()),
    )
    with pytest.raises(stripe.AuthenticationError):
        await client.v1.customers.list_async()
    await http.close_async()
    with pytest.raises(stripe.InvalidRequestError) as refused:
        await service.api.payouts.list_async()
    assert refused.value.http_status == 404
    with pytest.raises(stripe.InvalidRequestError) as missing:
        await service.api.charges.retrieve_async("ch_none")
    assert (missing.value.http_status, missing.value.code) == (404, "resource_missing")


# -- customers and their cards -----------------------------------------------------------------------------------------


async def test_a_card_is_made_of_a_number_in_a_browser_and_the_number_is_not_kept(service: Service) -> None:
    card: Any = {"number": "5555 5555 5555 4444", "exp_month": 12, "exp_year": 34, "cvc": "123"}
    method = await service.api.payment_methods.create_async({"type": "card", "card": card})
    assert method.card is not None
    assert (method.card.brand, method.card.last4, method.card.exp_year) == ("mastercard", "4444", 2034)
    assert b"5555555555554444" not in await asyncio.to_thread((service.settings.data_dir / "stripe.sqlite").read_bytes)
    card["number"] = "4000000000000000"
    with pytest.raises(stripe.CardError) as declined:
        await service.api.payment_methods.create_async({"type": "card", "card": card})
    assert "4000000000000000" not in str(declined.value.json_body)


async def test_customers_are_kept_changed_listed_and_deleted(service: Service) -> None:
    customer, method = await service.customer()
    changed = await service.api.customers.update_async(
        customer, {"invoice_settings": {"default_payment_method": method}, "metadata": {"a": "1", "b": "2"}}
    )
    assert changed.invoice_settings is not None
    assert changed.invoice_settings.default_payment_method == method
    changed = await service.api.customers.update_async(customer, {"metadata": {"a": ""}})
    assert changed.metadata is not None
    assert changed.metadata.to_dict() == {"b": "2"}
    methods = await service.api.customers.payment_methods.list_async(customer)
    assert [kept.id for kept in methods.data] == [method]
    assert [found.id for found in (await service.api.customers.list_async({"email": "ada@example.org"})).data] == [
        customer
    ]
    assert (await service.api.customers.delete_async(customer)).deleted
    assert (await service.api.customers.retrieve_async(customer)).deleted
    with pytest.raises(stripe.InvalidRequestError):
        await service.pay(customer=customer)


async def test_lists_go_on_from_page_to_page_in_both_directions(service: Service) -> None:
    made = [(await service.pay(amount=100 + n)).id for n in range(5)]
    newest = await service.api.payment_intents.list_async({"limit": 2})
    assert ([intent.id for intent in newest.data], newest.has_more) == ([made[4], made[3]], True)
    assert [intent.id async for intent in newest.auto_paging_iter()] == made[::-1]
    before = await service.api.payment_intents.list_async({"limit": 2, "ending_before": made[1]})
    assert ([intent.id for intent in before.data], before.has_more) == ([made[3], made[2]], True)
    assert (await service.api.payment_intents.list_async({"created": {"lt": newest.data[0].created - 60}})).data == []


async def test_a_payment_is_found_by_its_metadata_after_a_while(service: Service, start: Any) -> None:
    wanted = await service.pay(metadata={"transaction_id": "a'b"}, amount=100)
    await service.pay(metadata={"transaction_id": "c"}, amount=200)
    search = service.api.payment_intents.search_async
    found = await search({"query": "metadata['transaction_id']:\"a'b\" AND status:'succeeded'"})
    assert [intent.id for intent in found.data] == [wanted.id]
    assert len((await search({"query": "metadata['transaction_id']:'c' OR amount<150"})).data) == 2
    assert (await search({"query": "-metadata['transaction_id']:'c' AND amount>150"})).data == []
    for query in ("", "metadata", "status:'a' AND status:'b' OR status:'c'"):
        with pytest.raises(stripe.InvalidRequestError):
            await search({"query": query})
    late = await start(search_lag_s=60.0, data_dir=service.settings.data_dir / "late")
    await late.pay(metadata={"transaction_id": "a"})
    assert (await late.api.payment_intents.search_async({"query": "metadata['transaction_id']:'a'"})).data == []
    await late.control("POST", "clock", advance_s=61)
    assert len((await late.api.payment_intents.search_async({"query": "metadata['transaction_id']:'a'"})).data) == 1

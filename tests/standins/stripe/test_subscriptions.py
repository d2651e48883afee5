from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
import stripe

from standins.stripe.periods import period_after
from tests.standins.stripe.conftest import Service

DAY_S, HOUR_S = 86_400, 3600


async def product(service: Service) -> str:
    made = await service.api.products.create_async({"id": "plan_all", "name": "All courses"})
    return made.id


async def price(service: Service, amount: int = 900, interval: str = "month") -> dict[str, Any]:
    return {
        "currency": "usd",
        "product": "plan_all",
        "unit_amount": amount,
        "recurring": {"interval": interval},
    }


async def subscribe(service: Service, card: str = "pm_card_visa", **more: Any) -> stripe.Subscription:
    await product(service)
    customer, method = await service.customer(card)
    options = more.pop("options", {})
    wish: dict[str, Any] = {
        "customer": customer,
        "items": [{"price_data": await price(service, 900)}],
        "default_payment_method": method,
        "metadata": {"subscription_id": "7"},
        "expand": ["latest_invoice.confirmation_secret", "latest_invoice.payments"],
    }
    return await service.api.subscriptions.create_async({**wish, **more}, options)


async def change(service: Service, subscription: stripe.Subscription, amount: int, **more: Any) -> stripe.Subscription:
    interval = more.pop("interval", "month")
    item = {"id": subscription["items"].data[0].id, "price_data": await price(service, amount, interval)}
    wish: dict[str, Any] = {"items": [item], "proration_behavior": "always_invoice"}
    return await service.api.subscriptions.update_async(subscription.id, {**wish, **more})


def latest(subscription: stripe.Subscription) -> stripe.Invoice:
    assert isinstance(subscription.latest_invoice, stripe.Invoice)
    return subscription.latest_invoice


def ends(subscription: stripe.Subscription) -> int:
    end: int = subscription["items"].data[0].current_period_end
    return end


async def seen(service: Service, subscription: stripe.Subscription) -> stripe.Subscription:
    return await service.api.subscriptions.retrieve_async(subscription.id)


async def test_a_subscription_is_charged_and_active_at_once(service: Service) -> None:
    subscription = await subscribe(service)
    assert (subscription.status, subscription.metadata["subscription_id"]) == ("active", "7")
    month = ends(subscription) - subscription["items"].data[0].current_period_start
    assert 28 * DAY_S <= month <= 31 * DAY_S
    invoice = latest(subscription)
    assert (invoice.status, invoice.amount_paid, invoice.billing_reason) == ("paid", 900, "subscription_create")
    assert invoice.parent is not None
    assert invoice.parent.subscription_details is not None
    assert invoice.parent.subscription_details.subscription == subscription.id
    assert invoice.payments is not None
    [payment] = invoice.payments.data
    assert payment.status == "paid"
    by_intent = await service.api.invoice_payments.list_async(
        {"payment": {"type": "payment_intent", "payment_intent": payment.payment.payment_intent}}  # type: ignore[typeddict-item]
    )
    assert [found.invoice for found in by_intent.data] == [invoice.id]
    events = await service.events()
    for name in ("customer.subscription.created", "customer.subscription.updated", "invoice.paid"):
        assert name in events
    assert await service.ledger() == {"usd": 900}


async def test_one_that_must_be_approved_waits_for_it(service: Service) -> None:
    subscription = await subscribe(service, "pm_card_threeDSecure2Required")
    assert (subscription.status, latest(subscription).status) == ("incomplete", "open")
    secret = latest(subscription).confirmation_secret
    assert secret is not None
    intent = secret.client_secret.partition("_secret_")[0]
    assert (await service.api.payment_intents.retrieve_async(intent)).status == "requires_action"
    await service.control("POST", f"payment_intents/{intent}/authenticate")
    assert (await seen(service, subscription)).status == "active"
    assert await service.ledger() == {"usd": 900}


async def test_one_that_is_left_to_the_browser_is_confirmed_there(service: Service) -> None:
    subscription = await subscribe(service, payment_behavior="default_incomplete")
    secret = latest(subscription).confirmation_secret
    assert subscription.status == "incomplete"
    assert secret is not None
    await service.api.payment_intents.confirm_async(secret.client_secret.partition("_secret_")[0])
    assert (await seen(service, subscription)).status == "active"


async def test_a_declined_one_is_incomplete_until_another_card_pays(service: Service) -> None:
    subscription = await subscribe(service, "pm_card_chargeCustomerFail")
    assert subscription.status == "incomplete"
    invoice = latest(subscription)
    with pytest.raises(stripe.CardError):
        await service.api.invoices.pay_async(invoice.id or "")
    other = await service.api.payment_methods.attach_async("pm_card_visa", {"customer": str(subscription.customer)})
    paid = await service.api.invoices.pay_async(invoice.id or "", {"payment_method": other.id})
    assert paid.status == "paid"
    assert (await seen(service, subscription)).status == "active"


async def test_an_incomplete_one_expires_or_is_given_up(service: Service) -> None:
    subscription = await subscribe(service, "pm_card_threeDSecure2Required")
    await service.control("POST", "clock", advance_s=23 * HOUR_S + 1)
    assert (await seen(service, subscription)).status == "incomplete_expired"
    assert (await service.api.invoices.retrieve_async(latest(subscription).id or "")).status == "void"
    other = await service.api.subscriptions.create_async(
        {
            "customer": str(subscription.customer),
            "items": [{"price_data": await price(service)}],  # type: ignore[typeddict-item]
            "default_payment_method": str(subscription.default_payment_method),
        }
    )
    assert (await service.api.subscriptions.cancel_async(other.id)).status == "incomplete_expired"


@pytest.mark.parametrize("card", ["pm_card_chargeCustomerFail", "pm_card_threeDSecure2Required"])
async def test_with_error_if_incomplete_it_is_paid_or_there_is_none(service: Service, card: str) -> None:
    with pytest.raises(stripe.CardError):
        await subscribe(service, card, payment_behavior="error_if_incomplete")
    assert (await service.api.subscriptions.list_async({"status": "all"})).data == []
    assert await service.ledger() == {}


async def test_a_key_makes_one_of_two_requests(service: Service) -> None:
    await product(service)
    customer, method = await service.customer()
    wish: Any = {
        "customer": customer,
        "items": [{"price_data": await price(service)}],
        "default_payment_method": method,
    }
    made = {(await service.api.subscriptions.create_async(wish, {"idempotency_key": "k"})).id for _ in range(2)}
    assert len(made) == 1
    assert await service.ledger() == {"usd": 900}


# -- changes -----------------------------------------------------------------------------------------------------------


async def test_a_dearer_plan_costs_what_is_left_of_the_period(service: Service) -> None:
    subscription = await subscribe(service)
    half = (ends(subscription) - subscription["items"].data[0].current_period_start) // 2
    await service.control("POST", "clock", advance_s=half)
    changed = await change(service, subscription, 2900, payment_behavior="error_if_incomplete")
    assert changed["items"].data[0].price.unit_amount == 2900
    assert ends(changed) == ends(subscription)
    assert await service.ledger() == {"usd": pytest.approx(900 + 1000, abs=1)}


async def test_a_cheaper_plan_is_set_off_against_later_invoices(service: Service) -> None:
    subscription = await subscribe(service, items=[{"price_data": await price(service, 3000)}])
    cheaper = await change(service, subscription, 1000)
    customer = await service.api.customers.retrieve_async(str(cheaper.customer))
    assert customer.balance == pytest.approx(-2000, abs=2)
    for _ in range(3):
        await service.control("POST", "clock", advance_s=31 * DAY_S + 2 * HOUR_S)
    assert await service.ledger() == {"usd": pytest.approx(4000, abs=2)}


async def test_what_is_kept_in_one_currency_pays_for_nothing_in_another(service: Service) -> None:
    subscription = await subscribe(service, items=[{"price_data": await price(service, 3000)}])
    await change(service, subscription, 1000)
    await service.api.subscriptions.cancel_async(subscription.id)
    euros = {**await price(service, 700), "currency": "eur"}
    wish = {"customer": str(subscription.customer), "items": [{"price_data": euros}]}
    other = await service.api.subscriptions.create_async(
        {**wish, "default_payment_method": subscription.default_payment_method}  # type: ignore[typeddict-item]
    )
    assert other.status == "active"
    assert await service.ledger() == {"usd": 3000, "eur": 700}


async def test_another_interval_begins_a_new_period_at_once(service: Service) -> None:
    subscription = await subscribe(service)
    yearly = await change(service, subscription, 9000, interval="year")
    assert ends(yearly) - ends(subscription) > 300 * DAY_S
    assert await service.ledger() == {"usd": pytest.approx(9000, abs=1)}


@pytest.mark.parametrize("card", ["pm_card_chargeCustomerFail", "pm_card_threeDSecure2Required"])
async def test_a_change_that_is_not_paid_is_none(service: Service, card: str) -> None:
    subscription = await subscribe(service)
    other = await service.api.payment_methods.attach_async(card, {"customer": str(subscription.customer)})
    with pytest.raises(stripe.CardError):
        await change(
            service, subscription, 2900, payment_behavior="error_if_incomplete", default_payment_method=other.id
        )
    same = await seen(service, subscription)
    assert same["items"].data[0].price.unit_amount == 900
    assert same.default_payment_method == subscription.default_payment_method
    assert (same.status, await service.ledger()) == ("active", {"usd": 900})


async def test_the_same_price_again_changes_nothing(service: Service) -> None:
    subscription = await subscribe(service)
    await change(service, subscription, 900)
    assert len((await service.api.invoices.list_async({"subscription": subscription.id})).data) == 1


async def test_prorations_that_can_wait_come_with_the_next_invoice(service: Service) -> None:
    subscription = await subscribe(service)
    await change(service, subscription, 1900, proration_behavior="create_prorations")
    assert await service.ledger() == {"usd": 900}
    await service.control("POST", "clock", advance_s=31 * DAY_S + 2 * HOUR_S)
    assert await service.ledger() == {"usd": pytest.approx(900 + 1000 + 1900, abs=2)}


@pytest.mark.parametrize(("currency", "step"), [("kwd", 10), ("isk", 100)])
async def test_prorations_are_amounts_that_can_be_charged(service: Service, currency: str, step: int) -> None:
    cheap = await price(service, 99_900) | {"currency": currency}
    subscription = await subscribe(service, items=[{"price_data": cheap}])
    await service.control("POST", "clock", advance_s=11 * DAY_S + 12_345)
    item = {"id": subscription["items"].data[0].id, "price_data": cheap | {"unit_amount": 299_900}}
    wish: Any = {"items": [item], "proration_behavior": "always_invoice"}
    await service.api.subscriptions.update_async(subscription.id, wish)
    charged = (await service.ledger())[currency]
    assert charged > 99_900
    assert charged % step == 0


async def test_it_is_canceled_now_or_at_the_end_of_its_period(service: Service) -> None:
    subscription = await subscribe(service)
    ending = await service.api.subscriptions.update_async(subscription.id, {"cancel_at_period_end": True})
    assert (ending.status, ending.cancel_at, ending.cancel_at_period_end) == ("active", ends(subscription), True)
    kept = await service.api.subscriptions.update_async(subscription.id, {"cancel_at_period_end": False})
    assert (kept.cancel_at, kept.canceled_at) == (None, None)
    await service.api.subscriptions.update_async(subscription.id, {"cancel_at_period_end": True})
    await service.control("POST", "clock", advance_s=32 * DAY_S)
    ended = await seen(service, subscription)
    assert (ended.status, ended.ended_at) == ("canceled", ends(subscription))
    with pytest.raises(stripe.InvalidRequestError) as refused:
        await service.api.subscriptions.cancel_async(subscription.id)
    assert refused.value.http_status == 404
    with pytest.raises(stripe.InvalidRequestError):
        await service.api.subscriptions.update_async(subscription.id, {"cancel_at_period_end": False})
    assert (await service.api.subscriptions.list_async({"customer": str(subscription.customer)})).data == []
    assert await service.ledger() == {"usd": 900}


# -- time --------------------------------------------------------------------------------------------------------------


async def test_it_ends_with_its_customer(service: Service) -> None:
    subscription = await subscribe(service)
    await service.api.customers.delete_async(str(subscription.customer))
    assert (await seen(service, subscription)).status == "canceled"
    await service.control("POST", "clock", advance_s=40 * DAY_S)
    assert len((await service.api.invoices.list_async()).data) == 1


async def test_it_is_renewed_and_charged_an_hour_later(service: Service) -> None:
    subscription = await subscribe(service)
    await service.control("POST", "clock", advance_s=ends(subscription) - subscription.created + 60)
    renewed = await seen(service, subscription)
    assert ends(renewed) > ends(subscription)
    assert await service.ledger() == {"usd": 900}
    await service.control("POST", "clock", advance_s=HOUR_S)
    assert await service.ledger() == {"usd": 1800}
    [invoice, _] = (await service.api.invoices.list_async({"subscription": subscription.id})).data
    assert (invoice.billing_reason, invoice.status) == ("subscription_cycle", "paid")


async def test_a_renewals_draft_can_be_finalized_once_and_paid_before_its_time(service: Service) -> None:
    subscription = await subscribe(service)
    await service.control("POST", "clock", advance_s=ends(subscription) - subscription.created + 60)
    [draft, _] = (await service.api.invoices.list_async({"subscription": subscription.id})).data
    assert (await service.api.invoices.finalize_invoice_async(draft.id)).status == "open"
    with pytest.raises(stripe.InvalidRequestError):
        await service.api.invoices.finalize_invoice_async(draft.id)
    assert (await service.api.invoices.pay_async(draft.id)).status == "paid"
    await service.control("POST", "clock", advance_s=HOUR_S)
    assert await service.ledger() == {"usd": 1800}


async def test_a_year_of_renewals_in_one_step(service: Service) -> None:
    subscription = await subscribe(service)
    await service.control("POST", "clock", advance_s=364 * DAY_S)
    assert await service.ledger() == {"usd": 12 * 900}
    assert (await seen(service, subscription)).status == "active"


async def test_one_that_cannot_be_charged_is_past_due_and_in_the_end_canceled(service: Service) -> None:
    subscription = await subscribe(service)
    failing = await service.api.payment_methods.attach_async(
        "pm_card_chargeCustomerFail", {"customer": str(subscription.customer)}
    )
    await service.api.subscriptions.update_async(subscription.id, {"default_payment_method": failing.id})
    await service.control("POST", "clock", advance_s=31 * DAY_S + 2 * HOUR_S)
    assert (await seen(service, subscription)).status == "past_due"
    assert "invoice.payment_failed" in await service.events()
    await service.control("POST", "clock", advance_s=16 * DAY_S)
    ended = await seen(service, subscription)
    assert ended.cancellation_details is not None
    assert (ended.status, ended.cancellation_details.reason) == ("canceled", "payment_failed")
    assert await service.ledger() == {"usd": 900}


async def test_a_later_try_or_a_payment_by_hand_makes_it_active_again(service: Service) -> None:
    subscription = await subscribe(service)
    customer = str(subscription.customer)
    failing = await service.api.payment_methods.attach_async("pm_card_chargeCustomerFail", {"customer": customer})
    good = str(subscription.default_payment_method)
    for by_hand in (False, True):
        await service.api.subscriptions.update_async(subscription.id, {"default_payment_method": failing.id})
        await service.control("POST", "clock", advance_s=31 * DAY_S + 2 * HOUR_S)
        late = await seen(service, subscription)
        assert late.status == "past_due"
        await service.api.subscriptions.update_async(subscription.id, {"default_payment_method": good})
        if by_hand:
            await service.api.invoices.pay_async(str(late.latest_invoice))
        else:
            await service.control("POST", "clock", advance_s=3 * DAY_S)
        assert (await seen(service, subscription)).status == "active"
    assert await service.ledger() == {"usd": 2700}


async def test_a_renewal_that_must_be_approved_waits_for_its_holder(service: Service) -> None:
    subscription = await subscribe(service, "pm_card_authenticationRequired")
    secret = latest(subscription).confirmation_secret
    assert secret is not None
    first = secret.client_secret.partition("_secret_")[0]
    await service.control("POST", f"payment_intents/{first}/authenticate")
    await service.control("POST", "clock", advance_s=31 * DAY_S + 2 * HOUR_S)
    late = await service.api.subscriptions.retrieve_async(
        subscription.id, {"expand": ["latest_invoice.confirmation_secret"]}
    )
    assert late.status == "past_due"
    assert "invoice.payment_action_required" in await service.events()
    secret = latest(late).confirmation_secret
    assert secret is not None
    await service.control("POST", f"payment_intents/{secret.client_secret.partition('_secret_')[0]}/authenticate")
    assert (await seen(service, subscription)).status == "active"
    assert await service.ledger() == {"usd": 1800}


@pytest.mark.parametrize(
    ("start", "interval", "ends_at"),
    [
        ("2026-01-31", "month", "2026-02-28"),
        ("2026-02-28", "month", "2026-03-31"),
        ("2028-01-31", "month", "2028-02-29"),
        ("2026-12-15", "month", "2027-01-31"),
        ("2028-02-29", "year", "2029-02-28"),
        ("2026-01-31", "week", "2026-02-07"),
    ],
)
def test_months_keep_the_day_they_began_with(start: str, interval: str, ends_at: str) -> None:
    def at(day: str) -> int:
        return int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp())

    recurring = {"interval": interval, "interval_count": 1}
    assert period_after(at(start), recurring, at("2026-01-31")) == at(ends_at)


async def test_products_and_prices_are_kept(service: Service) -> None:
    made = await product(service)
    with pytest.raises(stripe.InvalidRequestError) as again:
        await product(service)
    assert again.value.code == "resource_already_exists"
    listed = await service.api.prices.create_async(
        {"currency": "eur", "product": made, "unit_amount": 500, "recurring": {"interval": "year"}, "lookup_key": "y"}
    )
    assert [found.id for found in (await service.api.prices.list_async({"lookup_keys": ["y"]})).data] == [listed.id]
    assert (await service.api.prices.update_async(listed.id, {"active": False})).active is False
    assert (await service.api.products.update_async(made, {"name": "Every course"})).name == "Every course"
    assert [found.id for found in (await service.api.products.list_async()).data] == [made]
    customer, _ = await service.customer()
    with pytest.raises(stripe.InvalidRequestError):
        await service.api.subscriptions.create_async({"customer": customer, "items": [{"price": listed.id}]})

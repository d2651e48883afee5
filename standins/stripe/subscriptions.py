"""Subscriptions of one item: begun, changed with proration, renewed, charged late, canceled."""

from __future__ import annotations

from typing import Any, Literal

from standins.stripe import confirming, invoices
from standins.stripe.catalog import PriceData, make_price
from standins.stripe.customers import BEFORE_DELETION, living_customer, usable_method
from standins.stripe.operations import AnyCall, Call, Page, operation, page_of
from standins.stripe.payment_intents import chargeable
from standins.stripe.periods import period_after
from standins.stripe.wire import ApiError, Json, Metadata, Parameters, as_list, changed_metadata, new_id

INCOMPLETE_S = 23 * 3600
DAY_S = 86_400
ENDED = ("canceled", "incomplete_expired")
Behavior = Literal["allow_incomplete", "default_incomplete", "error_if_incomplete"]
Proration = Literal["always_invoice", "create_prorations", "none"]


class Item(Parameters):
    id: str | None = None
    price: str | None = None
    price_data: PriceData | None = None
    quantity: Literal[1] = 1
    metadata: Metadata = None


class PaymentSettings(Parameters):
    save_default_payment_method: Literal["on_subscription", "off"] | None = None
    payment_method_types: list[str] | None = None
    payment_method_options: Json | None = None


class BillingMode(Parameters):
    type: Literal["classic", "flexible"]


class Anchor(Parameters):
    type: Literal["now", "unchanged"]


class CancellationDetails(Parameters):
    comment: str | None = None
    feedback: str | None = None


class Changing(Parameters):
    cancel_at_period_end: bool | None = None
    default_payment_method: str | None = None
    description: str | None = None
    metadata: Metadata = None
    off_session: bool | None = None
    payment_behavior: Behavior = "allow_incomplete"
    payment_settings: PaymentSettings | None = None
    proration_behavior: Proration = "create_prorations"


class SubscriptionCreate(Changing):
    customer: str
    items: list[Item]
    currency: str | None = None
    collection_method: Literal["charge_automatically"] = "charge_automatically"
    billing_mode: BillingMode | None = None


class SubscriptionUpdate(Changing):
    items: list[Item] | None = None
    billing_cycle_anchor: Anchor | None = None
    proration_date: int | None = None
    cancellation_details: CancellationDetails | None = None


class SubscriptionCancel(Parameters):
    invoice_now: bool = False
    prorate: bool = False
    cancellation_details: CancellationDetails | None = None


class SubscriptionList(Page):
    customer: str | None = None
    price: str | None = None
    status: str | None = None
    collection_method: str | None = None


@operation("POST", "/v1/subscriptions", SubscriptionCreate)
def create_subscription(call: Call[SubscriptionCreate]) -> Json:
    """Begin one. Its first invoice is charged at once, unless `default_incomplete` leaves that to the browser; with
    `error_if_incomplete` there is none when the charge does not go through. Raises ApiError.
    """
    given = call.given
    customer = living_customer(call, given.customer)
    if len(given.items) != 1:
        raise ApiError("This stand-in knows subscriptions of one item.", param="items", before_acting=True)
    price = _price_of(call, given.items[0])
    subscription = _make(call, customer, price)
    _change(call, subscription)
    call.store.put(subscription)
    [item] = subscription["items"]["data"]
    period = (item["current_period_start"], item["current_period_end"])
    line = invoices.line_of(call, subscription, item, price["unit_amount"], period)
    invoice = invoices.draw_up(call, subscription, "subscription_create", [line])
    call.emit("customer.subscription.created", subscription)
    invoices.finalize(call, invoice)
    if invoice["status"] == "paid":
        _activate(call, subscription)
    elif given.payment_behavior == "default_incomplete":
        _offer(call, invoice, subscription)
    else:
        error = _charge(call, invoice, subscription, off_session=bool(given.off_session))
        _must_be_paid(given, invoice, error)
    if _status(call, subscription) == "incomplete":
        call.store.add_task(call.now + INCOMPLETE_S, "expire", subscription["id"])
    else:
        _plan_renewal(call, subscription)
    return call.find("subscription", subscription["id"])


def _plan_renewal(call: AnyCall, subscription: Json) -> None:
    call.store.drop_tasks("renew", subscription["id"])
    call.store.add_task(subscription["items"]["data"][0]["current_period_end"], "renew", subscription["id"])


def _price_of(call: AnyCall, item: Item) -> Json:
    if item.price_data is not None:
        if item.price_data.recurring is None:
            raise ApiError(
                "Missing required param: items[0][price_data][recurring].", param="items", before_acting=True
            )
        return make_price(call, item.price_data, item.price_data.product, active=False)
    if item.price is None:
        raise ApiError("Missing required param: items[0][price].", param="items[0][price]", before_acting=True)
    price = call.find("price", item.price, param="items[0][price]")
    if price["recurring"] is None or not price["active"]:
        raise ApiError("The price specified is inactive or not recurring.", param="items[0][price]", before_acting=True)
    return price


def _make(call: AnyCall, customer: Json, price: Json) -> Json:
    subscription_id = new_id("sub")
    end = period_after(call.now, price["recurring"], call.now)
    item: Json = {
        "id": new_id("si"),
        "object": "subscription_item",
        "billed_until": None,
        "billing_thresholds": None,
        "created": call.now,
        "current_period_end": end,
        "current_period_start": call.now,
        "current_trial": None,
        "discounts": [],
        "metadata": {},
        "price": price,
        "quantity": 1,
        "subscription": subscription_id,
        "tax_rates": [],
    }
    return {
        "id": subscription_id,
        "object": "subscription",
        "application": None,
        "application_fee_percent": None,
        "automatic_tax": {"disabled_reason": None, "enabled": False, "liability": None},
        "billing_cycle_anchor": call.now,
        "billing_cycle_anchor_config": None,
        "billing_mode": {"type": "flexible", "flexible": {"proration_discounts": "included"}, "updated_at": None},
        "billing_thresholds": None,
        "cancel_at": None,
        "cancel_at_period_end": False,
        "canceled_at": None,
        "cancellation_details": {"comment": None, "feedback": None, "reason": None},
        "collection_method": "charge_automatically",
        "created": call.now,
        "currency": price["currency"],
        "customer": customer["id"],
        "customer_account": None,
        "days_until_due": None,
        "default_payment_method": None,
        "default_source": None,
        "default_tax_rates": [],
        "description": None,
        "discounts": [],
        "ended_at": None,
        "invoice_settings": {"account_tax_ids": None, "issuer": {"type": "self"}},
        "items": as_list(f"/v1/subscription_items?subscription={subscription_id}", [item]),
        "latest_invoice": None,
        "livemode": False,
        "metadata": {},
        "next_pending_invoice_item_invoice": None,
        "on_behalf_of": None,
        "pause_collection": None,
        "payment_settings": {
            "payment_method_options": None,
            "payment_method_types": None,
            "save_default_payment_method": "off",
        },
        "pending_invoice_item_interval": None,
        "pending_setup_intent": None,
        "pending_update": None,
        "schedule": None,
        "start_date": call.now,
        "status": "incomplete",
        "test_clock": None,
        "transfer_data": None,
        "trial_end": None,
        "trial_settings": {"end_behavior": {"missing_payment_method": "create_invoice"}},
        "trial_start": None,
        "_": {"prorations": []},
    }


def _change(call: Call[Any], subscription: Json) -> None:
    given: Changing = call.given
    if given.default_payment_method is not None:
        chosen = given.default_payment_method or None
        if chosen is not None:
            method = usable_method(call, chosen, subscription["customer"], param="default_payment_method")
            if method["customer"] is None:
                raise ApiError(
                    f"The customer does not have a payment method with the ID {method['id']}. The payment method must "
                    "be attached to the customer.",
                    code="resource_missing",
                    param="default_payment_method",
                )
            chosen = method["id"]
        subscription["default_payment_method"] = chosen
    if given.description is not None:
        subscription["description"] = given.description or None
    if given.payment_settings is not None:
        subscription["payment_settings"] |= given.payment_settings.model_dump(
            exclude_none=True, include={"save_default_payment_method"}
        )
    subscription["metadata"] = changed_metadata(subscription["metadata"], given.metadata)
    if given.cancel_at_period_end is not None and given.cancel_at_period_end != subscription["cancel_at_period_end"]:
        ends = given.cancel_at_period_end
        subscription["cancel_at_period_end"] = ends
        subscription["cancel_at"] = subscription["items"]["data"][0]["current_period_end"] if ends else None
        subscription["canceled_at"] = call.now if ends else None
        subscription["cancellation_details"]["reason"] = "cancellation_requested" if ends else None


def _status(call: AnyCall, subscription: Json) -> str:
    """As it is kept now: a payment that went through meanwhile has changed it."""
    status: str = call.find("subscription", subscription["id"])["status"]
    return status


def _method_of(call: AnyCall, subscription: Json) -> str | None:
    customer = call.find("customer", subscription["customer"])
    settings = customer["invoice_settings"]
    method: str | None = subscription["default_payment_method"] or settings["default_payment_method"]
    return method


def _offer(call: AnyCall, invoice: Json, subscription: Json) -> None:
    """The browser shall confirm the payment."""
    intent = call.find("payment_intent", invoice["_"]["intent"])
    method = _method_of(call, subscription)
    if method is not None:
        intent.update(status="requires_confirmation", payment_method=method)
    call.store.put(intent)


def _charge(call: AnyCall, invoice: Json, subscription: Json, *, off_session: bool) -> ApiError | None:
    return invoices.attempt(call, invoice, _method_of(call, subscription), off_session=off_session)


def _must_be_paid(given: Changing, invoice: Json, error: ApiError | None) -> None:
    """With `error_if_incomplete` nothing happened unless it is paid. Raises ApiError."""
    if given.payment_behavior != "error_if_incomplete" or invoice["status"] == "paid":
        return
    if error is not None:
        error.keeps = False
        error.error.pop("payment_intent", None)
        raise error
    raise ApiError(
        "Payment for this subscription requires additional user action before it can be completed successfully. "
        "Payment can be completed using the PaymentIntent associated with `subscription.latest_invoice`.",
        status=402,
        kind="card_error",
        code="subscription_payment_intent_requires_action",
    )


def _activate(call: AnyCall, subscription: Json) -> None:
    before = subscription["status"]
    subscription["status"] = "active"
    call.store.put(subscription)
    call.emit("customer.subscription.updated", subscription, {"status": before})


def after_payment(call: AnyCall, intent: Json) -> None:
    """A payment intent that an invoice made has succeeded: the invoice is paid, and its subscription goes on."""
    if intent["_"]["invoice"] is None:
        return
    invoice = call.find("invoice", intent["_"]["invoice"])
    if invoice["status"] != "open":
        return
    invoices.settle(call, invoice, intent["amount"])
    subscription = call.find("subscription", invoice["_"]["subscription"])
    if subscription["status"] == "incomplete":
        call.store.drop_tasks("expire", subscription["id"])
        _plan_renewal(call, subscription)
    if subscription["status"] in ("incomplete", "past_due") and invoice["id"] == subscription["latest_invoice"]:
        if subscription["payment_settings"]["save_default_payment_method"] == "on_subscription":
            subscription["default_payment_method"] = intent["payment_method"]
        _activate(call, subscription)


confirming.AFTER_PAYMENT.append(after_payment)


# -- changes -----------------------------------------------------------------------------------------------------------


@operation("GET", "/v1/subscriptions", SubscriptionList)
def list_subscriptions(call: Call[SubscriptionList]) -> Json:
    """The newest first; without a status those that have not ended, with `all` every one."""
    given = call.given
    if given.status in (None, "all", "ended"):
        page = page_of(call, "subscription", customer=given.customer)
        if given.status != "all":
            wanted = given.status == "ended"
            page["data"] = [found for found in page["data"] if (found["status"] in ENDED) == wanted]
        return page
    return page_of(call, "subscription", customer=given.customer, status=given.status)


@operation("GET", "/v1/subscriptions/{subscription}")
def get_subscription(call: AnyCall) -> Json:
    """One subscription."""
    return call.named("subscription")


@operation("POST", "/v1/subscriptions/{subscription}", SubscriptionUpdate)
def update_subscription(call: Call[SubscriptionUpdate]) -> Json:
    """Change what is given. Another price is prorated to the second; with `always_invoice`, or when its interval is
    another, the difference is charged at once. Raises ApiError; with `error_if_incomplete` nothing is changed then.
    """
    given, subscription = call.given, call.named("subscription")
    if subscription["status"] in ENDED:
        raise ApiError(
            "A canceled subscription can only update its cancellation_details and metadata.", before_acting=True
        )
    before = {name: value for name, value in subscription.items() if name != "_"}
    before["items"] = {"data": [dict(subscription["items"]["data"][0])]}
    _change(call, subscription)
    lines: list[Json] = []
    if given.items is not None:
        lines = _swap(call, subscription, given.items)
    call.store.put(subscription)
    previous = {name: before[name] for name in before if before[name] != subscription[name] and name != "items"}
    if lines or given.items is not None:
        previous["items"] = before["items"]
    call.emit("customer.subscription.updated", subscription, previous)
    if lines:
        invoice = invoices.draw_up(call, subscription, "subscription_update", lines)
        invoices.finalize(call, invoice)
        if invoice["status"] != "paid":
            error = None
            if given.payment_behavior == "default_incomplete":
                _offer(call, invoice, subscription)
            else:
                error = _charge(call, invoice, subscription, off_session=bool(given.off_session))
            _must_be_paid(given, invoice, error)
            if invoice["status"] != "paid":
                _fall_behind(call, call.find("subscription", subscription["id"]), invoice)
    return call.find("subscription", subscription["id"])


def _swap(call: Call[SubscriptionUpdate], subscription: Json, items: list[Item]) -> list[Json]:
    """Put another price in the item's place; the lines that are to be invoiced at once."""
    given = call.given
    [item] = subscription["items"]["data"]
    if len(items) != 1 or items[0].id != item["id"]:
        raise ApiError(
            "This stand-in knows subscriptions of one item: name it by its id.",
            param="items[0][id]",
            before_acting=True,
        )
    old, new = item["price"], _price_of(call, items[0])
    if new["currency"] != subscription["currency"]:
        raise ApiError(
            f"The price specified only supports `{new['currency']}`. This doesn't match the expected currency: "
            f"`{subscription['currency']}`.",
            param="items",
            before_acting=True,
        )
    cycle = ("interval", "interval_count")
    resets = any(old["recurring"][name] != new["recurring"][name] for name in cycle)
    same = not resets and (old["unit_amount"], old["product"]) == (new["unit_amount"], new["product"])
    now = call.now if given.proration_date is None else given.proration_date
    start, end = item["current_period_start"], item["current_period_end"]
    left = (end - now) / (end - start)
    lines: list[Json] = []
    prorates = given.proration_behavior != "none" and not same and subscription["status"] != "incomplete"
    if prorates:
        credit = -chargeable(old["unit_amount"] * left, old["currency"])
        lines.append(invoices.line_of(call, subscription, item, credit, (now, end), proration="Unused time"))
    item["price"] = new
    if resets:
        subscription["billing_cycle_anchor"] = call.now
        item["current_period_start"] = call.now
        item["current_period_end"] = period_after(call.now, new["recurring"], call.now)
        if subscription["cancel_at_period_end"]:
            subscription["cancel_at"] = item["current_period_end"]
        _plan_renewal(call, subscription)
        period = (call.now, item["current_period_end"])
        lines.append(invoices.line_of(call, subscription, item, new["unit_amount"], period))
    elif prorates:
        debit = chargeable(new["unit_amount"] * left, new["currency"])
        lines.append(invoices.line_of(call, subscription, item, debit, (now, end), proration="Remaining time"))
        if given.proration_behavior == "create_prorations":
            subscription["_"]["prorations"] += lines
            return []
    return lines


@operation("DELETE", "/v1/subscriptions/{subscription}", SubscriptionCancel)
def cancel_subscription(call: Call[SubscriptionCancel]) -> Json:
    """End it now. Raises ApiError when it has ended."""
    subscription = call.named("subscription")
    if subscription["status"] in ENDED:
        raise ApiError(f"No such subscription: '{subscription['id']}'", status=404, code="resource_missing", param="id")
    _end(call, subscription, "cancellation_requested")
    return subscription


def _end(call: AnyCall, subscription: Json, reason: str) -> None:
    """No invoice is drawn up any more; one that waits for its first payment is void, another stays as it is."""
    was_incomplete = subscription["status"] == "incomplete"
    subscription.update(
        status="incomplete_expired" if was_incomplete else "canceled",
        canceled_at=subscription["canceled_at"] or call.now,
        ended_at=call.now,
    )
    subscription["cancellation_details"]["reason"] = reason
    call.store.put(subscription)
    for task in ("renew", "expire"):
        call.store.drop_tasks(task, subscription["id"])
    for invoice in call.store.find("invoice", _subscription=subscription["id"]):
        if invoice["status"] == "draft" or (invoice["status"] == "open" and was_incomplete):
            invoices.void(call, invoice)
        elif invoice["status"] == "open":
            call.store.drop_tasks("collect", invoice["id"])
            invoice.update(auto_advance=False, next_payment_attempt=None)
            call.store.put(invoice)
    call.emit("customer.subscription.deleted", subscription)


def end_with_customer(call: AnyCall, customer: Json) -> None:
    """Whoever is deleted subscribes to nothing."""
    for subscription in call.store.find("subscription", customer=customer["id"]):
        if subscription["status"] not in ENDED:
            _end(call, subscription, "cancellation_requested")


BEFORE_DELETION.append(end_with_customer)


# -- what time brings --------------------------------------------------------------------------------------------------


def renew(call: AnyCall, subscription: Json) -> None:
    """A period is over: end it, or begin the next one and draw up its invoice, which is charged an hour later."""
    if subscription["status"] in ENDED:
        return
    if subscription["cancel_at_period_end"]:
        _end(call, subscription, "cancellation_requested")
        return
    [item] = subscription["items"]["data"]
    start = item["current_period_end"]
    end = period_after(start, item["price"]["recurring"], subscription["billing_cycle_anchor"])
    previous = {"items": {"data": [dict(item)]}, "latest_invoice": subscription["latest_invoice"]}
    item["current_period_start"], item["current_period_end"] = start, end
    lines = [
        *subscription["_"]["prorations"],
        invoices.line_of(call, subscription, item, item["price"]["unit_amount"], (start, end)),
    ]
    subscription["_"]["prorations"] = []
    invoice = invoices.draw_up(call, subscription, "subscription_cycle", lines)
    call.emit("customer.subscription.updated", subscription, previous)
    call.store.add_task(call.now + invoices.DRAFT_S, "collect", invoice["id"])
    _plan_renewal(call, subscription)


def collect(call: AnyCall, invoice: Json) -> None:
    """Charge a renewal, or try to once more."""
    subscription = call.find("subscription", invoice["_"]["subscription"])
    if invoice["status"] == "draft":
        invoices.finalize(call, invoice)
    if invoice["status"] != "open" or subscription["status"] in ENDED:
        return
    _charge(call, invoice, subscription, off_session=True)
    if invoice["status"] == "open":
        _fall_behind(call, call.find("subscription", subscription["id"]), invoice)


def _fall_behind(call: AnyCall, subscription: Json, invoice: Json) -> None:
    """A charge did not go through: it is tried again after some days, and in the end given up."""
    days = call.settings.retry_days
    tries = invoice["attempt_count"]
    if tries > len(days):
        invoice.update(next_payment_attempt=None, auto_advance=False)
        call.store.put(invoice)
        _end(call, subscription, "payment_failed")
        return
    invoice["next_payment_attempt"] = call.now + days[max(0, tries - 1)] * DAY_S
    call.store.put(invoice)
    call.store.add_task(invoice["next_payment_attempt"], "collect", invoice["id"])
    if subscription["status"] == "active":
        subscription["status"] = "past_due"
        call.store.put(subscription)
        call.emit("customer.subscription.updated", subscription, {"status": "active"})


def expire(call: AnyCall, subscription: Json) -> None:
    """The first payment did not come in time."""
    if subscription["status"] == "incomplete":
        _end(call, subscription, "payment_failed")


# -- invoices, where they change their subscription --------------------------------------------------------------------


class InvoicePay(Parameters):
    payment_method: str | None = None
    off_session: bool = True


@operation("POST", "/v1/invoices/{invoice}/pay", InvoicePay)
def pay_invoice(call: Call[InvoicePay]) -> Json:
    """Charge an open invoice now. Raises ApiError; what failed stays open."""
    invoice = call.named("invoice")
    if invoice["status"] == "paid":
        raise ApiError("Invoice is already paid", code="invoice_already_paid")
    if invoice["status"] == "draft":
        invoices.finalize(call, invoice)
    if invoice["status"] not in ("open", "paid"):
        raise ApiError(f"Invoice is {invoice['status']}", code="invoice_not_editable")
    if invoice["status"] == "open":
        subscription = call.find("subscription", invoice["_"]["subscription"])
        method = call.given.payment_method or _method_of(call, subscription)
        error = invoices.attempt(call, invoice, method, off_session=call.given.off_session)
        if error is not None:
            error.keeps = True
            raise error
        if invoice["status"] != "paid":
            raise ApiError(
                "This payment requires additional user action before it can be completed successfully.",
                status=402,
                kind="card_error",
                code="invoice_payment_intent_requires_action",
                keeps=True,
            )
    return invoice


@operation("POST", "/v1/invoices/{invoice}/void")
def void_invoice(call: AnyCall) -> Json:
    """It need not be paid; a subscription that waited for it as its first is over."""
    invoice = call.named("invoice")
    if invoice["status"] != "open":
        status = invoice["status"]
        raise ApiError(f"You can only void open invoices, this one is {status}.", code="invoice_not_editable")
    invoices.void(call, invoice)
    subscription = call.find("subscription", invoice["_"]["subscription"])
    if subscription["status"] == "incomplete":
        _end(call, subscription, "payment_failed")
    return invoice

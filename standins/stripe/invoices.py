"""Invoices of subscriptions: drawn up, finalized, charged, and charged again."""

from __future__ import annotations

from typing import Any, Literal

from standins.stripe import confirming
from standins.stripe.customers import usable_method
from standins.stripe.operations import AnyCall, Call, Page, operation, page_of
from standins.stripe.payment_intents import SMALLEST
from standins.stripe.wire import ApiError, Json, Parameters, as_list, new_id

DRAFT_S = 3600
"""How long a renewal's invoice can still be changed."""


def line_of(
    call: AnyCall, subscription: Json, item: Json, amount: int, period: tuple[int, int], *, proration: str | None = None
) -> Json:
    """A line of an invoice; `proration` says what for, where it is none of a whole period."""
    price = item["price"]
    about = proration or f"1 × {call.find('product', price['product'])['name']}"
    return {
        "id": new_id("il"),
        "object": "line_item",
        "amount": amount,
        "currency": subscription["currency"],
        "description": about,
        "discount_amounts": [],
        "discountable": proration is None,
        "discounts": [],
        "invoice": None,
        "livemode": False,
        "metadata": dict(subscription["metadata"]),
        "parent": {
            "type": "subscription_item_details",
            "invoice_item_details": None,
            "subscription_item_details": {
                "invoice_item": None,
                "proration": proration is not None,
                "proration_details": {"credited_items": None},
                "subscription": subscription["id"],
                "subscription_item": item["id"],
            },
        },
        "period": {"start": period[0], "end": period[1]},
        "pretax_credit_amounts": [],
        "pricing": {
            "type": "price_details",
            "price_details": {"price": price["id"], "product": price["product"]},
            "unit_amount_decimal": price["unit_amount_decimal"],
        },
        "quantity": 1,
        "quantity_decimal": "1",
        "subtotal": amount,
        "taxes": [],
    }


def draw_up(call: AnyCall, subscription: Json, reason: str, lines: list[Json]) -> Json:
    """A draft of an invoice; it becomes the subscription's latest."""
    total = sum(line["amount"] for line in lines)
    customer = call.find("customer", subscription["customer"])
    invoice_id = new_id("in")
    for line in lines:
        line["invoice"] = invoice_id
    invoice: Json = {
        "id": invoice_id,
        "object": "invoice",
        "account_country": "US",
        "account_name": "Lectern",
        "account_tax_ids": None,
        "amount_due": max(0, total),
        "amount_overpaid": 0,
        "amount_paid": 0,
        "amount_remaining": max(0, total),
        "amount_shipping": 0,
        "application": None,
        "attempt_count": 0,
        "attempted": False,
        "auto_advance": True,
        "automatic_tax": {
            "disabled_reason": None,
            "enabled": False,
            "liability": None,
            "provider": None,
            "status": None,
        },
        "automatically_finalizes_at": None,
        "billing_reason": reason,
        "collection_method": "charge_automatically",
        "created": call.now,
        "currency": subscription["currency"],
        "custom_fields": None,
        "customer": customer["id"],
        "customer_account": None,
        "customer_address": customer["address"],
        "customer_email": customer["email"],
        "customer_name": customer["name"],
        "customer_phone": customer["phone"],
        "customer_shipping": None,
        "customer_tax_exempt": "none",
        "customer_tax_ids": [],
        "default_payment_method": None,
        "default_source": None,
        "default_tax_rates": [],
        "description": None,
        "discounts": [],
        "due_date": None,
        "effective_at": None,
        "ending_balance": None,
        "footer": None,
        "from_invoice": None,
        "hosted_invoice_url": None,
        "invoice_pdf": None,
        "issuer": {"type": "self"},
        "last_finalization_error": None,
        "latest_revision": None,
        "lines": as_list(f"/v1/invoices/{invoice_id}/lines", lines),
        "livemode": False,
        "metadata": {},
        "next_payment_attempt": None,
        "number": None,
        "on_behalf_of": None,
        "parent": {
            "type": "subscription_details",
            "quote_details": None,
            "subscription_details": {"metadata": dict(subscription["metadata"]), "subscription": subscription["id"]},
        },
        "payment_settings": {"default_mandate": None, "payment_method_options": None, "payment_method_types": None},
        "period_end": call.now,
        "period_start": call.now,
        "post_payment_credit_notes_amount": 0,
        "pre_payment_credit_notes_amount": 0,
        "receipt_number": None,
        "rendering": None,
        "shipping_cost": None,
        "shipping_details": None,
        "starting_balance": customer.get("invoice_credit_balance", {}).get(subscription["currency"], 0),
        "statement_descriptor": None,
        "status": "draft",
        "status_transitions": dict.fromkeys(("finalized_at", "marked_uncollectible_at", "paid_at", "voided_at")),
        "subtotal": total,
        "subtotal_excluding_tax": total,
        "test_clock": None,
        "total": total,
        "total_discount_amounts": [],
        "total_excluding_tax": total,
        "total_pretax_credit_amounts": [],
        "total_taxes": [],
        "webhooks_delivered_at": None,
        "_": {"subscription": subscription["id"], "intent": None},
    }
    call.store.put(invoice)
    subscription["latest_invoice"] = invoice_id
    call.store.put(subscription)
    call.emit("invoice.created", invoice)
    return invoice


def finalize(call: AnyCall, invoice: Json) -> None:
    """It can be changed no more. What the customer's balance in its currency has is set off; what is then due is to be
    charged, unless it is less than can be: then the balance keeps it for the next one.
    """
    customer, currency = call.find("customer", invoice["customer"]), invoice["currency"]
    balances = customer.setdefault("invoice_credit_balance", {})
    due = invoice["total"] + balances.get(currency, 0)
    charged = due if due >= SMALLEST.get(currency, 50) else 0
    balances[currency] = due - charged
    customer["currency"] = customer["currency"] or currency
    customer["balance"] = balances.get(customer["currency"], 0)
    call.store.put(customer)
    invoice.update(
        status="open",
        amount_due=charged,
        amount_remaining=charged,
        ending_balance=balances[currency],
        number=f"{customer['invoice_prefix']}-{customer['next_invoice_sequence']:04}",
        effective_at=call.now,
    )
    customer["next_invoice_sequence"] += 1
    call.store.put(customer)
    invoice["status_transitions"]["finalized_at"] = call.now
    if charged:
        intent = confirming.make_intent(
            call,
            amount=charged,
            currency=currency,
            customer=customer["id"],
            setup_future_usage="off_session",
            description="Subscription creation"
            if invoice["billing_reason"] == "subscription_create"
            else "Subscription update",
        )
        intent["_"]["invoice"] = invoice["id"]
        invoice["_"]["intent"] = intent["id"]
        call.store.put(intent)
        call.store.put(_payment(call, invoice, intent))
        call.emit("payment_intent.created", intent)
    call.store.put(invoice)
    call.emit("invoice.finalized", invoice)
    if not charged:
        settle(call, invoice, 0)


def _payment(call: AnyCall, invoice: Json, intent: Json) -> Json:
    return {
        "id": new_id("inpay"),
        "object": "invoice_payment",
        "amount_paid": None,
        "amount_requested": intent["amount"],
        "created": call.now,
        "currency": invoice["currency"],
        "invoice": invoice["id"],
        "is_default": True,
        "livemode": False,
        "payment": {"type": "payment_intent", "payment_intent": intent["id"]},
        "status": "open",
        "status_transitions": {"canceled_at": None, "paid_at": None},
    }


def settle(call: AnyCall, invoice: Json, amount: int) -> None:
    """It is paid."""
    invoice.update(
        status="paid",
        amount_paid=amount,
        amount_remaining=0,
        attempted=True,
        auto_advance=False,
        next_payment_attempt=None,
    )
    invoice["status_transitions"]["paid_at"] = call.now
    call.store.put(invoice)
    for payment in call.store.find("invoice_payment", invoice=invoice["id"], status="open"):
        payment.update(status="paid", amount_paid=amount)
        payment["status_transitions"]["paid_at"] = call.now
        call.store.put(payment)
        call.emit("invoice_payment.paid", payment)
    call.store.drop_tasks("collect", invoice["id"])
    call.emit("invoice.paid", invoice)
    call.emit("invoice.payment_succeeded", invoice)


def attempt(call: AnyCall, invoice: Json, method_id: str | None, *, off_session: bool) -> ApiError | None:
    """Try to charge an open invoice: what went wrong, or None when it is paid or its holder is asked."""
    intent = call.find("payment_intent", invoice["_"]["intent"])
    invoice["attempted"] = True
    invoice["attempt_count"] += 1
    call.store.put(invoice)
    if method_id is None:
        error: ApiError | None = ApiError(
            "This customer has no attached payment source or default payment method.", code="resource_missing"
        )
    else:
        error = None
        try:
            method = usable_method(call, method_id, invoice["customer"])
            confirming.confirm(call, intent, method, off_session=off_session)
        except ApiError as raised:
            error = raised
            if raised.code == "authentication_required":  # the holder is told, and can still approve
                confirming.ask_holder(call, intent, method_id)
    invoice.update(call.find("invoice", invoice["id"]))  # paid meanwhile?
    if intent["status"] == "requires_action":
        call.emit("invoice.payment_action_required", invoice)
    if invoice["status"] != "paid" and (error is not None or off_session):
        call.emit("invoice.payment_failed", invoice)
    return error


def void(call: AnyCall, invoice: Json) -> None:
    """It need not be paid any more."""
    invoice.update(status="void", auto_advance=False, next_payment_attempt=None)
    invoice["status_transitions"]["voided_at"] = call.now
    call.store.put(invoice)
    intent = call.store.get(invoice["_"]["intent"] or "")
    if intent is not None and intent["status"] in confirming.OPEN:
        confirming.cancel(call, intent, "void_invoice")
    for payment in call.store.find("invoice_payment", invoice=invoice["id"], status="open"):
        payment["status"] = "canceled"
        payment["status_transitions"]["canceled_at"] = call.now
        call.store.put(payment)
    call.store.drop_tasks("collect", invoice["id"])
    call.emit("invoice.voided", invoice)


def confirmation_secret(call: Call[Any], invoice_id: str) -> Json | None:
    """What a browser needs to have an invoice's payment approved."""
    invoice = call.find("invoice", invoice_id)
    intent = call.store.get(invoice["_"]["intent"] or "")
    return intent and {"client_secret": intent["client_secret"], "type": "payment_intent"}


def payments_of(call: Call[Any], invoice_id: str) -> Json:
    """The payments that were made, or are to be made, on an invoice."""
    return as_list(f"/v1/invoice_payments?invoice={invoice_id}", call.store.find("invoice_payment", invoice=invoice_id))


# -- the operations of the API; to pay and to void are in `subscriptions`, which they change ---------------------------


class InvoiceList(Page):
    customer: str | None = None
    subscription: str | None = None
    status: Literal["draft", "open", "paid", "uncollectible", "void"] | None = None
    collection_method: str | None = None


class PaymentFilter(Parameters):
    type: Literal["payment_intent"] = "payment_intent"
    payment_intent: str


class InvoicePaymentList(Page):
    invoice: str | None = None
    status: Literal["open", "paid", "canceled"] | None = None
    payment: PaymentFilter | None = None


@operation("GET", "/v1/invoices", InvoiceList)
def list_invoices(call: Call[InvoiceList]) -> Json:
    """The newest first."""
    given = call.given
    return page_of(call, "invoice", customer=given.customer, _subscription=given.subscription, status=given.status)


@operation("GET", "/v1/invoices/{invoice}")
def get_invoice(call: AnyCall) -> Json:
    """One invoice."""
    return call.named("invoice")


class InvoiceFinalize(Parameters):
    auto_advance: bool | None = None


@operation("POST", "/v1/invoices/{invoice}/finalize", InvoiceFinalize)
def finalize_invoice(call: Call[InvoiceFinalize]) -> Json:
    """Change a draft no more. Raises ApiError."""
    invoice = call.named("invoice")
    if invoice["status"] != "draft":
        raise ApiError(
            "This invoice is already finalized, you can't re-finalize a non-draft invoice.", code="invoice_not_editable"
        )
    finalize(call, invoice)
    return invoice


@operation("GET", "/v1/invoice_payments", InvoicePaymentList)
def list_invoice_payments(call: Call[InvoicePaymentList]) -> Json:
    """The newest first; by their payment intent too."""
    given = call.given
    intent = given.payment and given.payment.payment_intent
    return page_of(call, "invoice_payment", invoice=given.invoice, status=given.status, payment__payment_intent=intent)


@operation("GET", "/v1/invoice_payments/{payment}")
def get_invoice_payment(call: AnyCall) -> Json:
    """One payment of an invoice."""
    return call.named("invoice_payment")

"""Where money would move: charges, what the account's balance says of them, refunds and disputes."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from standins.stripe.cards import card_of
from standins.stripe.operations import AnyCall, Call, Page, operation, page_of
from standins.stripe.wire import ApiError, Json, Metadata, Parameters, changed_metadata, missing_object, new_id

SIGNS = {"usd": "$", "eur": "€", "gbp": "£", "jpy": "¥"}


def add_charge(call: AnyCall, intent: Json, method: Json, failure: tuple[str, str | None, str] | None) -> Json:
    """The charge of a payment intent that was confirmed; `failure` is (code, decline code, message)."""
    card = method["card"]
    charge: Json = {
        "id": new_id("ch"),
        "object": "charge",
        "amount": intent["amount"],
        "amount_captured": 0 if failure else intent["amount"],
        "amount_refunded": 0,
        "application": None,
        "application_fee": None,
        "application_fee_amount": None,
        "balance_transaction": None,
        "billing_details": method["billing_details"],
        "calculated_statement_descriptor": "LECTERN",
        "captured": failure is None,
        "created": call.now,
        "currency": intent["currency"],
        "customer": intent["customer"],
        "description": intent["description"],
        "disputed": False,
        "failure_balance_transaction": None,
        "failure_code": failure and failure[0],
        "failure_message": failure and failure[2],
        "fraud_details": {},
        "livemode": False,
        "metadata": dict(intent["metadata"]),
        "on_behalf_of": None,
        "outcome": {
            "advice_code": None,
            "network_status": "declined_by_network" if failure else "approved_by_network",
            "reason": failure and failure[1],
            "risk_level": "normal",
            "seller_message": "The bank did not return any further details." if failure else "Payment complete.",
            "type": "issuer_declined" if failure else "authorized",
        },
        "paid": failure is None,
        "payment_intent": intent["id"],
        "payment_method": method["id"],
        "payment_method_details": {
            "card": {
                "amount_authorized": None if failure else intent["amount"],
                "brand": card["brand"],
                "checks": card["checks"],
                "country": card["country"],
                "exp_month": card["exp_month"],
                "exp_year": card["exp_year"],
                "fingerprint": card["fingerprint"],
                "funding": card["funding"],
                "installments": None,
                "last4": card["last4"],
                "network": card["brand"],
                "three_d_secure": None,
                "wallet": None,
            },
            "type": "card",
        },
        "receipt_email": intent["receipt_email"],
        "receipt_number": None,
        "receipt_url": None,
        "refunded": False,
        "review": None,
        "shipping": None,
        "source_transfer": None,
        "statement_descriptor": None,
        "statement_descriptor_suffix": intent["statement_descriptor_suffix"],
        "status": "failed" if failure else "succeeded",
        "transfer_data": None,
        "transfer_group": None,
    }
    if failure is None:
        charge["balance_transaction"] = book(call, charge, "charge", charge["amount"])["id"]
    call.store.put(charge)
    call.emit("charge.failed" if failure else "charge.succeeded", charge)
    return charge


def book(call: AnyCall, source: Json, kind: str, amount: int) -> Json:
    """A line of the account's balance; positive is what came in."""
    category = {"charge": "charge", "refund": "refund", "refund_failure": "refund_failure", "adjustment": "dispute"}
    line: Json = {
        "id": new_id("txn"),
        "object": "balance_transaction",
        "amount": amount,
        "available_on": call.now + 2 * 86_400,
        "balance_type": "payments",
        "created": call.now,
        "currency": source["currency"],
        "description": source.get("description"),
        "exchange_rate": None,
        "fee": 0,
        "fee_details": [],
        "net": amount,
        "reporting_category": category[kind],
        "source": source["id"],
        "status": "available",
        "type": kind,
    }
    return call.store.put(line)


class BalanceList(Page):
    currency: str | None = None
    source: str | None = None
    type: str | None = None


@operation("GET", "/v1/balance_transactions", BalanceList)
def list_balance(call: Call[BalanceList]) -> Json:
    """What came in and went out, the newest first."""
    given = call.given
    return page_of(call, "balance_transaction", currency=given.currency, source=given.source, type=given.type)


@operation("GET", "/v1/balance_transactions/{line}")
def get_balance(call: AnyCall) -> Json:
    """One line."""
    return call.named("balance_transaction")


class ChargeList(Page):
    customer: str | None = None
    payment_intent: str | None = None


@operation("GET", "/v1/charges", ChargeList)
def list_charges(call: Call[ChargeList]) -> Json:
    """The newest first, failed ones too."""
    return page_of(call, "charge", customer=call.given.customer, payment_intent=call.given.payment_intent)


@operation("GET", "/v1/charges/{charge}")
def get_charge(call: AnyCall) -> Json:
    """One charge."""
    return call.named("charge")


# -- refunds -----------------------------------------------------------------------------------------------------------


class RefundCreate(Parameters):
    charge: str | None = None
    payment_intent: str | None = None
    amount: int | None = Field(default=None, ge=1)
    reason: Literal["duplicate", "fraudulent", "requested_by_customer"] | None = None
    metadata: Metadata = None


class RefundUpdate(Parameters):
    metadata: Metadata = None


class RefundList(Page):
    charge: str | None = None
    payment_intent: str | None = None


@operation("POST", "/v1/refunds", RefundCreate)
def create_refund(call: Call[RefundCreate]) -> Json:
    """Give back all that is left of a charge, or a part of it."""
    given = call.given
    charge = _charge_to_refund(call)
    left = charge["amount"] - charge["amount_refunded"]
    amount = left if given.amount is None else given.amount
    if charge["refunded"]:
        raise ApiError(f"Charge {charge['id']} has already been refunded.", code="charge_already_refunded")
    if amount > left:
        raise ApiError(
            f"Refund amount ({_shown(amount, charge)}) is greater than unrefunded amount on charge "
            f"({_shown(left, charge)})",
            param="amount",
        )
    fate = card_of(call.find("payment_method", charge["payment_method"])).refund
    refund: Json = {
        "id": new_id("re"),
        "object": "refund",
        "amount": amount,
        "balance_transaction": None,
        "charge": charge["id"],
        "created": call.now,
        "currency": charge["currency"],
        "customer": charge["customer"],
        "customer_account": None,
        "destination_details": {
            "card": {"reference_status": "pending", "reference_type": "acquirer_reference_number", "type": "refund"},
            "type": "card",
        },
        "metadata": changed_metadata({}, given.metadata),
        "payment_intent": charge["payment_intent"],
        "payment_method": charge["payment_method"],
        "reason": given.reason,
        "receipt_number": None,
        "source_transfer_reversal": None,
        "status": "pending" if fate == "pending" else "succeeded",
        "transfer_reversal": None,
    }
    refund["balance_transaction"] = book(call, refund, "refund", -amount)["id"]
    call.store.put(refund)
    if fate != "succeeded":
        call.store.add_task(call.now + call.settings.settles_s, "settle_refund", refund["id"])
    _count_refund(call, charge, amount)
    call.emit("refund.created", refund)
    call.emit("charge.refunded", charge)
    return refund


def _charge_to_refund(call: Call[RefundCreate]) -> Json:
    given = call.given
    if given.charge is not None:
        charge = call.find("charge", given.charge, param="charge")
    elif given.payment_intent is not None:
        intent = call.find("payment_intent", given.payment_intent, param="payment_intent")
        if intent["status"] != "succeeded":
            raise ApiError(
                f"This PaymentIntent ({intent['id']}) does not have a successful charge to refund.",
                param="payment_intent",
            )
        charge = call.find("charge", intent["latest_charge"])
    else:
        raise ApiError(
            "One of the following params should be provided for this request: payment_intent or charge.",
            before_acting=True,
        )
    if charge["status"] != "succeeded":
        raise ApiError(f"Charge {charge['id']} did not succeed and cannot be refunded.", param="charge")
    if charge["disputed"] and charge["_"]["is_charged_back"]:
        raise ApiError(f"Charge {charge['id']} has been charged back; cannot issue a refund.", code="charge_disputed")
    return charge


def _shown(amount: int, charge: Json) -> str:
    sign = SIGNS.get(charge["currency"], charge["currency"].upper())
    return f"{sign}{amount}" if charge["currency"] == "jpy" else f"{sign}{amount / 100:.2f}"


def _count_refund(call: AnyCall, charge: Json, amount: int) -> None:
    charge["amount_refunded"] += amount
    charge["refunded"] = charge["amount_refunded"] == charge["amount"]
    call.store.put(charge)


def settle_refund(call: AnyCall, refund: Json) -> None:
    """A pending refund arrives; one that fails comes back to the account."""
    charge = call.find("charge", refund["charge"])
    before = refund["status"]
    if card_of(call.find("payment_method", refund["payment_method"])).refund == "pending":
        refund["status"] = "succeeded"
        call.store.put(refund)
        call.emit("refund.updated", refund, {"status": before})
        return
    refund["status"], refund["failure_reason"] = "failed", "expired_or_canceled_card"
    refund["failure_balance_transaction"] = book(call, refund, "refund_failure", refund["amount"])["id"]
    call.store.put(refund)
    _count_refund(call, charge, -refund["amount"])
    call.emit("refund.updated", refund, {"status": before})
    call.emit("refund.failed", refund)


@operation("GET", "/v1/refunds/{refund}")
def get_refund(call: AnyCall) -> Json:
    """One refund."""
    return call.named("refund")


@operation("POST", "/v1/refunds/{refund}", RefundUpdate)
def update_refund(call: Call[RefundUpdate]) -> Json:
    """Change its metadata."""
    refund = call.named("refund")
    before = refund["metadata"]
    refund["metadata"] = changed_metadata(before, call.given.metadata)
    call.store.put(refund)
    call.emit("refund.updated", refund, {"metadata": before})
    return refund


@operation("GET", "/v1/refunds", RefundList)
def list_refunds(call: Call[RefundList]) -> Json:
    """The newest first."""
    return page_of(call, "refund", charge=call.given.charge, payment_intent=call.given.payment_intent)


# -- disputes ----------------------------------------------------------------------------------------------------------


class DisputeList(Page):
    charge: str | None = None
    payment_intent: str | None = None


def open_dispute(call: AnyCall, charge: Json, reason: str) -> Json:
    """The holder's bank takes what is left of a charge back until it is decided who is right. Raises ApiError."""
    if charge["disputed"]:
        raise ApiError(f"Charge {charge['id']} has been disputed before.")
    amount = charge["amount"] - charge["amount_refunded"]
    dispute: Json = {
        "id": new_id("dp"),
        "object": "dispute",
        "amount": amount,
        "balance_transactions": [],
        "charge": charge["id"],
        "created": call.now,
        "currency": charge["currency"],
        "enhanced_eligibility_types": [],
        "evidence": {},
        "evidence_details": {
            "due_by": call.now + 9 * 86_400,
            "enhanced_eligibility": {},
            "has_evidence": False,
            "past_due": False,
            "submission_count": 0,
        },
        "is_charge_refundable": False,
        "livemode": False,
        "metadata": {},
        "payment_intent": charge["payment_intent"],
        "payment_method_details": {
            "card": {
                "brand": charge["payment_method_details"]["card"]["brand"],
                "case_type": "chargeback",
                "network_reason_code": "10.4",
            },
            "type": "card",
        },
        "reason": reason,
        "status": "needs_response",
    }
    dispute["balance_transactions"] = [book(call, dispute, "adjustment", -amount)]
    charge["disputed"] = True
    charge["_"] = {"is_charged_back": True}
    call.store.put(charge)
    call.store.put(dispute)
    call.emit("charge.dispute.created", dispute)
    call.emit("charge.dispute.funds_withdrawn", dispute)
    return dispute


def close_dispute(call: AnyCall, dispute: Json, *, won: bool) -> Json:
    """The banks have decided. Raises ApiError."""
    if dispute["status"] in ("won", "lost"):
        raise ApiError("This dispute is already closed", code="dispute_already_closed")
    before = dispute["status"]
    dispute["status"] = "won" if won else "lost"
    if won:
        dispute["balance_transactions"].append(book(call, dispute, "adjustment", dispute["amount"]))
        charge = call.find("charge", dispute["charge"])
        charge["_"] = {"is_charged_back": False}
        call.store.put(charge)
    call.store.put(dispute)
    call.emit("charge.dispute.updated", dispute, {"status": before})
    if won:
        call.emit("charge.dispute.funds_reinstated", dispute)
    call.emit("charge.dispute.closed", dispute)
    return dispute


@operation("GET", "/v1/disputes/{dispute}")
def get_dispute(call: AnyCall) -> Json:
    """One dispute."""
    return call.named("dispute")


@operation("GET", "/v1/disputes", DisputeList)
def list_disputes(call: Call[DisputeList]) -> Json:
    """The newest first."""
    return page_of(call, "dispute", charge=call.given.charge, payment_intent=call.given.payment_intent)


@operation("POST", "/v1/disputes/{dispute}/close")
def accept_dispute(call: Call[Any]) -> Json:
    """Give in: it is lost."""
    return close_dispute(call, call.named("dispute"), won=False)


# -- events ------------------------------------------------------------------------------------------------------------


KEPT_S = 30 * 86_400


class EventList(Page):
    type: str | None = None
    types: list[str] | None = Field(default=None, max_length=20)
    delivery_success: bool | None = None


@operation("GET", "/v1/events", EventList)
def list_events(call: Call[EventList]) -> Json:
    """Those of the last thirty days, the newest first; `type` may end in a star."""
    given = call.given
    if given.type is not None and given.types is not None:
        raise ApiError("You may only specify one of these parameters: type, types.", param="types", before_acting=True)
    for name in ("starting_after", "ending_before"):
        if (edge := getattr(given, name)) is not None:
            _kept(call, call.find("event", edge, param=name), param=name)
    pending = None if given.delivery_success is None else int(not given.delivery_success)
    return page_of(
        call,
        "event",
        created_after=call.now - KEPT_S,
        type=given.types if given.type is None else [given.type],
        pending_webhooks=pending,
    )


@operation("GET", "/v1/events/{event}")
def get_event(call: AnyCall) -> Json:
    """One event, for thirty days."""
    return _kept(call, call.named("event"), status=404)


def _kept(call: AnyCall, event: Json, *, param: str = "id", status: int = 400) -> Json:
    if event["created"] <= call.now - KEPT_S:
        raise missing_object("event", event["id"], param=param, status=status)
    return event

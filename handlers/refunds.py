"""Giving money back: all of it or a part, by an administrator or, for a while, by whoever paid."""

from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

from pydantic import AfterValidator, Field

from server.data.audit import audit_foreign
from server.data.db import Connection, Record, queries
from server.data.jobs import add_job
from server.domain.cards import has_card_number
from server.domain.money import NotAPrice, parse_amount
from server.http.charging import REFUND, asks_stripe_s
from server.http.idempotency import read_key
from server.http.keys import CHARGING
from server.http.members import Transaction
from server.http.problems import (
    NotConfigured,
    NotRefundable,
    RefundNotAllowed,
    TransactionNotFound,
    UpstreamFailed,
    ValidationFailed,
)
from server.http.routing import STUDENT, Body, Call, Reply, Routes
from server.services.outside import ServiceAway

routes = Routes("payments")
payments = queries("payments")

_DAY_S = 86_400.0


def _check_reason(reason: str) -> str:
    if has_card_number(reason):
        raise ValueError("must not hold a card's number")
    return reason


class NewRefund(Body):
    """How much to give back, in the transaction's currency, all that is left when absent; and why, for the record."""

    amount: Annotated[str, Field(max_length=32)] | None = None
    reason: Annotated[str, Field(max_length=500), AfterValidator(_check_reason)] = ""


@routes.post(
    "/api/payments/transactions/{transaction_id}/refund",
    role=STUDENT,
    body=NewRefund,
    answer=Transaction,
    also=(202,),
    idempotency="honoured",
    problems=(TransactionNotFound, RefundNotAllowed, NotRefundable, NotConfigured, UpstreamFailed),
    rate="write",
    timeout_s=asks_stripe_s(2),
)
async def refund_transaction(call: Call[NewRefund]) -> Reply:
    """Give money back. All of it ends the enrolment or the subscription that it paid for, a part does not; what was
    watched is kept. A subscription goes on where the period is over that was paid for.

    Administrators may at any time, others their own within `payments.refund_days` and with less than
    `payments.refund_watched_share` of the course watched, or of every course that the subscription opened. 202: Stripe
    is away, and will be asked until it has done it.
    """
    charging, transaction_id = call.app[CHARGING], call.path.transaction_id
    async with call.db.transaction() as tx:
        refund_id = await _find_or_begin(call, tx)
    status = 200
    try:
        await charging.refund(refund_id)
    except ServiceAway:
        status = 202
    return Reply(await payments.get_transaction(call.db, transaction_id=transaction_id), status=status)


async def _find_or_begin(call: Call[NewRefund], tx: Connection) -> UUID:
    """The refund that the same request made before it was cut off, or a new one."""
    user = call.user
    transaction_id = await payments.lock_refundable(
        tx, transaction_id=call.path.transaction_id, viewer_id=user.id, viewer_role=user.role
    )
    if transaction_id is None:
        raise TransactionNotFound
    _ = call.app[CHARGING].gateway.client  # raises ServiceNotConfigured
    key = read_key(call.request, required=False)
    if key is not None:
        known: Record | None = await payments.get_refund_by_key(
            tx,
            transaction_id=transaction_id,
            requested_by=user.id,
            idempotency_key=key,
            ttl_s=call.config.server.idempotency_ttl_s,
        )
        if known is not None:
            return _id(known)
    row = await payments.get_refundable(tx, transaction_id=transaction_id)
    refund = await payments.insert_refund(
        tx,
        transaction_id=row["id"],
        amount=_amount_to_refund(call, row),
        reason=call.body.reason,
        requested_by=user.id,
        idempotency_key=key,
    )
    pause_s = min(call.config.stripe.timeout_s, call.config.jobs.reconcile_s)
    await add_job(tx, REFUND, in_s=pause_s, refund_id=str(refund["id"]))
    await audit_foreign(
        tx, user.id, row["user_id"], "refund_requested", "transaction", row["id"], amount=str(refund["amount"])
    )
    return _id(refund)


def _amount_to_refund(call: Call[NewRefund], row: Record) -> Decimal:
    """Raises NotRefundable, RefundNotAllowed, ValidationFailed."""
    settings = call.config.payments
    left: Decimal = row["amount_left"]
    amount = left
    if call.body.amount is not None:
        try:
            amount = parse_amount(call.body.amount, row["currency"])
        except NotAPrice as fault:
            raise _wrong_amount(str(fault)) from None
    if row["status"] not in ("succeeded", "partially_refunded", "refunded") or row["transaction_reference"] is None:
        raise NotRefundable
    if not call.user.has("admin") and (
        row["paid_for_s"] > settings.refund_days * _DAY_S or row["watched_share"] >= settings.refund_watched_share
    ):
        raise RefundNotAllowed
    if call.body.amount is None and not left:
        raise NotRefundable
    if not 0 < amount <= left:
        raise _wrong_amount(f"must be more than 0.00 and at most what is left, {left}")
    return amount


def _wrong_amount(detail: str) -> ValidationFailed:
    return ValidationFailed.at("/amount", detail)


def _id(row: Any) -> UUID:
    found: UUID = row["id"]
    return found

"""Between our subscriptions and Stripe's.

A subscription is a row before Stripe hears of it; its id is the key under which Stripe begins it once, and stands in
the metadata by which it is found again. What happens to it afterwards is decided at Stripe, so nothing else is
believed: an event, an answer that was lost, or a job only makes us ask, and what is answered is written unless somebody
who asked later has written (`told_at`). Each period that was paid for becomes a transaction in the same moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from hashlib import sha256
from typing import Any
from uuid import UUID
from weakref import WeakValueDictionary

import structlog
from pydantic import BaseModel, Field

from server.config import Config
from server.data.db import Connection, Database, Record, queries
from server.data.jobs import Again, Hopeless, Job, Work, add_job
from server.domain.money import NotAPrice, from_minor, to_minor
from server.http.charging import Charging, Mismatch, amount_of, uuid_of
from server.http.payment_events import Kind, Useless
from server.services.billing import Billing, Invoice, Subscription, price_of
from server.services.outside import ServiceAway, ServiceHasNone, ServiceRefused
from server.services.payments import ENDED_S, CardRefused, Intent, KeyReused, RequestRefused

LOOK, END = "subscription_look", "subscription_end"
# How soon after something was begun or changed it is asked about, if nobody was told its end until then.
_FIRST_LOOK_S = 5.0
# For renewals and what else happens at Stripe events are waited for; this is for those that were lost.
_SELDOM_S = 6 * 3600.0
_STATUSES = {
    **dict.fromkeys(("active", "trialing"), "active"),
    **dict.fromkeys(("past_due", "unpaid", "paused"), "past_due"),
    **dict.fromkeys(("canceled", "incomplete_expired"), "canceled"),
    "incomplete": "incomplete",
}

_SUBSCRIPTION_EVENTS = ("created", "updated", "deleted", "paused", "resumed")
# These say that something was, or was not, paid; the others come with one of them.
_INVOICE_EVENTS = ("paid", "payment_failed", "payment_action_required", "voided", "marked_uncollectible")
_OTHER_INVOICE_EVENTS = (
    *("created", "updated", "finalized", "deleted", "payment_succeeded", "upcoming", "overdue", "will_be_due"),
)

subscriptions = queries("subscriptions")
payments = queries("payments")
log = structlog.get_logger()


class _Details(BaseModel):
    subscription: str | None = None
    metadata: dict[str, str] | None = None


class _Parent(BaseModel):
    subscription_details: _Details | None = None


class Hint(BaseModel):
    """What of an event of a subscription concerns us: which it is about."""

    id: str
    metadata: dict[str, str] = Field(default_factory=dict)

    @property
    def names(self) -> tuple[str | None, str | None]:
        """Stripe's id of the subscription, and ours."""
        return self.id, self.metadata.get("subscription_id")


class InvoiceHint(BaseModel):
    """What of an event of an invoice concerns us: the subscription that it is of."""

    # One that is upcoming may have none.
    id: str | None = None
    parent: _Parent | None = None
    # In place of `parent` where the webhook speaks Stripe's API of before March 2025.
    subscription: str | None = None
    subscription_details: _Details | None = None

    @property
    def names(self) -> tuple[str | None, str | None]:
        """Stripe's id of the subscription, and ours; None where it is of none."""
        details = (self.parent.subscription_details if self.parent else self.subscription_details) or _Details()
        return details.subscription or self.subscription, (details.metadata or {}).get("subscription_id")


class Subscribing:
    """What the application does at Stripe about subscriptions."""

    def __init__(self, config: Config, database: Database, charging: Charging) -> None:
        self._config = config
        self._database = database
        self._charging = charging
        # Within a process whoever asks about the same subscription waits for the other.
        self._turns: WeakValueDictionary[UUID, asyncio.Lock] = WeakValueDictionary()
        self.billing = Billing(charging.gateway)

    @property
    def works(self) -> dict[str, Work]:
        """By the kind of their jobs."""
        return {LOOK: self.look, END: self.end}

    @property
    def kinds(self) -> dict[str, Kind[Any]]:
        """What is done with events, by their types."""
        about_it, about_invoice = Kind(Hint, _check_ours, self._heard), Kind(InvoiceHint, _check_ours, self._heard)
        return {
            **{f"customer.subscription.{what}": about_it for what in _SUBSCRIPTION_EVENTS},
            "customer.subscription.trial_will_end": Kind(Hint, _check_ours),
            **{f"invoice.{what}": about_invoice for what in _INVOICE_EVENTS},
            **{f"invoice.{what}": Kind(InvoiceHint, _check_ours) for what in _OTHER_INVOICE_EVENTS},
        }

    # -- beginning -----------------------------------------------------------------------------------------------------

    async def watch_over(self, tx: Connection | Database, subscription_id: UUID, *, once: bool = False) -> None:
        """In the transaction that begins one: ask about it until it has ended. `once`, before a change: whatever
        becomes of that."""
        pause_s = min(_FIRST_LOOK_S, self._config.jobs.reconcile_s)
        await add_job(tx, LOOK, in_s=pause_s, subscription_id=str(subscription_id), once=once)

    async def begin(self, row: Record) -> tuple[Record, Intent | None]:
        """Begin a subscription that is `incomplete`, or find out what came of that: the row then, and the payment for
        which its customer has to act. May be called again and again, and charges once. What was declined is ended.

        Raises ServiceAway when that is not known; then it stays incomplete. RequestRefused ends it.
        """
        async with self._turn(row["id"]):
            return await self._begin(await self._row(row["id"]))

    async def _begin(self, row: Record) -> tuple[Record, Intent | None]:
        if row["status"] != "incomplete":
            return row, None
        asked_at = await self._clock_of_all()
        found = await self._find(row)
        if found is None and self._charging.may_repeat(row):
            token = await self._charging.token_of(row["payment_method_id"])
            if token is None:  # it was removed since then; a request for it may still be on its way
                await subscriptions.note_failure(
                    self._database, subscription_id=row["id"], failure_code="payment_method_unusable"
                )
                return await self._give_up(row), None
            found, failure = await self._subscribe(row, token)
            if found is None and failure is not None:
                return await self._end_here(row, failure), None
        if found is None:
            return await self._give_up(row), None
        row = await self._write(row, found, asked_at)
        if row["status"] != "incomplete":
            return row, None
        return await self._unfinished(row, found)

    async def _unfinished(self, row: Record, found: Subscription) -> tuple[Record, Intent | None]:
        """The payment that its customer has to approve; a declined one ends the subscription."""
        intent = await self._payment(found)
        if intent is not None and intent.status == "requires_action":
            return row, intent
        if intent is not None and intent.status == "succeeded":  # in this very moment
            return await self._sync(row["id"]), None
        return await self._end_declined(row, (intent and intent.failure_code) or "card_declined"), None

    async def _payment(self, found: Subscription) -> Intent | None:
        """By which its latest invoice is, or was to be, paid."""
        invoice = found.invoice
        return await self._charging.gateway.get_intent(invoice.intent_id) if invoice and invoice.intent_id else None

    async def _end_declined(self, row: Record, failure: str) -> Record:
        await subscriptions.note_failure(self._database, subscription_id=row["id"], failure_code=failure)
        return await self._cancel(row)

    async def _subscribe(self, row: Record, token: str) -> tuple[Subscription | None, str | None]:
        """What Stripe has begun, or why it has not."""
        try:
            return await self.billing.subscribe(**await self._asked_for(row), token=token), None
        except CardRefused as refused:
            return None, refused.code
        except KeyReused:
            return await self._find(row), None
        except ServiceHasNone:
            return None, "payment_method_unusable"
        except RequestRefused as refused:
            await self._end_here(row, refused.code or "refused")
            raise

    async def _asked_for(self, row: Record) -> dict[str, Any]:
        """What it is begun with, always alike."""
        return {
            "key": str(row["id"]),
            "customer": await self._charging.customer_of(row["user_id"]),
            "product": await self.billing.ensure_product(row["plan_id"], row["plan_name"]),
            "amount": to_minor(row["price"], row["currency"]),
            "currency": row["currency"],
            "billing_period": row["billing_period"],
            "metadata": {"subscription_id": str(row["id"]), "user_id": str(row["user_id"])},
        }

    async def withdraw(self, row: Record) -> None:
        """Undo the beginning of one for which Stripe was certainly not asked."""
        await subscriptions.withdraw_subscription(self._database, subscription_id=row["id"])

    async def _give_up(self, row: Record) -> Record:
        """See to it that one that is incomplete never begins; the row then, which is live if that came first."""
        asked_at = await self._clock_of_all()
        found = await self._find(row)
        if found is None and self._charging.may_repeat(row):
            # A request for it may still be on its way. Under a used key it does nothing.
            try:
                found = await self.billing.subscribe(**await self._asked_for(row), token=None)
            except KeyReused:
                found = await self._find(row)
                if found is None and self._charging.age_s(row) <= ENDED_S:
                    raise ServiceAway("a subscription is just being made") from None
            except RequestRefused as refused:  # then the other one would be, too
                log.info("key_not_blocked", subscription_id=str(row["id"]), error=str(refused))
        if found is None:
            return await self._end_here(row, None)
        row = await self._write(row, found, asked_at)
        return await self._cancel(row) if row["status"] == "incomplete" else row

    async def _end_here(self, row: Record, failure: str | None) -> Record:
        await subscriptions.end_subscription(self._database, subscription_id=row["id"], failure_code=failure)
        return await self._row(row["id"])

    # -- changes -------------------------------------------------------------------------------------------------------

    async def change(
        self,
        row: Record,
        *,
        plan: Record | None = None,
        billing_period: str | None = None,
        method_id: UUID | None = None,
        cancel_at_period_end: bool | None = None,
    ) -> Record:
        """Change a live one; the row then. A dearer plan or another period is paid for at once, the difference alone.
        One that turns out to have ended stays as it is.

        Raises CardRefused when it could not be paid: then nothing has changed.
        """
        async with self._turn(row["id"]):
            return await self._change(row, plan, billing_period, method_id, cancel_at_period_end)

    async def _change(
        self,
        row: Record,
        plan: Record | None,
        billing_period: str | None,
        method_id: UUID | None,
        cancel_at_period_end: bool | None,
    ) -> Record:
        token = None
        if method_id is not None:
            token = await self._charging.token_of(method_id)
            if token is None:
                raise CardRefused("payment_method_unusable", None)
        asked_at = await self._clock_of_all()
        found = await self.billing.get(row["stripe_id"])
        if _STATUSES.get(found.status) == "canceled":  # and nobody has told us yet
            return await self._write(row, found, asked_at)
        if found.due is not None and (plan is not None or token is not None):
            # What is due comes first: nothing is set off for time that was never paid, and a card that cannot pay it
            # does not take the other's place.
            found = await self._pay(found, found.due, token)
        price = None
        if plan is not None:
            period = billing_period or row["billing_period"]
            product = await self.billing.ensure_product(plan["id"], plan["plan_name"])
            amount = to_minor(plan[period], plan["currency"])
            price = price_of(product, amount, plan["currency"], period)
        if price is None and token is None and cancel_at_period_end is None:
            return await self._write(row, found, asked_at)
        asked_at = await self._clock_of_all()
        try:
            found = await self.billing.change(
                found, price=price, token=token, cancel_at_period_end=cancel_at_period_end
            )
        except (RequestRefused, ServiceHasNone):
            found = await self.billing.get(found.id)
            if _STATUSES.get(found.status) != "canceled":  # else it has ended in this very moment
                if price is not None and token is None and await self._method(row["user_id"], found) is None:
                    raise CardRefused("payment_method_unusable", None) from None
                raise
        return await self._write(row, found, asked_at)

    async def _pay(self, found: Subscription, due: Invoice, token: str | None) -> Subscription:
        """Pay what is due, by this card or the one on file; the subscription then. Raises CardRefused."""
        try:
            await self.billing.pay(due, token)
        except (RequestRefused, ServiceHasNone) as refused:  # paid meanwhile, or there is no card that could
            log.info("invoice_not_paid", invoice=due.id, error=str(refused))
        found = await self.billing.get(found.id)
        if found.due is not None:
            raise CardRefused("payment_method_unusable", None)
        return found

    async def give_up(self, row: Record) -> Record:
        """See to it that one that is incomplete never begins; the row then, which is live if it was paid before."""
        async with self._turn(row["id"]):
            row = await self._sync(row["id"])
            if row["status"] != "incomplete":
                return row
            return await (self._give_up(row) if row["stripe_id"] is None else self._cancel(row))

    async def cancel_now(self, row: Record) -> Record:
        """End it in this moment, whatever it is; the row then."""
        async with self._turn(row["id"]):
            if row["status"] == "incomplete" and row["stripe_id"] is None:
                row = await self._give_up(row)
            return row if row["status"] == "canceled" else await self._cancel(row)

    async def _cancel(self, row: Record) -> Record:
        asked_at = await self._clock_of_all()
        try:
            found = await self.billing.cancel(row["stripe_id"])
        except ServiceHasNone:  # it ended before
            return await self._sync(row["id"])
        return await self._write(row, found, asked_at)

    # -- what Stripe says ----------------------------------------------------------------------------------------------

    async def sync(self, subscription_id: UUID) -> Record:
        """Ask Stripe for a subscription of ours and write what it says; the row then. Raises Mismatch."""
        async with self._turn(subscription_id):
            return await self._sync(subscription_id)

    async def _sync(self, subscription_id: UUID, *, was_overtaken: bool = False) -> Record:
        row = await self._row(subscription_id)
        asked_at = await self._clock_of_all()
        found = await self._find(row)
        if found is None:
            return row
        # Only other processes overtake. Who does it the second time has asked after the first one had written, so that
        # what the row says then is no older than this question.
        if not await self._note(row, found, asked_at) and not was_overtaken:
            return await self._sync(subscription_id, was_overtaken=True)
        return await self._end_if_refused(await self._row(subscription_id), found)

    async def _end_if_refused(self, row: Record, found: Subscription) -> Record:
        """One whose bank has refused what its customer was asked ends: Stripe would wait a day for another card, and
        meanwhile nothing else could be begun."""
        intent = await self._payment(found) if row["status"] == "incomplete" else None
        if intent is None or intent.status != "requires_payment_method" or intent.failure_code is None:
            return row
        return await self._end_declined(row, intent.failure_code)

    async def _write(self, row: Record, found: Subscription, asked_at: Any) -> Record:
        """What an answer says, or what is newer."""
        if await self._note(row, found, asked_at):
            return await self._row(row["id"])
        return await self._sync(row["id"])

    async def _note(self, row: Record, found: Subscription, asked_at: Any) -> bool:
        """Write an answer and what was paid, at once or not at all; False when a newer answer has been written."""
        _check(row, found)
        paid = await self.billing.list_paid(found.id)
        async with self._database.transaction() as tx:
            method = await self._method(row["user_id"], found, tx)
            noted = await subscriptions.note_subscription(
                tx,
                subscription_id=row["id"],
                asked_at=asked_at,
                stripe_id=found.id,
                plan_id=found.plan_id,
                status=_STATUSES.get(found.status, "past_due"),
                billing_period=found.billing_period,
                price=_price(found),
                currency=found.item.price.currency,
                current_period_end=found.current_period_end,
                cancel_at_period_end=found.cancel_at_period_end,
                canceled_at=found.canceled_at and _time(found.canceled_at),
                payment_method_id=method,
            )
            # What was paid stays paid, so it is written also by who was overtaken.
            for invoice in paid:
                if invoice.intent_id and invoice.amount_paid:
                    await subscriptions.note_invoice(
                        tx,
                        user_id=row["user_id"],
                        subscription_id=row["id"],
                        amount=amount_of(invoice.amount_paid, invoice.currency),
                        currency=invoice.currency,
                        transaction_reference=invoice.intent_id,
                        payment_method_id=method,
                        paid_at=invoice.paid_at,
                    )
        if noted is not None:  # also of one that goes on: another plan may cover less
            await self._charging.ended(row["user_id"])
        return noted is not None

    async def _method(self, user_id: UUID, found: Subscription, tx: Connection | None = None) -> UUID | None:
        """The card on file; None without one, or when it was removed."""
        if found.default_payment_method is None:
            return None
        method: Any = await payments.find_method(
            tx or self._database, user_id=user_id, token_hash=sha256(found.default_payment_method.encode()).digest()
        )
        return None if method is None else method["id"]

    async def _find(self, row: Record) -> Subscription | None:
        """Stripe's, by its id or its metadata."""
        if row["stripe_id"] is not None:
            return await self.billing.get(row["stripe_id"])
        customer = await payments.get_customer(self._database, user_id=row["user_id"])
        return customer and await self.billing.find(customer, "subscription_id", str(row["id"]))

    async def _heard(self, hint: Hint | InvoiceHint) -> None:
        """An event is about a subscription: if it is ours, ask."""
        subscription_id = await _find_named(self._database, hint)
        if subscription_id is not None:  # else it is told when it is read
            await self._ask(subscription_id)

    async def learn_of(self, intent: Intent) -> None:
        """An event is of a payment that no row names: if it is a subscriber's, ask what they have paid for."""
        for row in await subscriptions.list_of_customer(self._database, customer=intent.customer):
            await self._ask(row["id"])
            if await payments.find_transaction(self._database, transaction_reference=intent.id) is not None:
                return

    async def _ask(self, subscription_id: UUID) -> None:
        try:
            await self.sync(subscription_id)
        except (Mismatch, ServiceHasNone) as error:
            log.warning("subscription_not_ours", subscription_id=str(subscription_id), error=str(error))

    async def look(self, job: Job) -> None:
        """Ask about a subscription until it has ended; one whose customer never came back is given up."""
        row = await self._named(job)
        if row is None or row["status"] == "canceled":
            return
        async with self._charging.putting_off(job):
            row = await self.sync(row["id"])
            if row["status"] == "incomplete" and job.age_s > self._config.payments.abandoned_s:
                row = await self.give_up(row)
        if row["status"] == "incomplete":
            raise Again(self._charging.pause_s(job))
        if row["status"] != "canceled" and not job.payload.get("once"):
            raise Again(_SELDOM_S)

    async def end(self, job: Job) -> None:
        """End the subscription of somebody who has left, or was given the money back."""
        row = await self._named(job)
        if row is None or row["status"] == "canceled":
            return
        async with self._charging.putting_off(job):
            try:
                await self.cancel_now(row)
            except ServiceRefused as error:
                raise Hopeless(str(error)) from error

    # -- parts of them -------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _turn(self, subscription_id: UUID) -> AsyncIterator[None]:
        turn = self._turns.setdefault(subscription_id, asyncio.Lock())
        async with turn:
            yield

    async def _clock_of_all(self) -> Any:
        return await subscriptions.read_clock(self._database)

    async def _row(self, subscription_id: UUID) -> Record:
        row: Record = await subscriptions.get_subscription(self._database, subscription_id=subscription_id)
        return row

    async def _named(self, job: Job) -> Any:
        """The row of a job; None when it is gone."""
        named = UUID(job.payload["subscription_id"])
        return await subscriptions.get_subscription(self._database, subscription_id=named)


async def _find_named(db: Connection | Database, hint: Hint | InvoiceHint) -> UUID | None:
    """Our subscription that an event is about."""
    stripe_id, ours = hint.names
    found: UUID | None = await subscriptions.find_named(db, stripe_id=stripe_id, named=uuid_of(ours))
    return found


async def _check_ours(tx: Connection, hint: Hint | InvoiceHint) -> None:
    """What there is to do was done by asking. Raises Useless for an event of another's subscription, or of none."""
    if await _find_named(tx, hint) is None:
        raise Useless("it is of no subscription of ours")


def _check(row: Record, found: Subscription) -> None:
    """Raises Mismatch unless it is this very one."""
    if row["stripe_id"] not in (None, found.id):
        raise Mismatch("another subscription of the same row")
    named = {"subscription_id": str(row["id"]), "user_id": str(row["user_id"])}
    for name, value in named.items():
        # Somebody at Stripe may have taken the metadata away since we know its id.
        if found.metadata.get(name, row["stripe_id"] and value) != value:
            raise Mismatch(f"another {name} than the subscription's")


def _price(found: Subscription) -> Decimal | None:
    """What a period costs; None where that is not to be said so."""
    price = found.item.price
    try:
        return None if price.unit_amount is None else from_minor(price.unit_amount, price.currency)
    except NotAPrice:
        return None


def _time(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)

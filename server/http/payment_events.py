"""Stripe's events: each is taken once, and changes rows in the transaction that remembers it.

An event may come twice, late and in any order, so it only ever adds facts. One that is of no use to us, or does not
match the row that it names, changes nothing and is kept as dead, with why, for an operator (`bin/admin events`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Generic, NamedTuple, TypeVar
from uuid import UUID

import structlog
from pydantic import BaseModel, Field, ValidationError

from server import metrics
from server.data.db import Connection, Database, queries
from server.data.jobs import Hopeless, Job, Work, add_job
from server.domain.money import to_minor
from server.http.charging import REFUNDS, Charging, Mismatch, note_dispute, note_intent, note_refund, uuid_of
from server.services.outside import ServiceHasNone
from server.services.payments import Dispute, Intent, Refund

EVENT = "payment_event"
payments = queries("payments")
log = structlog.get_logger()

M = TypeVar("M", bound=BaseModel)


class Useless(Exception):
    """The event says nothing that we can use; str() says why, for an operator."""


class AskFirst(Exception):
    """The event is of a payment intent that no row names yet: what Stripe says of that comes first."""

    def __init__(self, intent_id: str) -> None:
        super().__init__(intent_id)
        self.intent_id = intent_id


class Charge(BaseModel):
    """What of a charge concerns us."""

    id: str
    amount_refunded: int = 0
    payment_intent: str | None = None


class _Data(BaseModel):
    object: dict[str, Any]


class Event(BaseModel):
    """An event as Stripe sends it; `data.object` is what it is about, as that was when the event was made."""

    id: str = Field(min_length=1, max_length=255)
    type: str = Field(min_length=1, max_length=255)
    data: _Data


class Kind(NamedTuple, Generic[M]):
    """What is read of the object of an event, and what is done with it in the transaction that remembers the event.

    `apply` gives the user whose access may end by it, if there is one, and raises Useless or Mismatch for what shall be
    kept as dead. Of `model` is kept what is not in _SECRET. `ask`
    is done before: where an event is no more than a hint, it asks Stripe, and it may be done again.
    """

    model: type[M]
    apply: Callable[[Connection, M], Awaitable[UUID | None]]
    ask: Callable[[M], Awaitable[None]] | None = None


# Nothing needs to be done about these: what they tell comes in another event too, or is our own doing.
_HARMLESS = (
    *("customer.created", "customer.updated", "customer.deleted", "charge.", "payment_method.", "setup_intent."),
    *("price.", "product.", "plan.", "balance.", "payout.", "invoice_payment.", "invoiceitem.", "mandate."),
)
_SECRET = {"client_secret", "next_action"}


class PaymentEvents:
    """Takes events. Other parts add what they understand to `kinds`, by the event's type, and to `asks` how they learn
    of a payment intent that names no row of ours."""

    def __init__(self, database: Database, charging: Charging) -> None:
        self._database = database
        self._charging = charging
        self.asks: list[Callable[[Intent], Awaitable[None]]] = []
        intent = Kind(Intent, _apply_intent)
        refund = Kind(Refund, _apply_refund)
        dispute = Kind(Dispute, _apply_dispute)
        self.kinds: dict[str, Kind[Any]] = {
            **{f"payment_intent.{what}": intent for what in _INTENT_EVENTS},
            **dict.fromkeys(("refund.created", "refund.updated", "refund.failed", "charge.refund.updated"), refund),
            **{f"charge.dispute.{what}": dispute for what in _DISPUTE_EVENTS},
            "charge.refunded": Kind(Charge, _apply_charge),
        }

    @property
    def works(self) -> dict[str, Work]:
        """By the kind of their jobs."""
        return {EVENT: self.retry}

    async def take(self, event: Event) -> str:
        """What became of it: `done`, `dead`, or `repeated`.

        Raises DATABASE_AWAY, and ServiceAway where Stripe has to be asked first; then nothing has changed, and Stripe
        sends it again.
        """
        await self._follow_hint(event.type, event.data.object)
        try:
            outcome = await self._take(event)
        except AskFirst as error:
            await self._ask(error.intent_id)
            outcome = await self._take(event, was_asked=True)
        metrics.PAYMENT_EVENTS.labels(outcome).inc()
        return outcome

    async def _follow_hint(self, kind: str, said: Mapping[str, Any]) -> None:
        known = self.kinds.get(kind)
        if known is None or known.ask is None:
            return
        try:
            hint = known.model.model_validate(said)
        except ValidationError:
            return  # which is told when it is read
        await known.ask(hint)

    async def _take(self, event: Event, *, was_asked: bool = False) -> str:
        user_id = None
        async with self._database.transaction() as tx:
            facts, why = self._read(event.type, event.data.object)
            if not await payments.insert_event(tx, event_id=event.id, type=event.type, facts=facts):
                return "repeated"
            if why is None:
                why, user_id = await self._apply(tx, event.type, facts, was_asked=was_asked)
            if why:
                await payments.end_event(tx, event_id=event.id, status="dead", reason=why[:500])
                log.warning("payment_event_dead", id=event.id, type=event.type, reason=why)
        if user_id is not None:
            await self._charging.ended(user_id)
        return "dead" if why else "done"

    def _read(self, kind: str, said: Mapping[str, Any]) -> tuple[dict[str, Any], str | None]:
        """What is kept of the object, and why it is of no use."""
        known = self.kinds.get(kind)
        if known is None:
            harmless = kind.startswith(_HARMLESS)
            return {"id": str(said.get("id"))[:255]}, None if harmless else "nothing is done with events of this type"
        try:
            return known.model.model_validate(said).model_dump(mode="json", exclude=_SECRET), None
        except ValidationError as error:
            places = ", ".join(".".join(map(str, fault["loc"])) for fault in error.errors(include_input=False))
            return {"id": str(said.get("id"))[:255]}, f"its object cannot be read: {places}"

    async def _apply(
        self, tx: Connection, kind: str, facts: Mapping[str, Any], *, was_asked: bool
    ) -> tuple[str | None, UUID | None]:
        """Why it is of no use, then nothing that it began is left; and the user whose access may end by it."""
        known = self.kinds.get(kind)
        if known is None:
            return None, None
        try:
            async with tx.transaction():
                return None, await known.apply(tx, known.model.model_validate(facts))
        except (Useless, Mismatch) as error:
            return str(error), None
        except AskFirst as error:
            if not was_asked:
                raise
            return f"{error.intent_id} is no payment of ours", None

    async def _ask(self, intent_id: str) -> None:
        """What Stripe says of an intent, kept with the row that its metadata names; one that names none may be of an
        invoice that nobody has told us of."""
        try:
            intent = await self._charging.gateway.get_intent(intent_id)
            if transaction_id := _named(intent):
                await self._charging.note(transaction_id, intent)
                return
            for ask in self.asks:
                await ask(intent)
        except (ServiceHasNone, Mismatch) as error:
            log.warning("payment_intent_not_ours", intent=intent_id, error=str(error))

    async def retry(self, job: Job) -> None:
        """Take a dead event once more, by what was kept of it."""
        row = await payments.get_dead_event(self._database, event_id=job.payload["event_id"])
        if row is None:
            return
        await self._follow_hint(row["type"], row["facts"])
        try:
            await self._retry(job.payload["event_id"])
        except AskFirst as error:
            await self._ask(error.intent_id)
            await self._retry(job.payload["event_id"], was_asked=True)

    async def _retry(self, event_id: str, *, was_asked: bool = False) -> None:
        async with self._database.transaction() as tx:
            row = await payments.lock_dead_event(tx, event_id=event_id)
            if row is None:
                return
            if row["type"] not in self.kinds:
                raise Hopeless("nothing is done with events of this type")
            why, user_id = await self._apply(tx, row["type"], row["facts"], was_asked=was_asked)
            if why:
                raise Hopeless(why)
            await payments.end_event(tx, event_id=event_id, status="done", reason=None)
        if user_id is not None:
            await self._charging.ended(user_id)


_INTENT_EVENTS = ("created", "requires_action", "processing", "payment_failed", "succeeded", "canceled")
_DISPUTE_EVENTS = ("created", "updated", "closed", "funds_withdrawn", "funds_reinstated")


async def _apply_intent(tx: Connection, intent: Intent) -> None:
    transaction_id = _named(intent) or await payments.find_transaction(tx, transaction_reference=intent.id)
    if transaction_id is None:
        if await payments.is_subscriber(tx, stripe_id=intent.customer):
            return  # of an invoice, whose own events tell more
        raise Useless("it is no payment of ours")
    await note_intent(tx, transaction_id, intent)


async def _apply_refund(tx: Connection, refund: Refund) -> UUID:
    return await note_refund(tx, await _transaction_of(tx, refund.payment_intent), refund)


async def _apply_dispute(tx: Connection, dispute: Dispute) -> UUID:
    return await note_dispute(tx, await _transaction_of(tx, dispute.payment_intent), dispute)


async def _apply_charge(tx: Connection, charge: Charge) -> None:
    """It tells how much was given back, not by which refunds: where that is news, they are asked for."""
    transaction_id = await _transaction_of(tx, charge.payment_intent)
    row = await payments.lock_transaction(tx, transaction_id=transaction_id)
    if charge.amount_refunded > to_minor(row["refunded_amount"], row["currency"]):
        await add_job(tx, REFUNDS, transaction_id=str(transaction_id))


async def _transaction_of(tx: Connection, intent_id: str | None) -> UUID:
    """The transaction that an intent pays for. Raises Useless, AskFirst."""
    if intent_id is None:
        raise Useless("it is of no payment intent")
    found: UUID | None = await payments.find_transaction(tx, transaction_reference=intent_id)
    if found is None:
        raise AskFirst(intent_id)
    return found


def _named(intent: Intent) -> UUID | None:
    return uuid_of(intent.metadata.get("transaction_id"))

"""Between our rows and Stripe: purchases, refunds and cards, and the jobs that ask until both sides agree.

A purchase is a row before Stripe hears of it. Its id is the key under which Stripe charges once, however often it is
asked, and stands in the intent's metadata, so that the intent is found again when every answer was lost. Whatever
Stripe says, in an answer, an event or when it is asked, is kept by `note`: facts that only rise. Nobody is charged by a
job: an intent that was never made stays unmade.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any
from uuid import UUID

import structlog

from server import metrics
from server.clock import Clock
from server.config import Config
from server.data.db import Connection, Database, Record, queries
from server.data.jobs import Again, Hopeless, Job, Work, add_job
from server.data.sealing import CannotOpen, Ring
from server.domain.money import NotAPrice, from_minor, to_minor
from server.services.mail import page_address
from server.services.outside import SERVICE_AWAY, ServiceAway, ServiceHasNone, ServiceLeftAlone, ServiceRefused
from server.services.payments import (
    ENDED_S,
    REPEATABLE_S,
    Card,
    CardRefused,
    CustomerGone,
    Dispute,
    Gateway,
    Intent,
    KeyReused,
    Refund,
    RequestRefused,
)

LOOK, REFUND, REFUNDS = "payment_look", "payment_refund", "payment_refunds"
DISPUTE, REMOVAL = "payment_dispute", "method_removal"
OPEN = ("pending", "requires_action")
_FINAL_INTENTS = ("succeeded", "canceled")
# How soon after a purchase began it is asked about, if nobody was told its end until then.
_FIRST_LOOK_S = 5.0
# For a dispute's end, which takes weeks, an event is waited for; this is for one that was lost.
_DISPUTE_S = 6 * 3600.0
# Stripe away is tried again after as long as it has been so already, but at the latest after this.
_LONGEST_PUT_OFF_S = 300.0
# Before that, a refund that was asked for cannot have been asked for twice.
_FRESH_S = 60.0

# After these nothing was given back; after an answer that cannot be read nobody knows.
_REFUSALS = (RequestRefused, ServiceHasNone)
_REFUND_STATUS = {"succeeded": "succeeded", "failed": "failed", "canceled": "failed"}
_DISPUTE_STATUS = {"needs_response": "open", "under_review": "open", "lost": "lost"}

payments = queries("payments")
log = structlog.get_logger()


def asks_stripe_s(questions: int) -> Callable[[Config], float]:
    """Time, by the settings, for so many questions to Stripe and for what we do in between."""
    return lambda config: questions * config.stripe.timeout_s + config.server.handler_timeout_s


class Mismatch(ServiceRefused):
    """What Stripe says does not belong to the row that it names; nothing of it is believed."""


class Charging:
    """What the application does at Stripe beside answering requests.

    `ended` is awaited with the user's id when somebody may have lost access, and that is kept.
    """

    def __init__(
        self,
        config: Config,
        database: Database,
        gateway: Gateway,
        ring: Ring,
        clock: Clock,
        ended: Callable[[UUID], Awaitable[None]],
    ) -> None:
        self._config = config
        self._database = database
        self._ring = ring
        self._clock = clock
        self.gateway = gateway
        self.ended = ended

    @property
    def works(self) -> dict[str, Work]:
        """By the kind of their jobs."""
        return {
            LOOK: self.look,
            REFUND: self.repay,
            REFUNDS: self.compare_refunds,
            DISPUTE: self.watch_dispute,
            REMOVAL: self.forget_card,
        }

    # -- customers and cards -------------------------------------------------------------------------------------------

    async def customer_of(self, user_id: UUID) -> str:
        """The user's id at Stripe, made when there is none. Raises what Gateway does."""
        known: str | None = await payments.get_customer(self._database, user_id=user_id)
        if known is None:
            made = await self.gateway.create_customer(user_id)
            known = await payments.keep_customer(self._database, user_id=user_id, stripe_id=made)
        return known

    async def attach_card(self, user_id: UUID, token: str) -> Card:
        """Keep a card at Stripe for the user. Raises what Gateway does."""
        customer = await self.customer_of(user_id)
        try:
            return await self.gateway.attach_card(token, customer)
        except CustomerGone:
            made = await self.gateway.create_customer(user_id)
            await payments.replace_customer(self._database, user_id=user_id, stripe_id=made, instead_of=customer)
        return await self.gateway.attach_card(token, await self.customer_of(user_id))

    def seal(self, token: str, user_id: UUID) -> bytes:
        """The token as it is kept."""
        return self._ring.seal(token, user_id)

    async def token_of(self, method_id: UUID | None) -> str | None:
        """Stripe's id of a payment method; None for one that was removed, or whose key is no longer in the ring."""
        method = method_id and await payments.get_sealed_method(self._database, method_id=method_id)
        if not method or method["removed_at"]:
            return None
        try:
            return self._ring.open(method["sealed_token"], method["user_id"])
        except CannotOpen as error:
            log.error("token_not_opened", method_id=str(method_id), error=str(error))
            return None

    async def forget_card(self, job: Job) -> None:
        """Tell Stripe of a payment method that was removed, then forget it too."""
        method_id = UUID(job.payload["method_id"])
        method = await payments.get_sealed_method(self._database, method_id=method_id)
        if method is None or method["removed_at"] is None:
            return
        try:
            token = self._ring.open(method["sealed_token"], method["user_id"])
        except CannotOpen as error:
            raise Hopeless(str(error)) from error
        async with self.putting_off(job):
            await self.gateway.detach_card(token)
        await payments.forget_method(self._database, method_id=method_id)

    # -- purchases -----------------------------------------------------------------------------------------------------

    async def watch_over(self, tx: Connection, transaction_id: UUID) -> None:
        """In the transaction that begins a purchase: ask about it until it is settled."""
        pause_s = min(_FIRST_LOOK_S, self._config.jobs.reconcile_s)
        await add_job(tx, LOOK, in_s=pause_s, transaction_id=str(transaction_id))

    async def pay(self, row: Record) -> tuple[Record, Intent | None]:
        """Charge for a purchase that is open, or find out what came of that: the row then, and the intent if there is
        one. May be called again and again, and charges once.

        Raises ServiceAway when that is not known; then the purchase stays open. RequestRefused ends it as failed.
        """
        if row["status"] not in OPEN:
            return row, None
        intent = await self.find(row) if row["transaction_reference"] or not self.may_repeat(row) else None
        if intent is None and self.may_repeat(row):
            intent, failure = await self._charge(row)
            if intent is None and failure is not None:
                failed = await self._keep(row["id"], has_failed=True, failure_code=failure)
                return failed, None
        if intent is None:
            return await self.close(row), None
        return await self.note(row["id"], intent), intent

    async def _charge(self, row: Record) -> tuple[Intent | None, str | None]:
        """The intent, and why there is none."""
        token = await self.token_of(row["payment_method_id"])
        if token is None:
            return await self.find(row), "payment_method_unusable"
        try:
            return await self.gateway.charge(
                **_asked_for(row),
                customer=await self.customer_of(row["user_id"]),
                token=token,
                back_to=page_address(self._config, f"/courses/{row['course_id']}"),
            ), None
        except CardRefused as refused:
            return refused.intent, refused.code
        except KeyReused:
            return await self.find(row), None
        except ServiceHasNone:
            return None, "payment_method_unusable"
        except RequestRefused as refused:
            await self._keep(row["id"], has_failed=True, failure_code=refused.code or "refused")
            raise

    async def withdraw(self, row: Record) -> None:
        """Undo the beginning of a purchase for which Stripe was certainly not asked."""
        await payments.withdraw_purchase(self._database, transaction_id=row["id"])

    async def find(self, row: Record) -> Intent | None:
        """The intent of a transaction, by its id or its metadata."""
        if row["transaction_reference"] is not None:
            return await self.gateway.get_intent(row["transaction_reference"])
        customer = await payments.get_customer(self._database, user_id=row["user_id"])
        return customer and await self.gateway.find_intent(customer, "transaction_id", str(row["id"]))

    async def close(self, row: Record) -> Record:
        """See to it that nothing will be charged any more for a purchase; the row as it then is, which is paid if that
        came first."""
        intent = await self.find(row)
        if intent is None and self.may_repeat(row):
            # A request for it may still be on its way. Under a used key it does nothing.
            try:
                customer = await self.customer_of(row["user_id"])
                intent = await self.gateway.block_key(**_asked_for(row), customer=customer)
            except KeyReused:
                intent = await self.find(row)
                if intent is None and self.age_s(row) <= ENDED_S:
                    raise ServiceAway("a payment intent is just being made") from None
            except RequestRefused as refused:  # then a charge would be, too
                log.info("key_not_blocked", transaction_id=str(row["id"]), error=str(refused))
        if intent is None:
            return await self._keep(row["id"], is_canceled=True)
        if intent.status not in _FINAL_INTENTS:
            try:
                intent = await self.gateway.cancel_intent(intent.id)
            except RequestRefused:
                intent = await self.gateway.get_intent(intent.id)
        return await self.note(row["id"], intent)

    async def note(self, transaction_id: UUID, intent: Intent) -> Record:
        """Keep what Stripe says of a purchase; the row then. Raises Mismatch."""
        async with self._database.transaction() as tx:
            return await note_intent(tx, transaction_id, intent)

    async def _keep(self, transaction_id: UUID, **facts: Any) -> Record:
        """A fact that no intent says."""
        async with self._database.transaction() as tx:
            await payments.lock_transaction(tx, transaction_id=transaction_id)
            row: Record = await payments.note_payment(tx, transaction_id=transaction_id, **_NOTHING | facts)
        return row

    async def look(self, job: Job) -> None:
        """Ask about a purchase until it is settled here and there; in the end, and when its user has left, it is given
        up."""
        row = await payments.get_transaction(self._database, transaction_id=UUID(job.payload["transaction_id"]))
        if row is None or row["status"] not in (*OPEN, "failed"):
            return
        is_over = row["has_left"] or job.age_s > self._config.payments.abandoned_s
        async with self.putting_off(job):
            if row["status"] in OPEN and (intent := await self.find(row)) is not None:
                row = await self.note(row["id"], intent)
            # What failed could be paid by another card as long as its intent is open.
            if row["status"] == "failed" or (row["status"] in OPEN and is_over):
                row = await self.close(row)
        if row["status"] in OPEN:
            raise Again(self.pause_s(job))

    # -- refunds and disputes ------------------------------------------------------------------------------------------

    async def refund(self, refund_id: UUID) -> None:
        """Give back what a refund asks for, once; it has failed when Stripe refuses. Raises what Gateway does."""
        row = await payments.get_refund(self._database, refund_id=refund_id)
        if row is None or row["status"] != "requested":
            return
        reference, named = row["transaction_reference"], str(refund_id)
        known = None
        if row["age_s"] > _FRESH_S:
            given = await self.gateway.list_refunds(reference)
            known = next((one for one in given if (one.metadata or {}).get("refund_id") == named), None)
        try:
            known = known or await self.gateway.refund(
                key=_refund_key(refund_id, row["age_s"]),
                intent_id=reference,
                amount=to_minor(row["amount"], row["currency"]),
                metadata={"refund_id": named, "transaction_id": str(row["transaction_id"])},
            )
        except _REFUSALS:
            async with self._database.transaction() as tx:
                await payments.lock_transaction(tx, transaction_id=row["transaction_id"])
                await payments.note_refund(tx, refund_id=refund_id, stripe_id=None, status="failed")
                await add_job(tx, REFUNDS, transaction_id=str(row["transaction_id"]))
            raise
        await self._note_refund(row["transaction_id"], known)

    async def repay(self, job: Job) -> None:
        """Do what a refund asks for whose request was cut off, and what nobody asked for: a course paid for twice, or
        by somebody who had left."""
        refund_id = UUID(job.payload["refund_id"])
        row = await payments.get_refund(self._database, refund_id=refund_id)
        if row is None:
            return
        async with self.putting_off(job):
            if not await self._is_to_do(row):
                return
            if row["status"] == "pending":
                await self._compare_refunds(row["transaction_id"], row["transaction_reference"])
            else:
                try:
                    await self.refund(refund_id)
                except _REFUSALS as error:
                    # Whoever asked was told; of this nobody else would learn, unless somebody gave it back at Stripe.
                    if _is_by_itself(row) and await self._is_owed_still(row):
                        raise Hopeless(str(error)) from error
                    return
        row = await payments.get_refund(self._database, refund_id=refund_id)
        if row is not None and row["status"] == "pending":
            raise Again(self.pause_s(job))

    async def _is_owed_still(self, row: Record) -> bool:
        """Whether what a refund by itself is to give back was not given back meanwhile, by all that Stripe knows."""
        await self._compare_refunds(row["transaction_id"], row["transaction_reference"])
        now: Record = await payments.get_refund(self._database, refund_id=row["id"])
        is_owed: bool = now["is_owed"]
        return is_owed

    async def _is_to_do(self, row: Record) -> bool:
        """Whether a refund is to be done, or followed to its end. One that nobody asked for and that failed is begun
        anew: an operator has its job tried once more."""
        if _is_by_itself(row) and row["status"] in ("requested", "failed"):
            if not row["is_owed"]:
                # One of the two was given back or disputed meanwhile: the course is paid by the other. This one may
                # have been asked for, too, without an answer.
                await self._compare_refunds(row["transaction_id"], row["transaction_reference"])
                await payments.drop_refund(self._database, refund_id=row["id"])
                return False
            if row["status"] == "failed":
                await self._begin_anew(row)
        return row["status"] in ("requested", "pending")

    async def _begin_anew(self, row: Record) -> None:
        """Another refund of what is left: under the key of the one that failed Stripe would say the same again."""
        transaction_id = row["transaction_id"]
        async with self._database.transaction() as tx:
            await payments.lock_transaction(tx, transaction_id=transaction_id)
            left = (await payments.get_refundable(tx, transaction_id=transaction_id))["amount_left"]
            if left:
                refund = await payments.insert_refund(
                    tx,
                    transaction_id=transaction_id,
                    amount=left,
                    reason=row["reason"],
                    requested_by=None,
                    idempotency_key=None,
                )
                await add_job(tx, REFUND, refund_id=str(refund["id"]))

    async def compare_refunds(self, job: Job) -> None:
        """Learn of all refunds of a transaction, those made at Stripe too."""
        row = await payments.get_transaction(self._database, transaction_id=UUID(job.payload["transaction_id"]))
        if row is not None and row["transaction_reference"] is not None:
            async with self.putting_off(job):
                await self._compare_refunds(row["id"], row["transaction_reference"])

    async def _compare_refunds(self, transaction_id: UUID, reference: str) -> None:
        for refund in await self.gateway.list_refunds(reference):
            await self._note_refund(transaction_id, refund)

    async def _note_refund(self, transaction_id: UUID, refund: Refund) -> None:
        async with self._database.transaction() as tx:
            user_id = await note_refund(tx, transaction_id, refund)
        await self.ended(user_id)

    async def watch_dispute(self, job: Job) -> None:
        """Ask about a dispute until it is closed: the event that says so may have been lost."""
        row = await payments.get_dispute(self._database, stripe_id=job.payload["dispute_id"])
        if row is None or row["status"] in ("won", "lost"):
            return
        async with self.putting_off(job):
            dispute = await self.gateway.get_dispute(row["stripe_id"])
        async with self._database.transaction() as tx:
            user_id = await note_dispute(tx, row["transaction_id"], dispute)
        await self.ended(user_id)
        if _dispute_status(dispute) in ("inquiry", "open"):
            raise Again(_DISPUTE_S)

    # -- parts of them -------------------------------------------------------------------------------------------------

    def may_repeat(self, row: Record) -> bool:
        """Whether Stripe still knows the key under which it was asked for what this row is."""
        return self.age_s(row) <= REPEATABLE_S

    def age_s(self, row: Record) -> float:
        """Since it was begun."""
        age_s: float = (self._clock.now() - row["created_at"]).total_seconds()
        return age_s

    def pause_s(self, job: Job) -> float:
        """Seldomer with time: what takes an hour is not asked for every second."""
        return min(max(_FIRST_LOOK_S, job.age_s / 10), self._config.jobs.reconcile_s)

    @asynccontextmanager
    async def putting_off(self, job: Job) -> AsyncIterator[None]:
        """Stripe away is no failure of the job; what will never be otherwise is dead at once."""
        try:
            yield
        except SERVICE_AWAY as error:
            wait_s = error.retry_after_s if isinstance(error, ServiceLeftAlone) else self.pause_s(job)
            pause_s = min(max(wait_s, job.age_s / 2), _LONGEST_PUT_OFF_S, self._config.jobs.reconcile_s)
            raise Again(pause_s, str(error)) from error
        except Mismatch as error:
            raise Hopeless(str(error)) from error


# -- what Stripe says, on our rows -------------------------------------------------------------------------------------

_NOTHING: dict[str, Any] = {
    "transaction_reference": None,
    "needs_action": False,
    "has_succeeded": False,
    "has_failed": False,
    "is_canceled": False,
    "failure_code": None,
}


async def note_intent(tx: Connection, transaction_id: UUID, intent: Intent) -> Record:
    """Keep what an intent says of the transaction that it names; the row then. Raises Mismatch."""
    row = await payments.lock_transaction(tx, transaction_id=transaction_id)
    if row is None:
        raise Mismatch("there is no such transaction")
    _check_intent(row, intent)
    failure = intent.failure_code if intent.status == "requires_payment_method" else None
    needs_action, has_succeeded = intent.status == "requires_action", intent.status == "succeeded"
    is_canceled = intent.status == "canceled"
    known = (
        row["transaction_reference"] is not None
        and row["needs_action"] >= needs_action
        and (row["succeeded_at"] is not None) >= has_succeeded
        and (row["canceled_at"] is not None) >= is_canceled
        and (row["failed_at"] is not None) >= (failure is not None)
    )
    if known:
        return row  # type: ignore[no-any-return]
    noted: Record = await payments.note_payment(
        tx,
        transaction_id=transaction_id,
        transaction_reference=intent.id,
        needs_action=needs_action,
        has_succeeded=has_succeeded,
        has_failed=failure is not None,
        is_canceled=is_canceled,
        failure_code=failure,
    )
    if noted["status"] != row["status"]:
        metrics.TRANSACTIONS.labels(noted["status"]).inc()
    return noted


def _check_intent(row: Record, intent: Intent) -> None:
    """Raises Mismatch unless the intent is of this very purchase: amount, currency, user."""
    expected = to_minor(row["amount"], row["currency"])
    if intent.customer not in (row["customers"] or ()):
        raise Mismatch("another customer than the transaction's")
    received = intent.amount_received if intent.status == "succeeded" else expected
    named = {"transaction_id": str(row["id"]), "user_id": str(row["user_id"])}
    for what, said, wanted in (
        ("amount", intent.amount, expected),
        ("amount received", received, expected),
        ("currency", intent.currency, row["currency"]),
        ("payment intent", intent.id, row["transaction_reference"] or intent.id),
        *((name, intent.metadata.get(name, value), value) for name, value in named.items()),
    ):
        if said != wanted:
            raise Mismatch(f"another {what} than the transaction's")


async def note_refund(tx: Connection, transaction_id: UUID, refund: Refund) -> UUID:
    """Keep what Stripe says of a refund of a transaction; the user, whose access may end by it. Raises Mismatch."""
    row = await payments.lock_transaction(tx, transaction_id=transaction_id)
    if row is None or refund.currency != row["currency"]:
        raise Mismatch("a refund of another transaction or in another currency")
    status = _REFUND_STATUS.get(refund.status or "", "pending")
    user_id: UUID = row["user_id"]
    ours = uuid_of((refund.metadata or {}).get("refund_id"))
    if ours and await payments.get_own_refund(tx, refund_id=ours, transaction_id=transaction_id):
        await payments.note_refund(tx, refund_id=ours, stripe_id=refund.id, status=status)
        return user_id
    amount = amount_of(refund.amount, refund.currency)
    if not amount:
        raise Mismatch("a refund of nothing")
    await payments.note_foreign_refund(
        tx, transaction_id=transaction_id, stripe_id=refund.id, amount=amount, status=status
    )
    return user_id


async def note_dispute(tx: Connection, transaction_id: UUID, dispute: Dispute) -> UUID:
    """Keep what Stripe says of a dispute of a transaction; the user, whose access may end by it. Raises Mismatch."""
    row = await payments.lock_transaction(tx, transaction_id=transaction_id)
    if row is None or dispute.currency != row["currency"]:
        raise Mismatch("a dispute of another transaction or in another currency")
    is_new = await payments.note_dispute(
        tx,
        transaction_id=transaction_id,
        stripe_id=dispute.id,
        status=_dispute_status(dispute),
        amount=amount_of(dispute.amount, dispute.currency),
        reason=dispute.reason or "",
    )
    if is_new:
        await add_job(tx, DISPUTE, in_s=_DISPUTE_S, dispute_id=dispute.id)
    user_id: UUID = row["user_id"]
    return user_id


def _is_by_itself(refund: Record) -> bool:
    """Whether nobody asked for it: its course was paid for twice, or by somebody who had left. Whoever asks may give
    any reason."""
    return refund["requested_by"] is None and refund["reason"] in ("duplicate", "account deleted")


def _refund_key(refund_id: UUID, age_s: float) -> str:
    """Under which it is asked for. An error of Stripe's own is its answer to all that comes under a key for a day, so
    there is another one now and then, when what was asked under the one before has ended, and was looked for in vain.

    Raises ServiceAway between two of them.
    """
    turn, since_s = divmod(age_s, 2 * ENDED_S)
    if since_s > ENDED_S:
        raise ServiceAway("a refund may just be being made")
    return f"{refund_id}-{turn:.0f}" if turn else str(refund_id)


def _dispute_status(dispute: Dispute) -> str:
    """An inquiry that was closed, or a dispute that was won or prevented, leaves the money with us."""
    if dispute.status in ("warning_needs_response", "warning_under_review"):
        return "inquiry"
    return _DISPUTE_STATUS.get(dispute.status, "won")


def _asked_for(row: Record) -> dict[str, Any]:
    """What a purchase's intent is made with, always alike."""
    return {
        "key": str(row["id"]),
        "amount": to_minor(row["amount"], row["currency"]),
        "currency": row["currency"],
        "metadata": {
            "transaction_id": str(row["id"]),
            "user_id": str(row["user_id"]),
            "course_id": str(row["course_id"]),
        },
    }


def amount_of(minor: int, currency: str) -> Decimal:
    """So many minor units. Raises Mismatch for what cannot be written down."""
    try:
        return from_minor(minor, currency)
    except NotAPrice as error:
        raise Mismatch(str(error)) from None


def uuid_of(text: str | None) -> UUID | None:
    """An id of ours that stands in metadata, where anything may stand."""
    try:
        return UUID(text) if text else None
    except ValueError:
        return None

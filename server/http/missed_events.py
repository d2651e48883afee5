"""Events of Stripe that never came: Stripe keeps them for thirty days, and is asked for them.

What is open is asked about by its own jobs; of what is not (a refund made at Stripe's own desk, a dispute, the end of
a subscription there) events alone tell. So Stripe's list of them is walked through again and again, from its newest end
to where the last walk began, and what is not known is given to the same handling as what is told. Each is taken once,
so it does no harm to walk twice, to be killed on the way, or to be told in the same moment.
"""

from __future__ import annotations

import asyncio

import structlog
from pydantic import ValidationError

from server.data.db import DATABASE_AWAY, Database, Record, queries
from server.http.payment_events import Event, PaymentEvents
from server.services.outside import SERVICE_AWAY, ServiceError, ServiceHasNone
from server.services.payments import EventPage, Gateway

# By these everything is learned that the others tell, too; Stripe takes twenty at most.
TYPES = (
    *("payment_intent.succeeded", "payment_intent.payment_failed", "payment_intent.canceled"),
    *("charge.refunded", "charge.refund.updated", "refund.created", "refund.updated", "refund.failed"),
    *("charge.dispute.created", "charge.dispute.updated", "charge.dispute.closed"),
    *("charge.dispute.funds_withdrawn", "charge.dispute.funds_reinstated"),
    *("customer.subscription.updated", "customer.subscription.deleted"),
    *("customer.subscription.paused", "customer.subscription.resumed"),
    *("invoice.paid", "invoice.payment_failed"),
)
# Stripe's list may learn of an event later than of one that came after it.
OVERLAP_S = 300
# Of a hundred each. What is more has its turn later.
_PAGES_A_ROUND = 10

payments = queries("payments")
log = structlog.get_logger()


class _Listed(Event):
    created: int


class MissedEvents:
    """Asks for them every `pause_s`, whichever process comes first.

    That Stripe has no such list, or the key no right to it, is told in the log, once.
    """

    def __init__(self, database: Database, gateway: Gateway, events: PaymentEvents, pause_s: float) -> None:
        self._database = database
        self._gateway = gateway
        self._events = events
        self._pause_s = pause_s
        self._is_told = False

    async def run(self) -> None:
        """Until cancelled."""
        while self._gateway.is_configured:
            await asyncio.sleep(self._pause_s)
            try:
                await self.look()
            except DATABASE_AWAY as error:
                log.warning("missed_events_postponed", error=str(error))

    async def look(self) -> None:
        """One round. Raises DATABASE_AWAY; then it begins anew where it was."""
        walk = await payments.take_walk(self._database, pause_s=self._pause_s)
        for _ in range(_PAGES_A_ROUND):
            if walk is None or (page := await self._page(walk)) is None:
                return
            walk = await self._go_on(walk, page)
            if walk is None or walk["after"] is None:
                return

    async def _page(self, walk: Record) -> EventPage | None:
        try:
            page = await self._gateway.list_events(TYPES, since=walk["since"] - OVERLAP_S, after=walk["after"])
        except ServiceError as error:
            if isinstance(error, ServiceHasNone) and walk["after"] is not None:  # it has forgotten that event
                await self._move(walk, since=walk["since"], reached=None, after=None)
            elif not self._is_told:
                log.warning("missed_events_not_listed", error=str(error))
                self._is_told = True
            return None
        self._is_told = False
        return page

    async def _go_on(self, walk: Record, page: EventPage) -> Record | None:
        """Take what is not known of a page; where the walk then is, or None when another has gone on with it."""
        listed = [event for said in page.data if (event := _read(said)) is not None]
        known = await payments.known_events(self._database, event_ids=[event.id for event in listed])
        reached = walk["reached"] if walk["after"] else max((event.created for event in listed), default=walk["since"])
        for event in reversed(listed):
            if event.id not in known and not await self._take(event):
                reached = min(reached, event.created)
        if page.has_more and page.data:
            return await self._move(walk, since=walk["since"], reached=reached, after=page.data[-1].get("id"))
        return await self._move(walk, since=max(reached, walk["since"]), reached=None, after=None)

    async def _take(self, event: _Listed) -> bool:
        """Whether it need not be taken again. Raises DATABASE_AWAY."""
        try:
            outcome = await self._events.take(event)
            log.info("payment_event_missed", id=event.id, type=event.type, outcome=outcome)
        except SERVICE_AWAY as error:
            log.warning("payment_event_postponed", id=event.id, error=str(error))
            return False
        except DATABASE_AWAY:
            raise
        except Exception:
            log.exception("payment_event_failed", id=event.id)
        return True

    async def _move(self, walk: Record, **to: object) -> Record | None:
        """Keep where it goes on; nothing of it before that is asked for again, whoever dies."""
        moved: Record | None = await payments.move_walk(
            self._database, was_since=walk["since"], was_after=walk["after"], **to
        )
        return moved


def _read(said: dict[str, object]) -> _Listed | None:
    try:
        return _Listed.model_validate(said)
    except ValidationError:
        log.warning("payment_event_not_read", id=str(said.get("id"))[:255])
        return None

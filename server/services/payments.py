"""Stripe, through its SDK: customers, cards, payment intents, refunds, and the signature of its events.

The SDK's own retries are off: what is tried again, and when, is ours to say. Everything that makes something carries a
key by which Stripe does it once, however often it is asked within a day; after `REPEATABLE_S` it must be looked for
before it is asked for again. No card number passes through here, and tokens (`pm_...`) stand in no error's text.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID, uuid4

from aiohttp import ClientSession, ClientTimeout
from pydantic import BaseModel, Field, ValidationError

from server.clock import Clock
from server.config import Breaker, Stripe
from server.services.outside import (
    Service,
    ServiceAway,
    ServiceHasNone,
    ServiceLeftAlone,
    ServiceNotConfigured,
    ServicePutsOff,
    ServiceRefused,
)

if TYPE_CHECKING:
    import stripe
    from stripe import StripeClient

# Stripe forgets keys after 24 h.
REPEATABLE_S = 23 * 3600.0
# By then Stripe has ended whatever it was asked for. A key that is used up and under which nothing was made by then was
# answered with an error of Stripe's own, which is the answer to all that comes under it.
ENDED_S = 300.0
# So many of a customer's intents are looked through for one; a purchase is among the newest.
_MOST_INTENTS = 1000
_PAGE = 100
_TRIES = 2
# Of what is switched on at Stripe whatever does not take the customer elsewhere to pay.
_CARDS_ALONE = {"enabled": True, "allow_redirects": "never"}
_NO_TIMEOUT = ClientTimeout(total=None)
_SIGNED_AT = re.compile(r"\d{1,15}", re.ASCII)
_TOKENS = re.compile(r"\b(pm|card|src|tok)_\w+")

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)


class EventRefused(Exception):
    """The event's signature is missing, wrong, stale or from the future."""


class CardRefused(ServiceRefused):
    """The card's bank, or Stripe, declined. `code` says why in Stripe's word (`insufficient_funds`)."""

    def __init__(self, code: str, intent: Intent | None) -> None:
        super().__init__(f"the card was declined: {code}")
        self.code = code
        self.intent = intent


class KeyReused(ServiceRefused):
    """Stripe has done something else under this key before."""


class CustomerGone(ServiceHasNone):
    """The customer that was named was deleted there."""


class RequestRefused(ServiceRefused):
    """Stripe understood and will not; `code` is its word for why, "" where it has none."""

    def __init__(self, text: str, code: str) -> None:
        super().__init__(text)
        self.code = code


class _Failure(BaseModel):
    code: str | None = None
    decline_code: str | None = None


class _Redirect(BaseModel):
    url: str | None = None


class _NextAction(BaseModel):
    redirect_to_url: _Redirect | None = None


class Intent(BaseModel):
    """A payment intent: what of it concerns us. `amount` counts minor units, as Stripe does."""

    id: str
    status: str
    amount: int
    currency: str
    amount_received: int = 0
    customer: str | None = None
    metadata: dict[str, str] = Field(default_factory=dict)
    client_secret: str | None = None
    last_payment_error: _Failure | None = None
    next_action: _NextAction | None = None

    @property
    def failure_code(self) -> str | None:
        """Why the last attempt failed, in Stripe's word; None when none did."""
        failure = self.last_payment_error
        return (failure.decline_code or failure.code or "card_declined") if failure else None

    @property
    def action_url(self) -> str | None:
        """Where the customer can authenticate without Stripe's own scripts."""
        redirect = self.next_action and self.next_action.redirect_to_url
        return redirect.url if redirect else None


class Refund(BaseModel):
    """A refund; `status` is Stripe's (`pending`, `requires_action`, `succeeded`, `failed`, `canceled`)."""

    id: str
    amount: int
    currency: str
    status: str | None = None
    payment_intent: str | None = None
    metadata: dict[str, str] | None = None


class Dispute(BaseModel):
    """A dispute; `status` is Stripe's (`warning_needs_response`, `needs_response`, `under_review`, `won`, `lost`)."""

    id: str
    amount: int
    currency: str
    status: str
    reason: str | None = None
    payment_intent: str | None = None


class EventPage(BaseModel):
    """Of a list of events, the newest first, as Stripe tells them to a webhook."""

    data: list[dict[str, Any]]
    has_more: bool = False


class _CardFace(BaseModel):
    brand: str
    last4: str
    exp_month: int
    exp_year: int


class _Method(BaseModel):
    id: str
    customer: str | None = None
    card: _CardFace | None = None


class Card(_Method):
    """A payment method that is a card. `id` is its token."""

    card: _CardFace


class Gateway:
    """The account of `stripe.secret_key`. Every call raises ServiceAway and its kind, ServiceRefused and its kinds, and
    ServiceNotConfigured."""

    def __init__(self, http: ClientSession, settings: Stripe, clock: Clock, breaker: Breaker) -> None:
        self._settings = settings
        self._clock = clock
        self._service = Service("stripe", breaker, clock)
        # A key may have no right to events: nothing else is to suffer by that.
        self._events = Service("stripe_events", breaker, clock)
        self._client: StripeClient | None = None
        if settings.secret_key:
            import stripe  # noqa: PLC0415 - slow, and useless without a key

            stripe.enable_telemetry = False
            self._client = stripe.StripeClient(
                settings.secret_key,
                base_addresses={"api": settings.api_base.rstrip("/")},
                http_client=stripe.AIOHTTPClient(session=http, timeout=_NO_TIMEOUT),
                max_network_retries=0,
            )

    @property
    def is_configured(self) -> bool:
        """Whether there is a key to speak with."""
        return self._client is not None

    @property
    def client(self) -> StripeClient:
        """The SDK's client. Raises ServiceNotConfigured."""
        if self._client is None:
            raise ServiceNotConfigured("stripe.secret_key is empty")
        return self._client

    async def ask(self, operation: str, kind: type[M], call: Callable[[], Awaitable[stripe.StripeObject]]) -> M:
        """What an SDK call answers, as far as `kind` has members for it; the call must be one that may come twice."""
        return await self.calling(operation, lambda: _read(kind, call))

    async def calling(self, operation: str, call: Callable[[], Awaitable[T]], service: Service | None = None) -> T:
        """The same for a call that answers something else; SDK errors raised in it are told in our words.

        ServiceLeftAlone means that nothing was sent at all, not even by a first try.
        """
        was_sent = False

        async def once() -> T:
            nonlocal was_sent
            was_sent = True
            async with _speaking():
                return await call()

        _ = self.client  # raises ServiceNotConfigured
        try:
            service = service or self._service
            return await service.call(operation, once, timeout_s=self._settings.timeout_s, tries=_TRIES)
        except ServiceLeftAlone as error:
            if was_sent:
                raise ServiceAway(f"no answer, and then {error}") from error
            raise

    # -- customers and cards -------------------------------------------------------------------------------------------

    async def create_customer(self, user_id: UUID) -> str:
        """The id of the user's customer. Stripe learns no name and no address."""
        params: Any = {"metadata": {"user_id": str(user_id)}}
        # Not the user's: an error of Stripe's own would be the answer for a day, and one too many does no harm.
        options: Any = {"idempotency_key": str(uuid4())}
        found = await self.ask(
            "create_customer", _Named, lambda: self.client.v1.customers.create_async(params, options)
        )
        return found.id

    async def attach_card(self, token: str, customer: str) -> Card:
        """Keep a card for a customer. Raises CustomerGone, CardRefused, ServiceHasNone for what this account does not
        have, and RequestRefused for one that is somebody else's, or for what is no card."""
        method = await self._attach(token, customer)
        if method.card is None:
            await self.detach_card(token)
            raise RequestRefused("the payment method is no card", "")
        return Card(id=method.id, customer=method.customer, card=method.card)

    async def _attach(self, token: str, customer: str) -> _Method:
        params: Any = {"customer": customer}
        api = self.client.v1.payment_methods
        try:
            return await self.ask("attach_card", _Method, lambda: api.attach_async(token, params))
        except RequestRefused:
            known = await self.ask("get_card", _Method, lambda: api.retrieve_async(token))
            if known.customer != customer:  # else it was attached by an attempt whose answer was lost
                raise
            return known

    async def detach_card(self, token: str) -> None:
        """Forget a card; one that is gone already is no error."""
        try:
            await self.ask("detach_card", _Named, lambda: self.client.v1.payment_methods.detach_async(token))
        except (ServiceHasNone, RequestRefused):
            return

    # -- payments ------------------------------------------------------------------------------------------------------

    async def charge(
        self, *, key: str, amount: int, currency: str, customer: str, token: str, metadata: dict[str, str], back_to: str
    ) -> Intent:
        """Charge a card now, once for each `key`. The intent may want the customer to act. Raises CardRefused.

        Args:
            amount: in minor units.
            metadata: by which the intent is found again.
            back_to: the page to which a customer comes back from their bank.
        """
        params: Any = {
            "amount": amount,
            "currency": currency,
            "customer": customer,
            "payment_method": token,
            "automatic_payment_methods": _CARDS_ALONE,
            "confirm": True,
            "metadata": metadata,
            "return_url": back_to,
        }
        options: Any = {"idempotency_key": key}
        return await self.ask("charge", Intent, lambda: self.client.v1.payment_intents.create_async(params, options))

    async def block_key(
        self, *, key: str, amount: int, currency: str, customer: str, metadata: dict[str, str]
    ) -> Intent:
        """Use up a key with an intent that charges nothing, so that a request under it that is still on its way does
        nothing when it arrives. Raises KeyReused when one arrived before."""
        params: Any = {
            "amount": amount,
            "currency": currency,
            "customer": customer,
            "automatic_payment_methods": _CARDS_ALONE,
            "metadata": metadata,
        }
        options: Any = {"idempotency_key": key}
        return await self.ask("block_key", Intent, lambda: self.client.v1.payment_intents.create_async(params, options))

    async def get_intent(self, intent_id: str) -> Intent:
        """Raises ServiceHasNone."""
        return await self.ask("get_intent", Intent, lambda: self.client.v1.payment_intents.retrieve_async(intent_id))

    async def cancel_intent(self, intent_id: str) -> Intent:
        """Raises RequestRefused when it cannot be canceled any more."""
        return await self.ask("cancel_intent", Intent, lambda: self.client.v1.payment_intents.cancel_async(intent_id))

    async def find_intent(self, customer: str, name: str, value: str) -> Intent | None:
        """The customer's newest intent with this in its metadata."""
        params: Any = {"customer": customer, "limit": _PAGE}

        async def look() -> Intent | None:
            looked_at = 0
            page = await self.client.v1.payment_intents.list_async(params)
            async for listed in page.auto_paging_iter():
                intent = _parse(Intent, listed.to_dict())
                if intent.metadata.get(name) == value:
                    return intent
                looked_at += 1
                if looked_at == _MOST_INTENTS:
                    break
            return None

        return await self.calling("find_intent", look)

    # -- refunds -------------------------------------------------------------------------------------------------------

    async def refund(self, *, key: str, intent_id: str, amount: int, metadata: dict[str, str]) -> Refund:
        """Give back so many minor units, once for each `key`."""
        params: Any = {"payment_intent": intent_id, "amount": amount, "metadata": metadata}
        options: Any = {"idempotency_key": key}
        return await self.ask("refund", Refund, lambda: self.client.v1.refunds.create_async(params, options))

    async def list_refunds(self, intent_id: str) -> list[Refund]:
        """All of an intent's."""
        params: Any = {"payment_intent": intent_id, "limit": _PAGE}

        async def look() -> list[Refund]:
            page = await self.client.v1.refunds.list_async(params)
            return [_parse(Refund, listed.to_dict()) async for listed in page.auto_paging_iter()]

        return await self.calling("list_refunds", look)

    async def get_dispute(self, dispute_id: str) -> Dispute:
        """Raises ServiceHasNone."""
        return await self.ask("get_dispute", Dispute, lambda: self.client.v1.disputes.retrieve_async(dispute_id))

    # -- events --------------------------------------------------------------------------------------------------------

    async def list_events(self, types: Sequence[str], *, since: int, after: str | None) -> EventPage:
        """What happened of these types since then (Unix seconds), the newest first; or what follows an event in that
        order. Raises ServiceHasNone for an event that Stripe has forgotten."""
        params: Any = {"types": list(types), "created": {"gte": since}, "limit": _PAGE}
        if after is not None:
            params["starting_after"] = after
        api = self.client.v1.events
        return await self.calling("list_events", lambda: _read(EventPage, lambda: api.list_async(params)), self._events)

    def verify_event(self, header: str | None, body: bytes) -> None:
        """Check `Stripe-Signature` over the raw body, by the SDK's own check and our clock, both ways.

        Raises EventRefused, ServiceNotConfigured.
        """
        secret = self._settings.webhook_secret
        if not secret:
            raise ServiceNotConfigured("stripe.webhook_secret is empty")
        from stripe import SignatureVerificationError, WebhookSignature  # noqa: PLC0415

        try:
            WebhookSignature.verify_header(body, header, secret)
        except (SignatureVerificationError, UnicodeDecodeError, TypeError) as error:
            # TypeError: a signature with what is not ASCII cannot be compared.
            raise EventRefused(type(error).__name__) from None
        if abs(self._clock.now().timestamp() - _signed_at(header or "")) > self._settings.webhook_tolerance_s:
            raise EventRefused("stale or from the future")


def _signed_at(header: str) -> int:
    """When an event was signed, by the one time in the header: of two the SDK might have read the other. Raises
    EventRefused."""
    times = [item.removeprefix("t=") for item in header.split(",") if item.startswith("t=")]
    if len(times) != 1 or not _SIGNED_AT.fullmatch(times[0]):
        raise EventRefused("not one time")
    return int(times[0])


class _Named(BaseModel):
    id: str


async def _read(kind: type[M], call: Callable[[], Awaitable[stripe.StripeObject]]) -> M:
    return _parse(kind, (await call()).to_dict())


def _parse(kind: type[M], said: Mapping[str, Any]) -> M:
    try:
        return kind.model_validate(said)
    except ValidationError as error:
        places = ", ".join(".".join(map(str, fault["loc"])) for fault in error.errors(include_input=False))
        raise ServiceRefused(f"Stripe's answer cannot be read: {places}") from None


@asynccontextmanager
async def _speaking() -> AsyncIterator[None]:
    """The SDK's errors, and those that it falls over, in a service's words."""
    import stripe  # noqa: PLC0415 - imported when the client was made

    try:
        yield
    except stripe.CardError as error:
        raise CardRefused(_decline_code(error), _intent_of(error)) from None
    except stripe.IdempotencyError as error:
        raise KeyReused(_told(error)) from None
    except stripe.InvalidRequestError as error:
        if error.http_status == 404 or error.code == "resource_missing":
            gone = error.code == "resource_missing" and error.param == "customer"
            raise (CustomerGone if gone else ServiceHasNone)(_told(error)) from None
        raise RequestRefused(_told(error), error.code or "") from None
    except stripe.StripeError as error:
        if error.http_status in (409, 429):
            # It works: the same key, or the same object, is in other hands this moment; or too much is asked of it.
            is_brief = error.http_status == 409 or getattr(error.error, "code", None) == "lock_timeout"
            raise ServicePutsOff(_told(error), is_brief=is_brief) from None
        # Also what only the operator can mend, such as a wrong key: it is asked again until it is mended.
        raise ServiceAway(_told(error)) from None
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        # The SDK takes for granted that an answer is UTF-8, and an object or a list of objects.
        raise ServiceRefused(f"Stripe's answer makes no sense: {type(error).__name__}") from error


def _decline_code(error: stripe.CardError) -> str:
    said = error.error
    return getattr(said, "decline_code", None) or error.code or "card_declined"


def _intent_of(error: stripe.CardError) -> Intent | None:
    """The intent that was made all the same, and can be paid by another card."""
    intent = getattr(error.error, "payment_intent", None)
    return None if intent is None else _parse(Intent, intent.to_dict())


def _told(error: stripe.StripeError) -> str:
    """For the log: without tokens, and no longer than a line."""
    text = _TOKENS.sub(r"\1_...", " ".join(str(error.user_message or error).split()))
    return f"Stripe answered {error.http_status} {error.code or ''} ({error.request_id}): {text}"[:400]

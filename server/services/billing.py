"""Subscriptions at Stripe: begun, changed, ended, and what was paid for them; over the same account as `Gateway`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from pydantic import BaseModel, Field

from server.services.payments import Gateway, RequestRefused

if TYPE_CHECKING:
    import stripe

# Renewals and prorations of a subscription that are looked through for what was paid.
MOST_INVOICES = 100
_MOST_SUBSCRIPTIONS = 100
_PRODUCT = "lectern_plan_"
_INTERVALS = {"monthly": "month", "yearly": "year"}
_PERIODS = {interval: period for period, interval in _INTERVALS.items()}
_WITH_PAYMENT = ["latest_invoice.payments"]
# What cannot be paid at once does not change anything.
_ALL_OR_NOTHING = {"payment_behavior": "error_if_incomplete", "proration_behavior": "always_invoice"}


class _Recurring(BaseModel):
    interval: str


class _Price(BaseModel):
    # None for what is priced in tiers, or in parts of a minor unit.
    unit_amount: int | None = None
    currency: str
    product: str
    recurring: _Recurring


class _Item(BaseModel):
    id: str
    price: _Price
    current_period_end: int


class _Items(BaseModel):
    data: list[_Item] = Field(min_length=1)


class _Payment(BaseModel):
    payment_intent: str | None = None


class _InvoicePayment(BaseModel):
    payment: _Payment


class _Payments(BaseModel):
    data: list[_InvoicePayment] = Field(default_factory=list)


class _Transitions(BaseModel):
    paid_at: int | None = None


class Invoice(BaseModel):
    """What of an invoice concerns us; amounts count minor units."""

    id: str
    status: str | None = None
    amount_paid: int = 0
    currency: str
    payments: _Payments | None = None
    status_transitions: _Transitions = Field(default_factory=_Transitions)

    @property
    def intent_id(self) -> str | None:
        """The payment intent by which it is, or was, paid; None where nothing was to be charged."""
        made = self.payments.data if self.payments else []
        return made[0].payment.payment_intent if made else None

    @property
    def paid_at(self) -> datetime:
        """When it was paid."""
        return datetime.fromtimestamp(self.status_transitions.paid_at or 0, UTC)


class Subscription(BaseModel):
    """A subscription of one item, as Stripe has it."""

    id: str
    status: str
    customer: str
    metadata: dict[str, str] = Field(default_factory=dict)
    items: _Items
    cancel_at_period_end: bool = False
    canceled_at: int | None = None
    default_payment_method: str | None = None
    latest_invoice: Invoice | str | None = None

    @property
    def item(self) -> _Item:
        """Its one item."""
        return self.items.data[0]

    @property
    def plan_id(self) -> UUID | None:
        """The plan whose product it is of; None for a product that is none of ours."""
        try:
            return UUID(self.item.price.product.removeprefix(_PRODUCT))
        except ValueError:
            return None

    @property
    def billing_period(self) -> str | None:
        """`monthly` or `yearly`; None for another."""
        return _PERIODS.get(self.item.price.recurring.interval)

    @property
    def current_period_end(self) -> datetime:
        """When the period ends that is paid for, or is to be."""
        return datetime.fromtimestamp(self.item.current_period_end, UTC)

    @property
    def invoice(self) -> Invoice | None:
        """The latest, where it was asked for."""
        return self.latest_invoice if isinstance(self.latest_invoice, Invoice) else None

    @property
    def due(self) -> Invoice | None:
        """The invoice of a period that has begun and is not paid: that could not be, or of a renewal just now."""
        is_due = self.status in ("active", "past_due") and self.invoice and self.invoice.status in ("draft", "open")
        return self.invoice if is_due else None


class _Invoices(BaseModel):
    data: list[Invoice]


class _Listed(BaseModel):
    id: str
    metadata: dict[str, str] = Field(default_factory=dict)


class _Subscriptions(BaseModel):
    data: list[_Listed]


class Billing:
    """Every call raises what Gateway's do."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self._products: set[UUID] = set()

    async def _ask(self, operation: str, call: Callable[[], Awaitable[stripe.StripeObject]]) -> Subscription:
        return await self.gateway.ask(operation, Subscription, call)

    async def ensure_product(self, plan_id: UUID, name: str) -> str:
        """Stripe's product of a plan, made when there is none."""
        product = f"{_PRODUCT}{plan_id.hex}"
        if plan_id not in self._products:
            api, params = self.gateway.client.v1.products, {"id": product, "name": name}
            try:
                await self.gateway.calling("create_product", lambda: api.create_async(params))  # type: ignore[arg-type]
            except RequestRefused as refused:
                if refused.code != "resource_already_exists":
                    raise
            self._products.add(plan_id)
        return product

    async def subscribe(
        self,
        *,
        key: str,
        customer: str,
        token: str | None,
        product: str,
        amount: int,
        currency: str,
        billing_period: str,
        metadata: dict[str, str],
    ) -> Subscription:
        """Begin a subscription and charge its first period, once for each `key`; without a `token` nothing is charged,
        and the key is used up. One that was declined, or waits for its customer, is `incomplete`.

        Args:
            amount: of each period, in minor units.
            metadata: by which the subscription is found again.
        """
        params: Any = {
            "customer": customer,
            "items": [{"price_data": price_of(product, amount, currency, billing_period)}],
            "metadata": metadata,
            "payment_behavior": "allow_incomplete" if token else "default_incomplete",
            "expand": _WITH_PAYMENT,
        }
        if token:
            params["default_payment_method"] = token
        options: Any = {"idempotency_key": key}
        api = self.gateway.client.v1.subscriptions
        return await self._ask("subscribe", lambda: api.create_async(params, options))

    async def get(self, subscription_id: str) -> Subscription:
        """Raises ServiceHasNone."""
        api, params = self.gateway.client.v1.subscriptions, {"expand": _WITH_PAYMENT}
        return await self._ask("get_subscription", lambda: api.retrieve_async(subscription_id, params))  # type: ignore[arg-type]

    async def find(self, customer: str, name: str, value: str) -> Subscription | None:
        """The customer's newest subscription with this in its metadata, whatever became of it."""
        params: Any = {"customer": customer, "status": "all", "limit": _MOST_SUBSCRIPTIONS}
        api = self.gateway.client.v1.subscriptions
        page = await self.gateway.ask("find_subscription", _Subscriptions, lambda: api.list_async(params))
        found = next((one.id for one in page.data if one.metadata.get(name) == value), None)
        return None if found is None else await self.get(found)

    async def change(
        self,
        subscription: Subscription,
        *,
        price: dict[str, Any] | None = None,
        token: str | None = None,
        cancel_at_period_end: bool | None = None,
    ) -> Subscription:
        """Change all of this or, when the difference cannot be paid at once, nothing. Raises CardRefused."""
        params: Any = {"expand": _WITH_PAYMENT}
        if price is not None:
            params |= {"items": [{"id": subscription.item.id, "price_data": price}], **_ALL_OR_NOTHING}
        if token is not None:
            params["default_payment_method"] = token
        if cancel_at_period_end is not None:
            params["cancel_at_period_end"] = cancel_at_period_end
        # A second try is the same request; another request is another one, even with the same wish.
        options: Any = {"idempotency_key": str(uuid4())}
        api = self.gateway.client.v1.subscriptions
        return await self._ask("change_subscription", lambda: api.update_async(subscription.id, params, options))

    async def cancel(self, subscription_id: str) -> Subscription:
        """End it now. Raises ServiceHasNone when it has ended before."""
        api = self.gateway.client.v1.subscriptions
        return await self._ask("cancel_subscription", lambda: api.cancel_async(subscription_id))

    async def pay(self, invoice: Invoice, token: str | None) -> None:
        """Charge an invoice now, to this card or to the one on file. Raises CardRefused, RequestRefused when there is
        nothing to pay any more, and one of them or ServiceHasNone without a card."""
        params: Any = {"payment_method": token} if token else {}
        options: Any = {"idempotency_key": str(uuid4())}
        api = self.gateway.client.v1.invoices
        if invoice.status == "draft":
            await self.gateway.ask("finalize_invoice", Invoice, lambda: api.finalize_invoice_async(invoice.id))
        await self.gateway.ask("pay_invoice", Invoice, lambda: api.pay_async(invoice.id, params, options))

    async def list_paid(self, subscription_id: str) -> list[Invoice]:
        """The newest of its invoices that are paid."""
        params: Any = {
            "subscription": subscription_id,
            "status": "paid",
            "limit": MOST_INVOICES,
            "expand": ["data.payments"],
        }

        api = self.gateway.client.v1.invoices
        return (await self.gateway.ask("list_invoices", _Invoices, lambda: api.list_async(params))).data


def price_of(product: str, amount: int, currency: str, billing_period: str) -> dict[str, Any]:
    """What a period costs, as Stripe is told; `amount` in minor units."""
    return {
        "product": product,
        "unit_amount": amount,
        "currency": currency,
        "recurring": {"interval": _INTERVALS[billing_period]},
    }

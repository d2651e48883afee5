"""Subscriptions: what can be subscribed to, and one's own.

What is answered is what the row has become after Stripe was asked (`server.http.subscribing`); the same request finds
its row again, whoever died in between.
"""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, Field

from server.data.db import Record, queries
from server.http.charging import asks_stripe_s
from server.http.idempotency import read_key
from server.http.keys import CHARGING, SUBSCRIBING
from server.http.paging import Page, PageQuery, page, read_cursor
from server.http.problems import (
    OUTSIDE_PROBLEMS,
    AlreadySubscribed,
    CardDeclined,
    NotConfigured,
    SubscriptionEnded,
    SubscriptionNotFound,
    ValidationFailed,
)
from server.http.routing import PUBLIC, STUDENT, Body, Call, Change, Query, Reply, Routes
from server.services.outside import ServiceLeftAlone
from server.services.payments import CardRefused, Intent

routes = Routes("payments")
subscriptions = queries("subscriptions")
payments = queries("payments")

BillingPeriod = Literal["monthly", "yearly"]
PlanName = Annotated[str, Field(min_length=1, max_length=64)]


class NewSubscription(Body):
    """What to subscribe to, and by which card to pay; the default one when none is named."""

    plan_name: PlanName
    billing_period: BillingPeriod
    payment_method_id: UUID | None = None


class ChangedSubscription(Change):
    """The members of a subscription to be changed."""

    plan_name: PlanName = ""
    billing_period: BillingPeriod = "monthly"
    payment_method_id: UUID = UUID(int=0)
    cancel_at_period_end: bool = False


class EndQuery(Query):
    """When it ends."""

    now: bool = Field(False, description="At once instead of at the end of what is paid for")


class Prices(BaseModel):
    """What a period costs."""

    monthly: str
    yearly: str


class Plan(BaseModel):
    """Something to subscribe to; it covers all courses or those named."""

    id: UUID
    plan_name: str
    prices: Prices
    currency: str
    courses: Literal["all"] | list[UUID]
    created_at: datetime
    updated_at: datetime


class Provider(BaseModel):
    """What a browser needs to give a card to Stripe: its script, and the key to use it with."""

    provider: Literal["stripe"]
    publishable_key: str
    script_url: str


class Subscription(BaseModel):
    """A subscription. Access lasts to the end of the period, and some days longer while a charge is being tried."""

    id: UUID
    plan_name: str
    status: Literal["incomplete", "active", "past_due", "canceled"]
    billing_period: BillingPeriod
    price: str
    currency: str
    next_billing_date: datetime | None
    current_period_end: datetime | None
    cancel_at_period_end: bool
    canceled_at: datetime | None
    payment_method_id: UUID | None
    created_at: datetime
    updated_at: datetime


class BegunSubscription(Subscription):
    """With status 202 the customer has to act: `stripe.handleNextAction` takes `client_secret`, or `action_url` leads
    to the bank's page."""

    client_secret: str | None = None
    action_url: str | None = None


@routes.get("/api/payments/provider", role=PUBLIC, answer=Provider, problems=(NotConfigured,), rate="read")
async def get_provider(call: Call[None]) -> dict[str, str]:
    """Who takes cards, and how. A card's number goes there and never here."""
    settings = call.config.stripe
    if not settings.publishable_key:
        raise NotConfigured
    return {"provider": "stripe", "publishable_key": settings.publishable_key, "script_url": settings.script_url}


@routes.get("/api/payments/plans", role=PUBLIC, query=PageQuery, answer=Page[Plan], rate="read")
async def list_plans(call: Call[None]) -> dict[str, Any]:
    """What can be subscribed to, by name."""
    (after,) = read_cursor(call.query.cursor, str) or (None,)
    rows = await subscriptions.list_plans(call.db, after=after, page_size=call.query.limit + 1)
    return page(call, [_plan(row) for row in rows], key=lambda plan: (plan["plan_name"],))


def _plan(row: Record) -> dict[str, Any]:
    return {
        **{name: row[name] for name in ("id", "plan_name", "currency", "created_at", "updated_at")},
        "prices": {"monthly": row["monthly"], "yearly": row["yearly"]},
        "courses": "all" if row["covers_all"] else row["course_ids"],
    }


@routes.post(
    "/api/payments/subscribe",
    role=STUDENT,
    body=NewSubscription,
    answer=BegunSubscription,
    status=201,
    also=(202,),
    location="/api/payments/subscriptions/{id}",
    idempotency="required",
    problems=(AlreadySubscribed, SubscriptionEnded, CardDeclined, ValidationFailed, *OUTSIDE_PROBLEMS),
    rate="write",
    timeout_s=asks_stripe_s(3),
)
async def subscribe(call: Call[NewSubscription]) -> Reply:
    """Subscribe, and pay for the first period. Sent again with the same key it begins once, whatever was cut off.

    202 `requires_action`: the customer has to act (3-D Secure); access follows by itself.
    """
    subscribing = call.app[SUBSCRIBING]
    _ = call.app[CHARGING].gateway.client  # raises ServiceNotConfigured
    row, is_new = await _begin(call)
    try:
        row, intent = await subscribing.begin(row)
    except ServiceLeftAlone:
        if is_new:  # nothing was sent: it need not stay open
            await subscribing.withdraw(row)
        raise
    return _show_begun(row, intent)


async def _begin(call: Call[NewSubscription]) -> tuple[Record, bool]:
    """The row, and whether it is new: the same request finds the one that it made before."""
    user, body, key = call.user, call.body, read_key(call.request, required=True)
    async with call.db.transaction() as tx:
        known = await subscriptions.get_by_key(
            tx, user_id=user.id, idempotency_key=key, ttl_s=call.config.server.idempotency_ttl_s
        )
        if known is not None:
            return known, False
        plan = await _offered(tx, body.plan_name)
        method = await payments.get_method(tx, user_id=user.id, method_id=body.payment_method_id)
        if method is None:
            raise ValidationFailed.at("/payment_method_id", "You have no such payment method, or no default one.")
        made = await subscriptions.insert_subscription(
            tx,
            user_id=user.id,
            plan_id=plan["id"],
            billing_period=body.billing_period,
            price=plan[body.billing_period],
            currency=plan["currency"],
            payment_method_id=method["id"],
            idempotency_key=key,
        )
        if made is None:
            live = await subscriptions.get_live(tx, user_id=user.id)
            raise AlreadySubscribed(subscription_id=live and live["id"])
        await call.app[SUBSCRIBING].watch_over(tx, made)
        return await subscriptions.get_subscription(tx, subscription_id=made), True


def _show_begun(row: Record, intent: Intent | None) -> Reply:
    """What it has become. Raises CardDeclined, SubscriptionEnded."""
    if row["status"] == "canceled":
        if row["failure_code"] is None:
            raise SubscriptionEnded(subscription_id=row["id"])
        raise CardDeclined(failure_code=row["failure_code"], subscription_id=row["id"])
    if row["status"] == "incomplete":
        secret, url = (intent.client_secret, intent.action_url) if intent else (None, None)
        return Reply({**row, "client_secret": secret, "action_url": url}, status=202)
    return Reply(row, status=201)


@routes.get("/api/payments/subscriptions", role=STUDENT, query=PageQuery, answer=Page[Subscription], rate="read")
async def list_subscriptions(call: Call[None]) -> dict[str, Any]:
    """One's own, those that have ended too, the newest first."""
    (before,) = read_cursor(call.query.cursor, UUID) or (None,)
    rows = await subscriptions.list_subscriptions(
        call.db, user_id=call.user.id, before=before, page_size=call.query.limit + 1
    )
    return page(call, rows, key=lambda row: (row["id"],))


@routes.get(
    "/api/payments/subscriptions/{subscription_id}",
    role=STUDENT,
    answer=Subscription,
    problems=(SubscriptionNotFound,),
    rate="read",
)
async def get_subscription(call: Call[None]) -> Record:
    """One of one's own."""
    return await _get_own(call)


@routes.put(
    "/api/payments/subscriptions/{subscription_id}",
    role=STUDENT,
    body=ChangedSubscription,
    answer=Subscription,
    problems=(SubscriptionNotFound, SubscriptionEnded, CardDeclined, ValidationFailed, *OUTSIDE_PROBLEMS),
    rate="write",
    timeout_s=asks_stripe_s(3),
)
async def change_subscription(call: Call[ChangedSubscription]) -> Record:
    """Change plan, period, card, or whether it goes on. All of it or, when the difference cannot be paid, nothing.

    The difference for what is left of the period is charged at once; what a cheaper plan saves is set off against later
    charges. Another period begins at once.
    """
    row, wish = await _get_own(call), call.body.model_dump(exclude_unset=True)
    if row["status"] not in ("active", "past_due"):
        raise SubscriptionEnded(subscription_id=row["id"])
    plan = await _wished_plan(call, row, wish)
    if "payment_method_id" in wish:
        method = await payments.get_method(call.db, user_id=call.user.id, method_id=wish["payment_method_id"])
        if method is None:
            raise ValidationFailed.at("/payment_method_id", "You have no such payment method.")
    subscribing = call.app[SUBSCRIBING]
    await subscribing.watch_over(call.db, row["id"], once=True)
    try:
        changed = await subscribing.change(
            row,
            plan=plan,
            billing_period=wish.get("billing_period"),
            method_id=wish.get("payment_method_id"),
            cancel_at_period_end=wish.get("cancel_at_period_end"),
        )
    except CardRefused as refused:
        raise CardDeclined(failure_code=refused.code, subscription_id=row["id"]) from None
    if changed["status"] == "canceled":
        raise SubscriptionEnded(subscription_id=row["id"])
    return changed


async def _wished_plan(call: Call[Any], row: Record, wish: dict[str, Any]) -> Record | None:
    """The plan to change to; None when it stays, and so does its price."""
    name, period = wish.get("plan_name", row["plan_name"]), wish.get("billing_period", row["billing_period"])
    if (name, period) == (row["plan_name"], row["billing_period"]):
        return None
    if "plan_name" in wish:
        plan = await _offered(call.db, name)
    else:
        plan = await subscriptions.get_plan(call.db, plan_id=row["plan_id"])
    if plan["currency"] != row["currency"]:
        raise ValidationFailed.at(
            "/plan_name", f"This plan is in {plan['currency']}, the subscription in {row['currency']}."
        )
    return plan


@routes.delete(
    "/api/payments/subscriptions/{subscription_id}",
    role=STUDENT,
    query=EndQuery,
    answer=Subscription,
    problems=(SubscriptionNotFound, *OUTSIDE_PROBLEMS),
    rate="write",
    timeout_s=asks_stripe_s(3),
)
async def cancel_subscription(call: Call[None]) -> Record:
    """End it at the end of what is paid for, or at once. One that is incomplete is given up, unless it was paid just
    then; one that has ended stays as it is."""
    row, subscribing = await _get_own(call), call.app[SUBSCRIBING]
    if row["status"] == "canceled":
        return row
    await subscribing.watch_over(call.db, row["id"], once=True)
    if call.query.now:
        return await subscribing.cancel_now(row)
    if row["status"] == "incomplete":
        row = await subscribing.give_up(row)
        if row["status"] == "canceled":
            return row
    return await subscribing.change(row, cancel_at_period_end=True)


# -- what several of them do -------------------------------------------------------------------------------------------


async def _get_own(call: Call[Any]) -> Record:
    """The subscription of the path, of the caller's. Raises SubscriptionNotFound."""
    row: Record | None = await subscriptions.get_own_subscription(
        call.db, subscription_id=call.path.subscription_id, user_id=call.user.id
    )
    if row is None:
        raise SubscriptionNotFound
    return row


async def _offered(db: Any, name: str) -> Record:
    plan: Record | None = await subscriptions.get_offered_plan(db, plan_name=name)
    if plan is None:
        raise ValidationFailed.at("/plan_name", "There is no such plan.")
    return plan

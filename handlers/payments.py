"""Payments: cards, purchases of courses, and what Stripe tells of them.

A purchase is a row of ours first, then a charge at Stripe under the row's id (`server.http.charging`). What is answered
is what the row has become, and the same request finds its row again, whoever died in between.
"""

from hashlib import sha256
from typing import Annotated, Any
from uuid import UUID

from aiohttp import web
from pydantic import AfterValidator, BaseModel, Field, ValidationError

from server import metrics
from server.data.db import Record, queries
from server.domain.cards import has_card_number
from server.http.charging import OPEN, asks_stripe_s
from server.http.idempotency import read_key
from server.http.keys import CHARGING, PAYMENT_EVENTS
from server.http.members import Enrollment, PaymentMethod, Transaction
from server.http.paging import Page, PageQuery, page, read_cursor
from server.http.parsing import check_json
from server.http.payment_events import Event
from server.http.problems import (
    OUTSIDE_PROBLEMS,
    AlreadyEnrolled,
    AlreadyEntitled,
    CardDeclined,
    CourseIsFree,
    CourseNotFound,
    EventInvalid,
    MalformedJson,
    NotCancelable,
    PaymentMethodNotFound,
    PurchaseCanceled,
    PurchaseDisputed,
    PurchasePending,
    TransactionNotFound,
    ValidationFailed,
)
from server.http.routing import SELF_SERVED, STUDENT, Body, Call, Reply, Routes, arriving
from server.services.outside import ServiceHasNone, ServiceLeftAlone
from server.services.payments import CardRefused, EventRefused, Intent, RequestRefused

routes = Routes("payments")
payments = queries("payments")


def _check_token(token: str) -> str:
    if has_card_number(token):
        raise ValueError("must be Stripe's id of a payment method; a card's number must never be sent here")
    if not token.removeprefix("pm_").replace("_", "").isalnum() or not token.startswith("pm_") or not token.isascii():
        raise ValueError("must be Stripe's id of a payment method, such as pm_...")
    return token


class NewMethod(Body):
    """A card, by the id that Stripe gave it in the browser: never by its number."""

    token: Annotated[str, Field(max_length=255), AfterValidator(_check_token)]
    is_default: bool = False


class NewPurchase(Body):
    """By which card to pay; the default one when none is named."""

    payment_method_id: UUID | None = None


class Purchase(BaseModel):
    """A purchase. With status 201 it is paid and its learner enrolled; with 202 the customer has to act:
    `stripe.handleNextAction` takes `client_secret`, or `action_url` leads to the bank's page."""

    transaction: Transaction
    enrollment: Enrollment | None
    client_secret: str | None = None
    action_url: str | None = None


# -- payment methods ---------------------------------------------------------------------------------------------------


@routes.post(
    "/api/payments/methods",
    role=STUDENT,
    body=NewMethod,
    answer=PaymentMethod,
    status=201,
    also=(200,),
    location="/api/payments/methods/{id}",
    problems=(CardDeclined, ValidationFailed, *OUTSIDE_PROBLEMS),
    rate="write",
    timeout_s=asks_stripe_s(2),
)
async def create_method(call: Call[NewMethod]) -> Reply:
    """Keep a card to pay by. The first is the default; the same one again is the same row, with status 200."""
    charging, user_id = call.app[CHARGING], call.user.id
    try:
        card = await charging.attach_card(user_id, call.body.token)
    except CardRefused as refused:
        raise CardDeclined(failure_code=refused.code) from None
    except (ServiceHasNone, RequestRefused):
        raise _unknown_token() from None
    token_hash = sha256(card.id.encode()).digest()
    async with call.db.transaction() as tx:
        await payments.lock_methods(tx, user_id=user_id)
        if await payments.is_removed_method(tx, user_id=user_id, token_hash=token_hash):
            raise _unknown_token()
        known = await payments.find_method(tx, user_id=user_id, token_hash=token_hash)
        method_id = (
            known["id"]
            if known
            else await payments.insert_method(
                tx,
                user_id=user_id,
                sealed_token=charging.seal(card.id, user_id),
                token_hash=token_hash,
                brand=card.card.brand,
                card_last_four=card.card.last4,
                card_expiry=f"{card.card.exp_month:02}/{card.card.exp_year:04}",
            )
        )
        if call.body.is_default:
            await payments.drop_default_method(tx, user_id=user_id, method_id=method_id)
            await payments.set_default_method(tx, method_id=method_id)
        row = await payments.get_method(tx, user_id=user_id, method_id=method_id)
    return Reply(row, status=200 if known else 201)


def _unknown_token() -> ValidationFailed:
    return ValidationFailed.at("/token", "Stripe knows no such payment method that could be yours.")


@routes.get("/api/payments/methods", role=STUDENT, query=PageQuery, answer=Page[PaymentMethod], rate="read")
async def list_methods(call: Call[None]) -> dict[str, Any]:
    """One's cards, the newest first."""
    (before,) = read_cursor(call.query.cursor, UUID) or (None,)
    rows = await payments.list_methods(call.db, user_id=call.user.id, before=before, page_size=call.query.limit + 1)
    return page(call, rows, key=lambda row: (row["id"],))


@routes.get(
    "/api/payments/methods/{method_id}",
    role=STUDENT,
    answer=PaymentMethod,
    problems=(PaymentMethodNotFound,),
    rate="read",
)
async def get_method(call: Call[None]) -> Record:
    """One of one's cards."""
    row: Record | None = await payments.get_method(call.db, user_id=call.user.id, method_id=call.path.method_id)
    if row is None:
        raise PaymentMethodNotFound
    return row


@routes.delete(
    "/api/payments/methods/{method_id}", role=STUDENT, status=204, problems=(PaymentMethodNotFound,), rate="write"
)
async def delete_method(call: Call[None]) -> None:
    """Forget a card; Stripe is told too. The newest one left becomes the default."""
    async with call.db.transaction() as tx:
        await payments.lock_methods(tx, user_id=call.user.id)
        if await payments.remove_method(tx, user_id=call.user.id, method_id=call.path.method_id) is None:
            raise PaymentMethodNotFound


# -- purchases ---------------------------------------------------------------------------------------------------------


@routes.post(
    "/api/payments/purchase/course/{course_id}",
    role=STUDENT,
    body=NewPurchase,
    answer=Purchase,
    status=201,
    also=(202,),
    location="/api/payments/transactions/{transaction[id]}",
    idempotency="required",
    problems=(
        CardDeclined,
        CourseNotFound,
        AlreadyEnrolled,
        AlreadyEntitled,
        CourseIsFree,
        PurchasePending,
        PurchaseCanceled,
        PurchaseDisputed,
        *OUTSIDE_PROBLEMS,
    ),
    rate="write",
    timeout_s=asks_stripe_s(2),
)
async def purchase_course(call: Call[NewPurchase]) -> Reply:
    """Buy a course at the price it has now. Sent again with the same key it is charged once, whatever was cut off.

    202 `requires_action`: the customer has to act (3-D Secure); the enrolment follows by itself.
    """
    charging = call.app[CHARGING]
    _ = charging.gateway.client  # raises ServiceNotConfigured
    row, is_new = await _begin_purchase(call)
    try:
        row, intent = await charging.pay(row)
    except ServiceLeftAlone:
        if is_new:  # nothing was sent: it need not stay open
            await charging.withdraw(row)
        raise
    return await _show_purchase(call, row, intent)


async def _begin_purchase(call: Call[NewPurchase]) -> tuple[Record, bool]:
    """The row of the purchase, and whether it is new: the same request finds the one that it made before."""
    user, course_id = call.user, call.path.course_id
    key = read_key(call.request, required=True)
    async with call.db.transaction() as tx:
        known = await payments.get_purchase_by_key(
            tx,
            user_id=user.id,
            course_id=course_id,
            idempotency_key=key,
            ttl_s=call.config.server.idempotency_ttl_s,
        )
        if known is not None:
            return known, False
        wanted = {"course_id": course_id, "viewer_id": user.id, "viewer_role": user.role}
        course = await payments.lock_course_for_sale(tx, **wanted)
        _check_for_sale(course)
        method = await payments.get_method(tx, user_id=user.id, method_id=call.body.payment_method_id)
        if method is None:
            raise ValidationFailed.at("/payment_method_id", "You have no such payment method, or no default one.")
        row = await payments.insert_purchase(
            tx,
            user_id=user.id,
            course_id=course_id,
            amount=course["price"],
            currency=course["currency"],
            payment_method_id=method["id"],
            idempotency_key=key,
        )
        if row is None:
            pending = await payments.get_open_purchase(tx, user_id=user.id, course_id=course_id)
            raise PurchasePending(transaction_id=pending)
        # Another one may have been paid between looking and inserting. From here on none is under way but this.
        _check_for_sale(await payments.lock_course_for_sale(tx, **wanted))
        await call.app[CHARGING].watch_over(tx, row["id"])
    return row, True


def _check_for_sale(course: Record | None) -> None:
    """Raises what speaks against buying it."""
    if course is None:
        raise CourseNotFound
    if course["is_entitled"]:
        raise AlreadyEntitled
    if course["is_enrolled"] or course["is_bought"]:
        raise AlreadyEnrolled
    if course["status"] != "published":
        raise CourseNotFound
    if course["is_free"]:
        raise CourseIsFree
    if course["is_disputed"]:
        raise PurchaseDisputed


async def _show_purchase(call: Call[Any], row: Record, intent: Intent | None) -> Reply:
    """What a purchase has become. Raises CardDeclined, PurchaseCanceled."""
    if row["status"] == "failed":
        raise CardDeclined(failure_code=row["failure_code"], transaction_id=row["id"])
    if row["status"] == "canceled":
        raise PurchaseCanceled(transaction_id=row["id"])
    if row["status"] in OPEN:
        secret, url = (intent.client_secret, intent.action_url) if intent else (None, None)
        body = {"transaction": row, "enrollment": None, "client_secret": secret, "action_url": url}
        return Reply(body, status=202)
    enrollment = await payments.get_enrollment(call.db, user_id=row["user_id"], course_id=row["course_id"])
    return Reply({"transaction": row, "enrollment": enrollment}, status=201)


@routes.get("/api/payments/transactions", role=STUDENT, query=PageQuery, answer=Page[Transaction], rate="read")
async def list_transactions(call: Call[None]) -> dict[str, Any]:
    """One's payments, the newest first."""
    (before,) = read_cursor(call.query.cursor, UUID) or (None,)
    rows = await payments.list_transactions(
        call.db, user_id=call.user.id, before=before, page_size=call.query.limit + 1
    )
    return page(call, rows, key=lambda row: (row["id"],))


@routes.get(
    "/api/payments/transactions/{transaction_id}",
    role=STUDENT,
    answer=Transaction,
    problems=(TransactionNotFound,),
    rate="read",
)
async def get_transaction(call: Call[None]) -> Record:
    """One of one's payments."""
    return await _get_own(call)


@routes.delete(
    "/api/payments/transactions/{transaction_id}",
    role=STUDENT,
    answer=Transaction,
    problems=(TransactionNotFound, NotCancelable, *OUTSIDE_PROBLEMS),
    rate="write",
    timeout_s=asks_stripe_s(2),
)
async def cancel_transaction(call: Call[None]) -> Record:
    """Give up a purchase that is pending or waits for the customer. What was paid before that stays paid: 409."""
    row = await _get_own(call)
    if row["status"] not in OPEN or row["course_id"] is None:
        raise NotCancelable
    row = await call.app[CHARGING].close(row)
    if row["status"] != "canceled":
        raise NotCancelable
    return row


# -- what Stripe says --------------------------------------------------------------------------------------------------


@routes.post(
    "/api/payments/webhooks/stripe",
    role=SELF_SERVED,
    rate=None,
    content=("application/json",),
    problems=(EventInvalid, *OUTSIDE_PROBLEMS),
    timeout_s=asks_stripe_s(3),
)
async def take_event(call: Call[None]) -> web.Response:
    """An event of Stripe, signed over its very bytes. Told twice, late and in any order it comes to the same end; one
    that is of no use, or does not match what it names, changes nothing and is answered 200 all the same."""
    async with arriving(call.request):
        body = await call.request.read()
    try:
        call.app[CHARGING].gateway.verify_event(call.request.headers.get("Stripe-Signature"), body)
        event = Event.model_validate(check_json(body))
    except (EventRefused, MalformedJson, ValidationFailed, ValidationError):
        metrics.PAYMENT_EVENTS.labels("refused").inc()
        raise EventInvalid from None
    await call.app[PAYMENT_EVENTS].take(event)
    return web.Response()


# -- what several of them do -------------------------------------------------------------------------------------------


async def _get_own(call: Call[Any]) -> Record:
    """The transaction of the path, of the caller's. Raises TransactionNotFound."""
    row: Record | None = await payments.get_own_transaction(
        call.db, transaction_id=call.path.transaction_id, user_id=call.user.id
    )
    if row is None:
        raise TransactionNotFound
    return row

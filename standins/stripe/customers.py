"""Customers and the payment methods they keep."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from pydantic import Field

from standins.stripe.cards import BY_NUMBER, card_of, card_of_token, decline_message, make_payment_method
from standins.stripe.operations import AnyCall, Call, Page, operation, page_of
from standins.stripe.wire import ApiError, Json, Metadata, Parameters, changed_metadata, missing_object, new_id

Text = str | None
BEFORE_DELETION: list[Callable[[AnyCall, Json], None]] = []
"""What ends with a customer: who made it sees to it."""


class InvoiceDefaults(Parameters):
    default_payment_method: Text = None
    footer: Text = None


class CustomerUpdate(Parameters):
    address: Json | Literal[""] | None = None
    description: Text = None
    email: str | None = Field(default=None, max_length=512)
    invoice_settings: InvoiceDefaults | None = None
    metadata: Metadata = None
    name: Text = None
    phone: Text = None
    preferred_locales: list[str] | None = None


class CustomerCreate(CustomerUpdate):
    payment_method: Text = None


class CustomerList(Page):
    email: Text = None


@operation("POST", "/v1/customers", CustomerCreate)
def create_customer(call: Call[CustomerCreate]) -> Json:
    """Make a customer, with a payment method if one is given."""
    customer: Json = {
        "id": new_id("cus"),
        "object": "customer",
        "address": None,
        "balance": 0,
        "created": call.now,
        "currency": None,
        "customer_account": None,
        "default_source": None,
        "delinquent": False,
        "description": None,
        "discount": None,
        "email": None,
        "invoice_credit_balance": {},
        "invoice_prefix": new_id("x")[-8:].upper(),
        "invoice_settings": {
            "custom_fields": None,
            "default_payment_method": None,
            "footer": None,
            "rendering_options": None,
        },
        "livemode": False,
        "metadata": {},
        "name": None,
        "next_invoice_sequence": 1,
        "phone": None,
        "preferred_locales": [],
        "shipping": None,
        "tax_exempt": "none",
        "test_clock": None,
    }
    if call.given.payment_method is not None:
        method = resolve_method(call, call.given.payment_method)
        attach(call, method, customer)
    _change(call, customer)
    call.store.put(customer)
    call.emit("customer.created", customer)
    return customer


def _change(call: Call[Any], customer: Json) -> None:
    given: CustomerUpdate = call.given
    for name in ("address", "description", "email", "name", "phone", "preferred_locales"):
        value = getattr(given, name)
        if value is not None:
            customer[name] = value or None
    customer["metadata"] = changed_metadata(customer["metadata"], given.metadata)
    settings = given.invoice_settings
    if settings is not None and settings.default_payment_method is not None:
        chosen = settings.default_payment_method or None
        if chosen is not None:
            method = call.find("payment_method", chosen, param="invoice_settings[default_payment_method]")
            if method["customer"] != customer["id"]:
                raise ApiError(
                    f"The customer does not have a payment method with the ID {chosen}. The payment method must be "
                    "attached to the customer.",
                    code="resource_missing",
                    param="invoice_settings[default_payment_method]",
                )
        customer["invoice_settings"]["default_payment_method"] = chosen


def living_customer(call: AnyCall, customer_id: str, *, param: str = "customer") -> Json:
    """A customer that a parameter names and that was not deleted. Raises ApiError."""
    customer = call.find("customer", customer_id, param=param)
    if customer.get("deleted"):
        raise missing_object("customer", customer_id, param=param, status=400)
    return customer


@operation("GET", "/v1/customers/{customer}")
def get_customer(call: AnyCall) -> Json:
    """One customer; of a deleted one only that it was."""
    return call.named("customer")


@operation("POST", "/v1/customers/{customer}", CustomerUpdate)
def update_customer(call: Call[CustomerUpdate]) -> Json:
    """Change what is given."""
    customer = call.named("customer")
    if customer.get("deleted"):
        raise missing_object("customer", customer["id"])
    before = {**customer, "invoice_settings": dict(customer["invoice_settings"])}
    _change(call, customer)
    call.store.put(customer)
    previous = {name: before[name] for name in customer if customer[name] != before[name]}
    call.emit("customer.updated", customer, previous)
    return customer


@operation("DELETE", "/v1/customers/{customer}")
def delete_customer(call: AnyCall) -> Json:
    """Delete a customer, whose subscriptions end at once; payments that were made stay."""
    customer = call.named("customer")
    gone = {"id": customer["id"], "object": "customer", "deleted": True}
    if not customer.get("deleted"):
        for end in BEFORE_DELETION:
            end(call, customer)
        for method in call.store.find("payment_method", customer=customer["id"]):
            detach(call, method)
        call.store.put(gone)
        call.emit("customer.deleted", customer)
    return gone


@operation("GET", "/v1/customers", CustomerList)
def list_customers(call: Call[CustomerList]) -> Json:
    """The newest first."""
    return page_of(call, "customer", email=call.given.email)


# -- payment methods ---------------------------------------------------------------------------------------------------


class CardData(Parameters):
    token: Text = None
    number: Text = None
    exp_month: int | None = Field(default=None, ge=1, le=12)
    exp_year: int | None = None
    cvc: Text = None


class MethodCreate(Parameters):
    type: Literal["card"] | None = None
    card: CardData | None = None
    billing_details: Json | None = None
    metadata: Metadata = None
    allow_redisplay: Text = None


class Expiry(Parameters):
    exp_month: int | None = Field(default=None, ge=1, le=12)
    exp_year: int | None = None


class MethodUpdate(Parameters):
    card: Expiry | None = None
    billing_details: Json | None = None
    metadata: Metadata = None
    allow_redisplay: Text = None


class MethodAttach(Parameters):
    customer: str


class MethodList(Page):
    customer: Text = None
    type: Text = None
    allow_redisplay: Text = None


def resolve_method(call: AnyCall, method_id: str, *, param: str = "payment_method") -> Json:
    """The payment method of that id; for one of Stripe's test ids a new one. Raises ApiError."""
    name = card_of_token(method_id) if method_id.startswith("pm_card_") else None
    if name is not None:
        return call.store.put(make_payment_method(name, call.now))
    found = call.store.get(method_id)
    if found is None or found["object"] != "payment_method":
        shown = method_id if method_id.startswith("pm_") else f"{method_id[:4]}…"
        raise ApiError(f"No such PaymentMethod: '{shown}'", code="resource_missing", param=param)
    return found


def usable_method(call: AnyCall, method_id: str, customer: str | None, *, param: str = "payment_method") -> Json:
    """A payment method that can pay for this customer (None: for nobody known). Raises ApiError."""
    method = resolve_method(call, method_id, param=param)
    if method["customer"] is None and method["_"]["is_spent"]:
        raise ApiError(
            "The provided PaymentMethod was previously used with a PaymentIntent without Customer attachment, shared "
            "with a connected account without Customer attachment, or was detached from a Customer. It may not be used "
            "again. To use a PaymentMethod multiple times, you must attach it to a Customer first.",
            param=param,
        )
    if method["customer"] is not None and method["customer"] != customer:
        raise ApiError(
            f"The PaymentMethod {method['id']} belongs to a Customer. Please include the Customer in the `customer` "
            "parameter."
            if customer is None
            else f"The provided PaymentMethod ({method['id']}) belongs to another Customer.",
            param=param,
        )
    return method


def attach(call: AnyCall, method: Json, customer: Json) -> None:
    """Let the customer keep it. Raises ApiError, also when its bank declines."""
    if method["customer"] is not None:
        raise ApiError("The payment method you provided has already been attached to a customer.")
    if method["_"]["is_spent"]:
        raise ApiError(
            "This PaymentMethod was previously used without being attached to a Customer or was detached from a "
            "Customer, and may not be used again."
        )
    card = card_of(method)
    if card.declines is not None and not card.attaches:
        code, decline_code = card.declines
        raise ApiError(
            decline_message(decline_code), status=402, kind="card_error", code=code, decline_code=decline_code
        )
    method["customer"] = customer["id"]
    call.store.put(method)
    call.emit("payment_method.attached", method)


def detach(call: AnyCall, method: Json) -> None:
    """Take it from its customer; it can never be used again."""
    owner = method["customer"]
    method["customer"] = None
    method["_"]["is_spent"] = True
    call.store.put(method)
    customer = call.store.get(owner)
    is_default = customer and customer.get("invoice_settings", {}).get("default_payment_method") == method["id"]
    if customer is not None and is_default:
        customer["invoice_settings"]["default_payment_method"] = None
        call.store.put(customer)
    call.emit("payment_method.detached", method, {"customer": owner})


@operation("POST", "/v1/payment_methods", MethodCreate)
def create_method(call: Call[MethodCreate]) -> Json:
    """Make a payment method of a test card, by its token or, as browsers do, by its number."""
    given, card = call.given, call.given.card
    if given.type is None:
        raise ApiError("Missing required param: type.", code="parameter_missing", param="type", before_acting=True)
    if card is None:
        raise ApiError("Missing required param: card.", code="parameter_missing", param="card", before_acting=True)
    if card.token is not None:
        name = card_of_token(card.token)
        if name is None:
            raise ApiError(f"No such token: '{card.token}'", code="resource_missing", param="card[token]")
    else:
        number = (card.number or "").replace(" ", "")
        name = BY_NUMBER.get(number)
        if name is None:  # and the number is not repeated
            raise ApiError(
                "Your card was declined. Your request was in test mode, but used a non test card.",
                status=402,
                kind="card_error",
                code="card_declined",
                decline_code="test_mode_live_card",
            )
    year = card.exp_year + 2000 if card.exp_year is not None and card.exp_year < 100 else card.exp_year
    method = make_payment_method(name, call.now, exp_month=card.exp_month, exp_year=year)
    method["metadata"] = changed_metadata({}, given.metadata)
    method["billing_details"] |= given.billing_details or {}
    return call.store.put(method)


@operation("GET", "/v1/payment_methods/{method}")
def get_method(call: AnyCall) -> Json:
    """One payment method."""
    return resolve_method(call, call.ids[0]) if card_of_token(call.ids[0]) else call.named("payment_method")


@operation("POST", "/v1/payment_methods/{method}", MethodUpdate)
def update_method(call: Call[MethodUpdate]) -> Json:
    """Change what is given; a new expiry is what a bank's new card brings."""
    method, given = call.named("payment_method"), call.given
    if method["customer"] is None:
        raise ApiError("You must save this PaymentMethod to a customer before you can update it.")
    for name in ("exp_month", "exp_year"):
        if given.card is not None and getattr(given.card, name) is not None:
            method["card"][name] = getattr(given.card, name)
    method["billing_details"] |= given.billing_details or {}
    method["metadata"] = changed_metadata(method["metadata"], given.metadata)
    call.store.put(method)
    call.emit("payment_method.updated", method)
    return method


@operation("POST", "/v1/payment_methods/{method}/attach", MethodAttach)
def attach_method(call: Call[MethodAttach]) -> Json:
    """Let a customer keep it."""
    customer = living_customer(call, call.given.customer)
    method = resolve_method(call, call.ids[0])
    attach(call, method, customer)
    return method


@operation("POST", "/v1/payment_methods/{method}/detach")
def detach_method(call: AnyCall) -> Json:
    """Take it from its customer."""
    method = call.named("payment_method")
    if method["customer"] is None:
        raise ApiError(
            "The payment method you provided is not attached to a customer so detachment is impossible.",
        )
    detach(call, method)
    return method


@operation("GET", "/v1/payment_methods", MethodList)
def list_methods(call: Call[MethodList]) -> Json:
    """Those of a customer, the newest first."""
    if call.given.customer is None:
        return {"object": "list", "url": call.path, "has_more": False, "data": []}
    return page_of(call, "payment_method", customer=call.given.customer, type=call.given.type)


@operation("GET", "/v1/customers/{customer}/payment_methods", MethodList)
def list_customers_methods(call: Call[MethodList]) -> Json:
    """The same by the customer's address."""
    customer = call.named("customer")
    return page_of(call, "payment_method", customer=customer["id"], type=call.given.type)


@operation("GET", "/v1/customers/{customer}/payment_methods/{method}")
def get_customers_method(call: AnyCall) -> Json:
    """One of a customer's."""
    customer, method = call.named("customer"), call.named("payment_method", 1)
    if method["customer"] != customer["id"]:
        raise missing_object("payment_method", method["id"])
    return method

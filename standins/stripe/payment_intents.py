"""Payment intents: the operations of the API."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from standins.stripe import confirming
from standins.stripe.customers import living_customer, usable_method
from standins.stripe.operations import Call, Page, operation, page_of
from standins.stripe.searching import Search, search
from standins.stripe.wire import ApiError, Json, Metadata, Parameters, changed_metadata

# In the smallest unit, as Stripe has them.
SMALLEST = {"usd": 50, "eur": 50, "gbp": 30, "jpy": 50, "chf": 50, "cad": 50, "aud": 50, "sek": 300, "dkk": 250}
LARGEST = {"idr": 999_999_999_999}
"""Of the others eight digits (https://docs.stripe.com/currencies#minimum-and-maximum-charge-amounts)."""
# Amounts are whole tens where a currency has three decimals, and whole hundreds where it has none but is counted in two
# (https://docs.stripe.com/currencies#three-decimal and #special-cases).
STEPS = dict.fromkeys(("bhd", "jod", "kwd", "omr", "tnd"), 10) | dict.fromkeys(("isk", "ugx"), 100)

Text = str | None


class Automatic(Parameters):
    enabled: bool
    allow_redirects: Literal["always", "never"] = "always"


class Confirming(Parameters):
    payment_method: Text = None
    off_session: bool | Literal["one_off", "recurring"] | None = None
    error_on_requires_action: bool | None = None
    return_url: Text = None
    use_stripe_sdk: bool | None = None
    setup_future_usage: Literal["off_session", "on_session", ""] | None = None
    receipt_email: Text = None
    payment_method_options: Json | None = None
    mandate_data: Json | Literal[""] | None = None
    client_secret: Text = None
    payment_method_types: Any = None


class Changing(Confirming):
    amount: int | None = Field(default=None, ge=1)
    currency: Text = None
    customer: Text = None
    description: Annotated[str, Field(max_length=1000)] | None = None
    metadata: Metadata = None
    statement_descriptor: Text = None
    statement_descriptor_suffix: Text = None
    shipping: Json | None = None
    transfer_group: Text = None


class IntentCreate(Changing):
    amount: int = Field(ge=1)
    currency: str
    confirm: bool = False
    automatic_payment_methods: Automatic | None = None
    allowed_payment_method_types: list[str] | None = None
    excluded_payment_method_types: list[str] | None = None
    capture_method: Literal["automatic", "automatic_async"] | None = None
    confirmation_method: Literal["automatic", "manual"] = "automatic"


class IntentCancel(Parameters):
    cancellation_reason: Literal["duplicate", "fraudulent", "requested_by_customer", "abandoned"] | None = None


class IntentGet(Parameters):
    client_secret: Text = None


class IntentList(Page):
    customer: Text = None


@operation("POST", "/v1/payment_intents", IntentCreate)
def create_intent(call: Call[IntentCreate]) -> Json:
    """Make one and, with `confirm`, try to charge at once. Raises ApiError; a decline leaves the intent."""
    given = call.given
    _check_types(given)
    if given.off_session is not None and not given.confirm:
        raise _only_to_confirm("off_session")
    if given.return_url is not None and not given.confirm:
        raise _only_to_confirm("return_url")
    intent = confirming.make_intent(call, amount=given.amount)
    chosen = given.allowed_payment_method_types is None
    automatic = given.automatic_payment_methods or Automatic(enabled=True)
    if chosen and automatic.enabled:
        intent["automatic_payment_methods"] = automatic.model_dump(include={"enabled", "allow_redirects"})
    if given.capture_method is not None:
        intent["capture_method"] = given.capture_method
    intent["confirmation_method"] = given.confirmation_method
    _change(call, intent)
    call.store.put(intent)
    call.emit("payment_intent.created", intent)
    if given.confirm:
        _confirm(call, intent)
    return intent


def _check_types(given: Confirming) -> None:
    if given.payment_method_types is not None:
        raise ApiError(
            "The `payment_method_types` parameter is no longer supported. Use `allowed_payment_method_types`, "
            "`excluded_payment_method_types` or dynamic payment methods.",
            code="payment_method_types_no_longer_supported",
            param="payment_method_types",
            before_acting=True,
        )


def _only_to_confirm(param: str) -> ApiError:
    return ApiError(
        f"You can only pass `{param}` when `confirm=true`, or when confirming the PaymentIntent.",
        param=param,
        before_acting=True,
    )


def _change(call: Call[Any], intent: Json) -> None:
    given: Changing = call.given
    if given.currency is not None:
        intent["currency"] = given.currency.lower()
        if len(given.currency) != 3 or not given.currency.isalpha():
            raise ApiError(f"Invalid currency: {given.currency}.", param="currency", before_acting=True)
    if given.amount is not None:
        intent["amount"] = given.amount
        check_amount(intent["amount"], intent["currency"])
    if given.customer is not None:
        intent["customer"] = living_customer(call, given.customer)["id"]
    for name in ("description", "receipt_email", "statement_descriptor", "statement_descriptor_suffix", "shipping"):
        if getattr(given, name) is not None:
            intent[name] = getattr(given, name) or None
    if given.transfer_group is not None:
        intent["transfer_group"] = given.transfer_group or None
    intent["metadata"] = changed_metadata(intent["metadata"], given.metadata)
    _note(call, intent)


def _note(call: Call[Any], intent: Json) -> None:
    """What may be given with a confirmation too."""
    given: Confirming = call.given
    if given.setup_future_usage is not None:
        intent["setup_future_usage"] = given.setup_future_usage or None
    if given.return_url is not None:
        intent["_"]["return_url"] = given.return_url
    if given.payment_method is not None:
        intent["payment_method"] = usable_method(call, given.payment_method, intent["customer"])["id"]
        if intent["status"] == "requires_payment_method":
            intent["status"] = "requires_confirmation"


def chargeable(amount: float, currency: str) -> int:
    """The nearest amount that can be charged."""
    step = STEPS.get(currency, 1)
    return round(amount / step) * step


def check_not_too_large(amount: int, currency: str, param: str) -> None:
    """No more digits than Stripe takes. Raises ApiError."""
    largest = LARGEST.get(currency, 99_999_999)
    if amount > largest:
        raise ApiError(
            f"Amount must be no more than {largest} in the smallest unit of {currency}.",
            code="amount_too_large",
            param=param,
            before_acting=True,
        )


def check_amount(amount: int, currency: str) -> None:
    """Within what can be charged. Raises ApiError."""
    check_not_too_large(amount, currency, "amount")
    if amount < SMALLEST.get(currency, 50):
        raise ApiError(
            f"Amount must be at least {SMALLEST.get(currency, 50)} in the smallest unit of {currency}.",
            code="amount_too_small",
            param="amount",
            before_acting=True,
        )


def _confirm(call: Call[Any], intent: Json) -> None:
    given: Confirming = call.given
    if intent["payment_method"] is None:
        raise ApiError(
            "You cannot confirm this PaymentIntent because it's missing a payment method. You can either update the "
            "PaymentIntent with a payment method and then confirm it again, or confirm it again directly with a "
            "payment method or ConfirmationToken.",
            code="payment_intent_unexpected_state",
        )
    automatic = intent["automatic_payment_methods"]
    if automatic and automatic["allow_redirects"] == "always" and intent["_"]["return_url"] is None:
        raise ApiError(
            "This PaymentIntent is configured to accept payment methods enabled in your Dashboard. Because some of "
            "these payment methods might redirect your customer off of your page, you must provide a `return_url`. If "
            "you don't want to accept redirect-based payment methods, set "
            "`automatic_payment_methods[enabled]` to `true` and `automatic_payment_methods[allow_redirects]` to "
            "`never` when creating Setup Intents and Payment Intents.",
            before_acting=True,
        )
    method = usable_method(call, intent["payment_method"], intent["customer"])
    confirming.confirm(
        call,
        intent,
        method,
        off_session=bool(given.off_session),
        refuse_action=bool(given.error_on_requires_action),
    )


@operation("GET", "/v1/payment_intents/search", Search)
def search_intents(call: Call[Search]) -> Json:
    """Those whose metadata, status, customer, ... are as the query says; it learns of changes with a delay."""
    return search(call, "payment_intent")


@operation("GET", "/v1/payment_intents", IntentList)
def list_intents(call: Call[IntentList]) -> Json:
    """The newest first."""
    return page_of(call, "payment_intent", customer=call.given.customer)


@operation("GET", "/v1/payment_intents/{intent}", IntentGet)
def get_intent(call: Call[IntentGet]) -> Json:
    """One payment intent."""
    intent = call.named("payment_intent")
    if call.given.client_secret is not None and call.given.client_secret != intent["client_secret"]:
        raise ApiError(
            "The client_secret provided does not match the client_secret associated with the PaymentIntent.",
            code="payment_intent_invalid_parameter",
            param="client_secret",
        )
    return intent


@operation("POST", "/v1/payment_intents/{intent}", Changing)
def update_intent(call: Call[Changing]) -> Json:
    """Change what is given, while it is open; metadata and description at any time."""
    intent = call.named("payment_intent")
    _check_types(call.given)
    free = {"metadata", "description", "receipt_email", "expand"}
    if intent["status"] not in confirming.OPEN and call.given.model_fields_set - free:
        raise confirming.unexpected_state(intent, "update")
    _change(call, intent)
    return call.store.put(intent)


@operation("POST", "/v1/payment_intents/{intent}/confirm", Confirming)
def confirm_intent(call: Call[Confirming]) -> Json:
    """Try to charge. Raises ApiError; a decline leaves the intent waiting for another payment method."""
    intent = call.named("payment_intent")
    _check_types(call.given)
    if call.given.client_secret is not None and call.given.client_secret != intent["client_secret"]:
        raise ApiError("The client_secret provided does not match.", param="client_secret", before_acting=True)
    if intent["status"] not in confirming.OPEN:
        raise confirming.unexpected_state(intent, "confirm")
    _note(call, intent)
    _confirm(call, intent)
    return intent


@operation("POST", "/v1/payment_intents/{intent}/cancel", IntentCancel)
def cancel_intent(call: Call[IntentCancel]) -> Json:
    """Give it up. Raises ApiError when it has succeeded or was given up before."""
    intent = call.named("payment_intent")
    if intent["_"]["invoice"] is not None:
        raise ApiError(
            "You cannot cancel this PaymentIntent because it was created by an Invoice. Void the Invoice instead.",
            code="payment_intent_unexpected_state",
        )
    confirming.cancel(call, intent, call.given.cancellation_reason)
    return intent

"""What becomes of a payment intent when it is confirmed, approved, declined by its holder, or canceled."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlencode

from standins.stripe.cards import ALWAYS, card_of, decline_message, has_expired
from standins.stripe.charges import add_charge, open_dispute
from standins.stripe.operations import AnyCall
from standins.stripe.wire import ApiError, Json, new_id

OPEN = ("requires_payment_method", "requires_confirmation", "requires_action")
AFTER_PAYMENT: list[Callable[[AnyCall, Json], None]] = []
"""What else follows from a payment that succeeded: who made it may be waiting for it."""
NOT_AUTHENTICATED = (
    "payment_intent_authentication_failure",
    None,
    "The provided PaymentMethod has failed authentication. You can provide payment_method_data or a new PaymentMethod "
    "to attempt to fulfill this PaymentIntent again.",
)


def make_intent(call: AnyCall, **members: object) -> Json:
    """A new payment intent that waits for a payment method; not kept yet."""
    intent: Json = {
        "id": new_id("pi"),
        "object": "payment_intent",
        "allowed_payment_method_types": None,
        "amount": 0,
        "amount_capturable": 0,
        "amount_details": {"tip": {}},
        "amount_received": 0,
        "application": None,
        "application_fee_amount": None,
        "automatic_payment_methods": None,
        "canceled_at": None,
        "cancellation_reason": None,
        "capture_method": "automatic_async",
        "client_secret": "",
        "confirmation_method": "automatic",
        "created": call.now,
        "currency": "",
        "customer": None,
        "customer_account": None,
        "description": None,
        "excluded_payment_method_types": None,
        "last_payment_error": None,
        "latest_charge": None,
        "livemode": False,
        "metadata": {},
        "next_action": None,
        "on_behalf_of": None,
        "payment_method": None,
        "payment_method_configuration_details": None,
        "payment_method_options": {
            "card": {
                "installments": None,
                "mandate_options": None,
                "network": None,
                "request_three_d_secure": "automatic",
            }
        },
        "payment_method_types": ["card"],
        "processing": None,
        "receipt_email": None,
        "review": None,
        "setup_future_usage": None,
        "shipping": None,
        "source": None,
        "statement_descriptor": None,
        "statement_descriptor_suffix": None,
        "status": "requires_payment_method",
        "transfer_data": None,
        "transfer_group": None,
        "_": {"return_url": None, "off_session": False, "invoice": None},
        **members,
    }
    intent["client_secret"] = f"{intent['id']}_secret_{new_id('x')[2:]}"
    return intent


def confirm(call: AnyCall, intent: Json, method: Json, *, off_session: bool, refuse_action: bool = False) -> None:
    """Try to charge: ends as `succeeded` or `requires_action`. Raises ApiError with what was done kept.

    `refuse_action`: where the holder would have to approve, fail instead.
    """
    intent["payment_method"] = method["id"]
    intent["last_payment_error"] = None
    intent["next_action"] = None
    intent["_"]["off_session"] = off_session
    card = card_of(method)
    must_approve = card.authentication == ALWAYS or (card.authentication is not None and not method["_"]["is_set_up"])
    if has_expired(method, call.now):
        raise _decline(call, intent, method, ("expired_card", "expired_card"))
    if card.declines is not None:
        raise _decline(call, intent, method, card.declines)
    if must_approve and (off_session or refuse_action):
        raise _needs_approval(call, intent, method)
    if must_approve:
        ask_holder(call, intent, method["id"])
        return
    succeed(call, intent, method)


def ask_holder(call: AnyCall, intent: Json, method_id: str) -> None:
    """It waits until the card's holder has approved."""
    intent.update(status="requires_action", payment_method=method_id, next_action=_next_action(call, intent))
    call.store.put(intent)
    call.emit("payment_intent.requires_action", intent)


def succeed(call: AnyCall, intent: Json, method: Json) -> None:
    """The charge goes through."""
    charge = add_charge(call, intent, method, None)
    intent.update(status="succeeded", amount_received=intent["amount"], latest_charge=charge["id"], next_action=None)
    call.store.put(intent)
    if intent["setup_future_usage"] is not None and intent["customer"] is not None:
        method["_"]["is_set_up"] = True
        if method["customer"] is None:
            method["customer"] = intent["customer"]
            call.emit("payment_method.attached", method)
    elif method["customer"] is None:
        method["_"]["is_spent"] = True
    call.store.put(method)
    call.emit("payment_intent.succeeded", intent)
    for follow in AFTER_PAYMENT:
        follow(call, intent)
    if (reason := card_of(method).disputed) is not None:
        open_dispute(call, charge, reason)


def authenticate(call: AnyCall, intent: Json, *, approved: bool) -> None:
    """The holder has answered the bank's question. Raises ApiError when nothing was asked."""
    if intent["status"] != "requires_action":
        raise unexpected_state(intent, "authenticate")
    method = call.find("payment_method", intent["payment_method"])
    after = card_of(method).declines_after
    if not approved:
        _fail(call, intent, method, NOT_AUTHENTICATED, charged=False)
    elif after is not None:
        _fail(call, intent, method, (*after, decline_message(after[1])))
    else:
        succeed(call, intent, method)


def cancel(call: AnyCall, intent: Json, reason: str | None) -> None:
    """Give it up. Raises ApiError when it is too late."""
    if intent["status"] not in OPEN:
        raise unexpected_state(intent, "cancel")
    intent.update(status="canceled", canceled_at=call.now, cancellation_reason=reason, next_action=None)
    call.store.put(intent)
    call.emit("payment_intent.canceled", intent)


def unexpected_state(intent: Json, doing: str) -> ApiError:
    """It cannot be done in the intent's present state."""
    why = (
        "it has already succeeded after being previously confirmed."
        if intent["status"] == "succeeded"
        else f"it has a status of {intent['status']}."
    )
    return ApiError(
        f"You cannot {doing} this PaymentIntent because {why}",
        code="payment_intent_unexpected_state",
        payment_intent=_shown(intent),
    )


def _next_action(call: AnyCall, intent: Json) -> Json:
    query = urlencode({"client_secret": intent["client_secret"]})
    url = f"{call.settings.public_url}/3d_secure/{intent['id']}?{query}"
    return_url = intent["_"]["return_url"]
    if return_url is not None:
        return {"type": "redirect_to_url", "redirect_to_url": {"url": url, "return_url": return_url}}
    return {
        "type": "use_stripe_sdk",
        "use_stripe_sdk": {"type": "three_d_secure_redirect", "source": new_id("src"), "stripe_js": url},
    }


def _decline(call: AnyCall, intent: Json, method: Json, why: tuple[str, str | None]) -> ApiError:
    code, decline_code = why
    return _fail(call, intent, method, (code, decline_code, decline_message(decline_code)))


def _needs_approval(call: AnyCall, intent: Json, method: Json) -> ApiError:
    why = "authentication_required"
    return _fail(call, intent, method, (why, why, "Your card was declined. This transaction requires authentication."))


def _fail(
    call: AnyCall, intent: Json, method: Json, failure: tuple[str, str | None, str], *, charged: bool = True
) -> ApiError:
    """The attempt has failed, and the intent waits for another payment method; the error that says so."""
    code, decline_code, message = failure
    members: Json = {"payment_method": dict(method), "decline_code": decline_code}
    if charged:
        charge = add_charge(call, intent, method, failure)
        intent["latest_charge"] = members["charge"] = charge["id"]
    error = ApiError(
        message,
        status=402,
        kind="card_error" if charged else "invalid_request_error",
        code=code,
        keeps=True,
        **members,
    )
    if method["customer"] is None and charged:
        method["_"]["is_spent"] = False  # a declined one may be tried again
    intent.update(
        status="requires_payment_method", payment_method=None, next_action=None, last_payment_error=dict(error.error)
    )
    call.store.put(intent)
    call.emit("payment_intent.payment_failed", intent)
    error.error["payment_intent"] = _shown(intent)
    return error


def _shown(intent: Json) -> Json:
    return {name: value for name, value in intent.items() if not name.startswith("_")}

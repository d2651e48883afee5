"""Stripe's test cards: the names by which they can be used without a number, and what each of them does."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from standins.stripe.wire import Json, new_id

ALWAYS, UNLESS_SET_UP = "always", "unless_set_up"


@dataclass(frozen=True)
class Card:
    """One test card. `declines` is (code, decline code) of every charge, `attaches` whether a customer may keep it.

    `authentication` says when the holder must approve; `declines_after` is how a charge fails that was approved.
    """

    number: str
    brand: str = "visa"
    funding: str = "credit"
    declines: tuple[str, str | None] | None = None
    attaches: bool = True
    authentication: str | None = None
    declines_after: tuple[str, str | None] | None = None
    disputed: str | None = None
    refund: str = "succeeded"

    @property
    def last4(self) -> str:
        """The last four digits."""
        return self.number[-4:]


def _declined(number: str, code: str, decline_code: str | None) -> Card:
    return Card(number, declines=(code, decline_code), attaches=False)


CARDS: dict[str, Card] = {
    "visa": Card("4242424242424242"),
    "visa_debit": Card("4000056655665556", funding="debit"),
    "mastercard": Card("5555555555554444", "mastercard"),
    "mastercard_debit": Card("5200828282828210", "mastercard", "debit"),
    "mastercard_prepaid": Card("5105105105105100", "mastercard", "prepaid"),
    "amex": Card("378282246310005", "amex"),
    "discover": Card("6011111111111117", "discover"),
    "diners": Card("3056930009020004", "diners"),
    "jcb": Card("3566002020360505", "jcb"),
    "unionpay": Card("6200000000000005", "unionpay"),
    # Declined at once: they cannot be attached to a customer either.
    "visa_chargeDeclined": _declined("4000000000000002", "card_declined", "generic_decline"),
    "visa_chargeDeclinedInsufficientFunds": _declined("4000000000009995", "card_declined", "insufficient_funds"),
    "visa_chargeDeclinedLostCard": _declined("4000000000009987", "card_declined", "lost_card"),
    "visa_chargeDeclinedStolenCard": _declined("4000000000009979", "card_declined", "stolen_card"),
    "chargeDeclinedFraudulent": _declined("4100000000000019", "card_declined", "fraudulent"),
    "chargeDeclinedExpiredCard": _declined("4000000000000069", "expired_card", "expired_card"),
    "chargeDeclinedIncorrectCvc": _declined("4000000000000127", "incorrect_cvc", "incorrect_cvc"),
    "chargeDeclinedProcessingError": _declined("4000000000000119", "processing_error", "processing_error"),
    "visa_chargeDeclinedVelocityLimitExceeded": _declined(
        "4000000000006975", "card_declined", "card_velocity_exceeded"
    ),
    # Can be attached, and is declined when it is charged.
    "chargeCustomerFail": Card("4000000000000341", declines=("card_declined", "generic_decline")),
    # The holder must approve.
    "threeDSecure2Required": Card("4000000000003220", authentication=ALWAYS),
    "threeDSecureRequired": Card("4000000000003063", authentication=ALWAYS),
    "authenticationRequired": Card("4000002760003184", authentication=ALWAYS),
    "authenticationRequiredOnSetup": Card("4000002500003155", authentication=UNLESS_SET_UP),
    "threeDSecureRequiredChargeDeclined": Card(
        "4000008400001629", authentication=ALWAYS, declines_after=("card_declined", "generic_decline")
    ),
    "authenticationRequiredChargeDeclinedInsufficientFunds": Card(
        "4000008260003178", authentication=ALWAYS, declines_after=("card_declined", "insufficient_funds")
    ),
    "threeDSecureOptional": Card("4000000000003055"),
    # Charged, and then taken back.
    "createDispute": Card("4000000000000259", disputed="fraudulent"),
    "createDisputeProductNotReceived": Card("4000000000002685", disputed="product_not_received"),
    # Refunds that take their time.
    "pendingRefund": Card("4000000000007726", refund="pending"),
    "refundFail": Card("4000000000005126", refund="failed"),
}
_ALIASES = {"chargeDeclined": "visa_chargeDeclined"} | {
    f"chargeDeclined{why}": f"visa_chargeDeclined{why}"
    for why in ("InsufficientFunds", "LostCard", "StolenCard", "VelocityLimitExceeded")
}
BY_NUMBER = {card.number: name for name, card in CARDS.items()}
MESSAGES = {
    "insufficient_funds": "Your card has insufficient funds.",
    "expired_card": "Your card has expired.",
    "incorrect_cvc": "Your card's security code is incorrect.",
    "processing_error": "An error occurred while processing your card. Try again in a little bit.",
}


def card_of_token(token: str) -> str | None:
    """The name of the card that `pm_card_...` or `tok_...` stands for; None when it is none of them."""
    for prefix in ("pm_card_", "tok_"):
        if token.startswith(prefix):
            name = token.removeprefix(prefix)
            name = _ALIASES.get(name, name)
            return name if name in CARDS else None
    return None


def make_payment_method(name: str, now: int, *, exp_month: int | None = None, exp_year: int | None = None) -> Json:
    """A new payment method of a test card, good for a year unless said otherwise."""
    card = CARDS[name]
    today = datetime.fromtimestamp(now, UTC)
    return {
        "id": new_id("pm"),
        "object": "payment_method",
        "allow_redisplay": "unspecified",
        "billing_details": {
            "address": dict.fromkeys(("city", "country", "line1", "line2", "postal_code", "state")),
            "email": None,
            "name": None,
            "phone": None,
            "tax_id": None,
        },
        "card": {
            "brand": card.brand,
            "checks": {"address_line1_check": None, "address_postal_code_check": None, "cvc_check": "unchecked"},
            "country": "US",
            "display_brand": card.brand,
            "exp_month": exp_month or today.month,
            "exp_year": exp_year or today.year + 1,
            "fingerprint": f"Lectern{card.last4}{len(card.number):05}",
            "funding": card.funding,
            "generated_from": None,
            "last4": card.last4,
            "networks": {"available": [card.brand], "preferred": None},
            "regulated_status": "unregulated",
            "three_d_secure_usage": {"supported": True},
            "wallet": None,
        },
        "created": now,
        "customer": None,
        "customer_account": None,
        "livemode": False,
        "metadata": {},
        "type": "card",
        "_": {"card": name, "is_spent": False, "is_set_up": False},
    }


def card_of(method: Json) -> Card:
    """What a payment method does."""
    return CARDS[method["_"]["card"]]


def has_expired(method: Json, now: int) -> bool:
    """Whether the month printed on it is over."""
    card, today = method["card"], datetime.fromtimestamp(now, UTC)
    return bool((card["exp_year"], card["exp_month"]) < (today.year, today.month))


def decline_message(decline_code: str | None) -> str:
    """In Stripe's words."""
    return MESSAGES.get(decline_code or "", "Your card was declined.")

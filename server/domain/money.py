"""Money: decimal strings with at most two decimals beside a lower-case ISO 4217 currency, never a float."""

import re
from collections.abc import Collection
from decimal import Decimal

# Amounts of these are whole (ISO 4217, minor unit 0).
ZERO_DECIMAL_CURRENCIES = frozenset(
    {
        *("bif", "clp", "djf", "gnf", "isk", "jpy", "kmf", "krw", "mga", "pyg", "rwf", "ugx", "vnd", "vuv", "xaf"),
        *("xof", "xpf"),
    }
)
# How many digits of a minor unit Stripe counts in, where it is not two: none, three, or, for these, two all the same
# (https://docs.stripe.com/currencies#zero-decimal and #special-cases).
_TWO_ALL_THE_SAME = frozenset({"isk", "ugx"})
_EXPONENTS = dict.fromkeys(ZERO_DECIMAL_CURRENCIES - _TWO_ALL_THE_SAME, 0) | dict.fromkeys(
    ("bhd", "jod", "kwd", "omr", "tnd"), 3
)
LEAST_PRICE = Decimal("0.50")
HIGHEST_PRICE = Decimal("999999.99")
# What is paid for may be dearer where somebody at Stripe made its price: so much can be written down.
HIGHEST_AMOUNT = Decimal("999999999999.99")
CENT = Decimal("0.01")

_AMOUNT = re.compile(r"(0|[1-9][0-9]{0,17})(\.[0-9]{1,2})?", re.ASCII)


class NotAPrice(ValueError):
    """The text is not an amount, or not one that a course may cost; str() says why."""


def check_currency(currency: str, allowed: Collection[str]) -> str:
    """The currency, if it is one of those that are taken. Raises NotAPrice."""
    if currency not in allowed:
        raise NotAPrice(f"must be one of {', '.join(sorted(allowed))}")
    return currency


def parse_price(text: str, currency: str) -> Decimal:
    """The price that a text such as "49.00" names: zero, or 0.50 to 999999.99, whole where the currency has no minor
    unit. Nothing is rounded. Raises NotAPrice.
    """
    price = parse_amount(text, currency)
    if price and not LEAST_PRICE <= price <= HIGHEST_PRICE:
        raise NotAPrice("must be 0.00 or from 0.50 to 999999.99")
    return price


def parse_amount(text: str, currency: str) -> Decimal:
    """Any amount that a text such as "0.05" names, whole where the currency has no minor unit. Raises NotAPrice."""
    if not _AMOUNT.fullmatch(text):
        raise NotAPrice("must be a decimal string with at most two decimals, such as 49.00")
    amount = Decimal(text)
    if currency in ZERO_DECIMAL_CURRENCIES and amount != amount.to_integral_value():
        raise NotAPrice(f"{currency} has no minor unit: must be a whole amount")
    return amount.quantize(CENT)


def to_minor(amount: Decimal, currency: str) -> int:
    """The amount as Stripe counts it: 49.00 usd is 4900, 4900 jpy too. Raises NotAPrice where that is not whole."""
    minor = amount.scaleb(_EXPONENTS.get(currency, 2))
    if minor != minor.to_integral_value():
        raise NotAPrice(f"{amount} {currency} is no whole number of minor units")
    return int(minor)


def from_minor(minor: int, currency: str) -> Decimal:
    """The amount, with two decimals, that Stripe counts as `minor`. Raises NotAPrice where that needs more of them, is
    more than HIGHEST_AMOUNT, or less than nothing."""
    amount = Decimal(minor).scaleb(-_EXPONENTS.get(currency, 2))
    if not 0 <= amount <= HIGHEST_AMOUNT or amount != amount.quantize(CENT):
        raise NotAPrice(f"{minor} minor units of {currency} are no amount that can be kept")
    return amount.quantize(CENT)

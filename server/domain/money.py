"""Money: decimal strings with at most two decimals beside a lower-case ISO 4217 currency, never a float."""

import re
from collections.abc import Collection
from decimal import Decimal

# Amounts of these are whole (ISO 4217, minor unit 0).
ZERO_DECIMAL_CURRENCIES = frozenset(
    {"bif", "clp", "djf", "gnf", "jpy", "kmf", "krw", "mga", "pyg", "rwf", "ugx", "vnd", "vuv", "xaf", "xof", "xpf"}
)
LEAST_PRICE = Decimal("0.50")
HIGHEST_PRICE = Decimal("999999.99")

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
    if not _AMOUNT.fullmatch(text):
        raise NotAPrice("must be a decimal string with at most two decimals, such as 49.00")
    price = Decimal(text)
    if price and not LEAST_PRICE <= price <= HIGHEST_PRICE:
        raise NotAPrice("must be 0.00 or from 0.50 to 999999.99")
    if currency in ZERO_DECIMAL_CURRENCIES and price != price.to_integral_value():
        raise NotAPrice(f"{currency} has no minor unit: must be a whole amount")
    return price.quantize(Decimal("0.01"))

"""Prices are exact, in range, and never rounded."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain.money import (
    CENT,
    ZERO_DECIMAL_CURRENCIES,
    NotAPrice,
    check_currency,
    from_minor,
    parse_price,
    to_minor,
)


@given(st.integers(50, 99_999_999))
def test_every_price_in_range_is_kept_to_the_cent(cents: int) -> None:
    assert parse_price(f"{cents // 100}.{cents % 100:02}", "usd") == Decimal(cents) / 100


@pytest.mark.parametrize("text", ["0", "0.0", "0.00", "0.50", "999999.99", "7", "7.5"])
def test_prices_have_two_decimals_however_they_are_written(text: str) -> None:
    assert parse_price(text, "usd").as_tuple().exponent == -2


@given(st.text())
def test_what_is_no_amount_is_refused_and_nothing_else_is_raised(text: str) -> None:
    try:
        price = parse_price(text, "usd")
    except NotAPrice:
        return
    assert price == Decimal(text)


@pytest.mark.parametrize(
    "text",
    ["", " 1", "1 ", "+1", "-1", "01", "1.", ".5", "1.000", "1e2", "1_000", "1,5", "NaN", "Infinity", "0.01", "0.49",
     "1000000", "١", "1\n"],
)  # fmt: skip
def test_other_ways_to_write_numbers_are_refused(text: str) -> None:
    with pytest.raises(NotAPrice):
        parse_price(text, "usd")


@pytest.mark.parametrize("text", ["0.49", "1000000.00", "123456789012"])
def test_a_price_out_of_range_is_told_the_range(text: str) -> None:
    with pytest.raises(NotAPrice, match=r"from 0\.50 to 999999\.99"):
        parse_price(text, "usd")


def test_a_currency_without_minor_units_takes_whole_amounts() -> None:
    assert parse_price("1200", "jpy") == parse_price("1200.00", "jpy") == 1200
    with pytest.raises(NotAPrice, match="whole"):
        parse_price("1200.50", "jpy")


@given(st.integers(1, 99_999_999), st.sampled_from(["usd", "eur", "jpy", "isk", "ugx", "kwd"]))
def test_amounts_go_to_stripe_and_back_to_the_cent(cents: int, currency: str) -> None:
    amount = Decimal(cents).scaleb(-2)
    if currency in ZERO_DECIMAL_CURRENCIES:
        amount = Decimal(cents).quantize(CENT)
    assert from_minor(to_minor(amount, currency), currency) == amount


def test_amounts_are_counted_as_stripe_counts_them() -> None:
    said = {"usd": 4900, "jpy": 49, "isk": 4900, "ugx": 4900, "kwd": 49_000}
    assert {currency: to_minor(Decimal("49.00"), currency) for currency in said} == said
    for amount, currency in (("0.50", "jpy"), ("0.001", "usd")):
        with pytest.raises(NotAPrice):
            to_minor(Decimal(amount), currency)
    assert from_minor(999_999_999_999, "idr") == Decimal("9999999999.99")
    for minor, currency in ((49_001, "kwd"), (10**12, "jpy"), (10**40, "usd"), (-1, "usd")):
        with pytest.raises(NotAPrice):
            from_minor(minor, currency)


def test_only_currencies_of_the_settings_are_taken() -> None:
    assert check_currency("eur", ["usd", "eur"]) == "eur"
    for currency in ("EUR", "gbp", ""):
        with pytest.raises(NotAPrice, match="eur, usd"):
            check_currency(currency, ["usd", "eur"])

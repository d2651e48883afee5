"""What the page makes of figures and failures, in a browser."""

from decimal import Decimal

import pytest
from playwright.async_api import Page

from server.domain.money import ZERO_DECIMAL_CURRENCIES, to_minor

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

MINOR = """async (prices) => {
    const { minorUnits } = await import("/web/format.js");
    return prices.map(([amount, currency]) => minorUnits(amount, currency));
}"""

SHOWN = """async (prices) => {
    const { price } = await import("/web/format.js");
    return prices.map(([price_, currency]) => price({ price: price_, currency }));
}"""


async def test_a_price_is_shown_to_the_cent_that_is_charged(origin: str, page: Page) -> None:
    """Browsers leave the cents of some currencies out, and round."""
    shown = {
        ("49.99", "usd"): "$49.99", ("49.00", "usd"): "$49.00", ("1000000.00", "jpy"): "¥1,000,000",
        ("500.00", "isk"): "ISK 500", ("49.50", "kwd"): "KWD 49.500", ("5.00", "kwd"): "KWD 5.000",
        ("1990.49", "rsd"): "RSD 1,990.49", ("0.50", "all"): "ALL 0.50",
        ("9999999999.99", "idr"): "IDR 9,999,999,999.99",
    }  # fmt: skip
    await page.goto(f"{origin}/bare")
    told = await page.evaluate(SHOWN, [list(price) for price in shown])
    # The locale's own blanks are none of ours.
    assert [text.replace("\N{NO-BREAK SPACE}", " ") for text in told] == list(shown.values())


async def test_the_page_counts_a_price_as_the_server_does(origin: str, page: Page) -> None:
    currencies = [*sorted(ZERO_DECIMAL_CURRENCIES), "usd", "eur", "gbp", "bhd", "jod", "kwd", "omr", "tnd"]
    prices = [("500" if currency in ZERO_DECIMAL_CURRENCIES else "19.99", currency) for currency in currencies]
    await page.goto(f"{origin}/bare")
    counted = await page.evaluate(MINOR, [[float(amount), name] for amount, name in prices])
    assert counted == [to_minor(Decimal(amount), name) for amount, name in prices]


async def test_what_a_server_is_not_set_up_for_is_told_in_words_that_fit_all_of_it(origin: str, page: Page) -> None:
    """Mails, files, videos and payments are all refused so where nothing is configured for them."""
    await page.goto(f"{origin}/bare")
    told = await page.evaluate("""async () => {
        const { explain, Problem } = await import("/web/api.js");
        return explain(new Problem(503, { code: "not_configured", detail: "..." }));
    }""")
    assert told == "This server is not set up for that."

"""What the page makes of figures, in a browser."""

from decimal import Decimal

import pytest
from playwright.async_api import Page

from server.domain.money import ZERO_DECIMAL_CURRENCIES, to_minor

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

MINOR = """async (prices) => {
    const { minorUnits } = await import("/web/format.js");
    return prices.map(([amount, currency]) => minorUnits(amount, currency));
}"""


async def test_the_page_counts_a_price_as_the_server_does(origin: str, page: Page) -> None:
    currencies = [*sorted(ZERO_DECIMAL_CURRENCIES), "usd", "eur", "gbp", "bhd", "jod", "kwd", "omr", "tnd"]
    prices = [("500" if currency in ZERO_DECIMAL_CURRENCIES else "19.99", currency) for currency in currencies]
    await page.goto(f"{origin}/bare")
    counted = await page.evaluate(MINOR, [[float(amount), name] for amount, name in prices])
    assert counted == [to_minor(Decimal(amount), name) for amount, name in prices]

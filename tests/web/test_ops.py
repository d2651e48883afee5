"""The operator's page in a browser: whoever signs in there sees what waits, and why."""

import pytest
from playwright.async_api import Page

from tests.web.stage import Stage, until

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]


async def test_an_operator_signs_in_and_sees_what_waits_with_why(stage: Stage, origin: str, page: Page) -> None:
    stage.waiting["events"] = [
        {
            "id": "evt_1", "type": "payment_intent.succeeded", "reason": "another amount than the transaction's",
            "facts": {"amount": 1}, "created_at": "2030-01-01T00:00:00Z",
        }
    ]  # fmt: skip
    await page.goto(f"{origin}/ops")
    await page.fill("#login", "ada")
    await page.fill("#password", "correct horse")
    await page.click("button[type=submit]")
    await until(page, "document.querySelector('h1')?.textContent === 'Operations'")
    events, jobs = [await section.inner_text() for section in await page.query_selector_all("section")]
    for shown in ("payment_intent.succeeded", "evt_1", "another amount than the transaction's", '{"amount":1}'):
        assert shown in events
    assert "None." in jobs


async def test_an_administrator_is_led_there_and_nobody_else(stage: Stage, origin: str, page: Page) -> None:
    for role, links in (("student", 0), ("admin", 1)):
        stage.role = role
        await page.goto(f"{origin}/#/signin")
        await page.fill("#login", "ada")
        await page.fill("#password", "correct horse")
        await page.click("button[type=submit]")
        await page.wait_for_selector("text=Sign out")
        assert await page.locator("a", has_text="Operations").count() == links
        if links:
            await page.click("text=Operations")
            await until(page, "document.querySelector('h1')?.textContent === 'Operations'")
        await page.click("text=Sign out")

"""A video's audience in a browser: from the lecture to who watches now and to what was watched."""

import pytest
from playwright.async_api import Page

from tests.web.stage import FIRST, VIDEO, Stage, until
from tests.web.test_catalogue import sign_in

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]


async def test_an_owner_finds_the_audience_beside_the_lecture(stage: Stage, origin: str, page: Page) -> None:
    stage.owns = True
    said: list[str] = []
    page.on("pageerror", lambda error: said.append(str(error)))
    await sign_in(page, origin)
    await until(page, "document.querySelector('.who') !== null")
    await page.goto(f"{origin}/#/lectures/{FIRST}")
    await page.click("text=Audience")
    await until(page, "document.querySelector('.live-viewers p')?.textContent === '2 learners · 1 playing · 1 stalled'")
    assert await page.inner_text(".live-viewers li") == "ben\n1:23 · stalled · 800 kbit/s · 2.5 s buffered · 1 stall"
    assert "1,234" in await page.inner_text(".audience-figures")
    assert await page.locator(".retention polyline").is_visible()
    assert "the network carries this rung" in await page.inner_text(".audience")
    await page.select_option("select", label="Last 7 days")
    await until(page, "document.querySelector('.audience-figures .value').textContent === '12'")
    assert stage.days[0] == ""
    assert len(stage.days[1]) == len("2026-01-31")
    assert page.url.endswith(f"#/videos/{VIDEO}")
    assert said == []

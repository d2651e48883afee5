"""A browser that keeps nothing for the page: all is there as long as the page is."""

import pytest
from playwright.async_api import Page

from tests.web.stage import FIRST, SECOND, Stage, until
from tests.web.test_catalogue import sign_in

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

PLAYING = "lectern.state()?.position > 0.3 && !lectern.state().paused"
# As Chromium does it where a person keeps sites from storing anything.
FORBIDDEN = """
    const refuse = () => { throw new DOMException("Access is denied", "SecurityError"); };
    for (const name of ["localStorage", "sessionStorage"]) Object.defineProperty(window, name, { get: refuse });
    navigator.locks.request = async () => refuse();
"""
FULL = "Storage.prototype.setItem = () => { throw new DOMException('There is no room', 'QuotaExceededError'); }"


@pytest.mark.parametrize("browser_is", [FORBIDDEN, FULL], ids=["forbidden", "full"])
async def test_a_lecture_is_watched_to_its_end_where_the_browser_keeps_nothing(
    stage: Stage, origin: str, page: Page, browser_is: str
) -> None:
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    await page.add_init_script(browser_is)
    await sign_in(page, origin)
    await page.wait_for_selector(".who")
    await page.evaluate(f"location.hash = '#/lectures/{SECOND}'")
    await until(page, PLAYING)
    stage.valid_token = "another"  # and so the pair of tokens has to be renewed, and kept
    await page.evaluate(f"location.hash = '#/lectures/{FIRST}'")
    await until(page, f"lectern.state()?.lecture_id === '{FIRST}' && {PLAYING}")
    assert stage.lives == 2
    await page.evaluate("document.querySelector('video').currentTime = 47.3")
    await page.wait_for_selector("text=Up next")
    await page.click("text=Sign out")
    await page.wait_for_selector("text=Sign in")
    assert faults == []

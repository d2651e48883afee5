"""The page's frame in a browser: what stands above every page, and what holds for all of them."""

import pytest
from playwright.async_api import Page

from tests.web.stage import COURSE, FIRST, Stage, until

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

WIDER = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


async def test_on_a_phone_all_is_within_the_window_and_can_be_reached(stage: Stage, origin: str, page: Page) -> None:
    stage.course_title = "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft"
    stage.role = "admin"
    await page.set_viewport_size({"width": 360, "height": 740})
    await page.goto(f"{origin}/#/signin?next=%23/courses/{COURSE}")
    await page.fill("#login", "W" * 64)
    await page.fill("#password", "correct horse")
    await page.click("button[type=submit]")
    for where, shown in ((f"courses/{COURSE}", ".lectures"), (f"lectures/{FIRST}", ".upload")):
        await page.goto(f"{origin}/#/{where}")
        await page.wait_for_selector(shown)
        assert await page.evaluate(WIDER) == 0
    # What leads to the account is as wide as a thumb, whoever it names and whatever stands beside it.
    assert await page.evaluate("document.querySelector('.who').getBoundingClientRect().width") > 40


async def test_each_page_has_a_title_of_its_own_and_says_so_first(stage: Stage, origin: str, page: Page) -> None:
    await page.goto(origin)
    for where, title in (
        ("signin", "Sign in"),
        (f"courses/{COURSE}", stage.course_title),
        ("nowhere", "Nothing here"),
        ("plans", "That did not work"),  # this server has none
        ("", "Courses"),
    ):
        await page.evaluate("where => (location.hash = '#/' + where)", where)
        await until(page, f"document.title === '{title} · Lectern'")
        assert await page.evaluate("document.activeElement.textContent") == title

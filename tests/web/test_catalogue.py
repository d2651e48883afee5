"""The catalogue in a browser: it finds courses as one types, shows more, and says where one left off."""

import asyncio

import pytest
from playwright.async_api import Page, Route

from tests.web.stage import COURSE, FIRST, Stage, until

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

TITLES = "[...document.querySelectorAll('.course h2')].map(e => e.textContent)"
NOTE = "document.querySelector('.quiet').textContent"
TYPE = """words => {
  const field = document.querySelector("input[type=search]");
  for (let length = 1; length <= words.length; length++) {
    field.value = words.slice(0, length);
    field.dispatchEvent(new Event("input"));
  }
}"""
TITLE = "How a live lecture stays alive"
BEGUN = {
    "course_id": COURSE, "course_title": TITLE, "thumbnail_url": None, "lecture_id": FIRST,
    "lecture_title": "An actor is a fold", "position": 83.5, "duration": 200.0, "percent": 33.3,
    "last_watched_at": "2026-01-01T00:00:00Z",
}  # fmt: skip


async def sign_in(page: Page, origin: str, login: str = "ada") -> None:
    """Signs in and comes back to the catalogue."""
    await page.goto(f"{origin}/#/signin?next=%23/")
    await page.fill("#login", login)
    await page.fill("#password", "correct horse")
    await page.click("button[type=submit]")


async def test_courses_are_found_as_one_types_and_the_address_keeps_the_words(
    stage: Stage, origin: str, page: Page
) -> None:
    await page.goto(origin)
    await until(page, f"{TITLES}.length === 1")
    looked = len(stage.sought)
    # In one go: a machine that takes long over each key would make pauses of it, and look after each.
    await page.evaluate(TYPE, "nothing like it")
    await until(page, f"{NOTE} === 'Nothing is found for “nothing like it”.'")
    assert await page.evaluate(TITLES) == []
    assert stage.sought[-1] == "nothing like it"
    assert len(stage.sought) == looked + 1
    await page.fill("input[type=search]", "live lecture")
    await page.press("input[type=search]", "Enter")
    await until(page, f"{TITLES}.length === 1")
    assert page.url.endswith("#/?q=live%20lecture")
    await page.reload()
    await until(page, f"{TITLES}.length === 1")
    assert await page.input_value("input[type=search]") == "live lecture"
    await page.fill("input[type=search]", "")
    await until(page, "location.hash === '#/'")
    await until(page, f"{TITLES}.length === 1")


async def test_more_courses_are_shown_when_asked_for(stage: Stage, origin: str, page: Page) -> None:
    stage.has_more = True
    await page.goto(origin)
    await page.click("text=Show more")
    await until(page, f"{TITLES}.length === 2")
    assert await page.evaluate(TITLES) == [TITLE, "The last of all"]
    assert await page.is_hidden("text=Show more")


async def test_what_is_left_of_a_list_does_not_land_in_another(stage: Stage, origin: str, page: Page) -> None:
    stage.has_more = True
    gate = asyncio.Event()

    async def later(route: Route) -> None:
        await gate.wait()
        await route.continue_()

    await page.goto(origin)
    async with page.expect_request("**/api/courses?cursor=2"):
        await page.route("**/api/courses?cursor=2", later)
        await page.click("text=Show more")
    await page.fill("input[type=search]", "live lecture")
    await page.press("input[type=search]", "Enter")
    await until(page, "location.hash === '#/?q=live%20lecture'")
    async with page.expect_response("**/api/courses?cursor=2"):
        gate.set()
    await page.wait_for_timeout(300)
    assert await page.evaluate(TITLES) == [TITLE]


async def test_who_comes_back_finds_the_list_as_it_was_left(stage: Stage, origin: str, page: Page) -> None:
    stage.has_more = True
    await page.set_viewport_size({"width": 600, "height": 300})
    await page.goto(origin)
    await page.click("text=Show more")
    await until(page, f"{TITLES}.length === 2")
    await page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    left = await until(page, "window.scrollY")
    await page.evaluate("document.querySelectorAll('.course a')[1].click()")
    await page.wait_for_selector(".crumbs")
    assert await page.evaluate("window.scrollY") == 0
    await page.evaluate("history.back()")
    await until(page, f"{TITLES}.length === 2 && window.scrollY === {left}")
    await page.reload()
    await until(page, f"{TITLES}.length === 2 && window.scrollY === {left}")


async def test_the_catalogue_says_where_one_left_off_and_leads_there(stage: Stage, origin: str, page: Page) -> None:
    await page.goto(origin)
    await until(page, f"{TITLES}.length === 1")
    assert await page.is_hidden("text=Continue where you left off")
    stage.continuations = [BEGUN]
    await sign_in(page, origin)
    await page.wait_for_selector(".begun li")
    text = await page.text_content(".begun li")
    assert text == f"{TITLE}An actor is a fold1:23 of 3:20 · 33 % of the course"
    assert await page.evaluate(
        "getComputedStyle(document.querySelector('.begun li')).getPropertyValue('--watched')"
    ) == ("42%")
    await page.fill("input[type=search]", "live")
    await until(page, "document.querySelector('.resume').hidden")
    await page.fill("input[type=search]", "")
    await page.click(".begun a")
    await until(page, f"location.hash === '#/lectures/{FIRST}'")


async def test_where_somebody_else_signs_in_in_another_tab_a_page_shows_what_is_theirs(
    stage: Stage, origin: str, page: Page
) -> None:
    stage.continuations = [BEGUN]
    await sign_in(page, origin)
    await page.wait_for_selector(".begun li")
    stage.continuations = []
    other = await page.context.new_page()
    await sign_in(other, origin, "ben")
    await page.wait_for_selector(".who >> text=ben")
    await until(page, "document.querySelector('.course h2') && !document.querySelector('.begun li')")


async def test_a_catalogue_without_its_conveniences_is_still_one(stage: Stage, origin: str, page: Page) -> None:
    await sign_in(page, origin)
    await until(page, f"{TITLES}.length === 1")
    await page.route("**/api/progress/me/continue*", lambda route: route.fulfill(status=503, body="{}"))
    await page.reload()
    await until(page, f"{TITLES}.length === 1")
    await page.route("**/api/courses?*", lambda route: route.fulfill(status=503, body="{}"))
    await page.fill("input[type=search]", "live")
    await until(page, f"{NOTE} !== ''")
    await page.unroute("**/api/courses?*")
    await page.press("input[type=search]", "Enter")
    await until(page, f"{NOTE} === ''")


async def test_a_course_shows_all_of_its_lectures_however_many(stage: Stage, origin: str, page: Page) -> None:
    stage.in_pages = True
    await page.goto(f"{origin}/#/courses/{COURSE}")
    await page.wait_for_selector("text=An actor is a fold")
    await page.wait_for_selector("text=The epoch is the fence")
    # A click for a tab of its own is the browser's.
    await page.evaluate("addEventListener('click', (e) => (window.left = !e.defaultPrevented, e.preventDefault()))")
    await page.click("text=An actor is a fold", modifiers=["Control"])
    assert await page.evaluate("window.left")
    await page.click("text=An actor is a fold")
    assert not await page.evaluate("window.left")


async def test_why_a_lecture_far_below_cannot_be_begun_is_said_in_sight(origin: str, page: Page) -> None:
    await page.set_viewport_size({"width": 360, "height": 300})
    await sign_in(page, origin)
    await page.wait_for_selector(".who")
    await page.goto(f"{origin}/#/courses/{COURSE}")
    await page.route("**/api/enrollments", lambda route: route.abort())
    await page.click("text=The epoch is the fence")
    said = page.locator("text=The server cannot be reached.")
    await said.wait_for()
    assert 0 <= await said.evaluate("(said) => said.getBoundingClientRect().top") < 300

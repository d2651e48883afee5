"""What is said over the picture when it does not go on."""

import asyncio

import pytest
from playwright.async_api import Page, Route

from tests.web.stage import FIRST, Stage, until
from tests.web.test_catalogue import sign_in

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

PLAYING = "window.lectern?.state()?.position > 0.3 && !lectern.state().paused"
# What lies under the middle of what is said.
PRESSED = """(() => {
    const { left, top, width, height } = document.querySelector(".overlay").getBoundingClientRect();
    return document.elementFromPoint(left + width / 2, top + height / 2).tagName;
})()"""


async def enter(page: Page, origin: str) -> None:
    await sign_in(page, origin)
    await page.wait_for_selector(".who")
    await page.goto(f"{origin}/#/lectures/{FIRST}")
    await until(page, PLAYING)


async def test_a_picture_that_stands_still_for_want_of_a_network_says_so_beside_its_controls(
    origin: str, page: Page
) -> None:
    await enter(page, origin)
    await page.route("**/media/**", lambda route: route.abort())
    await page.evaluate("document.querySelector('video').currentTime = 46")
    await page.wait_for_selector("text=The picture waits for the network.")
    assert await page.evaluate(PRESSED) == "VIDEO"
    # What is here already can be watched meanwhile.
    await page.evaluate("document.querySelector('video').currentTime = 0")
    await page.wait_for_selector(".overlay", state="hidden")
    await until(page, f"{PLAYING} && lectern.state().position < 40")


async def test_who_presses_a_key_on_what_is_said_has_the_picture_under_their_keys(origin: str, page: Page) -> None:
    await enter(page, origin)
    await page.evaluate("document.querySelector('video').currentTime = 47")
    await page.press("text=Watch again", "Enter")
    await until(page, f"{PLAYING} && lectern.state().position < 40")
    assert await page.evaluate("document.activeElement.tagName") == "VIDEO"


@pytest.mark.parametrize("slow", ["**/vendor/hls.js/**", "**/api/lectures/*"])
async def test_a_lecture_that_begins_slowly_says_so_until_it_begins(origin: str, page: Page, slow: str) -> None:
    gate = asyncio.Event()

    async def later(route: Route) -> None:
        await gate.wait()
        await route.continue_()

    await page.route(slow, later)
    await sign_in(page, origin)
    await page.wait_for_selector(".who")
    await page.goto(f"{origin}/#/lectures/{FIRST}")
    await page.wait_for_selector("text=The picture waits for the network.")
    gate.set()
    await until(page, PLAYING)
    await page.wait_for_selector(".overlay", state="hidden")


async def test_a_video_that_is_deleted_under_the_picture_is_said_to_be_gone(
    stage: Stage, origin: str, page: Page
) -> None:
    await enter(page, origin)
    await page.route("**/sessions", lambda route: route.fulfill(status=404, body="{}"))
    await stage.close(4404)
    await page.wait_for_selector("text=This video is not here any more")
    assert await page.evaluate("lectern.state().paused")
    await page.unroute("**/sessions")
    stage.held.status = "ended"
    await page.click("text=Look again")
    await until(page, f"{PLAYING} && lectern.state().connection === 'live'")


async def test_a_lecture_that_the_server_was_away_for_begins_by_itself(origin: str, page: Page) -> None:
    await sign_in(page, origin)
    await page.wait_for_selector(".who")
    for what, told in (("**/api/lectures/*", "cannot be shown"), ("**/sessions", "cannot begin")):
        await page.route(what, lambda route: route.abort())
        await page.goto(f"{origin}/#/lectures/{FIRST}")
        await page.wait_for_selector(f".overlay >> text={told}")
        await page.focus(".overlay button")
        async with page.expect_event("requestfailed", lambda request: "manifest" not in request.url):
            pass  # tried once more, and in vain
        assert await page.evaluate("document.activeElement.textContent") == "Try again"
        await page.unroute(what)
        await until(page, PLAYING)
        await page.goto(f"{origin}/#/")

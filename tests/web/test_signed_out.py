"""A lecture whose learner was signed out meanwhile."""

import pytest
from playwright.async_api import Page

from tests.web.classroom import PLAYING, Enter
from tests.web.stage import FIRST, Stage, eventually, until
from tests.web.test_catalogue import sign_in

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

STOPPED = "document.querySelector('.tutor [role=status]').textContent.startsWith('The tutor is not there just now.')"


async def test_the_tutor_says_that_it_is_gone_and_what_was_asked_of_it_stays(
    stage: Stage, origin: str, page: Page
) -> None:
    await sign_in(page, origin)
    await page.wait_for_selector(".who")
    await page.goto(f"{origin}/#/lectures/{FIRST}")
    await until(page, "lectern.state()?.tutor?.connected")
    await page.route("**/api/chat/history/**", lambda route: route.fulfill(status=401, body="{}"))
    stage.lives += 2  # so long ago that the refresh token is none any more
    assert stage.tutor_socket is not None
    await stage.tutor_socket.close(code=4401)
    await until(page, STOPPED)
    await page.fill("#question", "What is a fold?")
    await page.unroute("**/api/chat/history/**")
    await page.reload()
    await page.wait_for_selector("#login")
    await page.fill("#login", "ada")
    await page.fill("#password", "correct horse")
    await page.click("button[type=submit]")
    await until(page, "document.querySelector('#question')?.value === 'What is a fold?'")


async def test_who_signs_out_in_one_tab_watches_no_more_in_another_and_leaves_nothing_there(
    stage: Stage, origin: str, page: Page, enter: Enter
) -> None:
    await enter()
    await until(page, f"{PLAYING} && lectern.state().acked > 3")
    other = await page.context.new_page()
    await other.goto(f"{origin}/#/")
    await other.click("text=Sign out")
    await page.wait_for_selector("#login")
    await eventually(lambda: stage.held.status == "ended")
    keys = "[localStorage, sessionStorage].flatMap(Object.keys)"
    await until(page, f"({keys}).every((key) => !/place|session|owed|account|left/.test(key))")


async def test_a_page_that_comes_back_from_the_browser_s_memory_shows_who_is_signed_in_now(
    origin: str, page: Page
) -> None:
    await sign_in(page, origin)
    await page.wait_for_selector(".who")
    await page.evaluate("localStorage.removeItem('lectern.account')")  # elsewhere, where no event comes from
    async with page.expect_navigation():
        await page.evaluate("dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))")
    await page.wait_for_selector("#account >> text=Sign in")

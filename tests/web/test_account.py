"""One's own account in a browser: what became of a change is said, though a part of the way is lost."""

import json

import pytest
from playwright.async_api import Page

from tests.web.stage import Stage
from tests.web.test_catalogue import sign_in

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

ME = {"username": "ada", "email": "ada@example.org", "email_verified": True, "avatar_url": None}


async def enter(page: Page, origin: str) -> None:
    """The account's page, with two passwords filled in."""
    await page.route("**/api/auth/me", lambda route: route.fulfill(body=json.dumps(ME)))
    await page.route("**/api/forums/digest", lambda route: route.fulfill(body='{"enabled": false}'))
    await sign_in(page, origin)
    await page.wait_for_selector(".who")
    await page.goto(f"{origin}/#/account")
    await page.fill("#current_password", "correct horse")
    await page.fill("#new_password", "battery staple")


async def test_a_password_that_was_changed_is_said_to_be_although_the_new_tokens_do_not_come(
    origin: str, page: Page
) -> None:
    await page.route("**/api/auth/me/password", lambda route: route.fulfill(status=204))
    await page.route("**/api/auth/refresh", lambda route: route.abort())
    await enter(page, origin)
    await page.click("text=Change password")
    await page.wait_for_selector("text=Your password is changed.")


async def test_who_is_signed_in_no_more_is_told_to_sign_in_and_what_was_typed_stays(
    stage: Stage, origin: str, page: Page
) -> None:
    await page.route("**/api/auth/me/password", lambda route: route.fulfill(status=401, body="{}"))
    await enter(page, origin)
    stage.lives += 2  # so long ago that the refresh token is none any more
    await page.click("text=Change password")
    await page.wait_for_selector("text=You are not signed in any more. Sign in to go on.")
    assert await page.input_value("#new_password") == "battery staple"

"""Somebody forgot the password: from the form over the mail back into the classroom, in a real browser."""

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.app import AppClient, serving, settings
from tests.support.mail import MailBox, token_of
from tests.support.people import PASSWORD, Person, sign_in

if TYPE_CHECKING:
    from playwright.async_api import Page

pytestmark = pytest.mark.browser
ANOTHER = "another battery staple"
A_THIRD = "a third battery staple"


@pytest.fixture
async def client(postgres_dsn: str, redis_url: str, box: MailBox) -> AsyncIterator[AppClient]:
    async with serving(settings(postgres_dsn, redis_url, smtp=box.settings, jobs={"poll_s": 0.05})) as client:
        yield client


async def look(page: "Page", name: str) -> None:
    """Keep a picture where PICTURES says."""
    if directory := os.environ.get("PICTURES"):
        await page.screenshot(path=Path(directory) / f"{name}.png")


async def test_who_forgot_the_password_sets_another_by_mail_and_changes_it_again(
    client: AppClient, box: MailBox, page: "Page"
) -> None:
    origin = str(client.make_url("")).rstrip("/")
    ada = {"username": "ada", "email": "ada@example.com", "password": PASSWORD}
    await Person(client).make("/api/auth/register", ada)
    verify = token_of(await box.get("Confirm your e-mail", "ada@example.com"))

    await page.goto(f"{origin}/#/signin")
    await look(page, "signin")
    await page.get_by_text("Forgot password?").click()
    await page.get_by_label("E-mail", exact=True).fill("ada@example.com")  # not the field of the page before
    await look(page, "forgot")
    await page.get_by_role("button", name="Send a link").click()
    await page.get_by_text("a link to set a new password is on its way").wait_for()

    await page.goto(f"{origin}/#/reset/{token_of(await box.get('Set a new password', 'ada@example.com'))}")
    await page.get_by_role("textbox", name="New password").fill("password123")
    await page.get_by_role("button", name="Set password").click()
    await page.get_by_text("most common passwords").wait_for()
    await look(page, "reset")
    await page.get_by_role("textbox", name="New password").fill(ANOTHER)
    await page.get_by_role("button", name="Set password").click()
    await page.get_by_text("Your password is set").wait_for()

    await page.get_by_role("main").get_by_role("link", name="Sign in").click()
    await sign_in(page, "ada", ANOTHER)
    await page.get_by_role("link", name="ada").click()
    await page.get_by_role("textbox", name="Current password").fill(ANOTHER)
    await page.get_by_role("textbox", name="New password").fill(A_THIRD)
    await page.get_by_role("button", name="Change password").click()
    await page.get_by_text("signed out on all other devices").wait_for()
    await look(page, "account")

    # Still signed in here: the page reads the account again with renewed tokens.
    await page.reload()
    await page.get_by_text("ada@example.com").first.wait_for()
    await page.goto(f"{origin}/#/verify/{verify}")
    await page.get_by_text("used already").wait_for()
    await look(page, "verify")

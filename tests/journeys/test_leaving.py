"""Somebody takes everything along and leaves, in a real browser."""

import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.app import AppClient, serving, settings
from tests.support.people import PASSWORD, Person, sign_in

if TYPE_CHECKING:
    from playwright.async_api import Page

pytestmark = pytest.mark.browser


@pytest.fixture
async def client(postgres_dsn: str, redis_url: str) -> AsyncIterator[AppClient]:
    async with serving(settings(postgres_dsn, redis_url)) as client:
        yield client


async def test_who_leaves_takes_everything_along_and_is_forgotten(
    client: AppClient, page: "Page", tmp_path: Path
) -> None:
    ada = {"username": "ada", "email": "ada@example.com", "password": PASSWORD}
    await Person(client).make("/api/auth/register", ada)
    await page.goto(str(client.make_url("/#/signin?next=%23/account")))
    await sign_in(page, "ada")

    async with page.expect_download() as started:
        await page.get_by_role("button", name="Download my data").click()
    await (await started.value).save_as(tmp_path / "lectern.json")
    taken = json.loads((tmp_path / "lectern.json").read_text())
    assert taken["account"]["email"] == "ada@example.com"
    assert taken["tables"]["sign_in_addresses"]

    await page.get_by_role("button", name="Delete this account").click()
    if directory := os.environ.get("PICTURES"):
        await page.screenshot(path=Path(directory) / "leaving.png", full_page=True)
    farewell = page.get_by_role("form", name="Delete this account")
    await farewell.get_by_label("Your password").fill("not this one")
    await farewell.get_by_role("button", name="Delete for good").click()
    await page.get_by_text("The current password is another one").wait_for()
    await farewell.get_by_label("Your password").fill(PASSWORD)
    await farewell.get_by_role("button", name="Delete for good").click()
    await page.get_by_text("Your account is gone").wait_for()

    await page.get_by_role("banner").get_by_role("link", name="Sign in").wait_for()
    gone = await Person(client).post("/api/auth/login", {"login": "ada", "password": PASSWORD})
    assert gone.status == 401

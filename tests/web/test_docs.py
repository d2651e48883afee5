"""The API's reader in a browser, under our Content-Security-Policy."""

import re

import pytest
from aiohttp.test_utils import TestServer
from playwright.async_api import Page

from server.app import HANDLERS
from server.http import openapi, pages
from tests.support.app import bare_app
from tests.web.stage import ROOT

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

INK = "getComputedStyle(document.querySelector('.swagger-ui .info .title')).color"


async def test_the_document_can_be_read_and_nothing_is_blocked(page: Page) -> None:
    if not (ROOT / "node_modules" / "swagger-ui-dist").exists():
        pytest.skip("swagger-ui-dist is not there: bin/run or bin/test fetches it")
    said: list[str] = []
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    async with TestServer(bare_app(*(module.routes for module in HANDLERS), openapi.routes, pages.routes)) as server:
        await page.emulate_media(color_scheme="dark")
        await page.goto(str(server.make_url("/docs")))
        await page.wait_for_selector(".opblock")
        shown = await page.locator(".opblock").count()
        assert await page.locator("#plain").is_hidden()
        red, green, blue = map(int, re.findall(r"\d+", await page.evaluate(INK)))
        assert min(red, green, blue) > 200, "light on the dark ground"
    operations = openapi.openapi([route for module in HANDLERS for route in module.routes.routes])["paths"]
    assert shown >= sum(len(methods) for methods in operations.values())
    assert said == []


async def test_without_the_package_the_plain_list_stays(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "VENDOR_DIR", ROOT / "nowhere")
    async with TestServer(bare_app(*(module.routes for module in HANDLERS), openapi.routes, pages.routes)) as server:
        await page.goto(str(server.make_url("/docs")))
        assert await page.get_by_text("/api/courses/{course_id}", exact=True).first.is_visible()

"""A learner finds a course on the page, watches a little elsewhere, and the page knows where to go on."""

from typing import TYPE_CHECKING

import aiohttp
import pytest

from demo.accounts import ADMIN
from demo.client import Client
from embedded.system import System

if TYPE_CHECKING:
    from playwright.async_api import Page

pytestmark = pytest.mark.browser
PASSWORD = "correct horse battery"


async def test_a_course_is_found_and_gone_on_with(system: System, page: "Page") -> None:
    refused: list[str] = []
    page.on("console", lambda message: refused.append(message.text) if message.type == "error" else None)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as http:
        teacher, learner = Client(http, system.local_address), Client(http, system.local_address)
        await teacher.sign_in(ADMIN.email, ADMIN.password)
        for title, description in (("Überblick", "Kafka für Anfänger"), ("Beginners", "An overview of brokers")):
            course = await teacher.call(
                "POST", "/api/courses", {"title": title, "description": description, "status": "published"}
            )
            lecture = await teacher.call(
                "POST", f"/api/courses/{course['id']}/lectures", {"title": f"{title} 1", "duration": 200}
            )
        await learner.register("finder", "finder@example.org", PASSWORD)
        await learner.call("POST", "/api/enrollments", {"course_id": course["id"]})
        await learner.call("PUT", f"/api/progress/lectures/{lecture['id']}", {"position": 50})

        await page.goto(system.local_address)
        await page.fill("input[type=search]", "ANFANGER -overview")
        await page.wait_for_url("**/#/?q=ANFANGER%20-overview")
        await page.wait_for_selector(".course:nth-child(2)", state="detached")
        assert await page.text_content(".course h2") == "Überblick"
        await page.goto(f"{system.local_address}/#/signin?next=%23/")
        await page.fill("#login", "finder")
        await page.fill("#password", PASSWORD)
        await page.click("button[type=submit]")
        await page.wait_for_selector(".begun li")
        assert await page.text_content(".begun li") == "BeginnersBeginners 10:50 of 3:20 · 0 % of the course"
        await page.click(".begun a")
        await page.wait_for_url(f"**/#/lectures/{lecture['id']}")
    assert [text for text in refused if "Security Policy" in text] == []

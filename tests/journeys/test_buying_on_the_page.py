"""A learner buys a course on the page with a test card, plays it, and subscribes; the books agree to the cent."""

import asyncio
import io
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from demo.accounts import ADMIN
from demo.client import Client
from embedded.system import System
from standins.video_host.clip import cached_clip

if TYPE_CHECKING:
    from playwright.async_api import Page

pytestmark = pytest.mark.browser
PASSWORD = "correct horse battery"
READY_WITHIN_S = 60


async def make_course(http: aiohttp.ClientSession, teacher: Client) -> tuple[Any, Any]:
    """A course that costs something, and its lecture, whose video is ready."""
    wish = {"title": "Queues for money", "status": "published", "price": "49.00", "currency": "usd"}
    course = await teacher.call("POST", "/api/courses", wish)
    lecture = await teacher.call("POST", f"/api/courses/{course['id']}/lectures", {"title": "One"})
    clip = await asyncio.to_thread(cached_clip(seconds=6).read_bytes)
    made = await teacher.call(
        "POST",
        "/api/videos/upload",
        {"lecture_id": lecture["id"], "title": "One", "filename": "one.mp4", "size_bytes": len(clip)},
    )
    form = aiohttp.FormData()
    form.add_field("file", io.BytesIO(clip), filename="one.mp4", content_type="video/mp4")
    async with http.post(made["upload"]["url"], data=form) as answer:
        assert answer.status == 200
    async with asyncio.timeout(READY_WITHIN_S):
        while (await teacher.call("GET", f"/api/videos/{made['video']['id']}"))["status"] != "ready":  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    return course, lecture


async def ledger(http: aiohttp.ClientSession, system: System) -> list[Any]:
    """What the stand-in has booked."""
    headers = {"Authorization": f"Bearer {system.keys.stripe_secret_key}"}
    async with http.get(f"{system.ledger_address}/_control/ledger", headers=headers) as answer:
        lines: list[Any] = (await answer.json())["lines"]
        return lines


async def test_a_course_is_bought_with_a_test_card_and_played(system: System, page: "Page") -> None:
    refused: list[str] = []
    page.on("console", lambda message: refused.append(message.text) if message.type == "error" else None)
    page.set_default_timeout(30_000)
    await page.add_init_script("delete Crypto.prototype.randomUUID")  # as on a host without HTTPS
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as http:
        teacher, learner = Client(http, system.local_address), Client(http, system.local_address)
        await teacher.sign_in(ADMIN.email, ADMIN.password)
        course, lecture = await make_course(http, teacher)
        await learner.register("buyer", "buyer@example.org", PASSWORD)

        await page.goto(f"{system.local_address}/#/signin?next=%23/courses/{course['id']}")
        await page.fill("#login", "buyer")
        await page.fill("#password", PASSWORD)
        await page.click("button[type=submit]")
        await page.click("text=Start learning")
        card = page.frame_locator("iframe[title=Card]")
        # A card that is declined first: nothing is bought, and another one may be tried.
        await card.locator("#offered").select_option("4000000000000341")
        await page.click("text=Buy for $49.00")
        await page.wait_for_selector("text=The card was declined, and nothing was charged.")
        # Then one whose bank asks, on a page of its own, and is not answered.
        await card.locator("#offered").select_option("4000000000003220")
        await page.click("text=Buy for $49.00")
        await page.get_by_role("button", name="Approve").wait_for()
        await page.goto(f"{system.local_address}/#/courses/{course['id']}")
        await page.click("text=Start learning")
        await page.get_by_label("Another card").check()
        await card.locator("#offered").select_option("4242424242424242")
        # The price is another one by now, and nobody pays more than the button says.
        await teacher.call("PUT", f"/api/courses/{course['id']}", {"price": "59.00"})
        await page.click("text=Buy for $49.00")
        await page.wait_for_selector("text=The price has changed: it is $59.00 now.")
        await page.click("text=Start learning")
        await page.get_by_label("ending in 4242").check()
        await page.click("text=Buy for $59.00")
        await page.wait_for_url(f"**/#/lectures/{lecture['id']}")
        await page.wait_for_function("() => (window.lectern.state()?.position ?? 0) > 1")

        # By the card that is now kept, with a bank that asks.
        await page.goto(f"{system.local_address}/#/plans")
        await page.click("text=Subscribe for $9.00 a month")
        await page.get_by_label("Another card").check()
        await card.locator("#offered").select_option("4000000000003220")
        bank = page.frame_locator("iframe[title='Your bank asks']")
        for answer in ("Decline", "Approve"):
            await page.click("text=Pay $9.00 a month")
            await bank.get_by_role("button", name=answer).click()
            if answer == "Decline":
                await page.wait_for_selector("text=The bank refused it, and nothing was charged.")
        mine = page.get_by_role("region", name="Your subscription")
        await mine.wait_for()
        await page.click("text=Cancel it")
        await page.wait_for_selector("text=Keep it")
        assert await page.evaluate("document.activeElement.textContent") == "Plans"  # what was pressed was made anew
        rows = await page.locator("table.paid tbody tr").all_inner_texts()
        assert ["$9.00" in rows[0], "$59.00" in rows[1]] == [True, True]

        ours = (await learner.call("GET", "/api/payments/transactions"))["items"]
        charged = {row["transaction_reference"]: row["amount"] for row in ours if row["status"] == "succeeded"}
        booked = {line["payment_intent"]: f"{line['amount'] / 100:.2f}" for line in await ledger(http, system)}
        assert charged == booked
    assert [text for text in refused if "Security Policy" in text] == []

"""A video's audience in a browser: from the lecture to who watches now and to what was watched."""

import asyncio
import json
from datetime import UTC, datetime, timedelta

import pytest
from playwright.async_api import Page, Route, WebSocketRoute

from tests.web.stage import FIRST, VIDEO, Stage, eventually, until
from tests.web.test_catalogue import sign_in

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]


async def test_an_owner_finds_the_audience_beside_the_lecture(stage: Stage, origin: str, page: Page) -> None:
    stage.owns = True
    said: list[str] = []
    page.on("pageerror", lambda error: said.append(str(error)))
    # Whatever the clock here shows.
    await page.add_init_script("const { now } = Date; Date.now = () => now() - 30 * 86_400_000;")
    week = [datetime.now(UTC).date() - timedelta(days=6)]
    await sign_in(page, origin)
    await until(page, "document.querySelector('.who') !== null")
    await page.goto(f"{origin}/#/lectures/{FIRST}")
    await page.click("text=Audience")
    await until(page, "document.querySelector('.live-viewers p')?.textContent === '2 learners · 1 playing · 1 stalled'")
    assert await page.inner_text(".live-viewers li") == "ben\n1:23 · stalled · 800 kbit/s · 2.5 s buffered · 1 stall"
    assert "1,234" in await page.inner_text(".audience-figures")
    assert await page.locator(".retention polyline").is_visible()
    assert "the network carries this rung" in await page.inner_text(".audience")
    await page.select_option("select", label="Last 7 days")
    await until(page, "document.querySelector('.audience-figures .value').textContent === '12'")
    assert stage.days[0] == ""
    week.append(datetime.now(UTC).date() - timedelta(days=6))
    assert stage.days[1] in [day.isoformat() for day in week]
    assert page.url.endswith(f"#/videos/{VIDEO}")
    await page.route("**/analytics*", lambda route: route.fulfill(status=503, body="{}"))
    await page.select_option("select", label="All time")
    await page.wait_for_selector(".audience:not([aria-busy]) [role=alert]")
    assert said == []


async def test_a_video_that_becomes_ready_while_its_owner_waits_has_one_audience(
    stage: Stage, origin: str, page: Page
) -> None:
    stage.role, stage.owns, stage.video_status = "admin", True, "processing"
    await sign_in(page, origin)
    await until(page, "document.querySelector('.who') !== null")
    begun = json.dumps({FIRST: {"video_id": VIDEO, "expires_at": "2100-01-01T00:00:00Z"}})
    await page.evaluate("begun => localStorage.setItem('lectern.uploads', begun)", begun)
    await page.goto(f"{origin}/#/lectures/{FIRST}")
    await page.wait_for_selector("text=The video is being prepared")
    stage.video_status = "ready"
    await until(page, "lectern.state().connection === 'live'")
    assert await page.locator("text=Audience").count() == 1
    # Who reloads just then is shown the new video already.
    await page.evaluate("begun => localStorage.setItem('lectern.uploads', begun)", begun)
    await page.reload()
    await until(page, "lectern.state()?.upload?.note === 'The new video is ready.'")


async def test_who_watches_is_shown_on_after_a_new_password_and_to_nobody_who_may_not_look(
    stage: Stage, origin: str, page: Page
) -> None:
    status = 200

    async def refuse(socket: WebSocketRoute) -> None:
        await socket.close(code=4401)

    async def tell(route: Route) -> None:
        await route.fulfill(status=status, json={"watching": 0, "playing": 0, "stalled": 0, "viewers": []})

    stage.owns = True
    await page.route_web_socket("**/live/ws", refuse)
    await page.route("**/live", tell)
    await sign_in(page, origin)
    await page.wait_for_selector(".who")
    await page.evaluate(f"location.hash = '#/videos/{VIDEO}'")
    await page.wait_for_selector("text=Nobody watches just now.")
    status = 403
    await page.wait_for_selector(".live-viewers [role=alert]")


async def test_who_leaves_before_the_audience_is_there_does_not_look_on(origin: str, page: Page) -> None:
    gate = asyncio.Event()

    async def later(route: Route) -> None:
        await gate.wait()
        await route.continue_()

    await sign_in(page, origin)
    await page.wait_for_selector(".who")
    await page.route("**/analytics", later)
    async with page.expect_request("**/analytics"):
        await page.evaluate(f"location.hash = '#/videos/{VIDEO}'")
    await page.evaluate("location.hash = '#/'")
    async with page.expect_websocket() as opened:
        gate.set()
    socket = await opened.value
    await eventually(socket.is_closed)

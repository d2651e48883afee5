"""Where a lecture is gone on with, and what a tab that is killed leaves behind in the browser."""

from datetime import UTC, datetime, timedelta

import pytest
from playwright.async_api import Error, Page, Route

from tests.web.classroom import PLAYING, Enter, state
from tests.web.stage import FIRST, Stage, eventually, until
from tests.web.test_catalogue import sign_in

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

# The place of the last frame that the browser keeps and the server was not told of.
KEPT = """Object.keys(localStorage).filter((key) => key.startsWith("lectern.owed."))
    .map((key) => JSON.parse(localStorage[key]).backlog.pending.at(-1)?.position)[0]"""


async def test_what_was_watched_while_the_server_was_away_is_not_lost_with_a_tab_that_is_killed(
    stage: Stage, origin: str, page: Page
) -> None:
    stage.interval_ms = 100
    await sign_in(page, origin)
    await page.wait_for_selector(".who")
    await page.goto(f"{origin}/#/lectures/{FIRST}")
    await until(page, "lectern.state()?.acked > 3")
    first = stage.held
    stage.refuses = 503
    stage.cut()
    await page.evaluate("document.querySelector('video').currentTime = 20")
    last = await until(page, f"{KEPT} > 21 && {KEPT}")
    # No event tells a page of this.
    async with page.expect_event("crash"):
        with pytest.raises(Error):
            await page.goto("chrome://crash")
    stage.refuses = None
    other = await page.context.new_page()
    await other.goto(f"{origin}/#/")
    await eventually(lambda: first.status == "ended")
    assert [frame["seq"] for frame in first.frames] == list(range(1, len(first.frames) + 1))
    assert first.frames[-1]["position"] >= last


SHOWN = "document.querySelector('video').readyState > 2"
PLACES = "Object.keys(localStorage).filter((key) => key.startsWith('lectern.place.'))"


def watched_before(stage: Stage, position: float) -> None:
    """The server says that one has got there, a moment ago."""
    stage.resume_position = position
    stage.lecture_seen = datetime.now(UTC).isoformat()


async def test_a_lecture_whose_pictures_do_not_come_at_first_is_at_its_place_all_the_while(
    stage: Stage, page: Page, enter: Enter
) -> None:
    away = True

    async def fetch(route: Route) -> None:
        await (route.fulfill(status=404) if away else route.continue_())

    watched_before(stage, 20.0)
    await page.route("**/init.mp4", fetch)
    await enter()
    await until(page, "document.querySelector('.overlay')?.textContent.includes('cannot be reached')")
    assert {frame["position"] for frame in stage.held.frames} == {20.0}
    assert await page.evaluate(PLACES) == []
    away = False
    await until(page, SHOWN)
    assert 20 <= (await state(page))["position"] < 40


async def test_a_jump_before_there_is_a_picture_is_one_from_where_the_lecture_is(
    stage: Stage, page: Page, enter: Enter
) -> None:
    watched_before(stage, 20.0)
    stage.withheld = "segment_0010.m4s"
    await enter()
    await until(page, "lectern.player && document.querySelector('video').duration > 0")
    await page.keyboard.press("j")
    assert await page.evaluate("lectern.player.position") == 10
    # What hls.js does on a busy machine, whose element knows its size only after the first segment is buffered.
    await page.evaluate("document.querySelector('video').currentTime = 20")
    stage.released.set()
    await until(page, SHOWN)
    assert 10 <= (await state(page))["position"] < 20


async def test_a_jump_counts_although_the_session_is_made_only_after_it(stage: Stage, page: Page, enter: Enter) -> None:
    watched_before(stage, 20.0)
    stage.sessions_open.clear()
    await enter()
    await until(page, f"document.querySelector('video') && {SHOWN}")
    await page.evaluate("document.querySelector('video').currentTime = 10")
    await until(page, f"!document.querySelector('video').seeking && {SHOWN}")
    await page.keyboard.press("j")
    stage.sessions_open.set()
    await until(page, "lectern.state()?.acked > 1")
    assert (await state(page))["position"] < 10


async def test_where_another_device_has_got_to_counts_although_the_clock_here_was_ahead(
    stage: Stage, page: Page, enter: Enter
) -> None:
    await page.add_init_script("""if (location.protocol !== 'about:' && !localStorage.right) {
        const { now } = Date;
        Date.now = () => now.call(Date) + 86_400_000;
    }""")
    await enter()
    await until(page, f"{PLAYING} && lectern.state().acked > 3")
    await page.evaluate("localStorage.right = 'it was set'")
    await page.goto("about:blank")
    stage.held.status = "ended"
    stage.resume_position = 30.0
    stage.lecture_seen = (datetime.now(UTC) + timedelta(minutes=1)).isoformat()
    await page.go_back()
    await until(page, "lectern.state()?.position > 30")

"""What a tab that is killed leaves behind in the browser."""

import pytest
from playwright.async_api import Error, Page

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

"""The page on its stage: a server that does what a test tells it, and a real Chromium before it.

One Chromium serves all tests of this folder, each in a context of its own, so they share one event loop
(`pytest.mark.asyncio(loop_scope="session")`).
"""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from tests.support.browser import chromium
from tests.support.once import made_once
from tests.web.classroom import Enter, sign_in
from tests.web.stage import FIRST, ROOT, Stage, encode_ladder

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> "AsyncIterator[Browser]":
    """The Chromium of all tests here; they are skipped where none can be had."""
    async with chromium() as browser:
        yield browser


@pytest_asyncio.fixture(loop_scope="session")
async def page(browser: "Browser") -> "AsyncIterator[Page]":
    """A page in a context of its own, on a window of ordinary size."""
    context = await browser.new_context(viewport={"width": 1440, "height": 900})
    yield await context.new_page()
    await context.close()


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with an HLS ladder of real segments."""
    return made_once(tmp_path_factory, "clip", encode_ladder)


@pytest.fixture
def stage(clip: Path) -> Stage:
    """A server that is not yet running."""
    if not (ROOT / "node_modules" / "hls.js").exists():
        pytest.skip("hls.js is not there: bin/run or bin/test fetches it")
    return Stage(clip)


@pytest_asyncio.fixture(loop_scope="session")
async def origin(stage: Stage) -> AsyncIterator[str]:
    """Where the stage is served."""
    async with stage.running() as address:
        yield address


@pytest_asyncio.fixture(loop_scope="session")
async def faults(page: "Page") -> AsyncIterator[list[str]]:
    """What went wrong in the page without anybody being told; must be empty at the end."""
    found: list[str] = []
    page.on("pageerror", lambda error: found.append(str(error)))
    yield found
    assert found == []


@pytest.fixture
def enter(stage: Stage, origin: str, page: "Page", faults: list[str]) -> Enter:
    """Signs in and opens a lecture: `await enter()`."""
    stage.interval_ms = 100

    async def open_lecture(lecture_id: str = FIRST) -> None:
        await page.goto(f"{origin}/#/signin?next=%23/lectures/{lecture_id}")
        await sign_in(page)

    return open_lecture

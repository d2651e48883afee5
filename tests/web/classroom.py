"""What tests do in the classroom; `enter` and `faults` of `conftest` go with it."""

from collections.abc import Awaitable, Callable
from typing import Any

from playwright.async_api import Page

Enter = Callable[..., Awaitable[None]]
PLAYING = "lectern.state()?.position > 0.3 && !lectern.state().paused"


async def sign_in(page: Page, login: str = "ada") -> None:
    """By the form that is shown."""
    await page.fill("#login", login)
    await page.fill("#password", "correct horse")
    await page.click("button[type=submit]")


async def hurry(page: Page) -> None:
    """Four times as fast, so that the buffer has room for the next segment soon."""
    await page.evaluate("document.querySelector('video').playbackRate = 4")


async def state(page: Page) -> dict[str, Any]:
    """What the page knows of itself."""
    return dict(await page.evaluate("lectern.state()"))

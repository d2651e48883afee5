"""Uploading a lecture's video in a browser, as far as the server is asked for it."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from playwright.async_api import Page

from tests.web.stage import FIRST, VIDEO, Stage
from tests.web.test_catalogue import sign_in

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]


@pytest.fixture
def film(stage: Stage, tmp_path: Path) -> Path:
    """A file for whoever may upload, as the one who signs in here may."""
    stage.role = "admin"
    path = tmp_path / "film.mp4"
    path.write_bytes(b"a film")
    return path


async def test_a_file_for_which_the_server_was_not_there_can_be_chosen_again(
    origin: str, page: Page, film: Path
) -> None:
    await page.route("**/api/videos/upload", lambda route: route.abort())
    await sign_in(page, origin)
    await page.wait_for_selector(".who")
    await page.goto(f"{origin}/#/lectures/{FIRST}")
    await page.set_input_files("#video-file", film)
    await page.wait_for_selector(".upload >> text=The server cannot be reached.")
    # A browser says nothing of a choice that is the one of before.
    assert await page.input_value("#video-file") == ""


async def test_a_film_is_uploaded_although_the_clock_here_is_a_day_ahead(
    stage: Stage, origin: str, page: Page, film: Path
) -> None:
    soon = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    begun = {"video": {"id": VIDEO}, "upload": {"method": "form", "url": f"{origin}/host", "expires_at": soon}}
    await page.route("**/api/videos/upload", lambda route: route.fulfill(status=201, body=json.dumps(begun)))
    await page.route("**/host", lambda route: route.fulfill(status=200))
    await page.add_init_script("const { now } = Date; Date.now = () => now() + 86_400_000;")
    await sign_in(page, origin)
    await page.wait_for_selector(".who")
    stage.video_status = "processing"
    await page.goto(f"{origin}/#/lectures/{FIRST}")
    await page.set_input_files("#video-file", film)
    await page.wait_for_selector(".upload >> text=Uploaded. The video is being prepared")

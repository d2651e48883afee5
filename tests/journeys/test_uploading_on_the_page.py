"""An instructor uploads a lecture's video on the page, which shows how far it is, and goes on after a reload."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from standins.video_host.clip import make_clip
from tests.support.people import PASSWORD
from tests.support.uploads import Scene, padded_clip, playing

if TYPE_CHECKING:
    from playwright.async_api import Page, Route

pytestmark = pytest.mark.browser

UPLOAD = "window.lectern.state()?.upload"
SLOWLY = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 600_000}
FREELY = SLOWLY | {"uploadThroughput": -1}


async def once(page: Page, expression: str, within_s: float = 60.0) -> None:
    """Wait until it is so; the page's policy forbids Playwright's own waiting."""
    async with asyncio.timeout(within_s):
        while not await page.evaluate(expression):  # noqa: ASYNC110  # nothing tells us
            await asyncio.sleep(0.05)


async def open_lecture(page: Page, scene: Scene) -> None:
    origin = str(scene.teacher.client.make_url("")).rstrip("/")
    await page.goto(f"{origin}/#/signin?next=%23/lectures/{scene.lecture_id}")
    await page.fill("#login", "teacher")
    await page.fill("#password", PASSWORD)
    await page.click("button[type=submit]")
    await page.wait_for_selector("#video-file")


async def test_a_large_upload_goes_on_after_a_reload_and_then_plays(
    postgres_dsn: str, redis_url: str, tmp_path: Path, page: Page
) -> None:
    clip = await asyncio.to_thread(padded_clip, tmp_path / "my-clip.mp4", 6_000_000)
    async with playing(postgres_dsn, redis_url, tmp_path, form_bytes=1_000_000) as scene:
        await open_lecture(page, scene)
        network = await page.context.new_cdp_session(page)
        await network.send("Network.enable")
        await network.send("Network.emulateNetworkConditions", SLOWLY)
        await page.set_input_files("#video-file", clip)
        await once(page, f"{UPLOAD}.percent > 20")
        await page.reload()
        await once(page, f"{UPLOAD}?.note.includes('Choose the same file')")
        await network.send("Network.emulateNetworkConditions", FREELY)
        assert "my-clip.mp4" in await page.evaluate(f"{UPLOAD}.note")
        await page.set_input_files("#video-file", clip)
        await once(page, f"{UPLOAD}.percent > 0")
        assert await page.evaluate(f"{UPLOAD}.percent") > 5, "not from the beginning"
        await once(page, f"{UPLOAD}.kept === null")
        assert await page.evaluate(f"{UPLOAD}.note") == "The new video is ready."
        await once(page, "document.querySelector('video').readyState > 0")
        assert len((await scene.asked())[1]) == 1


async def test_a_form_that_the_host_still_waits_for_is_sent_again(
    postgres_dsn: str, redis_url: str, tmp_path: Path, page: Page
) -> None:
    clip = await asyncio.to_thread(make_clip, tmp_path / "clip.mp4", seconds=1, size=(320, 240))
    tries = []

    async def answer(route: Route) -> None:
        """The first try breaks off, which the host does not notice before the third."""
        tries.append(route.request.url)
        if len(tries) == 1:
            await route.abort()
        elif len(tries) == 2:
            await route.fulfill(status=409, headers={"Access-Control-Allow-Origin": "*"})
        else:
            await route.continue_()

    async with playing(postgres_dsn, redis_url, tmp_path) as scene:
        await open_lecture(page, scene)
        await page.route(f"{scene.host.origin}/upload/*", answer)
        await page.set_input_files("#video-file", clip)
        await once(page, f"{UPLOAD}.note === 'The new video is ready.'")
        assert len(tries) == 3


async def test_another_file_may_be_chosen_while_the_last_one_is_prepared(
    postgres_dsn: str, redis_url: str, tmp_path: Path, page: Page
) -> None:
    first = await asyncio.to_thread(padded_clip, tmp_path / "first.mp4", 2_000_000)
    second = await asyncio.to_thread(padded_clip, tmp_path / "second.mp4", 6_000_000)
    async with playing(postgres_dsn, redis_url, tmp_path, form_bytes=1_000_000) as scene:
        await open_lecture(page, scene)
        network = await page.context.new_cdp_session(page)
        await network.send("Network.enable")
        await network.send("Network.emulateNetworkConditions", SLOWLY)
        await page.set_input_files("#video-file", first)
        await once(page, f"{UPLOAD}.percent > 0")
        begun = await page.evaluate(f"{UPLOAD}.kept")
        row = (await scene.teacher.get(f"/api/videos/{begun['video_id']}")).body
        deleted = False

        async def answer(route: Route) -> None:
            nonlocal deleted
            deleted = deleted or route.request.method == "DELETE"
            if deleted:
                await route.continue_()
            else:
                await route.fulfill(json=row | {"status": "processing"})

        await page.route(f"**/api/videos/{begun['video_id']}", answer)
        await page.reload()
        await once(page, f"{UPLOAD}?.note.includes('being prepared')")
        await page.set_input_files("#video-file", second)
        await once(page, f"{UPLOAD}.percent > 60")
        assert await page.evaluate(f"{UPLOAD}.kept?.filename") == "second.mp4"
        await network.send("Network.emulateNetworkConditions", FREELY)
        await once(page, f"{UPLOAD}.note === 'The new video is ready.'")


@pytest.mark.slow
async def test_a_small_upload_is_one_form_and_a_bad_file_is_told_in_words_that_help(
    postgres_dsn: str, redis_url: str, tmp_path: Path, page: Page
) -> None:
    letter, clip = tmp_path / "letter.mp4", tmp_path / "clip.mp4"
    await asyncio.to_thread(letter.write_text, "Dear video host,\n" * 1000)
    await asyncio.to_thread(make_clip, clip, seconds=1, size=(320, 240))
    async with playing(postgres_dsn, redis_url, tmp_path) as scene:
        await open_lecture(page, scene)
        await page.set_input_files("#video-file", letter)
        await once(page, f"{UPLOAD}.note.includes('not a video')")
        await page.set_input_files("#video-file", clip)
        await once(page, f"{UPLOAD}.note === 'The new video is ready.'")

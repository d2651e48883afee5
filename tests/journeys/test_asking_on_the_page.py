"""The page in a browser: a lecture plays, its learner asks about it, and a citation leads to the very second."""

from __future__ import annotations

import asyncio
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import pytest
from aiohttp import FormData

from standins.video_host.clip import make_clip
from tests.support.core import eventually
from tests.support.language_model import speaking
from tests.support.people import PASSWORD, People
from tests.support.uploads import playing
from tests.web.stage import until

if TYPE_CHECKING:
    from playwright.async_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.timeout(150)]

# With pauses between, so that each is a piece of its own.
CAPTIONS = """WEBVTT

00:00.000 --> 00:02.000
Welcome to queues. &lt;img src=x onerror=alert(1)> is text here.

00:07.000 --> 00:09.000
A queue gives back first what came first, like people who wait.

00:14.000 --> 00:16.000
A stack gives back first what came last, like plates.

00:21.000 --> 00:23.000
A checkpoint saves where a consumer was.
"""
STATE = "window.lectern?.state()"
# Where the video leapt to; it plays on meanwhile.
NOTE_LEAPS = """() => {
    window.leaps = [];
    const video = document.querySelector("video");
    video.addEventListener("seeked", () => window.leaps.push(video.currentTime));
}"""
PLACE = "(document.querySelector('video')?.currentTime ?? -1)"


async def test_a_learner_asks_about_a_lecture_and_a_citation_leads_to_its_second(
    postgres_dsn: str, redis_url: str, tmp_path: Path, page: Page
) -> None:
    clip = tmp_path / "clip.mp4"
    await asyncio.to_thread(make_clip, clip, seconds=24, size=(320, 240))
    async with (
        speaking() as model,
        playing(postgres_dsn, redis_url, tmp_path, openai=model.settings, generate_captions="") as scene,
    ):
        begun = (await scene.begin(clip)).body
        form = FormData()
        form.add_field("file", BytesIO(await asyncio.to_thread(clip.read_bytes)), filename="clip.mp4")
        async with scene.teacher.client.session.post(begun["upload"]["url"], data=form) as answer:
            assert answer.status == 200
        video = await scene.ends(begun["video"]["id"])
        assert video["status"] == "ready", video
        path = f"/api/videos/{video['id']}/captions/en"
        put = await scene.teacher.put(path, data=CAPTIONS.encode(), headers={"Content-Type": "text/vtt"})
        assert put.status == 204, put.body
        sql: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(postgres_dsn)

        async def is_read() -> bool:
            return bool(await sql.fetchval("SELECT count(*) = 4 FROM transcript_chunks"))

        await eventually(is_read, 30)
        course_id = await sql.fetchval("SELECT course_id FROM lectures")
        learner = await People(scene.teacher.client, sql).join("learner")
        await sql.close()
        await learner.make("/api/enrollments", {"course_id": str(course_id)})

        origin = str(scene.teacher.client.make_url("")).rstrip("/")
        await page.goto(f"{origin}/#/signin?next=%23/lectures/{scene.lecture_id}")
        await page.fill("#login", "learner")
        await page.fill("#password", PASSWORD)
        await page.click("button[type=submit]")
        await until(page, f"{PLACE} > 1", 40)
        await until(page, f"{STATE}.tutor?.connected", 20)

        # Where the learner is, is said by the session.
        await page.evaluate("document.querySelector('video').pause()")
        await page.evaluate("document.querySelector('video').currentTime = 22")
        await until(page, f"{STATE}.frames.at(-1)?.position > 21 && {STATE}.acked === {STATE}.seq", 30)
        await page.get_by_role("button", name="Explain what was just said").click()
        await page.locator(".answer", has_text="A checkpoint saves where a consumer was.").wait_for(timeout=30_000)
        await until(page, f"{STATE}.tutor.running === null", 20)
        assert 'now="yes"' in model.asked[0]["messages"][-1]["content"]

        await page.get_by_label("Ask the tutor").fill("What does a queue give back first?")
        await page.keyboard.press("Enter")
        await page.locator(".answer", has_text="A queue gives back first what came first").wait_for(timeout=30_000)
        await until(page, f"{STATE}.tutor.running === null", 20)
        await page.evaluate(NOTE_LEAPS)
        await page.get_by_role("button", name="Go to 0:07: A queue gives back first").first.click()
        await until(page, "window.leaps.some((place) => place >= 7 && place < 10)", 30)

        # What is said is text, and one may stop it.
        model.behave(says="<b>word</b> " * 400, token_ms=60)
        await page.get_by_label("Ask the tutor").fill("Go on")
        await page.get_by_role("button", name="Ask", exact=True).click()
        await until(page, "document.querySelectorAll('.answer')[2]?.textContent.length > 100", 30)
        await page.get_by_role("button", name="Stop").click()
        await until(page, "document.querySelector('.talk').textContent.includes('Stopped.')", 30)
        assert await page.evaluate("document.querySelectorAll('.answer b, .answer img').length") == 0
        assert model.calls == 3

        # What was said is there again after a reload.
        await page.reload()
        await page.locator(".question", has_text="What does a queue give back first?").wait_for(timeout=30_000)
        await until(page, "document.querySelectorAll('.citation').length > 0", 20)

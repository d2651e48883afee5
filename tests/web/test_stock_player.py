"""A player that has never heard of us: hls.js as it comes, told nothing but an address."""

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from actors.video_session.quality import NOT_MEASURED
from tests.support.app import bearer, serving, settings
from tests.support.lectures import make_learner, make_lecture
from tests.web.stage import Stage

if TYPE_CHECKING:
    from playwright.async_api import Browser

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

PLAY = """async ({source, url}) => {
  const { default: Hls } = await import("/vendor/hls.js/hls.mjs");
  const video = document.createElement("video");
  video.muted = true;
  document.body.append(video);
  const hls = new Hls({cmcd: {version: 2, eventTargets: [
    {url, version: 2, events: ["ps", "bc", "t", "e", "rr"], interval: 1, batchSize: 1},
  ]}});
  hls.loadSource(source);
  hls.attachMedia(video);
  await video.play();
}"""


async def test_hls_js_reports_by_itself_and_is_decided_for(
    browser: "Browser", stage: Stage, origin: str, postgres_dsn: str, redis_url: str
) -> None:
    lecture = await make_lecture(postgres_dsn)
    learner = await make_learner(postgres_dsn, lecture.course_id)
    config = settings(
        postgres_dsn,
        redis_url,
        server={"allowed_origins": [origin]},
        sessions={"checkpoint_s": 0.1, "figures_s": 0.1},
        # From loopback the whole clip comes at once, and every segment is told by a request of its own.
        limits={"telemetry": {"rate": 0}},
    )
    async with serving(config) as client:
        assert client.app is not None
        headers = bearer(client.app, user_id=learner)
        made = await client.post(f"/api/videos/{lecture.video_id}/sessions", json={}, headers=headers)
        session = await made.json()
        address = f"/api/videos/sessions/{session['session_id']}"
        context = await browser.new_context(bypass_csp=True)
        page = await context.new_page()
        refused: list[str] = []
        page.on("response", lambda it: refused.append(f"{it.status} {it.url}") if it.status >= 400 else None)
        await page.goto(f"{origin}/bare")
        target = str(client.make_url(f"{address}/network").with_query(token=session["token"]))
        await page.evaluate(PLAY, {"source": f"{origin}{stage.playback()['hls']}", "url": target})

        shown: dict[str, Any] = {}
        async with asyncio.timeout(60):
            while shown.get("frames", 0) < 10 or shown["decision"]["reason"] == NOT_MEASURED:
                await asyncio.sleep(0.1)
                shown = await (await client.get(address, headers=headers)).json()
        await context.close()
        owner = bearer(client.app, "instructor", lecture.instructor_id)
        told: dict[str, Any] = {}
        async with asyncio.timeout(30):
            while not told.get("starts"):  # figures are written a moment after what they are of
                told = await (await client.get(f"/api/videos/{lecture.video_id}/analytics", headers=owner)).json()
    assert [url for url in refused if "favicon" not in url] == []
    assert (told["sessions"], told["starts"]) == (1, 1)
    assert shown["switches"] >= 1
    # hls.js tells neither its playhead nor how long segments are: this counts for quality, not for progress.
    assert (shown["position"], shown["segments"]) == (None, 0)

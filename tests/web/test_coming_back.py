"""What goes away while a lecture plays, and comes back: the learner, the server, another device, credentials."""

import asyncio
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from playwright.async_api import Page, Route

from tests.support.browser import reload
from tests.web.classroom import PLAYING, Enter, sign_in, state
from tests.web.stage import FIRST, SECOND, SEGMENT_S, Stage, eventually, until

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

NOTHING_OWED = "Object.keys(localStorage).every((key) => !key.startsWith('lectern.owed.'))"


async def lose_the_server(stage: Stage, page: Page, enter: Enter) -> None:
    """A lecture plays, and something of it is acknowledged; then the server is away."""
    await enter()
    await until(page, f"{PLAYING} && lectern.state().acked > 3")
    stage.refuses = 503
    stage.cut()


async def test_who_leaves_before_the_session_is_made_plays_nothing_and_leaves_none_behind(
    stage: Stage, page: Page, enter: Enter
) -> None:
    stage.sessions_open.clear()
    await enter()
    await eventually(lambda: "video.m3u8" in stage.asked_for)
    await page.evaluate("location.hash = '#/'")
    await until(page, "!document.querySelector('video')")
    stage.sessions_open.set()
    await eventually(lambda: stage.created)
    await page.evaluate(f"location.hash = '#/lectures/{SECOND}'")
    await until(page, PLAYING)
    await eventually(lambda: [held.status for held in stage.sessions.values()] == ["ended", "active"])
    assert [held.frames == [] for held in stage.sessions.values()] == [True, False]


async def test_who_leaves_before_the_lecture_is_there_begins_none(stage: Stage, page: Page, enter: Enter) -> None:
    gate = asyncio.Event()

    async def later(route: Route) -> None:
        await gate.wait()
        await route.continue_()

    await page.route(f"**/api/lectures/{FIRST}", later)
    await enter()
    await page.wait_for_selector(".classroom")
    await page.evaluate("location.hash = '#/'")
    await page.wait_for_selector("text=Lectures that keep your place.")
    async with page.expect_response(f"**/api/lectures/{FIRST}"):
        gate.set()
    await page.evaluate(f"location.hash = '#/lectures/{SECOND}'")
    await until(page, PLAYING)
    assert len(stage.created) == 1


async def test_a_reload_goes_on_within_a_second_in_the_same_session(stage: Stage, page: Page, enter: Enter) -> None:
    await enter()
    await until(page, "lectern.state()?.position > 0.5")
    await page.evaluate("document.querySelector('video').currentTime = 20")
    await until(page, "lectern.state().position > 20.5 && lectern.state().acked > 10")
    before = await state(page)
    left = await reload(page)
    await until(page, "lectern.state()?.position > 0 && lectern.state().connection === 'live'")
    after = await state(page)
    assert abs(await until(page, "window.began") - left) < 1.0
    assert after["session_id"] == before["session_id"]
    assert (after["epoch"], len(stage.created)) == (2, 1)
    [beacon] = stage.held.beacons
    assert "seq" not in beacon
    assert abs(beacon["position"] - left) < 1.0
    await until(page, f"lectern.state().acked > {before['seq']} + 2")
    assert [frame["seq"] for frame in stage.held.frames] == list(range(1, len(stage.held.frames) + 1))


def watch_elsewhere(stage: Stage, position: float) -> None:
    """Another device gets there, later than whatever is watched here."""
    stage.resume_position = position
    stage.lecture_seen = (datetime.now(UTC) + timedelta(days=365)).isoformat()


async def test_another_device_that_watched_later_decides_where_a_lecture_resumes(
    stage: Stage, page: Page, enter: Enter
) -> None:
    await enter()
    await until(page, "lectern.state()?.position > 1")
    await page.goto("about:blank")
    stage.held.status = "ended"
    watch_elsewhere(stage, 30.0)
    await page.go_back()
    await until(page, "lectern.state()?.position > 30")
    assert (await state(page))["position"] < 40
    assert len(stage.created) == 2


async def test_a_reload_goes_on_where_another_device_got_to_meanwhile(stage: Stage, page: Page, enter: Enter) -> None:
    await enter()
    await until(page, "lectern.state()?.position > 1 && lectern.state().acked > 3")
    watch_elsewhere(stage, 30.0)
    await page.reload()
    await until(page, f"{PLAYING} && lectern.state().connection === 'live'")
    assert 30 <= (await state(page))["position"] < 40
    assert len(stage.created) == 1


async def test_who_signs_in_after_somebody_else_in_the_same_tab_begins_at_the_beginning(
    stage: Stage, page: Page, enter: Enter
) -> None:
    await enter()
    await until(page, "lectern.state()?.position > 0.5")
    await page.evaluate("document.querySelector('video').currentTime = 20")
    await until(page, "lectern.state().position > 20.5")
    # As where the credentials ran out.
    await page.evaluate("localStorage.removeItem('lectern.account')")
    await page.evaluate(f"location.hash = '#/signin?next=%23/lectures/{FIRST}'")
    await sign_in(page, "ben")
    await until(page, PLAYING)
    assert (await state(page))["position"] < 15
    assert len(stage.created) == 2


async def test_who_signs_out_leaves_nothing_behind_in_the_browser(page: Page, enter: Enter) -> None:
    await enter()
    await until(page, f"{PLAYING} && lectern.state().acked > 3")
    keys = "[localStorage, sessionStorage].flatMap(Object.keys)"
    theirs = f"{keys}.filter((key) => /place|session|owed|account/.test(key))"
    assert len(await page.evaluate(theirs)) >= 3
    await page.click("text=Sign out")
    await until(page, f"({theirs}).length === 0")


async def test_where_somebody_else_signs_in_in_another_tab_the_lecture_is_opened_as_theirs(
    stage: Stage, origin: str, page: Page, enter: Enter
) -> None:
    await enter()
    await until(page, f"{PLAYING} && lectern.state().acked > 3")
    first = stage.held
    other = await page.context.new_page()
    await other.goto(f"{origin}/#/signin")
    await sign_in(other, "ben")
    await eventually(lambda: first.status == "ended")
    await until(page, f"{PLAYING} && lectern.state().session_id !== '{first.session_id}'")
    assert await page.text_content(".who") == "ben"


async def test_a_renewed_playback_token_goes_on_without_a_break(stage: Stage, page: Page, enter: Enter) -> None:
    await enter()
    await until(page, PLAYING)
    stage.playback_tokens.append("play-2")
    fresh = {"token": f"session-{stage.held.session_id}", "playback": stage.playback()}
    await stage.send({"type": "token", **fresh, "expires_at": "2030-01-01T00:00:00Z"})
    await page.evaluate("document.querySelector('video').currentTime = 36")
    await until(page, "lectern.state().position > 36.5")
    assert await page.is_hidden(".overlay")


async def test_an_expired_playback_token_is_fetched_anew(stage: Stage, page: Page, enter: Enter) -> None:
    await enter()
    await until(page, PLAYING)
    stage.playback_tokens.append("play-2")
    await page.evaluate("document.querySelector('video').currentTime = 36")
    await until(page, "lectern.state().position > 36.5")


async def test_an_expired_access_token_is_renewed_without_a_word(stage: Stage, page: Page, enter: Enter) -> None:
    await enter()
    await until(page, PLAYING)
    stage.valid_token = "another"
    await page.click("text=The epoch is the fence")
    await until(page, f"lectern.state()?.lecture_id === '{SECOND}' && lectern.state().position > 0.3")
    assert stage.lives == 2


@pytest.mark.parametrize("late", ["request of the slower", "answer of the quicker"])
async def test_two_tabs_that_cannot_lock_renew_an_access_token_at_once_and_stay_signed_in(
    stage: Stage, origin: str, page: Page, enter: Enter, late: str
) -> None:
    without_locks = "Object.defineProperty(navigator, 'locks', { value: undefined })"
    await page.context.add_init_script(without_locks)
    await enter()
    await until(page, PLAYING)
    other = await page.context.new_page()
    await other.goto(origin)
    asked, spent, refused, gate = (asyncio.Event() for _ in range(4))

    async def quicker(route: Route) -> None:
        answer = await route.fetch()
        spent.set()
        if late == "answer of the quicker":
            await gate.wait()
        await route.fulfill(response=answer)

    async def slower(route: Route) -> None:
        asked.set()
        await (gate if late == "request of the slower" else spent).wait()
        await route.fulfill(response=await route.fetch())
        refused.set()

    await other.route("**/api/auth/refresh", quicker)
    await page.route("**/api/auth/refresh", slower)
    stage.valid_token = "another"
    await page.evaluate(f"location.hash = '#/lectures/{SECOND}'")
    await asked.wait()
    await other.evaluate(f"location.hash = '#/lectures/{SECOND}'")
    await (refused.wait() if late == "answer of the quicker" else until(other, PLAYING))
    gate.set()
    await until(other, PLAYING)
    await until(page, f"lectern.state()?.lecture_id === '{SECOND}' && {PLAYING}")
    assert stage.lives == 2


async def test_leaving_for_another_lecture_ends_the_session(stage: Stage, page: Page, enter: Enter) -> None:
    await enter()
    await until(page, f"{PLAYING} && lectern.state().acked > 3")
    first = stage.held
    await page.click("text=The epoch is the fence")
    await until(page, f"lectern.state()?.lecture_id === '{SECOND}' && lectern.state().position > 0.3")
    assert first.status == "ended"
    assert stage.held is not first


async def test_what_was_watched_while_the_server_was_away_arrives_although_one_has_left(
    stage: Stage, page: Page, enter: Enter
) -> None:
    await lose_the_server(stage, page, enter)
    last = await until(page, "lectern.state().pending > 8 && lectern.state().position")
    await page.evaluate("location.hash = '#/'")
    await page.wait_for_selector("text=Lectures that keep your place.")
    await page.reload()
    stage.refuses = None
    await eventually(lambda: stage.held.status == "ended")
    frames = stage.held.frames
    assert [frame["seq"] for frame in frames] == list(range(1, len(frames) + 1))
    assert frames[-1]["position"] >= last
    await until(page, NOTHING_OWED)
    assert len(stage.created) == 1


async def test_what_was_watched_while_the_server_was_away_is_not_lost_with_the_tab(
    stage: Stage, origin: str, page: Page, enter: Enter
) -> None:
    await lose_the_server(stage, page, enter)
    await page.evaluate("document.querySelector('video').currentTime = 20")
    last = await until(page, "lectern.state().position > 21 && lectern.state().position")
    await page.goto("about:blank")
    await page.close()
    stage.refuses = None
    other = await page.context.new_page()
    await other.goto(f"{origin}/#/lectures/{FIRST}")
    first = next(iter(stage.sessions.values()))
    await eventually(lambda: first.status == "ended")
    assert [frame["seq"] for frame in first.frames] == list(range(1, len(first.frames) + 1))
    assert first.frames[-1]["position"] > last - 1.5  # one a second is taken down
    await until(other, NOTHING_OWED)
    # Although the server has not told where one was.
    assert last - 0.5 < await until(other, "lectern.state()?.position") < last + 10


async def test_what_a_tab_has_to_tell_no_other_tells_while_it_is_open(
    stage: Stage, origin: str, page: Page, enter: Enter
) -> None:
    await lose_the_server(stage, page, enter)
    await until(page, "lectern.state().pending > 2")
    await page.evaluate("Object.defineProperty(document, 'hidden', { value: true })")
    await page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    assert not await page.evaluate(NOTHING_OWED)
    other = await page.context.new_page()
    stage.refuses = None
    await other.goto(f"{origin}/#/")
    await other.wait_for_selector("text=Lectures that keep your place.")
    await until(page, "lectern.state().connection === 'live' && lectern.state().kept < 5")
    assert (stage.held.status, stage.held.epoch) == ("active", 2)


async def test_the_end_of_a_lecture_arrives_although_the_server_was_away_and_the_page_is_reloaded(
    stage: Stage, page: Page, enter: Enter
) -> None:
    await lose_the_server(stage, page, enter)
    first = stage.held
    await page.evaluate("document.querySelector('video').currentTime = 47.3")
    await page.wait_for_selector("text=Up next")
    await page.reload()
    stage.refuses = None
    await eventually(lambda: first.status == "ended")
    assert first.frames[-1]["position"] > 47.5


async def test_playing_on_another_device_is_said_and_can_be_taken_back(stage: Stage, page: Page, enter: Enter) -> None:
    await enter()
    await until(page, f"{PLAYING} && lectern.state().acked > 3")
    await page.keyboard.press("f")
    await until(page, "document.fullscreenElement?.localName === 'video'")
    await stage.close(4409)
    await page.wait_for_selector("text=Playing on another device")
    await until(page, "document.fullscreenElement === null")  # for there nobody would see it
    assert (await state(page))["paused"]
    stage.held.position = 30.0
    await page.click("text=Continue here")
    await until(page, "lectern.state().connection === 'live' && lectern.state().position > 30.2")


async def test_who_comes_back_to_a_page_that_stood_still_is_told_where_they_got_to_meanwhile(
    stage: Stage, page: Page, enter: Enter
) -> None:
    await enter()
    await until(page, f"{PLAYING} && lectern.state().acked > 3")
    await page.evaluate("document.querySelector('video').pause()")
    await until(page, "lectern.state().kept === 0")
    watch_elsewhere(stage, 30.0)
    await page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    await page.wait_for_selector("text=On another device you got to 0:30.")
    await page.click("text=Continue from there")
    await until(page, "lectern.state().position === 30")
    assert await page.is_hidden(".elsewhere")


async def test_what_another_device_has_left_goes_on_here(stage: Stage, page: Page, enter: Enter) -> None:
    await enter()
    await until(page, f"{PLAYING} && lectern.state().acked > 3")
    await stage.close(4409)
    await page.wait_for_selector("text=Playing on another device")
    stage.held.status = "ended"
    stage.resume_position = 30.0
    await page.click("text=Continue here")
    await until(page, "lectern.state().connection === 'live' && lectern.state().position > 30.2")
    assert not (await state(page))["paused"]
    assert len(stage.created) == 2


async def test_a_session_that_is_gone_is_replaced_while_the_picture_goes_on(
    stage: Stage, page: Page, enter: Enter
) -> None:
    await enter()
    await until(page, PLAYING)
    before = await state(page)
    await stage.close(4404)
    await until(page, f"lectern.state().session_id !== '{before['session_id']}' && lectern.state().acked > 2")
    after = await state(page)
    assert before["position"] < after["position"] < before["position"] + 20
    assert after["stalls"] == 0


async def test_what_cannot_be_decoded_is_fetched_anew_and_plays_on(stage: Stage, page: Page, enter: Enter) -> None:
    spoilt: list[str] = []

    async def spoil(route: Route) -> None:
        url = route.request.url
        if spoilt or "/segment_0000" in url:
            await route.continue_()
            return
        spoilt.append(url)
        await route.continue_(url=url.replace("720p", "240p"))

    await page.route("**/720p/segment_*.m4s*", spoil)
    await page.add_init_script("addEventListener('error', ({ target }) => (window.failed ||= !!target.error), true)")
    await enter()
    await until(page, "window.failed")
    beyond = (int(spoilt[0].partition("segment_")[2][:4]) + 0.5) * SEGMENT_S
    await until(page, f"lectern.state().position > {beyond} && !lectern.state().paused", 20)
    acked = (await state(page))["acked"]
    await until(page, f"lectern.state().acked > {acked + 1}")
    positions = [frame["position"] for frame in stage.held.frames]
    # Until it fails the element guesses its position by the clock, and a busy machine's decoder is behind that.
    assert all(after > before - 1.5 for before, after in pairwise(positions))
    assert await page.is_hidden(".overlay")


AUTOPLAY_REFUSED = """
    const { play } = HTMLMediaElement.prototype;
    HTMLMediaElement.prototype.play = function () {
        return window.allowed ? play.call(this) : Promise.reject(new DOMException("no", "NotAllowedError"));
    };
"""


async def test_a_video_that_can_be_reached_again_is_offered_to_be_played_again(page: Page, enter: Enter) -> None:
    await page.add_init_script(AUTOPLAY_REFUSED)
    await page.route("**/manifest/video.m3u8", lambda route: route.abort())
    await enter()
    await page.wait_for_selector("text=The picture has stopped", timeout=60_000)
    await page.unroute("**/manifest/video.m3u8")
    await page.wait_for_selector(".big-play", timeout=60_000)
    await page.evaluate("window.allowed = true")
    await page.click(".big-play")
    await until(page, PLAYING)
    assert await page.is_hidden(".overlay")


async def test_refused_credentials_are_renewed_once_and_then_one_signs_in_again(
    stage: Stage, page: Page, enter: Enter
) -> None:
    await enter()
    await until(page, PLAYING)
    first = stage.held.session_id
    await stage.close(4401)
    await until(page, f"lectern.state().session_id !== '{first}' && lectern.state().connection === 'live'")
    assert (stage.lives, len(stage.created)) == (2, 2)
    await stage.close(4401)
    await page.wait_for_selector("text=Signed out")
    await page.click(".overlay >> text=Sign in")
    await page.wait_for_selector("#login")


async def test_too_many_sessions_are_only_taken_over_when_asked(stage: Stage, page: Page, enter: Enter) -> None:
    stage.too_many = True
    await enter()
    await page.wait_for_selector("text=Watching elsewhere")
    await until(page, "document.querySelector('video').readyState > 2")
    await page.keyboard.press("k")
    assert (await state(page))["paused"]
    assert stage.created == []
    await page.click("text=Watch here")
    await until(page, PLAYING)
    assert stage.created[0]["takeover"] is True

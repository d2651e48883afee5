"""The classroom in a browser: it plays real segments, obeys, reports, and says what happens."""

import asyncio
from typing import Any

import pytest
from playwright.async_api import Page, Route

from tests.web.classroom import PLAYING, Enter, hurry, state
from tests.web.stage import CAPTION, COURSE, FIRST, SECOND, Stage, eventually, fail_once, until

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]


def reports(stage: Stage) -> list[dict[str, Any]]:
    """The segments that were told of, in order."""
    return [segment for held in stage.sessions.values() for frame in held.frames for segment in frame["segments"]]


def targets(stage: Stage) -> list[int]:
    """How much was to be buffered, as the page told, ms."""
    return [frame["cmcd"]["tbl"] for frame in stage.held.frames if "tbl" in frame["cmcd"]]


async def test_from_the_catalogue_to_a_playing_lecture(
    stage: Stage, origin: str, page: Page, faults: list[str]
) -> None:
    refused: list[str] = []
    page.on("console", lambda message: refused.append(message.text) if message.type == "error" else None)
    stage.entitled = False
    await page.goto(origin)
    await page.click("text=How a live lecture stays alive")
    await page.click("text=Start learning")
    await page.fill("#login", "ada")
    await page.fill("#password", "correct horse")
    await page.click("button[type=submit]")
    await page.click("text=See the course")
    await page.click("text=Start learning")
    await until(page, PLAYING)
    assert await page.text_content("h1") == "An actor is a fold"
    await until(page, "document.querySelector('.value').textContent !== '–'")
    assert await page.text_content(".live .verdict strong") == "Up to 720p. "
    assert "The network carries this rung." in str(await page.text_content(".live .verdict"))
    assert [text for text in refused if "Security Policy" in text] == []


async def test_what_is_around_a_lecture_comes_although_it_failed_at_first(page: Page, enter: Enter) -> None:
    asked: list[str] = []

    async def fail_once(route: Route) -> None:
        asked.append(route.request.url)
        await (route.abort() if len(asked) == 1 else route.continue_())

    await page.route(f"**/api/courses/{COURSE}/lectures*", fail_once)
    await enter()
    await page.wait_for_selector(".lectures [aria-current]")


async def test_captions_are_shown_from_the_manifest_and_can_be_turned_off(
    stage: Stage, page: Page, enter: Enter
) -> None:
    # The manifest is read before there is a session.
    stage.sessions_open.clear()
    await enter()
    await eventually(lambda: stage.pictures)
    stage.sessions_open.set()
    shown = "[...(document.querySelector('video')?.textTracks ?? [])].filter(t => t.mode === 'showing')"
    assert await until(page, f"{shown}[0]?.activeCues?.[0]?.text") == CAPTION
    await page.click("text=Captions")
    await until(page, f"{shown}.length === 0")
    assert await page.get_attribute(".toggle", "aria-pressed") == "false"


async def test_a_report_says_what_was_fetched_and_how_it_plays(stage: Stage, page: Page, enter: Enter) -> None:
    await enter()
    await until(page, f"{PLAYING} && lectern.state().acked > 5")
    frames = stage.held.frames
    segments = [segment for frame in frames for segment in frame["segments"]]
    assert segments
    assert all({"br", "bytes", "ms", "ttfb_ms"} == segment.keys() for segment in segments)
    assert all(segment["br"] in (448, 948, 2548) for segment in segments)
    last = frames[-1]["cmcd"]
    assert (last["sta"], last["tb"], last["d"], last["pr"]) == ("p", 2548, 2000, 1)
    assert last["bl"] > 1000
    assert [frame["cmcd"]["msd"] for frame in frames if "msd" in frame["cmcd"]] != []
    width, height = frames[-1]["viewport"]
    assert abs(width / height - 16 / 9) < 0.02


async def test_the_player_obeys_a_lower_cap_and_climbs_when_it_is_lifted(
    stage: Stage, page: Page, enter: Enter
) -> None:
    await enter()
    await until(page, f"{PLAYING} && lectern.state().load_rung.br === 2548")
    await hurry(page)
    await stage.decide(500, "the network does not carry more")
    await until(page, "lectern.state().cap === 0 && lectern.state().load_rung.br === 448")
    assert await page.text_content(".live .verdict strong") == "Up to 240p. "
    await stage.decide(2548, "the network carries this rung")
    await until(page, "lectern.state().load_rung.br === 2548")


async def test_a_segment_is_asked_for_at_the_rung_that_was_decided_upon_the_one_before(
    stage: Stage, page: Page, enter: Enter
) -> None:
    stage.withheld = "segment_0004.m4s"
    await enter()
    reported = await eventually(lambda: stage.pictures[4:] and reports(stage)[4:])
    assert stage.pictures[-1] == "720p/segment_0004"  # told of, once, and its end is not here yet
    frames = stage.held.frames
    telling = next(place for place, frame in enumerate(frames) if reported[-1] in frame["segments"])
    assert frames[telling]["cmcd"]["bl"] > frames[telling - 1]["cmcd"]["bl"] + 1000  # with what it brings
    await stage.decide(500, "the network does not carry more")
    await until(page, "lectern.state().cap === 0")
    stage.released.set()
    await eventually(lambda: reports(stage)[5:])
    assert stage.pictures[4:6] == ["720p/segment_0004", "240p/segment_0005"]
    assert len(reports(stage)) <= len(stage.pictures)


async def test_after_many_segments_in_a_second_the_next_ones_are_told_of_at_once(
    stage: Stage, page: Page, enter: Enter
) -> None:
    # No report but those of segments, and after ten of them more than a second in which none comes.
    stage.interval_ms, stage.withheld = 60_000, "segment_0010.m4s"
    await enter()
    await eventually(lambda: stage.pictures[10:])
    position = (await state(page))["position"]
    await until(page, f"lectern.state().position > {position} + 1.5")
    stage.released.set()
    await eventually(lambda: reports(stage)[11:])
    assert not (await state(page))["ended"]


async def test_while_nobody_decides_a_segment_is_told_of_when_it_is_here(
    stage: Stage, page: Page, enter: Enter
) -> None:
    stage.withheld, stage.acknowledges = "segment_0004.m4s", False
    await enter()
    await eventually(lambda: stage.pictures[4:])
    stage.released.set()
    await eventually(lambda: reports(stage)[4:])
    assert await page.evaluate("lectern.state().round_trip_ms") is None


WATCHED = """(seconds) => Object.defineProperty(document.querySelector("video"), "played", {
    value: { length: 2, start: (range) => 200 * range, end: (range) => 200 * range + seconds / 2 },
})"""


async def test_who_has_watched_for_a_while_is_buffered_further_ahead(stage: Stage, page: Page, enter: Enter) -> None:
    await enter()
    await until(page, PLAYING)
    await page.evaluate(WATCHED, 30)
    await until(page, "lectern.state().buffer_s > 36")
    await eventually(lambda: targets(stage)[-1] == 45_000)
    assert targets(stage) == sorted(targets(stage))


async def test_a_learner_who_saves_data_is_buffered_no_further_ahead(stage: Stage, page: Page, enter: Enter) -> None:
    saves = "Object.defineProperty(navigator, 'connection', { value: { saveData: true } })"
    await page.add_init_script(saves)
    await enter()
    await until(page, PLAYING)
    await page.evaluate(WATCHED, 75)
    await eventually(lambda: targets(stage)[-1] == 30_000)
    # With each of these segments it would grow, if it did.
    fetched = await eventually(lambda: len(stage.pictures) > 15 and len(stage.pictures))
    await hurry(page)
    await eventually(lambda: len(reports(stage)) >= fetched + 3)
    assert set(targets(stage)) == {6000, 30_000}


async def test_where_the_network_carries_no_rung_a_lecture_goes_on_a_little_slower(
    stage: Stage, page: Page, enter: Enter
) -> None:
    stage.cap = 500
    await enter()
    await until(page, PLAYING)
    await page.select_option("#rate", "1.25")
    cdp = await page.context.new_cdp_session(page)
    await cdp.send("Network.enable")
    slow = {"offline": False, "latency": 40, "downloadThroughput": 400_000 / 8, "uploadThroughput": 300_000 / 8}
    await cdp.send("Network.emulateNetworkConditions", slow)
    await page.evaluate("document.querySelector('video').currentTime = 38")  # where nothing is buffered yet
    await until(page, "lectern.state().slowed && document.querySelector('video').playbackRate === 1")
    assert await page.input_value("#rate") == "1.25"
    await until(page, "document.querySelector('.quality').textContent.endsWith('a little slower, so as not to stop')")
    await eventually(lambda: stage.held.frames[-1]["cmcd"]["pr"] == 1)
    fast = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    await cdp.send("Network.emulateNetworkConditions", fast)
    await until(page, "!lectern.state().slowed && document.querySelector('video').playbackRate === 1.25")
    assert await page.input_value("#rate") == "1.25"


async def test_the_speed_that_a_learner_chose_holds_after_a_fault_and_in_the_next_lecture(
    stage: Stage, page: Page, enter: Enter
) -> None:
    await enter()
    await until(page, PLAYING)
    await page.select_option("#rate", "1.5")
    speed = "document.querySelector('video').playbackRate === 1.5 && document.querySelector('#rate').value === '1.5'"
    await until(page, f"{PLAYING} && {speed}")
    await page.evaluate("document.querySelector('video').load()")  # as after a fault
    await until(page, speed)
    await page.evaluate(f"location.hash = '#/lectures/{SECOND}'")
    await eventually(lambda: len(stage.created) == 2)
    await until(page, f"{PLAYING} && {speed}")
    assert stage.held.frames[-1]["cmcd"]["pr"] == 1.5


# What the pace makes of an element at 1.5 times the speed, and then: the learner chooses 2.
PACE = """async (standings) => {
    const { Pace } = await import("/web/pace.js");
    const video = { playbackRate: 1.5 };
    const pace = new Pace(video);
    return standings.map((standing) => {
        if (standing === "2") video.playbackRate = 2;
        else pace.set({ lowest: true, lowestKbps: 500, kbps: 300, bufferMs: 5000, complete: false, ...standing });
        return [video.playbackRate, pace.wanted];
    });
}"""


SLOWED = [
    ([{}], [1.35]),
    ([{"bufferMs": 9000}], [1.5]),
    ([{}, {"bufferMs": 9000}, {"bufferMs": 13_000}, {"bufferMs": 9000}], [1.35, 1.35, 1.5, 1.5]),
    ([{"bufferMs": ms} for ms in (3000, 6000, 9000, 6000, 13_000)], [1.2, 1.2, 1.35, 1.35, 1.5]),
    ([{"lowest": False}], [1.5]),
    ([{"complete": True}], [1.5]),
    ([{"kbps": None}], [1.5]),
    # At this speed the network must carry half as much again.
    ([{"kbps": 1000}, {"kbps": 800}], [1.5, 1.35]),
    ([{}, "2", {}, {"kbps": 5000}], [1.35, 2, 1.8, 2]),
]


async def test_only_who_is_about_to_stall_at_the_lowest_rung_is_slowed(origin: str, page: Page) -> None:
    await page.goto(f"{origin}/bare")
    for standings, speeds in SLOWED:
        seen = await page.evaluate(PACE, standings)
        assert [speed for speed, _ in seen] == pytest.approx(speeds), standings
        wanted = [2 if "2" in standings[: index + 1] else 1.5 for index in range(len(standings))]
        assert [one for _, one in seen] == wanted, standings


async def test_the_beginning_is_fetched_while_the_session_is_made(stage: Stage, page: Page, enter: Enter) -> None:
    stage.sessions_open.clear()
    await enter()
    await eventually(lambda: stage.pictures)
    assert not stage.created
    assert stage.pictures[0].startswith("240p/")  # nobody decides yet, and a busy machine has fetched another by now
    stage.sessions_open.set()
    await until(page, PLAYING)
    assert stage.asked_for.count("video.m3u8") == 1


async def test_the_plot_itself_says_why(stage: Stage, page: Page, enter: Enter) -> None:
    await page.add_init_script("""
        window.drawn = new Set();
        const pen = CanvasRenderingContext2D.prototype, { fillText } = pen;
        pen.fillText = function (text, ...at) { window.drawn.add(text); return fillText.call(this, text, ...at); };
    """)
    await enter()
    await until(page, PLAYING)
    width = await page.evaluate("document.querySelector('.plot canvas').clientWidth")
    await page.hover(".plot canvas", position={"x": width - 2, "y": 60})
    await until(page, "document.querySelector('.readout').textContent.endsWith('the network carries this rung')")
    assert await page.evaluate("drawn.has('the network carries this rung')")
    await stage.decide(500, "the network has just slowed down")
    await until(page, "drawn.has('the network has just slowed down')")
    shared = "many share this network, and each gets an even part"
    await stage.decide(948, shared, cmsd={"mb": 948, "du": True})
    await until(page, "lectern.state().cap === 1 && lectern.state().decision.cmsd.du")
    await until(page, f"document.querySelector('.readout').textContent.endsWith('{shared}')")
    assert "any share this network, and each gets an even part." in str(await page.text_content(".live .verdict"))


async def test_without_word_from_the_server_the_player_judges_for_itself(
    stage: Stage, page: Page, enter: Enter
) -> None:
    stage.cap, stage.ttl_ms = 500, 700
    await enter()
    await until(page, f"{PLAYING} && lectern.state().cap === 0")
    await hurry(page)
    stage.acknowledges = False
    await until(page, "lectern.state().cap === -1")
    assert "chooses by itself" in str(await page.text_content(".live .verdict"))
    await until(page, "lectern.state().load_rung.br > 448")


async def test_a_collapse_of_the_network_is_reported_before_the_slow_segment_is_through(
    stage: Stage, page: Page, enter: Enter
) -> None:
    await enter()
    await until(page, f"{PLAYING} && lectern.state().load_rung.br === 2548")
    await hurry(page)
    cdp = await page.context.new_cdp_session(page)
    await cdp.send("Network.enable")
    slow = {"offline": False, "latency": 40, "downloadThroughput": 300_000 / 8, "uploadThroughput": 300_000 / 8}
    await cdp.send("Network.emulateNetworkConditions", slow)
    low = await until(page, "lectern.state().frames.find(frame => frame.mtp < 600)")
    await until(page, f"lectern.state().acked >= {low['seq']}")
    reported = next(frame for frame in stage.held.frames if frame["seq"] == low["seq"])
    assert reported["segments"] == []


async def test_the_player_gives_up_a_download_that_the_server_calls_hopeless(
    stage: Stage, page: Page, enter: Enter
) -> None:
    await enter()
    # Enough for a segment to come all the same: hls.js' own guard would give the download up in a moment.
    await until(page, f"{PLAYING} && lectern.state().load_rung.br === 2548 && lectern.state().buffer_s > 14")
    cdp = await page.context.new_cdp_session(page)
    await cdp.send("Network.enable")
    slow = {"offline": False, "latency": 40, "downloadThroughput": 400_000 / 8, "uploadThroughput": 300_000 / 8}
    await cdp.send("Network.emulateNetworkConditions", slow)
    await until(page, "lectern.state().frames.at(-1).mtp < 600 && lectern.state().load_rung.br === 2548")
    async with asyncio.timeout(60):
        while not await page.evaluate("lectern.state().abandoned"):
            # Between two downloads there is nothing to give up.
            await stage.decide(500, "the network has just slowed down", abandon=True)
            await asyncio.sleep(0.2)
    await until(page, "lectern.state().abandoned === 1 && lectern.state().load_rung.br === 448")


async def test_a_jump_is_not_reported_as_watched(stage: Stage, page: Page, enter: Enter) -> None:
    await enter()
    await until(page, "lectern.state()?.position > 1")
    await page.evaluate("document.querySelector('video').currentTime = 25")
    await until(page, "lectern.state().position > 25.5 && lectern.state().frames.at(-1).position > 25.3")
    frames = stage.held.frames
    landed = next(i for i, frame in enumerate(frames) if frame["position"] >= 25)
    assert frames[landed]["cmcd"]["sta"] == "k"
    assert abs(frames[landed]["position"] - 25) < 0.2
    assert frames[landed - 1]["position"] < 20


async def test_a_paused_lecture_is_told_of_at_once_and_then_only_now_and_then(
    stage: Stage, page: Page, enter: Enter
) -> None:
    await enter()
    await until(page, PLAYING)
    await page.evaluate("document.querySelector('video').pause()")
    await eventually(lambda: stage.held.frames[-1]["cmcd"]["sta"] == "a", 4)
    told = len(stage.held.frames)
    await page.wait_for_timeout(2000)  # twenty reports, if it played
    assert sum(not frame["segments"] for frame in stage.held.frames[told:]) <= 1
    assert (await state(page))["decision"] is not None


async def test_the_end_of_the_video_ends_the_session_and_playing_again_begins_another(
    stage: Stage, page: Page, enter: Enter
) -> None:
    await enter()
    await until(page, PLAYING)
    await page.evaluate("document.querySelector('video').currentTime = 47.3")
    await page.wait_for_selector("text=Up next")
    await until(page, "lectern.state().stopped === 'ended'")
    assert stage.held.status == "ended"
    assert stage.held.frames[-1]["position"] > 47.5
    await page.click("text=Watch again")
    await until(page, "lectern.state().connection === 'live' && lectern.state().position < 10")
    assert len(stage.created) == 2


async def test_the_next_lecture_begins_with_what_was_fetched_while_this_one_ended(
    stage: Stage, page: Page, enter: Enter
) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/manifest/" in request.url else None)
    await enter()
    await until(page, PLAYING)
    before = len(asked)
    await page.evaluate("document.querySelector('video').currentTime = 40")
    await page.wait_for_selector("text=Up next")
    ahead = [url.partition("/manifest/")[2] for url in asked[before:]]
    assert {"video.m3u8", "240p/init.mp4", "240p/segment_0000.m4s", "audio/segment_0000.m4s"} <= set(ahead)
    assert ahead.count("video.m3u8") == 1
    await page.click("text=Go on")
    await until(page, f"{PLAYING} && lectern.state().position < 10")
    assert len(stage.created) == 2


async def test_a_hitch_is_no_stall_and_a_stall_is_told(stage: Stage, page: Page, enter: Enter) -> None:
    await enter()
    await until(page, PLAYING)
    tell = "document.querySelector('video').dispatchEvent(new Event('{}'))"
    await page.evaluate(f"{tell.format('waiting')}; {tell.format('playing')}")
    acked = (await state(page))["acked"]
    await until(page, f"lectern.state().acked > {acked + 1}")
    assert (await state(page))["stalls"] == 0
    await page.evaluate(tell.format("waiting"))
    await until(page, "lectern.state().stalled && lectern.state().status === 'r'")
    await page.evaluate(tell.format("playing"))
    await until(page, "!lectern.state().stalled")
    acked = (await state(page))["acked"]
    await until(page, f"lectern.state().acked > {acked + 1}")
    told = [frame["cmcd"] for frame in stage.held.frames if "bs" in frame["cmcd"]]
    assert len(told) == 1
    assert sum(frame["cmcd"].get("bsd", 0) for frame in stage.held.frames) >= 100


@pytest.mark.parametrize("key", ["k", "j"])
async def test_who_goes_on_after_the_end_is_shown_the_picture(page: Page, enter: Enter, key: str) -> None:
    await enter()
    await until(page, PLAYING)
    await page.evaluate("document.querySelector('video').currentTime = 47.3")
    await page.wait_for_selector("text=Up next")
    await until(page, "lectern.state().stopped === 'ended'")
    await page.keyboard.press(key)
    await page.wait_for_selector(".overlay", state="hidden")
    await until(page, "lectern.state().position < 40")


async def test_a_lecture_that_is_being_encoded_says_so(stage: Stage, page: Page, enter: Enter) -> None:
    stage.video_status = "processing"
    await enter()
    await page.wait_for_selector("text=Almost there")
    stage.video_status = "ready"
    await until(page, PLAYING)


async def test_faults_of_a_form_stand_beside_their_fields(origin: str, page: Page, faults: list[str]) -> None:
    await page.goto(f"{origin}/#/signin")
    await page.fill("#login", "ada")
    await page.fill("#password", "wrong")
    await page.click("button[type=submit]")
    await page.wait_for_selector("text=do not go together")
    await page.click("text=Create an account")
    await page.fill("#username", "taken")
    await page.fill("#email", "ada@example.org")
    await page.fill("#password", "password")
    await page.click("button[type=submit]")
    await until(page, "document.querySelector('#username-note').textContent.includes('taken')")
    await page.fill("#username", "ada")
    await page.click("button[type=submit]")
    await until(page, "document.querySelector('#password-note').textContent.includes('too common.')")
    assert await page.get_attribute("#password", "aria-invalid") == "true"


async def test_a_player_that_the_network_did_not_bring_is_asked_for_again(page: Page, enter: Enter) -> None:
    await fail_once(page, "**/vendor/hls.js/hls.min.mjs")
    await enter()
    await until(page, PLAYING)


async def test_nothing_sticks_out_sideways_on_any_window(page: Page, enter: Enter) -> None:
    await enter()
    await until(page, PLAYING)
    for width in (1920, 1024, 768, 360):
        await page.set_viewport_size({"width": width, "height": 800})
        assert await page.evaluate("document.documentElement.scrollWidth") <= width


async def test_the_keyboard_reaches_the_content_and_plays(origin: str, page: Page, enter: Enter) -> None:
    await enter()
    await until(page, PLAYING)
    await page.keyboard.press("k")
    await until(page, "lectern.state().paused")
    at = (await state(page))["position"]
    await page.keyboard.press("l")
    await until(page, f"lectern.state().position > {at} + 9")
    await page.focus("text=Keys")
    await page.keyboard.press("Enter")
    await page.wait_for_selector("#keys >> text=Ten seconds on")
    await page.keyboard.press("Escape")
    await page.focus("#skip")
    await page.keyboard.press("Enter")
    assert await page.evaluate("document.activeElement.id") == "page"
    assert page.url.endswith(f"/#/lectures/{FIRST}")


async def test_who_switches_the_keys_off_presses_letters_without_effect_also_after_a_reload(
    page: Page, enter: Enter
) -> None:
    await enter()
    await until(page, PLAYING)
    for wanted in (False, True):
        await page.click("text=Keys")
        await page.set_checked("text=Use these keys", wanted)
        await page.keyboard.press("Escape")
        await page.reload()
        await until(page, PLAYING)
        await page.keyboard.press("m")
        assert await page.evaluate("document.querySelector('video').muted") == wanted
        await page.click("text=Keys")
        assert await page.is_checked("text=Use these keys") == wanted
        await page.keyboard.press("Escape")


async def test_a_course_that_does_not_exist_is_said_in_words(
    stage: Stage, origin: str, page: Page, faults: list[str]
) -> None:
    await page.goto(f"{origin}/#/courses/{COURSE[:-1]}9/nothing")
    await page.wait_for_selector("h1")
    await page.goto(f"{origin}/#/nowhere")
    await page.wait_for_selector("text=This address leads nowhere.")

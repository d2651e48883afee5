"""The protocol client of the page, in a browser, against a socket that does what the test says."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Page

from tests.web.stage import Stage, eventually, until

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

Start = Callable[..., Awaitable[None]]
# Everything as in the product, but quicker; `sample` makes one frame a tick until told to be quiet.
BEGIN = """
async ([sessionId, options]) => {
  const { VideoSession } = await import("/web/session.js");
  window.told = [];
  window.position = 0;
  window.quiet = options.quiet ?? false;
  window.session = new VideoSession({
    sessionId,
    url: `/api/videos/ws/${sessionId}`,
    token: `session-${sessionId}`,
    sample: () => (window.quiet ? null : { position: ++window.position, cmcd: { sta: "p" } }),
    lookUp: async () => {
      const answer = await fetch(`/api/videos/sessions/${sessionId}`);
      if (!answer.ok) throw Object.assign(new Error("refused"), { status: answer.status });
      return answer.json();
    },
    accessToken: () => "access-token",
    random: () => options.random ?? 0,
    backlog: options.backlog,
    times: options.times,
  });
  for (const type of ["state", "hello", "ack", "decision", "token", "problem", "stopped"]) {
    window.session.addEventListener(type, ({ detail }) => window.told.push({ type, at: performance.now(), ...detail }));
  }
  window.session.start();
}
"""


@pytest_asyncio.fixture(loop_scope="session")
async def start(stage: Stage, origin: str, page: Page) -> AsyncIterator[Start]:
    """Begins a session in the page: `await start(times={...}, quiet=True, ...)`."""
    stage.interval_ms = 50

    async def begin(**options: Any) -> None:
        held = stage.open_session()
        await page.goto(f"{origin}/bare")
        await page.evaluate(BEGIN, [held.session_id, options])

    yield begin
    await page.evaluate("window.session?.leave()")


async def test_frames_are_numbered_from_one_and_carry_the_contract_s_members(
    stage: Stage, page: Page, start: Start
) -> None:
    await start()
    await until(page, "session.state.saved >= 5")
    frames = stage.held.frames
    assert [frame["seq"] for frame in frames] == list(range(1, len(frames) + 1))
    assert frames[0] == {"type": "telemetry", "seq": 1, "position": 1, "cmcd": {"sta": "p"}}
    assert stage.held.protocols == [["lectern.v1", f"bearer.session-{stage.held.session_id}"]]


async def test_the_round_trip_is_known_while_a_socket_is_live(stage: Stage, page: Page, start: Start) -> None:
    await start()
    assert await until(page, "session.roundTripMs > 0")
    stage.refuses = 503
    stage.cut()
    await until(page, "session.roundTripMs === null")


async def test_a_frame_is_kept_until_it_is_saved_and_not_only_acknowledged(
    stage: Stage, page: Page, start: Start
) -> None:
    stage.saves = False
    await start()
    await until(page, "session.state.acked >= 5")
    assert await page.evaluate("session.state.kept") >= 5
    stage.saves = True
    await until(page, "session.state.saved >= 6 && session.state.kept + session.state.pending <= 2")


async def test_after_a_cut_everything_above_what_the_server_had_comes_again_in_order(
    stage: Stage, page: Page, start: Start
) -> None:
    stage.saves = False
    await start()
    await until(page, "session.state.acked >= 6")
    held = stage.held
    # The server loses what it had acknowledged and not saved, as a Redis without its last second does.
    del held.frames[3:]
    held.seq = 3
    stage.cut()
    await until(page, "session.state.epoch === 2 && session.state.acked >= 8")
    assert [frame["seq"] for frame in held.frames] == list(range(1, len(held.frames) + 1))
    positions = [frame["position"] for frame in held.frames]
    assert positions == sorted(positions)
    assert held.duplicates == 0


async def test_frames_made_while_the_server_was_away_arrive_later(stage: Stage, page: Page, start: Start) -> None:
    await start()
    await until(page, "session.state.acked >= 2")
    stage.refuses = 503
    stage.cut()
    before = await page.evaluate("position")
    await until(page, f"position >= {before} + 8")
    stage.refuses = None
    await until(page, "session.state.connection === 'live' && session.state.acked >= position - 1")
    held = stage.held
    assert [frame["position"] for frame in held.frames] == list(range(1, len(held.frames) + 1))


@pytest.mark.parametrize("frames", [8, 500])
async def test_frames_made_while_the_server_was_away_count_once_although_the_tab_crashes_afterwards(
    stage: Stage, page: Page, start: Start, frames: int
) -> None:
    stage.refuses = 503
    pending = [{"position": -n, "cmcd": {}} for n in range(frames)]
    await start(backlog={"next": 1, "kept": [], "pending": pending})
    # As the classroom keeps it; a page that crashes adds nothing to that.
    await page.evaluate("session.addEventListener('hello', () => { window.kept = session.backlog; })")
    stage.refuses = None
    await until(page, f"session.state.acked > {frames} + 2")
    backlog = await page.evaluate("kept")
    await page.reload()
    await page.evaluate(BEGIN, [stage.held.session_id, {"backlog": backlog, "quiet": True}])
    await until(page, "session.state.connection === 'live'")
    await page.evaluate("void session.end()")
    await eventually(lambda: stage.held.status == "ended")
    positions = [frame["position"] for frame in stage.held.frames]
    assert len(positions) == len(set(positions))


async def test_a_server_that_is_further_is_followed(stage: Stage, page: Page, start: Start) -> None:
    await start(quiet=True, times={"backoffMs": 0})
    await until(page, "session.state.connection === 'live'")
    stage.held.seq = stage.held.saved = 40
    stage.cut()
    await until(page, "session.state.epoch === 2")
    await page.evaluate("quiet = false")
    await until(page, "session.state.acked > 42")
    assert [frame["seq"] for frame in stage.held.frames][:3] == [41, 42, 43]


async def test_a_server_that_falls_silent_is_left(stage: Stage, page: Page, start: Start) -> None:
    stage.acknowledges = False
    await start(times={"ackMs": 300})
    await until(page, "session.state.openings >= 2")
    stage.acknowledges = True
    await until(page, "session.state.acked > 3")


async def test_an_idle_session_is_not_taken_for_a_dead_one(stage: Stage, page: Page, start: Start) -> None:
    await start(quiet=True, times={"ackMs": 100})
    await until(page, "session.state.connection === 'live'")
    await page.wait_for_timeout(400)
    assert await page.evaluate("session.state.openings") == 1


async def test_the_backoff_doubles_from_200_ms_to_10_s(stage: Stage, page: Page, start: Start) -> None:
    stage.refuses = 503
    await start(random=1, times={"backoffMs": 2, "backoffMostMs": 100}, quiet=True)
    await until(page, "told.filter(t => t.connection === 'waiting').length >= 8")
    delays = await page.evaluate("told.filter(t => t.connection === 'waiting').map(t => t.retryInMs)")
    assert delays[:8] == [2, 4, 8, 16, 32, 64, 100, 100]


async def test_a_network_that_comes_back_is_soon_tried_again_where_it_does_not_carry_at_once(
    stage: Stage, page: Page, start: Start
) -> None:
    waits = "told.filter(({ retryInMs }) => retryInMs !== undefined).map(({ retryInMs }) => retryInMs)"
    stage.refuses = 503
    await start(random=1, times={"backoffMs": 10, "backoffMostMs": 600_000}, quiet=True)
    before = await until(page, f"{waits}.at(-1) > 150 && {waits}.length")
    await page.evaluate("session.wake()")
    assert await until(page, f"{waits}[{before}]") == 10


async def test_a_restarting_server_says_when_to_come_back(stage: Stage, page: Page, start: Start) -> None:
    await start()
    await until(page, "session.state.acked >= 1")
    await stage.close(1012, retry_ms=250)
    waiting = await until(page, "told.find(t => t.connection === 'waiting')")
    assert waiting["retryInMs"] == 250
    await until(page, "session.state.epoch === 2")
    times = await page.evaluate("told.filter(t => t.type === 'state' && t.connection !== 'live').map(t => t.at)")
    assert times[-1] - waiting["at"] >= 240


@pytest.mark.parametrize("code", [1011, 1013, 4503, 4508, 4529])
async def test_it_comes_back_by_itself_after(stage: Stage, page: Page, start: Start, code: int) -> None:
    await start()
    await until(page, "session.state.acked >= 1")
    await stage.close(code)
    await until(page, "session.state.epoch === 2 && session.state.connection === 'live'")


@pytest.mark.parametrize(
    ("code", "reason"),
    [(4400, "bad_frames"), (4401, "credentials"), (4403, "not_entitled"), (4404, "gone"), (4409, "superseded")],
)
async def test_it_does_not_come_back_by_itself_after(
    stage: Stage, page: Page, start: Start, code: int, reason: str
) -> None:
    await start()
    await until(page, "session.state.acked >= 1")
    await stage.close(code)
    stopped = await until(page, "told.find(t => t.type === 'stopped')")
    assert (stopped["reason"], stopped["code"]) == (reason, code)
    await page.wait_for_timeout(150)
    assert await page.evaluate("session.state.openings") == 1


async def test_a_superseded_session_can_be_taken_back(stage: Stage, page: Page, start: Start) -> None:
    await start()
    await until(page, "session.state.acked >= 2")
    await stage.close(4409)
    await until(page, "session.state.stopped === 'superseded'")
    stage.held.seq = stage.held.saved = 20  # what the other device sent meanwhile
    await page.evaluate("session.reclaim()")
    await until(page, "session.state.acked > 21")
    assert await page.evaluate("session.state.epoch") == 2


async def test_after_a_refused_opening_an_ended_session_is_not_tried_again(
    stage: Stage, page: Page, start: Start
) -> None:
    stage.refuses = 503
    await start(quiet=True, times={"backoffMs": 2})
    await until(page, "session.state.openings >= 1")
    stage.held.status = "ended"
    stopped = await until(page, "told.find(t => t.type === 'stopped')")
    assert stopped["reason"] == "ended"


async def test_after_a_refused_opening_a_missing_session_is_not_tried_again(
    stage: Stage, page: Page, start: Start
) -> None:
    stage.refuses = 503
    await start(quiet=True, times={"backoffMs": 2})
    stage.sessions.clear()
    stopped = await until(page, "told.find(t => t.type === 'stopped')")
    assert stopped["reason"] == "gone"


async def test_a_refused_credential_is_replaced_by_the_other_one(stage: Stage, page: Page, start: Start) -> None:
    stage.refuses = 401
    await start(quiet=True, times={"backoffMs": 2})
    # The third begins when the second was refused, and so was seen.
    await until(page, "session.state.openings >= 3")
    assert stage.held.protocols[1] == ["lectern.v1", "bearer.access-token"]


async def test_a_decision_holds_for_its_time_and_every_ack_renews_it(stage: Stage, page: Page, start: Start) -> None:
    stage.ttl_ms = 300
    await start()
    await until(page, "session.state.acked >= 10")  # half a second and more of acks
    await until(page, f"session.state.decision?.cmsd.mb === {stage.cap}")
    await page.evaluate("quiet = true")
    expired = await until(page, "told.find(t => t.type === 'decision' && t.expired)")
    assert expired["decision"] is None
    await page.evaluate("quiet = false")
    await until(page, "session.state.decision !== null")


async def test_an_older_decision_does_not_replace_a_newer_one(stage: Stage, page: Page, start: Start) -> None:
    await start()
    await until(page, "session.state.acked >= 1")
    await stage.decide(948, "the network does not carry more")
    await until(page, "session.state.decision?.cmsd.mb === 948")
    old = {"type": "decision", "n": 1, "epoch": 1, "rung": 0, "cmsd": {"mb": 448}, "reason": "old", "ttl_ms": 10_000}
    await stage.send(old)
    await stage.send({**old, "n": 99, "epoch": 0})
    seen = await page.evaluate("session.state.acked")
    await until(page, f"session.state.acked > {seen} + 2")
    assert await page.evaluate("session.state.decision.cmsd.mb") == 948


async def test_a_renewed_token_opens_the_next_socket(stage: Stage, page: Page, start: Start) -> None:
    await start()
    await until(page, "session.state.acked >= 1")
    await stage.send(
        {"type": "token", "token": "newer", "playback": {"hls": "x"}, "expires_at": "2030-01-01T00:00:00Z"}
    )
    told = await until(page, "told.find(t => t.type === 'token')")
    assert told["playback"] == {"hls": "x"}
    await stage.close(1012, retry_ms=0)
    await until(page, "session.state.epoch === 2")
    assert stage.held.protocols[1] == ["lectern.v1", "bearer.newer"]


async def test_the_end_delivers_what_is_left_and_then_says_bye(stage: Stage, page: Page, start: Start) -> None:
    await start()
    await until(page, "session.state.acked >= 2")
    stage.refuses = 503
    stage.cut()
    await until(page, "session.state.pending >= 4")
    await page.evaluate("window.over = false; void session.end().then(() => { window.over = true; })")
    stage.refuses = None
    await until(page, "over")
    held = stage.held
    assert held.status == "ended"
    assert [frame["position"] for frame in held.frames] == list(range(1, len(held.frames) + 1))
    assert len(held.frames) == await page.evaluate("position")
    assert await page.evaluate("session.state.stopped") == "ended"


async def test_the_end_waits_for_a_server_that_is_away(stage: Stage, page: Page, start: Start) -> None:
    await start(times={"endMs": 200})
    await until(page, "session.state.acked >= 2")
    stage.refuses = 503
    stage.cut()
    await until(page, "session.state.pending >= 4")
    await page.evaluate("void session.end()")
    await page.wait_for_timeout(600)
    stage.refuses = None
    await eventually(lambda: stage.held.status == "ended")
    assert [frame["position"] for frame in stage.held.frames] == list(range(1, await page.evaluate("position") + 1))


async def test_the_end_delivers_a_long_backlog_too(stage: Stage, page: Page, start: Start) -> None:
    pending = [{"position": n, "cmcd": {}} for n in range(600)]
    await start(quiet=True, backlog={"next": 1, "kept": [], "pending": pending})
    await page.evaluate("void session.end()")
    await eventually(lambda: stage.held.status == "ended")
    assert [frame["position"] for frame in stage.held.frames] == list(range(600))


async def test_a_bye_that_is_not_heard_is_said_again(stage: Stage, page: Page, start: Start) -> None:
    stage.hears_bye = False
    await start(times={"endMs": 200})
    await until(page, "session.state.acked >= 2")
    await page.evaluate("void session.end()")
    await until(page, "session.state.epoch === 2")
    stage.hears_bye = True
    await eventually(lambda: stage.held.status == "ended")


async def test_what_an_earlier_page_left_unsaved_is_sent_by_the_next_one(
    stage: Stage, page: Page, start: Start
) -> None:
    kept = [
        {"seq": seq, "text": json.dumps({"type": "telemetry", "seq": seq, "position": seq, "cmcd": {}})}
        for seq in (1, 2, 3)
    ]
    await start(quiet=True, backlog={"next": 4, "kept": kept, "pending": [{"position": 4, "cmcd": {}}]})
    await until(page, "session.state.saved >= 4")
    assert [(frame["seq"], frame["position"]) for frame in stage.held.frames] == [(1, 1), (2, 2), (3, 3), (4, 4)]


async def test_what_a_page_leaves_unsaved_is_all_that_the_server_was_away_for(
    stage: Stage, page: Page, start: Start
) -> None:
    stage.refuses = 503
    pending = [{"position": n, "cmcd": {}} for n in range(3600)]
    await start(quiet=True, backlog={"next": 1, "kept": [], "pending": pending})
    assert (await page.evaluate("session.backlog"))["pending"] == pending


async def test_a_long_backlog_stays_within_what_the_server_lets_through(stage: Stage, page: Page, start: Start) -> None:
    stage.interval_ms = 1000
    pending = [{"position": n, "cmcd": {}} for n in range(600)]
    await start(quiet=True, backlog={"next": 1, "kept": [], "pending": pending})
    await until(page, "session.state.acked >= 484")
    [hello] = await page.evaluate("told.filter(t => t.type === 'hello')")
    for ack in await page.evaluate("told.filter(t => t.type === 'ack')"):
        ticks = (ack["at"] - hello["at"]) / 1000 + 1
        assert ack["seq"] <= 480 + 6 * ticks

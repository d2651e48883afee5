"""What somebody sees who starts it for the first time: a demo lecture plays, gives way to the network, and resumes."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from playwright.async_api import CDPSession, Page, WebSocket

from demo.accounts import LEARNER
from embedded import processes
from embedded.system import System
from tests.support.browser import reload
from tests.support.courses import minute_of_fold
from tests.support.whole import seed

COURSE = minute_of_fold("A first look")
# Enough for every rung, and slow enough that the buffer, which has to be played before a change is seen, is not full.
WIDE_KBPS = 8000
# Enough for the lowest rung and not for the next one.
NARROW_KBPS = 700


class Wire:
    """The frames of the sockets of a page's video sessions, in the order in which they passed."""

    def __init__(self, page: Page) -> None:
        self.frames: list[tuple[str, dict[str, Any]]] = []
        page.on("websocket", self._listen)

    def _listen(self, socket: WebSocket) -> None:
        if "/api/videos/ws/" not in socket.url:
            return
        socket.on("framesent", lambda payload: self.frames.append(("sent", json.loads(payload))))
        socket.on("framereceived", lambda payload: self.frames.append(("received", json.loads(payload))))

    def decisions(self, since: int = 0) -> list[tuple[int, dict[str, Any]]]:
        """(place among the frames, decision), those of `hello` included."""
        found = []
        for place, (way, frame) in enumerate(self.frames[since:], start=since):
            if way == "received" and frame["type"] in ("hello", "decision"):
                found.append((place, frame if frame["type"] == "decision" else frame["decision"]))
        return found

    def reports(self, since: int = 0, until: int | None = None) -> list[tuple[int, dict[str, Any]]]:
        """(place among the frames, telemetry)."""
        part = enumerate(self.frames[since:until], start=since)
        return [(place, frame) for place, (way, frame) in part if way == "sent" and frame["type"] == "telemetry"]

    def acked(self, until: int) -> int:
        """The highest `seq` that was acknowledged before this place."""
        return max((f["seq"] for way, f in self.frames[:until] if way == "received" and f["type"] == "ack"), default=0)

    @property
    def hellos(self) -> list[dict[str, Any]]:
        """One for each opening."""
        return [frame for way, frame in self.frames if way == "received" and frame["type"] == "hello"]

    @property
    def rung(self) -> int:
        """The last one decided."""
        return int(self.decisions()[-1][1]["rung"])


async def until(condition: Callable[[], Awaitable[bool]], what: str, within_s: float) -> None:
    """The page's policy forbids Playwright's own waiting."""
    try:
        async with asyncio.timeout(within_s):
            while not await condition():  # noqa: ASYNC110  nobody in this process could set an event
                await asyncio.sleep(0.05)
    except TimeoutError:
        pytest.fail(f"not within {within_s:g} s: {what}")


async def state(page: Page) -> dict[str, Any]:
    return await page.evaluate("lectern.state()") or {}


async def sign_in_and_open(page: Page) -> None:
    await page.click("text=Sign in")
    await page.fill("#login", LEARNER.email)
    await page.fill("#password", LEARNER.password)
    await page.click("button[type=submit]")
    await page.click(f"text={COURSE.title}")
    await page.click("text=Start learning")


async def carry(network: CDPSession, kbps: float) -> None:
    """Let segments through at no more than `kbps`. Sockets are not touched by it."""
    rate = kbps * 1000 / 8
    conditions = {"offline": False, "latency": 40, "downloadThroughput": rate, "uploadThroughput": rate}
    await network.send("Network.emulateNetworkConditions", conditions)


@pytest.mark.browser
@pytest.mark.timeout(240)
async def test_a_demo_lecture_plays_follows_the_network_down_and_up_and_resumes(system: System, page: Page) -> None:
    if not (processes.ROOT / "node_modules" / "hls.js").exists():
        pytest.skip("hls.js is not there: bin/run or bin/test fetches it")
    await seed(system, COURSE)
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    wire = Wire(page)
    await page.set_viewport_size({"width": 1280, "height": 800})
    network = await page.context.new_cdp_session(page)
    await network.send("Network.enable")

    await page.goto(system.address)
    await carry(network, WIDE_KBPS)
    await sign_in_and_open(page)
    await until(lambda: settled(page, wire), "it plays at the rung that it deserves", 90)
    high = wire.rung
    assert high >= 2

    await carry(network, NARROW_KBPS)
    narrowed = len(wire.frames)
    await until(lambda: lowered(wire, narrowed, high), "a lower rung is decided", 60)
    first_report = next(frame["seq"] for _, frame in wire.reports(narrowed) if frame["cmcd"]["mtp"] < 1500)
    decided = next(place for place, decision in wire.decisions(narrowed) if decision["rung"] < high)
    assert wire.acked(decided) <= first_report + 1, "by the second report that tells of it"
    await until(lambda: shows(page, lambda rung: rung < high), "the picture follows", 60)
    assert (await state(page))["stalls"] == 0

    await carry(network, WIDE_KBPS)
    await until(lambda: shows(page, lambda rung: rung >= high), "the picture comes back up", 60)
    assert wire.rung >= high

    hellos = len(wire.hellos)
    watched = await reload(page)
    await until(lambda: moves(page), "it plays on", 60)
    assert len(wire.hellos) > hellos, "the session was opened again"
    assert await page.evaluate("window.began") == pytest.approx(watched, abs=1.0)
    assert faults == []


async def settled(page: Page, wire: Wire) -> bool:
    seen = await state(page)
    return seen.get("position", 0) > 1 and seen["level"] >= 2 and wire.rung >= 2 and seen["buffer_s"] > 14


async def lowered(wire: Wire, since: int, high: int) -> bool:
    return any(decision["rung"] < high for _, decision in wire.decisions(since))


async def shows(page: Page, fits: Callable[[int], bool]) -> bool:
    """Whether the rung that is on the screen fits (hls.js's current level is a rung of the ladder)."""
    level = (await state(page)).get("level", -1)
    return level >= 0 and fits(level)


async def moves(page: Page) -> bool:
    seen = await state(page)
    return bool(seen.get("position")) and seen.get("status") == "p"

"""The load's player against a double: it keeps frames until they are saved, comes back, and tells what went wrong."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from loadtests.accounts import Accounts
from loadtests.api import Api, find_ready_video
from loadtests.figures import Figures
from loadtests.player import WirePlayer
from loadtests.viewing import Viewing
from tests.support.fake_lectern import VIDEO, FakeLectern

DEADLINE_S = 60.0
INTERVAL_S = 0.02


class Playing:
    """A player in a thread of its own."""

    def __init__(self, player: WirePlayer, stop: threading.Event) -> None:
        self.player = player
        self.figures = player.figures
        self.stop = stop
        self.ended: Awaitable[None] = asyncio.get_running_loop().run_in_executor(None, player.run, stop.is_set)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for it; the player is another thread, so it is looked at often."""
        async with asyncio.timeout(DEADLINE_S):
            while not condition():  # noqa: ASYNC110 - another thread cannot set this loop's events
                await asyncio.sleep(0.005)

    async def finish(self) -> Figures:
        """Stop and answer the figures."""
        self.stop.set()
        async with asyncio.timeout(DEADLINE_S):
            await self.ended
        return self.figures


@asynccontextmanager
async def playing(fake: FakeLectern) -> AsyncIterator[Playing]:
    async with fake.running() as base_url:
        stop = threading.Event()
        run = Playing(await asyncio.to_thread(prepared, base_url), stop)
        try:
            yield run
        finally:
            await run.finish()


def prepared(base_url: str) -> WirePlayer:
    api = Api(base_url, time.sleep)
    accounts = Accounts(api)
    account = accounts.lend()
    video = find_ready_video(api, account.access_token)
    assert video["id"] == VIDEO
    session = api.request("POST", f"/api/videos/{VIDEO}/sessions", token=account.access_token, body={})
    viewing = Viewing(ladder=session["ladder"], segment_s=4.0, duration_s=video["duration_seconds"], seed=1)
    return WirePlayer(
        api, session, viewing, Figures(), token=lambda: accounts.token(account), interval_s=INTERVAL_S, seed=1
    )


@pytest.fixture
def fake() -> FakeLectern:
    return FakeLectern()


async def test_a_session_is_played_saved_compared_and_ended(fake: FakeLectern):
    async with playing(fake) as run:
        await run.until(lambda: run.player.last_seq >= 20)
        figures = await run.finish()
    assert not figures.failed, figures.table()
    assert fake.held().status == "ended"
    assert figures.counts["frames"] == len(fake.held().arrivals)
    assert figures.latencies["ack"].count == figures.latencies["saved"].count == figures.counts["frames"]
    assert figures.latencies["decision"].count >= 2


async def test_a_restart_costs_nothing(fake: FakeLectern):
    async with playing(fake) as run:
        await run.until(lambda: run.player.last_seq >= 5)
        await fake.close(1012, retry_ms=20)
        await run.until(lambda: run.figures.counts["reconnects"] == 1 and run.player.last_seq >= 20)
        figures = await run.finish()
    assert not figures.failed, figures.table()


async def test_frames_that_died_with_the_socket_are_sent_again(fake: FakeLectern):
    fake.save = False
    async with playing(fake) as run:
        await run.until(lambda: run.player.acked >= 5)
        fake.silent = True
        await run.until(lambda: run.player.last_seq >= 12)
        held = fake.held()
        del held.arrivals[run.player.acked :]
        fake.silent, fake.save = False, True
        await fake.close(1012, retry_ms=0)
        await run.until(lambda: run.figures.counts["reconnects"] == 1)
        figures = await run.finish()
    assert not figures.failed, figures.table()
    assert [frame["seq"] for frame in held.arrivals] == list(range(1, run.player.last_seq + 1))


@pytest.mark.parametrize("code", [4503, 4508, 4529, 1011])
async def test_a_server_that_throws_players_out_is_an_error(fake: FakeLectern, code: int):
    async with playing(fake) as run:
        await run.until(lambda: run.player.last_seq >= 2)
        await fake.close(code)
        await run.until(lambda: run.figures.counts["reconnects"] == 1)
        figures = await run.finish()
    assert figures.errors == {f"closed {code}": 1}


async def test_44xx_ends_it(fake: FakeLectern):
    async with playing(fake) as run:
        await run.until(lambda: run.player.last_seq >= 2)
        await fake.close(4409)
        await run.until(lambda: run.player.over)
    assert run.figures.errors == {"closed 4409": 1}


async def test_a_player_that_was_held_up_while_it_was_thrown_out_hears_why(
    fake: FakeLectern, monkeypatch: pytest.MonkeyPatch
):
    async with playing(fake) as run:
        await run.until(lambda: run.player.last_seq >= 2)
        tick, held_up, go_on = run.player.viewing.tick, threading.Event(), threading.Event()

        def slow(interval_s: float) -> dict[str, Any]:
            held_up.set()
            assert go_on.wait(DEADLINE_S)
            return tick(interval_s)

        monkeypatch.setattr(run.player.viewing, "tick", slow)
        await run.until(held_up.is_set)
        await fake.close(4409)
        # Ten frames are due by now; it writes them to who has hung up.
        await asyncio.sleep(10 * INTERVAL_S)
        go_on.set()
        await run.until(lambda: run.player.over)
    assert run.figures.errors == {"closed 4409": 1}


def changed(kind: str, **members: Any) -> Any:
    return lambda message: {**message, **members} if message["type"] == kind else message


@pytest.mark.parametrize(
    ("twist", "seen"),
    [
        (changed("ack", seq=10**6), "an ack covers what was never sent or applied"),
        (changed("ack", saved=10**6), "an ack covers what was never sent or applied"),
        (changed("hello", epoch=0), "hello.epoch did not rise"),
    ],
)
async def test_a_lying_server_is_an_error(fake: FakeLectern, twist: Any, seen: str):
    fake.twist = twist
    async with playing(fake) as run:
        await run.until(lambda: seen in run.figures.errors)


async def test_a_frame_that_was_lost_is_told(fake: FakeLectern):
    async with playing(fake) as run:
        await run.until(lambda: run.player.saved >= 5)
        del fake.held().arrivals[1]
        figures = await run.finish()
    assert figures.counts["lost"] == 1
    assert figures.failed


async def test_frames_that_are_never_saved_are_told(fake: FakeLectern, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("loadtests.player.SETTLE_S", 0.1)
    fake.save = False
    async with playing(fake) as run:
        await run.until(lambda: run.player.acked >= 5)
        figures = await run.finish()
    assert figures.counts["unsaved"] == run.player.last_seq
    assert figures.failed

"""The simulated player against a double that keeps its promises, or breaks them on demand."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from tests.support.fake_lectern import COURSE, VIDEO, FakeLectern
from tests.support.player import Account, Backoff, Refused, SimulatedPlayer, call

QUICK = Backoff(first_s=0.01, most_s=0.05)


@pytest.fixture
def fake() -> FakeLectern:
    return FakeLectern()


@asynccontextmanager
async def playing(fake: FakeLectern, **options: Any) -> AsyncIterator[SimulatedPlayer]:
    async with fake.running() as base_url, aiohttp.ClientSession() as http:
        account = await Account.register(http, base_url)
        player = await SimulatedPlayer.create(http, account, VIDEO, **{"backoff": QUICK, **options})
        async with player:
            yield player


async def test_what_is_reported_is_acknowledged_saved_and_forgotten(fake: FakeLectern):
    async with playing(fake) as player:
        for second in range(12):
            player.report(second, cmcd={"bl": 4000, "sta": "p"}, segments=[{"br": 400, "bytes": 10, "ms": 9}])
        await player.until_saved()
        assert player.kept == {}
        assert len(player.ack_latencies_s) == 12
        assert player.decision is not None
        assert player.decision["n"] == 3
        assert player.expected()["watched_seconds"] == 11.0
        assert await player.differences() == []
        assert player.violations == []


async def test_frames_reported_before_the_socket_opens_are_sent_in_order(fake: FakeLectern):
    async with fake.running() as base_url, aiohttp.ClientSession() as http:
        account = await Account.login(http, base_url, *(await registered(http, base_url)))
        await call(http, "POST", f"{base_url}/api/enrollments", token=account.access_token, body={"course_id": COURSE})
        player = await SimulatedPlayer.create(http, account, VIDEO)
        for second in range(5):
            player.report(second)
        async with player:
            await player.until_saved()
        assert [frame["seq"] for frame in fake.held().arrivals] == [1, 2, 3, 4, 5]


async def registered(http: aiohttp.ClientSession, base_url: str) -> tuple[str, str]:
    account = await Account.register(http, base_url)
    return account.username, account.password


async def test_a_cut_socket_is_replaced_and_what_lies_above_hello_is_sent_again(fake: FakeLectern):
    fake.save = False
    async with playing(fake) as player:
        player.report(1.0)
        await player.until_acked()
        fake.twist = lambda message: None if message["type"] == "ack" else message
        for second in range(2, 6):
            player.report(second)
        await player.until(lambda: len(player.events_of("sent")) == 5)
        await player.cut()
        held, fake.twist, fake.save = fake.held(), lambda message: message, True
        del held.arrivals[2:]  # what was not acknowledged may be lost
        await player.until(lambda: player.reconnects == 1)
        await player.until_saved()
        assert [frame["seq"] for frame in held.arrivals] == [1, 2, 3, 4, 5]
        assert await player.differences() == []
        assert player.violations == []
        assert player.close_codes()[0] == 1006


async def test_frames_are_kept_until_they_are_saved_not_only_acknowledged(fake: FakeLectern):
    fake.save = False
    async with playing(fake) as player:
        for second in range(3):
            player.report(second)
        await player.until_acked()
        assert list(player.kept) == [1, 2, 3]


async def test_after_a_wiped_redis_everything_above_saved_is_sent_again(fake: FakeLectern):
    fake.save = False
    async with playing(fake) as player:
        for second in range(4):
            player.report(second)
        await player.until_acked()
        player.witness.forgive_redis()
        fake.held().arrivals.clear()
        fake.save = True
        await player.cut()
        await player.until_saved()
        assert await player.differences() == []
        assert player.violations == []


async def test_retry_ms_is_honoured(fake: FakeLectern):
    async with playing(fake, backoff=Backoff(0.0, 0.0)) as player:
        await player.until_connected()
        await fake.close(1012, retry_ms=150)
        await player.until(lambda: player.reconnects == 1)
        closed, opening = player.events_of("closed")[0], player.events_of("opening")[1]
        assert closed.data["code"] == 1012
        assert opening.at - closed.at >= 0.15
        assert player.violations == []


@pytest.mark.parametrize("code", [4400, 4401, 4403, 4404, 4409])
async def test_44xx_means_do_not_come_back(fake: FakeLectern, code: int):
    async with playing(fake) as player:
        await player.until_connected()
        await fake.close(code)
        assert await player.until_stopped() == str(code)
        assert player.openings == 1


@pytest.mark.parametrize("code", [1011, 1012, 1013, 4503, 4508, 4529])
async def test_other_codes_mean_come_back(fake: FakeLectern, code: int):
    async with playing(fake) as player:
        await player.until_connected()
        await fake.close(code)
        await player.until(lambda: player.reconnects == 1)
        assert player.close_codes() == [code]


async def test_bye_ends_the_session(fake: FakeLectern):
    async with playing(fake) as player:
        player.report(1.0)
        await player.until_saved()
        await player.bye()
        assert player.stopped == "ended"
        assert player.close_codes() == [1000]
        assert fake.held().status == "ended"


async def test_an_opening_that_fails_asks_for_the_session_and_stops_at_ended(fake: FakeLectern):
    async with playing(fake) as player:
        await player.until_connected()
        fake.held().status = "ended"
        await player.cut()
        assert await player.until_stopped() == "ended"


async def test_an_opening_that_fails_stops_when_the_session_is_gone(fake: FakeLectern):
    async with playing(fake) as player:
        await player.until_connected()
        fake.sessions.clear()
        await player.cut()
        assert await player.until_stopped() == "gone"


async def test_an_opening_that_fails_for_now_is_tried_again(fake: FakeLectern):
    refusals = iter([503, 429, 503])
    fake.refuse = lambda _: next(refusals, None)
    async with playing(fake) as player:
        await player.until_connected()
        assert [event.data["status"] for event in player.events_of("refused")] == [503, 429, 503]


async def test_silence_while_frames_wait_is_a_dead_peer(fake: FakeLectern):
    fake.silent = True
    async with playing(fake, ack_timeout_s=0.1) as player:
        player.report(1.0)
        await player.until(lambda: player.reconnects >= 1)
        assert player.events_of("silent")
        fake.silent = False


async def test_frames_keep_to_the_rate_of_the_socket(fake: FakeLectern):
    fake.limits = {"rate": 20, "per_s": 1, "burst": 5, "interval_ms": 1000}
    async with playing(fake) as player:
        for second in range(512 + 5 + 8):
            player.report(second % 50)
        await player.until_saved()
        sent = player.events_of("sent")
        # By its rate alone they would take 25 s; the last eight take 0.4 s, or half of it after a pause.
        assert sent[516].at - sent[0].at < 20.0
        assert sent[-1].at - sent[516].at > 0.15


async def test_rest_frames_are_part_of_what_was_sent(fake: FakeLectern):
    async with playing(fake) as player:
        player.report(1.0)
        await player.until_saved()
        await player.post_frames([{"seq": 2, "position": 2.0}])
        assert player.report(3.0) == 3
        await player.until_saved()
        assert await player.differences() == []
        assert player.violations == []


async def test_a_refusal_carries_its_status_and_body(fake: FakeLectern):
    async with playing(fake) as player:
        for _ in range(2):
            await SimulatedPlayer.create(player.http, player.account, VIDEO)
        with pytest.raises(Refused) as refused:
            await SimulatedPlayer.create(player.http, player.account, VIDEO)
        assert refused.value.status == 409
        assert refused.value.body["code"] == "too_many_sessions"


async def test_waiting_in_vain_says_where_we_are(fake: FakeLectern):
    fake.silent = True
    async with playing(fake) as player:
        player.report(1.0)
        with pytest.raises(TimeoutError, match=r"an ack of 1: .* reported 1, acknowledged 0"):
            await player.until_acked(timeout_s=0.05)


def changed(kind: str, **members: Any) -> Any:
    return lambda message: {**message, **members} if message["type"] == kind else message


@pytest.mark.parametrize(
    ("twist", "seen"),
    [
        (changed("ack", seq=99), "ack.seq 99 was never sent"),
        (changed("ack", saved=3), "is above ack.seq"),
        (changed("ack", gaps=1), "ack.gaps is 1"),
        (changed("hello", seq=7), "hello.seq 7 was never sent"),
        (changed("decision", n=1), "decision.n 1 does not rise"),
    ],
)
async def test_a_lying_server_is_caught(fake: FakeLectern, twist: Any, seen: str):
    async with playing(fake) as player:
        fake.twist = twist
        for second in range(5):
            player.report(second)
        await player.until(lambda: any(seen in violation for violation in player.violations))


async def test_a_repeated_epoch_is_caught(fake: FakeLectern):
    fake.twist = changed("hello", epoch=1)
    async with playing(fake) as player:
        await player.until_connected()
        await player.cut()
        await player.until(lambda: player.reconnects == 1)
        assert "hello.epoch 1 does not rise above 1" in player.violations


async def test_a_server_that_forgot_what_it_acknowledged_is_caught(fake: FakeLectern):
    fake.save = False
    async with playing(fake) as player:
        for second in range(3):
            player.report(second)
        await player.until_acked()
        del fake.held().arrivals[1:]
        await player.cut()
        await player.until(lambda: player.reconnects == 1)
        assert "hello.seq 1 is below 3, which was acknowledged" in player.violations


async def test_a_frame_counted_twice_shows_in_the_folds(fake: FakeLectern):
    async with playing(fake) as player:
        player.report(1.0, segments=[{"br": 400, "bytes": 10, "ms": 5}])
        await player.until_saved()
        fake.held().arrivals[0]["segments"] *= 2
        assert await player.differences() == ["segments is 2, expected 1", "bytes is 20, expected 10"]


async def test_a_message_that_makes_no_sense_is_a_violation(fake: FakeLectern):
    async with playing(fake) as player:
        await player.until_connected()
        await fake.push({"type": "ack"})
        await player.until_stopped()
        assert player.stopped == "broken"
        assert "KeyError" in player.violations[0]

"""Three processes on the same Postgres and Redis, each on a port of its own, as on three hosts: they are one system."""

import asyncio
import itertools
import statistics
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
import asyncpg
import pytest
import pytest_asyncio

from embedded.valkey import Valkey
from tests.support.classroom import QUICK, classroom
from tests.support.core import eventually
from tests.support.lectures import Lecture, make_lecture
from tests.support.player import Account, Refused, SimulatedPlayer, call
from tests.support.server_process import ServerProcess
from tests.support.standing import STANDING, standing_dsn

__all__ = ["standing_dsn"]

pytestmark = [pytest.mark.timeout(150), STANDING]

PLAYING = {"sta": "p"}


@asynccontextmanager
async def three(
    dsn: str, redis_url: str, *settings: dict[str, str], **common: str
) -> AsyncIterator[list[ServerProcess]]:
    """Three processes that start at once; `settings` of the first ones, `common` of all (without LECTERN_)."""
    each = [{f"LECTERN_{name}": value for name, value in (common | own).items()} for own in (*settings, {}, {}, {})[:3]]
    async with AsyncExitStack() as stack:
        started = (stack.enter_async_context(ServerProcess(dsn, redis_url, own)) for own in each)
        yield await asyncio.gather(*started)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def standing(standing_dsn: str, valkey: Valkey) -> AsyncIterator[list[ServerProcess]]:
    """Three for all tests that leave them as they were. Their sweep is too rare to stand in for a nudge."""
    assert valkey.command("FLUSHALL") == b"+OK\r\n"
    async with three(standing_dsn, valkey.url, SESSIONS__SWEEP_S="15") as processes:
        yield processes


class Client:
    """A signed-in learner whose every request goes to another process than the one before."""

    def __init__(self, http: aiohttp.ClientSession, bases: list[str]) -> None:
        self.http = http
        self.bases: Iterator[str] = itertools.cycle(bases)
        self.token: str | None = None

    async def ask(self, method: str, path: str, body: Any = None, **more: Any) -> Any:
        return await call(self.http, method, next(self.bases) + path, body=body, **{"token": self.token, **more})


@asynccontextmanager
async def watching(
    http: aiohttp.ClientSession, lecture: Lecture, create_at: str, bases: list[str]
) -> AsyncIterator[SimulatedPlayer]:
    """A player of an account and session of its own; each opening goes to the next of `bases`."""
    account = await Account.register(http, create_at)
    body = {"course_id": str(lecture.course_id)}
    await call(http, "POST", f"{create_at}/api/enrollments", token=account.access_token, body=body)
    player = await SimulatedPlayer.create(http, account, str(lecture.video_id), base_urls=bases, backoff=QUICK)
    async with player:
        await player.until_connected()
        yield player


async def test_a_session_moves_freely_between_processes(standing: list[ServerProcess], standing_dsn: str) -> None:
    async with aiohttp.ClientSession() as http:
        lecture = await make_lecture(standing_dsn)
        bases = [process.base_url for process in standing]
        async with watching(http, lecture, bases[2], bases) as player:
            epochs = []
            for move in range(1, 8):
                for _ in range(5):
                    player.report(float(player.last_seq + 1), cmcd=PLAYING)
                await player.until_acked()
                assert player.last_hello is not None
                epochs.append(player.last_hello["epoch"])
                await player.cut()
                await player.until(lambda move=move: player.reconnects == move, what="the session to move")
                assert player.last_hello["seq"] == 5 * move, "what was acknowledged elsewhere is not known here"
            await player.until_saved()
            assert epochs == sorted(set(epochs))
            assert {event.data["base"] for event in player.events_of("opening")} == set(bases)
            for base in bases:
                assert await player.differences(base) == []
            assert player.violations == []


async def test_telemetry_by_rest_at_the_wrong_process_reaches_its_actor_and_kicks_no_live_socket(
    standing: list[ServerProcess], standing_dsn: str, record_property: Any
) -> None:
    """By nudges: the sweep that stands behind them is too rare here for more than one that a busy Redis lost."""
    async with aiohttp.ClientSession() as http:
        lecture = await make_lecture(standing_dsn)
        owner, *others = [process.base_url for process in standing]
        async with watching(http, lecture, owner, [owner]) as player:
            decided_ms, applied_ms = [], []
            path = f"/api/videos/sessions/{player.session_id}/network"
            # A network that recovers and collapses again and again, so that decisions change.
            networks = [(20_000, 20_000)] * 5 + [(400, 500)] * 2
            for seq, (kbps, buffer_ms) in enumerate(networks * 4, 1):
                base = others[seq % 2]
                before = len(player.events_of("decision"))
                frame = {"seq": seq, "position": float(seq), "cmcd": {"sta": "p", "mtp": kbps, "bl": buffer_ms}}
                began = time.monotonic()
                await call(http, "POST", base + path, token=player.token, body=frame, wanted=(202,))
                await player.until(lambda seq=seq: player.acked >= seq, what="the frame to be applied")
                applied_ms.append((time.monotonic() - began) * 1000)
                # A decision that changed goes out just before the acknowledgement.
                decided_ms += [(decision.at - began) * 1000 for decision in player.events_of("decision")[before:]]
            assert len(decided_ms) >= 4, "nothing of this reached the decision"
            record_property("rest_to_decision_ms_p50", round(statistics.median(decided_ms), 1))
            record_property("rest_to_decision_ms_max", round(max(decided_ms), 1))
            print(
                f"REST at the wrong process to the decision on the socket, {len(decided_ms)} times: "
                f"p50 {statistics.median(decided_ms):.1f} ms, max {max(decided_ms):.1f} ms; "
                f"to the ack p50 {statistics.median(applied_ms):.1f} ms"
            )
            assert player.close_codes() == []
            assert player.reconnects == 0
            assert (await player.get_session(others[0]))["claimed_by"] == "socket"


async def test_no_request_needs_to_come_back_to_the_process_of_the_one_before(
    standing: list[ServerProcess], standing_dsn: str
) -> None:
    async with aiohttp.ClientSession() as http:
        lecture = await make_lecture(standing_dsn)
        client = Client(http, [process.base_url for process in standing])
        person = {"username": "wanderer", "email": "w@example.org", "password": "walks from door to door"}
        signed = await client.ask("POST", "/api/auth/register", person)
        signed = await client.ask("POST", "/api/auth/login", {"login": "wanderer", "password": person["password"]})
        spent = signed["refresh_token"]
        signed = await client.ask("POST", "/api/auth/refresh", {"refresh_token": spent})
        with pytest.raises(Refused, match="401"):
            await client.ask("POST", "/api/auth/refresh", {"refresh_token": spent})
        client.token = signed["access_token"]
        assert (await client.ask("GET", "/api/auth/me"))["username"] == "wanderer"

        await client.ask("POST", "/api/enrollments", {"course_id": str(lecture.course_id)})
        mine = await client.ask("GET", "/api/enrollments/users/me")
        assert [row["course_id"] for row in mine["items"]] == [str(lecture.course_id)]

        session = await client.ask("POST", f"/api/videos/{lecture.video_id}/sessions", {})
        path = f"/api/videos/sessions/{session['session_id']}"
        for seq in range(1, 10):
            frame = {"seq": seq, "position": float(seq), "cmcd": PLAYING}
            told = await client.ask("POST", f"{path}/network", frame, token=session["token"])
            assert (told["accepted"], told["duplicates"]) == (1, 0)
        told = await client.ask("POST", f"{path}/network", frame, token=session["token"])
        assert (told["accepted"], told["duplicates"]) == (0, 1)

        account = Account(next(client.bases), "wanderer", person["password"], signed["user"]["id"], client.token)
        options = {"base_urls": [next(client.bases), next(client.bases)], "had_before": 9}
        async with SimulatedPlayer(http, account, session, **options) as player:
            assert (await player.until_connected())["seq"] == 9
            for seq in range(10, 16):
                player.report(float(seq), cmcd=PLAYING)
                frame = {"position": float(seq), "sta": "p"}  # a beacon beside the socket, somewhere
                await client.ask("PUT", f"{path}/progress", frame, token=session["token"])
            await player.until_saved()
            assert player.close_codes() == []
        for _ in standing:
            row = await client.ask("GET", path)
            assert (row["last_seq"], row["gaps"], row["position"]) == (15, 0, 15.0)
            progress = await client.ask("GET", f"/api/progress/courses/{lecture.course_id}")
            assert progress["resume"]["position"] == 15.0


async def test_the_limit_on_live_sessions_is_one_for_all_processes(
    standing: list[ServerProcess], standing_dsn: str
) -> None:
    async with aiohttp.ClientSession() as http:
        lecture = await make_lecture(standing_dsn)
        bases = [process.base_url for process in standing]
        account = await Account.register(http, bases[0])
        body = {"course_id": str(lecture.course_id)}
        await call(http, "POST", f"{bases[1]}/api/enrollments", token=account.access_token, body=body)

        async def begin(base: str) -> int:
            url = f"{base}/api/videos/{lecture.video_id}/sessions"
            headers = {"Authorization": f"Bearer {account.access_token}"}
            async with http.post(url, json={}, headers=headers) as answer:
                return answer.status

        statuses = await asyncio.gather(*(begin(base) for base in bases * 4))
        assert sorted(statuses) == [201] * 3 + [409] * 9


async def test_a_paused_lecture_is_not_reaped_while_its_owner_lives_and_a_suspended_one_goes_on_anywhere(
    postgres_dsn: str, redis_url: str
) -> None:
    quick = {"SESSIONS__GRACE_S": "0.1", "SESSIONS__REAPER_S": "0.1", "SESSIONS__SUSPEND_AFTER_S": "0.5"}
    async with (
        three(postgres_dsn, redis_url, **quick, SESSIONS__LIVE_WINDOW_S="0.1") as processes,
        aiohttp.ClientSession() as http,
    ):
        lecture = await make_lecture(postgres_dsn)
        bases = [process.base_url for process in processes]
        async with (
            watching(http, lecture, bases[0], bases[:1]) as paused,
            watching(http, lecture, bases[1], bases[1:]) as leaving,
        ):
            for player in (paused, leaving):
                player.report(1.0, cmcd=PLAYING)
                await player.until_saved()
            # The pause begins. Whoever is never opened is suspended, then ended, by any of the three.
            control = await SimulatedPlayer.create(http, leaving.account, str(lecture.video_id))

            async def status(player: SimulatedPlayer, wanted: str) -> bool:
                return bool((await player.get_session(bases[2]))["status"] == wanted)

            await eventually(lambda: status(control, "suspended"))
            sql = await asyncpg.connect(postgres_dsn)  # hours go by
            await sql.execute(
                "UPDATE video_sessions SET seen_at = now() - interval '2 hours' WHERE id = ANY ($1::uuid[])",
                [control.session_id, paused.session_id],
            )
            await sql.close()
            await eventually(lambda: status(control, "ended"))
            still = await paused.get_session(bases[2])
            assert (still["status"], still["epoch"], paused.close_codes()) == ("active", 1, [])

            await leaving.cut()  # away for a while: its next process takes it up, suspended or not
            await leaving.until(lambda: leaving.reconnects == 1, what="the session to go on")
            leaving.report(2.0, cmcd=PLAYING)
            paused.report(2.0, cmcd=PLAYING)
            await leaving.until_saved()
            await paused.until_saved()
            assert paused.reconnects == 0
            assert paused.violations + leaving.violations == []


async def test_a_suspended_session_is_taken_up_by_another_process(postgres_dsn: str, redis_url: str) -> None:
    quick = {"SESSIONS__GRACE_S": "0.1", "SESSIONS__REAPER_S": "0.1", "SESSIONS__SUSPEND_AFTER_S": "0.5"}
    async with three(postgres_dsn, redis_url, **quick) as processes, aiohttp.ClientSession() as http:
        lecture = await make_lecture(postgres_dsn)
        bases = [process.base_url for process in processes]
        async with watching(http, lecture, bases[0], bases[:1]) as first:
            first.report(7.0, cmcd=PLAYING)
            await first.until_saved()
            account, session = first.account, first.session

        async def suspended() -> bool:
            url = f"{bases[1]}/api/videos/sessions/{session['session_id']}"
            return bool((await call(http, "GET", url, token=account.access_token))["status"] == "suspended")

        await eventually(suspended, 20)
        async with SimulatedPlayer(http, account, session, base_urls=[bases[2]], had_before=1) as again:
            hello = await again.until_connected()
            assert (hello["seq"], hello["resume_position"]) == (1, 7.0)
            assert (await again.get_session(bases[1]))["status"] == "active"


async def test_what_one_of_three_held_when_it_was_killed_is_taken_over_by_the_others(
    postgres_dsn: str, redis_url: str
) -> None:
    """Also for players that never come back: their frames are in the streams, and in no checkpoint of the dead."""
    unsaving = {"SESSIONS__CHECKPOINT_S": "3600"}
    common = {"SESSIONS__GRACE_S": "1", "SESSIONS__REAPER_S": "0.5", "SESSIONS__PROCESS_ALIVE_S": "4"}
    async with three(postgres_dsn, redis_url, unsaving, **common) as processes, aiohttp.ClientSession() as http:
        lecture = await make_lecture(postgres_dsn)
        ids = {"course_id": str(lecture.course_id), "video_id": str(lecture.video_id)}
        bases = [process.base_url for process in processes]
        async with (
            classroom(bases[1:], **ids, players=6) as elsewhere,
            classroom(bases, **ids, players=6) as room,
            watching(http, lecture, bases[1], bases[:1]) as gone,
        ):
            elsewhere.play(40, 0.1)
            room.play(40, 0.1)
            for second in range(1, 9):
                gone.report(float(second), cmcd=PLAYING)
            await gone.until_acked()
            await room.until_all(lambda player: player.acked >= 8, "eight acknowledged frames")
            assert (await gone.get_session(bases[1]))["last_seq"] == 0, "the dead one's checkpoints have it already"

            await processes[0].kill9()
            await gone.leave()

            async def finished() -> bool:
                return bool((await gone.get_session(bases[1]))["last_seq"] == 8)

            await eventually(finished, 30)
            row = await gone.get_session(bases[2])
            assert (row["frames"], row["claimed_by"], row["watched_seconds"]) == (8, "reaper", 7.0)
            await room.finish()
            await elsewhere.finish()
            found = [difference for player in room.players for difference in await player.differences(bases[1])]
            assert found + [violation for player in room.players for violation in player.violations] == []
            assert await elsewhere.wrong() == []
            assert all(player.reconnects == 0 for player in elsewhere.players), "somebody else's session was taken"

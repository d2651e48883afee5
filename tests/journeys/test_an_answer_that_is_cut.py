"""An answer that is cut: by its learner's connection, by a kill -9 of the process that gives it, by a pause of it.

Two processes on the same Postgres and Redis, and one stand-in model that counts how often it was asked.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from embedded.valkey import Valkey
from tests.support.chat import ChatSocket, chatting_at, make_talking_lecture
from tests.support.core import eventually
from tests.support.language_model import LanguageModel, speaking
from tests.support.player import Account, call
from tests.support.server_process import ServerProcess

pytestmark = pytest.mark.timeout(120)

SAYS = " ".join(f"word{n}" for n in range(120))
QUICK = {
    "LECTERN_SESSIONS__GRACE_S": "0",
    "LECTERN_SESSIONS__REAPER_S": "0.2",
    "LECTERN_SESSIONS__PROCESS_ALIVE_S": "3",
    "LECTERN_CHAT__SWEEP_S": "0.3",
    "LECTERN_LIMITS__CHAT__RATE": "0",
}


@dataclass
class Stage:
    """Two processes, a learner of theirs, and the model behind them."""

    processes: list[ServerProcess]
    http: aiohttp.ClientSession
    account: Account
    model: LanguageModel

    def chat(self, process: int) -> Any:
        """A socket of the learner's at one of them."""
        base = self.processes[process].base_url
        return chatting_at(self.http, base, str(self.account.user_id), self.account.access_token)

    async def history(self, process: int) -> list[dict[str, Any]]:
        """What was said, newest first."""
        path = f"{self.processes[process].base_url}/api/chat/history/{self.account.user_id}"
        items: list[dict[str, Any]] = (await call(self.http, "GET", path, token=self.account.access_token))["items"]
        return items


@pytest.fixture
async def stage(postgres_dsn: str, redis_url: str) -> AsyncIterator[Stage]:
    async with staged(postgres_dsn, redis_url) as stage:
        yield stage


@asynccontextmanager
async def staged(postgres_dsn: str, redis_url: str) -> AsyncIterator[Stage]:
    async with AsyncExitStack() as stack:
        model = await stack.enter_async_context(speaking())
        model.behave(says=SAYS, token_ms=40)
        openai = {f"LECTERN_OPENAI__{name.upper()}": str(value) for name, value in model.settings.items()}
        made = [ServerProcess(postgres_dsn, redis_url, {**QUICK, **openai}) for _ in range(2)]
        processes = list(await asyncio.gather(*(stack.enter_async_context(process) for process in made)))
        lecture = await make_talking_lecture(postgres_dsn)
        http = await stack.enter_async_context(aiohttp.ClientSession())
        base = processes[0].base_url
        account = await Account.register(http, base)
        body = {"course_id": str(lecture.course_id)}
        await call(http, "POST", f"{base}/api/enrollments", token=account.access_token, body=body)
        yield Stage(processes, http, account, model)


def joined(turn: int, *sockets: ChatSocket) -> str:
    """What several sockets were told of a turn, one after the other; the parts must follow each other."""
    frames = [frame for socket in sockets for frame in socket.of("delta", turn)]
    numbers = [frame["chunk"] for frame in frames]
    assert all(after == before + 1 for before, after in itertools.pairwise([0, *numbers])), numbers
    return "".join(frame["text"] for frame in frames)


async def test_a_learner_who_is_cut_goes_on_elsewhere_at_the_right_chunk_and_stops_from_there(
    stage: Stage,
) -> None:
    async with stage.chat(0) as first:
        turn = await first.ask("What is a queue?")
        await first.until("delta", chunk=5)
    async with AsyncExitStack() as stack:
        with stage.model.holding_its_breath():
            second = await stack.enter_async_context(stage.chat(1))
            assert second.frames[0]["turn"] == turn
            await second.say("resume", turn=turn, chunk=first.chunks(turn)[-1])
        done = await second.until("done")
        assert done["stopped"] is False
        assert joined(turn, first, second) == SAYS
        assert await second.ask("What is a queue?") == turn, "the same id is the same turn, here too"
        assert stage.model.calls == 1
        async with stage.chat(0) as other:
            turn = await second.ask("And a stack?", "m2")
            await other.until("delta", turn=turn)
            await other.say("stop", id="m2")
            for socket in (second, other):
                assert (await socket.until("done", turn=turn))["stopped"] is True
            assert second.text(turn) == other.text(turn) != SAYS


async def test_a_kill_9_in_mid_answer_leaves_a_retryable_turn_with_its_text_and_one_call_of_the_model(
    stage: Stage,
) -> None:
    async with stage.chat(1) as watching:
        async with stage.chat(0) as asking:
            turn = await asking.ask("What is a queue?")
            await asking.until("delta", chunk=5)
            await stage.processes[0].kill9()
        failed = await watching.until("failed", timeout_s=40)
        assert (failed["turn"], failed["code"], failed["retryable"]) == (turn, "interrupted", True)
        said = watching.text(turn)
        assert said.startswith(joined(turn, asking))
        assert SAYS.startswith(said)
        assert len(said) < len(SAYS)

        async with stage.chat(1) as again:
            await again.say("resume", turn=turn, chunk=asking.chunks(turn)[-1])
            await again.until("failed", turn=turn)
            assert joined(turn, asking, again) == said
        tutor, learner = await stage.history(1)
        assert (tutor["message"], tutor["status"], learner["message"]) == (said, "failed", "What is a queue?")
        assert stage.model.calls == 1

        stage.model.behave(token_ms=0)
        retried = await watching.ask("What is a queue?", "m2", retry_of=turn)
        await watching.until("done", turn=retried)
        assert joined(retried, watching) == SAYS
        assert stage.model.calls == 2


async def test_after_a_kill_9_the_same_key_by_rest_asks_again_as_soon_as_the_process_is_known_to_be_dead(
    stage: Stage,
) -> None:
    async def ask(process: int) -> tuple[int, dict[str, Any]]:
        url = f"{stage.processes[process].base_url}/api/chat/message"
        headers = {"Authorization": f"Bearer {stage.account.access_token}", "Idempotency-Key": "one"}
        async with stage.http.post(url, json={"message": "What is a queue?"}, headers=headers) as answer:
            return answer.status, await answer.json()

    async with stage.chat(1) as watching:
        asking = asyncio.create_task(ask(0))
        turn = (await watching.until("accepted"))["turn"]
        await watching.until("delta", chunk=5)
        await stage.processes[0].kill9()
        with pytest.raises(aiohttp.ClientError):
            await asking
        stage.model.behave(token_ms=0)

        while (answer := await ask(1))[0] != 200:
            # At a machine that stands still the lease may be over before the process is known to be dead.
            assert (answer[1]["code"], answer[1].get("turn")) in {
                ("idempotency_key_in_use", None),
                ("turn_failed", turn),
            }
            await asyncio.sleep(0.1)
        status, body = answer
        assert (status, body["text"], body["turn"]) == (200, SAYS, turn + 1)
    assert stage.model.calls == 2


async def test_a_process_that_was_paused_and_lost_its_turn_adds_nothing_to_it(stage: Stage) -> None:
    async with stage.chat(1) as watching:
        await stage.processes[0].until_ready()
        async with stage.chat(0) as asking:
            turn = await asking.ask("What is a queue?")
            await asking.until("delta", chunk=3)
            stage.processes[0].pause()
            try:
                await watching.until("failed", timeout_s=40)
                said = watching.text(turn)
            finally:
                stage.processes[0].resume()
            stage.model.behave(token_ms=0)
            retried = await watching.ask("And now?", "m2", retry_of=turn)
            await watching.until("done", turn=retried)
            assert joined(retried, watching) == SAYS

            async def whole() -> bool:
                items = [item for item in await stage.history(0) if not item["is_user"]]
                return [item["message"] for item in items] == [SAYS, said]

            await eventually(whole, 20)
            assert watching.text(turn) == said
            assert len(watching.of("failed", turn)) == 1
    assert stage.model.calls == 2


@pytest.mark.slow
async def test_a_process_that_is_told_to_stop_lets_an_answer_come_to_its_end(stage: Stage) -> None:
    stage.model.behave(says=" ".join(SAYS.split()[:60]))
    async with stage.chat(0) as asking, stage.chat(1) as other:
        turn = await asking.ask("What is a queue?")
        await asking.until("delta")
        assert await stage.processes[0].terminate() == 0
        assert (await asking.until("bye"))["code"] == 1012
        done = await other.until("done")
        assert (done["turn"], other.text(turn)) == (turn, " ".join(SAYS.split()[:60]))


async def test_a_turn_that_came_and_went_while_redis_was_away_is_told_to_the_other_devices_too(
    postgres_dsn: str, own_valkey: Valkey
) -> None:
    async with staged(postgres_dsn, own_valkey.url) as stage, stage.chat(0) as asking, stage.chat(1) as other:
        stage.model.behave(token_ms=0)
        own_valkey.stop()
        turn = await asking.ask("What is a queue?")
        await asking.until("done", turn=turn)
        own_valkey.start()
        assert (await other.until("accepted", turn=turn, timeout_s=60))["message"] == "What is a queue?"
        await other.until("done", turn=turn)
        assert joined(turn, other) == SAYS
        turn = await other.ask("And a stack?", "m2")
        await asking.until("done", turn=turn)
        assert joined(turn, asking) == SAYS

"""The conversations of one process, in virtual time: what becomes of answers when it stops."""

import asyncio
from typing import Any, cast

from actors.conversation.conversations import Conversations
from actors.conversation.turns import Question, Viewer
from server.config import Chat, Sessions
from tests.support.conversing import USER, Stage
from tests.support.virtual_time import run_virtually

FINISH_S = 3.0


def asked(ask_at_s: float, words: int) -> tuple[Any, float]:
    """A question by REST, so long after its process was told to stop (or before it); its turn's row, and when it was
    answered. The model says ten words a second."""
    stage = Stage(settings=Chat(chunk_ms=50, finish_s=FINISH_S))
    stage.model.words = ["word "] * words

    async def run() -> tuple[Any, float]:
        loop, nothing = asyncio.get_running_loop(), cast(Any, None)
        conversations = Conversations(nothing, stage.parts, nothing, Sessions(), nothing, nothing)
        drained_at = loop.time() + max(0.0, -ask_at_s)
        loop.call_at(drained_at, conversations.drain)
        await asyncio.sleep(max(0.0, ask_at_s))
        number = await conversations.ask(Viewer(USER, "student"), Question("m1", "What is a queue?"))
        row = await conversations.ended(USER, number)
        return row, loop.time() - drained_at

    return run_virtually(run())


def test_an_answer_that_is_over_in_time_comes_whole_from_a_process_that_is_told_to_stop() -> None:
    row, _ = asked(-1.0, words=35)
    assert (row["status"], row["text"]) == ("done", "word " * 35)


def test_whoever_waits_for_a_longer_one_is_told_in_time_that_it_may_be_asked_again() -> None:
    row, took_s = asked(-1.0, words=1000)
    assert (row["status"], row["code"], row["retryable"]) == ("failed", "interrupted", True)
    assert 35 <= row["text"].count("word") <= 40
    assert FINISH_S <= took_s < FINISH_S + 0.5


def test_a_question_that_comes_after_that_time_is_not_waited_for_either() -> None:
    row, took_s = asked(FINISH_S + 1, words=1000)
    assert (row["status"], row["code"], row["retryable"]) == ("failed", "interrupted", True)
    assert took_s < FINISH_S + 1.5

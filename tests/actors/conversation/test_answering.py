"""One answer in virtual time: whatever fails meanwhile, it is asked for once, told whole or kept as far as it came."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from actors.conversation.answering import NOTICE, Answering
from actors.conversation.state import fold
from server.data.answers import END, Entry
from server.data.db import PostgresAway
from server.services.outside import ServiceAway, ServiceLeftAlone, ServicePutsOff, ServiceSlow
from tests.support.conversing import Stage
from tests.support.virtual_time import run_virtually

TEXT = "one two three"


def answer(stage: Stage, meanwhile: Callable[[Answering], Any] | None = None, **more: Any) -> Any:
    """Run the answer to its end, with something happening 0.15 s after its beginning; the turn's row."""

    async def run() -> Any:
        answering = stage.answering(**more)
        running = asyncio.create_task(answering.run())
        if meanwhile is not None:
            await asyncio.sleep(0.15)
            meanwhile(answering)
        await running
        return answering.ended.result()

    return run_virtually(run())


def test_an_answer_is_streamed_chunk_by_chunk_and_ends_in_postgres_before_it_ends_in_the_stream() -> None:
    stage = Stage()
    row = answer(stage)
    assert (row["status"], row["text"], row["source"]) == ("done", TEXT, "model")
    ids = [entry[:2] for entry in stage.stream.entries]
    assert ids == [(1, 0), *((1, n) for n in range(1, len(ids) - 1)), (1, END)]
    assert stage.streamed == TEXT
    assert sum(row["chunks"]) == len(TEXT)
    assert stage.stream.end["message_id"] == str(row["message_id"])
    assert (stage.rows.outcomes[0].tokens, stage.rows.outcomes[0].micros) == (103, 103)
    assert fold(1, stage.stream.entries).text == TEXT


def test_words_that_come_faster_than_they_can_be_sent_go_together() -> None:
    stage = Stage()
    stage.model.words, stage.model.word_s = ["word "] * 100, 0.001
    row = answer(stage)
    assert row["text"] == "word " * 100
    assert len(row["chunks"]) <= 4


@pytest.mark.parametrize("unheard", [False, True])
def test_redis_may_be_away_in_mid_answer_and_no_chunk_is_lost_or_told_twice(unheard: bool) -> None:
    stage = Stage()
    stage.stream.unheard = unheard

    def cut(_: Answering) -> None:
        stage.stream.away = 4

    row = answer(stage, cut)
    assert row["text"] == TEXT
    assert stage.streamed == TEXT
    assert stage.stream.entries[-1].chunk == END


def test_while_redis_stays_away_the_answer_is_kept_and_whoever_listens_is_told_from_postgres() -> None:
    stage = Stage()
    stage.stream.away = 10_000
    row = answer(stage)
    assert (row["status"], row["text"]) == ("done", TEXT)
    assert stage.told == [True]


def test_whoever_waits_for_the_row_does_not_wait_for_redis() -> None:
    stage = Stage()
    stage.stream.away = 10_000

    async def run() -> float:
        loop, answering = asyncio.get_running_loop(), stage.answering()
        running, began = asyncio.create_task(answering.run()), loop.time()
        row = await answering.ended
        took_s = loop.time() - began
        assert row is not None
        assert row["text"] == TEXT
        await running
        return took_s

    assert run_virtually(run()) < 0.5, "the model takes 0.3 s"


def test_postgres_may_be_away_at_the_end() -> None:
    stage = Stage()
    stage.rows.away = 20
    assert answer(stage)["text"] == TEXT
    assert stage.stream.end["type"] == "done"


def test_without_its_material_nothing_is_asked_and_the_question_may_come_again() -> None:
    stage = Stage()
    stage.shelf.error = PostgresAway()
    row = answer(stage)
    assert (row["status"], row["code"], row["retryable"]) == ("failed", "database_unavailable", True)
    assert stage.model.asked == []
    assert stage.rows.outcomes[0].tokens == 0


@pytest.mark.parametrize(
    ("error", "costs"),
    [
        (ServiceAway("x"), True),
        (ServiceSlow("x"), True),
        (ServicePutsOff("x"), False),
        (ServiceLeftAlone("x", 1), False),
    ],
)
def test_a_model_that_fails_before_its_first_word_is_replaced_by_the_material(error: Any, costs: bool) -> None:
    stage = Stage()
    stage.model.error = error
    row = answer(stage)
    assert (row["status"], row["source"]) == ("done", "transcript")
    assert row["text"].startswith(NOTICE)
    assert row["citations"][0]["quote"] in "A queue gives back what came first."
    assert len(stage.model.asked) == 1
    assert bool(stage.rows.outcomes[0].tokens) is costs


def test_a_model_that_says_nothing_is_replaced_too_and_what_it_took_is_charged_and_told() -> None:
    stage = Stage()
    stage.model.words = ["", "  "]
    row = answer(stage)
    assert (row["source"], row["prompt_tokens"], row["completion_tokens"]) == ("transcript", 100, 3)
    assert stage.rows.outcomes[0].tokens == 103


def test_without_a_budget_no_model_is_asked() -> None:
    stage = Stage()
    assert answer(stage, may_ask=False)["source"] == "transcript"
    assert stage.model.asked == []


def test_a_model_that_breaks_off_leaves_what_it_said_and_is_not_asked_again() -> None:
    stage = Stage()
    stage.model.error, stage.model.fails_after = ServiceAway("x"), 2
    row = answer(stage)
    assert (row["status"], row["code"], row["retryable"], row["text"]) == ("failed", "model_failed", True, "one two ")
    assert len(stage.model.asked) == 1
    assert stage.rows.outcomes[0].tokens > 0


def test_who_stops_keeps_what_was_said_and_the_model_stops_too() -> None:
    stage = Stage()
    row = answer(stage, Answering.stop)
    assert (row["status"], row["text"]) == ("stopped", "one ")
    assert (stage.model.given_up, stage.stream.end["stopped"]) == (1, True)


def test_a_process_that_stops_leaves_a_turn_that_may_be_asked_again() -> None:
    row = answer(Stage(), Answering.interrupt)
    assert (row["status"], row["code"], row["retryable"], row["text"]) == ("failed", "interrupted", True, "one ")


def test_who_has_lost_the_turn_falls_silent_at_the_next_word() -> None:
    """The heir has written the end; Redis refuses what comes after it, and Postgres the old epoch."""
    stage = Stage()

    def take_over(_: Answering) -> None:
        stage.rows.epoch = 2
        stage.stream.entries.append(Entry(1, END, b'{"type":"failed"}'))

    assert answer(stage, take_over) is None
    assert stage.model.given_up == 1
    assert stage.rows.outcomes == []
    assert stage.stream.entries[-1].content == b'{"type":"failed"}'


def test_what_somebody_else_adds_to_the_stream_stops_no_answer() -> None:
    stage = Stage()

    def disturb(_: Answering) -> None:
        stage.stream.entries.append(Entry(1_796_085_965_000, 0, b""))

    row = answer(stage, disturb)
    assert (row["status"], row["text"]) == ("done", "one two three")
    assert stage.stream.end["message_id"] == str(row["message_id"])


def test_a_turn_that_was_deleted_meanwhile_is_told_to_have_gone_and_its_words_go_too() -> None:
    stage = Stage()

    def delete(answering: Answering) -> None:
        stage.rows.exists = False
        answering.stop()

    assert answer(stage, delete) is None
    assert [entry.chunk for entry in stage.stream.entries] == [END]
    assert (stage.stream.end["code"], stage.stream.end["retryable"]) == ("deleted", False)


def test_what_cannot_be_kept_is_left_out_of_an_answer() -> None:
    stage = Stage()
    stage.model.words = ["a\0b", "\ud83d", "c"]
    assert answer(stage)["text"] == "ab?c"

"""What sockets are told: every part of an answer once and in order, from wherever they begin, however they come."""

import asyncio
from typing import Any, cast
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.conversation.actor import Conversation, Listener
from actors.conversation.state import TurnState, apply, fold, rest_of
from actors.conversation.turns import Outcome, Turns
from server.data.answers import END, Answers, Entry
from tests.support.conversing import USER, Ear, Stage
from tests.support.virtual_time import run_virtually

PARTS = st.lists(st.text(min_size=1, max_size=4), min_size=1, max_size=12)


def entries_of(texts: list[str], turn: int = 1) -> list[Entry]:
    parts = [Entry(turn, number, text.encode()) for number, text in enumerate(texts, 1)]
    return [Entry(turn, 0, b'{"type":"accepted"}'), *parts, Entry(turn, END, b'{"type":"done"}', len(texts))]


@given(PARTS, st.integers(0, 12))
def test_what_a_client_has_and_the_rest_of_it_are_the_whole_answer(texts: list[str], after: int) -> None:
    state = fold(1, entries_of(texts))
    had = "".join(texts[:after])
    rest = rest_of(state.text, state.chunks, after)
    assert had + "".join(text for _, text in rest) == state.text
    assert [number for number, _ in rest] == list(range(after + 1, len(texts) + 1))


@given(PARTS, st.data())
def test_a_turn_is_the_same_however_often_its_entries_come(texts: list[str], data: Any) -> None:
    state = TurnState(1)
    for entry in entries_of(texts):
        apply(state, entry)
        for again in data.draw(st.lists(st.sampled_from(entries_of(texts)), max_size=3)):
            if again.chunk <= len(state.chunks):
                assert not apply(state, again)
    assert (state.text, state.end) == ("".join(texts), b'{"type":"done"}')
    assert not apply(state, Entry(1, len(texts) + 1, b"a zombie's"))


async def converse(stage: Stage, ears: dict[Ear, tuple[int, int]], late: Ear | None = None) -> None:
    """Answer, with ears from these cursors on, and maybe one that resumes from chunk 1 in mid-answer."""
    conversation = Conversation(USER, cast(Turns, stage.rows), cast(Answers, stage.stream))
    for ear, cursor in ears.items():
        conversation.listeners.add(Listener(ear, cursor))

    def tell(lost: bool) -> None:
        conversation.wake()
        if lost:
            told.append(asyncio.create_task(conversation.catch_up()))

    told: list[asyncio.Task[None]] = []
    running = asyncio.create_task(stage.answering(tell=tell).run())
    await asyncio.sleep(0.25)
    if late is not None:
        listener = Listener(late, (1, END - 1))
        conversation.listeners.add(listener)
        listener.follow(1, 1)
        conversation.wake()
    await running
    await asyncio.sleep(5)
    conversation.close()


def test_every_socket_is_told_the_same_and_one_that_comes_late_from_where_it_was() -> None:
    one, other, late, new = Ear(), Ear(), Ear(), Ear()
    stage = Stage()
    run_virtually(converse(stage, {one: (0, END), other: (0, END), new: (1, END - 1)}, late))
    assert one.frames == other.frames
    assert one.kinds == ["accepted", "delta", "done"]
    assert one.text == "one two three"
    assert late.frames == [frame for frame in one.frames if frame["type"] == "done" or frame.get("chunk", 0) > 1]
    assert new.kinds == ["done"], "who has not resumed is told the end alone"


def test_a_stream_that_lost_its_beginning_is_made_whole_from_postgres_at_the_end() -> None:
    ear, stage = Ear(), Stage()

    async def lose() -> None:
        async with asyncio.timeout(30):
            work = asyncio.create_task(converse(stage, {ear: (0, END)}))
            await asyncio.sleep(0.12)
            ear.frames.clear()
            stage.stream.entries.clear()
            stage.stream.entries.append(Entry(1, 1, b""))
            await work

    run_virtually(lose())
    assert ear.frames[-1]["type"] == "done"
    assert "one two three".endswith(ear.text)
    assert ear.chunks == sorted(set(ear.chunks))


def test_with_redis_away_all_of_it_is_told_at_the_end() -> None:
    ear, stage = Ear(), Stage()

    class Away:
        async def read_after(self, *_: Any) -> list[Entry]:
            raise ConnectionError

    async def run() -> None:
        conversation = Conversation(USER, cast(Turns, stage.rows), cast(Answers, Away()))
        listener = Listener(ear, (0, END))
        conversation.listeners.add(listener)
        listener.follow(1, 0)
        conversation.wake()
        stage.stream.away = 10_000
        await stage.answering(tell=lambda _: conversation.wake()).run()
        await conversation.catch_up()
        conversation.close()

    run_virtually(run())
    assert (ear.kinds, ear.text) == (["delta", "done"], "one two three")


def test_what_came_and_went_while_redis_was_away_is_told_once_to_those_who_did_not_ask_either() -> None:
    ear, stage = Ear(), Stage()

    async def run() -> None:
        conversation = Conversation(USER, cast(Turns, stage.rows), cast(Answers, stage.stream))
        conversation.listeners.add(Listener(ear, (0, END)))
        stage.stream.away = 10_000
        running = asyncio.create_task(stage.answering(tell=lambda _: conversation.wake()).run())
        await asyncio.sleep(0.25)
        await conversation.tell_missed(1)
        assert ear.frames == [], "it still runs"
        await running
        for _ in range(2):
            await conversation.tell_missed(1)
        stage.stream.away, stage.stream.entries = 0, entries_of(["late"])
        conversation.wake()
        await asyncio.sleep(1)
        conversation.close()

    run_virtually(run())
    assert (ear.kinds, ear.text) == (["accepted", "delta", "done"], "one two three")
    assert ear.frames[0]["message"] == "What is a queue?"


@pytest.mark.parametrize("asks", [False, True])
def test_a_turn_that_was_missed_when_the_next_came_is_told_after_that(asks: bool) -> None:
    ear, stage = Ear(), Stage()

    async def run() -> None:
        conversation = Conversation(USER, cast(Turns, stage.rows), cast(Answers, stage.stream))
        await stage.rows.finish(UUID(int=1), 1, Outcome("done", "one two ", [4, 4]))
        next_one = entries_of(["three"], turn=2)
        stage.stream.entries += next_one[:-1]
        listener = Listener(ear, (0, END))
        conversation.listeners.add(listener)
        if asks:
            listener.follow(2, 0)
        conversation.wake()
        await asyncio.sleep(1)
        await conversation.catch_up()
        assert ear.text == "three", "one answer at a time"
        stage.stream.entries += next_one[-1:]
        for _ in range(2):
            conversation.wake()
            await asyncio.sleep(1)
        conversation.close()
        assert not listener.waits_for

    run_virtually(run())
    told = ["accepted", "delta", "done", "accepted", "delta", "done"]
    assert (ear.kinds, ear.text) == (told[asks:], "threeone two ")


@pytest.mark.parametrize("cursor", [(1, END), (1, 3)], ids=["nothing", "an end"])
def test_while_redis_is_away_it_is_asked_again_by_those_alone_who_wait_for_something(cursor: tuple[int, int]) -> None:
    """Thousands of open pages are no reason to log, and to knock at Redis, thousands of times a second."""
    asked, stage = [], Stage()

    class Away:
        async def read_after(self, *_: Any) -> list[Entry]:
            asked.append(1)
            raise ConnectionError

    async def run() -> None:
        conversation = Conversation(USER, cast(Turns, stage.rows), cast(Answers, Away()))
        conversation.listeners.add(Listener(Ear(), cursor))
        conversation.wake()
        await asyncio.sleep(10)
        assert (len(asked) > 30) is (cursor != (1, END))
        conversation.wake()
        await asyncio.sleep(0.1)
        assert len(asked) >= 2, "it can be woken again"
        conversation.close()

    run_virtually(run())
    assert len(asked) == 2 or cursor != (1, END)


def test_what_redis_did_not_take_before_the_end_is_told_before_it() -> None:
    """Redis stands still while the model ends: what it was sent already it takes in time, what waited it does not."""
    ear, stage = Ear(), Stage()
    stage.stream.unheard = True

    async def stand_still() -> None:
        work = asyncio.create_task(converse(stage, {ear: (0, END)}))
        await asyncio.sleep(0.15)
        stage.stream.away = 15
        await work

    run_virtually(stand_still())
    assert stage.streamed == "one two ", "the rest was never in the stream"
    assert (ear.kinds, ear.text) == (["accepted", "delta", "done"], "one two three")
    assert ear.chunks == [1, 2, 3]


@given(PARTS, st.sets(st.integers(1, 12)))
def test_a_hole_in_the_stream_is_never_told_over(texts: list[str], lost: set[int]) -> None:
    ear = Ear()
    listener = Listener(ear, (0, END))
    for entry in entries_of(texts):
        if entry.chunk not in lost:
            listener.take(entry)
            listener.take(entry)
    whole = not lost & set(range(1, len(texts) + 1))
    assert ear.text == "".join(texts[: min({*lost, len(texts) + 1}) - 1])
    assert (ear.kinds[-1] == "done") is whole
    assert (not listener.waits_for) is whole


def test_an_end_that_says_nothing_is_told_when_the_row_has_it() -> None:
    follower, other, stage = Ear(), Ear(), Stage()

    async def run() -> None:
        conversation = Conversation(USER, cast(Turns, stage.rows), cast(Answers, stage.stream))
        stage.stream.entries += [*entries_of(["one ", "two "])[:-1], Entry(1, END, b"", 2)]
        for ear, cursor in ((follower, (0, END)), (other, (1, END - 1))):
            conversation.listeners.add(Listener(ear, cursor))
        conversation.wake()
        await asyncio.sleep(1)
        assert (follower.kinds, other.kinds) == (["accepted", "delta"], [])
        outcome = Outcome("failed", "one two ", [4, 4], "interrupted", True)
        await stage.rows.finish(UUID(int=1), stage.rows.epoch, outcome)
        conversation.wake()
        await asyncio.sleep(1)
        conversation.close()

    run_virtually(run())
    assert (follower.kinds, follower.text) == (["accepted", "delta", "failed"], "one two ")
    assert other.kinds == ["failed"]
    assert follower.frames[-1] == other.frames[-1]
    assert follower.frames[-1]["retryable"] is True


@pytest.mark.parametrize("end", [[Entry(1, END, b"", 2)], []], ids=["says nothing", "came too late"])
def test_the_end_of_a_turn_is_told_also_when_the_next_has_begun_meanwhile(end: list[Entry]) -> None:
    follower, other, asker, stage = Ear(), Ear(), Ear(), Stage()

    async def run() -> None:
        conversation = Conversation(USER, cast(Turns, stage.rows), cast(Answers, stage.stream))
        await stage.rows.finish(UUID(int=1), 1, Outcome("failed", "one two ", [4, 4], "interrupted", True))
        first, second = entries_of(["one ", "two "]), entries_of(["three"], turn=2)
        stage.stream.entries += [*first[:-1], *end, second[0]]
        asking = Listener(asker, (0, END))
        asking.follow(1, 1)
        asking.follow(2, 0)
        conversation.listeners |= {Listener(follower, (0, END)), Listener(other, (1, END - 1)), asking}
        conversation.wake()
        await asyncio.sleep(1)
        stage.stream.entries += second[1:]
        conversation.wake()
        await asyncio.sleep(1)
        conversation.close()

    run_virtually(run())
    assert follower.kinds == ["accepted", "delta", "accepted", "failed", "delta", "done"]
    assert other.kinds == ["accepted", "failed", "delta", "done"]
    assert asker.kinds == ["delta", "failed", "delta", "done"]
    assert (follower.text, other.text, asker.text) == ("one two three", "three", "two three")
    for ear in (follower, other, asker):
        assert [frame["turn"] for frame in ear.frames if frame["type"] == "failed"] == [1]


def test_who_resumes_a_turn_that_is_over_by_then_is_told_its_rest_and_nothing_of_the_next_again() -> None:
    ear, stage = Ear(), Stage()

    async def run() -> None:
        conversation = Conversation(USER, cast(Turns, stage.rows), cast(Answers, stage.stream))
        await stage.rows.finish(UUID(int=1), 1, Outcome("done", "one two ", [4, 4]))
        stage.stream.entries += [*entries_of(["one ", "two "]), *entries_of(["three"], turn=2)]
        listener = Listener(ear, (2, 0))
        conversation.listeners.add(listener)
        listener.follow(1, 1)
        conversation.wake()
        await asyncio.sleep(1)
        conversation.close()

    run_virtually(run())
    for turn in (1, 2):
        assert [frame["type"] for frame in ear.frames if frame.get("turn", 2) == turn] == ["delta", "done"]
    assert ear.text == "threetwo "

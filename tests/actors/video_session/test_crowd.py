"""Many sessions decided at once are told the very same as each by itself."""

from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.video_session.crowd import FEW, decide_many
from actors.video_session.messages import Rung, Telemetry, parse_rest_frame
from actors.video_session.quality import QualityState, Question, decide, obeys_late, observe

LADDERS = (
    [Rung(0, 300, 426, 240), Rung(1, 800, 640, 360), Rung(2, 1600, 960, 540), Rung(3, 3200, 1280, 720)],
    [Rung(rung, br) for rung, br in enumerate((300, 750, 1200, 1850, 2850, 4300))],
    [Rung(0, 700)],
)

SEGMENT = st.fixed_dictionaries(
    {"br": st.sampled_from([0, 300, 800, 1600, 3200]), "bytes": st.integers(0, 4_000_000), "ms": st.floats(0, 60_000),
     "ttfb_ms": st.floats(0, 3000)}
)  # fmt: skip
FRAME = st.fixed_dictionaries(
    {
        "position": st.just(1.0),
        "segments": st.lists(SEGMENT, max_size=2),
        "cmcd": st.fixed_dictionaries(
            {},
            optional={
                "bl": st.one_of(st.integers(0, 40_000), st.just([])), "d": st.sampled_from([2000, 4000, 6000]),
                "pr": st.sampled_from([0, 0.1, 1, 2, 8]), "bs": st.booleans(), "mtp": st.integers(0, 20_000),
                "tbl": st.sampled_from([0, 6000, 45_000, [60_000], 600_000]),
            },
        ),
    },
    optional={"viewport": st.sampled_from([(640, 360), (1280, 720), (0, 0)]), "dropped_frames": st.integers(0, 60)},
)  # fmt: skip
VIEWING = st.tuples(
    st.sampled_from(LADDERS),
    st.booleans(),
    st.sampled_from([None, 20.0, 45.0, 3000.0]),
    st.lists(FRAME.map(parse_rest_frame), max_size=8),
)


def seen(viewing: Any, frames: int) -> Question:
    ladder, save_data, length_s, reports = viewing
    state = QualityState()
    question = Question(state, ladder, save_data=save_data, length_s=length_s)
    for report in reports[:frames]:
        observe(state, report)
        decide(question)
    for report in reports[frames:]:
        observe(state, report)
    return question


@settings(max_examples=60, deadline=None)
@given(st.lists(VIEWING, min_size=1, max_size=6), st.integers(0, 8))
def test_the_answers_are_those_of_each_by_itself(viewings: list[Any], decided: int) -> None:
    alone = [seen(viewing, decided) for viewing in viewings]
    crowd = [seen(viewing, decided) for viewing in viewings for _ in range(FEW)]
    for question in alone:
        decide(question)
    decide_many(crowd)
    assert [question.state for question in crowd] == [each.state for each in alone for _ in range(FEW)]


@pytest.mark.parametrize("ladder", LADDERS)
def test_a_crowd_that_differs_in_all_numbers_is_decided_as_each(ladder: list[Rung]) -> None:
    crowd = [Question(QualityState(shortfall=0.0 if number % 3 else 0.2), ladder) for number in range(64)]
    for seq in range(20):
        for number, question in enumerate(crowd):
            observe(question.state, report(seq, number))
        alone = [Question(deepcopy(question.state), ladder) for question in crowd]
        decide_many(crowd)
        for question in alone:
            decide(question)
        assert [question.state for question in crowd] == [question.state for question in alone]


@pytest.mark.parametrize("left", [1, 3, 5, 7, 9, 10, 12, 13, 15])
def test_players_that_obey_late_are_decided_as_each(left: int) -> None:
    ladder = LADDERS[0]
    crowd = [Question(QualityState(), ladder, length_s=400.0) for _ in range(64)]
    late = 0
    for seq in range(20):
        for number, question in enumerate(crowd):
            state = question.state
            told = report(seq, number)
            told.position = 400.0 - 4.0 * left - number / 16
            told.cmcd.buffer_length_ms = 100.0 * number
            if number % 2 and state.stood_kbps:  # it obeys the decision before the last one
                told.segments[0].br = state.stood_kbps
            observe(state, told)
            late += obeys_late(state)
        alone = [Question(deepcopy(question.state), ladder, length_s=400.0) for question in crowd]
        decide_many(crowd)
        for question in alone:
            decide(question)
        assert [question.state for question in crowd] == [question.state for question in alone]
    assert late > 100


def report(seq: int, number: int) -> Telemetry:
    """Good and bad by turns, at another moment for each."""
    good = (seq + number) // 7 % 2
    ms = 300 + 7 * number if good else 2500 + 90 * number
    segment = {"br": (300, 800, 1600, 3200)[(seq + number) % 4], "bytes": 400_000, "ms": ms, "ttfb_ms": 5 * number}
    cmcd = {"bl": (1731 * (seq + number)) % 30_000, "d": 4000, "pr": 2 if number % 5 == 0 else 1, "bs": number % 9 == 0}
    cmcd["tbl"] = 1000 * (number + 3 * seq)
    return parse_rest_frame({"position": 1.0, "cmcd": cmcd, "segments": [segment]})

"""Tables are small, whole and read right; a belief is a few numbers that follow the samples."""

from array import array
from itertools import pairwise
from math import exp

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.video_session.lookahead import TABLES, Axes, Belief, Table, dump, load, table_for, tables, transfer_kbps

KBPS = st.floats(1, 1_000_000)


def small_table(values: array) -> Table:
    axes = Axes([-1.0, 1.0], [0.1, 0.5], [-1.0, 0.0], [-1.0, 0.0], [0.25, 1.0], [0.0, 10.0])
    return Table(axes, 4.0, 0.07, 0.5, [values])


def numbered() -> array:
    return array("h", range(2**6))


def test_the_tables_file_is_small() -> None:
    assert TABLES.stat().st_size < 3_000_000


def test_every_length_of_segment_has_a_table_and_every_table_a_length() -> None:
    assert [table_for(seconds).segment_s for seconds in (0.5, 2, 3.9, 6, 10)] == [4, 4, 4, 6, 6]
    assert [table.segment_s for table in tables()] == [4, 6]


def test_what_is_written_is_what_is_read() -> None:
    axes = small_table(numbered()).axes
    tables = [{"segment_s": 4.0, "sizes": [64]}]
    about = {"axes": axes._asdict(), "rtt_s": 0.07, "unit": 0.5, "floor": -3.0, "tables": tables}
    (table,) = load(dump(about, [numbered()]))
    assert (table.axes, table.segment_s, table.floor, list(table.horizon(None))) == (axes, 4.0, -3.0, list(range(64)))


def test_values_are_read_between_levels_buffers_and_bitrates() -> None:
    table = small_table(numbered())
    # Newest as the level was, deviation 0.1, drift as large: gap and deviation 0, character 1 (nearest of -1 and 0).
    belief = Belief(1 / 1000, 999.0, 0.1, 0.1, 5)
    steps = table.steps((500.0, 2000.0))
    level = (1000 / 2000 - exp(-1)) / (1 - exp(-1))
    expected = [0.5 * (8 + 4 * level + 0.5), 0.5 * (8 + 4 * level + 2 + 0.5)]
    assert table.worth(table.horizon(9), belief, 1.0, steps, [5.0, 5.0]) == pytest.approx(expected)
    between = table.worth(table.horizon(9), belief, 1.0, table.steps((1000.0, 2000.0)), [5.0, 5.0])[0]
    assert expected[0] < between < expected[1]


def test_every_second_below_an_empty_buffer_counts_as_a_stall() -> None:
    table = small_table(numbered())
    belief = Belief(1 / 1000, 1000.0, 0.1, 0.1, 5)
    empty, short = (table.worth(table.horizon(9), belief, 1.0, table.steps((2000.0,)), [b])[0] for b in (0.0, -3.0))
    assert short == empty - 3


@given(st.lists(KBPS, min_size=1, max_size=40), st.floats(-100, 100), st.floats(0.25, 4))
def test_whatever_was_measured_there_is_a_value(samples: list[float], buffer_s: float, rate: float) -> None:
    belief = Belief()
    for kbps in samples:
        belief.learn(kbps)
    for table in tables():
        steps = table.steps((1.0, 300.0, 4300.0, 50_000.0))
        for remaining in (None, -1, 0, 1, 7, 1000):
            values = table.worth(table.horizon(remaining), belief, rate, steps, [buffer_s] * 4)
            assert all(abs(value) < 1000 for value in values)


@given(st.lists(KBPS, min_size=1, max_size=60))
def test_the_level_stays_within_what_was_measured(samples: list[float]) -> None:
    belief = Belief()
    for kbps in samples:
        belief.learn(kbps)
    assert min(samples) * 0.999 <= 1 / belief.inverse_kbps <= max(samples) * 1.001
    assert belief.newest_kbps == samples[-1]


def test_a_network_that_stays_where_it_jumps_is_told_from_one_that_returns() -> None:
    jumps, returns = Belief(), Belief()
    for number in range(40):
        jumps.learn(3000 if number // 8 % 2 else 600)
        returns.learn(600 if number % 8 == 7 else 3000)
    assert jumps.drift / jumps.deviation < 0.6 < returns.drift / returns.deviation


def test_what_if_changes_nothing() -> None:
    belief = Belief()
    belief.learn(1000)
    then = belief.after(100)
    assert (belief.samples, belief.newest_kbps, then.samples, then.newest_kbps) == (1, 1000, 2, 100)


def test_the_wait_for_the_first_byte_is_not_throughput_but_never_all_of_it() -> None:
    assert transfer_kbps(125_000, 1500, 500) == pytest.approx(1000)
    assert transfer_kbps(125_000, 1000, 1000) == pytest.approx(5000)


@pytest.mark.parametrize("seconds", [4, 6])
def test_more_buffer_or_a_faster_network_is_never_worth_less(seconds: float) -> None:
    table = table_for(seconds)
    steps = table.steps((300.0, 1200.0, 4300.0))
    for deviation in (0.05, 0.3):
        worths = [
            [
                table.worth(table.horizon(None), Belief(1 / kbps, kbps, deviation, deviation, 20), 1.0, steps, [b] * 3)
                for b in (2, 6, 12, 24)
            ]
            for kbps in (700, 1500, 3000, 6000)
        ]
        for rung in range(3):
            for slower, faster in pairwise(worths):
                assert all(a[rung] <= b[rung] + 0.1 for a, b in zip(slower, faster, strict=True))
            for row in worths:
                assert [w[rung] for w in row] == sorted(w[rung] for w in row)

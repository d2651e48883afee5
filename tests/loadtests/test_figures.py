"""Latencies are told within one per cent, and what several processes counted adds up."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests.figures import Figures, Histogram


@given(st.lists(st.floats(0.02, 60_000), min_size=1, max_size=200), st.sampled_from([0.5, 0.95, 0.99]))
def test_a_percentile_is_right_within_one_per_cent(samples: list[float], share: float):
    histogram = Histogram()
    for ms in samples:
        histogram.add(ms)
    exact = sorted(samples)[max(1, -(-round(share * 100) * len(samples) // 100)) - 1]
    assert histogram.percentile(share) == pytest.approx(exact, rel=0.0101)


def test_no_samples_have_no_percentile():
    assert Histogram().percentile(0.5) is None


def counted(ms: float) -> Figures:
    figures = Figures()
    figures.timed("ack", ms)
    figures.counts.update(sessions=1, frames=30, acks=1)
    figures.seconds = 10.0
    return figures


def test_what_processes_tell_each_other_adds_up():
    figures = counted(1.0)
    figures.merge(Figures(json.loads(json.dumps(counted(100.0).as_told()))))
    told = figures.summary()
    assert (told["sessions"], told["frames"], told["frames_per_s"]) == (2, 60, 6.0)
    assert told["ack_ms"]["p50"] == pytest.approx(1.0, rel=0.01)
    assert told["ack_ms"]["p99"] == pytest.approx(100.0, rel=0.01)


def test_a_run_without_errors_has_not_failed():
    assert not counted(1.0).failed


@pytest.mark.parametrize("count", ["lost", "twice", "unsaved"])
def test_a_frame_lost_or_counted_twice_is_a_failure(count: str):
    figures = counted(1.0)
    figures.counts[count] += 1
    assert figures.failed


def test_an_error_is_a_failure_and_is_named_in_the_table():
    figures = counted(1.0)
    figures.went_wrong("closed 4503")
    assert figures.failed
    assert "1 x closed 4503" in figures.table()


def test_nothing_at_all_is_a_failure():
    assert Figures().failed
    assert "sessions               0" in Figures().table()


def test_a_load_generator_that_was_late_says_so():
    figures = counted(1.0)
    figures.counts["late"] = 3
    assert "too busy" in figures.table()

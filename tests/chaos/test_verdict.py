"""Every kind of breach makes a verdict fail."""

import pytest

from tests.chaos.verdict import Verdict, line, percentile, row


def test_a_scenario_in_which_nothing_happened_to_anybody_is_fine():
    verdict = Verdict("quiet", players=3, frames=30, resumes_s=[0.1] * 99 + [9.0], recoveries_s=[4.9])
    assert verdict.breaches() == []
    assert line(row(verdict)).endswith("ok")


@pytest.mark.parametrize(
    ("verdict", "said"),
    [
        (Verdict("s", lost=2), "2 frames lost"),
        (Verdict("s", twice=1), "1 frames counted twice"),
        (Verdict("s", violations=["hello.seq 3 is below 4"]), "hello.seq 3 is below 4"),
        (Verdict("s", resumes_s=[0.1] * 90 + [3.2] * 10), "p99 of resuming is 3.2 s"),
        (Verdict("s", recoveries_s=[0.2, 5.4]), "recovery took 5.4 s"),
    ],
)
def test_a_breach_is_told(verdict: Verdict, said: str):
    assert verdict.breaches() == [said]
    assert line(row(verdict)).endswith("BREACH")


def test_a_busy_machine_is_no_breach_where_timings_do_not_count():
    assert Verdict("s", resumes_s=[9.0], recoveries_s=[30.0]).breaches(timings=False) == []


def test_many_breaches_of_a_kind_are_told_a_few_times_and_counted():
    told = Verdict("s", violations=[f"frames is {n}, expected 9" for n in range(20)]).breaches()
    assert len(told) == 6
    assert told[-1] == "... and 15 more like this"


def test_frames_too_few_are_lost_and_too_many_were_counted_twice():
    verdict = Verdict("s")
    for expected, known in ((10, 7), (10, 12), (10, 10)):
        verdict.count({"frames": expected}, {"frames": known})
    assert (verdict.frames, verdict.lost, verdict.twice) == (30, 3, 2)


@pytest.mark.parametrize(("values", "p99"), [([], None), ([4.0], 4.0), ([float(n) for n in range(1, 201)], 198.0)])
def test_a_percentile_is_a_value_that_was_seen(values: list[float], p99: float | None):
    assert percentile(values, 0.99) == p99

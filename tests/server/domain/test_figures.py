"""The sums that analytics are made of, and what is read out of them."""

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.video_session import quality
from actors.video_session.figures import REASONS
from server.domain import figures

delays = st.lists(st.floats(1, 86_400_000) | st.integers(0, 5_000), min_size=1, max_size=60)


def counted(values: list[float]) -> dict[int, int]:
    counts: dict[int, int] = {}
    for value in values:
        counts[figures.bucket_of(value)] = counts.get(figures.bucket_of(value), 0) + 1
    return counts


@given(st.floats(1, 86_400_000))
def test_a_bucket_stands_for_its_values_within_a_percent(value: float) -> None:
    assert figures.value_of(figures.bucket_of(value)) == pytest.approx(value, rel=figures.ACCURACY * 1.0001)


@given(delays)
def test_quantiles_are_those_of_the_values_within_a_percent(values: list[float]) -> None:
    ordered = sorted(values)
    for share in (0.5, 0.95):
        place = share * (len(ordered) - 1)
        low, high = ordered[math.floor(place)], ordered[math.ceil(place)]
        exact = low + (high - low) * (place - math.floor(place))
        assert figures.quantile(counted(values), share) == pytest.approx(exact, rel=0.0101, abs=1)
    assert figures.quantile(counted(values), 0.5) == pytest.approx(statistics.median(values), rel=0.0101, abs=1)


def test_of_nothing_nothing_is_said_and_nothing_divided() -> None:
    shown = figures.report({}, [{"rung": 0, "br": 300}], REASONS)
    assert shown["startup_ms"] == {"p50": None, "p95": None}
    assert (shown["completion"], shown["rebuffer_ratio"], shown["mean_bitrate_kbps"]) == (None, None, None)
    assert (shown["views"], shown["retention"], shown["decisions_by_reason"]) == (0, [0.0] * 100, {})


def test_every_reason_has_its_place_and_slots_do_not_overlap() -> None:
    assert set(quality.REASONS) <= set(REASONS)
    assert len(set(REASONS)) == len(REASONS) <= figures.MOST_REASONS
    assert figures.RUNGS + figures.MOST_RUNGS <= figures.REASONS
    assert figures.REASONS + figures.MOST_REASONS <= figures.VIEWERS < figures.PERCENTS
    assert figures.STARTUPS + figures.bucket_of(86_400_000) < 2**15

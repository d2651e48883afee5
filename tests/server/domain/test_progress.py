"""Seconds in, milliseconds kept, seconds out."""

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain.progress import LONGEST_MS, NotAPosition, covered_ms, parse_position, parse_range, show_progress


@dataclass
class Stretch:
    """A range as Postgres gives it."""

    lower: int | None
    upper: int | None


@given(st.integers(0, LONGEST_MS))
def test_a_position_to_the_millisecond_is_kept_exactly(ms: int) -> None:
    assert parse_position(ms / 1000) == ms


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_any_number_is_a_position_or_refused(seconds: float) -> None:
    try:
        ms = parse_position(seconds)
    except NotAPosition:
        return
    assert 0 <= ms <= LONGEST_MS


@pytest.mark.parametrize("seconds", [-0.001, math.nan, math.inf, -math.inf, 0.0001, 1.23456])
def test_what_is_no_place_in_a_lecture_is_refused(seconds: float) -> None:
    with pytest.raises(NotAPosition):
        parse_position(seconds)


def test_a_range_may_be_empty_but_not_reversed() -> None:
    assert parse_range((1.5, 1.5)) == (1500, 1500)
    assert parse_range((0, 1e12)) == (0, LONGEST_MS)
    for pair in ((2, 1), (1e12, 1e11), (1,), (1, 2, 3), (-1, 1)):
        with pytest.raises(NotAPosition):
            parse_range(pair)


def test_watched_seconds_are_floored_and_ranges_exact() -> None:
    now = datetime.now(UTC)
    row: dict[str, Any] = {
        "user_id": 1, "lecture_id": 2, "watched_ranges": [Stretch(0, 1500), Stretch(2001, 2500)],
        "position_ms": 2500, "completed": False, "completed_at": None, "last_watched_at": now, "created_at": now,
        "updated_at": now,
    }  # fmt: skip
    shown = show_progress(row)
    assert shown["watched_duration"] == 1
    assert shown["watched_ranges"] == [[0.0, 1.5], [2.001, 2.5]]
    assert shown["position"] == 2.5
    assert covered_ms([]) == 0
    assert covered_ms([Stretch(None, 5)]) == 5

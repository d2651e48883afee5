"""What a learner has watched: ranges of a lecture, kept in whole milliseconds, shown in seconds.

The rules that unite ranges and complete a lecture are in the database (`record_progress`), where no two writers can
pass each other; here is what turns a client's numbers into rows and rows into what a client sees.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

# The longest lecture that can be; what lies past it is past every lecture's end.
LONGEST_S = 1_000_000
LONGEST_MS = LONGEST_S * 1000


class Range(Protocol):
    """Half-open, in milliseconds, as Postgres gives a range."""

    @property
    def lower(self) -> int | None: ...

    @property
    def upper(self) -> int | None: ...


class NotAPosition(ValueError):
    """The number is no place in a lecture; str() says why."""


def parse_position(seconds: float) -> int:
    """Milliseconds of a position in seconds with at most three decimals. Raises NotAPosition."""
    if not math.isfinite(seconds) or seconds < 0:
        raise NotAPosition("must be a number of seconds, 0 or more")
    if round(seconds, 3) != seconds:
        raise NotAPosition("must have at most three decimals")
    return round(min(seconds * 1000, LONGEST_MS))


def parse_range(pair: Sequence[float]) -> tuple[int, int]:
    """Milliseconds (from, to) of a range in seconds. Raises NotAPosition."""
    if len(pair) != 2:
        raise NotAPosition("must be a pair [from, to]")
    start, end = parse_position(pair[0]), parse_position(pair[1])
    if pair[1] < pair[0]:
        raise NotAPosition("must not end before it starts")
    return start, end


def covered_ms(ranges: Iterable[Range]) -> int:
    """The total length of ranges that do not overlap (a multirange's never do)."""
    return sum((r.upper or 0) - (r.lower or 0) for r in ranges)


def show_progress(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of `progress` in seconds: positions and ranges to the millisecond, `watched_duration` floored."""
    ranges: list[Range] = row["watched_ranges"]
    return {
        "user_id": row["user_id"],
        "lecture_id": row["lecture_id"],
        "watched_duration": covered_ms(ranges) // 1000,
        "watched_ranges": [[(r.lower or 0) / 1000, (r.upper or 0) / 1000] for r in ranges],
        "position": row["position_ms"] / 1000,
        "completed": row["completed"],
        "completed_at": row["completed_at"],
        "last_watched_at": row["last_watched_at"],
        "created_at": row["created_at"],
        "updated_at": row["updated_at"],
    }

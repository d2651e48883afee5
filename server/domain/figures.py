"""What a video's analytics are made of: sums, each in a slot of its own, that sessions contribute to.

A session's contribution is a list of whole numbers and the percents of the video that it covered; a video's figures of
a day are the sums of its sessions' contributions, kept as one row per slot. What is shown is worked out of the sums on
reading. Slots are stored: they never change their meaning, new ones take free numbers.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

# A session's slots, which are the places in its list.
SESSIONS, STARTS, VIEWS, COMPLETIONS, WATCHED_MS, PLAYED_MS, REWINDS, STALLS, STALL_MS, SWITCHES = range(10)
# Time for which the bitrate is known, what was shown in it, and which bucket the start-up delay falls in (0: unknown).
SHOWN_MS, SHOWN_KBIT, STARTUP = range(10, 13)
RUNGS, MOST_RUNGS = 16, 16
REASONS, MOST_REASONS = 32, 32
# Of a video alone.
VIEWERS = 64
PERCENTS = 100
STARTUPS = 1000

# A session is a view when so much was watched, or half of a video that is shorter than twice that.
VIEW_MS = 10_000
# One session moves a video's sums by no more time than this, whatever its player tells: playing, stalling, starting.
MOST_PLAYED_MS, MOST_STALL_MS, MOST_STARTUP_MS = 86_400_000, 3_600_000, 600_000

# Start-up delays are counted in buckets whose bounds grow by `_GAMMA`, so that a quantile is off by `ACCURACY` at most:
# Masson, Rim, Lee, "DDSketch: a fast and fully-mergeable quantile sketch with relative-error guarantees", VLDB 2019.
ACCURACY = 0.01
_GAMMA = (1 + ACCURACY) / (1 - ACCURACY)
_LOG_GAMMA = math.log(_GAMMA)


def bucket_of(value_ms: float) -> int:
    """The bucket of a delay, from 1; the first holds all below 1 ms."""
    return 1 if value_ms < 1 else 2 + math.ceil(math.log(value_ms) / _LOG_GAMMA)


def value_of(bucket: int) -> float:
    """The value that stands for a bucket's, in ms: none of them is further from it than `ACCURACY`, as a share."""
    return 0.0 if bucket <= 1 else 2 * _GAMMA ** (bucket - 2) / (_GAMMA + 1)


def quantile(counts: Mapping[int, int], share: float) -> float | None:
    """The quantile of what was counted by bucket, between neighbours in proportion; None of nothing."""
    place = share * (sum(counts.values()) - 1)
    if place < 0:
        return None
    buckets = sorted(counts)
    low, high = (_value_at(counts, buckets, index) for index in (math.floor(place), math.ceil(place)))
    return low + (high - low) * (place - math.floor(place))


def _value_at(counts: Mapping[int, int], buckets: Sequence[int], index: int) -> float:
    for bucket in buckets:
        index -= counts[bucket]
        if index < 0:
            return value_of(bucket)
    raise IndexError(index)


def is_view(watched_ms: int, length_ms: int | None) -> bool:
    """Whether so much of a video counts as a view: 10 s, or half of it."""
    return watched_ms >= VIEW_MS or bool(length_ms and 2 * watched_ms >= length_ms)


def report(sums: Mapping[int, int], ladder: Sequence[Mapping[str, Any]], reasons: Sequence[str]) -> dict[str, Any]:
    """What an instructor is shown of a video's sums by slot.

    Args:
        ladder: the video's, lowest rung first.
        reasons: of decisions, in the order of their slots.

    Times are seconds where the name says nothing else; what cannot be said of nothing is None.
    """
    get = sums.get
    starts, views = get(STARTS, 0), get(VIEWS, 0)
    startups = {slot - STARTUPS: count for slot, count in sums.items() if slot > STARTUPS and count > 0}
    played_ms, stall_ms, shown_ms = get(PLAYED_MS, 0), get(STALL_MS, 0), get(SHOWN_MS, 0)
    return {
        "sessions": get(SESSIONS, 0),
        "starts": starts,
        "views": views,
        "unique_viewers": get(VIEWERS, 0),
        "watch_time": get(WATCHED_MS, 0) / 1000,
        "play_time": played_ms / 1000,
        "completions": get(COMPLETIONS, 0),
        "completion": _share(get(COMPLETIONS, 0), views),
        "retention": [_share(get(PERCENTS + percent, 0), starts) or 0.0 for percent in range(100)],
        "rewinds": get(REWINDS, 0),
        "startup_ms": {"p50": quantile(startups, 0.5), "p95": quantile(startups, 0.95)},
        "stalls": get(STALLS, 0),
        "stall_time": stall_ms / 1000,
        "rebuffer_ratio": _share(stall_ms, stall_ms + played_ms),
        "mean_bitrate_kbps": None if shown_ms <= 0 else get(SHOWN_KBIT, 0) * 1000 / shown_ms,
        "time_per_rung": [
            {**rung, "seconds": get(RUNGS + min(place, MOST_RUNGS - 1), 0) / 1000} for place, rung in enumerate(ladder)
        ],
        "switches": get(SWITCHES, 0),
        "decisions_by_reason": {
            reason: count for place, reason in enumerate(reasons) if (count := get(REASONS + place, 0))
        },
    }


def _share(part: int, whole: int) -> float | None:
    return None if whole <= 0 else part / whole

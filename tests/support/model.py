"""What the server must know of a session, told by the plainest means from the frames that it was sent.

This is a second opinion: it shares no code with the server, keeps every frame and every range, and sorts them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

FOLDS = (
    "frames",
    "last_seq",
    "segments",
    "bytes",
    "position",
    "watched_seconds",
    "stalls",
    "stall_ms",
    "startup_ms",
    "switches",
    "gaps",
)
GREATEST_SEQ = 2**53 - 1
FURTHEST_AHEAD = 100_000
LONGEST_PLAY_MS = 60_000
# Positions are kept in milliseconds: two answers may differ by the rounding of one, not by one.
TOLERANCE = 0.0006

Frame = Mapping[str, Any]


def applied_frames(arrivals: Iterable[Frame]) -> list[Frame]:
    """Those of `arrivals` (in the order in which they came) that change something: the rest are duplicates.

    A frame without `seq` (a beacon) is always new. Raises ValueError for a frame that no server may take.
    """
    applied: list[Frame] = []
    highest = 0
    for frame in arrivals:
        seq = frame.get("seq")
        if seq is None:
            applied.append(frame)
            continue
        if not 1 <= seq <= min(GREATEST_SEQ, highest + FURTHEST_AHEAD):
            raise ValueError(f"seq {seq} after {highest} is an offence, not history")
        if seq > highest:
            applied.append(frame)
            highest = seq
    return applied


def expected_folds(arrivals: Iterable[Frame]) -> dict[str, Any]:
    """Every member of FOLDS, from frames in the order in which they came, duplicates among them or not.

    Seconds are floats, `position` is None before the first frame and `startup_ms` before the first `msd`.
    """
    frames = applied_frames(arrivals)
    seqs = [frame["seq"] for frame in frames if frame.get("seq") is not None]
    cmcds = [frame.get("cmcd") or {} for frame in frames]
    segments = [segment for frame in frames for segment in frame.get("segments") or ()]
    starts = [first(cmcd["msd"]) for cmcd in cmcds if cmcd.get("msd") is not None]
    bitrates = [first(cmcd["br"]) for cmcd in cmcds if cmcd.get("br") is not None]
    last_seq = max(seqs, default=0)
    return {
        "frames": len(frames),
        "last_seq": last_seq,
        "segments": len(segments),
        "bytes": sum(segment.get("bytes") or 0 for segment in segments),
        "position": float(frames[-1]["position"]) if frames else None,
        "watched_seconds": covered_ms(played_ranges(frames)) / 1000,
        "stalls": sum(1 for cmcd in cmcds if cmcd.get("bs")),
        "stall_ms": sum(total(cmcd["bsd"]) for cmcd in cmcds if cmcd.get("bsd") is not None),
        "startup_ms": starts[0] if starts else None,
        "switches": sum(1 for before, after in pairwise(bitrates) if before != after),
        "gaps": last_seq - len(seqs),
    }


def played_ranges(frames: list[Frame]) -> list[tuple[int, int]]:
    """[from, to] in milliseconds for each pair of neighbours between which the lecture was played, not sought."""
    ranges = []
    for before, after in pairwise(frames):
        start, end = milliseconds(before["position"]), milliseconds(after["position"])
        if (after.get("cmcd") or {}).get("sta", "p") == "p" and 0 <= end - start <= LONGEST_PLAY_MS:
            ranges.append((start, end))
    return ranges


def covered_ms(ranges: Iterable[tuple[int, int]]) -> int:
    """Length of the union of `ranges`."""
    covered, reached = 0, 0
    for start, end in sorted(ranges):
        covered += max(0, end - max(start, reached))
        reached = max(reached, end)
    return covered


def milliseconds(seconds: float) -> int:
    """Seconds as whole milliseconds."""
    return round(seconds * 1000)


def first(value: Any) -> Any:
    """The first of a CMCD list, or the number itself."""
    return value[0] if isinstance(value, list) else value  # the first is the main media object's


def total(value: Any) -> Any:
    """The sum of a CMCD list, or the number itself."""
    return sum(value) if isinstance(value, list) else value


def differences(expected: Mapping[str, Any], answer: Mapping[str, Any]) -> list[str]:
    """What `GET /api/videos/sessions/{id}` answered otherwise than expected: one sentence each, none when all agree."""
    found = []
    for name in FOLDS:
        if name == "position" and not expected["frames"]:
            continue  # nothing was reported: whatever the player resumes from is right
        if name not in answer:
            found.append(f"{name} is missing")
        elif not same(expected[name], answer[name]):
            found.append(f"{name} is {answer[name]!r}, expected {expected[name]!r}")
    if answer.get("saved_seq") != answer.get("last_seq"):
        found.append(f"saved_seq {answer.get('saved_seq')!r} is not last_seq {answer.get('last_seq')!r}")
    return found


def same(expected: Any, answered: Any) -> bool:
    """Equal, for floats to the rounding of a millisecond."""
    if expected is None or answered is None or isinstance(expected, int):
        return bool(expected == answered)
    return math.isclose(expected, answered, rel_tol=0, abs_tol=TOLERANCE)


# A video's analytics -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Watched:
    """One session: who watched, on which day it was made, and what its player sent."""

    user: Any
    day: Any
    frames: list[Frame]


def audience(sessions: Iterable[Watched], length_ms: int, ladder: Sequence[float]) -> dict[str, Any]:
    """What an instructor must be told of these sessions, by looking at every millisecond that they watched."""
    each = [(session, _told(session.frames, length_ms, ladder)) for session in sessions]
    told = [figures for _, figures in each]
    starts, views = _sum(told, "start"), _sum(told, "view")
    shown_ms = sum(sum(figures["rungs"]) for figures in told)
    played_ms, stall_ms = _sum(told, "played_ms"), _sum(told, "stall_ms")
    return {
        "sessions": len(told),
        "starts": starts,
        "views": views,
        "unique_viewers": len({session.user for session, figures in each if figures["view"]}),
        "watch_time": _sum(told, "watched_ms") / 1000,
        "play_time": played_ms / 1000,
        "completions": _sum(told, "complete"),
        "completion": _sum(told, "complete") / views if views else None,
        "retention": [sum(p in figures["percents"] for figures in told) / max(starts, 1) for p in range(100)],
        "rewinds": _sum(told, "rewinds"),
        "startups": sorted(figures["startup_ms"] for figures in told if figures["startup_ms"] is not None),
        "stalls": _sum(told, "stalls"),
        "stall_time": stall_ms / 1000,
        "rebuffer_ratio": stall_ms / (stall_ms + played_ms) if stall_ms + played_ms else None,
        "mean_bitrate_kbps": _sum(told, "kbps_ms") / shown_ms if shown_ms else None,
        "rung_seconds": [sum(figures["rungs"][rung] for figures in told) / 1000 for rung in range(len(ladder))],
        "switches": _sum(told, "switches"),
    }


def _sum(told: list[dict[str, Any]], name: str) -> Any:
    return sum(figures[name] for figures in told)


def _told(frames: list[Frame], length_ms: int, ladder: Sequence[float]) -> dict[str, Any]:
    """One session's part in it."""
    known = expected_folds(frames)
    watched = [(start, min(end, length_ms)) for start, end in played_ranges(frames) if start < length_ms]
    watched_ms = covered_ms(watched)
    rungs, kbps_ms, played_ms, rewinds = [0.0] * len(ladder), 0.0, 0.0, 0
    bitrate, rate = None, 1.0
    for index, frame in enumerate(frames):
        cmcd = frame.get("cmcd") or {}
        bitrate = first(cmcd["br"]) if "br" in cmcd else bitrate
        rate = cmcd.get("pr") or rate
        if index == 0:
            continue
        step_ms = milliseconds(frame["position"]) - milliseconds(frames[index - 1]["position"])
        rewinds += step_ms <= -1000
        if cmcd.get("sta", "p") == "p" and 0 < step_ms <= LONGEST_PLAY_MS:
            played_ms += step_ms / rate
            if bitrate is not None:
                rungs[min(range(len(ladder)), key=lambda n: (abs(ladder[n] - bitrate), -n))] += step_ms / rate
                kbps_ms += bitrate * step_ms / rate
    return {
        "start": watched_ms > 0 or known["startup_ms"] is not None
        or any((frame.get("cmcd") or {}).get("sta") == "p" for frame in frames)
        or any(start < end for start, end in played_ranges(frames)),
        "view": watched_ms >= 10_000 or 2 * watched_ms >= length_ms,
        "complete": 10 * watched_ms >= 9 * length_ms,
        "watched_ms": watched_ms, "played_ms": played_ms, "rewinds": rewinds, "rungs": rungs, "kbps_ms": kbps_ms,
        "percents": {
            percent for percent in range(100) for start, end in watched
            if start < end and 100 * start < (percent + 1) * length_ms and 100 * end > percent * length_ms
        },
        **{name: known[name] for name in ("stalls", "stall_ms", "startup_ms", "switches")},
    }  # fmt: skip

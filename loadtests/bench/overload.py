"""More players than a process can serve: who is let in, how those inside fare, and how soon others are taken again."""

from __future__ import annotations

from itertools import pairwise
from statistics import median
from typing import Any

from loadtests.bench.learners import make_sessions
from loadtests.bench.stage import Stage

# Sockets that come a second, and how often each reports: with five reports a second a few thousand are too many.
RAMP, PERIOD_S = 300, 0.2
# Then this share of those inside leaves.
LEAVING_SHARE = 0.5


def measure(stage: Stage, *, sessions: int, seconds: float) -> dict[str, Any]:
    """`sessions` players come in turn for as long as there are any; after two thirds of the time half of them leave."""
    lectern = stage.lectern()
    targets = stage.targets(make_sessions(stage.postgres.dsn, sessions).targets)
    drop_at_s = seconds * 2 / 3
    *each, _ = stage.measure(
        "ws", lectern, targets=targets, ramp=RAMP, period_s=PERIOD_S, warm_s=0, seconds=seconds,
        drop_at_s=drop_at_s, drop=LEAVING_SHARE,
    )  # fmt: skip
    return {**judge(each, drop_at_s), "p99_ms by second": [round(second["p99_ms"], 1) for second in each]}


def judge(each: list[dict[str, Any]], drop_at_s: float) -> dict[str, Any]:
    """What the seconds say: `refused`, `lost` and `shed` count from the start, all else is of the second."""
    loaded = [second for second in each if second["at_s"] <= drop_at_s]
    first = next((second for second in loaded if second["refused"]), None)
    found: dict[str, Any] = {"sockets at most": max(second["live"] for second in each), "refused": each[-1]["refused"]}
    if first is None:
        return {**found, "saturated": False, "seconds": each}
    before = [second for second in loaded if second["at_s"] < first["at_s"]][-2:]
    after = [second for second in loaded if second["at_s"] >= first["at_s"]]
    saturated_ms = max((second["p99_ms"] for second in before), default=0.0)
    usual_ms, worst_ms = (f([second["p99_ms"] for second in after]) for f in (median, max))
    left = [second for second in each if second["at_s"] > drop_at_s]
    taking = (second for before, second in pairwise([loaded[-1], *left]) if second["live"] > before["live"])
    taken_s = next((second["at_s"] for second in taking), None)
    return {
        **found,
        "saturated": True,
        "frames_per_s": max(second["frames"] for second in loaded),
        "p99_ms at saturation": saturated_ms,
        "p99_ms beyond it": usual_ms,
        "ratio": round(usual_ms / saturated_ms, 2) if saturated_ms else None,
        "p99_ms of the worst second beyond it": worst_ms,
        "ratio of the worst second": round(worst_ms / saturated_ms, 2) if saturated_ms else None,
        "lost": each[-1]["lost"],
        "others are in after, s": None if taken_s is None else round(taken_s - drop_at_s, 1),
    }

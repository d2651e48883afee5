"""What a scenario showed, and whether it is good enough."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

RESUME_S = 3.0
RECOVER_S = 5.0
SHOWN = 5


@dataclass
class Verdict:
    """One scenario's. `lost` and `twice` count frames over all players; times are seconds."""

    scenario: str
    players: int = 0
    frames: int = 0
    lost: int = 0
    twice: int = 0
    violations: list[str] = field(default_factory=list)
    resumes_s: list[float] = field(default_factory=list)
    recoveries_s: list[float] = field(default_factory=list)

    @property
    def resume_p99_s(self) -> float | None:
        """None where no player had to resume."""
        return percentile(self.resumes_s, 0.99)

    @property
    def recovery_s(self) -> float | None:
        """The longest."""
        return max(self.recoveries_s, default=None)

    def count(self, expected: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
        """Compare what must be known of a session with what is."""
        missing = expected["frames"] - answer["frames"]
        self.frames += expected["frames"]
        self.lost += max(0, missing)
        self.twice += max(0, -missing)

    def breaches(self, *, timings: bool = True) -> list[str]:
        """What was promised and not kept; without `timings` what a busy machine cannot be the reason of."""
        found = [f"{self.lost} frames lost"] if self.lost else []
        found += [f"{self.twice} frames counted twice"] if self.twice else []
        found += told_once(self.violations)
        if timings and (p99 := self.resume_p99_s) is not None and p99 > RESUME_S:
            found.append(f"p99 of resuming is {p99:.1f} s")
        if timings and (longest := self.recovery_s) is not None and longest > RECOVER_S:
            found.append(f"recovery took {longest:.1f} s")
        return found


def percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that `share` of them do not exceed."""
    return sorted(values)[math.ceil(share * len(values)) - 1] if values else None


def told_once(violations: Sequence[str]) -> list[str]:
    """A few of each kind (numbers and ids make no difference), and how many more there are."""
    kinds = Counter(map(_kind, violations))
    shown: Counter[str] = Counter()
    found = []
    for violation in violations:
        kind = _kind(violation)
        shown[kind] += 1
        if shown[kind] <= SHOWN:
            found.append(violation)
        elif shown[kind] == SHOWN + 1:
            found.append(f"... and {kinds[kind] - SHOWN} more like this")
    return found


def _kind(violation: str) -> str:
    return re.sub(r"[0-9a-f-]*[0-9][0-9a-f-]*", "#", violation)


HEAD = ("scenario", "players", "frames", "lost", "twice", "violations", "resume p99", "recovery", "")


def row(verdict: Verdict, *, timings: bool = True) -> tuple[str, ...]:
    """A line of the table."""
    p99, longest = verdict.resume_p99_s, verdict.recovery_s
    return (
        verdict.scenario,
        str(verdict.players),
        str(verdict.frames),
        str(verdict.lost),
        str(verdict.twice),
        str(len(verdict.violations)),
        "-" if p99 is None else f"{p99:.2f} s",
        "-" if longest is None else f"{longest:.2f} s",
        "BREACH" if verdict.breaches(timings=timings) else "ok",
    )


WIDTHS = (24, 7, 7, 5, 5, 10, 10, 9, 6)


def line(cells: Sequence[str]) -> str:
    """One line of the table, names to the left and figures to the right."""
    return "  ".join(
        cell.ljust(width) if index == 0 else cell.rjust(width)
        for index, (cell, width) in enumerate(zip(cells, WIDTHS, strict=True))
    )

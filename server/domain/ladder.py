"""The ladder of a video: its renditions as rungs, lowest first."""

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median
from typing import Any


@dataclass(frozen=True, slots=True)
class Rendition:
    """One variant of a manifest; bit/s and pixels, 0 where the manifest does not tell."""

    bits_per_s: int
    width: int
    height: int


def make_ladder(renditions: Iterable[Rendition]) -> list[dict[str, Any]]:
    """`[{"rung", "br", "width", "height"}]`, `br` in kbit/s, rung 0 the lowest.

    A manifest names a rendition once per audio group; here it is one rung.
    """
    distinct = sorted(set(renditions), key=lambda r: (r.bits_per_s, r.height))
    return [
        {"rung": rung, "br": round(r.bits_per_s / 1000), "width": r.width, "height": r.height}
        for rung, r in enumerate(distinct)
    ]


def segment_length(durations_s: Iterable[float]) -> float | None:
    """The usual length of a segment in seconds (the last one is often shorter); None when there is none."""
    lengths = [d for d in durations_s if d > 0]
    return round(median(lengths), 3) if lengths else None

"""What a run measured: counts, and latencies as histograms that can be merged, kept small and told exactly enough."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

RESOLUTION = 1.02  # neighbouring buckets differ by 2 %, so a percentile is right within 1 %
SMALLEST_MS = 0.01
LATENCIES = ("hello", "ack", "saved", "decision")
MOST_ERRORS_SHOWN = 12


class Histogram:
    """Milliseconds in logarithmic buckets."""

    def __init__(self, buckets: Mapping[str, int] | None = None) -> None:
        self.buckets = Counter({int(bucket): count for bucket, count in (buckets or {}).items()})

    def add(self, ms: float) -> None:
        """Count one sample."""
        self.buckets[math.floor(math.log(max(ms, SMALLEST_MS) / SMALLEST_MS, RESOLUTION))] += 1

    @property
    def count(self) -> int:
        """How many samples there are."""
        return self.buckets.total()

    def percentile(self, share: float) -> float | None:
        """The value (ms) that `share` (0..1) of the samples do not exceed; None without samples."""
        wanted = max(1, math.ceil(share * self.count))
        for bucket in sorted(self.buckets):
            wanted -= self.buckets[bucket]
            if wanted <= 0:
                return float(SMALLEST_MS * RESOLUTION ** (bucket + 0.5))
        return None


class Figures:
    """Everything one process of the run counted. `counts` has sessions, frames, acks, decisions, reconnects, lost,
    twice, unsaved and late (frames); `errors` counts by what went wrong."""

    def __init__(self, told: Mapping[str, Any] | None = None) -> None:
        told = told or {}
        self.counts = Counter(told.get("counts", {}))
        self.errors = Counter(told.get("errors", {}))
        self.latencies = {name: Histogram(told.get("latencies", {}).get(name)) for name in LATENCIES}
        self.seconds = float(told.get("seconds", 0.0))

    def clear(self) -> None:
        """Forget what was counted; the time stays."""
        self.counts.clear()
        self.errors.clear()
        for histogram in self.latencies.values():
            histogram.buckets.clear()

    def timed(self, name: str, ms: float) -> None:
        """One of LATENCIES took so long."""
        self.latencies[name].add(ms)

    def went_wrong(self, what: str) -> None:
        """Count an error."""
        self.errors[what] += 1

    def merge(self, other: Figures) -> None:
        """Add what another process counted."""
        self.counts.update(other.counts)
        self.errors.update(other.errors)
        for name, histogram in other.latencies.items():
            self.latencies[name].buckets.update(histogram.buckets)
        self.seconds = max(self.seconds, other.seconds)

    def as_told(self) -> dict[str, Any]:
        """The same as JSON."""
        return {
            "counts": dict(self.counts),
            "errors": dict(self.errors),
            "latencies": {
                name: {str(bucket): count for bucket, count in histogram.buckets.items()}
                for name, histogram in self.latencies.items()
            },
            "seconds": self.seconds,
        }

    @property
    def failed(self) -> bool:
        """Whether anything went wrong, or nothing went at all."""
        broken = self.counts["lost"] + self.counts["twice"] + self.counts["unsaved"]
        return bool(self.errors or broken or not self.counts["sessions"] or not self.counts["acks"])

    def summary(self) -> dict[str, Any]:
        """The figures as numbers, for machines."""
        return {
            **{name: self.counts[name] for name in ("sessions", "frames", "acks", "decisions", "reconnects")},
            **{f"frames_{name}": self.counts[name] for name in ("unsaved", "lost", "twice", "late")},
            "frames_per_s": round(self.counts["frames"] / self.seconds, 1) if self.seconds else 0.0,
            "errors": self.errors.total(),
            **{f"{name}_ms": self._percentiles(name) for name in LATENCIES},
            "seconds": round(self.seconds, 1),
        }

    def table(self) -> str:
        """The figures as a person reads them."""
        told = self.summary()
        lines = [
            f"  sessions      {told['sessions']:>10}   in {told['seconds']} s",
            f"  frames        {told['frames']:>10}   {told['frames_per_s']}/s",
            f"  acks          {told['acks']:>10}",
            f"  decisions     {told['decisions']:>10}",
            f"  reconnects    {told['reconnects']:>10}",
            f"  frames lost   {told['frames_lost']:>10}   counted twice {told['frames_twice']},"
            f" not saved {told['frames_unsaved']}",
            f"  errors        {told['errors']:>10}",
            "",
            f"  {'ms':<12}  {'p50':>9} {'p95':>9} {'p99':>9}    samples",
        ]
        for name in LATENCIES:
            shown = [f"{value:9.2f}" if value is not None else f"{'-':>9}" for value in told[f"{name}_ms"].values()]
            lines.append(f"  {name:<12}  {' '.join(shown)} {self.latencies[name].count:>10}")
        if told["frames_late"] > told["frames"] / 100:
            lines.append(
                f"  {told['frames_late']} frames left late: this machine was too busy, the latencies say little"
            )
        lines += [f"  {count:>6} x {what}" for what, count in self.errors.most_common(MOST_ERRORS_SHOWN)]
        return "\n".join(lines)

    def _percentiles(self, name: str) -> dict[str, float | None]:
        histogram = self.latencies[name]
        told = {f"p{round(share * 100)}": histogram.percentile(share) for share in (0.5, 0.95, 0.99)}
        return {key: None if value is None else round(value, 3) for key, value in told.items()}

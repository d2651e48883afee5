"""A learner who watches a lecture over a network that changes: where lifelike telemetry frames come from.

Everything is drawn from one seed, so that a run can be repeated: the same seed and the same caps give the same frames.
Time is the viewing's own; it advances only by `tick`.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

STEP_S = 0.1
BUFFER_FULL_S = 30.0
SLOWEST_KBPS = 1.0


class Link(NamedTuple):
    """A kind of network: the range of its levels (kbit/s), how long one holds (s), and how often it drops out."""

    slowest_kbps: float
    fastest_kbps: float
    holds_s: tuple[int, int]
    jitter: float
    dropout_chance: float
    rtt_ms: int
    weight: int


LINKS: Mapping[str, Link] = {
    "fibre": Link(20_000, 80_000, (30, 90), 0.10, 0.000, 12, 4),
    "wifi": Link(3_000, 25_000, (15, 60), 0.25, 0.004, 25, 4),
    "mobile": Link(900, 9_000, (10, 40), 0.35, 0.010, 60, 3),
    "train": Link(250, 4_000, (8, 25), 0.50, 0.040, 110, 1),
}


class Network:
    """The capacity of one link, a mean per second: levels that hold for a while, jitter around them, drop-outs."""

    def __init__(self, rng: random.Random, kind: str | None = None) -> None:
        self.kind = kind or rng.choices(list(LINKS), [link.weight for link in LINKS.values()])[0]
        self.link = LINKS[self.kind]
        self._rng = rng
        self._level_kbps = 0.0
        self._holds_s = 0
        self._out_s = 0

    def next_second_kbps(self) -> float:
        """Capacity of the next second, kbit/s."""
        rng, link = self._rng, self.link
        if self._holds_s <= 0:
            self._level_kbps = link.slowest_kbps * (link.fastest_kbps / link.slowest_kbps) ** rng.random()
            self._holds_s = rng.randint(*link.holds_s)
        self._holds_s -= 1
        if self._out_s > 0:
            self._out_s -= 1
            return SLOWEST_KBPS
        if rng.random() < link.dropout_chance:
            self._out_s = rng.randint(1, 6)
            return SLOWEST_KBPS
        return max(SLOWEST_KBPS, self._level_kbps * rng.lognormvariate(0.0, link.jitter))


@dataclass(slots=True)
class Download:
    """A segment on its way."""

    rung: int
    media_s: float
    total_bytes: int
    bits_left: float
    ttfb_s: float
    taken_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Habits:
    """What this learner does, as chances per second of playing."""

    pause: float = 0.006
    seek_back: float = 0.008
    seek_ahead: float = 0.004
    change_rate: float = 0.004


@dataclass(slots=True)
class Since:
    """What happened since the last frame."""

    segments: list[dict[str, float]] = field(default_factory=list)
    stall_s: float = 0.0
    stalled: bool = False
    startup_ms: int | None = None


class Viewing:
    """One learner's player: buffer, downloads, stalls and whims, reported as telemetry frames.

    `ladder` is what the session route answers: `[{"rung", "br" (kbit/s), ...}]`; times are seconds of the lecture.
    """

    def __init__(
        self,
        *,
        ladder: Sequence[Mapping[str, Any]],
        segment_s: float,
        duration_s: float,
        seed: int,
        position_s: float = 0.0,
        network: str | None = None,
        habits: Habits | None = None,
    ) -> None:
        self._rng = random.Random(seed)
        self.network = Network(self._rng, network)
        self.habits = habits or Habits()
        self.bitrates = [float(rung["br"]) for rung in ladder]
        self.segment_s = segment_s
        self.duration_s = max(duration_s, segment_s)
        self.position_s = min(position_s, self.duration_s)
        self.state = "s"
        self.rate = 1.0
        self.rung = 0
        self._cap_kbps: float | None = None
        self._buffered_to_s = self.position_s
        self._download: Download | None = None
        self._samples_kbps: deque[float] = deque(maxlen=5)
        self._waited_s = 0.0
        self._paused_for_s = 0.0
        self._started = False
        self._since = Since()

    @property
    def buffer_s(self) -> float:
        """Seconds of the lecture in the buffer, ahead of the play head."""
        return max(0.0, self._buffered_to_s - self.position_s)

    def cap(self, kbps: float | None) -> None:
        """Obey a decision's `cmsd.mb` (kbit/s) from the next segment on; None lifts it."""
        self._cap_kbps = kbps

    def tick(self, seconds: float = 1.0) -> dict[str, Any]:
        """Let `seconds` pass and answer the frame that reports them, without its `seq`."""
        self._act(seconds)
        kbps = self.network.next_second_kbps()
        for _ in range(max(1, round(seconds / STEP_S))):
            self._fetch(kbps)
            self._play()
        frame = self._report()
        self._since = Since()
        return frame

    # ------------------------------------------------------------------ the learner
    def _act(self, seconds: float) -> None:
        if self.state == "a":
            self._paused_for_s -= seconds
            if self._paused_for_s <= 0:
                self.state = "r" if self.buffer_s <= 0 else "p"
            return
        if self.state == "e":
            self._seek(0.0)
            return
        if self.state == "k":
            self.state = "p" if self.buffer_s > 0 else "r"
        if self.state != "p":
            return
        rng, habits, draw = self._rng, self.habits, self._rng.random() / max(seconds, STEP_S)
        if draw < habits.pause:
            self.state, self._paused_for_s = "a", rng.uniform(2, 20)
        elif (draw := draw - habits.pause) < habits.seek_back:
            self._seek(self.position_s - rng.uniform(5, 45))
        elif (draw := draw - habits.seek_back) < habits.seek_ahead:
            self._seek(self.position_s + rng.uniform(10, 120))
        elif draw - habits.seek_ahead < habits.change_rate:
            self.rate = rng.choice((1.0, 1.25, 1.5, 2.0))

    def _seek(self, to_s: float) -> None:
        to_s = min(max(0.0, to_s), self.duration_s - self.segment_s / 2)
        if not self.position_s <= to_s <= self._buffered_to_s:
            self._download = None
            self._buffered_to_s = to_s - to_s % self.segment_s
        self.position_s, self.state = to_s, "k"

    # ------------------------------------------------------------------ the network
    def _choose_rung(self) -> int:
        affordable = 0.8 * self._throughput_kbps() if self._samples_kbps else self.bitrates[0]
        if self._cap_kbps is not None:
            affordable = min(affordable, self._cap_kbps)
        return max((i for i, br in enumerate(self.bitrates) if br <= affordable), default=0)

    def _throughput_kbps(self) -> float:
        return len(self._samples_kbps) / sum(1 / kbps for kbps in self._samples_kbps)

    def _fetch(self, kbps: float) -> None:
        if self._download is None:
            left_s = self.duration_s - self._buffered_to_s
            if left_s <= 0 or self.buffer_s >= BUFFER_FULL_S:
                return
            self.rung = self._choose_rung()
            media_s = min(self.segment_s, left_s)
            size = int(self.bitrates[self.rung] * 125 * media_s * self._rng.uniform(0.8, 1.2)) + 1
            ttfb_s = self.network.link.rtt_ms / 1000 * self._rng.uniform(1.0, 2.0)
            self._download = Download(self.rung, media_s, size, size * 8.0, ttfb_s)
        got = self._download
        got.taken_s += STEP_S
        got.bits_left -= kbps * 1000 * STEP_S
        if got.bits_left > 0:
            return
        # The step's surplus was not needed: give the exact time back, so that fast links are seen as fast.
        seconds = max(0.001, got.taken_s + got.bits_left / (kbps * 1000))
        self._samples_kbps.append(max(SLOWEST_KBPS, got.total_bytes * 8 / 1000 / seconds))
        self._since.segments.append(
            {
                "br": round(self.bitrates[got.rung]),
                "bytes": got.total_bytes,
                "ms": max(1, round((seconds + got.ttfb_s) * 1000)),
                "ttfb_ms": max(1, round(got.ttfb_s * 1000)),
            }
        )
        self._buffered_to_s += got.media_s
        self._download = None

    # ------------------------------------------------------------------ the play head
    def _play(self) -> None:
        enough = self.buffer_s >= min(self.segment_s, self.duration_s - self.position_s)
        if self.state == "s":
            self._waited_s += STEP_S
            if enough:
                self.state = "p"
                if not self._started:
                    self._started, self._since.startup_ms = True, round(self._waited_s * 1000)
        elif self.state == "r":
            self._since.stall_s += STEP_S
            if enough:
                self.state = "p"
        elif self.state == "p":
            self.position_s = min(self.position_s + min(STEP_S * self.rate, self.buffer_s), self.duration_s)
            if self.position_s >= self.duration_s - 1e-6:
                self.state = "e"
            elif self.buffer_s <= 1e-9:
                self.state, self._since.stalled = "r", True

    # ------------------------------------------------------------------ the report
    def _report(self) -> dict[str, Any]:
        since = self._since
        cmcd: dict[str, Any] = {
            "bl": round(self.buffer_s * 10) * 100,
            "br": round(self.bitrates[self.rung]),
            "d": round(self.segment_s * 1000),
            "tb": round(self.bitrates[-1]),
            "sta": self.state,
            "pr": self.rate,
        }
        if self._samples_kbps:
            cmcd["mtp"] = max(100, round(self._throughput_kbps() / 100) * 100)
        if since.stalled:
            cmcd["bs"] = True
        if since.stall_s > 0:
            cmcd["bsd"] = round(since.stall_s * 1000)
        if since.startup_ms is not None:
            cmcd["msd"] = since.startup_ms
        frame: dict[str, Any] = {"type": "telemetry", "position": round(self.position_s, 3), "cmcd": cmcd}
        if since.segments:
            frame["segments"] = since.segments
        if self._rng.random() < 0.05:
            frame["dropped_frames"] = self._rng.randint(0, 8)
        return frame

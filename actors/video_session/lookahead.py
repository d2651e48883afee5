"""The value of fetching a rung: what throughput may do next, and what that is worth from here on.

A session's *belief* about its network is four numbers relative to one another: the level (a slow harmonic mean of
throughput, for download time is linear in its inverse), the newest sample, how far samples lie from the level
(`deviation`), and how far each lies from the one before (`drift`). The ratio of the last two says which of two stories
has told this session better so far: "it returns to its level" or "it stays where it is now".

`Table` holds, per belief, buffer and bitrate, the expected stalls and future worth of fetching a segment of that
bitrate now, every later segment chosen as well as the belief then allows: a stochastic dynamic programme over learned
quantiles of throughput surprises (`loadtests/fit.py`, run by `bin/fit-quality`). Its parents are MPC (Yin et al., "A
Control-Theoretic Approach for Dynamic Adaptive Video Streaming over HTTP", SIGCOMM 2015), FastMPC's table in the same
paper, and Fugu's expectation over a learned distribution of download times (Yan et al., "Learning in situ", NSDI 2020).

Everything is in units of the ladder's top bitrate, so one table serves every ladder, and of a segment, so that
segments of other lengths are the same problem on a stretched clock. Read-only and without I/O after `load`.
"""

from __future__ import annotations

import json
import lzma
import sys
from array import array
from bisect import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import pairwise
from math import exp, inf, log
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

TABLES = Path(__file__).with_name("quality_tables.xz")

# Weights of the newest sample: in the level, and in the two mean distances. The first few samples weigh more.
LEVEL_WEIGHT, DISTANCE_WEIGHT, DISTANCE_HEAD_START = 0.15, 0.2, 1.5
FEW_SAMPLES = 6
# Before anything is known samples are thought to lie this far from one another (natural logarithm).
FIRST_DISTANCE = 0.15
# A single sample counts as at most this far away: one outage is not a noisy network.
FARTHEST = 1.2
NEAREST = 0.01
# A future that is further away counts less, segment by segment, for the distribution of surprises is only nearly right.
DISCOUNT = 0.97
# No transfer is believed to be shorter.
SHORTEST_MS = 0.001
# What stalls and changes cost is per segment, as the field has it, but a learner sees seconds: shorter segments are
# decided as if they lasted so long, or a second of stall would be as cheap as it is short.
SHORTEST_S = 4.0
# Ladders whose steps a table remembers: videos have their own.
MOST_LADDERS = 1024


@dataclass(slots=True)
class Belief:
    """What a session thinks of its network. Throughputs in kbit/s; 0 samples = nothing measured."""

    inverse_kbps: float = 0.0  # slow mean of 1/throughput; its inverse is the level
    newest_kbps: float = 0.0
    deviation: float = FIRST_DISTANCE  # mean |log(sample / level before)|
    drift: float = FIRST_DISTANCE  # mean |log(sample / sample before)|
    samples: int = 0

    def learn(self, kbps: float) -> None:
        """Fold in one segment's throughput."""
        count, inverse = self.samples, self.inverse_kbps
        if count == 0:
            self.inverse_kbps = 1 / kbps
        else:
            # On every frame's path: comparing is quicker than calling `min`.
            weight, level_weight = DISTANCE_WEIGHT, LEVEL_WEIGHT
            if count < FEW_SAMPLES:
                weight = max(weight, 1 / (count + DISTANCE_HEAD_START))
                level_weight = max(level_weight, 1 / (count + 1))
            far, deviation, drift = abs(log(kbps * inverse)), self.deviation, self.drift
            self.deviation = deviation + weight * ((far if far < FARTHEST else FARTHEST) - deviation)
            far = abs(log(kbps / self.newest_kbps))
            self.drift = drift + weight * ((far if far < FARTHEST else FARTHEST) - drift)
            self.inverse_kbps = inverse + level_weight * (1 / kbps - inverse)
        self.newest_kbps = kbps
        self.samples = count + 1

    def after(self, kbps: float) -> Belief:
        """What would be thought after one more sample."""
        belief = Belief(self.inverse_kbps, self.newest_kbps, self.deviation, self.drift, self.samples)
        belief.learn(kbps)
        return belief


# Values in units that the file names, bitrates and then buffers last; those for the end are without a character.
Values: TypeAlias = "array[int]"


class Axes(NamedTuple):
    """Where a table has values. `gap` is log(newest / level), `character` log(drift / deviation), `level` the log of
    level over top bitrate, evenly spaced; `bitrate` a share of the top; `buffer_s` when the segment is asked for."""

    gap: list[float]
    deviation: list[float]
    character: list[float]
    level: list[float]
    bitrate: list[float]
    buffer_s: list[float]


class Step(NamedTuple):
    """A rung as a table sees it: its place on the bitrates' axis, and its bitrate as a share of the top."""

    at: int
    over: float
    share: float
    top_kbps: float


class Table:
    """Values for segments of about `segment_s` while `remaining` of them are left to fetch, this one included."""

    def __init__(
        self, axes: Axes, segment_s: float, rtt_s: float, unit: float, ahead: Sequence[Values],
        surprises: Sequence[float] = (), shares: Sequence[float] = (), floor: float = -inf,
    ) -> None:  # fmt: skip
        self.segment_s = segment_s
        self.rtt_s = rtt_s
        self.axes = axes
        self.unit = unit
        self.ahead = ahead  # with one segment left, two, ..., and, last, more
        # Nothing is kept that is worth less: what stands there is not compared, only the lowest rung is right.
        self.floor = floor
        # What the values are made of: log(next sample / level), so many with these shares for each belief, which are in
        # the order of the values. None of it in a table that is only read.
        self.surprises, self.shares = surprises, shares
        # Where one point of an axis stops being the nearest and the next begins: as ratios, which need no logarithm.
        self.gap, self.deviation = [exp(x) for x in _borders(axes.gap)], _borders(axes.deviation)
        self.character = [exp(x) for x in _borders(axes.character)]
        self.level = [exp(x) for x in axes.level]
        self._steps: dict[tuple[float, ...], tuple[Step, ...]] = {}
        self.row = len(axes.buffer_s)  # of one bitrate
        self.page = self.row * len(axes.bitrate)  # of one level
        # Of values without a character.
        self.plain = self.page * len(axes.level) * len(axes.gap) * len(axes.deviation)

    def steps(self, bitrates_kbps: tuple[float, ...]) -> tuple[Step, ...]:
        """The rungs of a ladder, lowest first, as this table sees them."""
        known = self._steps.get(bitrates_kbps)
        if known is None:
            if len(self._steps) >= MOST_LADDERS:
                self._steps.clear()
            top_kbps = max(bitrates_kbps[-1], 1.0)
            known = self._steps[bitrates_kbps] = tuple(self._step(kbps, top_kbps) for kbps in bitrates_kbps)
        return known

    def _step(self, kbps: float, top_kbps: float) -> Step:
        axis = self.axes.bitrate
        share = min(max(kbps / top_kbps, axis[0]), 1.0)
        at = min(bisect(axis, share + 1e-6) - 1, len(axis) - 2)
        over = log(share / axis[at]) / log(axis[at + 1] / axis[at])
        return Step(max(at, 0), over if over > 1e-4 else 0.0, kbps / top_kbps, top_kbps)

    def horizon(self, remaining: int | None) -> Values:
        """The values that hold while so many segments are left; the last ones hold as long as the end is far off."""
        if remaining is None or remaining >= len(self.ahead):
            return self.ahead[-1]
        return self.ahead[max(remaining, 1) - 1]

    def worth(
        self, values: Values, belief: Belief, playback_rate: float, steps: Sequence[Step], buffers_s: Sequence[float]
    ) -> list[float]:
        """What follows from fetching each step of a ladder, in units of its top bitrate, without the picture itself.

        `buffers_s` has one buffer per step (s of playing time at normal speed, on the table's clock): less of it where
        the segment is known to be larger than its bitrate says.
        """
        inverse, deviation = belief.inverse_kbps, max(NEAREST, belief.deviation)
        place = bisect(self.gap, belief.newest_kbps * inverse) * len(self.axes.deviation)
        place += bisect(self.deviation, deviation)
        if len(values) > self.plain:
            place *= len(self.axes.character)
            place += bisect(self.character, max(belief.drift, NEAREST) / deviation)
        # Played twice as fast a network is half as fast.
        level, levels = 1 / (inverse * steps[-1].top_kbps * playback_rate), self.level
        at = bisect(levels, level, 1, len(levels) - 1) - 1
        up = (level - levels[at]) / (levels[at + 1] - levels[at])
        place = (place * len(levels) + at) * self.page
        return self._read(values, place, min(max(up, 0.0), 1.0), steps, buffers_s)

    def _read(
        self, values: Values, place: int, up: float, steps: Sequence[Step], buffers_s: Sequence[float]
    ) -> list[float]:
        """Linear between levels, buffers and bitrates. Below an empty buffer every missing second is a stall."""
        axis, row, page, unit = self.axes.buffer_s, self.row, self.page, self.unit
        last = len(axis) - 1
        found = []
        for step, buffer_s in zip(steps, buffers_s, strict=True):
            short_s = 0.0
            if buffer_s < 0:
                short_s, buffer_s = buffer_s, 0.0  # noqa: PLW2901 - said in the docstring
            at = bisect(axis, buffer_s, 0, last) - 1
            over = (buffer_s - axis[at]) / (axis[at + 1] - axis[at])
            over = over if over < 1 else 1.0
            low = place + step.at * row + at
            a: float = values[low]
            c: float = values[low + page]
            a += over * (values[low + 1] - a)
            c += over * (values[low + page + 1] - c)
            value = a + up * (c - a)
            if step.over:
                low += row
                a, c = values[low], values[low + page]
                a += over * (values[low + 1] - a)
                c += over * (values[low + page + 1] - c)
                value += step.over * (a + up * (c - a) - value)
            found.append(value * unit + short_s)
        return found


class Offer:
    """What may be fetched: the rungs of a ladder up to `top`, as segments of `segment_s`. Made once for all alike."""

    __slots__ = (
        "bitrates_kbps", "columns", "middles_kbps", "segment_s", "steps", "stretch", "table", "top", "top_kbps",
    )  # fmt: skip

    def __init__(self, bitrates_kbps: tuple[float, ...], segment_s: float, table: Table) -> None:
        self.bitrates_kbps = bitrates_kbps
        self.top = len(bitrates_kbps) - 1
        self.top_kbps = max(bitrates_kbps[-1], 1.0)
        self.segment_s = segment_s
        self.table = table
        self.stretch = max(segment_s, SHORTEST_S) / table.segment_s
        self.steps = table.steps(bitrates_kbps)
        self.middles_kbps = _borders(bitrates_kbps)
        self.columns: Any = None  # the same as arrays, made by who needs them


@cache
def tables() -> tuple[Table, ...]:
    """All tables, by segment length."""
    return load(TABLES.read_bytes())


@lru_cache(maxsize=256)
def table_for(segment_s: float) -> Table:
    """The table whose segments are nearest in length."""
    return min(tables(), key=lambda table: abs(log(max(segment_s, SHORTEST_S) / table.segment_s)))


# Neighbours differ little, so that differences pack well.
_FILTERS = [{"id": lzma.FILTER_DELTA, "dist": 2}, {"id": lzma.FILTER_LZMA2, "preset": 9}]


def load(packed: bytes) -> tuple[Table, ...]:
    """What `dump` made."""
    head, _, body = lzma.decompress(packed).partition(b"\n")
    about: Mapping[str, Any] = json.loads(head)
    values = array("h")
    values.frombytes(body)
    if sys.byteorder == "big":
        values.byteswap()
    axes = Axes(**about["axes"])
    made, start = [], 0
    for table in about["tables"]:
        kept = []
        for size in table["sizes"]:
            kept.append(values[start : start + size])
            start += size
        # Of neighbouring numbers of segments left some share their values.
        ahead = [*(kept[which] for which in about["ahead"]), kept[-1]] if "ahead" in about else kept
        surprises, shares = (table["surprises"], about["shares"]) if "surprises" in table else ((), ())
        made.append(
            Table(axes, table["segment_s"], about["rtt_s"], about["unit"], ahead, surprises, shares, about["floor"])
        )
    return tuple(made)


def dump(about: Mapping[str, Any], values: Sequence[Values]) -> bytes:
    """Tables as one compressed file: a line of JSON that says what they are, then all values as 16-bit integers."""
    body = array("h")
    for each in values:
        body.extend(each)
    if sys.byteorder == "big":
        body.byteswap()
    return lzma.compress(json.dumps(about).encode() + b"\n" + body.tobytes(), filters=_FILTERS)


def _borders(axis: Sequence[float]) -> list[float]:
    """Where one point of an axis stops being the nearest and the next begins."""
    return [(a + b) / 2 for a, b in pairwise(axis)]


def transfer_kbps(size_bytes: float, ms: float, ttfb_ms: float) -> float:
    """Throughput of one segment without the wait for its first byte; the wait counts at least a little, for some of
    the segment comes with that byte."""
    transfer_ms = ms - ttfb_ms
    if transfer_ms < ms / 5 or transfer_ms < SHORTEST_MS:
        transfer_ms = max(ms / 5, SHORTEST_MS)
    return size_bytes * 8 / transfer_ms

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
from functools import cache, lru_cache
from itertools import pairwise
from math import log
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from msgspec import Struct

TABLES = Path(__file__).with_name("quality_tables.xz")

# Weights of the newest sample: in the level, and in the two mean distances. The first few samples weigh more.
LEVEL_WEIGHT, DISTANCE_WEIGHT, DISTANCE_HEAD_START = 0.15, 0.2, 3.0
# Before anything is known samples are thought to lie this far from one another (natural logarithm).
FIRST_DISTANCE = 0.3
# A single sample counts as at most this far away: one outage is not a noisy network.
FARTHEST = 1.2
NEAREST = 0.01
# Ladders whose steps a table remembers: videos have their own.
MOST_LADDERS = 1024


class Belief(Struct):
    """What a session thinks of its network. Throughputs in kbit/s; 0 samples = nothing measured."""

    inverse_kbps: float = 0.0  # slow mean of 1/throughput; its inverse is the level
    newest_kbps: float = 0.0
    deviation: float = FIRST_DISTANCE  # mean |log(sample / level before)|
    drift: float = FIRST_DISTANCE  # mean |log(sample / sample before)|
    samples: int = 0

    def learn(self, kbps: float) -> None:
        """Fold in one segment's throughput."""
        inverse = 1.0 / kbps
        count = self.samples
        if count == 0:
            self.inverse_kbps = inverse
        else:
            weight = max(DISTANCE_WEIGHT, 1 / (count + DISTANCE_HEAD_START))
            self.deviation += weight * (min(abs(log(kbps * self.inverse_kbps)), FARTHEST) - self.deviation)
            self.drift += weight * (min(abs(log(kbps / self.newest_kbps)), FARTHEST) - self.drift)
            self.inverse_kbps += max(LEVEL_WEIGHT, 1 / (count + 1)) * (inverse - self.inverse_kbps)
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

    def __init__(self, axes: Axes, segment_s: float, rtt_s: float, unit: float, ahead: Sequence[Values]) -> None:
        self.segment_s = segment_s
        self.rtt_s = rtt_s
        self.axes = axes
        self._unit = unit
        self._ahead = ahead
        self._gap, self._deviation, self._character = map(_borders, axes[:3])
        self._first_level, self._level_step = axes.level[0], axes.level[1] - axes.level[0]
        self._last_level = len(axes.level) - 2
        self._steps: dict[tuple[float, ...], tuple[Step, ...]] = {}
        self._buffer_s = axes.buffer_s
        self._last_buffer = len(axes.buffer_s) - 2
        self._row = len(axes.buffer_s)  # of one bitrate
        self._page = self._row * len(axes.bitrate)  # of one level
        self._plain = (
            self._page * len(axes.level) * len(axes.gap) * len(axes.deviation)
        )  # of values without a character

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
        if remaining is None or remaining >= len(self._ahead):
            return self._ahead[-1]
        return self._ahead[max(remaining, 1) - 1]

    def worth(
        self, values: Values, belief: Belief, playback_rate: float, steps: Sequence[Step], buffers_s: Sequence[float]
    ) -> list[float]:
        """What follows from fetching each step of a ladder, in units of its top bitrate, without the picture itself.

        `buffers_s` has one buffer per step (s of playing time at normal speed, on the table's clock): less of it where
        the segment is known to be larger than its bitrate says.
        """
        inverse, deviation = belief.inverse_kbps, max(NEAREST, belief.deviation)
        place = bisect(self._gap, log(belief.newest_kbps * inverse)) * len(self.axes.deviation)
        place += bisect(self._deviation, deviation)
        if len(values) > self._plain:
            place *= len(self.axes.character)
            place += bisect(self._character, log(max(belief.drift, NEAREST) / deviation))
        # Played twice as fast a network is half as fast.
        level = (-log(inverse * steps[-1].top_kbps * playback_rate) - self._first_level) / self._level_step
        at = 0 if level < 0 else int(level) if level < self._last_level else self._last_level
        place = (place * len(self.axes.level) + at) * self._page
        return self._read(values, place, min(max(level - at, 0.0), 1.0), steps, buffers_s)

    def _read(
        self, values: Values, place: int, up: float, steps: Sequence[Step], buffers_s: Sequence[float]
    ) -> list[float]:
        """Linear between levels, buffers and bitrates. Below an empty buffer every missing second is a stall."""
        axis, row, page, unit = self._buffer_s, self._row, self._page, self._unit
        found = []
        for step, buffer_s in zip(steps, buffers_s, strict=True):
            short_s = 0.0
            if buffer_s < 0:
                short_s, buffer_s = buffer_s, 0.0  # noqa: PLW2901 - said in the docstring
            at = bisect(axis, buffer_s, 0, self._last_buffer + 1) - 1
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


@cache
def tables() -> tuple[Table, ...]:
    """All tables, by segment length."""
    return load(TABLES.read_bytes())


@lru_cache(maxsize=256)
def table_for(segment_s: float) -> Table:
    """The table whose segments are nearest in length."""
    return min(tables(), key=lambda table: abs(log(max(segment_s, 0.1) / table.segment_s)))


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
        ahead = []
        for size in table["sizes"]:
            ahead.append(values[start : start + size])
            start += size
        made.append(Table(axes, table["segment_s"], about["rtt_s"], about["unit"], ahead))
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
    return size_bytes * 8 / max(ms - ttfb_ms, ms / 5)

"""A table of `lookahead` read for many at once: `Table.worth` of each, as arrays.

The same operations in the same order, so that the answers are the very same.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from actors.video_session.lookahead import Offer, Table, Values

Array = np.ndarray[Any, np.dtype[Any]]


def columns_of(offer: Offer) -> Columns:
    """An offer and its table as arrays, made when they are first asked for."""
    if offer.columns is None:
        offer.columns = Columns(offer)
    made: Columns = offer.columns
    return made


def array_of(values: Values) -> Array:
    """Values without a copy."""
    return np.frombuffer(values, np.int16)


class Horizons:
    """All values of a table as one array, so that sessions that are near their end and far from it are read alike."""

    def __init__(self, table: Table) -> None:
        kept = {id(values): values for values in table.ahead}
        ends = np.cumsum([len(values) for values in kept.values()])
        start = dict(zip(kept, [0, *ends.tolist()], strict=False))
        self.values = np.concatenate([array_of(values) for values in kept.values()])
        # For one segment left, two, ..., and all beyond.
        self._start = np.array([start[id(values)] for values in table.ahead])
        self._plain = np.array([len(values) == table.plain for values in table.ahead])

    def of(self, remaining: Array, place: Array, plain: Array) -> tuple[Array, Array]:
        """Where the values begin that hold for each, and which of two places is meant there (see `Columns.places`)."""
        at = np.minimum(remaining, len(self._start)).astype(np.intp) - 1
        return self._start[at], np.where(self._plain[at], plain, place)


@lru_cache(maxsize=8)
def _horizons_of(table: Table) -> Horizons:
    return Horizons(table)


class Columns:
    """An offer and its table, as arrays."""

    def __init__(self, offer: Offer) -> None:
        table = offer.table
        self.table = table
        self.kbps = np.array([*offer.bitrates_kbps, np.inf])
        self.share = np.array([step.share for step in offer.steps])
        self._middles = np.array(offer.middles_kbps)
        # Where a rung's values begin, and how far it lies from there to the next bitrate on the axis.
        self.at = np.array([step.at * table.row for step in offer.steps])
        self.over = np.array([step.over for step in offer.steps])
        # The values around a point, from its own: two buffers, then two levels, then two bitrates.
        # Where all rungs lie on the axis, the next bitrates do not matter.
        self._amid = any(step.over for step in offer.steps)
        rows = (0, table.row) if self._amid else (0,)
        around = [row + page + buffer for row in rows for page in (0, table.page) for buffer in (0, 1)]
        self._around = np.array(around)[:, None, None]
        self.gap, self.deviation, self.character = map(np.array, (table.gap, table.deviation, table.character))
        self.level, self.buffer_s = np.array(table.level), np.array(table.axes.buffer_s)
        self.inner_levels = self.level[1:-1]
        # For each whole second of buffer where its values begin, that second, and how long until the next: axes of
        # buffers are in whole seconds, and to look a second up is quicker than to search it.
        seconds = np.arange(table.axes.buffer_s[-1])
        self._buffer_at = self.buffer_s[:-1].searchsorted(seconds, "right") - 1
        self._buffer_low = self.buffer_s[self._buffer_at]
        self._buffer_step = self.buffer_s[self._buffer_at + 1] - self._buffer_low
        self._last_second = len(seconds) - 1
        # What may be seen next, for each belief.
        self.chances = np.array(table.shares)
        self._surprises = np.array(table.surprises).reshape(-1, max(len(table.shares), 1))
        self._gaps = np.array(table.axes.gap)

    def share_of_nearest(self, kbps: Array) -> Array:
        """The share of the bitrate that is nearest, of two as near the lower one."""
        nearest: Array = self.share[self._middles.searchsorted(kbps)]
        return nearest

    def places(self, ratio: Array, deviation: Array, drift: Array) -> tuple[Array, Array]:
        """Where each belief stands in a table: among those with a character, and among those without. `ratio` is the
        newest sample over the level."""
        plain = self.gap.searchsorted(ratio, "right") * len(self.table.axes.deviation)
        plain += self.deviation.searchsorted(deviation, "right")
        place = plain * len(self.table.axes.character)
        place += self.character.searchsorted(drift / deviation, "right")
        return place, plain

    def surprises(self, gap: Array, deviation: Array, drift: Array) -> Array:
        """[belief, surprise]: log(next sample / level) as it may be, linear between gaps. Columns as for `places`, but
        the logarithm of the ratio."""
        axes = self.table.axes
        at = np.clip(self._gaps.searchsorted(gap, "right") - 1, 0, len(axes.gap) - 2)
        over = np.clip((gap - self._gaps[at]) / (self._gaps[at + 1] - self._gaps[at]), 0, 1)[:, None]
        place = at * len(axes.deviation) + self.deviation.searchsorted(deviation, "right")
        place = place * len(axes.character) + self.character.searchsorted(drift / deviation, "right")
        low, high = self._surprises[place], self._surprises[place + len(axes.deviation) * len(axes.character)]
        between: Array = low + over * (high - low)
        return between

    @property
    def horizons(self) -> Horizons:
        """Made once for all ladders."""
        return _horizons_of(self.table)

    def worth(
        self, values: Array, place: Array, level: Array, buffers_s: Array, start: Array | int = 0
    ) -> Array:  # fmt: skip
        """`Table.worth`, [session, rung]; `level` is over the top bitrate, `place` as the values that begin at `start`
        have a character."""
        table = self.table
        at = self.inner_levels.searchsorted(level, "right")
        low = self.level[at]
        up = np.minimum(np.maximum((level - low) / (self.level[at + 1] - low), 0), 1)[:, None]
        place = (place * len(self.level) + at) * table.page + start
        short_s = np.minimum(buffers_s, 0)
        buffers_s = np.maximum(buffers_s, 0)
        second = np.minimum(buffers_s, self._last_second).astype(np.intp)
        over = buffers_s - self._buffer_low[second]
        over /= self._buffer_step[second]
        np.minimum(over, 1, out=over)
        at = self._buffer_at[second]
        at += self.at
        at += place[:, None]
        around = values.take(self._around + at).astype(float)
        by_buffer = _between(around, over)
        by_level = _between(by_buffer, up)
        value: Array = _between(by_level, self.over)[0] if self._amid else by_level[0]
        value *= table.unit
        value += short_s
        return value


def _between(ends: Array, over: Array) -> Array:
    """What lies between each two that follow each other."""
    low, high = ends[0::2], ends[1::2]
    between: Array = high - low
    between *= over
    between += low
    return between

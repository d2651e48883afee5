"""A table of `lookahead` read for many at once: `Table.worth` of each, as arrays.

The same operations in the same order, so that the answers are the very same.
"""

from __future__ import annotations

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


def far_from_the_end(table: Table) -> Array:
    """A table's values while the end is not in sight."""
    return array_of(table.horizon(None))


class Columns:
    """An offer and its table, as arrays."""

    def __init__(self, offer: Offer) -> None:
        table = offer.table
        self.table = table
        self.kbps = np.array([*offer.bitrates_kbps, np.inf])
        self.share = np.array([step.share for step in offer.steps])
        # Where a rung's values begin, and how far it lies from there to the next bitrate on the axis.
        self.at = np.array([step.at * table.row for step in offer.steps])
        self.over = np.array([step.over for step in offer.steps])
        # The values around a point, from its own: two buffers, then two levels, then two bitrates.
        around = [row + page + buffer for row in (0, table.row) for page in (0, table.page) for buffer in (0, 1)]
        self._around = np.array(around)[:, None, None]
        self.gap, self.deviation, self.character = map(np.array, (table.gap, table.deviation, table.character))
        self.level, self.buffer_s = np.array(table.level), np.array(table.axes.buffer_s)
        self.inner_levels, self.buffers = self.level[1:-1], self.buffer_s[:-1]
        # What may be seen next, for each belief.
        self.chances = np.array(table.shares)
        self._surprises = np.array(table.surprises).reshape(-1, max(len(table.shares), 1))
        self._gaps = np.array(table.axes.gap)

    def share_of_nearest(self, kbps: Array) -> Array:
        """The share of the bitrate that is nearest."""
        nearest: Array = self.share[np.abs(self.kbps[:-1] - kbps[:, None]).argmin(1)]
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

    def worth(self, values: Array, place: Array, level: Array, buffers_s: Array) -> Array:
        """`Table.worth`, [session, rung]; `level` is over the top bitrate, `place` as `values` have a character."""
        table = self.table
        at = self.inner_levels.searchsorted(level, "right")
        low = self.level[at]
        up = np.clip((level - low) / (self.level[at + 1] - low), 0, 1)[:, None]
        place = (place * len(self.level) + at) * table.page
        short_s = np.minimum(buffers_s, 0)
        buffers_s = np.maximum(buffers_s, 0)
        at = self.buffers.searchsorted(buffers_s, "right") - 1
        low = self.buffer_s[at]
        over = np.minimum((buffers_s - low) / (self.buffer_s[at + 1] - low), 1)
        around = values.take(self._around + (place[:, None] + self.at + at)).astype(float)
        by_buffer = _between(around, over)
        by_level = _between(by_buffer, up)
        value: Array = _between(by_level, self.over)[0]
        value *= table.unit
        value += short_s
        return value


def _between(ends: Array, over: Array) -> Array:
    """What lies between each two that follow each other."""
    low, high = ends[0::2], ends[1::2]
    between: Array = over * (high - low)
    between += low
    return between

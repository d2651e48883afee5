"""What a rung is worth where the sizes of the next segments are known: a search of what may come, with the table at its
end.

The table knows how large segments are in the mean. Where an index says how large the next ones really are, they are
walked through: each rung of the next segment, with each throughput that may be seen, what is then thought, and the best
of the segments after; three segments ahead the table says what is left. That is model predictive control (Yin et al.
2015) over a distribution instead of one prediction. All branches of a depth are arrays, so it takes a few passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from actors.video_session.columns import Array, Columns, array_of, columns_of
from actors.video_session.lookahead import DISCOUNT, DISTANCE_WEIGHT, FARTHEST, LEVEL_WEIGHT, NEAREST, Belief, Offer

# So many rungs are looked into at each depth, the best by the table; at the last one it has the word.
KEPT = (6, 3)
# A stall costs more than it is charged: errors are dear, and a few branches show less of what is rare than there is.
STALL_COST = 1.4


class _Branches(NamedTuple):
    """Where sessions might stand, a column each; `last` is the share of the top that was shown last, none below 0."""

    inverse_kbps: Array
    newest_kbps: Array
    deviation: Array
    drift: Array
    buffer_s: Array
    last: Array


class _Search(NamedTuple):
    """What all branches have in common: `clock` is how much of the table's time passes in a second, `wait_s` the
    seconds until a first byte; sizes have a row for each segment ahead."""

    offer: Offer
    of: Columns
    sizes_kbit: Sequence[Array]
    wait_s: float
    rate: float
    clock: float
    remaining: int | None


def worth(
    offer: Offer, belief: Belief, sizes_kbit: Sequence[Sequence[float]], *, buffer_s: float, wait_s: float, rate: float,
    last: float | None, remaining: int | None,
) -> list[float]:  # fmt: skip
    """What follows from fetching each rung, as `Table.worth` has it: without the picture itself.

    `buffer_s` is on the table's clock, `wait_s` (for a first byte) in seconds, `last` a share of the top bitrate. What
    looks bad at once is not looked into and worth `-inf`.
    """
    deepest = len(KEPT) + 1 if offer.table.shares else 1  # a table may come without what it is made of
    depth = min(deepest, len(sizes_kbit), remaining or deepest)
    rows = [np.asarray(row, float)[: offer.top + 1] for row in sizes_kbit[:depth]]
    search = _Search(offer, columns_of(offer), rows, wait_s, rate, rate / offer.stretch, remaining)
    start = (
        belief.inverse_kbps, belief.newest_kbps, max(belief.deviation, NEAREST), max(belief.drift, NEAREST), buffer_s,
        -1.0 if last is None else last,
    )  # fmt: skip
    found = _look(search, _Branches(*(np.array([number]) for number in start)), 0)
    shown = _shown(search.of, np.array([start[-1]]))
    worths: list[float] = (found - shown)[0].tolist()
    return worths


def _look(search: _Search, branches: _Branches, depth: int) -> Array:
    """[branch, rung]: what fetching each is worth, its picture included; `-inf` where it was not looked into."""
    of, offer = search.of, search.offer
    table = offer.table
    sizes_kbit = search.sizes_kbit[depth]
    ratio = branches.newest_kbps * branches.inverse_kbps
    places, plain = of.places(ratio, branches.deviation, branches.drift)
    left = None if search.remaining is None else search.remaining - depth
    values = array_of(table.horizon(left))
    slow = np.maximum(branches.inverse_kbps, 1 / branches.newest_kbps)[:, None] * search.clock
    usual_kbit = of.kbps[:-1] * offer.segment_s
    late_s = (search.wait_s - table.rtt_s) * search.clock
    buffers_s = branches.buffer_s[:, None] - late_s - slow * (sizes_kbit - usual_kbit)
    level = 1 / (branches.inverse_kbps * offer.top_kbps * search.rate)
    value = of.worth(values, places if len(values) > table.plain else plain, level, buffers_s)
    value += _shown(of, branches.last)
    if depth == len(search.sizes_kbit) - 1:
        return value
    kept = (-value).argsort(1)[:, : KEPT[depth]]
    found = np.full_like(value, -np.inf)
    np.put_along_axis(found, kept, _follow(search, branches, kept, np.log(ratio), depth), 1)
    return found


def _follow(search: _Search, branches: _Branches, kept: Array, gap: Array, depth: int) -> Array:
    """[branch, kept]: the mean over what may be seen of each kept rung, of the stall and the best of what follows."""
    of, table = search.of, search.offer.table
    surprises = of.surprises(gap, branches.deviation, branches.drift)
    inverse = branches.inverse_kbps[:, None] * np.exp(-surprises)  # [branch, surprise]
    takes_s = search.wait_s + search.sizes_kbit[depth][kept][:, :, None] * inverse[:, None, :]
    left_s = branches.buffer_s[:, None, None] - takes_s * search.clock
    shape = left_s.shape

    def moved(distance: Array, far: Array) -> Array:
        far = np.minimum(np.abs(far), FARTHEST)
        return np.maximum(distance[:, None] + DISTANCE_WEIGHT * (far - distance[:, None]), NEAREST)

    def spread(column: Array) -> Array:
        return np.broadcast_to(column, shape).ravel()

    level = branches.inverse_kbps[:, None]
    after = _Branches(
        inverse_kbps=spread((level + LEVEL_WEIGHT * (inverse - level))[:, None]),
        newest_kbps=spread(1 / inverse[:, None]),
        deviation=spread(moved(branches.deviation, surprises)[:, None]),
        drift=spread(moved(branches.drift, surprises - gap[:, None])[:, None]),
        buffer_s=np.minimum(np.maximum(left_s, 0) + table.segment_s, of.buffer_s[-1]).ravel(),
        last=spread(of.share[kept][:, :, None]),
    )
    best = _look(search, after, depth + 1).max(1).reshape(shape)
    followed: Array = (STALL_COST * np.minimum(left_s, 0) + DISCOUNT * best) @ of.chances
    followed += np.take_along_axis(_shown(of, branches.last), kept, 1)
    return followed


def _shown(of: Columns, last: Array) -> Array:
    """[branch, rung]: a picture's own worth, less the change."""
    return of.share - np.where(last[:, None] < 0, 0, np.abs(of.share - last[:, None]))

"""Fits the tables of `actors.video_session.lookahead`. Run by `bin/fit-quality`; a few minutes, the same from one seed.

Two steps, twice. First watch generated networks by the policy at hand and collect how throughput surprises it: the
distribution of log(next sample / level), given how far the newest sample lies from the level, how far samples do in
the mean, and which of "it returns" and "it stays" has been the better story. Then solve for the policy that is best
where throughput moves so (value iteration), and begin again with that one.

No recorded trace goes into the fit, so that all of them can judge it.
"""

from __future__ import annotations

import argparse
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from actors.video_session import lookahead, quality
from actors.video_session.lookahead import (
    DISCOUNT,
    DISTANCE_WEIGHT,
    FARTHEST,
    LEVEL_WEIGHT,
    NEAREST,
    TABLES,
    Axes,
    Belief,
)
from loadtests import networks, qoe
from loadtests.watching import PAPERS_KBPS, Policy, video, watch

Array = np.ndarray[Any, np.dtype[Any]]

GAP = np.array([-2.2, -1.2, -0.6, -0.25, 0.0, 0.25, 0.6, 1.1, 1.8])
DEVIATION = np.array([0.04, 0.1, 0.2, 0.35, 0.6, 0.9])
CHARACTER = np.array([-1.2, -0.6, -0.2, 0.1, 0.4])
LEVEL = np.arange(-4.5, 1.76, 0.25)
BUFFER_S = np.array([0, 2, 4, 5, 6, 7, 8, 10, 12, 14, 17, 20, 23, 26, 30.0])
# The papers' ladder, what lies between, and below: any ladder's rungs are close to some.
PAPERS = np.array(PAPERS_KBPS) / PAPERS_KBPS[-1]
BITRATE = np.sort(np.concatenate([PAPERS, [0.035, 0.115, 0.35, 0.54, 0.82]]))
SEGMENTS_S = (4.0, 6.0)

# Shares of the probability that each kept quantile of a distribution stands for: the tails finer than the middle.
SHARES = np.array([0.03, 0.07, 0.12, 0.16, 0.2, 0.18, 0.12, 0.08, 0.04])
# Of which a search at the time of a decision, which cannot look at as many, takes some together: what begins each.
TOGETHER = np.array([0, 2, 4, 5, 6])
# Sizes are unknown: a segment is smaller or larger than its bitrate says.
SIZES = ((0.84, 0.5), (1.16, 0.5))
RTT_S = 0.07
CAP_S = 30.0
# Stalls cost a little more than they are charged, for the same reason: errors there are dear.
STALL_COST = 1.2
SWEEPS, FIRST_SWEEPS = 30, 12
# The lecture's end is seen SIGHT segments before. There are values for so many left; other numbers use the nearest, of
# two as near the fewer.
ENDS, SIGHT = (1, 2, 4, 7, 11), 12
# Of what is kept: 43 kbit/s on the papers' ladder. Below the floor nothing but the lowest rung is right.
UNIT, FLOOR = 0.01, -12.0

SEED, EACH = 5, 120
# Steady networks are as many as unsteady ones.
WEIGHTS = {"cable": 2.0, "stationary": 2.0, "blocks": 2.0}
# And after a drop it stays down about as often as it comes back: that a network drops is as rare as it is, but what
# follows must not be left to how many families happen to do either.
DROPPED_GAP, DROPPED_WEIGHTS = -0.4, {"collapses": 2.5, "dropouts": 0.8}
# A belief does not know whether a network is calm. `quality` does, and trusts calm ones more, so they count for less
# here: what is as steady and has not yet shown that it stays so drops twice as often.
CALM_WEIGHT = 0.3


class Cautious:
    """Whom to learn the first surprises from: four fifths of the level, half of it while the buffer is short."""

    name = "cautious"

    def reset(self, ladder_kbps: Sequence[float], segment_seconds: float) -> None:  # noqa: ARG002 - as every policy
        self.ladder = ladder_kbps
        self.belief = Belief()

    def decide(self, obs: Any) -> int:
        if not obs.sizes_kbit:
            return 0
        self.belief.learn(obs.sizes_kbit[-1] / (obs.download_s[-1] - obs.rtt_s))
        spent = 0.8 / self.belief.inverse_kbps * min(max(obs.buffer_s / 12, 0.5), 1.0)
        return max((rung for rung, kbps in enumerate(self.ladder) if kbps <= spent), default=0)


def collect(policy: Policy, over: Sequence[networks.Network], segment_s: float, seed: int) -> Array:
    """Columns: gap, deviation, character, surprise, weight; a row per segment of every viewing but its first."""
    rows = []
    for number, network in enumerate(over):
        watched = video(seed * 1000 + number % 24, segment_s=segment_s, segments=round(256 / segment_s))
        remembering = qoe.Remembering(policy)
        watch(remembering, network, watched)
        usual = WEIGHTS.get(network.family, 1.0)
        dropped = DROPPED_WEIGHTS.get(network.family, usual)
        belief = quality.QualityState()
        for kbps in remembering.transfers_kbps:
            if belief.samples:
                gap = np.log(belief.newest_kbps * belief.inverse_kbps)
                character = np.log(max(belief.drift, NEAREST) / max(belief.deviation, NEAREST))
                surprise = np.log(kbps * belief.inverse_kbps)
                weight = dropped if gap < DROPPED_GAP else usual
                weight *= CALM_WEIGHT if belief.shortfall < quality.CALM else 1.0
                rows.append((gap, belief.deviation, character, surprise, weight))
            if belief.samples > 1:
                quality.count_shortfall(belief, kbps)
            belief.learn(kbps)
    return np.array(rows)


def surprises(rows: Array) -> Array:
    """[gap, deviation, character, quantile]: conditional distributions, kernel-smoothed over their neighbours and,
    where there are none, over all with the same gap. Each quantile is the mean of its share in 1/throughput."""
    gap, deviation, character, surprise, weight = rows[np.argsort(rows[:, 3])].T
    near_gap = _near(np.clip(gap, GAP[0], GAP[-1]), GAP, np.gradient(GAP) * 0.5)
    near_character = _near(np.clip(character, CHARACTER[0], CHARACTER[-1]), CHARACTER, np.gradient(CHARACTER) * 0.5)
    logs = np.log(DEVIATION)
    near_deviation = _near(np.log(np.clip(deviation, DEVIATION[0], DEVIATION[-1])), logs, np.full(len(logs), 0.3))
    slowness, edges = np.exp(-surprise), np.concatenate(([0.0], np.cumsum(SHARES)))
    found = np.empty((len(GAP), len(DEVIATION), len(CHARACTER), len(SHARES)))
    for g, d, c in np.ndindex(found.shape[:3]):
        kernel = weight * (near_gap[g] * near_deviation[d] * (near_character[c] + 0.01) + 1e-4 * (near_gap[g] + 0.02))
        mass = np.concatenate(([0.0], np.cumsum(kernel)))
        slow = np.concatenate(([0.0], np.cumsum(kernel * slowness)))
        at = np.searchsorted(mass[1:] / mass[-1], edges)
        first = np.minimum(np.maximum(at[:-1], 0), len(surprise) - 1)
        first[0] = 0
        past = np.maximum(np.append(at[1:-1], len(surprise)), first + 1)
        found[g, d, c] = -np.log((slow[past] - slow[first]) / (mass[past] - mass[first]))
    return found


def _near(values: Array, axis: Array, widths: Array) -> list[Array]:
    return [np.exp(-0.5 * ((values - at) / width) ** 2) for at, width in zip(axis, widths, strict=True)]


def moved(gap: Array, deviation: Array, character: Array, surprise: Array) -> tuple[Array, Array, Array, Array]:
    """`Belief.learn` for arrays: how far the level moves, then gap, deviation and character after a surprise."""
    drift = deviation * np.exp(character)
    drift = drift + DISTANCE_WEIGHT * (np.minimum(np.abs(surprise - gap), FARTHEST) - drift)
    deviation = deviation + DISTANCE_WEIGHT * (np.minimum(np.abs(surprise), FARTHEST) - deviation)
    rise = -np.log(1 - LEVEL_WEIGHT + LEVEL_WEIGHT * np.exp(-surprise))
    character = np.log(np.maximum(drift, NEAREST) / np.maximum(deviation, NEAREST))
    return rise, surprise - rise, deviation, character


def solve(found: Array, segment_s: float, sweeps: int) -> list[Array]:
    """Values [gap, deviation, character, level, bitrate, buffer] of fetching now, with as many segments left as `ENDS`
    has; the last are those far from the end."""
    grid = np.meshgrid(GAP, DEVIATION, CHARACTER, indexing="ij")
    rise, *after = moved(*(axis[..., None] for axis in grid), found)
    cells = [_cell(axis, values) for axis, values in zip((GAP, DEVIATION, CHARACTER), after, strict=True)]
    shift_no, drop_no = np.round(rise / 0.02).astype(int), np.round(found / 0.05).astype(int)
    shifts = {no: _shift(no * 0.02) for no in np.unique(shift_no)}
    drops = {no: _downloads(no * 0.05, segment_s) for no in np.unique(drop_no)}
    shape = (len(GAP), len(DEVIATION), len(CHARACTER), len(LEVEL), len(BITRATE), len(BUFFER_S))
    best = np.zeros((*shape[:3], shape[3], shape[4] * shape[5]), np.float32)
    allowed = np.searchsorted(BITRATE, PAPERS)
    gain = (BITRATE[None, :] - np.abs(BITRATE[:, None] - BITRATE[None, :])).astype(np.float32)
    ahead = []
    for sweep in range(sweeps):
        values = np.zeros(shape, np.float32)
        for cell in np.ndindex(shape[:3]):
            for quantile, share in enumerate(SHARES):
                at = (*cell, quantile)
                next_best = (shifts[shift_no[at]] @ _mix(best, cells, at)).ravel()
                for chance, cost, place, over in drops[drop_no[at]]:
                    low = next_best[place]
                    worth = cost + np.float32(DISCOUNT) * (low + over * (next_best[place + 1] - low))
                    values[cell] += np.float32(share * chance) * worth
        if sweep + 1 in ENDS or sweep == sweeps - 1:
            ahead.append(values)
        options = values[..., None, :, :][..., allowed, :] + gain[:, allowed][:, :, None]
        best = options.max(-2).reshape(best.shape)
    return ahead


def _mix(best: Array, cells: Sequence[tuple[Array, Array]], at: tuple[int, ...]) -> Array:
    """`best` between the neighbours that a belief falls amid; those that hardly matter are left out."""
    (g, gf), (d, df), (c, cf) = ((index[at], over[at]) for index, over in cells)
    mixed, total = 0.0, 0.0
    for i, j, k in np.ndindex(2, 2, 2):
        weight = (gf if i else 1 - gf) * (df if j else 1 - df) * (cf if k else 1 - cf)
        if weight > 0.02:
            mixed, total = mixed + np.float32(weight) * best[g + i, d + j, c + k], total + weight
    return mixed / np.float32(total)


def _cell(axis: Array, values: Array) -> tuple[Array, Array]:
    inside = np.clip(values, axis[0], axis[-1])
    at = np.clip(np.searchsorted(axis, inside, side="right") - 1, 0, len(axis) - 2)
    return at, (inside - axis[at]) / (axis[at + 1] - axis[at])


def _shift(rise: float) -> Array:
    """A matrix that reads values at levels that are higher by `rise`."""
    at, over = _cell(LEVEL, LEVEL + rise)
    matrix = np.zeros((len(LEVEL), len(LEVEL)), np.float32)
    rows = np.arange(len(LEVEL))
    matrix[rows, at] += 1 - over
    matrix[rows, at + 1] += over
    return matrix


def _downloads(surprise: float, segment_s: float) -> list[tuple[np.float32, Array, Array, Array]]:
    """For each size: its chance, what the stall costs, and where the buffer then is on its axis."""
    outcomes = []
    rows = np.arange(len(LEVEL))[:, None, None] * len(BITRATE) + np.arange(len(BITRATE))[None, :, None]
    for size, chance in SIZES:
        takes_s = RTT_S + size * BITRATE[None, :, None] * segment_s / np.exp(LEVEL + surprise)[:, None, None]
        left = BUFFER_S - takes_s
        at, over = _cell(BUFFER_S, np.minimum(np.maximum(left, 0) + segment_s, CAP_S))
        cost = (STALL_COST * np.minimum(left, 0)).astype(np.float32)
        outcomes.append((np.float32(chance), cost, rows * len(BUFFER_S) + at, over.astype(np.float32)))
    return outcomes


def fit(segment_s: float, over: Sequence[networks.Network]) -> tuple[list[array[int]], Array]:
    """The values of one table, and the surprises that it is made of."""
    rows = collect(Cautious(), over, segment_s, 1)
    ahead = packed(solve(surprises(rows), segment_s, FIRST_SWEEPS))
    rows = collect(qoe.Lectern((_table(segment_s, ahead),)), over, segment_s, 2)
    found = surprises(rows)
    return packed(solve(found, segment_s, SWEEPS)), found


def near_the_end() -> list[int]:
    """Which of `ENDS` holds with one segment left, two, ..."""
    return [min(range(len(ENDS)), key=lambda at: (abs(ENDS[at] - left), at)) for left in range(1, SIGHT + 1)]


def together(found: Array) -> Array:
    """The surprises with some quantiles taken together: their mean in 1/throughput, as download times add up."""
    shares = np.add.reduceat(SHARES, TOGETHER)
    return -np.log(np.add.reduceat(np.exp(-found) * SHARES, TOGETHER, axis=-1) / shares)


def packed(ahead: Sequence[Array]) -> list[array[int]]:
    """As integers; those near the end without the character, which hardly matters then."""
    middle = len(CHARACTER) // 2
    kept = [values[:, :, middle] for values in ahead[:-1]] + [ahead[-1]]
    return [array("h", np.round(np.maximum(v, FLOOR) / UNIT).astype(np.int16).ravel().tobytes()) for v in kept]


def about(tables: Sequence[tuple[float, Sequence[array[int]], Array]]) -> dict[str, Any]:
    """The head of the tables' file."""
    told = [
        {
            "segment_s": segment_s,
            "sizes": [len(values) for values in ahead],
            "surprises": [round(float(x), 3) for x in together(found).ravel()],
        }
        for segment_s, ahead, found in tables
    ]
    axes = (GAP, DEVIATION, CHARACTER, LEVEL, BITRATE, BUFFER_S)
    return {
        "axes": dict(zip(Axes._fields, ([round(float(x), 6) for x in axis] for axis in axes), strict=True)),
        "rtt_s": RTT_S,
        "unit": UNIT,
        "floor": FLOOR,
        "shares": [round(float(x), 6) for x in np.add.reduceat(SHARES, TOGETHER)],
        "ahead": near_the_end(),
        "tables": told,
        "fit": {"seed": SEED, "each": EACH, "discount": DISCOUNT, "stall_cost": STALL_COST},
    }


def _table(segment_s: float, kept: list[array[int]]) -> lookahead.Table:
    ahead = [*(kept[which] for which in near_the_end()), kept[-1]]
    axes = Axes(*([round(float(x), 6) for x in axis] for axis in (GAP, DEVIATION, CHARACTER, LEVEL, BITRATE, BUFFER_S)))
    return lookahead.Table(axes, segment_s, RTT_S, UNIT, ahead, floor=FLOOR)


def made_without(held_out: Sequence[str], each: int = EACH, segments_s: Sequence[float] = SEGMENTS_S) -> bytes:
    """The tables' file, fitted to `each` networks of every family but those that are held out."""
    over = networks.generated(SEED, each, [family for family in networks.FAMILIES if family not in held_out])
    fitted = [(segment_s, *fit(segment_s, over)) for segment_s in segments_s]
    return lookahead.dump(about(fitted), [values for _, ahead, _ in fitted for values in ahead])


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="bin/fit-quality", description="Fits the tables of quality decisions anew.")
    parser.add_argument("--out", type=Path, default=TABLES, help="where to write them (%(default)s)")
    parser.add_argument("--each", type=int, default=EACH, help="networks of each family (%(default)s)")
    parser.add_argument("--without", nargs="*", default=[], metavar="FAMILY", help="families to hold out, for a test")
    options = parser.parse_args(arguments)
    file = made_without(options.without, options.each)
    options.out.write_bytes(file)
    print(f"{options.out}: {len(file) / 1e6:.2f} MB")


if __name__ == "__main__":
    main()

"""Decisions for many sessions at once: `quality.decide` of each, as arrays.

Under load a round trip brings news of hundreds of sessions. What they ask is the same arithmetic on other numbers, so
it is done by NumPy for all whose ladder, ceiling and segments are alike; those with something particular, and few at a
time, are decided one by one. The same operations in the same order: the answers are the very same, which is tested.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import starmap
from operator import attrgetter
from struct import Struct as Layout

import numpy as np

from actors.video_session import quality
from actors.video_session.columns import Array, columns_of
from actors.video_session.lookahead import NEAREST, Offer
from actors.video_session.quality import Question

# Below so many the arrays cost more than they save.
FEW = 10

_NUMBERS = (
    "inverse_kbps", "newest_kbps", "deviation", "drift", "playback_rate", "buffer_ms", "wait_s", "excess",
    "fetched_kbps", "decided_kbps", "late", "starved", "shortfall", "position_s", "target_ms",
)  # fmt: skip
_numbers = attrgetter(*_NUMBERS)
_pack = Layout(f"{len(_NUMBERS)}d").pack

# In the order of the tests that choose them.
_REASONS = (
    quality.LOW_BUFFER, quality.SLOWED, quality.ON_BUFFER, quality.NARROW, quality.UNSTEADY, quality.FILLING,
)  # fmt: skip


def decide_many(questions: Sequence[Question]) -> None:
    """Decide all that have news; each state remembers its decision, as after `quality.decide`."""
    alike: defaultdict[Offer, list[Question]] = defaultdict(list)
    for question in questions:
        state = question.state
        if not state.fresh and state.rung is not None:
            continue
        if (
            state.crawl_kbps or not state.samples or not state.fetched_kbps or not state.decided_kbps
            or state.buffer_ms is None or state.wait_s is None
        ):  # fmt: skip
            quality.decide(question)
        else:
            alike[question.offer].append(question)
    for offer, group in alike.items():
        if len(group) < FEW:
            for question in group:
                quality.decide(question)
        else:
            _decide_alike(offer, group)


def _decide_alike(offer: Offer, group: Sequence[Question]) -> None:
    states = [question.state for question in group]
    columns = np.frombuffer(b"".join(starmap(_pack, map(_numbers, states)))).reshape(-1, len(_NUMBERS)).T
    length_s = np.array([question.length_s for question in group])
    rungs, reasons = _decide_columns(offer, length_s, *columns)
    bitrates_kbps = offer.bitrates_kbps
    for question, state, rung, reason in zip(group, states, rungs, reasons, strict=True):
        state.rung = rung
        kbps, before_kbps = bitrates_kbps[rung], state.decided_kbps
        state.stood_kbps = 0.0 if kbps == before_kbps else before_kbps
        state.decided_kbps = kbps
        state.reason = _REASONS[reason] if reason >= 0 else question.top_reason
        state.fresh = state.abandon = False


def _decide_columns(
    offer: Offer, length_s: Array, inverse: Array, newest: Array, deviation: Array, drift: Array, playback_rate: Array,
    buffer_ms: Array, wait_s: Array, excess: Array, fetched_kbps: Array, decided_kbps: Array, late: Array,
    starved: Array, shortfall: Array, position_s: Array, target_ms: Array,
) -> tuple[list[int], list[int]]:  # fmt: skip
    """`quality._decide`: rungs, and reasons as indices, -1 for the top's own."""
    table, of = offer.table, columns_of(offer)
    rate = np.minimum(np.maximum(playback_rate, quality.SLOWEST_RATE), quality.FASTEST_RATE)
    buffer_s, shown_kbps = buffer_ms / 1000, fetched_kbps
    remaining = np.maximum(np.ceil((length_s - position_s - buffer_s) / offer.segment_s - 0.1), 1)
    obeys_late = late > quality.LATE
    if obeys_late.any():
        shown_kbps = np.where(obeys_late, decided_kbps, fetched_kbps)
        unseen_kbps = quality.UNSEEN_SHARE * np.minimum(1 / inverse, newest)
        takes_s = wait_s + shown_kbps * offer.segment_s * (1 + quality.SCENE_LASTS * excess) / unseen_kbps
        then_s = np.maximum(buffer_s - takes_s * rate, 0.0) + offer.segment_s
        buffer_s = np.where(obeys_late, then_s, buffer_s)
        remaining = np.maximum(remaining - obeys_late, 1)
    part = np.minimum(np.maximum(quality.HELD_MS / target_ms, quality.LEAST_PART), 1.0)
    buffer_s = np.where(remaining < quality.SIGHT, buffer_s, buffer_s * part)
    buffer_s = (buffer_s - (wait_s - table.rtt_s) * rate) / offer.stretch
    slow_s = np.maximum(inverse, 1 / newest) * offer.top_kbps * table.segment_s * rate
    buffers_s = buffer_s[:, None] - (quality.SCENE_LASTS * excess * slow_s)[:, None] * of.share
    ratio = newest * inverse
    deviation_seen = np.maximum(deviation, NEAREST)
    places = of.places(ratio, deviation_seen, np.maximum(drift, NEAREST))
    slowed = rate * np.where(shortfall < quality.CALM, quality.CALM_TAKES, 1.0) * (1 + quality.SCENE_LINGERS * excess)
    start, place = of.horizons.of(remaining, *places)
    value = of.worth(of.horizons.values, place, 1 / (inverse * offer.top_kbps * slowed), buffers_s, start)
    value[:, 1:][value[:, 1:] <= table.floor] = -np.inf
    kbps = of.kbps[:-1]
    last = of.share_of_nearest(shown_kbps)
    value += of.share
    value -= np.abs(of.share - last[:, None])
    dropped = ratio < quality.DROPPED_SHARE
    if dropped.any():
        part = quality.AT_STAKE + np.where(ratio < quality.COLLAPSED_SHARE, 0.0, ratio)
        spare_s = part * np.minimum(buffer_ms, quality.AT_STAKE_MS)
        spare_s = spare_s / 1000 / rate
        most_kbps = np.where(dropped, np.maximum(spare_s * newest / offer.segment_s, 0), np.inf)
        value[:, 1:][kbps[1:] > most_kbps[:, None]] = -np.inf
    best = value.argmax(1)
    level_kbps = 1 / inverse / np.maximum(playback_rate, quality.SLOWEST_RATE)
    low = (starved > 0) | (buffer_ms < offer.segment_s * quality.LOW_BUFFER_MS_PER_S)
    why = np.where(deviation > quality.UNSTEADY_DEVIATION, 4, 5)
    why[of.kbps[best + 1] >= level_kbps] = 3
    why[kbps[best] > level_kbps] = 2
    why[ratio < quality.SLOWED_SHARE] = 1
    why[low] = 0
    why[best == offer.top] = -1
    return best.tolist(), why.tolist()

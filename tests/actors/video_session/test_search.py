"""Where sizes are known the search is worth what walking through every branch by hand is."""

from math import exp, log
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.video_session import search
from actors.video_session.lookahead import DISCOUNT, Belief, Offer, table_for

LADDER = (300.0, 750.0, 1200.0, 1850.0, 2850.0, 4300.0)
BELIEF = st.builds(
    Belief, st.floats(1e-4, 3e-3), st.floats(200, 9000), st.floats(0.02, 1), st.floats(0.02, 1), st.just(100)
)
SIZES = st.lists(st.floats(0.6, 1.7), min_size=3, max_size=3)
BUFFER_S = st.floats(0, 30)


def sizes_of(factors: list[float], segment_s: float) -> list[list[float]]:
    return [[factor * kbps * segment_s for kbps in LADDER] for factor in factors]


def by_hand(offer: Offer, belief: Belief, sizes_kbit: Any, buffer_s: float, wait_s: float, left: int | None) -> Any:
    """The worth of each rung, branch by branch, by the scalar rules of `lookahead`."""
    table, clock = offer.table, 1 / offer.stretch
    if len(sizes_kbit) == 1:
        slow = max(belief.inverse_kbps, 1 / belief.newest_kbps) * clock
        usual = [kbps * offer.segment_s for kbps in LADDER]
        late_s = (wait_s - table.rtt_s) * clock
        buffers_s = [buffer_s - late_s - slow * (kbit - u) for kbit, u in zip(sizes_kbit[0], usual, strict=True)]
        return table.worth(table.horizon(left), belief, 1.0, offer.steps, buffers_s)
    gap = log(belief.newest_kbps * belief.inverse_kbps)
    found = []
    for kbit, step in zip(sizes_kbit[0], offer.steps, strict=True):
        worth = 0.0
        for surprise, share in zip(surprises(offer, belief, gap), table.shares, strict=True):
            kbps = exp(surprise) / belief.inverse_kbps
            rest_s = buffer_s - (wait_s + kbit / kbps) * clock
            then_s = min(max(rest_s, 0.0) + table.segment_s, 30.0)
            after = by_hand(
                offer, belief.after(kbps), sizes_kbit[1:], then_s, wait_s, None if left is None else left - 1
            )
            best = max(w + s.share - abs(s.share - step.share) for w, s in zip(after, offer.steps, strict=True))
            worth += share * (search.STALL_COST * min(rest_s, 0.0) + DISCOUNT * best)
        found.append(worth)
    return found


def surprises(offer: Offer, belief: Belief, gap: float) -> list[float]:
    axes, table, count = offer.table.axes, offer.table, len(offer.table.shares)
    at = max(sum(point <= gap for point in axes.gap) - 1, 0)
    at = min(at, len(axes.gap) - 2)
    over = min(max((gap - axes.gap[at]) / (axes.gap[at + 1] - axes.gap[at]), 0.0), 1.0)
    deviation = sum(border <= belief.deviation for border in table.deviation)
    character = sum(border <= belief.drift / belief.deviation for border in table.character)

    def row(gap_at: int) -> list[float]:
        place = (gap_at * len(axes.deviation) + deviation) * len(axes.character) + character
        return list(table.surprises[place * count : (place + 1) * count])

    return [a + over * (b - a) for a, b in zip(row(at), row(at + 1), strict=True)]


@settings(max_examples=15, deadline=None)
@given(BELIEF, SIZES, BUFFER_S, st.sampled_from([None, 2, 9]), st.sampled_from([2.0, 4.0]), st.integers(1, 2))
def test_it_is_what_every_branch_by_hand_gives(
    belief: Belief, factors: list[float], buffer_s: float, left: int | None, segment_s: float, depth: int
) -> None:
    offer = Offer(LADDER, segment_s, table_for(4.0))
    sizes_kbit = sizes_of(factors[:depth], segment_s)
    found = search.worth(offer, belief, sizes_kbit, buffer_s=buffer_s, wait_s=0.05, rate=1.0, last=None, remaining=left)
    assert found == pytest.approx(by_hand(offer, belief, sizes_kbit, buffer_s, 0.05, left), abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(BELIEF, SIZES, BUFFER_S, st.sampled_from([None, 0.2, 1.0]))
def test_three_segments_ahead_it_is_finite_and_a_fuller_buffer_is_never_worse(
    belief: Belief, factors: list[float], buffer_s: float, last: float | None
) -> None:
    offer = Offer(LADDER, 4.0, table_for(4.0))

    def best(buffer_s: float) -> float:
        worths = search.worth(
            offer, belief, sizes_of(factors, 4.0), buffer_s=buffer_s, wait_s=0.05, rate=1.0, last=last, remaining=None
        )
        shown = zip(worths, offer.steps, strict=True)
        return max(worth + step.share - abs(step.share - (last or step.share)) for worth, step in shown)

    assert -1000 < best(buffer_s) <= best(buffer_s + 4) + 0.3  # the table is rounded, and its axes are coarse


def test_large_segments_to_come_ask_for_a_lower_rung_now() -> None:
    offer = Offer(LADDER, 4.0, table_for(4.0))
    belief = Belief(1 / 2500, 2500.0, 0.2, 0.2, 100)

    def rung(*factors: float) -> int:
        worths = search.worth(
            offer, belief, sizes_of(list(factors), 4.0), buffer_s=7, wait_s=0.05, rate=1.0, last=None, remaining=None
        )
        return max(range(len(LADDER)), key=lambda r: worths[r] + offer.steps[r].share)

    assert rung(1.0, 2.0, 2.0) < rung(1.0, 0.6, 0.6)

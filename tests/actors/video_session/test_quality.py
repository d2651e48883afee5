"""The first policy: throughput with a margin that the buffer decides."""

from typing import Any

import msgspec
import pytest

from actors.video_session.messages import Rung, parse_rest_frame
from actors.video_session.quality import (
    DATA_SAVER,
    LOW_BUFFER,
    NARROW,
    NOT_MEASURED,
    REASONS,
    ROOM,
    VIEWPORT,
    Decision,
    QualityState,
    decide,
    observe,
)

LADDER = [Rung(0, 300, 426, 240), Rung(1, 800, 640, 360), Rung(2, 1600, 960, 540), Rung(3, 3200, 1280, 720)]


def report(kbps: float, *, buffer_s: float = 15.0, **cmcd: Any) -> Any:
    """A frame after a 2 s segment that was fetched at this rate."""
    return parse_rest_frame(
        {
            "position": 1.0,
            "cmcd": {"bl": buffer_s * 1000, **cmcd},
            "segments": [{"br": 800, "bytes": kbps * 1000 / 8, "ms": 1000}],
        }
    )


def decided(
    state: QualityState, *reports: Any, viewport: tuple[int, int] | None = None, save: bool = False
) -> Decision:
    decision = decide(state, LADDER, viewport_px=viewport, save_data=save)
    for each in reports:
        observe(state, each)
        decision = decide(state, LADDER, viewport_px=viewport, save_data=save)
    return decision


def test_before_anything_is_measured_it_starts_low_and_says_so() -> None:
    decision = decided(QualityState())
    assert (decision.rung, decision.etp, decision.reason) == (1, None, NOT_MEASURED)


def test_a_fast_network_gets_the_top() -> None:
    decision = decided(QualityState(), *[report(20_000)] * 3)
    assert (decision.rung, decision.mb, decision.etp, decision.reason) == (3, 3200, 20_000, ROOM)


def test_a_collapse_is_believed_at_once() -> None:
    state = QualityState()
    decided(state, *[report(20_000)] * 10)
    decision = decided(state, report(900))
    assert decision.rung <= 1
    assert decision.reason == NARROW


def test_a_recovery_is_followed_within_a_few_reports() -> None:
    state = QualityState()
    decided(state, *[report(900)] * 10)
    rungs = [decided(state, report(20_000)).rung for _ in range(8)]
    assert rungs[-1] == 3
    assert rungs == sorted(rungs)


@pytest.mark.parametrize("kbps", [500, 900, 1700, 2500])
def test_a_steady_network_gets_a_steady_rung_that_it_carries(kbps: float) -> None:
    state = QualityState()
    rungs = [decided(state, report(kbps)).rung for _ in range(20)]
    assert len(set(rungs[5:])) == 1
    assert LADDER[rungs[-1]].br <= kbps


def test_a_nearly_empty_buffer_gets_the_lowest_rung() -> None:
    state = QualityState()
    decision = decided(state, *[report(2000)] * 5, report(2000, buffer_s=0.5))
    assert (decision.rung, decision.reason) == (0, LOW_BUFFER)


def test_at_double_speed_the_same_network_carries_half() -> None:
    normal = decided(QualityState(), *[report(2200)] * 5)
    double = decided(QualityState(), *[report(2200, pr=2)] * 5)
    assert (normal.rung, double.rung) == (2, 1)


def test_no_pixels_that_nobody_sees() -> None:
    decision = decided(QualityState(), *[report(20_000)] * 3, viewport=(640, 360))
    assert (decision.rung, decision.reason) == (1, VIEWPORT)


def test_who_saves_data_gets_little() -> None:
    decision = decided(QualityState(), *[report(20_000)] * 3, save=True)
    assert (decision.rung, decision.reason) == (1, DATA_SAVER)


def test_absurd_figures_of_a_loopback_are_clamped() -> None:
    decision = decided(QualityState(), parse_rest_frame({"position": 0, "cmcd": {"mtp": 1e12}}))
    assert decision.etp == 1_000_000


def test_the_wire_speaks_cmsd_and_leaves_out_what_is_not_known() -> None:
    advice = decided(QualityState()).advice(n=1, epoch=2, ttl_ms=10_000)
    assert msgspec.to_builtins(advice) == {
        "n": 1, "epoch": 2, "rung": 1, "cmsd": {"mb": 800}, "reason": NOT_MEASURED, "ttl_ms": 10_000,
    }  # fmt: skip


def test_a_ladder_of_one_rung_is_enough() -> None:
    state = QualityState()
    observe(state, report(10))
    assert decide(state, LADDER[:1], viewport_px=(1, 1), save_data=True).rung == 0


def test_reasons_are_few_sentences_that_can_be_counted() -> None:
    assert len(set(REASONS)) == len(REASONS)

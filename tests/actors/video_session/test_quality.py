"""What a player is told to fetch, and why, by what it reported."""

from typing import Any

import msgspec
import pytest

from actors.video_session.messages import Rung, parse_rest_frame
from actors.video_session.quality import (
    DATA_SAVER,
    DEVICE,
    LOW_BUFFER,
    NOT_MEASURED,
    ON_BUFFER,
    REASONS,
    ROOM,
    SLOWED,
    SPARED_REPORTS,
    UNSTEADY,
    VIEWPORT,
    Decision,
    QualityState,
    decide,
    observe,
)

LADDER = [Rung(0, 300, 426, 240), Rung(1, 800, 640, 360), Rung(2, 1600, 960, 540), Rung(3, 3200, 1280, 720)]


def report(kbps: float, *, buffer_s: float = 15.0, br: float = 800, **more: Any) -> Any:
    """A frame after a segment of 4 s that was fetched at this rate."""
    members = {key: more.pop(key) for key in ("dropped_frames", "viewport") if key in more}
    size = br * 4 * 1000 / 8
    segment = {"br": br, "bytes": size, "ms": size * 8 / kbps}
    return parse_rest_frame(
        {"position": 1.0, "cmcd": {"bl": buffer_s * 1000, "d": 4000, **more}, "segments": [segment], **members}
    )


def tick(*, buffer_s: float = 15.0, **cmcd: Any) -> Any:
    """A frame without news of a segment."""
    return parse_rest_frame({"position": 1.0, "cmcd": {"bl": buffer_s * 1000, "d": 4000, **cmcd}})


def decided(
    state: QualityState, *reports: Any, viewport: tuple[int, int] | None = None, save: bool = False, **more: Any
) -> Decision:
    decision = decide(state, LADDER, viewport_px=viewport, save_data=save, **more)
    for each in reports:
        observe(state, each)
        decision = decide(state, LADDER, viewport_px=viewport, save_data=save, **more)
    return decision


def test_before_anything_is_measured_it_starts_at_the_lowest_rung_and_says_so() -> None:
    decision = decided(QualityState())
    assert (decision.rung, decision.etp, decision.reason) == (0, None, NOT_MEASURED)


def test_a_fast_network_gets_the_top() -> None:
    decision = decided(QualityState(), *[report(20_000)] * 3)
    assert (decision.rung, decision.mb, decision.etp, decision.reason) == (3, 3200, 20_000, ROOM)


def test_a_collapse_is_believed_before_it_costs_a_stall() -> None:
    state = QualityState()
    decided(state, *[report(6000, br=3200, buffer_s=26)] * 10)
    decision = decided(state, report(600, br=3200, buffer_s=8))
    assert decision.rung <= 1
    assert decision.reason == SLOWED


def test_a_short_dip_over_a_full_buffer_is_ridden_out() -> None:
    state = QualityState()
    for _ in range(6):
        decided(state, *[report(6000, br=3200, buffer_s=28)] * 5, report(2500, br=3200, buffer_s=26))
    assert decided(state, *[report(6000, br=3200, buffer_s=28)] * 4, report(2500, br=3200, buffer_s=26)).rung == 3


def test_a_download_under_way_that_crawls_is_believed_before_it_ends() -> None:
    state = QualityState()
    assert decided(state, *[report(20_000, br=3200, buffer_s=18)] * 6).rung == 3
    assert decided(state, tick(buffer_s=12, mtp=500)).rung <= 1


def test_small_segments_do_not_talk_a_collapse_away() -> None:
    state = QualityState()
    for _ in range(8):
        small = {"br": 3200, "bytes": 400_000, "ms": 12, "ttfb_ms": 8}
        observe(state, parse_rest_frame({"position": 1, "cmcd": {"bl": 18_000, "d": 4000}, "segments": [small]}))
    assert decided(state).rung == 3
    assert decided(state, tick(buffer_s=17, mtp=900)).rung < 3


def test_a_recovery_is_followed_within_a_few_segments() -> None:
    state = QualityState()
    decided(state, *[report(900)] * 10)
    rungs = [decided(state, report(20_000, br=LADDER[state.rung or 0].br)).rung for _ in range(8)]
    assert rungs[-1] == 3
    assert rungs == sorted(rungs)


@pytest.mark.parametrize("kbps", [500, 1000, 2000])
def test_a_steady_network_gets_a_steady_rung_that_it_carries(kbps: float) -> None:
    state = QualityState()
    rungs = [decided(state, report(kbps, br=LADDER[state.rung or 0].br, buffer_s=14)).rung for _ in range(20)]
    assert len(set(rungs[8:])) == 1
    assert LADDER[rungs[-1]].br <= kbps


def test_a_nearly_empty_buffer_gets_less_than_a_full_one() -> None:
    low = decided(QualityState(), *[report(1500, br=1600)] * 5, report(1500, br=1600, buffer_s=0.5))
    full = decided(QualityState(), *[report(1500, br=1600)] * 5, report(1500, br=1600, buffer_s=26))
    assert (low.rung, low.reason) == (0, LOW_BUFFER)
    assert (full.rung, full.reason) == (2, ON_BUFFER)


def test_an_unsteady_network_gets_less_than_a_steady_one_of_the_same_newest() -> None:
    steady = decided(QualityState(), *[report(4000, br=1600, buffer_s=5)] * 13)
    swings = [report(kbps, br=1600, buffer_s=5) for kbps in [2400, 12_000] * 6]
    unsteady = decided(QualityState(), *swings, report(4000, br=1600, buffer_s=5))
    assert unsteady.rung < steady.rung
    assert unsteady.reason == UNSTEADY


def test_at_double_speed_the_same_network_carries_half() -> None:
    normal = decided(QualityState(), *[report(2200)] * 5)
    double = decided(QualityState(), *[report(2200, pr=2)] * 5)
    assert (normal.rung, double.rung) == (2, 1)


def test_near_the_end_the_buffer_is_spent() -> None:
    reports = [report(1000, br=800, buffer_s=14)] * 8
    assert decided(QualityState(), *reports, remaining=2).rung > decided(QualityState(), *reports).rung


def test_known_sizes_count_more_than_bitrates() -> None:
    usual = [rung.br * 4 for rung in LADDER]
    reports = [report(2600, buffer_s=9)] * 8
    small = decided(QualityState(), *reports, sizes_kbit=[size * 0.5 for size in usual])
    large = decided(QualityState(), *reports, sizes_kbit=[size * 1.8 for size in usual])
    assert large.rung < small.rung


def test_distance_is_not_slowness() -> None:
    near = parse_rest_frame({"position": 1, "segments": [{"br": 800, "bytes": 400_000, "ms": 500, "ttfb_ms": 0}]})
    far = parse_rest_frame({"position": 1, "segments": [{"br": 800, "bytes": 400_000, "ms": 1100, "ttfb_ms": 600}]})
    assert decided(QualityState(), near).etp == decided(QualityState(), far).etp == 6400


def test_a_decision_stands_until_there_is_news() -> None:
    state = QualityState()
    before = decided(state, *[report(2000, buffer_s=14)] * 5)
    after = decided(state, tick(buffer_s=13), tick(buffer_s=12), tick(buffer_s=11))
    assert (after.rung, after.reason) == (before.rung, before.reason)


def test_a_player_that_tells_no_segments_is_judged_by_its_own_figure() -> None:
    assert decided(QualityState(), tick(mtp=20_000), tick(mtp=20_100), tick(mtp=19_900)).rung == 3


def test_no_pixels_that_nobody_sees() -> None:
    decision = decided(QualityState(), *[report(20_000)] * 3, viewport=(640, 360))
    assert (decision.rung, decision.reason) == (1, VIEWPORT)


def test_a_picture_that_grows_gets_more_at_once() -> None:
    state = QualityState()
    decided(state, *[report(20_000, viewport=[640, 360])] * 5)
    observe(state, parse_rest_frame({"position": 1, "cmcd": {"bl": 15_000}, "viewport": [1280, 720]}))
    assert decide(state, LADDER, viewport_px=None, save_data=False).rung == 3


def test_who_saves_data_gets_little() -> None:
    decision = decided(QualityState(), *[report(20_000)] * 3, save=True)
    assert (decision.rung, decision.reason) == (1, DATA_SAVER)


def test_a_device_that_drops_frames_is_spared_for_a_while() -> None:
    state = QualityState()
    decision = decided(state, *[report(20_000, br=3200, dropped_frames=25)] * 3)
    assert (decision.rung, decision.reason) == (2, DEVICE)
    decision = decided(state, *[report(20_000, br=1600)] * SPARED_REPORTS)
    assert (decision.rung, decision.reason) == (3, ROOM)


def test_absurd_figures_of_a_loopback_are_clamped() -> None:
    decision = decided(QualityState(), parse_rest_frame({"position": 0, "cmcd": {"mtp": 1e12}}))
    assert decision.etp == 1_000_000
    tiny = {"position": 0, "segments": [{"br": 1e-9, "bytes": 1, "ms": 1e9, "ttfb_ms": 1e12}]}
    assert decided(QualityState(), parse_rest_frame(tiny)).etp == 1


def test_the_wire_speaks_cmsd_and_leaves_out_what_is_not_known() -> None:
    advice = decided(QualityState()).advice(n=1, epoch=2, ttl_ms=10_000)
    assert msgspec.to_builtins(advice) == {
        "n": 1, "epoch": 2, "rung": 0, "cmsd": {"mb": 300}, "reason": NOT_MEASURED, "ttl_ms": 10_000,
    }  # fmt: skip


def test_a_ladder_of_one_rung_is_enough() -> None:
    state = QualityState()
    observe(state, report(10))
    assert decide(state, LADDER[:1], viewport_px=(1, 1), save_data=True).rung == 0


def test_reasons_are_few_sentences_that_can_be_counted() -> None:
    assert len(set(REASONS)) == len(REASONS)


def test_checkpoints_of_before_still_load() -> None:
    kept = {"inverse_kbps": 0.001, "buffer_ms": 9000.0, "playback_rate": 2.0, "starved": False, "rung": 2,
            "viewport_px": [640, 360]}  # fmt: skip
    state = msgspec.convert(kept, QualityState)
    assert (state.rung, state.playback_rate) == (2, 2.0)
    assert decided(state, *[report(20_000)] * 3).rung == 1


def test_a_state_comes_back_from_its_checkpoint_as_it_was() -> None:
    state = QualityState()
    decided(state, *[report(1700, viewport=[1280, 720])] * 5)
    assert msgspec.json.decode(msgspec.json.encode(state), type=QualityState) == state

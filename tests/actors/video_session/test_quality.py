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
    Question,
    decide,
    obeys_late,
    observe,
    told_by,
)

LADDER = [Rung(0, 300, 426, 240), Rung(1, 800, 640, 360), Rung(2, 1600, 960, 540), Rung(3, 3200, 1280, 720)]


def report(kbps: float, *, buffer_s: float = 15.0, br: float = 800, segment_s: float = 4.0, **more: Any) -> Any:
    """A frame after a segment that was fetched at this rate."""
    members = {key: more.pop(key) for key in ("dropped_frames", "viewport") if key in more}
    size = br * segment_s * 1000 / 8
    segment = {"br": br, "bytes": size, "ms": size * 8 / kbps}
    cmcd = {"bl": buffer_s * 1000, "d": segment_s * 1000, **more}
    return parse_rest_frame({"position": 1.0, "cmcd": cmcd, "segments": [segment], **members})


def tick(*, buffer_s: float = 15.0, **cmcd: Any) -> Any:
    """A frame without news of a segment."""
    return parse_rest_frame({"position": 1.0, "cmcd": {"bl": buffer_s * 1000, "d": 4000, **cmcd}})


def decided(
    state: QualityState, *reports: Any, viewport: tuple[int, int] | None = None, save: bool = False, **more: Any
) -> Decision:
    question = Question(state, LADDER, viewport_px=viewport, save_data=save)
    decision = decide(question, **more)
    for each in reports:
        observe(state, each)
        decision = decide(question, **more)
    return decision


def test_before_anything_is_measured_it_starts_at_the_lowest_rung_and_says_so() -> None:
    decision = decided(QualityState())
    assert (decision.rung, decision.etp, decision.reason) == (0, None, NOT_MEASURED)


def test_a_fast_network_gets_the_top() -> None:
    decision = decided(QualityState(), *[report(20_000)] * 3)
    assert (decision.rung, decision.mb, decision.etp, decision.reason) == (3, 3200, 20_000, ROOM)


@pytest.mark.parametrize("buffer_s", [2, 5, 9, 14, 20, 27])
@pytest.mark.parametrize("kbps", [900, 1500, 2400, 4000])
def test_a_second_of_stall_is_as_dear_where_segments_are_shorter(kbps: float, buffer_s: float) -> None:
    long, short = (
        decided(QualityState(), *[report(kbps, buffer_s=buffer_s, segment_s=seconds)] * 12) for seconds in (4.0, 2.0)
    )
    assert short == long


@pytest.mark.parametrize(("tbl", "part"), [(45_000, 2 / 3), (60_000, 1 / 2), ([60_000], 1 / 2), (600_000, 1 / 2)])
def test_of_a_buffer_that_is_to_be_longer_than_usual_a_part_counts(tbl: Any, part: float) -> None:
    def rung(kbps: float, buffer_s: float, **more: Any) -> int:
        return decided(QualityState(), *[report(kbps, buffer_s=buffer_s, **more)] * 12).rung

    cases = [(kbps, buffer_s) for kbps in (900, 1500, 2400) for buffer_s in (4, 10, 18, 26, 40, 54)]
    reserved = [rung(kbps, buffer_s, tbl=tbl) for kbps, buffer_s in cases]
    assert reserved == [rung(kbps, buffer_s * part) for kbps, buffer_s in cases]
    assert sum(reserved) < sum(rung(kbps, buffer_s) for kbps, buffer_s in cases)


@pytest.mark.parametrize("tbl", [0, 6000, 30_000, []])
def test_a_buffer_that_is_to_be_no_longer_than_usual_counts_whole(tbl: Any) -> None:
    for buffer_s in (4, 10, 18, 26):
        plain = decided(QualityState(), *[report(1500, buffer_s=buffer_s)] * 12)
        assert decided(QualityState(), *[report(1500, buffer_s=buffer_s, tbl=tbl)] * 12) == plain


def test_what_was_held_in_reserve_is_spent_near_the_end() -> None:
    def rung(length_s: float) -> int:
        state = QualityState()
        for _ in range(8):
            observe(state, report(1200, br=800, buffer_s=36, tbl=60_000))
        return decide(Question(state, LADDER, length_s=length_s)).rung

    assert rung(1.0 + 36 + 16) > rung(3000)


@pytest.mark.parametrize("kbps", [60, 150, 250, 320, 400])
@pytest.mark.parametrize("lowest_kbps", [500, 548, 552, 553, 560])
def test_where_the_network_carries_no_rung_the_lowest_is_fetched(kbps: float, lowest_kbps: float) -> None:
    ladder = [Rung(rung, br) for rung, br in enumerate((lowest_kbps, 952, 1752, 3052))]
    for buffer_s in (1, 3, 8, 16):
        question = Question(QualityState(), ladder)
        for _ in range(8):
            observe(question.state, report(kbps, br=lowest_kbps, buffer_s=buffer_s, segment_s=2.0, tbl=60_000))
            assert decide(question).rung == 0


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


def crawling(state: QualityState, *, from_s: int, to_s: int, loading: float = 3200) -> list[bool]:
    """Whether giving up is advised, second by second, while a segment comes at 300 kbit/s over this buffer."""
    decided(state, report(9000, br=3200, buffer_s=from_s))
    return [decided(state, tick(buffer_s=left, mtp=300, br=loading)).abandon for left in range(from_s - 1, to_s, -1)]


def test_a_download_that_will_outlast_the_buffer_is_given_up_when_the_buffer_is_short() -> None:
    state = QualityState()
    decided(state, *[report(9000, br=3200, buffer_s=18)] * 6)
    advised = crawling(state, from_s=18, to_s=0)
    assert (any(advised[:9]), advised[-1], state.rung) == (False, True, 0)
    assert not decided(state, report(300, br=300, buffer_s=3)).abandon


def test_a_short_dip_and_a_download_of_the_rung_that_is_decided_are_waited_for() -> None:
    state = QualityState()
    decided(state, *[report(9000, br=3200, buffer_s=7)] * 6)
    assert not any(crawling(state, from_s=7, to_s=4))
    assert not any(crawling(state, from_s=18, to_s=0, loading=300))


def test_at_the_end_of_a_crawl_the_network_is_believed_to_be_back() -> None:
    state = QualityState()
    decided(state, *[report(9000, br=3200, buffer_s=18)] * 6)
    crawl = decided(state, tick(buffer_s=12, mtp=400, br=3200))
    back = decided(state, tick(buffer_s=12, mtp=8000, br=3200))
    assert crawl.rung < back.rung == 3


def test_the_wire_says_abandon_only_where_it_is_meant() -> None:
    said = Decision(0, 300, 500, SLOWED, abandon=True).advice(n=1, epoch=2, ttl_ms=10_000)
    assert msgspec.to_builtins(said)["abandon"] is True


def test_a_known_length_puts_the_end_in_sight() -> None:
    def rung(length_s: float | None) -> int:
        state = QualityState()
        for _ in range(8):
            observe(state, report(1200, br=800, buffer_s=18))
        return decide(Question(state, LADDER, length_s=length_s)).rung

    assert rung(1.0 + 18 + 8) > rung(None) == rung(3000)


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


def test_a_network_that_never_dropped_is_trusted_more_than_one_that_did_long_ago() -> None:
    steady = decided(QualityState(), *[report(2000, buffer_s=14)] * 41)
    dropped = decided(QualityState(), *[report(2000, buffer_s=14)] * 15, report(670), *[report(2000, buffer_s=14)] * 25)
    soon = decided(QualityState(), *[report(2000, buffer_s=14)] * 10)
    assert (steady.rung, dropped.rung, soon.rung) == (2, 1, 1)


def test_a_nearly_empty_buffer_gets_less_than_a_full_one() -> None:
    low = decided(QualityState(), *[report(1500, br=1600)] * 5, report(1500, br=1600, buffer_s=0.5))
    full = decided(QualityState(), *[report(1500, br=1600)] * 5, report(1500, br=1600, buffer_s=26))
    assert (low.rung, low.reason) == (0, LOW_BUFFER)
    assert (full.rung, full.reason) == (2, ON_BUFFER)


def test_an_unsteady_network_gets_less_than_a_steady_one_of_the_same_newest() -> None:
    steady = decided(QualityState(), *[report(4000, br=1600, buffer_s=5)] * 31)
    swings = [report(kbps, br=1600, buffer_s=5) for kbps in [2400, 8000] * 15]
    unsteady = decided(QualityState(), *swings, report(4000, br=1600, buffer_s=5))
    assert unsteady.rung < steady.rung
    assert unsteady.reason == UNSTEADY


def watched(delay: int) -> QualityState:
    """After segments on a network that doubles and halves, each fetched as was decided so many segments before."""
    state = QualityState()
    question = Question(state, LADDER)
    obeyed = [0] * (delay + 1)
    for kbps in [700, 6000, 6000, 6000, 700, 700, 700, 6000, 6000, 6000, 2500]:
        obeyed.append(decide(question).rung)
        observe(state, report(kbps, br=LADDER[obeyed[-1 - delay]].br, buffer_s=9))
    return state


def test_who_obeys_each_decision_a_segment_late_is_found_out() -> None:
    assert obeys_late(watched(1))
    assert not obeys_late(watched(0))


def test_who_obeys_late_gets_what_the_segment_on_its_way_leaves_room_for() -> None:
    rungs = []
    for late in (0.0, 1.0):
        state = QualityState()
        decided(state, *[report(3000, br=3200, buffer_s=6)] * 12)
        state.late, state.fresh = late, True
        rungs.append(decided(state).rung)
    assert rungs == [3, 2]


def test_at_double_speed_the_same_network_carries_half() -> None:
    normal = decided(QualityState(), *[report(2200)] * 5)
    double = decided(QualityState(), *[report(2200, pr=2)] * 5)
    assert (normal.rung, double.rung) == (2, 1)


def test_near_the_end_the_buffer_is_spent() -> None:
    reports = [report(1200, br=800, buffer_s=18)] * 8
    assert decided(QualityState(), *reports, remaining=2).rung > decided(QualityState(), *reports).rung


def test_known_sizes_count_more_than_bitrates() -> None:
    usual = [rung.br * 4 for rung in LADDER]
    reports = [report(2600, buffer_s=9)] * 8
    small = decided(QualityState(), *reports, sizes_kbit=[[size * 0.5 for size in usual]])
    large = decided(QualityState(), *reports, sizes_kbit=[[size * 1.8 for size in usual]])
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
    assert decide(Question(state, LADDER)).rung == 3


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


def test_the_wire_speaks_cmsd_and_expects_what_it_allows_before_anything_was_measured() -> None:
    advice = decided(QualityState()).advice(n=1, epoch=2, ttl_ms=10_000)
    assert msgspec.to_builtins(advice) == {
        "n": 1, "epoch": 2, "rung": 0, "cmsd": {"mb": 300, "etp": 300}, "reason": NOT_MEASURED, "ttl_ms": 10_000,
    }  # fmt: skip


def test_a_ladder_of_one_rung_is_enough() -> None:
    state = QualityState()
    observe(state, report(10))
    assert decide(Question(state, LADDER[:1], viewport_px=(1, 1), save_data=True)).rung == 0


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


def test_what_others_on_the_network_get_counts_as_one_sample_and_raises_no_first_rung() -> None:
    assert decided(QualityState(prior_kbps=20_000)).rung == 0
    usual, slow, fast = (
        decided(QualityState(prior_kbps=prior), report(2500, buffer_s=14)) for prior in (0.0, 700.0, 9000.0)
    )
    assert slow.rung < usual.rung < fast.rung
    later = [decided(QualityState(prior_kbps=prior), *[report(2500)] * 20).rung for prior in (0.0, 700.0, 9000.0)]
    assert len(set(later)) == 1


def test_a_session_tells_its_level_once_and_then_forgets_the_networks_name() -> None:
    state = QualityState(network="here")
    decided(state, *[report(2500)] * 2)
    assert told_by(state) is None
    decided(state, *[report(2500)] * 6)
    told = told_by(state)
    assert told is not None
    assert (told[0], round(told[1])) == ("here", 2500)
    assert (told_by(state), state.network) == (None, "")

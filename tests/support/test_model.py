"""The model against histories whose folds can be told by heart."""

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests.viewing import Viewing
from tests.support.fake_lectern import LADDER
from tests.support.model import FOLDS, applied_frames, covered_ms, differences, expected_folds

Frame = dict[str, Any]


def frame(seq: int | None, position: float = 0.0, segments: list[Frame] | None = None, **cmcd: Any) -> Frame:
    told: Frame = {"position": position, "cmcd": cmcd}
    if seq is not None:
        told["seq"] = seq
    if segments is not None:
        told["segments"] = segments
    return told


def played(*positions: float, **cmcd: Any) -> list[Frame]:
    return [frame(seq, position, **cmcd) for seq, position in enumerate(positions, 1)]


def test_no_frames_are_nothing():
    folds = expected_folds([])
    assert set(folds) == set(FOLDS)
    assert folds["frames"] == folds["last_seq"] == folds["gaps"] == folds["watched_seconds"] == 0
    assert folds["position"] is None
    assert folds["startup_ms"] is None


def test_frames_counts_the_applied_ones_and_last_seq_is_the_highest():
    folds = expected_folds([frame(1), frame(2), frame(5)])
    assert (folds["frames"], folds["last_seq"]) == (3, 5)


def test_a_hole_is_applied_over_and_its_missing_frames_are_gaps():
    assert expected_folds([frame(3), frame(4), frame(8)])["gaps"] == 2 + 3


def test_a_frame_at_or_below_the_highest_changes_nothing():
    once = [frame(1, 1.0), frame(2, 2.0, [{"bytes": 10}], bs=True)]
    again = [*once, frame(2, 50.0, [{"bytes": 99}], bs=True), frame(1, 70.0)]
    assert expected_folds(again) == expected_folds(once)


def test_a_late_frame_does_not_fill_its_gap():
    assert expected_folds([frame(1), frame(3), frame(2)])["gaps"] == 1


@pytest.mark.parametrize("seq", [0, -1, 2**53, 100_002])
def test_a_seq_that_no_server_may_take_is_no_history(seq: int):
    with pytest.raises(ValueError, match="offence"):
        expected_folds([frame(1), frame(seq)])


def test_a_frame_without_a_counter_is_always_new_and_leaves_no_gap():
    folds = expected_folds([frame(1, 1.0), frame(None, 2.0), frame(None, 2.0), frame(2, 3.0)])
    assert (folds["frames"], folds["last_seq"], folds["gaps"], folds["watched_seconds"]) == (4, 2, 0, 2.0)


def test_segments_are_counted_and_their_bytes_summed():
    folds = expected_folds([frame(1, 0, [{"bytes": 10}, {"bytes": 5}]), frame(2), frame(3, 0, [{"bytes": 7}])])
    assert (folds["segments"], folds["bytes"]) == (3, 22)


def test_position_is_that_of_the_last_applied_frame():
    assert expected_folds([frame(1, 9.5), frame(2, 4.25), frame(1, 8.0)])["position"] == 4.25


def test_played_seconds_are_watched():
    assert expected_folds(played(10, 11, 12.5, sta="p"))["watched_seconds"] == 2.5


def test_a_frame_without_sta_counts_as_playing():
    assert expected_folds(played(10, 11))["watched_seconds"] == 1.0


def test_the_later_frames_sta_decides():
    paused_then_playing = [frame(1, 10, sta="a"), frame(2, 11, sta="p")]
    playing_then_stalled = [frame(1, 10, sta="p"), frame(2, 11, sta="r")]
    assert expected_folds(paused_then_playing)["watched_seconds"] == 1.0
    assert expected_folds(playing_then_stalled)["watched_seconds"] == 0.0


def test_seconds_seen_twice_are_watched_once():
    assert expected_folds(played(10, 20, 12, 17, 25))["watched_seconds"] == 15.0


def test_sixty_seconds_ahead_is_playing_and_more_is_a_seek():
    assert expected_folds(played(10, 70))["watched_seconds"] == 60.0
    assert expected_folds(played(10, 70.001))["watched_seconds"] == 0.0
    assert expected_folds(played(70, 10))["watched_seconds"] == 0.0


def test_neighbours_over_a_hole_are_neighbours():
    assert expected_folds([frame(1, 10), frame(7, 30)])["watched_seconds"] == 20.0


def test_the_first_frame_watches_nothing():
    assert expected_folds(played(30))["watched_seconds"] == 0.0


def test_stalls_are_frames_with_bs_and_their_time_is_the_sum_of_bsd():
    folds = expected_folds([frame(1, bs=True, bsd=300), frame(2, bsd=[200, 50]), frame(3, bs=False), frame(4, bs=True)])
    assert (folds["stalls"], folds["stall_ms"]) == (2, 550)


def test_startup_is_the_first_msd():
    assert expected_folds([frame(1), frame(2, msd=480), frame(3, msd=9)])["startup_ms"] == 480


def test_switches_are_changes_of_br():
    told = [frame(1, br=400), frame(2), frame(3, br=400), frame(4, br=[1200]), frame(5, br=400)]
    assert expected_folds(told)["switches"] == 2


def test_differences_are_named_and_agreement_is_silent():
    expected = expected_folds(played(1, 2.5))
    answer = {**expected, "saved_seq": 2, "watched_seconds": 1.5004}
    assert differences(expected, answer) == []
    assert differences(expected, {**answer, "frames": 3, "saved_seq": 1}) == [
        "frames is 3, expected 2",
        "saved_seq 1 is not last_seq 2",
    ]
    del answer["bytes"]
    assert differences(expected, answer) == ["bytes is missing"]


ranges = st.lists(st.tuples(st.integers(0, 300), st.integers(0, 60)).map(lambda pair: (pair[0], sum(pair))))


@given(ranges)
def test_a_union_is_as_long_as_the_set_of_its_milliseconds(some: list[tuple[int, int]]):
    assert covered_ms(some) == len({ms for start, end in some for ms in range(start, end)})


def lecture(seed: int, frames: int) -> list[Frame]:
    viewing = Viewing(ladder=LADDER, segment_s=4.0, duration_s=90.0, seed=seed)
    told = [{"seq": seq, **viewing.tick()} for seq in range(1, frames + 1)]
    return [one for one in told if random.Random(seed * 31 + one["seq"]).random() > 0.1]


@given(seed=st.integers(0, 2**32), cuts=st.lists(st.integers(0, 60), max_size=5))
def test_what_is_sent_again_after_any_cut_changes_nothing(seed: int, cuts: list[int]):
    once = lecture(seed, 60)
    again, rng = list(once), random.Random(seed)
    for cut in sorted(cuts, reverse=True):
        # A player that lost its socket after `cut` frames sends some of the last ones again.
        again[cut:cut] = once[max(0, cut - rng.randint(1, 10)) : cut]
    assert expected_folds(again) == expected_folds(once)
    assert [one["seq"] for one in applied_frames(again)] == [one["seq"] for one in once]


@given(seed=st.integers(0, 2**32), cut=st.integers(0, 60))
def test_late_duplicates_in_any_order_change_nothing(seed: int, cut: int):
    once = lecture(seed, 60)
    late = once[:cut]
    random.Random(seed).shuffle(late)
    assert expected_folds(once + late) == expected_folds(once)

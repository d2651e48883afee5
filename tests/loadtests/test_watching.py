"""A viewing is arithmetic: what was shown, less stalls and changes."""

import itertools
from typing import Any

import pytest

from loadtests.networks import Network
from loadtests.watching import Video, optimum, video, watch

STEADY = Network.of("steady", "steady", 0.0, [1000.0] * 100)


class Scripted:
    """Decides what it was told to, and remembers what it saw."""

    name = "scripted"

    def __init__(self, *rungs: int) -> None:
        self.rungs = rungs
        self.buffers_s: list[float] = []

    def reset(self, *_: Any) -> None:
        self.buffers_s.clear()

    def decide(self, obs: Any) -> int:
        self.buffers_s.append(round(obs.buffer_s, 6))
        return self.rungs[obs.index % len(self.rungs)]


def plain(segments: int, *, cap_s: float = 30.0, ladder: tuple[float, ...] = (500.0, 2000.0)) -> Video:
    return Video(ladder, 4.0, [[kbps * 4 for kbps in ladder]] * segments, cap_s)


def test_a_segment_that_takes_longer_than_the_buffer_holds_stalls_for_the_rest() -> None:
    seen = watch(policy := Scripted(0, 1, 0), STEADY, plain(3))
    assert policy.buffers_s == [0.0, 4.0, 4.0]
    assert (seen.startup_s, seen.stall_s) == (2.0, 4.0)
    assert seen.quality(plain(3)) == pytest.approx((0.5 + 2 + 0.5 - 2 * (2 + 4) - 3) / 3)
    assert seen.rebuffer_share(plain(3)) == pytest.approx(4 / 16)


def test_a_full_player_waits() -> None:
    policy = Scripted(0)
    watch(policy, STEADY, plain(6, cap_s=8.0))
    assert policy.buffers_s == [0, 4, 6, 8, 8, 8]


def test_at_double_speed_the_buffer_drains_twice_as_fast() -> None:
    seen = watch(policy := Scripted(0, 1), STEADY, plain(3), playback_rate=2.0)
    assert policy.buffers_s == [0.0, 4.0, 4.0]
    assert seen.stall_s == pytest.approx(6.0)  # eight seconds for what two seconds play


def test_a_late_decision_is_obeyed_one_segment_later() -> None:
    assert watch(Scripted(1, 0, 0, 1), STEADY, plain(4), lag=True).rungs == [0, 1, 0, 0]


def test_who_leaves_has_not_said_so() -> None:
    policy = Scripted(0)
    assert len(watch(policy, STEADY, plain(9), leaves_after=3).rungs) == 3


def test_scenes_vary_around_the_bitrate() -> None:
    for rung, kbps in enumerate(video(1).ladder_kbps):
        sizes = [row[rung] for row in video(1).sizes_kbit]
        assert sum(sizes) / len(sizes) == pytest.approx(kbps * 4)
        assert max(sizes) > 1.2 * kbps * 4


@pytest.mark.parametrize(("rate", "leaves"), [(1.0, None), (2.0, None), (1.0, 4)])
def test_no_sequence_of_rungs_is_better_than_the_optimum(rate: float, leaves: int | None) -> None:
    network = Network.of("n", "n", 0.05, [3000.0, 300.0, 200.0, 2500.0, 900.0, 1500.0, 100.0] * 5)
    of = plain(7, ladder=(300.0, 1000.0, 2500.0))
    everything = max(
        watch(Scripted(*rungs), network, of, playback_rate=rate, leaves_after=leaves).quality(of)
        for rungs in itertools.product(range(3), repeat=leaves or 7)
    )
    found = optimum(network, of, playback_rate=rate, leaves_after=leaves, buffer_cell_s=0.01, time_cell_s=0.01)
    assert found == pytest.approx(everything)
    assert optimum(network, of, playback_rate=rate, leaves_after=leaves) <= everything + 1e-9

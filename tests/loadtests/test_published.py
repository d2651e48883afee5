"""The published policies do what their papers say in the cases that anybody can check."""

import itertools

import numpy as np
import pytest

from loadtests.networks import Network, generated
from loadtests.published import RobustMpc, all_published
from loadtests.watching import PAPERS_KBPS, View, video, watch


@pytest.mark.parametrize("policy", all_published(), ids=lambda policy: policy.name)
def test_each_reaches_the_top_of_a_fast_network_and_stays_low_on_a_slow_one(policy) -> None:
    fast = watch(policy, Network.of("fast", "fast", 0.01, [40_000.0] * 60), video(1))
    slow = watch(policy, Network.of("slow", "slow", 0.01, [450.0] * 60), video(1))
    assert fast.rungs[20:] == [5] * 44
    assert fast.stall_s == 0
    assert np.mean(slow.rungs) < 1


def test_robust_mpc_finds_the_best_of_all_sequences() -> None:
    policy = RobustMpc()
    policy.reset(PAPERS_KBPS[:4], 4.0)
    rng = np.random.default_rng(1)
    for _ in range(20):
        takes_s, buffer_s, last = rng.uniform(0.2, 9, (4, 4)), rng.uniform(0, 28), int(rng.integers(4))
        found = policy._search(takes_s, buffer_s, last)
        best = max(itertools.product(range(4), repeat=4), key=lambda seq: worth(seq, takes_s, buffer_s, last))
        assert found == best[0]


def worth(rungs, takes_s, buffer_s: float, last: int) -> float:
    mbps, total = np.array(PAPERS_KBPS[:4]) / 1000, 0.0
    for step, rung in enumerate(rungs):
        left = buffer_s - takes_s[step][rung]
        total += mbps[rung] - mbps[-1] * max(-left, 0) - abs(mbps[rung] - mbps[last])
        buffer_s, last = min(max(left, 0) + 4, 30), rung
    return total


def test_robust_mpc_divides_by_its_worst_recent_error() -> None:
    policy, seen = RobustMpc(), []
    policy.reset(PAPERS_KBPS, 4.0)
    policy._search = lambda takes_s, *_: seen.append(takes_s) or 0  # type: ignore[method-assign]
    view = View(remaining=9, throughput_kbps=[2000.0], last_rung=0)
    policy.decide(view)
    view.throughput_kbps.append(1000.0)
    policy.decide(view)
    harmonic = 2 / (1 / 2000 + 1 / 1000)
    assert seen[1][0][0] == pytest.approx(300 * 4 / (harmonic / 2))


def test_the_same_networks_give_the_same_viewings() -> None:
    for policy in all_published():
        for network in generated(2, 1, ["lte", "regimes"]):
            assert watch(policy, network, video(1)) == watch(policy, network, video(1))

"""Generated networks are the same from the same seed, and none is absurd."""

import json
from itertools import pairwise
from pathlib import Path

import pytest

from loadtests.networks import FAMILIES, MEAN_KBPS, SECONDS, Network, evenly, falls_short, generated, recorded


def test_one_seed_always_gives_the_same_networks() -> None:
    assert generated(3, 2) == generated(3, 2)
    assert generated(3, 2) != generated(4, 2)


def test_a_family_is_the_same_whichever_others_are_drawn() -> None:
    assert generated(3, 2, ["lte"]) == [network for network in generated(3, 2) if network.family == "lte"]


def test_every_family_can_be_watched() -> None:
    made = generated(1, 3)
    assert {network.family for network in made} == set(FAMILIES)
    for network in made:
        assert len(network.kbps) == SECONDS
        assert min(network.kbps) > 0
        assert MEAN_KBPS[0] * 0.99 <= sum(network.kbps) / SECONDS <= MEAN_KBPS[1]
        assert 0.01 <= network.rtt_s <= 0.65


def test_bits_arrive_as_fast_as_the_network_carries_them() -> None:
    network = Network.of("n", "n", 0.0, [1000.0, 500.0])
    assert network.finish_s(0.0, 1000) == 1.0
    assert network.finish_s(0.5, 750) == pytest.approx(1.5)
    assert network.finish_s(0.0, 1500 * 3 + 250) == pytest.approx(6.25)  # it begins again at its end
    assert network.finish_s(7.0, 500) == pytest.approx(8.0)


def test_what_is_sent_in_parts_arrives_as_what_is_sent_at_once() -> None:
    (network,) = generated(1, 1, ["umts"])
    times = [network.finish_s(100.0, kbit) for kbit in range(0, 200_000, 1000)]
    assert all(a < b for a, b in pairwise(times))
    assert network.finish_s(network.finish_s(10.0, 3000), 9000) == pytest.approx(network.finish_s(10.0, 12_000))


def test_recorded_networks_are_read_from_lines_of_json(tmp_path: Path) -> None:
    file = tmp_path / "traces.jsonl"
    file.write_text(json.dumps({"id": "a", "family": "f", "rtt_ms": 100, "step_s": 1, "kbps": [1000, 0, 500]}) + "\n")
    (network,) = recorded(file)
    assert (network.name, network.family, network.rtt_s) == ("a", "f", 0.1)
    assert network.finish_s(0.0, 1100) == pytest.approx(2.2, abs=1e-3)


def test_a_view_may_stall_where_the_network_falls_below_the_rate_for_long_and_not_at_once() -> None:
    def network(*pieces: tuple[int, float]) -> Network:
        return Network.of("n", "n", 0.1, [kbps for seconds, kbps in pieces for _ in range(seconds)])

    assert falls_short(network((40, 2000.0), (20, 300.0), (60, 2000.0)), 500, 120)
    assert not falls_short(network((40, 2000.0), (10, 300.0), (70, 2000.0)), 500, 120)  # soon over
    assert not falls_short(network((30, 300.0), (90, 2000.0)), 500, 120)  # the beginning
    assert not falls_short(network((120, 400.0)), 500, 120)  # carries less all the time
    assert not falls_short(network((120, 2000.0), (60, 10.0)), 500, 120)  # after the view
    assert falls_short(network((60, 2000.0), (25, 10.0)), 500, 120)  # it begins again at its end


def test_networks_are_chosen_evenly_over_families() -> None:
    over = [*generated(3, 1, ["lte"]), *generated(3, 9, ["umts"]), *generated(3, 4, ["wifi"])]
    names = [network.name for network in evenly(over, 7)]
    assert names == ["lte-3-0", "wifi-3-0", "wifi-3-1", "wifi-3-2", "umts-3-0", "umts-3-3", "umts-3-6"]
    assert len(evenly(over, 99)) == len(over)
    assert evenly(over, 0) == []

"""Viewings are lifelike, and the same seed gives the same one."""

import json
import random
from typing import Any

import pytest

from loadtests.viewing import LINKS, Habits, Network, Viewing
from tests.support.fake_lectern import LADDER
from tests.support.model import expected_folds

STILL = Habits(pause=0, seek_back=0, seek_ahead=0, change_rate=0)
STATES = set("spkrae")


def viewing(seed: int = 1, **options: Any) -> Viewing:
    return Viewing(**{"ladder": LADDER, "segment_s": 4.0, "duration_s": 600.0, "seed": seed, **options})


def frames(of: Viewing, count: int) -> list[dict[str, Any]]:
    return [{"seq": seq, **of.tick()} for seq in range(1, count + 1)]


def test_the_same_seed_gives_the_same_frames():
    assert frames(viewing(7), 300) == frames(viewing(7), 300)
    assert frames(viewing(7), 300) != frames(viewing(8), 300)


@pytest.mark.parametrize("link", LINKS)
def test_every_frame_is_one_that_the_socket_takes(link: str):
    for seed in range(20):
        watched = viewing(seed, network=link, duration_s=90.0)
        for frame in frames(watched, 200):
            assert len(json.dumps(frame)) < 16_384
            assert 0 <= frame["position"] <= 90.0
            assert frame["cmcd"]["sta"] in STATES
            assert all(value >= 0 for value in frame["cmcd"].values() if isinstance(value, int | float))
            assert all(segment["bytes"] > 0 and segment["ms"] >= 1 for segment in frame.get("segments", ()))


def test_an_undisturbed_learner_on_fibre_watches_second_by_second():
    folds = expected_folds(frames(viewing(3, network="fibre", habits=STILL), 100))
    assert 97 <= folds["watched_seconds"] <= 100
    assert folds["stalls"] == 0
    assert folds["startup_ms"] <= 1000
    assert folds["segments"] >= 25


def test_a_lecture_has_pauses_seeks_rates_stalls_and_switches():
    seen: set[str] = set()
    stalls = switches = 0
    rates = set()
    for seed in range(40):
        told = frames(viewing(seed), 300)
        folds = expected_folds(told)
        seen |= {frame["cmcd"]["sta"] for frame in told}
        rates |= {frame["cmcd"]["pr"] for frame in told}
        stalls += folds["stalls"]
        switches += folds["switches"]
        assert bool(folds["stall_ms"]) == bool(sum("bsd" in frame["cmcd"] for frame in told))
    assert seen >= {"s", "p", "k", "r", "a"}
    assert 2.0 in rates
    assert stalls > 10
    assert switches > 40


def test_a_cap_is_obeyed_from_the_next_segment_on():
    watched = viewing(5, network="fibre", habits=STILL)
    frames(watched, 60)
    assert watched.rung == len(LADDER) - 1
    watched.cap(500)
    told = frames(watched, 30)
    assert {segment["br"] for frame in told[8:] for segment in frame.get("segments", ())} == {400}
    watched.cap(None)
    frames(watched, 30)
    assert watched.rung == len(LADDER) - 1


def test_a_train_is_slower_than_fibre():
    def mean_kbps(kind: str) -> float:
        network = Network(random.Random(1), kind)
        return sum(network.next_second_kbps() for _ in range(500)) / 500

    assert mean_kbps("train") < 4_000 < mean_kbps("fibre")


def test_a_finished_lecture_starts_again():
    told = frames(viewing(2, network="fibre", habits=STILL, duration_s=20.0), 60)
    assert "e" in {frame["cmcd"]["sta"] for frame in told}
    assert told[-1]["position"] < 20.0

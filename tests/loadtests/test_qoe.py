"""The policy that ships keeps its distance from the published ones, on networks that its tables were not fitted to."""

from pathlib import Path

import numpy as np
import pytest

from loadtests import networks, qoe
from loadtests.networks import Network
from loadtests.published import RobustMpc
from loadtests.watching import video, watch

# The fit uses seed 5.
HELD_OUT = 9
CASES = {case.name: case for case in qoe.CASES}


@pytest.fixture(scope="module")
def held_out() -> list[Network]:
    return networks.generated(HELD_OUT, 5)


@pytest.fixture(scope="module")
def plain(held_out: list[Network]) -> dict:
    return qoe.compare(held_out, CASES["plain"], [RobustMpc(), qoe.Lectern()])["policies"]


def test_it_is_better_than_robust_mpc_by_more_than_chance(plain: dict) -> None:
    assert plain["Lectern"]["ahead"] > 0.05
    assert plain["Lectern"]["ahead_95"][0] > 0.02


def test_it_stalls_for_much_less_time(plain: dict) -> None:
    assert plain["Lectern"]["rebuffer_share"] < 0.7 * plain["RobustMPC"]["rebuffer_share"]
    assert plain["Lectern"]["rebuffer_share"] < 0.010


def test_it_reaches_most_of_what_could_be_reached(plain: dict) -> None:
    assert plain["Lectern"]["share"] > 0.80


@pytest.mark.parametrize(
    "case", ["sizes known", "lag", "double speed", "2 s segments", "6 s segments", "small buffer", "other ladder"]
)
def test_it_stays_ahead_however_one_watches(held_out: list[Network], case: str) -> None:
    ours, theirs = (qoe.judge(policy, held_out, CASES[case]) for policy in (qoe.Lectern(), RobustMpc()))
    assert ours.quality.mean() > theirs.quality.mean()
    assert ours.rebuffer_share.mean() < theirs.rebuffer_share.mean()


@pytest.mark.parametrize("times", [8, 10, 15])
@pytest.mark.parametrize("kbps", [6000.0, 9000.0])
def test_a_network_that_collapses_while_the_buffer_is_full_hardly_stalls(kbps: float, times: int) -> None:
    network = Network.of("collapse", "collapse", 0.05, [kbps] * 80 + [kbps / times] * 60 + [kbps] * 180)
    assert watch(qoe.Lectern(), network, video(7)).stall_s < 1


def test_a_network_that_never_moves_gets_no_needless_changes() -> None:
    seen = watch(qoe.Lectern(), Network.of("flat", "flat", 0.05, [3300.0] * 320), video(7))
    assert seen.stall_s == 0
    assert np.count_nonzero(np.diff(seen.rungs)) <= 10


def test_it_decides_the_same_each_time(held_out: list[Network]) -> None:
    for network in held_out[::16]:
        assert watch(qoe.Lectern(), network, video(3)) == watch(qoe.Lectern(), network, video(3))


def test_the_command_prints_draws_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    qoe.main(["--each", "1", "--families", "--json", str(tmp_path / "f.json"), "--plot", str(tmp_path / "f.svg")])
    said = capsys.readouterr().out
    assert "16 networks, 16 families" in said
    assert all(name in said for name in ("RobustMPC", "Lectern", "hls.js", "bola", "collapses"))
    assert (tmp_path / "f.svg").read_text().count("<circle") == 2 + 2 * 16
    assert (tmp_path / "f.json").stat().st_size > 1000

"""Decisions are judged on families that their tables never saw, and keep their distance there too."""

import json
from pathlib import Path

import numpy as np
import pytest

from actors.video_session.lookahead import TABLES, load
from loadtests import fit, held_out, networks, qoe
from loadtests.networks import FAMILIES, generated

PLAIN = qoe.CASES[0]


def test_every_family_is_judged_by_tables_that_were_fitted_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def made(held: list[str], each: int, segments_s: tuple[float, ...]) -> bytes:
        seen.append((held, each, segments_s))
        return TABLES.read_bytes()

    monkeypatch.setattr(fit, "made_without", made)
    tables = held_out.fitted_apart(4, 7)
    assert sorted(family for held, _, _ in seen for family in held) == sorted(FAMILIES)
    assert all((each, segments_s) == (7, (4.0,)) for _, each, segments_s in seen)
    for held, _, _ in seen:
        assert all(tables(family) is tables(held[0]) for family in held)
    assert len({id(tables(family)) for family in FAMILIES}) == 4


def test_a_fit_never_looks_at_a_family_that_is_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    over: set[str] = set()

    def watched(segment_s: float, fitted_to: list[networks.Network]) -> object:
        over.update(network.family for network in fitted_to)
        raise StopIteration

    monkeypatch.setattr(fit, "fit", watched)
    with pytest.raises(StopIteration):
        fit.made_without(["cable", "umts"], 1)
    assert over == set(FAMILIES) - {"cable", "umts"}


def test_judged_apart_by_the_same_tables_it_is_as_judged_together() -> None:
    over, shipped = generated(3, 2, ["umts", "cable"])[::-1], load(TABLES.read_bytes())
    apart, together = held_out.judge_apart(over, PLAIN, lambda _: shipped), qoe.judge(qoe.Lectern(), over, PLAIN)
    assert np.array_equal(apart.quality, together.quality)
    assert np.array_equal(apart.rebuffer_share, together.rebuffer_share)


def test_usual_networks_are_the_families_that_are_easiest_for_the_other_until_its_share_is_usual() -> None:
    over = generated(3, 2, ["cable", "umts", "lte", "wifi"])
    best = np.full(8, 10.0)
    theirs = np.array([9.0, 9.0, 1.0, 1.0, 8.0, 8.4, 8.6, 8.7])
    names = [network.family for network in over]
    assert [names[at] for at in held_out.usual(over, theirs, best)] == ["cable"] * 2 + [names[6]] * 2 + [names[4]] * 2


@pytest.mark.slow
def test_it_keeps_its_distance_on_families_that_its_tables_never_saw(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    held_out.main(["--each", "15", "--seed", "11", "--json", str(file)])
    everywhere, usual, giving_up, _ = json.loads(file.read_text())
    for figures in (everywhere, usual, giving_up):
        ours, theirs = figures["policies"]["Lectern"], figures["policies"]["RobustMPC"]
        assert ours["ahead_95"][0] > 0.02
        assert ours["rebuffer_share"] < 0.5 * theirs["rebuffer_share"]
    # Where RobustMPC does as it does on usual networks: the bar for unseen ones.
    assert usual["policies"]["RobustMPC"]["share"] >= 0.855
    assert usual["policies"]["Lectern"]["share"] > 0.885
    assert usual["policies"]["Lectern"]["rebuffer_share"] < 0.006
    assert giving_up["policies"]["Lectern"]["rebuffer_share"] < 0.006
    ours, theirs = (everywhere["policies"][name]["families"] for name in ("Lectern", "RobustMPC"))
    assert all(ours[family] > theirs[family] - 0.01 for family in FAMILIES)

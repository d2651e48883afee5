"""The fit's arithmetic is the policy's, and what it fits follows from what it saw."""

from math import exp, log

import numpy as np
import pytest

from actors.video_session import quality
from actors.video_session.lookahead import NEAREST, Belief, tables
from loadtests import fit, networks
from loadtests.watching import PAPERS_KBPS


def test_the_fit_moves_a_belief_as_the_policy_does() -> None:
    rng = np.random.default_rng(1)
    for _ in range(200):
        level, newest, deviation, drift = 2000.0, exp(rng.normal(7.6, 1)), rng.uniform(0.02, 1), rng.uniform(0.02, 1)
        kbps = exp(rng.normal(7.6, 1))
        belief = Belief(1 / level, newest, deviation, drift, 100)
        gap, character, surprise = log(newest / level), log(drift / deviation), log(kbps / level)
        rise, *after = fit.moved(*(np.array(x) for x in (gap, deviation, character, surprise)))
        belief.learn(kbps)
        assert log(1 / belief.inverse_kbps / level) == pytest.approx(float(rise))
        assert [float(x) for x in after] == pytest.approx(
            [log(kbps * belief.inverse_kbps), belief.deviation, log(belief.drift / max(belief.deviation, NEAREST))]
        )


def test_quantiles_keep_the_mean_of_what_was_seen() -> None:
    rng = np.random.default_rng(1)
    surprise = rng.normal(0, 0.3, 4000)
    rows = np.column_stack([np.zeros(4000), np.full(4000, 0.2), np.full(4000, 0.1), surprise, np.ones(4000)])
    found = fit.surprises(rows)
    assert found.shape == (len(fit.GAP), len(fit.DEVIATION), len(fit.CHARACTER), len(fit.SHARES))
    middle = found[4, 2, 3]
    assert (np.diff(middle) > 0).all()
    assert (fit.SHARES * np.exp(-middle)).sum() == pytest.approx(np.exp(-surprise).mean(), rel=0.01)


def test_shares_are_a_distribution_and_the_papers_rungs_are_on_the_axis() -> None:
    assert fit.SHARES.sum() == pytest.approx(1)
    assert sum(chance for _, chance in fit.SIZES) == 1
    assert {kbps / PAPERS_KBPS[-1] for kbps in PAPERS_KBPS} <= set(fit.BITRATE)


def test_collecting_twice_gives_the_same() -> None:
    over = networks.generated(2, 1, ["lte", "cable"])
    rows = fit.collect(fit.Cautious(), over, 4.0, 1)
    assert len(rows) == 2 * 63
    assert (rows == fit.collect(fit.Cautious(), over, 4.0, 1)).all()


def test_the_end_is_seen_by_the_nearest_values_that_are_kept() -> None:
    left = [fit.ENDS[which] for which in fit.near_the_end()]
    assert left == [1, 2, 2, 4, 4, 7, 7, 7, 7, 11, 11, 11]
    assert quality.SIGHT == fit.SIGHT + 1
    for table in tables():
        assert len(table.ahead) == quality.SIGHT
        assert len({id(values) for values in table.ahead}) == len(fit.ENDS) + 1

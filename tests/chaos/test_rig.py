"""The short form of the rig: two processes, one of what `bin/chaos` does at length, and no promise broken."""

import pytest

from tests.chaos.rig import play
from tests.chaos.scenarios.catalogue import SCENARIOS
from tests.chaos.stage import Options

SHORT = "kill-one"


@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n == SHORT else pytest.mark.slow) for n in SCENARIOS])
async def test_the_live_core_keeps_its_promises_under(name: str) -> None:
    verdict = await play(SCENARIOS[name], Options(players=12))
    assert verdict.breaches(timings=False) == []
    assert verdict.frames > 0

"""The rig would notice: each promise taken out of the server makes it fail."""

import re
from pathlib import Path

import pytest

from tests.chaos.mutants import MUTANTS, Mutant, MutantLost, Replacement, make
from tests.chaos.rig import play
from tests.chaos.scenarios.catalogue import SCENARIOS
from tests.chaos.stage import Options

# One for every day; the others take their time.
QUICK = "starts at the stream's tail"


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == QUICK else pytest.mark.slow) for name in MUTANTS]
)
async def test_the_rig_notices_a_server_that(name: str, tmp_path: Path) -> None:
    mutant = MUTANTS[name]
    options = Options(players=9, root=make(mutant, tmp_path))
    verdict = await play(SCENARIOS[mutant.scenario], options)
    breaches = verdict.breaches(timings=False)
    assert [breach for breach in breaches if re.search(mutant.notices, breach)], breaches


@pytest.mark.parametrize("name", MUTANTS)
def test_every_mutant_still_finds_its_place_in_the_code(name: str, tmp_path: Path) -> None:
    make(MUTANTS[name], tmp_path)


@pytest.mark.parametrize("old", ["a line that nobody wrote", "import"])
def test_a_mutant_that_has_lost_its_place_says_so(old: str, tmp_path: Path) -> None:
    with pytest.raises(MutantLost, match=r"not once"):
        make(Mutant("lost", "kill-one", "", [Replacement("actors/recovery.py", old, "")]), tmp_path)

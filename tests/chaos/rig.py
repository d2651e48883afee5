"""Plays scenarios and judges them."""

from __future__ import annotations

import time

from tests.chaos.scenarios.catalogue import Scenario
from tests.chaos.stage import Options, opened_stage
from tests.chaos.verdict import Verdict


async def play(scenario: Scenario, options: Options) -> Verdict:
    """One scenario on a stage of its own, as often as `options.seconds` allows, at least once."""
    async with opened_stage(options, scenario.needs) as stage:
        stage.room.play(None, stage.interval_s)
        await stage.room.each(lambda player: player.until(lambda: player.saved > 0, what="a first frame to be saved"))
        deadline = time.monotonic() + options.seconds
        while True:
            await scenario.play(stage)
            if time.monotonic() >= deadline:
                return await stage.judge(scenario.name)

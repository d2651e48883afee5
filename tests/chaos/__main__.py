"""`bin/chaos`: plays scenarios by name and prints what became of the promises."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import random
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.chaos.rig import play
from tests.chaos.scenarios.catalogue import SCENARIOS
from tests.chaos.stage import Options
from tests.chaos.verdict import HEAD, line, row


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 1 on any breach."""
    given = _parser().parse_args(argv)
    if given.list:
        for known in SCENARIOS.values():
            print(f"{known.name:24}{known.about}")
        return 0
    options = Options(
        processes=given.processes,
        players=given.players,
        seed=given.seed if given.seed is not None else random.SystemRandom().randrange(10**6),
        seconds=60 * given.minutes,
        keep_logs=given.logs,
    )
    return asyncio.run(_run(given.scenarios or list(SCENARIOS), options))


async def _run(names: Sequence[str], options: Options) -> int:
    print(f"{options.processes} processes, {options.players} players, seed {options.seed}")
    print(line(HEAD))
    breaches = 0
    for name in names:
        logs = options.keep_logs and options.keep_logs / name
        verdict = await play(SCENARIOS[name], dataclasses.replace(options, keep_logs=logs))
        print(line(row(verdict)), flush=True)
        for breach in verdict.breaches():
            breaches += 1
            print(f"    {breach}", flush=True)
    print(f"{breaches} breaches" if breaches else "every promise was kept")
    return 1 if breaches else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bin/chaos", description="The live core under fire.")
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help="all of --list when none is named")
    parser.add_argument("--list", action="store_true", help="the scenarios and what they do")
    parser.add_argument("--minutes", type=float, default=0.0, help="how long each goes on; at least once through (0)")
    parser.add_argument("--processes", type=int, default=2, help="server processes (2)")
    parser.add_argument("--players", type=int, default=30, help="simulated players (30)")
    parser.add_argument("--seed", type=int, help="of everything that is drawn by lot; told at the start")
    parser.add_argument("--logs", type=Path, metavar="DIRECTORY", help="keep servers' logs and players' events there")
    return parser


if __name__ == "__main__":
    sys.exit(main())

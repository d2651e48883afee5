"""Run the scenario without a browser and with defaults; see `bin/loadtest --help`."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path

from loadtests.api import DEFAULT_HOST
from loadtests.viewing import LINKS

SCENARIO = Path(__file__).with_name("locustfile.py")
PURCHASES = Path(__file__).with_name("purchases.py")
STOP_TIMEOUT_S = 30
MOST_SPAWNED_PER_S = 100


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line; `bin/loadtest --help` describes it."""
    parser = argparse.ArgumentParser(prog="bin/loadtest")
    parser.add_argument("--host", default=DEFAULT_HOST)
    parser.add_argument("--players", type=_positive(int), default=50)
    parser.add_argument("--seconds", type=_positive(float), default=30)
    parser.add_argument("--spawn-rate", type=_positive(float), default=None)
    parser.add_argument("--interval-s", type=float, default=1.0)
    parser.add_argument("--network", choices=sorted(LINKS), default=None)
    parser.add_argument("--video", default=None)
    parser.add_argument("--seed", type=int, default=1)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "lectern-loadtest"
    parser.add_argument("--accounts", default=str(cache))
    parser.add_argument("--sessions-each", type=_positive(int), default=3)
    parser.add_argument("--processes", type=_positive(int), default=1)
    parser.add_argument("--figures", default=None, metavar="FILE")
    parser.add_argument("--purchases", action="store_true")
    parser.add_argument("--course", default=None)
    return parser.parse_args(arguments)


def _positive(kind: type[int] | type[float]) -> Callable[[str], float]:
    def number(text: str) -> float:
        if not 0 < (value := kind(text)) < math.inf:
            raise argparse.ArgumentTypeError("more than 0")
        return value

    return number


def locust_command(asked: argparse.Namespace) -> list[str]:
    """The command that runs the scenario as asked."""
    spawn_rate = asked.spawn_rate or min(MOST_SPAWNED_PER_S, max(1.0, asked.players / min(3.0, asked.seconds / 3)))
    scenario = PURCHASES if asked.purchases else SCENARIO
    command = [sys.executable, "-m", "locust", "-f", str(scenario), "--headless", "--only-summary"]
    command += ["--loglevel", "WARNING", "--stop-timeout", str(STOP_TIMEOUT_S)]
    command += ["--host", asked.host, "--users", str(asked.players), "--spawn-rate", str(spawn_rate)]
    command += ["--run-time", f"{max(1, round(asked.seconds))}s"]
    if asked.processes > 1:
        command += ["--processes", str(asked.processes)]
    if not asked.purchases:
        command += ["--table-only"]
    watching = ("interval_s", "network", "video", "seed", "accounts", "sessions_each", "figures")
    for name in ("course",) if asked.purchases else watching:
        value = getattr(asked, name)
        if value is not None:
            command += [f"--{name.replace('_', '-')}", str(value)]
    return command


def main() -> None:
    """Become locust."""
    asked = parse(sys.argv[1:])
    print(
        f"{asked.players} {'buyers' if asked.purchases else 'players'} for {asked.seconds:g} s on {asked.host}",
        flush=True,
    )
    command = locust_command(asked)
    os.execv(command[0], command)  # noqa: S606 - arguments of our own, no shell


if __name__ == "__main__":
    main()

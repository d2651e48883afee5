"""Run the scenario without a browser and with defaults; see `bin/loadtest --help`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from loadtests.viewing import LINKS

SCENARIO = Path(__file__).with_name("locustfile.py")
PURCHASES = Path(__file__).with_name("purchases.py")
STOP_TIMEOUT_S = 30
MOST_SPAWNED_PER_S = 100


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="bin/loadtest",
        description="Simulated learners watch a lecture over WebSockets; at the end: sessions, frames per second, "
        "percentiles of acks and decisions, and whether every frame was counted exactly once.",
        epilog="Exit status 0 when nothing went wrong, else 1. From one address the server registers no more than its "
        "limits.auth allow: raise it (LECTERN_LIMITS__AUTH__RATE=0) for more than some 150 players.",
    )
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "lectern-loadtest"
    parser.add_argument("--host", default="http://127.0.0.1:8080", help="the server (%(default)s)")
    parser.add_argument("--players", type=int, default=50, help="sessions at once (%(default)s)")
    parser.add_argument("--seconds", type=float, default=30, help="how long (%(default)s)")
    parser.add_argument(
        "--spawn-rate", type=float, default=None, help="players started a second (all within 3 s, or a third)"
    )
    parser.add_argument("--interval-s", type=float, default=1.0, help="seconds between a player's frames (%(default)s)")
    parser.add_argument("--network", choices=sorted(LINKS), default=None, help="one kind of link for all (a mixture)")
    parser.add_argument("--video", default=None, help="id of the video (a ready one of a free course)")
    parser.add_argument("--seed", type=int, default=1, help="viewings are drawn from it (%(default)s)")
    parser.add_argument("--accounts", default=str(cache), help="where accounts are kept for the next run (%(default)s)")
    parser.add_argument("--sessions-each", type=int, default=3, help="sessions per account (%(default)s)")
    parser.add_argument("--processes", type=int, default=1, help="processes that make the load (%(default)s)")
    parser.add_argument("--figures", default=None, metavar="FILE", help="write the figures there as JSON")
    parser.add_argument(
        "--purchases", action="store_true", help="buy a course, impatiently and with test cards, instead of watching"
    )
    parser.add_argument("--course", default=None, help="id of the course to buy (the newest that costs something)")
    return parser.parse_args(arguments)


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

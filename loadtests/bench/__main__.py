"""`python -m loadtests.bench COMMAND`; see `bin/bench --help`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from loadtests.bench import audience, core, live, memory, overload, rest
from loadtests.bench.stage import BenchError, Stage, stage

Command = Callable[[Stage, argparse.Namespace], dict[str, Any]]
COMMANDS: dict[str, Command] = {
    "live": lambda s, a: live.measure(s, sessions=a.sessions or 1000, rounds=a.rounds, seconds=a.seconds),
    "latency": lambda s, a: live.latency(s, sessions=a.sessions or 1000, rates=(1000, 5000), seconds=a.seconds),
    "growth": lambda s, a: live.growth(s, few=1000, many=a.sessions or 10_000, rounds=a.rounds, seconds=a.seconds),
    "memory": lambda s, a: memory.measure(s, sessions=a.sessions or 10_000, seconds=a.seconds),
    "checkpoints": lambda s, a: core.checkpoints(s, sessions=a.sessions or 10_000, rounds=a.rounds),
    "analytics": lambda s, a: audience.measure(s, views=a.sessions or 1_000_000),
    "overload": lambda s, a: overload.measure(s, sessions=a.sessions or 12_000, seconds=10 * a.seconds),
    "rest": lambda s, a: rest.measure(s, peers=a.peers, rounds=a.rounds, seconds=a.seconds),
    "replay": lambda s, a: core.replay(s, sessions=a.sessions or 5000),
}


def main() -> int:
    """Measure what was asked and print it as JSON."""
    parser = argparse.ArgumentParser(prog="bin/bench")
    parser.add_argument("command", choices=sorted(COMMANDS))
    parser.add_argument("--sessions", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--peers", type=lambda text: Path(text).resolve())
    asked = parser.parse_args()
    try:
        with stage() as parts:
            found = COMMANDS[asked.command](parts, asked)
    except BenchError as error:
        print(f"bin/bench: {error}", file=sys.stderr)
        return 1
    print(json.dumps(found, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())

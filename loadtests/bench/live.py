"""Frames through the whole path, beside a bare echo of the same frames: CPU per frame, rate, latency, growth."""

from __future__ import annotations

import sys
from statistics import median
from typing import Any

from loadtests.bench.learners import make_sessions
from loadtests.bench.stage import ROOMY, Server, Stage


def bare_echo(stage: Stage) -> Server:
    """aiohttp alone."""
    return stage.serve("echo", [sys.executable, "-m", "loadtests.bench.echo", "PORT"], "/")


def measure(stage: Stage, *, sessions: int, rounds: int, seconds: float) -> dict[str, Any]:
    """Closed loop, one frame of each session under way, in rounds that alternate; then fixed rates."""
    lectern, echo = stage.lectern(ROOMY), bare_echo(stage)
    made = make_sessions(stage.postgres.dsn, sessions)
    ours, theirs = stage.targets(made.targets), stage.targets(["/"] * sessions)
    closed: dict[str, list[dict[str, Any]]] = {"lectern": [], "echo": []}
    for _ in range(rounds):
        for server, targets in ((echo, theirs), (lectern, ours)):
            options = {"in_flight": sessions, "seconds": seconds, "echo": int(server is echo)}
            closed[server.name].append(stage.measure("ws", server, targets=targets, **options)[-1])
    return {
        "whole path": _medians(closed["lectern"]),
        "bare echo": _medians(closed["echo"]),
        **_ratios(closed["lectern"], closed["echo"], "of the echo"),
    }


def latency(stage: Stage, *, sessions: int, rates: tuple[float, ...], seconds: float) -> dict[str, Any]:
    """Open loop: frames are due at fixed times whatever the server does; at these rates, and at four fifths of what a
    closed loop reached before."""
    lectern = stage.lectern(ROOMY)
    made = stage.targets(make_sessions(stage.postgres.dsn, sessions).targets)
    most = stage.measure("ws", lectern, targets=made, in_flight=sessions, seconds=seconds)[-1]["per_s"]
    found: dict[str, Any] = {"frames/s at most": most}
    for name, rate in [(f"{rate:g} frames/s", rate) for rate in rates] + [("at 80 % of the most", 0.8 * most)]:
        found[name] = stage.measure("ws", lectern, targets=made, rate=rate, seconds=seconds)[-1]
    return found


def growth(stage: Stage, *, few: int, many: int, rounds: int, seconds: float) -> dict[str, Any]:
    """The same number of frames under way, over few and over many sessions."""
    lectern = stage.lectern(ROOMY)
    made = make_sessions(stage.postgres.dsn, many)
    files = {count: stage.targets(made.targets[:count]) for count in (few, many)}
    runs: dict[int, list[dict[str, Any]]] = {few: [], many: []}
    for _ in range(rounds):
        for count, targets in files.items():
            options = {"in_flight": few, "seconds": seconds}
            runs[count].append(stage.measure("ws", lectern, targets=targets, **options)[-1])
    return {
        **{f"{count} sessions": _medians(found) for count, found in runs.items()},
        **_ratios(runs[many], runs[few], "many of few"),
    }


def _ratios(ours: list[dict[str, Any]], theirs: list[dict[str, Any]], name: str) -> dict[str, float]:
    """How much faster we are than they, in rounds that ran one after the other."""
    pairs = list(zip(ours, theirs, strict=True))
    return {
        f"{name}, by CPU": round(median(them["cpu_us"] / us["cpu_us"] for us, them in pairs), 2),
        f"{name}, by rate": round(median(us["per_s"] / them["per_s"] for us, them in pairs), 2),
    }


def _medians(runs: list[dict[str, Any]]) -> dict[str, float]:
    return {name: round(median(run[name] for run in runs), 3) for name in runs[0]}

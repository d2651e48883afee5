"""A course by its id for a signed-in learner, beside the same work on other frameworks."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from loadtests.bench.learners import make_sessions
from loadtests.bench.stage import SECRET, Server, Stage

HERE = Path(__file__).parent
REFERENCE = "aiohttp"
PEERS = ("starlette", "fastapi", "litestar", "blacksheep")
CONNECTIONS = 64


def measure(stage: Stage, *, peers: Path | None, rounds: int, seconds: float) -> dict[str, Any]:
    """Closed loop over 64 connections, all servers in turn, in rounds.

    `peers` holds what the product does not need: `bin/python` with the frameworks, `node_modules` with fastify and pg.
    What is not there is skipped, and named.
    """
    made = make_sessions(stage.postgres.dsn, 1)
    path = f"/api/courses/{made.course_id}"
    targets = stage.targets([f"{path} {made.access_token()}"])
    # Counted like any other's, but never refused.
    plenty = {"LECTERN_LIMITS__READ__RATE": "1000000", "LECTERN_LIMITS__READ__BURST": "1000000"}
    servers = {"lectern": stage.lectern({"LECTERN_LOG__ACCESS": "false", **plenty})}
    skipped = []
    for name, command in _commands(peers):
        if command is None:
            skipped.append(name)
            continue
        environment = {"DSN": stage.postgres.dsn, "SECRET": SECRET, "MODULES": str(peers), "PYTHONPATH": ""}
        servers[name] = stage.serve(name, [*command, "PORT"], "/", environment)
    runs = _in_rounds(stage, servers, targets, rounds, seconds)
    found: dict[str, Any] = {}
    for name, lines in runs.items():
        found[name] = {key: median(line[key] for line in lines) for key in ("per_s", "cpu_us", "p50_ms", "p99_ms")}
        found[name]["errors"] = sum(line["errors"] for line in lines)
        for how, key in (("CPU", "cpu_us"), ("rate", "per_s")):
            pairs = zip(runs["lectern"], lines, strict=True)
            ratios = [them[key] / us[key] if key == "cpu_us" else us[key] / them[key] for us, them in pairs]
            found[name][f"lectern of it, by {how}"] = round(median(ratios), 2)
    return {**found, "skipped": skipped}


def _in_rounds(
    stage: Stage, servers: dict[str, Server], targets: Path, rounds: int, seconds: float
) -> dict[str, list[dict[str, Any]]]:
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in servers}
    for _ in range(rounds):
        for name, server in servers.items():
            options = {"connections": CONNECTIONS, "warm_s": 0.5, "seconds": seconds}
            runs[name].append(stage.measure("http", server, targets=targets, **options)[-1])
    return runs


def _commands(peers: Path | None) -> Iterator[tuple[str, list[str] | None]]:
    """How each peer is started; None for what is not installed."""
    yield REFERENCE, [sys.executable, str(HERE / "peers.py"), REFERENCE]
    python = peers and peers / "bin" / "python"
    for name in PEERS:
        there = python and subprocess.run([python, "-c", f"import {name}, uvicorn"], check=False).returncode == 0
        yield name, [str(python), str(HERE / "peers.py"), name] if there else None
    node = shutil.which("node")
    there = peers and node and (peers / "node_modules" / "fastify").exists()
    yield "fastify", [str(node), str(HERE / "peer.mjs")] if there else None

"""Analytics of a video with a million views: how fast they are folded, and how fast a server tells them."""

from __future__ import annotations

import asyncio
import os
import random
import time
import urllib.request
from statistics import median
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import orjson
import uvloop

from actors.checkpoints import CHUNK, sessions_sql
from actors.video_session.figures import REASONS, contribution
from actors.video_session.state import SessionState, dump_state
from loadtests.bench.learners import DURATION_S, LADDER, make_sessions
from loadtests.bench.stage import SECRET, SERVER_CORE, Server, Stage
from server.data.db import Database
from server.http.auth import Tokens

SESSIONS_EACH, READS = 5, 7
LENGTH_MS = round(DURATION_S * 1000)

# Of the views this share is folded as checkpoints fold them; the others are put where that would have put them, so that
# what is read is as much.
FOLDED_SHARE = 0.1

# Learners, and a year of sessions of theirs of the video that is there.
_MAKE = """
WITH u AS (INSERT INTO users (username, email, password_hash, role)
           SELECT 'viewer-' || n, 'viewer-' || n || '@example.org', 'x', 'student' FROM generate_series(1, $1::int) AS n
           RETURNING id)
INSERT INTO video_sessions (video_id, user_id, lecture_id, ladder, segment_s, created_at)
SELECT v.id, u.id, v.lecture_id, '[]', 4, timestamptz '2026-01-01' + random() * interval '365 days'
FROM u, videos AS v, generate_series(1, $2::int)
RETURNING id, created_at
"""
_REST = """
WITH a AS (UPDATE video_sessions SET status = 'ended' WHERE status <> 'ended' RETURNING video_id, created_at, user_id),
     b AS (INSERT INTO video_viewers
           SELECT DISTINCT video_id, d.day, user_id
           FROM a, LATERAL (VALUES ((created_at AT TIME ZONE 'UTC')::date), ('-infinity'::date)) AS d (day)
           ON CONFLICT DO NOTHING RETURNING 1)
UPDATE video_figures SET value = round(value / $1::float8) WHERE slot <> 64
"""


def measure(stage: Stage, *, views: int) -> dict[str, Any]:
    """A video's views of a year, five of each learner, folded by the checkpoints' own statement in the order in which
    they came about, then asked for over HTTP."""
    make_sessions(stage.postgres.dsn, 1)
    os.sched_setaffinity(0, {SERVER_CORE})
    video_id, token, found = uvloop.run(_fold(stage, views))
    server = stage.lectern()
    for name, days in (
        ("all time", ""), ("a year of days", "?from=2026-01-01&to=2026-12-31"),
        ("a month", "?from=2026-03-01&to=2026-03-31"),
    ):  # fmt: skip
        answers = [_ask(server, f"/api/videos/{video_id}/analytics{days}", token) for _ in range(READS)]
        shown = answers[0][1]
        found[name] = {"ms": round(1000 * median(s for s, _ in answers), 1), "views": shown["views"]}
        found[name]["unique_viewers"] = shown["unique_viewers"]
    return found


def _ask(server: Server, path: str, token: str) -> tuple[float, dict[str, Any]]:
    asked = urllib.request.Request(
        f"http://127.0.0.1:{server.port}{path}", headers={"Authorization": f"Bearer {token}"}
    )
    started = time.perf_counter()
    with urllib.request.urlopen(asked, timeout=30) as answer:  # noqa: S310  # our own server
        body = answer.read()
    return time.perf_counter() - started, orjson.loads(body)


async def _fold(stage: Stage, views: int) -> tuple[UUID, str, dict[str, Any]]:
    connection = await asyncpg.connect(stage.postgres.dsn)
    rows = await connection.fetch(_MAKE, views // SESSIONS_EACH, SESSIONS_EACH, timeout=170)
    await connection.execute("ANALYZE")
    video_id = await connection.fetchval("SELECT id FROM videos")
    owner = await connection.fetchval("SELECT id FROM users WHERE username = 'bench'")
    await connection.close()
    by_time = sorted(rows, key=lambda row: row["created_at"])
    ids = [row["id"] for row in by_time[:: round(1 / FOLDED_SHARE)]]
    db = await Database.open(stage.postgres.dsn, pool_size=4, timeout_s=60)
    process_id, took = uuid4(), []
    for start in range(0, len(ids), CHUNK):
        batch = _batch(ids[start : start + CHUNK])
        started = time.perf_counter()
        async with db.connection() as held:
            await sessions_sql.save_checkpoints(held, owner=process_id, seen=True, complete_share=0.9, **batch)
        took.append(time.perf_counter() - started)
        await asyncio.sleep(0)
    await db.close()
    connection = await asyncpg.connect(stage.postgres.dsn)
    await connection.execute(_REST, FOLDED_SHARE, timeout=170)
    await connection.execute(
        "UPDATE video_figures AS f SET value ="
        " (SELECT count(*) FROM video_viewers AS v WHERE v.video_id = f.video_id AND v.day = f.day) WHERE slot = 64"
    )
    await connection.execute("VACUUM ANALYZE")
    await connection.close()
    found = {
        "views": len(rows),
        "folded_per_s": round(CHUNK / median(took)),
        "slowest_batch_ms": round(1000 * max(took)),
    }
    return video_id, Tokens(SECRET).issue_access(owner, "instructor", 1)[0], found


def _batch(ids: list[UUID]) -> dict[str, list[Any]]:
    """A last checkpoint of each session: played from the start to somewhere, with the usual ups and downs."""
    states = [_viewed() for _ in ids]
    parts = [contribution(s, [1] * len(REASONS), length_ms=LENGTH_MS, complete_share=0.9) for s in states]
    count = len(ids)
    return {
        "ids": ids, "epochs": [0] * count, "states": [dump_state(s).decode() for s in states], "seqs": [9] * count,
        "subs": ["0"] * count, "duplicates": [0] * count, "decisions": ["null"] * count, "ranges": ["{}"] * count,
        "positions": [None] * count, "released": [True] * count, "statuses": ["ended"] * count,
        "sums": ["{" + ",".join(map(str, sums)) + "}" for sums, _ in parts], "percents": [p for _, p in parts],
    }  # fmt: skip


def _viewed() -> SessionState:
    end_ms = random.randint(20_000, LENGTH_MS)
    return SessionState(
        seq=9, frames=9, started=True, position_ms=end_ms, watched_ranges_ms=[(0, end_ms)], played_ms=end_ms,
        rung_ms=[end_ms / len(LADDER)] * len(LADDER), shown_kbit=end_ms, startup_ms=random.lognormvariate(6, 0.8),
        stalls=1, stall_ms=400.0, switches=3,
    )  # fmt: skip

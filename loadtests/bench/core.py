"""The core without sockets: checkpoints and their stalls, and the replay of a dead process's sessions."""

from __future__ import annotations

import asyncio
import gc
import os
import time
from statistics import median
from typing import Any

import uvloop
from redis.asyncio import Redis

from actors.checkpoints import CHUNK, WRITERS
from actors.runtime import Runtime
from actors.video_session.actor import VideoSession
from actors.video_session.messages import parse_rest_frame
from loadtests.bench.learners import make_sessions
from loadtests.bench.stage import SERVER_CORE, Stage
from server.clock import Clock
from server.config import Sessions
from server.data.db import Database
from server.data.hot import HotStreams
from server.data.neighbours import Neighbours
from server.http.passwords import Passwords

BEAT_S = 0.001
FRAMES = 20
# That a checkpoint of a session writes: its own and that of its progress.
ROWS = 2
# What no checkpoint can do without, to compare with.
BARE = """
UPDATE video_sessions AS s SET state = g.state, last_seq = g.seq
FROM unnest($1::uuid[], $2::text[], $3::bigint[]) AS g (id, state, seq) WHERE s.id = g.id
"""


def checkpoints(stage: Stage, *, sessions: int, rounds: int) -> dict[str, Any]:
    """Sessions that are saved once a round, all at once; then the same while passwords are hashed; each beside a bare
    UPDATE of the same rows, which folds nothing."""
    return _on_server_core(_checkpoints(stage, make_sessions(stage.postgres.dsn, sessions).ids, rounds))


def replay(stage: Stage, *, sessions: int) -> dict[str, Any]:
    """Each session has unsaved frames in its stream; one process claims and replays them all, as the reaper does."""
    return _on_server_core(_replay(stage, make_sessions(stage.postgres.dsn, sessions).ids))


def _on_server_core(work: Any) -> dict[str, Any]:
    os.sched_setaffinity(0, {SERVER_CORE})
    gc.set_threshold(10_000, 250, 1000)  # as the server has it
    return uvloop.run(work)


class _Core:
    """A runtime of which nothing goes on by itself."""

    def __init__(self, runtime: Runtime, streams: HotStreams, db: Database, redis: Redis) -> None:
        self.runtime = runtime
        self.streams = streams
        self._db = db
        self._redis = redis

    @classmethod
    async def open(cls, stage: Stage, **settings: Any) -> _Core:
        db = await Database.open(stage.postgres.dsn, pool_size=20, timeout_s=30)
        redis = Redis.from_url(stage.valkey.url)
        streams = HotStreams(redis)
        runtime = Runtime(
            db, streams, Sessions(**settings), Clock(), pulse_db=db, neighbours=Neighbours(redis), complete_share=0.9
        )
        return cls(runtime, streams, db, redis)

    async def update_barely(self, sessions: list[VideoSession]) -> float:
        """The same states once more, as `Checkpoints` does it but without what it is for; how long it took, s."""
        saved = sorted(sessions, key=lambda session: session.id.int)
        batches = (saved[start : start + CHUNK] for start in range(0, len(saved), CHUNK))

        async def work() -> None:
            for batch in batches:
                made = [session.checkpoint(release=False, complete_share=None) for session in batch]
                ids, states = [c.session.id for c in made], [c.state.decode() for c in made]
                await self._db.execute(BARE, ids, states, [c.cursor[0] for c in made])

        started = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(WRITERS)))
        return time.perf_counter() - started

    async def close(self) -> None:
        await self.streams.close()
        await self._redis.aclose()
        await self._db.close()


async def _checkpoints(stage: Stage, ids: list[Any], rounds: int) -> dict[str, Any]:
    core = await _Core.open(stage, rest_idle_s=3600.0)  # without sockets they would be let go meanwhile
    held = [session for session_id in ids if (session := await core.runtime.claim(session_id, "socket"))]
    found: dict[str, Any] = {"sessions": len(held)}
    passwords = Passwords(12)
    _change(held)
    await core.runtime.checkpoints.save_changed()  # rows grow to what they will be, statements are prepared
    for name, hashing in (("alone", False), ("during bcrypt", True)):
        rates, stalls, bare = [], [], []
        for _ in range(rounds):
            _change(held)
            hashes = [asyncio.create_task(passwords.hash(f"password {n}")) for n in range(2 if hashing else 0)]
            stall_s, took_s = await _watch(core.runtime.checkpoints.save_changed())
            await asyncio.gather(*hashes)
            assert all(session.saved_version == session.version for session in held)
            rates.append(len(held) / took_s)
            stalls.append(stall_s)
            bare.append(len(held) / await core.update_barely(held))
        per_s = median(rates)
        found[name] = {"sessions_per_s": round(per_s), "rows_per_s": round(ROWS * per_s)}
        found[name]["longest_stall_ms"] = round(1000 * max(stalls), 1)
        found[name]["bare_sessions_per_s"] = round(median(bare))
        found[name]["of the bare UPDATE"] = round(
            median(ours / least for ours, least in zip(rates, bare, strict=True)), 2
        )
        found[name]["all_stalls_ms"] = [round(1000 * s, 1) for s in stalls]
    passwords.close()
    await core.close()
    return found


def _change(held: list[VideoSession]) -> None:
    for session in held:
        session.accept(_report(session.highest + 1))
        session.take_written(1)


async def _watch(work: Any) -> tuple[float, float]:
    """The longest time that the loop did not turn while `work` ran, and how long that was, s."""
    longest_s = 0.0

    async def beat() -> None:
        nonlocal longest_s
        while True:
            before = time.perf_counter()
            await asyncio.sleep(BEAT_S)
            longest_s = max(longest_s, time.perf_counter() - before - BEAT_S)

    beating = asyncio.create_task(beat())
    await asyncio.sleep(0.01)
    longest_s, started = 0.0, time.perf_counter()
    await work
    took_s = time.perf_counter() - started
    beating.cancel()
    return longest_s, took_s


async def _replay(stage: Stage, ids: list[Any]) -> dict[str, Any]:
    core = await _Core.open(stage, grace_s=0.0, process_alive_s=1.0)
    for session_id in ids:
        session = await core.runtime.claim(session_id, "socket")
        assert session is not None
        for seq in range(1, FRAMES + 1):
            session.accept(_report(seq))
        write = session.next_write(FRAMES)
        assert write is not None
        await core.streams.write_and_read([write], {}, FRAMES)
    await core.close()

    heir = await _Core.open(stage, grace_s=0.0, process_alive_s=1.0)
    started = time.perf_counter()
    stall_s, took_s = await _watch(_reap_all(heir, len(ids)))
    assert time.perf_counter() > started
    await heir.close()
    return {
        "sessions": len(ids),
        "frames_each": FRAMES,
        "seconds": round(took_s, 2),
        "longest_stall_ms": round(1000 * stall_s, 1),
    }


async def _reap_all(heir: _Core, count: int) -> None:
    while count > 0:
        taken = await heir.runtime.reaper.reap_all()
        count -= taken
        assert taken, "the reaper finds nothing"


def _report(seq: int) -> Any:
    return parse_rest_frame({"seq": seq, "position": float(seq), "cmcd": {"bl": 9000, "mtp": 5200, "br": 1600}})

"""The live core of a process without HTTP: real Postgres and Redis, sessions made by SQL, players that only record."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import msgspec
import orjson
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from actors.runtime import Runtime
from actors.video_session.actor import VideoSession, decide_all
from actors.video_session.messages import Ack, Decision, Telemetry, parse_rest_frame
from server.clock import Clock
from server.config import Sessions
from server.data.db import Database
from server.data.hot import HotStreams
from server.data.neighbours import Neighbours
from server.data.streams import Streams
from tests.support.lectures import LADDER, Lecture

FAST = {"checkpoint_s": 0.05, "sweep_s": 0.3, "reaper_s": 0.1, "grace_s": 0.0, "process_alive_s": 30.0}


class SetClock(Clock):
    """Monotonic time that stands still until a test moves it."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s


class Listener:
    """A player's socket that keeps what a session says."""

    def __init__(self) -> None:
        self.acks: list[Ack] = []
        self.decisions: list[Decision] = []
        self.ended: tuple[int, str] | None = None
        self.retry_ms: int | None = None

    def send_ack(self, payload: bytes) -> None:
        self.acks.append(msgspec.json.decode(payload, type=Ack))

    def send_decision(self, payload: bytes) -> None:
        self.decisions.append(msgspec.json.decode(payload, type=Decision))

    def end(self, code: int, reason: str, retry_ms: int | None = None) -> None:
        if self.ended is None:
            self.ended, self.retry_ms = (code, reason), retry_ms

    @property
    def applied(self) -> int:
        return self.acks[-1].seq if self.acks else 0

    @property
    def saved(self) -> int:
        return self.acks[-1].saved if self.acks else 0


class Core:
    """One process's runtime and the parts behind it."""

    def __init__(self, runtime: Runtime, db: Database, redis: Redis, streams: Streams) -> None:
        self.runtime = runtime
        self.db = db
        self.redis = redis
        self.streams = streams

    async def open(self, session_id: UUID) -> tuple[VideoSession, Listener]:
        """Claim the session for a socket, as an opening does."""
        session = await self.runtime.claim(session_id, "socket")
        assert session is not None
        listener = Listener()
        self.runtime.attach(session, listener)
        return session, listener

    async def feed(self, session: VideoSession, frames: int) -> None:
        """Write and apply the next frames of a session by hand; for a core of which nothing goes on by itself."""
        for seq in range(session.highest + 1, session.highest + frames + 1):
            session.accept(report(seq))
        write = session.next_write(frames)
        assert write is not None
        (written,), _ = await self.streams.write_and_read([write], {}, frames)
        assert written.whole
        session.take_written(frames)
        decide_all([session], 10_000)
        session.answer(0.0)

    async def row(self, session_id: UUID) -> dict[str, Any]:
        """The session's row, its state among it."""
        row = await self.db.fetchrow("SELECT * FROM video_sessions WHERE id = $1", session_id)
        assert row is not None
        return dict(row)


@asynccontextmanager
async def running(
    dsn: str,
    redis_url: str,
    *,
    start: bool = True,
    clock: Clock | None = None,
    redis_timeout_s: float = 20.0,
    postgres_timeout_s: float = 20.0,
    **sessions: Any,
) -> AsyncIterator[Core]:
    """A runtime on these parts. With `start=False` nothing goes on by itself: the test takes each step."""
    db = await Database.open(dsn, pool_size=5, timeout_s=postgres_timeout_s)
    pulse_db = await Database.open(dsn, pool_size=1, timeout_s=20.0)
    within_s = {"socket_timeout": redis_timeout_s, "socket_connect_timeout": redis_timeout_s}
    redis = Redis.from_url(redis_url, **within_s, retry=Retry(NoBackoff(), 0))
    streams = HotStreams(redis)
    runtime = Runtime(
        db, streams, Sessions(**(FAST | sessions)), clock or Clock(), pulse_db=pulse_db, neighbours=Neighbours(redis),
        complete_share=0.9,
    )  # fmt: skip
    if start:
        await runtime.start()
    try:
        yield Core(runtime, db, redis, streams)
    finally:
        await runtime.stop()
        await streams.close()
        await redis.aclose()
        await pulse_db.close()
        await db.close()


async def insert_session(db: Database, lecture: Lecture, user_id: UUID, **columns: Any) -> UUID:
    """A session of this learner, made by SQL; `columns` as in `video_sessions`."""
    values = {"video_id": lecture.video_id, "user_id": user_id, "lecture_id": lecture.lecture_id, "segment_s": 2.0}
    values |= {"ladder": LADDER} | columns
    places = ", ".join(f"${n}" for n in range(1, len(values) + 1))
    sql = f"INSERT INTO video_sessions ({', '.join(values)}) VALUES ({places}) RETURNING id"  # noqa: S608
    session_id: UUID = await db.fetchval(sql, *values.values())
    return session_id


def report(seq: int | None, position: float | None = None, **members: Any) -> Telemetry:
    """A telemetry frame; a second of playing for each seq unless told otherwise."""
    value = {"position": float(seq or 0) if position is None else position, **members}
    return parse_rest_frame(value if seq is None else value | {"seq": seq})


async def eventually(holds: Callable[[], bool | Awaitable[bool]], timeout_s: float = 30.0) -> None:
    """Wait until this holds of what other tasks do. Raises TimeoutError."""
    async with asyncio.timeout(timeout_s):
        while not (await held if isinstance(held := holds(), Awaitable) else held):  # noqa: ASYNC110  # nothing tells us
            await asyncio.sleep(0.005)


def state_of(row: dict[str, Any]) -> dict[str, Any]:
    """The state in a session's row."""
    state: dict[str, Any] = orjson.loads(row["state"])
    return state

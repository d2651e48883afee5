"""Entries that no actor could apply and states that Postgres refused, kept for an operator: looked at, and replayed
once what was wrong is mended."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, NamedTuple, TypeAlias
from uuid import UUID

from redis.asyncio import Redis

from server.data.db import Database, queries
from server.data.streams import DEAD_LETTERS, FRAMES, Streams, refused_key, stream_key

sessions_sql = queries("sessions")


class Letter(NamedTuple):
    """`id` names the letter itself, `entry` the place that its frame had in the session's stream, or up to which its
    state goes. One of `frame` and `state`, both JSON, is None."""

    id: str
    at: datetime
    session_id: UUID
    entry: str
    error: str
    frame: bytes | None
    state: bytes | None


class Outcome(StrEnum):
    """What came of a replay."""

    REPLAYED = "replayed"
    UNKNOWN = "there is no such letter"
    GONE = "the session has ended or is gone; the letter is kept"
    SAVED = "the session has been saved since; the letter is dropped"
    REFUSED = "Postgres still refuses it; the letter is kept"
    TAKEN = "somebody else took the session meanwhile; the letter is kept"


DROPPED = (Outcome.REPLAYED, Outcome.SAVED)

# Gives Postgres a session's state once more: the session, the place up to which the state goes, and the state.
Restore: TypeAlias = Callable[[UUID, tuple[int, int], bytes], Awaitable[Outcome]]


async def list_letters(redis: Redis, *, count: int | None = None) -> list[Letter]:
    """All, or the newest `count`, newest first. Raises RedisError."""
    found: Any = await redis.xrevrange(DEAD_LETTERS, count=count)
    return [_letter(letter_id, fields) for letter_id, fields in found]


async def replay_letters(
    redis: Redis, streams: Streams, db: Database, letter_ids: Sequence[str], *, most: int, restore: Restore
) -> list[Outcome]:
    """Give each letter's frame to its session, or its state to Postgres, once more; what came of it, in order.

    A frame's old place is behind the cursor, where everything is ignored, so it comes as a frame without a number: what
    is summed counts as it should, and the position is the frame's until the next one. An owner that lives applies it at
    once; of a session that nobody holds the reaper does. What cannot be applied this time either is a new letter.
    A letter goes after its frame is in the stream: when this is cut off in between, it is there twice.

    Raises:
        StreamFull: the session has `most` frames that wait to be saved.
        PostgresAway, RedisError.
    """
    outcomes = []
    for letter_id in letter_ids:
        found: Any = await redis.xrange(DEAD_LETTERS, min=letter_id, max=letter_id)
        letter = _letter(*found[0]) if found else None
        if letter is None:
            outcome = Outcome.UNKNOWN
        elif letter.state is not None:
            seq, _, sub = letter.entry.partition("-")
            outcome = await restore(letter.session_id, (int(seq), int(sub)), letter.state)
        else:
            outcome = await _replay_frame(streams, db, letter, most)
        if letter is not None and outcome in DROPPED:
            await redis.xdel(DEAD_LETTERS, letter.id)
            await redis.delete(refused_key(stream_key(letter.session_id)))
        outcomes.append(outcome)
    return outcomes


async def _replay_frame(streams: Streams, db: Database, letter: Letter, most: int) -> Outcome:
    row = await sessions_sql.get_standing(db, session_id=letter.session_id)
    if row is None or row["status"] == "ended":
        return Outcome.GONE
    assert letter.frame is not None
    cursor = row["last_seq"], int(row["last_sub"])
    await streams.append(stream_key(letter.session_id), cursor, [(None, letter.frame)], most)
    await sessions_sql.give_to_reaper(db, session_ids=[letter.session_id])
    await streams.nudge(FRAMES, letter.session_id)
    return Outcome.REPLAYED


def _letter(letter_id: bytes, fields: dict[bytes, bytes]) -> Letter:
    name = letter_id.decode()
    return Letter(
        id=name,
        at=datetime.fromtimestamp(int(name.partition("-")[0]) / 1000, UTC),
        session_id=UUID(fields[b"stream"].decode().rpartition(":")[2]),
        entry=fields[b"id"].decode(),
        error=fields[b"error"].decode(),
        frame=fields.get(b"frame"),
        state=fields.get(b"state"),
    )

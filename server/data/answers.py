"""The streams of answers in Redis: one per user, in which every turn's text goes by on its way to the user's sockets.

The id of an entry is `<turn>-<chunk>`: 0 is the turn's opening, 1, 2, 3, ... its text, and 2^64 - 1 its end, after
which Redis itself refuses whatever a process that has lost the turn still wants to add to it. A turn's number is above
that of the user's turn before it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple
from uuid import UUID
from zlib import crc32

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from server.data.streams import NUDGES, SLOTS, is_no_stream

END = 2**64 - 1
# The kind of nudge that tells of news in a user's stream.
CHAT = "chat"
_REFUSED = "equal or smaller"
# No turn has such a number.
_NO_TURN = 1 << 31


class Entry(NamedTuple):
    """One entry: `content` is the opening's or the end's frame as JSON, or a chunk's text in UTF-8; an end without any
    is told by the turn's row. `chunks` of an end is how many the turn had."""

    turn: int
    chunk: int
    content: bytes
    chunks: int = 0


def answers_key(user_id: UUID) -> str:
    """The key of a user's stream; the part in braces is what Redis Cluster hashes."""
    return f"chat:{{{crc32(user_id.bytes) % SLOTS}}}:{user_id}"


class Answers:
    """Every call raises `redis.RedisError` when Redis is away; none is repeated by itself.

    What somebody else put into a stream, or in its place, is read as nothing.
    """

    def __init__(self, redis: Redis, ttl_s: float) -> None:
        self._redis = redis
        self._ttl_s = math.ceil(ttl_s)

    async def append(self, user_id: UUID, turn: int, chunk: int, content: bytes, chunks: int = 0) -> bool:
        """Add an entry and tell every process; False when Redis refuses it, for it has this one or a later one, or no
        stream."""
        key = answers_key(user_id)
        fields: Any = {"content": content} | ({"chunks": chunks} if chunk == END else {})
        pipe = self._redis.pipeline(transaction=False)
        if chunk == 0:
            # What is finished is in Postgres; the turn before is left to those who are still behind.
            pipe.xtrim(key, minid=f"{turn - 1}-0", approximate=False)
        pipe.xadd(key, fields, id=f"{turn}-{chunk}")
        pipe.expire(key, self._ttl_s)
        pipe.publish(NUDGES, f"{CHAT} {user_id}")
        answers = await pipe.execute(raise_on_error=False)
        added = answers[1 if chunk == 0 else 0]
        for answer in (added, *answers):
            if is_no_stream(answer) or (isinstance(answer, ResponseError) and _REFUSED in str(answer)):
                return False
            if isinstance(answer, Exception):
                raise answer
        return True

    async def read_after(self, user_id: UUID, cursor: tuple[int, int], count: int) -> list[Entry]:
        """Up to `count` entries after the cursor (turn, chunk), oldest first."""
        turn, chunk = cursor
        return await self._range(user_id, f"({turn}-{chunk}", f"{_NO_TURN}-0", count)

    async def read_turn(self, user_id: UUID, turn: int) -> list[Entry]:
        """All that there is of a turn."""
        return await self._range(user_id, f"{turn}-0", f"{turn}-{END}", None)

    async def _range(self, user_id: UUID, first: str, last: str, count: int | None) -> list[Entry]:
        try:
            found: Any = await self._redis.xrange(answers_key(user_id), min=first, max=last, count=count)
        except ResponseError as error:
            if is_no_stream(error):
                return []
            raise
        return [_entry(*each) for each in found if b"content" in each[1]]

    async def trim(self, user_id: UUID, turn: int) -> None:
        """Drop all that was said up to the end of a turn."""
        await self._redis.xtrim(answers_key(user_id), minid=f"{turn}-{END}", approximate=False)

    async def delete(self, user_id: UUID) -> None:
        """Drop all of a user's stream."""
        await self._redis.delete(answers_key(user_id))


def _entry(entry_id: bytes, fields: Mapping[bytes, bytes]) -> Entry:
    turn, _, chunk = entry_id.decode().partition("-")
    return Entry(int(turn), int(chunk), fields.get(b"content", b""), int(fields.get(b"chunks", b"0")))

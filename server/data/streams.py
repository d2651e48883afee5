"""The sessions' telemetry streams: everything that speaks Redis streams.

One stream per session. The id of an entry is the player's own frame number, `<seq>-0`, so that Redis itself refuses
duplicates and late frames and no clock is in the data path. A frame without a number gets the next sub-number of the
highest seq. An entry carries `prev`, the highest seq that was settled before it as far as its writer can tell: on
replay a `prev` above the cursor tells that Redis lost what lay between.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID
from zlib import crc32

import structlog
from msgspec import Struct
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

log = structlog.get_logger()

SLOTS = 64
DEAD_LETTERS = "dead:telemetry"
MAX_DEAD_LETTERS = 10_000
# A session that Postgres refuses comes back again and again: one letter of it in this time.
REFUSED_AGAIN_S = 3600
NUDGES = "nudge"
# The kind of nudge that says that frames were written beside the session's owner.
FRAMES = "frames"
ANNOUNCED_WITHIN_S = 0.3
# Who has heard no nudge for so long asks whether the connection lives, and waits as long for the answer.
LISTEN_S = 4.0

# How Redis says that it cannot just now: gone, too slow, loading, out of memory, read-only.
REDIS_AWAY = (RedisError, OSError, TimeoutError)

_TOO_SMALL = "equal or smaller"
_NO_STREAM = "WRONGTYPE"


class Entry(NamedTuple):
    """One entry of a stream: its id, `prev` (None in entries of older servers), the frame as JSON."""

    seq: int
    sub: int
    prev: int | None
    frame: bytes


class Write(Struct, gc=False):
    """Frames of one session, in order, that its owner wants in its stream; what lies up to `cursor` is applied."""

    key: str
    cursor: tuple[int, int]
    frames: Sequence[tuple[int, bytes]]


class Written(Struct, frozen=True, gc=False):
    """What became of a `Write`: how many entries are new, or why Redis refused it (`error`; then some may be in).

    `whole`: after its cursor the stream holds these frames as they were written and nothing else, so they are not among
    what was read."""

    added: int
    error: str | None
    whole: bool = False


class Appended(NamedTuple):
    """What became of frames appended beside the owner."""

    accepted: int
    duplicates: int


class StreamFull(Exception):
    """The session has too many frames that Postgres does not know yet."""


# Frames in order; the first error but "too small" stops, so that a frame that failed is never overtaken.
# ARGV: ttl_s, then prev, seq, frame for each.
_WRITE = """
local added = 0
for i = 2, #ARGV, 3 do
  local answer = redis.pcall('XADD', KEYS[1], ARGV[i + 1] .. '-0', 'prev', ARGV[i], 'frame', ARGV[i + 2])
  if type(answer) == 'table' and answer.err then
    if not string.find(answer.err, 'equal or smaller', 1, true) then return answer end
  else
    added = added + 1
  end
end
redis.call('EXPIRE', KEYS[1], ARGV[1])
return added
"""

# Frames from beside a socket, numbered or not. What has no number gets the next sub-number of the greater of the
# stream's top and the cursor. Who is not the owner knows only the row's cursor, and where the stream is gone, or ends
# before that, not what was in it: such entries are `unsure` until they are saved, and a leap among them says `prev` as
# if all before it had been settled. A living owner, who knows, heeds no `prev`; whoever replays without it takes the
# hole for lost, and the player, who still holds those frames, sends them again.
# ARGV: ttl_s, most entries, cursor's seq, cursor's sub, 1 for the owner, then seq or '', frame.
_APPEND = """
local top_seq, top_sub = tonumber(ARGV[3]), tonumber(ARGV[4])
local owner, unsure = ARGV[5] == '1', ARGV[5] ~= '1'
local info = redis.pcall('XINFO', 'STREAM', KEYS[1])
if not info.err then
  local last, above, behind = nil, false, false
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then
      local seq, sub = string.match(info[i + 1], '(%d+)-(%d+)')
      seq, sub = tonumber(seq), tonumber(sub)
      above = seq > top_seq or (seq == top_seq and sub > top_sub)
      behind = seq < top_seq or (seq == top_seq and sub < top_sub)
      if above then top_seq, top_sub = seq, sub end
    elseif info[i] == 'length' and tonumber(info[i + 1]) >= tonumber(ARGV[2]) then
      return -1
    elseif info[i] == 'last-entry' then
      last = info[i + 1]
    end
  end
  unsure = not owner and (behind or above and last and last[2][5] == 'unsure')
end
local accepted = 0
for i = 6, #ARGV, 2 do
  local seq, sub
  if ARGV[i] == '' then seq, sub = top_seq, top_sub + 1 else seq, sub = tonumber(ARGV[i]), 0 end
  if seq > top_seq or (seq == top_seq and sub > top_sub) then
    local id, prev = string.format('%.0f-%.0f', seq, sub), string.format('%.0f', top_seq)
    if unsure then
      if seq > top_seq then prev = string.format('%.0f', seq - 1) end
      redis.call('XADD', KEYS[1], id, 'prev', prev, 'frame', ARGV[i + 1], 'unsure', '1')
    else
      redis.call('XADD', KEYS[1], id, 'prev', prev, 'frame', ARGV[i + 1])
    end
    top_seq, top_sub = seq, sub
    accepted = accepted + 1
  end
end
redis.call('EXPIRE', KEYS[1], ARGV[1])
return accepted
"""


# In one step, for another owner may write at any moment. ARGV: the id after which nothing must lie, and 1 to keep what
# lies before it.
_RESTART = """
if #redis.call('XRANGE', KEYS[1], '(' .. ARGV[1], '+', 'COUNT', 1) > 0 then return 0 end
local kept = ARGV[2] == '1' and redis.call('XRANGE', KEYS[1], '-', '+') or {}
redis.call('DEL', KEYS[1])
for _, entry in ipairs(kept) do redis.call('XADD', KEYS[1], entry[1], unpack(entry[2])) end
return 1
"""


def stream_key(session_id: UUID) -> str:
    """The key of a session's stream; the part in braces is what Redis Cluster hashes."""
    return f"tel:{{{crc32(session_id.bytes) % SLOTS}}}:{session_id}"


def refused_key(key: str) -> str:
    """Is there while a session's state lies among the dead letters, or did lately."""
    return f"dead:{key}"


class Streams:
    """The streams behind one Redis client. Every call raises `redis.RedisError` when Redis is away; no call is
    repeated by itself, since an unknown outcome is the caller's to settle."""

    def __init__(self, redis: Redis, ttl_s: float = 24 * 3600) -> None:
        self._redis = redis
        self._ttl_s = math.ceil(ttl_s)  # a stream that nobody uses goes by itself

    async def close(self) -> None:
        """Nothing is held here; the client is its maker's to close."""

    async def write_and_read(
        self, writes: Sequence[Write], reads: Mapping[str, tuple[int, int]], count: int, renew: Iterable[str] = ()
    ) -> tuple[list[Written], dict[str, list[Entry]]]:
        """One round trip: write all frames, and read their streams and those of `reads` from after their cursors.

        The time to live of the streams in `renew` starts anew. At most `count` entries per stream come back; a stream
        without any is missing from the answer.
        """
        pipe = self._redis.pipeline(transaction=False)
        for write in writes:
            self._queue_write(pipe, write)
        for key in renew:
            pipe.expire(key, self._ttl_s)
        cursors = {**{write.key: write.cursor for write in writes}, **reads}
        pipe.xread({key: f"{seq}-{sub}" for key, (seq, sub) in cursors.items()}, count=count)
        *answers, read = await pipe.execute(raise_on_error=False)
        if any(map(is_no_stream, (*answers, read))):
            await self.drop_what_is_no_stream(cursors)
        if isinstance(read, Exception):
            raise read
        streams = read.items() if isinstance(read, dict) else read
        found = {key.decode(): [_entry(*e) for e in entries] for key, entries in streams}
        return [_settled(write, a, found) for write, a in zip(writes, answers, strict=False)], found

    def _queue_write(self, pipe: Any, write: Write) -> None:
        if len(write.frames) == 1:
            # The usual case, and the cheapest.
            seq, frame = write.frames[0]
            pipe.xadd(write.key, {"prev": write.cursor[0], "frame": frame}, id=f"{seq}-0")
            return
        arguments: list[int | bytes] = [self._ttl_s]
        prev = write.cursor[0]
        for seq, frame in write.frames:
            arguments += [prev, seq, frame]
            prev = seq
        pipe.eval(_WRITE, 1, write.key, *arguments)

    async def append(
        self,
        key: str,
        cursor: tuple[int, int],
        frames: Sequence[tuple[int | None, bytes]],
        most: int,
        *,
        by_owner: bool = False,
    ) -> Appended:
        """Append frames from beside a socket; those at or below the top are duplicates. `cursor` is the owner's own, or
        else that of the row.

        Raises:
            StreamFull: the stream holds `most` entries or more.
        """
        arguments: list[int | bytes | str] = [self._ttl_s, most, *cursor, int(by_owner)]
        for seq, frame in frames:
            arguments += ["" if seq is None else seq, frame]
        try:
            accepted = int(await self._redis.eval(_APPEND, 1, key, *arguments))
        except ResponseError as error:
            if is_no_stream(error):
                await self.drop_what_is_no_stream([key])
            raise
        if accepted < 0:
            raise StreamFull(key)
        return Appended(accepted, len(frames) - accepted)

    async def read_after(self, key: str, cursor: tuple[int, int], count: int) -> list[Entry]:
        """Up to `count` entries after the cursor, oldest first."""
        seq, sub = cursor
        entries: Any = await self._redis.xrange(key, min=f"({seq}-{sub}", max="+", count=count)
        return [_entry(*e) for e in entries]

    async def take_up(self, key: str, cursor: tuple[int, int], count: int) -> list[Entry]:
        """`read_after` for who has just claimed the session, and for nobody else.

        Where nothing lies there the next entry need only exceed the cursor. In a stream that somebody has trimmed the
        top stays as it was, and would refuse what was lost when the player sends it again.
        """
        seq, sub = cursor
        pipe = self._redis.pipeline(transaction=False)
        pipe.xrange(key, min=f"({seq}-{sub}", max="+", count=count)
        pipe.execute_command("XSETID", key, f"{seq}-{sub}")  # refused where something lies above, or nothing at all
        entries, _ = await pipe.execute(raise_on_error=False)
        if is_no_stream(entries):
            await self.drop_what_is_no_stream([key])
            return []
        if isinstance(entries, Exception):
            raise entries
        return [_entry(*e) for e in entries]

    async def drop_what_is_no_stream(self, keys: Iterable[str]) -> None:
        """Of these keys, which are sessions', drop those under which somebody has put something else: Redis refuses
        every command about one, and all that is asked together with it."""
        pipe = self._redis.pipeline(transaction=False)
        for key in (keys := list(keys)):
            pipe.type(key)
        for key, kind in zip(keys, await pipe.execute(), strict=True):
            if kind not in (b"stream", b"none"):
                log.error("key_is_no_stream", key=key, kind=kind.decode())
                await self.delete([key])

    async def trim(self, cursors: Mapping[str, tuple[int, int]]) -> None:
        """Drop from each stream what lies at or below its cursor."""
        pipe = self._redis.pipeline(transaction=False)
        for key, (seq, sub) in cursors.items():
            pipe.xtrim(key, minid=f"{seq}-{sub + 1}", approximate=False)
            pipe.expire(key, self._ttl_s)
        await pipe.execute(raise_on_error=False)

    async def list_unread(self, cursors: Mapping[str, tuple[int, int]]) -> set[str]:
        """Of these streams those that hold entries after their cursors."""
        pipe = self._redis.pipeline(transaction=False)
        for key, (seq, sub) in cursors.items():
            pipe.xrange(key, min=f"({seq}-{sub}", max="+", count=1)
        return {key for key, entries in zip(cursors, await pipe.execute(), strict=True) if entries}

    async def restart(self, key: str, cursor: tuple[int, int], *, keep: bool = False) -> bool:
        """Drop a stream, and with it the top that new entries must exceed, unless entries lie after the cursor; whether
        it was dropped. With `keep` only the top goes: what lies up to the cursor may not be saved yet."""
        seq, sub = cursor
        return bool(await self._redis.eval(_RESTART, 1, key, f"{seq}-{sub}", int(keep)))

    async def delete(self, keys: Iterable[str]) -> None:
        """Drop whole streams."""
        for key in keys:
            await self._redis.delete(key)

    async def bury(self, key: str, entry: Entry, error: str, *, remove: bool) -> None:
        """Keep an entry that could not be applied, for an operator to look at; with `remove` it leaves its stream."""
        fields = {"stream": key, "id": f"{entry.seq}-{entry.sub}", "frame": entry.frame, "error": error[:500]}
        await self._redis.xadd(DEAD_LETTERS, fields, maxlen=MAX_DEAD_LETTERS)  # type: ignore[arg-type]
        if remove:
            await self._redis.xdel(key, f"{entry.seq}-{entry.sub}")

    async def bury_state(self, key: str, cursor: tuple[int, int], state: bytes, error: str) -> None:
        """Keep a session's state (JSON, as of `cursor`) that Postgres refused, for an operator to look at."""
        if await self._redis.set(refused_key(key), 1, nx=True, ex=REFUSED_AGAIN_S):
            fields = {"stream": key, "id": f"{cursor[0]}-{cursor[1]}", "state": state, "error": error[:500]}
            await self._redis.xadd(DEAD_LETTERS, fields, maxlen=MAX_DEAD_LETTERS)  # type: ignore[arg-type]

    async def nudge(self, kind: str, what: object) -> None:
        """Tell every process that something concerns this session or user (`what`, or more than an id); best effort, a
        sweep stands behind it."""
        await self._redis.publish(NUDGES, f"{kind} {what}")

    async def announce(self, kind: str, what: object) -> None:
        """Tell every process of what is done already, if Redis answers soon: whoever waits meanwhile shall not notice
        that it is away. Never raises then; who was not told finds out by looking."""
        with contextlib.suppress(*REDIS_AWAY):
            async with asyncio.timeout(ANNOUNCED_WITHIN_S):
                await self.nudge(kind, what)

    async def ping(self) -> None:
        """Whether Redis answers."""
        await self._redis.ping()

    async def nudges(self) -> AsyncIterator[str]:
        """What other processes and this one tell by `nudge`, until cancelled.

        Raises RedisError, also when the connection has died without a word.
        """
        async with self._redis.pubsub(ignore_subscribe_messages=True) as subscription:
            await subscription.subscribe(NUDGES)
            asked = False
            while True:
                message = await subscription.get_message(timeout=LISTEN_S)
                # redis-py swallows a cancellation that comes while it connects.
                if (task := asyncio.current_task()) is not None and task.cancelling():
                    raise asyncio.CancelledError
                if message is None:
                    if asked:
                        raise RedisTimeoutError("no answer on the connection that nudges come by")
                    await subscription.ping()
                elif message["type"] == "message":
                    yield message["data"].decode()
                asked = message is None


def _settled(write: Write, answer: Any, found: dict[str, list[Entry]]) -> Written:
    """What became of a write, by what Redis answered to it and by what was found in its stream."""
    written = _written(answer)
    if written.error is not None or written.added != len(write.frames):
        return written
    prevs = [write.cursor[0], *(seq for seq, _ in write.frames)]
    if found.get(write.key) != [
        Entry(seq, 0, prev, frame) for prev, (seq, frame) in zip(prevs, write.frames, strict=False)
    ]:
        return written
    del found[write.key]
    return Written(written.added, None, whole=True)


def is_no_stream(answer: Any) -> bool:
    """Whether Redis answered that what lies under a key is something else."""
    return isinstance(answer, ResponseError) and _NO_STREAM in str(answer)


def _written(answer: Any) -> Written:
    if isinstance(answer, ResponseError) and _TOO_SMALL in str(answer):
        return Written(0, None)
    if isinstance(answer, Exception):
        return Written(0, str(answer))
    return Written(answer if isinstance(answer, int) else 1, None)


def _entry(entry_id: bytes, fields: Mapping[Any, bytes]) -> Entry:
    seq, _, sub = entry_id.partition(b"-")
    return entry_of(int(seq), int(sub), fields)


def entry_of(seq: int, sub: int, fields: Mapping[Any, bytes]) -> Entry:
    """An entry of the stream by its fields. One that nobody of us wrote is a dead letter; it must not stop those beside
    it."""
    prev = fields.get(b"prev")
    return Entry(seq, sub, int(prev) if prev is not None and prev.isdigit() else None, fields.get(b"frame", b""))

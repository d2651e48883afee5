"""The sessions' streams with the one call that every frame goes through packed by hand, over a connection of its own.

Says and answers exactly what `Streams.write_and_read` does; the tests hold the two against each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha1
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from server.data.streams import Entry, Streams, Write, Written, entry_of, is_no_stream
from server.data.wire import Wire

# Frames in order, as in `Streams`. Where nothing lay after the cursor and all are new, their number is the whole
# answer: nothing has to be read back. Else: how many are new, what lies after the cursor, and why Redis refused one.
# ARGV: most entries to read, the cursor, then seq, frame for each.
_WRITE = b"""
local prev, after = string.match(ARGV[2], '%d+'), '(' .. ARGV[2]
local whole = tonumber(ARGV[3]) > tonumber(prev) and #redis.call('XRANGE', KEYS[1], after, '+', 'COUNT', 1) == 0
local added, refused = 0, false
for i = 3, #ARGV, 2 do
  local answer = redis.pcall('XADD', KEYS[1], ARGV[i] .. '-0', 'prev', prev, 'frame', ARGV[i + 1])
  if type(answer) == 'string' then
    added = added + 1
  else
    whole = false
    if not string.find(answer.err, 'equal or smaller', 1, true) then
      refused = answer.err
      break
    end
  end
  prev = ARGV[i]
end
if whole then return added end
return {added, redis.call('XRANGE', KEYS[1], after, '+', 'COUNT', ARGV[1]), refused}
"""
_NAME = sha1(_WRITE, usedforsecurity=False).hexdigest().encode()
_HEAD = b"\r\n$7\r\nEVALSHA\r\n$40\r\n%b\r\n$1\r\n1\r\n" % _NAME
_WHOLE = Written(1, None, True)
# Somebody emptied the cache of scripts: to connect anew fills it. Or this Redis has become another's copy, as after a
# failover: who bears its name now takes writes.
_CONNECT_ANEW = (b"NOSCRIPT", b"READONLY")


class HotStreams(Streams):
    """Streams for the process that owns sessions."""

    def __init__(self, redis: Redis, ttl_s: float = 24 * 3600) -> None:
        super().__init__(redis, ttl_s)
        self._wire = Wire(redis, _pack(b"SCRIPT", b"LOAD", _WRITE))

    async def write_and_read(
        self, writes: Sequence[Write], reads: Mapping[str, tuple[int, int]], count: int, renew: Iterable[str] = ()
    ) -> tuple[list[Written], dict[str, list[Entry]]]:
        """As in Streams. Raises redis.RedisError."""
        most = b"$%d\r\n%d\r\n" % (len(str(count)), count)
        parts = [_pack_write(write, most) for write in writes]
        parts += [_pack(b"EXPIRE", key.encode(), b"%d" % self._ttl_s) for key in renew]
        if reads:
            parts.append(_pack_read(reads, most))
        answers = await self._wire.ask(b"".join(parts), len(parts))
        if any(map(is_no_stream, answers)):
            await self.drop_what_is_no_stream([*(write.key for write in writes), *reads])
        found: dict[str, list[Entry]] = {}
        if reads:
            if isinstance(answers[-1], ResponseError):
                raise answers[-1]
            for key, entries in answers[-1] or ():
                found[key.decode()] = [_entry(*entry) for entry in entries]
        written = [
            _WHOLE if answer == 1 else self._settled(write, answer, found)
            for write, answer in zip(writes, answers, strict=False)
        ]
        return written, found

    def _settled(self, write: Write, answer: Any, found: dict[str, list[Entry]]) -> Written:
        if isinstance(answer, int):
            return Written(answer, None, True)
        added, entries, refused = (0, (), str(answer).encode()) if isinstance(answer, ResponseError) else answer
        if refused is not None and refused.startswith(_CONNECT_ANEW):
            self._wire.hang_up()
            raise RedisConnectionError(refused.decode())
        if entries:
            found[write.key] = [_entry(*entry) for entry in entries]
        return Written(added, None if refused is None else refused.decode())

    async def close(self) -> None:
        """Give the connection up."""
        await self._wire.close()


def _pack_write(write: Write, most: bytes) -> bytes:
    key, cursor, frames = write.key.encode(), b"%d-%d" % write.cursor, write.frames
    if len(frames) == 1:  # the usual case
        ((seq, frame),) = frames
        number = b"%d" % seq
        return b"*8%b$%d\r\n%b\r\n%b$%d\r\n%b\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (
            _HEAD, len(key), key, most, len(cursor), cursor, len(number), number, len(frame), frame
        )  # fmt: skip
    words = [cursor]
    for seq, frame in frames:
        words += [b"%d" % seq, frame]
    return b"*%d%b$%d\r\n%b\r\n%b" % (6 + 2 * len(frames), _HEAD, len(key), key, most) + _pack_words(words)


def _pack_read(cursors: Mapping[str, tuple[int, int]], most: bytes) -> bytes:
    """XREAD of every stream from after its cursor: first all keys, then all ids."""
    head = b"*%d\r\n$5\r\nXREAD\r\n$5\r\nCOUNT\r\n%b$7\r\nSTREAMS\r\n" % (4 + 2 * len(cursors), most)
    return head + _pack_words([*(key.encode() for key in cursors), *(b"%d-%d" % at for at in cursors.values())])


def _pack(*words: bytes) -> bytes:
    """A command in RESP."""
    return b"*%d\r\n" % len(words) + _pack_words(words)


def _pack_words(words: Sequence[bytes]) -> bytes:
    return b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in words])


def _entry(entry_id: bytes, fields: list[Any]) -> Entry:
    seq, _, sub = entry_id.partition(b"-")
    return entry_of(int(seq), int(sub), dict(zip(fields[::2], fields[1::2], strict=True)))

"""The sessions' streams with the one call that every frame goes through packed by hand, over a connection of its own.

Says and answers exactly what `Streams.write_and_read` does; the tests hold the two against each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from server.data.streams import WRITE_SCRIPT, Entry, Streams, Write, Written, settled
from server.data.wire import Wire

_SCRIPT = WRITE_SCRIPT.encode()
_WHOLE = Written(1, None, True)


class HotStreams(Streams):
    """Streams for the process that owns sessions."""

    def __init__(self, redis: Redis, ttl_s: float = 24 * 3600) -> None:
        super().__init__(redis, ttl_s)
        self._wire = Wire(redis)

    async def write_and_read(
        self, writes: Sequence[Write], cursors: Mapping[str, tuple[int, int]], count: int, renew: Iterable[str] = ()
    ) -> tuple[list[Written], dict[str, list[Entry]]]:
        """As in Streams. Raises redis.RedisError."""
        parts: list[bytes] = []
        # What XREAD says of a stream that holds one frame just written and nothing else.
        expected: dict[bytes, list[Any]] = {}
        for write in writes:
            self._pack_write(write, parts, expected)
        parts += [_pack(b"EXPIRE", key.encode(), b"%d" % self._ttl_s) for key in renew]
        asked = len(parts) + 1
        _pack_read(cursors, count, parts)
        answers = await self._wire.ask(b"".join(parts), asked)
        read = answers[-1]
        if isinstance(read, ResponseError):
            raise read
        found: dict[str, list[Entry]] = {}
        unparsed: dict[str, list[Any]] = {}
        for key, entries in read or ():
            if entries == expected.get(key):
                unparsed[key.decode()] = entries
            else:
                found[key.decode()] = [_entry(*entry) for entry in entries]
        written = []
        for write, answer in zip(writes, answers, strict=False):
            entries = unparsed.get(write.key)
            if entries is not None and type(answer) is bytes:  # XADD answers with the new entry's id
                written.append(_WHOLE)
                continue
            if entries is not None:  # it was there already
                found[write.key] = [_entry(*entry) for entry in entries]
            written.append(settled(write, answer, found))
        return written, found

    async def close(self) -> None:
        """Give the connection up."""
        await self._wire.close()

    def _pack_write(self, write: Write, parts: list[bytes], expected: dict[bytes, list[Any]]) -> None:
        key = write.key.encode()
        if len(write.frames) == 1:
            ((seq, frame),) = write.frames
            entry_id, prev = b"%d-0" % seq, b"%d" % write.prev
            parts.append(
                b"*7\r\n$4\r\nXADD\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n$4\r\nprev\r\n$%d\r\n%b\r\n$5\r\nframe\r\n$%d\r\n%b\r\n"
                % (len(key), key, len(entry_id), entry_id, len(prev), prev, len(frame), frame)
            )
            expected[key] = [[entry_id, [b"prev", prev, b"frame", frame]]]
            return
        arguments = [b"%d" % self._ttl_s]
        before = write.prev
        for seq, frame in write.frames:
            arguments += [b"%d" % before, b"%d" % seq, frame]
            before = seq
        parts.append(_pack(b"EVAL", _SCRIPT, b"1", key, *arguments))


def _pack_read(cursors: Mapping[str, tuple[int, int]], count: int, parts: list[bytes]) -> None:
    """XREAD of every stream from after its cursor: first all keys, then all ids."""
    head = b"*%d\r\n$5\r\nXREAD\r\n$5\r\nCOUNT\r\n$%d\r\n%d\r\n$7\r\nSTREAMS\r\n"
    parts.append(head % (4 + 2 * len(cursors), len(str(count)), count))
    parts += [b"$%d\r\n%b\r\n" % (len(name), name.encode()) for name in cursors]
    ids = [b"%d-%d" % cursor for cursor in cursors.values()]
    parts += [b"$%d\r\n%b\r\n" % (len(entry_id), entry_id) for entry_id in ids]


def _pack(*words: bytes) -> bytes:
    """A command in RESP."""
    return b"*%d\r\n" % len(words) + b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in words])


def _entry(entry_id: bytes, fields: list[Any]) -> Entry:
    seq, _, sub = entry_id.partition(b"-")
    if len(fields) == 4 and fields[0] == b"prev":  # what an owner wrote
        return Entry(int(seq), int(sub), int(fields[1]), fields[3])
    named = dict(zip(fields[::2], fields[1::2], strict=True))
    prev = named.get(b"prev")
    return Entry(int(seq), int(sub), None if prev is None else int(prev), named[b"frame"])

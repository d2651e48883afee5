"""The streams on a real Valkey: Redis itself refuses duplicates and late frames."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from server.data import streams as module
from server.data.hot import HotStreams
from server.data.streams import Entry, StreamFull, Streams, Write, Written, stream_key
from tests.chaos.proxy import Proxy, unix_socket_of
from tests.support.core import eventually


@pytest.fixture(params=[Streams, HotStreams], ids=["redis-py", "packed by hand"])
async def streams(request: pytest.FixtureRequest, redis: Redis) -> AsyncIterator[Streams]:
    """The reference, and what the server runs: they promise the same."""
    made: Streams = request.param(redis)
    yield made
    await made.close()


@pytest.fixture
def key() -> str:
    return stream_key(uuid4())


async def test_what_is_written_is_read_back_in_the_same_round_trip(streams: Streams, key: str) -> None:
    other = stream_key(uuid4())
    written, read = await streams.write_and_read(
        [Write(key, (0, 0), [(1, b"a")]), Write(other, (0, 0), [(1, b"x"), (3, b"y")])], {}, 10
    )
    assert written == [Written(1, None, whole=True), Written(2, None, whole=True)]
    assert read == {}
    assert await streams.read_after(key, (0, 0), 10) == [Entry(1, 0, 0, b"a")]
    assert await streams.read_after(other, (0, 0), 10) == [Entry(1, 0, 0, b"x"), Entry(3, 0, 1, b"y")]


async def test_only_an_entry_that_is_the_very_frame_written_is_not_read_back(
    streams: Streams, key: str, redis: Redis
) -> None:
    await redis.xadd(key, {"frame": b"beacon"}, id="1-1")
    await redis.xadd(other := stream_key(uuid4()), {"prev": 0, "frame": b"same"}, id="1-0")
    written, read = await streams.write_and_read(
        [Write(key, (0, 0), [(2, b"a")]), Write(other, (0, 0), [(1, b"same")])], {}, 10
    )
    assert written == [Written(1, None), Written(0, None)]
    assert read == {key: [Entry(1, 1, None, b"beacon"), Entry(2, 0, 0, b"a")], other: [Entry(1, 0, 0, b"same")]}


async def test_what_was_written_but_is_not_read_back_is_not_whole(streams: Streams, key: str, redis: Redis) -> None:
    await redis.xadd(key, {"frame": b"x"}, id="1-0")
    written, read = await streams.write_and_read([Write(key, (2, 0), [(2, b"a")])], {}, 10)
    assert written == [Written(1, None, whole=False)]
    assert read == {}


async def test_a_stream_is_renewed_in_the_same_round_trip(streams: Streams, key: str, redis: Redis) -> None:
    await streams.write_and_read([Write(key, (0, 0), [(1, b"a")])], {}, 10, [key])
    assert 0 < await redis.ttl(key) <= 24 * 3600


async def test_a_frame_written_again_is_no_error_and_no_second_entry(streams: Streams, key: str) -> None:
    for frames in ([(1, b"a")], [(1, b"a")], [(1, b"a"), (2, b"b")]):
        (written,), _ = await streams.write_and_read([Write(key, (0, 0), frames)], {}, 10)
        assert written.error is None
    assert [e.seq for e in await streams.read_after(key, (0, 0), 10)] == [1, 2]


async def test_after_a_frame_that_failed_nothing_later_goes_in(streams: Streams, key: str, redis: Redis) -> None:
    await redis.config_set("maxmemory", 1)  # `noeviction`: every write that needs memory is refused
    try:
        (single,), _ = await streams.write_and_read([Write(key, (0, 0), [(1, b"a")])], {}, 10)
        (several,), _ = await streams.write_and_read([Write(key, (0, 0), [(1, b"a"), (2, b"b")])], {}, 10)
    finally:
        await redis.config_set("maxmemory", 0)
    assert single.error is not None
    assert several.error is not None
    assert await streams.read_after(key, (0, 0), 10) == []


async def test_a_redis_that_forgot_the_script_is_told_it_again(redis: Redis, key: str) -> None:
    streams = HotStreams(redis)
    await streams.write_and_read([Write(key, (0, 0), [(1, b"a")])], {}, 10)
    await redis.script_flush()
    with pytest.raises(RedisConnectionError):
        await streams.write_and_read([Write(key, (1, 0), [(2, b"b")])], {}, 10)
    written, _ = await streams.write_and_read([Write(key, (1, 0), [(2, b"b")])], {}, 10)
    assert written == [Written(1, None, whole=True)]
    await streams.close()


async def test_only_who_takes_a_stream_up_lets_it_begin_again_after_the_cursor(
    streams: Streams, key: str, redis: Redis
) -> None:
    """Whoever else reads it may know an older cursor than its owner, who goes on writing."""
    await streams.write_and_read([Write(key, (0, 0), [(1, b"a"), (2, b"b"), (3, b"c")])], {}, 10)
    await redis.xtrim(key, maxlen=0, approximate=False)
    again = [Write(key, (1, 0), [(2, b"b")])]
    assert await streams.read_after(key, (1, 0), 10) == []
    assert (await streams.write_and_read(again, {}, 10))[0][0].added == 0
    assert await streams.take_up(key, (1, 0), 10) == []
    assert (await streams.write_and_read(again, {}, 10))[0][0].added == 1
    assert await streams.take_up(key, (1, 0), 10) == [Entry(2, 0, 1, b"b")]


async def test_an_entry_that_is_none_of_ours_is_an_empty_frame_and_spoils_no_other(
    streams: Streams, key: str, redis: Redis
) -> None:
    await redis.xadd(key, {"what": b"ever"}, id="1-0")
    await redis.xadd(key, {"prev": b"one", "frame": b"b"}, id="2-0")
    other, foreign = stream_key(uuid4()), [Entry(1, 0, None, b""), Entry(2, 0, None, b"b")]
    written, read = await streams.write_and_read([Write(other, (0, 0), [(1, b"a")])], {key: (0, 0)}, 10)
    assert written == [Written(1, None, whole=True)]
    assert read == {key: foreign}
    assert await streams.read_after(key, (0, 0), 10) == foreign


async def test_frames_without_a_number_follow_the_top_of_the_stream(streams: Streams, key: str) -> None:
    await streams.write_and_read([Write(key, (0, 0), [(5, b"a")])], {}, 10)
    appended = await streams.append(key, (0, 0), [(None, b"b"), (5, b"dup"), (6, b"c"), (None, b"d")], 100)
    assert (appended.accepted, appended.duplicates) == (3, 1)
    ids = [(e.seq, e.sub) for e in await streams.read_after(key, (5, 0), 10)]
    assert ids == [(5, 1), (6, 0), (6, 1)]


async def test_frames_without_a_number_follow_the_cursor_when_redis_lost_the_stream(streams: Streams, key: str) -> None:
    await streams.append(key, (7, 2), [(None, b"a"), (7, b"dup"), (8, b"b")], 100)
    assert [(e.seq, e.sub) for e in await streams.read_after(key, (0, 0), 10)] == [(7, 3), (8, 0)]


async def test_greatest_numbers_stay_exact(streams: Streams, key: str) -> None:
    most = 2**53 - 1
    await streams.append(key, (0, 0), [(most, b"a"), (None, b"b")], 100)
    assert [(e.seq, e.sub) for e in await streams.read_after(key, (0, 0), 10)] == [(most, 0), (most, 1)]


async def test_a_stream_that_nobody_saves_is_full_some_day(streams: Streams, key: str) -> None:
    await streams.append(key, (0, 0), [(n, b"a") for n in range(1, 6)], 5)
    with pytest.raises(StreamFull):
        await streams.append(key, (0, 0), [(6, b"a")], 5)


async def test_trimming_drops_what_is_saved_and_nothing_else(streams: Streams, key: str) -> None:
    await streams.append(key, (0, 0), [(1, b"a"), (None, b"b"), (None, b"c"), (2, b"d")], 100)
    await streams.trim({key: (1, 1)})
    assert [(e.seq, e.sub) for e in await streams.read_after(key, (0, 0), 10)] == [(1, 2), (2, 0)]


async def test_streams_go_by_themselves_when_nobody_uses_them(streams: Streams, key: str, redis: Redis) -> None:
    await streams.write_and_read([Write(key, (0, 0), [(1, b"a")])], {}, 10, renew=[key])
    assert 86_000 < await redis.ttl(key) <= 86_400
    other = stream_key(uuid4())
    await streams.append(other, (0, 0), [(1, b"a")], 10)
    assert 86_000 < await redis.ttl(other) <= 86_400


def test_a_key_names_its_slot_for_redis_cluster() -> None:
    session_id = uuid4()
    head, _, tail = stream_key(session_id).partition("}")
    assert head.startswith("tel:{")
    assert 0 <= int(head.removeprefix("tel:{")) < 64
    assert tail == f":{session_id}"


async def test_what_lies_after_a_cursor_is_unread(streams: Streams, redis: Redis) -> None:
    read, unread, gone = (stream_key(uuid4()) for _ in range(3))
    for key in (read, unread):
        await redis.xadd(key, {"prev": 0, "frame": b"{}"}, id="9-1")
    assert await streams.list_unread({read: (9, 1), unread: (9, 0), gone: (0, 0)}) == {unread}
    assert await streams.list_unread({}) == set()


async def test_a_stream_whose_top_is_in_the_way_is_begun_anew_but_never_what_another_owner_wrote(
    streams: Streams, key: str, redis: Redis
) -> None:
    await redis.xadd(key, {"prev": 0, "frame": b"{}"}, id="9-0")
    await redis.xtrim(key, maxlen=0, approximate=False)
    await redis.xadd(key, {"prev": 9, "frame": b"{}"}, id="10-0")
    assert not await streams.restart(key, (1, 0))
    assert await redis.xlen(key) == 1
    assert await streams.restart(key, (10, 0), keep=True)
    assert await redis.xrange(key) == [(b"10-0", {b"prev": b"9", b"frame": b"{}"})]
    assert await streams.restart(key, (10, 0))
    assert not await redis.exists(key)
    assert await streams.restart(key, (10, 0))


async def test_whoever_announces_does_not_wait_for_a_redis_that_is_silent(redis_url: str, tmp_path: Path) -> None:
    async with (
        Proxy(unix_socket_of(redis_url), tmp_path / "redis") as proxy,
        Redis.from_url(f"unix://{tmp_path / 'redis'}") as redis,
    ):
        await Streams(redis).ping()
        proxy.freeze()
        await asyncio.wait_for(Streams(redis).announce("post", "what"), 30)


async def test_nudges_are_heard_after_a_silence_and_a_dead_connection_is_told_from_it(
    redis_url: str, redis: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        Proxy(unix_socket_of(redis_url), tmp_path / "redis") as proxy,
        Redis.from_url(f"unix://{tmp_path / 'redis'}") as listening,
    ):
        heard: set[str] = set()

        async def listen() -> None:
            async for message in Streams(listening).nudges():
                heard.add(message)

        async def is_told(what: str) -> bool:
            return bool(await redis.publish("nudge", what))

        # Longer where the machine stood still for so long, which cannot be told from a dead connection.
        for listen_s in (0.1, 1.0, 5.0):
            monkeypatch.setattr(module, "LISTEN_S", listen_s)
            hearing = asyncio.create_task(listen())
            await eventually(lambda: is_told("first"))
            await asyncio.sleep(5 * listen_s)
            await is_told("after a silence")
            await eventually(lambda hearing=hearing: "after a silence" in heard or hearing.done())
            if "after a silence" in heard:
                break
            assert isinstance(hearing.exception(), RedisTimeoutError)
        assert "after a silence" in heard
        proxy.freeze()
        with pytest.raises(RedisTimeoutError):
            await asyncio.wait_for(hearing, 60)

"""A user's stream of answers in a real Redis: in order, each once, and nothing after the end."""

import asyncio
from uuid import UUID, uuid4

import pytest
from redis.asyncio import Redis

from server.data.answers import CHAT, END, Answers, Entry, answers_key
from server.data.streams import NUDGES


@pytest.fixture
def answers(redis: Redis) -> Answers:
    return Answers(redis, 60)


USER = UUID(int=3)


async def test_an_entry_is_taken_once_in_order_and_none_after_the_end(answers: Answers) -> None:
    assert await answers.append(USER, 1, 0, b"opening")
    assert await answers.append(USER, 1, 1, "für".encode())
    assert not await answers.append(USER, 1, 1, b"again")
    assert await answers.append(USER, 1, 2, b"more")
    assert await answers.append(USER, 1, END, b"end", 2)
    for chunk in (3, 4, END):
        assert not await answers.append(USER, 1, chunk, b"a zombie's")
    assert await answers.append(USER, 2, 0, b"the next")
    assert await answers.read_after(USER, (1, 1), 10) == [
        Entry(1, 2, b"more"), Entry(1, END, b"end", 2), Entry(2, 0, b"the next"),
    ]  # fmt: skip
    assert [entry.chunk for entry in await answers.read_turn(USER, 1)] == [0, 1, 2, END]
    assert await answers.read_after(USER, (2, 0), 10) == []


async def test_a_new_turn_takes_the_place_of_all_but_the_one_before(answers: Answers, redis: Redis) -> None:
    for turn in (1, 2, 3):
        await answers.append(USER, turn, 0, b"opening")
        await answers.append(USER, turn, END, b"end")
    assert {entry.turn for entry in await answers.read_after(USER, (0, 0), 100)} == {2, 3}
    assert 0 < await redis.ttl(answers_key(USER)) <= 60
    await answers.trim(USER, 3)
    assert [entry[:2] for entry in await answers.read_after(USER, (0, 0), 100)] == [(3, END)]
    await answers.delete(USER)
    assert await redis.exists(answers_key(USER)) == 0


async def test_what_somebody_else_put_there_is_read_as_nothing(answers: Answers, redis: Redis) -> None:
    key = answers_key(USER)
    await answers.append(USER, 1, 0, b"opening")
    await redis.xadd(key, {"a": "b"}, id="1-5")
    await redis.xadd(key, {"content": "by the clock"})
    assert not await answers.append(USER, 2, 0, b"opening")
    assert await answers.read_after(USER, (0, 0), 10) == await answers.read_turn(USER, 1) == [Entry(1, 0, b"opening")]
    await redis.set(key, "no stream")
    assert not await answers.append(USER, 2, 0, b"opening")
    assert await answers.read_after(USER, (0, 0), 10) == await answers.read_turn(USER, 1) == []
    await answers.delete(USER)
    assert await answers.append(USER, 2, 0, b"opening")


async def test_every_process_is_told_of_an_entry(answers: Answers, redis: Redis) -> None:
    user_id = uuid4()
    async with redis.pubsub(ignore_subscribe_messages=True) as subscription:
        await subscription.subscribe(NUDGES)
        await subscription.ping()
        await answers.append(user_id, 1, 0, b"opening")
        async with asyncio.timeout(30):
            async for message in subscription.listen():
                if message["data"].decode() == f"{CHAT} {user_id}":
                    break

import os
from pathlib import Path

import pytest
from redis.asyncio import Redis

from embedded.processes import AlreadyRunningError
from embedded.valkey import Valkey


async def test_what_was_written_survives_a_kill(own_valkey: Valkey) -> None:
    url = own_valkey.url
    async with Redis.from_url(url) as redis:
        await redis.xadd("tel:{1}:s", {"d": "frame"}, id="1-0")
    own_valkey.kill()
    assert own_valkey.pid is None

    own_valkey.start()

    assert own_valkey.url == url
    async with Redis.from_url(url) as redis:
        assert await redis.xlen("tel:{1}:s") == 1


async def test_every_test_finds_it_empty(redis_url: str) -> None:
    async with Redis.from_url(redis_url) as redis:
        assert await redis.dbsize() == 0


def test_starting_twice_is_starting_once(own_valkey: Valkey) -> None:
    pid = own_valkey.pid
    own_valkey.start()
    assert own_valkey.pid == pid


def test_a_second_server_on_the_same_data_is_refused_with_the_first_ones_process(own_valkey: Valkey) -> None:
    with pytest.raises(AlreadyRunningError) as refused:
        Valkey(own_valkey.data.parent).start(wait_for_other_s=0.1)
    assert refused.value.pid == own_valkey.pid


def test_nobody_else_can_reach_its_socket(own_valkey: Valkey) -> None:
    directory = Path(own_valkey.url.removeprefix("unix://")).parent
    assert directory.stat().st_mode & 0o777 == 0o700
    assert directory.stat().st_uid == os.geteuid()


def test_a_stopped_server_leaves_no_socket(own_valkey: Valkey) -> None:
    directory = own_valkey._socket().parent
    own_valkey.stop()
    assert not directory.exists()


def test_its_data_may_lie_in_a_place_of_any_name(tmp_path: Path) -> None:
    directory = tmp_path / """it's "100 %" \\ ü"""
    server = Valkey(directory, durable=False)
    server.start()
    server.stop()
    assert list((directory / "valkey").iterdir())

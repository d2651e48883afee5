"""What a learner saw is read off the video element, and the network of a page is what its link lets through."""

import asyncio
import time

import pytest

from loadtests.link import Link
from loadtests.networks import Network
from loadtests.qoe_browser import Pair, Shown, interval, shown

MBPS = {240: 0.5, 480: 1.0, 720: 3.0}


def seen(*pieces: tuple[float, float, int]) -> list[tuple[float, float, int, bool, float]]:
    """Samples of pieces: for so many seconds, at this speed, of this height."""
    samples, now, position = [(0.0, 0.0, 0, False, 1.0)], 0.0, 0.0
    for seconds, speed, height in pieces:
        for _ in range(round(seconds * 10)):
            now, position = now + 100, position + 0.1 * speed
            samples.append((now, position, height, False, speed or 1.0))
    return samples


def test_a_smooth_viewing_is_worth_its_bitrate_less_its_startup() -> None:
    one = shown(seen((2, 0, 0), (40, 1, 720)), MBPS)
    assert (one.startup_s, one.rebuffer_share, one.switches) == (pytest.approx(2), 0, 0)
    assert one.quality == pytest.approx(3.0 - 3.0 * 2 / 10)


def test_a_picture_that_came_late_in_a_step_began_then_and_did_not_stall() -> None:
    one = shown(seen((2, 0, 0), (0.1, 0.1, 720), (40, 1, 720)), MBPS)
    assert (one.startup_s, one.rebuffer_share) == (pytest.approx(2.1), 0)


def test_stalls_and_changes_cost_what_the_papers_charge() -> None:
    one = shown(seen((20, 1, 480), (5, 0, 480), (20, 1, 720)), MBPS)
    assert one.rebuffer_share == pytest.approx(5 / 45)
    assert one.switches == 1
    assert one.quality == pytest.approx(2.0 - (3.0 * 5 + 2.0) / 10)


def test_what_is_played_slower_is_no_stall_and_is_told() -> None:
    one = shown(seen((30, 1, 480), (10, 0.9, 480)), MBPS)
    assert (one.rebuffer_share, one.slower_share) == (0, pytest.approx(9 / 39, rel=0.02))


async def test_a_link_shares_its_rate_and_delays_the_first_byte() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 50000\r\n\r\n" + b"x" * 50_000)
        await writer.drain()
        writer.close()

    async def fetch() -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy)
        writer.write(f"GET http://127.0.0.1:{port}/a HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        size = len(await reader.read(-1))
        writer.close()
        return size

    link = Link(Network.of("n", "n", 0.05, [2000.0] * 60))
    origin = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = origin.sockets[0].getsockname()[1]
    async with link.serving() as proxy:
        link.begin()
        begun = time.monotonic()
        sizes = await asyncio.gather(fetch(), fetch())
    assert min(sizes) > 50_000
    assert time.monotonic() - begun > 0.39  # 100 kB at 2 Mbit/s
    origin.close()


async def test_what_is_told_on_a_socket_is_answered_a_round_trip_later() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while said := await reader.read(100):
            writer.write(said)
        writer.close()

    link = Link(Network.of("n", "n", 0.1, [2000.0] * 60))
    origin = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with link.serving() as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy)
        writer.write(f"CONNECT 127.0.0.1:{origin.sockets[0].getsockname()[1]} HTTP/1.1\r\n\r\n".encode())
        await reader.readuntil(b"\r\n\r\n")
        link.begin()
        begun = time.monotonic()
        writer.write(b"seq 1")
        assert await reader.readexactly(5) == b"seq 1"
        assert time.monotonic() - begun >= 0.1
        writer.close()
    origin.close()


def test_the_interval_of_a_difference_is_over_networks_with_both_their_viewings() -> None:
    def viewing(quality: float) -> Shown:
        return Shown(quality, 0.0, 1.0, 0, 1.0, 0.0)

    # However much networks differ, ours is one ahead on each of these, and two or four on those.
    same = [Pair("a", viewing(level + 1.0), viewing(level)) for level in (0.0, 5.0, 50.0)]
    assert interval(same, "quality") == (1.0, 1.0, 1.0)
    apart = [Pair("b", viewing(level), viewing(0.0)) for level in (2.0, 4.0)]
    ahead, low, high = interval(same + apart, "quality")
    assert (ahead, low, high) == (pytest.approx(1.8), pytest.approx(1.4), pytest.approx(2.2))
    # A family of which there is one network alone says nothing of how much its networks differ.
    ahead, low, high = interval([Pair(name, viewing(n), viewing(0.0)) for n, name in enumerate("abc")], "quality")
    assert (ahead, low, high) == (1.0, 0.0, 2.0)

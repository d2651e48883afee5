"""What a learner saw is read off the video element, and the network of a page is what its link lets through."""

import asyncio
import time

import pytest

from loadtests.networks import Network
from loadtests.qoe_browser import Link, shown

MBPS = {240: 0.5, 480: 1.0, 720: 3.0}


def seen(*pieces: tuple[float, float, int]) -> list[tuple[float, float, int, bool]]:
    """Samples of pieces: for so many seconds, at this speed, of this height."""
    samples, now, position = [(0.0, 0.0, 0, False)], 0.0, 0.0
    for seconds, speed, height in pieces:
        for _ in range(round(seconds * 10)):
            now, position = now + 100, position + 0.1 * speed
            samples.append((now, position, height, False))
    return samples


def test_a_smooth_viewing_is_worth_its_bitrate_less_its_startup() -> None:
    one = shown(seen((2, 0, 0), (40, 1, 720)), MBPS)
    assert (one.startup_s, one.rebuffer_share, one.switches) == (pytest.approx(2), 0, 0)
    assert one.quality == pytest.approx(3.0 - 3.0 * 2 / 10)


def test_stalls_and_changes_cost_what_the_papers_charge() -> None:
    one = shown(seen((20, 1, 480), (5, 0, 480), (20, 1, 720)), MBPS)
    assert one.rebuffer_share == pytest.approx(5 / 45)
    assert one.switches == 1
    assert one.quality == pytest.approx(2.0 - (3.0 * 5 + 2.0) / 10)


async def test_a_link_shares_its_rate_and_delays_the_first_byte() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 50000\r\n\r\n" + b"x" * 50_000)
        await writer.drain()
        writer.close()

    async def fetch() -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.sockets[0].getsockname()[1])
        writer.write(f"GET http://127.0.0.1:{port}/a HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        size = len(await reader.read(-1))
        writer.close()
        return size

    link = Link(Network.of("n", "n", 0.05, [2000.0] * 60))
    origin = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = origin.sockets[0].getsockname()[1]
    proxy = await link.serve()
    link.begin()
    begun = time.monotonic()
    sizes = await asyncio.gather(fetch(), fetch())
    assert min(sizes) > 50_000
    assert time.monotonic() - begun > 0.39  # 100 kB at 2 Mbit/s
    proxy.close()
    origin.close()

"""Our decision against hls.js left alone, in a real browser: `bin/bench qoe-browser`.

The whole system runs as `bin/run` starts it, with one lecture that its video host encodes into a real ladder. Chromium
plays it twice at the same time under the same network, replayed byte by byte by a proxy: once on the classroom page,
which asks the server, and once by hls.js as it comes. What is judged is what the picture did, sampled
from the video element, and not what either player says of itself.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import imageio_ffmpeg

from demo.client import Client
from loadtests import networks
from loadtests.networks import Network

FAMILIES = ("wifi", "lte", "bursty", "regimes", "collapses", "umts")
PASSWORD = "a password for measurements"  # noqa: S105
ENCODE_TIMEOUT_S = 240.0
# As in `loadtests.watching`: quality is per segment of so many seconds.
SEGMENT_S = 4.0
STEP_MS = 100
CHUNK_BYTES = 4096

# What hls.js does when it is left alone: its own settings, on a bare video element. The lecture is asked for first, as
# any page has to.
ALONE = """async ([lectureId, token]) => {
    const asked = fetch(`/api/lectures/${lectureId}`, { headers: { Authorization: `Bearer ${token}` } });
    const source = (await (await asked).json()).video.playback.hls;
    const { default: Hls } = await import("/vendor/hls.js/hls.min.mjs");
    document.body.replaceChildren(document.createElement("video"));
    const video = document.querySelector("video");
    const hls = new Hls({ workerPath: "/vendor/hls.js/hls.worker.js", capLevelToPlayerSize: true });
    video.style.width = "960px";
    hls.attachMedia(video);
    hls.loadSource(source);
    hls.once(Hls.Events.MANIFEST_PARSED, () => video.play());
}"""
SAMPLE = """(stepMs) => {
    window.samples = [];
    const begun = performance.now();
    setInterval(() => {
        const video = document.querySelector("video");
        const height = video?.videoHeight ?? 0;
        window.samples.push([performance.now() - begun, video?.currentTime ?? 0, height, video?.ended ?? false]);
    }, stepMs);
}"""


@dataclass(frozen=True)
class Shown:
    """What a learner saw. `quality` is per segment, as the field measures it."""

    quality: float
    rebuffer_share: float
    mbps: float
    switches: int
    startup_s: float


def shown(samples: Sequence[tuple[float, float, int, bool]], mbps_of: Mapping[int, float]) -> Shown:
    """From samples (ms since the lecture was asked for, position in s, the picture's height, whether it ended), with
    the bitrate of each height. While the position stands still it is startup before the first picture, then a stall."""
    top = max(mbps_of.values())
    played_s = stall_s = startup_s = seen = changes = 0.0
    switches, last = 0, None
    for (before_ms, before_s, _, _), (now_ms, now_s, height, ended) in pairwise(samples):
        if ended:
            break
        passed_s, moved_s = (now_ms - before_ms) / 1000, max(now_s - before_s, 0.0)
        if moved_s == 0.0 and played_s == 0.0:
            startup_s += passed_s
            continue
        stall_s += passed_s if moved_s < passed_s / 4 else 0.0  # the clock and the position differ by a frame or two
        mbps = mbps_of[min(mbps_of, key=lambda known: abs(known - height))]
        played_s, seen = played_s + moved_s, seen + moved_s * mbps
        if last is not None and mbps != last:
            switches, changes = switches + 1, changes + abs(mbps - last)
        last = mbps
    segments = max(played_s / SEGMENT_S, 1.0)
    quality = (seen / SEGMENT_S - top * (stall_s + startup_s) - changes) / segments
    return Shown(quality, stall_s / max(played_s + stall_s, 1e-9), seen / max(played_s, 1e-9), switches, startup_s)


async def make_lecture(client: Client, directory: Path, length_s: int) -> dict[str, Any]:
    """A course with one lecture whose video is ready; `{"lecture_id", "video_id"}`."""
    clip = directory / "clip.mp4"
    source = f"testsrc2=size=1280x720:rate=25:duration={length_s},noise=c0s=3:c0f=t"
    sound = f"sine=frequency=220:duration={length_s}"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-f", "lavfi", "-i", source, "-f", "lavfi", "-i", sound]
    command += [
        "-c:v",
        "libx264",
        "-preset",
        "ultrafast",
        "-crf",
        "30",
        "-pix_fmt",
        "yuv420p",
        "-c:a",
        "aac",
        "-shortest",
        str(clip),
    ]
    await asyncio.to_thread(subprocess.run, command, check=True)
    course = await client.call("POST", "/api/courses", {"title": "Measured", "status": "published"})
    body = {"title": "Measured", "duration": length_s, "is_preview": True}
    lecture = await client.call("POST", f"/api/courses/{course['id']}/lectures", body)
    asked = {"lecture_id": lecture["id"], "title": "Measured", "filename": clip.name, "size_bytes": clip.stat().st_size}
    made = await client.call("POST", "/api/videos/upload", asked)
    await client.send_file(made["upload"]["url"], clip)
    video_id = made["video"]["id"]
    async with asyncio.timeout(ENCODE_TIMEOUT_S):
        while (await client.call("GET", f"/api/videos/{video_id}"))["status"] != "ready":  # noqa: ASYNC110
            await asyncio.sleep(1)
    return {"lecture_id": lecture["id"], "video_id": video_id}


class Link:
    """A proxy that lets a browser have a network: all that comes down shares its rate, first come first served.

    Not Chromium's own throttling: whenever its rate is changed it hands out at once what it held back.
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        self._begun: float | None = None  # before, everything is fast
        self._free_s = 0.0

    def begin(self) -> None:
        """From now on the network is as it is."""
        self._begun = asyncio.get_running_loop().time()

    async def serve(self) -> asyncio.Server:
        """Listen on a free port of the loopback."""
        return await asyncio.start_server(self._connected, "127.0.0.1", 0)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            method, target, rest = head.split(b" ", 2)
            address = urlsplit(target.decode() if method != b"CONNECT" else f"//{target.decode()}")
            there, onward = await asyncio.open_connection(address.hostname, address.port or 80)
            if method == b"CONNECT":
                writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
                await self._latency()
            else:
                path = address.path + (f"?{address.query}" if address.query else "")
                onward.write(b" ".join((method, path.encode(), rest)).replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
            up = asyncio.create_task(_pass_on(reader, onward))
            await self._down(there, writer, paced=method != b"CONNECT")
            up.cancel()
            onward.close()
        writer.close()

    async def _down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, paced: bool) -> None:
        first = True
        while chunk := await reader.read(CHUNK_BYTES):
            if paced:
                if first:
                    await self._latency()
                await self._deliver(len(chunk) * 8 / 1000)
            first = False
            writer.write(chunk)
            await writer.drain()

    async def _latency(self) -> None:
        await asyncio.sleep(self._network.rtt_s if self._begun is not None else 0)

    async def _deliver(self, kbit: float) -> None:
        """Wait until so much has come down, behind all that others asked for before."""
        if self._begun is None:
            return
        now_s = asyncio.get_running_loop().time() - self._begun
        self._free_s = self._network.finish_s(max(now_s, self._free_s), kbit)
        await asyncio.sleep(self._free_s - now_s)


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(CHUNK_BYTES):
        writer.write(chunk)
        await writer.drain()


async def compare(
    browser: Any, origin: str, account: Mapping[str, Any], lecture: Mapping[str, Any], network: Network,
    seconds: int, mbps_of: Mapping[int, float],
) -> tuple[Shown, Shown]:  # fmt: skip
    """Ours, and hls.js alone, over one network at the same time."""

    async def watch(begin: Any) -> Shown:
        link = Link(network)
        server = await link.serve()
        proxy = {"server": f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", "bypass": "<-loopback>"}
        context = await browser.new_context(viewport={"width": 1440, "height": 900}, proxy=proxy)
        try:
            page = await context.new_page()
            await page.goto(origin)
            await page.evaluate(
                "(account) => localStorage.setItem('lectern.account', JSON.stringify(account))", account
            )
            await page.reload()
            await page.evaluate("import('/vendor/hls.js/hls.min.mjs').then(() => 0)")
            link.begin()
            await page.evaluate(SAMPLE, STEP_MS)
            await begin(page)
            await asyncio.sleep(seconds)
            return shown(await page.evaluate("window.samples"), mbps_of)
        finally:
            await context.close()
            server.close()

    async def ours(page: Any) -> None:
        await page.evaluate("(id) => { location.hash = `#/lectures/${id}`; }", lecture["lecture_id"])

    async def alone(page: Any) -> None:
        await page.evaluate(ALONE, [lecture["lecture_id"], account["access_token"]])

    return tuple(await asyncio.gather(watch(ours), watch(alone)))


async def measure(system: Any, over: Sequence[Network], seconds: int, directory: Path) -> list[tuple[Shown, Shown]]:
    """Watch them all, one network after the other, and print what was seen."""
    from playwright.async_api import async_playwright  # noqa: PLC0415 - only here

    from tests.support.browser import ARGUMENTS, find_chromium  # noqa: PLC0415

    found = find_chromium()
    if found is None:
        raise SystemExit("bin/bench: no Chromium: install one (Debian: chromium) or let bin/test fetch npm's")
    program, environment = found
    results = []
    async with aiohttp.ClientSession() as http, async_playwright() as playwright:
        client = Client(http, system.local_address)
        await client.sign_in(*system.admin)
        lecture = await make_lecture(client, directory, seconds + 60)
        begun = await client.call("POST", f"/api/videos/{lecture['video_id']}/sessions", {})
        mbps_of = {rung["height"]: rung["br"] / 1000 for rung in begun["ladder"]}
        chromium = await playwright.chromium.launch(
            executable_path=program, args=ARGUMENTS, env={**os.environ, **environment}
        )
        print(
            f"{'network':14}{'':10}{'QoE':>8}{'rebuffer %':>12}{'Mbit/s':>9}{'changes':>9}{'startup s':>11}", flush=True
        )
        for network in over:
            # A learner for each: who watches on too many devices at once is asked which to leave.
            body = {"username": f"on-{network.name}", "email": f"{network.name}@example.org", "password": PASSWORD}
            async with http.post(f"{system.local_address}/api/auth/register", json=body) as answer:
                account = await answer.json()
            pair = await compare(chromium, system.local_address, account, lecture, network, seconds, mbps_of)
            results.append(pair)
            for name, one in zip(("Lectern", "hls.js"), pair, strict=True):
                show(network.family if name == "Lectern" else "", name, one)
        await chromium.close()
    return results


def show(network: str, name: str, one: Shown) -> None:
    """One line of the table."""
    print(
        f"{network:14}{name:10}{one.quality:8.2f}{100 * one.rebuffer_share:12.2f}{one.mbps:9.2f}{one.switches:9.1f}"
        f"{one.startup_s:11.2f}",
        flush=True,
    )


def mean(of: Sequence[Shown]) -> Shown:
    """Over networks."""
    columns = zip(*((o.quality, o.rebuffer_share, o.mbps, o.switches, o.startup_s) for o in of), strict=True)
    return Shown(*(sum(column) / len(of) for column in columns))


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="bin/bench qoe-browser",
        description="Our decision against hls.js left alone, in headless Chromium over the same networks.",
    )
    parser.add_argument("--traces", type=Path, help="recorded networks: JSON lines with id, family, rtt_ms, kbps")
    parser.add_argument("--most", type=int, default=6, help="networks at most (%(default)s)")
    parser.add_argument("--seed", type=int, default=3, help="of the generated ones (%(default)s)")
    parser.add_argument("--seconds", type=int, default=120, help="watched on each (%(default)s)")
    options = parser.parse_args(arguments)
    from tests.support.whole import whole_system  # noqa: PLC0415 - it is made for tests, and so are its parts

    over = networks.recorded(options.traces) if options.traces else networks.generated(options.seed, 1, list(FAMILIES))
    over = over[:: max(1, len(over) // options.most)][: options.most]
    with tempfile.TemporaryDirectory(prefix="lectern-bench-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        with whole_system(directory / "data") as system:
            results = asyncio.run(measure(system, over, options.seconds, directory))
    for number, name in enumerate(("Lectern", "hls.js")):
        show("mean" if number == 0 else "", name, mean([pair[number] for pair in results]))


if __name__ == "__main__":
    main()

"""Our decision against hls.js left alone, in a real browser: `bin/bench qoe-browser`.

The whole system runs as `bin/run` starts it, with one lecture that its video host encodes into a real ladder. Chromium
plays it twice at the same time under the same network, replayed byte by byte by a proxy: once on the classroom page,
which asks the server, and once by hls.js as it comes. What is judged is what the picture did, sampled
from the video element, and not what either player says of itself.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from itertools import pairwise, starmap
from pathlib import Path
from typing import Any

import aiohttp
import imageio_ffmpeg
import numpy as np

from demo.client import Client
from loadtests import networks
from loadtests.link import Link
from loadtests.networks import Network

HEAD = f"{'network':16}{'':10}{'QoE':>8}{'rebuffer %':>12}{'Mbit/s':>9}{'changes':>9}{'startup s':>11}{'slower %':>10}"
TRIALS = 10_000
OURS, THEIRS = NAMES = ("Lectern", "hls.js")
PASSWORD = "a password for measurements"  # noqa: S105
ENCODE_TIMEOUT_S = 240.0
# As in `loadtests.watching`: quality is per segment of so many seconds.
SEGMENT_S = 4.0
STEP_MS = 100
# A large screen, so that every rung is worth fetching, and the picture's width on the page there.
WINDOW, WIDTH = {"width": 1920, "height": 1080}, 1032

# What hls.js does when it is left alone: its own settings, on a bare video element. The lecture is asked for first, as
# any page has to.
ALONE = """async ([lectureId, token, width]) => {
    const asked = fetch(`/api/lectures/${lectureId}`, { headers: { Authorization: `Bearer ${token}` } });
    const source = (await (await asked).json()).video.playback.hls;
    const { default: Hls } = await import("/vendor/hls.js/hls.min.mjs");
    document.body.replaceChildren(document.createElement("video"));
    const video = document.querySelector("video");
    const hls = new Hls({ capLevelToPlayerSize: true });
    video.style.width = `${width}px`;
    hls.attachMedia(video);
    hls.loadSource(source);
    hls.once(Hls.Events.MANIFEST_PARSED, () => video.play());
}"""
SAMPLE = """(stepMs) => {
    window.samples = [];
    const begun = window.begun = performance.now();
    performance.setResourceTimingBufferSize(10000);
    setInterval(() => {
        const video = document.querySelector("video");
        const height = video?.videoHeight ?? 0;
        const [position, ended, speed] = [video?.currentTime ?? 0, video?.ended ?? false, video?.playbackRate ?? 1];
        window.samples.push([performance.now() - begun, position, height, ended, speed]);
    }, stepMs);
}"""
LOG = """() => ({
    begun: window.begun,
    requests: performance.getEntriesByType("resource").map((entry) => [
        entry.startTime, entry.responseStart, entry.responseEnd, entry.encodedBodySize, entry.name,
    ]),
    state: window.lectern?.state() ?? null,
    viewport: [document.querySelector("video").clientWidth, document.querySelector("video").clientHeight],
    dropped: document.querySelector("video").getVideoPlaybackQuality().droppedVideoFrames,
})"""


@dataclass(frozen=True)
class Shown:
    """What a learner saw. `quality` is per segment, as the field measures it; `slower_share`, how much of the lecture
    was played slower than it was recorded."""

    quality: float
    rebuffer_share: float
    mbps: float
    switches: int
    startup_s: float
    slower_share: float


@dataclass(frozen=True)
class Pair:
    """The same network, seen through both players."""

    family: str
    ours: Shown
    theirs: Shown


def shown(samples: Sequence[tuple[float, float, int, bool, float]], mbps_of: Mapping[int, float]) -> Shown:
    """From samples (ms since the lecture was asked for, position in s, the picture's height, whether it ended, speed),
    with the bitrate of each height. While the position stands still it is startup before the first picture, then a
    stall."""
    top = max(mbps_of.values())
    played_s = stall_s = startup_s = seen = changes = slower_s = 0.0
    switches, last = 0, None
    for (before_ms, before_s, *_), (now_ms, now_s, height, ended, speed) in pairwise(samples):
        if ended:
            break
        passed_s, moved_s = (now_ms - before_ms) / 1000, max(now_s - before_s, 0.0)
        stood = moved_s < passed_s / 4  # the clock and the position differ by a frame or two
        if stood and played_s == 0.0:
            startup_s += passed_s
            continue
        stall_s += passed_s if stood else 0.0
        mbps = mbps_of[min(mbps_of, key=lambda known: abs(known - height))]
        played_s, seen = played_s + moved_s, seen + moved_s * mbps
        slower_s += moved_s if speed < 1 else 0.0
        if last is not None and mbps != last:
            switches, changes = switches + 1, changes + abs(mbps - last)
        last = mbps
    segments = max(played_s / SEGMENT_S, 1.0)
    quality = (seen / SEGMENT_S - top * (stall_s + startup_s) - changes) / segments
    rebuffer_share, played_s = stall_s / max(played_s + stall_s, 1e-9), max(played_s, 1e-9)
    return Shown(quality, rebuffer_share, seen / played_s, switches, startup_s, slower_s / played_s)


async def make_lecture(client: Client, directory: Path, length_s: int) -> dict[str, Any]:
    """A course with one lecture whose video is ready; `{"lecture_id", "video_id"}`."""
    clip = directory / "clip.mp4"
    # Ten pictures a second: whether a busy machine can show more is not what is measured.
    source = f"testsrc2=size=1280x720:rate=10:duration={length_s},noise=c0s=3:c0f=t"
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


async def compare(
    browser: Any, origin: str, account: Mapping[str, Any], lecture: Mapping[str, Any], network: Network,
    seconds: int, mbps_of: Mapping[int, float], *, ours_first: bool,
) -> list[tuple[Shown, dict[str, Any]]]:  # fmt: skip
    """Ours, and hls.js alone, over one network at the same time; what each showed, and its page's log."""

    async def watch(begin: Any) -> tuple[Shown, dict[str, Any]]:
        link = Link(network)
        async with link.serving() as port:
            proxy = {"server": f"http://127.0.0.1:{port}", "bypass": "<-loopback>"}
            context = await browser.new_context(viewport=WINDOW, proxy=proxy)
            try:
                page = await context.new_page()
                await page.goto(origin)
                keep = "(account) => localStorage.setItem('lectern.account', JSON.stringify(account))"
                await page.evaluate(keep, account)
                await page.reload()
                await page.evaluate("import('/vendor/hls.js/hls.min.mjs').then(() => 0)")
                link.begin()
                await page.evaluate(SAMPLE, STEP_MS)
                await begin(page)
                await asyncio.sleep(seconds)
                samples = await page.evaluate("window.samples")
                return shown(samples, mbps_of), {**await page.evaluate(LOG), "samples": samples}
            finally:
                await context.close()

    async def ours(page: Any) -> None:
        await page.evaluate("(id) => { location.hash = `#/lectures/${id}`; }", lecture["lecture_id"])

    async def alone(page: Any) -> None:
        await page.evaluate(ALONE, [lecture["lecture_id"], account["access_token"], WIDTH])

    if ours_first:
        return list(await asyncio.gather(watch(ours), watch(alone)))
    return list(await asyncio.gather(watch(alone), watch(ours)))[::-1]


async def measure(
    system: Any, over: Sequence[Network], seconds: int, directory: Path, log: Path | None, at_once: int
) -> list[Pair]:
    """Watch them all, one network after the other, and print what was seen."""
    from playwright.async_api import async_playwright  # noqa: PLC0415 - only here

    from tests.support.browser import ARGUMENTS, find_chromium  # noqa: PLC0415

    found = find_chromium()
    if found is None:
        raise SystemExit("bin/bench: no Chromium: install one (Debian: chromium) or let bin/test fetch npm's")
    program, environment = found
    async with aiohttp.ClientSession() as http, async_playwright() as playwright:
        client = Client(http, system.local_address)
        await client.sign_in(*system.admin)
        lecture = await make_lecture(client, directory, seconds + 60)
        begun = await client.call("POST", f"/api/videos/{lecture['video_id']}/sessions", {})
        mbps_of = {rung["height"]: rung["br"] / 1000 for rung in begun["ladder"]}
        chromium = await playwright.chromium.launch(
            executable_path=program, args=ARGUMENTS, env={**os.environ, **environment}
        )
        turn = asyncio.Semaphore(at_once)

        async def watch_one(number: int, network: Network) -> Pair:
            async with turn:
                # A learner for each: who watches on too many devices at once is asked which to leave.
                body = {"username": f"on-{network.name}", "email": f"{network.name}@example.org", "password": PASSWORD}
                async with http.post(f"{system.local_address}/api/auth/register", json=body) as answer:
                    answer.raise_for_status()
                    account = await answer.json()
                busy_before = _busy_s()
                pair = await compare(
                    chromium, system.local_address, account, lecture, network, seconds, mbps_of,
                    ours_first=number % 2 == 0,
                )  # fmt: skip
                busy = (_busy_s() - busy_before) / seconds
            for name, (one, told) in zip(NAMES, pair, strict=True):
                show(network.name if name == OURS else "", name, one)
                if log is not None:
                    about = {"network": network.name, "family": network.family, "player": name, "cores_busy": busy}
                    with log.open("a") as file:
                        file.write(json.dumps({**about, "shown": asdict(one), **told}) + "\n")
            return Pair(network.family, pair[0][0], pair[1][0])

        print(HEAD, flush=True)
        pairs = await asyncio.gather(*starmap(watch_one, enumerate(over)))
        await chromium.close()
    return pairs


def _busy_s() -> float:
    """Seconds that the machine's cores have worked, all together."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")


def show(network: str, name: str, one: Shown) -> None:
    """One line of the table."""
    print(
        f"{network:16}{name:10}{one.quality:8.2f}{100 * one.rebuffer_share:12.2f}{one.mbps:9.2f}{one.switches:9.1f}"
        f"{one.startup_s:11.2f}{100 * one.slower_share:10.1f}",
        flush=True,
    )


def summarize(pairs: Sequence[Pair]) -> None:
    """The means, and how far ours is ahead with its 95 % interval."""
    for number, name in enumerate(NAMES):
        columns = np.array([astuple((pair.ours, pair.theirs)[number]) for pair in pairs])
        show("mean" if number == 0 else "", name, Shown(*columns.mean(0)))
    ahead, low, high = interval(pairs, "quality")
    print(f"\nQoE of ours less that of hls.js, {len(pairs)} networks: {ahead:+.2f} (95 % {low:+.2f} to {high:+.2f})")
    ahead, low, high = (100 * figure for figure in interval(pairs, "rebuffer_share"))
    print(f"rebuffering, points: {ahead:+.2f} (95 % {low:+.2f} to {high:+.2f})", flush=True)


def interval(pairs: Sequence[Pair], figure: str) -> tuple[float, float, float]:
    """The mean difference of a figure, and its 95 % bootstrap interval: networks are drawn anew within their families,
    or from all where a family has one alone, each with both its viewings."""
    rng = np.random.default_rng(1)
    ahead = np.array([getattr(pair.ours, figure) - getattr(pair.theirs, figure) for pair in pairs])
    families, sizes = np.unique([pair.family for pair in pairs], return_inverse=True, return_counts=True)[1:]
    if sizes.min() == 1:
        families = np.zeros(len(pairs))
    drawn = [rng.choice(ahead[families == family], (TRIALS, (families == family).sum())) for family in set(families)]
    low, high = np.percentile(np.concatenate(drawn, axis=1).mean(1), [2.5, 97.5])
    return float(ahead.mean()), float(low), float(high)


def logged(logs: Sequence[Path]) -> list[Pair]:
    """What was written with `--log`."""
    seen: dict[str, dict[str, Shown]] = {}
    families = {}
    for log in logs:
        for line in map(json.loads, log.read_text().splitlines()):
            families[line["network"]] = line["family"]
            seen.setdefault(line["network"], {})[line["player"]] = Shown(**line["shown"])
    for network, players in seen.items():
        for name in NAMES:
            show(network if name == OURS else "", name, players[name])
    return [Pair(families[network], players[OURS], players[THEIRS]) for network, players in seen.items()]


def chosen(options: argparse.Namespace) -> list[Network]:
    """The networks to watch."""
    over = networks.recorded(options.traces) if options.traces else networks.generated(options.seed, options.each)
    part, parts = map(int, options.part.split("/"))
    if options.hard is not None:
        may_stall = [network for network in over if networks.falls_short(network, options.hard, options.seconds)]
        return networks.evenly(may_stall, options.most)[part - 1 :: parts]
    return over[:: max(1, len(over) // options.most)][: options.most][part - 1 :: parts]


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="bin/bench qoe-browser",
        description="Our decision against hls.js left alone, in headless Chromium over the same networks.",
    )
    parser.add_argument("--traces", type=Path, help="recorded networks: JSON lines with id, family, rtt_ms, kbps")
    parser.add_argument("--most", type=int, default=6, help="networks at most (%(default)s)")
    parser.add_argument("--seed", type=int, default=3, help="of the generated ones (%(default)s)")
    parser.add_argument("--each", type=int, default=1, help="generated networks of each family (%(default)s)")
    hard = "only networks that carry more in the mean, and less for 20 s together after the first 30; evenly by family"
    parser.add_argument("--hard", type=float, metavar="KBPS", help=hard)
    parser.add_argument("--seconds", type=int, default=120, help="watched on each (%(default)s)")
    parser.add_argument("--at-once", type=int, default=1, help="networks watched at the same time (%(default)s)")
    parser.add_argument("--log", type=Path, help="write what each page did to this file, a line of JSON each")
    parser.add_argument("--part", default="1/1", help="which of how many parts of these networks (%(default)s)")
    parser.add_argument("--again", type=Path, nargs="+", metavar="LOG", help="only show what was written to these")
    options = parser.parse_args(arguments)
    if options.again:
        print(HEAD)
        summarize(logged(options.again))
        return
    from tests.support.whole import whole_system  # noqa: PLC0415 - it is made for tests, and so are its parts

    over = chosen(options)
    with tempfile.TemporaryDirectory(prefix="lectern-bench-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        with whole_system(directory / "data") as system:
            measured = measure(system, over, options.seconds, directory, options.log, options.at_once)
            summarize(asyncio.run(measured))


if __name__ == "__main__":
    main()

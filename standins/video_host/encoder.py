"""The encoder: one video at a time, oldest first, at low priority, starting again what a kill cut short."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shutil
import signal
import sys
import tempfile
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import imageio_ffmpeg
from aiohttp import web

from embedded.processes import LAUNCHER
from standins.video_host import ladder
from standins.video_host.ladder import Picture
from standins.video_host.store import Notice, Rendition, Settings, Store, Video

log = logging.getLogger(__name__)

PROBE_TIMEOUT_S = 60
STUCK_AFTER_S = 120
NICENESS = 5
# Only containers that hold their own bytes: a playlist would make ffmpeg open other files and addresses.
CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg,mxf"
INPUT = ("-protocol_whitelist", "file", "-format_whitelist", CONTAINERS, "-i")

REASONS = {
    "ERR_NON_VIDEO": "The file was not recognized as a valid video file.",
    "ERR_MALFORMED_VIDEO": "The video was deemed to be corrupted or malformed.",
    "ERR_DURATION_EXCEED_CONSTRAINT": "The video's duration exceeds the constraint of the direct creator upload.",
    "ERR_DURATION_TOO_SHORT": "The video's duration is shorter than 0.1 seconds.",
    "ERR_UNKNOWN": "The video could not be processed.",
}


class EncodingError(Exception):
    """The upload cannot become a video; `code` is one of REASONS."""

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(f"{code} {detail}".strip())
        self.code = code


@asynccontextmanager
async def _ffmpeg(*arguments: str, folder: Path) -> AsyncIterator[Process]:
    """A running ffmpeg in `folder`, its output on a pipe.

    It gives way to everybody, is gone when the block ends, however it ends, and does not outlive the host.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid()), str(int(signal.SIGKILL)), "-"),
        *(shutil.which("nice") or "/usr/bin/nice", "-n", str(NICENESS)),
        *(imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-nostdin", "-y", *arguments),
        cwd=folder,
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=STDOUT,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def probe(source: Path) -> Picture:
    """What the source holds, from the decoder's own report on its first picture; raises EncodingError."""
    one_picture = ("-map", "0:V:0", "-map", "0:a:0?", "-vf", "scale=iw*sar:ih,setsar=1", "-frames:v", "1", "-t", "1")
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            async with _ffmpeg(
                *INPUT, f"file:{source.name}", *one_picture, "-f", "null", "-", folder=source.parent
            ) as p:
                report = (await p.communicate())[0].decode(errors="replace")
    except TimeoutError:
        raise EncodingError("ERR_MALFORMED_VIDEO", "the probe took too long") from None
    return read_report(report)


def read_report(report: str) -> Picture:
    """Read what ffmpeg prints about an input and the one picture decoded from it; raises EncodingError."""
    given, _, made = report.partition("Output #0")
    if "Video:" not in given:
        raise EncodingError("ERR_NON_VIDEO", given.strip().rpartition("\n")[2])
    size = re.search(r"Video:.*? (\d+)x(\d+)", made)
    frames = re.findall(r"frame= *(\d+)", made)
    if size is None or not frames or int(frames[-1]) == 0:
        raise EncodingError("ERR_MALFORMED_VIDEO", report.strip().rpartition("\n")[2])
    rate = re.search(r"Video:.* ([\d.]+)(k?) fps", made)
    length = re.search(r"Duration: (\d+):(\d+):([\d.]+)", given)
    return Picture(
        width=int(size[1]),
        height=int(size[2]),
        frame_rate=0.0 if rate is None or rate[2] else float(rate[1]),
        duration_s=int(length[1]) * 3600 + int(length[2]) * 60 + float(length[3]) if length else None,
        has_audio="Audio:" in made,
    )


async def encode(
    source: Path, picture: Picture, limit_s: float, folder: Path, on_time: Callable[[float], None]
) -> None:
    """Make all rungs of `source` in `folder`; `on_time` hears how many seconds are done. Raises EncodingError."""
    outputs = [rung.name for rung, _, _ in ladder.rungs_for(picture)]
    for name in [*outputs, "audio"] if picture.has_audio else outputs:
        (folder / name).mkdir()
    arguments = ladder.encode_arguments(picture, limit_s)
    last = ""
    async with _ffmpeg(
        *("-v", "error", "-progress", "pipe:1", "-stats_period", "0.25", *INPUT, f"file:{source}", *arguments),
        folder=folder,
    ) as process:
        assert process.stdout is not None
        try:
            while line := await asyncio.wait_for(process.stdout.readline(), STUCK_AFTER_S):
                text = line.decode(errors="replace").strip()
                if done := re.match(r"out_time_us=(\d+)", text):
                    on_time(int(done[1]) / 1_000_000)
                elif not re.match(r"\w+=", text):
                    last = text
            code = await asyncio.wait_for(process.wait(), STUCK_AFTER_S)
        except (TimeoutError, ValueError):  # nothing more is said, or a line without an end
            raise EncodingError("ERR_MALFORMED_VIDEO", "the encoder got stuck") from None
    if code != 0:
        raise EncodingError("ERR_MALFORMED_VIDEO", last)


async def draw_thumbnail(folder: Path, rung: str, fraction: float) -> None:
    """One picture of the encoded video as `thumbnail.jpg`: the first of the segment that lies at `fraction` of all."""
    segments = sorted((folder / rung).glob("segment_*.m4s"))
    segment = segments[min(len(segments) - 1, int(fraction * len(segments)))]
    stream = f"concat:{rung}/init.mp4|{rung}/{segment.name}"
    arguments = ("-v", "error", "-i", stream, "-frames:v", "1", "-q:v", "4", "thumbnail.jpg")
    async with asyncio.timeout(PROBE_TIMEOUT_S), _ffmpeg(*arguments, folder=folder) as process:
        await process.communicate()


def describe(folder: Path, picture: Picture) -> tuple[list[Rendition], Rendition | None, float]:
    """(rungs from low to high, sound, seconds) of what was encoded, as measured on disk. Raises EncodingError."""
    rungs, duration_s = [], 0.0
    rate = float(ladder.steady_frame_rate(picture.frame_rate))
    for rung, width, height in ladder.rungs_for(picture):
        segments = ladder.read_segments(folder / rung.name / "index.m3u8")
        if not segments:
            raise EncodingError("ERR_MALFORMED_VIDEO", "nothing could be decoded")
        duration_s = max(duration_s, sum(seconds for seconds, _ in segments))
        mean, peak = ladder.measure(segments)
        codec = ladder.h264_codec((folder / rung.name / "init.mp4").read_bytes())
        rungs.append(
            Rendition(
                name=rung.name,
                codecs=codec,
                average_bps=mean,
                peak_bps=peak,
                width=width,
                height=height,
                frame_rate=rate,
            )
        )
    sound = ladder.read_segments(folder / "audio" / "index.m3u8") if picture.has_audio else []
    if not sound:
        return rungs, None, duration_s
    mean, peak = ladder.measure(sound)
    return rungs, Rendition(name="audio", codecs="mp4a.40.2", average_bps=mean, peak_bps=peak), duration_s


class Encoder:
    """Takes queued videos to `ready` or `error`, and leaves a notice for the webhook in the same write."""

    def __init__(self, store: Store, settings: Settings, on_end: Callable[[], None]) -> None:
        self._store = store
        self._now = settings.now
        self._notify = settings.webhook_url is not None
        self._on_end = on_end
        self._wake = asyncio.Event()
        self._current: tuple[str, asyncio.Task[None]] | None = None

    def wake(self) -> None:
        """Something was queued."""
        self._wake.set()

    async def abandon(self, uid: str) -> None:
        """Stop if this very video is being encoded."""
        if self._current is not None and self._current[0] == uid:
            self._current[1].cancel()
            await asyncio.wait([self._current[1]])

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            self._wake.clear()
            queue = [video for video in self._store.videos.values() if video.state == "queued"]
            if not queue:
                await self._wake.wait()
                continue
            video = min(queue, key=lambda video: video.uploaded or video.created)
            task = asyncio.create_task(self._process(video), name=f"encode {video.uid}")
            self._current = (video.uid, task)
            try:
                await asyncio.wait([task])
            finally:
                task.cancel()
                await asyncio.wait([task])
                self._current = None

    async def _process(self, video: Video) -> None:
        video.state, video.percent = "inprogress", 0.0
        self._store.save(video)
        try:
            await self._encode(video)
        except EncodingError as failure:
            log.info("video %s failed: %s", video.uid, failure)
            self._fail(video, failure.code)
        except Exception:  # whatever it was, the next video is not to blame
            log.exception("video %s failed", video.uid)
            self._fail(video, "ERR_UNKNOWN")
        self._on_end()

    def _fail(self, video: Video, code: str) -> None:
        video.state, video.error_code, video.error_text = "error", code, REASONS[code]
        self._end(video)

    def _end(self, video: Video) -> None:
        video.notice = Notice(due=self._now()) if self._notify else None
        self._store.save(video)
        (self._store.folder(video.uid) / "source").unlink(missing_ok=True)

    async def _encode(self, video: Video) -> None:
        home = self._store.folder(video.uid)
        picture = await probe(home / "source")
        video.width, video.height = picture.width, picture.height
        _check_duration(picture.duration_s, video.max_duration_s)
        video.duration_s = picture.duration_s
        started = self._now()

        def note_progress(done_s: float) -> None:
            if picture.duration_s:
                video.percent = min(99.0, 100 * done_s / picture.duration_s)

        folder = Path(tempfile.mkdtemp(prefix="encoding-", dir=home))
        try:
            # A little more than allowed, so that a source that lied about its length is found out below.
            await encode(home / "source", picture, video.max_duration_s + 1.0, folder, note_progress)
            video.rungs, video.audio, video.duration_s = describe(folder, picture)
            _check_duration(video.duration_s, video.max_duration_s)
            await draw_thumbnail(folder, video.rungs[-1].name, video.thumbnail_at)
            _publish(folder, home / "media")
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        video.state, video.percent, video.ready = "ready", 100.0, self._now()
        self._end(video)
        _log_speed(video, self._now() - started)


def _publish(folder: Path, media: Path) -> None:
    folder.chmod(0o755)
    folder.rename(media)


def _check_duration(duration_s: float | None, limit_s: float) -> None:
    if duration_s is None:
        return
    if duration_s < 0.1:
        raise EncodingError("ERR_DURATION_TOO_SHORT")
    # Sound and picture seldom end in the same millisecond; nobody means to refuse that.
    if duration_s > limit_s + 0.5:
        raise EncodingError("ERR_DURATION_EXCEED_CONSTRAINT")


def _log_speed(video: Video, took: timedelta) -> None:
    rungs = ", ".join(f"{rung.name} {rung.average_bps // 1000} kbit/s" for rung in video.rungs)
    log.info("video %s ready: %.1f s in %.1f s; %s", video.uid, video.duration_s, took.total_seconds(), rungs)


ENCODER = web.AppKey("encoder", Encoder)

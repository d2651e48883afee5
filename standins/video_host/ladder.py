"""The ladder: which rungs there are, how ffmpeg is told to make them, and the playlists that name them.

Every rung has constant bitrate: x264 pads simple pictures with filler up to the nominal rate (`nal-hrd=cbr`), because a
lecture is mostly still pictures and a ladder whose rungs weigh next to nothing would show no network anything. The
small buffer (0.2 s) keeps each single segment near it, not only their mean.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from standins.video_host.store import Rendition, Video

SEGMENT_S = 2
AUDIO_KBPS = 48
BUFFER_S = 0.2


@dataclass(frozen=True)
class Rung:
    """One quality: the length of the picture's shorter side in pixels, and the bitrate of the picture alone."""

    name: str
    height: int
    kbps: int


# The lowest is high enough that the sound beside it (48 kbit/s) stays a tenth of the whole.
LADDER = (Rung("240p", 240, 500), Rung("360p", 360, 900), Rung("540p", 540, 1700), Rung("720p", 720, 3000))


@dataclass(frozen=True)
class Picture:
    """What a probe found out about a source: displayed size in pixels, frames per second, seconds if it says so."""

    width: int
    height: int
    frame_rate: float
    duration_s: float | None
    has_audio: bool


def rungs_for(picture: Picture) -> list[tuple[Rung, int, int]]:
    """(rung, width, height) from low to high; nothing is ever made larger than it was."""
    short = min(picture.width, picture.height)
    if short < LADDER[0].height:
        return [(LADDER[0], _even(picture.width), _even(picture.height))]
    return [
        (rung, _even(picture.width * rung.height / short), _even(picture.height * rung.height / short))
        for rung in LADDER
        if rung.height <= short
    ]


def _even(pixels: float) -> int:
    return max(2, round(pixels / 2) * 2)


def steady_frame_rate(frames_per_s: float) -> Fraction:
    """The constant rate to encode at: the source's own up to 30, higher ones halved, so that all rungs cut alike.

    Twice the rate is a whole number of frames, or for 30000/1001 and its kin nearly so: segments last 2 or 2.002 s.
    """
    if not 0 < frames_per_s <= 240:
        return Fraction(30)
    while frames_per_s > 30.5:
        frames_per_s /= 2
    whole = round(frames_per_s)
    ntsc = Fraction(whole * 1000, 1001)
    if whole >= 20 and abs(frames_per_s - float(ntsc)) < 0.006:
        return ntsc
    return max(Fraction(10), Fraction(frames_per_s).limit_denominator(2))


def encode_arguments(picture: Picture, limit_s: float) -> list[str]:
    """What stands between ffmpeg's input and its end: filters and one HLS output per rung, and one for the sound.

    Paths are relative to the working directory, which needs a folder for each output. Encoding stops after `limit_s`.
    """
    rungs = rungs_for(picture)
    rate = steady_frame_rate(picture.frame_rate)
    arguments = ["-filter_complex", _filters(rungs, rate)]
    for rung, _width, _height in rungs:
        arguments += [
            *("-map", f"[{rung.name}]", "-t", f"{limit_s}", "-c:v", "libx264", "-preset", "ultrafast"),
            *("-b:v", f"{rung.kbps}k", "-maxrate", f"{rung.kbps}k", "-bufsize", f"{rung.kbps * BUFFER_S:.0f}k"),
            *("-g", f"{round(rate * SEGMENT_S)}", "-keyint_min", f"{round(rate * SEGMENT_S)}", "-sc_threshold", "0"),
            *("-x264-params", "nal-hrd=cbr:force-cfr=1:vbv-init=0.8:threads=2"),
            *_hls(rung.name),
        ]
    if picture.has_audio:
        arguments += [
            *("-map", "0:a:0", "-t", f"{limit_s}", "-af", "aresample=async=1:first_pts=0"),
            *("-c:a", "aac", "-b:a", f"{AUDIO_KBPS}k", "-ac", "1", "-ar", "44100"),
            *_hls("audio"),
        ]
    return arguments


def _filters(rungs: list[tuple[Rung, int, int]], rate: Fraction) -> str:
    """Scale from rung to rung downwards, which is cheaper than each from the source."""
    steps = []
    feed = f"[0:V:0]fps={rate}:start_time=0"
    for number, (rung, width, height) in enumerate(reversed(rungs), start=1):
        step = f"{feed},scale={width}:{height}:flags=bilinear,setsar=1,format=yuv420p"
        if number == len(rungs):
            steps.append(f"{step}[{rung.name}]")
        else:
            steps.append(f"{step},split=2[{rung.name}][below{rung.name}]")
            feed = f"[below{rung.name}]null"
    return ";".join(steps)


def _hls(folder: str) -> list[str]:
    return [
        *("-f", "hls", "-hls_time", f"{SEGMENT_S}", "-hls_playlist_type", "vod", "-hls_segment_type", "fmp4"),
        *("-hls_flags", "independent_segments", "-hls_fmp4_init_filename", "init.mp4"),
        *("-hls_segment_filename", f"{folder}/segment_%05d.m4s", f"{folder}/index.m3u8"),
    ]


def read_segments(playlist: Path) -> list[tuple[float, int]]:
    """(seconds, bytes) of each segment of a media playlist, in order."""
    found = re.findall(r"#EXTINF:([\d.]+),.*\n(\S+)", playlist.read_text())
    return [(float(seconds), (playlist.parent / name).stat().st_size) for seconds, name in found]


def measure(segments: list[tuple[float, int]]) -> tuple[int, int]:
    """(mean, peak) bits per second. A segment shorter than half the usual counts together with the one before it:
    RFC 8216, 4.3.4.2 takes the peak over pieces of half to one and a half target durations."""
    pieces: list[tuple[float, int]] = []
    for seconds, size in segments:
        if pieces and seconds < SEGMENT_S / 2:
            last_seconds, last_size = pieces.pop()
            pieces.append((last_seconds + seconds, last_size + size))
        else:
            pieces.append((seconds, size))
    total_s = sum(seconds for seconds, _ in pieces)
    total_bits = sum(size for _, size in pieces) * 8
    return round(total_bits / total_s), max(round(size * 8 / seconds) for seconds, size in pieces)


def h264_codec(init_segment: bytes) -> str:
    """The RFC 6381 name, from the profile, constraints and level in the `avcC` box."""
    at = init_segment.index(b"avcC") + 5
    return f"avc1.{init_segment[at : at + 3].hex()}"


def master_playlist(video: Video) -> str:
    """The multivariant playlist; rates are those measured, picture and sound together."""
    lines = ["#EXTM3U", "#EXT-X-VERSION:7", "#EXT-X-INDEPENDENT-SEGMENTS"]
    groups = ""
    if video.audio is not None:
        lines.append(
            '#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="audio",NAME="Original",DEFAULT=YES,AUTOSELECT=YES,'
            'CHANNELS="1",URI="audio/index.m3u8"'
        )
        groups += ',AUDIO="audio"'
    for language, label in sorted(video.captions.items()):
        lines.append(
            f'#EXT-X-MEDIA:TYPE=SUBTITLES,GROUP-ID="captions",NAME="{label}",LANGUAGE="{language}",DEFAULT=NO,'
            f'AUTOSELECT=YES,FORCED=NO,URI="captions/{language}.m3u8"'
        )
    if video.captions:
        groups += ',SUBTITLES="captions"'
    lines += _variants(video, groups)
    return "\n".join(lines) + "\n"


def _variants(video: Video, groups: str) -> Iterator[str]:
    sound = video.audio or Rendition(name="silence", codecs="", average_bps=0, peak_bps=0)
    for rung in video.rungs:
        codecs = ",".join(filter(None, (rung.codecs, sound.codecs)))
        yield (
            f"#EXT-X-STREAM-INF:BANDWIDTH={rung.peak_bps + sound.peak_bps},"
            f"AVERAGE-BANDWIDTH={rung.average_bps + sound.average_bps},RESOLUTION={rung.width}x{rung.height},"
            f'CODECS="{codecs}",FRAME-RATE={rung.frame_rate:.3f}{groups},CLOSED-CAPTIONS=NONE'
        )
        yield f"{rung.name}/index.m3u8"


def captions_playlist(language: str, duration_s: float) -> str:
    """A media playlist whose one segment is the whole WebVTT file."""
    return (
        f"#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-TARGETDURATION:{max(1, math.ceil(duration_s))}\n#EXT-X-PLAYLIST-TYPE:VOD\n"
        f"#EXTINF:{duration_s:.3f},\n{language}.vtt\n#EXT-X-ENDLIST\n"
    )

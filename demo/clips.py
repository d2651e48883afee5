"""Clips: a lecture's pictures and sound, piped through ffmpeg into an MP4 in the cache, with its captions beside it.

A clip appears under its name only when it is whole (an atomic rename), so an interrupted making leaves nothing that
could be taken for one.
"""

import hashlib
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import imageio_ffmpeg
from PIL import Image

from demo import content, diagrams, drawing, film, narration
from demo.content import Course, Lecture
from demo.diagrams import diagram, sessions, watching, words
from demo.drawing import HEIGHT, WIDTH
from demo.film import DRAWN_FPS, Film
from demo.narration import narrate, voice, webvtt, write_wav

FPS: Final = 25
TIMEOUT_S: Final = 600

# Fine grain, so that dark slopes show no bands, and so that there is something to encode.
_PICTURE: Final = f"format=yuv420p,noise=c0s=3:c0f=t,fps={FPS}"

# The voice, warmed a little, over a chord so soft that one misses it only when it stops.
_CHORD_HZ: Final = (110.0, 164.81, 220.0, 277.18)
_SOUND: Final = (
    "[1:a]aresample=44100,highpass=f=75,lowpass=f=8500,equalizer=f=220:t=q:w=1:g=2,equalizer=f=3200:t=q:w=1.2:g=-3,"
    "aecho=0.9:0.7:19|31:0.10|0.06,acompressor=threshold=0.15:ratio=2.5:attack=8:release=160:makeup=1.6,"
    "volume=0.75[voice];"
    "[2:a]lowpass=f=900,tremolo=f=0.12:d=0.5,volume=0.045[pad];"
    "[voice][pad]amix=inputs=2:duration=first:normalize=0,alimiter=limit=0.9[sound]"
)


class ClipNotMade(Exception):
    """ffmpeg failed; the message is its last line."""


@dataclass(frozen=True)
class Clip:
    """A finished MP4 (H.264 1280x720 at 25 frames/s, AAC) and its captions, both made of the same narration."""

    path: Path
    captions: Path

    def remove(self) -> None:
        """Take it out of the cache."""
        self.path.unlink(missing_ok=True)
        self.captions.unlink(missing_ok=True)


@lru_cache(maxsize=1)
def _edition() -> str:
    """Changes whenever what a clip is made from does, so that an old cache is not taken for the present lectures."""
    digest = hashlib.sha256()
    pictures = (diagrams, diagram, sessions, watching, words, drawing, film)
    for module in (content, narration, *pictures, sys.modules[__name__]):
        assert module.__file__
        digest.update(Path(module.__file__).read_bytes())
    return digest.hexdigest()[:10]


def clip_in(cache: Path, lecture: Lecture) -> Clip:
    """Where the lecture's clip is, or will be."""
    path = cache / f"{lecture.name}-{_edition()}.mp4"
    return Clip(path, path.with_suffix(".vtt"))


def make_clip(
    course: Course, lecture: Lecture, cache: Path, tell: Callable[[int], None], seconds: float | None = None
) -> Clip:
    """The lecture's clip, from the cache or made now; `seconds` makes only its beginning (never for the cache to keep).

    `tell` hears whole per cent, each once. Raises ClipNotMade.
    """
    clip = clip_in(cache, lecture)
    if clip.path.exists() and clip.captions.exists():
        return clip
    cache.mkdir(parents=True, exist_ok=True)
    narrated = narrate(lecture, voice())
    pictures = Film(course, lecture, narrated)
    wanted = pictures.frames if seconds is None else min(pictures.frames, int(seconds * DRAWN_FPS))
    # Made beside its place: a rename is atomic only within one file system.
    with TemporaryDirectory(prefix="making-", dir=cache) as folder:
        sound, made, captions = (Path(folder) / name for name in ("sound.wav", "clip.mp4", "captions.vtt"))
        write_wav(narrated, sound)
        captions.write_text(webvtt(narrated), encoding="utf-8")
        length_s = float(wanted / DRAWN_FPS)
        _encode(islice(pictures, wanted), wanted, _arguments(sound, made, length_s), tell)
        captions.replace(clip.captions)
        made.replace(clip.path)
    return clip


def _arguments(sound: Path, made: Path, length_s: float) -> list[str]:
    chord = "+".join(f"sin(2*PI*t*{hertz})" for hertz in _CHORD_HZ)
    return [
        *(
            "-f",
            "rawvideo",
            "-pix_fmt",
            "rgb24",
            "-s",
            f"{WIDTH}x{HEIGHT}",
            "-framerate",
            str(DRAWN_FPS),
            "-i",
            "pipe:0",
        ),
        *("-i", str(sound), "-f", "lavfi", "-i", f"aevalsrc=exprs='({chord})/4':s=11025:d={length_s:.3f}"),
        *("-filter_complex", f"[0:v]{_PICTURE}[picture];{_SOUND}", "-map", "[picture]", "-map", "[sound]"),
        *("-c:v", "libx264", "-preset", "ultrafast", "-crf", "23", "-g", str(FPS * 4)),
        *("-c:a", "aac", "-b:a", "96k", "-ac", "1", "-t", f"{length_s:.3f}", "-movflags", "+faststart", str(made)),
    ]


def _encode(frames: Iterable[Image.Image], count: int, arguments: list[str], tell: Callable[[int], None]) -> None:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-v", "error", *arguments]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin
    assert process.stderr
    # Whatever stands still for this long is stuck; killing ffmpeg also frees a write into its pipe.
    watchdog = threading.Timer(TIMEOUT_S, process.kill)
    watchdog.start()
    try:
        told = -1
        with suppress(BrokenPipeError), process.stdin as pipe:
            for number, frame in enumerate(frames, start=1):
                pipe.write(frame.tobytes())
                if number * 100 // count > told:
                    told = number * 100 // count
                    tell(told)
        complaint = process.stderr.read().decode(errors="replace").strip()
        if process.wait() != 0:
            raise ClipNotMade(complaint.rpartition("\n")[2] or f"ffmpeg ended with {process.returncode}")
    finally:
        watchdog.cancel()
        if process.poll() is None:
            process.kill()
            process.wait()
        process.stderr.close()

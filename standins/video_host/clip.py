"""Small clips for tests: a moving test picture with a tone, made once per machine and kept in the temporary folder."""

from __future__ import annotations

import os
import secrets
import subprocess
import tempfile
from pathlib import Path

import imageio_ffmpeg

TIMEOUT_S = 60


def make_clip(
    path: Path, *, seconds: float = 8, size: tuple[int, int] = (640, 360), fps: int = 25, sound: bool = True
) -> Path:
    """Write an MP4 (H.264, AAC) to `path` and return it; it appears complete or not at all."""
    part = path.with_name(f"{secrets.token_hex(8)}.mp4")
    inputs = ["-f", "lavfi", "-i", f"testsrc2=size={size[0]}x{size[1]}:rate={fps}"]
    if sound:
        inputs += ["-f", "lavfi", "-i", "sine=frequency=440"]
    encoding = ["-c:v", "libx264", "-preset", "ultrafast", "-crf", "26", "-pix_fmt", "yuv420p", "-c:a", "aac"]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-v", "error", *inputs, "-t", f"{seconds}", *encoding, part]
    try:
        subprocess.run(command, check=True, timeout=TIMEOUT_S)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def cached_clip(*, seconds: float = 8, size: tuple[int, int] = (640, 360), fps: int = 25, sound: bool = True) -> Path:
    """Such a clip, made at the first call only. Read it, do not change it."""
    folder = Path(tempfile.gettempdir()) / f"lectern-clips-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / f"{size[0]}x{size[1]}-{fps}fps-{seconds:g}s{'' if sound else '-silent'}.mp4"
    return path if path.exists() else make_clip(path, seconds=seconds, size=size, fps=fps, sound=sound)

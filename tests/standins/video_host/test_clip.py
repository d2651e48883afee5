from __future__ import annotations

import asyncio
from pathlib import Path

from standins.video_host.clip import cached_clip, make_clip
from standins.video_host.encoder import probe


def test_a_clip_has_the_size_length_and_sound_that_were_asked_for(tmp_path: Path) -> None:
    picture = asyncio.run(probe(make_clip(tmp_path / "a.mp4", seconds=1, size=(320, 180), fps=24, sound=False)))
    assert (picture.width, picture.height, picture.frame_rate, picture.has_audio) == (320, 180, 24.0, False)
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_a_clip_is_made_once() -> None:
    first = cached_clip(seconds=6)
    made = first.stat().st_mtime_ns
    assert cached_clip(seconds=6).stat().st_mtime_ns == made

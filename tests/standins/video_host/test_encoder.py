from __future__ import annotations

import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import pytest

from standins.video_host.clip import cached_clip
from standins.video_host.encoder import EncodingError, describe, encode, probe, read_report
from standins.video_host.ladder import LADDER, SEGMENT_S, Picture, read_segments

KBPS = {rung.name: rung.kbps for rung in LADDER}


def ffmpeg(*arguments: str | Path) -> None:
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *arguments], check=True, timeout=60)


def weights_kbps(media: Path, rung: str) -> list[float]:
    return [size * 8 / 1000 / seconds for seconds, size in read_segments(media / rung / "index.m3u8")]


@pytest.fixture
def media(encoded: tuple[Path, str]) -> Path:
    folder, uid = encoded
    return folder / "videos" / uid / "media"


def test_every_segment_of_every_rung_weighs_its_nominal_rate(media: Path) -> None:
    for rung in ("240p", "360p"):
        for kbps in weights_kbps(media, rung):
            assert kbps == pytest.approx(KBPS[rung], rel=0.15), rung


def test_segments_of_all_rungs_begin_at_the_same_moments(media: Path) -> None:
    for rung in ("240p", "360p"):
        assert [seconds for seconds, _ in read_segments(media / rung / "index.m3u8")] == [SEGMENT_S] * 3


async def test_a_still_picture_is_filled_up_to_its_rate(tmp_path: Path) -> None:
    ffmpeg(
        "-f", "lavfi", "-i", "color=navy:size=1280x720:rate=25", "-t", "4", "-preset", "ultrafast", tmp_path / "s.mp4"
    )
    heard: list[float] = []
    picture = await probe(tmp_path / "s.mp4")
    await encode(tmp_path / "s.mp4", picture, 60, tmp_path, heard.append)
    rungs, sound, duration_s = describe(tmp_path, picture)
    assert [rung.name for rung in rungs] == list(KBPS)
    for rung in rungs:
        assert rung.average_bps / 1000 == pytest.approx(KBPS[rung.name], rel=0.15)
        assert rung.peak_bps / 1000 == pytest.approx(KBPS[rung.name], rel=0.15)
    assert (sound, duration_s) == (None, 4.0)
    assert heard[-1] == pytest.approx(4.0, abs=0.1)


async def test_a_turned_phone_video_is_seen_upright(tmp_path: Path) -> None:
    ffmpeg("-display_rotation", "90", "-i", cached_clip(seconds=6), "-c", "copy", tmp_path / "turned.mp4")
    picture = await probe(tmp_path / "turned.mp4")
    assert (picture.width, picture.height) == (360, 640)


async def test_the_probe_tells_size_rate_length_and_sound() -> None:
    picture = await probe(cached_clip(seconds=6))
    assert picture == Picture(640, 360, 25.0, pytest.approx(6.0, abs=0.05), has_audio=True)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("text", b"This is not a video.\n" * 400),
        ("a playlist that names other files", b"#EXTM3U\n#EXTINF:2,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n"),
        ("nothing but a header", b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00mp42isom"),
    ],
)
async def test_what_is_no_video_is_told_apart(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / "source").write_bytes(content)
    with pytest.raises(EncodingError) as failure:
        await probe(tmp_path / "source")
    assert failure.value.code == "ERR_NON_VIDEO"


async def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    ffmpeg("-f", "lavfi", "-i", "sine", "-t", "1", tmp_path / "sound.m4a")
    with pytest.raises(EncodingError, match="ERR_NON_VIDEO"):
        await probe(tmp_path / "sound.m4a")


def test_a_video_of_which_nothing_can_be_decoded_is_malformed() -> None:
    report = "Input #0, mov\n  Stream #0:0: Video: h264, 640x360, 25 fps\nOutput #0, null\nframe=    0 fps=0.0\n"
    with pytest.raises(EncodingError, match="ERR_MALFORMED_VIDEO"):
        read_report(report)


async def test_a_file_of_text_ends_in_an_error_that_says_so(start_host: Callable[..., Awaitable[Any]]) -> None:
    host = await start_host()
    uid, path = await host.reserve()
    assert await host.upload(path, b"not a video at all") == 200
    video = await host.settled(uid)
    assert video["status"]["errorReasonCode"] == "ERR_NON_VIDEO"
    assert video["status"]["errorReasonText"]
    assert video["readyToStream"] is False


async def test_a_video_longer_than_was_reserved_is_refused(start_host: Callable[..., Awaitable[Any]]) -> None:
    host = await start_host()
    uid, path = await host.reserve(maxDurationSeconds=3)
    await host.upload(path, cached_clip(seconds=6).read_bytes())
    assert (await host.settled(uid))["status"]["errorReasonCode"] == "ERR_DURATION_EXCEED_CONSTRAINT"


async def test_a_length_that_the_file_does_not_tell_is_measured(
    start_host: Callable[..., Awaitable[Any]], tmp_path: Path
) -> None:
    """Browsers record WebM without a duration: too long ones are found out while encoding."""
    ffmpeg("-i", cached_clip(seconds=6), "-c:v", "copy", "-an", "-f", "matroska", "-live", "1", tmp_path / "live.webm")
    assert (await probe(tmp_path / "live.webm")).duration_s is None
    host = await start_host()
    codes = []
    for limit in (3, 6):
        uid, path = await host.reserve(maxDurationSeconds=limit)
        await host.upload(path, (tmp_path / "live.webm").read_bytes())
        video = await host.settled(uid)
        codes.append(video["status"]["errorReasonCode"])
    assert codes == ["ERR_DURATION_EXCEED_CONSTRAINT", ""]
    assert video["duration"] == pytest.approx(6, abs=0.1)

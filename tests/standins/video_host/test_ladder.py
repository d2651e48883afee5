from __future__ import annotations

from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path

import m3u8
import pytest

from standins.video_host.ladder import (
    LADDER,
    Picture,
    captions_playlist,
    master_playlist,
    measure,
    read_segments,
    rungs_for,
    steady_frame_rate,
)
from standins.video_host.store import Rendition, Video

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def sizes(width: int, height: int) -> list[tuple[str, int, int]]:
    return [(rung.name, w, h) for rung, w, h in rungs_for(Picture(width, height, 25.0, 10.0, has_audio=True))]


def test_the_ladder_climbs_in_size_and_rate() -> None:
    assert [rung.kbps for rung in LADDER] == sorted({rung.kbps for rung in LADDER})
    assert [rung.height for rung in LADDER] == sorted({rung.height for rung in LADDER})


def test_no_rung_is_larger_than_the_source() -> None:
    assert sizes(1920, 1080)[-1] == ("720p", 1280, 720)
    assert sizes(1280, 720) == [("240p", 426, 240), ("360p", 640, 360), ("540p", 960, 540), ("720p", 1280, 720)]
    assert [name for name, _, _ in sizes(640, 480)] == ["240p", "360p"]


def test_a_tiny_source_keeps_its_size_in_even_pixels() -> None:
    assert sizes(161, 121) == [("240p", 160, 120)]


def test_an_upright_picture_is_measured_by_its_width() -> None:
    assert sizes(720, 1280)[-1] == ("720p", 720, 1280)


@pytest.mark.parametrize(
    ("source", "steady"),
    [
        *((25.0, Fraction(25)), (24.0, Fraction(24)), (50.0, Fraction(25)), (60.0, Fraction(30))),
        *((29.97, Fraction(30000, 1001)), (59.94, Fraction(30000, 1001)), (23.98, Fraction(24000, 1001))),
        *((12.5, Fraction(25, 2)), (1.0, Fraction(10)), (0.0, Fraction(30)), (1000.0, Fraction(30))),
    ],
)
def test_any_frame_rate_becomes_one_that_cuts_evenly(source: float, steady: Fraction) -> None:
    assert steady_frame_rate(source) == steady
    assert abs(round(steady * 2) / steady - 2) < 0.003


def test_a_short_tail_counts_with_the_segment_before_it() -> None:
    mean, peak = measure([(2.0, 250_000), (2.0, 250_000), (0.04, 50_000)])
    assert mean == round(550_000 * 8 / 4.04)
    assert peak == round(300_000 * 8 / 2.04)


def test_segments_are_read_with_their_sizes(tmp_path: Path) -> None:
    (tmp_path / "a.m4s").write_bytes(b"12345")
    playlist = tmp_path / "index.m3u8"
    playlist.write_text('#EXTM3U\n#EXT-X-MAP:URI="init.mp4"\n#EXTINF:2.000000,\na.m4s\n#EXT-X-ENDLIST\n')
    assert read_segments(playlist) == [(2.0, 5)]


def a_video(*, sound: bool, captions: dict[str, str]) -> Video:
    rung = Rendition(
        name="240p", codecs="avc1.42c015", average_bps=500_000, peak_bps=520_000, width=426, height=240, frame_rate=25
    )
    audio = Rendition(name="audio", codecs="mp4a.40.2", average_bps=50_000, peak_bps=51_000) if sound else None
    video = Video(uid="v", upload_key="k", created=NOW, modified=NOW, upload_expiry=NOW, max_duration_s=60)
    return video.model_copy(update={"rungs": [rung], "audio": audio, "captions": captions})


def test_a_variant_names_the_rate_of_picture_and_sound_together() -> None:
    variant = m3u8.loads(master_playlist(a_video(sound=True, captions={"en": "English"}))).playlists[0]
    info = variant.stream_info
    assert (info.bandwidth, info.average_bandwidth) == (571_000, 550_000)
    assert (info.resolution, info.codecs, info.frame_rate) == ((426, 240), "avc1.42c015,mp4a.40.2", 25.0)
    assert (info.audio, info.subtitles) == ("audio", "captions")


def test_captions_appear_as_a_subtitles_group() -> None:
    media = m3u8.loads(master_playlist(a_video(sound=False, captions={"de": "German", "en": "English"}))).media
    assert [(m.type, m.language, m.name, m.uri) for m in media] == [
        ("SUBTITLES", "de", "German", "captions/de.m3u8"),
        ("SUBTITLES", "en", "English", "captions/en.m3u8"),
    ]


def test_a_silent_video_has_no_audio_group() -> None:
    text = master_playlist(a_video(sound=False, captions={}))
    assert "AUDIO" not in text
    assert "mp4a" not in text


def test_the_captions_are_one_segment_as_long_as_the_video() -> None:
    playlist = m3u8.loads(captions_playlist("en", 61.5))
    assert [(segment.uri, segment.duration) for segment in playlist.segments] == [("en.vtt", 61.5)]
    assert playlist.target_duration == 62
    assert playlist.is_endlist

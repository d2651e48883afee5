"""Clips as the demo makes them, and the ladder that the video host makes of one."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from demo import clips
from demo.clips import Clip, ClipNotMade, clip_in, make_clip
from demo.content import COURSES, FOLD, TRACE
from standins.video_host.encoder import describe, encode, probe
from standins.video_host.ladder import LADDER, read_segments
from tests.support.courses import short_course

KBPS = {rung.name: rung.kbps for rung in LADDER}
COURSE = short_course("Clips", lectures=1)
(LECTURE,) = COURSE.lectures


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    return tmp_path_factory.mktemp("clips")


@pytest.fixture(scope="module")
def heard() -> list[int]:
    return []


@pytest.fixture(scope="module")
def clip(cache: Path, heard: list[int]) -> Clip:
    """A lecture of some seconds."""
    return make_clip(COURSE, LECTURE, cache, heard.append)


@pytest.fixture
def ladder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ladder")


async def encode_and_weigh(source: Path, folder: Path) -> None:
    """Encode into this empty folder: every rung, and every whole segment of it, weighs its nominal rate within 15 %."""
    picture = await probe(source)
    await encode(source, picture, 600, folder, lambda _: None)
    rungs, sound, _ = describe(folder, picture)
    assert [rung.name for rung in rungs] == list(KBPS)
    assert sound is not None
    for rung in rungs:
        nominal = KBPS[rung.name]
        # Beside the picture a player fetches the sound, and pays for both.
        assert (rung.average_bps + sound.average_bps) / 1000 == pytest.approx(nominal, rel=0.15), rung.name
        for seconds, size in read_segments(folder / rung.name / "index.m3u8")[:-1]:
            assert size * 8 / 1000 / seconds == pytest.approx(nominal, rel=0.15), rung.name


async def test_a_clip_is_a_whole_video_with_sound(clip: Clip, heard: list[int]) -> None:
    picture = await probe(clip.path)
    assert (picture.width, picture.height, picture.frame_rate, picture.has_audio) == (1280, 720, 25.0, True)
    assert picture.duration_s == pytest.approx(5, abs=2)
    assert heard == sorted(set(heard))
    assert heard[-1] == 100


def test_captions_lie_beside_it(clip: Clip) -> None:
    assert clip.captions.read_text().startswith("WEBVTT\n")
    assert "A lecture can be short." in clip.captions.read_text()


def test_a_clip_that_is_there_is_not_made_again(clip: Clip, cache: Path) -> None:
    made_at = clip.path.stat().st_mtime_ns
    told: list[int] = []
    assert make_clip(COURSE, LECTURE, cache, told.append) == clip
    assert (told, clip.path.stat().st_mtime_ns) == ([], made_at)


def test_one_that_is_interrupted_leaves_nothing(tmp_path: Path) -> None:
    def stop(percent: int) -> None:
        if percent >= 20:
            raise ClipNotMade("stopped")

    with pytest.raises(ClipNotMade, match="stopped"):
        make_clip(COURSE, LECTURE, tmp_path, stop)
    assert list(tmp_path.iterdir()) == []


def test_one_whose_encoder_fails_leaves_nothing_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clips, "_PICTURE", "nosuchfilter")
    with pytest.raises(ClipNotMade, match=r"[Ff]ilter"):
        make_clip(COURSE, LECTURE, tmp_path, lambda _: None)
    assert list(tmp_path.iterdir()) == []


def test_another_edition_of_the_drawing_is_another_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = clip_in(tmp_path, LECTURE)
    monkeypatch.setattr(clips, "_edition", lambda: "another")
    assert clip_in(tmp_path, LECTURE) != before
    assert clip_in(tmp_path, replace(LECTURE, name="other")) != clip_in(tmp_path, LECTURE)


async def test_a_rung_of_a_short_demo_clip_weighs_what_it_says(tmp_path: Path, ladder: Path) -> None:
    source = make_clip(COURSES[0], FOLD, tmp_path, lambda _: None, seconds=12)
    await encode_and_weigh(source.path, ladder)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("lecture", [FOLD, TRACE], ids=lambda lecture: lecture.name)
async def test_a_rung_of_a_whole_demo_lecture_weighs_what_it_says(
    tmp_path: Path, ladder: Path, lecture: clips.Lecture
) -> None:
    course = next(course for course in COURSES if lecture in course.lectures)
    source = make_clip(course, lecture, tmp_path, lambda _: None)
    await encode_and_weigh(source.path, ladder)

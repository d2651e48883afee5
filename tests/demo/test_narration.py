"""Captions and voice are made of the same sentences and the same times."""

import re
import wave
from itertools import pairwise
from pathlib import Path

import pytest

from demo.content import COURSES, FOLD, Lecture
from demo.narration import SAMPLE_RATE, narrate, voice, webvtt, write_wav
from server.domain.captions import check_captions

LECTURES = [lecture for course in COURSES for lecture in course.lectures]
# W3C WebVTT, sections 4.2 and 4.3: a number, the times with hours, the lines.
CUE = re.compile(r"(\d+)\n(\d\d):(\d\d):(\d\d)\.(\d\d\d) --> (\d\d):(\d\d):(\d\d)\.(\d\d\d)\n((?:.+\n)+)")


def read_cues(captions: str) -> list[tuple[float, float, list[str]]]:
    """(start s, end s, lines) of each cue; nothing else may stand in the file."""
    head, _, body = captions.partition("\n\n")
    assert head == "WEBVTT"
    found = []
    for number, block in enumerate(re.split(r"\n(?=\d+\n)", body), start=1):
        cue = CUE.fullmatch(block)
        assert cue, block
        assert int(cue[1]) == number
        start, end = (
            int(cue[n]) * 3600 + int(cue[n + 1]) * 60 + int(cue[n + 2]) + int(cue[n + 3]) / 1000 for n in (2, 6)
        )
        found.append((start, end, cue[10].splitlines()))
    return found


@pytest.mark.parametrize("lecture", LECTURES, ids=lambda lecture: lecture.name)
def test_captions_are_webvtt_and_say_what_is_said_when_it_is_said(lecture: Lecture) -> None:
    narration = narrate(lecture, voice())
    captions = webvtt(narration)
    check_captions(captions.encode())
    cues = read_cues(captions)
    assert [" ".join(lines) for _, _, lines in cues] == [text for scene in lecture.scenes for text in scene.says]
    for (start, end, lines), sentence in zip(cues, narration.sentences, strict=True):
        assert start == pytest.approx(sentence.start_s, abs=0.001)
        assert end >= sentence.end_s - 0.001
        assert len(lines) <= 3
        assert max(map(len, lines)) <= 64
        assert not any("-->" in line for line in lines)
    assert all(end < following for (_, end, _), (following, _, _) in pairwise(cues))
    assert cues[-1][1] <= narration.length_s


def test_a_voice_takes_the_same_time_for_every_sentence_each_time() -> None:
    # To the tenth of a second: its breath is noise, and not the same noise twice.
    first, second = narrate(FOLD, voice()), narrate(FOLD, voice())
    for one, other in zip(first.sentences, second.sentences, strict=True):
        assert one.end_s - one.start_s == pytest.approx(other.end_s - other.start_s, abs=0.1)
    assert first.length_s == pytest.approx(second.length_s, abs=0.2)


def test_sentences_are_heard_and_the_pauses_between_them_are_silent() -> None:
    narration = narrate(FOLD, voice())
    for sentence in narration.sentences:
        assert (
            max(narration.samples[round(sentence.start_s * SAMPLE_RATE) : round(sentence.end_s * SAMPLE_RATE)]) > 1000
        )
    for before, after in pairwise(narration.sentences):
        pause = narration.samples[round(before.end_s * SAMPLE_RATE) : round(after.start_s * SAMPLE_RATE)]
        assert len(pause) / SAMPLE_RATE >= 0.7
        assert set(pause) == {0}


def test_the_sound_is_as_long_as_the_narration(tmp_path: Path) -> None:
    narration = narrate(FOLD, voice())
    write_wav(narration, tmp_path / "sound.wav")
    with wave.open(str(tmp_path / "sound.wav")) as sound:
        assert (sound.getnchannels(), sound.getsampwidth(), sound.getframerate()) == (1, 2, SAMPLE_RATE)
        assert sound.getnframes() / SAMPLE_RATE == pytest.approx(narration.length_s)

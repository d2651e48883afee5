"""The drawn pictures: always the same, never still, never empty."""

import hashlib
import os
import subprocess
import sys
from functools import cache
from itertools import pairwise

import pytest
from PIL import ImageChops, ImageStat

from demo.content import COURSES, FOLD, Course, Lecture
from demo.drawing import HEIGHT, WIDTH
from demo.film import DRAWN_FPS, Film
from demo.narration import narrate
from embedded.processes import ROOT

LECTURES = [(course, lecture) for course in COURSES for lecture in course.lectures]
by_name = pytest.mark.parametrize(("course", "lecture"), LECTURES, ids=[lecture.name for _, lecture in LECTURES])
DRAW = """
import hashlib
from demo.content import COURSES, FOLD
from demo.film import Film
from demo.narration import narrate
film = Film(COURSES[0], FOLD, narrate(FOLD, None))
print(hashlib.sha256(b"".join(film.frame(at_s).tobytes() for at_s in {moments})).hexdigest())
"""


@cache
def film_of(course: Course, lecture: Lecture) -> Film:
    return Film(course, lecture, narrate(lecture, None))


def drawn_apart(moments: list[float], hash_seed: str) -> str:
    """The digest of these frames as another process draws them."""
    environ = {**os.environ, "PYTHONHASHSEED": hash_seed}
    command = [sys.executable, "-c", DRAW.format(moments=moments)]
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip()


def test_every_process_draws_the_same_frames() -> None:
    moments = [0.0, 3.3, 30.0, 61.0, 95.5]
    film = film_of(COURSES[0], FOLD)
    here = hashlib.sha256(b"".join(film.frame(at_s).tobytes() for at_s in moments)).hexdigest()
    assert {here, drawn_apart(moments, "1"), drawn_apart(moments, "2")} == {here}


def test_a_frame_does_not_depend_on_those_drawn_before_it() -> None:
    lecture = narrate(FOLD, None)
    forwards, backwards = Film(COURSES[0], FOLD, lecture), Film(COURSES[0], FOLD, lecture)
    moments = [5.0, 20.0, 21.0, 40.0, 80.0]
    one = {at_s: forwards.frame(at_s).tobytes() for at_s in moments}
    other = {at_s: backwards.frame(at_s).tobytes() for at_s in reversed(moments)}
    assert one == other


def test_the_film_is_as_long_as_its_narration() -> None:
    film = film_of(COURSES[0], FOLD)
    assert film.frames / DRAWN_FPS == pytest.approx(film.length_s, abs=0.1)
    assert next(iter(film)).size == (WIDTH, HEIGHT)


@by_name
def test_no_picture_stands_still_or_is_empty(course: Course, lecture: Lecture) -> None:
    film = film_of(course, lecture)
    frames = [film.frame(float(number / DRAWN_FPS)) for number in range(0, film.frames, int(DRAWN_FPS) * 6)]
    for frame in frames:
        assert frame.mode == "RGB"
        assert min(ImageStat.Stat(frame).stddev) > 8
    for before, after in pairwise(frames):
        assert ImageChops.difference(before, after).getbbox() is not None
    moment = film.length_s / 2
    assert ImageChops.difference(film.frame(moment), film.frame(moment + 0.08)).getbbox() is not None

"""Demo courses as small as they get, for tests that draw and encode them for real."""

from dataclasses import replace

from demo.content import FOLD, Course, Lecture, Scene


def short_lecture(name: str, title: str) -> Lecture:
    """Six seconds or so."""
    scene = Scene("", "Title", ("A lecture can be short.",))
    return Lecture(name=name, title=title, description="As short as they get.", scenes=(scene,))


def short_course(title: str, lectures: int = 2) -> Course:
    """Its lectures are called `<title> 1`, `<title> 2`, ..."""
    made = [short_lecture(f"{title.lower().replace(' ', '-')}-{n}", f"{title} {n}") for n in range(1, lectures + 1)]
    return Course(title, "For tests.", tuple(made))


def minute_of_fold(title: str) -> Course:
    """The first demo lecture without its last scenes: a little over a minute."""
    return Course(title, "For tests.", (replace(FOLD, scenes=FOLD.scenes[:3]),))

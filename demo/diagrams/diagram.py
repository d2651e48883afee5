"""What a diagram is, and the shapes that many of them have: an actor, a stream, a database, something on its way."""

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from PIL import Image

from demo.content import Course, Lecture, Scene
from demo.drawing import (
    AMBER,
    CARD,
    LINE,
    MARGIN,
    MUTED,
    NIGHT,
    TEAL,
    Colour,
    Pen,
    Point,
    Stage,
    along,
    mix,
)


@dataclass(frozen=True)
class Beat:
    """Where the voice is: `number` counts the scene's sentences from 0, times are seconds, `part` is 0 to 1."""

    number: int
    since_s: float
    part: float
    scene_s: float
    scene_part: float


class Diagram:
    """One scene's picture. The base draws the heading; the area below it, from 170 to 560, is the diagram's."""

    def __init__(self, course: Course, lecture: Lecture, scene: Scene) -> None:
        self.course = course
        self.lecture = lecture
        self.scene = scene

    def still(self, pen: Pen, beat: int) -> None:  # noqa: ARG002  for those below
        pen.text((MARGIN, 84), self.scene.heading, 44)

    def moving(self, stage: Stage, beat: Beat) -> None:
        """Put what moves."""

    def word(self, beat: int) -> str:
        """The scene's word for this beat, or for the whole scene where it has but one."""
        return self.scene.shows[min(beat, len(self.scene.shows) - 1)] if self.scene.shows else ""


def actor(pen: Pen, centre: Point, radius: float, name: str = "actor", colour: Colour = AMBER) -> None:
    """A disc with its name."""
    pen.disc(centre, radius + 12, outline=colour, alpha=0.25, width=3)
    pen.disc(centre, radius, fill=mix(CARD, colour, 0.16), outline=colour, width=3)
    pen.text(centre, name, min(30, radius * 0.46), anchor="mm")


def rail(pen: Pen, left: float, right: float, y: float, name: str = "stream") -> None:
    """What entries move along."""
    pen.box((left, y - 36, right, y + 36), radius=36, fill=mix(NIGHT, CARD, 0.6))
    for x in range(round(left) + 34, round(right) - 20, 26):
        pen.disc((x, y), 2, fill=LINE)
    pen.text((left + 6, y - 70), name, 22, MUTED)


def postgres(pen: Pen, centre: Point, name: str, colour: Colour = TEAL) -> None:
    """A cylinder with its name."""
    x, y = centre
    pen.cylinder((x - 70, y - 62, x + 70, y + 62), colour)
    pen.text((x, y + 12), name, 24, anchor="mm")


def journey(stage: Stage, sprite: Image.Image, path: tuple[Point, ...], part: float) -> None:
    """Move along the legs of `path`, appearing at its start and vanishing at its end; outside 0..1 nothing is put."""
    if not 0 <= part <= 1:
        return
    legs = [math.dist(here, there) for here, there in pairwise(path)]
    left = part * sum(legs)
    at = path[-1]
    for length, (here, there) in zip(legs, pairwise(path), strict=True):
        if left <= length:
            at = along(here, there, left / length if length else 0)
            break
        left -= length
    stage.put(sprite, at, min(1.0, part * 9, (1 - part) * 9))


@lru_cache(maxsize=32)
def bar(colour: Colour, width: int, height: int) -> Image.Image:
    """A cursor, or the like."""
    return Image.new("RGBA", (width, height), (*colour, 255))

"""A lecture's pictures: for any moment of its narration, the frame that belongs to it."""

from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache
from typing import Final

from PIL import Image

from demo.content import Course, Lecture
from demo.diagrams import KINDS
from demo.diagrams.diagram import Beat, Diagram
from demo.drawing import (
    AMBER,
    HEIGHT,
    LINE,
    MARGIN,
    MUTED,
    NIGHT,
    PAPER,
    TEAL,
    WIDTH,
    Pen,
    Stage,
    drift,
    ease,
    ground,
    label,
    mix,
)
from demo.narration import Narration, Sentence

# Every drawn frame is shown twice at 25 a second.
DRAWN_FPS: Final = Fraction(25, 2)
FADE_S: Final = 0.4
_CLOCK_SIZE: Final = 34


class Film:
    """The moving picture of one lecture. Still parts are drawn once each and kept until the next one."""

    def __init__(self, course: Course, lecture: Lecture, narration: Narration) -> None:
        self._course = course
        self._lecture = lecture
        self.length_s = narration.length_s
        self._sentences = narration.sentences
        self._diagrams: list[Diagram] = [KINDS[scene.diagram](course, lecture, scene) for scene in lecture.scenes]
        self._plate = lru_cache(maxsize=3)(self._draw_plate)
        self._faded = lru_cache(maxsize=1)(self._fade)

    @property
    def frames(self) -> int:
        return int(self.length_s * DRAWN_FPS)

    def __iter__(self) -> Iterator[Image.Image]:
        """RGB frames of 1280 by 720, DRAWN_FPS of them a second."""
        for number in range(self.frames):
            yield self.frame(float(number / DRAWN_FPS))

    def frame(self, at_s: float) -> Image.Image:
        """The picture at this second of the clip."""
        index = self._index(at_s)
        sentence = self._sentences[index]
        begun_s = self._begin(index)
        stage = Stage(self._background(index, at_s - begun_s).copy())
        drift(stage, at_s)
        beat = self._beat(index, sentence, at_s)
        self._diagrams[sentence.scene].moving(stage, beat)
        self._clock(stage, at_s)
        return stage.frame

    def _index(self, at_s: float) -> int:
        """The sentence that is spoken, or whose turn it is in the pause before it."""
        for index in range(len(self._sentences) - 1, 0, -1):
            if at_s >= self._begin(index):
                return index
        return 0

    def _begin(self, index: int) -> float:
        """A picture appears a little before its sentence."""
        return max(0.0, self._sentences[index].start_s - 0.3) if index else 0.0

    def _beat(self, index: int, sentence: Sentence, at_s: float) -> Beat:
        scene = [i for i, each in enumerate(self._sentences) if each.scene == sentence.scene]
        first_s, last_s = self._begin(scene[0]), self._end(scene[-1])
        since_s = at_s - self._begin(index)
        return Beat(
            number=sentence.beat,
            since_s=since_s,
            part=min(1.0, since_s / (self._end(index) - self._begin(index))),
            scene_s=at_s - first_s,
            scene_part=min(1.0, (at_s - first_s) / (last_s - first_s)),
        )

    def _end(self, index: int) -> float:
        return self._begin(index + 1) if index + 1 < len(self._sentences) else self.length_s

    def _background(self, index: int, since_s: float) -> Image.Image:
        if index == 0 or since_s >= FADE_S:
            return self._plate(index)
        return self._faded(index, round(8 * ease(since_s / FADE_S)))

    def _fade(self, index: int, eighths: int) -> Image.Image:
        return Image.blend(self._plate(index - 1), self._plate(index), eighths / 8)

    def _draw_plate(self, index: int) -> Image.Image:
        sentence = self._sentences[index]
        pen = Pen(ground())
        self._frame_of_every_picture(pen, sentence.scene)
        self._diagrams[sentence.scene].still(pen, sentence.beat)
        return pen.lift()

    def _frame_of_every_picture(self, pen: Pen, scene: int) -> None:
        """The line at the top: a small ladder as the mark, the course, and on later slides the lecture."""
        for step in range(3):
            x = MARGIN + step * 10
            pen.box((x, 50 - step * 7, x + 7, 58), fill=(TEAL, AMBER, PAPER)[step], outline=None, radius=2)
        words = self._course.title if scene == 0 else f"{self._course.title}   /   {self._lecture.title}"
        pen.text((MARGIN + 44, 47), words, 20, MUTED, "lm")

    def _clock(self, stage: Stage, at_s: float) -> None:
        """The second one is at, and the share of the whole below everything."""
        minutes, seconds = divmod(int(at_s), 60)
        total_minutes, total_seconds = divmod(int(self.length_s), 60)
        stage.put(label(f"/ {total_minutes}:{total_seconds:02}", 20, MUTED), (WIDTH - MARGIN - 24, 48))
        # Each digit has a place of its own, so that the clock does not dance.
        x = WIDTH - MARGIN - 62.0
        for character in reversed(f"{minutes}:{seconds:02}"):
            pitch = 11.0 if character == ":" else 20.0
            stage.put(label(character, _CLOCK_SIZE, PAPER), (x - pitch / 2, 43))
            x -= pitch
        width = WIDTH - 2 * MARGIN
        stage.frame.paste(mix(LINE, NIGHT, 0.4), (MARGIN, HEIGHT - 16, WIDTH - MARGIN, HEIGHT - 12))
        done = round(width * min(1.0, at_s / self.length_s))
        stage.frame.paste(TEAL, (MARGIN, HEIGHT - 16, MARGIN + done, HEIGHT - 12))

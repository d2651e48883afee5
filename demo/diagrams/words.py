"""Diagrams of words: the title, a list of points, a statement with its answer."""

import math
from typing import ClassVar

from demo.diagrams.diagram import Beat, Diagram, actor, bar, journey
from demo.drawing import (
    AMBER,
    CARD,
    CORAL,
    LINE,
    MARGIN,
    MUTED,
    NIGHT,
    PAPER,
    TEAL,
    VIOLET,
    WIDTH,
    Colour,
    Pen,
    Point,
    Stage,
    ease,
    label,
    mix,
    ring,
    token,
)


class Title(Diagram):
    """The lecture's name, with entries flowing into an actor below it."""

    ACTOR: ClassVar[Point] = (1040, 440)

    def still(self, pen: Pen, beat: int) -> None:  # noqa: ARG002
        index = self.course.lectures.index(self.lecture) + 1
        pen.text((MARGIN, 150), f"Lecture {index} of {len(self.course.lectures)}", 26, TEAL)
        for row, line in enumerate(_balance(pen, self.lecture.title, 66, 1000)):
            pen.text((MARGIN - 3, 192 + row * 78), line, 66)
        pen.line([(MARGIN, 440), (self.ACTOR[0] - 84, 440)], LINE, 2)
        actor(pen, self.ACTOR, 66, "")

    def moving(self, stage: Stage, beat: Beat) -> None:
        speed, spacing = 92.0, 104.0
        length = self.ACTOR[0] - 60 - MARGIN
        first = int(beat.scene_s * speed / spacing)
        for step in range(int(length / spacing) + 1):
            number = first - step
            gone = beat.scene_s * speed - number * spacing
            colour = mix(VIOLET, TEAL, ease(gone / length))
            if number >= -9:
                journey(
                    stage,
                    token(str(number + 12), _stepped(colour)),
                    ((MARGIN, 440), (self.ACTOR[0] - 50, 440)),
                    gone / length,
                )
        applied = int((beat.scene_s * speed - length) / spacing) + 12
        stage.put(label(str(max(3, applied)), 40, AMBER), self.ACTOR)


def _stepped(colour: Colour) -> Colour:
    """Fewer different colours, so that sprites come out of the cache."""
    red, green, blue = (value // 12 * 12 for value in colour)
    return red, green, blue


def _balance(pen: Pen, words: str, size: float, width: float) -> list[str]:
    """One line, or two of about the same length."""
    if pen.width_of(words, size) <= width:
        return [words]
    parts = words.split()
    cut = min(
        range(1, len(parts)),
        key=lambda at: abs(pen.width_of(" ".join(parts[:at]), size) - pen.width_of(" ".join(parts[at:]), size)),
    )
    return [" ".join(parts[:cut]), " ".join(parts[cut:])]


class Points(Diagram):
    """One line a beat; what was said stays, what is being said is bright."""

    def still(self, pen: Pen, beat: int) -> None:
        super().still(pen, beat)
        rows = [(index, words) for index, words in enumerate(self.scene.shows) if words]
        for row, (index, words) in enumerate(rows):
            y = self._y(row)
            if index > beat:
                # A place is kept for what will be said.
                pen.disc((MARGIN + 22, y), 20, outline=LINE)
                length = min(620, 18 * len(words))
                pen.box(
                    (MARGIN + 72, y - 5, MARGIN + 72 + length, y + 5), fill=LINE, outline=None, alpha=0.35, radius=5
                )
                continue
            now = index == beat
            if now:
                pen.box((MARGIN - 14, y - 38, WIDTH - MARGIN, y + 38), radius=38, fill=TEAL, outline=None, alpha=0.10)
            pen.disc((MARGIN + 22, y), 20, fill=TEAL if now else mix(TEAL, CARD, 0.6))
            pen.text((MARGIN + 22, y), str(row + 1), 22, NIGHT, "mm")
            self._words(pen, y, words, PAPER if now else MUTED)

    def _y(self, row: int) -> float:
        count = sum(1 for words in self.scene.shows if words)
        return 228 + row * {2: 130, 3: 116, 4: 96}[count]

    def _words(self, pen: Pen, y: float, words: str, colour: Colour) -> None:
        """Three spaces in a line separate a term from what it means."""
        term, _, meaning = words.partition("   ")
        pen.text((MARGIN + 72, y), term, 40, colour, "lm")
        if meaning:
            pen.text((MARGIN + 320, y), meaning.strip(), 36, mix(colour, MUTED, 0.4), "lm")

    def moving(self, stage: Stage, beat: Beat) -> None:
        rows = [index for index, words in enumerate(self.scene.shows) if words]
        if beat.number in rows:
            stage.put(
                ring(26, TEAL),
                (MARGIN + 22, self._y(rows.index(beat.number))),
                0.55 + 0.45 * math.sin(beat.since_s * 3.5),
            )


class Statement(Diagram):
    """A statement, a line of it lit per beat, and what came of it."""

    def still(self, pen: Pen, beat: int) -> None:
        super().still(pen, beat)
        *lines, result = self.scene.shows
        lit = self._lit(beat)
        pen.box((MARGIN, 176, WIDTH - MARGIN, 446), fill=mix(NIGHT, CARD, 0.75), radius=20)
        for row, line in enumerate(lines):
            y = 222 + row * 60
            if row in lit and len(lit) < len(lines):
                pen.box(
                    (MARGIN + 14, y - 28, WIDTH - MARGIN - 14, y + 28), fill=AMBER, outline=None, alpha=0.13, radius=12
                )
            indent = (len(line) - len(line.lstrip())) * 16
            self._code(pen, (MARGIN + 48 + indent, y), line.strip(), bright=row in lit)
        kind, _, words = result.partition(":")
        if beat >= 2:
            colour = TEAL if kind == "ok" else CORAL
            pen.arrow((MARGIN + 40, 510), (MARGIN + 110, 510), colour)
            pen.text((MARGIN + 136, 510), words, 36, colour, "lm")

    def _lit(self, beat: int) -> tuple[int, ...]:
        if self.scene.shows[-1].startswith("no:"):
            return ((0, 1, 2, 3), (3,), (3,), (3,))[beat]
        return ((0, 1, 2, 3), (1,), (3,), (0, 1, 2, 3))[beat]

    def _code(self, pen: Pen, at: Point, line: str, *, bright: bool) -> None:
        x, y = at
        for word in line.split():
            keyword = word.isupper() and word.isalpha() and len(word) > 1
            value = word.startswith(":") or word.strip(",").isdigit()
            colour = VIOLET if keyword else AMBER if value else PAPER
            pen.text((x, y), word, 34, colour if bright else mix(colour, CARD, 0.45), "lm")
            x += pen.width_of(word + " ", 34)

    def moving(self, stage: Stage, beat: Beat) -> None:
        # A caret runs along the lit line as it is read.
        lit = self._lit(beat.number)
        row = lit[min(len(lit) - 1, int(beat.part * len(lit)))]
        part = beat.part * len(lit) % 1 if len(lit) > 1 else beat.part
        x = MARGIN + 34 + (WIDTH - 2 * MARGIN - 68) * ease(part)
        stage.put(bar(AMBER, 40, 3), (x, 222 + row * 60 + 27), math.sin(math.pi * min(1.0, part)) * 0.9)

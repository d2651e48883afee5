"""The diagrams of the lectures. Each has a still part per beat (a sentence) and a moving part per frame."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import ClassVar, Final

from PIL import Image

from demo.content import Course, Lecture, Scene
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
    along,
    chip,
    ease,
    ground,
    label,
    mix,
    ring,
    token,
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


def _actor(pen: Pen, centre: Point, radius: float, name: str = "actor", colour: Colour = AMBER) -> None:
    pen.disc(centre, radius + 12, outline=colour, alpha=0.25, width=3)
    pen.disc(centre, radius, fill=mix(CARD, colour, 0.16), outline=colour, width=3)
    pen.text(centre, name, min(30, radius * 0.46), anchor="mm")


def _rail(pen: Pen, left: float, right: float, y: float, name: str = "stream") -> None:
    pen.box((left, y - 36, right, y + 36), radius=36, fill=mix(NIGHT, CARD, 0.6))
    for x in range(round(left) + 34, round(right) - 20, 26):
        pen.disc((x, y), 2, fill=LINE)
    pen.text((left + 6, y - 70), name, 22, MUTED)


def _postgres(pen: Pen, centre: Point, name: str, colour: Colour = TEAL) -> None:
    x, y = centre
    pen.cylinder((x - 70, y - 62, x + 70, y + 62), colour)
    pen.text((x, y + 12), name, 24, anchor="mm")


def _journey(stage: Stage, sprite: Image.Image, path: tuple[Point, ...], part: float) -> None:
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


class Title(Diagram):
    """The lecture's name, with entries flowing into an actor below it."""

    ACTOR: ClassVar[Point] = (1040, 440)

    def still(self, pen: Pen, beat: int) -> None:  # noqa: ARG002
        index = self.course.lectures.index(self.lecture) + 1
        pen.text((MARGIN, 150), f"Lecture {index} of {len(self.course.lectures)}", 26, TEAL)
        for row, line in enumerate(_balance(pen, self.lecture.title, 66, 1000)):
            pen.text((MARGIN - 3, 192 + row * 78), line, 66)
        pen.line([(MARGIN, 440), (self.ACTOR[0] - 84, 440)], LINE, 2)
        _actor(pen, self.ACTOR, 66, "")

    def moving(self, stage: Stage, beat: Beat) -> None:
        speed, spacing = 92.0, 104.0
        length = self.ACTOR[0] - 60 - MARGIN
        first = int(beat.scene_s * speed / spacing)
        for step in range(int(length / spacing) + 1):
            number = first - step
            gone = beat.scene_s * speed - number * spacing
            colour = mix(VIOLET, TEAL, ease(gone / length))
            if number >= -9:
                _journey(
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


class Stream(Diagram):
    """Frames leave the player, lie in the stream for a while and reach the actor."""

    Y: ClassVar[float] = 340

    def still(self, pen: Pen, beat: int) -> None:
        super().still(pen, beat)
        pen.screen((150, self.Y))
        pen.text((150, self.Y + 84), "player", 22, MUTED, "mm")
        pen.arrow((236, self.Y), (318, self.Y))
        _rail(pen, 330, 890, self.Y, "stream in Redis")
        pen.arrow((902, self.Y), (966, self.Y))
        _actor(pen, (1070, self.Y), 78)
        notes = ("entry id  =  frame number", "no duplicates, no clock", "one actor holds one session")
        colours = (VIOLET, CORAL, AMBER)
        pen.text((610, 488), notes[min(beat, 2)], 32, colours[min(beat, 2)], "mm")

    def moving(self, stage: Stage, beat: Beat) -> None:
        travel, spacing = 7.0, 1.15
        newest = int(beat.scene_s / spacing)
        for number in range(max(0, newest - 7), newest + 1):
            part = (beat.scene_s - number * spacing) / travel
            _journey(stage, token(str(number + 7), VIOLET), ((228, self.Y), (1000, self.Y)), part)
        applied = int((beat.scene_s - travel) / spacing) + 7
        if applied >= 7:
            since = (beat.scene_s - travel) % spacing
            stage.put(ring(90, AMBER), (1070, self.Y), 0.9 * (1 - since / spacing))
        words = f"position {applied + 54}.0 s" if applied >= 7 else "position 60.0 s"
        stage.put(label(words, 24, AMBER), (1070, self.Y + 124))
        if beat.number == 1:
            self._refuse(stage, beat.since_s)

    def _refuse(self, stage: Stage, seconds: float) -> None:
        """A frame that is there already comes again, and falls off the stream's beginning."""
        cycle = seconds % 2.6
        number = token(str(9 + int(seconds / 2.6)), CORAL)
        if cycle < 0.8:
            stage.put(number, along((228, self.Y + 62), (340, self.Y + 46), ease(cycle / 0.8)), cycle * 4)
        elif cycle < 1.9:
            fall = (cycle - 0.8) / 1.1
            stage.put(number, (340 - 34 * fall, self.Y + 46 + 120 * fall * fall), 1 - fall)


class Apply(Diagram):
    """Old state and an entry go into a pure function, the new state comes out and goes round."""

    def still(self, pen: Pen, beat: int) -> None:
        super().still(pen, beat)
        pen.box((470, 280, 810, 420), fill=mix(CARD, TEAL, 0.10), outline=TEAL, width=3)
        pen.text((640, 350), "apply", 44, TEAL, "mm")
        pen.arrow((330, 310), (458, 310))
        pen.arrow((330, 390), (458, 390))
        pen.arrow((822, 350), (950, 350))
        pen.text((150, 262), "state", 22, MUTED, "mm")
        pen.text((150, 446), "entry", 22, MUTED, "mm")
        pen.text((1080, 300), "new state", 22, MUTED, "mm")
        if beat == 2:
            for word, x in (("clock", 470), ("database", 640), ("dice", 810)):
                pen.text((x, 220), word, 28, MUTED, "mm")
                half = pen.width_of(word, 28) / 2 + 8
                pen.line([(x - half, 224), (x + half, 216)], CORAL, 4)
        notes = ("", "apply(state, entry)  ->  state", "no clock, no database, no dice", "same entries, same state")
        pen.text((640, 508), notes[beat], 32, PAPER, "mm")

    def moving(self, stage: Stage, beat: Beat) -> None:
        turn, cycle = divmod(beat.scene_s, 3.0)
        number = int(turn) + 7
        old, new = chip(f"{53 + number}.0 s", AMBER, 26), chip(f"{54 + number}.0 s", AMBER, 26)
        entry = token(str(number), VIOLET, 26)
        if cycle < 1.4:
            part = ease((cycle - 0.5) / 0.9)
            stage.put(old, along((180, 310), (520, 330), part), 1 - part)
            stage.put(entry, along((180, 390), (520, 370), part), min(cycle * 4, 1 - part))
        elif cycle < 2.3:
            part = ease((cycle - 1.4) / 0.9)
            stage.put(new, along((760, 350), (1080, 350), part), part * 2)
        else:
            part = ease((cycle - 2.3) / 0.7)
            stage.put(new, (1080, 350), 1 - part)
            stage.put(new, (180, 310), part)


class Checkpoint(Diagram):
    """Entries roll in from the right; a cursor jumps along behind them, and what it passed is in the checkpoint."""

    PITCH: ClassVar[float] = 64
    RATE: ClassVar[float] = 0.9

    def still(self, pen: Pen, beat: int) -> None:
        super().still(pen, beat)
        pen.box((MARGIN, 226, WIDTH - MARGIN, 314), radius=44, fill=mix(NIGHT, CARD, 0.6))
        pen.text((MARGIN + 8, 182), "stream", 22, MUTED)
        if beat == 2:
            pen.box((150, 470, 480, 536), outline=TEAL, fill=mix(CARD, TEAL, 0.14), radius=33, width=3)
            pen.text((315, 503), "checkpoint", 28, TEAL, "mm")
            pen.text((530, 503), "+", 40, PAPER, "mm")
            pen.box((580, 470, 930, 536), outline=VIOLET, fill=mix(CARD, VIOLET, 0.14), radius=33, width=3)
            pen.text((755, 503), "entries after it", 28, VIOLET, "mm")
            pen.text((1040, 503), "=  state", 32, AMBER, "mm")
        else:
            pen.text((640, 503), "once a second: state and cursor to Postgres", 30, MUTED, "mm")

    def moving(self, stage: Stage, beat: Beat) -> None:
        newest = 16 + beat.scene_s * self.RATE
        head = WIDTH - MARGIN - 60
        # The cursor jumps every four entries.
        jump = int((newest - 1) / 4) * 4
        cursor = jump - 4 + 4 * ease(((newest - 1) / 4 - int((newest - 1) / 4)) * 5)
        cursor_x = max(MARGIN + 60, head - (newest - cursor) * self.PITCH + self.PITCH / 2)
        for number in range(int(newest) - 18, int(newest) + 1):
            x = head - (newest - number) * self.PITCH
            fade = min(1.0, (x - MARGIN - 30) / 60, (head + 40 - x) / 50 + 0.2)
            saved = number <= round(cursor)
            stage.put(token(str(number), mix(TEAL, CARD, 0.45) if saved else VIOLET), (x, 270), fade)
        stage.put(_bar(TEAL, 3, 132), (cursor_x, 276))
        stage.put(chip("cursor", TEAL, 20), (cursor_x, 364))
        stage.put(label("in the checkpoint", 24, TEAL), ((MARGIN + cursor_x) / 2, 410))
        stage.put(label("after the cursor", 24, VIOLET), ((cursor_x + head) / 2 + 20, 410))


@lru_cache(maxsize=32)
def _bar(colour: Colour, width: int, height: int) -> Image.Image:
    return Image.new("RGBA", (width, height), (*colour, 255))


class Replay(Diagram):
    """One process dies; another loads the checkpoint and reads the stream on."""

    CELLS: ClassVar[range] = range(7, 15)
    CURSOR: ClassVar[int] = 10

    def still(self, pen: Pen, beat: int) -> None:
        super().still(pen, beat)
        dead = beat >= 1
        self._process(pen, 250, "process A", CORAL if dead else TEAL, dead=dead)
        self._process(pen, 450, "process B", TEAL if beat >= 1 else LINE, dead=False)
        _rail(pen, MARGIN, 660, 280, "stream in Redis")
        for number in self.CELLS:
            saved = number <= self.CURSOR
            colour = mix(TEAL, CARD, 0.55) if saved else VIOLET
            pen.disc(self._cell(number), 20, fill=colour)
            pen.text(self._cell(number), str(number), 20, NIGHT, "mm")
        x = (self._cell(self.CURSOR)[0] + self._cell(self.CURSOR + 1)[0]) / 2
        pen.line([(x, 232), (x, 352)], TEAL, 3)
        pen.text((x, 372), f"cursor {self.CURSOR}", 20, TEAL, "mm")
        _postgres(pen, (210, 470), "Postgres")
        pen.text((306, 452), "checkpoint", 26, PAPER, "lm")
        pen.text((306, 486), f"state up to frame {self.CURSOR}", 22, MUTED, "lm")

    def _process(self, pen: Pen, y: float, name: str, colour: Colour, *, dead: bool) -> None:
        pen.box((800, y - 80, 1208, y + 80), outline=colour, fill=mix(NIGHT, CARD, 0.4 if dead else 0.9), width=3)
        pen.text((826, y - 56), name, 24, colour)
        if dead:
            pen.cross((1110, y), 26)
            pen.text((826, y + 6), "kill -9", 30, mix(CORAL, CARD, 0.2), "lm")

    def _cell(self, number: int) -> Point:
        return 112 + (number - self.CELLS.start) * 70, 280

    def moving(self, stage: Stage, beat: Beat) -> None:
        last = self.CELLS.stop - 1
        if beat.number == 0:
            self._alive(stage, beat, last)
            return
        flow = beat.since_s if beat.number == 1 else 99.0
        self._load(stage, flow)
        applied = self.CURSOR
        for number in range(self.CURSOR + 1, last + 1):
            part = (flow - 2.4 - (number - self.CURSOR) * 0.45) / 1.1
            _journey(
                stage,
                token(str(number), VIOLET, 20),
                (self._cell(number), (1110, 450)),
                ease(part) if part < 1 else part,
            )
            applied = number if part >= 0.9 else applied
        if flow > 1.5:
            stage.put(token(str(applied), AMBER, 36), (1110, 450))
            stage.put(label(f"state up to {applied}", 24, AMBER), (926, 462))
        if beat.number >= 2 and "kept" not in self.scene.shows:
            pulse = 0.75 + 0.25 * math.sin(beat.since_s * 3)
            stage.put(ring(50, TEAL), (1110, 450), pulse)

    def _alive(self, stage: Stage, beat: Beat, last: int) -> None:
        """The actor works; towards the end of the sentence its process is gone."""
        going = 1 - ease((beat.part - 0.62) / 0.3)
        swell = math.sin(beat.since_s * 4) * 0.1
        stage.put(ring(50, AMBER), (1110, 250), (0.6 + swell) * going)
        stage.put(token(str(last), AMBER, 36), (1110, 250), going)
        stage.put(label(f"state up to {last}", 24, AMBER), (926, 262), going)

    def _load(self, stage: Stage, seconds: float) -> None:
        part = (seconds - 0.2) / 1.4
        _journey(
            stage, chip("checkpoint", TEAL, 20, solid=True), ((300, 430), (1110, 450)), ease(part) if part < 1 else part
        )


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


class Claim(Diagram):
    """Two processes and one row: who opened the socket last has the higher epoch."""

    A: ClassVar[Point] = (270, 270)
    B: ClassVar[Point] = (1010, 270)

    def still(self, pen: Pen, beat: int) -> None:
        super().still(pen, beat)
        mode = self.word(beat)
        taken = beat >= 3 or mode == "after" or (mode == "reaper" and beat >= 2)
        gone = mode == "reaper"
        self._process(
            pen, self.A, "process A", 7, TEAL if not taken and not gone else CORAL if mode == "after" else LINE
        )
        self._process(pen, self.B, "reaper" if gone else "process B", 8 if taken else None, TEAL if taken else LINE)
        pen.screen((640, 236), LINE if gone else TEAL)
        pen.text((640, 312), "nobody there" if gone else "player", 22, MUTED, "mm")
        socket = None if gone else self.B if beat >= 2 or mode == "after" else self.A
        if socket:
            side = 1 if socket is self.B else -1
            pen.line([(640 + side * 72, 236), (socket[0] - side * 152, 236)], TEAL, 3)
            pen.text((640 + side * 144, 212), "socket", 20, TEAL, "mm")
        pen.cylinder((560, 396, 720, 548), TEAL)
        pen.text((640, 462), "epoch", 22, MUTED, "mm")
        pen.text((640, 503), "8" if taken else "7", 44, AMBER, "mm")

    def _process(self, pen: Pen, centre: Point, name: str, epoch: int | None, colour: Colour) -> None:
        x, y = centre
        pen.box((x - 150, y - 76, x + 150, y + 76), outline=colour, width=3)
        pen.text((x - 128, y - 54), name, 24, colour if colour != LINE else MUTED)
        if epoch:
            pen.text((x - 128, y + 34), f"epoch {epoch}", 24, MUTED, "lm")
            _actor(pen, (x + 84, y + 4), 42, "actor", colour)

    def moving(self, stage: Stage, beat: Beat) -> None:
        mode = self.word(beat.number)
        if mode == "after":
            self._bounce(stage, beat.scene_s)
        elif beat.number == (2 if mode == "reaper" else 3) or (not mode and beat.number == 2):
            cycle = beat.since_s % 3.2
            _journey(stage, chip("epoch + 1", AMBER, 20, solid=True), ((940, 350), (728, 470)), cycle / 1.3)
            _journey(stage, chip("state", TEAL, 20, solid=True), ((728, 470), (940, 350)), (cycle - 1.5) / 1.3)
        else:
            owner = self.A if not mode or beat.number < 2 else self.B
            if mode != "reaper" or beat.number >= 2:
                start, end = ((340, 350), (552, 470)) if owner is self.A else ((940, 350), (728, 470))
                _journey(stage, chip("checkpoint", TEAL, 20), (start, end), beat.scene_s % 2.2 / 1.5)
        if mode != "reaper":
            where = self.B if (mode == "after" or beat.number >= 2) else self.A
            side = 1 if where is self.B else -1
            path = ((640 + side * 72, 236), (where[0] - side * 152, 236))
            _journey(stage, token("", TEAL, 8), path, beat.scene_s % 1.2 / 1.0)

    def _bounce(self, stage: Stage, seconds: float) -> None:
        """The zombie's checkpoint meets the row and falls; the owner's gets through."""
        cycle = seconds % 3.0
        late = chip("epoch 7", CORAL, 20, solid=True)
        if cycle < 1.2:
            stage.put(late, along((340, 350), (520, 462), cycle / 1.2), cycle * 4)
        elif cycle < 2.2:
            fall = cycle - 1.2
            stage.put(late, (520 - 90 * fall, 462 + 74 * fall * fall), 1 - fall)
        _journey(stage, chip("epoch 8", TEAL, 20, solid=True), ((940, 350), (728, 470)), (cycle - 0.4) / 1.4)


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
        stage.put(_bar(AMBER, 40, 3), (x, 222 + row * 60 + 27), math.sin(math.pi * min(1.0, part)) * 0.9)


class TwoStep(Diagram):
    """Frames go from the player to the stream and on to the database; two numbers come back, one after the other."""

    Y: ClassVar[float] = 300
    HELD: ClassVar[tuple[int, ...]] = (10, 11, 12)

    def still(self, pen: Pen, beat: int) -> None:
        super().still(pen, beat)
        self._stations(pen)
        settled = self.word(beat) == "settled"
        if not settled:
            self._numbers(pen, "12" if beat >= 2 else "9", "12" if beat >= 4 else "9", beat in (2, 3), beat in (4, 5))

    def _stations(self, pen: Pen, *, wiped: bool = False) -> None:
        pen.screen((150, self.Y - 24))
        pen.text((150, self.Y + 56), "player", 22, MUTED, "mm")
        pen.text((150, self.Y + 96), "holds", 20, MUTED, "mm")
        pen.arrow((236, self.Y - 24), (398, self.Y - 24))
        _rail(pen, 410, 830, self.Y - 24, "stream in Redis" if not wiped else "stream in Redis: empty")
        pen.arrow((842, self.Y - 24), (980, self.Y - 24))
        _postgres(pen, (1080, self.Y - 24), "Postgres")

    def _numbers(self, pen: Pen, seq: str, saved: str, seq_lit: bool, saved_lit: bool) -> None:
        for left, name, value, lit, colour in (
            (440, "ack.seq", seq, seq_lit, AMBER),
            (800, "ack.saved", saved, saved_lit, TEAL),
        ):
            pen.box(
                (left, 424, left + 320, 532),
                outline=colour if lit else LINE,
                fill=mix(CARD, colour, 0.16 if lit else 0),
                width=3 if lit else 2,
            )
            pen.text((left + 28, 478), name, 28, colour if lit else MUTED, "lm")
            pen.text((left + 292, 478), value, 52, colour if lit else PAPER, "rm")

    def _held(self, number: int) -> Point:
        return 150 + (number - 11) * 54, self.Y + 152

    def moving(self, stage: Stage, beat: Beat) -> None:
        if self.word(beat.number) == "settled":
            self._settled(stage, beat.scene_s)
            return
        gone = ease((beat.since_s - 0.3) / 1.2) if beat.number >= 5 else 0.0
        for number in self.HELD:
            x, y = self._held(number)
            stage.put(token(str(number), VIOLET), (x, y + 40 * gone), 1 - gone)
            slot = (600 + (number - 11) * 90, self.Y - 24)
            part = (
                (beat.since_s - 0.4 - (number - 10) * 0.8) / 1.8
                if beat.number == 1
                else 2.0
                if beat.number > 1
                else -1.0
            )
            if part > 1:
                stage.put(token(str(number), mix(VIOLET, AMBER, 0.75) if beat.number >= 2 else VIOLET), slot)
            elif part >= 0:
                stage.put(token(str(number), VIOLET), along(self._held(number), slot, ease(part)), part * 6)
        if beat.number == 2:
            _journey(stage, chip("ack 12", AMBER, 22, solid=True), ((600, 330), (240, 350)), (beat.since_s - 0.8) / 1.8)
        if beat.number == 3:
            for number in self.HELD:
                stage.put(ring(28, PAPER), self._held(number), 0.5 + 0.5 * math.sin(beat.since_s * 4))
        if beat.number == 4:
            _journey(
                stage, chip("checkpoint", TEAL, 20, solid=True), ((700, 276), (1080, 276)), (beat.since_s - 0.2) / 1.4
            )
            _journey(
                stage, chip("saved 12", TEAL, 22, solid=True), ((1000, 350), (240, 350)), (beat.since_s - 2.2) / 2.2
            )

    def _settled(self, stage: Stage, seconds: float) -> None:
        """The steady state: a frame a second, applied at once and saved in threes."""
        newest = 12 + int(seconds)
        saved = newest // 3 * 3 - (0 if seconds % 3 > 1 else 3)
        for number in range(max(saved + 1, newest - 4), newest + 1):
            stage.put(token(str(number), VIOLET), (60 + (number - saved) * 54, self.Y + 152))
        part = seconds % 1
        _journey(stage, token(str(newest), VIOLET), ((236, self.Y - 24), (620, self.Y - 24)), part)
        if seconds % 3 < 1.2:
            _journey(stage, chip("checkpoint", TEAL, 20, solid=True), ((700, 276), (1080, 276)), seconds % 3 / 1.2)
        stage.put(chip(f"ack.seq  {newest - 1}", AMBER, 34), (610, 478))
        stage.put(chip(f"ack.saved  {saved}", TEAL, 34), (970, 478))


class Wipe(TwoStep):
    """Redis loses everything; the player sends again what is not saved."""

    def still(self, pen: Pen, beat: int) -> None:
        Diagram.still(self, pen, beat)
        self._stations(pen, wiped=0 < beat < 3)
        again = beat >= 4
        self._numbers(pen, "12" if again else "-" if beat else "12", "12" if again else "9", again, beat == 1 or again)

    def moving(self, stage: Stage, beat: Beat) -> None:
        for number in self.HELD:
            slot = (600 + (number - 11) * 90, self.Y - 24)
            stage.put(
                token(str(number), VIOLET), self._held(number), 1 if beat.number < 4 else 1 - ease(beat.since_s - 2)
            )
            if beat.number == 0:
                fall = max(0.0, beat.since_s - 1.0)
                stage.put(token(str(number), AMBER), (slot[0], slot[1] + 90 * fall * fall), 1 - fall)
            elif beat.number == 3:
                part = (beat.since_s - (number - 10) * 0.8) / 1.6
                if part > 1:
                    stage.put(token(str(number), AMBER), slot)
                elif part > 0:
                    stage.put(token(str(number), VIOLET), along(self._held(number), slot, ease(part)), part * 6)
            elif beat.number > 3:
                stage.put(token(str(number), AMBER), slot)
        if beat.number == 2:
            _journey(
                stage, chip("hello: 9", TEAL, 22, solid=True), ((1000, 350), (240, 350)), (beat.since_s - 0.3) / 2.4
            )
        if beat.number == 4:
            _journey(
                stage, chip("saved 12", TEAL, 22, solid=True), ((1000, 350), (240, 350)), (beat.since_s - 0.3) / 2.0
            )


class Buffer(Diagram):
    """Segments fall into a tank that the screen drains."""

    TANK: ClassVar[tuple[int, int, int, int]] = (520, 190, 760, 520)

    def still(self, pen: Pen, beat: int) -> None:
        super().still(pen, beat)
        left, top, right, bottom = self.TANK
        pen.box(
            (left - 6, top - 6, right + 6, bottom + 6), outline=LINE, fill=mix(NIGHT, CARD, 0.5), radius=18, width=3
        )
        pen.text((left + 120, bottom + 26), "buffer", 22, MUTED, "mm")
        pen.text((170, 430), "network", 22, MUTED, "mm")
        pen.arrow((380, 355), (500, 355))
        pen.arrow((780, 355), (900, 355))
        pen.screen((1050, 355), CORAL if beat == 2 else TEAL)
        for index in range(4):
            height = 18 + index * 16
            pen.box(
                (130 + index * 22, 388 - height, 144 + index * 22, 388),
                fill=(LINE if beat and index else TEAL),
                outline=None,
                radius=3,
            )

    def moving(self, stage: Stage, beat: Beat) -> None:
        left, top, right, bottom = self.TANK
        span = bottom - top
        if beat.number == 0:
            level = 0.12 + 0.72 * ease(beat.part)
        elif beat.number == 1:
            level = 0.84 - 0.42 * beat.part
        else:
            level = max(0.0, 0.42 - 0.9 * beat.part)
        ripple = 0.006 * math.sin(beat.scene_s * 2.4)
        height = round(span * max(0.0, min(1.0, level + (ripple if level > 0.02 else 0))))
        if height:
            full = _liquid(right - left, span)
            stage.frame.paste(full.crop((0, span - height, full.width, span)), (left, bottom - height))
        seconds = round(level * 12, 1)
        stage.put(label(f"{seconds:.1f} s", 40, NIGHT if level > 0.56 else PAPER), ((left + right) / 2, 355))
        gap = 0.9 if beat.number == 0 else 2.8
        if beat.number < 2 or beat.part < 0.3:
            _journey(
                stage, chip("segment", VIOLET, 18, solid=True), ((250, 355), (560, 355)), beat.scene_s % gap / 0.85
            )
        if level > 0.01:
            _journey(stage, token("", TEAL, 9), ((770, 355), (970, 355)), beat.scene_s % 0.8 / 0.7)
        else:
            stage.put(label("stall", 36, CORAL), (1050, 470), 0.65 + 0.35 * math.sin(beat.since_s * 5))


@lru_cache(maxsize=4)
def _liquid(width: int, height: int) -> Image.Image:
    column = Image.new("RGB", (1, height))
    column.putdata([mix(TEAL, mix(VIOLET, CARD, 0.35), y / height) for y in range(height)])
    return column.resize((width, height))


PLOT: Final = (250, 180, WIDTH - MARGIN, 530)


class Plot(Diagram):
    """A curve that is drawn from left to right while the scene goes on."""

    def __init__(self, course: Course, lecture: Lecture, scene: Scene) -> None:
        super().__init__(course, lecture, scene)
        self._full: dict[int, Image.Image] = {}

    def axes(self, pen: Pen) -> None:
        """Draw what is there before the curve."""
        raise NotImplementedError

    def curves(self, pen: Pen, beat: int) -> None:
        """Draw the whole curve."""
        raise NotImplementedError

    def still(self, pen: Pen, beat: int) -> None:
        super().still(pen, beat)
        self.axes(pen)

    def drawn(self, beat: Beat) -> float:
        """How much of the curve is to be seen, 0 to 1."""
        return min(1.0, beat.scene_part * 1.04)

    def moving(self, stage: Stage, beat: Beat) -> None:
        if beat.number not in self._full:
            pen = Pen(ground())
            self.still(pen, beat.number)
            self.curves(pen, beat.number)
            self._full[beat.number] = pen.lift().crop((PLOT[0], PLOT[1] - 20, PLOT[2] + 4, PLOT[3] + 6))
        width = (PLOT[2] - PLOT[0]) * self.drawn(beat)
        stage.reveal(self._full[beat.number], (PLOT[0], PLOT[1] - 20), width)
        if self.drawn(beat) < 1:
            stage.put(
                _bar(mix(LINE, PAPER, 0.3), 2, PLOT[3] - PLOT[1]), (PLOT[0] + width, (PLOT[1] + PLOT[3]) / 2), 0.7
            )

    @staticmethod
    def at(part: float, share: float) -> Point:
        """The point at `part` of the time and `share` of the height."""
        left, top, right, bottom = PLOT
        return left + (right - left) * part, bottom - (bottom - top) * share


class Ladder(Plot):
    """Throughput, the rung that is decided, and the buffer, over two minutes."""

    TOP_KBPS: ClassVar[float] = 6000
    RUNGS: ClassVar[tuple[tuple[str, int], ...]] = (("240p", 500), ("360p", 900), ("540p", 1700), ("720p", 3000))

    def axes(self, pen: Pen) -> None:
        for name, kbps in self.RUNGS:
            y = self.at(0, self._share(kbps))[1]
            pen.dashes((PLOT[0], y), (PLOT[2], y), mix(LINE, NIGHT, 0.35))
            pen.text((PLOT[0] - 20, y), name, 22, MUTED, "rm")
        pen.line([(PLOT[0], PLOT[3]), (PLOT[2], PLOT[3])], LINE)
        for x, words, colour in ((840, "throughput", TEAL), (1000, "rung", AMBER), (1090, "buffer", VIOLET)):
            pen.disc((x + 8, 112), 6, fill=colour)
            pen.text((x + 24, 112), words, 22, MUTED, "lm")

    @classmethod
    def _share(cls, kbps: float) -> float:
        return math.sqrt(kbps / cls.TOP_KBPS)

    def curves(self, pen: Pen, beat: int) -> None:  # noqa: ARG002
        points = _watched()
        count = len(points) - 1
        buffer = [self.at(i / count, 0.30 * level / 12) for i, (_, _, level) in enumerate(points)]
        pen.polygon([*buffer, self.at(1, 0), self.at(0, 0)], VIOLET, 0.28)
        pen.line(buffer, VIOLET, 2)
        pen.line([self.at(i / count, self._share(rate)) for i, (rate, _, _) in enumerate(points)], TEAL, 3)
        steps: list[Point] = []
        for index, (_, rung, _) in enumerate(points):
            y = self.at(0, self._share(self.RUNGS[rung][1]))[1]
            x = self.at(index / count, 0)[0]
            if steps:
                steps.append((x, steps[-1][1]))
            steps.append((x, y))
        pen.line(steps, AMBER, 5)


@lru_cache(maxsize=1)
def _watched() -> tuple[tuple[float, int, float], ...]:
    """(throughput kbit/s, rung, buffer s) for each of 120 seconds: down early, up with care."""
    chance = random.Random(11)  # noqa: S311
    seen, rung, level, calm = 4200.0, 1, 4.0, 0
    points = []
    for second in range(121):
        usual = 4900 if second < 40 else 760 if second < 74 else 5000
        rate = usual * chance.uniform(0.82, 1.16)
        seen = min(0.5 * (seen + rate), 0.75 * seen + 0.25 * rate)
        fits = max((i for i, (_, kbps) in enumerate(Ladder.RUNGS) if kbps <= 0.8 * seen), default=0)
        calm = calm + 1 if fits > rung else 0
        if fits < rung:
            rung = fits
        elif calm > 6 and level > 4:
            rung, calm = rung + 1, 0
        level = min(12.0, max(0.6, level + min(1.5, rate / Ladder.RUNGS[rung][1]) - 1))
        points.append((rate, rung, level))
    return tuple(points)


class Cap(Diagram):
    """The advice with its remaining seconds: renewed, then left to run out."""

    CENTRE: ClassVar[Point] = (300, 356)

    def still(self, pen: Pen, beat: int) -> None:
        super().still(pen, beat)
        pen.disc(self.CENTRE, 120, outline=mix(LINE, NIGHT, 0.4), width=10)
        pen.box((560, 226, WIDTH - MARGIN, 486), fill=mix(CARD, TEAL, 0.06), outline=LINE)
        late = beat == 2
        pen.text((600, 272), "cap", 22, MUTED, "lm")
        pen.text((600, 322), "none: the player decides" if late else "1 700 kbit/s", 46, MUTED if late else AMBER, "lm")
        pen.text((600, 398), "reason", 22, MUTED, "lm")
        pen.text((600, 440), "no advice for ten seconds" if late else "throughput fell to 2.3 Mbit/s", 32, PAPER, "lm")

    def moving(self, stage: Stage, beat: Beat) -> None:
        if beat.number == 2:
            left_s = max(0.0, 10 - beat.part * 16)
        else:
            left_s = 10 - beat.scene_s % 3.2
            if beat.number == 1:
                _journey(
                    stage, chip("ack", TEAL, 20, solid=True), ((560, 356), (430, 356)), (beat.scene_s % 3.2 - 2.2) / 1.0
                )
        sixtieths = round(left_s * 6) / 60
        stage.put(ring(126, CORAL if left_s < 3 else TEAL, sixtieths, 12), self.CENTRE)
        stage.put(label(f"{math.ceil(left_s)}", 76, PAPER), (self.CENTRE[0], self.CENTRE[1] - 8))
        stage.put(label("seconds", 22, MUTED), (self.CENTRE[0], self.CENTRE[1] + 48))


class Jitter(Diagram):
    """Sixty players come back: all in one instant, or each after a random wait."""

    COUNT: ClassVar[int] = 60
    LEFT: ClassVar[int] = 150
    RIGHT: ClassVar[int] = 960

    def still(self, pen: Pen, beat: int) -> None:
        super().still(pen, beat)
        spread = beat >= 2
        pen.text((MARGIN, 172), "players", 22, MUTED)
        pen.box((1000, 250, 1208, 470), outline=TEAL if spread else CORAL if beat else LINE, width=3)
        pen.text((1104, 342), "process", 26, PAPER, "mm")
        pen.text((1104, 382), ("", "crushed", "steady", "steady")[beat], 26, TEAL if spread else CORAL, "mm")

    def moving(self, stage: Stage, beat: Beat) -> None:
        spread = beat.number >= 2
        colour = TEAL if spread else CORAL if beat.number else MUTED
        for row, (delay, speed) in enumerate(_arrivals(self.COUNT)):
            y = 206 + row * 5.6
            period = 3.6
            start = delay * 2.6 if spread else 0.35
            cycle = beat.since_s % period
            part = (cycle - start) / (0.9 + 0.1 * speed)
            x = self.LEFT
            end_y = 260 + row * 3.4
            if beat.number == 0 or part <= 0:
                stage.put(token("", MUTED if not spread else VIOLET, 4), (x, y), 0.9)
            elif part < 1:
                at = along((x, y), (self.RIGHT + 34, end_y), part * part * (1.4 - 0.4 * part))
                stage.put(token("", colour, 4), at)


@lru_cache(maxsize=4)
def _arrivals(count: int) -> tuple[tuple[float, float], ...]:
    chance = random.Random(5)  # noqa: S311
    return tuple((chance.random(), chance.random()) for _ in range(count))


class Batch(Diagram):
    """Five hundred sessions: those that changed light up, and once a second a single statement saves them all."""

    COLUMNS: ClassVar[int] = 50
    ROWS: ClassVar[int] = 10
    PITCH: ClassVar[int] = 22
    CORNER: ClassVar[tuple[int, int]] = (90, 190)
    REFUSED: ClassVar[int] = 318

    def still(self, pen: Pen, beat: int) -> None:
        super().still(pen, beat)
        x, y = self.CORNER
        pen.box((x - 18, y - 18, x + self.COLUMNS * self.PITCH + 12, y + self.ROWS * self.PITCH + 12), fill=None)
        notes = ("500 sessions", "one statement a second", "one row refused", "499 saved, 1 set aside")
        pen.text((x - 10, 478), notes[beat], 34, CORAL if beat == 2 else TEAL, "lm")
        for left, words, colour in ((720, "changed", AMBER), (890, "saved", TEAL), (1040, "set aside", CORAL)):
            pen.disc((left, 478), 7, fill=colour)
            pen.text((left + 18, 478), words, 22, MUTED, "lm")

    def moving(self, stage: Stage, beat: Beat) -> None:
        second, part = divmod(beat.scene_s / 2.0, 1)
        width = self.COLUMNS * self.PITCH
        stage.frame.paste(_grid(int(second) % 4, _CHANGED), self.CORNER)
        sweep = ease((part - 0.45) / 0.5)
        stage.reveal(_grid(int(second) % 4, _SAVED), self.CORNER, width * sweep)
        if 0 < sweep < 1:
            x = self.CORNER[0] + width * sweep
            stage.put(_bar(TEAL, 3, self.ROWS * self.PITCH + 8), (x, self.CORNER[1] + self.ROWS * self.PITCH / 2))
        if beat.number >= 2:
            row, column = divmod(self.REFUSED, self.COLUMNS)
            home = (self.CORNER[0] + column * self.PITCH + 8, self.CORNER[1] + row * self.PITCH + 8)
            away = ease((beat.since_s - 1.5) / 1.5) if beat.number == 2 else 1.0
            stage.put(ring(18, CORAL), home, 0.6 + 0.4 * math.sin(beat.since_s * 5))
            stage.put(token("", CORAL, 9), along(home, (1040, 478), away))


_CHANGED, _SAVED = 0, 1


@lru_cache(maxsize=8)
def _grid(seed: int, kind: int) -> Image.Image:
    """The squares of second `seed`: with the changed ones lit, or after they have been saved."""
    chance = random.Random(seed)  # noqa: S311
    width, height = Batch.COLUMNS * Batch.PITCH, Batch.ROWS * Batch.PITCH
    corner = Batch.CORNER
    pen = Pen(ground().crop((corner[0], corner[1], corner[0] + width, corner[1] + height)))
    for index in range(Batch.COLUMNS * Batch.ROWS):
        row, column = divmod(index, Batch.COLUMNS)
        changed, light = chance.random() < 0.8, chance.uniform(0, 0.35)
        lit = mix(AMBER if kind == _CHANGED else TEAL, CARD, light)
        x, y = column * Batch.PITCH, row * Batch.PITCH
        pen.box((x, y, x + 16, y + 16), fill=lit if changed else mix(LINE, NIGHT, 0.3), outline=None, radius=4)
    return pen.lift()


class Trace(Plot):
    """A recorded throughput curve and what there is to see in it, one thing a beat."""

    TOP_MBPS: ClassVar[float] = 6.0

    def axes(self, pen: Pen) -> None:
        for mbps in (2, 4, 6):
            y = self.at(0, mbps / self.TOP_MBPS)[1]
            pen.line([(PLOT[0], y), (PLOT[2], y)], LINE, 1, 0.5)
            pen.text((PLOT[0] - 20, y), f"{mbps}", 22, MUTED, "rm")
        pen.text((PLOT[0] - 20, PLOT[3]), "0", 22, MUTED, "rm")
        pen.text((MARGIN, PLOT[1] + 176), "Mbit/s", 22, MUTED, "lm")
        pen.line([(PLOT[0], PLOT[3]), (PLOT[2], PLOT[3])], LINE)

    def drawn(self, beat: Beat) -> float:
        # Only the first telling draws the curve; after that it is known.
        return min(1.0, beat.scene_part * 2.2) if self.scene.shows[0] == "curve" else 1.0

    def curves(self, pen: Pen, beat: int) -> None:
        rates = train()
        count = len(rates) - 1
        points = [self.at(i / count, min(1, rate / self.TOP_MBPS)) for i, rate in enumerate(rates)]
        word = self.word(beat)
        self._shade(pen, word, count)
        pen.polygon([*points, self.at(1, 0), self.at(0, 0)], TEAL, 0.16)
        pen.line(points, TEAL, 3)
        mean, harmonic = sum(rates) / len(rates), len(rates) / sum(1 / rate for rate in rates)
        if word in ("mean", "below", "harmonic"):
            self._level(pen, mean, f"mean {mean:.1f}", AMBER)
        if word == "harmonic":
            self._level(pen, harmonic, f"harmonic mean {harmonic:.1f}", VIOLET)

    def _level(self, pen: Pen, mbps: float, words: str, colour: Colour) -> None:
        y = self.at(0, mbps / self.TOP_MBPS)[1]
        pen.dashes((PLOT[0], y), (PLOT[2], y), colour, 3)
        width = pen.width_of(words, 22)
        pen.box((PLOT[2] - width - 32, y - 38, PLOT[2] - 8, y - 6), fill=NIGHT, outline=None, alpha=0.8, radius=10)
        pen.text((PLOT[2] - 20, y - 22), words, 22, colour, "rm")

    def _shade(self, pen: Pen, word: str, count: int) -> None:
        mean = sum(train()) / len(train())
        spans = {
            "good": [(s, TEAL) for s in runs(lambda rate: rate > mean)],
            "below": [(s, CORAL) for s in runs(lambda rate: rate < mean)],
            "dips": [(s, CORAL) for s in DIPS],
            "short": [(s, AMBER) for s in DIPS if s[1] - s[0] <= 10],
            "long": [(s, CORAL) for s in DIPS if s[1] - s[0] > 10],
        }
        for (start, end), colour in spans.get(word, []):
            left, right = self.at(start / count, 0)[0], self.at(end / count, 0)[0]
            pen.box((left, PLOT[1], right, PLOT[3]), fill=colour, outline=None, alpha=0.17, radius=4)
            if word in ("short", "long") and right - left > 24:
                pen.text(((left + right) / 2, PLOT[1] + 18), f"{end - start} s", 22, colour, "mm")

    def moving(self, stage: Stage, beat: Beat) -> None:
        super().moving(stage, beat)
        # A point of light rides along the curve.
        rates = train()
        part = beat.scene_s / 14 % 1 if self.drawn(beat) >= 1 else self.drawn(beat)
        index = part * (len(rates) - 1)
        low = int(index)
        high = min(low + 1, len(rates) - 1)
        rate = rates[low] + (rates[high] - rates[low]) * (index - low)
        stage.put(token("", PAPER, 7), self.at(part, min(1, rate / self.TOP_MBPS)))


# (from, to) in seconds of the ride.
DIPS: Final = ((38, 45), (74, 104), (131, 137), (160, 166))


@lru_cache(maxsize=1)
def train() -> tuple[float, ...]:
    """Mbit/s for each second of a ride of three minutes, with tunnels."""
    chance = random.Random(3)  # noqa: S311
    rates, drift = [], 0.0
    for second in range(181):
        drift = 0.9 * drift + chance.uniform(-0.3, 0.3)
        rate = 2.7 + 1.15 * math.sin(second / 13) + drift + chance.uniform(-0.35, 0.35)
        for start, end in DIPS:
            if start <= second <= end:
                rate = 0.34 + 0.2 * chance.random()
        rates.append(max(0.3, rate))
    return tuple(rates)


def runs(wanted: Callable[[float], bool]) -> list[tuple[int, int]]:
    """The stretches of the ride, (from, to) in seconds, in which every second's rate is `wanted`."""
    found: list[tuple[int, int]] = []
    for second, rate in enumerate(train()):
        if not wanted(rate):
            continue
        if found and found[-1][1] == second:
            found[-1] = (found[-1][0], second + 1)
        else:
            found.append((second, second + 1))
    return [(start, end) for start, end in found if end - start > 2]


class Playback(Diagram):
    """A minute on the wall and what became of it on the screen."""

    # kind, seconds on the wall.
    COURSE: ClassVar[tuple[tuple[str, float], ...]] = (
        ("startup", 4), ("play", 21), ("stall", 3), ("play", 19), ("stall", 2), ("play", 11),
    )  # fmt: skip
    COLOURS: ClassVar[dict[str, Colour]] = {"startup": AMBER, "play": TEAL, "stall": CORAL}
    TOTAL_S: ClassVar[float] = 60

    def still(self, pen: Pen, beat: int) -> None:
        super().still(pen, beat)
        word = self.word(beat)
        pen.text((MARGIN, 186), "on the wall", 22, MUTED)
        self._lane(pen, 250, word, wall=True)
        pen.text((MARGIN, 350), "in the video", 22, MUTED)
        self._lane(pen, 414, word, wall=False)
        self._legend(pen, word)

    def _x(self, seconds: float) -> float:
        return MARGIN + (WIDTH - 2 * MARGIN) * seconds / self.TOTAL_S

    def _lane(self, pen: Pen, y: float, word: str, *, wall: bool) -> None:
        clock = 0.0
        for kind, seconds in self.COURSE:
            if not wall and kind != "play":
                continue
            left, right = self._x(clock) + 2, self._x(clock + seconds) - 2
            lit = word in ("all", kind) or (word == "ratio" and kind == "stall")
            colour = self.COLOURS[kind]
            pen.box(
                (left, y - 30, right, y + 30), fill=colour if lit else mix(colour, NIGHT, 0.72), outline=None, radius=8
            )
            if wall and kind != "play":
                pen.text(((left + right) / 2, y), f"{seconds:.0f} s", 20, NIGHT if lit else MUTED, "mm")
            clock += seconds

    def _legend(self, pen: Pen, word: str) -> None:
        if word == "ratio":
            pen.text((WIDTH / 2, 510), "5 s stalled  /  56 s watched  =  a rebuffer ratio of 8.9 %", 32, CORAL, "mm")
            return
        for x, kind, words in ((330, "startup", "startup delay"), (590, "play", "playing"), (790, "stall", "stall")):
            lit = word in ("all", kind)
            pen.disc((x, 510), 8, fill=self.COLOURS[kind])
            pen.text((x + 22, 510), words, 26, PAPER if lit else MUTED, "lm")

    def moving(self, stage: Stage, beat: Beat) -> None:
        wall = beat.scene_s * 3.2 % self.TOTAL_S
        video, clock, kind = 0.0, 0.0, "play"
        for step, seconds in self.COURSE:
            if clock <= wall:
                kind = step
                video += min(seconds, wall - clock) if step == "play" else 0
            clock += seconds
        stage.put(_bar(PAPER, 3, 84), (self._x(wall), 250))
        stage.put(_bar(PAPER, 3, 84), (self._x(video), 414))
        stage.put(token("", self.COLOURS[kind], 9), (self._x(wall), 204))
        stage.put(token("", self.COLOURS[kind], 9), (self._x(video), 368))


KINDS: Final[dict[str, type[Diagram]]] = {
    kind.__name__: kind
    for kind in (
        Title, Stream, Apply, Checkpoint, Replay, Points, Claim, Statement, TwoStep, Wipe, Buffer, Ladder, Cap, Jitter,
        Batch, Trace, Playback,
    )
}  # fmt: skip

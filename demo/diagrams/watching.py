"""Diagrams of what a learner's player does: its buffer, the ladder of bitrates, a ride with tunnels, playback."""

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import lru_cache
from typing import ClassVar, Final

from PIL import Image

from demo.content import Course, Lecture, Scene
from demo.diagrams.diagram import Beat, Diagram, bar, journey
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
    chip,
    ease,
    ground,
    label,
    mix,
    ring,
    token,
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
            journey(stage, chip("segment", VIOLET, 18, solid=True), ((250, 355), (560, 355)), beat.scene_s % gap / 0.85)
        if level > 0.01:
            journey(stage, token("", TEAL, 9), ((770, 355), (970, 355)), beat.scene_s % 0.8 / 0.7)
        else:
            stage.put(label("stall", 36, CORAL), (1050, 470), 0.65 + 0.35 * math.sin(beat.since_s * 5))


@lru_cache(maxsize=4)
def _liquid(width: int, height: int) -> Image.Image:
    column = Image.new("RGB", (1, height))
    column.putdata([mix(TEAL, mix(VIOLET, CARD, 0.35), y / height) for y in range(height)])
    return column.resize((width, height))


PLOT: Final = (250, 180, WIDTH - MARGIN, 530)


class Plot(Diagram, ABC):
    """A curve that is drawn from left to right while the scene goes on."""

    def __init__(self, course: Course, lecture: Lecture, scene: Scene) -> None:
        super().__init__(course, lecture, scene)
        self._full: dict[int, Image.Image] = {}

    @abstractmethod
    def axes(self, pen: Pen) -> None:
        """Draw what is there before the curve."""

    @abstractmethod
    def curves(self, pen: Pen, beat: int) -> None:
        """Draw the whole curve."""

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
            stage.put(bar(mix(LINE, PAPER, 0.3), 2, PLOT[3] - PLOT[1]), (PLOT[0] + width, (PLOT[1] + PLOT[3]) / 2), 0.7)

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
                journey(
                    stage, chip("ack", TEAL, 20, solid=True), ((560, 356), (430, 356)), (beat.scene_s % 3.2 - 2.2) / 1.0
                )
        sixtieths = round(left_s * 6) / 60
        stage.put(ring(126, CORAL if left_s < 3 else TEAL, sixtieths, 12), self.CENTRE)
        stage.put(label(f"{math.ceil(left_s)}", 76, PAPER), (self.CENTRE[0], self.CENTRE[1] - 8))
        stage.put(label("seconds", 22, MUTED), (self.CENTRE[0], self.CENTRE[1] + 48))


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
        stage.put(bar(PAPER, 3, 84), (self._x(wall), 250))
        stage.put(bar(PAPER, 3, 84), (self._x(video), 414))
        stage.put(token("", self.COLOURS[kind], 9), (self._x(wall), 204))
        stage.put(token("", self.COLOURS[kind], 9), (self._x(video), 368))

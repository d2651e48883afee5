"""Diagrams of the live core: streams, folds, checkpoints, replays, claims, acknowledgements, crowds."""

import math
import random
from functools import lru_cache
from typing import ClassVar

from PIL import Image

from demo.diagrams.diagram import Beat, Diagram, actor, bar, journey, postgres, rail
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


class Stream(Diagram):
    """Frames leave the player, lie in the stream for a while and reach the actor."""

    Y: ClassVar[float] = 340

    def still(self, pen: Pen, beat: int) -> None:
        super().still(pen, beat)
        pen.screen((150, self.Y))
        pen.text((150, self.Y + 84), "player", 22, MUTED, "mm")
        pen.arrow((236, self.Y), (318, self.Y))
        rail(pen, 330, 890, self.Y, "stream in Redis")
        pen.arrow((902, self.Y), (966, self.Y))
        actor(pen, (1070, self.Y), 78)
        notes = ("entry id  =  frame number", "no duplicates, no clock", "one actor holds one session")
        colours = (VIOLET, CORAL, AMBER)
        pen.text((610, 488), notes[min(beat, 2)], 32, colours[min(beat, 2)], "mm")

    def moving(self, stage: Stage, beat: Beat) -> None:
        travel, spacing = 7.0, 1.15
        newest = int(beat.scene_s / spacing)
        for number in range(max(0, newest - 7), newest + 1):
            part = (beat.scene_s - number * spacing) / travel
            journey(stage, token(str(number + 7), VIOLET), ((228, self.Y), (1000, self.Y)), part)
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
        stage.put(bar(TEAL, 3, 132), (cursor_x, 276))
        stage.put(chip("cursor", TEAL, 20), (cursor_x, 364))
        stage.put(label("in the checkpoint", 24, TEAL), ((MARGIN + cursor_x) / 2, 410))
        stage.put(label("after the cursor", 24, VIOLET), ((cursor_x + head) / 2 + 20, 410))


class Replay(Diagram):
    """One process dies; another loads the checkpoint and reads the stream on."""

    CELLS: ClassVar[range] = range(7, 15)
    CURSOR: ClassVar[int] = 10

    def still(self, pen: Pen, beat: int) -> None:
        super().still(pen, beat)
        dead = beat >= 1
        self._process(pen, 250, "process A", CORAL if dead else TEAL, dead=dead)
        self._process(pen, 450, "process B", TEAL if beat >= 1 else LINE, dead=False)
        rail(pen, MARGIN, 660, 280, "stream in Redis")
        for number in self.CELLS:
            saved = number <= self.CURSOR
            colour = mix(TEAL, CARD, 0.55) if saved else VIOLET
            pen.disc(self._cell(number), 20, fill=colour)
            pen.text(self._cell(number), str(number), 20, NIGHT, "mm")
        x = (self._cell(self.CURSOR)[0] + self._cell(self.CURSOR + 1)[0]) / 2
        pen.line([(x, 232), (x, 352)], TEAL, 3)
        pen.text((x, 372), f"cursor {self.CURSOR}", 20, TEAL, "mm")
        postgres(pen, (210, 470), "Postgres")
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
            journey(
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
        journey(
            stage, chip("checkpoint", TEAL, 20, solid=True), ((300, 430), (1110, 450)), ease(part) if part < 1 else part
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
            actor(pen, (x + 84, y + 4), 42, "actor", colour)

    def moving(self, stage: Stage, beat: Beat) -> None:
        mode = self.word(beat.number)
        if mode == "after":
            self._bounce(stage, beat.scene_s)
        elif beat.number == (2 if mode == "reaper" else 3) or (not mode and beat.number == 2):
            cycle = beat.since_s % 3.2
            journey(stage, chip("epoch + 1", AMBER, 20, solid=True), ((940, 350), (728, 470)), cycle / 1.3)
            journey(stage, chip("state", TEAL, 20, solid=True), ((728, 470), (940, 350)), (cycle - 1.5) / 1.3)
        else:
            owner = self.A if not mode or beat.number < 2 else self.B
            if mode != "reaper" or beat.number >= 2:
                start, end = ((340, 350), (552, 470)) if owner is self.A else ((940, 350), (728, 470))
                journey(stage, chip("checkpoint", TEAL, 20), (start, end), beat.scene_s % 2.2 / 1.5)
        if mode != "reaper":
            where = self.B if (mode == "after" or beat.number >= 2) else self.A
            side = 1 if where is self.B else -1
            path = ((640 + side * 72, 236), (where[0] - side * 152, 236))
            journey(stage, token("", TEAL, 8), path, beat.scene_s % 1.2 / 1.0)

    def _bounce(self, stage: Stage, seconds: float) -> None:
        """The zombie's checkpoint meets the row and falls; the owner's gets through."""
        cycle = seconds % 3.0
        late = chip("epoch 7", CORAL, 20, solid=True)
        if cycle < 1.2:
            stage.put(late, along((340, 350), (520, 462), cycle / 1.2), cycle * 4)
        elif cycle < 2.2:
            fall = cycle - 1.2
            stage.put(late, (520 - 90 * fall, 462 + 74 * fall * fall), 1 - fall)
        journey(stage, chip("epoch 8", TEAL, 20, solid=True), ((940, 350), (728, 470)), (cycle - 0.4) / 1.4)


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
        rail(pen, 410, 830, self.Y - 24, "stream in Redis" if not wiped else "stream in Redis: empty")
        pen.arrow((842, self.Y - 24), (980, self.Y - 24))
        postgres(pen, (1080, self.Y - 24), "Postgres")

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
            journey(stage, chip("ack 12", AMBER, 22, solid=True), ((600, 330), (240, 350)), (beat.since_s - 0.8) / 1.8)
        if beat.number == 3:
            for number in self.HELD:
                stage.put(ring(28, PAPER), self._held(number), 0.5 + 0.5 * math.sin(beat.since_s * 4))
        if beat.number == 4:
            journey(
                stage, chip("checkpoint", TEAL, 20, solid=True), ((700, 276), (1080, 276)), (beat.since_s - 0.2) / 1.4
            )
            journey(
                stage, chip("saved 12", TEAL, 22, solid=True), ((1000, 350), (240, 350)), (beat.since_s - 2.2) / 2.2
            )

    def _settled(self, stage: Stage, seconds: float) -> None:
        """The steady state: a frame a second, applied at once and saved in threes."""
        newest = 12 + int(seconds)
        saved = newest // 3 * 3 - (0 if seconds % 3 > 1 else 3)
        for number in range(max(saved + 1, newest - 4), newest + 1):
            stage.put(token(str(number), VIOLET), (60 + (number - saved) * 54, self.Y + 152))
        part = seconds % 1
        journey(stage, token(str(newest), VIOLET), ((236, self.Y - 24), (620, self.Y - 24)), part)
        if seconds % 3 < 1.2:
            journey(stage, chip("checkpoint", TEAL, 20, solid=True), ((700, 276), (1080, 276)), seconds % 3 / 1.2)
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
            journey(
                stage, chip("hello: 9", TEAL, 22, solid=True), ((1000, 350), (240, 350)), (beat.since_s - 0.3) / 2.4
            )
        if beat.number == 4:
            journey(
                stage, chip("saved 12", TEAL, 22, solid=True), ((1000, 350), (240, 350)), (beat.since_s - 0.3) / 2.0
            )


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
            stage.put(bar(TEAL, 3, self.ROWS * self.PITCH + 8), (x, self.CORNER[1] + self.ROWS * self.PITCH / 2))
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

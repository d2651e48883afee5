"""Drawing with Pillow: the palette, an antialiasing pen for what stands still, cached sprites for what moves.

Everything is in the film's pixels, 1280 by 720, from the top left corner. Still parts are drawn once at twice the size
and reduced; per frame only small pictures are pasted, so that a frame costs a few milliseconds.
"""

import math
import random
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final, TypeAlias

from PIL import Image, ImageDraw, ImageFilter, ImageFont

WIDTH: Final = 1280
HEIGHT: Final = 720
MARGIN: Final = 72
SCALE: Final = 2

Colour: TypeAlias = tuple[int, int, int]
Point: TypeAlias = tuple[float, float]

NIGHT: Final[Colour] = (11, 15, 30)
DUSK: Final[Colour] = (20, 30, 62)
CARD: Final[Colour] = (26, 36, 68)
LINE: Final[Colour] = (58, 74, 122)
MUTED: Final[Colour] = (146, 160, 198)
PAPER: Final[Colour] = (238, 242, 252)
TEAL: Final[Colour] = (86, 216, 192)
AMBER: Final[Colour] = (255, 188, 92)
CORAL: Final[Colour] = (255, 112, 112)
VIOLET: Final[Colour] = (158, 146, 255)


def mix(one: Colour, other: Colour, part: float) -> Colour:
    """`part` 0 is one, 1 the other."""
    red, green, blue = (round(a + (b - a) * part) for a, b in zip(one, other, strict=True))
    return red, green, blue


def ease(part: float) -> float:
    """0 to 1 with a gentle start and end; outside of that, clamped."""
    part = min(1.0, max(0.0, part))
    return part * part * (3 - 2 * part)


def along(one: Point, other: Point, part: float) -> Point:
    return one[0] + (other[0] - one[0]) * part, one[1] + (other[1] - one[1]) * part


@lru_cache(maxsize=64)
def font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


class Pen:
    """Draws still parts onto a picture, smoothly: on a copy of twice the size, which `lift` brings back."""

    def __init__(self, ground: Image.Image) -> None:
        self._size = ground.size
        self._sheet = ground.resize((ground.width * SCALE, ground.height * SCALE), Image.Resampling.BILINEAR)
        # In this mode what is drawn with an alpha is blended with what is there.
        self._draw = ImageDraw.Draw(self._sheet, "RGBA")

    def lift(self) -> Image.Image:
        return self._sheet.reduce(SCALE)

    def box(
        self,
        area: tuple[float, float, float, float],
        *,
        fill: Colour | None = CARD,
        outline: Colour | None = LINE,
        alpha: float = 1.0,
        radius: float = 16,
        width: float = 2,
    ) -> None:
        self._draw.rounded_rectangle(
            [value * SCALE for value in area],
            radius * SCALE,
            fill=_rgba(fill, alpha),
            outline=_rgba(outline, 1.0),
            width=round(width * SCALE) if outline else 0,
        )

    def disc(
        self,
        centre: Point,
        radius: float,
        *,
        fill: Colour | None = None,
        outline: Colour | None = None,
        alpha: float = 1.0,
        width: float = 2,
    ) -> None:
        x, y = centre
        self._draw.ellipse(
            [(x - radius) * SCALE, (y - radius) * SCALE, (x + radius) * SCALE, (y + radius) * SCALE],
            fill=_rgba(fill, alpha),
            outline=_rgba(outline, alpha),
            width=round(width * SCALE) if outline else 0,
        )

    def line(self, points: Sequence[Point], colour: Colour, width: float = 2, alpha: float = 1.0) -> None:
        at = [(x * SCALE, y * SCALE) for x, y in points]
        self._draw.line(at, fill=_rgba(colour, alpha), width=round(width * SCALE), joint="curve")

    def dashes(self, start: Point, end: Point, colour: Colour, width: float = 2) -> None:
        length = math.dist(start, end)
        count = max(1, round(length / 14))
        for index in range(count):
            here, there = index / count, (index + 0.5) / count
            self.line([along(start, end, here), along(start, end, there)], colour, width)

    def arrow(self, start: Point, end: Point, colour: Colour = LINE, width: float = 3) -> None:
        turn = math.atan2(end[1] - start[1], end[0] - start[0])
        neck = (end[0] - 10 * math.cos(turn), end[1] - 10 * math.sin(turn))
        self.line([start, neck], colour, width)
        wings = [(end[0] - 15 * math.cos(turn + bend), end[1] - 15 * math.sin(turn + bend)) for bend in (-0.45, 0.45)]
        self.polygon([end, *wings], colour)

    def polygon(self, points: Sequence[Point], colour: Colour, alpha: float = 1.0) -> None:
        self._draw.polygon([(x * SCALE, y * SCALE) for x, y in points], fill=_rgba(colour, alpha))

    def cross(self, centre: Point, size: float, colour: Colour = CORAL, width: float = 5) -> None:
        x, y = centre
        self.line([(x - size, y - size), (x + size, y + size)], colour, width)
        self.line([(x - size, y + size), (x + size, y - size)], colour, width)

    def text(self, at: Point, words: str, size: float, colour: Colour = PAPER, anchor: str = "la") -> None:
        self._draw.text((at[0] * SCALE, at[1] * SCALE), words, fill=colour, font=font(size * SCALE), anchor=anchor)

    def width_of(self, words: str, size: float) -> float:
        return self._draw.textlength(words, font=font(size * SCALE)) / SCALE

    def cylinder(self, area: tuple[float, float, float, float], colour: Colour, fill: Colour = CARD) -> None:
        """A database, as everybody draws it."""
        left, top, right, bottom = area
        tilt = (right - left) * 0.13
        middle = (left + right) / 2
        for y, shape in ((bottom - tilt, fill), (top + tilt, mix(fill, colour, 0.25))):
            if y == top + tilt:
                self._draw.rectangle(
                    [left * SCALE, y * SCALE, right * SCALE, (bottom - tilt) * SCALE], fill=_rgba(fill, 1.0)
                )
            self._draw.ellipse(
                [left * SCALE, (y - tilt) * SCALE, right * SCALE, (y + tilt) * SCALE],
                fill=_rgba(shape, 1.0),
                outline=_rgba(colour, 1.0),
                width=2 * SCALE,
            )
        # The lower ellipse's upper half lies under the body: only its rim is seen again.
        self.line([(left + 1, top + tilt), (left + 1, bottom - tilt)], colour)
        self.line([(right - 1, top + tilt), (right - 1, bottom - tilt)], colour)
        rim = [
            (middle + (right - left) / 2 * math.cos(turn), bottom - tilt + tilt * math.sin(turn))
            for turn in (math.pi * step / 24 for step in range(25))
        ]
        self.line(rim, colour)

    def screen(self, centre: Point, colour: Colour = TEAL) -> None:
        """A player: a screen with a triangle."""
        x, y = centre
        self.box((x - 66, y - 44, x + 66, y + 44), outline=colour, radius=10, width=3)
        self.polygon([(x - 13, y - 19), (x - 13, y + 19), (x + 20, y)], colour)
        self.line([(x - 30, y + 58), (x + 30, y + 58)], colour, 3)


def _rgba(colour: Colour | None, alpha: float) -> tuple[int, int, int, int] | None:
    return None if colour is None else (*colour, round(255 * alpha))


class Stage:
    """One frame in the making: sprites are pasted onto it."""

    def __init__(self, frame: Image.Image) -> None:
        self.frame = frame

    def put(self, sprite: Image.Image, centre: Point, opacity: float = 1.0) -> None:
        """Paste an RGBA sprite by its centre."""
        if opacity <= 0.06:
            return
        if opacity < 0.94:
            sprite = _faded(_key(sprite), round(opacity * 8))
        x, y = round(centre[0] - sprite.width / 2), round(centre[1] - sprite.height / 2)
        self.frame.paste(sprite, (x, y), sprite)

    def reveal(self, picture: Image.Image, corner: tuple[int, int], width: float) -> None:
        """Paste the left `width` pixels of an opaque picture: a curve that grows."""
        if width >= 1:
            self.frame.paste(picture.crop((0, 0, min(picture.width, round(width)), picture.height)), corner)


_by_key: dict[int, Image.Image] = {}


def _key(sprite: Image.Image) -> int:
    # Sprites come out of caches and live as long as the process, so an id names one for good.
    _by_key[id(sprite)] = sprite
    return id(sprite)


@lru_cache(maxsize=2048)
def _faded(key: int, eighths: int) -> Image.Image:
    sprite = _by_key[key].copy()
    sprite.putalpha(sprite.getchannel("A").point([value * eighths // 8 for value in range(256)]))
    return sprite


def _sprite(width: int, height: int, draw: Callable[[ImageDraw.ImageDraw], None], ground: Colour) -> Image.Image:
    """An RGBA sprite drawn four times as large. `ground` colours what is transparent, against dark fringes."""
    sheet = Image.new("RGBA", (width * 4, height * 4), (*ground, 0))
    draw(ImageDraw.Draw(sheet))
    return sheet.resize((width, height), Image.Resampling.LANCZOS)


@lru_cache(maxsize=512)
def token(words: str, colour: Colour, radius: int = 22) -> Image.Image:
    """A disc with a number on it and a faint halo: an entry, a frame."""
    side = radius * 2 + 28

    def draw(pen: ImageDraw.ImageDraw) -> None:
        middle, reach = side * 2, radius * 4
        pen.ellipse((middle - reach, middle - reach, middle + reach, middle + reach), fill=(*colour, 255))
        if words:
            size = radius * 4 * (0.98 if len(words) < 3 else 0.78)
            pen.text((middle, middle), words, fill=(*NIGHT, 255), font=font(size), anchor="mm")

    disc = _sprite(side, side, draw, colour)
    halo = Image.new("RGBA", disc.size, (*colour, 0))
    halo.putalpha(disc.getchannel("A").filter(ImageFilter.GaussianBlur(6)).point([v // 3 for v in range(256)]))
    return Image.alpha_composite(halo, disc)


@lru_cache(maxsize=512)
def chip(words: str, colour: Colour, size: int = 24, *, solid: bool = False) -> Image.Image:
    """A word or two in a rounded box."""
    width, height = round(font(size).getlength(words)) + size * 2, round(size * 1.9)

    def draw(pen: ImageDraw.ImageDraw) -> None:
        pen.rounded_rectangle(
            (4, 4, width * 4 - 5, height * 4 - 5),
            height * 1.2,
            fill=(*(colour if solid else mix(CARD, colour, 0.12)), 255),
            outline=(*colour, 255),
            width=8,
        )
        ink = NIGHT if solid else colour
        pen.text((width * 2, height * 2), words, fill=(*ink, 255), font=font(size * 4), anchor="mm")

    return _sprite(width, height, draw, colour)


@lru_cache(maxsize=1024)
def label(words: str, size: int, colour: Colour = PAPER) -> Image.Image:
    """Words alone."""
    width, height = round(font(size).getlength(words)) + 8, round(size * 1.5)
    picture = Image.new("RGBA", (width, height), (*colour, 0))
    ImageDraw.Draw(picture).text((width / 2, height / 2), words, fill=(*colour, 255), font=font(size), anchor="mm")
    return picture


@lru_cache(maxsize=64)
def ring(radius: int, colour: Colour, part: float = 1.0, width: int = 6) -> Image.Image:
    """A circle's outline, or the part of it that is left of a countdown, clockwise from the top."""
    side = radius * 2 + 12

    def draw(pen: ImageDraw.ImageDraw) -> None:
        area = (24, 24, side * 4 - 24, side * 4 - 24)
        pen.arc(area, -90, -90 + 360 * part, fill=(*colour, 255), width=width * 4)

    return _sprite(side, side, draw, colour)


@lru_cache(maxsize=1)
def ground() -> Image.Image:
    """What lies behind everything: night, a little lighter towards the bottom, with a glow at the upper right."""
    small = Image.new("RGB", (160, 90))
    pixels = [
        mix(
            mix(NIGHT, DUSK, (y / 90) ** 1.6),
            (46, 52, 118),
            0.42 * math.exp(-(((x - 136) / 62) ** 2 + ((y - 4) / 40) ** 2)),
        )
        for y in range(90)
        for x in range(160)
    ]
    small.putdata(pixels)
    return small.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)


CURRENT_TOP: Final = 560
_CURRENT_HEIGHT: Final = HEIGHT - CURRENT_TOP


@lru_cache(maxsize=1)
def currents() -> tuple[tuple[Image.Image, float], ...]:
    """Three seamless strips of fine drops on wave lines, twice the film's width, each with its speed in pixels/s."""
    chance = random.Random(20)  # noqa: S311
    return (
        (_current(chance, 9, LINE, 0.55, 1.0), 18.0),
        (_current(chance, 7, VIOLET, 0.5, 1.2), 34.0),
        (_current(chance, 5, TEAL, 0.6, 1.5), 58.0),
    )


def _current(chance: random.Random, lines: int, colour: Colour, strength: float, drop: float) -> Image.Image:
    """The strip repeats after WIDTH pixels, so any window of WIDTH pixels of it joins the next."""
    sheet = Image.new("L", (WIDTH * 2, _CURRENT_HEIGHT * 2))
    pen = ImageDraw.Draw(sheet)
    for line in range(lines):
        height = _CURRENT_HEIGHT * (0.3 + 0.66 * line / lines) + chance.uniform(-4, 4)
        swings = [(chance.uniform(3, 13), chance.randint(1, 3), chance.uniform(0, math.tau)) for _ in range(3)]
        x = 0.0
        while x < WIDTH:
            y = height + sum(reach * math.sin(math.tau * waves * x / WIDTH + shift) for reach, waves, shift in swings)
            near = ease((y - 0.12 * _CURRENT_HEIGHT) / (0.5 * _CURRENT_HEIGHT))
            light = round(255 * strength * near * chance.uniform(0.25, 1.0))
            size = drop * chance.uniform(0.7, 1.5)
            pen.ellipse((x * 2 - size, y * 2 - size, x * 2 + size, y * 2 + size), fill=light)
            x += chance.uniform(3.2, 8.5)
    mask = sheet.reduce(2)
    double = Image.new("L", (WIDTH * 2, _CURRENT_HEIGHT))
    double.paste(mask, (0, 0))
    double.paste(mask, (WIDTH, 0))
    strip = Image.new("RGBA", double.size, (*colour, 0))
    strip.putalpha(double)
    return strip


def drift(stage: Stage, seconds: float) -> None:
    """The moving water along the bottom, below which nothing is written: captions lie there."""
    for strip, speed in currents():
        shift = WIDTH - 1 - int(seconds * speed) % WIDTH
        window = strip.crop((shift, 0, shift + WIDTH, _CURRENT_HEIGHT))
        stage.frame.paste(window, (0, CURRENT_TOP), window)

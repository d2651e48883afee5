"""From WebVTT to what was said: cues, and pieces of some sentences that can be searched and cited by their seconds."""

import html
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

# A piece is about so long; a longer pause, or the end of a sentence near it, ends it.
PIECE_S = 30.0
PAUSE_S = 4.0
MOST_CHARACTERS = 1500
# A video of ten hours has some 1,200; what has more is no transcript.
MOST_PIECES = 5000

# No video is so long as six digits of hours; with thousands of them there is no number any more.
# As players read times, hours may have one digit.
_TIME = r"(?:(\d{1,6}):)?([0-5]\d):([0-5]\d)\.(\d{3})"
_TIMING = re.compile(rf"^[ \t]*{_TIME}[ \t]*-->[ \t]*{_TIME}(?!\d)", re.ASCII)
_TAG = re.compile(r"<[^<>]*>")
_ENDS = (".", "!", "?", "…", "।", "؟", "۔", "。", "！", "？")


class Piece(NamedTuple):
    """What is said from one second to another."""

    from_s: float
    to_s: float
    text: str


def read(vtt: bytes) -> list[Piece]:
    """What a WebVTT file says, in pieces, at most `MOST_PIECES`."""
    return cut(read_cues(vtt.decode("utf-8-sig", "replace")))[:MOST_PIECES]


def read_cues(vtt: str) -> Iterator[Piece]:
    """The cues of a WebVTT file (W3C WebVTT, section 4), their text without tags. What is no cue is passed over."""
    lines = vtt.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    at = 0
    while at < len(lines):
        timing = _TIMING.match(lines[at])
        at += 1
        if timing is None:
            continue
        said = []
        while at < len(lines) and lines[at].strip() and "-->" not in lines[at]:
            said.append(lines[at])
            at += 1
        from_s, to_s = _seconds(*timing.group(1, 2, 3, 4)), _seconds(*timing.group(5, 6, 7, 8))
        text = " ".join(html.unescape(_TAG.sub("", " ".join(said))).replace("\0", "").split())
        if text and to_s >= from_s:
            yield Piece(from_s, to_s, text)


def _seconds(hours: str | None, minutes: str, seconds: str, millis: str) -> float:
    return int(hours or 0) * 3600 + int(minutes) * 60 + int(seconds) + int(millis) / 1000


def cut(cues: Iterable[Piece]) -> list[Piece]:
    """Pieces of about `PIECE_S` that begin and end with a cue, at the end of a sentence where one is near.

    Captions that roll on repeat what the cue before said: that is left out.
    """
    pieces: list[Piece] = []
    now: Piece | None = None
    before = ""
    for cue in sorted((part for cue in cues for part in _parts(cue)), key=lambda cue: (cue.from_s, cue.to_s)):
        text = cue.text.removeprefix(before).strip() if _rolls_on(before, cue.text) else cue.text
        before = cue.text
        if not text:
            continue
        if now is not None and _is_whole(now, cue, text):
            pieces.append(now)
            now = None
        if now is None:
            now = Piece(cue.from_s, cue.to_s, text)
        else:
            now = Piece(now.from_s, max(now.to_s, cue.to_s), f"{now.text} {text}")
    return pieces if now is None else [*pieces, now]


def _parts(cue: Piece) -> Iterator[Piece]:
    """The cue, in parts where it is longer than a piece may be: each lasts as long as its share of the text."""
    text, at = cue.text, 0
    share_s = (cue.to_s - cue.from_s) / len(text)
    while len(text) - at > MOST_CHARACTERS:
        blank = text.rfind(" ", at + 1, at + MOST_CHARACTERS + 1)
        to = blank if blank > 0 else at + MOST_CHARACTERS
        yield Piece(cue.from_s + at * share_s, cue.from_s + to * share_s, text[at:to].strip())
        at = to
    yield Piece(cue.from_s + at * share_s, cue.to_s, text[at:].strip())


def _rolls_on(before: str, text: str) -> bool:
    """Whether a cue says what the one before said, and more; not merely begins with its letters, as "Some" with "So".
    Scripts without cases have no spaces between words."""
    if not before or not text.startswith(before):
        return False
    last, following = before[-1], text[len(before) : len(before) + 1]
    return not (_is_of_word(last) and _is_of_word(following))


def _is_of_word(character: str) -> bool:
    return character.isdecimal() or character.lower() != character.upper()


def _is_whole(now: Piece, cue: Piece, text: str) -> bool:
    long_s = cue.to_s - now.from_s
    return (
        long_s > PIECE_S * 1.5
        or len(now.text) + len(text) >= MOST_CHARACTERS
        or cue.from_s - now.to_s > PAUSE_S
        or (long_s > PIECE_S and now.text.endswith(_ENDS))
    )

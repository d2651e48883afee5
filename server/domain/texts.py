"""From what is written to pieces of some sentences that can be searched and cited by their page."""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

# A piece is about as long as half a minute of speech; it ends with a sentence where one does near there.
PIECE_CHARACTERS = 450
# A book of a thousand pages has some 5,000.
MOST_PIECES = 10_000

_HYPHEN = re.compile(r"(?<=[a-z])-\n(?=[a-z])")
_END = re.compile(r"(?<=[.!?…।॥؟۔])\s|(?<=[。！？])")
# What Postgres keeps in no text: NUL, and halves of characters.
_UNKEPT = re.compile("[\0\ud800-\udfff]")


class TextPiece(NamedTuple):
    """What stands on a page, from 1; None where there are no pages."""

    page: int | None
    text: str


def cut_pages(pages: Iterable[tuple[int | None, str]]) -> list[TextPiece]:
    """Pieces that never run over from one page to the next, at most `MOST_PIECES`."""
    pieces: list[TextPiece] = []
    for number, text in pages:
        for piece in _cut(plain(text)):
            pieces.append(TextPiece(number, piece))
            if len(pieces) == MOST_PIECES:
                return pieces
    return pieces


def plain(text: str) -> str:
    """On one line, words put together that a line's end divided."""
    return " ".join(_UNKEPT.sub("", _HYPHEN.sub("", text)).split())


def _cut(text: str) -> Iterator[str]:
    start = 0
    while len(text) - start > PIECE_CHARACTERS * 1.5:
        # The end of a sentence near the wanted length, else of a word, else right there.
        window = text[start : start + int(PIECE_CHARACTERS * 1.5)]
        ends = [match.start() for match in _END.finditer(window) if match.start() >= PIECE_CHARACTERS // 2]
        end = min(ends, key=lambda at: abs(at - PIECE_CHARACTERS), default=window.rfind(" ", 1))
        if end <= 0:
            end = PIECE_CHARACTERS
        yield text[start : start + end].strip()
        start += end
    if text[start:].strip():
        yield text[start:].strip()

"""A turn as a fold over its entries in the user's stream: what was said so far, and whether it has ended."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from server.data.answers import END, Entry


@dataclass(slots=True)
class TurnState:
    """`chunks` are the lengths of its parts in characters; `end` is the frame it ended with, as JSON."""

    number: int
    texts: list[str] = field(default_factory=list)
    chunks: list[int] = field(default_factory=list)
    end: bytes | None = None

    @property
    def text(self) -> str:
        """What was said so far."""
        return "".join(self.texts)


def apply(state: TurnState, entry: Entry) -> bool:
    """Take one entry; False for one that adds nothing: had before, of another turn, after the end or beyond a hole."""
    if entry.turn != state.number or state.end is not None:
        return False
    if entry.chunk == END:
        state.end = entry.content
        return True
    if entry.chunk != len(state.chunks) + 1:
        return False
    text = entry.content.decode(errors="replace")
    state.texts.append(text)
    state.chunks.append(len(text))
    return True


def fold(number: int, entries: Iterable[Entry]) -> TurnState:
    """A turn as far as its entries tell it."""
    state = TurnState(number)
    for entry in entries:
        apply(state, entry)
    return state


def rest_of(text: str, chunks: Iterable[int], after: int) -> list[tuple[int, str]]:
    """The parts of a finished answer from beyond chunk `after`, each with its number; what `chunks` do not cover is one
    more."""
    at, number, parts = 0, 0, []
    for length in chunks:
        number += 1
        if number > after:
            parts.append((number, text[at : at + length]))
        at += length
    if at < len(text):
        parts.append((number + 1, text[at:]))
    return parts

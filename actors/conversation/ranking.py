"""The order of pieces that may answer a question: by their words, and by what they mean where a model has said so."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple
from uuid import UUID


class Piece(NamedTuple):
    """A piece of a source as it was found: how much of the question's words is in it, from 0 to 1, and how near its
    meaning is, from -1 to 1 (None: not known)."""

    id: UUID
    source_id: UUID
    # Where it begins and ends in its source: seconds, or its number times `GAP_S`.
    begins: float
    ends: float
    words: float
    cosine: float | None


# Pieces of one source that are no further apart than this many seconds are neighbours.
GAP_S = 5.0
# What a question finds in the pieces beside one counts for it too: answers, and still more their words, do not end with
# a piece. Chosen, as is the weight of words, by `bin/bench tutor` on the half of its lectures that is not held out.
NEIGHBOURING_WORDS = 0.35
NEIGHBOURING_MEANING = 0.15
WEIGHT_OF_WORDS = 0.6


def rank(pieces: Sequence[Piece]) -> list[tuple[UUID, float]]:
    """Ids and scores, best first.

    Both sides are taken as they are, not by their ranks or deviations: where few words of a question are known, they
    should count little, and a model whose vectors say nothing gives all pieces the same.
    """
    scores = _with_neighbours(pieces, [piece.words for piece in pieces], NEIGHBOURING_WORDS)
    known = [piece.cosine for piece in pieces if piece.cosine is not None]
    if known:
        # What has no embedding yet is neither nearer nor further than others.
        mean = sum(known) / len(known)
        cosines = [mean if piece.cosine is None else piece.cosine for piece in pieces]
        near = _with_neighbours(pieces, cosines, NEIGHBOURING_MEANING)
        scores = [WEIGHT_OF_WORDS * word + meaning for word, meaning in zip(scores, near, strict=True)]
    ranked = sorted(zip(pieces, scores, strict=True), key=lambda one: (-one[1], one[0].id))
    return [(piece.id, score) for piece, score in ranked]


def _with_neighbours(pieces: Sequence[Piece], scores: Sequence[float], share: float) -> list[float]:
    order = sorted(range(len(pieces)), key=lambda n: (pieces[n].source_id, pieces[n].begins))
    result = list(scores)
    least = min(scores, default=0.0)
    for before, after in pairwise(order):
        first, second = pieces[before], pieces[after]
        if first.source_id == second.source_id and second.begins - first.ends <= GAP_S:
            result[before] += share * (scores[after] - least)
            result[after] += share * (scores[before] - least)
    return result

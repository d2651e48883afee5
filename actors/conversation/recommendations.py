"""Which courses to go on with.

The order is a sum of what is known, the same for the same facts. A model may word it and cannot change it: no course is
named that does not exist, is not published, or that one has already.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from server.data.db import Database, Record, queries

MOST = 3
# Candidates that are looked at, and learners of a course who are asked what else they take.
_CANDIDATES = 100
_PEERS = 500
# A course fits a question from here on: one word of the title, or some of the description.
_FITS = 0.05
# Far enough in a course to be of its level.
_DONE_PERCENT = 60.0

# Of course, and what is asked about this one, asks for no other.
_ASKS = re.compile(
    r"\b(recommend\w*|suggest\w*|(?<!\bof )(?<!\bthis )(?<!\bthe )(?<!\bmy )(?<!\bour )(?<!\byour )course|courses"
    r"|what (?:should|can|could|do) i (?:learn|study|take|watch|do) (?:next|now|then)"
    r"|(?:learn|study|take|watch) next|empfiehl\w*|empfehl\w*|kurse?|cours|cursos?)\b",
    re.IGNORECASE,
)
# What is said of courses in general finds none in particular.
_GENERAL = re.compile(
    r"\b(recommend\w*|suggest\w*|courses?|learn\w*|stud(?:y|ies|ied|ying)|next|lectures?|teach\w*|topics?|good|best"
    r"|introduction|beginners?|advanced|basics?|should|interest\w*)\b",
    re.IGNORECASE,
)
_LEVELS = (
    (
        1,
        re.compile(
            r"\b(beginners?|basics?|introduct\w+|intro|fundamentals|first steps|starters?|101)\b", re.IGNORECASE
        ),
    ),
    (3, re.compile(r"\b(advanced|experts?|masterclass|deep dive|in depth|research)\b", re.IGNORECASE)),
)
_MIDDLE = 2

_named = queries("recommendations")


@dataclass(frozen=True, slots=True)
class Recommendation:
    """A course and why; `score` is comparable within one list only."""

    course_id: UUID
    title: str
    reason: str
    score: float

    @property
    def place(self) -> tuple[float, str]:
        """By what a list is sorted."""
        return place_of(self.score, self.course_id)

    @property
    def shown(self) -> dict[str, Any]:
        """As clients are told it."""
        return {"course_id": str(self.course_id), "title": self.title, "reason": self.reason}


async def recommend(db: Database, viewer_id: UUID, question: str | None = None) -> tuple[Recommendation, ...]:
    """At most `MOST` courses to go on with, best first, of those that everybody may see, whoever asks. With a question
    only if it asks for courses, or some fit it.

    Raises DATABASE_AWAY.
    """
    asked = _GENERAL.sub(" ", (question or "")[:2000].replace("\0", ""))
    rows = await _named.list_candidates(db, viewer_id=viewer_id, question=asked, peers=_PEERS, most=_CANDIDATES)
    taken = await _named.list_taken(db, viewer_id=viewer_id)
    if question is not None and not _ASKS.search(question):
        rows = [row for row in rows if row["asked"] >= _FITS]
    reached = level_reached(taken)
    scored = [_judge(row, reached) for row in rows]
    return tuple(sorted(scored, key=lambda one: one.place)[:MOST])


def place_of(score: float, course_id: UUID) -> tuple[float, str]:
    """Where a course stands in a list, the best first."""
    return -score, str(course_id)


def level_of(title: str, description: str = "") -> int:
    """1 for beginners, 3 for the advanced, 2 where nothing is said; a title says more than a description."""
    for text in (title, description):
        for level, said in _LEVELS:
            if said.search(text):
                return level
    return _MIDDLE


def level_reached(taken: Iterable[Record]) -> int:
    """The highest level of a course that somebody got most of; 1 to begin with."""
    done = (row for row in taken if row["percent"] >= _DONE_PERCENT)
    return max((level_of(row["title"], row["description"]) for row in done), default=1)


def _judge(row: Record, reached: int) -> Recommendation:
    level = level_of(row["title"], row["description"])
    score = 2.0 * row["asked"] + row["together"] + 0.8 * row["alike"] + 0.02 * math.log1p(row["active_count"])
    # More than one step up is too much, below what one has done is too little.
    score -= 0.3 * max(0, level - reached - 1) + 0.2 * max(0, reached - level)
    return Recommendation(row["id"], row["title"], _reason(row, level, reached), score)


def _reason(row: Record, level: int, reached: int) -> str:
    if row["asked"] >= _FITS:
        return "It is about what you ask."
    if row["together"] > 0:
        return f"Learners of “{row['because']}” take it too."
    if row["alike"] >= _FITS:
        return "It goes on from courses that you take."
    if level > reached:
        return "It is the next step up from what you have done."
    return "Many learners take it." if row["active_count"] > 0 else "It is new to you."

"""Lectures and what learners ask about them, as the text files beside this module have it.

`# ` begins a course, `## ` a lecture; a paragraph is a line. The lines after one are what is asked about it: `=` before
a question that names what it is about, and that the whole paragraph answers; `?2-4` before one in words of a learner's
own, without the lecture's, that sentences 2 to 4 answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from server.domain.transcripts import Piece

HERE = Path(__file__).parent
# As lecturers speak.
WORDS_PER_S = 2.5
_SENTENCE = re.compile(r"(?<=[.!?]) +")
_QUESTION = re.compile(r"\?(\d+)(?:-(\d+))? (.+)")


@dataclass(frozen=True)
class Question:
    """What is asked, and the seconds of the lecture in which it is answered."""

    text: str
    from_s: float
    to_s: float
    is_named: bool

    def is_answered_in(self, from_s: float, to_s: float) -> bool:
        """Whether half of the answer lies between two seconds, or half of what lies between them is of the answer."""
        common_s = min(to_s, self.to_s) - max(from_s, self.from_s)
        return 2 * common_s >= min(self.to_s - self.from_s, to_s - from_s)


@dataclass
class Lecture:
    """A cue for each sentence, and the questions. Every other lecture is held out: nothing is chosen by it."""

    course: str
    title: str
    is_held_out: bool
    cues: list[Piece] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)


def read_lectures(directory: Path = HERE) -> list[Lecture]:
    """All of them, in order. Raises ValueError where a file does not keep the form."""
    return [lecture for path in sorted(directory.glob("*.txt")) for lecture in _read(path)]


def _read(path: Path) -> Iterator[Lecture]:
    course, lecture, number = "", None, 0
    paragraph: list[Piece] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            if lecture is not None:
                yield lecture
            number += 1
            lecture = Lecture(course, line[3:], number % 2 == 0)
        elif line.startswith("# "):
            course = line[2:]
        elif line and lecture is not None:
            if line.startswith("="):
                lecture.questions.append(Question(line[1:], paragraph[0].from_s, paragraph[-1].to_s, True))
                continue
            if not line.startswith("?"):
                paragraph = list(_speak(line, lecture.cues[-1].to_s if lecture.cues else 0.0))
                lecture.cues += paragraph
                continue
            asked = _QUESTION.fullmatch(line)
            if asked is None or int(asked[2] or asked[1]) > len(paragraph):
                raise ValueError(f"{path.name}: {line!r} does not fit the paragraph before it")
            first, last = paragraph[int(asked[1]) - 1], paragraph[int(asked[2] or asked[1]) - 1]
            lecture.questions.append(Question(asked[3], first.from_s, last.to_s, False))
    if lecture is not None:
        yield lecture


def _speak(line: str, at_s: float) -> Iterator[Piece]:
    for sentence in _SENTENCE.split(line):
        ends_s = at_s + len(sentence.split()) / WORDS_PER_S
        yield Piece(at_s, ends_s, sentence)
        at_s = ends_s

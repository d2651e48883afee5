"""What the tutor may build on: passages of lectures and files, and sentences of them that are cited word for word."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any, NamedTuple
from uuid import UUID

# Citations of one answer, and the characters that a quote has at most.
MOST_CITATIONS = 5
MOST_QUOTED = 240
# Quotations and marks of an answer that are looked at: a learner may ask for hundreds of them, and while they are
# looked for everybody at this process waits.
_MOST_CLAIMS = 40
# A quotation of fewer words proves nothing: they stand anywhere.
_FEWEST_WORDS = 3
# Without marks or quotations a sentence counts as used when so much of what it says is in the answer.
_USED_SHARE = 0.6
# Sentences of an answer without a model.
_EXTRACTED = 3

_MARK = re.compile(r"[\[【](\d{1,2}(?:\s*[,;]\s*\d{1,2})*)[\]】]")
# Marks that stand behind a sentence's end are of that sentence.
_MARKS = rf"(?:\s*{_MARK.pattern})*"
_QUOTED = re.compile(r"“([^“”]{8,600})”|\"([^\"]{8,600})\"|«([^«»]{8,600})»|「([^「」]{8,600})」|„([^„“”]{8,600})[“”]")
_END = re.compile(rf"(?<=[.!?…।॥؟۔])[\"”’)]?{_MARKS}(?:\s+|$)|(?<=[。！？])[”」]?{_MARKS}")
# Chinese and Japanese are written without blanks: what stands together of them is told apart by `_words`.
_UNDIVIDED = "\u3005\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
# Signs of vowels are no letters to `re`: what they stand in, in Hindi, Bengali or Tamil, would fall into pieces.
_LETTERS = rf"(?:[^\W{_UNDIVIDED}]+|[\u0300-\u036f\u0900-\u0963\u0966-\u0dff]+)+"
_WORD = re.compile(rf"[{_UNDIVIDED}]+|{_LETTERS}(?:['’]{_LETTERS})?")
_FIRST_UNDIVIDED = re.compile(f"[{_UNDIVIDED}]")
_ALIKE = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "–": "-", "—": "-", "\N{NO-BREAK SPACE}": " "})
# Words that every question and every lecture has.
_COMMON_WORDS = """
a about an and any are as at be because been but by can could did do does for from had has have he her here his how i if
in into is it its just like may me might more most my no not now of on one only or our out over she should so some such
than that the their them then there these they this those to too up us very was we were what when where which while who
why will with would you your explain tell mean means please question answer lecture say said
"""
_COMMON = frozenset(_COMMON_WORDS.split())


class Span(NamedTuple):
    """A piece within a passage's text: characters `start` to `end`, and where it stands in its source."""

    start: int
    end: int
    from_ms: int | None
    to_ms: int | None
    page: int | None


class Watching(NamedTuple):
    """The lecture that a learner watches, and where in it the learner is."""

    title: str
    position_ms: int


@dataclass(frozen=True, slots=True)
class Passage:
    """Consecutive pieces of one source. A lecture's words have `lecture_id`, `from_ms` and `to_ms`; a file's have
    `file_id`, and `page` where the file has pages; what is written about a lecture has `lecture_id` alone.

    `score` is comparable within one Grounding only; `is_now` says that it is about what is being watched.
    """

    course_id: UUID
    lecture_id: UUID | None
    file_id: UUID | None
    from_ms: int | None
    to_ms: int | None
    page: int | None
    title: str
    text: str
    score: float
    spans: tuple[Span, ...]
    is_now: bool = False

    @property
    def is_citable(self) -> bool:
        """Whether there is a place to send a learner to."""
        return self.file_id is not None or self.from_ms is not None

    def said_at(self, position_ms: int) -> tuple[int, int] | None:
        """The sentence, as characters from and to, that is being said then, about, or was said last; None before the
        first."""
        at = 0
        for span in self.spans:
            if span.from_ms is not None and span.to_ms is not None and span.from_ms < position_ms:
                share = min(1.0, (position_ms - span.from_ms) / max(1, span.to_ms - span.from_ms))
                at = span.start + round(share * (span.end - span.start))
        return next((sentence for sentence in _cut(self.text) if sentence[1] >= at), None) if at else None


@dataclass(frozen=True, slots=True)
class Citation:
    """`quote` stands in the source, character by character: between these milliseconds, or on this page."""

    course_id: UUID
    lecture_id: UUID | None
    file_id: UUID | None
    from_ms: int | None
    to_ms: int | None
    page: int | None
    quote: str

    @property
    def shown(self) -> dict[str, Any]:
        """As clients are told it: seconds, ids as text."""
        if self.file_id is not None:
            page = {} if self.page is None else {"page": self.page}
            return {"file_id": str(self.file_id), **page, "quote": self.quote}
        assert self.from_ms is not None
        assert self.to_ms is not None
        return {
            "course_id": str(self.course_id),
            "lecture_id": str(self.lecture_id),
            "from": self.from_ms / 1000,
            "to": self.to_ms / 1000,
            "quote": self.quote,
        }


@dataclass(frozen=True, slots=True)
class Extract:
    """An answer in the lecture's own words; `text` is empty when nothing fits."""

    text: str
    citations: tuple[Citation, ...]


def citations_of(answer: str, passages: Sequence[Passage]) -> tuple[Citation, ...]:
    """What of the passages an answer stands on, at most `MOST_CITATIONS`, in the order of the answer.

    A passage is meant by a quotation from it, or by its number in brackets (`[1]` is the first); where an answer has
    neither, by sentences of it that the answer tells again. Whatever an answer claims, quotes are cut from passages.
    """
    found: list[Citation] = []
    quoted = list(islice(_QUOTED.finditer(answer), _MOST_CLAIMS))
    plain = [_plain(passage.text) for passage in passages if quoted]
    for match in quoted:
        said = next(group for group in match.groups() if group is not None)
        if len(list(_words(said))) >= _FEWEST_WORDS:
            wanted = _plain(said)[0].strip(" .,;:!?…")
            found += _first(_quote(*each, wanted) for each in zip(passages, plain, strict=True))
    for number, words in islice(_marks(answer), _MOST_CLAIMS):
        if 0 <= number < len(passages):
            found += _first([_nearest(passages[number], words, 0.0)])
    if not found:
        words = keys(answer)
        found = [c for passage in passages if (c := _nearest(passage, words, _USED_SHARE)) is not None]
    return _distinct(found)


def extractive_answer(question: str, passages: Sequence[Passage], watching: Watching | None = None) -> Extract:
    """What the passages say to a question, word for word: the best sentences of the first few."""
    words, chosen = keys(question), []
    for rank, passage in enumerate(passages[: _EXTRACTED + 1]):
        spans = list(_cut(passage.text)) if passage.is_citable else []
        if spans:
            shares = [_share(words, keys(passage.text[start:end])) for start, end in spans]
            # Context around the middle of a passage, that is where it was found, or around the second being watched.
            now = passage.said_at(watching.position_ms) if watching is not None and passage.is_now else None
            centre = spans.index(now) if now is not None else (len(spans) - 1) / 2
            best = max(range(len(spans)), key=lambda n: (shares[n], -abs(n - centre)))
            start, end = spans[best][0], spans[min(best + 1, len(spans) - 1)][1]
            if end - start > 2 * MOST_QUOTED:
                end = spans[best][1]
            chosen.append((shares[best] - 0.1 * rank, rank, _cite(passage, start, end), passage))
    best_first = sorted((one for one in chosen if one[0] > 0 or one[1] == 0), key=lambda one: -one[0])[:_EXTRACTED]
    told = [f"“{citation.quote}” ({_place(passage.title, citation)})" for _, _, citation, passage in best_first]
    return Extract("\n\n".join(told), _distinct([citation for _, _, citation, _ in best_first]))


def keys(text: str) -> set[str]:
    """The words of a text that say something, in one case and without their commonest endings."""
    found = set()
    for word in _words(unicodedata.normalize("NFC", text.translate(_ALIKE).casefold())):
        if word not in _COMMON and (len(word) > 1 or word.isdigit()):
            bare = word.removesuffix("'s")
            for ending in ("ing", "ed", "es", "ly", "s", "e"):
                if bare.endswith(ending) and len(bare) - len(ending) >= 3:
                    bare = bare.removesuffix(ending)
                    break
            found.add(bare)
    return found


def _share(wanted: set[str], has: set[str]) -> float:
    return len(wanted & has) / len(wanted) if wanted else 0.0


def _words(text: str) -> Iterator[str]:
    """The words of a text; of what is written without blanks every two characters that follow each other."""
    for word in _WORD.findall(text):
        if len(word) > 1 and _FIRST_UNDIVIDED.match(word):
            yield from map("".join, pairwise(word))
        else:
            yield word


def _cut(text: str) -> Iterator[tuple[int, int]]:
    """Sentences, as characters from and to; longer ones in parts of at most `MOST_QUOTED` that end between words."""
    start = 0
    ends = [match.end() for match in _END.finditer(text)]
    for end in [*ends, len(text)]:
        at = start
        while at < end:
            to = end
            if to - at > MOST_QUOTED:
                blank = text.rfind(" ", at + 1, at + MOST_QUOTED + 1)
                to = blank if blank > at else at + MOST_QUOTED
            first, last = at, to
            while first < last and text[first].isspace():
                first += 1
            while last > first and text[last - 1].isspace():
                last -= 1
            if first < last:
                yield first, last
            at = to
        start = end


def _marks(answer: str) -> Iterator[tuple[int, set[str]]]:
    """The passages that an answer names by number, from 0, each once for a sentence, and what the sentence says. A line
    ends a sentence: a list's may have no other end."""
    for line in answer.splitlines():
        for start, end in _cut(line):
            sentence = line[start:end]
            numbers = [int(number) for mark in _MARK.findall(sentence) for number in re.findall(r"\d+", mark)]
            words = keys(_MARK.sub(" ", sentence)) if numbers else set()
            for number in dict.fromkeys(numbers):
                yield number - 1, words


def _nearest(passage: Passage, words: set[str], least: float) -> Citation | None:
    """The sentence of the passage that is told again most; None when less than `least` of it is."""
    if not passage.is_citable:
        return None
    best: tuple[float, int, int] | None = None
    for start, end in _cut(passage.text):
        said = keys(passage.text[start:end])
        common = len(said & words)
        share = common / len(said) if len(said) >= _FEWEST_WORDS else 0.0
        told = (share if least else float(common), start, end)
        if best is None or told[0] > best[0]:
            best = told
    return _cite(passage, best[1], best[2]) if best is not None and best[0] >= least else None


def _quote(passage: Passage, text: tuple[str, list[int]], wanted: str) -> Citation | None:
    """The quotation as the passage has it, whatever its case, spaces and kinds of dashes and quotes. `text` is the
    passage's for comparison, and `wanted` what was said."""
    if not passage.is_citable:
        return None
    plain, places = text
    at = plain.find(wanted) if wanted else -1
    if at < 0:
        return None
    return _cite(passage, places[at], places[at + len(wanted) - 1] + 1)


def _plain(text: str) -> tuple[str, list[int]]:
    """A text for comparison, without what nobody sees, and for each of its characters where that stands in the text."""
    plain: list[str] = []
    places: list[int] = []
    for place, given in enumerate(text.translate(_ALIKE)):
        if given.isspace():
            if plain and plain[-1] != " ":
                plain.append(" ")
                places.append(place)
            continue
        for character in given.casefold() if given.isprintable() else "":
            plain.append(character)
            places.append(place)
    return "".join(plain), places


def _cite(passage: Passage, start: int, end: int) -> Citation:
    """A part of the passage with where it stands: from its first piece's beginning to its last one's end."""
    covered = [span for span in passage.spans if span.start < end and span.end > start] or list(passage.spans)
    times = [(span.from_ms, span.to_ms) for span in covered]
    from_ms = min((first for first, _ in times if first is not None), default=None)
    to_ms = max((last for _, last in times if last is not None), default=None)
    return Citation(
        passage.course_id, passage.lecture_id, passage.file_id, from_ms, to_ms, covered[0].page, passage.text[start:end]
    )


def _first(candidates: Iterator[Citation | None] | Sequence[Citation | None]) -> list[Citation]:
    return [citation for citation in candidates if citation is not None][:1]


def _distinct(found: Sequence[Citation]) -> tuple[Citation, ...]:
    """What is part of another's words, or has them as a part, is not told again."""
    told: list[Citation] = []
    for one in found:
        source = one.lecture_id, one.file_id
        others = [other.quote for other in told if (other.lecture_id, other.file_id) == source]
        if not any(one.quote in other or other in one.quote for other in others):
            told.append(one)
    return tuple(told[:MOST_CITATIONS])


def _place(title: str, citation: Citation) -> str:
    if citation.from_ms is None:
        return title if citation.page is None else f"{title}, page {citation.page}"
    minutes, seconds = divmod(citation.from_ms // 1000, 60)
    hours, minutes = divmod(minutes, 60)
    clock = f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
    return f"{title}, {clock}"

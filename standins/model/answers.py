"""What the stand-in says: the sentences it was given that fit the question best, quoted, each with where it stands.

Passages come as `<passage n="1" ...>text</passage>` with entities escaped, what is being said as
`<watching ... saying="sentence"/>`, the question as `<question>...</question>`;
without those marks the last message is the question and all before it the text.
"""

from __future__ import annotations

import html
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from standins.model.words import sentences_of, telling

PASSAGE = re.compile(r'<passage\b[^>]*?\bn="(\d+)"([^>]*)>(.*?)</passage>', re.DOTALL)
QUESTION = re.compile(r"<question>(.*?)</question>", re.DOTALL)
NOW = re.compile(r'\bnow="yes"')
# The sentence of that passage up to which it was said.
SAYING = re.compile(r'<watching\b[^>]*\bsaying="([^"]*)"')
# What is asked so wants what is being said, not what some words are about.
POINTING = re.compile(r"\b(just|this|that|right now|moment|here)\b", re.IGNORECASE)

NOTHING = "I find nothing about that in the material of this course."
MOST_SENTENCES = 2


class Sentence(NamedTuple):
    """A sentence that was given; `number` of its passage, None where it has none."""

    text: str
    number: int | None
    is_now: bool


def answer(messages: Sequence[Mapping[str, Any]]) -> str:
    """The answer to a chat, always the same for the same messages."""
    said = [_text_of(message) for message in messages if message.get("role") != "system"]
    asked = said[-1] if said else ""
    marked = QUESTION.findall(asked)
    question = html.unescape(marked[-1]) if marked else PASSAGE.sub(" ", asked)
    given = _given("\n".join(said)) or [
        Sentence(text, None, False) for before in said[:-1] for text in sentences_of(before)
    ]
    chosen = choose(question, given)
    if not chosen:
        return NOTHING
    return " ".join(f"“{one.text}”" + (f" [{one.number}]" if one.number is not None else "") for one in chosen)


def choose(question: str, given: Sequence[Sentence]) -> list[Sentence]:
    """The sentences that have most of the question's words, rare ones counting more; where the question only points at
    what is being said, those of the passage that is being said."""
    wanted = set(telling(question))
    found = [(set(telling(one.text)), one) for one in given]
    seen = Counter(word for words, _ in found for word in words)
    worth = {word: math.log(1 + len(found) / count) for word, count in seen.items()}
    scored = [
        (sum(worth[word] for word in wanted & words) / math.sqrt(1 + len(words)), -place, one)
        for place, (words, one) in enumerate(found)
    ]
    best = sorted((entry for entry in scored if entry[0] > 0), reverse=True)[:MOST_SENTENCES]
    if best:
        return [one for score, _, one in best if score >= best[0][0] / 2]
    current = [one for one in given if one.is_now]
    return current[-MOST_SENTENCES:] if POINTING.search(question) or not wanted else []


def _given(text: str) -> list[Sentence]:
    saying = SAYING.search(text)
    given = []
    for number, attributes, passage in PASSAGE.findall(text):
        said, last, to_come = passage.partition(saying[1]) if saying else (passage, "", "")
        is_now = bool(NOW.search(attributes))
        given += [Sentence(sentence, int(number), is_now) for sentence in sentences_of(said + last)]
        given += [Sentence(sentence, int(number), False) for sentence in sentences_of(to_come)]
    return given


def _text_of(message: Mapping[str, Any]) -> str:
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "\n".join(part.get("text", "") for part in content if isinstance(part, Mapping))


def tokens_of(text: str) -> list[str]:
    """Words with the space before them; together they are the text."""
    return re.findall(r"\s*\S+|\s+$", text)

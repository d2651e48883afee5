"""What the tutor answers from: the passages of lectures and files that fit a question, and that its asker may see.

Found in Postgres in one statement, by words and (where a model makes embeddings) by meaning; whoever may not watch a
lecture is told nothing of it, for it is never looked at. What passages say is data, whatever it says.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol
from uuid import UUID, uuid4

import structlog

from actors.conversation.passages import Passage, Span, Watching
from actors.conversation.ranking import GAP_S, Piece, rank
from server.data.db import Connection, Database, Record, queries
from server.services.outside import ServiceError

# Passages of one grounding: from where the learner is, then elsewhere.
MOST_PASSAGES = 6
# From other lectures of the course, when a lecture is being watched.
_FROM_ELSEWHERE = 2
# Pieces that either way of searching gives.
_CANDIDATES = 60
# What is being watched: so long before the moment, and after it.
_BEFORE_MS, _AFTER_MS = 60_000, 15_000
# A learner waits for the answer: after this long the words alone must do.
_EMBEDDING_S = 2.0
# A question is cut here before it is searched by.
_MOST_ASKED = 2000

_named = queries("grounding")
log = structlog.get_logger()


class Embedder(Protocol):
    """What makes vectors of texts: `server.services.embeddings.Embedder`, which knows of HTTP what actors must not."""

    @property
    def is_configured(self) -> bool:
        """Whether there is a model to ask."""

    @property
    def model(self) -> str:
        """Its name; vectors of two models cannot be compared."""

    async def embed(self, texts: Sequence[str], *, timeout_s: float, tries: int) -> list[list[float]]:
        """A vector for each text. Raises ServiceErrors."""


class Embedding(NamedTuple):
    """A vector as Postgres reads it, and the model that made it."""

    vector: str
    model: str


@dataclass(frozen=True, slots=True)
class Grounding:
    """Passages, best first; what is being watched comes before all others. `is_semantic`: meaning was asked too.
    `watching` is known also of a lecture of which no word is."""

    passages: tuple[Passage, ...]
    is_semantic: bool
    watching: Watching | None = None


async def ground(
    db: Database,
    embedder: Embedder | None,
    *,
    question: str,
    viewer_id: UUID,
    viewer_role: str,
    course_id: UUID | None = None,
    lecture_id: UUID | None = None,
    position_ms: int | None = None,
) -> Grounding:
    """The passages that fit a question, of what the viewer may watch and read: in the lecture first if one is given,
    then in its course; or in the given course, or anywhere. A model that is away costs nothing but its part.

    Raises DATABASE_AWAY.
    """
    asked = question[:_MOST_ASKED].replace("\0", "")
    embedding = await embed_question(embedder, asked)
    viewer: dict[str, Any] = {"viewer_id": viewer_id, "viewer_role": viewer_role}
    search = {**viewer, "question": asked, "embedding": embedding}
    now: list[Record] = []
    elsewhere: list[tuple[Record, float]] = []
    watched: Record | None = None
    if lecture_id is not None and position_ms is not None:
        around = {"from_s": (position_ms - _BEFORE_MS) / 1000, "to_s": (position_ms + _AFTER_MS) / 1000}
        around["at_s"] = position_ms / 1000
        now = await _named.list_around(db, **viewer, lecture_id=lecture_id, **around)
    found = await find(db, **search, course_id=course_id, lecture_id=lecture_id)
    if lecture_id is not None:
        known = {row["id"] for row, _ in found}
        watched = await _named.get_watched(db, **viewer, lecture_id=lecture_id)
        # A random course for a lecture that is not there: nothing is found in it either.
        others = await find(db, **search, course_id=watched["course_id"] if watched else uuid4())
        elsewhere = [one for one in others[:MOST_PASSAGES] if one[0]["id"] not in known][:_FROM_ELSEWHERE]
    shown = {row["id"] for row in now}
    chosen = [*found[: MOST_PASSAGES - len(elsewhere)], *elsewhere]
    chosen = [(row, score) for row, score in chosen if row["id"] not in shown]
    near = await _named.list_neighbours(db, ids=[row["id"] for row, _ in chosen])
    passages = _merge(chosen, near, shown)
    if now:
        passages.insert(0, _passage(now, now[0], max((p.score for p in passages), default=0.0), is_now=True))
    watching = None
    if watched is not None and watched["title"] is not None and position_ms is not None:
        watching = Watching(watched["title"], position_ms)
    return Grounding(tuple(passages), embedding is not None, watching)


async def find(
    db: Database | Connection,
    *,
    question: str,
    embedding: Embedding | None,
    viewer_id: UUID,
    viewer_role: str,
    course_id: UUID | None = None,
    lecture_id: UUID | None = None,
) -> list[tuple[Record, float]]:
    """Pieces that fit a question, with their scores, best first: what `ground` makes its passages of."""
    vector, model = embedding or (None, None)
    rows = await _named.find_pieces(
        db, viewer_id=viewer_id, viewer_role=viewer_role, course_id=course_id, lecture_id=lecture_id,
        question=question, embedding=vector, model=model, most=_CANDIDATES,
    )  # fmt: skip
    known = {row["id"]: row for row in rows}
    return [(known[piece_id], score) for piece_id, score in rank([_piece(row) for row in rows])]


async def embed_question(embedder: Embedder | None, asked: str) -> Embedding | None:
    """None without a model, or when it does not answer."""
    if embedder is None or not embedder.is_configured or not asked.strip():
        return None
    try:
        (vector,) = await embedder.embed([asked], timeout_s=_EMBEDDING_S, tries=1)
    except ServiceError as error:
        log.warning("question_not_embedded", error=str(error))
        return None
    return Embedding(str(vector), embedder.model)


def _piece(row: Record) -> Piece:
    times = (row["from_s"], row["to_s"]) if row["place"] is None else (row["place"] * GAP_S, row["place"] * GAP_S)
    return Piece(row["id"], row["source_id"], *times, row["words"], row["cosine"])


def _merge(rows: Sequence[tuple[Record, float]], neighbours: Iterable[Record], known: set[UUID]) -> list[Passage]:
    """A passage for each piece, with the pieces beside it; what stands in an earlier passage is not told again."""
    beside: dict[UUID, list[Record]] = {}
    for row in neighbours:
        beside.setdefault(row["of_id"], []).append(row)
    told, passages = set(known), []
    for row, score in rows:
        if row["id"] in told:
            continue
        parts = [row, *(other for other in beside.get(row["id"], ()) if other["id"] not in told)]
        told |= {part["id"] for part in parts}
        parts.sort(key=lambda part: part["from_s"] if part["place"] is None else part["place"])
        passages.append(_passage(parts, row, score))
    return passages


def _passage(parts: Sequence[Record], of: Any, score: float, *, is_now: bool = False) -> Passage:
    texts, spans, at = [], [], 0
    for part in parts:
        text = part["text"]
        spans.append(Span(at, at + len(text), _ms(part["from_s"]), _ms(part["to_s"]), part["page"]))
        texts.append(text)
        at += len(text) + 1
    return Passage(
        of["course_id"], of["lecture_id"] if of["file_id"] is None else None, of["file_id"],
        spans[0].from_ms, spans[-1].to_ms, of["page"], of["title"], " ".join(texts), score, tuple(spans), is_now,
    )  # fmt: skip


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)

"""Between what is written or said and the tutor: files and lectures' descriptions are read and cut by jobs, and their
pieces and those of transcripts embedded.

Triggers ask for them (`file_text`, `lecture_text`) whenever there is something to read anew; what is gone takes its
pieces with it. A store or model that is away puts a job off and fails none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from functools import partial
from tempfile import TemporaryFile
from typing import IO, Any, TypeVar
from uuid import UUID

from server.config import Files
from server.data.db import Connection, Database, queries
from server.data.jobs import Again, Job, Work, add_job, putting_off
from server.domain.files import object_key
from server.domain.texts import TextPiece, cut_pages
from server.services.documents import Documents, DocumentsBusy
from server.services.embeddings import Embedder
from server.services.objects import Objects
from server.services.outside import SERVICE_AWAY, ServiceHasNone, ServiceNotConfigured

FILE, LECTURE, EMBEDDING = "file_text", "lecture_text", "text_embedding"
TRANSCRIPT_EMBEDDING = "transcript_embedding"
# Pieces that the model is given at once, and by one attempt.
EMBEDDED_AT_ONCE = 64
# Pieces that one statement keeps: to find the words of a book takes Postgres longer than a statement may.
KEPT_AT_ONCE = 200
_BUSY_S = 1.0

T = TypeVar("T")
texts = queries("texts")
videos = queries("videos")


def parts_of(pieces: Sequence[T]) -> Iterator[Sequence[T]]:
    """`KEPT_AT_ONCE` of them at a time."""
    return (pieces[start : start + KEPT_AT_ONCE] for start in range(0, len(pieces), KEPT_AT_ONCE))


class Texts:
    """Reads what is written; `store` is None where none is configured."""

    def __init__(
        self, settings: Files, database: Database, store: Objects | None, documents: Documents, embedder: Embedder
    ) -> None:
        self._settings = settings
        self._database = database
        self._store = store
        self._documents = documents
        self._embedder = embedder

    @property
    def works(self) -> dict[str, Work]:
        """By the kind of their jobs."""
        return {
            FILE: self.read_file,
            LECTURE: self.read_lecture,
            EMBEDDING: partial(self.embed, texts),
            TRANSCRIPT_EMBEDDING: partial(self.embed, videos),
        }

    async def catch_up(self) -> None:
        """Ask for the embeddings of what was kept while no model was configured, or another. Raises DATABASE_AWAY."""
        if self._embedder.is_configured:
            async with self._database.transaction() as tx:
                await texts.lock_embeddings(tx)
                await texts.ask_for_embeddings(tx, model=self._embedder.model)

    async def read_file(self, job: Job) -> None:
        """Keep what a material says. Larger ones than pass through us are not read."""
        row = await texts.get_readable_file(self._database, file_id=UUID(job.payload["file_id"]))
        if row is None or row["size_bytes"] > self._settings.direct_bytes:
            return
        try:
            with self._documents.turn(row["content_type"]), TemporaryFile() as content:
                await self._fetch(job, object_key(row["id"], row["visibility"]), content)
                pages = await self._documents.read(content, row["content_type"])
        except DocumentsBusy as error:
            raise Again(_BUSY_S, str(error)) from None
        except ServiceHasNone:
            return  # gone meanwhile
        pieces = await asyncio.to_thread(cut_pages, pages)
        async with self._database.transaction() as tx:
            if await texts.lock_file(tx, file_id=row["id"]) is not None:
                await self._replace(tx, row["course_id"], pieces, file_id=row["id"])

    async def read_lecture(self, job: Job) -> None:
        """Keep what is written about a lecture."""
        async with self._database.transaction() as tx:
            row = await texts.lock_lecture(tx, lecture_id=UUID(job.payload["lecture_id"]))
            if row is not None:
                pieces = cut_pages([(None, row["description"])])
                await self._replace(tx, row["course_id"], pieces, lecture_id=row["id"])

    async def embed(self, kept: Any, job: Job) -> None:
        """Give some pieces of a source their embeddings, where a model makes them. `kept` has the queries.

        The job comes back for the others: however slow the model is and long the source, no attempt runs out of time.
        """
        source = {name: UUID(source_id) for name, source_id in job.payload.items()}
        rows = await kept.list_pieces_to_embed(
            self._database, **source, model=self._embedder.model, count=EMBEDDED_AT_ONCE
        )
        if not rows:
            return
        with putting_off(job, *SERVICE_AWAY):
            vectors = await self._embedder.embed([row["text"] for row in rows])
        ids, embeddings = [row["id"] for row in rows], [str(vector) for vector in vectors]
        await kept.set_embeddings(self._database, ids=ids, embeddings=embeddings, model=self._embedder.model)
        if len(rows) == EMBEDDED_AT_ONCE:
            raise Again(0.0)

    async def _fetch(self, job: Job, key: str, content: IO[bytes]) -> None:
        with putting_off(job, *SERVICE_AWAY):
            if self._store is None:
                raise ServiceNotConfigured("there is no object store")
            await self._store.fetch(key, content, self._settings.direct_bytes)

    async def _replace(
        self,
        tx: Connection,
        course_id: UUID,
        pieces: list[TextPiece],
        *,
        file_id: UUID | None = None,
        lecture_id: UUID | None = None,
    ) -> None:
        source_id = file_id or lecture_id
        await texts.delete_pieces(tx, source_id=source_id)
        for number, part in enumerate(parts_of(pieces)):
            await texts.insert_pieces(
                tx,
                course_id=course_id,
                file_id=file_id,
                lecture_id=lecture_id,
                first=number * KEPT_AT_ONCE,
                pages=[piece.page for piece in part],
                texts=[piece.text for piece in part],
            )
        if pieces and self._embedder.is_configured:
            await add_job(tx, EMBEDDING, source_id=str(source_id))

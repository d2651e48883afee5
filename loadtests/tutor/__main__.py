"""`bin/bench tutor`: whether what the tutor is given holds the answer, beside plain BM25 on the same questions.

Everything is of the product: captions are cut as the server cuts them, kept in a Postgres of its own, embedded through
its client by an endpoint of OpenAI's kind (the stand-in's, unless another is named), and found by the statement and the
order that the tutor uses. A hit is a piece of half a minute that holds half of the answer, or is half in it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from uuid import UUID

import aiohttp
import asyncpg

from actors.conversation.grounding import embed_question, find, ground
from embedded import programs
from embedded.postgres import Postgres
from embedded.processes import free_port, spawn, stop
from loadtests.tutor.bm25 import Windows
from loadtests.tutor.material import Lecture, Question, read_lectures
from server.config import OpenAI
from server.data.db import Database, queries
from server.data.migrate import migrate
from server.domain.transcripts import cut
from server.services.embeddings import Embedder

ROOT = Path(__file__).resolve().parents[2]
# Questions whose grounding is timed.
TIMED = 200
NOT_FOUND = 10_000
VIDEO, CATALOGUE = "its lecture", "all lectures"


@dataclass
class Ranks:
    """Where the first hit of each question stood, from 0."""

    ranks: list[int] = field(default_factory=list)

    def hit(self, most: int) -> float:
        """The share of questions with a hit among the first so many."""
        return sum(rank < most for rank in self.ranks) / max(len(self.ranks), 1)

    @property
    def mrr(self) -> float:
        """The mean of 1 / place."""
        return statistics.fmean(1 / (rank + 1) if rank < NOT_FOUND else 0.0 for rank in self.ranks)


Key = tuple[str, str, bool, bool]


class Bench:
    """The lectures in a database, and what is asked of it."""

    def __init__(self, db: Database, embedder: Embedder | None, lectures: Sequence[Lecture]) -> None:
        self._db = db
        self._embedder = embedder
        self._lectures = lectures
        self._viewer = UUID(int=0)
        self._ids: list[UUID] = []
        self.ranks: dict[Key, Ranks] = {}

    async def load(self) -> None:
        """One course for each of the material's, and everything that is said."""
        courses: dict[str, UUID] = {}
        async with self._db.transaction() as tx:
            self._viewer = await tx.fetchval(
                "INSERT INTO users (username, email, password_hash)"
                " VALUES ('bench', 'bench@example.org', '') RETURNING id"
            )
            for lecture in self._lectures:
                if lecture.course not in courses:
                    courses[lecture.course] = await tx.fetchval(
                        "INSERT INTO courses (creator_id, title, status) VALUES ($1, $2, 'published') RETURNING id",
                        self._viewer, lecture.course,
                    )  # fmt: skip
                self._ids.append(await _insert(tx, self._viewer, courses[lecture.course], lecture))
        await self._db.execute("ANALYZE")
        if self._embedder is not None:
            await self._embed(self._embedder)

    async def _embed(self, embedder: Embedder) -> None:
        videos = queries("videos")
        for row in await self._db.fetch("SELECT id FROM videos"):
            while pieces := await videos.list_pieces_to_embed(
                self._db, video_id=row["id"], model=embedder.model, count=16
            ):
                vectors = await embedder.embed([piece["text"] for piece in pieces], timeout_s=60)
                ids, told = [piece["id"] for piece in pieces], [str(vector) for vector in vectors]
                await videos.set_embeddings(self._db, ids=ids, embeddings=told, model=embedder.model)

    async def ask(self, name: str, embedder: Embedder | None) -> None:
        """Every question, of its lecture and of all."""
        for lecture_id, lecture, question in self._questions():
            embedding = await embed_question(embedder, question.text)
            asked = {
                "question": question.text,
                "embedding": embedding,
                "viewer_id": self._viewer,
                "viewer_role": "student",
            }
            async with self._db.connection() as connection:
                for scope, where in ((VIDEO, lecture_id), (CATALOGUE, None)):
                    found = await find(connection, **asked, lecture_id=where)
                    hits = (
                        n for n, (row, _) in enumerate(found)
                        if row["lecture_id"] == lecture_id and question.is_answered_in(row["from_s"], row["to_s"])
                    )  # fmt: skip
                    self._note(name, scope, lecture, question, next(hits, NOT_FOUND))

    async def ask_bm25(self, name: str) -> None:
        """The same of windows of six sentences, by Okapi's BM25 over English stems."""
        stems: dict[str, Counter[str]] = {}
        windows = [window for lecture in self._lectures for window in Windows.of(lecture)]
        texts = {window.text for window in windows} | {question.text for _, _, question in self._questions()}
        for row in await self._db.fetch(
            "SELECT t, array_agg(lexeme) AS words, array_agg(cardinality(positions)) AS counts"
            " FROM unnest($1::text[]) AS t, unnest(to_tsvector('english', t)) GROUP BY t", list(texts),
        ):  # fmt: skip
            stems[row["t"]] = Counter(dict(zip(row["words"], row["counts"], strict=True)))
        everywhere = Windows(windows, stems)
        for number, lecture in enumerate(self._lectures):
            within = Windows(Windows.of(lecture), stems)
            for question in lecture.questions:
                for scope, searched in ((VIDEO, within), (CATALOGUE, everywhere)):
                    found = searched.ranked(stems.get(question.text, Counter()))
                    hits = (
                        n for n, window in enumerate(found)
                        if window.lecture is self._lectures[number]
                        and question.is_answered_in(window.from_s, window.to_s)
                    )  # fmt: skip
                    self._note(name, scope, lecture, question, next(hits, NOT_FOUND))

    async def time(self, embedder: Embedder | None) -> list[float]:
        """Milliseconds of `ground` at a second of a lecture, and in all of them, by turns."""
        taken = []
        for number, (lecture_id, _, question) in enumerate(self._questions()):
            if number >= TIMED:
                break
            where = {"lecture_id": lecture_id, "position_ms": round(question.to_s * 1000)} if number % 2 else {}
            start = time.perf_counter()
            await ground(
                self._db, embedder, question=question.text, viewer_id=self._viewer, viewer_role="student", **where
            )
            taken.append((time.perf_counter() - start) * 1000)
        return sorted(taken)

    def _questions(self) -> Iterator[tuple[UUID, Lecture, Question]]:
        for lecture_id, lecture in zip(self._ids, self._lectures, strict=True):
            for question in lecture.questions:
                yield lecture_id, lecture, question

    def _note(self, name: str, scope: str, lecture: Lecture, question: Question, rank: int) -> None:
        self.ranks.setdefault((name, scope, question.is_named, lecture.is_held_out), Ranks()).ranks.append(rank)


async def _insert(tx: asyncpg.Connection, viewer: UUID, course: UUID, lecture: Lecture) -> UUID:  # type: ignore[type-arg]
    row = await tx.fetchrow(
        "WITH l AS (INSERT INTO lectures (course_id, title, sequence_order)"
        "           SELECT $1, $2, 1 + count(*) FROM lectures WHERE course_id = $1 RETURNING id)"
        " INSERT INTO videos (lecture_id, upload_user_id, title, cloudflare_uid, status)"
        " SELECT id, $3, $2, id::text, 'ready' FROM l RETURNING id, lecture_id", course, lecture.title, viewer,
    )  # fmt: skip
    pieces = cut(lecture.cues)
    await queries("videos").insert_transcript(
        tx,
        video_id=row["id"],
        lecture_id=row["lecture_id"],
        lang="en",
        from_s=[piece.from_s for piece in pieces],
        to_s=[piece.to_s for piece in pieces],
        texts=[piece.text for piece in pieces],
    )
    lecture_id: UUID = row["lecture_id"]
    return lecture_id


def show(bench: Bench, names: Sequence[str]) -> str:
    """A table: how often the answer was first and among the first three, and the mean reciprocal rank."""
    lines = []
    for scope, is_held_out in product((VIDEO, CATALOGUE), (False, True)):
        half = "held out" if is_held_out else "tuned on"
        lines.append(f"\n{'looked for in ' + scope + ', ' + half:45}{'hit@1':>8}{'hit@3':>8}{'MRR':>8}  questions")
        kinds: tuple[tuple[str, tuple[bool, ...]], ...] = (
            ("all", (True, False)), ("that name their subject", (True,)), ("in words of their own", (False,)),
        )  # fmt: skip
        for (kind, named), name in product(kinds, names):
            parts = [bench.ranks[name, scope, is_named, is_held_out].ranks for is_named in named]
            ranks = Ranks([rank for part in parts for rank in part])
            label = f"  {kind}: {name}"
            lines.append(f"{label:45}{ranks.hit(1):8.3f}{ranks.hit(3):8.3f}{ranks.mrr:8.3f}{len(ranks.ranks):10}")
    return "\n".join(lines)


@contextmanager
def stand_in(directory: Path) -> Iterator[OpenAI]:
    """The stand-in model, and the settings that lead to it."""
    port, key = free_port(), secrets.token_urlsafe(8)
    command = [sys.executable, "-m", "standins.model", f"--port={port}", f"--api-key={key}"]
    process = spawn(command, log=directory / "model.log", env=dict(os.environ), cwd=ROOT)
    try:
        deadline = time.monotonic() + 30
        while not programs.answers("127.0.0.1", port, "/livez"):
            if time.monotonic() > deadline:
                raise SystemExit(f"the stand-in model did not start: {(directory / 'model.log').read_text()}")
            time.sleep(0.05)
        yield OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=key, embedding_model="stand-in")
    finally:
        stop(process)


@asynccontextmanager
async def database(directory: Path) -> AsyncIterator[Database]:
    """A migrated Postgres of its own."""
    postgres = Postgres(directory / "postgres", durable=False)
    postgres.start()
    try:
        await migrate(postgres.dsn)
        db = await Database.open(postgres.dsn, pool_size=4, timeout_s=30)
        yield db
        await db.close()
    finally:
        postgres.stop()


async def measure(settings: OpenAI, directory: Path) -> str:
    """Everything, as text."""
    lectures = read_lectures()
    names = ("BM25, 6 sentences", "Lectern, words alone", "Lectern")
    async with database(directory) as db, aiohttp.ClientSession() as http:
        embedder = Embedder(http, settings)
        bench = Bench(db, embedder, lectures)
        await bench.load()
        await bench.ask_bm25(names[0])
        await bench.ask(names[1], None)
        await bench.ask(names[2], embedder)
        pieces = await db.fetchval("SELECT count(*) FROM transcript_chunks")
        times = {"words alone": await bench.time(None), "with embeddings": await bench.time(embedder)}
    asked = sum(len(lecture.questions) for lecture in lectures)
    lines = [f"{len(lectures)} lectures, {pieces} pieces, {asked} questions", show(bench, names), ""]
    for name, taken in times.items():
        lines.append(
            f"ground(), {name}: median {statistics.median(taken):.1f} ms, 95 % {taken[int(len(taken) * 0.95)]:.1f} ms"
        )
    return "\n".join(lines)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="bin/bench tutor", description=__doc__)
    parser.add_argument("--base-url", help="an endpoint for embeddings; without it the stand-in's")
    parser.add_argument("--api-key", default="none")
    parser.add_argument("--embedding-model", default="text-embedding-3-small")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lectern-tutor-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        if given.base_url:
            settings = OpenAI(base_url=given.base_url, api_key=given.api_key, embedding_model=given.embedding_model)
            print(asyncio.run(measure(settings, directory)))
            return
        with stand_in(directory) as settings:
            print(asyncio.run(measure(settings, directory)))


if __name__ == "__main__":
    main()

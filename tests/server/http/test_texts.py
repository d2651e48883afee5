"""What is written about a course is kept for the tutor for as long as it is there, and no longer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg
import pytest

from embedded.s3 import ObjectStore
from server.data.db import queries
from server.data.jobs import Again, Job
from server.http.keys import DATABASE, HTTP
from server.http.texts import EMBEDDED_AT_ONCE, EMBEDDING, Texts
from server.services.documents import Documents
from server.services.embeddings import Embedder
from server.services.objects import Objects
from server.services.outside import ServiceRefused
from tests.support.app import AppClient, serving, settings
from tests.support.files import pdf, s3_settings, upload
from tests.support.language_model import LanguageModel
from tests.support.people import People, Person
from tests.support.statements import note_sizes, noted_sizes
from tests.support.waiting import blocked

if TYPE_CHECKING:
    Sql = asyncpg.Connection[asyncpg.Record]

PIECES = "SELECT file_id::text, lecture_id::text, page, place, text FROM text_pieces ORDER BY source_id, place"

# So many of them, of a lecture of a course.
SOME_PIECES = """
    INSERT INTO text_pieces (course_id, lecture_id, place, text) SELECT $1, $2, n, 'x' FROM generate_series(1, $3) AS n
"""


@pytest.fixture
async def teacher(
    postgres_dsn: str, redis_url: str, object_store: ObjectStore, model: LanguageModel, sql: Sql
) -> AsyncIterator[Person]:
    config = settings(
        postgres_dsn,
        redis_url,
        s3=s3_settings(object_store),
        openai=model.settings,
        jobs={"poll_s": 0.02, "backoff_s": 0.01},
    )
    async with serving(config) as client:
        yield await _join(client, sql)


async def _join(client: AppClient, sql: Sql) -> Person:
    return await People(client, sql).join("teacher", "instructor")


async def kept(sql: Sql, count: int) -> list[dict[str, Any]]:
    """The pieces, once there are so many and nothing is left to do."""
    left = "SELECT count(*) FROM jobs WHERE kind IN ('file_text', 'lecture_text', 'text_embedding')"
    async with asyncio.timeout(30):
        while True:
            rows = [dict(row) for row in await sql.fetch(PIECES)]
            if len(rows) == count and await sql.fetchval(left) == 0:
                return rows
            await asyncio.sleep(0.02)


async def test_materials_and_descriptions_are_kept_with_their_pages_and_go_with_their_sources(
    teacher: Person, sql: Sql
) -> None:
    course = await teacher.make("/api/courses", {"title": "Queues", "status": "published"})
    lecture = await teacher.make(
        f"/api/courses/{course['id']}/lectures", {"title": "A", "description": "About queues, and where they end."}
    )
    place = {"course_id": course["id"], "visibility": "course"}
    handout = await upload(teacher, pdf("Queues.", "Stacks."), **place)
    notes = await upload(teacher, b"Plain notes on queues.", "notes.txt", **place)
    await upload(teacher, pdf("Nobody's course."), visibility="private")
    await upload(teacher, b"PK\x03\x04 something", "a.zip", **place)
    rows = await kept(sql, 4)
    by_source = {row["file_id"] or row["lecture_id"]: [] for row in rows}
    for row in rows:
        by_source[row["file_id"] or row["lecture_id"]].append((row["page"], row["place"], row["text"]))
    assert by_source == {
        lecture["id"]: [(None, 0, "About queues, and where they end.")],
        handout.body["id"]: [(1, 0, "Queues."), (2, 1, "Stacks.")],
        notes.body["id"]: [(None, 0, "Plain notes on queues.")],
    }
    assert await sql.fetchval("SELECT count(*) FROM text_pieces WHERE embedding IS NULL") == 0

    await teacher.ask("PUT", f"/api/lectures/{lecture['id']}", {"description": "Other words."})
    assert (await teacher.ask("DELETE", f"/api/files/{handout.body['id']}")).status == 204
    rows = await kept(sql, 2)
    assert {row["text"] for row in rows} == {"Other words.", "Plain notes on queues."}
    await sql.execute("DELETE FROM courses")
    assert await sql.fetchval("SELECT count(*) FROM text_pieces") == 0


async def test_what_a_whole_book_says_is_kept_some_pieces_at_a_time(
    teacher: Person, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To find the words of thousands takes longer than a statement may: then nothing of the book was ever kept."""
    monkeypatch.setattr("server.http.texts.KEPT_AT_ONCE", 2)
    await note_sizes(sql, "INSERT", "text_pieces")
    course = await teacher.make("/api/courses", {"title": "Queues"})
    await upload(teacher, pdf(*"ABCDE"), course_id=course["id"], visibility="course")
    rows = await kept(sql, 5)
    assert sorted((row["place"], row["page"], row["text"]) for row in rows) == [
        (place, place + 1, text) for place, text in enumerate("ABCDE")
    ]
    assert await noted_sizes(sql, "text_pieces") == [2, 2, 1]


async def test_a_material_is_read_when_the_store_lets_us_in_again(
    teacher: Person, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch, asked = Objects.fetch, asyncio.Event()

    async def refuse_once(store: Objects, *told: Any) -> None:
        if asked.is_set():
            return await fetch(store, *told)
        asked.set()
        raise ServiceRefused("AccessDenied")

    monkeypatch.setattr(Objects, "fetch", refuse_once)
    course = await teacher.make("/api/courses", {"title": "Queues"})
    await upload(teacher, b"About queues.", "notes.txt", course_id=course["id"])
    (piece,) = await kept(sql, 1)
    assert piece["text"] == "About queues."


async def test_a_document_is_fetched_when_it_is_its_turn_to_be_read_and_not_before(
    teacher: Person, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch, run, fetched, go_on = Objects.fetch, Documents._run, [], asyncio.Event()

    async def count(store: Objects, key: str, *told: Any) -> None:
        fetched.append(key)
        await fetch(store, key, *told)

    async def read_slowly(documents: Documents, content: Any) -> bytes:
        await go_on.wait()
        return await run(documents, content)

    monkeypatch.setattr(Objects, "fetch", count)
    monkeypatch.setattr(Documents, "_run", read_slowly)
    monkeypatch.setattr("server.http.texts._BUSY_S", 0.01)
    place = {"course_id": (await teacher.make("/api/courses", {"title": "Queues"}))["id"], "visibility": "course"}
    for page in ("Queues.", "Stacks."):
        await upload(teacher, pdf(page), **place)
    put_off = "SELECT count(*) FROM jobs WHERE error = 'another document is being read'"
    async with asyncio.timeout(30):
        while await sql.fetchval(put_off) == 0:  # noqa: ASYNC110  # nothing tells us
            await asyncio.sleep(0.01)
    assert len(fetched) == 1
    go_on.set()
    assert sorted(row["text"] for row in await kept(sql, 2)) == ["Queues.", "Stacks."]
    assert len(fetched) == 2


async def test_what_was_kept_without_a_model_or_with_another_is_embedded_by_the_present_one(
    postgres_dsn: str, redis_url: str, model: LanguageModel, sql: Sql
) -> None:
    quick = {"poll_s": 0.02, "backoff_s": 0.01}
    async with serving(settings(postgres_dsn, redis_url, jobs=quick)) as client:
        teacher = await _join(client, sql)
        course = await teacher.make("/api/courses", {"title": "Queues"})
        await teacher.make(f"/api/courses/{course['id']}/lectures", {"title": "A", "description": "About queues."})
        await kept(sql, 1)
    assert await sql.fetchval("SELECT count(*) FROM text_pieces WHERE embedding IS NULL") == 1
    for name in ("small", "small", "large", "another"):
        openai = model.settings | {"embedding_model": name}
        async with serving(settings(postgres_dsn, redis_url, jobs=quick, openai=openai)):
            await kept(sql, 1)
        assert await sql.fetchval("SELECT embedded_by FROM text_pieces WHERE embedding IS NOT NULL") == name
    assert model.embeddings == 3, "once is enough"


async def test_processes_that_start_together_ask_for_each_embedding_once(
    postgres_dsn: str, redis_url: str, model: LanguageModel, sql: Sql
) -> None:
    config = settings(postgres_dsn, redis_url, openai=model.settings, jobs={"poll_s": 3600})
    async with serving(config) as client:
        teacher = await _join(client, sql)
        course = await teacher.make("/api/courses", {"title": "Queues"})
        lecture = await teacher.make(f"/api/courses/{course['id']}/lectures", {"title": "A"})
        await sql.execute(SOME_PIECES, UUID(course["id"]), UUID(lecture["id"]), 1)
        embedder = Embedder(client.app[HTTP], config.openai)
        texts = Texts(config.files, client.app[DATABASE], None, Documents(config.files), embedder)
        onlooker = await asyncpg.connect(postgres_dsn)
        async with sql.transaction():
            await sql.execute(queries("texts").lock_embeddings.sql)
            starting = [asyncio.create_task(texts.catch_up()) for _ in range(2)]
            await blocked(onlooker, by=len(starting))
        await asyncio.gather(*starting)
        await onlooker.close()
        assert await sql.fetchval("SELECT count(*) FROM jobs WHERE kind = 'text_embedding'") == 1


async def test_what_was_given_up_with_a_model_that_refused_is_embedded_when_one_is_configured_that_does_not(
    postgres_dsn: str, redis_url: str, model: LanguageModel, sql: Sql
) -> None:
    quick = {"poll_s": 0.02, "backoff_s": 0.01, "attempts": 1}
    refusing = model.settings | {"api_key": "another"}
    async with serving(settings(postgres_dsn, redis_url, jobs=quick, openai=refusing)) as client:
        teacher = await _join(client, sql)
        course = await teacher.make("/api/courses", {"title": "Queues"})
        await teacher.make(f"/api/courses/{course['id']}/lectures", {"title": "A", "description": "About queues."})
        dead = "SELECT count(*) FROM jobs WHERE kind = 'text_embedding' AND dead_at IS NOT NULL"
        async with asyncio.timeout(30):
            while await sql.fetchval(dead) == 0:  # noqa: ASYNC110  # nothing tells us
                await asyncio.sleep(0.01)
    async with serving(settings(postgres_dsn, redis_url, jobs=quick, openai=model.settings)):
        await kept(sql, 1)
    assert await sql.fetchval("SELECT count(*) FROM text_pieces WHERE embedding IS NULL") == 0


async def test_a_source_of_many_pieces_is_embedded_by_as_many_attempts_as_that_takes_and_none_has_failed(
    postgres_dsn: str, redis_url: str, model: LanguageModel, sql: Sql
) -> None:
    config = settings(postgres_dsn, redis_url, openai=model.settings, jobs={"poll_s": 3600})
    async with serving(config) as client:
        teacher = await _join(client, sql)
        course = await teacher.make("/api/courses", {"title": "Queues"})
        lecture = await teacher.make(f"/api/courses/{course['id']}/lectures", {"title": "A"})
        await sql.execute(SOME_PIECES, UUID(course["id"]), UUID(lecture["id"]), EMBEDDED_AT_ONCE + 1)
        embedder = Embedder(client.app[HTTP], config.openai)
        texts = Texts(config.files, client.app[DATABASE], None, Documents(config.files), embedder)
        job = Job(UUID(lecture["id"]), EMBEDDING, {"source_id": lecture["id"]}, attempts=1, age_s=0.0)
        left = "SELECT count(*) FROM text_pieces WHERE embedding IS NULL"
        with pytest.raises(Again):
            await texts.works[EMBEDDING](job)
        assert await sql.fetchval(left) == 1
        await texts.works[EMBEDDING](job)
        assert await sql.fetchval(left) == 0

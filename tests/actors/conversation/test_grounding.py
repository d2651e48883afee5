"""What the tutor answers from is what its asker may watch and read, and fits the question."""

from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import UUID

import pytest

from actors.conversation.grounding import MOST_PASSAGES, Grounding, ground
from actors.conversation.recommendations import recommend
from server.data.db import Database
from server.services.embeddings import Embedder
from server.services.outside import ServiceAway
from tests.support.lectures import Lecture, make_learner, make_lecture
from tests.support.pausing import losing_connections

Sql = Any
SAID = [
    "Welcome to this lecture about how servers keep their promises.",
    "A queue hands out first whatever was put in first.",
    "A stack is the other way round: the newest plate on the pile is taken first.",
    "Photosynthesis turns light into sugar inside of chloroplasts.",
    "Interest that is added to the principal earns interest itself.",
    "That is all for today, thank you for listening.",
]
WRITTEN = "The handout about deadlocks: two threads wait for each other, and neither can go on."


@pytest.fixture
async def db(postgres_dsn: str) -> AsyncIterator[Database]:
    database = await Database.open(postgres_dsn, pool_size=2, timeout_s=10)
    yield database
    await database.close()


async def say(sql: Sql, lecture: Lecture, texts: Sequence[str], *, piece_s: float = 30.0) -> None:
    """A transcript, a piece for each text."""
    await sql.executemany(
        "INSERT INTO transcript_chunks (video_id, lecture_id, lang, from_s, to_s, text)"
        " VALUES ($1, $2, 'en', $3, $4, $5)",
        [(lecture.video_id, lecture.lecture_id, n * piece_s, (n + 1) * piece_s, text) for n, text in enumerate(texts)],
    )


async def write(sql: Sql, lecture: Lecture, text: str, *, visibility: str = "course", page: int | None = 1) -> UUID:
    """A file of the course, read."""
    file_id: UUID = await sql.fetchval(
        "INSERT INTO files (owner_id, course_id, filename, size_bytes, content_type, purpose, visibility, status)"
        " VALUES ($1, $2, 'notes.pdf', 9, 'application/pdf', 'material', $3, 'ready') RETURNING id",
        lecture.instructor_id, lecture.course_id, visibility,
    )  # fmt: skip
    await sql.execute(
        "INSERT INTO text_pieces (course_id, file_id, page, place, text) VALUES ($1, $2, $3, 0, $4)",
        lecture.course_id, file_id, page, text,
    )  # fmt: skip
    return file_id


class Model:
    """An embedding model that knows three things, or is away."""

    is_configured = True
    model = "topics"

    def __init__(self, *, away: bool = False) -> None:
        self.away = away

    async def embed(self, texts: Sequence[str], **_limits: Any) -> list[list[float]]:
        if self.away:
            raise ServiceAway("away")
        return [self.vector(text) for text in texts]

    @staticmethod
    def vector(text: str) -> list[float]:
        """Order, plants, money; and a little of everything."""
        topics = (("queue", "turn", "line"), ("plants", "photosynthesis", "leaves"), ("interest", "savings", "bank"))
        return [0.1 + sum(word in text.casefold() for word in topic) for topic in topics]

    async def learn(self, sql: Sql) -> None:
        """Everything said so far."""
        for row in await sql.fetch("SELECT id, text FROM transcript_chunks"):
            await sql.execute(
                "UPDATE transcript_chunks SET embedding = $2::text::vector, embedded_by = $3 WHERE id = $1",
                row["id"], str(self.vector(row["text"])), self.model,
            )  # fmt: skip


async def ask(db: Database, viewer_id: UUID, question: str, **where: Any) -> Grounding:
    """As a learner, without a model unless one is given."""
    model = where.pop("model", None)
    role = where.pop("role", "student")
    return await ground(db, model, question=question, viewer_id=viewer_id, viewer_role=role, **where)


async def test_a_question_finds_where_it_is_answered_with_what_is_said_around_it(
    db: Database, sql: Sql, postgres_dsn: str
) -> None:
    lecture = await make_lecture(postgres_dsn)
    learner = await make_learner(postgres_dsn, lecture.course_id)
    await say(sql, lecture, SAID)
    told = await ask(db, learner, "Why do stacks take the newest first?", lecture_id=lecture.lecture_id)
    best = told.passages[0]
    assert (best.course_id, best.lecture_id, best.file_id) == (lecture.course_id, lecture.lecture_id, None)
    assert (best.from_ms, best.to_ms, best.title) == (30_000, 120_000, "Folds")
    assert best.text == " ".join(SAID[1:4])
    assert [best.text[span.start : span.end] for span in best.spans] == SAID[1:4]
    assert not told.is_semantic
    # By whatever form of its words, in its course and anywhere.
    for where in ({"course_id": lecture.course_id}, {}):
        told = await ask(db, learner, "what are QUEUES handing out?", **where)
        assert SAID[1] in told.passages[0].text


async def test_what_is_being_watched_comes_first(db: Database, sql: Sql, postgres_dsn: str) -> None:
    lecture = await make_lecture(postgres_dsn)
    learner = await make_learner(postgres_dsn, lecture.course_id)
    await say(sql, lecture, SAID * 4)
    told = await ask(
        db, learner, "Explain what was just said about photosynthesis", lecture_id=lecture.lecture_id,
        position_ms=400_000,
    )  # fmt: skip
    now, *others = told.passages
    assert now.is_now
    assert told.watching == ("Folds", 400_000)
    stranger = await make_learner(postgres_dsn, name="stranger")
    untold = await ask(db, stranger, "Where am I?", lecture_id=lecture.lecture_id, position_ms=400_000)
    assert (untold.watching, untold.passages) == (None, ()), "who may not watch it is told nothing of it"
    assert (now.from_ms, now.to_ms) == (330_000, 420_000)
    assert others
    assert not any(other.is_now for other in others)
    spans = [(span.from_ms, span.to_ms) for passage in told.passages for span in passage.spans]
    assert len(spans) == len(set(spans)), "nothing is told twice"


@pytest.mark.parametrize("position_ms", [90_000, 200_000, 10**9])
async def test_after_a_long_silence_and_beyond_the_end_it_is_what_was_said_last(
    db: Database, sql: Sql, postgres_dsn: str, position_ms: int
) -> None:
    lecture = await make_lecture(postgres_dsn)
    learner = await make_learner(postgres_dsn, lecture.course_id)
    await say(sql, lecture, SAID[:2])
    told = await ask(db, learner, "What was just said?", lecture_id=lecture.lecture_id, position_ms=position_ms)
    assert told.passages[0].is_now
    assert told.passages[0].text.endswith(SAID[1])


async def test_a_lecture_comes_before_its_course_and_the_course_is_asked_too(
    db: Database, sql: Sql, postgres_dsn: str
) -> None:
    lecture = await make_lecture(postgres_dsn)
    learner = await make_learner(postgres_dsn, lecture.course_id)
    await say(sql, lecture, SAID)
    file_id = await write(sql, lecture, WRITTEN)
    told = await ask(db, learner, "What waits for each other in a deadlock queue?", lecture_id=lecture.lecture_id)
    assert file_id in {passage.file_id for passage in told.passages}
    assert len(told.passages) <= MOST_PASSAGES
    (written,) = (passage for passage in told.passages if passage.file_id)
    assert (written.page, written.from_ms, written.lecture_id, written.title) == (1, None, None, "notes.pdf")


async def test_meaning_finds_what_words_do_not(db: Database, sql: Sql, postgres_dsn: str) -> None:
    lecture = await make_lecture(postgres_dsn)
    learner = await make_learner(postgres_dsn, lecture.course_id)
    await say(sql, lecture, SAID, piece_s=60.0)
    model = Model()
    await model.learn(sql)
    told = await ask(db, learner, "Does my bank pay me for my savings?", lecture_id=lecture.lecture_id, model=model)
    assert told.is_semantic
    assert SAID[4] in told.passages[0].text
    # Vectors of another model do not count, of whatever length, and a model that is away takes nothing from the words.
    for vector, by in (("[1]", "topics"), (model.vector("bank savings interest"), "another"), ("[0, 0, 9]", None)):
        await sql.execute(
            "UPDATE transcript_chunks SET embedding = $1::text::vector, embedded_by = $2 WHERE from_s < 100",
            str(vector),
            by,
        )
        told = await ask(db, learner, "Does my bank pay me for my savings?", lecture_id=lecture.lecture_id, model=model)
        assert SAID[4] in told.passages[0].text
    told = await ask(db, learner, "plates on a pile", lecture_id=lecture.lecture_id, model=Model(away=True))
    assert not told.is_semantic
    assert SAID[2] in told.passages[0].text


async def test_a_piece_of_which_a_model_makes_nothing_is_no_nearer_than_others(
    db: Database, sql: Sql, postgres_dsn: str
) -> None:
    """A vector of zeros, as of a piece that is all music: its cosine is no number."""
    lecture = await make_lecture(postgres_dsn)
    learner = await make_learner(postgres_dsn, lecture.course_id)
    await say(sql, lecture, SAID, piece_s=60.0)
    model = Model()
    await model.learn(sql)
    for first_s in (0, 60, 180, 300):
        await sql.execute("UPDATE transcript_chunks SET embedding = '[0, 0, 0]' WHERE from_s = $1", float(first_s))
        told = await ask(db, learner, "Does my bank pay me for my savings?", lecture_id=lecture.lecture_id, model=model)
        assert SAID[4] in told.passages[0].text
        scores = [passage.score for passage in told.passages]
        assert scores == sorted(scores, reverse=True)


async def test_a_question_may_be_anything(db: Database, sql: Sql, postgres_dsn: str) -> None:
    lecture = await make_lecture(postgres_dsn)
    learner = await make_learner(postgres_dsn, lecture.course_id)
    await say(sql, lecture, SAID)
    for question in (
        "",
        "the of and",
        "'; DROP TABLE users; --",
        "\0\\'\"!&|():*<->",
        "q" * 9000,
        "数据 🙂",
        "a\\b 'c'",
    ):
        told = await ask(db, learner, question, lecture_id=lecture.lecture_id)
        assert all(passage.text for passage in told.passages)


# -- who is told what -------------------------------------------------------------------------------------------------

MAY_WATCH = """
    SELECT u.id AS viewer_id, u.role, v.id AS video_id, may_watch(u.id, u.role, v.id) AS told
    FROM users AS u, videos AS v WHERE v.id = lecture_video_id(v.lecture_id)
"""


async def test_exactly_what_a_viewer_may_watch_and_read_is_ever_found(
    db: Database, sql: Sql, postgres_dsn: str
) -> None:
    """Every role before every kind of course, lecture, video and file, against the rules that the routes ask."""
    lectures = []
    for status in ("draft", "published", "archived"):
        for visibility, is_preview in (("private", False), ("private", True), ("preview", False), ("public", False)):
            lecture = await make_lecture(postgres_dsn, status=status)
            await sql.execute("UPDATE videos SET visibility = $2 WHERE id = $1", lecture.video_id, visibility)
            await sql.execute("UPDATE lectures SET is_preview = $2 WHERE id = $1", lecture.lecture_id, is_preview)
            # A video that was replaced is nobody's lecture any more.
            await sql.execute(
                "INSERT INTO videos (lecture_id, upload_user_id, title, status, visibility)"
                " VALUES ($1, $2, 'Next', 'processing', 'public')", lecture.lecture_id, lecture.instructor_id,
            )  # fmt: skip
            await say(sql, lecture, [f"The secret word is {lecture.video_id.hex}."])
            for kind in ("private", "course", "public"):
                await write(sql, lecture, "The secret word of a file.", visibility=kind)
            lectures.append(lecture)
    viewers = [await make_learner(postgres_dsn, name=role, role=role) for role in ("student", "instructor", "admin")]
    viewers.append(await make_learner(postgres_dsn, name="enrolled"))
    viewers.append(await make_learner(postgres_dsn, name="left"))
    for lecture in lectures:
        await sql.execute(
            "INSERT INTO enrollments (user_id, course_id, source, is_active) VALUES ($1, $3, 'free', true),"
            " ($2, $3, 'free', false)", viewers[3], viewers[4], lecture.course_id,
        )  # fmt: skip
    rules = {(row["viewer_id"], row["video_id"]): row["told"] for row in await sql.fetch(MAY_WATCH)}
    sources = await sql.fetch(
        "SELECT u.id AS viewer_id, s.source_id FROM users AS u, readable_sources(u.id, u.role, NULL, NULL) AS s"
    )
    found = {(row["viewer_id"], row["source_id"]) for row in sources}
    assert {pair for pair, told in rules.items() if told} == {
        pair for pair in found if pair[1] in {lecture.video_id for lecture in lectures}
    }
    readable = await sql.fetch(
        "SELECT u.id AS viewer_id, f.id FROM users AS u, files AS f JOIN courses AS c ON c.id = f.course_id"
        " WHERE may_read_file(u.id, u.role, f) AND may_see(u.id, u.role, c.id, c.status)"
    )
    files = {row["id"] for row in await sql.fetch("SELECT id FROM files")}
    assert {(row["viewer_id"], row["id"]) for row in readable} == {pair for pair in found if pair[1] in files}
    for viewer_id in viewers:
        role = await sql.fetchval("SELECT role FROM users WHERE id = $1", viewer_id)
        for lecture in lectures:
            told = await ask(
                db, viewer_id, f"secret word {lecture.video_id.hex}", role=role, lecture_id=lecture.lecture_id,
                position_ms=1000,
            )  # fmt: skip
            said = [passage for passage in told.passages if passage.lecture_id == lecture.lecture_id]
            assert bool(said) is rules[viewer_id, lecture.video_id]


async def test_words_of_a_lecture_go_with_the_right_to_it(db: Database, sql: Sql, postgres_dsn: str) -> None:
    lecture = await make_lecture(postgres_dsn)
    learner = await make_learner(postgres_dsn, lecture.course_id)
    await say(sql, lecture, SAID)
    assert (await ask(db, learner, "queue", course_id=lecture.course_id)).passages
    await sql.execute("UPDATE enrollments SET expires_at = now() - interval '1 second'")
    assert (await ask(db, learner, "queue", course_id=lecture.course_id)).passages == ()
    assert (await ask(db, learner, "queue", lecture_id=lecture.lecture_id, position_ms=0)).passages == ()


def test_the_model_of_these_tests_answers_as_the_embedder_does() -> None:
    assert {"embed", "is_configured", "model"} <= set(dir(Embedder))


async def test_what_is_found_and_recommended_is_asked_for_again_where_a_connection_was_lost(
    db: Database, sql: Sql, postgres_dsn: str
) -> None:
    lecture = await make_lecture(postgres_dsn)
    learner = await make_learner(postgres_dsn, lecture.course_id)
    await say(sql, lecture, SAID)
    with losing_connections() as asked:
        told = await ask(db, learner, "What is a queue?", lecture_id=lecture.lecture_id, position_ms=45_000)
        assert await recommend(db, learner) == ()
    assert told.passages
    assert len(asked) == 6

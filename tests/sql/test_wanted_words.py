"""Whatever somebody types to find a course or a topic can be looked for, and whatever is written is soon found."""

from pathlib import Path
from shutil import copy
from typing import TypeAlias

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.data.migrate import MIGRATIONS_DIR, migrate
from tests.support.standing import *  # noqa: F403  fixtures
from tests.support.standing import STANDING

pytestmark = STANDING
Sql: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
SIGNS = ["-", "- ", "－", '"', " ", " or ", "!", "&", "|", "(", ")", "<", ">", ":*", "'", "\\", "a", "é"]
PIECES = st.sampled_from(SIGNS)
BUDGET = settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


async def understood(sql: Sql, typed: str) -> str:
    words: str = await sql.fetchval("SELECT wanted_words($1)::text", typed[:200])
    return words


@BUDGET
@given(pieces=st.lists(PIECES, min_size=1, max_size=6))
async def test_no_signs_in_any_order_are_too_much(sql: Sql, pieces: list[str]) -> None:
    await understood(sql, "".join(pieces) * 200)


@BUDGET
@given(typed=st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=200))
async def test_any_text_can_be_looked_for(sql: Sql, typed: str) -> None:
    await understood(sql, typed)


@pytest.mark.parametrize(
    ("typed", "same_as"),
    [
        ("a - b", "a b"), ("a -- b", "a b"), ("a --b", "a -b"), ("-(a)", "a"), ("a-", "a"), ("-" * 200, ""),
        ('a -"b c"', 'a -"b c"'), ("a －b", "a -b"),
    ],
)  # fmt: skip
async def test_a_dash_excludes_what_stands_right_behind_it(sql: Sql, typed: str, same_as: str) -> None:
    assert await understood(sql, typed) == await understood(sql, same_as)


async def test_a_dash_within_a_word_joins_it(sql: Sql) -> None:
    assert "'well-known'" in await understood(sql, "well-known")
    assert await understood(sql, "a -b") != await understood(sql, "a b")


@pytest.mark.parametrize("piece", ["a_", "1_", "9@e", "a-1.5", "/.", "a_b_c_d@e_f", "http://a_", "—", "“a”", "語"])
async def test_no_text_is_read_for_long(sql: Sql, piece: str) -> None:
    async with sql.transaction():
        await sql.execute("SET LOCAL statement_timeout = '20 s'")
        assert await sql.fetchval("SELECT words_of($1) IS NOT NULL", (piece * 40_000)[:40_000])


LONG_NAME = "max_" + "_".join("abcdefghijklmnopqrstuvwxyz")


@pytest.mark.parametrize("typed", [LONG_NAME, "parallel", "ada@example.com", "a.bc/d_e_f"])
async def test_names_with_underscores_and_addresses_are_found_as_they_are_written(sql: Sql, typed: str) -> None:
    text = f"Set {LONG_NAME}, run in parallel, or ask ada@example.com at http://a.bc/d_e_f"
    assert await sql.fetchval("SELECT words_of($1) @@ wanted_words($2)", text, typed)


@pytest.mark.parametrize(
    ("written", "typed"),
    [
        ("a “queue” of", "queue"), ("l’algorithme", "algorithme"), ("don’t", "don't"), ("don't", "don’t"),
        ("stacks—queues", "queues"), ("and so on…", "on"), ("great😀", "great"), ("it costs 5€", "5"),
        ("日本語。次", "日本語"), ("これは日本語の本です", "日本語"),
        ("队列是先进先出的", "先进先出"), ("用Redis做队列", "redis 队列"),
        ("日本語", '"日本語"'), ("カタカナ", "カナ"),
        ("«очередь»", "очередь"), ("e\N{HYPHEN}mail", "e-mail"), ("soft\N{SOFT HYPHEN}ware", "software"),
        ("ΣΟΦΟΣ", "σοφος"), ("σοφος", "ΣΟΦΟΣ"), ("Straße", "STRASSE"), ("MASSE", "Maße"), ("हिन्दी में", "हिन्दी"),
        ("Hàng đợi", "hang doi"), ("Łódź", "LODZ"), ("smørrebrød", "smorrebrod"), ("l’œuvre", "oeuvre"),
        ("IŞIK", "ışık"), ("ışık", "isik"), ("إضافة", "اضافه"), ("مُحَمَّد", "محمد"), ("كتـــاب", "کتاب"), ("שָׁלוֹם", "שלום"),
        ("\N{RIGHT-TO-LEFT MARK}שלום\N{RIGHT-TO-LEFT MARK}, עולם", "שלום"),
        ("می\N{ZERO WIDTH NON-JOINER}خواهم", "میخواهم"), ("क्\N{ZERO WIDTH JOINER}ष", "क्ष"),
        ("TCP/IP networks.", "ip"), ("TCP/IP networks.", "TCP/IP"), ("Node.js/Express", "node"),
        ("Node.js.", "node.js"),
    ],
)  # fmt: skip
async def test_a_word_is_found_whatever_signs_stand_beside_it_and_however_its_letters_are_written(
    sql: Sql, written: str, typed: str
) -> None:
    assert await sql.fetchval("SELECT words_of($1) @@ wanted_words($2)", written, typed)


async def test_a_chinese_word_is_looked_for_with_all_its_characters_and_excluded_as_any_other(sql: Sql) -> None:
    found = "SELECT words_of($1) @@ wanted_words($2)"
    assert not await sql.fetchval(found, "队列是先进先出的", "栈")
    assert not await sql.fetchval(found, "队列是先进先出的", "队栈")
    assert not await sql.fetchval(found, "先进先出", '"出进"')
    assert not await sql.fetchval(found, "a 栈", "a -栈")


async def test_a_phrase_may_be_typed_in_the_quotes_of_a_phone(sql: Sql) -> None:
    assert await understood(sql, "“first come” „first served“") == await understood(sql, '"first come" "first served"')


@pytest.mark.parametrize(("last", "title", "typed"), [("0036", "A “queue”", "queue"), ("0043", "Łódź", "lodz")])
async def test_what_was_written_before_is_found_too_and_was_not_changed(
    empty_postgres_dsn: str, tmp_path: Path, last: str, title: str, typed: str
) -> None:
    for migration in sorted(MIGRATIONS_DIR.glob("*.sql")):
        if migration.name < last:
            copy(migration, tmp_path)
    await migrate(empty_postgres_dsn, tmp_path)
    sql = await asyncpg.connect(empty_postgres_dsn)
    user = await sql.fetchval(
        "INSERT INTO users (username, email, password_hash) VALUES ('ada', 'ada@x.de', '') RETURNING id"
    )
    course = await sql.fetchval("INSERT INTO courses (title, creator_id) VALUES ($2, $1) RETURNING id", user, title)
    topic = await sql.fetchval(
        "INSERT INTO forum_topics (course_id, creator_id, title) VALUES ($1, $2, 'Why?') RETURNING id", course, user
    )
    post = "INSERT INTO forum_posts (topic_id, user_id, content) VALUES ($1, $2, $3)"
    await sql.execute(post, topic, user, f"«{title}»")
    told = "SELECT updated_at FROM courses UNION ALL SELECT updated_at FROM forum_topics"
    before = await sql.fetch(told)
    await migrate(empty_postgres_dsn)
    assert await sql.fetchval("SELECT words @@ wanted_words($1) FROM courses", typed)
    assert await sql.fetchval("SELECT words @@ wanted_words($1) FROM forum_topics", f"{typed} why")
    assert await sql.fetch(told) == before
    await sql.close()

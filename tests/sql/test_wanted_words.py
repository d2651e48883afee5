"""Whatever somebody types to find a course or a topic can be looked for, and whatever is written is soon found."""

from typing import TypeAlias

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

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


@pytest.mark.parametrize("piece", ["a_", "1_", "9@e", "a-1.5", "/.", "a_b_c_d@e_f", "http://a_"])
async def test_no_text_is_read_for_long(sql: Sql, piece: str) -> None:
    await sql.execute("SET statement_timeout = '20 s'")
    assert await sql.fetchval("SELECT words_of($1) IS NOT NULL", (piece * 40_000)[:40_000])


LONG_NAME = "max_" + "_".join("abcdefghijklmnopqrstuvwxyz")


@pytest.mark.parametrize("typed", [LONG_NAME, "parallel", "ada@example.com", "a.bc/d_e_f"])
async def test_names_with_underscores_and_addresses_are_found_as_they_are_written(sql: Sql, typed: str) -> None:
    text = f"Set {LONG_NAME}, run in parallel, or ask ada@example.com at http://a.bc/d_e_f"
    assert await sql.fetchval("SELECT words_of($1) @@ wanted_words($2)", text, typed)

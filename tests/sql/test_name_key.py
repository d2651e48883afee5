"""Names and addresses are one in any case and spelling, whatever the database's own locale."""

import unicodedata
from typing import TypeAlias

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.domain.accounts import check_username

Sql: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
NAMES = st.text(st.characters(exclude_categories=("Cs", "Cn", "Cc"), exclude_characters="\0"), min_size=1, max_size=64)
BUDGET = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


async def key(sql: Sql, name: str) -> str:
    found: str = await sql.fetchval("SELECT name_key($1)", name)
    return found


@BUDGET
@given(name=NAMES)
async def test_a_key_is_its_own_key(sql: Sql, name: str) -> None:
    once = await key(sql, name)
    assert await key(sql, once) == once


@BUDGET
@given(name=NAMES)
async def test_every_spelling_of_the_same_characters_has_one_key(sql: Sql, name: str) -> None:
    forms = {unicodedata.normalize(form, name) for form in ("NFC", "NFD", "NFKC", "NFKD")}
    assert len({await key(sql, form) for form in forms}) == 1


@BUDGET
@given(name=NAMES)
async def test_case_makes_no_name_another(sql: Sql, name: str) -> None:
    assert await key(sql, name.casefold()) == await key(sql, name)


@pytest.mark.parametrize(
    "names",
    [
        ("Straße", "STRASSE"),
        ("ЖАННА", "жанна"),
        ("ΣΊΣΥΦΟΣ", "σίσυφος"),
        ("ﬁn", "FIN"),
        ("Å", "a\u030a"),
        ("ａｄａ", "Ada"),
    ],
)
async def test_these_are_one_name(sql: Sql, names: tuple[str, str]) -> None:
    assert await key(sql, names[0]) == await key(sql, names[1])


async def test_plain_names_have_the_keys_that_all_of_unicode_gives_them(sql: Sql) -> None:
    """They are found a shorter way, and the indexes of names hold keys that were found the long way."""
    others = await sql.fetch("""
        SELECT n FROM generate_series(1, 127) AS n
        WHERE name_key(chr(n)) <> normalize(casefold(normalize(chr(n), NFKC) COLLATE pg_unicode_fast), NFKC)
    """)
    assert others == []
    assert await sql.fetchval("SELECT name_key(NULL)") is None


@BUDGET
@given(name=NAMES)
async def test_what_passes_for_a_user_name_never_passes_for_an_address(sql: Sql, name: str) -> None:
    try:
        check_username(name)
    except ValueError:
        return
    assert "@" not in await key(sql, name)


async def test_a_user_name_that_spells_an_address_is_refused_by_the_table_too(sql: Sql) -> None:
    with pytest.raises(asyncpg.CheckViolationError):
        await sql.execute("INSERT INTO users (username, email, password_hash) VALUES ('ada＠example', 'a@b.c', 'x')")

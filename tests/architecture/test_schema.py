"""What the migrated database and the named queries promise each other."""

import re

import asyncpg
import pytest

from server.data.db import QUERIES_DIR, queries

DOMAINS = sorted(path.stem for path in QUERIES_DIR.glob("*.sql"))
NAMED = [(domain, name) for domain in DOMAINS for name in queries(domain).statements]

# Foreign keys whose columns no index begins with, whatever the order of the columns.
UNINDEXED = """
    SELECT format('%s (%s)', c.conrelid::regclass, c.conname)
    FROM pg_constraint AS c
    WHERE c.contype = 'f' AND c.connamespace = 'public'::regnamespace AND NOT EXISTS (
        SELECT 1 FROM pg_index AS i
        WHERE i.indrelid = c.conrelid
          AND (i.indkey::int2[])[0:cardinality(c.conkey) - 1] @> c.conkey AND i.indpred IS NULL
    )
"""

UNSTAMPED = """
    SELECT t.table_name || '.' || wanted
    FROM information_schema.tables AS t, unnest(ARRAY['created_at', 'updated_at']) AS wanted
    WHERE t.table_schema = 'public' AND t.table_type = 'BASE TABLE' AND t.table_name <> ALL ($1::text[])
      AND NOT EXISTS (
        SELECT 1 FROM information_schema.columns AS c
        WHERE c.table_schema = 'public' AND c.table_name = t.table_name AND c.column_name = wanted
          AND c.is_nullable = 'NO' AND c.data_type = 'timestamp with time zone')
"""
# Not rows that anybody is shown, or that ever change.
BOOKKEEPING = [
    "schema_migrations", "processes", "course_counts", "plan_courses", "audit_log", "sign_in_addresses",
    "session_figures", "video_figures", "video_viewers", "forum_reads", "captions", "caption_languages",
]  # fmt: skip


async def test_every_query_is_understood_by_the_migrated_database(
    sql: "asyncpg.Connection[asyncpg.Record]",
) -> None:
    assert NAMED
    broken = {}
    for domain, name in NAMED:
        query = queries(domain).statements[name]
        try:
            statement = await sql.prepare(query.sql)
        except asyncpg.PostgresError as error:
            broken[f"{domain}.{name}"] = str(error)
        else:
            assert len(statement.get_parameters()) == len(query.parameters), (domain, name)
    assert broken == {}


def test_what_is_limited_and_locked_is_asked_for_once() -> None:
    """A join may ask again for each row; who skips what is locked is then given others each time."""
    asked_again = [
        f"{domain}.{name}"
        for domain, name in NAMED
        if re.search(r"\bIN \(\s*SELECT[^;]*\bLIMIT\b[^;]*\bSKIP LOCKED", queries(domain).statements[name].sql)
    ]
    assert asked_again == []


async def test_every_foreign_key_has_an_index(sql: "asyncpg.Connection[asyncpg.Record]") -> None:
    rows = await sql.fetch(UNINDEXED)
    assert [row[0] for row in rows] == []


# Of a few rows, however large the platform.
SMALL = {"processes", "jobs", "event_walk", "plans"}
# Looked through once: who was the first to pay, when the first walk through Stripe's events begins.
ONCE = {("payments.take_walk", "customers")}


async def test_no_statement_looks_through_what_grows_with_the_platform(
    sql: "asyncpg.Connection[asyncpg.Record]",
) -> None:
    """Else it answers in time on the day it is written, and with a million rows never."""
    await sql.execute("SET enable_seqscan = off; SET plan_cache_mode = force_generic_plan")
    looked_through = set()
    for domain, name in NAMED:
        query = queries(domain).statements[name]
        if query.sql.startswith("LOCK"):
            continue
        await sql.execute(f"PREPARE asked AS {query.sql}")
        values = f"({', '.join(['NULL'] * len(query.parameters))})" if query.parameters else ""
        plan = await sql.fetch(f"EXPLAIN EXECUTE asked{values}")
        await sql.execute("DEALLOCATE asked")
        tables = {found[1] for row in plan if (found := re.search(r"Seq Scan on (\w+)", row[0]))}
        looked_through |= {(f"{domain}.{name}", table) for table in tables - SMALL}
    assert looked_through == ONCE


async def test_every_row_says_when_it_was_made_and_changed(sql: "asyncpg.Connection[asyncpg.Record]") -> None:
    rows = await sql.fetch(UNSTAMPED, BOOKKEEPING)
    assert [row[0] for row in rows] == []


async def test_no_time_is_without_its_zone(sql: "asyncpg.Connection[asyncpg.Record]") -> None:
    rows = await sql.fetch(
        "SELECT table_name, column_name FROM information_schema.columns"
        " WHERE table_schema = 'public' AND data_type IN ('timestamp without time zone', 'time without time zone')"
    )
    assert rows == []


# What changes with every checkpoint of a session that plays.
RESTLESS = {
    "video_sessions": ["state", "last_seq", "last_sub", "duplicates", "decision", "seen_at", "updated_at"],
    "progress": ["watched_ranges", "position_ms", "last_watched_at", "updated_at"],
}


@pytest.mark.parametrize("table", RESTLESS)
async def test_no_index_holds_what_every_checkpoint_changes(
    sql: "asyncpg.Connection[asyncpg.Record]", table: str
) -> None:
    """Else every one of them writes into every index of the table (no HOT update), which costs more than the row."""
    indexed = await sql.fetch(
        """
        SELECT DISTINCT a.attname FROM pg_depend AS d
        JOIN pg_index AS i ON i.indexrelid = d.objid AND d.classid = 'pg_class'::regclass
        JOIN pg_attribute AS a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
        WHERE i.indrelid = $1::regclass AND d.refobjid = i.indrelid
        """,
        table,
    )
    assert indexed
    assert not {row["attname"] for row in indexed} & set(RESTLESS[table])

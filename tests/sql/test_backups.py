"""What an operator keeps of the database is good for something."""

import asyncio
from pathlib import Path
from typing import Any

import asyncpg

from embedded.postgres import program

Sql = Any


async def run(name: str, *arguments: str) -> None:
    process = await asyncio.create_subprocess_exec(
        str(program(name)), *arguments, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    _, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()


async def test_a_dump_is_restored_whole(postgres_dsn: str, empty_postgres_dsn: str, tmp_path: Path, sql: Sql) -> None:
    await sql.execute("""
        INSERT INTO users (username, email, password_hash) VALUES ('ada', 'ada@example.com', '');
        INSERT INTO courses (creator_id, title, status) SELECT id, 'Über Node.js', 'published' FROM users;
        INSERT INTO lectures (course_id, title, duration, sequence_order) SELECT id, 'A', 100, 1 FROM courses;
        INSERT INTO forum_topics (course_id, creator_id, title) SELECT id, creator_id, 'Hàng đợi' FROM courses;
        INSERT INTO forum_posts (topic_id, user_id, content) SELECT id, creator_id, 'TCP/IP' FROM forum_topics;
    """)
    dump = str(tmp_path / "dump.sql")
    await run("pg_dump", "--no-owner", "--file", dump, postgres_dsn)
    await run("psql", "-Xq", "-v", "ON_ERROR_STOP=1", "-f", dump, empty_postgres_dsn)
    restored = await asyncpg.connect(empty_postgres_dsn)
    tables = {"courses": "words", "lectures": "title", "forum_topics": "words", "forum_posts": "words"}
    for table, column in tables.items():
        asked = f"SELECT array_agg({column}::text ORDER BY id) FROM {table}"  # noqa: S608
        kept = await restored.fetchval(asked)
        assert kept == await sql.fetchval(asked)
        assert kept
    await restored.close()

"""Turns in Postgres: what is read of them is so of one moment, whatever other devices do meanwhile."""

import asyncio
from datetime import timedelta
from uuid import uuid4

import asyncpg
import pytest

from actors.conversation.turns import Outcome, Place, Question, Turn, Turns, Viewer
from server.config import Chat
from server.data.db import Database
from tests.actors.conftest import Place as Known
from tests.support.waiting import blocked


async def test_a_socket_that_opens_while_another_device_asks_misses_nothing_of_that_turn(place: Known) -> None:
    """Either it comes before the turn, whose beginning it is told then, or it knows that the turn runs."""
    db = await Database.open(place.dsn, pool_size=1, timeout_s=20.0)
    asking, sql = await asyncpg.connect(place.dsn), await asyncpg.connect(place.dsn)
    turns = Turns(db, Chat(), uuid4(), 30.0, (0, 0))
    try:
        async with asking.transaction():
            await asking.execute("LOCK TABLE chat_accounts")
            opening = asyncio.create_task(turns.newest(place.user_id))
            await blocked(sql)
            await asking.execute("INSERT INTO chat_accounts (user_id, last_turn) VALUES ($1, 1)", place.user_id)
            await asking.execute(
                "WITH made AS (INSERT INTO conversations (user_id) VALUES ($1) RETURNING id)"
                " INSERT INTO chat_turns (user_id, conversation_id, number, client_msg_id, owner, question)"
                " SELECT $1, id, 1, 'm1', $2, 'What is a queue?' FROM made",
                place.user_id,
                uuid4(),
            )
        last_turn, running = await opening
        assert (last_turn, running and running["number"]) in ((0, None), (1, 1))
    finally:
        await asking.close()
        await sql.close()
        await db.close()


@pytest.mark.parametrize("table", ["conversations", "lectures", "courses"])
async def test_who_deletes_what_a_turn_belongs_to_does_not_wait_for_who_finishes_it(place: Known, table: str) -> None:
    """Each waited for what the other held, for a second, and then one of them failed."""
    db = await Database.open(place.dsn, pool_size=1, timeout_s=20.0)
    deleting, sql = await asyncpg.connect(place.dsn), await asyncpg.connect(place.dsn)
    turns = Turns(db, Chat(), uuid4(), 30.0, (0, 0))
    try:
        course_id, lecture_id = place.lecture.course_id, place.lecture.lecture_id
        await sql.execute("DELETE FROM enrollments")  # with learners a course is archived
        watching = Place(course_id, lecture_id, 0)
        question = Question("m1", "What is a queue?", watching=watching)
        turn = await turns.begin(Viewer(place.user_id, "student"), question, ask_model=False, held=())
        assert isinstance(turn, Turn)
        wanted = {"conversations": turn.conversation_id, "lectures": lecture_id, "courses": course_id}
        async with deleting.transaction():
            await deleting.execute(f"SELECT FROM {table} WHERE id = $1 FOR UPDATE", wanted[table])
            outcome = Outcome("done", "What came first.", [16])
            finishing = asyncio.create_task(turns.finish(turn.id, turn.epoch, outcome))
            await blocked(sql)
            await deleting.execute(f"DELETE FROM {table} WHERE id = $1", wanted[table])  # noqa: S608
        finished = await finishing
        assert finished is (table != "conversations")
        assert await sql.fetchval("SELECT count(*) FROM chat_messages WHERE NOT is_user") == finished
    finally:
        await deleting.close()
        await sql.close()
        await db.close()


async def test_a_turn_that_began_after_one_was_seen_last_is_nobody_s_orphan_however_late_postgres_comes_to_it(
    place: Known,
) -> None:
    """Neither a turn of one's own, which could not be named when Postgres was asked, nor one of another process."""
    db = await Database.open(place.dsn, pool_size=1, timeout_s=20.0)
    own, other = (Turns(db, Chat(), uuid4(), 30.0, (0, 0)) for _ in range(2))
    try:
        seen_at = await db.fetchval("SELECT now()")
        question = Question("m1", "What is a queue?", watching=Place(place.lecture.course_id, None, None))
        turn = await own.begin(Viewer(place.user_id, "student"), question, ask_model=False, held=())
        assert isinstance(turn, Turn)
        await db.execute("INSERT INTO processes (id, seen_at) SELECT owner, created_at FROM chat_turns")
        # Postgres is back after a minute.
        await db.execute("UPDATE chat_turns SET created_at = created_at - interval '1 minute'")
        await db.execute("UPDATE processes SET seen_at = seen_at - interval '1 minute'")
        seen_at -= timedelta(minutes=1)
        for turns in (own, other):
            assert await turns.claim_orphans((), seen_at, None, 10) == []
        long_after = seen_at + timedelta(seconds=31)
        assert await own.claim_orphans((turn.id,), long_after, None, 10) == []
        assert [row["id"] for row in await own.claim_orphans((), long_after, None, 10)] == [turn.id]
        await db.execute("UPDATE chat_turns SET owner = (SELECT id FROM processes)")
        assert [row["id"] for row in await other.claim_orphans((), long_after, None, 10)] == [turn.id]
    finally:
        await db.close()

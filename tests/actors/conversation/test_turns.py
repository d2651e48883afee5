"""Turns in Postgres: what is read of them is so of one moment, whatever other devices do meanwhile."""

import asyncio
from uuid import uuid4

import asyncpg

from actors.conversation.turns import Turns
from server.config import Chat
from server.data.db import Database
from tests.actors.conftest import Place
from tests.support.waiting import blocked


async def test_a_socket_that_opens_while_another_device_asks_misses_nothing_of_that_turn(place: Place) -> None:
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

"""The database's own rule of a course that was paid for twice: as much goes back as is left of one payment."""

from typing import Any

import pytest

Sql = Any
PAY = """
    INSERT INTO transactions (user_id, course_id, amount, currency, transaction_reference, succeeded_at)
    SELECT u.id, c.id, 49, 'usd', $1, now() FROM users AS u, courses AS c RETURNING id
"""
DISPUTE = "INSERT INTO disputes (transaction_id, stripe_id, status, amount) VALUES ($1, 'dp', 'open', 39)"


@pytest.fixture
async def sql(sql: Sql) -> Sql:
    """With one user and one course."""
    await sql.execute("""
        INSERT INTO users (username, email, password_hash) VALUES ('ada', 'ada@example.com', '');
        INSERT INTO courses (creator_id, title, status, price) SELECT id, 'C', 'published', 49 FROM users;
    """)
    return sql


async def to_give_back(sql: Sql) -> list[tuple[Any, str]]:
    """Of which payments, and how much."""
    rows = await sql.fetch("SELECT transaction_id, amount FROM refunds WHERE status = 'requested' ORDER BY id")
    return [(row["transaction_id"], str(row["amount"])) for row in rows]


async def test_the_second_payment_is_given_back(sql: Sql) -> None:
    await sql.fetchval(PAY, "pi_1")
    second = await sql.fetchval(PAY, "pi_2")
    assert await to_give_back(sql) == [(second, "49.00")]
    assert await sql.fetchval("SELECT count(*) FROM jobs WHERE kind = 'payment_refund'") == 1


async def test_of_a_payment_that_went_back_in_part_the_rest_is_given_back(sql: Sql) -> None:
    first = await sql.fetchval(PAY, "pi_1")
    part = "INSERT INTO refunds (transaction_id, stripe_id, amount, status) VALUES ($1, 're', 10, 'succeeded')"
    await sql.execute(part, first)
    await sql.execute(DISPUTE, first)
    await sql.fetchval(PAY, "pi_2")
    assert await to_give_back(sql) == []
    await sql.execute("UPDATE disputes SET status = 'won'")
    assert await to_give_back(sql) == [(first, "39.00")]

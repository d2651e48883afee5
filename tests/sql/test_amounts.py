"""What may be written down of money, by its migration too: nothing is sold for more than before, and what was paid at a
price that somebody made at Stripe is."""

from pathlib import Path
from shutil import copy
from typing import Any

import asyncpg
import pytest

from server.data.db import DATABASE_AWAY, Database
from server.data.migrate import MIGRATIONS_DIR, migrate

Sql = Any
WIDENED = "0047"
COLUMNS = (
    "subscriptions.price",
    "transactions.amount",
    "transactions.refunded_amount",
    "refunds.amount",
    "disputes.amount",
)
SOMETHING_PAID = """
    INSERT INTO users (username, email, password_hash) VALUES ('ada', 'ada@x.de', '');
    INSERT INTO plans (plan_name, monthly, yearly, currency, covers_all, past_due_days)
    VALUES ('p', 9, 90, 'jpy', true, 7);
    INSERT INTO subscriptions (user_id, plan_id, billing_period, price, currency, status, current_period_end)
    SELECT u.id, p.id, 'monthly', 9, 'jpy', 'active', now() + interval '1 day' FROM users AS u, plans AS p;
    INSERT INTO transactions (user_id, subscription_id, amount, currency, transaction_reference, succeeded_at)
    SELECT user_id, id, 999999.99, 'jpy', 'pi_1', now() FROM subscriptions;
    INSERT INTO refunds (transaction_id, amount, status) SELECT id, 9.99, 'succeeded' FROM transactions;
    INSERT INTO disputes (transaction_id, stripe_id, status, amount)
    SELECT id, 'dp', 'won', 999999.99 FROM transactions;
"""
SEEN = "SELECT t.*, s.price FROM transactions AS t JOIN shown_subscriptions AS s ON s.id = t.subscription_id"
PAY = """
    INSERT INTO transactions (user_id, subscription_id, amount, currency, transaction_reference, succeeded_at)
    SELECT user_id, id, $1, 'jpy', gen_random_uuid(), now() FROM subscriptions RETURNING *
"""


async def test_what_is_written_down_already_stays_where_it_is_and_processes_of_before_go_on(
    empty_postgres_dsn: str, tmp_path: Path
) -> None:
    for migration in sorted(MIGRATIONS_DIR.glob("*.sql")):
        if migration.name < WIDENED:
            copy(migration, tmp_path)
    await migrate(empty_postgres_dsn, tmp_path)
    sql = await asyncpg.connect(empty_postgres_dsn)
    await sql.execute(SOMETHING_PAID)
    before = Database(empty_postgres_dsn, pool_size=2, timeout_s=5.0)
    seen = await before.fetch(SEEN)
    async with before.transaction() as tx:
        await tx.fetch(PAY, 1)
    files = "SELECT relname, pg_relation_filenode(oid) FROM pg_class WHERE relkind = 'r' ORDER BY relname"
    kept = {row["relname"]: row["pg_relation_filenode"] for row in await sql.fetch(files)}
    await migrate(empty_postgres_dsn)
    now = {row["relname"]: row["pg_relation_filenode"] for row in await sql.fetch(files)}
    tables = {name.partition(".")[0] for name in COLUMNS}
    assert {name: now[name] for name in tables} == {name: kept[name] for name in tables}
    # Who holds a statement that was prepared before is told once, and nothing was done.
    with pytest.raises(DATABASE_AWAY):
        async with before.transaction() as tx:
            await tx.fetch(PAY, 2)
    async with before.transaction() as tx:
        await tx.fetch(PAY, 2)
    assert (await before.fetch(f"{SEEN} ORDER BY t.id"))[0] == seen[0]
    assert await sql.fetchval("SELECT sum(amount) FROM transactions") == seen[0]["amount"] + 3
    await before.close()
    await sql.close()


@pytest.mark.parametrize("name", COLUMNS)
async def test_more_than_anything_costs_is_written_down_and_what_is_no_amount_is_not(sql: Sql, name: str) -> None:
    await sql.execute(SOMETHING_PAID)
    table, column = name.split(".")
    await sql.execute(
        "ALTER TABLE transactions DISABLE TRIGGER settle_transaction"
    )  # which freezes what was agreed upon
    if column == "refunded_amount":
        await sql.execute("UPDATE transactions SET amount = 999999999999.99")
    change = f"UPDATE {table} SET {column} = $1::text::numeric"  # noqa: S608
    await sql.execute(change, "999999999999.99")
    for wrong in ("NaN", "-0.01", "1000000000000"):
        with pytest.raises((asyncpg.CheckViolationError, asyncpg.NumericValueOutOfRangeError)):
            await sql.execute(change, wrong)


@pytest.mark.parametrize("name", ["courses.price", "plans.monthly", "plans.yearly"])
async def test_nothing_is_sold_for_a_million(sql: Sql, name: str) -> None:
    await sql.execute(SOMETHING_PAID)
    await sql.execute("INSERT INTO courses (creator_id, title) SELECT id, 'C' FROM users")
    table, column = name.split(".")
    change = f"UPDATE {table} SET {column} = $1::text::numeric"  # noqa: S608
    await sql.execute(change, "999999.99")
    with pytest.raises((asyncpg.CheckViolationError, asyncpg.NumericValueOutOfRangeError)):
        await sql.execute(change, "1000000")

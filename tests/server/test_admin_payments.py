"""What an operator does about payments: events that were of no use, and keys that rotate."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator

import pytest

from server import admin
from server.config import Auth
from server.data.sealing import make_ring
from tests.support.app import SECRET, AppClient, serving, settings
from tests.support.people import People, Person
from tests.support.shop import WEBHOOK, Sql
from tests.support.stripe import WEBHOOK_SECRET, sign_webhook

STRIPE = {"webhook_secret": WEBHOOK_SECRET}


@pytest.fixture
async def client(postgres_dsn: str, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AppClient]:
    monkeypatch.setenv("LECTERN_POSTGRES__DSN", postgres_dsn)
    monkeypatch.setenv("LECTERN_REDIS__URL", redis_url)
    monkeypatch.setenv("LECTERN_AUTH__SECRET", SECRET)
    async with serving(settings(postgres_dsn, redis_url, stripe=STRIPE, jobs={"poll_s": 0.05})) as client:
        yield client


async def run(*arguments: str) -> int:
    return await asyncio.to_thread(admin.main, arguments)


def printed(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The objects, which stand among what the application logs."""
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("{")]


async def test_a_dead_event_is_listed_with_why_and_taken_once_more_when_its_cause_is_mended(
    client: AppClient, sql: Sql, capsys: pytest.CaptureFixture[str]
) -> None:
    ada = await People(client, sql).join("ada")
    transaction_id = await sql.fetchval(
        """
        WITH c AS (INSERT INTO courses (creator_id, title, price) VALUES ($1, 'Queues', 49) RETURNING id)
        INSERT INTO transactions (user_id, course_id, amount, currency) SELECT $1, id, 49, 'usd' FROM c RETURNING id
        """,
        ada.id,
    )
    intent = {
        "id": "pi_1", "status": "succeeded", "amount": 4900, "amount_received": 4900, "currency": "usd",
        "customer": "cus_1", "client_secret": "pi_1_secret_2", "metadata": {"transaction_id": str(transaction_id)},
    }  # fmt: skip
    event = {"id": "evt_1", "object": "event", "type": "payment_intent.succeeded", "data": {"object": intent}}
    body = json.dumps(event).encode()
    assert (await Person(client).post(WEBHOOK, data=body, headers=sign_webhook(body, at=time.time()))).status == 200

    assert await run("events", "list") == 0
    (text,) = printed(capsys)
    listed = json.loads(text)
    assert (listed["id"], listed["reason"]) == ("evt_1", "another customer than the transaction's")
    assert "secret" not in text
    assert await run("events", "retry", "evt_2") == 1

    await sql.execute("INSERT INTO customers (user_id, stripe_id) VALUES ($1, 'cus_1')", ada.id)
    assert await run("events", "retry") == 0
    async with asyncio.timeout(30):
        while await sql.fetchval("SELECT status FROM transactions") != "succeeded":  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    assert await sql.fetchval("SELECT is_active FROM enrollments")
    capsys.readouterr()
    assert await run("events", "list") == 0
    assert printed(capsys) == []


async def test_tokens_are_put_under_the_newest_key_and_the_old_one_can_go(
    client: AppClient, sql: Sql, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ada = await People(client, sql).join("ada")
    key = base64.b64encode(b"k" * 32).decode()
    old, new = make_ring(Auth(secret=SECRET)), make_ring(Auth(secret="another secret " * 3, data_keys=[key]))
    user_id = await sql.fetchval("SELECT id FROM users WHERE username = 'ada'")
    assert str(user_id) == ada.id
    for number in range(3):
        await sql.execute(
            "INSERT INTO payment_methods (user_id, sealed_token, token_hash, brand, card_last_four, card_expiry)"
            " VALUES ($1, $2, $3, 'visa', '4242', '12/2040')",
            user_id,
            old.seal(f"pm_{number}", user_id) if number else b"sealed long ago by nobody knows what",
            bytes([number]),
        )
    monkeypatch.setenv("LECTERN_AUTH__DATA_KEYS", json.dumps([key]))
    assert await run("reseal") == 1
    said = capsys.readouterr()
    assert said.out == "2 sealed under the newest key\n"
    assert "1 are sealed under keys that are not in auth.data_keys" in said.err
    rows = await sql.fetch("SELECT sealed_token FROM payment_methods ORDER BY id")
    assert [new.open(row["sealed_token"], user_id) for row in rows[1:]] == ["pm_1", "pm_2"]
    await sql.execute("DELETE FROM payment_methods WHERE token_hash = $1", b"\0")
    assert await run("reseal") == 0
    assert capsys.readouterr().out == "0 sealed under the newest key\n"

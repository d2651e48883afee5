"""`bin/loadtest --purchases` against the product and the stand-in Stripe, whose books must be ours."""

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.app import AppClient, serving_unlimited
from tests.support.people import People
from tests.support.shop import WEBHOOK, Sql, opened
from tests.support.stripe import LocalService, payment_service

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
async def stripe(tmp_path: Path) -> AsyncIterator[LocalService]:
    async with payment_service(tmp_path) as stripe:
        yield stripe


@pytest.fixture
async def client(postgres_dsn: str, redis_url: str, stripe: LocalService) -> AsyncIterator[AppClient]:
    async with serving_unlimited(postgres_dsn, redis_url, {"stripe": stripe.settings}) as client:
        yield client


async def test_impatient_buyers_are_charged_once(client: AppClient, stripe: LocalService, sql: Sql) -> None:
    await stripe.tell(str(client.make_url(WEBHOOK)))
    async with opened(People(client, sql), stripe, sql) as shop:  # and audited at the end
        host = str(client.make_url("")).rstrip("/")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "loadtests", "--purchases", "--host", host, "--players", "4", "--seconds", "4"),
            *("--course", shop.course["id"]),
            cwd=ROOT,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.timeout(90):
            out, _ = await process.communicate()
        assert process.returncode == 0, out.decode()
        assert "purchases asked for" in out.decode()
        assert await sql.fetchval("SELECT count(*) FROM transactions WHERE status = 'succeeded'") > 0

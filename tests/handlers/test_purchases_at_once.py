"""Two purchases of one course that meet in the moment in which the first is paid."""

import asyncio
from typing import Any

import asyncpg
import pytest

from tests.support.shop import Shop, Sql, shop, stripe
from tests.support.stripe import LocalService
from tests.support.waiting import blocked

__all__ = ["shop", "stripe"]


@pytest.fixture
def overrides(stripe: LocalService) -> dict[str, Any]:
    """Nobody but the test learns that the first is paid."""
    return {"stripe": stripe.settings, "jobs": {"poll_s": 3600, "reconcile_s": 3600}}


async def test_who_asks_while_the_first_is_being_paid_does_not_buy_a_second(
    shop: Shop, sql: Sql, postgres_dsn: str
) -> None:
    ada = await shop.customer("ada", "threeDSecure2Required")
    await shop.stripe.control("POST", "webhooks", mode="hold")
    first = (await shop.buy(ada)).body
    await shop.stripe.approve(first["transaction"]["transaction_reference"])
    card = await shop.add_card(ada, "visa")
    paying = await asyncpg.connect(postgres_dsn)
    async with paying.transaction():  # as whoever takes Stripe's word for it
        await paying.execute("UPDATE transactions SET succeeded_at = now() WHERE id = $1", first["transaction"]["id"])
        asking = asyncio.create_task(shop.buy(ada, payment_method_id=card["id"]))
        await blocked(sql)
    second = await asking
    await paying.close()
    assert (second.status, second.code) == (409, "already_enrolled")
    assert len(await shop.stripe.ledger()) == 1

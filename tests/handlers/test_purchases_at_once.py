"""Two purchases of one course that meet in the moment in which the first is paid."""

import asyncio

import asyncpg

from tests.support.shop import Shop, Sql, overrides, shop, stripe
from tests.support.waiting import blocked

__all__ = ["overrides", "shop", "stripe"]


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

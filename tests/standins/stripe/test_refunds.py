from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import stripe

from tests.standins.stripe.conftest import Service


async def test_refunds_add_up_to_what_was_paid_and_no_more(service: Service) -> None:
    intent = await service.pay(expand=["latest_charge"])
    refunds = service.api.refunds
    part = await refunds.create_async({"payment_intent": intent.id, "amount": 900, "metadata": {"refund": "1"}})
    assert (part.status, part.amount) == ("succeeded", 900)
    with pytest.raises(stripe.InvalidRequestError) as too_much:
        await refunds.create_async({"payment_intent": intent.id, "amount": 4001})
    assert too_much.value.param == "amount"
    rest = await refunds.create_async({"payment_intent": intent.id, "reason": "requested_by_customer"})
    assert rest.amount == 4000
    with pytest.raises(stripe.InvalidRequestError) as spent:
        await refunds.create_async({"payment_intent": intent.id})
    assert spent.value.code == "charge_already_refunded"
    charge = await service.api.charges.retrieve_async(part.charge or "", {"expand": ["refunds"]})  # type: ignore[arg-type]
    assert (charge.refunded, charge.amount_refunded) == (True, 4900)
    assert charge.refunds is not None
    assert [refund.id for refund in charge.refunds.data] == [rest.id, part.id]
    assert [r.id for r in (await refunds.list_async({"payment_intent": intent.id})).data] == [rest.id, part.id]
    assert (await service.events()).count("charge.refunded") == 2
    assert await service.ledger() == {"usd": 0}


async def test_what_was_not_paid_is_not_refunded(service: Service) -> None:
    intent = await service.pay("pm_card_threeDSecure2Required")
    with pytest.raises(stripe.InvalidRequestError):
        await service.api.refunds.create_async({"payment_intent": intent.id})
    with pytest.raises(stripe.InvalidRequestError):
        await service.api.refunds.create_async({})


async def test_a_refund_may_take_its_time_or_come_back(
    start: Callable[..., Awaitable[Service]],
) -> None:
    service = await start(settles_s=60)
    slow, failing = await service.pay("pm_card_pendingRefund"), await service.pay("pm_card_refundFail")
    pending = await service.api.refunds.create_async({"payment_intent": slow.id})
    succeeded = await service.api.refunds.create_async({"payment_intent": failing.id})
    assert (pending.status, succeeded.status) == ("pending", "succeeded")
    assert await service.ledger() == {"usd": 0}
    await service.control("POST", "clock", advance_s=61)
    assert (await service.api.refunds.retrieve_async(pending.id)).status == "succeeded"
    failed = await service.api.refunds.retrieve_async(succeeded.id)
    assert (failed.status, failed.failure_reason) == ("failed", "expired_or_canceled_card")
    assert "refund.failed" in await service.events()
    assert await service.ledger() == {"usd": 4900}


@pytest.mark.parametrize("won", [True, False])
async def test_a_dispute_takes_the_money_until_it_is_decided(service: Service, won: bool) -> None:
    intent = await service.pay("pm_card_createDispute")
    assert await service.ledger() == {"usd": 0}
    [dispute] = (await service.api.disputes.list_async({"payment_intent": intent.id})).data
    assert (dispute.status, dispute.reason, dispute.amount) == ("needs_response", "fraudulent", 4900)
    with pytest.raises(stripe.InvalidRequestError) as refused:
        await service.api.refunds.create_async({"payment_intent": intent.id})
    assert refused.value.code == "charge_disputed"
    decided = await service.control("POST", f"disputes/{dispute.id}/close", won=won)
    assert decided["status"] == ("won" if won else "lost")
    assert await service.ledger() == {"usd": 4900 if won else 0}
    events = await service.events()
    assert events.count("charge.dispute.created") == events.count("charge.dispute.closed") == 1


async def test_any_payment_can_be_disputed_once(service: Service) -> None:
    intent = await service.pay()
    dispute = await service.control("POST", "disputes", payment_intent=intent.id, reason="duplicate")
    assert dispute["payment_intent"] == intent.id
    async with service.client.post(
        "/_control/disputes",
        headers={"Authorization": f"Bearer {service.settings.secret_key}"},
        json={"payment_intent": intent.id},
    ) as answer:
        assert answer.status == 400
    assert (await service.api.disputes.close_async(dispute["id"])).status == "lost"

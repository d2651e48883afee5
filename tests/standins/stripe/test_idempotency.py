from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import stripe

from tests.standins.stripe.conftest import BEARER, Service

KEY: dict[str, Any] = {"idempotency_key": "key-1"}
DAY_S = 86_400


async def test_a_key_that_is_used_again_gets_the_first_answer(service: Service) -> None:
    first = await service.pay(options=KEY)
    again = await service.pay(options=KEY)
    assert again.id == first.id
    assert await service.ledger() == {"usd": 4900}
    form = {"amount": "4900", "currency": "usd"}
    headers = {**BEARER, "Idempotency-Key": "key-2"}
    async with service.client.post("/v1/payment_intents", data=form, headers=headers) as one:
        assert "Idempotent-Replayed" not in one.headers
        body, request_id = await one.text(), one.headers["Request-Id"]
    async with service.client.post("/v1/payment_intents", data=form, headers=headers) as other:
        assert (await other.text(), other.headers["Idempotent-Replayed"]) == (body, "true")
        assert other.headers["Original-Request"] == request_id != other.headers["Request-Id"]


async def test_a_decline_is_an_answer_too(service: Service) -> None:
    for _ in range(2):
        with pytest.raises(stripe.CardError):
            await service.pay("pm_card_chargeCustomerFail", options=KEY)
    assert len((await service.api.payment_intents.list_async()).data) == 1


async def test_another_request_cannot_use_a_key(service: Service) -> None:
    await service.pay(options=KEY)
    with pytest.raises(stripe.IdempotencyError):
        await service.pay(amount=5000, options=KEY)
    with pytest.raises(stripe.IdempotencyError):
        await service.api.customers.create_async({}, KEY)


async def test_what_was_wrong_from_the_start_spends_no_key(service: Service) -> None:
    with pytest.raises(stripe.InvalidRequestError):
        await service.pay(amount=1, options=KEY)
    assert (await service.pay(options=KEY)).status == "succeeded"


async def test_a_key_is_forgotten_after_a_day(service: Service) -> None:
    first = await service.pay(options=KEY)
    await service.control("POST", "clock", advance_s=DAY_S - 60)
    assert (await service.pay(options=KEY)).id == first.id
    await service.control("POST", "clock", advance_s=61)
    assert (await service.pay(options=KEY)).id != first.id
    assert await service.ledger() == {"usd": 9800}


async def test_a_request_whose_answer_is_lost_was_acted_upon_once(service: Service) -> None:
    await service.control("POST", "answers", do="lose", path="/v1/payment_intents", times=2)
    for _ in range(2):
        with pytest.raises(stripe.APIConnectionError):
            await service.pay(options=KEY)
    assert (await service.pay(options=KEY)).status == "succeeded"
    assert await service.ledger() == {"usd": 4900}


async def test_a_request_that_never_arrives_is_not_acted_upon(service: Service) -> None:
    await service.control("POST", "answers", do="cut", method="GET", path="/v1/events")
    await service.control("POST", "answers", do="cut")
    await service.control("POST", "answers", do="fail", status=503)
    with pytest.raises(stripe.APIConnectionError):
        await service.pay(options=KEY)
    with pytest.raises(stripe.APIError) as failed:
        await service.pay(options=KEY)
    assert failed.value.http_status == 503
    assert await service.events() == []
    assert [fault["path"] for fault in await service.control("GET", "answers")] == ["/v1/events"]
    await service.control("DELETE", "answers")
    assert await service.control("GET", "answers") == []


async def test_an_error_of_its_own_is_the_answer_under_its_key_too(service: Service) -> None:
    await service.control("POST", "answers", do="break")
    for _ in range(2):
        with pytest.raises(stripe.APIError) as failed:
            await service.pay(options=KEY)
        assert failed.value.http_status == 500
    with pytest.raises(stripe.IdempotencyError):
        await service.pay(amount=5000, options=KEY)
    assert (await service.api.payment_intents.list_async()).data == []


async def test_a_key_is_in_use_while_its_first_request_is_not_answered(service: Service) -> None:
    await service.control("POST", "answers", do="slow", delay_s=30)
    slow = asyncio.create_task(service.pay(options=KEY))
    async with asyncio.timeout(30):
        while not await service.events():  # noqa: ASYNC110  nothing tells us
            await asyncio.sleep(0.01)
    with pytest.raises(stripe.APIError) as busy:
        await service.pay(options=KEY)
    assert busy.value.error is not None
    assert (busy.value.http_status, busy.value.error.code) == (409, "idempotency_key_in_use")
    slow.cancel()
    await asyncio.gather(slow, return_exceptions=True)


async def test_fifty_at_once_are_one(service: Service) -> None:
    paid = await asyncio.gather(*(service.pay(options=KEY) for _ in range(50)))
    assert len({intent.id for intent in paid}) == 1
    assert await service.ledger() == {"usd": 4900}


async def test_nothing_is_forgotten_by_a_restart(start: Callable[..., Awaitable[Service]]) -> None:
    service = await start()
    first = await service.pay(options=KEY)
    await service.control("POST", "clock", advance_s=3600)
    await service.control("POST", "webhooks", mode="hold")
    now = (await service.control("GET", "clock"))["now"]
    await service.client.close()
    again = await start()
    assert (await again.pay(options=KEY)).id == first.id
    assert (await again.control("GET", "clock"))["now"] >= now
    assert (await again.control("GET", "webhooks"))["mode"] == "hold"
    assert await again.ledger() == {"usd": 4900}

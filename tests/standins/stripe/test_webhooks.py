from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import stripe

from tests.standins.stripe.conftest import Receiver, Service

Start = Callable[..., Awaitable[Service]]


async def telling(start: Start, receiver: Receiver, **changes: Any) -> Service:
    return await start(webhook_url=str(receiver.server.make_url("/webhooks")), **changes)


async def delivered(service: Service, state: str) -> list[str]:
    return [e["type"] for e in await service.control("GET", "events") if e["delivery"]["state"] == state]


async def until(service: Service, state: str, event_type: str) -> None:
    async with asyncio.timeout(30):
        while event_type not in await delivered(service, state):  # noqa: ASYNC110  nothing tells us
            await asyncio.sleep(0.01)


async def test_what_happens_is_told_signed(start: Start, receiver: Receiver) -> None:
    service = await telling(start, receiver)
    intent = await service.pay(metadata={"a": "b"}, options={"idempotency_key": "k"})
    events = {event.type: event for event in await receiver.take(3)}
    assert set(events) == {"payment_intent.created", "charge.succeeded", "payment_intent.succeeded"}
    told: Any = events["payment_intent.succeeded"]
    assert (told.data.object["id"], told.data.object["metadata"]["a"]) == (intent.id, "b")
    assert (told.api_version, told.request.idempotency_key) == ("2026-10-28.endive", "k")
    assert (await service.api.events.retrieve_async(told.id)).type == told.type
    assert not [name for name in told.data.object.to_dict() if name.startswith("_")]


async def test_it_is_told_again_until_it_is_heard(start: Start, receiver: Receiver) -> None:
    service = await telling(start, receiver)
    receiver.answers = [500, 404, 302, 200]
    await service.api.customers.create_async()
    events = await receiver.take(4)
    assert len({event.id for event in events}) == 1
    await until(service, "delivered", "customer.created")


async def test_it_is_given_up_after_a_while(start: Start, receiver: Receiver) -> None:
    service = await telling(start, receiver, webhook_tries=2)
    receiver.answers = [500]
    await service.api.customers.create_async()
    await receiver.take(2)
    await until(service, "failed", "customer.created")


async def test_what_is_on_its_way_survives_a_restart(start: Start, receiver: Receiver) -> None:
    service = await telling(start, receiver)
    await service.control("POST", "webhooks", delay_s=3600)
    await service.api.customers.create_async()
    await service.client.close()
    again = await telling(start, receiver)
    assert await delivered(again, "pending") == ["customer.created"]


async def test_the_control_surface_chooses_order_and_number(start: Start, receiver: Receiver) -> None:
    service = await telling(start, receiver)
    await service.control("POST", "webhooks", mode="hold")
    await service.pay()
    created, charged, succeeded = [event["id"] for event in await service.control("GET", "events")]
    order = [succeeded, created, succeeded]
    answers = await service.control("POST", "webhooks/deliver", events=order)
    assert [answer["status"] for answer in answers] == [200, 200, 200]
    assert [event.id for event in await receiver.take(3)] == order
    assert await delivered(service, "held") == ["charge.succeeded"]
    await service.control("POST", "webhooks/deliver")
    assert [event.id for event in await receiver.take(1)] == [charged]


async def test_events_can_be_dropped_and_doubled(start: Start, receiver: Receiver) -> None:
    service = await telling(start, receiver)
    await service.control("POST", "webhooks", mode="drop")
    await service.api.customers.create_async()
    assert await service.control("POST", "webhooks", mode="send", copies=3, jitter_s=0.05) == {
        "mode": "send",
        "delay_s": 0.0,
        "jitter_s": 0.05,
        "copies": 3,
    }
    second = await service.api.customers.create_async()
    events: list[Any] = await receiver.take(3)
    assert {event.data.object["id"] for event in events} == {second.id}
    assert await delivered(service, "dropped") == ["customer.created"]


async def test_events_are_listed_for_thirty_days_the_newest_first(start: Start, receiver: Receiver) -> None:
    service = await telling(start, receiver)
    await service.control("POST", "webhooks", mode="drop")
    await service.pay()
    await service.control("POST", "webhooks", mode="send")
    await service.api.customers.create_async()
    await until(service, "delivered", "customer.created")
    told = await service.control("GET", "events")

    async def listed(**params: Any) -> list[str]:
        page = await service.api.events.list_async(params)  # type: ignore[arg-type]
        return [event.type async for event in page.auto_paging_iter()]

    everything = [event["type"] for event in reversed(told)]
    assert len(everything) == 4
    assert await listed() == await listed(limit=1) == everything
    assert await listed(types=["customer.created", "charge.succeeded"]) == ["customer.created", "charge.succeeded"]
    assert sorted(await listed(type="payment_intent.*")) == ["payment_intent.created", "payment_intent.succeeded"]
    assert await listed(delivery_success=True) == ["customer.created"]
    assert await listed(delivery_success=False) == everything[1:]
    assert await listed(starting_after=told[1]["id"]) == everything[3:]
    assert await listed(created={"gte": told[0]["created"] + 60}) == []
    for bad in ({"type": "a", "types": ["b"]}, {"types": [f"type{n}" for n in range(21)]}, {"ending_before": "evt_1"}):
        with pytest.raises(stripe.InvalidRequestError):
            await listed(**bad)
    await service.control("POST", "clock", advance_s=31 * 86_400)
    assert await listed(type="customer.*") == []
    with pytest.raises(stripe.InvalidRequestError) as forgotten:
        await listed(starting_after=told[0]["id"])
    assert forgotten.value.code == "resource_missing"


async def test_the_control_surface_is_for_who_has_the_key(service: Service) -> None:
    for path in ("clock", "webhooks", "events", "answers", "ledger"):
        async with service.client.get(f"/_control/{path}") as answer:
            assert answer.status == 401

from __future__ import annotations

from tests.standins.stripe.conftest import Service


async def test_the_ledger_is_a_page(service: Service) -> None:
    async with service.client.get("/") as page:
        assert "Nothing yet" in await page.text()
    intent = await service.pay(amount=1250, currency="eur", metadata={"<b>": "7"})
    await service.pay(amount=1250, currency="jpy")
    await service.api.refunds.create_async({"payment_intent": intent.id, "amount": 50})
    async with service.client.get("/") as page:
        text = await page.text()
    assert "left: 12.00 eur, 1250 jpy" in text
    assert "-0.50 eur" in text
    assert "&lt;b&gt;: 7" in text


async def test_nobody_answers_the_banks_question_without_the_secret(service: Service) -> None:
    intent = await service.pay("pm_card_threeDSecure2Required")
    for query in ("", "?client_secret=x"):
        async with service.client.post(f"/3d_secure/{intent.id}{query}", data={"approved": "yes"}) as answer:
            assert answer.status == 404


async def test_it_is_asked_once(service: Service) -> None:
    intent = await service.pay("pm_card_threeDSecure2Required")
    path = f"/3d_secure/{intent.id}?client_secret={intent.client_secret}"
    async with service.client.post(path, data={"approved": "yes"}) as answer:
        assert (answer.status, "Thank you" in await answer.text()) == (200, True)
    async with service.client.get(path) as page:
        assert "Answered" in await page.text()
    async with service.client.post(path, data={"approved": "no"}) as answer:
        assert answer.status == 400
    assert await service.ledger() == {"usd": 4900}

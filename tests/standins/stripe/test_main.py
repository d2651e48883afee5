"""The service as a process of its own, killed when it suits it least."""

from __future__ import annotations

from pathlib import Path

import pytest
import stripe

from standins.stripe.__main__ import read_arguments, settings_from
from tests.support.stripe import SECRET_KEY, payment_process


async def test_a_kill_between_charge_and_answer_costs_nothing(tmp_path: Path) -> None:
    http = stripe.AIOHTTPClient()
    async with payment_process(tmp_path) as service:
        await service.start()
        api = stripe.StripeClient(SECRET_KEY, base_addresses={"api": service.origin}, http_client=http).v1
        wish = {
            "amount": 4900,
            "currency": "usd",
            "payment_method": "pm_card_visa",
            "confirm": True,
            "automatic_payment_methods": {"enabled": True, "allow_redirects": "never"},
        }
        await service.control("POST", "answers", do="lose")
        with pytest.raises(stripe.APIConnectionError):
            await api.payment_intents.create_async(wish, {"idempotency_key": "k", "max_network_retries": 0})  # type: ignore[arg-type]
        await service.restart()
        intent = await api.payment_intents.create_async(wish, {"idempotency_key": "k"})  # type: ignore[arg-type]
        assert intent.status == "succeeded"
        assert [(line["type"], line["amount"]) for line in await service.ledger()] == [("charge", 4900)]
    await http.close_async()


def test_the_command_line_says_all_that_is_needed(tmp_path: Path) -> None:
    arguments = ["--port", "9001", "--data", str(tmp_path), "--secret-key", "sk_test_a"]
    settings = settings_from(read_arguments(arguments))
    assert (settings.public_url, settings.secret_key, settings.webhook_url) == (
        "http://127.0.0.1:9001",
        "sk_test_a",
        None,
    )
    more = ["--public-url", "http://pay.test/", "--webhook-url", "http://a/b", "--webhook-secret", "whsec_a"]
    settings = settings_from(read_arguments([*arguments, *more]))
    assert (settings.public_url, settings.webhook_url) == ("http://pay.test", "http://a/b")

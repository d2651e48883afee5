"""Stripe, as far as it is a service that may be away: whoever meets a conflict does not make it so for others."""

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer

from server.clock import Clock
from server.config import Breaker, Stripe
from server.services.outside import ServiceAway, ServiceError, ServiceLeftAlone, ServicePutsOff, ServiceRefused, State
from server.services.payments import Gateway, RequestRefused


@pytest.mark.parametrize(
    ("status", "code", "asked"),
    [(409, "idempotency_key_in_use", 2), (429, "lock_timeout", 2), (429, "rate_limit", 1)],
)
async def test_a_conflict_is_no_failure_of_stripes(status: int, code: str, asked: int) -> None:
    requests = 0

    async def refuse(_request: web.Request) -> web.Response:
        nonlocal requests
        requests += 1
        error = {"type": "invalid_request_error", "code": code, "message": "not now"}
        return web.json_response({"error": error}, status=status)

    app = web.Application()
    app.router.add_get("/v1/payment_intents/pi_1", refuse)
    async with TestServer(app) as server, ClientSession() as http:
        origin = str(server.make_url("")).rstrip("/")
        settings = Stripe(api_base=origin, secret_key="sk_test_x", timeout_s=20)
        gateway = Gateway(http, settings, Clock(), Breaker(failures=2, open_s=60))
        for _ in range(3):
            with pytest.raises(ServicePutsOff):
                await gateway.get_intent("pi_1")
        assert requests == 3 * asked
        assert gateway._service.state is State.CLOSED


async def test_a_stripe_that_fails_is_left_alone() -> None:
    async with ClientSession() as http:
        settings = Stripe(api_base="http://127.0.0.1:9", secret_key="sk_test_x", timeout_s=20)
        gateway = Gateway(http, settings, Clock(), Breaker(failures=2, open_s=60))
        with pytest.raises(ServiceAway):
            await gateway.get_intent("pi_1")
        with pytest.raises(ServiceLeftAlone):
            await gateway.get_intent("pi_1")


async def test_what_is_no_card_is_refused_and_not_kept() -> None:
    asked = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.json_response(
            {"id": "pm_1", "object": "payment_method", "type": "sepa_debit", "customer": "cus_1", "sepa_debit": {}}
        )

    app = web.Application()
    app.router.add_post("/v1/payment_methods/pm_1/{what}", answer)
    async with TestServer(app) as server, ClientSession() as http:
        origin = str(server.make_url("")).rstrip("/")
        settings = Stripe(api_base=origin, secret_key="sk_test_x", timeout_s=20)
        gateway = Gateway(http, settings, Clock(), Breaker())
        with pytest.raises(RequestRefused):
            await gateway.attach_card("pm_1", "cus_1")
    assert [path.rpartition("/")[2] for path in asked] == ["attach", "detach"]


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        *((200, body, ServiceRefused) for body in (b"[]", b"null", b"5", b"\xff", b'{"data": [5]}', b'{"object": []}')),
        *((400, body, ServiceError) for body in (b"[]", b'{"error": 5}', b'{"error": {"message": 5}}')),
    ],
)
async def test_what_makes_no_sense_is_told_as_stripes_fault(status: int, body: bytes, kind: type[Exception]) -> None:
    async def answer(_request: web.Request) -> web.Response:
        return web.Response(status=status, body=body, content_type="application/json")

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    async with TestServer(app) as server, ClientSession() as http:
        origin = str(server.make_url("")).rstrip("/")
        settings = Stripe(api_base=origin, secret_key="sk_test_x", timeout_s=20)
        gateway = Gateway(http, settings, Clock(), Breaker(failures=9))
        for asking in (gateway.get_intent("pi_1"), gateway.list_refunds("pi_1")):
            with pytest.raises(kind):
                await asking

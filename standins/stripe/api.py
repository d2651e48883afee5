"""The API under `/v1`: keys, parameters, idempotency, and the answers that the control surface wants lost."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from base64 import b64decode
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from standins.stripe import catalog, charges, customers, invoices, payment_intents, subscriptions
from standins.stripe.control import take_fault
from standins.stripe.due import run_due
from standins.stripe.operations import OPERATIONS, Call, Operation
from standins.stripe.store import SETTINGS, STORE
from standins.stripe.webhooks import DELIVERIES
from standins.stripe.wire import (
    API_VERSION,
    ApiError,
    Includes,
    Json,
    Parameters,
    check,
    expanded,
    new_id,
    public,
    read_form,
)

DECLARED = (catalog, charges, customers, invoices, payment_intents, subscriptions)
KEY_CHARACTERS = 255
# What a browser may do that knows a payment's client secret, or has a card.
FOR_BROWSERS = {
    ("GET", "/v1/payment_intents/{intent}"),
    ("POST", "/v1/payment_intents/{intent}/confirm"),
    ("POST", "/v1/payment_methods"),
}


@dataclass
class Answer:
    """What is sent back."""

    status: int
    body: str
    headers: dict[str, str] = field(default_factory=dict)


def add_routes(app: web.Application) -> None:
    """All declared operations, and an error in Stripe's shape for whatever else is asked."""
    app[IN_FLIGHT] = set()
    for declared in OPERATIONS:
        app.router.add_route(declared.method, declared.path, _handler(declared))
    app.router.add_route("*", "/v1/{rest:.*}", _unknown)


def _handler(declared: Operation) -> Handler:
    async def serve(request: web.Request) -> web.StreamResponse:
        request_id = new_id("req")
        body = await request.text() if declared.method == "POST" else request.query_string
        try:
            _authenticate(request, declared)
            answer = await _answer(request, declared, body, request_id)
        except ApiError as error:
            answer = Answer(error.status, json.dumps({"error": public(error.error)}))
        answer.headers = {"Request-Id": request_id, "Stripe-Version": API_VERSION, **answer.headers}
        return web.Response(
            status=answer.status, text=answer.body, content_type="application/json", headers=answer.headers
        )

    return serve


async def _answer(request: web.Request, declared: Operation, body: str, request_id: str) -> Answer:
    """Act, unless the control surface has another fate for this request. Raises ApiError."""
    app = request.app
    key = request.headers.get("Idempotency-Key") if declared.method == "POST" else None
    if key is not None and len(key) > KEY_CHARACTERS:
        raise ApiError("The idempotency key is too long.", kind="idempotency_error", before_acting=True)
    if key is not None and key in app[IN_FLIGHT]:
        raise ApiError(
            f"There is currently another in-progress request using this Stripe-Idempotency-Key ({key}).",
            status=409,
            kind="idempotency_error",
            code="idempotency_key_in_use",
        )
    fault = take_fault(app[STORE], request.method, request.path)
    if fault is not None and fault["do"] == "cut":
        _cut(request)
        return Answer(500, "")
    if fault is not None and fault["do"] == "fail":
        raise ApiError("The stand-in was told to fail.", status=fault["status"], kind="api_error")
    broken = fault["status"] if fault is not None and fault["do"] == "break" else None
    answer = _act(app, declared, request, body, key, request_id, broken=broken)
    app[DELIVERIES].wake()
    if fault is not None:
        app[IN_FLIGHT].add(key or "")
        try:
            await asyncio.sleep(fault["delay_s"])
        finally:
            app[IN_FLIGHT].discard(key or "")
        if fault["do"] == "lose":
            _cut(request)
    return answer


def _act(
    app: web.Application,
    declared: Operation,
    request: web.Request,
    body: str,
    key: str | None,
    request_id: str,
    *,
    broken: int | None,
) -> Answer:
    """In one transaction: what was answered before under this key, or the operation and its answer; with `broken` that
    is an error with this status."""
    store, settings = app[STORE], app[SETTINGS]
    run_due(store, settings)
    headers = {} if key is None else {"Idempotency-Key": key}
    fingerprint = hashlib.sha256(f"{request.method} {request.path}\n{body}".encode()).hexdigest()
    with store.transaction():
        if key is not None and (before := store.remembered(key, settings.key_ttl_s)) is not None:
            if before[0] != fingerprint:
                raise ApiError(
                    "Keys for idempotent requests can only be used with the same parameters they were first used with. "
                    f"Try using a key other than '{key}' if you meant to execute a different request.",
                    kind="idempotency_error",
                )
            headers |= {"Idempotent-Replayed": "true", "Original-Request": before[1]}
            return Answer(before[2], before[3], headers)
        call: Call[Any] = Call(
            store=store,
            settings=settings,
            given=Parameters(),
            path=request.path,
            ids=tuple(request.match_info.values()),
            request_id=request_id,
            idempotency_key=key,
        )
        error: ApiError | None = None
        with store.attempt() as undo:
            try:
                if broken is not None:
                    raise ApiError("The stand-in was told to break.", status=broken, kind="api_error")
                call.given = check(declared.parameters, read_form(body))
                result = expanded(declared.serve(call), call.given.expand, store.get, includes(call))
                answer = Answer(200, json.dumps(result, indent=2), headers)
            except ApiError as raised:
                error = raised
                if not error.keeps:
                    undo()
                answer = Answer(error.status, json.dumps({"error": public(error.error)}, indent=2), headers)
        if key is not None and not (error is not None and error.before_acting):
            store.remember(key, fingerprint, request_id, answer.status, answer.body)
    return answer


def includes(call: Call[Any]) -> Includes:
    """What objects have only for who asks."""
    return {name: _included(make, call) for name, make in INCLUDES.items()}


def _included(make: Callable[[Call[Any], str], Any], call: Call[Any]) -> Callable[[str], Any]:
    return lambda object_id: make(call, object_id)


def _refunds(call: Call[Any], charge: str) -> Json:
    found = call.store.find("refund", charge=charge)
    return {"object": "list", "url": f"/v1/charges/{charge}/refunds", "has_more": False, "data": found}


INCLUDES: dict[tuple[str, str], Callable[[Call[Any], str], Any]] = {
    ("charge", "refunds"): _refunds,
    ("invoice", "confirmation_secret"): invoices.confirmation_secret,
    ("invoice", "payments"): invoices.payments_of,
}


def _cut(request: web.Request) -> None:
    """End the connection as a cable would that is pulled out."""
    if request.transport is not None:
        request.transport.abort()


def _authenticate(request: web.Request, declared: Operation) -> None:
    scheme, _, token = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    if scheme.lower() == "basic":
        try:
            token = b64decode(token).decode().partition(":")[0]
        except ValueError:
            token = ""
    settings = request.app[SETTINGS]
    if hmac.compare_digest(token.strip().encode(), settings.secret_key.encode()):
        return
    for_browsers = (declared.method, declared.path) in FOR_BROWSERS
    if for_browsers and hmac.compare_digest(token.strip().encode(), settings.publishable_key.encode()):
        return
    message = (
        f"Invalid API Key provided: {token[:7]}****"
        if token
        else "You did not provide an API key. You need to provide your API key in the Authorization header, using "
        "Bearer auth (e.g. 'Authorization: Bearer YOUR_SECRET_KEY')."
    )
    raise ApiError(message, status=401)


async def _unknown(request: web.Request) -> web.StreamResponse:
    error = ApiError(f"Unrecognized request URL ({request.method}: {request.path}).", status=404)
    return web.json_response({"error": error.error}, status=404, headers={"Request-Id": new_id("req")})


# Idempotency keys of requests that were acted upon and are not answered yet.
IN_FLIGHT = web.AppKey("in_flight", set[str])

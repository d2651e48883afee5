"""What no real service offers: to choose how events and answers travel, to move the clock, to see all that was booked.

Under `/_control`, for the secret key:

- `GET /_control/clock`, `POST {advance_s}`: `{now}`; moving it on lets happen what falls due.
- `GET /_control/webhooks`, `POST {mode?, delay_s?, jitter_s?, copies?}`: how events go out from now on. `mode` is
  `send`, `hold` or `drop`; each goes after `delay_s` and up to `jitter_s` more (so in another order), so many times.
- `POST /_control/webhooks/deliver` `{events?}`: tell these now, in this order, or all that is held; what was answered.
- `GET /_control/events` `?type=`: all events, the oldest first, each with `delivery`.
- `POST /_control/answers` `{do, method?, path?, times?, status?, delay_s?}`, `GET`, `DELETE`: what happens to the next
  requests whose path begins so. `lose`: acted upon, then the connection is cut. `slow`: acted upon, answered after
  `delay_s`. `cut`: before anything is done. `fail`: answered with `status`, nothing done. `break`: the same, and
  so is from then on what comes under its key, as Stripe has it with errors of its own.
- `POST /_control/payment_intents/{id}/authenticate` `{approved}`: what the holder answers the bank.
- `POST /_control/disputes` `{payment_intent, reason?}`: the holder takes it back. `POST /_control/disputes/{id}/close`
  `{won}`: it is decided.
- `GET /_control/ledger`: `{lines, totals}`, every line of the balance with its payment's metadata.
"""

from __future__ import annotations

import hmac
from typing import Any, Literal, TypeVar

from aiohttp import hdrs, web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from standins.stripe import confirming
from standins.stripe.charges import close_dispute, open_dispute
from standins.stripe.due import advance
from standins.stripe.operations import HOW_TOLD, Call
from standins.stripe.store import SETTINGS, STORE, Store
from standins.stripe.webhooks import DELIVERIES
from standins.stripe.wire import ApiError, Json, Parameters, public

routes = web.RouteTableDef()


class Wish(BaseModel):
    """A body of the control surface."""

    model_config = ConfigDict(extra="forbid")


class Advance(Wish):
    advance_s: float = Field(ge=0)


class Telling(Wish):
    mode: Literal["send", "hold", "drop"] | None = None
    delay_s: float | None = Field(default=None, ge=0)
    jitter_s: float | None = Field(default=None, ge=0)
    copies: int | None = Field(default=None, ge=1, le=1000)


class Deliver(Wish):
    events: list[str] | None = None


class Fault(Wish):
    do: Literal["lose", "slow", "cut", "fail", "break"]
    method: str = "POST"
    path: str = "/v1/"
    times: int = Field(default=1, ge=1)
    status: int = 500
    delay_s: float = 0.0


class Authenticate(Wish):
    approved: bool = True


class Dispute(Wish):
    payment_intent: str
    reason: str = "fraudulent"


class Decision(Wish):
    won: bool


AnyWish = TypeVar("AnyWish", bound=Wish)


async def _wish(request: web.Request, model: type[AnyWish]) -> AnyWish:
    """The body, for who has the secret key."""
    _authenticate(request)
    try:
        return model.model_validate_json(await request.read() or b"{}")
    except ValidationError as error:
        raise web.HTTPBadRequest(text=str(error)) from None


def _authenticate(request: web.Request) -> None:
    expected = f"Bearer {request.app[SETTINGS].secret_key}"
    if not hmac.compare_digest(request.headers.get(hdrs.AUTHORIZATION, "").encode(), expected.encode()):
        raise web.HTTPUnauthorized


def _call(request: web.Request) -> Call[Parameters]:
    return Call(request.app[STORE], request.app[SETTINGS], Parameters())


@routes.get("/_control/clock")
async def get_clock(request: web.Request) -> web.Response:
    """The service's time."""
    _authenticate(request)
    return web.json_response({"now": request.app[STORE].clock.now()})


@routes.post("/_control/clock")
async def move_clock(request: web.Request) -> web.Response:
    """Move it on."""
    wish = await _wish(request, Advance)
    advance(request.app[STORE], request.app[SETTINGS], wish.advance_s)
    request.app[DELIVERIES].wake()
    return web.json_response({"now": request.app[STORE].clock.now()})


@routes.get("/_control/webhooks")
async def get_telling(request: web.Request) -> web.Response:
    """How events go out."""
    _authenticate(request)
    return web.json_response({**HOW_TOLD, **request.app[STORE].setting("webhooks", {})})


@routes.post("/_control/webhooks")
async def set_telling(request: web.Request) -> web.Response:
    """Change what is given."""
    wish = await _wish(request, Telling)
    store = request.app[STORE]
    how = {**HOW_TOLD, **store.setting("webhooks", {}), **wish.model_dump(exclude_none=True)}
    with store.transaction():
        store.set_setting("webhooks", how)
    return web.json_response(how)


@routes.post("/_control/webhooks/deliver")
async def deliver(request: web.Request) -> web.Response:
    """Tell some events now, in the order that is given; those told before too."""
    wish = await _wish(request, Deliver)
    store, deliveries = request.app[STORE], request.app[DELIVERIES]
    events = [held["event"] for held in store.deliveries("held")] if wish.events is None else wish.events
    return web.json_response([{"event": event, "status": await deliveries.deliver(event)} for event in events])


@routes.get("/_control/events")
async def list_events(request: web.Request) -> web.Response:
    """All of them, with what became of their telling."""
    _authenticate(request)
    store = request.app[STORE]
    wanted: Json = {"type": request.query["type"]} if "type" in request.query else {}
    told = {delivery["event"]: delivery for delivery in store.deliveries()}
    events = reversed(store.find("event", **wanted))
    return web.json_response([{**event, "delivery": told.get(event["id"])} for event in events])


def take_fault(store: Store, method: str, path: str) -> Json | None:
    """The fate of a request, once for each time that it was asked for."""
    faults: list[Json] = store.setting("answers", [])
    for fault in faults:
        if fault["method"] == method and path.startswith(fault["path"]):
            taken = dict(fault)
            fault["times"] -= 1
            with store.transaction():
                store.set_setting("answers", [left for left in faults if left["times"] > 0])
            return taken
    return None


@routes.post("/_control/answers")
async def add_fault(request: web.Request) -> web.Response:
    """One more fate, after those that wait."""
    wish = await _wish(request, Fault)
    store = request.app[STORE]
    faults = [*store.setting("answers", []), wish.model_dump()]
    with store.transaction():
        store.set_setting("answers", faults)
    return web.json_response(faults)


@routes.get("/_control/answers")
async def list_faults(request: web.Request) -> web.Response:
    """Fates that have not come true yet."""
    _authenticate(request)
    return web.json_response(request.app[STORE].setting("answers", []))


@routes.delete("/_control/answers")
async def drop_faults(request: web.Request) -> web.Response:
    """None any more."""
    _authenticate(request)
    with request.app[STORE].transaction():
        request.app[STORE].set_setting("answers", [])
    return web.json_response([])


@routes.post("/_control/payment_intents/{intent}/authenticate")
async def authenticate(request: web.Request) -> web.Response:
    """The holder's answer."""
    wish = await _wish(request, Authenticate)
    return _done(request, "payment_intent", "intent", lambda call, found: answer_bank(call, found, wish.approved))


def answer_bank(call: Call[Any], intent: Json, approved: bool) -> Json:
    """Approve a payment that waits for its holder, or not. Raises ApiError."""
    confirming.authenticate(call, intent, approved=approved)
    return intent


@routes.post("/_control/disputes")
async def add_dispute(request: web.Request) -> web.Response:
    """The holder of the card says that it was not so."""
    wish = await _wish(request, Dispute)

    def dispute(call: Call[Any], _found: Json) -> Json:
        intent = call.find("payment_intent", wish.payment_intent, status=404)
        return open_dispute(call, call.find("charge", intent["latest_charge"] or ""), wish.reason)

    return _done(request, None, "", dispute)


@routes.post("/_control/disputes/{dispute}/close")
async def decide_dispute(request: web.Request) -> web.Response:
    """It is decided."""
    wish = await _wish(request, Decision)
    return _done(request, "dispute", "dispute", lambda call, found: close_dispute(call, found, won=wish.won))


def _done(request: web.Request, kind: str | None, name: str, work: Any) -> web.Response:
    call = _call(request)
    try:
        with call.store.transaction():
            found = call.find(kind, request.match_info[name], status=404) if kind is not None else {}
            result = work(call, found)
    except ApiError as error:
        return web.json_response({"error": error.error}, status=error.status)
    request.app[DELIVERIES].wake()
    return web.json_response(public(result))


@routes.get("/_control/ledger")
async def get_ledger(request: web.Request) -> web.Response:
    """For an audit."""
    _authenticate(request)
    lines = ledger(request.app[STORE])
    return web.json_response({"lines": lines, "totals": totals(lines)})


def ledger(store: Store) -> list[Json]:
    """`{id, created, type, amount, currency, source, charge, payment_intent, customer, metadata}`, the oldest first;
    amounts in the smallest unit, positive what came in.
    """
    lines = []
    for line in reversed(store.find("balance_transaction")):
        source = store.get(line["source"]) or {}
        intent = store.get(source.get("payment_intent") or "") or {}
        lines.append(
            {
                **{name: line[name] for name in ("id", "created", "type", "amount", "currency", "source")},
                "charge": source.get("charge", source.get("id")),
                "payment_intent": intent.get("id"),
                "customer": intent.get("customer"),
                "invoice": intent.get("_", {}).get("invoice"),
                "metadata": intent.get("metadata", {}),
            }
        )
    return lines


def totals(lines: list[Json]) -> dict[str, int]:
    """What is left by currency."""
    sums: dict[str, int] = {}
    for line in lines:
        sums[line["currency"]] = sums.get(line["currency"], 0) + line["amount"]
    return sums

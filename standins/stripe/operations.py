"""What an operation of the API is: a method, a path, its parameters and a plain function from a call to an object."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Literal

from pydantic import Field

from standins.stripe.store import Settings, Store
from standins.stripe.wire import API_VERSION, Json, Model, Parameters, as_list, missing_object, new_id, public


@dataclass
class Call(Generic[Model]):
    """One request being served, within a transaction of the store."""

    store: Store
    settings: Settings
    given: Model
    path: str = ""
    ids: tuple[str, ...] = ()
    request_id: str | None = None
    idempotency_key: str | None = None

    @property
    def now(self) -> int:
        """The service's time."""
        return self.store.clock.now()

    def find(self, kind: str, object_id: str, *, param: str = "id", status: int = 400) -> Json:
        """The object that a parameter names. Raises ApiError."""
        found = self.store.get(object_id)
        if found is None or found["object"] != kind:
            raise missing_object(kind, object_id, param=param, status=status)
        return found

    def named(self, kind: str, position: int = 0) -> Json:
        """The object that the path names. Raises ApiError."""
        return self.find(kind, self.ids[position], param="id" if position == 0 else kind, status=404)

    def emit(self, name: str, about: Json, previous: Json | None = None) -> None:
        """Make an event about an object as it is now; `previous` has what an update changed, as it was."""
        emit(self, name, about, previous)


AnyCall = Call[Any]


@dataclass(frozen=True)
class Operation:
    """`path` as aiohttp has it; the parts in braces are the ids in their order."""

    method: Literal["GET", "POST", "DELETE"]
    path: str
    parameters: type[Parameters]
    serve: Callable[[AnyCall], Json]


OPERATIONS: list[Operation] = []


def operation(
    method: Literal["GET", "POST", "DELETE"], path: str, parameters: type[Parameters] = Parameters
) -> Callable[[Callable[[AnyCall], Json]], Callable[[AnyCall], Json]]:
    """Declare one."""

    def declare(serve: Callable[[AnyCall], Json]) -> Callable[[AnyCall], Json]:
        OPERATIONS.append(Operation(method, path, parameters, serve))
        return serve

    return declare


# -- lists -------------------------------------------------------------------------------------------------------------


class Bounds(Parameters):
    """Of times."""

    expand: list[str] = Field(default_factory=list, exclude=True)
    gt: int | None = None
    gte: int | None = None
    lt: int | None = None
    lte: int | None = None


class Page(Parameters):
    """Parameters of every list."""

    limit: int = Field(default=10, ge=1, le=100)
    starting_after: str | None = None
    ending_before: str | None = None
    created: Bounds | int | None = None


def page_of(call: Call[Any], kind: str, *, created_after: int | None = None, **members: object) -> Json:
    """A list object of what has these members (None is no wish), the newest first."""
    given: Page = call.given
    for name in ("starting_after", "ending_before"):
        if (edge := getattr(given, name)) is not None:
            call.find(kind, edge, param=name)
    created = given.created
    bounds: Json = {"gte": created, "lte": created} if isinstance(created, int) else {}
    if isinstance(created, Bounds):
        bounds = created.model_dump(exclude_none=True)
    if created_after is not None:
        bounds["gt"] = max(created_after, bounds.get("gt", created_after))
    found = call.store.find(
        kind,
        after=given.starting_after,
        before=given.ending_before,
        limit=given.limit + 1,
        created=bounds,
        **{name: value for name, value in members.items() if value is not None},
    )
    shown = found[-given.limit :] if given.ending_before else found[: given.limit]
    return as_list(call.path, shown, has_more=len(found) > given.limit)


# -- events ------------------------------------------------------------------------------------------------------------

HOW_TOLD: Json = {"mode": "send", "delay_s": 0.0, "jitter_s": 0.0, "copies": 1}
"""How events go out unless the control surface says otherwise: `mode` is `send`, `hold` or `drop`."""


def emit(call: AnyCall, name: str, about: Json, previous: Json | None = None) -> None:
    """Keep an event about an object as it is now, and note that it is to be told."""
    data: Json = {"object": public(about)}
    if previous is not None:
        data["previous_attributes"] = public(previous)
    told = call.settings.webhook_url is not None
    event: Json = {
        "id": new_id("evt"),
        "object": "event",
        "api_version": API_VERSION,
        "created": call.now,
        "data": data,
        "livemode": False,
        "pending_webhooks": int(told),
        "request": {"id": call.request_id, "idempotency_key": call.idempotency_key},
        "type": name,
    }
    call.store.put(event)
    if told:
        how = {**HOW_TOLD, **call.store.setting("webhooks", {})}
        state = {"send": "pending", "hold": "held", "drop": "dropped"}[how["mode"]]
        due = call.settings.wall() + how["delay_s"] + how["jitter_s"] * call.settings.random()
        call.store.add_delivery(event["id"], state, due, how["copies"])

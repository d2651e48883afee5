"""Stripe's wire: bracketed forms in, JSON objects, lists and errors out."""

from __future__ import annotations

import secrets
import string
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, TypeVar
from urllib.parse import parse_qsl

from pydantic import BaseModel, ConfigDict, Field, ValidationError

Json = dict[str, Any]

API_VERSION = "2026-10-28.endive"
_LETTERS = string.ascii_letters + string.digits
_CODES = {
    "extra_forbidden": ("parameter_unknown", "Received unknown parameter: {where}"),
    "missing": ("parameter_missing", "Missing required param: {where}."),
    "int_parsing": ("parameter_invalid_integer", "Invalid integer: {given}"),
    "int_type": ("parameter_invalid_integer", "Invalid integer: {given}"),
    "bool_parsing": ("parameter_invalid_boolean", "Invalid boolean: {given}"),
}


class ApiError(Exception):
    """Answered in Stripe's error shape; `members` go into the error object.

    With `keeps` what was done before it stays done, as the charge that failed. An error `before_acting` is not
    remembered for its idempotency key.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        keeps: bool = False,
        before_acting: bool = False,
        **members: Any,
    ) -> None:
        super().__init__(message)
        self.status, self.keeps, self.before_acting = status, keeps, before_acting
        self.code, self.message = code, message
        named = {"code": code, "param": param, "message": message, **members, "type": kind}
        if code is not None:
            named["doc_url"] = f"https://stripe.com/docs/error-codes/{code.replace('_', '-')}"
        self.error: Json = {name: value for name, value in named.items() if value is not None}


def missing_object(kind: str, object_id: str, *, param: str = "id", status: int = 404) -> ApiError:
    """There is no such object: 404 for one that stands in the path, 400 for one that a parameter names."""
    named = kind.replace("_", " ")
    return ApiError(f"No such {named}: '{object_id}'", status=status, code="resource_missing", param=param)


class Parameters(BaseModel):
    """The parameters of an operation; what it does not know is refused, as Stripe does. Empty text takes away."""

    model_config = ConfigDict(extra="forbid", str_max_length=5000)

    expand: list[str] = Field(default_factory=list, max_length=20)


Model = TypeVar("Model", bound=Parameters)
Metadata = dict[str, str] | Literal[""] | None


def new_id(prefix: str) -> str:
    """An id as Stripe's: the kind's prefix and 24 letters and digits."""
    return f"{prefix}_{''.join(secrets.choice(_LETTERS) for _ in range(24))}"


def read_form(text: str) -> Json:
    """`a[b][0]=c` as `{"a": {"b": ["c"]}}`; `a[]=` appends. Raises ApiError for what contradicts itself."""
    tree: Json = {}
    for name, value in parse_qsl(text, keep_blank_values=True):
        *steps, last = name.replace("]", "").split("[")
        node = tree
        for step in steps:
            node = node.setdefault(step or str(len(node)), {})
            if not isinstance(node, dict):
                raise ApiError(f"Invalid parameter: {name}", param=name, before_acting=True)
        node[last or str(len(node))] = value
    return {name: _listed(value) for name, value in tree.items()}


def _listed(node: Any) -> Any:
    if not isinstance(node, dict):
        return node
    inner = {key: _listed(value) for key, value in node.items()}
    if inner and all(key.isdecimal() for key in inner):
        return [inner[key] for key in sorted(inner, key=int)]
    return inner


def check(model: type[Model], given: Json) -> Model:
    """The parameters as the model has them. Raises ApiError that names the first at fault."""
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise _parameter_error(error) from None


def _parameter_error(error: ValidationError) -> ApiError:
    first = error.errors()[0]
    steps = [str(step) for step in first["loc"] if not str(step).startswith(("function-", "constrained-"))]
    where = "".join(steps[:1] + [f"[{step}]" for step in steps[1:]])
    code, text = _CODES.get(first["type"], ("parameter_invalid", "Invalid {where}: {why}"))
    message = text.format(where=where, given=first.get("input"), why=first["msg"])
    return ApiError(message, code=code, param=where, before_acting=True)


def public(node: Any) -> Any:
    """As it goes over the wire: members that begin with an underscore are the stand-in's own."""
    if isinstance(node, dict):
        return {name: public(value) for name, value in node.items() if not name.startswith("_")}
    if isinstance(node, list):
        return [public(item) for item in node]
    return node


def as_list(url: str, items: list[Json], *, has_more: bool = False) -> Json:
    """A list object."""
    return {"object": "list", "url": url, "has_more": has_more, "data": items}


def changed_metadata(before: Mapping[str, str], change: Metadata) -> dict[str, str]:
    """Keys of `change` over those of before; an empty value takes a key away, an empty text all. Raises ApiError."""
    if change is None:
        return dict(before)
    if isinstance(change, str):
        return {}
    merged = {key: value for key, value in {**before, **change}.items() if value != ""}
    if len(merged) > 50:
        raise ApiError("Metadata can have up to 50 keys.", param="metadata", before_acting=True)
    for key, value in merged.items():
        if len(key) > 40 or len(value) > 500:
            raise ApiError(
                "Metadata keys can have up to 40 characters, values up to 500.",
                param=f"metadata[{key}]",
                before_acting=True,
            )
    return merged


def expanded(found: Json, paths: Iterable[str], fetch: Callable[[str], Json | None], include: Includes) -> Json:
    """A copy with the ids at these paths (`latest_charge`, `data.customer`) replaced by their objects.

    `include` has what is left out unless it is asked for: by kind and member a function that makes it.
    """
    result: Json = public(found)
    for path in paths:
        _expand(result, path.split("."), path, fetch, include)
    return result


Includes = Mapping[tuple[str, str], Callable[[str], Any]]


def _expand(node: Any, steps: list[str], path: str, fetch: Callable[[str], Json | None], include: Includes) -> None:
    if isinstance(node, list):
        for item in node:
            _expand(item, steps, path, fetch, include)
        return
    if not steps or node is None:
        return
    name, *rest = steps
    make = include.get((node.get("object", ""), name)) if isinstance(node, dict) else None
    if make is not None and node.get(name) is None:
        node[name] = public(make(node["id"]))
    elif isinstance(node, dict) and name in node and node[name] is None:
        return
    elif not isinstance(node, dict) or name not in node:
        raise ApiError(f"This property cannot be expanded ({path}).", param="expand", before_acting=True)
    elif isinstance(node[name], str):
        other = fetch(node[name])
        if other is None:
            raise ApiError(f"This property cannot be expanded ({path}).", param="expand", before_acting=True)
        node[name] = public(other)
    _expand(node[name], rest, path, fetch, include)

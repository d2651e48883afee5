"""From bytes to validated models: bodies, queries, fields of forms. Each fault has a JSON pointer (RFC 6901)."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from aiohttp import web
from pydantic import BaseModel, BeforeValidator, ValidationError

from server.domain.cards import hide_card_numbers
from server.http.problems import BadCursor, MalformedJson, ValidationFailed

# Only a body in which one of these can be is walked for what Postgres cannot hold.
_LONG_NUMBER = re.compile(rb"\d{19}")
_INT_LIMIT = 1 << 63
# More than any valid body of a route holds; reports of players may, where nothing in them has to be looked for. To look
# at each of a mebibyte of values took most of a second, in which nobody else was served.
MOST_VALUES = 32_000


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


# A whole number of a body, as JSON Schema has it: JSON knows one kind of numbers, and 60.0 and 6e1 are 60.
Whole = BeforeValidator(_whole)


def media_type(request: web.Request) -> str:
    """What the body says that it is, as `type/subtype`; "" where that cannot be read."""
    try:
        return request.content_type
    except ValueError:  # its parameters are read by codecs that the client names
        return ""


def parse_body(model: type[BaseModel], raw: bytes) -> BaseModel:
    """A validated body. Raises MalformedJson, or ValidationFailed with a pointer for each fault."""
    value, is_long = _load_json(raw)
    if is_long:
        raise _too_many_values()
    try:
        body = model.model_validate_json(raw, strict=True)
    except ValidationError as error:
        raise ValidationFailed(errors=faults_of(error)) from None
    _refuse_what_cannot_be_kept(raw, value, is_long=False)  # last, for it is slow: what is valid is short
    return body


def check_json(raw: bytes) -> Any:
    """The JSON value of `raw`. Raises MalformedJson where it is not JSON, ValidationFailed where it holds what can be
    written in JSON but not be stored (NUL, lone surrogates, NaN and Infinity, integers of 64 bits and more), or means
    two things (a member that stands there twice)."""
    value, is_long = _load_json(raw)
    _refuse_what_cannot_be_kept(raw, value, is_long=is_long)
    return value


def _load_json(raw: bytes) -> tuple[Any, bool]:
    """What orjson makes of it, and whether there may be more than MOST_VALUES in it."""
    # Each value is the first of its container, or comes after a comma.
    is_long = raw.count(b",") + raw.count(b"[") + raw.count(b"{") > MOST_VALUES
    try:
        return orjson.loads(raw), is_long
    except orjson.JSONDecodeError:
        if not is_long:
            _refuse_unstorable(_parse_laxly(raw))
        raise MalformedJson from None


def _refuse_what_cannot_be_kept(raw: bytes, value: Any, *, is_long: bool) -> None:
    if b"\\u0000" in raw or _LONG_NUMBER.search(raw) or raw.count(b":") != _count_members(value):
        if is_long:
            raise _too_many_values()
        # Not orjson's value: it makes floats of integers that are too long for it, and forgets what comes twice.
        _refuse_unstorable(_parse_laxly(raw))


def _too_many_values() -> ValidationFailed:
    return ValidationFailed.at("", f"No body holds more than {MOST_VALUES} values.")


def _count_members(value: Any) -> int:
    """Of all objects in it. A text with as many colons repeats none of them; with more it may, or has them in text."""
    count, waiting = 0, [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            count += len(item)
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)
    return count


class _Object(dict[str, Any]):
    """A JSON object that remembers which of its members came twice."""

    def __init__(self, members: list[tuple[str, Any]]) -> None:
        super().__init__(members)
        names = Counter(name for name, _ in members) if len(members) > len(self) else {}
        self.repeated = [name for name, times in names.items() if times > 1]


def _parse_laxly(raw: bytes) -> Any:
    """What the standard library makes of it: it takes NaN and lone surrogates, so that they can be pointed at."""
    import json  # noqa: PLC0415 - only a malformed body ever needs it

    try:
        return json.loads(raw.decode(), object_pairs_hook=_Object)
    except (ValueError, RecursionError):
        raise MalformedJson from None


def _refuse_unstorable(value: Any) -> None:
    errors = []
    waiting: list[tuple[str, Any]] = [("", value)]
    while waiting:
        pointer, item = waiting.pop()
        if isinstance(item, _Object):
            errors += [
                {"pointer": f"{pointer}/{_escape(name)}", "detail": "The member stands here twice."}
                for name in item.repeated
            ]
            waiting.extend((f"{pointer}/{_escape(key)}", member) for key, member in item.items())
            waiting.extend((pointer, key) for key in item if unstorable(key))
        elif isinstance(item, list):
            waiting.extend((f"{pointer}/{index}", member) for index, member in enumerate(item))
        elif (fault := unstorable(item)) is not None:
            errors.append({"pointer": pointer, "detail": fault})
    if errors:
        raise ValidationFailed(errors=errors[:100])


def unstorable(item: Any) -> str | None:
    """Why Postgres or JSON cannot hold a plain value, if so."""
    if isinstance(item, str):
        if "\0" in item:
            return "The character U+0000 is not allowed."
        if not item.isascii() and any("\ud800" <= character <= "\udfff" for character in item):
            return "A lone surrogate is not a character."
    elif isinstance(item, float):
        if not math.isfinite(item):
            return "The number must be finite."
    elif isinstance(item, int) and not -_INT_LIMIT <= item < _INT_LIMIT:
        return "The integer is out of range."
    return None


def parse_query(model: type[BaseModel], request: web.Request) -> BaseModel:
    """A validated query string; the last of a repeated parameter counts. Raises ValidationFailed."""
    declared = {info.alias or name for name, info in model.model_fields.items()}
    values = {name: value for name, value in request.query.items() if name in declared}
    for name, value in values.items():
        if unstorable(value):
            if name == "cursor":
                raise BadCursor
            raise ValidationFailed.at(f"/{name}", "The text holds what is no character.")
    try:
        return model.model_validate_strings(values)
    except ValidationError as error:
        raise ValidationFailed(errors=faults_of(error)) from None


def parse_fields(model: type[BaseModel], fields: Mapping[str, str]) -> BaseModel:
    """The validated members of a form; those that are empty count as absent. Raises ValidationFailed."""
    try:
        return model.model_validate_strings({name: value for name, value in fields.items() if value != ""})
    except ValidationError as error:
        raise ValidationFailed(errors=faults_of(error)) from None


def faults_of(error: ValidationError) -> list[dict[str, str]]:
    """pydantic's errors as JSON pointers with a sentence each."""
    return [
        {"pointer": pointer_of(fault["loc"]), "detail": fault["msg"].removeprefix("Value error, ")}
        for fault in error.errors(include_url=False, include_context=False, include_input=False)[:100]
    ]


def pointer_of(location: Sequence[str | int]) -> str:
    """A JSON pointer (RFC 6901): ("items", 0, "a/b") is "/items/0/a~1b"."""
    return "".join(f"/{_escape(str(part))}" for part in location)


def _escape(part: str) -> str:
    part = hide_card_numbers(part).replace("~", "~0").replace("/", "~1")
    return "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in part)

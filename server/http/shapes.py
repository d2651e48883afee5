"""From what a handler returns to JSON: only the members that the route's answer declares, in the API's formats.

A shape is worked out once per pydantic model. It does not validate: rows come from Postgres,
and the tests hold the answers against the published schema.
"""

import types
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from functools import cache
from typing import Annotated, Any, Union, get_args, get_origin
from uuid import UUID

import asyncpg
import orjson
from pydantic import BaseModel

Shape = Callable[[Any], Any] | None
_JSON = orjson.OPT_UTC_Z | orjson.OPT_NAIVE_UTC | orjson.OPT_NON_STR_KEYS


def dump_json(value: Any) -> bytes:
    """JSON with times in RFC 3339 ending in `Z`, money as `"49.00"`, ids as text, multiranges as lists of pairs."""
    return orjson.dumps(value, default=_plain, option=_JSON)


def _plain(value: Any) -> Any:
    """What orjson does not know."""
    if isinstance(value, Decimal):
        return f"{value:.2f}"
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, asyncpg.Record):
        return dict(value)
    if isinstance(value, BaseModel):
        return value.model_dump(by_alias=True)
    if isinstance(value, set | frozenset | tuple):
        return list(value)
    if isinstance(value, asyncpg.Range):
        return [value.lower, value.upper]
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def shape_of(annotation: Any) -> Shape:
    """The shape of a type: None where values pass as they are."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return _model_shape(annotation)
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return shape_of(args[0])
    if origin in (Union, types.UnionType):
        return _optional_shape([shape_of(arg) for arg in args if arg is not type(None)])
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _mapping_shape(shape_of(args[1]))
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return _list_shape(shape_of(args[0]))
    return None


@cache  # most stand in the answers of several routes
def _model_shape(model: type[BaseModel]) -> Callable[[Any], Any]:
    members = [
        (info.serialization_alias or info.alias or name, name, shape_of(info.annotation), info.is_required())
        for name, info in model.model_fields.items()
    ]

    def select(source: Any) -> dict[str, Any]:
        if isinstance(source, BaseModel):
            source = dict(source)
        chosen = {}
        for key, name, shape, required in members:
            try:
                value = source[name]
            except KeyError:
                if required and key == name:
                    raise KeyError(f"the answer has no member {name!r}, which {model.__name__} declares") from None
                if key not in source:
                    continue
                value = source[key]
            chosen[key] = value if shape is None or value is None else shape(value)
        return chosen

    return select


def _list_shape(item: Shape) -> Shape:
    return None if item is None else lambda values: [item(value) for value in values]


def _mapping_shape(item: Shape) -> Shape:
    return None if item is None else lambda values: {key: item(value) for key, value in values.items()}


def _optional_shape(shapes: list[Shape]) -> Shape:
    """`X | None` is X. Of several models the handler must return instances: a mapping does not say which one it is."""
    if len(shapes) == 1:
        return shapes[0]
    return None

"""Keyset pages: a list is read on from the last row's key, so rows that come or go meanwhile shift nothing.

@routes.get("/api/courses", role=PUBLIC, rate="read", query=PageQuery, answer=Page[Course])
async def list_courses(call: Call[None]) -> dict[str, Any]:
    (after,) = read_cursor(call.query.cursor, UUID) or (None,)
    rows = await courses.list_courses(call.db, after=after, count=call.query.limit + 1)
    return page(call, rows, key=lambda row: (row["id"],))
"""

import base64
import binascii
from collections.abc import Callable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Generic, TypeVar
from uuid import UUID

import orjson
from pydantic import BaseModel, BeforeValidator, Field

from server.http.problems import BadCursor
from server.http.routing import Call, Query

T = TypeVar("T")
# Room for what a forum's has: a number of ten digits for each of some 250 transactions that write at the moment.
_LONGEST_CURSOR = 4096
# What the columns hold that lists are sorted by: integer, real, numeric, timestamptz (with room for any time zone).
_INT_LIMIT = 1 << 31
_REAL_LIMIT = 1e37
_LARGEST_EXPONENT = 100
_FIRST_YEAR, _LAST_YEAR = 2, 9998


def _digits(value: Any) -> Any:
    """pydantic's own reading takes "1_0", "+5" and " 5.0 " for numbers."""
    if isinstance(value, str) and not (value.isascii() and value.isdigit()):
        raise ValueError("must be a whole number")
    return value


Digits = BeforeValidator(_digits)


class PageQuery(Query):
    """What every list takes."""

    limit: Annotated[int, Digits] = Field(20, ge=1, le=100, description="How many items at most.")
    cursor: str | None = Field(None, description="`next_cursor` of the page before.")


class Page(BaseModel, Generic[T]):
    """A page of a list; `next` is a ready relative URL, null on the last page."""

    items: list[T]
    next_cursor: str | None
    next: str | None


def page(call: Call[Any], rows: Sequence[Any], key: Callable[[Any], Sequence[Any]]) -> dict[str, Any]:
    """The answer of a list, of up to limit + 1 rows: the one too many only says that there is more.

    Args:
        rows: in the list's order.
        key: the values by which a row is found again, as `read_cursor` gets them back.
    """
    count = call.query.limit
    items = rows[:count]
    if len(rows) <= count:
        return {"items": items, "next_cursor": None, "next": None}
    cursor = write_cursor(*key(items[-1]))
    return {"items": items, "next_cursor": cursor, "next": str(call.request.rel_url.update_query(cursor=cursor))}


def write_cursor(*values: Any) -> str:
    """An opaque cursor of JSON scalars, UUIDs, datetimes and Decimals."""
    return base64.urlsafe_b64encode(orjson.dumps(values, default=str)).decode().rstrip("=")


def read_cursor(cursor: str | None, *kinds: type) -> tuple[Any, ...] | None:
    """The values of a cursor, one of each kind; None without a cursor. Raises BadCursor."""
    if cursor is None:
        return None
    try:
        if len(cursor) > _LONGEST_CURSOR:
            raise ValueError
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        values = orjson.loads(raw)
        if not isinstance(values, list) or len(values) != len(kinds):
            raise ValueError
        return tuple(_read(value, kind) for value, kind in zip(values, kinds, strict=True))
    except (ValueError, TypeError, ArithmeticError, binascii.Error):
        raise BadCursor from None


def _read(value: Any, kind: type) -> Any:
    if kind is UUID and isinstance(value, str):
        return UUID(value)
    if kind is Decimal and isinstance(value, str):
        number = Decimal(value)
        if not number.is_finite() or abs(number.adjusted()) > _LARGEST_EXPONENT:
            raise ValueError
        return number
    if kind is datetime and isinstance(value, str):
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is None or not _FIRST_YEAR <= moment.year <= _LAST_YEAR:
            raise ValueError
        return moment
    if kind is float and type(value) in (int, float):
        if abs(value) > _REAL_LIMIT:
            raise ValueError
        return float(value)
    if type(value) is not kind:
        raise TypeError
    if isinstance(value, str) and "\0" in value:
        raise ValueError
    if isinstance(value, int) and not -_INT_LIMIT <= value < _INT_LIMIT:
        raise ValueError
    return value

import base64
from datetime import UTC, datetime
from decimal import Decimal
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from aiohttp.test_utils import make_mocked_request
from pydantic import ValidationError
from yarl import URL

from server.http.paging import PageQuery, page, read_cursor, write_cursor
from server.http.parsing import parse_query
from server.http.problems import BadCursor
from server.http.routing import Call


def call(limit: int) -> Call[Any]:
    request = SimpleNamespace(rel_url=URL("/api/things?q=a%20b&limit=2&cursor=old"))
    return cast(Call[Any], SimpleNamespace(query=PageQuery(limit=limit), request=request))


def test_a_cursor_gives_back_what_was_written() -> None:
    values = (uuid4(), datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC), 7, 1.5, "tèxt", Decimal("49.00"), True)
    kinds = (UUID, datetime, int, float, str, Decimal, bool)
    assert read_cursor(write_cursor(*values), *kinds) == values
    assert read_cursor(None, UUID) is None


def test_a_cursor_of_a_busy_forum_is_read_again() -> None:
    seen = f"4000000000:4000000999:{','.join(str(4_000_000_000 + n) for n in range(200))}"
    assert read_cursor(write_cursor(seen), str) == (seen,)


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "x",
        "é",
        "!!!!",
        "a" * 5000,
        "bnVsbA",
        write_cursor(1),
        write_cursor("x"),
        write_cursor(UUID(int=1), 1),
        write_cursor({}),
        write_cursor(None),
    ]
    + [base64.urlsafe_b64encode(raw).decode() for raw in (b"[", b"{}", b'["\\ud800"]', b"[[]]")],
)
def test_a_cursor_that_no_list_gave_is_refused(cursor: str) -> None:
    with pytest.raises(BadCursor):
        read_cursor(cursor, UUID)


@pytest.mark.parametrize("query", ["?cursor=a%00", "?limit=5&cursor=%00"])
def test_a_cursor_that_is_no_text_is_refused_alike(query: str) -> None:
    with pytest.raises(BadCursor):
        parse_query(PageQuery, make_mocked_request("GET", f"/api/things{query}"))


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (1 << 31, int),
        (-(1 << 31) - 1, int),
        (1e300, float),
        ("0001-01-01T00:00:00+14:00", datetime),
        ("9999-12-31T23:59:59-14:00", datetime),
        ("a\0", str),
        (True, int),
        ("2026-01-01", datetime),
        ("soon", datetime),
        ("x", Decimal),
        ("1e-99999", Decimal),
        ("1e99999", Decimal),
        ("0e-99999", Decimal),
        ("NaN", Decimal),
        ("-Infinity", Decimal),
        ("1", int),
    ],
)
def test_a_cursor_holds_only_what_can_be_asked_of_postgres(value: Any, kind: type) -> None:
    with pytest.raises(BadCursor):
        read_cursor(write_cursor(value), kind)


def test_the_last_page_has_no_next() -> None:
    rows = [{"id": n} for n in range(2)]
    assert page(call(2), rows, key=lambda row: (row["id"],)) == {"items": rows, "next_cursor": None, "next": None}


def test_the_row_too_many_is_not_shown_but_gives_the_next_page() -> None:
    answer = page(call(2), [{"id": n} for n in range(3)], key=lambda row: (row["id"],))
    assert answer["items"] == [{"id": 0}, {"id": 1}]
    assert read_cursor(answer["next_cursor"], int) == (1,)
    following = URL(answer["next"])
    assert (following.path, dict(following.query)) == (
        "/api/things",
        {"q": "a b", "limit": "2", "cursor": answer["next_cursor"]},
    )


@pytest.mark.parametrize("text", ["0", "101", "-1", "+5", "1_0", " 5", "5.0", "٥", ""])
def test_a_limit_is_a_whole_number_in_plain_digits(text: str) -> None:
    with pytest.raises(ValidationError):
        PageQuery.model_validate_strings({"limit": text})

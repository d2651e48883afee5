from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

import orjson
import pytest
from pydantic import BaseModel, Field

from server.http.shapes import dump_json, shape_of


class Inner(BaseModel):
    name: str


class Outer(BaseModel):
    id: int
    inner: Inner | None
    many: list[Inner] = []
    by_name: dict[str, Inner] = {}
    pairs: list[tuple[int, int]] = []
    from_: Annotated[int, Field(alias="from")] = 0


def test_only_declared_members_pass_at_every_depth() -> None:
    leaky = {"name": "n", "secret": 1}
    shape = shape_of(Outer)
    assert shape is not None
    assert shape({"id": 1, "inner": leaky, "many": [leaky], "by_name": {"a": leaky}, "from": 3, "x": 1}) == {
        "id": 1,
        "inner": {"name": "n"},
        "many": [{"name": "n"}],
        "by_name": {"a": {"name": "n"}},
        "from": 3,
    }


def test_a_member_with_a_default_may_be_missing_and_another_may_not() -> None:
    shape = shape_of(list[Outer])
    assert shape is not None
    assert shape([{"id": 1, "inner": None, "from_": 2}]) == [{"id": 1, "inner": None, "from": 2}]
    with pytest.raises(KeyError, match="inner"):
        shape([{"id": 1}])


def test_a_model_instance_passes_as_it_is() -> None:
    shape = shape_of(Inner)
    assert shape is not None
    assert shape(Inner(name="a")) == {"name": "a"}


@pytest.mark.parametrize("annotation", [Any, None, str, list[int], dict[str, Any], int | str, tuple[int, int]])
def test_what_holds_no_model_passes_untouched(annotation: Any) -> None:
    assert shape_of(annotation) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Decimal(49), '"49.00"'),
        (Decimal("0.5"), '"0.50"'),
        (UUID(int=1), '"00000000-0000-0000-0000-000000000001"'),
        (datetime(2026, 1, 2, tzinfo=UTC), '"2026-01-02T00:00:00Z"'),
        (datetime(2026, 1, 2, 1, tzinfo=timezone(timedelta(hours=1))), '"2026-01-02T01:00:00+01:00"'),
        ((1, 2.5, None), "[1,2.5,null]"),
        ({"a": Inner(name="b")}, '{"a":{"name":"b"}}'),
        (frozenset({1}), "[1]"),
    ],
)
def test_values_have_the_forms_that_the_api_promises(value: Any, text: str) -> None:
    assert dump_json(value) == text.encode()


def test_what_has_no_form_is_a_bug_and_not_sent() -> None:
    with pytest.raises(orjson.JSONEncodeError):
        dump_json(object())

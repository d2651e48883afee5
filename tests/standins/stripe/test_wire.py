from __future__ import annotations

import pytest

from standins.stripe.wire import ApiError, read_form


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("", {}),
        ("a=1&b=", {"a": "1", "b": ""}),
        ("a[b][c]=1&a[d]=2", {"a": {"b": {"c": "1"}, "d": "2"}}),
        ("a%5Bb%5D=x%20y", {"a": {"b": "x y"}}),
        ("items[0][price]=p&items[1][price]=q", {"items": [{"price": "p"}, {"price": "q"}]}),
        ("expand[]=a&expand[]=b", {"expand": ["a", "b"]}),
        ("e[10]=k&e[9]=j", {"e": ["j", "k"]}),
    ],
)
def test_forms_are_read_as_stripe_reads_them(text: str, tree: dict[str, object]) -> None:
    assert read_form(text) == tree


def test_a_form_that_contradicts_itself_is_refused() -> None:
    with pytest.raises(ApiError):
        read_form("a=1&a[b]=2")

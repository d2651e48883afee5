"""From bytes to validated models: what JSON can say in more than one way."""

from collections.abc import Iterator

import pytest

from server.app import HANDLERS
from server.http.parsing import parse_body
from server.http.problems import ValidationFailed
from server.http.routing import Body


def bodies(kind: type[Body] = Body) -> Iterator[type[Body]]:
    """Every body that a handler declares, and what is within one."""
    for body in kind.__subclasses__():
        if body.__module__ in {module.__name__ for module in HANDLERS}:
            yield body
        yield from bodies(body)


WHOLE = [
    pytest.param(body, name, "[%s, 5]" if "array" in str(schema) else "%s", id=f"{body.__name__}.{name}")
    for body in bodies()
    for name, schema in body.model_json_schema()["properties"].items()
    if "'integer'" in str(schema)
]


@pytest.mark.parametrize(("body", "name", "within"), WHOLE)
def test_a_whole_number_may_have_a_point_or_an_exponent(body: type[Body], name: str, within: str) -> None:
    """JSON Schema, which we publish, takes `60.0` and `6e1` for integers, and some languages write no other."""

    def refused(number: str) -> set[str]:
        try:
            parse_body(body, f'{{"{name}": {within % number}}}'.encode())
        except ValidationFailed as problem:
            pointers = {error["pointer"] for error in problem.errors or ()}
            return {pointer for pointer in pointers if pointer.startswith(f"/{name}")}
        return set()

    assert not refused("5") | refused("5.0") | refused("5e0") | refused("0.5e1")
    for number in ("5.5", "-1.0", "1e300", "true", '"5"', '"5.0"'):
        assert refused(number), number

"""Whatever is sent to a declared route, the answer is a problem that names what is wrong, and never a 500."""

import base64
import io
import json
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode
from uuid import uuid4

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.app import HANDLERS
from server.http.routing import Route
from tests.support.people import People, Person
from tests.support.standing import *  # noqa: F403  fixtures
from tests.support.standing import STANDING

pytestmark = STANDING

ROUTES: list[Route] = [route for module in HANDLERS for route in module.routes.routes]
WITH_BODY = [route for route in ROUTES if route.body is not None]
WITH_QUERY = [route for route in ROUTES if route.query is not None]

RAW = {
    "nul": r'"a\u0000b"',
    "lone surrogate": r'"a\ud800b"',
    "NaN": "NaN",
    "minus infinity": "-Infinity",
    "2^31": str(2**31),
    "2^63": str(2**63),
    "2^64": str(2**64),
    "-2^63-1": str(-(2**63) - 1),
    "1e308": "1e308",
    "1e999": "1e999",
    "null": "null",
    "true": "true",
    "list": "[]",
    "deep list": "[" * 2000 + "]" * 2000,
    "object": '{"a": {}}',
    "empty": '""',
    "long": json.dumps("x" * 500_000),
    "emoji": json.dumps("\U0001f600"),
}
WHOLE = [b"", b"null", b"[]", b'"x"', b"{", b"\xff\xfe", b"[" * 100_000, b'{"a":1}', b'{"title":"a","title":1}', b"NaN"]


def path_of(route: Route, values: dict[str, str]) -> str:
    """The route's path with ids put in."""
    names = re.findall(r"\{(\w+)\}", route.path)
    others = {name: str(uuid4()) if name.endswith("_id") else "en" for name in names}
    return route.path.format_map(others | values)


@pytest_asyncio.fixture(loop_scope="module")
async def owner(people: People) -> Person:
    """An admin, who is stopped by nothing but the input."""
    return await people.join("owner", "admin")


@pytest_asyncio.fixture(loop_scope="module")
async def ids(owner: Person) -> dict[str, str]:
    """Rows that are there, by the names of path parameters."""
    course = await owner.make("/api/courses", {"title": "C", "status": "published"})
    lecture = await owner.make(f"/api/courses/{course['id']}/lectures", {"title": "A"})
    video = str(uuid4())
    await owner.make("/api/enrollments", {"course_id": course["id"]})
    return {"course_id": course["id"], "lecture_id": lecture["id"], "video_id": video, "user_id": owner.id}


def name_of(route: Route) -> str:
    """The route's line in the test's name."""
    return f"{route.method} {route.path}"


@pytest.mark.parametrize("route", WITH_BODY, ids=name_of)
async def test_no_body_breaks_a_route(owner: Person, ids: dict[str, str], route: Route) -> None:
    assert route.body is not None
    members = set(route.body.model_fields)
    bodies = list(WHOLE)
    for name in (*members, "unknown"):
        bodies += [f'{{"{name}": {raw}}}'.encode() for raw in RAW.values()]
        bodies += [f'{{"{name}": [{raw}, [{raw}, {raw}]]}}'.encode() for raw in RAW.values()]
    for body in bodies:
        headers = {"Content-Type": "application/json"}
        answer = await owner.ask(route.method, path_of(route, ids), data=io.BytesIO(body), headers=headers)
        assert answer.status < 500, (body[:80], answer.body)
        if answer.status >= 400:
            assert answer.headers["Content-Type"].startswith("application/problem+json")
            assert {"type", "title", "status", "detail", "code", "request_id"} <= set(answer.body)


@pytest.mark.parametrize("route", WITH_QUERY, ids=name_of)
async def test_no_query_breaks_a_route(owner: Person, ids: dict[str, str], route: Route) -> None:
    assert route.query is not None
    values = ["", "%00", "%ED%A0%80", "%FF", "NaN", str(2**64), "-1", "x" * 2000, "%F0%9F%98%80", "[]", "W10", "eyJ9"]
    for name in route.query.model_fields:
        for value in values + ([_cursor([str(uuid4())])] if name == "cursor" else []):
            answer = await owner.ask(route.method, f"{path_of(route, ids)}?{name}={value}")
            assert answer.status < 500, (name, value, answer.body)


@pytest.mark.parametrize("route", [r for r in WITH_QUERY if "cursor" in r.query.model_fields], ids=name_of)
async def test_a_cursor_that_no_list_gave_is_refused(owner: Person, ids: dict[str, str], route: Route) -> None:
    values: list[list[Any]] = [[], [[]], [1e308], [2**62], [-(2**63)], [None, str(uuid4())]]
    values += [[None] * count for count in (1, 2, 4)]
    for moment in ("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "soon"):
        values += [[moment, "x"], [moment, str(uuid4())]]
    for cursor in ("", "%00", "x", "eyJ9", *map(_cursor, values)):
        answer = await owner.ask(route.method, f"{path_of(route, ids)}?cursor={cursor}")
        assert (answer.status, answer.code) == (400, "bad_cursor") or answer.status == 404, (cursor, answer.body)


@pytest.mark.parametrize("route", [r for r in ROUTES if "_id}" in r.path], ids=name_of)
async def test_what_is_no_id_is_not_found(owner: Person, ids: dict[str, str], route: Route) -> None:
    name = re.findall(r"\{(\w+_id)\}", route.path)[0]
    for value in ("x", "%00", "1", "0" * 32, "%ED%A0%80", f"{uuid4()}x", "..%2f", "9" * 500):
        answer = await owner.ask(route.method, path_of(route, ids | {name: value}))
        assert answer.status in (404, 405), (value, answer.body)


@pytest.mark.parametrize(
    "route", [r for r in ROUTES if r.role not in ("public", "anonymous", "self-served")], ids=name_of
)
async def test_who_is_not_signed_in_is_told_so_first(people: People, route: Route) -> None:
    for token in (None, "x", "a.b.c", "ü"):
        person = people.stranger
        person.token = token
        answer = await person.ask(route.method, path_of(route, {}), data=b"{", headers={"Content-Type": "text/x"})
        assert answer.status == 401
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")


# -- anything at all ---------------------------------------------------------------------------------------------------

Json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
Fragment = st.sampled_from(list(RAW.values())) | st.builds(json.dumps, Json, ensure_ascii=st.booleans())
EXPLORED = settings(
    max_examples=20,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
# Answered in another form than they are sent: money with its decimals.
REFORMED = {"price"}


def sample_of(schema: dict[str, Any], defs: dict[str, Any], ids: dict[str, str], name: str = "") -> Any:
    """The simplest value that a schema allows; ids of rows that are there."""
    if "$ref" in schema:
        schema = defs[schema["$ref"].rpartition("/")[2]]
    if "anyOf" in schema:
        schema = schema["anyOf"][0]
    if name in ids:
        return ids[name]
    if "enum" in schema:
        return schema["enum"][0]
    members, item = schema.get("properties", {}), schema.get("items", {})
    samples: dict[str | None, Callable[[], Any]] = {
        "string": lambda: str(uuid4()) if schema.get("format") == "uuid" else "x" * max(1, schema.get("minLength", 1)),
        "integer": lambda: max(1, schema.get("minimum", 1)),
        "number": lambda: max(1, schema.get("minimum", 1)),
        "boolean": lambda: False,
        "array": lambda: [sample_of(item, defs, ids)] * schema.get("minItems", 0),
        "object": lambda: {key: sample_of(members[key], defs, ids, key) for key in schema.get("required", ())},
    }
    return samples.get(schema.get("type"), lambda: None)()


def sample_body(route: Route, ids: dict[str, str]) -> dict[str, Any]:
    """A body with the members that must be there."""
    assert route.body is not None
    schema = route.body.model_json_schema()
    body: dict[str, Any] = sample_of(schema, schema.get("$defs", {}), ids)
    return body


@pytest.mark.parametrize("route", WITH_BODY, ids=name_of)
@EXPLORED
@given(data=st.data())
async def test_any_member_is_refused_by_its_name_or_kept_exactly(
    owner: Person, ids: dict[str, str], route: Route, data: st.DataObject
) -> None:
    assert route.body is not None
    names = st.sampled_from([*sorted(route.body.model_fields), "unknown"])
    hostile = data.draw(st.dictionaries(names, Fragment, min_size=1, max_size=3))
    repeated = data.draw(st.booleans())
    members = {name: json.dumps(value) for name, value in sample_body(route, ids).items()} | hostile
    text = ", ".join(f'"{name}": {raw}' for name, raw in members.items())
    if repeated:
        name = data.draw(st.sampled_from(sorted(members)))
        text += f', "{name}": {members[name]}'
    sent = {"data": io.BytesIO(f"{{{text}}}".encode()), "headers": {"Content-Type": "application/json"}}
    answer = await owner.ask(route.method, path_of(route, ids), **sent)
    assert answer.status < 500, (text[:500], answer.body)
    if answer.status == 422 and answer.code == "validation_failed":
        named = {pointer.split("/")[1] for pointer in answer.pointers if pointer}
        assert named, answer.body
        assert named <= {*route.body.model_fields, "unknown", *members} | {_pointer(n) for n in members}
    if answer.status < 300:
        assert not repeated
        for name in set(hostile) & set(answer.body or ()) - REFORMED:
            value = json.loads(hostile[name])
            assert not isinstance(value, str) or answer.body[name] == value, (name, value)


def _pointer(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


@pytest.mark.parametrize("route", WITH_BODY, ids=name_of)
async def test_a_megabyte_of_text_in_any_member_is_refused(owner: Person, ids: dict[str, str], route: Route) -> None:
    assert route.body is not None
    for name in route.body.model_fields:
        body = sample_body(route, ids) | {name: "x" * 1_000_000}
        answer = await owner.ask(route.method, path_of(route, ids), body)
        assert answer.status == 422, (name, answer.body)
        assert any(pointer.startswith(f"/{name}") for pointer in answer.pointers), answer.body


@pytest.mark.parametrize("route", WITH_QUERY, ids=name_of)
@EXPLORED
@given(data=st.data())
async def test_any_query_is_understood_or_refused_by_its_name(
    owner: Person, ids: dict[str, str], route: Route, data: st.DataObject
) -> None:
    assert route.query is not None
    fields = {info.alias or name: info for name, info in route.query.model_fields.items()}
    names = st.sampled_from([*sorted(fields), "unknown"])
    values = st.text(max_size=200) | Json.map(json.dumps) | st.sampled_from(["", "0", "-1", "101", str(2**64), "nan"])
    query = data.draw(st.dictionaries(names, values, min_size=1, max_size=3))
    encoded = urlencode({name: value.encode("utf-8", "surrogatepass") for name, value in query.items()})
    answer = await owner.ask(route.method, f"{path_of(route, ids)}?{encoded}")
    assert answer.status < 500, (query, answer.body)
    needed = {name for name, info in fields.items() if info.is_required()}
    if answer.status == 422:
        assert set(answer.pointers) <= {f"/{name}" for name in set(query) | needed}
        assert len(answer.pointers) == len(set(answer.pointers))


def _cursor(values: list[Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(values).encode()).decode().rstrip("=")

"""Whatever is sent to a route of accounts, courses, progress or videos, the answer is a problem and never a 500."""

import base64
import io
import json
from types import ModuleType
from typing import Any
from uuid import uuid4

import pytest

from handlers import auth, courses, progress, videos
from server.http.routing import Route
from tests.support.people import People, Person

MODULES: tuple[ModuleType, ...] = (auth, courses, progress, videos)
ROUTES: list[Route] = [route for module in MODULES for route in module.routes.routes]
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
    return route.path.format_map({"lang": "en"} | values)


@pytest.fixture
async def owner(people: People) -> Person:
    """An admin, who is stopped by nothing but the input."""
    return await people.join("owner", "admin")


@pytest.fixture
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
    cursors = ["W251bGxd", "W251bGwsbnVsbF0", "WyIwMDAxLTAxLTAxVDAwOjAwOjAwKzE0OjAwIiwgIngiXQ", "WzFlMzA4XQ"]
    cursors += [_cursor(["0001-01-01T00:00:00+14:00", str(uuid4())]), _cursor([2**62]), _cursor([-(2**63)])]
    cursors += [_cursor(["9999-12-31T23:59:59-14:00", str(uuid4())]), _cursor([str(uuid4())]), _cursor([None, "x"])]
    for name in route.query.model_fields:
        for value in values + (cursors if name == "cursor" else []):
            answer = await owner.ask(route.method, f"{path_of(route, ids)}?{name}={value}")
            assert answer.status < 500, (name, value, answer.body)


@pytest.mark.parametrize("route", [r for r in ROUTES if "_id}" in r.path], ids=name_of)
async def test_what_is_no_id_is_not_found(owner: Person, ids: dict[str, str], route: Route) -> None:
    name = next(name for name in ids if f"{{{name}}}" in route.path)
    for value in ("x", "%00", "1", "0" * 32, "%ED%A0%80", f"{uuid4()}x", "..%2f", "9" * 500):
        answer = await owner.ask(route.method, path_of(route, ids | {name: value}))
        assert answer.status in (404, 405), (value, answer.body)


@pytest.mark.parametrize(
    "route", [r for r in ROUTES if r.role not in ("public", "anonymous", "self-served")], ids=name_of
)
async def test_who_is_not_signed_in_is_told_so_first(people: People, route: Route) -> None:
    ids = {name: str(uuid4()) for name in ("course_id", "lecture_id", "video_id", "user_id")}
    for token in (None, "x", "a.b.c", "ü"):
        person = people.stranger
        person.token = token
        answer = await person.ask(route.method, path_of(route, ids), data=b"{", headers={"Content-Type": "text/x"})
        assert answer.status == 401
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")


def _cursor(values: list[Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(values).encode()).decode().rstrip("=")

"""The declared route: who may call it, what it takes, what it answers."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from pydantic import BaseModel, Field
from yarl import URL

from server.http import parsing, routing
from server.http.auth import authenticate
from server.http.problems import CourseNotFound
from server.http.routing import (
    ADMIN,
    ANONYMOUS,
    INSTRUCTOR,
    PUBLIC,
    STUDENT,
    Body,
    Call,
    Query,
    Reply,
    Routes,
    arriving,
)
from tests.support.app import AppClient, bare_app, bearer

routes = Routes("things")


class NewThing(Body):
    title: str = Field(min_length=1, max_length=10)
    size: int = 0
    ratio: float = 0.0
    parts: list[dict[str, Any]] = Field(default_factory=list)


class Options(Body):
    note: str | None = None


class Filter(Query):
    limit: int = Field(20, ge=1, le=100)
    free: bool | None = None
    q: str | None = None
    owner_id: UUID | None = None


class Part(BaseModel):
    name: str


class Thing(BaseModel):
    id: UUID
    title: str
    price: Decimal
    made_at: datetime
    parts: list[Part] = []
    note: str | None = None


ROW = {
    "id": UUID("01234567-89ab-7def-8123-456789abcdef"),
    "title": "t",
    "price": Decimal("49.00"),
    "made_at": datetime(2026, 1, 2, 3, 4, 5, 60, tzinfo=UTC),
    "parts": [{"name": "p", "secret": 1}],
    "password_hash": "never",
}


@routes.post(
    "/things",
    role=INSTRUCTOR,
    rate=None,
    body=NewThing,
    answer=Thing,
    status=201,
    location="/things/{id}",
    problems=(CourseNotFound,),
)
async def create_thing(call: Call[NewThing]) -> Any:
    return {**ROW, "title": call.body.title}


@routes.get("/things", role=PUBLIC, rate=None, query=Filter)
async def list_things(call: Call[None]) -> Any:
    return {"viewer": call.viewer_id, "role": call.viewer_role, **call.query.model_dump()}


@routes.get("/things/{thing_id}", role=STUDENT, rate=None, answer=Thing)
async def get_thing(call: Call[None]) -> Any:
    return {**ROW, "id": call.path.thing_id}


@routes.delete("/things/{thing_id}", role=ADMIN, rate=None)
async def delete_thing(call: Call[None]) -> None:
    assert isinstance(call.path.thing_id, UUID)


@routes.put("/things/{thing_id}/labels/{label}", role=ANONYMOUS, rate=None, body=Options)
async def put_label(call: Call[Options]) -> Any:
    return Reply({"label": call.path.label, "note": call.body.note}, status=202, headers={"X-Label": "yes"})


@routes.post("/raw", role=ANONYMOUS, rate=None, content=("text/plain",))
async def measure(call: Call[None]) -> dict[str, int]:
    async with arriving(call.request):
        raw = await call.request.read()
    return {"size": len(raw)}


@routes.get("/slow", role=ANONYMOUS, rate=None)
async def slow(_call: Call[None]) -> None:
    await asyncio.Event().wait()


@routes.get("/mine", role=PUBLIC, rate=None)
async def mine(call: Call[None]) -> Any:
    return {"id": call.user.id}


@pytest.fixture
async def client() -> AsyncIterator[AppClient]:
    async with TestClient(TestServer(bare_app(routes, server={"body_bytes": 2000}))) as client:
        yield client


@pytest.fixture
async def hasty() -> AsyncIterator[AppClient]:
    """One that gives up soon."""
    app = bare_app(routes, server={"handler_timeout_s": 0.1, "body_timeout_s": 0.2})
    async with TestClient(TestServer(app)) as client:
        yield client


async def problem(response: Any, status: int, code: str) -> dict[str, Any]:
    body = await response.json(content_type="application/problem+json")
    assert (response.status, body["code"], body["status"]) == (status, code, status)
    assert body["request_id"] == response.headers["X-Request-Id"]
    return dict(body)


def test_a_route_without_a_role_does_not_start() -> None:
    with pytest.raises(TypeError):
        Routes("x").get("/x")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="no role"):
        Routes("x").get("/x", role="king", rate=None)


def test_a_route_that_does_not_say_which_limit_counts_it_does_not_start() -> None:
    with pytest.raises(TypeError):
        Routes("x").get("/x", role=PUBLIC)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="no limit"):
        Routes("x").get("/x", role=PUBLIC, rate="much")


async def test_a_created_row_has_a_location_and_only_declared_members(client: AppClient) -> None:
    response = await client.post("/things", json={"title": "new"}, headers=bearer(client.app, "instructor"))
    assert response.status == 201
    assert response.headers["Location"] == f"/things/{ROW['id']}"
    assert await response.json() == {
        "id": str(ROW["id"]),
        "title": "new",
        "price": "49.00",
        "made_at": "2026-01-02T03:04:05.000060Z",
        "parts": [{"name": "p"}],
    }


async def test_a_role_includes_those_below_it_and_nothing_above(client: AppClient) -> None:
    path = f"/things/{uuid4()}"
    for role, statuses in {"student": (200, 403), "instructor": (200, 403), "admin": (200, 204)}.items():
        headers = bearer(client.app, role)
        assert (
            (await client.get(path, headers=headers)).status,
            (await client.delete(path, headers=headers)).status,
        ) == (statuses)
    await problem(await client.delete(path, headers=bearer(client.app)), 403, "role_required")


async def test_without_a_token_it_is_401_and_says_bearer(client: AppClient) -> None:
    response = await client.get(f"/things/{uuid4()}")
    await problem(response, 401, "unauthorized")
    assert response.headers["WWW-Authenticate"] == "Bearer"


async def test_a_public_route_knows_who_calls_and_refuses_a_bad_token(client: AppClient) -> None:
    user_id = uuid4()
    assert (await (await client.get("/things")).json())["viewer"] is None
    signed_in = await (await client.get("/things", headers=bearer(client.app, "admin", user_id))).json()
    assert (signed_in["viewer"], signed_in["role"]) == (str(user_id), "admin")
    for header in ("Bearer nonsense", "Bearer", "Basic eDp5", ""):
        await problem(await client.get("/things", headers={"Authorization": header}), 401, "unauthorized")
    await problem(await client.get("/mine"), 401, "unauthorized")


async def test_an_anonymous_route_does_not_look_at_the_token(client: AppClient) -> None:
    headers = {"Authorization": "Bearer stale"}
    assert (await client.put(f"/things/{uuid4()}/labels/x", headers=headers)).status == 202


async def test_ids_match_as_uuids_and_nothing_else(client: AppClient) -> None:
    headers = bearer(client.app)
    assert (await client.get(f"/things/{str(uuid4()).upper()}", headers=headers)).status == 200
    for path in ("/things/upload", "/things/1", f"/things/{uuid4()}x", f"/things/{uuid4().hex}", "/things/"):
        await problem(await client.get(path, headers=headers), 404, "not_found")


async def test_text_in_a_path_may_not_hold_nul(client: AppClient) -> None:
    response = await client.put(f"/things/{uuid4()}/labels/caf%C3%A9%20x")
    assert (await response.json())["label"] == "café x"
    assert response.headers["X-Label"] == "yes"
    await problem(await client.put(f"/things/{uuid4()}/labels/a%00b"), 404, "not_found")


@pytest.mark.parametrize("path", ["/nowhere/caf%C3%A9%20x", "/nowhere/a%2Fb", "/nowhere/%FF", "/nowhere/a;b=c"])
async def test_a_problem_names_the_path_as_it_was_sent_which_is_a_uri_reference(client: AppClient, path: str) -> None:
    response = await client.get(URL(f"{path}?q=1", encoded=True))
    assert (await response.json(content_type=None))["instance"] == path


async def test_an_unknown_method_is_405_and_names_the_known_ones(client: AppClient) -> None:
    response = await client.post(f"/things/{uuid4()}", headers=bearer(client.app))
    await problem(response, 405, "method_not_allowed")
    assert response.headers["Allow"] == "DELETE,GET,HEAD"


async def test_head_answers_as_get_without_a_body(client: AppClient) -> None:
    response = await client.head("/things")
    assert response.status == 200
    assert await response.read() == b""
    assert int(response.headers["Content-Length"]) > 0


async def test_a_handler_that_takes_too_long_is_503_with_retry_after(hasty: AppClient) -> None:
    response = await hasty.get("/slow")
    await problem(response, 503, "timed_out")
    assert response.headers["Retry-After"] == "1"


async def test_a_body_that_does_not_arrive_is_408(hasty: AppClient) -> None:
    async def dribble() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(1)
        yield b"}"

    response = await hasty.put(
        f"/things/{uuid4()}/labels/x", data=dribble(), headers={"Content-Type": "application/json"}
    )
    await problem(response, 408, "request_timeout")


async def dribble(*parts: tuple[bytes, float]) -> AsyncIterator[bytes]:
    for part, pause_s in parts:
        yield part
        await asyncio.sleep(pause_s)


async def test_a_body_that_the_handler_reads_itself_has_the_same_time_to_arrive(hasty: AppClient) -> None:
    await problem(await hasty.post("/raw", data=dribble((b"a", 1.0), (b"b", 0))), 408, "request_timeout")


async def test_a_body_that_arrives_slowly_takes_nothing_of_its_handlers_time() -> None:
    answers = []
    for handler_s in (0.1, 1.0, 5.0):  # longer where the machine stood still for so long
        app = bare_app(routes, server={"handler_timeout_s": handler_s, "body_timeout_s": 60})
        async with TestClient(TestServer(app)) as client:
            response = await client.post("/raw", data=dribble((b"ab", 3 * handler_s), (b"c", 0)))
            answers.append(await response.json(content_type=None))
        if response.status == 200:
            break
    assert answers[-1] == {"size": 3}


async def test_what_it_took_to_know_who_asks_is_of_the_handlers_time(monkeypatch: pytest.MonkeyPatch) -> None:
    own = Routes("own")

    @own.put("/left", role=STUDENT, rate=None, body=Options)
    async def tell_time_left(call: Call[Options]) -> dict[str, float]:
        return {"left_s": call.request[routing._LIMIT].left_s(time.monotonic())}

    async def authenticate_slowly(request: web.Request) -> Any:
        await asyncio.sleep(0.2)
        return await authenticate(request)

    monkeypatch.setattr(routing, "authenticate", authenticate_slowly)
    async with TestClient(TestServer(bare_app(own, server={"handler_timeout_s": 60.0}))) as client:
        response = await client.put("/left", json={}, headers=bearer(client.app))
        assert (await response.json())["left_s"] < 59.9


async def send(client: AppClient, raw: bytes | str, kind: str = "application/json") -> web.Response:
    headers = bearer(client.app, "instructor") | {"Content-Type": kind}
    return await client.post("/things", data=raw, headers=headers)  # type: ignore[return-value]


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"nonsense", b'{"title": "a"} x', b'\xff{"title": "a"}', b'{"title": "\x01"}', b"[" * 100_0]
)
async def test_what_is_not_json_is_400(client: AppClient, raw: bytes) -> None:
    await problem(await send(client, raw), 400, "malformed_json")


@pytest.mark.parametrize(
    ("raw", "pointer"),
    [
        ('{"title": "a\\u0000"}', "/title"),
        ('{"title": "\\ud800"}', "/title"),
        ('{"title": "a", "ratio": NaN}', "/ratio"),
        ('{"title": "a", "ratio": -Infinity}', "/ratio"),
        ('{"title": "a", "ratio": 1e999}', "/ratio"),
        ('{"title": "a", "size": 9223372036854775808}', "/size"),
        ('{"title": "a", "size": -99999999999999999999999}', "/size"),
        ('{"title": "a", "size": 1.5}', "/size"),
        ('{"title": "a", "size": "1"}', "/size"),
        ('{"title": "a", "size": true}', "/size"),
        ('{"title": "a", "parts": [{"a/b~c": "\\u0000"}]}', "/parts/0/a~1b~0c"),
        ('{"title": "a", "parts": [{"k\\u0000": 1}]}', "/parts/0"),
        ('{"title": "a", "parts": {"0": 1}}', "/parts"),
        ('{"title": ""}', "/title"),
        ('{"title": "12345678901"}', "/title"),
        ('{"title": null}', "/title"),
        ("{}", "/title"),
        ('{"title": "a", "is_admin": true}', "/is_admin"),
        ('{"title": "a", "title": "a"}', "/title"),
        ('{"title": "a", "\\u0074itle": "b"}', "/title"),
        ('{"title": "a:b", "parts": [{"a": ":", "k/l": {"m": 1, "m": 2}}]}', "/parts/0/k~1l/m"),
        ("[]", ""),
        ('"text"', ""),
        ("null", ""),
    ],
)
async def test_an_invalid_member_is_422_with_its_pointer(client: AppClient, raw: str, pointer: str) -> None:
    body = await problem(await send(client, raw), 422, "validation_failed")
    assert pointer in [error["pointer"] for error in body["errors"]]
    assert all(error["detail"] for error in body["errors"])


@pytest.mark.parametrize(
    ("raw", "status", "code"),
    [
        ('{"title": ":", "parts": [{"a": 1}, {"a": 1}, {"a": 1}]}', 422, "validation_failed"),
        ('{"title": ":", "parts": [{"a": 1}, {"a": 1}, {"a": 1}', 400, "malformed_json"),
        ('{"title": ":", "unknown": {"a": 1}}', 422, "validation_failed"),
    ],
    ids=["long", "long and malformed", "invalid"],
)
async def test_a_body_that_is_long_or_invalid_is_not_looked_through(
    client: AppClient, monkeypatch: pytest.MonkeyPatch, raw: str, status: int, code: str
) -> None:
    """For what cannot be stored, place by place: of a mebibyte that took most of a second, and held up everybody."""
    monkeypatch.setattr(parsing, "MOST_VALUES", 7)
    monkeypatch.setattr(parsing, "_parse_laxly", lambda _raw: pytest.fail("looked through"))
    await problem(await send(client, raw), status, code)


async def test_other_content_types_are_415_and_a_charset_is_fine(client: AppClient) -> None:
    await problem(await send(client, '{"title": "a"}', "text/plain"), 415, "unsupported_media_type")
    assert (await send(client, '{"title": "a"}', "application/json; charset=utf-8")).status == 201


async def test_a_body_over_the_limit_is_413(client: AppClient) -> None:
    await problem(await send(client, b'{"title": "' + b"a" * 3000 + b'"}'), 413, "body_too_large")


async def test_an_empty_body_is_an_empty_object_where_no_member_is_required(client: AppClient) -> None:
    response = await client.put(f"/things/{uuid4()}/labels/x")
    assert (response.status, (await response.json())["note"]) == (202, None)


async def test_a_query_is_read_from_text(client: AppClient) -> None:
    owner = uuid4()
    response = await client.get("/things", params={"limit": "5", "free": "true", "owner_id": str(owner), "other": "x"})
    body = await response.json()
    assert (body["limit"], body["free"], body["owner_id"], body["q"]) == (5, True, str(owner), None)


@pytest.mark.parametrize("query", ["limit=101", "limit=0", "limit=x", "limit=", "free=maybe", "owner_id=1", "q=%00"])
async def test_a_malformed_query_is_422(client: AppClient, query: str) -> None:
    body = await problem(await client.get(f"/things?{query}"), 422, "validation_failed")
    assert body["errors"][0]["pointer"] == f"/{query.partition('=')[0]}"


async def test_a_token_of_another_version_or_user_is_no_longer_valid(client: AppClient) -> None:
    user_id = uuid4()
    headers = bearer(client.app, user_id=user_id)
    versions: Any = client.app
    from server.http.keys import VERSIONS  # noqa: PLC0415

    versions[VERSIONS].versions[user_id] = 2
    await problem(await client.get("/things", headers=headers), 401, "unauthorized")
    versions[VERSIONS].versions[user_id] = None
    await problem(await client.get("/things", headers=headers), 401, "unauthorized")

import json
import re
from typing import Any

import jsonschema_rs
import pytest
from msgspec import Struct
from pydantic import BaseModel, Field

from handlers import sessions
from server.app import HANDLERS
from server.http import health, openapi, pages
from server.http.problems import REGISTRY, CourseNotFound
from server.http.routing import ADMIN, PUBLIC, STUDENT, Body, Call, Change, Routes
from tests.support.app import bare_app

routes = Routes("shelf")


class NewBook(Body):
    title: str = Field(min_length=1, max_length=200)


class Author(BaseModel):
    name: str


class Book(BaseModel):
    title: str
    author: Author
    note: str | None = None


class Word(Struct):
    text: str


class Said(Struct, tag="said", tag_field="type"):
    words: list[Word]


@routes.post(
    "/api/books/{book_id}",
    role=ADMIN,
    body=NewBook,
    answer=Book,
    status=201,
    location="/api/books/{id}",
    problems=(CourseNotFound,),
    rate="write",
)
async def create_book(_call: Call[NewBook]) -> Any:
    """Put a book on the shelf.

    And a longer story about it.
    """


@routes.get("/api/books", role=PUBLIC, rate=None, answer=list[Book])
async def list_books(_call: Call[None]) -> Any:
    """All books."""


@routes.delete("/api/books/{book_id}", role=STUDENT, rate=None)
async def delete_book(_call: Call[None]) -> None:
    """Take it away."""


@routes.socket("/talk/{book_id}", rate=None, messages={"receive": [Said], "send": [Said]})
async def talk(_call: Call[None]) -> Any:
    """Talk about a book."""


def document() -> dict[str, Any]:
    return openapi.openapi(routes.routes)


def test_a_declaration_becomes_an_operation() -> None:
    operation = document()["paths"]["/api/books/{book_id}"]["post"]
    assert operation["operationId"] == "create_book"
    assert (operation["summary"], operation["description"]) == (
        "Put a book on the shelf.",
        "And a longer story about it.\n\nFor administrators.",
    )
    assert (operation["x-role"], operation["x-rate-class"]) == ("admin", "write")
    assert operation["security"] == [{"bearer": []}]
    assert operation["parameters"][0]["schema"]["format"] == "uuid"
    assert operation["requestBody"]["required"]
    created = operation["responses"]["201"]
    assert created["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Book"}
    assert "Location" in created["headers"]
    assert {"400", "401", "403", "404", "408", "413", "415", "422", "500", "503"} <= set(operation["responses"])
    problem = operation["responses"]["404"]["content"]["application/problem+json"]["schema"]
    assert problem["allOf"][1]["properties"]["code"]["enum"] == ["course_not_found", "not_found"]


def test_constraints_are_those_of_the_models() -> None:
    schemas = document()["components"]["schemas"]
    assert schemas["NewBook"]["properties"]["title"] == {
        "maxLength": 200,
        "minLength": 1,
        "title": "Title",
        "type": "string",
    }
    assert schemas["NewBook"]["additionalProperties"] is False
    assert schemas["Book"]["required"] == ["title", "author"]


def test_what_is_absent_from_a_change_has_no_default() -> None:
    """A client that filled defaults in would overwrite what it did not mean to."""

    class NewTitle(Change):
        title: str = ""

    assert "default" not in NewTitle.model_json_schema()["properties"]["title"]


def test_every_reference_leads_somewhere() -> None:
    text = json.dumps(document())
    names = set(re.findall(r'"#/components/schemas/([^"]+)"', text))
    assert names <= set(document()["components"]["schemas"])
    assert "Author" in names


def test_what_says_nothing_is_204() -> None:
    assert "204" in document()["paths"]["/api/books/{book_id}"]["delete"]["responses"]


def test_what_can_be_asked_next_is_linked() -> None:
    links = document()["paths"]["/api/books/{book_id}"]["post"]["responses"]["201"]["links"]
    assert links == {
        "delete_book": {"operationId": "delete_book", "parameters": {"path.book_id": "$response.body#/id"}}
    }


def test_the_gateways_headers_are_documented() -> None:
    paths = document()["paths"]
    created = paths["/api/books/{book_id}"]["post"]
    assert {"X-Request-Id", "Location", "RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset"} <= set(
        created["responses"]["201"]["headers"]
    )
    assert "Idempotency-Replayed" in created["responses"]["201"]["headers"]
    key = next(parameter for parameter in created["parameters"] if parameter["name"] == "Idempotency-Key")
    assert (key["in"], key["required"], key["schema"]["maxLength"]) == ("header", False, 255)
    assert "Retry-After" in created["responses"]["429"]["headers"]
    assert "WWW-Authenticate" in created["responses"]["401"]["headers"]
    read = paths["/api/books"]["get"]
    assert {"ETag", "Cache-Control"} <= set(read["responses"]["200"]["headers"]) & set(
        read["responses"]["304"]["headers"]
    )
    for status in ("404", "409", "422"):  # refusals are kept under the key, too
        assert "Idempotency-Replayed" in created["responses"][status]["headers"]
    assert "Idempotency-Replayed" not in created["responses"]["401"]["headers"]
    for name in created["responses"]["201"]["headers"]:
        assert document()["components"]["headers"][name]["description"]


def test_a_files_etag_and_what_any_route_answers_without_its_parts_are_documented() -> None:
    told = openapi.openapi([route for group in (*HANDLERS, health, pages) for route in group.routes.routes])["paths"]
    for path in ("/api/files/public/{file_id}", "/web/{path}"):
        operation = told[path]["get"]
        assert "If-None-Match" in [parameter["name"] for parameter in operation["parameters"]]
        assert {"ETag", "Cache-Control"} <= set(operation["responses"]["200"]["headers"]) & set(
            operation["responses"]["304"]["headers"]
        )
    for path, code in (
        ("/readyz", "timed_out"),
        ("/web/{path}", "timed_out"),
        ("/ws/chat/{user_id}", "database_unavailable"),
    ):
        refused = told[path]["get"]["responses"]["503"]["content"]["application/problem+json"]["schema"]
        assert code in refused["allOf"][1]["properties"]["code"]["enum"]


@pytest.mark.parametrize(
    ("row", "member", "values"),
    [
        ("User", "role", ["student", "instructor", "admin"]),
        ("Enrollment", "source", ["free", "purchase", "subscription", "admin", "own"]),
        ("Video", "visibility", ["private", "preview", "public"]),
    ],
)
def test_what_a_member_can_be_is_told_in_answers_as_in_bodies(row: str, member: str, values: list[str]) -> None:
    told = openapi.openapi([route for group in HANDLERS for route in group.routes.routes])
    assert told["components"]["schemas"][row]["properties"][member]["enum"] == values


def test_a_public_route_may_be_called_with_and_without_a_token() -> None:
    assert document()["paths"]["/api/books"]["get"]["security"] == [{}, {"bearer": []}]


def test_the_problem_schema_knows_every_code() -> None:
    assert document()["components"]["schemas"]["Problem"]["properties"]["code"]["enum"] == sorted(REGISTRY)


@pytest.mark.parametrize(
    ("body", "is_fine"),
    [
        ({"position": 1}, True), ({"type": "telemetry", "seq": 1, "position": 1.5, "cmcd": {"x-own": 1}}, True),
        ([{"position": 1}] * 100, True), ([{"position": 1}] * 101, False),
        ({"seq": 1}, False), ({"position": -1}, False),
        ({"type": "bye", "position": 1}, False), ([{"position": 1, "cmcd": []}], False),
    ],
)  # fmt: skip
def test_what_a_player_reports_by_rest_is_told(body: Any, is_fine: bool) -> None:
    told = openapi.openapi(sessions.routes.routes)
    content = told["paths"]["/api/videos/sessions/{session_id}/network"]["post"]["requestBody"]["content"]
    schema = {**content["application/json"]["schema"], "components": told["components"]}
    assert jsonschema_rs.validator_for(schema).is_valid(body) is is_fine


def test_a_socket_is_in_both_documents_with_its_frames() -> None:
    assert document()["paths"]["/talk/{book_id}"]["get"]["x-websocket"] is True
    channels = openapi.asyncapi(routes.routes)
    assert channels["channels"]["talk"]["address"] == "/talk/{book_id}"
    assert set(channels["operations"]) == {"talk_receive", "talk_send"}
    assert channels["components"]["schemas"]["Said"]["properties"]["type"] == {"enum": ["said"]}
    assert "#/components/schemas/Word" in json.dumps(channels["components"]["schemas"]["Said"])
    assert channels["components"]["schemas"]["Word"]["properties"]["text"]


async def test_the_documents_are_served(aiohttp_client: Any) -> None:
    client = await aiohttp_client(bare_app(routes, openapi.routes, health.routes, pages.routes))
    served = await (await client.get("/openapi.json")).json()
    assert served["openapi"] == "3.1.0"
    answers = served["paths"]["/web/{path}"]["get"]["responses"]
    assert "304" in answers
    assert list(answers["200"]["content"]) == ["*/*"]  # modules, styles, pictures
    assert (await (await client.get("/asyncapi.json")).json())["asyncapi"] == "3.0.0"
    page = await client.get("/docs")
    assert page.content_type == "text/html"
    assert "Put a book on the shelf." in await page.text()

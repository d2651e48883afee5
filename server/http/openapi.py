"""OpenAPI 3.1 from the routes' declarations: nothing is written twice."""

import html
import inspect
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import msgspec
import orjson
from aiohttp import web
from pydantic import BaseModel, TypeAdapter

from server.http.auth import RANKS
from server.http.documents import html_page, to_html
from server.http.problems import (
    REGISTRY,
    BadCursor,
    BodyTooLarge,
    DatabaseUnavailable,
    IdempotencyKeyInUse,
    IdempotencyKeyRequired,
    IdempotencyKeyReused,
    InternalError,
    MalformedJson,
    MalformedRequest,
    NotFound,
    NotReady,
    OriginRefused,
    Overloaded,
    Problem,
    RateLimited,
    RequestTimedOut,
    RoleRequired,
    SubprotocolRequired,
    TimedOut,
    TokenInQuery,
    Unauthorized,
    UnsupportedMediaType,
    UpgradeRequired,
    ValidationFailed,
)
from server.http.routing import ANONYMOUS, PUBLIC, SELF_SERVED, UUID_PATTERN, Call, Route, Routes

REF = "#/components/schemas/{model}"
DECLARED: "web.AppKey[Sequence[Route]]" = web.AppKey("declared_routes")
_DOCUMENT: "web.AppKey[dict[str, bytes]]" = web.AppKey("documents")

routes = Routes("documents")


@routes.get("/openapi.json", role=ANONYMOUS, rate=None)
async def get_openapi(call: Call[None]) -> web.Response:
    """This document."""
    return web.Response(body=_made_once(call, "openapi"), content_type="application/json")


@routes.get("/asyncapi.json", role=ANONYMOUS, rate=None)
async def get_asyncapi(call: Call[None]) -> web.Response:
    """The sockets, as AsyncAPI 3."""
    return web.Response(body=_made_once(call, "asyncapi"), content_type="application/json")


@routes.get("/docs", role=ANONYMOUS, rate=None, produces="text/html")
async def get_docs(call: Call[None]) -> web.Response:
    """The API on one page, to read."""
    return web.Response(body=_made_once(call, "docs"), content_type="text/html", charset="utf-8")


def prepare_documents(app: web.Application, declared: Sequence[Route]) -> None:
    """Remember what to document; the documents are made when first asked for, since schemas take their time."""
    app[DECLARED] = declared
    app[_DOCUMENT] = {}


def _made_once(call: Call[None], name: str) -> bytes:
    made = call.app[_DOCUMENT]
    if name not in made:
        declared = call.app[DECLARED]
        makers = {
            "openapi": lambda: orjson.dumps(openapi(declared)),
            "asyncapi": lambda: orjson.dumps(asyncapi(declared)),
            "docs": lambda: docs_page(declared).encode(),
        }
        made[name] = makers[name]()
    return made[name]


def openapi(declared: Iterable[Route]) -> dict[str, Any]:
    """The document, as a value."""
    declared = list(declared)
    schemas = _Schemas()
    paths: dict[str, dict[str, Any]] = defaultdict(dict)
    names: set[str] = set()
    for route in declared:
        operation = _operation(route, schemas)
        if operation["operationId"] in names:  # one handler under two methods
            operation["operationId"] += f"_{route.method.lower()}"
        names.add(operation["operationId"])
        paths[route.template][route.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Lectern",
            "version": "1",
            "description": "Errors are problem documents (RFC 9457); every answer carries `X-Request-Id`.",
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": tag} for tag in dict.fromkeys(route.tag for route in declared)],
        "paths": dict(paths),
        "components": {
            "schemas": {"Problem": _problem_schema(), **schemas.definitions},
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
    }


class _Schemas:
    """JSON Schemas of models, collected below `components`."""

    def __init__(self) -> None:
        self.definitions: dict[str, Any] = {}

    def of(self, annotation: Any, mode: Literal["validation", "serialization"] = "validation") -> dict[str, Any]:
        """A schema that refers to the components it needs; "serialization" for what we send."""
        schema = TypeAdapter(annotation).json_schema(ref_template=REF, mode=mode)
        self.definitions.update(schema.pop("$defs", {}))
        if isinstance(annotation, type) and issubclass(annotation, BaseModel) and "$ref" not in schema:
            name = re.sub(r"\W+", "_", annotation.__name__).strip("_")
            self.definitions[name] = schema
            return {"$ref": REF.format(model=name)}
        return schema


def _operation(route: Route, schemas: _Schemas) -> dict[str, Any]:
    summary, _, description = inspect.cleandoc(route.handler.__doc__ or "").partition("\n")
    operation: dict[str, Any] = {
        "operationId": route.handler.__name__,
        "tags": [route.tag],
        "summary": summary,
        "x-role": route.role,
        "security": _security(route),
        "parameters": [*_path_parameters(route), *_query_parameters(route, schemas)],
        "responses": _responses(route, schemas),
    }
    if description.strip():
        operation["description"] = description.strip()
    if route.rate:
        operation["x-rate-class"] = route.rate
    if route.socket:
        operation["x-websocket"] = True
    if route.body is not None or route.content:
        operation["requestBody"] = _request_body(route, schemas)
    return operation


def _security(route: Route) -> list[dict[str, list[str]]]:
    """An empty alternative means that the token may be left out."""
    if route.role == ANONYMOUS:
        return []
    return [{}, {"bearer": []}] if route.role in (PUBLIC, SELF_SERVED) else [{"bearer": []}]


def _path_parameters(route: Route) -> list[dict[str, Any]]:
    names = re.findall(r"\{(\w+)\}", route.template)
    uuid = {"type": "string", "format": "uuid", "pattern": f"^{UUID_PATTERN}$"}
    return [
        {"name": name, "in": "path", "required": True, "schema": uuid if name.endswith("_id") else {"type": "string"}}
        for name in names
    ]


def _query_parameters(route: Route, schemas: _Schemas) -> list[dict[str, Any]]:
    if route.query is None:
        return []
    schema = TypeAdapter(route.query).json_schema(ref_template=REF)
    schemas.definitions.update(schema.pop("$defs", {}))
    required = schema.get("required", [])
    return [
        {"name": name, "in": "query", "required": name in required, "schema": _without_null(member)}
        for name, member in schema.get("properties", {}).items()
    ]


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A query string cannot say null: `anyOf: [X, null]` is X that may be left out."""
    choices = [choice for choice in schema.get("anyOf", []) if choice != {"type": "null"}]
    if len(choices) != 1:
        return schema
    rest = {key: value for key, value in schema.items() if key not in ("anyOf", "default")}
    merged: dict[str, Any] = choices[0] | rest
    return merged


def _request_body(route: Route, schemas: _Schemas) -> dict[str, Any]:
    content: dict[str, Any] = {kind: {} for kind in route.content}
    required = False
    if route.body is not None:
        content["application/json"] = {"schema": schemas.of(route.body)}
        required = any(info.is_required() for info in route.body.model_fields.values())
    return {"required": required, "content": content}


def _responses(route: Route, schemas: _Schemas) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    if route.socket:
        responses["101"] = {"description": "The socket is open."}
    elif says_nothing(route):
        responses["204"] = {"description": "Done."}
    else:
        for status in (route.status, *route.also):
            responses[str(status)] = _success(route, status, schemas)
    by_status: dict[int, list[type[Problem]]] = defaultdict(list)
    for problem in problems_of(route):
        by_status[problem.status].append(problem)
    for status, problems in sorted(by_status.items()):
        responses[str(status)] = _problem_response(problems)
    return responses


def says_nothing(route: Route) -> bool:
    """204: nothing is declared that an answer could hold."""
    return route.status == 204 or (route.answer is None and route.method == "DELETE")


def _success(route: Route, status: int, schemas: _Schemas) -> dict[str, Any]:
    response: dict[str, Any] = {"description": "Done."}
    if route.answer is not None and status != 204:
        response["content"] = {route.produces: {"schema": schemas.of(route.answer, "serialization")}}
    elif route.method == "GET":
        response["content"] = {route.produces: {}}
    if route.location and status == 201:
        response["headers"] = {"Location": {"schema": {"type": "string"}, "description": "Where the new row is."}}
    return response


def problems_of(route: Route) -> list[type[Problem]]:
    """What a route can answer beside success: what it declares, and what follows from the rest of its declaration."""
    problems = [*route.problems, InternalError, *_of_caller(route), *_of_gateway(route), *_of_input(route)]
    return list(dict.fromkeys(problems))


def _of_caller(route: Route) -> Iterable[type[Problem]]:
    if route.role in RANKS or route.role == PUBLIC:
        yield Unauthorized
    if RANKS.get(route.role, 0) > min(RANKS.values()):
        yield RoleRequired
    if route.socket:
        yield from (UpgradeRequired, MalformedRequest, TokenInQuery, SubprotocolRequired, Unauthorized)
        yield from (OriginRefused, NotReady, Overloaded)


def _of_gateway(route: Route) -> Iterable[type[Problem]]:
    if route.rate is not None:
        yield RateLimited
    if route.takes_key:
        yield from (MalformedRequest, IdempotencyKeyReused, IdempotencyKeyInUse)
    if route.idempotency == "required":
        yield IdempotencyKeyRequired
    if route.path.startswith("/api/"):
        yield from (DatabaseUnavailable, TimedOut)


def _of_input(route: Route) -> Iterable[type[Problem]]:
    if "{" in route.path:
        yield NotFound
    if route.body is not None:
        yield from (MalformedJson, ValidationFailed, BodyTooLarge, UnsupportedMediaType, RequestTimedOut)
    if route.content:
        yield from (ValidationFailed, BodyTooLarge, UnsupportedMediaType, RequestTimedOut)
    if "application/json" in route.content:
        yield MalformedJson
    if route.query is not None:
        yield ValidationFailed
        if "cursor" in route.query.model_fields:
            yield BadCursor


def _problem_response(problems: Sequence[type[Problem]]) -> dict[str, Any]:
    codes = sorted({problem.code for problem in problems})
    response: dict[str, Any] = {
        "description": "; ".join(dict.fromkeys(problem.title for problem in problems)),
        "content": {
            "application/problem+json": {
                "schema": {
                    "allOf": [
                        {"$ref": REF.format(model="Problem")},
                        {"properties": {"code": {"enum": codes}}},
                    ]
                }
            }
        },
    }
    if any(problem.retry_after_s is not None for problem in problems):
        response["headers"] = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds."}}
    if problems[0].status == 401:
        response["headers"] = {"WWW-Authenticate": {"schema": {"type": "string"}}}
    return response


def _problem_schema() -> dict[str, Any]:
    text = {"type": "string"}
    error = {"type": "object", "required": ["pointer", "detail"], "properties": {"pointer": text, "detail": text}}
    return {
        "type": "object",
        "required": ["type", "title", "status", "detail", "instance", "code", "request_id"],
        "properties": {
            "type": {"type": "string", "format": "uri-reference"},
            "title": text,
            "status": {"type": "integer", "minimum": 400, "maximum": 599},
            "detail": text,
            "instance": text,
            "code": {"type": "string", "enum": sorted(REGISTRY)},
            "request_id": text,
            "retryable": {"type": "boolean"},
            "errors": {"type": "array", "items": error},
        },
    }


def asyncapi(declared: Iterable[Route]) -> dict[str, Any]:
    """The sockets' document, as a value: one channel each, with the frames that their routes declare."""
    sockets = [route for route in declared if route.socket]
    structs = {struct: None for route in sockets for frames in route.messages.values() for struct in frames}
    payloads, components = msgspec.json.schema_components(structs, ref_template=REF.replace("model", "name"))
    payload_of = dict(zip(structs, payloads, strict=True))
    channels: dict[str, Any] = {}
    operations: dict[str, Any] = {}
    for route in sockets:
        name = route.handler.__name__
        channels[name] = {
            "address": route.template,
            "description": inspect.cleandoc(route.handler.__doc__ or ""),
            "parameters": {parameter: {} for parameter in re.findall(r"\{(\w+)\}", route.template)},
            "messages": {
                struct.__name__: {"payload": payload_of[struct], "contentType": "application/json"}
                for frames in route.messages.values()
                for struct in frames
            },
        }
        for action, frames in route.messages.items():
            operations[f"{name}_{action}"] = {
                "action": action,
                "channel": {"$ref": f"#/channels/{name}"},
                "messages": [{"$ref": f"#/channels/{name}/messages/{struct.__name__}"} for struct in frames],
            }
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "Lectern", "version": "1", "description": "Subprotocol `lectern.v1`; JSON text frames."},
        "channels": channels,
        "operations": operations,
        "components": {"schemas": components},
    }


def docs_page(declared: Iterable[Route]) -> str:
    """Every route with its role, answers and problems, as HTML."""
    groups: defaultdict[str, list[Route]] = defaultdict(list)
    for route in declared:
        groups[route.tag].append(route)
    contents = "".join(f'<li><a href="#{tag}">{tag}</a></li>' for tag in map(html.escape, groups))
    sections = "".join(
        f'<h2 id="{html.escape(tag)}">{html.escape(tag)}</h2>{"".join(map(_route_section, group))}'
        for tag, group in groups.items()
    )
    return html_page(
        "Lectern API",
        '<p>Machines read <a href="/openapi.json">OpenAPI</a> and <a href="/asyncapi.json">AsyncAPI</a>.</p>'
        f'<ul class="contents">{contents}</ul>{sections}',
    )


def _route_section(route: Route) -> str:
    method = "WS" if route.socket else route.method
    links = "".join(
        f'<li><a href="/problems/{problem.code}">{problem.status} {problem.code}</a></li>'
        for problem in sorted(problems_of(route), key=lambda problem: (problem.status, problem.code))
    )
    return (
        f'<section class="card route"><h3><b>{method}</b> <code>{html.escape(route.template)}</code>'
        f"<span>{html.escape(route.role)}</span></h3>"
        f"{to_html(inspect.cleandoc(route.handler.__doc__ or ''))}<ul>{links}</ul></section>"
    )

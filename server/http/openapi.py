"""OpenAPI 3.1 from the routes' declarations: nothing is written twice."""

import html
import inspect
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec
import orjson
from aiohttp import web
from pydantic import BaseModel, TypeAdapter

from server.http.auth import RANKS
from server.http.documents import html_page, to_html
from server.http.idempotency import HEADER as KEY_HEADER
from server.http.idempotency import LONGEST_KEY
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
    names = _names(declared)
    schemas = _Schemas()
    paths: dict[str, dict[str, Any]] = defaultdict(dict)
    for route, name in names.items():
        paths[route.template][route.method.lower()] = _operation(route, name, names, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Lectern",
            "version": "1",
            "description": "Errors are problem documents (RFC 9457); every answer carries `X-Request-Id`.",
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": tag} for tag in dict.fromkeys(route.tag for route in names)],
        "paths": dict(paths),
        "components": {
            "schemas": {"Problem": _problem_schema(), **schemas.definitions},
            "headers": _HEADERS,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
    }


def _names(declared: Iterable[Route]) -> dict[Route, str]:
    """What each operation is called: by its handler, and by its method too where one handler serves two."""
    names: dict[Route, str] = {}
    for route in declared:
        name = route.handler.__name__
        names[route] = f"{name}_{route.method.lower()}" if name in names.values() else name
    return names


def _header(kind: str, description: str) -> dict[str, Any]:
    return {"schema": {"type": kind}, "description": description}


_HEADERS: dict[str, dict[str, Any]] = {
    "X-Request-Id": {
        **_header("string", "The request's id: the client's, if sane, else one of ours."),
        "required": True,
    },
    "Location": _header("string", "Where the new row is, or what was asked for."),
    "ETag": _header("string", "Names this answer; sent back as `If-None-Match` it spares the same answer."),
    "Cache-Control": _header("string", "Who may keep the answer, and for how long."),
    "Idempotency-Replayed": _header("string", "`true` on the answer of the first time."),
    "RateLimit-Limit": _header("integer", "How many calls of this class may be made at once."),
    "RateLimit-Remaining": _header("integer", "How many of them are left now."),
    "RateLimit-Reset": _header("integer", "Seconds until all of them are free again."),
    "Retry-After": _header("integer", "Seconds until it is worth another try."),
    "WWW-Authenticate": _header("string", "`Bearer`."),
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

    def of_frames(self, annotation: Any) -> dict[str, Any]:
        """The same of msgspec's types. Where nothing else could be meant a frame need not say its kind."""
        (schema,), definitions = msgspec.json.schema_components([annotation], ref_template=REF.replace("model", "name"))
        for definition in definitions.values():
            definition["required"] = [member for member in definition["required"] if member != "type"]
        self.definitions.update(definitions)
        return schema


def _operation(route: Route, name: str, names: Mapping[Route, str], schemas: _Schemas) -> dict[str, Any]:
    summary, _, description = inspect.cleandoc(route.handler.__doc__ or "").partition("\n")
    operation: dict[str, Any] = {
        "operationId": name,
        "tags": [route.tag],
        "summary": summary,
        "x-role": route.role,
        "security": _security(route),
        "description": f"{description.strip()}\n\n{_WHO[route.role]}".strip(),
        "parameters": [*_path_parameters(route), *_query_parameters(route, schemas), *_header_parameters(route)],
        "responses": _responses(route, names, schemas),
    }
    if route.rate:
        operation["x-rate-class"] = route.rate
    if route.socket:
        operation["x-websocket"] = True
    if route.body is not None or route.form is not None or route.content:
        operation["requestBody"] = _request_body(route, schemas)
    return operation


_WHO = {
    ANONYMOUS: "For anybody; a token is not looked at.",
    PUBLIC: "For anybody; with a token it answers its user.",
    SELF_SERVED: "Who may call is found out by the route itself.",
    "student": "For every signed-in user.",
    "instructor": "For instructors and administrators.",
    "admin": "For administrators.",
}


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


def _header_parameters(route: Route) -> list[dict[str, Any]]:
    parameters: list[dict[str, Any]] = []
    if route.takes_key:
        schema = {"type": "string", "minLength": 1, "maxLength": LONGEST_KEY}
        required = route.idempotency == "required"
        description = "A new one for each purpose: the same request with the same key is done once."
        parameters.append(
            {"name": KEY_HEADER, "in": "header", "required": required, "schema": schema, "description": description}
        )
    if route.has_etag or 304 in route.also:
        parameters.append({"name": "If-None-Match", "in": "header", "schema": {"type": "string"}})
    return parameters


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A query string cannot say null: `anyOf: [X, null]` is X that may be left out."""
    choices = [choice for choice in schema.get("anyOf", []) if choice != {"type": "null"}]
    if len(choices) != 1:
        return schema
    rest = {key: value for key, value in schema.items() if key not in ("anyOf", "default")}
    merged: dict[str, Any] = choices[0] | rest
    return merged


_FILE = {"type": "string", "format": "binary", "description": "The content; its type is told by its bytes."}


def _request_body(route: Route, schemas: _Schemas) -> dict[str, Any]:
    content: dict[str, Any] = {kind: {} for kind in route.content}
    required = False
    if route.reads is not None:
        content["application/json"] = {"schema": schemas.of_frames(route.reads)}
    if route.body is not None:
        content["application/json"] = {"schema": schemas.of(route.body)}
        required = any(info.is_required() for info in route.body.model_fields.values())
    if route.form is not None:
        required = True
        # One object: of two that are to hold at once, each would forbid the other's members.
        schema = TypeAdapter(route.form).json_schema(ref_template=REF)
        schemas.definitions.update(schema.pop("$defs", {}))
        schema["properties"] = {**schema["properties"], "file": _FILE}
        schema["required"] = [*schema.get("required", []), "file"]
        content["multipart/form-data"] = {"schema": schema}
    return {"required": required, "content": content}


def _responses(route: Route, names: Mapping[Route, str], schemas: _Schemas) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    if route.socket:
        responses["101"] = {"description": "The socket is open."}
    elif says_nothing(route):
        responses["204"] = {"description": "Done.", "headers": _headers("X-Request-Id", *_counted(route))}
    unchanged = (304,) if route.has_etag else ()
    for status in () if route.socket or says_nothing(route) else (route.status, *route.also, *unchanged):
        responses[str(status)] = _success(route, status, schemas)
        if links := links_of(route, status, names):
            responses[str(status)]["links"] = links
    by_status: dict[int, list[type[Problem]]] = defaultdict(list)
    for problem in problems_of(route):
        by_status[problem.status].append(problem)
    for status, problems in sorted(by_status.items()):
        responses[str(status)] = _problem_response(route, problems)
    return responses


def says_nothing(route: Route) -> bool:
    """204: nothing is declared that an answer could hold."""
    return route.status == 204 or (route.answer is None and route.method == "DELETE")


def _success(route: Route, status: int, schemas: _Schemas) -> dict[str, Any]:
    response: dict[str, Any] = {"description": "Done."}
    if status in (302, 304):
        response["description"] = (
            "It is elsewhere." if status == 302 else "The answer that `If-None-Match` names is still good."
        )
    elif route.answer is not None and status != 204:
        response["content"] = {route.produces: {"schema": schemas.of(route.answer, "serialization")}}
    elif route.method == "GET":
        response["content"] = {route.produces: {}}
    names = ["X-Request-Id", *_counted(route)]
    if (route.location and status == 201) or status == 302:
        names.append("Location")
    if 304 in route.also or (route.has_etag and status != 302):
        names += ["ETag", "Cache-Control"]
    if route.takes_key:
        names.append("Idempotency-Replayed")
    response["headers"] = _headers(*names)
    return response


def _headers(*names: str) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _counted(route: Route) -> tuple[str, ...]:
    return () if route.rate is None else ("RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset")


def links_of(route: Route, status: int, names: Mapping[Route, str]) -> dict[str, Any]:
    """What can be asked next: of a row that was just made, and of the first row of a list."""
    if status == 201 and route.location is not None:
        where, row = route.location, "$response.body#"
    elif route.method == "GET" and "items" in getattr(route.answer, "model_fields", {}):
        where, row = f"{route.template}/{{id}}", "$response.body#/items/0"
    else:
        return {}
    links = {}
    for other, name in names.items():
        found = _place_of_id(where, other.template)
        if found is not None and not other.socket and other is not route:
            parameter, member = found
            links[name] = {"operationId": name, "parameters": {f"path.{parameter}": f"{row}/{member}"}}
    return links


def _place_of_id(where: str, template: str) -> tuple[str, str] | None:
    """For "/api/courses/{id}" and "/api/courses/{course_id}/lectures" what is the same: ("course_id", "id")."""
    before, found, member = where.partition("{")
    member = member.removesuffix("}").replace("[", "/").replace("]", "")
    parameter = re.match(r"\{(\w+_id)\}", template.removeprefix(before))
    if not found or "}" in member or not template.startswith(before) or parameter is None:
        return None
    return parameter[1], member


def problems_of(route: Route) -> list[type[Problem]]:
    """What a route can answer beside success: what it declares, and what follows from the rest of its declaration."""
    problems = [
        *route.problems,
        InternalError,
        MalformedRequest,
        *_of_caller(route),
        *_of_gateway(route),
        *_of_input(route),
    ]
    return list(dict.fromkeys(problems))


def _of_caller(route: Route) -> Iterable[type[Problem]]:
    if route.role in RANKS or route.role == PUBLIC:
        yield Unauthorized
    if RANKS.get(route.role, 0) > min(RANKS.values()):
        yield RoleRequired
    if route.socket:
        yield from (UpgradeRequired, TokenInQuery, SubprotocolRequired, Unauthorized)
        yield from (OriginRefused, NotReady, Overloaded)


def _of_gateway(route: Route) -> Iterable[type[Problem]]:
    if route.rate is not None:
        yield RateLimited
    if route.takes_key:
        yield from (IdempotencyKeyReused, IdempotencyKeyInUse)
    if route.idempotency == "required":
        yield IdempotencyKeyRequired
    yield TimedOut
    if route.path.startswith(("/api/", "/ws/")):
        yield DatabaseUnavailable


def _of_input(route: Route) -> Iterable[type[Problem]]:
    if "{" in route.path:
        yield NotFound
    if route.body is not None:
        yield from (MalformedJson, ValidationFailed, BodyTooLarge, UnsupportedMediaType, RequestTimedOut)
    if route.form or route.content:
        yield from (ValidationFailed, BodyTooLarge, UnsupportedMediaType, RequestTimedOut, Overloaded)
    if "application/json" in route.content:
        yield MalformedJson
    if route.query is not None:
        yield ValidationFailed
        if "cursor" in route.query.model_fields:
            yield BadCursor


# Of problems that a handler decides on, which are kept under the request's key.
_KEPT = frozenset({402, 403, 404, 409, 422})


def _problem_response(route: Route, problems: Sequence[type[Problem]]) -> dict[str, Any]:
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
    names = ["X-Request-Id", *_counted(route)]
    if any(problem.retry_after_s is not None for problem in problems):
        names.append("Retry-After")
    if problems[0].status == 401:
        names.append("WWW-Authenticate")
    if route.takes_key and problems[0].status in _KEPT:
        names.append("Idempotency-Replayed")
    response["headers"] = _headers(*names)
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
            "instance": {"type": "string", "format": "uri-reference"},
            "code": {"type": "string", "enum": sorted(REGISTRY)},
            "request_id": text,
            "retryable": {"type": "boolean"},
            "errors": {"type": "array", "items": error},
        },
    }


SOCKETS_DESCRIPTION = (
    "Sockets speak the subprotocol `lectern.v1`: text frames, one JSON object each with its kind in `type`. "
    "`receive` is what the server takes, `send` what it says."
)


def asyncapi(declared: Iterable[Route]) -> dict[str, Any]:
    """The sockets' document, as a value: one channel each, with the frames that their routes declare."""
    sockets = {route.handler.__name__: route for route in declared if route.socket}
    structs = {struct: None for route in sockets.values() for frames in route.messages.values() for struct in frames}
    payloads, components = msgspec.json.schema_components(structs, ref_template=REF.replace("model", "name"))
    payload_of = dict(zip(structs, payloads, strict=True))
    bearer = "In `Authorization` or as a subprotocol `bearer.<token>`; never in the query."
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "Lectern", "version": "1", "description": SOCKETS_DESCRIPTION},
        "servers": {
            "lectern": {
                "host": "{host}",
                "protocol": "wss",
                "variables": {"host": {"default": "localhost:8080", "description": "Where the API is."}},
                "security": [{"$ref": "#/components/securitySchemes/bearer"}],
            }
        },
        "channels": {name: _channel(route, payload_of) for name, route in sockets.items()},
        "operations": {
            f"{name}_{action}": {
                "action": action,
                "channel": {"$ref": f"#/channels/{name}"},
                "messages": [{"$ref": f"#/channels/{name}/messages/{struct.__name__}"} for struct in frames],
            }
            for name, route in sockets.items()
            for action, frames in route.messages.items()
        },
        "components": {
            "schemas": components,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer", "description": bearer}},
        },
    }


def _channel(route: Route, payload_of: Mapping[type[msgspec.Struct], Any]) -> dict[str, Any]:
    return {
        "address": route.template,
        "description": inspect.cleandoc(route.handler.__doc__ or ""),
        "parameters": {parameter: {} for parameter in re.findall(r"\{(\w+)\}", route.template)},
        "bindings": {"ws": {"method": "GET"}},
        "messages": {
            struct.__name__: {
                "name": struct.__struct_config__.tag or struct.__name__,
                "summary": inspect.cleandoc(struct.__doc__ or ""),
                "contentType": "application/json",
                "payload": payload_of[struct],
            }
            for frames in route.messages.values()
            for struct in frames
        },
    }


def docs_page(declared: Iterable[Route]) -> str:
    """Every route with its role, answers and problems, as HTML; where its package is there, Swagger UI in its place."""
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
        '<div id="reader"></div><div id="plain">'
        '<p>Machines read <a href="/openapi.json">OpenAPI</a> and <a href="/asyncapi.json">AsyncAPI</a>.</p>'
        f'<ul class="contents">{contents}</ul>{sections}</div>'
        '<link rel="stylesheet" href="/vendor/swagger-ui-dist/swagger-ui.css">'
        '<script src="/vendor/swagger-ui-dist/swagger-ui-bundle.js" defer></script>'
        '<script src="/web/docs.js" type="module"></script>',
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

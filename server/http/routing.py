"""A route is declared once; validation, authorisation, metrics and OpenAPI come from that one declaration.

    routes = Routes("courses")

    @routes.post("/api/courses", role=INSTRUCTOR, body=NewCourse, answer=Course, status=201,
                 location="/api/courses/{id}", problems=(UsernameTaken,), rate="write")
    async def create_course(call: Call[NewCourse]) -> Record:
        \"\"\"The first line is the summary in the API's documents, the rest its description.\"\"\"

What a handler may return: a Record, mapping or pydantic model (of which only the members that `answer` declares are
sent; a declared member with a default may be missing), a list of those, None (204), `Reply(...)` to choose status and
headers, or a finished `web.StreamResponse`.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from tempfile import TemporaryFile
from types import SimpleNamespace
from typing import Any, Generic, Literal, TypeVar, cast
from uuid import UUID

from aiohttp import hdrs, web
from aiohttp.helpers import ETAG_ANY
from msgspec import Struct
from pydantic import BaseModel, ConfigDict

from server.config import Config, Limits
from server.data.db import Database
from server.data.limits import Verdict
from server.http.auth import RANKS, Principal, authenticate
from server.http.deadlines import Deadline, Deadlines
from server.http.forms import ReceivedFile, receive_form
from server.http.idempotency import answer_once, claim, read_key
from server.http.keys import CONFIG, DATABASE, EDGE, LIMITER, OBJECTS
from server.http.parsing import parse_body, parse_fields, parse_query, unstorable
from server.http.problems import (
    BodyTooLarge,
    NotFound,
    Problem,
    RateLimited,
    RequestTimedOut,
    RoleRequired,
    Unauthorized,
    UnsupportedMediaType,
)
from server.http.shapes import Shape, dump_json, shape_of
from server.services.objects import Objects
from server.services.outside import ServiceNotConfigured

# What the limit of the route's class had to say, for the headers of the answer.
VERDICT = web.RequestKey("verdict", Verdict)

# Who may call. STUDENT, INSTRUCTOR and ADMIN include those above them.
STUDENT = "student"
INSTRUCTOR = "instructor"
ADMIN = "admin"
# Anybody; a token is read when it is sent (`call.viewer`), and one that is not valid is 401.
PUBLIC = "public"
# Anybody, and `Authorization` is not even looked at: signing in must work with a stale token in the header.
ANONYMOUS = "anonymous"
# The handler itself finds out who calls: session tokens, signed webhooks, sockets.
SELF_SERVED = "self-served"
ROLES = frozenset({*RANKS, PUBLIC, ANONYMOUS, SELF_SERVED})

UUID_PATTERN = "[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"

# What aiohttp decodes; anything else it hands on as it came.
CONTENT_ENCODINGS = frozenset({"identity", "gzip", "deflate"})
READABLE = {"Accept-Encoding": ", ".join(sorted(CONTENT_ENCODINGS))}

# The time that a request's handler has.
_LIMIT = web.RequestKey("limit", Deadline)

B = TypeVar("B")
Handler = Callable[["Call[Any]"], Awaitable[Any]]
H = TypeVar("H", bound=Handler)


class Body(BaseModel):
    """A request body: unknown members are refused, JSON types are taken strictly, no NaN or Infinity."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _without_defaults(schema: dict[str, Any]) -> None:
    for member in schema.get("properties", {}).values():
        member.pop("default", None)


class Change(Body):
    """A body of which any subset may be sent: what is absent stays, and so no member has a default in the documents.

    Those in the class only make it optional: `model_dump(exclude_unset=True)`, or look at `model_fields_set`.
    """

    model_config = ConfigDict(json_schema_extra=_without_defaults)


class Query(BaseModel):
    """A query string: values are read from text; parameters that are not declared are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


@dataclass(slots=True)
class Reply:
    """An answer with a status or headers of its own; `body` is filtered by the route's `answer` like any other."""

    body: Any = None
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


class Call(Generic[B]):
    """One request, parsed and authorised."""

    __slots__ = ("_database", "afterwards", "app", "body", "file", "path", "query", "request", "viewer")

    def __init__(self, request: web.Request) -> None:
        self.request = request
        self.app: web.Application = request.app
        # The signed-in user, or None on a public route without a token.
        self.viewer: Principal | None = None
        # Path parameters: those named `*_id` are UUIDs, the others text.
        self.path: Any = None
        # The validated `query` model of the route, None when it declares none.
        self.query: Any = None
        self.body: B = cast(B, None)
        # What came in the member `file` of a form; open until the handler is done.
        self.file: ReceivedFile = cast(ReceivedFile, None)
        # What is done when the answer is made and committed, before it goes out; it must not raise.
        self.afterwards: list[Callable[[], Awaitable[None]]] = []
        self._database: Database | None = None

    @property
    def user(self) -> Principal:
        """The signed-in user. Raises Unauthorized where there is none, which only public routes can meet."""
        if self.viewer is None:
            raise Unauthorized
        return self.viewer

    @property
    def viewer_id(self) -> UUID | None:
        """The signed-in user's id or None, as access queries take it."""
        return self.viewer.id if self.viewer else None

    @property
    def viewer_role(self) -> str | None:
        """The signed-in user's role or None, as access queries take it."""
        return self.viewer.role if self.viewer else None

    @property
    def config(self) -> Config:
        """The settings."""
        return self.app[CONFIG]

    @property
    def objects(self) -> Objects:
        """The object store. Raises ServiceNotConfigured."""
        return store_of(self.app)

    @property
    def db(self) -> Database:
        """Postgres; for a request with an idempotency key a transaction of it, so ask one thing at a time."""
        return self._database or self.app[DATABASE]


def store_of(app: web.Application) -> Objects:
    """The object store. Raises ServiceNotConfigured."""
    store = app[OBJECTS]
    if store is None:
        raise ServiceNotConfigured("s3.access_key or s3.secret_key is empty")
    return store


@dataclass(frozen=True, eq=False)
class Route:
    """One declaration. `path` is as written: `/api/courses/{course_id}`."""

    method: str
    path: str
    role: str
    handler: Handler
    tag: str
    status: int = 200
    # Other statuses of success, with the same answer: 200 for a row that was there already.
    also: tuple[int, ...] = ()
    body: type[BaseModel] | None = None
    # The body is `multipart/form-data`: these members, and a `file`.
    form: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    answer: Any = None
    location: str | None = None
    problems: tuple[type[Problem], ...] = ()
    # The class of `limits` that counts calls, per user, else per address; None: none does, which must be said.
    rate: str | None = None
    # Content types of a body that the handler reads by itself, when it is not (only) `body` as JSON.
    content: tuple[str, ...] = ()
    # What is in such a body when it is JSON, in msgspec's types: for the documents.
    reads: Any = None
    # What a finished response of the handler's own making contains.
    produces: str = "application/json"
    # How long the handler may take, or what says it by the settings; None: `server.handler_timeout_s`.
    timeout_s: float | Callable[[Config], float] | None = None
    # It asks a service outside, as do those with a time-out of their own: no transaction is held meanwhile.
    asks_outside: bool = False
    # How long a key stays in use after the process has died that served it, for what may be asked for again beside the
    # first; None: as long as the handler may take.
    lease_s: Callable[[Config], float] | None = None
    # Whether `Idempotency-Key` is "honoured", "required" or "ignored"; None: honoured by a POST that creates (201).
    idempotency: Literal["honoured", "required", "ignored"] | None = None
    socket: bool = False
    # For a socket: msgspec structs of the frames, {"receive": [...], "send": [...]} as the server sees them.
    messages: Mapping[str, Sequence[type[Struct]]] = field(default_factory=dict)

    @cached_property
    def pattern(self) -> str:
        """The path as aiohttp matches it: `*_id` matches UUIDs only."""
        return re.sub(r"\{(\w+_id)\}", rf"{{\1:{UUID_PATTERN}}}", self.path)

    @cached_property
    def takes_key(self) -> bool:
        """Whether `Idempotency-Key` is honoured. A key is its user's, and a body that we do not read has no hash."""
        if self.idempotency is None:
            creates = self.method == "POST" and self.status == 201
            return creates and self.role in RANKS and (bool(self.body or self.form) or not self.content)
        return self.idempotency != "ignored"

    @cached_property
    def has_etag(self) -> bool:
        """Whether answers carry an ETag and may be kept: what is public is asked for by everybody, again and again."""
        return self.method == "GET" and self.role == PUBLIC and self.answer is not None and not self.socket

    @cached_property
    def template(self) -> str:
        """The path without patterns: the route's name in metrics and documents."""
        return re.sub(r"\{(\w+):[^/]*\}", r"{\1}", self.path)


class Routes:
    """The routes of one part of the API; `tag` groups them in the documents."""

    def __init__(self, tag: str) -> None:
        self.tag = tag
        self.routes: list[Route] = []

    def route(self, method: str, path: str, *, role: str, rate: str | None, **declared: Any) -> Callable[[H], H]:
        """Declare a route; see Route for what can be said. Raises TypeError for a role or class that does not exist."""
        if role not in ROLES:
            raise TypeError(f"{method} {path}: there is no role {role!r}")
        if rate is not None and rate not in Limits.model_fields:
            raise TypeError(f"{method} {path}: there is no limit {rate!r}")

        def declare(handler: H) -> H:
            self.routes.append(
                Route(method=method, path=path, role=role, rate=rate, handler=handler, tag=self.tag, **declared)
            )
            return handler

        return declare

    def get(self, path: str, *, role: str, **declared: Any) -> Callable[[H], H]:
        """GET, and with it HEAD."""
        return self.route("GET", path, role=role, **declared)

    def post(self, path: str, *, role: str, **declared: Any) -> Callable[[H], H]:
        """POST."""
        return self.route("POST", path, role=role, **declared)

    def put(self, path: str, *, role: str, **declared: Any) -> Callable[[H], H]:
        """PUT: takes a subset of the members; what is absent stays."""
        return self.route("PUT", path, role=role, **declared)

    def patch(self, path: str, *, role: str, **declared: Any) -> Callable[[H], H]:
        """PATCH."""
        return self.route("PATCH", path, role=role, **declared)

    def delete(self, path: str, *, role: str, **declared: Any) -> Callable[[H], H]:
        """DELETE: 204 when the handler returns None."""
        return self.route("DELETE", path, role=role, **declared)

    def socket(self, path: str, *, role: str = SELF_SERVED, **declared: Any) -> Callable[[H], H]:
        """A WebSocket. The handler gets a Call and returns the WebSocketResponse; no time-out is put around it."""
        return self.route("GET", path, role=role, socket=True, **declared)


def add_routes(app: web.Application, groups: Sequence[Routes]) -> list[Route]:
    """Put the routes on the application and give them back in order."""
    declared = [route for group in groups for route in group.routes]
    deadlines = Deadlines()
    for route in declared:
        endpoint = Endpoint(route, app[CONFIG], deadlines)
        app.router.add_route(route.method, route.pattern, endpoint.handle)
        if route.method == "GET" and not route.socket:
            app.router.add_route("HEAD", route.pattern, endpoint.handle)
    return declared


def route_of(request: web.Request) -> Route | None:
    """The declaration that a request met; None for paths and methods that there are not."""
    endpoint = getattr(request.match_info.handler, "__self__", None)
    return endpoint.route if isinstance(endpoint, Endpoint) else None


async def throttle(request: web.Request, who: Hashable) -> None:
    """Count the request against the class of its route. A self-served route calls this when it knows who asks.

    Raises RateLimited.
    """
    route = route_of(request)
    if route is not None and route.rate is not None:
        await _throttle(request, route.rate, who)


async def _throttle(request: web.Request, rate: str, who: Hashable) -> None:
    verdict = await request.app[LIMITER].take(rate, who)
    if verdict is not None:
        request[VERDICT] = verdict
        if not verdict.allowed:
            raise RateLimited(headers={"Retry-After": str(verdict.retry_after_s)})


# A request that runs into its time-out has this long to say so before its idempotency key is free again.
_LEASE_SLACK_S = 2.0


class Endpoint:
    """A route made ready to be called: everything that can be worked out beforehand is."""

    def __init__(self, route: Route, config: Config, deadlines: Deadlines) -> None:
        self.route = route
        self._deadlines = deadlines
        self._id_names = tuple(name for name in re.findall(r"\{(\w+)[:}]", route.path) if name.endswith("_id"))
        self._has_path = "{" in route.path
        self._shape: Shape = shape_of(route.answer)
        self._rank = RANKS.get(route.role, 0)
        self._reads_token = route.role not in (ANONYMOUS, SELF_SERVED)
        # Who calls a self-served route is not known before its handler has found out.
        self._rate = route.rate if route.role != SELF_SERVED else None
        self._empty_body = b"{}" if route.body and not _required(route.body) else None
        own_s = route.timeout_s(config) if callable(route.timeout_s) else route.timeout_s
        self._timeout_s = own_s or config.server.handler_timeout_s
        self._ttl_s = config.server.idempotency_ttl_s
        asks_outside = route.asks_outside or route.timeout_s is not None
        self._lease_s = self._timeout_s + _LEASE_SLACK_S if asks_outside else None
        self._renewed = route.lease_s is not None
        if route.lease_s is not None:
            self._lease_s = route.lease_s(config)
        self._body_bytes = config.server.body_bytes
        self._body_timeout_s = config.server.body_timeout_s
        self._file_bytes = config.files.direct_bytes

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """aiohttp's handler: authorise, parse, call, answer. Raises problems and whatever the handler raises.

        The handler's time does not run while the body is still arriving: that one is the client's.
        """
        call: Call[Any] = Call(request)
        if self.route.socket:
            await self._prepare(call, request)
            return self._answer(call, await self.route.handler(call))
        with self._deadlines.within(self._timeout_s, request.task) as limit:
            request[_LIMIT] = limit
            await self._prepare(call, request)
            if self.route.body is not None:
                left_s = limit.pause()
                call.body = await self._parse_body(self.route.body, request)
                limit.go_on(left_s)
            if self.route.form is not None:
                return await self._handle_form(call, self.route.form)
            return await self._finish(call)

    async def _handle_form(self, call: Call[Any], form: type[BaseModel]) -> web.StreamResponse:
        """The rest of `handle` for a form with a file, which is kept on disk meanwhile."""
        with TemporaryFile() as content:
            async with arriving(call.request, call.config.files.receive_timeout_s):
                fields, call.file = await receive_form(call.request, form.model_fields, content, self._file_bytes)
            call.body = parse_fields(form, fields)
            return await self._finish(call)

    async def _finish(self, call: Call[Any]) -> web.StreamResponse:
        if self.route.takes_key:
            response = await self._answer_once(call)
        else:
            response = self._answer(call, await self.route.handler(call))
        for work in call.afterwards:
            await work()
        return response

    async def _answer_once(self, call: Call[Any]) -> web.StreamResponse:
        """The answer, or that of the first time when an idempotency key says that this is not it."""
        key = read_key(call.request, required=self.route.idempotency == "required")
        if key is None:
            return self._answer(call, await self.route.handler(call))

        async def run(database: Database) -> web.StreamResponse:
            call._database = database
            return self._answer(call, await self.route.handler(call))

        body = call.body.model_dump(mode="json", exclude_unset=True) if self.route.body or self.route.form else None
        if body is not None and self.route.form:
            body |= {"file": call.file.sha256, "filename": call.file.filename}
        claimed = claim(call.request, call.user.id, key, body)
        times: Any = {"ttl_s": self._ttl_s, "lease_s": self._lease_s, "renewed": self._renewed}
        return await answer_once(call.request, call.db, claimed, run, **times)

    async def _prepare(self, call: Call[Any], request: web.Request) -> None:
        """Everything of a call but its body."""
        if self._reads_token:
            call.viewer = await authenticate(request)
        if self._rate is not None:
            who = call.viewer.id if call.viewer else request.app[EDGE].client_network(request)
            await _throttle(request, self._rate, who)
        if self._rank:
            self._authorise(call.viewer)
        if self._has_path:
            call.path = self._parse_path(request)
        if self.route.query is not None:
            call.query = parse_query(self.route.query, request)

    def _authorise(self, viewer: Principal | None) -> None:
        if viewer is None:
            raise Unauthorized
        if RANKS[viewer.role] < self._rank:
            raise RoleRequired(f"This needs the role {self.route.role}.")

    def _parse_path(self, request: web.Request) -> SimpleNamespace:
        values: dict[str, Any] = dict(request.match_info)
        for name, value in values.items():
            if name in self._id_names:
                values[name] = UUID(value)
            elif unstorable(value):
                raise NotFound
        return SimpleNamespace(**values)

    async def _parse_body(self, model: type[BaseModel], request: web.Request) -> BaseModel:
        kind = request.headers.get("Content-Type")
        if kind is not None and kind.partition(";")[0].strip().lower() != "application/json" and request.body_exists:
            raise UnsupportedMediaType("The body must be application/json.", headers={"Accept": "application/json"})
        if request.headers.get("Content-Encoding", "identity").lower() not in CONTENT_ENCODINGS:
            raise UnsupportedMediaType("The body is encoded as we cannot read it.", headers=READABLE)
        if (request.content_length or 0) > self._body_bytes:
            raise BodyTooLarge
        try:
            async with asyncio.timeout(self._body_timeout_s):
                raw = await request.read()
        except TimeoutError:
            raise RequestTimedOut from None
        return parse_body(model, raw or self._empty_body or raw)

    def _answer(self, call: Call[Any], result: Any) -> web.StreamResponse:
        if isinstance(result, web.StreamResponse):
            return result
        status, headers = None, None
        if isinstance(result, Reply):
            status, headers, result = result.status, dict(result.headers), result.body
        if result is None:
            return web.Response(status=status or 204, headers=headers)
        status = status or self.route.status
        body = self._shape(result) if self._shape else result
        if status == 201 and self.route.location is not None:
            headers = headers or {}
            headers.setdefault("Location", self.route.location.format_map(body))
        encoded = dump_json(body)
        if status == 200 and self.route.has_etag:
            return cacheable(call, encoded, (headers or {}) | {hdrs.CONTENT_TYPE: "application/json"})
        return web.Response(body=encoded, status=status, headers=headers, content_type="application/json")


def cacheable(call: Call[Any], body: bytes, headers: dict[str, str]) -> web.Response:
    """The whole answer, or 304 for who has it. Only what nobody in particular asked for may be kept unasked."""
    tag = blake2b(body, digest_size=12).hexdigest()
    public = f"public, max-age={call.config.server.public_max_age_s:.0f}"
    headers[hdrs.ETAG] = f'"{tag}"'
    headers[hdrs.CACHE_CONTROL] = public if call.viewer is None else "private, no-cache"
    headers[hdrs.VARY] = "Authorization, Origin"
    if any(known.value in (tag, ETAG_ANY) for known in call.request.if_none_match or ()):
        del headers[hdrs.CONTENT_TYPE]
        return web.Response(status=304, headers=headers)
    return web.Response(body=body, headers=headers)


def _required(model: type[BaseModel]) -> bool:
    return any(info.is_required() for info in model.model_fields.values())


@asynccontextmanager
async def apart(request: web.Request, within_s: float) -> AsyncIterator[None]:
    """For a handler's part that has a time of its own: meanwhile the handler's does not run. Raises TimeoutError."""
    limit = request[_LIMIT]
    left_s = limit.pause()
    try:
        async with asyncio.timeout(within_s):
            yield
    finally:
        limit.go_on(left_s)


@asynccontextmanager
async def arriving(request: web.Request, within_s: float | None = None) -> AsyncIterator[None]:
    """For a handler that reads the body by itself: meanwhile the client's time runs (`server.body_timeout_s`, or
    `within_s`), not the handler's. Raises RequestTimedOut."""
    try:
        async with apart(request, within_s or request.app[CONFIG].server.body_timeout_s):
            yield
    except TimeoutError:
        raise RequestTimedOut from None


def untimed(request: web.Request) -> None:
    """For a handler that sends a long answer: from here on no time runs but the one it sets itself."""
    request[_LIMIT].pause()

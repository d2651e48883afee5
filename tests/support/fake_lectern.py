"""A double of the product that is small enough to be read: it keeps the wire's promises, or breaks those asked for.

It serves what a player needs (accounts, one free course with one ready video, sessions, the socket) from memory. Used
to try the simulated players themselves, the load scenario included; it says nothing about the server.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import WSCloseCode, WSMsgType, web

from tests.support.local_server import LocalServer
from tests.support.model import applied_frames, expected_folds

Message = dict[str, Any]
LADDER = [
    {"rung": rung, "br": br, "width": width, "height": height}
    for rung, (br, width, height) in enumerate([(400, 426, 240), (1200, 854, 480), (2800, 1280, 720)])
]
COURSE, LECTURE, VIDEO = (str(uuid.UUID(int=n)) for n in (1, 2, 3))
MOST_LIVE = 3


@dataclass(slots=True)
class Held:
    """One session: its frames, in order of arrival, and how many of them are in "Postgres"."""

    session_id: str
    user: str
    arrivals: list[Message] = field(default_factory=list)
    saved: int = 0
    epoch: int = 0
    status: str = "active"
    sockets: list[web.WebSocketResponse] = field(default_factory=list)

    @property
    def highest(self) -> int:
        """The highest applied seq."""
        return max((frame["seq"] for frame in self.arrivals), default=0)


class FakeLectern:
    """`twist(message)` may change what goes out, or swallow it (None). `refuse(held)` may answer a status instead of an
    upgrade. `save=False` never saves; `silent=True` never acknowledges."""

    def __init__(self) -> None:
        self.users: dict[str, str] = {}
        self.sessions: dict[str, Held] = {}
        self.enrolled: set[str] = set()
        self.twist: Callable[[Message], Message | None] = lambda message: message
        self.refuse: Callable[[Held], int | None] = lambda _: None
        self.save = True
        self.silent = False
        self.limits: dict[str, Any] = {"frame_bytes": 16384, "rate": 0, "per_s": 1, "burst": 40, "interval_ms": 1000}
        self.registered = 0
        self.signed_in = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        """Serve on a free port; yields the base URL."""
        server = LocalServer(self._app(), shutdown_timeout=0.5)
        await server.start_server()
        try:
            yield str(server.make_url("")).rstrip("/")
        finally:
            for held in self.sessions.values():
                for socket in held.sockets:
                    await socket.close()
            await server.close()

    def held(self, session_id: str | None = None) -> Held:
        """A session; the only one, when none is named."""
        return self.sessions[session_id] if session_id else next(iter(self.sessions.values()))

    async def push(self, message: Message, session_id: str | None = None) -> None:
        """Send anything to a session's newest socket."""
        await self.held(session_id).sockets[-1].send_str(json.dumps(message))

    async def close(self, code: int, retry_ms: int | None = None, session_id: str | None = None) -> None:
        """Say `bye` and close a session's newest socket."""
        socket = self.held(session_id).sockets[-1]
        await socket.send_str(json.dumps({"type": "bye", "code": code, "retry_ms": retry_ms}))
        await socket.close(code=code)

    # ------------------------------------------------------------------ routes
    def _app(self) -> web.Application:
        app = web.Application()
        app.add_routes(
            [
                web.post("/api/auth/register", self._register),
                web.post("/api/auth/login", self._login),
                web.get("/api/courses", self._courses),
                web.get(f"/api/courses/{COURSE}/lectures", self._lectures),
                web.get(f"/api/lectures/{LECTURE}", self._lecture),
                web.post("/api/enrollments", self._enrol),
                web.get(f"/api/videos/{VIDEO}", self._video),
                web.post(f"/api/videos/{VIDEO}/sessions", self._create_session),
                web.get("/api/videos/sessions/{session_id}", self._get_session),
                web.post("/api/videos/sessions/{session_id}/network", self._post_frames),
                web.get("/api/videos/ws/{session_id}", self._socket),
            ]
        )
        return app

    def _caller(self, request: web.Request) -> str:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if token.removeprefix("access-") not in self.users:
            raise web.HTTPUnauthorized
        return token.removeprefix("access-")

    def _signed_in(self, username: str, status: int) -> web.Response:
        user = {"id": str(uuid.uuid5(uuid.NAMESPACE_DNS, username)), "username": username, "role": "student"}
        pair = {"access_token": f"access-{username}", "refresh_token": "r", "token_type": "Bearer", "expires_in": 900}
        return web.json_response({"user": user, **pair}, status=status)

    async def _register(self, request: web.Request) -> web.Response:
        body = await request.json()
        if body["username"] in self.users:
            return web.json_response({"code": "username_taken"}, status=409)
        self.registered += 1
        self.users[body["username"]] = body["password"]
        return self._signed_in(body["username"], 201)

    async def _login(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.signed_in += 1
        if self.users.get(body["login"]) != body["password"]:
            return web.json_response({"code": "bad_credentials"}, status=401)
        return self._signed_in(body["login"], 200)

    async def _courses(self, _: web.Request) -> web.Response:
        items = [{"id": COURSE, "title": "A free one", "is_free": True}]
        return web.json_response({"items": items, "next": None, "next_cursor": None})

    async def _lectures(self, _: web.Request) -> web.Response:
        return web.json_response({"items": [{"id": LECTURE, "title": "One"}], "next": None, "next_cursor": None})

    async def _lecture(self, request: web.Request) -> web.Response:
        if self._caller(request) not in self.enrolled:
            return web.json_response({"code": "not_entitled"}, status=403)
        return web.json_response({"id": LECTURE, "video": {"id": VIDEO, "status": "ready", "duration_seconds": 120.0}})

    async def _video(self, request: web.Request) -> web.Response:
        self._caller(request)
        return web.json_response({"id": VIDEO, "status": "ready", "duration_seconds": 120.0})

    async def _enrol(self, request: web.Request) -> web.Response:
        self.enrolled.add(self._caller(request))
        return web.json_response({"course_id": COURSE}, status=201)

    async def _create_session(self, request: web.Request) -> web.Response:
        user = self._caller(request)
        if sum(1 for held in self.sessions.values() if held.user == user and held.status != "ended") >= MOST_LIVE:
            return web.json_response({"code": "too_many_sessions"}, status=409)
        held = Held(str(uuid.uuid4()), user)
        self.sessions[held.session_id] = held
        answer = {
            "session_id": held.session_id,
            "ws_url": f"ws://{request.host}/api/videos/ws/{held.session_id}",
            "token": f"session-{held.session_id}",
            "ladder": LADDER,
            "segment_s": 4.0,
            "resume_position": 0.0,
            "playback": {},
            "decision": self._decision(held, 0),
        }
        return web.json_response(answer, status=201)

    async def _get_session(self, request: web.Request) -> web.Response:
        user = self._caller(request)
        held = self.sessions.get(request.match_info["session_id"])
        if held is None or held.user != user:
            return web.json_response({"code": "session_not_found"}, status=404)
        held.saved = held.highest if self.save else held.saved
        folds = expected_folds(frame for frame in held.arrivals if frame["seq"] <= held.saved)
        return web.json_response({**folds, "status": held.status, "epoch": held.epoch, "saved_seq": held.saved})

    async def _post_frames(self, request: web.Request) -> web.Response:
        held = self.sessions[request.match_info["session_id"]]
        accepted = [self._take(held, frame) for frame in await request.json()].count(True)
        return web.json_response({"accepted": accepted, "duplicates": 0, "decision": None}, status=202)

    # ------------------------------------------------------------------ the socket
    async def _socket(self, request: web.Request) -> web.StreamResponse:
        held = self.sessions.get(request.match_info["session_id"])
        if held is None or held.status == "ended":
            raise web.HTTPNotFound
        if (status := self.refuse(held)) is not None:
            return web.Response(status=status, headers={"Retry-After": "0"})
        if f"bearer.session-{held.session_id}" not in request.headers.get("Sec-WebSocket-Protocol", ""):
            raise web.HTTPUnauthorized
        socket = web.WebSocketResponse(protocols=("lectern.v1",), compress=False)
        await socket.prepare(request)
        held.sockets.append(socket)
        held.epoch += 1
        await self._send(socket, self._hello(held))
        async for raw in socket:
            if raw.type is not WSMsgType.TEXT:
                break
            message = json.loads(raw.data)
            if message["type"] == "bye":
                held.status = "ended"
                await self._send(socket, {"type": "bye", "code": 1000, "retry_ms": None})
                await socket.close(code=WSCloseCode.OK)
                break
            await self._telemetry(held, socket, message)
        return socket

    async def _telemetry(self, held: Held, socket: web.WebSocketResponse, frame: Message) -> None:
        new = self._take(held, frame)
        if self.silent:
            return
        await self._send(socket, self._ack(held))
        if new and len(held.arrivals) % 5 == 0:
            await self._send(socket, {"type": "decision", **self._decision(held, 1 + len(held.arrivals) // 5)})
        if self.save:
            held.saved = held.highest
            await asyncio.sleep(0)
            await self._send(socket, self._ack(held))

    def _take(self, held: Held, frame: Message) -> bool:
        new = frame["seq"] > held.highest
        if new:
            held.arrivals.append(frame)
        return bool(new)

    async def _send(self, socket: web.WebSocketResponse, message: Message) -> None:
        twisted = self.twist(message)
        if twisted is not None and not socket.closed:
            await socket.send_str(json.dumps(twisted))

    def _hello(self, held: Held) -> Message:
        position = held.arrivals[-1]["position"] if held.arrivals else 0.0
        return {
            "type": "hello",
            "protocol": "lectern.v1",
            "session_id": held.session_id,
            "epoch": held.epoch,
            "seq": held.highest,
            "saved": held.saved,
            "resume_position": position,
            "ladder": LADDER,
            "decision": self._decision(held, 1),
            "token": f"session-{held.session_id}",
            "heartbeat_s": 20,
            "limits": self.limits,
        }

    def _ack(self, held: Held) -> Message:
        gaps = held.highest - len(applied_frames(held.arrivals))
        return {"type": "ack", "seq": held.highest, "saved": held.saved, "gaps": gaps}

    def _decision(self, held: Held, n: int) -> Message:
        cmsd = {"mb": 1200, "etp": 4000}
        return {"n": n, "epoch": held.epoch, "rung": 1, "cmsd": cmsd, "reason": "steady", "ttl_ms": 10000}

"""A small server for the page's tests: the page itself, a ladder of real segments, and the contract from memory.

It does what it is told: what the socket answers, which cap it sends, how it closes. It says nothing about the product.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from mimetypes import guess_type
from pathlib import Path
from typing import TYPE_CHECKING, Any

import imageio_ffmpeg
from aiohttp import WSMsgType, web

from tests.support.local_server import LocalServer

if TYPE_CHECKING:
    from playwright.async_api import Page, Route

Message = dict[str, Any]
ROOT = Path(__file__).resolve().parents[2]
CLIP_S = 48
SEGMENT_S = 2
FPS = 12  # half of what a film has, and half the work for the encoder and every Chromium
SHRUNK = 4  # nor do its pictures have the size that the manifest tells: nobody looks at them
GROUP = str(SEGMENT_S * FPS)
RUNGS = [(426, 240, 400), (640, 360, 900), (1280, 720, 2500)]
AUDIO_KBPS = 48
LADDER = [
    {"rung": rung, "br": kbps + AUDIO_KBPS, "width": width, "height": height}
    for rung, (width, height, kbps) in enumerate(RUNGS)
]
COURSE, FIRST, SECOND, VIDEO = (str(uuid.UUID(int=n)) for n in (1, 2, 3, 4))
CAPTION = "An actor is a fold over its stream."
CAPTIONS = "WEBVTT\n\n" + "\n\n".join(
    f"00:{at // 60:02}:{at % 60:02}.000 --> 00:{(at + 4) // 60:02}:{(at + 4) % 60:02}.000\n{CAPTION}"
    for at in range(0, CLIP_S, 4)
)


async def until(page: Page, expression: str, within_s: float = 60.0) -> Any:
    """The expression's value as soon as it is truthy. The page's policy forbids Playwright's own waiting."""
    deadline = asyncio.get_running_loop().time() + within_s
    while not (value := await page.evaluate(expression)):
        assert asyncio.get_running_loop().time() < deadline, f"not within {within_s} s: {expression}"
        await asyncio.sleep(0.03)
    return value


async def fail_once(page: Page, where: str) -> None:
    """The next request for it fails, later ones do not.

    The route stays: of what is on its way in the moment in which Playwright takes its last one away, some never comes.
    """
    tries = itertools.count()

    async def first_fails(route: Route) -> None:
        await (route.continue_() if next(tries) else route.abort())

    await page.route(where, first_fails)


async def eventually(condition: Callable[[], Any], within_s: float = 30.0) -> Any:
    """What the condition answers as soon as it is truthy."""
    deadline = asyncio.get_running_loop().time() + within_s
    while not (value := condition()):
        assert asyncio.get_running_loop().time() < deadline, f"not within {within_s} s"
        await asyncio.sleep(0.01)
    return value


def encode_ladder(directory: Path) -> None:
    """Real segments (2 s, fMP4) at constant bitrates, sound beside them, and captions; five seconds of work."""
    names = [f"{height}p" for _, height, _ in RUNGS]
    for name in (*names, "audio", "captions"):
        (directory / name).mkdir(parents=True)
    splits = "".join(f"[s{name}]" for name in names)
    sizes = [f"{width // SHRUNK}:{height // SHRUNK}" for width, height, _ in RUNGS]
    scales = ";".join(f"[s{name}]scale={size}[{name}]" for name, size in zip(names, sizes, strict=True))
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-loglevel", "error", "-y"]
    command += ["-f", "lavfi", "-i", f"testsrc2=size=320x180:rate={FPS}:duration={CLIP_S}"]
    command += ["-f", "lavfi", "-i", f"sine=frequency=220:duration={CLIP_S}"]
    command += ["-filter_complex", f"[0:v]split={len(names)}{splits};{scales}"]
    for name, (_, _, kbps) in zip(names, RUNGS, strict=True):
        command += ["-map", f"[{name}]", "-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p"]
        command += ["-b:v", f"{kbps}k", "-maxrate", f"{kbps}k", "-bufsize", f"{kbps // 2}k"]
        command += ["-x264-params", "nal-hrd=cbr:force-cfr=1", "-g", GROUP, "-keyint_min", GROUP, "-sc_threshold", "0"]
        command += _hls(name)
    command += ["-map", "1:a", "-c:a", "aac", "-b:a", f"{AUDIO_KBPS}k", *_hls("audio")]
    subprocess.run(command, cwd=directory, check=True, timeout=120)
    (directory / "captions" / "en.vtt").write_text(CAPTIONS)
    (directory / "captions" / "en.m3u8").write_text(
        f"#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-TARGETDURATION:{CLIP_S}\n#EXTINF:{CLIP_S},\nen.vtt\n#EXT-X-ENDLIST\n"
    )
    variants = "".join(
        f"#EXT-X-STREAM-INF:BANDWIDTH={rung['br'] * 1150},AVERAGE-BANDWIDTH={rung['br'] * 1000},"
        f'RESOLUTION={rung["width"]}x{rung["height"]},CODECS="avc1.64001f,mp4a.40.2",AUDIO="audio",SUBTITLES="captions"\n'
        f"{rung['height']}p/index.m3u8\n"
        for rung in LADDER
    )
    (directory / "video.m3u8").write_text(
        "#EXTM3U\n#EXT-X-VERSION:7\n"
        '#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="audio",NAME="Original",DEFAULT=YES,URI="audio/index.m3u8"\n'
        '#EXT-X-MEDIA:TYPE=SUBTITLES,GROUP-ID="captions",NAME="English",LANGUAGE="en",DEFAULT=NO,URI="captions/en.m3u8"\n'
        + variants
    )


def _hls(folder: str) -> list[str]:
    return [
        *("-f", "hls", "-hls_time", str(SEGMENT_S), "-hls_playlist_type", "vod", "-hls_segment_type", "fmp4"),
        *("-hls_fmp4_init_filename", "init.mp4", "-hls_segment_filename", f"{folder}/segment_%04d.m4s"),
        f"{folder}/index.m3u8",
    ]


@dataclass
class Held:
    """One session: what its player sent, and what it was told."""

    session_id: str
    status: str = "active"
    epoch: int = 0
    seq: int = 0
    saved: int = 0
    frames: list[Message] = field(default_factory=list)  # applied, in order
    duplicates: int = 0
    beacons: list[Message] = field(default_factory=list)
    sockets: list[web.WebSocketResponse] = field(default_factory=list)
    protocols: list[list[str]] = field(default_factory=list)
    decided: int = 0
    position: float = 0.0


class Stage:
    """`clip` holds what `encode_ladder` made. What the server does is set on the attributes."""

    def __init__(self, clip: Path | None = None) -> None:
        self.clip = clip
        self.sessions: dict[str, Held] = {}
        self.created: list[Message] = []
        self.lives = 0  # access tokens issued so far
        self.valid_token = "access-0"
        self.playback_tokens = ["play-1"]
        self.cap = LADDER[-1]["br"]
        self.reason = "the network carries this rung"
        self.ttl_ms = 10_000
        self.interval_ms = 1_000
        self.acknowledges = True
        self.saves = True
        self.hears_bye = True
        self.refuses: int | None = None  # a status instead of an upgrade
        self.role = "student"
        self.user = "ada"  # who signed in last
        self.people = ["ada"]  # in the order in which they signed in for the first time
        self.too_many = False
        self.resume_position = 0.0
        self.asked_for: list[str] = []  # of the media, in order
        self.withheld = ""  # a segment whose last hundredth does not go out until `released`
        self.released = asyncio.Event()
        self.sessions_open = asyncio.Event()  # until then none is made
        self.sessions_open.set()
        self.video_status = "ready"
        self.entitled = True
        self.sought: list[str] = []  # what was looked for among the courses
        self.has_more = False
        self.in_pages = False  # whether a course has more lectures than one page holds
        self.continuations: list[Message] = []
        self.waiting: dict[str, list[Message]] = {"events": [], "jobs": []}  # for an operator
        self.course_title = "How a live lecture stays alive"
        self.owns = False  # whether who asks is the course's owner
        self.days: list[str] = []  # from which days analytics were asked for
        self.asked: list[Message] = []  # of the tutor
        self.tutor_refuses: str | None = None  # with which code
        self.tutor_said: list[Message] = []  # before, newest first
        self.tutor_breaks_off = False
        self.tutor_hangs = False  # after its first word
        self.tutor_socket: web.WebSocketResponse | None = None
        self.tutor_opened: list[float] = []  # when, by the loop's clock
        # What a socket that is opened finds being answered, and what was said of turns by then.
        self.tutor_running: Message = {"turn": None, "id": None, "last_turn": 0}
        self.tutor_texts: dict[int, str] = {}
        self.tutor_stopped: list[str] = []
        self.lecture_seen: str | None = None  # when the lecture was last watched, as the server has it

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        """Serve on a free port; yields the origin."""
        server = LocalServer(self._app(), shutdown_timeout=0.1)
        await server.start_server()
        try:
            yield str(server.make_url("")).rstrip("/")
        finally:
            for held in self.sessions.values():
                for socket in held.sockets:
                    await socket.close()
            await server.close()

    @property
    def pictures(self) -> list[str]:
        """The video segments that were asked for, in order, as `<height>p/segment_<number>`."""
        return [path.removesuffix(".m4s") for path in self.asked_for if "p/segment_" in path]

    @property
    def held(self) -> Held:
        """The newest session."""
        return list(self.sessions.values())[-1]

    def open_session(self) -> Held:
        """A session as if the page had made it."""
        held = Held(str(uuid.uuid4()), position=self.resume_position)
        self.sessions[held.session_id] = held
        return held

    async def send(self, message: Message) -> None:
        """Anything, to the newest session's newest socket."""
        await self.held.sockets[-1].send_str(json.dumps(message))

    async def decide(self, cap: int, reason: str, **more: Any) -> None:
        """Push another cap (kbit/s)."""
        self.cap, self.reason = cap, reason
        await self.send({"type": "decision", **self._decision(self.held), **more})

    async def close(self, code: int, retry_ms: int | None = None) -> None:
        """Say why, and close the newest session's newest socket."""
        socket = self.held.sockets[-1]
        await socket.send_str(json.dumps({"type": "bye", "code": code, "retry_ms": retry_ms}))
        await socket.close(code=code)

    def cut(self) -> None:
        """Break the newest socket's connection without a word."""
        transport = self.held.sockets[-1]._req.transport
        transport.abort()

    def _app(self) -> web.Application:
        app = web.Application(middlewares=[_policy])
        app.add_routes(
            [
                web.get("/", self._page),
                web.get("/ops", self._page),
                web.get("/api/ops/{what}", self._waiting),
                web.get("/bare", self._bare),
                web.static("/web", ROOT / "web"),
                web.static("/vendor/hls.js", ROOT / "node_modules" / "hls.js" / "dist"),
                web.post("/api/auth/login", self._login),
                web.post("/api/auth/register", self._register),
                web.post("/api/auth/refresh", self._refresh),
                web.post("/api/auth/logout", self._nothing),
                web.get("/api/courses", self._courses),
                web.get("/api/progress/me/continue", self._continue),
                web.get("/api/courses/{course_id}", self._course),
                web.get("/api/courses/{course_id}/lectures", self._lectures),
                web.get("/api/lectures/{lecture_id}", self._lecture),
                web.post("/api/enrollments", self._enrol),
                web.get("/api/videos/{video_id}", self._video),
                web.post("/api/videos/{video_id}/sessions", self._create_session),
                web.get("/api/videos/sessions/{session_id}", self._get_session),
                web.post("/api/videos/sessions/{session_id}/network", self._beacon),
                web.get("/api/videos/ws/{session_id}", self._socket),
                web.get("/api/videos/{video_id}/analytics", self._analytics),
                web.get("/api/videos/{video_id}/live/ws", self._live),
                web.get("/api/chat/history/{user_id}", self._said),
                web.get("/ws/chat/{user_id}", self._chat),
                web.get("/media/{token}/manifest/{path:.+}", self._media),
            ]
        )
        return app

    # The page and its media

    async def _waiting(self, request: web.Request) -> web.Response:
        rows = self.waiting[request.match_info["what"]] if self._signed_in(request) else []
        return web.json_response({"items": rows, "next_cursor": None, "next": None})

    async def _page(self, _: web.Request) -> web.StreamResponse:
        return web.FileResponse(ROOT / "web" / "index.html")

    async def _bare(self, _: web.Request) -> web.Response:
        return web.Response(text="<!doctype html><title>bare</title>", content_type="text/html")

    async def _said(self, _: web.Request) -> web.Response:
        return web.json_response({"items": self.tutor_said, "next_cursor": None, "next": None})

    async def _media(self, request: web.Request) -> web.StreamResponse:
        if request.match_info["token"] != self.playback_tokens[-1]:
            raise web.HTTPForbidden
        assert self.clip is not None
        path = request.match_info["path"]
        self.asked_for.append(path)
        # Not as a FileResponse: a page that is closed while one is being opened leaves the file to the collector.
        body = (self.clip / path).read_bytes()
        kind = guess_type(path)[0] or "application/octet-stream"
        if not self.withheld or not path.endswith(self.withheld) or path.startswith("audio"):
            return web.Response(body=body, content_type=kind, headers={"Cache-Control": "no-store"})
        answer = web.StreamResponse(headers={"Cache-Control": "no-store", "Content-Type": kind})
        answer.content_length = len(body)
        await answer.prepare(request)
        await answer.write(body[: len(body) * 99 // 100])
        await self.released.wait()
        await answer.write(body[len(body) * 99 // 100 :])
        return answer

    def playback(self) -> Message:
        """Addresses with the newest playback token."""
        base = f"/media/{self.playback_tokens[-1]}/manifest"
        return {"hls": f"{base}/video.m3u8", "dash": f"{base}/video.mpd", "expires_at": "2030-01-01T00:00:00Z"}

    # Accounts

    def _pair(self, status: int = 200) -> web.Response:
        self.lives += 1
        self.valid_token = f"access-{self.lives}"
        user_id = str(uuid.UUID(int=9 + self.people.index(self.user)))
        user = {"id": user_id, "username": self.user, "email": f"{self.user}@example.org", "role": self.role}
        tokens = {"access_token": self.valid_token, "refresh_token": f"refresh-{self.lives}", "token_type": "Bearer"}
        return web.json_response({"user": user, **tokens, "expires_in": 900}, status=status)

    async def _login(self, request: web.Request) -> web.Response:
        body = await request.json()
        if body["password"] != "correct horse":
            return _problem(401, "bad_credentials", "Wrong user name or password")
        self.user = body["login"]
        if self.user not in self.people:
            self.people.append(self.user)
        return self._pair()

    async def _register(self, request: web.Request) -> web.Response:
        body = await request.json()
        if body["username"] == "taken":
            return _problem(409, "username_taken", "Taken")
        if body["password"] == "password":
            errors = [{"pointer": "/password", "detail": "This password is too common"}]
            return _problem(422, "validation_failed", "Invalid", errors=errors)
        return self._pair(201)

    async def _refresh(self, request: web.Request) -> web.Response:
        body = await request.json()
        if body["refresh_token"] == f"refresh-{self.lives - 1}":
            return _problem(401, "refresh_spent", "Just now")
        if body["refresh_token"] != f"refresh-{self.lives}":
            return _problem(401, "refresh_reused", "Sign in again")
        return self._pair()

    async def _nothing(self, _: web.Request) -> web.Response:
        return web.Response(status=204)

    def _signed_in(self, request: web.Request) -> bool:
        return request.headers.get("Authorization") == f"Bearer {self.valid_token}"

    # The audience

    async def _analytics(self, request: web.Request) -> web.Response:
        self.days.append(request.query.get("from", ""))
        views = 12 if self.days[-1] else 1234
        return web.json_response(
            {
                "views": views, "unique_viewers": 900, "watch_time": 36_000, "completion": 0.5, "exits_before_start": 7,
                "rewinds": 3, "startup_ms": {"p50": 310.4, "p95": 900.0}, "rebuffer_ratio": 0.0123, "switches": 5,
                "mean_bitrate_kbps": 1500, "retention": [1 - n / 200 for n in range(100)],
                "time_per_rung": [{**rung, "seconds": 10 * n} for n, rung in enumerate(LADDER)],
                "decisions_by_reason": {"the network carries this rung": 4},
            }
        )  # fmt: skip

    async def _live(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(protocols=("lectern.v1",))
        await socket.prepare(request)
        viewer = {"username": "ben", "position": 83, "sta": "r", "bitrate_kbps": 800, "buffer": 2.5, "stalls": 1}
        message = {"type": "live", "watching": 2, "playing": 1, "stalled": 1, "viewers": [viewer]}
        await socket.send_json(message)
        async for _ in socket:
            pass
        return socket

    # The tutor

    async def _chat(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(protocols=("lectern.v1",))
        await socket.prepare(request)
        self.tutor_socket = socket
        self.tutor_opened.append(asyncio.get_running_loop().time())
        await socket.send_json({"type": "hello", **self.tutor_running})
        async for raw in socket:
            frame = json.loads(raw.data)
            if frame["type"] == "message":
                self.asked.append(frame)
                for told in self._answer(frame):
                    await socket.send_json(told)
            elif frame["type"] == "resume":
                turn = frame["turn"]
                if turn not in self.tutor_texts:
                    await socket.send_json({"type": "error", "code": "turn_not_found", "detail": "No."})
                    continue
                rest = {"chunk": frame["chunk"] + 1, "text": self.tutor_texts[turn]}
                await socket.send_json({"type": "delta", "turn": turn, **rest})
                if turn != self.tutor_running["turn"]:
                    await socket.send_json({"type": "done", "turn": turn, "citations": [], "recommendations": []})
            elif frame["type"] == "stop":
                self.tutor_stopped.append(frame["id"])
                turn, nothing = self.tutor_running["turn"], {"citations": [], "recommendations": []}
                await socket.send_json({"type": "done", "turn": turn, "stopped": True, **nothing})
        return socket

    def _answer(self, asked: Message) -> list[Message]:
        """What a question is answered with."""
        if self.tutor_refuses:
            refused = {"code": self.tutor_refuses, "detail": "No.", "retryable": True}
            unreadable = self.tutor_refuses == "bad_frame"
            return [{"type": "error", **refused, "id": None if unreadable else asked["id"]}]
        turn = {"turn": self.tutor_running["last_turn"] + len(self.asked)}
        text = asked.get("message") or self.asked[asked["retry_of"] - 1]["message"]
        end: Message = {"type": "done", "citations": [], "recommendations": []}
        if self.tutor_breaks_off:
            end = {"type": "failed", "code": "interrupted", "retryable": True}
        told: list[Message] = [
            {"type": "accepted", "id": asked["id"], "message": text, **turn},
            {"type": "delta", "chunk": 1, "text": "An answer. [1, 2]", **turn},
        ]
        return told if self.tutor_hangs else [*told, {**end, **turn}]

    # Courses

    def _course_row(self) -> Message:
        return {
            "id": COURSE,
            "title": self.course_title,
            "description": "Streams, actors, fences and checkpoints: what happens between a player’s report and the "
            "picture that it shows a second later, and why nothing is lost when a process dies in between.",
            "price": "0.00",
            "currency": "usd",
            "is_free": True,
            "status": "published",
            "lecture_count": 2,
            "enrolled_count": 1,
            "duration": 2 * CLIP_S,
            "thumbnail_url": None,
        }

    def _lecture_row(self, lecture_id: str) -> Message:
        progress = {"watched_duration": 20, "position": self.resume_position, "completed": lecture_id == SECOND}
        return {
            "id": lecture_id,
            "course_id": COURSE,
            "title": "An actor is a fold" if lecture_id == FIRST else "The epoch is the fence",
            "description": "Why a crash is a replay, a move is a replay, and a test is a list of entries.",
            "duration": CLIP_S,
            "sequence_order": 1 if lecture_id == FIRST else 2,
            "is_preview": False,
            "progress": {**progress, "last_watched_at": self.lecture_seen} if self.lecture_seen else None,
        }

    def _video_row(self) -> Message:
        row: Message = {"id": VIDEO, "lecture_id": FIRST, "title": "Clip", "status": self.video_status}
        row["duration_seconds"] = float(CLIP_S)
        if self.owns:
            row["cloudflare_uid"] = "uid"
        return {**row, "playback": self.playback()} if self.video_status == "ready" else row

    async def _courses(self, request: web.Request) -> web.Response:
        words, cursor = request.query.get("q", ""), request.query.get("cursor")
        self.sought.append(words)
        row = self._course_row()
        items = [row] if words in row["title"] else []
        if cursor:
            items = [{**row, "title": "The last of all"}]
        following = "/api/courses?cursor=2" if self.has_more and items and not cursor else None
        return web.json_response({"items": items, "next": following, "next_cursor": following and "2"})

    async def _continue(self, request: web.Request) -> web.Response:
        if not self._signed_in(request):
            return _problem(401, "unauthorized", "Sign in")
        return web.json_response({"items": self.continuations, "next": None, "next_cursor": None})

    async def _course(self, _: web.Request) -> web.Response:
        return web.json_response(self._course_row())

    async def _lectures(self, request: web.Request) -> web.Response:
        items = [self._lecture_row(FIRST), self._lecture_row(SECOND)]
        if not self.in_pages:
            return web.json_response({"items": items, "next": None, "next_cursor": None})
        if "cursor" in request.query:
            return web.json_response({"items": items[1:], "next": None, "next_cursor": None})
        following = f"{request.path}?limit=100&cursor=2"
        return web.json_response({"items": items[:1], "next": following, "next_cursor": "2"})

    async def _lecture(self, request: web.Request) -> web.Response:
        if not self._signed_in(request):
            return _problem(401, "unauthorized", "Sign in")
        if not self.entitled:
            return _problem(403, "not_entitled", "Enrol first")
        return web.json_response(
            {**self._lecture_row(request.match_info["lecture_id"]), "video": self._video_row(), "files": []}
        )

    async def _enrol(self, _: web.Request) -> web.Response:
        self.entitled = True
        return web.json_response({"course_id": COURSE}, status=201)

    async def _video(self, _: web.Request) -> web.Response:
        return web.json_response(self._video_row())

    # Sessions

    async def _create_session(self, request: web.Request) -> web.Response:
        if not self._signed_in(request):
            return _problem(401, "unauthorized", "Sign in")
        body = await request.json()
        if self.too_many and not body.get("takeover"):
            return _problem(409, "too_many_sessions", "Too many", sessions=[{}, {}, {}])
        await self.sessions_open.wait()
        self.created.append(body)
        held = self.open_session()
        answer = {
            "session_id": held.session_id,
            "ws_url": f"ws://{request.host}/api/videos/ws/{held.session_id}",
            "token": f"session-{held.session_id}",
            "playback": self.playback(),
            "ladder": LADDER,
            "segment_s": float(SEGMENT_S),
            "resume_position": self.resume_position,
            "decision": self._decision(held),
        }
        return web.json_response(answer, status=201)

    async def _get_session(self, request: web.Request) -> web.Response:
        held = self.sessions.get(request.match_info["session_id"])
        if held is None:
            return _problem(404, "session_not_found", "No such session")
        return web.json_response({"status": held.status, "epoch": held.epoch, "position": held.position})

    async def _beacon(self, request: web.Request) -> web.Response:
        held = self.sessions[request.match_info["session_id"]]
        assert request.query["token"] == f"session-{held.session_id}"
        frame = await request.json()
        held.beacons.append(frame)
        held.position = frame["position"]
        return web.json_response({"accepted": 1, "duplicates": 0, "decision": None}, status=202)

    async def _socket(self, request: web.Request) -> web.StreamResponse:
        held = self.sessions.get(request.match_info["session_id"])
        if held is None or held.status == "ended":
            raise web.HTTPNotFound
        offered = [part.strip() for part in request.headers.get("Sec-WebSocket-Protocol", "").split(",")]
        held.protocols.append(offered)
        if self.refuses is not None:
            return web.Response(status=self.refuses)
        socket = web.WebSocketResponse(protocols=("lectern.v1",), compress=False)
        await socket.prepare(request)
        held.sockets.append(socket)
        held.epoch += 1
        held.decided = 0
        await socket.send_str(json.dumps(self._hello(held)))
        async for raw in socket:
            if raw.type is not WSMsgType.TEXT:
                break
            message = json.loads(raw.data)
            if message["type"] == "bye" and not self.hears_bye:
                continue
            if message["type"] == "bye":
                held.status = "ended"
                await socket.close(code=1000)
                break
            await self._take(held, socket, message)
        return socket

    async def _take(self, held: Held, socket: web.WebSocketResponse, frame: Message) -> None:
        if frame["seq"] <= held.seq:
            held.duplicates += 1
        else:
            held.frames.append(frame)
            held.seq = frame["seq"]
            held.position = frame["position"]
        if self.saves:
            held.saved = held.seq
        if self.acknowledges and not socket.closed:
            gaps = held.seq - len(held.frames)
            ack = {"type": "ack", "seq": held.seq, "saved": held.saved, "gaps": gaps}
            await socket.send_str(json.dumps(ack))

    def _hello(self, held: Held) -> Message:
        return {
            "type": "hello",
            "protocol": "lectern.v1",
            "session_id": held.session_id,
            "epoch": held.epoch,
            "seq": held.seq,
            "saved": held.saved,
            "resume_position": held.position,
            "ladder": LADDER,
            "decision": self._decision(held),
            "token": f"session-{held.session_id}",
            "heartbeat_s": 20,
            "limits": {"frame_bytes": 16384, "rate": 10, "per_s": 1, "burst": 40, "interval_ms": self.interval_ms},
        }

    def _decision(self, held: Held) -> Message:
        held.decided += 1
        rung = max(rung["rung"] for rung in LADDER if rung["br"] <= max(self.cap, LADDER[0]["br"]))
        return {
            "n": held.decided,
            "epoch": held.epoch,
            "rung": rung,
            "cmsd": {"mb": self.cap, "etp": 4000},
            "reason": self.reason,
            "ttl_ms": self.ttl_ms,
        }


def _problem(status: int, code: str, title: str, **extra: Any) -> web.Response:
    body = {"type": f"/problems/{code}", "title": title, "status": status, "detail": title, "code": code, **extra}
    return web.json_response(body, status=status, content_type="application/problem+json")


@web.middleware
async def _policy(request: web.Request, handler: Any) -> web.StreamResponse:
    """The strictest policy under which the page must work; the product also allows the video host's origin."""
    response = await handler(request)
    if not response.prepared:
        response.headers["Content-Security-Policy"] = (
            "default-src 'self'; media-src 'self' blob: data:; worker-src 'self' blob:; img-src 'self' data:; "
            "style-src 'self'; object-src 'none'; base-uri 'none'"
        )
    return response

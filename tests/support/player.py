"""A simulated player: a black box's view of the product, which speaks only HTTP and the session socket.

    async with aiohttp.ClientSession() as http:
        account = await Account.register(http, "http://127.0.0.1:8080")
        player = await SimulatedPlayer.create(http, account, video_id)
        async with player:
            seq = player.report(position=1.0, cmcd={"bl": 4000, "sta": "p"})
            await player.until_saved(seq)
        assert not player.violations

It keeps every frame until `saved` passes it, sends again after a reconnect what lies above `hello.seq`, honours
`bye.retry_ms`, backs off with full jitter, stops at 44xx, and asks for the session's row after an opening that failed.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import urlsplit

import aiohttp

from tests.support.model import differences, expected_folds
from tests.support.witness import Witness

PROTOCOL = "lectern.v1"
ANSWER_TIMEOUT_S = 10.0
DEADLINE_S = 60.0
FREE_AFTER_HELLO = 512


class Refused(Exception):
    """A route answered with a status that was not asked for."""

    def __init__(self, status: int, body: Any, headers: Mapping[str, str]) -> None:
        super().__init__(f"{status}: {body}")
        self.status = status
        self.body = body
        self.retry_after_s = float(headers["Retry-After"]) if headers.get("Retry-After", "").isdigit() else None


async def call(
    http: aiohttp.ClientSession,
    method: str,
    url: str,
    *,
    token: str | None = None,
    body: Any = None,
    wanted: Sequence[int] = (200, 201, 202, 204),
) -> Any:
    """One request, its JSON answer (None for 204). Raises Refused for a status that is not `wanted`."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    timeout = aiohttp.ClientTimeout(total=ANSWER_TIMEOUT_S)
    async with http.request(method, url, json=body, headers=headers, timeout=timeout) as answer:
        text = await answer.text()
        try:
            parsed = json.loads(text) if text else None
        except ValueError:
            parsed = text
        if answer.status not in wanted:
            raise Refused(answer.status, parsed, answer.headers)
        return parsed


@dataclass(slots=True)
class Account:
    """A signed-in user of one server."""

    base_url: str
    username: str
    password: str
    user_id: str
    access_token: str

    @classmethod
    async def register(cls, http: aiohttp.ClientSession, base_url: str, username: str | None = None) -> Account:
        """A new student."""
        username = username or f"player-{uuid.uuid4().hex[:12]}"
        password = f"watches {uuid.uuid4().hex}"
        body = {"username": username, "email": f"{username}@example.org", "password": password}
        answer = await call(http, "POST", f"{base_url}/api/auth/register", body=body, wanted=(201,))
        return cls(base_url, username, password, answer["user"]["id"], answer["access_token"])

    @classmethod
    async def login(cls, http: aiohttp.ClientSession, base_url: str, login: str, password: str) -> Account:
        """An account that exists."""
        body = {"login": login, "password": password}
        answer = await call(http, "POST", f"{base_url}/api/auth/login", body=body, wanted=(200,))
        return cls(base_url, login, password, answer["user"]["id"], answer["access_token"])

    async def sign_in_again(self, http: aiohttp.ClientSession) -> None:
        """Replace an access token that has run out."""
        fresh = await Account.login(http, self.base_url, self.username, self.password)
        self.access_token = fresh.access_token


@dataclass(frozen=True, slots=True)
class Backoff:
    """Full jitter: a uniform wait up to first_s * 2^k, never above most_s."""

    first_s: float = 0.2
    most_s: float = 10.0

    def wait_s(self, failures: int, rng: random.Random) -> float:
        """How long to wait after this many failures in a row (0 for the first)."""
        return rng.uniform(0, min(self.most_s, self.first_s * 2 ** min(failures, 30)))


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, at `time.monotonic()`."""

    at: float
    kind: str  # opening opened hello ack decision token error bye closed refused silent sent stopped
    data: Any


@dataclass(slots=True)
class Pace:
    """The socket's rate as `hello.limits` tells it: a bucket of `burst`, and free room for what is sent again."""

    per_second: float = 10.0
    burst: float = 40.0
    free: int = FREE_AFTER_HELLO
    _level: float = 40.0
    _at: float = field(default_factory=time.monotonic)

    @classmethod
    def from_hello(cls, hello: Mapping[str, Any]) -> Pace:
        """A full bucket with the limits of this socket; a rate of 0 is no limit."""
        limits = hello.get("limits") or {}
        rate, per_s, burst = limits.get("rate", 10), limits.get("per_s", 1), limits.get("burst", 40)
        per_second = rate / per_s if rate else float("inf")
        return cls(per_second=per_second, burst=burst, _level=burst)

    def delay_s(self) -> float:
        """How long to wait before the next frame may leave; takes its place."""
        if self.free > 0:
            self.free -= 1
            return 0.0
        if self.per_second == float("inf"):
            return 0.0
        now = time.monotonic()
        # A little under the limit: the server's clock started before ours did.
        self._level = min(self.burst, self._level + (now - self._at) * self.per_second * 0.95)
        self._at = now
        self._level -= 1
        return max(0.0, -self._level / (self.per_second * 0.95))


class SimulatedPlayer:
    """One player of one session. Start it with `async with` (or `start`), report frames, wait for what must come.

    `base_urls`: one or several servers; each opening goes to the next one. `paced=False` floods instead of keeping to
    `hello.limits`. `violations` lists broken promises, `events` everything with its time.
    """

    def __init__(
        self,
        http: aiohttp.ClientSession,
        account: Account,
        session: Mapping[str, Any],
        *,
        base_urls: Sequence[str] | None = None,
        backoff: Backoff = Backoff(),
        ack_timeout_s: float = 10.0,
        credentials: str = "session",  # or "access": the account's own token
        paced: bool = True,
        had_before: int = 0,
        seed: int | None = None,
    ) -> None:
        self.http = http
        self.account = account
        self.session = dict(session)
        self.session_id: str = str(session["session_id"])
        self.token: str = session["token"] if credentials == "session" else account.access_token
        self.backoff = backoff
        self.ack_timeout_s = ack_timeout_s
        self.paced = paced
        self.witness = Witness(had_before=had_before)
        self.events: list[Event] = []
        self.frames: dict[int, dict[str, Any]] = {}  # everything ever reported, for the model
        self.kept: dict[int, str] = {}  # what has not been saved yet, as text, in order
        self.last_hello: dict[str, Any] | None = None
        self.last_ack: dict[str, Any] | None = None
        self.decision: dict[str, Any] | None = session.get("decision")
        self.ack_latencies_s: list[float] = []
        self.stopped: str | None = None
        self.connected = False
        self.openings = 0
        self.last_seq = had_before  # the highest reported so far, sent or not
        self._next_seq = had_before + 1
        self._sent_up_to = had_before
        self._sent_at: deque[tuple[int, float]] = deque()
        self._quiet_since = time.monotonic()
        self._bases = itertools.cycle(base_urls or [account.base_url])
        self._base = next(self._bases)
        self._path = urlsplit(str(session["ws_url"])).path
        self._random = random.Random(seed)
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._task: asyncio.Task[None] | None = None
        self._waiters: set[asyncio.Future[None]] = set()
        self._failures = 0
        self._ending = False

    @classmethod
    async def create(
        cls,
        http: aiohttp.ClientSession,
        account: Account,
        video_id: str,
        *,
        ask: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Self:
        """Create a session for `video_id` (`ask` is the route's body) and the player that owns it."""
        url = f"{account.base_url}/api/videos/{video_id}/sessions"
        session = await call(http, "POST", url, token=account.access_token, body=dict(ask or {}), wanted=(201,))
        return cls(http, account, session, **options)

    # ------------------------------------------------------------------ what a test does
    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.leave()

    def start(self) -> None:
        """Begin to connect, and to reconnect until stopped."""
        if self._task is None:
            self._task = asyncio.create_task(self._live(), name=f"player {self.session_id}")

    async def leave(self) -> None:
        """Go away without a word, as a closed tab does. The player cannot be started again."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self._stop("left")

    async def cut(self) -> None:
        """The network breaks: the socket is gone without a close frame; the player reconnects."""
        socket = self._socket
        if socket is not None:
            abort(socket)
            await self.until(lambda: self._socket is not socket, what="the broken socket to be noticed")

    async def bye(self, timeout_s: float = DEADLINE_S) -> None:
        """End the session and wait until the server has closed the socket."""
        self._ending = True
        if self._socket is not None:
            await self._socket.send_str('{"type":"bye"}')
        await self.until(lambda: self.stopped is not None, timeout_s, "the session to end")

    def report(
        self,
        position: float | None = None,
        *,
        cmcd: Mapping[str, Any] | None = None,
        segments: Sequence[Mapping[str, Any]] | None = None,
        frame: Mapping[str, Any] | None = None,
    ) -> int:
        """Queue one telemetry frame and answer its `seq`. `frame` gives all but the `seq` at once."""
        telemetry: dict[str, Any] = {"type": "telemetry", "seq": self._next_seq, **(frame or {})}
        if position is not None:
            telemetry["position"] = position
        if cmcd is not None:
            telemetry["cmcd"] = dict(cmcd)
        if segments is not None:
            telemetry["segments"] = [dict(segment) for segment in segments]
        seq = self._next_seq
        self._next_seq += 1
        self.last_seq = seq
        self.frames[seq] = telemetry
        self.kept[seq] = json.dumps(telemetry, separators=(",", ":"))
        self._changed()
        return seq

    def leave_out(self, count: int) -> None:
        """Lose the next `count` frames before they are ever sent: a hole, to be counted in `gaps`."""
        self._next_seq += count

    async def send_raw(self, text: str | bytes) -> None:
        """Put anything on the open socket, outside the protocol's bookkeeping."""
        assert self._socket is not None, "not connected"
        if isinstance(text, bytes):
            await self._socket.send_bytes(text)
        else:
            await self._socket.send_str(text)

    async def post_frames(self, frames: Sequence[Mapping[str, Any]]) -> Any:
        """The same frames by REST: `{accepted, duplicates, decision}`. Raises Refused."""
        for frame in frames:
            if isinstance(frame.get("seq"), int):
                self.witness.sent(frame["seq"])
                self.frames.setdefault(frame["seq"], {"type": "telemetry", **frame})
                self.last_seq = max(self.last_seq, frame["seq"])
                self._next_seq = max(self._next_seq, frame["seq"] + 1)
        url = f"{self._base}/api/videos/sessions/{self.session_id}/network"
        return await call(self.http, "POST", url, token=self.token, body=list(frames), wanted=(202,))

    async def get_session(self, base_url: str | None = None) -> dict[str, Any]:
        """The session's row as the route answers it; the witness looks at it too."""
        url = f"{base_url or self._base}/api/videos/sessions/{self.session_id}"
        try:
            answer = await call(self.http, "GET", url, token=self.account.access_token, wanted=(200,))
        except Refused as refused:
            if refused.status != 401:
                raise
            await self.account.sign_in_again(self.http)
            answer = await call(self.http, "GET", url, token=self.account.access_token, wanted=(200,))
        self.witness.answered(answer)
        return dict(answer)

    # ------------------------------------------------------------------ what a test asks
    @property
    def violations(self) -> list[str]:
        """Broken promises so far."""
        return self.witness.violations

    @property
    def acked(self) -> int:
        """The highest acknowledged `seq`."""
        return self.witness.acked

    @property
    def saved(self) -> int:
        """The highest `seq` known to be in Postgres."""
        return self.witness.saved

    @property
    def reconnects(self) -> int:
        """Sockets that opened after the first."""
        return max(0, len(self.events_of("hello")) - 1)

    def events_of(self, *kinds: str) -> list[Event]:
        """The events of these kinds, in order."""
        return [event for event in self.events if event.kind in kinds]

    def close_codes(self) -> list[int | None]:
        """How each socket closed, in order."""
        return [event.data["code"] for event in self.events_of("closed")]

    def expected(self) -> dict[str, Any]:
        """The folds of everything reported, which all must be applied in the end."""
        return expected_folds(self.frames[seq] for seq in sorted(self.frames))

    async def differences(self, base_url: str | None = None) -> list[str]:
        """What the server knows otherwise than this player; none when it knows everything."""
        return differences(self.expected(), await self.get_session(base_url))

    # ------------------------------------------------------------------ what a test waits for
    async def until(
        self, condition: Callable[[], bool], timeout_s: float | None = DEADLINE_S, what: str = "it"
    ) -> None:
        """Wait until `condition` holds, looked at at every event. Raises TimeoutError that says where we are."""
        try:
            async with asyncio.timeout(timeout_s):
                while not condition():
                    waiter = asyncio.get_running_loop().create_future()
                    self._waiters.add(waiter)
                    try:
                        await waiter
                    finally:
                        self._waiters.discard(waiter)
        except TimeoutError:
            last = [(event.kind, event.data) for event in self.events[-4:]]
            raise TimeoutError(
                f"waited {timeout_s} s for {what}: connected {self.connected}, stopped {self.stopped}, reported"
                f" {self.last_seq}, acknowledged {self.acked}, saved {self.saved}; the last events: {last}"
            ) from None

    async def until_connected(self, timeout_s: float = DEADLINE_S) -> dict[str, Any]:
        """Wait for an open socket that has been greeted; answers its hello."""
        await self.until(lambda: self.connected, timeout_s, "a hello")
        assert self.last_hello is not None
        return self.last_hello

    async def until_acked(self, seq: int | None = None, timeout_s: float = DEADLINE_S) -> None:
        """Wait until `seq` (or all that was reported) is acknowledged."""
        seq = self.last_seq if seq is None else seq
        await self.until(lambda: self.acked >= seq, timeout_s, f"an ack of {seq}")

    async def until_saved(self, seq: int | None = None, timeout_s: float = DEADLINE_S) -> None:
        """Wait until `seq` (or all that was reported) is acknowledged as saved."""
        seq = self.last_seq if seq is None else seq
        await self.until(lambda: self.saved >= seq, timeout_s, f"{seq} to be saved")

    async def until_stopped(self, timeout_s: float = DEADLINE_S) -> str:
        """Wait until the player has given up, and answer why."""
        await self.until(lambda: self.stopped is not None, timeout_s, "the player to stop")
        assert self.stopped is not None
        return self.stopped

    async def watch(self, frames: Iterable[Mapping[str, Any]], interval_s: float) -> None:
        """Report one of `frames` every `interval_s`, whether connected or not, as a real player does."""
        due = time.monotonic()
        for frame in frames:
            self.report(frame=frame)
            due += interval_s
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    # ------------------------------------------------------------------ living
    async def _live(self) -> None:
        try:
            while self.stopped is None:
                wait_s = await self._one_socket()
                if self.stopped is None:
                    await asyncio.sleep(self._next_backoff_s() if wait_s is None else wait_s)
                    self._base = next(self._bases)
        except Exception as failure:
            self.violations.append(f"what came could not be understood: {failure!r}")
            self._stop("broken")

    def _next_backoff_s(self) -> float:
        self._failures += 1
        return self.backoff.wait_s(self._failures - 1, self._random)

    async def _one_socket(self) -> float | None:
        """Open, live on and close one socket. Answers the seconds that the server asked to wait, or None: back off."""
        try:
            socket = await self._open()
        except aiohttp.WSServerHandshakeError as refused:
            retry_after = (refused.headers or {}).get("Retry-After")
            self._note("refused", {"status": refused.status, "retry_after": retry_after})
            return await self._after_failed_opening(refused)
        except (aiohttp.ClientError, OSError, TimeoutError) as failure:
            self._note("refused", {"status": None, "why": repr(failure)})
            return await self._after_failed_opening(None)
        self._socket = socket
        try:
            return await self._talk(socket)
        finally:
            self._socket, self.connected = None, False
            abort(socket)
            await socket.close()
            self._changed()

    async def _open(self) -> aiohttp.ClientWebSocketResponse:
        self.openings += 1
        self._note("opening", {"base": self._base})
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            socket = await self.http.ws_connect(
                self._base + self._path,
                protocols=(PROTOCOL, f"bearer.{self.token}"),
                max_msg_size=0,
                timeout=aiohttp.ClientWSTimeout(ws_close=2.0),
            )
        self.witness.opened()
        if socket.protocol != PROTOCOL:
            self.witness.violations.append(f"the server chose the subprotocol {socket.protocol!r}")
        self._note("opened", None)
        return socket

    async def _after_failed_opening(self, refused: aiohttp.WSServerHandshakeError | None) -> float | None:
        try:
            session = await self.get_session()
        except Refused as answer:
            self._note("refused", {"status": answer.status, "retry_after": answer.retry_after_s})
            if answer.status in (401, 404):
                self._stop("gone" if answer.status == 404 else "credentials")
            return answer.retry_after_s
        except (aiohttp.ClientError, OSError, TimeoutError):
            return None
        if session["status"] == "ended":
            self._stop("ended")
        elif refused is not None and refused.status == 401:
            self._stop("credentials")
        return None

    async def _talk(self, socket: aiohttp.ClientWebSocketResponse) -> float | None:
        tasks = [
            asyncio.create_task(self._receive(socket)),
            asyncio.create_task(self._send(socket)),
            asyncio.create_task(self._mind_silence()),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            # A broken send says less than the close frame that may be on its way.
            if not tasks[0].done() and tasks[1].done():
                await asyncio.wait(tasks[:1], timeout=2.0)
            retry_s = await tasks[0] if tasks[0].done() else None
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        self._note("closed", {"code": socket.close_code})
        code = socket.close_code
        if code == 1000 and self._ending:
            self._stop("ended")
        elif code is not None and 4400 <= code < 4500:
            self._stop(str(code))
        return retry_s

    async def _receive(self, socket: aiohttp.ClientWebSocketResponse) -> float | None:
        """Take messages until the socket closes; answers `bye.retry_ms` in seconds if one came."""
        retry_s: float | None = None
        async for raw in socket:
            if raw.type is not aiohttp.WSMsgType.TEXT:
                self.witness.violations.append(f"a message of kind {raw.type.name}")
                continue
            message = json.loads(raw.data)
            self._note(message["type"], message)
            self.witness.received(message)
            self._take(message)
            if message["type"] == "bye":
                retry_ms = message.get("retry_ms")
                retry_s = None if retry_ms is None else retry_ms / 1000
            self._changed()
        return retry_s

    def _take(self, message: dict[str, Any]) -> None:
        match message["type"]:
            case "hello":
                self.last_hello, self.connected, self._failures = message, True, 0
                self._sent_up_to = message["seq"]
                self._sent_at.clear()
                self._quiet_since = time.monotonic()
                self.token = message.get("token") or self.token
                self.decision = message["decision"]
                self._forget(message["saved"])
            case "ack":
                self.last_ack, self._quiet_since = message, time.monotonic()
                while self._sent_at and self._sent_at[0][0] <= message["seq"]:
                    self.ack_latencies_s.append(self._quiet_since - self._sent_at.popleft()[1])
                self._forget(message["saved"])
            case "decision":
                self.decision = message
            case "token":
                self.token = message["token"]

    def _forget(self, saved: int) -> None:
        for seq in [seq for seq in self.kept if seq <= saved]:
            del self.kept[seq]

    async def _send(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        await self.until(lambda: self.connected, ANSWER_TIMEOUT_S, "a hello on an open socket")
        assert self.last_hello is not None
        pace = Pace.from_hello(self.last_hello)
        while True:
            await self.until(lambda: next(reversed(self.kept), 0) > self._sent_up_to, None, "a frame to send")
            for seq, text in self.in_order_of_sending([i for i in self.kept.items() if i[0] > self._sent_up_to]):
                delay_s = pace.delay_s() if self.paced else 0.0
                if delay_s:
                    await asyncio.sleep(delay_s)
                self.witness.sent(seq)
                self._sent_up_to = max(self._sent_up_to, seq)
                now = time.monotonic()
                if not self._sent_at:
                    self._quiet_since = now
                self._sent_at.append((seq, now))
                await self.put(socket, seq, text)
                self._note("sent", seq)

    async def _mind_silence(self) -> None:
        """Ends when frames have waited too long for an ack: the peer may be half open."""
        while True:
            await self.until(lambda: bool(self._sent_at), None, "a frame on its way")
            left_s = self._quiet_since + self.ack_timeout_s - time.monotonic()
            if left_s <= 0:
                self._note("silent", {"since_s": self.ack_timeout_s})
                return
            await asyncio.sleep(left_s)

    # ------------------------------------------------------------------ what unruly players do otherwise
    def in_order_of_sending(self, frames: list[tuple[int, str]]) -> list[tuple[int, str]]:
        """Which of `frames` (seq and text, in their order) to send now, one after the other."""
        return frames

    async def put(self, socket: aiohttp.ClientWebSocketResponse, seq: int, text: str) -> None:  # noqa: ARG002
        """Put one frame on the socket."""
        await socket.send_str(text)

    # ------------------------------------------------------------------ small things
    def _stop(self, why: str) -> None:
        if self.stopped is None:
            self.stopped = why
            self._note("stopped", why)

    def _note(self, kind: str, data: Any) -> None:
        self.events.append(Event(time.monotonic(), kind, data))
        self._changed()

    def _changed(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)


def abort(socket: aiohttp.ClientWebSocketResponse) -> None:
    """Tear the connection down without a closing handshake."""
    connection = socket._conn  # aiohttp offers no public way to break a socket
    if connection is not None and connection.transport is not None:
        connection.transport.abort()

"""One simulated player over a blocking WebSocket: it reports what a `Viewing` tells, keeps frames until they are saved,
comes back after a cut, obeys the cap, and checks at the end that the server knows exactly what was sent.
"""

from __future__ import annotations

import json
import random
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import websocket

from loadtests.api import Api, ApiError
from loadtests.figures import Figures
from loadtests.viewing import Viewing

Message = dict[str, Any]
OPENING_TIMEOUT_S = 10.0
ACK_TIMEOUT_S = 10.0
SETTLE_S = 10.0
FIRST_BACKOFF_S = 0.2
MOST_BACKOFF_S = 10.0
RESTARTS = (1012, 1013)


class Broken(Exception):
    """The socket is gone. `code` is the close code, None without a close frame; `retry_s` what `bye` asked to wait."""

    def __init__(self, code: int | None, retry_s: float | None = None) -> None:
        super().__init__(f"closed {code}")
        self.code = code
        self.retry_s = retry_s


class WirePlayer:
    """Plays one session until `stopping()`; everything worth telling goes to `figures`.

    `session` is what the route that creates one answered; `token()` gives a good access token of its user.
    """

    def __init__(
        self,
        api: Api,
        session: Mapping[str, Any],
        viewing: Viewing,
        figures: Figures,
        *,
        token: Callable[[], str],
        interval_s: float = 1.0,
        seed: int = 0,
    ) -> None:
        self.api = api
        self.viewing = viewing
        self.figures = figures
        self.session_id = str(session["session_id"])
        self.interval_s = interval_s
        self.over = False
        self.last_seq = 0
        self.bytes = 0
        self.acked = 0
        self.saved = 0
        self.epoch = 0
        self._access_token = token
        self._session_token: str = session["token"]
        place = urlsplit(api.host)
        scheme = "wss" if place.scheme == "https" else "ws"
        self._url = f"{scheme}://{place.netloc}{urlsplit(str(session['ws_url'])).path}"
        self._rng = random.Random(seed)
        self._due = time.monotonic() + self._rng.uniform(0, interval_s)  # players do not march in step
        self._kept: dict[int, str] = {}
        self._unacked: deque[tuple[int, float]] = deque()
        self._unsaved: deque[tuple[int, float]] = deque()
        self._last_sent_at = 0.0
        self._heard_at = 0.0
        self._retry_s: float | None = None
        self._hellos = 0
        self._failures = 0

    def run(self, stopping: Callable[[], bool]) -> None:
        """Play, reconnecting as often as needed, then settle, check and end the session."""
        while not self.over:
            try:
                socket = self._open()
            except (OSError, websocket.WebSocketException) as failure:
                self._after_failed_opening(failure)
            else:
                try:
                    self._play(socket, stopping)
                except Broken as broken:
                    self._after(broken)
                finally:
                    with suppress(OSError, websocket.WebSocketException):
                        socket.shutdown()
            if not self.over:
                if stopping() and not self._kept:
                    return
                self._wait(stopping)

    # ------------------------------------------------------------------ a socket's life
    def _open(self) -> websocket.WebSocket:
        started = time.monotonic()
        self._retry_s = None
        socket = websocket.create_connection(
            self._url,
            timeout=OPENING_TIMEOUT_S,
            subprotocols=["lectern.v1", f"bearer.{self._session_token}"],
            suppress_origin=True,
        )
        try:
            hello = self._receive(socket)
            if hello is None or hello["type"] != "hello":
                raise ConnectionError("no hello came")
        except (Broken, ConnectionError) as failure:
            socket.shutdown()
            raise ConnectionError(f"no hello: {failure}") from failure
        self.figures.timed("hello", (time.monotonic() - started) * 1000)
        self._greeted(hello)
        return socket

    def _greeted(self, hello: Message) -> None:
        if hello["epoch"] <= self.epoch:
            self.figures.went_wrong("hello.epoch did not rise")
        if hello["seq"] < self.acked:
            self.figures.went_wrong("hello.seq fell below an acknowledged frame")
        if hello["saved"] < self.saved:
            self.figures.went_wrong("hello.saved fell")
        self.epoch, self.acked, self.saved = hello["epoch"], hello["seq"], hello["saved"]
        self._session_token = hello.get("token") or self._session_token
        self._hellos += 1
        self._failures = 0
        self.figures.counts["reconnects" if self._hellos > 1 else "sessions"] += 1
        self._unacked.clear()
        self._unsaved.clear()
        self._forget(hello["saved"])
        self._obey(hello["decision"])

    def _play(self, socket: websocket.WebSocket, stopping: Callable[[], bool]) -> None:
        """Live on an open socket. Returns when the session is over, raises Broken when the socket is gone."""
        for seq, text in list(self._kept.items()):
            if seq > self.acked:
                self._send(socket, seq, text)
        while not stopping():
            now = time.monotonic()
            if now >= self._due:
                if now > self._due + self.interval_s / 2:
                    self.figures.counts["late"] += 1
                self._due += self.interval_s
                self._report(socket)
            self._listen(socket, self._due)
        self._settle(socket)

    def _report(self, socket: websocket.WebSocket) -> None:
        frame = self.viewing.tick(self.interval_s)
        self.last_seq += 1
        self.bytes += sum(segment["bytes"] for segment in frame.get("segments", ()))
        text = json.dumps({"seq": self.last_seq, **frame}, separators=(",", ":"))
        self._kept[self.last_seq] = text
        self.figures.counts["frames"] += 1
        self._send(socket, self.last_seq, text)

    def _send(self, socket: websocket.WebSocket, seq: int, text: str) -> None:
        now = self._last_sent_at = time.monotonic()
        if not self._unacked:
            self._heard_at = now
        self._unacked.append((seq, now))
        self._unsaved.append((seq, now))
        try:
            socket.settimeout(OPENING_TIMEOUT_S)
            socket.send(text)
        except (OSError, websocket.WebSocketException) as failure:
            # Whoever is late writes often before reading: what the server said before it hung up is still to be read.
            while (message := self._receive(socket)) is not None:
                self._take(message)
            raise Broken(None) from failure

    def _listen(self, socket: websocket.WebSocket, until: float) -> None:
        """Take what comes until then."""
        while (left_s := until - time.monotonic()) > 0:
            socket.settimeout(max(0.001, left_s))
            message = self._receive(socket)
            if message is not None:
                self._take(message)
            if self._unacked and time.monotonic() > self._heard_at + ACK_TIMEOUT_S:
                self.figures.went_wrong(f"no ack for {ACK_TIMEOUT_S:g} s")
                raise Broken(None)

    def _receive(self, socket: websocket.WebSocket) -> Message | None:
        """The next message, None when none came in time. Raises Broken."""
        while True:
            try:
                frame = socket.recv_frame()
                if frame.opcode == websocket.ABNF.OPCODE_PING:
                    socket.pong(frame.data)
            except websocket.WebSocketTimeoutException:
                return None
            except (OSError, websocket.WebSocketException) as failure:
                raise Broken(None, self._retry_s) from failure
            if frame.opcode == websocket.ABNF.OPCODE_CLOSE:
                # Not by `recv_data`, whose answer fails where the server hung up already, and takes the code with it.
                with suppress(OSError, websocket.WebSocketException):
                    socket.send_close()
                code = int.from_bytes(frame.data[:2], "big") if len(frame.data) >= 2 else None
                raise Broken(code, self._retry_s)
            if frame.opcode == websocket.ABNF.OPCODE_TEXT:
                message: Message = json.loads(frame.data)
                return message

    # ------------------------------------------------------------------ what is said
    def _take(self, message: Message) -> None:
        kind = message["type"]
        if kind == "ack":
            self._acknowledged(message)
        elif kind == "decision":
            # The wire does not say which frame it answers: the oldest one unanswered, else the last one sent.
            cause_at = self._unacked[0][1] if self._unacked else self._last_sent_at
            self.figures.timed("decision", (time.monotonic() - cause_at) * 1000)
            self.figures.counts["decisions"] += 1
            self._obey(message)
        elif kind == "token":
            self._session_token = message["token"]
        elif kind == "error":
            self.figures.went_wrong(f"the server said error {message.get('code')}")
        elif kind == "bye" and message.get("retry_ms") is not None:
            self._retry_s = message["retry_ms"] / 1000

    def _acknowledged(self, ack: Message) -> None:
        now = self._heard_at = time.monotonic()
        seq, saved = ack["seq"], ack["saved"]
        if seq > self.last_seq or saved > seq:
            self.figures.went_wrong("an ack covers what was never sent or applied")
        if seq < self.acked or saved < self.saved:
            self.figures.went_wrong("an ack went back")
        self.acked, self.saved = max(self.acked, seq), max(self.saved, saved)
        self.figures.counts["acks"] += 1
        while self._unacked and self._unacked[0][0] <= seq:
            self.figures.timed("ack", (now - self._unacked.popleft()[1]) * 1000)
        while self._unsaved and self._unsaved[0][0] <= saved:
            self.figures.timed("saved", (now - self._unsaved.popleft()[1]) * 1000)
        self._forget(saved)

    def _forget(self, saved: int) -> None:
        for seq in [seq for seq in self._kept if seq <= saved]:
            del self._kept[seq]

    def _obey(self, decision: Message) -> None:
        self.viewing.cap((decision.get("cmsd") or {}).get("mb"))

    # ------------------------------------------------------------------ coming back, or not
    def _after(self, broken: Broken) -> None:
        self._retry_s = broken.retry_s
        code = broken.code
        if code is not None and code not in RESTARTS:
            self.figures.went_wrong(f"closed {code}")
            self.over = 4400 <= code < 4500

    def _after_failed_opening(self, failure: Exception) -> None:
        status = getattr(failure, "status_code", None)
        if not self._hellos or (status is not None and status != 503):
            self.figures.went_wrong(f"the opening failed: {status or type(failure).__name__}")
        try:
            session = self._ask()
        except (ApiError, OSError) as refused:
            self.over = getattr(refused, "status", None) in (401, 404)
            return
        if session["status"] == "ended":
            self.figures.went_wrong("the session ended without us")
            self.over = True

    def _wait(self, stopping: Callable[[], bool]) -> None:
        most_s = min(MOST_BACKOFF_S, FIRST_BACKOFF_S * 2 ** min(self._failures, 30))
        wait_s = self._rng.uniform(0, most_s) if self._retry_s is None else self._retry_s
        self._failures += 1
        if stopping() and self._failures > 5:
            self.figures.counts["unsaved"] += self.last_seq - self.saved
            self.figures.went_wrong("it never came back")
            self.over = True
            return
        time.sleep(wait_s)

    # ------------------------------------------------------------------ the end
    def _settle(self, socket: websocket.WebSocket) -> None:
        """Wait until all is saved, compare, and end the session."""
        deadline = time.monotonic() + SETTLE_S
        while self.saved < self.last_seq and time.monotonic() < deadline:
            self._listen(socket, min(deadline, time.monotonic() + 0.1))
        self.figures.counts["unsaved"] += self.last_seq - self.saved
        if self.saved == self.last_seq:
            self._compare()
        self.over = True
        with suppress(OSError, websocket.WebSocketException, Broken):
            socket.settimeout(OPENING_TIMEOUT_S)
            socket.send('{"type":"bye"}')
            while self._receive(socket) is not None:
                pass

    def _compare(self) -> None:
        try:
            known = self._ask()
        except (ApiError, OSError) as failure:
            self.figures.went_wrong(f"the session could not be read: {failure}")
            return
        self.figures.counts["lost"] += max(0, self.last_seq - known["frames"])
        self.figures.counts["twice"] += max(0, known["frames"] - self.last_seq)
        if known["bytes"] != self.bytes or known["gaps"]:
            self.figures.went_wrong("the folds are not what was sent")

    def _ask(self) -> Message:
        answer: Message = self.api.request("GET", f"/api/videos/sessions/{self.session_id}", token=self._access_token())
        return answer

"""Players with bad habits, otherwise like `tests.support.player`'s."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import aiohttp

from tests.support.model import expected_folds
from tests.support.player import Refused, SimulatedPlayer, call

Put = tuple[int, str]
LONGEST_PING = bytes(125)


class Repeater(SimulatedPlayer):
    """Sends every fifth frame again, at once or later, now and then with another payload under the same seq: what came
    first counts."""

    repeats = 0.2
    forges = 0.25  # of the repeated ones

    async def put(self, socket: aiohttp.ClientWebSocketResponse, seq: int, text: str) -> None:
        """Put the frame on the socket, and maybe one that was there before."""
        await super().put(socket, seq, text)
        if self._random.random() < self.repeats:
            again = seq if self._random.random() < 0.5 else max(1, seq - self._random.randint(1, 30))
            await super().put(socket, again, self._once_more(again))

    def _once_more(self, seq: int) -> str:
        frame = self.frames.get(seq) or self.frames[max(self.frames)]
        if self._random.random() < self.forges:
            frame = {
                **frame,
                "position": self._random.uniform(0, 600),
                "segments": [{"br": 1, "bytes": 10**6, "ms": 9}],
            }
        return json.dumps({**frame, "seq": seq})

    async def beacon(self, base_url: str) -> None:
        """Report one more frame, and post there what is not acknowledged, as a page does that is being hidden."""
        self._sent_up_to = self.last_seq + 1
        seq = self.report(0.5)
        self.witness.sent(seq)
        url = f"{base_url}/api/videos/sessions/{self.session_id}/network"
        body = [self.frames[unheard] for unheard in range(self.acked + 1, seq + 1)]
        await call(self.http, "POST", url, token=self.token, body=body, wanted=(202,))

    def heir(self, base_urls: Sequence[str]) -> Repeater:
        """Another player of the same session, elsewhere, that goes on where this one is."""
        heir = type(self)(
            self.http, self.account, self.session, base_urls=base_urls, backoff=self.backoff,
            ack_timeout_s=self.ack_timeout_s, had_before=self.last_seq, seed=self._random.randrange(2**32),
        )  # fmt: skip
        heir.token = self.token
        heir.frames = self.frames
        heir.kept = dict(self.kept)
        heir.witness.acked, heir.witness.saved, heir.witness.epoch = self.acked, self.saved, self.witness.epoch
        return heir


class Poster(SimulatedPlayer):
    """Has no socket: posts its frames to one process after the other, again where it got no answer, and asks what is
    saved."""

    async def _one_socket(self) -> float | None:
        """Post what was not taken yet; answers how long to wait, or None: back off."""
        frames = [self.frames[seq] for seq in self.kept if seq > self.acked][:50]
        for frame in frames:
            self.witness.sent(frame["seq"])
        try:
            if frames:
                await call(self.http, "POST", self._network_url(), token=self.token, body=frames, wanted=(202,))
                self.witness.acked = max(self.witness.acked, frames[-1]["seq"])
            self._forget((await self.get_session())["saved_seq"])
        except Refused as refused:
            self._note("refused", {"status": refused.status, "retry_after": refused.retry_after_s})
            return None
        except (aiohttp.ClientError, OSError, TimeoutError):
            return None
        self.connected, self._failures = True, 0
        self._changed()
        return self._random.uniform(0.05, 0.3)

    def _network_url(self) -> str:
        return f"{self._base}/api/videos/sessions/{self.session_id}/network"


class Shuffler(SimulatedPlayer):
    """Sends frames out of order and late as well as twice. What a server must know of it depends on how they arrived,
    so its sockets must not break while frames are on their way."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.witness.in_order = False
        self.arrivals: list[Mapping[str, Any]] = []
        self._late: list[Put] = []
        self._behaves = False

    def behave(self) -> None:
        """Hold nothing back any more."""
        self._behaves = True

    def in_order_of_sending(self, frames: list[Put]) -> list[Put]:
        """Now and then one too late, some twice, neighbours changed over."""
        rng = self._random
        chosen, self._late = [*self._late, *frames], []
        if not self._behaves and rng.random() < 0.3:
            self._late = [chosen.pop()]
            self._sent_up_to = self._late[0][0]
        rng.shuffle(chosen)
        return chosen + [frame for frame in chosen if rng.random() < 0.2]

    async def put(self, socket: aiohttp.ClientWebSocketResponse, seq: int, text: str) -> None:
        """Put the frame on the socket and note the order."""
        self.arrivals.append(json.loads(text))
        await super().put(socket, seq, text)

    def expected(self) -> dict[str, Any]:
        """The folds of what arrived, in the order in which it did."""
        return expected_folds(self.arrivals)


async def stop_reading(player: SimulatedPlayer) -> None:
    """The player reads nothing more of what its present socket says."""
    await player.until_connected()
    assert player._socket is not None
    connection = player._socket._conn
    assert connection is not None
    assert connection.transport is not None
    connection.transport.pause_reading()


async def flood(player: SimulatedPlayer, per_s: int) -> None:
    """Send known frames again, whose acknowledgements replace each other, and long pings, which are answered each,
    until the socket breaks."""
    known = itertools.cycle([json.dumps(frame) for frame in player.frames.values()])
    socket = player._socket
    assert socket is not None
    with contextlib.suppress(ConnectionError, aiohttp.ClientError):
        while not socket.closed:
            for text in itertools.islice(known, per_s // 50):
                await socket.send_str(text)
                await socket.ping(LONGEST_PING)
            await asyncio.sleep(1 / 50)


def resumes_s(player: SimulatedPlayer, away: Sequence[tuple[float, float]]) -> list[float]:
    """How long each of its openings after the first took: from the end of the socket before, or from the end of what
    made resuming impossible (`away`, spans of `time.monotonic()`), to `hello`. One that is still not back counts."""
    found: list[float] = []
    lost: float | None = None
    for event in player.events:
        if event.kind == "closed":
            lost = event.at
        elif event.kind == "stopped":
            lost = None
        elif event.kind == "hello" and lost is not None:
            found.append(_waited_s(lost, event.at, away))
            lost = None
    if lost is not None and player.stopped is None:
        found.append(_waited_s(lost, time.monotonic(), away))
    return found


def _waited_s(since: float, until: float, away: Sequence[tuple[float, float]]) -> float:
    possible = max([since, *(end for begin, end in away if begin < until and end > since)])
    return max(0.0, until - possible)

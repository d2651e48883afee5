"""A learner's chat socket that remembers what it was told, and a course that has something to say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import aiohttp
import asyncpg
import orjson

from tests.support.lectures import Lecture, make_lecture
from tests.support.people import Person

# (from, to, what is said), in seconds.
SAID = (
    (0.0, 30.0, "Welcome to queues. A queue gives back first what came first."),
    (30.0, 60.0, "A stack is the other way round: it gives back what came last. Plates are stacked so."),
    (60.0, 90.0, "Redis keeps streams, which are queues that can be read more than once."),
    (90.0, 120.0, "A checkpoint saves where a consumer was, so that a crash costs nothing."),
)


async def make_talking_lecture(dsn: str, said: tuple[tuple[float, float, str], ...] = SAID) -> Lecture:
    """A lecture with a transcript, of a published free course."""
    lecture = await make_lecture(dsn)
    connection = await asyncpg.connect(dsn)
    try:
        await connection.executemany(
            "INSERT INTO transcript_chunks (video_id, lecture_id, lang, from_s, to_s, text)"
            " VALUES ($1, $2, 'en', $3, $4, $5)",
            [(lecture.video_id, lecture.lecture_id, *piece) for piece in said],
        )
    finally:
        await connection.close()
    return lecture


class ChatSocket:
    """One socket, with every frame that it was told."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.frames: list[dict[str, Any]] = []
        self._read = 0

    async def say(self, kind: str, **members: Any) -> None:
        """Send a frame."""
        await self.socket.send_str(orjson.dumps({"type": kind, **members}, default=str).decode())

    async def ask(self, message: str, message_id: str = "m1", **members: Any) -> int:
        """Ask, and give the number of the turn once it is accepted."""
        await self.say("message", id=message_id, message=message, **members)
        turn: int = (await self.until("accepted", id=message_id))["turn"]
        return turn

    async def next(self, timeout_s: float = 20) -> dict[str, Any]:
        """The next frame. Raises AssertionError when the socket ends."""
        message = await self.socket.receive(timeout_s)
        assert message.type is aiohttp.WSMsgType.TEXT, (message, self.socket.close_code)
        frame: dict[str, Any] = orjson.loads(message.data)
        self.frames.append(frame)
        return frame

    async def until(self, *kinds: str, timeout_s: float = 20, **members: Any) -> dict[str, Any]:
        """Read on to the first frame of one of these kinds, and with these members, that was not waited for before."""
        async with asyncio.timeout(timeout_s):
            while True:
                while self._read < len(self.frames):
                    frame = self.frames[self._read]
                    self._read += 1
                    if frame["type"] in kinds and all(frame.get(name) == value for name, value in members.items()):
                        return frame
                await self.next()

    def of(self, kind: str, turn: int) -> list[dict[str, Any]]:
        """The frames of one kind about a turn."""
        return [frame for frame in self.frames if frame["type"] == kind and frame.get("turn") == turn]

    def text(self, turn: int) -> str:
        """What it was told of an answer."""
        return "".join(frame["text"] for frame in self.of("delta", turn))

    def chunks(self, turn: int) -> list[int]:
        """The numbers of the parts that it was told."""
        return [frame["chunk"] for frame in self.of("delta", turn)]


@asynccontextmanager
async def chatting(person: Person, user_id: str | UUID | None = None) -> AsyncIterator[ChatSocket]:
    """A socket of the person's, after its `hello`."""
    protocols = ("lectern.v1", f"bearer.{person.token}")
    async with person.client.ws_connect(f"/ws/chat/{user_id or person.id}", protocols=protocols) as socket:
        chat = ChatSocket(socket)
        await chat.until("hello")
        yield chat


@asynccontextmanager
async def chatting_at(
    http: aiohttp.ClientSession, base_url: str, user_id: str, token: str
) -> AsyncIterator[ChatSocket]:
    """As `chatting`, at a server process."""
    protocols = ("lectern.v1", f"bearer.{token}")
    async with http.ws_connect(f"{base_url}/ws/chat/{user_id}", protocols=protocols) as socket:
        chat = ChatSocket(socket)
        await chat.until("hello")
        yield chat

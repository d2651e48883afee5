"""Three processes on one inherited listening socket: they come and go, and no client notices more than a `bye`."""

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import aiohttp
import pytest

from server.listener import bind
from tests.support.classroom import classroom
from tests.support.core import eventually
from tests.support.lectures import make_lecture
from tests.support.server_process import ServerProcess

pytestmark = pytest.mark.timeout(150)

PROCESSES = 3
ASK = b"GET /livez HTTP/1.1\r\nHost: lectern\r\n\r\n"


@asynccontextmanager
async def sharing(dsn: str, redis_url: str) -> AsyncIterator[list[ServerProcess]]:
    """Processes that were given the same listening socket, bound before any of them began."""
    with bind("127.0.0.1", 0) as listener:
        async with AsyncExitStack() as stack:
            yield await asyncio.gather(
                *(stack.enter_async_context(ServerProcess(dsn, redis_url, listener=listener)) for _ in range(PROCESSES))
            )


async def figure(process: ServerProcess, sample: str) -> float:
    """One sample of the process's own metrics, all its labels summed."""
    async with aiohttp.ClientSession() as http, http.get(f"{process.direct_url}/metrics") as answer:
        text = await answer.text()
    return sum(float(value) for value in re.findall(rf"^{sample}(?:\{{.*\}})? (\S+)$", text, re.MULTILINE))


async def busy(process: ServerProcess) -> bool:
    """Whether it has answered a good number of requests."""
    return await figure(process, "lectern_http_request_duration_seconds_count") >= 20


class Visitors:
    """Clients of the shared address that never rest, and all that went wrong for them."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url
        self.port = int(base_url.rpartition(":")[2])
        self.answers = 0
        self.wrong: list[str] = []
        self._going = True

    async def visit(self, ask: Callable[[], Awaitable[None]], pause_s: float) -> None:
        """Ask again and again until `leave`."""
        while self._going:
            try:
                async with asyncio.timeout(30):
                    await ask()
                self.answers += 1
            except Exception as error:
                self.wrong.append(repr(error))
            await asyncio.sleep(pause_s)

    def leave(self) -> None:
        self._going = False

    async def post(self, http: aiohttp.ClientSession) -> None:
        """What no client repeats by itself when a kept connection breaks."""
        async with http.post(f"{self.base_url}/api/auth/validate", json={"token": "none"}) as answer:
            body = await answer.json()
            assert (answer.status, body) == (200, {"valid": False})

    async def post_on_a_new_connection(self) -> None:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as http:
            await self.post(http)

    async def connect_and_ask_later(self) -> None:
        """A connection that is open for a while before the first request comes, and then carries two."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            await asyncio.sleep(0.4)
            for _ in range(2):
                writer.write(ASK)
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 200"), head
                length = re.search(rb"(?i)content-length: (\d+)", head)
                assert length is not None
                await reader.readexactly(int(length[1]))
                if re.search(rb"(?i)connection: close", head):
                    assert await reader.read() == b""
                    return
        finally:
            writer.close()


async def test_processes_are_replaced_one_by_one_and_no_request_is_refused_and_no_connection_reset(
    postgres_dsn: str, redis_url: str
):
    async with sharing(postgres_dsn, redis_url) as processes, aiohttp.ClientSession() as kept:
        visitors = Visitors(processes[0].base_url)
        visits = [
            *(visitors.visit(lambda: visitors.post(kept), 0.02 * n) for n in range(6)),
            *(visitors.visit(visitors.post_on_a_new_connection, 0.01) for _ in range(3)),
            *(visitors.visit(visitors.connect_and_ask_later, 0.0) for _ in range(4)),
        ]
        going = [asyncio.create_task(visit) for visit in visits]
        for process in processes:
            # Until it has its share of the visitors.
            await eventually(lambda process=process: busy(process), 30)
            assert await process.terminate(timeout_s=20) == 0
            before = visitors.answers
            await eventually(lambda before=before: visitors.answers >= before + 50, 30)  # the others go on
            await process.start()
        visitors.leave()
        await asyncio.gather(*going)
        assert visitors.wrong == []
        assert visitors.answers > 200


async def test_a_stopping_process_sends_its_players_to_the_others_and_no_other_player_notices(
    postgres_dsn: str, redis_url: str
):
    async with sharing(postgres_dsn, redis_url) as processes:
        lecture = await make_lecture(postgres_dsn)
        ids = {"course_id": str(lecture.course_id), "video_id": str(lecture.video_id)}
        async with classroom([processes[0].base_url], **ids, players=18) as room:
            room.play(40, 0.1)
            await room.until_all(lambda player: player.acked >= 5, "five acknowledged frames")
            held = [await figure(process, "lectern_sockets") for process in processes]
            assert sum(held) == 18
            leaving = held.index(max(held))

            assert await processes[leaving].terminate(timeout_s=20) == 0

            await eventually(lambda: sum(bool(p.close_codes()) for p in room.players) == held[leaving])
            told = [player for player in room.players if player.close_codes()]
            assert {code for player in told for code in player.close_codes()} == {1012}
            waits = [player.events_of("bye")[0].data["retry_ms"] for player in told]
            assert all(wait > 0 for wait in waits)
            assert len(waits) < 4 or len(set(waits)) > 1, "all are told to come back at the same moment"
            await room.finish()
            assert await room.wrong() == [], processes[leaving].log


async def test_a_process_that_is_killed_takes_no_other_with_it_and_its_players_go_on(postgres_dsn: str, redis_url: str):
    async with sharing(postgres_dsn, redis_url) as processes:
        lecture = await make_lecture(postgres_dsn)
        ids = {"course_id": str(lecture.course_id), "video_id": str(lecture.video_id)}
        async with classroom([processes[0].base_url], **ids, players=12) as room:
            room.play(40, 0.1)
            await room.until_all(lambda player: player.acked >= 5, "five acknowledged frames")
            held = [await figure(process, "lectern_sockets") for process in processes]
            await processes[held.index(max(held))].kill9()
            await room.finish()
            assert sum(player.reconnects for player in room.players) == max(held)
            assert await room.wrong() == []


async def test_before_the_first_process_is_ready_nobody_is_let_in(postgres_dsn: str, redis_url: str):
    with bind("127.0.0.1", 0) as listener, pytest.raises(ConnectionRefusedError):
        socket.create_connection(listener.getsockname(), timeout=1)

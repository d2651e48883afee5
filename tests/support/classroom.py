"""Many simulated players in one lecture, watching at a quickened pace."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp

from loadtests.viewing import Viewing
from tests.support.player import Account, Backoff, SimulatedPlayer, call
from tests.support.witness import all_violations

SESSIONS_EACH = 3
# Accounts made at the same time: passwords take their time.
AT_ONCE = 16
QUICK = Backoff(first_s=0.05, most_s=0.5)


class Classroom:
    """Players that watch. `play` goes on in the background until each has reported `frames`, come what may, or until
    `enough`."""

    def __init__(self, players: Sequence[SimulatedPlayer], duration_s: float) -> None:
        self.players = list(players)
        self.duration_s = duration_s
        self._watching: dict[SimulatedPlayer, asyncio.Task[None]] = {}
        self._enough = False

    def play(self, frames: int | None, interval_s: float) -> None:
        """Let every player report so many frames (None: any number), one each `interval_s`, each from a viewing of its
        own."""
        for player in self.players:
            self.watch(player, frames, interval_s)

    def watch(self, player: SimulatedPlayer, frames: int | None, interval_s: float) -> None:
        """Let one player do so."""
        told = itertools.islice(self._viewing(player, len(self._watching)), frames)
        going_on = itertools.takewhile(lambda _: not self._enough, told)
        self._watching[player] = asyncio.create_task(player.watch(going_on, interval_s))

    def hush(self, player: SimulatedPlayer) -> None:
        """This player reports nothing new any more."""
        if player in self._watching:
            self._watching[player].cancel()

    def enough(self) -> None:
        """Nobody reports anything new any more."""
        self._enough = True

    async def finish(self, timeout_s: float = 60.0) -> None:
        """Wait until all is reported and saved."""
        async with asyncio.timeout(timeout_s):
            await asyncio.gather(*(task for task in self._watching.values() if not task.cancelling()))
            await self.each(lambda player: player.until_saved(timeout_s=timeout_s))

    async def until_all(self, condition: Callable[[SimulatedPlayer], bool], what: str, timeout_s: float = 30.0) -> None:
        """Wait until `condition` holds, or has held, for every player."""
        await self.each(lambda player: player.until(lambda: condition(player), timeout_s, what))

    async def each(self, work: Callable[[SimulatedPlayer], Any]) -> list[Any]:
        """Do it with every player at once; the answers in their order."""
        return await asyncio.gather(*(work(player) for player in self.players))

    async def wrong(self) -> list[str]:
        """Every broken promise and every fold that is not what was sent."""
        found = all_violations(player.witness for player in self.players)
        for player, differing in zip(self.players, await self.each(lambda player: player.differences()), strict=True):
            found += [f"{player.session_id}: {difference}" for difference in differing]
        return found

    async def leave(self) -> None:
        """Everybody goes."""
        for task in self._watching.values():
            task.cancel()
        await asyncio.gather(*self._watching.values(), return_exceptions=True)
        await self.each(lambda player: player.leave())

    def _viewing(self, player: SimulatedPlayer, seed: int) -> Iterator[dict[str, Any]]:
        session = player.session
        viewing = Viewing(
            ladder=session["ladder"], segment_s=session["segment_s"], duration_s=self.duration_s, seed=seed
        )
        while True:
            viewing.cap(((player.decision or {}).get("cmsd") or {}).get("mb"))
            yield viewing.tick()


@asynccontextmanager
async def classroom(
    base_urls: Sequence[str],
    *,
    course_id: str,
    video_id: str,
    players: int,
    duration_s: float = 600.0,
    kind: type[SimulatedPlayer] = SimulatedPlayer,
    spread: bool = False,
    receive_bytes: int | None = None,
    **options: Any,
) -> AsyncIterator[Classroom]:
    """Registered and enrolled players, three sessions an account, connected; gone afterwards.

    `kind` is what players are made of; with `spread` each account begins at another of the `base_urls`;
    `receive_bytes` is what their sockets hold of what they have not read.
    """
    numbers = itertools.count()
    at_the_door = asyncio.Semaphore(AT_ONCE)

    def new_socket(address: Any) -> socket.socket:
        family, kind, protocol, *_ = address
        made = socket.socket(family, kind, protocol)
        if receive_bytes is not None:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        return made

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, socket_factory=new_socket)) as http:

        async def seats(count: int) -> list[SimulatedPlayer]:
            first = next(numbers) % len(base_urls) if spread else 0
            urls = [*base_urls[first:], *base_urls[:first]]
            async with at_the_door:
                return await sit_down(count, urls)

        async def sit_down(count: int, urls: Sequence[str]) -> list[SimulatedPlayer]:
            account = await Account.register(http, urls[0])
            body = {"course_id": course_id}
            await call(http, "POST", f"{urls[0]}/api/enrollments", token=account.access_token, body=body)
            return [
                await kind.create(http, account, video_id, **{"base_urls": urls, "backoff": QUICK, **options})
                for _ in range(count)
            ]

        full, rest = divmod(players, SESSIONS_EACH)
        counts = [SESSIONS_EACH] * full + ([rest] if rest else [])
        seated = list(itertools.chain.from_iterable(await asyncio.gather(*(seats(count) for count in counts))))
        room = Classroom(seated, duration_s)
        try:
            for player in seated:
                player.start()
            await room.until_all(lambda player: player.connected, "a connection")
            yield room
        finally:
            with suppress(TimeoutError):
                await room.leave()

"""Many simulated players in one lecture, watching at a quickened pace."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp

from loadtests.viewing import Viewing
from tests.support.player import Account, Backoff, SimulatedPlayer, call
from tests.support.witness import all_violations

SESSIONS_EACH = 3
QUICK = Backoff(first_s=0.05, most_s=0.5)


class Classroom:
    """Players that watch. `play` goes on in the background until each has reported `frames`, come what may."""

    def __init__(self, players: Sequence[SimulatedPlayer], duration_s: float) -> None:
        self.players = list(players)
        self.duration_s = duration_s
        self._watching: list[asyncio.Task[None]] = []

    def play(self, frames: int, interval_s: float) -> None:
        """Let every player report so many frames, one each `interval_s`, each from a viewing of its own."""
        for seed, player in enumerate(self.players):
            told = itertools.islice(self._viewing(player, seed), frames)
            self._watching.append(asyncio.create_task(player.watch(told, interval_s)))

    async def finish(self, timeout_s: float = 60.0) -> None:
        """Wait until all is reported and saved."""
        async with asyncio.timeout(timeout_s):
            await asyncio.gather(*self._watching)
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
        for task in self._watching:
            task.cancel()
        await asyncio.gather(*self._watching, return_exceptions=True)
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
    base_urls: Sequence[str], *, course_id: str, video_id: str, players: int, duration_s: float = 600.0, **options: Any
) -> AsyncIterator[Classroom]:
    """Registered and enrolled players, three sessions an account, connected; gone afterwards."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:

        async def seats(count: int) -> list[SimulatedPlayer]:
            account = await Account.register(http, base_urls[0])
            body = {"course_id": course_id}
            await call(http, "POST", f"{base_urls[0]}/api/enrollments", token=account.access_token, body=body)
            return [
                await SimulatedPlayer.create(
                    http, account, video_id, **{"base_urls": base_urls, "backoff": QUICK, **options}
                )
                for _ in range(count)
            ]

        full, rest = divmod(players, SESSIONS_EACH)
        counts = [SESSIONS_EACH] * full + ([rest] if rest else [])
        seated = list(itertools.chain.from_iterable(await asyncio.gather(*(seats(count) for count in counts))))
        room = Classroom(seated, duration_s)
        try:
            for player in seated:
                player.start()
            await room.each(lambda player: player.until_connected())
            yield room
        finally:
            with suppress(TimeoutError):
                await room.leave()

"""What a scenario is, where it is registered, and the harm that several of them do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from embedded.postgres import Postgres
from embedded.valkey import Valkey
from tests.chaos.stage import Needs, Stage
from tests.support.pausing import paused
from tests.support.server_process import ServerProcess

PAUSE_S = 10.0
# What is on its way when a part goes away may still be told of a moment later.
IN_FLIGHT_S = 1.0

Play = Callable[[Stage], Awaitable[None]]


@dataclass(frozen=True)
class Scenario:
    """One kind of harm."""

    name: str
    about: str
    play: Play
    needs: Needs


SCENARIOS: dict[str, Scenario] = {}


def scenario(name: str, **needs: Any) -> Callable[[Play], Play]:
    """Register a scenario under its name; `needs` as in `Needs`."""

    def register(play: Play) -> Play:
        assert play.__doc__
        SCENARIOS[name] = Scenario(name, play.__doc__.partition("\n")[0], play, Needs(**needs))
        return play

    return register


@asynccontextmanager
async def victim(stage: Stage) -> AsyncIterator[ServerProcess]:
    """A process that will be killed, and comes back afterwards."""
    server = stage.choose()
    stage.may_cut.add(server)
    yield server
    await server.start()
    stage.may_cut.discard(server)


@asynccontextmanager
async def away(stage: Stage) -> AsyncIterator[None]:
    """A part is away inside: nobody who is connected has to open another socket, in the end either."""
    await stage.pause(0.5, 1.5)
    before = {player: len(player.close_codes()) for player in stage.players if player.connected}
    async with stage.fault(away=True):
        yield
    for player, closed in before.items():
        if codes := player.close_codes()[closed:]:
            stage.breach(f"{player.session_id}: the socket closed {codes}")


async def crash(stage: Stage, part: Postgres | Valkey) -> None:
    """kill -9, and up again."""
    async with away(stage):
        await stage.in_thread(part.kill)
        await stage.in_thread(part.start)


@asynccontextmanager
async def hanging(part: Postgres | Valkey) -> AsyncIterator[None]:
    with paused(part):
        yield

"""What is done to processes: killed, stopped, overtaken, restarted."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from uuid import UUID

from tests.chaos.players import Repeater
from tests.chaos.proxy import PostgresProxy
from tests.chaos.scenarios.registry import scenario, victim
from tests.chaos.stage import PATIENCE_S, Stage
from tests.support.core import eventually
from tests.support.player import SimulatedPlayer

HERD = 1000


SUPERSEDED_WITHIN_S = 6.0


EXIT_WITHIN_S = 20.0


CLOSE_WITHIN_S = 2.0


@scenario("kill-one")
async def kill_one(stage: Stage) -> None:
    """kill -9 of a random process, which comes back a moment later."""
    for _ in range(2):
        await stage.pause(0.5, 2.0)
        async with victim(stage) as server, stage.fault():
            await server.kill9()


@scenario("kill-all")
async def kill_all(stage: Stage) -> None:
    """kill -9 of all processes at once."""
    await stage.pause(0.5, 2.0)
    stage.may_cut.update(stage.servers)
    async with stage.fault(away=True):
        await asyncio.gather(*(server.kill9() for server in stage.servers))
        await asyncio.gather(*(server.start() for server in stage.servers))
    stage.may_cut.clear()


@scenario("rolling-restart")
async def rolling_restart(stage: Stage) -> None:
    """SIGTERM of each process in turn: 1012 within 2 s, exit 0 within 20 s, no request is refused or cut."""
    for server in stage.servers:
        await stage.pause(0.3, 1.0)
        there = stage.on(server)
        began = time.monotonic()
        async with stage.fault():
            status = await server.terminate()
            took_s = time.monotonic() - began
        if status != 0 or took_s > EXIT_WITHIN_S:
            stage.breach(f"exit {status} {took_s:.1f} s after SIGTERM")
        for player in there:
            _check_told_to_leave(stage, player, began)
        await server.start()


def _check_told_to_leave(stage: Stage, player: SimulatedPlayer, since: float) -> None:
    closed = next((event for event in player.events_of("closed") if event.at >= since), None)
    if closed is None or closed.data["code"] != 1012:
        stage.breach(f"{player.session_id} was left with {closed and closed.data} at SIGTERM")
    elif closed.at - since > CLOSE_WITHIN_S:
        stage.breach(f"{player.session_id} was told to leave {closed.at - since:.1f} s after SIGTERM")


@scenario("stopped-owner", postgres_proxy=True)
async def stopped_owner(stage: Stage) -> None:
    """SIGSTOP of an owner while its players move, SIGCONT: the zombie writes nothing, old sockets get 4409."""
    proxy = stage.postgres_proxy
    assert proxy is not None
    await stage.pause(0.5, 1.5)
    on = {server: [p for p in stage.on(server) if isinstance(p, Repeater)] for server in stage.servers}
    # The time before may have sent them all to the same one.
    owner = stage.rng.choice([server for server, players in on.items() if players])
    there = on[owner]
    others = [stage.address_of(server) for server in stage.servers if server is not owner]
    stage.may_cut.add(owner)
    # Every second one is silent: what the zombie has of it will be as good as what its heir has.
    for player in there[::2]:
        stage.room.hush(player)
    await _hold_back_a_checkpoint(proxy, there[0])
    owner.pause()
    try:
        # The others go on at the dead end for a while: what they send waits in its sockets.
        await stage.pause(1.0, 1.5)
        heirs = {player: stage.succeed(player, others) for player in there}
        await asyncio.gather(*(heir.until_saved() for heir in heirs.values()))
        for player, heir in list(heirs.items())[1::2]:
            stage.settle(heir, [player, heir])
        await stage.pause(0.5, 1.0)
        # Whatever the zombie comes to learn before it writes again: this it has written.
        async with asyncio.timeout(PATIENCE_S):
            await proxy.let_go()
    finally:
        owner.resume()
    await _learn_that_they_are_superseded(stage, there)
    stage.may_cut.discard(owner)
    for player, heir in list(heirs.items())[::2]:
        stage.settle(heir, [player, heir])
    async with stage.fault():
        pass


async def _hold_back_a_checkpoint(proxy: PostgresProxy, player: Repeater) -> None:
    """All that this silent player was acknowledged is in a checkpoint that has not come to Postgres."""
    while proxy.held is None:
        player.report(player.last_seq)
        await player.until_acked()
        proxy.to_hold = UUID(player.session_id).bytes
        # Or it was saved before we looked, and there is nothing to write.
        await eventually(lambda: proxy.held is not None or player.saved >= player.acked, PATIENCE_S)
        proxy.to_hold = None


async def _learn_that_they_are_superseded(stage: Stage, players: Sequence[Repeater]) -> None:
    since = time.monotonic()
    for player in players:
        with contextlib.suppress(TimeoutError):
            await player.until_stopped(max(0.1, since + SUPERSEDED_WITHIN_S - time.monotonic()))
        if player.stopped != "4409":
            stage.breach(f"a superseded socket saw {player.close_codes()}, not 4409")


@scenario("fight")
async def fight(stage: Stage) -> None:
    """Processes fight for one session: the newest socket wins, the others get 4409."""
    bases = [stage.address_of(server) for server in stage.servers]
    fighters = [player for player in stage.players if isinstance(player, Repeater)][: max(1, len(stage.players) // 3)]
    for _ in range(3):
        fighters = await asyncio.gather(*(_one_fight(stage, player, bases) for player in fighters))
    async with stage.fault():
        pass


async def _one_fight(stage: Stage, player: Repeater, bases: list[str]) -> Repeater:
    """Two more sockets of the session at once, at different processes; the one that is left."""
    await player.until_acked()
    heirs = [stage.succeed(player, [*bases[at:], *bases[:at]]) for at in (0, 1)]
    rivals = [player, *heirs]

    def settled() -> bool:
        return sum(rival.stopped is None for rival in rivals) == 1 and all(r.openings for r in rivals)

    with contextlib.suppress(TimeoutError):
        await eventually(settled, SUPERSEDED_WITHIN_S + 2)
    left = [rival for rival in rivals if rival.stopped is None]
    for rival in rivals:
        if rival.stopped not in (None, "4409"):
            stage.breach(f"a rival's socket ended with {rival.stopped}, not 4409")
    if len(left) != 1:
        stage.breach(f"{len(left)} of {len(rivals)} sockets of one session were left")
    winner = left[-1] if left else heirs[-1]
    stage.settle(winner, rivals)
    return winner


@scenario("herd", players=lambda players: max(players, HERD), interval_s=1.0)
async def herd(stage: Stage) -> None:
    """A thousand players reconnect within a second."""
    await stage.pause(0.5, 1.0)

    async def cut(player: SimulatedPlayer) -> None:
        await stage.pause(0.0, 1.0)
        await player.cut()

    async with stage.fault():
        await asyncio.gather(*(cut(player) for player in stage.players))

"""What players and the networks between do: unruly, deaf, half open, gone."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time

from tests.chaos.players import Poster, Shuffler, flood, stop_reading
from tests.chaos.scenarios.processes import kill_all, kill_one
from tests.chaos.scenarios.redis import redis_restart
from tests.chaos.scenarios.registry import scenario, victim
from tests.chaos.stage import PATIENCE_S, Stage
from tests.support.core import eventually
from tests.support.player import SimulatedPlayer

SLOW_READER_BYTES = 1024 * 1024


@scenario("unruly-frames", kind=Shuffler)
async def unruly_frames(stage: Stage) -> None:
    """Frames twice, shuffled and late; sockets break only where nothing is on its way."""
    await stage.pause(2.0, 3.0)
    for player in stage.players:
        await player.until(lambda player=player: player.acked >= max(player._sent_up_to, 1), what="quiet")
        # Nothing runs between the look and the cut.
        await player.cut()
    async with stage.fault():
        pass


@scenario("posters", kind=Poster)
async def posters(stage: Stage) -> None:
    """Players without sockets post to whichever process, while processes and Redis die."""
    await kill_one(stage)
    await redis_restart(stage)
    await kill_all(stage)


@scenario("clock-jumps", program=("-m", "tests.chaos.jumping_server"))
async def clock_jumps(stage: Stage) -> None:
    """The wall clocks of processes jump to and fro, and a process dies in between."""
    for server in stage.servers * 3:
        assert server.pid is not None
        server.signal(signal.SIGUSR1)
        await stage.pause(0.3, 0.6)
    await kill_one(stage)


@scenario("deaf-players", ack_timeout_s=60.0, receive_bytes=32768, settings={"LECTERN_SESSIONS__SLOW_READER_S": "2"})
async def deaf_players(stage: Stage) -> None:
    """Players that never read are cut, and cost at most 1 MB each until then."""
    server = stage.servers[0]
    there = stage.on(server)
    deaf = there[:8]  # so many that what a process grows by for other reasons, a few MB, does not matter
    before_bytes, cut_before = stage.memory_bytes(server), await stage.metric(server, "lectern_slow_readers_total")
    for player in deaf:
        await stop_reading(player)
    floods = [asyncio.create_task(flood(player, 500)) for player in deaf]
    began = time.monotonic()
    most_bytes = before_bytes
    while await stage.metric(server, "lectern_slow_readers_total") < cut_before + len(deaf):
        most_bytes = max(most_bytes, stage.memory_bytes(server))
        if time.monotonic() - began > PATIENCE_S:
            stage.breach("a player that never reads was not cut")
            break
        await asyncio.sleep(0.1)
    for task in floods:
        task.cancel()
    await asyncio.gather(*floods, return_exceptions=True)
    if most_bytes - before_bytes > SLOW_READER_BYTES * len(deaf):
        stage.breach(f"{len(deaf)} slow readers cost {(most_bytes - before_bytes) >> 20} MB")
    async with stage.fault():
        for player in deaf:
            await player.cut()


@scenario("half-open", front_proxy=True, ack_timeout_s=3.0, settings={"LECTERN_SESSIONS__HEARTBEAT_S": "4"})
async def half_open(stage: Stage) -> None:
    """Networks fall silent without a word: players come back, and nobody's socket stays behind."""
    await stage.pause(0.5, 1.0)
    async with stage.fault():
        for proxy in stage.front_proxies:
            proxy.freeze()
        frozen = time.monotonic()
        await asyncio.gather(
            *(p.until(lambda p=p: _hello_since(p, frozen), PATIENCE_S, "a hello") for p in stage.players)
        )

    async def only_theirs() -> bool:
        return sum([await stage.metric(s, "lectern_sockets") for s in stage.servers]) <= len(stage.players)

    await eventually(only_theirs, PATIENCE_S)


def _hello_since(player: SimulatedPlayer, since: float) -> bool:
    return any(event.at > since for event in player.events_of("hello")[-1:])


@scenario("deserters", players=lambda players: 2 * players)
async def deserters(stage: Stage) -> None:
    """Players never come back, of a process that dies too: what was acknowledged is saved all the same."""
    await stage.pause(1.0, 2.0)
    leaving = stage.rng.sample(stage.players, len(stage.players) // 4)
    await asyncio.gather(*(stage.desert(player) for player in leaving[::2]))
    async with victim(stage) as server, stage.fault():
        await asyncio.gather(server.kill9(), *(stage.desert(player) for player in leaving[1::2]))
    # Those of the dead process are saved by the reaper of another, once it counts as dead.
    for player in leaving:

        async def saved(player: SimulatedPlayer = player) -> bool:
            return bool((await player.get_session(stage.servers[0].direct_url))["last_seq"] >= player.acked)

        with contextlib.suppress(TimeoutError):
            await eventually(saved, PATIENCE_S)

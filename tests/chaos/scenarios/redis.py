"""What is done to Redis: gone, hanging, full, emptied, cut short."""

from __future__ import annotations

import asyncio
import contextlib
import time

from embedded.valkey import Valkey
from tests.chaos.players import Repeater
from tests.chaos.scenarios.registry import IN_FLIGHT_S, PAUSE_S, away, crash, hanging, scenario, victim
from tests.chaos.stage import PATIENCE_S, Stage
from tests.support.core import eventually
from tests.support.player import Refused

LEFT_OF_FILE = 0.9


@scenario("redis-restart")
async def redis_restart(stage: Stage) -> None:
    """kill -9 of Valkey, and up again."""
    await crash(stage, stage.valkey)


@scenario("redis-paused")
async def redis_paused(stage: Stage) -> None:
    """Valkey hangs for 10 s: sockets stay, nothing is acknowledged."""
    async with away(stage), hanging(stage.valkey):
        await _nothing_is_acknowledged(stage, PAUSE_S)


@scenario("redis-full")
async def redis_full(stage: Stage) -> None:
    """Valkey is full (noeviction): sockets stay, nothing is acknowledged."""
    async with away(stage):
        await stage.in_thread(stage.valkey.command, "CONFIG", "SET", "maxmemory", "1")
        try:
            await _nothing_is_acknowledged(stage, PAUSE_S / 2)
        finally:
            await stage.in_thread(stage.valkey.command, "CONFIG", "SET", "maxmemory", "0")


@scenario("redis-flushed")
async def redis_flushed(stage: Stage) -> None:
    """FLUSHALL under live sessions, again and again."""
    for _ in range(3):
        await stage.pause(0.3, 1.0)
        async with stage.fault():
            await flush(stage)


@scenario("flushed-and-killed", settings={"LECTERN_SESSIONS__CHECKPOINT_S": "3"})
async def flushed_and_killed(stage: Stage) -> None:
    """FLUSHALL, then kill -9 of an owner before its next checkpoint: what players still hold is asked for again."""
    await stage.pause(1.0, 2.5)
    async with victim(stage) as server, stage.fault():
        await flush(stage)
        await stage.pause(0.2, 0.8)
        await server.kill9()


@scenario("flushed-and-overtaken", settings={"LECTERN_SESSIONS__CHECKPOINT_S": "3"})
async def flushed_and_overtaken(stage: Stage) -> None:
    """FLUSHALL, then a beacon at another process, then kill -9 of the owner: the beacon hides nothing that was lost."""
    async with victim(stage) as server, stage.fault():
        there = [player for player in stage.on(server) if isinstance(player, Repeater)]
        elsewhere = next(stage.address_of(other) for other in stage.servers if other is not server)
        for player in there:
            # What follows lies between two checkpoints, and each has acknowledged frames that are not saved.
            await player.until(lambda player=player: player.acked > player.saved, what="a frame that is not saved")
            stage.room.hush(player)
        await asyncio.gather(*(player.until_acked() for player in there))
        await flush(stage)
        await asyncio.gather(*(player.beacon(elsewhere) for player in there))
        await server.kill9()
    for player in there:
        stage.room.watch(player, None, stage.interval_s)


@scenario("redis-lost-its-end", settings={"LECTERN_SESSIONS__CHECKPOINT_S": "3"})
async def redis_lost_its_end(stage: Stage) -> None:
    """Valkey comes back without the end of its file, and an owner dies before its next checkpoint."""
    await stage.pause(1.0, 2.5)
    async with victim(stage) as server, stage.fault(away=True):
        stage.forgive_redis()
        await stage.in_thread(stage.valkey.kill)
        _cut_off_end(stage.valkey)
        await stage.in_thread(stage.valkey.start)
        await stage.pause(0.2, 0.8)
        await server.kill9()


def _cut_off_end(valkey: Valkey) -> None:
    """Less its last part, at any byte, as when the machine died between two syncs."""
    (file,) = valkey.data.glob("appendonlydir/*.incr.aof")
    with file.open("r+b") as opened:
        opened.truncate(int(file.stat().st_size * LEFT_OF_FILE))


@scenario("write-refused", redis_proxy=True)
async def write_refused(stage: Stage) -> None:
    """Now and then one XADD fails while the next succeeds."""
    proxy = stage.redis_proxy
    assert proxy is not None
    async with stage.fault():
        proxy.every, proxy.to_refuse = 3, 60
        await eventually(lambda: proxy.to_refuse == 0, PATIENCE_S)


@scenario("redis-half-open", redis_proxy=True, settings={"LECTERN_SESSIONS__SWEEP_S": "3600"})
async def redis_half_open(stage: Stage) -> None:
    """Every connection to Redis dies without a word, also that by which nudges come: new ones take their place."""
    assert stage.redis_proxy is not None
    async with away(stage):
        stage.redis_proxy.freeze()
        await stage.pause(0.5, 1.0)  # what is reported meanwhile waits in dead connections
    server = stage.choose()
    elsewhere = next(stage.address_of(other) for other in stage.servers if other is not server)
    silent = [player for player in stage.on(server) if isinstance(player, Repeater)][:3]
    for player in silent:
        stage.room.hush(player)
        await player.until_acked()
        # Nothing but a nudge tells the owner of a beacon here.
        began, reported = time.monotonic(), player.last_seq
        while player.acked == reported and time.monotonic() - began < PATIENCE_S:
            # There, too, the first answer may be that Redis is away.
            with contextlib.suppress(TimeoutError, Refused):
                await player.beacon(elsewhere)
                await player.until_acked(timeout_s=1.0)
        if player.acked == reported:
            stage.breach("nobody hears nudges any more")
        stage.room.watch(player, None, stage.interval_s)


async def flush(stage: Stage) -> None:
    """Redis forgets everything."""
    stage.forgive_redis()
    await stage.in_thread(stage.valkey.command, "FLUSHALL")


async def _nothing_is_acknowledged(stage: Stage, seconds: float) -> None:
    await asyncio.sleep(IN_FLIGHT_S)
    before = {player: player.acked for player in stage.players}
    await asyncio.sleep(seconds - IN_FLIGHT_S)
    for player, acked in before.items():
        if player.acked > acked:
            stage.breach(f"{player.session_id}: {player.acked} was acknowledged while Redis was away, {acked} before")

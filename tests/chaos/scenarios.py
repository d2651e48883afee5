"""What is done to the server, one scenario after the other. Each does it once; the rig repeats it as long as asked.

A scenario promises nothing by itself: the players, the history of every row and the people who ask are watched
throughout (`tests.chaos.stage`). Where more is promised, such as that nothing is acknowledged while Redis is away, the
scenario looks.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from embedded.postgres import Postgres
from embedded.valkey import Valkey
from tests.chaos.players import Poster, Repeater, Shuffler, flood, stop_reading
from tests.chaos.stage import PATIENCE_S, Needs, Stage
from tests.support.core import eventually
from tests.support.pausing import paused
from tests.support.player import SimulatedPlayer

CLOSE_WITHIN_S = 2.0
EXIT_WITHIN_S = 20.0
SUPERSEDED_WITHIN_S = 6.0
PAUSE_S = 10.0
# What is on its way when a part goes away may still be told of a moment later.
IN_FLIGHT_S = 1.0
SLOW_READER_BYTES = 1024 * 1024
HERD = 1000


@dataclass(frozen=True)
class Scenario:
    """One kind of harm."""

    name: str
    about: str
    play: Callable[[Stage], Awaitable[None]]
    needs: Needs


Play = Callable[[Stage], Awaitable[None]]
SCENARIOS: dict[str, Scenario] = {}


def scenario(
    name: str, **needs: Any
) -> Callable[[Callable[[Stage], Awaitable[None]]], Callable[[Stage], Awaitable[None]]]:
    """Register a scenario under its name; `needs` as in `Needs`."""

    def register(play: Callable[[Stage], Awaitable[None]]) -> Callable[[Stage], Awaitable[None]]:
        assert play.__doc__
        SCENARIOS[name] = Scenario(name, play.__doc__.partition("\n")[0], play, Needs(**needs))
        return play

    return register


# Processes -----------------------------------------------------------------------------------------------------------


@scenario("kill-one")
async def kill_one(stage: Stage) -> None:
    """kill -9 of a random process, which comes back a moment later."""
    for _ in range(2):
        await stage.pause(0.5, 2.0)
        server = stage.choose()
        stage.may_cut.add(server)
        async with stage.fault():
            await server.kill9()
        await server.start()
        stage.may_cut.discard(server)


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
            status = await server.terminate(timeout_s=EXIT_WITHIN_S + 5)
        if status != 0:
            stage.breach(f"exit {status} after SIGTERM")
        for player in there:
            _check_told_to_leave(stage, player, began)
        await server.start()


def _check_told_to_leave(stage: Stage, player: SimulatedPlayer, since: float) -> None:
    closed = next((event for event in player.events_of("closed") if event.at >= since), None)
    if closed is None or closed.data["code"] != 1012:
        stage.breach(f"{player.session_id} was left with {closed and closed.data} at SIGTERM")
    elif closed.at - since > CLOSE_WITHIN_S:
        stage.breach(f"{player.session_id} was told to leave {closed.at - since:.1f} s after SIGTERM")


@scenario("stopped-owner", settings={"LECTERN_SESSIONS__CHECKPOINT_S": "2"})
async def stopped_owner(stage: Stage) -> None:
    """SIGSTOP of an owner while its players move, SIGCONT: the zombie writes nothing, old sockets get 4409."""
    owner = stage.choose()
    others = [stage.address_of(server) for server in stage.servers if server is not owner]
    await stage.pause(0.5, 1.5)
    there = [player for player in stage.on(owner) if isinstance(player, Repeater)]
    quiet = there[::2]
    stage.may_cut.add(owner)
    # Every second one is acknowledged, not saved and silent: the zombie's row will be as good as its heir's.
    for player in quiet:
        stage.room.hush(player)
    while not any(player.acked > player.saved for player in quiet):
        for player in quiet:
            player.report(player.last_seq)
        await asyncio.gather(*(player.until_acked() for player in quiet))
    owner.pause()
    try:
        # The others go on at the dead end for a while: what they send waits in its sockets.
        await stage.pause(1.0, 1.5)
        heirs = {player: stage.succeed(player, others) for player in there}
        await asyncio.gather(*(heir.until_saved() for heir in heirs.values()))
        for player, heir in list(heirs.items())[1::2]:
            stage.settle(heir, [player, heir])
        await stage.pause(0.5, 1.0)
    finally:
        owner.resume()
    woken = time.monotonic()
    for player in there:
        with contextlib.suppress(TimeoutError):
            await player.until_stopped(max(0.1, woken + SUPERSEDED_WITHIN_S - time.monotonic()))
        if player.stopped != "4409":
            stage.breach(f"a superseded socket saw {player.close_codes()}, not 4409")
    stage.may_cut.discard(owner)
    for player, heir in list(heirs.items())[::2]:
        stage.settle(heir, [player, heir])
    async with stage.fault():
        pass


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


# Redis ---------------------------------------------------------------------------------------------------------------


@scenario("redis-restart")
async def redis_restart(stage: Stage) -> None:
    """kill -9 of Valkey, and up again."""
    await stage.pause(0.5, 1.5)
    async with _sockets_stay(stage), stage.fault(away=True):
        await stage.in_thread(stage.valkey.kill)
        await stage.in_thread(stage.valkey.start)


@scenario("redis-paused")
async def redis_paused(stage: Stage) -> None:
    """Valkey hangs for 10 s: sockets stay, nothing is acknowledged."""
    await stage.pause(0.5, 1.5)
    async with _sockets_stay(stage), stage.fault(away=True), _hanging(stage.valkey):
        await _nothing_is_acknowledged(stage, PAUSE_S)


@scenario("redis-full")
async def redis_full(stage: Stage) -> None:
    """Valkey is full (noeviction): sockets stay, nothing is acknowledged."""
    await stage.pause(0.5, 1.5)
    async with _sockets_stay(stage), stage.fault(away=True):
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
    server = stage.choose()
    stage.may_cut.add(server)
    async with stage.fault():
        await flush(stage)
        await stage.pause(0.2, 0.8)
        await server.kill9()
    await server.start()
    stage.may_cut.discard(server)


@scenario("write-refused", redis_proxy=True)
async def write_refused(stage: Stage) -> None:
    """Now and then one XADD fails while the next succeeds."""
    proxy = stage.redis_proxy
    assert proxy is not None
    async with stage.fault():
        proxy.every, proxy.to_refuse = 3, 60
        await eventually(lambda: proxy.to_refuse == 0, PATIENCE_S)


async def flush(stage: Stage) -> None:
    """Redis forgets everything, and players know that it may have."""
    for player in stage.players:
        player.witness.forgive_redis()
    await stage.in_thread(stage.valkey.command, "FLUSHALL")


async def _nothing_is_acknowledged(stage: Stage, seconds: float) -> None:
    await asyncio.sleep(IN_FLIGHT_S)
    before = {player: player.acked for player in stage.players}
    await asyncio.sleep(seconds - IN_FLIGHT_S)
    for player, acked in before.items():
        if player.acked > acked:
            stage.breach(f"{player.session_id}: {player.acked} was acknowledged while Redis was away, {acked} before")


@asynccontextmanager
async def _hanging(server: Postgres | Valkey) -> AsyncIterator[None]:
    with paused(server):
        yield


# Postgres ------------------------------------------------------------------------------------------------------------


@scenario("postgres-restart")
async def postgres_restart(stage: Stage) -> None:
    """kill -9 of Postgres, and up again."""
    await stage.pause(0.5, 1.5)
    async with _sockets_stay(stage), stage.fault(away=True):
        await stage.in_thread(stage.postgres.kill)
        await stage.in_thread(stage.postgres.start)


@scenario("postgres-paused")
async def postgres_paused(stage: Stage) -> None:
    """Postgres hangs for 10 s: frames are acknowledged, `saved` stands still."""
    await stage.pause(0.5, 1.5)
    async with _sockets_stay(stage), stage.fault(away=True), _hanging(stage.postgres):
        await _only_saved_stands_still(stage, PAUSE_S)


@scenario("postgres-full")
async def postgres_full(stage: Stage) -> None:
    """Postgres has no connection to give for 10 s."""
    await stage.pause(0.5, 1.5)
    roles = [f"process_{number}" for number in range(len(stage.servers))]
    async with _sockets_stay(stage), stage.fault(away=True), stage.sql() as sql:
        try:
            for role in roles:
                await sql.execute(f"ALTER ROLE {role} CONNECTION LIMIT 0")
            await sql.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = ANY ($1)", roles)
            await _only_saved_stands_still(stage, PAUSE_S)
        finally:
            for role in roles:
                await sql.execute(f"ALTER ROLE {role} CONNECTION LIMIT -1")


@scenario("postgres-read-only")
async def postgres_read_only(stage: Stage) -> None:
    """Postgres takes no writes for 10 s, as after a failover to a standby."""
    await stage.pause(0.5, 1.5)
    async with _sockets_stay(stage), stage.fault(away=True), stage.sql() as sql:
        await sql.execute("SET default_transaction_read_only = off")
        try:
            await sql.execute("ALTER SYSTEM SET default_transaction_read_only = on")
            await sql.execute("SELECT pg_reload_conf()")
            await _only_saved_stands_still(stage, PAUSE_S)
        finally:
            await sql.execute("ALTER SYSTEM RESET default_transaction_read_only")
            await sql.execute("SELECT pg_reload_conf()")


@scenario("postgres-away-killed")
async def postgres_away_killed(stage: Stage) -> None:
    """kill -9 of an owner whose checkpoints have failed for 10 s, for Postgres hangs: its streams have it all."""
    await stage.pause(0.5, 1.5)
    server = stage.choose()
    stage.may_cut.add(server)
    async with stage.fault(away=True):
        async with _hanging(stage.postgres):
            await _only_saved_stands_still(stage, PAUSE_S)
            await server.kill9()
        await server.start()
    stage.may_cut.discard(server)


@scenario("commit-cut", postgres_proxy=True)
async def commit_cut(stage: Stage) -> None:
    """The connection to Postgres is cut between a COMMIT and its answer."""
    proxy = stage.postgres_proxy
    assert proxy is not None
    async with stage.fault():
        # Checkpoints, and once whatever comes first.
        for proxy.commits in (False, True, False):
            wanted = proxy.cuts + 1
            proxy.to_cut += 1
            await eventually(lambda wanted=wanted: proxy.cuts >= wanted, PATIENCE_S)


@scenario("row-refused")
async def row_refused(stage: Stage) -> None:
    """Postgres refuses one session's row: its socket closes 1011, all others are saved."""
    victim, *others = stage.rng.sample(stage.players, len(stage.players))
    closed = len(victim.close_codes())
    async with stage.fault(), stage.sql() as sql:
        await sql.execute(REFUSE.format(session_id=victim.session_id))
        try:
            await victim.until(lambda: len(victim.close_codes()) > closed, what="the refused session's socket to close")
            if victim.close_codes()[closed] != 1011:
                stage.breach(f"a refused row closed {victim.close_codes()[closed]}, not 1011")
            reported = [player.last_seq for player in others]
            for player, seq in zip(others, reported, strict=True):
                await player.until_saved(seq)
        finally:
            await sql.execute("DROP TRIGGER chaos_refuse ON video_sessions; DROP FUNCTION chaos.refuse()")


@asynccontextmanager
async def _sockets_stay(stage: Stage) -> AsyncIterator[None]:
    """Nobody who is connected has to open another socket, in the end either."""
    before = {player: len(player.close_codes()) for player in stage.players if player.connected}
    yield
    for player, closed in before.items():
        if codes := player.close_codes()[closed:]:
            stage.breach(f"{player.session_id}: the socket closed {codes}")


async def _only_saved_stands_still(stage: Stage, seconds: float) -> None:
    await asyncio.sleep(IN_FLIGHT_S)
    before = {player: (player.acked, player.saved) for player in stage.players if player.connected}
    await asyncio.sleep(seconds - IN_FLIGHT_S)
    for player, (acked, saved) in before.items():
        if player.acked <= acked:
            stage.breach(f"{player.session_id}: nothing after {acked} was acknowledged while Postgres was away")
        if player.saved > saved:
            stage.breach(f"{player.session_id}: {player.saved} was saved while Postgres was away, {saved} before")


REFUSE = """
CREATE FUNCTION chaos.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.last_seq > OLD.last_seq THEN
        RAISE EXCEPTION 'this row is refused' USING ERRCODE = 'numeric_value_out_of_range';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER chaos_refuse BEFORE UPDATE ON video_sessions FOR EACH ROW WHEN (OLD.id = '{session_id}')
EXECUTE FUNCTION chaos.refuse();
"""


# Players and networks ------------------------------------------------------------------------------------------------


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
    deaf = there[:4]
    before_bytes, cut_before = stage.memory_bytes(server), await stage.metric(server, "lectern_slow_readers_total")
    for player in deaf:
        await stop_reading(player)
    floods = [asyncio.create_task(flood(player, 1500)) for player in deaf]
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
    server = stage.choose()
    await asyncio.gather(*(stage.desert(player) for player in leaving[::2]))
    stage.may_cut.add(server)
    async with stage.fault():
        await asyncio.gather(server.kill9(), *(stage.desert(player) for player in leaving[1::2]))
    await server.start()
    stage.may_cut.discard(server)
    # Those of the dead process are saved by the reaper of another, once it counts as dead.
    for player in leaving:

        async def saved(player: SimulatedPlayer = player) -> bool:
            return bool((await player.get_session(stage.servers[0].direct_url))["last_seq"] >= player.acked)

        with contextlib.suppress(TimeoutError):
            await eventually(saved, PATIENCE_S)

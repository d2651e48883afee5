"""What is done to Postgres: gone, hanging, full, read-only, refusing; and to all parts at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from tests.chaos.scenarios.registry import IN_FLIGHT_S, PAUSE_S, away, crash, hanging, scenario, victim
from tests.chaos.stage import PATIENCE_S, Stage
from tests.support.core import eventually
from tests.support.player import SimulatedPlayer
from tests.support.server_process import ServerProcess


@scenario("postgres-restart")
async def postgres_restart(stage: Stage) -> None:
    """kill -9 of Postgres, and up again."""
    await crash(stage, stage.postgres)


@scenario("postgres-half-open", postgres_proxy=True)
async def postgres_half_open(stage: Stage) -> None:
    """Every connection to Postgres dies without a word: new ones take their place."""
    assert stage.postgres_proxy is not None
    async with away(stage):
        stage.postgres_proxy.freeze()
        await stage.pause(0.5, 1.0)


@scenario("postgres-paused")
async def postgres_paused(stage: Stage) -> None:
    """Postgres hangs for 10 s: frames are acknowledged, `saved` stands still."""
    async with away(stage), hanging(stage.postgres):
        await _only_saved_stands_still(stage, PAUSE_S)


@scenario("postgres-full")
async def postgres_full(stage: Stage) -> None:
    """Postgres has no connection to give for 10 s."""
    async with away(stage), _locked_out(stage, stage.servers):
        await _only_saved_stands_still(stage, PAUSE_S)


@scenario("postgres-refuses-one")
async def postgres_refuses_one(stage: Stage) -> None:
    """Postgres has no connection to give to one process, which the others take for dead: it knows when it is back."""
    await stage.pause(0.5, 1.5)
    server = stage.choose()
    there = {player: len(player.close_codes()) for player in stage.on(server)}
    async with stage.fault():
        async with _locked_out(stage, [server]):
            await _only_saved_stands_still(stage, PAUSE_S, list(there))
        for player, closed in there.items():
            await player.until(
                lambda p=player, n=closed: len(p.close_codes()) > n, PATIENCE_S, "its session to be taken"
            )
    for player, closed in there.items():
        if (code := player.close_codes()[closed]) != 1012:
            stage.breach(f"{player.session_id}: taken from a process without Postgres with {code}, not 1012")


@asynccontextmanager
async def _locked_out(stage: Stage, servers: Sequence[ServerProcess]) -> AsyncIterator[None]:
    """These processes lose their connections to Postgres and get no others."""
    roles = [stage.role_of(server) for server in servers]
    async with stage.sql() as sql:
        try:
            for role in roles:
                await sql.execute(f"ALTER ROLE {role} CONNECTION LIMIT 0")
            await sql.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = ANY ($1)", roles)
            yield
        finally:
            for role in roles:
                await sql.execute(f"ALTER ROLE {role} CONNECTION LIMIT -1")


@scenario("postgres-read-only")
async def postgres_read_only(stage: Stage) -> None:
    """Postgres takes no writes for 10 s, as after a failover to a standby."""
    async with away(stage), stage.sql() as sql:
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
    async with victim(stage) as server, stage.fault(away=True), hanging(stage.postgres):
        await _only_saved_stands_still(stage, PAUSE_S)
        await server.kill9()


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
    """Postgres refuses one session's row: its socket closes 1011, its state is a dead letter, all others are saved."""
    victim, *others = stage.rng.sample(stage.players, len(stage.players))
    closed = len(victim.close_codes())
    async with stage.fault(), stage.sql() as sql:
        await sql.execute(REFUSE.format(session_id=victim.session_id))
        try:
            await victim.until(lambda: len(victim.close_codes()) > closed, what="the refused session's socket to close")
            if victim.close_codes()[closed] != 1011:
                stage.breach(f"a refused row closed {victim.close_codes()[closed]}, not 1011")
            try:
                await eventually(lambda: _has_dead_letters(stage), PATIENCE_S)
            except TimeoutError:
                stage.breach("a refused row is no dead letter")
            reported = [player.last_seq for player in others]
            for player, seq in zip(others, reported, strict=True):
                await player.until_saved(seq)
        finally:
            await sql.execute("DROP TRIGGER chaos_refuse ON video_sessions; DROP FUNCTION chaos.refuse()")


async def _has_dead_letters(stage: Stage) -> bool:
    return bool(await stage.in_thread(stage.valkey.command, "XLEN", "dead:telemetry") != b":0\r\n")


async def _only_saved_stands_still(
    stage: Stage, seconds: float, players: Sequence[SimulatedPlayer] | None = None
) -> None:
    await asyncio.sleep(IN_FLIGHT_S)
    concerned = stage.players if players is None else players
    before = {player: (player.acked, player.saved) for player in concerned if player.connected}
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


@scenario("all-parts-die")
async def all_parts_die(stage: Stage) -> None:
    """kill -9 of a process, of Redis and of Postgres within a second, in whichever order."""
    await stage.pause(0.5, 1.5)
    async with victim(stage) as server, stage.fault(away=True):
        deaths = [
            server.kill9(),
            stage.in_thread(stage.valkey.kill),
            stage.in_thread(stage.postgres.kill),
        ]
        for death in stage.rng.sample(deaths, len(deaths)):
            await death
            await stage.pause(0.0, 0.3)
        await asyncio.gather(stage.in_thread(stage.valkey.start), stage.in_thread(stage.postgres.start))

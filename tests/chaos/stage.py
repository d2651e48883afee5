"""Everything a scenario needs, of its own: Postgres, Valkey, server processes, players that watch, people who ask.

What happens on it is judged at the end: `Stage.judge`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import psutil

from embedded.postgres import Postgres
from embedded.valkey import Valkey
from server.listener import bind
from tests.chaos import history
from tests.chaos.players import Poster, Repeater, Shuffler, resumes_s
from tests.chaos.proxy import PostgresProxy, Proxy, RedisProxy, unix_socket_of
from tests.chaos.verdict import Verdict
from tests.support.classroom import Classroom, classroom
from tests.support.lectures import Lecture, make_lecture
from tests.support.model import GREATEST_SEQ, differences, expected_folds
from tests.support.player import Refused, SimulatedPlayer
from tests.support.server_process import ROOT, ServerProcess
from tests.support.services import data_directory

# How long everybody has to be well again after a fault, before the scenario is given up.
PATIENCE_S = 30.0
ASK_EVERY_S = 0.1
# The rig speaks faster than players do, and does not wait long.
QUICK = {
    "LECTERN_SESSIONS__GRACE_S": "2",
    "LECTERN_SESSIONS__REAPER_S": "1",
    "LECTERN_AUTH__ACCESS_TTL_S": "86400",
}
# What processes count, and where rows have it: not less, as long as no process has lost its counters.
COUNTED = {
    "lectern_frames_total": "frames",
    "lectern_gaps_total": "gaps",
    "lectern_duplicates_total": "duplicates",
}
# The statement that saves a checkpoint.
CHECKPOINT = b"SET state ="


@dataclass(frozen=True)
class Options:
    """What a run was asked for."""

    processes: int = 2
    players: int = 30
    seed: int = 1
    seconds: float = 0.0  # how long a scenario's faults go on; once at least
    interval_s: float = 0.1
    root: Path = ROOT  # the tree whose server is run
    keep_logs: Path | None = None


@dataclass(frozen=True)
class Needs:
    """What a scenario wants other than usual."""

    settings: Mapping[str, str] = field(default_factory=dict)
    kind: type[SimulatedPlayer] = Repeater
    players: Callable[[int], int] = lambda players: players
    interval_s: float | None = None  # between a player's frames; None: as the run was asked for
    ack_timeout_s: float = 10.0
    receive_bytes: int | None = None
    postgres_proxy: bool = False
    redis_proxy: bool = False
    front_proxy: bool = False
    program: Sequence[str] = ("-m", "server")


class Stage:
    """Where a scenario plays."""

    def __init__(self, options: Options, needs: Needs) -> None:
        self.options = options
        self.needs = needs
        self.interval_s = needs.interval_s or options.interval_s
        self.rng = random.Random(options.seed)
        self.postgres: Postgres
        self.valkey: Valkey
        self.postgres_proxy: PostgresProxy | None = None
        self.redis_proxy: RedisProxy | None = None
        self.front_proxies: list[Proxy] = []
        self.servers: list[ServerProcess] = []
        self.lecture: Lecture
        self.room: Classroom
        self.violations: list[str] = []
        self.recoveries_s: list[float] = []
        self.away: list[tuple[float, float]] = []
        self.retired: list[SimulatedPlayer] = []  # superseded by another player of their session
        self.deserted: list[SimulatedPlayer] = []
        self.may_cut: set[ServerProcess] = set()  # whose connections may break just now
        self._asking: list[asyncio.Task[None]] = []
        self._first_pids: list[int | None] = []

    # What a scenario does ---------------------------------------------------------------------------------------------

    @property
    def players(self) -> list[SimulatedPlayer]:
        """Everybody who still watches."""
        return self.room.players

    def choose(self) -> ServerProcess:
        """One of the processes that run."""
        return self.rng.choice([server for server in self.servers if server.pid is not None])

    def on(self, server: ServerProcess) -> list[SimulatedPlayer]:
        """The players whose socket is there."""
        return [player for player in self.players if player.connected and player._base == self.address_of(server)]

    def address_of(self, server: ServerProcess) -> str:
        """Where players find it, and no other."""
        if not self.front_proxies:
            return server.direct_url
        return f"http://127.0.0.1:{self.front_proxies[self.servers.index(server)].port}"

    def succeed(self, player: Repeater, base_urls: Sequence[str]) -> Repeater:
        """Another player of the same session, elsewhere; this one reports nothing new any more."""
        self.room.hush(player)
        player.witness.had_before = GREATEST_SEQ  # what its heir sends may be acknowledged to it
        heir = player.heir(base_urls)
        heir.start()
        return heir

    def settle(self, winner: SimulatedPlayer, rivals: Sequence[SimulatedPlayer]) -> None:
        """Of several players of one session, `winner` goes on watching."""
        self.retired += [rival for rival in rivals if rival is not winner]
        self.room.players = [player for player in self.room.players if player not in rivals] + [winner]
        self.room.watch(winner, None, self.interval_s)

    def role_of(self, server: ServerProcess) -> str:
        """The database role of this process alone."""
        return _role(self.servers.index(server))

    def forgive_redis(self) -> None:
        """Redis is about to lose data, and players know that it may have."""
        for player in self.players:
            player.witness.forgive_redis()

    async def desert(self, player: SimulatedPlayer) -> None:
        """The player goes without a word and never comes back."""
        self.room.hush(player)
        self.room.players.remove(player)
        self.deserted.append(player)
        await player.leave()

    def memory_bytes(self, server: ServerProcess) -> int:
        """What a process holds in memory."""
        return int(psutil.Process(server.pid).memory_info().rss)

    def breach(self, what: str) -> None:
        """A promise was broken."""
        self.violations.append(what)

    async def pause(self, shortest_s: float, longest_s: float) -> None:
        """Let some time pass."""
        await asyncio.sleep(self.rng.uniform(shortest_s, longest_s))

    @asynccontextmanager
    async def fault(self, *, away: bool = False) -> AsyncIterator[None]:
        """What happens inside is the fault. `away`: nobody can open a socket meanwhile, so resuming is timed from its
        end. When it is over everybody has to be well again: connected, and all that was reported so far saved."""
        began = time.monotonic()
        yield
        ended = time.monotonic()
        if away:
            self.away.append((began, ended))
        await self.recovered(ended)

    async def recovered(self, since: float) -> None:
        """Time until everybody is well again."""
        until = {player: player.last_seq for player in self.players if player.stopped is None}

        def well(player: SimulatedPlayer, seq: int) -> bool:
            # Without a socket frames wait in the stream until their owner counts as dead, and that is well.
            settled = player.acked if isinstance(player, Poster) else player.saved
            return player.stopped is not None or (player.connected and settled >= seq)

        try:
            await asyncio.gather(
                *(
                    p.until(lambda p=p, seq=seq: well(p, seq), PATIENCE_S, f"{seq} to be saved")
                    for p, seq in until.items()
                )
            )
        except TimeoutError as error:
            self.breach(f"not well again after {PATIENCE_S:g} s: {error}")
        self.recoveries_s.append(time.monotonic() - since)

    @asynccontextmanager
    async def sql(self) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
        """A connection past all proxies, as who may do everything."""
        connection = await asyncpg.connect(self.postgres.dsn)
        try:
            yield connection
        finally:
            connection.terminate()

    async def in_thread(self, work: Callable[..., Any], *args: Any) -> Any:
        """Do what blocks without keeping the players waiting."""
        return await asyncio.to_thread(work, *args)

    async def metric(self, server: ServerProcess, name: str) -> float:
        """The sum of a metric of a process, over its labels."""
        async with self.room.players[0].http.get(f"{server.direct_url}/metrics") as answer:
            lines = (await answer.text()).splitlines()
        return sum(
            float(line.rpartition(" ")[2]) for line in lines if line.startswith(name) and line[len(name)] in " {"
        )

    # Around it --------------------------------------------------------------------------------------------------------

    async def judge(self, scenario: str) -> Verdict:
        """Let everybody finish, then compare."""
        self.room.enough()
        for player in self.players:
            if isinstance(player, Shuffler):
                player.behave()
                player.report(1.0)
        with contextlib.suppress(TimeoutError):
            await self.room.finish(PATIENCE_S)
        for task in self._asking:
            task.cancel()
        await asyncio.gather(*self._asking, return_exceptions=True)
        verdict = Verdict(scenario, players=len(self.players))
        answers = []
        for player in self.players:
            answers.append(answer := await self._answer(player))
            self._compare(verdict, player, player.expected(), answer)
            if player.stopped is not None:
                self.breach(f"{player.session_id} stopped: {player.stopped}")
        for player in self.deserted:
            answer = await self._answer(player)
            if answer["last_seq"] < player.acked:
                self.breach(f"{player.session_id}: {player.acked} was acknowledged, {answer['last_seq']} is known")
            known = [frame for seq, frame in player.frames.items() if seq <= max(player.acked, answer["last_seq"])]
            self._compare(verdict, player, expected_folds(known), answer)
        verdict.violations = self.violations + await self._told() + await self._uncounted(answers)
        verdict.resumes_s = [s for player in self.players for s in resumes_s(player, self.away)]
        verdict.recoveries_s = self.recoveries_s
        return verdict

    def _compare(
        self, verdict: Verdict, player: SimulatedPlayer, expected: Mapping[str, Any], answer: Mapping[str, Any]
    ) -> None:
        verdict.count(expected, answer)
        self.violations += [f"{player.session_id}: {difference}" for difference in differences(expected, answer)]

    async def _answer(self, player: SimulatedPlayer) -> dict[str, Any]:
        """The session's row, asked of any process."""
        for server in self.servers:
            with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError, Refused):
                return await player.get_session(server.direct_url)
        self.breach(f"nobody answers about {player.session_id}")
        return {"frames": 0, "last_seq": 0, "saved_seq": 0}

    async def _told(self) -> list[str]:
        """What players were told and what was written, against each other."""
        async with self.sql() as connection:
            writes = await history.read_history(connection)
        found = history.broken_promises(writes)
        since_1970 = time.time() - time.monotonic()
        for player in [*self.players, *self.retired, *self.deserted]:
            found += [f"{player.session_id}: {violation}" for violation in player.violations]
            said = [(e.at + since_1970, e.data["saved"]) for e in player.events_of("hello", "ack")]
            own = next((w for sid, w in writes.items() if str(sid) == player.session_id), [])
            found += [f"{player.session_id} {what}" for what in history.untrue_saves(said, own)]
            found += [
                f"{player.session_id}: an opening was refused with {e.data['status']}"
                for e in player.events_of("refused")
                if not _allowed(e.data["status"], e.data.get("retry_after"))
            ]
        for server in self.servers:
            found += [f"logged {error}" for error in _unforeseen(server.log)]
        return found

    async def _uncounted(self, answers: Sequence[Mapping[str, Any]]) -> list[str]:
        """Metrics that fell short of what happened, where no process was killed in between."""
        if [server.pid for server in self.servers] != self._first_pids:
            return []
        known = {name: sum(answer[member] for answer in answers) for name, member in COUNTED.items()}
        known["lectern_acks_total"] = sum(len(player.events_of("ack")) for player in self.players)
        counted = {name: sum([await self.metric(server, name) for server in self.servers]) for name in known}
        # What its writer did not come to apply, who claimed the session did.
        replayed = [await self.metric(server, "lectern_replayed_frames_total") for server in self.servers]
        counted["lectern_frames_total"] += sum(replayed)
        return [
            f"{name} is {counted[name]:g} where {known[name]} are known"
            for name in known
            if counted[name] < known[name]
        ]

    def ask_around(self) -> None:
        """From now on people use the rest, too: of every process, and of whichever takes them from the shared socket,
        where somebody always listens."""
        direct = [self._ask(server.direct_url, {server}) for server in self.servers]
        shared = [self._ask(self.servers[0].base_url, set(self.servers), force_close=close) for close in (True, False)]
        self._asking = [asyncio.create_task(asking) for asking in (*direct, *shared)]

    async def _ask(self, base_url: str, servers: set[ServerProcess], *, force_close: bool = False) -> None:
        asker = self.players[0]
        asked = itertools.cycle(
            [
                ("GET", "/api/courses", None),
                ("GET", f"/api/videos/sessions/{asker.session_id}", None),
                ("PUT", f"/api/progress/lectures/{self.lecture.lecture_id}", {"position": 1}),
                ("POST", "/api/enrollments", {"course_id": str(self.lecture.course_id)}),
            ]
        )
        headers = {"Authorization": f"Bearer {asker.account.access_token}"}
        connector = aiohttp.TCPConnector(force_close=force_close)
        timeout = aiohttp.ClientTimeout(total=10)
        async with aiohttp.ClientSession(timeout=timeout, headers=headers, connector=connector) as http:
            for method, path, body in asked:
                try:
                    async with http.request(method, base_url + path, json=body) as answer:
                        await answer.read()
                        if not _allowed(answer.status, answer.headers.get("Retry-After")):
                            self.breach(f"{method} {path} answered {answer.status}")
                except (aiohttp.ClientError, OSError, TimeoutError) as error:
                    not_there = len(servers) == 1 and isinstance(error, aiohttp.ClientConnectorError)
                    if not not_there and not servers & self.may_cut:
                        self.breach(f"{method} {path} got no answer: {error!r}")
                await asyncio.sleep(ASK_EVERY_S)


def _unforeseen(log: str) -> list[str]:
    """The exceptions that a server logged as errors, by event, and those that it did not even log."""
    lines = log.splitlines()
    said = [json.loads(line) for line in lines if line.startswith("{") and "Traceback" in line]
    errors = [entry for entry in said if entry["level"] == "error"]
    return [line for line in lines if line.startswith("Traceback")] + [
        f"{entry['event']}: {entry['exception'].splitlines()[-1]}" for entry in errors
    ]


def _allowed(status: int | None, retry_after: str | None) -> bool:
    """No 5xx but 503 with Retry-After."""
    return status is None or status < 500 or (status == 503 and retry_after is not None)


@asynccontextmanager
async def opened_stage(options: Options, needs: Needs) -> AsyncIterator[Stage]:
    """A stage with everybody on it."""
    stage = Stage(options, needs)
    async with AsyncExitStack() as stack:
        await _open_stores(stage, stack)
        await _open_servers(stage, stack)
        ids = {"course_id": str(stage.lecture.course_id), "video_id": str(stage.lecture.video_id)}
        stage.room = await stack.enter_async_context(
            classroom(
                [stage.address_of(server) for server in stage.servers],
                **ids,
                players=needs.players(options.players),
                kind=needs.kind,
                spread=True,
                ack_timeout_s=needs.ack_timeout_s,
                receive_bytes=needs.receive_bytes,
            )
        )
        stage.ask_around()
        try:
            yield stage
        finally:
            for task in stage._asking:
                task.cancel()
            if options.keep_logs is not None:
                _keep_logs(stage, options.keep_logs)


async def _open_stores(stage: Stage, stack: AsyncExitStack) -> None:
    directory = stack.enter_context(data_directory())
    stage.postgres, stage.valkey = Postgres(directory, durable=False), Valkey(directory, durable=False)
    stack.push_async_callback(asyncio.to_thread, stage.valkey.stop)
    stack.push_async_callback(asyncio.to_thread, stage.postgres.stop)
    await asyncio.gather(asyncio.to_thread(stage.postgres.start), asyncio.to_thread(stage.valkey.start))
    await asyncio.to_thread(_migrate, stage.options.root, stage.postgres.dsn)
    stage.lecture = await make_lecture(stage.postgres.dsn)
    await stage.in_thread(stage.postgres.execute, history.KEEP, "lectern")
    for number in range(stage.options.processes):
        await stage.in_thread(stage.postgres.execute, f"CREATE ROLE {_role(number)} LOGIN IN ROLE lectern")


def _migrate(root: Path, dsn: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "server.data.migrate"], cwd=root, env={"LECTERN_POSTGRES__DSN": dsn},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"the migrations failed: {done.stdout}{done.stderr}")


async def _open_servers(stage: Stage, stack: AsyncExitStack) -> None:
    places = stack.enter_context(data_directory())
    dsn, redis_url = stage.postgres.dsn, stage.valkey.url
    listener = stack.enter_context(bind("127.0.0.1", 0))
    if stage.needs.postgres_proxy:
        sockets = Path(dsn.partition("host=")[2])
        listen = places / ".s.PGSQL.5432"
        proxy = PostgresProxy(sockets / ".s.PGSQL.5432", listen, marker=CHECKPOINT)
        stage.postgres_proxy = await stack.enter_async_context(proxy)
        dsn = f"postgresql://lectern@/lectern?host={places}"
    if stage.needs.redis_proxy:
        listen = places / "redis"
        stage.redis_proxy = await stack.enter_async_context(
            RedisProxy(unix_socket_of(redis_url), listen, prefix=b"tel:")
        )
        redis_url = f"unix://{listen}"
    for number in range(stage.options.processes):
        own_dsn = dsn.replace("//lectern@", f"//{_role(number)}@")
        stage.servers.append(
            ServerProcess(
                own_dsn,
                redis_url,
                {**QUICK, **stage.needs.settings},
                listener=listener,
                patient=False,
                root=stage.options.root,
                program=stage.needs.program,
            )
        )
    for server in stage.servers:
        await stack.enter_async_context(_stopped_at_the_end(server))
        server.launch()
    for server in stage.servers:
        await server.until_ready()
    stage._first_pids = [server.pid for server in stage.servers]
    if stage.needs.front_proxy:
        for server in stage.servers:
            stage.front_proxies.append(await stack.enter_async_context(Proxy(server.direct_port)))


@asynccontextmanager
async def _stopped_at_the_end(server: ServerProcess) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await server.__aexit__()


def _role(number: int) -> str:
    return f"process_{number}"


def _keep_logs(stage: Stage, directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    for number, server in enumerate(stage.servers):
        (directory / f"server-{number}.log").write_text(server.log)
    for player in stage.players:
        lines = [f"{event.at:.4f} {event.kind} {event.data}" for event in player.events]
        (directory / f"player-{player.session_id}.log").write_text("\n".join(lines))

"""The life of sessions in this process: claimed, attached to a socket, fed, let go.

The actor follows the socket: whoever holds the player's socket runs the session, and opening it claims the session in
one statement. Nothing here coordinates processes; the epoch in Postgres is the fence, and what other processes say
(`processes.seen_at`, nudges) is a hint that makes things quick, never right.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import msgspec
import structlog

from actors.checkpoints import Checkpoints, sessions_sql
from actors.ingest import Ingest
from actors.outages import AWAY, looked_at, postponed
from actors.pulse import BEAT_S, Pulse
from actors.reaper import Reaper
from actors.recovery import recover
from actors.registry import Registry, end
from actors.sharing import BEAT_S as SHARING_S
from actors.sharing import Sharing
from actors.video_session import lookahead, quality
from actors.video_session.actor import Peer, VideoSession, decide_all
from actors.video_session.messages import (
    MAX_SEQ_JUMP,
    BadFrame,
    Bye,
    Report,
    encode_frame,
    parse_plain_frame,
    parse_socket_frame,
)
from server import metrics
from server.clock import Clock
from server.config import Sessions
from server.data.db import Database, PostgresAway
from server.data.neighbours import Neighbours
from server.data.streams import FRAMES, Appended, Streams, stream_key
from server.supervision import supervise

log = structlog.get_logger()

CLAIMED = "claimed"
RESTART = 1012, "restart"
# So long a round trip to Redis that is under way is waited for.
SERVED_S = 1.0
# Between two looks at who has to be told that `saved` moved.
TELL_S = 0.1
# Sessions marked for reading in one slice of the sweep.
SLICE = 500


class Runtime:
    """The live core of one process."""

    def __init__(
        self,
        db: Database,
        streams: Streams,
        settings: Sessions,
        clock: Clock,
        *,
        pulse_db: Database,
        neighbours: Neighbours,
        complete_share: float,
    ) -> None:
        """`pulse_db` is for the sign of life alone: whoever keeps all connections of `db` busy must not make this
        process look dead."""
        self.registry = Registry(uuid4())
        self.settings = settings
        self._db = db
        self._streams = streams
        self._clock = clock
        self.ingest = Ingest(streams, settings, clock)
        self.checkpoints = Checkpoints(self.registry, db, streams, settings, clock, complete_share=complete_share)
        self.pulse = Pulse(pulse_db, self.registry.process_id, clock, settings.process_alive_s)
        self.reaper = Reaper(self.registry, self.checkpoints, db, streams, settings, clock, self.pulse)
        # What nudges of other kinds than ours, which concern no session, are told to.
        self.hearers: dict[str, Callable[[UUID], Awaitable[None]]] = {}
        # The same for those that say more than an id; they must not wait, for frames are told of here, too.
        self.readers: dict[str, Callable[[str], None]] = {}
        # What others want to go on under our eyes, by name; added before the start.
        self.companions: dict[str, Callable[[], Awaitable[None]]] = {}
        # Nudges that wait for their turn: sessions that were claimed elsewhere, and what hearers are told of.
        self._claimed: set[VideoSession] = set()
        self._heard: dict[tuple[str, UUID], None] = {}
        self._asked = asyncio.Event()
        # What other sessions on a network get, and what ours have to tell of theirs.
        self.neighbours = neighbours
        self._levels: list[tuple[str, float]] = []
        self.sharing = Sharing(self.registry.process_id, neighbours)
        self._tasks: list[asyncio.Task[None]] = []
        self._draining = False
        # Frames on their way, and frames unsaved, with which a session is crowded.
        self._most = settings.unacked_max, settings.unsaved_max

    async def start(self) -> None:
        """Say that this process lives, then begin to work."""
        await asyncio.to_thread(lookahead.tables)  # most of a second: not while a player waits
        await self.pulse.beat()
        metrics.PROCESS.labels(str(self.registry.process_id)).set(1)
        work: dict[str, Callable[[], Awaitable[None]]] = {
            "ingest": self.ingest.run,
            "checkpoints": self.checkpoints.run,
            "tell": lambda: every(TELL_S, self.checkpoints.tell),
            "held_up": lambda: every(self.settings.checkpoint_s, self.checkpoints.try_again),
            "reaper": self.reaper.run,
            "beat": lambda: every(BEAT_S, self.pulse.beat),
            "look": lambda: every(BEAT_S, self._look),
            "sweep": lambda: every(self.settings.sweep_s, self._sweep),
            "remind": lambda: every(BEAT_S, self.remind),
            "neighbours": lambda: every(BEAT_S, self._tell_neighbours),
            "sharing": lambda: every(SHARING_S, lambda: self.sharing.beat(self.registry)),
            "nudges": self._listen,
            "nudged": self._look_into,
            **self.companions,
        }
        self._tasks = [asyncio.create_task(supervise(name, run), name=name) for name, run in work.items()]

    async def drain(self, timeout_s: float) -> None:
        """Save everything and give it up, then end every socket with 1012; not later than `timeout_s` from now."""
        self._draining = True
        until = asyncio.get_running_loop().time() + timeout_s
        await _saved(self.checkpoints.save_changed(release=True), until)
        held = list(self.registry)
        for session in held:
            self.registry.drop(session, *RESTART)
        await _saved(self.checkpoints.save_late(held), until)

    async def stop(self) -> None:
        """Stop working and say that this process is gone."""
        tasks = set(self._tasks)
        while tasks:
            for task in tasks:
                task.cancel()
            # redis-py swallows a cancellation that comes while it connects: such a task is told again.
            _, tasks = await asyncio.wait(tasks, timeout=0.2)
        with contextlib.suppress(*AWAY):
            await self.pulse.cease()

    # Sessions --------------------------------------------------------------------------------------------------------

    async def claim(
        self, session_id: UUID, claimed_by: str, expected: int | None = None, asked_at: datetime | None = None
    ) -> VideoSession | None:
        """Own the session from now on: fence off whoever had it, load, replay. None for an ended or unknown one, and
        for one that is not under the epoch `expected` any more, if that is given.

        With `asked_at`, when that was by the clock of Postgres, a claim to which it comes when nobody waits for it any
        more is none: a Postgres that hung does then what it was asked before, and a live socket would end by it.

        Raises PostgresAway, RedisError.
        """
        until = asked_at and asked_at + timedelta(seconds=self._db.timeout_s)
        held = self.registry.get(session_id)  # until our own announcement reaches us
        async with self._db.connection() as connection:
            with self.strays_where_it_fails(session_id):
                row = await sessions_sql.claim_session(
                    connection,
                    session_id=session_id,
                    owner=self.registry.process_id,
                    claimed_by=claimed_by,
                    expected=expected,
                    until=until,
                )
        if row is None:
            if until is not None and await self._standing(session_id) is not None:
                raise PostgresAway("the claim came too late")
            return None
        self.registry.strays.pop(session_id, None)  # it is looked after; nobody else is to claim it meanwhile
        with self.strays_where_it_fails(session_id):
            await self.announce_claim(session_id, row["epoch"])
            session = await recover(row, self._streams, self._clock)
        if held is not None:
            session.take_over(held)
        decide_all([session], self.settings.decision_ttl_ms)
        self.registry.add(session)
        return session

    async def open(self, row: Mapping[str, Any]) -> VideoSession | None:
        """Claim the session of `row` (of `get_own_session`) for a socket; None where it has ended meanwhile.

        Raises PostgresAway, RedisError.
        """
        if row["owner_alive"]:
            await self._streams.ping()  # or a socket that is open somewhere would end for an opening that fails
        return await self.claim(row["id"], "socket", asked_at=row["read_at"])

    @contextlib.contextmanager
    def strays_where_it_fails(self, *session_ids: UUID) -> Iterator[set[UUID]]:
        """These sessions, and those that are added within, may be ours from here on."""
        ids = set(session_ids)
        try:
            yield ids
        except BaseException:
            self.registry.strays |= dict.fromkeys(ids, self._clock.monotonic())
            raise

    async def announce_claim(self, session_id: UUID, epoch: int) -> None:
        """Tell whoever holds the session under an older epoch that it is fenced off; best effort, their sweep finds it
        too."""
        with contextlib.suppress(*AWAY):
            await self._streams.nudge(CLAIMED, f"{session_id} {epoch}")

    async def finish(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Sessions that the caller has just ended under this process's id (rows of `end_sessions`): tell whoever holds
        them, and fold what their streams still hold; what cannot be done now the reaper does."""
        # Not strays before: the reaper would claim anew what is under way here, and be through with it later.
        with contextlib.suppress(*AWAY), self.strays_where_it_fails(*(row["id"] for row in rows)):
            await self._finish(rows)

    async def _finish(self, rows: Sequence[Mapping[str, Any]]) -> None:
        for row in rows:
            await self.announce_claim(row["id"], row["epoch"])
        held = [session for row in rows if (session := self.registry.get(row["id"])) is not None]
        for session in held:
            self.registry.fence_off(session, "socket")
        # What is on its way is in the streams before they are read.
        await asyncio.gather(*(self.ingest.served(session, SERVED_S) for session in held))
        await self.reaper.finish(sorted(rows, key=lambda row: row["id"]))

    def attach(self, session: VideoSession, peer: Peer) -> None:
        """A socket speaks for the session from now on."""
        if self._draining:
            self.registry.drop(session, *RESTART)
        if session.dropped_as is not None:
            end(peer, *session.dropped_as)
            return
        session.peer = peer
        session.untold = False  # `hello` told it
        session.closed_at = None
        self.ingest.mark(session)

    def detach(self, session: VideoSession, peer: Peer) -> None:
        """The socket is gone: what it brought is saved at once, and the session let go."""
        if session.peer is peer:
            session.peer = None
            session.closed_at = self._clock.monotonic()
            session.used_at = session.closed_at - self.settings.rest_idle_s  # a socket does not linger
            if told := quality.told_by(session.state.quality):
                self._levels.append(told)
            session.changed()  # without a socket it is no longer at rest
            self.checkpoints.kick(session)

    def submit(self, session: VideoSession, frame: Report, blob: bytes | None = None) -> None:
        """A numbered frame of the session's socket, with what is kept of it if at hand. Raises BadFrame."""
        if session.accept(frame, blob):
            self.ingest.mark(session)
        else:
            session.send_ack(self._clock.monotonic())

    def take(self, session: VideoSession, text: str) -> bool:
        """A text frame of the session's socket, as it arrives; whether that was all. What has to wait, to be answered
        or to be refused is left to be given to `submit`, in its turn."""
        pending, most = len(session.pending), self._most
        if pending >= most[0] or session.state.frames - session.saved_frames + pending >= most[1]:
            return False
        try:
            if session.plain and (frame := parse_plain_frame(text)) is not None:
                self.submit(session, frame, text.encode())
                return True
            told = parse_socket_frame(text)
            if isinstance(told, Bye):
                return False
            session.plain = False  # what it says beyond what we keep it will say in every frame
            self.submit(session, told)
        except BadFrame:
            return False
        return True

    async def end(self, session: VideoSession) -> None:
        """The player said `bye`: apply what is on its way, then end the session in Postgres."""
        await self.ingest.served(session, self.settings.checkpoint_s / 2)
        session.bye = True
        session.changed()
        self.checkpoints.kick(session)

    def crowded(self, session: VideoSession) -> bool:
        """Whether the socket should not be read for now: too much is on its way or unsaved."""
        return not session.dropped and (
            len(session.pending) >= self.settings.unacked_max or session.unsaved >= self.settings.unsaved_max
        )

    async def room(self, session: VideoSession) -> None:
        """Wait until something moved for a crowded session, or a little while."""
        await self.ingest.served(session, SERVED_S)
        if session.unsaved >= self.settings.unsaved_max:
            await asyncio.sleep(self.settings.checkpoint_s / 4)

    # Frames from beside a socket -------------------------------------------------------------------------------------

    async def deliver(
        self, row: Mapping[str, Any], frames: Sequence[Report]
    ) -> tuple[Appended, dict[str, Any] | None] | None:
        """Frames that came by REST for the session of `row` (of `get_own_session`): what was new, and the decision.

        They claim the session only when no living process owns it, so a beacon never kicks a live socket. None when the
        session has ended.

        Raises:
            BadFrame: a seq is absurdly far above the highest.
            StreamFull: too many frames wait to be saved.
            PostgresAway, RedisError.
        """
        session = self.registry.get(row["id"])
        if session is None and self._is_nobodys(row):
            session = await self.claim(row["id"], "rest", row["epoch"])
            if session is None:  # it has ended, or somebody has claimed it since the row was read
                standing = await self._standing(row["id"])
                if standing is None:
                    return None
                row, session = {**row, **standing}, self.registry.get(row["id"])
        cursor = session.state.cursor if session else (row["last_seq"], int(row["last_sub"]))
        _check_jumps(frames, session.highest if session else cursor[0])
        appended = await self._streams.append(
            stream_key(row["id"]),
            cursor,
            [(frame.seq if isinstance(frame.seq, int) else None, encode_frame(frame)) for frame in frames],
            self.settings.unsaved_max,
            by_owner=session is not None,
        )
        if session is None or session.dropped:
            return await self._hand_over(row["id"], appended)
        session.used_at = self._clock.monotonic()
        if appended.duplicates:
            session.count_duplicates(appended.duplicates)
        await self.ingest.served(session, SERVED_S)
        return appended, msgspec.to_builtins(session.advice)

    async def _hand_over(self, session_id: UUID, appended: Appended) -> tuple[Appended, dict[str, Any] | None] | None:
        """Frames are in the stream of a session that is not held here. Its owner may have let it go before they came:
        then the reaper has them. None when the session has ended."""
        await self._streams.nudge(FRAMES, session_id)
        standing = await self._standing(session_id)
        if standing is None:
            return None
        if standing["owner"] is None:
            await sessions_sql.give_to_reaper(self._db, session_ids=[session_id])
        return appended, standing["decision"]

    async def _standing(self, session_id: UUID) -> Mapping[str, Any] | None:
        """What of the session's row may have changed since it was read; None when it has ended."""
        row: Mapping[str, Any] | None = await sessions_sql.get_standing(self._db, session_id=session_id)
        return None if row is None or row["status"] == "ended" else row

    def _is_nobodys(self, row: Mapping[str, Any]) -> bool:
        """Whether no living process owns the session of `row`, as far as this one can tell."""
        dead = not row["owner_alive"] and self.pulse.steady
        stray = row["owner"] == self.registry.process_id and row["id"] in self.registry.strays
        return row["owner"] is None or dead or stray

    # What goes on by itself ------------------------------------------------------------------------------------------

    async def _look(self) -> None:
        with looked_at("redis"):
            await self._streams.ping()

    async def remind(self) -> None:
        """Frames that wait long, for Redis or Postgres, are acknowledged as far as they are in: so players know that we
        are here, and that the last decision holds."""
        now = self._clock.monotonic()
        lag = unsaved = 0
        for session in list(self.registry.restless):
            lag += len(session.pending)
            waiting = session.unsaved
            unsaved += waiting
            if waiting and now - session.last_ack_at >= self.settings.ack_s:
                session.send_ack(now)
        metrics.STREAM_LAG.set(lag)
        metrics.UNSAVED.set(unsaved)

    async def _tell_neighbours(self) -> None:
        """Best effort: what cannot be told now never is."""
        levels, self._levels = self._levels, []
        if levels:
            await self.neighbours.tell(levels)

    async def _sweep(self) -> None:
        """Behind the nudges: look at every session's epoch and stream, a slice at a time."""
        async with self._db.connection() as connection:
            await sessions_sql.forget_processes(connection, older_than_s=3600)
        held = list(self.registry)
        for start in range(0, len(held), SLICE):
            part = [session for session in held[start : start + SLICE] if not session.dropped]
            await self.checkpoints.check_fences(part)
            for session in part:
                self.ingest.mark(session)
            await asyncio.sleep(0)

    async def _listen(self) -> None:
        """Hear nudges until cancelled; what is missed the sweep finds."""
        while True:
            try:
                async for message in self._streams.nudges():
                    try:
                        self._nudged(message)
                    except ValueError:
                        log.warning("nudge_not_understood", message=message[:200])
            except AWAY as error:
                postponed("postponed", error)
                await asyncio.sleep(BEAT_S)

    def _nudged(self, message: str) -> None:
        """Do what a nudge asks for; what Postgres has to be asked about is left to `_look_into`, for whoever is nudged
        of frames waits for them. Raises ValueError for what is no nudge."""
        kind, _, told = message.partition(" ")
        if kind in self.readers:
            self.readers[kind](told)
            return
        if kind in self.hearers:
            self._heard[kind, UUID(told)] = None
            self._asked.set()
            return
        session_id, _, epoch = told.partition(" ")
        session = self.registry.get(UUID(session_id))
        if session is None:
            return
        if kind == FRAMES:
            self.ingest.mark(session)
        elif kind == CLAIMED and int(epoch) > session.epoch:  # our own claims we hear of, too
            self._claimed.add(session)
            self._asked.set()

    async def _look_into(self) -> None:
        """Do what nudges ask for and Postgres knows about, until cancelled: claims first, those of a moment at once."""
        while True:
            await self._asked.wait()
            claimed, self._claimed = self._claimed, set()
            heard = next(iter(self._heard), None)
            try:
                if claimed:
                    await self.checkpoints.check_fences([session for session in claimed if not session.dropped])
                if heard is not None:
                    del self._heard[heard]
                    await self.hearers[heard[0]](heard[1])
            except AWAY as error:
                postponed("postponed", error)
            if not self._claimed and not self._heard:
                self._asked.clear()


async def _saved(saving: Awaitable[None], until: float) -> None:
    """Wait for this, until then (by the loop's clock) at most."""
    try:
        async with asyncio.timeout_at(until):
            await saving
    except AWAY as error:
        log.warning("drained_unsaved", error=f"{type(error).__name__}: {error}")  # the streams have the rest


async def every(seconds: float, work: Callable[[], Awaitable[None]]) -> None:
    """Do this again and again, until cancelled; while a part is away it is put off."""
    while True:
        try:
            await work()
        except AWAY as error:
            postponed("postponed", error)
        await asyncio.sleep(seconds)


def _check_jumps(frames: Sequence[Report], highest: int) -> None:
    for frame in frames:
        if isinstance(frame.seq, int):
            if frame.seq > highest + MAX_SEQ_JUMP:
                raise BadFrame(f"`seq` may be at most {MAX_SEQ_JUMP} above the highest, which is {highest}", "/seq")
            highest = max(highest, frame.seq)

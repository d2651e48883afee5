"""The conversations of this process: questions become turns here, sockets listen here, and what a dead process left is
ended here.

Whichever process takes a question answers it. Nothing coordinates them but Postgres (one turn at a time, the epoch) and
the user's stream (the end after which nothing more is taken); nudges make things quick, a sweep makes them sure.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Iterator
from typing import Any
from uuid import UUID

import structlog

from actors.conversation.actor import Conversation, Listener, Peer
from actors.conversation.answering import Answering, Parts
from actors.conversation.messages import Accepted, ChatError, encode
from actors.conversation.state import fold
from actors.conversation.turns import Outcome, Place, Question, Seen, Turn, TurnBusy, TurnOrphaned, Viewer, chat_sql
from actors.outages import AWAY, postponed
from actors.pulse import Pulse
from actors.registry import Registry, retry_ms
from actors.video_session.state import SessionState, apply, load_state
from server import metrics
from server.config import Sessions
from server.data.answers import CHAT, END
from server.data.db import Database, Record
from server.data.streams import ANNOUNCED_WITHIN_S, REDIS_AWAY, Streams, stream_key

log = structlog.get_logger()

# The kind of nudge that says that a turn is to end; its subject is the turn.
CHAT_STOP = "chat_stop"
MOST_ORPHANS = 100
RESTART = 1012, "restart"
# How often those who wait for nothing are woken, in sweeps: their nudge may have been lost.
IDLE_SWEEPS = 15
POLL_S = 0.5
# Of a session that another process has: more than it may leave unsaved.
MOST_UNSAVED = 3000


class Conversations:
    """All of this process's, by user."""

    def __init__(
        self, db: Database, parts: Parts, streams: Streams, sessions: Sessions, registry: Registry, pulse: Pulse
    ) -> None:
        """`registry` and `pulse` are the runtime's: who watches what, and whether others can be called dead."""
        self.parts = parts
        self._db = db
        self._streams = streams
        self._sessions = sessions
        self._registry = registry
        self._pulse = pulse
        self._held: dict[UUID, Conversation] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._sweeps = 0
        self._draining = False
        self._interrupting = False

    def __iter__(self) -> Iterator[Conversation]:
        return iter(tuple(self._held.values()))

    def _hold(self, user_id: UUID) -> Conversation:
        if user_id not in self._held:
            self._held[user_id] = Conversation(user_id, self.parts.turns, self.parts.answers)
        return self._held[user_id]

    def _release(self, conversation: Conversation) -> None:
        if conversation.is_idle and self._held.get(conversation.user_id) is conversation:
            conversation.close()
            del self._held[conversation.user_id]

    # Sockets ---------------------------------------------------------------------------------------------------------

    async def listen(self, user_id: UUID, peer: Peer) -> tuple[Listener, Record | None, int]:
        """A socket of the user's listens from now on; the turn that runs, and the number of the newest.

        Of a turn that runs it is told the end alone, until it says `resume`. Raises AWAY.
        """
        last_turn, running = await self.parts.turns.newest(user_id)
        if running is not None and not running["owner_alive"]:
            self._spawn(self._reap_of(user_id))
        listener = Listener(peer, (last_turn, END) if running is None else (running["number"], END - 1))
        if self._draining:
            peer.end(*RESTART, retry_ms())
        return listener, running, last_turn

    def attach(self, user_id: UUID, listener: Listener) -> None:
        """After its `hello`: tell it what has come about since."""
        conversation = self._hold(user_id)
        conversation.listeners.add(listener)
        conversation.wake()

    def detach(self, user_id: UUID, listener: Listener) -> None:
        """Its socket is gone."""
        conversation = self._hold(user_id)
        conversation.listeners.discard(listener)
        self._release(conversation)

    async def resume(self, user_id: UUID, listener: Listener, number: int, chunk: int) -> None:
        """Tell it a turn from after this chunk on. Raises AWAY."""
        row = await self.parts.turns.get(user_id, number)
        if row is None:
            listener.peer.send(encode(ChatError("turn_not_found", "There is no such turn.")))
        elif row["status"] != "running":
            if number in listener.waits_for:
                listener.finish(number)
            listener.followed.add(number)
            listener.tell_rest(row, chunk)
        else:
            listener.follow(number, chunk)
            self._hold(user_id).wake()

    # Turns -----------------------------------------------------------------------------------------------------------

    async def where(self, session_id: UUID, user_id: UUID) -> Place | None:
        """Which lecture, and which of its seconds, a session of the user's is at: asked of its actor where this process
        has it, else of its last checkpoint and what its stream holds after that. None when it is not the user's. Raises
        DATABASE_AWAY."""
        row = await chat_sql.get_watched(self._db, session_id=session_id, user_id=user_id)
        if row is None:
            return None
        session = self._registry.get(session_id)
        if session is not None:
            state = session.state
        else:
            state = load_state(row["state"], (row["last_seq"], int(row["last_sub"])))
            await self._read_on(session_id, state)
        position_ms = row["resume_ms"] if state.position_ms is None else state.position_ms
        return Place(row["course_id"], row["lecture_id"], position_ms)

    async def _read_on(self, session_id: UUID, state: SessionState) -> None:
        """Apply what another process has not saved yet: a learner may have jumped, and ask about what is there."""
        try:
            entries = await self._streams.read_after(stream_key(session_id), state.cursor, MOST_UNSAVED)
        except REDIS_AWAY as error:
            postponed("place_not_read", error)
            return
        for entry in entries:
            with contextlib.suppress(Exception):  # a dead letter is its owner's to bury
                apply(state, entry)

    async def ask(self, viewer: Viewer, question: Question, listener: Listener | None = None) -> int:
        """A question: the number of the turn that it becomes, or is already. `listener` follows it.

        Raises TurnRefused and its kinds, DATABASE_AWAY.
        """
        turn = await self._begin(viewer, question)
        conversation = self._hold(viewer.id)
        if isinstance(turn, Turn):
            self._start(conversation, turn)
        if listener is not None:
            text = turn.question
            listener.peer.send(encode(Accepted(question.id, turn.number, text, turn.conversation_id)))
            await self._follow(conversation, listener, turn)
        else:
            self._release(conversation)
        return turn.number

    async def _begin(self, viewer: Viewer, question: Question) -> Turn | Seen:
        ask_model = self.parts.tutor.is_configured
        seen: Seen | None = None
        for _ in range(2):
            held = [answering.turn.id for answering in self._answerings()]
            with contextlib.suppress(TurnOrphaned):
                turn = await self.parts.turns.begin(viewer, question, ask_model=ask_model, held=held)
                if isinstance(turn, Turn) or not turn.orphan:
                    return turn
                seen = turn
            await self._reap_of(viewer.id)
        if seen is not None:
            return seen
        _, running = await self.parts.turns.newest(viewer.id)
        raise TurnBusy(running["number"] if running else 0)

    async def _follow(self, conversation: Conversation, listener: Listener, turn: Turn | Seen) -> None:
        if isinstance(turn, Turn):
            listener.follow(turn.number, 0)
            conversation.wake()
        elif turn.number not in listener.followed:
            await self.resume(conversation.user_id, listener, turn.number, 0)
        elif not turn.running:
            row = await self.parts.turns.get(conversation.user_id, turn.number)
            if row is not None:
                listener.tell_rest(row, len(row["chunks"]) + 1)

    def _start(self, conversation: Conversation, turn: Turn) -> None:
        def tell(lost: bool) -> None:
            conversation.wake()
            if lost:
                self._spawn(self._tell_behind(conversation, turn.number))

        conversation.answering = answering = Answering(turn, self.parts, tell)
        if self._interrupting:
            answering.interrupt()

        async def run() -> None:
            try:
                await answering.run()
            finally:
                if conversation.answering is answering:
                    conversation.answering = None
                self._release(conversation)

        self._spawn(run())

    async def ended(self, user_id: UUID, number: int) -> Record | None:
        """Wait for a turn's end, wherever it is answered: its row, None when it was deleted. Raises DATABASE_AWAY."""
        while True:
            conversation = self._held.get(user_id)
            answering = conversation.answering if conversation else None
            if answering is not None and answering.turn.number == number:
                await asyncio.shield(answering.ended)
            row = await self.parts.turns.get(user_id, number)
            if row is None or row["status"] != "running":
                return row
            await asyncio.sleep(POLL_S)

    async def stop_answer(self, user_id: UUID, message_id: str) -> None:
        """End the answer to this message, wherever it is given; nothing when it is not. Raises DATABASE_AWAY."""
        turn_id = await self.parts.turns.ask_stop(user_id, message_id)
        if turn_id is not None:
            await self._tell_stop(turn_id)

    async def forget(self, user_id: UUID) -> None:
        """Delete all that was said, and end what is being answered. Raises DATABASE_AWAY."""
        _, running = await self.parts.turns.newest(user_id)
        await chat_sql.delete_conversations(self._db, user_id=user_id)
        try:
            async with asyncio.timeout(ANNOUNCED_WITHIN_S):
                await self.parts.answers.delete(user_id)
        except REDIS_AWAY as error:  # it goes by itself (`chat.stream_ttl_s`)
            postponed("answers_not_deleted", error)
        if running is not None:
            await self._tell_stop(running["id"])

    async def _tell_stop(self, turn_id: UUID) -> None:
        """The sweep of whoever answers finds it where Redis does not tell."""
        await self.heard_stop(turn_id)
        await self._streams.announce(CHAT_STOP, turn_id)

    # What goes on by itself ------------------------------------------------------------------------------------------

    async def heard(self, user_id: UUID) -> None:
        """There is news in a user's stream. What is written here was told here."""
        conversation = self._held.get(user_id)
        if conversation is not None and conversation.answering is None:
            conversation.wake()

    async def heard_stop(self, turn_id: UUID) -> None:
        """A turn is to end."""
        for answering in self._answerings():
            if answering.turn.id == turn_id:
                answering.stop()

    async def sweep(self) -> None:
        """Behind the nudges. Raises AWAY."""
        self._sweeps += 1
        answerings = {answering.turn.id: answering for answering in self._answerings()}
        standing = await self.parts.turns.standing(answerings) if answerings else {}
        for turn_id, answering in answerings.items():
            row = standing.get(turn_id)
            if row is None or row["stop_asked"]:
                answering.stop()
            elif row["epoch"] != answering.turn.epoch:
                answering.fence()
        for conversation in self:
            waiting = any(listener.waits_for for listener in conversation.listeners)
            if waiting and conversation.answering is None:
                await conversation.catch_up()
            if waiting or self._sweeps % IDLE_SWEEPS == 0:
                conversation.wake()
        if self._sweeps % IDLE_SWEEPS == 0:
            await self._tell_missed()

    async def _tell_missed(self) -> None:
        """What was asked and answered elsewhere while Redis was away is in no stream: tell it. Raises AWAY."""
        listening = [conversation for conversation in self if conversation.listeners]
        numbers = await self.parts.turns.numbers([conversation.user_id for conversation in listening])
        for conversation in listening:
            await conversation.tell_missed(numbers.get(conversation.user_id, 0))

    async def _tell_behind(self, conversation: Conversation, number: int) -> None:
        """Redis does not have this turn's end."""
        try:
            await conversation.catch_up()
            await conversation.tell_missed(number)
        except AWAY as error:  # the sweep finds it
            postponed("end_not_told", error)

    async def reap(self, user_id: UUID | None = None) -> int:
        """End the turns that dead processes left, of one user or of all; how many there were. Raises AWAY."""
        if not self._pulse.steady:
            return 0
        held = [answering.turn.id for answering in self._answerings()]
        rows = await self.parts.turns.claim_orphans(held, self._pulse.seen_at, user_id, MOST_ORPHANS)
        for row in rows:
            await self._end_orphan(row)
        return len(rows)

    async def _end_orphan(self, row: Record) -> None:
        """First the end in the stream, after which a zombie adds nothing; then what is in it becomes what was said.

        That end says nothing, so that nobody is told of a turn that has failed before it may be asked again.

        What the model took is not known: all that was reserved counts.
        """
        entries = await self.parts.answers.read_turn(row["user_id"], row["number"])
        chunks = len(fold(row["number"], entries).chunks)
        await self.parts.answers.append(row["user_id"], row["number"], END, b"", chunks)
        turn = fold(row["number"], await self.parts.answers.read_turn(row["user_id"], row["number"]))
        outcome = Outcome(
            "failed",
            turn.text,
            turn.chunks,
            "interrupted",
            True,
            "model" if turn.text else None,
            tokens=None,
            micros=None,
        )
        if await self.parts.turns.finish(row["id"], row["epoch"], outcome):
            metrics.CHAT_TURNS.labels("interrupted").inc()
            log.warning("turn_interrupted", turn=str(row["id"]), said=len(turn.text))
            # Who follows it finds its end in the row now, and what a zombie said that the end did not know of.
            await self._streams.nudge(CHAT, row["user_id"])
            await self.heard(row["user_id"])

    async def _reap_of(self, user_id: UUID) -> None:
        try:
            await self.reap(user_id)
        except AWAY as error:
            postponed("turn_not_reaped", error)

    async def run_reaper(self) -> None:
        """Reap until cancelled; not in a process's first `sessions.grace_s`."""
        await asyncio.sleep(self._sessions.grace_s)
        while True:
            try:
                while await self.reap() == MOST_ORPHANS:
                    pass
            except AWAY as error:
                postponed("turns_not_reaped", error)
            await asyncio.sleep(self._sessions.reaper_s)

    def drain(self) -> None:
        """Send every socket elsewhere. Answers go on for `chat.finish_s`, and no longer: who waits for one by REST is
        told how it ended while there is a connection to tell it on."""
        if not self._draining:
            asyncio.get_running_loop().call_later(self.parts.settings.finish_s, self._interrupt)
        self._draining = True
        for conversation in self:
            for listener in conversation.listeners:
                listener.peer.end(*RESTART, retry_ms())

    async def stop(self) -> None:
        """Let answers come to an end for `chat.finish_s`, then interrupt them."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self.parts.settings.finish_s)
        self._interrupt()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=1.0)
        for conversation in self:
            conversation.close()
        for task in self._tasks:
            task.cancel()

    def _interrupt(self) -> None:
        """End all answers, and each that is begun from now on: they may be asked again."""
        self._interrupting = True
        for answering in self._answerings():
            answering.interrupt()

    def _answerings(self) -> list[Answering]:
        return [held.answering for held in self._held.values() if held.answering is not None]

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

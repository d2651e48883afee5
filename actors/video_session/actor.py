"""A session while somebody holds it: the fold's state, the frames on their way into the stream, the player's socket.

A plain object under one dispatcher (`actors.ingest`), not a task with a queue. It never waits and never fails for an
outside reason: the ingest moves frames, the checkpoints move state, the socket edge moves bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Protocol
from uuid import UUID

import msgspec
from msgspec import Struct
from msgspec.structs import asdict

from actors.video_session import messages, quality
from actors.video_session.crowd import decide_many
from actors.video_session.figures import PLACES, REASONS, contribution
from actors.video_session.messages import MAX_SEQ_JUMP, Ack, Advice, BadFrame, Report, Rung, encode, encode_frame
from actors.video_session.state import SessionState, advance, apply, dump_state, fold, load_state
from server import metrics
from server.data.streams import Entry, Write, stream_key

# Looked up once: a reason that is not in the policy's table shares one label.
_DECISIONS = {reason: metrics.DECISIONS.labels(reason) for reason in quality.REASONS}
_OTHER_DECISIONS = metrics.DECISIONS.labels("other")


class Peer(Protocol):
    """The player's end of a socket, as a session sees it. Nothing here blocks or raises."""

    def send_ack(self, payload: bytes) -> None:
        """Send, or replace an acknowledgement that still waits to be sent."""

    def send_decision(self, payload: bytes) -> None:
        """Send, or replace a decision that still waits to be sent."""

    def end(self, code: int, reason: str, retry_ms: int | None = None) -> None:
        """Say `bye`, then close with this code."""


class Pending(Struct, gc=False):
    """A frame that is accepted but not applied yet, as it is kept; `tried` once it may be in the stream."""

    seq: int
    blob: bytes
    tried: bool = False


class Checkpoint(Struct, frozen=True):
    """What one checkpoint of a session says, taken in one moment."""

    session: VideoSession
    version: int
    state: bytes
    cursor: tuple[int, int]
    frames: int
    duplicates: int
    decision: bytes
    ranges: str
    # None where the learner's progress is not touched: another device may have moved it on since.
    position_ms: int | None
    place: tuple[int | None, float]
    released: bool
    status: str | None
    # What the session adds to its video's figures, as of now; None while that need not be said again yet.
    sums: list[int] | None
    percents: str | None


@lru_cache(maxsize=1024)
def _ladder_of(packed: bytes) -> tuple[list[Rung], list[float]]:
    """A ladder and its bitrates, of JSON: one for all who watch the same video."""
    rungs = msgspec.json.decode(packed, type=list[Rung])
    return rungs, [rung.br for rung in rungs]


class VideoSession:
    """One session, owned under `epoch`. `version` counts changes that a checkpoint should keep."""

    __slots__ = (
        "_decisions", "_ladder_kbps", "_length_ms", "advice", "bye", "claimed_by", "closed_at", "dropped_as",
        "duplicates", "epoch", "figured_at", "figured_version", "id", "kept_at", "key", "ladder", "last_ack_at",
        "on_stir", "peer", "pending", "placed", "plain", "question", "resume_ms", "retire_as", "saved", "saved_at",
        "saved_frames", "saved_version", "state", "tried_at", "trimmed_frames", "untold", "used_at", "version",
        "video_id",
    )  # fmt: skip

    def __init__(self, row: Mapping[str, Any], *, now: float) -> None:
        """From a row of `claim_session`; `now` is monotonic seconds."""
        self.id: UUID = row["id"]
        self.key = stream_key(self.id)
        self.epoch: int = row["epoch"]
        self.claimed_by: str | None = row["claimed_by"]
        self.video_id: UUID = row["video_id"]
        self.resume_ms: int = row["resume_ms"]
        self.state = load_state(row["state"], (row["last_seq"], int(row["last_sub"])))
        self.ladder, self._ladder_kbps = _ladder_of(msgspec.json.encode(row["ladder"]))
        self.question = quality.Question(
            self.state.quality,
            self.ladder,
            viewport_px=tuple(row["viewport"]) if row["viewport"] else None,
            save_data=row["save_data"],
            length_s=None if row["length_ms"] is None else row["length_ms"] / 1000,
        )
        self._length_ms: int | None = row["length_ms"]
        self._decisions: list[int] = row["decisions"] or [0] * len(REASONS)
        self._decisions += [0] * (len(REASONS) - len(self._decisions))
        self.duplicates: int = row["duplicates"]
        self.pending: list[Pending] = []
        self.peer: Peer | None = None
        # Whether its player has told nothing yet beyond what is kept.
        self.plain = True
        self.bye = False
        self.retire_as: str | None = None
        self.kept_at = -math.inf
        self.dropped_as: tuple[int, str] | None = None
        self.version = 0
        self.saved_version = 0
        # Told, while the session is at rest, that it is no more.
        self.on_stir: Callable[[VideoSession], None] | None = None
        # As what the video's figures have the session: of which version, and since when (monotonic seconds).
        self.figured_version = -1
        self.figured_at = now
        # The place that the learner's progress had from this session last; None while that is not known.
        self.placed: tuple[int | None, float] | None = self.place
        self.saved = self.state.cursor
        self.saved_frames = self.trimmed_frames = self.state.frames
        self.saved_at = self.used_at = self.last_ack_at = now
        # When a checkpoint of it was sent last, whatever came of it.
        self.tried_at = now
        self.closed_at: float | None = now
        self.advice: Advice | None = None
        self.untold = False

    @property
    def dropped(self) -> bool:
        """Whether this process has let go of the session; `dropped_as` is the close code and reason for its socket."""
        return self.dropped_as is not None

    # What comes in ---------------------------------------------------------------------------------------------------

    @property
    def highest(self) -> int:
        """The highest seq accepted so far."""
        return self.pending[-1].seq if self.pending else self.state.seq

    @property
    def unsaved(self) -> int:
        """Frames that Postgres does not know yet, applied or on their way."""
        return self.state.frames - self.saved_frames + len(self.pending)

    def accept(self, frame: Report, blob: bytes | None = None) -> bool:
        """Take a numbered frame of the socket, with what is kept of it where that is at hand; whether it is new.

        Raises:
            BadFrame: its seq is absurdly far above the highest.
        """
        seq, pending = frame.seq, self.pending
        assert isinstance(seq, int)
        highest = pending[-1].seq if pending else self.state.seq
        if seq <= highest:
            self.count_duplicates(1)
            return False
        if seq > highest + MAX_SEQ_JUMP:
            raise BadFrame(f"`seq` may be at most {MAX_SEQ_JUMP} above the highest, which is {highest}", "/seq")
        pending.append(Pending(seq, blob or encode_frame(frame)))
        if self.on_stir is not None:
            self.on_stir(self)
        return True

    def count_duplicates(self, count: int) -> None:
        """Count frames that were refused as had before or late."""
        self.duplicates += count
        self.changed()
        metrics.DUPLICATES.inc(count)

    def take_over(self, older: VideoSession) -> None:
        """Learn what an older holder in this process counted and has not saved; all else came from the stream."""
        if older.duplicates > self.duplicates:
            self.duplicates = older.duplicates
            self.changed()

    def next_write(self, most: int) -> Write | None:
        """The oldest pending frames, for the stream; None when there are none."""
        if not self.pending:
            return None
        state = self.state
        if len(self.pending) == 1:
            oldest = self.pending[0]
            return Write(self.key, (state.seq, state.sub), [(oldest.seq, oldest.blob)])
        frames = [(pending.seq, pending.blob) for pending in self.pending[:most]]
        return Write(self.key, state.cursor, frames)

    def settle_write(self, count: int, added: int) -> None:
        """Learn that Redis answered for the first `count` pending frames and `added` of them are new entries. Of the
        rest, those that were never tried before are late ones which the stream refused."""
        if added == count:
            self.mark_tried(count)
            return
        late = max(0, count - added - sum(pending.tried for pending in self.pending[:count]))
        if late:
            self.count_duplicates(late)
        self.mark_tried(count)

    def mark_tried(self, count: int) -> None:
        """Remember that the first `count` pending frames may be in the stream, whatever came of it."""
        for pending in self.pending[:count]:
            pending.tried = True

    def take_written(self, count: int) -> list[tuple[Entry, str]]:
        """Apply the first `count` pending frames: the stream holds them after the cursor, as they were written, and
        nothing else. As `take` of their entries, which need not be made."""
        dead: list[tuple[Entry, str]] = []
        for kept in self.pending[:count]:
            try:
                fold(self.state, kept.seq, 0, kept.blob, self._ladder_kbps)
            except Exception as error:
                dead.append((Entry(kept.seq, 0, None, kept.blob), repr(error)))
                advance(self.state, kept.seq, 0)
        del self.pending[:count]
        self.version += count  # whoever has frames on their way is not at rest
        return dead

    def take(self, entries: Sequence[Entry]) -> list[tuple[Entry, str]]:
        """Apply what was read from the stream; the entries that could not be applied, and why.

        What is numbered as no player may is somebody else's: the cursor does not follow it, or all that the player
        sends would be late.
        """
        dead: list[tuple[Entry, str]] = []
        for entry in entries:
            if entry.seq > self.state.seq + MAX_SEQ_JUMP:
                dead.append((entry, "its number is too far above the highest"))
                continue
            try:
                new = apply(self.state, entry, self._ladder_kbps)
            except Exception as error:  # whatever one entry does, the others go on
                dead.append((entry, repr(error)))
                advance(self.state, entry.seq, entry.sub)
                new = True
            if new:
                self.changed()
        if self.pending:
            self.pending = [pending for pending in self.pending if pending.seq > self.state.seq]
        return dead

    def passed(self, entry: Entry) -> bool:
        """Whether the cursor is at or above an entry of the stream."""
        return (entry.seq, entry.sub) <= self.state.cursor

    def replay(self, entries: Sequence[Entry]) -> tuple[list[tuple[Entry, str]], bool]:
        """Apply entries after a claim, up to where Redis lost data; the dead ones, and whether the stream is whole."""
        for index, entry in enumerate(entries):
            before = entries[index - 1].seq if index else self.state.seq
            if entry.prev is not None and entry.prev > max(before, self.state.seq):
                return self.take(entries[:index]), False
        return self.take(entries), True

    # What goes out ---------------------------------------------------------------------------------------------------

    def advise(self, ttl_ms: int) -> None:
        """Make the decision that the state remembers the advice, where rung or reason changed; `answer` tells it."""
        state, before = self.state.quality, self.advice
        if (
            before is not None and before.rung == state.rung and before.reason == state.reason
            and (before.abandon is True) == state.abandon
            and (before.cmsd.du is True) == (self.question.fair_kbps < math.inf)
        ):  # fmt: skip
            return
        decided = quality.decide(self.question)
        self.advice = decided.advice(n=before.n + 1 if before else 1, epoch=self.epoch, ttl_ms=ttl_ms)
        self.untold = before is not None
        self.changed()
        self._decisions[PLACES.get(decided.reason, 0)] += 1
        _DECISIONS.get(decided.reason, _OTHER_DECISIONS).inc()

    def answer(self, now: float) -> bool:
        """Tell the player what is applied and saved, and the decision where it changed. Whether there is a player; the
        caller counts its acknowledgement."""
        peer, state = self.peer, self.state
        if peer is None:
            return False
        if self.untold and self.advice is not None:
            peer.send_decision(encode(messages.Decision(**asdict(self.advice))))
            self.untold = False
        peer.send_ack(encode(Ack(state.seq, self.saved[0], state.gaps)))
        self.last_ack_at = now
        return True

    def send_ack(self, now: float) -> None:
        """Tell the player where it stands."""
        if self.peer is not None:
            self.peer.send_ack(encode(Ack(self.state.seq, self.saved[0], self.state.gaps)))
            self.last_ack_at = now
            metrics.ACKS.inc()

    # What is kept ----------------------------------------------------------------------------------------------------

    def changed(self) -> None:
        """Something changed that a checkpoint should keep."""
        self.version += 1
        if self.on_stir is not None:
            self.on_stir(self)

    @property
    def place(self) -> tuple[int | None, float]:
        """Where the learner is, and how much was played: while both stay the same there is no progress to tell."""
        return self.state.position_ms, self.state.played_ms

    @property
    def ends(self) -> bool:
        """Whether the player said `bye` and all that it sent before is applied."""
        return self.bye and not self.pending

    @property
    def at_rest(self) -> bool:
        """Whether a player listens, and nothing has to be done or saved until something happens."""
        return (
            self.version == self.saved_version == self.figured_version
            and self.peer is not None and not self.pending and not self.bye
        )  # fmt: skip

    def idle(self, now: float, linger_s: float, give_up_s: float) -> bool:
        """Whether nobody needs the session here any more: no socket, nothing on its way, not used for `linger_s`.

        After `give_up_s` without a socket, frames that Redis did not take are let go: the player still holds them.
        """
        if self.peer is not None or self.closed_at is None:
            return False
        if self.pending and now - self.closed_at < give_up_s:
            return False
        return self.bye or now - self.used_at >= linger_s

    def checkpoint(self, *, release: bool, complete_share: float | None = None) -> Checkpoint:
        """What to write, as of now; with `complete_share` also what the session adds to its video's figures."""
        state: SessionState = self.state
        sums, percents = None, None
        if complete_share is not None:
            sums, percents = contribution(
                state, self._decisions, length_ms=self._length_ms, complete_share=complete_share
            )
        place = self.place
        moved = place != self.placed
        if moved:
            self.placed = None  # until this is known to be saved
        return Checkpoint(
            session=self,
            version=self.version,
            state=dump_state(state),
            cursor=state.cursor,
            frames=state.frames,
            duplicates=self.duplicates,
            decision=msgspec.json.encode(self.advice),
            ranges="{" + ",".join(f"[{start},{end})" for start, end in state.watched_ranges_ms) + "}",
            position_ms=state.position_ms if moved else None,
            place=place,
            released=release,
            status="ended" if self.ends else self.retire_as,
            sums=sums,
            percents=percents,
        )

    def saved_as(self, checkpoint: Checkpoint, now: float) -> bool:
        """Learn that a checkpoint is in Postgres; whether the player has to be told."""
        moved = checkpoint.cursor != self.saved
        self.saved = checkpoint.cursor
        self.saved_frames = checkpoint.frames
        self.saved_version = checkpoint.version
        self.saved_at = now
        if checkpoint.position_ms is not None:
            self.placed = checkpoint.place
        if checkpoint.sums is not None:
            self.figured_version, self.figured_at = checkpoint.version, now
        return moved and self.peer is not None


def decide_all(sessions: Iterable[VideoSession], ttl_ms: int) -> None:
    """Decide anew where there is news; what changed is each session's `advice`, and `untold`."""
    news = [session for session in sessions if session.state.quality.fresh or session.advice is None]
    decide_many([session.question for session in news])
    for session in news:
        session.advise(ttl_ms)

"""A session while somebody holds it: the fold's state, the frames on their way into the stream, the player's socket.

A plain object under one dispatcher (`actors.ingest`), not a task with a queue. It never waits and never fails for an
outside reason: the ingest moves frames, the checkpoints move state, the socket edge moves bytes.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

import msgspec
from msgspec import Struct
from msgspec.structs import asdict

from actors.video_session import messages, quality
from actors.video_session.messages import MAX_SEQ_JUMP, Ack, Advice, BadFrame, Rung, Telemetry, encode_frame
from actors.video_session.state import SessionState, advance, apply, fold, load_state
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
    """A frame that is accepted but not applied yet, and as it is kept; `tried` once it may be in the stream."""

    frame: Telemetry
    seq: int
    blob: bytes
    tried: bool = False


@dataclass(slots=True, frozen=True)
class Checkpoint:
    """What one checkpoint of a session says, taken in one moment."""

    session: VideoSession
    version: int
    state: bytes
    cursor: tuple[int, int]
    frames: int
    duplicates: int
    decision: bytes
    ranges: str
    position_ms: int | None
    released: bool
    status: str | None


class VideoSession:
    """One session, owned under `epoch`. `version` counts changes that a checkpoint should keep."""

    __slots__ = (
        "_save_data", "_viewport_px", "advice", "bye", "closed_at", "dropped_as", "duplicates", "epoch", "id",
        "kept_at", "key", "ladder", "last_ack_at", "lecture_id", "peer", "pending", "resume_ms",
        "retire_as", "saved", "saved_at", "saved_frames", "saved_version", "state", "trimmed_frames", "used_at",
        "user_id", "version", "video_id",
    )  # fmt: skip

    def __init__(self, row: Mapping[str, Any], *, now: float) -> None:
        """From a row of `claim_session`; `now` is monotonic seconds."""
        self.id: UUID = row["id"]
        self.key = stream_key(self.id)
        self.epoch: int = row["epoch"]
        self.user_id: UUID = row["user_id"]
        self.lecture_id: UUID = row["lecture_id"]
        self.video_id: UUID = row["video_id"]
        self.resume_ms: int = row["resume_ms"]
        self.state = load_state(row["state"], (row["last_seq"], int(row["last_sub"])))
        self.ladder = msgspec.convert(row["ladder"], list[Rung])
        self._viewport_px = tuple(row["viewport"]) if row["viewport"] else None
        self._save_data: bool = row["save_data"]
        self.duplicates: int = row["duplicates"]
        self.pending: deque[Pending] = deque()
        self.peer: Peer | None = None
        self.bye = False
        self.retire_as: str | None = None
        self.kept_at = -math.inf
        self.dropped_as: tuple[int, str] | None = None
        self.version = 0
        self.saved_version = 0
        self.saved = self.state.cursor
        self.saved_frames = self.trimmed_frames = self.state.frames
        self.saved_at = self.used_at = self.last_ack_at = now
        self.closed_at: float | None = now
        self.advice: Advice | None = None

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

    def accept(self, frame: Telemetry) -> bool:
        """Take a numbered frame of the socket; whether it is new.

        Raises:
            BadFrame: its seq is absurdly far above the highest.
        """
        seq = frame.seq
        assert isinstance(seq, int)
        highest = self.highest
        if seq <= highest:
            self.count_duplicates(1)
            return False
        if seq > highest + MAX_SEQ_JUMP:
            raise BadFrame(f"`seq` may be at most {MAX_SEQ_JUMP} above the highest, which is {highest}", "/seq")
        self.pending.append(Pending(frame, seq, encode_frame(frame)))
        return True

    def count_duplicates(self, count: int) -> None:
        """Count frames that were refused as had before or late."""
        self.duplicates += count
        self.version += 1
        metrics.DUPLICATES.inc(count)

    def next_write(self, most: int) -> Write | None:
        """The oldest pending frames, for the stream; None when there are none."""
        if not self.pending:
            return None
        if len(self.pending) == 1:
            oldest = self.pending[0]
            return Write(self.key, self.state.seq, ((oldest.seq, oldest.blob),))
        frames = [(p.seq, p.blob) for p, _ in zip(self.pending, range(most), strict=False)]
        return Write(self.key, self.state.seq, frames)

    def settle_write(self, count: int, added: int) -> None:
        """Learn that Redis answered for the first `count` pending frames and `added` of them are new entries. Of the
        rest, those that were never tried before are late ones which the stream refused."""
        if added == count:
            self.mark_tried(count)
            return
        tried = [pending.tried for pending, _ in zip(self.pending, range(count), strict=False)]
        late = max(0, count - added - sum(tried))
        if late:
            self.count_duplicates(late)
        self.mark_tried(count)

    def mark_tried(self, count: int) -> None:
        """Remember that the first `count` pending frames may be in the stream, whatever came of it."""
        for pending, _ in zip(self.pending, range(count), strict=False):
            pending.tried = True

    def take_written(self, count: int) -> list[tuple[Entry, str]]:
        """Apply the first `count` pending frames: the stream holds them after the cursor, as they were written, and
        nothing else. As `take` of their entries, which need not be made."""
        dead: list[tuple[Entry, str]] = []
        for _ in range(count):
            kept = self.pending.popleft()
            try:
                fold(self.state, kept.seq, kept.frame)
            except Exception as error:
                entry = Entry(kept.seq, 0, None, kept.blob)
                dead.append((entry, repr(error)))
                advance(self.state, entry)
        self.version += count
        return dead

    def take(self, entries: Sequence[Entry]) -> list[tuple[Entry, str]]:
        """Apply what was read from the stream; the entries that could not be applied, and why."""
        dead: list[tuple[Entry, str]] = []
        for entry in entries:
            try:
                new = apply(self.state, entry)
            except Exception as error:  # whatever one entry does, the others go on
                dead.append((entry, repr(error)))
                advance(self.state, entry)
                new = True
            self.version += new
        while self.pending and self.pending[0].seq <= self.state.seq:
            self.pending.popleft()
        return dead

    def replay(self, entries: Sequence[Entry]) -> tuple[list[tuple[Entry, str]], bool]:
        """Apply entries after a claim, up to where Redis lost data; the dead ones, and whether the stream is whole."""
        for index, entry in enumerate(entries):
            before = entries[index - 1].seq if index else self.state.seq
            if entry.prev is not None and entry.prev > max(before, self.state.seq):
                return self.take(entries[:index]), False
        return self.take(entries), True

    # What goes out ---------------------------------------------------------------------------------------------------

    def decide(self, ttl_ms: int) -> bool:
        """Decide anew; whether rung or reason changed."""
        decided = quality.decide(
            self.state.quality, self.ladder, viewport_px=self._viewport_px, save_data=self._save_data
        )
        before = self.advice
        if before is not None and (before.rung, before.reason) == (decided.rung, decided.reason):
            return False
        self.advice = decided.advice(n=before.n + 1 if before else 1, epoch=self.epoch, ttl_ms=ttl_ms)
        self.version += 1
        _DECISIONS.get(decided.reason, _OTHER_DECISIONS).inc()
        return True

    def answer(self, ttl_ms: int, now: float, *, moved: bool = True) -> bool:
        """Tell the player what is applied and saved, and the decision where it changed; without anything applied
        (`moved` False) it cannot have changed. Whether there is a player; the caller counts its acknowledgement."""
        changed = moved and self.decide(ttl_ms)
        if self.peer is None:
            return False
        if changed and self.advice is not None:
            self.peer.send_decision(messages.encode(messages.Decision(**asdict(self.advice))))
        self.peer.send_ack(messages.encode(Ack(self.state.seq, self.saved[0], self.state.gaps)))
        self.last_ack_at = now
        return True

    def send_ack(self, now: float) -> None:
        """Tell the player where it stands."""
        if self.peer is not None:
            self.peer.send_ack(messages.encode(Ack(self.state.seq, self.saved[0], self.state.gaps)))
            self.last_ack_at = now
            metrics.ACKS.inc()

    # What is kept ----------------------------------------------------------------------------------------------------

    def idle(self, now: float, linger_s: float, give_up_s: float) -> bool:
        """Whether nobody needs the session here any more: no socket, nothing on its way, not used for `linger_s`.

        After `give_up_s` without a socket, frames that Redis did not take are let go: the player still holds them.
        """
        if self.peer is not None or self.closed_at is None:
            return False
        if self.pending and now - self.closed_at < give_up_s:
            return False
        return self.bye or now - self.used_at >= linger_s

    def checkpoint(self, *, release: bool) -> Checkpoint:
        """What to write, as of now."""
        state: SessionState = self.state
        return Checkpoint(
            session=self,
            version=self.version,
            state=msgspec.json.encode(state),
            cursor=state.cursor,
            frames=state.frames,
            duplicates=self.duplicates,
            decision=msgspec.json.encode(self.advice),
            ranges="{" + ",".join(f"[{start},{end})" for start, end in state.watched_ranges_ms) + "}",
            position_ms=state.position_ms,
            released=release,
            status="ended" if self.bye else self.retire_as,
        )

    def saved_as(self, checkpoint: Checkpoint, now: float) -> None:
        """Learn that a checkpoint is in Postgres, and tell the player."""
        moved = checkpoint.cursor != self.saved
        self.saved = checkpoint.cursor
        self.saved_frames = checkpoint.frames
        self.saved_version = checkpoint.version
        self.saved_at = now
        if moved:
            self.send_ack(now)

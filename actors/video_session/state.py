"""The fold: what a session is, as a function of the frames that were applied to it, in order, and of nothing else.

`apply` reads no clock, does no I/O and draws no random number, so a crash is a replay and a test is a list of entries.
"""

from __future__ import annotations

from bisect import bisect_left

import msgspec
from msgspec import UNSET, Struct, field

from actors.video_session.messages import MAX_BYTES, MAX_KBPS, MAX_MS, Telemetry, first, parse_kept_frame, total
from actors.video_session.quality import QualityState, observe
from server.data.streams import Entry

# A later position at most this far ahead was played through; anything else is a seek.
PLAYED_MS = 60_000
# Watched ranges beyond this many are not kept apart: a player that seeks forever must not grow without bound.
MAX_RANGES = 2_000


class SessionState(Struct):
    """The checkpoint's content. Positions in ms, ranges half-open and disjoint in ascending order."""

    seq: int = 0
    sub: int = 0
    frames: int = 0
    segments: int = 0
    bytes: int = 0
    gaps: int = 0
    position_ms: int | None = None
    watched_ranges_ms: list[tuple[int, int]] = field(default_factory=list)
    stalls: int = 0
    stall_ms: float = 0.0
    startup_ms: float | None = None
    switches: int = 0
    bitrate_kbps: float | None = None
    quality: QualityState = field(default_factory=QualityState)

    @property
    def cursor(self) -> tuple[int, int]:
        """The stream id of the last entry applied."""
        return self.seq, self.sub

    @property
    def watched_total_ms(self) -> int:
        """Unique time watched."""
        return sum(end - start for start, end in self.watched_ranges_ms)


def load_state(value: object, cursor: tuple[int, int]) -> SessionState:
    """The state that `msgspec.to_builtins` made JSON of; `{}` is a session that has seen nothing."""
    state = msgspec.convert(value, SessionState)
    state.seq, state.sub = cursor
    return state


def dump_state(state: SessionState) -> bytes:
    """The state as JSON."""
    return msgspec.json.encode(state)


def apply(state: SessionState, entry: Entry) -> bool:
    """Fold one entry of the stream into the state; whether it was new.

    An entry at or below the cursor changes nothing. One that can't be read raises and changes nothing.
    """
    if (entry.seq, entry.sub) <= (state.seq, state.sub):
        return False
    _apply_frame(state, parse_kept_frame(entry.frame))
    advance(state, entry)
    return True


def fold(state: SessionState, seq: int, frame: Telemetry) -> None:
    """`apply` of the entry `<seq>-0`, which is above the cursor and whose frame is parsed already."""
    _apply_frame(state, frame)
    state.gaps += max(0, seq - state.seq - 1)
    state.seq, state.sub = seq, 0


def advance(state: SessionState, entry: Entry) -> None:
    """Move the cursor past an entry, counting the frames that never came before it."""
    state.gaps += max(0, entry.seq - state.seq - 1)
    state.seq, state.sub = entry.seq, entry.sub


def _apply_frame(state: SessionState, frame: Telemetry) -> None:
    cmcd = frame.cmcd
    state.frames += 1
    for segment in frame.segments:
        state.segments += 1
        state.bytes += int(min(segment.bytes, MAX_BYTES))
    _move(state, round(frame.position * 1000), played=cmcd.player_state is UNSET or cmcd.player_state == "p")
    if cmcd.starved is True:
        state.stalls += 1
    if cmcd.starved_ms is not UNSET:
        state.stall_ms += total(cmcd.starved_ms, MAX_MS)
    if state.startup_ms is None:
        state.startup_ms = first(cmcd.startup_delay_ms, MAX_MS)
    bitrate_kbps = first(cmcd.encoded_bitrate_kbps, MAX_KBPS)
    if bitrate_kbps is not None:
        state.switches += state.bitrate_kbps is not None and bitrate_kbps != state.bitrate_kbps
        state.bitrate_kbps = bitrate_kbps
    observe(state.quality, frame)


def _move(state: SessionState, position_ms: int, *, played: bool) -> None:
    before_ms = state.position_ms
    state.position_ms = position_ms
    if played and before_ms is not None and 0 < position_ms - before_ms <= PLAYED_MS:
        _add_range(state.watched_ranges_ms, before_ms, position_ms)


def _add_range(ranges: list[tuple[int, int]], start: int, end: int) -> None:
    """Add [start, end) to disjoint ascending ranges, merging what it touches."""
    if ranges and ranges[-1][0] <= start <= ranges[-1][1]:  # playing on: it touches the last one alone
        ranges[-1] = ranges[-1][0], max(end, ranges[-1][1])
        return
    low = bisect_left(ranges, start, key=lambda r: r[1])  # the first that reaches `start`
    high = low
    while high < len(ranges) and ranges[high][0] <= end:
        start, end = min(start, ranges[high][0]), max(end, ranges[high][1])
        high += 1
    if high == low and len(ranges) >= MAX_RANGES:
        return
    ranges[low:high] = [(start, end)]

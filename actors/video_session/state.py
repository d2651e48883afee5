"""The fold: what a session is, as a function of the frames that were applied to it, in order, and of nothing else.

`apply` reads no clock, does no I/O and draws no random number, so a crash is a replay and a test is a list of entries.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
from msgspec import UNSET

from actors.video_session.messages import MAX_BYTES, MAX_KBPS, MAX_MS, Report, first, parse_kept_frame, total
from actors.video_session.quality import QualityState, observe
from server.data.streams import Entry

# A later position at most this far ahead was played through; anything else is a seek.
PLAYED_MS = 60_000
# A position that lies this far back is a rewind; a player may step back by less of its own accord.
REWOUND_MS = 1_000
# Between positions at a rate r lies the r-th part of the time; rates beyond are not believed.
RATES = 0.25, 4.0
# The words of CMCD's `sta` that we keep.
PLAYER_STATES = frozenset("spkrawefqd")
# Watched ranges beyond this many are not kept apart: a player that seeks forever must not grow without bound.
MAX_RANGES = 2_000


@dataclass(slots=True)
class SessionState:
    """The checkpoint's content. Positions in ms, ranges half-open and disjoint in ascending order.

    A dataclass, as what it holds: to set a member of a msgspec struct takes three times as long, and a frame sets many.
    """

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
    # For the video's figures: whether playing ever began, what the player did last (CMCD's `sta`), time spent playing,
    # repeats included; how much of it at each rung of the session's ladder, and what that was in kbit.
    started: bool = False
    player_state: str | None = None
    rewinds: int = 0
    played_ms: float = 0.0
    rung_ms: list[float] = field(default_factory=list)
    shown_kbit: float = 0.0

    @property
    def cursor(self) -> tuple[int, int]:
        """The stream id of the last entry applied."""
        return self.seq, self.sub

    @property
    def watched_total_ms(self) -> int:
        """Unique time watched."""
        return sum(end - start for start, end in self.watched_ranges_ms)


_decoder = msgspec.json.Decoder(SessionState)


def load_state(packed: str | bytes, cursor: tuple[int, int]) -> SessionState:
    """The state that `dump_state` made JSON of; `{}` is a session that has seen nothing."""
    state = _decoder.decode(packed)
    state.seq, state.sub = cursor
    return state


def dump_state(state: SessionState) -> bytes:
    """The state as JSON."""
    return msgspec.json.encode(state)


def apply(state: SessionState, entry: Entry, ladder_kbps: Sequence[float] = ()) -> bool:
    """Fold one entry of the stream into the state; whether it was new. `ladder_kbps` are the bitrates of the session's
    ladder, lowest first.

    An entry at or below the cursor changes nothing. One that can't be read raises and changes nothing; whatever can be
    read is folded.
    """
    if (entry.seq, entry.sub) <= (state.seq, state.sub):
        return False
    fold(state, entry.seq, entry.sub, entry.frame, ladder_kbps)
    return True


def fold(state: SessionState, seq: int, sub: int, frame: bytes, ladder_kbps: Sequence[float] = ()) -> None:
    """`apply` of an entry that is above the cursor."""
    _apply_frame(state, parse_kept_frame(frame), ladder_kbps)
    advance(state, seq, sub)


def advance(state: SessionState, seq: int, sub: int) -> None:
    """Move the cursor to an entry above it, counting the frames that never came before."""
    if seq > state.seq + 1:
        state.gaps += seq - state.seq - 1
    state.seq, state.sub = seq, sub


def _apply_frame(state: SessionState, frame: Report, ladder_kbps: Sequence[float]) -> None:
    # On every frame's path: a plain number is taken as it is, and what was not told is not looked at, without a call.
    cmcd = frame.cmcd
    state.frames += 1
    for segment in frame.segments:
        state.segments += 1
        state.bytes += int(segment.bytes if segment.bytes < MAX_BYTES else MAX_BYTES)
    if cmcd.starved is True:
        state.stalls += 1
    if cmcd.starved_ms is not UNSET:
        state.stall_ms += total(cmcd.starved_ms, MAX_MS)
    if cmcd.startup_delay_ms is not UNSET and state.startup_ms is None:
        state.startup_ms = first(cmcd.startup_delay_ms, MAX_MS)
        state.started = state.started or state.startup_ms is not None
    told_kbps = cmcd.encoded_bitrate_kbps
    bitrate_kbps = told_kbps if isinstance(told_kbps, float) and told_kbps < MAX_KBPS else first(told_kbps, MAX_KBPS)
    if bitrate_kbps is not None and bitrate_kbps != state.bitrate_kbps:
        state.switches += state.bitrate_kbps is not None
        state.bitrate_kbps = bitrate_kbps
    observe(state.quality, frame)
    played = cmcd.player_state is UNSET or cmcd.player_state == "p"
    if cmcd.player_state in PLAYER_STATES:
        state.player_state = cmcd.player_state
        state.started = state.started or played
    if frame.position is not UNSET:
        _move(state, round(frame.position * 1000), played, ladder_kbps)


def _move(state: SessionState, position_ms: int, played: bool, ladder_kbps: Sequence[float]) -> None:
    before_ms = state.position_ms
    state.position_ms = position_ms
    if before_ms is None:
        return
    moved_ms = position_ms - before_ms
    if played and 0 < moved_ms <= PLAYED_MS:
        state.started = True
        ranges = state.watched_ranges_ms
        if ranges and ranges[-1][1] == before_ms:  # playing on: the usual case of `_add_range`
            ranges[-1] = ranges[-1][0], position_ms
        else:
            _add_range(ranges, before_ms, position_ms)
        rate = state.quality.playback_rate
        _show(state, moved_ms / (1.0 if rate == 1.0 else min(max(rate, RATES[0]), RATES[1])), ladder_kbps)
    elif moved_ms <= -REWOUND_MS:
        state.rewinds += 1


def _show(state: SessionState, played_ms: float, ladder_kbps: Sequence[float]) -> None:
    """So long the picture was shown, at the bitrate told last: that of the nearest rung, where it is none."""
    state.played_ms += played_ms
    bitrate_kbps = state.bitrate_kbps
    if bitrate_kbps is None or not ladder_kbps:
        return
    rung_ms, rungs = state.rung_ms, len(ladder_kbps)
    if len(rung_ms) < rungs:
        rung_ms += [0.0] * (rungs - len(rung_ms))
    rung = bisect_left(ladder_kbps, bitrate_kbps)
    if rung == rungs or (rung and bitrate_kbps - ladder_kbps[rung - 1] < ladder_kbps[rung] - bitrate_kbps):
        rung -= 1
    rung_ms[rung] += played_ms
    # A player that lies about its bitrate moves the video's mean no further than that.
    most_kbps = 2 * ladder_kbps[-1]
    state.shown_kbit += (bitrate_kbps if bitrate_kbps < most_kbps else most_kbps) * played_ms / 1000


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

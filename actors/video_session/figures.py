"""What one session contributes to its video's figures: a function of its state alone."""

from __future__ import annotations

from collections.abc import Sequence

from actors.video_session import quality
from actors.video_session.state import SessionState
from server.domain import figures as slots

# Places are stored: a reason keeps its own for ever, new ones are added at the end.
REASONS = (
    "other", quality.NOT_MEASURED, quality.ROOM, quality.NARROW, quality.SLOWED, quality.UNSTEADY, quality.FILLING,
    quality.ON_BUFFER, quality.LOW_BUFFER, quality.VIEWPORT, quality.DATA_SAVER, quality.DEVICE,
    quality.SHARED,
)  # fmt: skip
PLACES = {reason: place for place, reason in enumerate(REASONS)}


def contribution(
    state: SessionState, decisions: Sequence[int], *, length_ms: int | None, complete_share: float
) -> tuple[list[int], str]:
    """The session's sums by slot, and the percents of the video that it covered as a Postgres multirange.

    Args:
        decisions: how often it was decided for each reason of `REASONS`.
        length_ms: the video's, None where nobody knows it.
        complete_share: of the video, as which a session is complete.
    """
    ranges = state.watched_ranges_ms
    if length_ms is not None:
        ranges = [(start, min(end, length_ms)) for start, end in ranges if start < length_ms]
    watched_ms = sum(end - start for start, end in ranges)
    rungs = [round(ms) for ms in state.rung_ms]
    if len(rungs) > slots.MOST_RUNGS:
        rungs[slots.MOST_RUNGS - 1 :] = [sum(rungs[slots.MOST_RUNGS - 1 :])]
    sums = [
        1,
        int(state.started or watched_ms > 0 or state.startup_ms is not None),
        int(slots.is_view(watched_ms, length_ms)),
        int(length_ms is not None and 0 < length_ms * complete_share <= watched_ms),
        watched_ms,
        min(round(state.played_ms), slots.MOST_PLAYED_MS),
        state.rewinds,
        state.stalls,
        min(round(state.stall_ms), slots.MOST_STALL_MS),
        state.switches,
        sum(rungs),
        round(state.shown_kbit),
        0 if state.startup_ms is None else slots.bucket_of(min(state.startup_ms, slots.MOST_STARTUP_MS)),
        *(0,) * (slots.RUNGS - slots.STARTUP - 1),
        *rungs,
        *(0,) * (slots.MOST_RUNGS - len(rungs)),
        *decisions,
    ]
    return sums, "{}" if length_ms is None else _percents(ranges, length_ms)


def _percents(ranges: Sequence[tuple[int, int]], length_ms: int) -> str:
    """The percents of which any part was watched: half-open ranges between 0 and 100. They need not be disjoint."""
    return "{" + ",".join(f"[{100 * start // length_ms},{-(-100 * end // length_ms)})" for start, end in ranges) + "}"

"""Which rung of the ladder a player should fetch next. Pure: no clock, no I/O, no random number.

`observe` folds a report into a small state that goes into the checkpoint; `decide` reads that state. The method is
throughput with a buffer-dependent margin, the idea behind the throughput rules of today's players and of BBA
(Huang et al., "A Buffer-Based Approach to Rate Adaptation", SIGCOMM 2014): the estimate is a harmonic mean, for
download time is linear in the inverse of throughput (Jiang et al., "FESTIVE", CoNEXT 2012); a sample far below it is
believed at once, one above it slowly.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import UNSET, Struct

from actors.video_session.messages import MAX_KBPS, MAX_MS, Advice, Cmsd, Rung, Telemetry, first

# Weight of the newest sample in the mean of inverse throughputs.
ALPHA = 0.3
# A sample below this share of the estimate replaces it: after a collapse the past is no guide.
COLLAPSE = 0.7
# Of the estimate, this share is spent: at an empty buffer, and from COMFORT_S on.
CAUTIOUS, CONFIDENT, COMFORT_S = 0.6, 0.9, 12.0
# Going up needs this much more than the rung's bitrate, so that an estimate near it does not make rungs flap.
HEADROOM = 1.15
# Below this buffer the lowest rung is fetched whatever was measured.
PANIC_S = 2.0

NOT_MEASURED = "nothing measured yet, starting low"
ROOM = "the network carries this rung"
NARROW = "the network does not carry more"
LOW_BUFFER = "the buffer is nearly empty"
VIEWPORT = "the picture is shown no larger"
DATA_SAVER = "the learner saves data"
REASONS = (NOT_MEASURED, ROOM, NARROW, LOW_BUFFER, VIEWPORT, DATA_SAVER)


class QualityState(Struct):
    """What is remembered between reports."""

    inverse_kbps: float = 0.0  # mean of 1/throughput; 0 = nothing measured
    buffer_ms: float | None = None
    playback_rate: float = 1.0
    starved: bool = False
    rung: int | None = None  # the last decision
    viewport_px: tuple[int, int] | None = None


class Decision(Struct, frozen=True):
    """Advice: fetch at most `rung`. `mb` and `etp` are CTA-5006's maximum suggested bitrate and estimated throughput,
    both kbit/s; `etp` is None before anything was measured."""

    rung: int
    mb: int
    etp: int | None
    reason: str

    def advice(self, *, n: int, epoch: int, ttl_ms: int) -> Advice:
        """The decision in the player's words: the `n`-th of this `epoch`."""
        cmsd = Cmsd(self.mb, UNSET if self.etp is None else self.etp)
        return Advice(n=n, epoch=epoch, rung=self.rung, cmsd=cmsd, reason=self.reason, ttl_ms=ttl_ms)


def observe(state: QualityState, frame: Telemetry) -> None:
    """Fold one report into the state."""
    for sample in _samples_kbps(frame):
        _blend(state, sample)
    state.buffer_ms = first(frame.cmcd.buffer_length_ms, MAX_MS)
    rate = first(frame.cmcd.playback_rate, 16.0)
    if rate is not None and rate > 0:
        state.playback_rate = rate
    state.starved = frame.cmcd.starved is True
    if isinstance(frame.viewport, tuple):
        state.viewport_px = frame.viewport


def decide(
    state: QualityState, ladder: Sequence[Rung], *, viewport_px: tuple[int, int] | None, save_data: bool
) -> Decision:
    """The rung to fetch next from `ladder` (lowest first, not empty), by what `observe` has seen.

    `viewport_px` is what the session was made with; a report's own counts more. The state remembers the decision.
    """
    decision = _decide(state, ladder, state.viewport_px or viewport_px, save_data)
    state.rung = decision.rung
    return decision


def _samples_kbps(frame: Telemetry) -> list[float]:
    """Throughputs that the report measured: of its segments where it has any, else the player's own figure."""
    samples = [min(s.bytes * 8 / s.ms, MAX_KBPS) for s in frame.segments if s.ms > 0 and s.bytes > 0]
    if samples:
        return samples
    measured = first(frame.cmcd.measured_throughput_kbps, MAX_KBPS)
    return [measured] if measured else []


def _blend(state: QualityState, sample_kbps: float) -> None:
    inverse = 1 / max(sample_kbps, 1.0)
    if state.inverse_kbps == 0 or state.inverse_kbps < inverse * COLLAPSE:
        state.inverse_kbps = inverse
    else:
        state.inverse_kbps += ALPHA * (inverse - state.inverse_kbps)


def _decide(
    state: QualityState, ladder: Sequence[Rung], viewport_px: tuple[int, int] | None, save_data: bool
) -> Decision:
    top, top_reason = _ceiling(ladder, viewport_px, save_data)
    if state.inverse_kbps == 0:
        return _decision(ladder, min(1, top), None, NOT_MEASURED)
    throughput_kbps = 1 / state.inverse_kbps
    if state.rung is not None and _nearly_empty(state) and throughput_kbps < ladder[top].br * HEADROOM:
        return _decision(ladder, 0, throughput_kbps, LOW_BUFFER)
    spendable_kbps = throughput_kbps * _share(state.buffer_ms) / max(state.playback_rate, 1.0)
    rung = _highest_within(ladder, spendable_kbps)
    if state.rung is not None and rung > state.rung:
        rung = max(state.rung, _highest_within(ladder, spendable_kbps / HEADROOM))
    if rung >= top:
        return _decision(ladder, top, throughput_kbps, top_reason)
    return _decision(ladder, rung, throughput_kbps, NARROW)


def _nearly_empty(state: QualityState) -> bool:
    return state.starved or (state.buffer_ms is not None and state.buffer_ms < PANIC_S * 1000)


def _share(buffer_ms: float | None) -> float:
    fullness = min((buffer_ms or 0.0) / 1000 / COMFORT_S, 1.0)
    return CAUTIOUS + (CONFIDENT - CAUTIOUS) * fullness


def _highest_within(ladder: Sequence[Rung], kbps: float) -> int:
    return max((i for i, rung in enumerate(ladder) if rung.br <= kbps), default=0)


def _ceiling(ladder: Sequence[Rung], viewport_px: tuple[int, int] | None, save_data: bool) -> tuple[int, str]:
    """The highest rung worth fetching however fast the network is, and why."""
    top, reason = len(ladder) - 1, ROOM
    if viewport_px is not None and min(viewport_px) > 0:
        enough = next((i for i, r in enumerate(ladder) if _covers(r, viewport_px)), top)
        if enough < top:
            top, reason = enough, VIEWPORT
    if save_data and top > 1:
        top, reason = 1, DATA_SAVER
    return top, reason


def _covers(rung: Rung, viewport_px: tuple[int, int]) -> bool:
    """Whether a picture of this rung fills the viewport: fitted inside it, the tighter side decides."""
    if not rung.width or not rung.height:
        return False
    return rung.width >= viewport_px[0] or rung.height >= viewport_px[1]


def _decision(ladder: Sequence[Rung], rung: int, throughput_kbps: float | None, reason: str) -> Decision:
    return Decision(
        rung=rung,
        mb=-int(-ladder[rung].br // 1),
        etp=None if throughput_kbps is None else round(throughput_kbps),
        reason=reason,
    )

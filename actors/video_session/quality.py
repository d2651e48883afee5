"""Which rung of the ladder a player should fetch next. Pure: no clock, no I/O, no random number.

`observe` folds a report into a small state that goes into the checkpoint; `decide` reads that state. The quality of a
viewing is what the field measures it by (Yin et al. 2015, Mao et al., "Pensieve", SIGCOMM 2017): each segment's
bitrate, less a top rung's worth for every second of stall, less every change of bitrate. `decide` takes the rung with
the most of it now and to come, where what is to come is an expectation over what throughput may do next; how that is
learned and looked up is `lookahead`'s. What is particular to here:

- Throughput is of the transfer alone, the wait for the first byte is counted apart: small segments on a distant
  server look slow otherwise.
- Sizes of the next segments are unknown, but scenes last: a segment larger than its bitrate says is followed by such.
- At playback rate r the buffer drains r times as fast, as if the network were slower by r.
- Near the lecture's end the buffer is worth less and less, and is spent.
- A download under way that crawls is believed before it ends.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import UNSET, Struct

from actors.video_session.lookahead import Belief, Table, table_for, transfer_kbps
from actors.video_session.messages import MAX_KBPS, MAX_MS, Advice, Cmsd, Rung, Telemetry, first

# A segment's excess over its bitrate lasts for the next ones to this share: scenes are longer than segments.
SCENE_LASTS = 0.9
# Not more of it is believed: after slides comes a film.
SMALLEST, LARGEST = 0.7, 2.0
# Before a report names them.
USUAL_SEGMENT_S = 4.0
# A wait for the first byte beyond this is a stalled network, not a distant one.
LONGEST_WAIT_S = 2.0
# A download under way is news when it is slower than the newest segment by this.
CRAWLS = 0.6
# So many frames dropped per report, in the mean, are more than a device should; it is spared that bitrate for a while.
DROPS, SPARED_REPORTS = 5.0, 300
# After a newest sample below this share of the level nothing is fetched that would, were the network to stay so, take
# more than this share of the buffer: the odds may say that it comes back, but being wrong is seen by the learner.
COLLAPSED_SHARE, AT_STAKE = 0.3, 0.3
# For reasons only: a newest sample below this share of the level is a slow-down; samples this far from the level
# (logarithm) are unsteady.
SLOWED_SHARE, UNSTEADY_DEVIATION = 0.6, 0.35

NOT_MEASURED = "nothing measured yet, starting low"
ROOM = "the network carries this rung"
NARROW = "the network does not carry more"
SLOWED = "the network has just slowed down"
UNSTEADY = "the network is unsteady"
FILLING = "the buffer is filled first"
ON_BUFFER = "the buffer carries this rung for a while"
LOW_BUFFER = "the buffer is nearly empty"
VIEWPORT = "the picture is shown no larger"
DATA_SAVER = "the learner saves data"
DEVICE = "the device drops frames above this"
REASONS = (
    NOT_MEASURED, ROOM, NARROW, SLOWED, UNSTEADY, FILLING, ON_BUFFER, LOW_BUFFER, VIEWPORT, DATA_SAVER, DEVICE,
)  # fmt: skip


class QualityState(Belief):
    """What is remembered between reports: the belief about the network, and where the player stands."""

    buffer_ms: float | None = None
    playback_rate: float = 1.0
    starved: bool = False
    rung: int | None = None  # the last decision, why, and the highest rung that was allowed then
    reason: str = NOT_MEASURED
    ceiling: int = -1
    viewport_px: tuple[int, int] | None = None
    segment_s: float = USUAL_SEGMENT_S
    fetched_kbps: float = 0.0  # bitrate of the segment fetched last
    excess: float = 0.0  # how much larger it was than its bitrate says, as a share
    wait_s: float | None = None  # for its first byte
    told_kbps: float = 0.0  # the player's own figure, as last told
    crawl_kbps: float = 0.0  # of a download under way that is slower than all before; 0 = none
    fresh: bool = True  # something was learned since the last decision
    dropping: float = 0.0  # mean frames dropped per report
    heavy_kbps: float = 0.0  # a bitrate that the device could not show, 0 = none, and for how many reports it is spared
    spared: int = 0


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
    cmcd = frame.cmcd
    duration_ms = first(cmcd.object_duration_ms, MAX_MS)
    if duration_ms is not None and 200 <= duration_ms <= 30_000:
        state.segment_s = duration_ms / 1000
    for segment in frame.segments:
        if segment.ms > 0 and segment.bytes > 0:
            _learn_segment(state, segment.br, segment.bytes, segment.ms, segment.ttfb_ms)
    _hear(state, first(cmcd.measured_throughput_kbps, MAX_KBPS), fetched=bool(frame.segments))
    state.buffer_ms = first(cmcd.buffer_length_ms, MAX_MS)
    rate = first(cmcd.playback_rate, 16.0)
    if rate is not None and 0 < rate != state.playback_rate:
        state.playback_rate, state.fresh = rate, True
    starved = cmcd.starved is True
    state.fresh = state.fresh or starved
    state.starved = starved
    if isinstance(frame.viewport, tuple):
        state.viewport_px = frame.viewport
    _count_drops(state, frame.dropped_frames)


def decide(
    state: QualityState,
    ladder: Sequence[Rung],
    *,
    viewport_px: tuple[int, int] | None,
    save_data: bool,
    remaining: int | None = None,
    sizes_kbit: Sequence[float] | None = None,
    table: Table | None = None,
) -> Decision:
    """The rung to fetch next from `ladder` (lowest first, not empty), by what `observe` has seen.

    `viewport_px` is what the session was made with; a report's own counts more. `remaining` is how many segments are
    left to fetch where that is known, `sizes_kbit` the next one's size at each rung, `table` another than the one that
    ships for segments of this length. The state remembers the decision, which stands until there is news.
    """
    top, top_reason = _ceiling(state, ladder, state.viewport_px or viewport_px, save_data)
    if state.fresh or state.rung is None or top != state.ceiling:
        state.rung, state.reason = _decide(state, ladder, top, top_reason, remaining, sizes_kbit, table)
        state.ceiling, state.fresh = top, False
    elif state.rung == top:
        state.reason = top_reason if state.samples else state.reason
    etp = round(1 / state.inverse_kbps) if state.inverse_kbps else None
    return Decision(state.rung, -int(-ladder[state.rung].br // 1), etp, state.reason)


# What is learned ------------------------------------------------------------------------------------------------------


def _learn_segment(state: QualityState, br_kbps: float, size_bytes: float, ms: float, ttfb_ms: float) -> None:
    state.learn(min(max(transfer_kbps(size_bytes, ms, ttfb_ms), 1.0), MAX_KBPS))
    state.wait_s = min(ttfb_ms / 1000, LONGEST_WAIT_S)
    state.crawl_kbps, state.fresh = 0.0, True
    if br_kbps > 0:
        state.fetched_kbps = br_kbps
        ratio = size_bytes * 8 / 1000 / (br_kbps * state.segment_s)
        state.excess = min(max(ratio, SMALLEST), LARGEST) - 1


def _hear(state: QualityState, told_kbps: float | None, *, fetched: bool) -> None:
    """The player's own figure: all there is from players that do not tell their segments; from others it is news only
    of a download under way that crawls."""
    if not told_kbps or fetched or told_kbps == state.told_kbps:
        return
    state.told_kbps = told_kbps
    if state.wait_s is None:
        state.learn(max(told_kbps, 1.0))
        state.fresh = True
    elif told_kbps < CRAWLS * min(state.newest_kbps, state.crawl_kbps or MAX_KBPS):
        state.crawl_kbps, state.fresh = max(told_kbps, 1.0), True


def _count_drops(state: QualityState, dropped: object) -> None:
    if state.spared:
        state.spared -= 1
        if not state.spared:
            state.heavy_kbps = 0.0
    if not isinstance(dropped, int):
        return
    state.dropping += 0.2 * (min(dropped, 60) - state.dropping)
    if state.dropping > DROPS and state.fetched_kbps:
        state.heavy_kbps, state.spared, state.dropping = state.fetched_kbps, SPARED_REPORTS, 0.0


# What is decided ------------------------------------------------------------------------------------------------------


def _decide(
    state: QualityState, ladder: Sequence[Rung], top: int, top_reason: str, remaining: int | None,
    sizes_kbit: Sequence[float] | None, table: Table | None,
) -> tuple[int, str]:  # fmt: skip
    """The rung at most `top` that is worth most, and why."""
    if state.samples == 0:
        return 0, NOT_MEASURED
    belief: Belief = state if not state.crawl_kbps else state.after(state.crawl_kbps)
    bitrates = tuple([rung.br for rung in ladder[: top + 1]])
    table = table or table_for(state.segment_s)
    steps = table.steps(bitrates)
    stretch = state.segment_s / table.segment_s
    rate = min(max(state.playback_rate, 0.25), 4.0)
    buffer_s = state.segment_s if state.buffer_ms is None else state.buffer_ms / 1000
    buffer_s = (buffer_s - ((state.wait_s or 0.0) - table.rtt_s) * rate) / stretch
    # Seconds that a segment of the top bitrate takes, at the slower of level and newest sample.
    slow_s = max(belief.inverse_kbps, 1 / belief.newest_kbps) * steps[-1].top_kbps * table.segment_s * rate
    if sizes_kbit is None:
        excess = SCENE_LASTS * state.excess * slow_s
        buffers_s = [buffer_s - excess * step.share for step in steps]
    else:
        nominal = [kbps * state.segment_s for kbps in bitrates]
        sizes = zip(steps, sizes_kbit, nominal, strict=False)
        buffers_s = [buffer_s - (size / usual - 1) * slow_s * step.share for step, size, usual in sizes]
    worths = table.worth(table.horizon(remaining), belief, rate, steps, buffers_s)
    last = _last_share(state, bitrates)
    most_kbps = _most_after_collapse(state, belief, rate)
    best, most = 0, float("-inf")
    for rung, (step, worth) in enumerate(zip(steps, worths, strict=True)):
        share = step.share
        value = worth + share if last is None else worth + share - abs(share - last)
        if value > most and (bitrates[rung] <= most_kbps or rung == 0):
            best, most = rung, value
    return best, top_reason if best == top else _why(state, belief, ladder, best)


def _most_after_collapse(state: QualityState, belief: Belief, rate: float) -> float:
    """The highest bitrate that is no gamble now."""
    if belief.newest_kbps * belief.inverse_kbps >= COLLAPSED_SHARE:
        return MAX_KBPS
    spare_s = AT_STAKE * (state.buffer_ms or 0.0) / 1000 / rate
    return max(spare_s * belief.newest_kbps / state.segment_s, 0.0)


def _last_share(state: QualityState, bitrates: tuple[float, ...]) -> float | None:
    """The bitrate shown last, as a share of the highest allowed; None before the first."""
    if state.fetched_kbps:
        return min(bitrates, key=lambda kbps: abs(kbps - state.fetched_kbps)) / bitrates[-1]
    return None if state.rung is None else bitrates[min(state.rung, len(bitrates) - 1)] / bitrates[-1]


def _why(state: QualityState, belief: Belief, ladder: Sequence[Rung], rung: int) -> str:
    """Why no higher rung, in words."""
    level_kbps = 1 / belief.inverse_kbps / max(state.playback_rate, 0.25)
    if state.starved or (state.buffer_ms is not None and state.buffer_ms < state.segment_s * 500):
        return LOW_BUFFER
    if belief.newest_kbps * belief.inverse_kbps < SLOWED_SHARE:
        return SLOWED
    if ladder[rung].br > level_kbps:
        return ON_BUFFER
    if ladder[rung + 1].br >= level_kbps:
        return NARROW
    return UNSTEADY if belief.deviation > UNSTEADY_DEVIATION else FILLING


def _ceiling(
    state: QualityState, ladder: Sequence[Rung], viewport_px: tuple[int, int] | None, save_data: bool
) -> tuple[int, str]:
    """The highest rung worth fetching however fast the network is, and why."""
    top, reason = len(ladder) - 1, ROOM
    if viewport_px is not None and min(viewport_px) > 0:
        enough = next((i for i, r in enumerate(ladder) if _covers(r, viewport_px)), top)
        if enough < top:
            top, reason = enough, VIEWPORT
    if state.heavy_kbps:
        light = max((i for i, rung in enumerate(ladder) if rung.br < state.heavy_kbps * 0.99), default=0)
        if light < top:
            top, reason = light, DEVICE
    if save_data and top > 1:
        top, reason = 1, DATA_SAVER
    return top, reason


def _covers(rung: Rung, viewport_px: tuple[int, int]) -> bool:
    """Whether a picture of this rung fills the viewport: fitted inside it, the tighter side decides."""
    if not rung.width or not rung.height:
        return False
    return rung.width >= viewport_px[0] or rung.height >= viewport_px[1]

"""Which rung of the ladder a player should fetch next. Pure: no clock, no I/O, no random number.

`observe` folds a report into a small state that goes into the checkpoint; `decide` reads that state. The quality of a
viewing is what the field measures it by (Yin et al. 2015, Mao et al., "Pensieve", SIGCOMM 2017): each segment's
bitrate, less a top rung's worth for every second of stall, less every change of bitrate. `decide` takes the rung with
the most of it now and to come, where what is to come is an expectation over what throughput may do next; how that is
learned and looked up is `lookahead`'s. What is particular to here:

- Throughput is of the transfer alone, the wait for the first byte is counted apart: small segments on a distant
  server look slow otherwise.
- Sizes of the next segments are unknown, but scenes last: a segment larger than its bitrate says is followed by such.
- A learner sees seconds: segments shorter than 4 s are decided as if they lasted that long.
- A player that wants to hold more than the tables know of keeps that in reserve: of its buffer a part counts.
- At playback rate r the buffer drains r times as fast, as if the network were slower by r.
- A belief forgets within ten segments whether a network has ever dropped; that is remembered beside it. One that has
  hardly been slower than its level for two dozen segments and more is trusted by an eighth more.
- What others on the same network get counts as one sample before the first. It raises no first rung: that costs
  startup, and gained nothing.
- Near the lecture's end the buffer is worth less and less, and is spent.
- A player that asks for its next segment before the last one's decision has come obeys each decision a segment late.
  Where that was seen, what is decided is the segment after the one that it fetches now.
- A download under way that crawls is believed before it ends, and given up when it would outlast the buffer while a
  lower rung, begun anew, is here much sooner.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, inf

from msgspec import UNSET, Struct, UnsetType

from actors.video_session import search
from actors.video_session.lookahead import Belief, Offer, Table, table_for, transfer_kbps
from actors.video_session.messages import MAX_KBPS, MAX_MS, Advice, Cmsd, Report, Rung, first, total

# A segment's excess over its bitrate lasts, for scenes are longer than segments: to the first share for the next one,
# and to the second for all from there on, as if the network were slower. These agree best with a table that knows of
# scenes, which is three times as large.
SCENE_LASTS, SCENE_LINGERS = 0.75, 0.15
# Not more of it is believed: after slides comes a film.
SMALLEST, LARGEST = 0.7, 2.0
# A segment that takes longer than the level promises by more than SHORT_BY falls short, of one outage no more than
# MOST_SHORT counts. The mean of that shortfall is what networks usually have until a session has samples of its own,
# which weigh as much as all before and OWN_AFTER of the usual, and it is forgotten over REMEMBERED segments.
SHORT_BY, MOST_SHORT, USUAL_SHORTFALL, OWN_AFTER, REMEMBERED = 0.15, 2.0, 0.07, 16, 64
# Below, a network is calm: it rarely drops next, and a download is thought to take only this share of the time.
CALM, CALM_TAKES = 0.03, 0.88
# Before a report names them.
USUAL_SEGMENT_S = 4.0
# A wait for the first byte beyond this is a stalled network, not a distant one.
LONGEST_WAIT_S = 2.0
# A download under way is news when it is slower than the newest segment by this.
CRAWLS = 0.6
# A download is given up after so many seconds, and when so few segments are buffered: before, a dip that passes looks
# the same.
PATIENCE_S, PRESSED_SEGMENTS = 2.5, 2
# So many frames dropped per report, in the mean, are more than a device should; it is spared that bitrate for a while.
DROPS, SPARED_REPORTS = 5.0, 300
# After a newest sample below DROPPED_SHARE of the level nothing is fetched that would, did the network stay so, take
# more than a part of the buffer, a smaller one the farther it dropped, and AT_STAKE below COLLAPSED_SHARE: the odds may
# say that it comes back, but being wrong is seen by the learner. Of a larger buffer no more than AT_STAKE_MS counts, so
# that the picture follows.
COLLAPSED_SHARE, DROPPED_SHARE, AT_STAKE = 0.3, 0.7, 0.3
AT_STAKE_MS = 20_000.0
# The tables' players hold so much. Of one that wants to hold more (CMCD's `tbl`) as large a part counts as that is of
# it, no smaller one than LEAST_PART: the rest is for outages that last longer than the tables prepare for.
HELD_MS, LEAST_PART = 30_000.0, 0.5
# A player that did so twice in a row obeys late. What it then fetches unseen is thought to get this part of what the
# slower of level and newest sample promises.
LATE_WEIGHT, LATE = 0.5, 0.6
UNSEEN_SHARE = 0.5
# For reasons only: a newest sample below this share of the level is a slow-down; samples this far from the level
# (logarithm) are unsteady.
SLOWED_SHARE, UNSTEADY_DEVIATION = 0.6, 0.35
LOW_BUFFER_MS_PER_S = 500  # of a segment
SLOWEST_RATE, FASTEST_RATE = 0.25, 4.0
UNKNOWN = -1
# After so few samples a session's level is no news to its neighbours.
TELLING_SAMPLES = 5
# Segments before a lecture's end from which on its end counts.
SIGHT = 13

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
SHARED = "many share this network, and each gets an even part"
REASONS = (
    NOT_MEASURED, ROOM, NARROW, SLOWED, UNSTEADY, FILLING, ON_BUFFER, LOW_BUFFER, VIEWPORT, DATA_SAVER, DEVICE,
    SHARED,
)  # fmt: skip


@dataclass(slots=True)
class QualityState(Belief):
    """What is remembered between reports: the belief about the network, and where the player stands."""

    buffer_ms: float | None = None
    target_ms: float = HELD_MS  # what the player wants to hold
    playback_rate: float = 1.0
    starved: bool = False
    rung: int | None = None  # the last decision, why, and the highest rung that was allowed then
    reason: str = NOT_MEASURED
    ceiling: int = UNKNOWN
    viewport_px: tuple[int, int] | None = None
    segment_s: float = USUAL_SEGMENT_S
    fetched_kbps: float = 0.0  # bitrate of the segment fetched last
    excess: float = 0.0  # how much larger it was than its bitrate says, as a share
    shortfall: float = USUAL_SHORTFALL  # by which segments took longer than the level said, in the mean and as a share
    wait_s: float | None = None  # for its first byte
    told_kbps: float = 0.0  # the player's own figure, as last told
    crawl_kbps: float = 0.0  # of a download under way that is much slower than the newest segment; 0 = none
    loading_kbps: float = 0.0  # the bitrate of that download
    decided_kbps: float = 0.0  # bitrate of the last decision
    stood_kbps: float = 0.0  # and of the one before, where the next segment will tell which of them was obeyed; 0 = not
    late: float = 0.0  # how often it was the one before; 0 = never, 1 = always
    full_ms: float = 0.0  # the buffer when the newest segment had come, and stalls since
    stalled_ms: float = 0.0
    abandon: bool = False  # the last decision said to give up the download
    prior_kbps: float = 0.0  # what others on the same network get; 0 = not known
    network: str = ""  # its name, under which this session's level is told once; empty afterwards
    position_s: float = 0.0
    fresh: bool = True  # something was learned since the last decision
    dropping: float = 0.0  # mean frames dropped per report
    heavy_kbps: float = 0.0  # a bitrate that the device could not show, 0 = none, and for how many reports it is spared
    spared: int = 0


class Decision(Struct, frozen=True):
    """Advice: fetch at most `rung`, and where `abandon` is said give up what is being fetched above it. `mb` and `etp`
    are CTA-5006's maximum suggested bitrate and estimated throughput, both kbit/s; `etp` is None before anything was
    measured; `du` is its duress: a full link that many share."""

    rung: int
    mb: int
    etp: int | None
    reason: str
    abandon: bool = False
    du: bool = False

    def advice(self, *, n: int, epoch: int, ttl_ms: int) -> Advice:
        """The decision in the player's words: the `n`-th of this `epoch`."""
        # What was never measured is expected to carry what is allowed, and no more.
        cmsd = Cmsd(self.mb, self.mb if self.etp is None else self.etp, True if self.du else UNSET)
        abandon = True if self.abandon else UNSET
        return Advice(n=n, epoch=epoch, rung=self.rung, cmsd=cmsd, reason=self.reason, ttl_ms=ttl_ms, abandon=abandon)


@lru_cache(maxsize=1024)
def _offer(bitrates_kbps: tuple[float, ...], segment_s: float) -> Offer:
    return Offer(bitrates_kbps, segment_s, table_for(segment_s))


class Question:
    """What a session's decisions depend on: what is remembered, and what it was made with. `ladder` is lowest first and
    not empty; a report's own viewport counts more than `viewport_px`; `length_s` is the lecture's, where known. `table`
    is another than the one that ships."""

    __slots__ = (
        "_bitrates_kbps", "_offer", "_save_data", "_table", "_viewport_px", "fair_kbps", "ladder", "length_s", "state",
        "top_reason",
    )  # fmt: skip

    def __init__(
        self, state: QualityState, ladder: Sequence[Rung], *, viewport_px: tuple[int, int] | None = None,
        save_data: bool = False, length_s: float | None = None, table: Table | None = None,
    ) -> None:  # fmt: skip
        self.state = state
        self.ladder = ladder
        self.length_s = inf if length_s is None else length_s
        self.top_reason = ROOM
        self.fair_kbps = inf  # an even part of a full link that many share
        self._bitrates_kbps = tuple([rung.br for rung in ladder])
        self._viewport_px = viewport_px
        self._save_data = save_data
        self._table = table
        self._offer: Offer | None = None

    def share(self, fair_kbps: float) -> None:
        """From now on the session leaves what is above to others; `inf`: there is no need."""
        if fair_kbps != self.fair_kbps:
            self.fair_kbps = fair_kbps
            self.state.ceiling, self.state.fresh = UNKNOWN, True

    @property
    def offer(self) -> Offer:
        """What may be fetched now: looked up anew when a report changed what limits it."""
        state, offer = self.state, self._offer
        if offer is None or state.ceiling != offer.top or state.segment_s != offer.segment_s:
            viewport_px = state.viewport_px or self._viewport_px
            top, self.top_reason = _ceiling(state, self.ladder, viewport_px, self._save_data, self.fair_kbps)
            bitrates_kbps = self._bitrates_kbps[: top + 1]
            table = self._table
            offer = Offer(bitrates_kbps, state.segment_s, table) if table else _offer(bitrates_kbps, state.segment_s)
            self._offer, state.ceiling = offer, top
        return offer

    def remaining(self) -> int | None:
        """Segments that are left to fetch; None where the end is not known."""
        if self.length_s == inf:
            return None
        state = self.state
        left_s = self.length_s - state.position_s - (state.buffer_ms or 0.0) / 1000
        return max(ceil(left_s / state.segment_s - 0.1), 1)

    def ends_soon(self) -> bool:
        """Whether the end is in sight of the tables."""
        state = self.state
        return state.position_s + (state.buffer_ms or 0.0) / 1000 > self.length_s - state.segment_s * SIGHT


def told_by(state: QualityState) -> tuple[str, float] | None:
    """What a session has to tell about its network, once: the network's name and the level (kbit/s)."""
    if not state.network or state.samples < TELLING_SAMPLES:
        return None
    network, state.network = state.network, ""
    return network, 1 / state.inverse_kbps


def lacks_buffer(question: Question) -> bool:
    """Whether a viewing that has begun runs out of what is buffered, before its end."""
    state = question.state
    if state.samples < TELLING_SAMPLES or state.buffer_ms is None or question.ends_soon():
        return False
    return state.starved or state.buffer_ms < PRESSED_SEGMENTS * 1000 * state.segment_s


def obeys_late(state: QualityState) -> bool:
    """Whether this player asks for its next segment before it has what the last one's report led to."""
    return state.late > LATE


def observe(state: QualityState, frame: Report) -> None:
    """Fold one report into the state."""
    # On every frame's path: a plain number is taken as it is, without a call.
    cmcd = frame.cmcd
    duration = cmcd.object_duration_ms
    duration_ms = duration if isinstance(duration, float) else first(duration, MAX_MS)
    if duration_ms is not None and 200 <= duration_ms <= 30_000:
        state.segment_s = duration_ms / 1000
    if frame.position is not UNSET:
        state.position_s = frame.position
    told_kbps = cmcd.measured_throughput_kbps
    buffer = cmcd.buffer_length_ms
    buffer_ms = buffer if isinstance(buffer, float) and buffer < MAX_MS else first(buffer, MAX_MS)
    state.buffer_ms = buffer_ms
    target = cmcd.target_buffer_ms
    state.target_ms = (None if target is UNSET else first(target, MAX_MS)) or state.target_ms
    if frame.segments:
        state.full_ms, state.stalled_ms = buffer_ms or 0.0, 0.0
        for segment in frame.segments:
            if segment.ms > 0 and segment.bytes > 0:
                _learn_segment(state, segment.br, segment.bytes, segment.ms, segment.ttfb_ms)
    elif told_kbps is not UNSET:
        if cmcd.starved_ms is not UNSET:
            state.stalled_ms += total(cmcd.starved_ms, MAX_MS)
        _hear(state, first(told_kbps, MAX_KBPS), first(cmcd.encoded_bitrate_kbps, MAX_KBPS))
    rate = cmcd.playback_rate
    if rate is not UNSET and rate != state.playback_rate:
        _play_at(state, first(rate, 16.0))
    if cmcd.starved is True:
        state.starved = state.fresh = True
    else:
        state.starved = False
    if frame.viewport is not UNSET and frame.viewport != state.viewport_px:
        state.viewport_px, state.ceiling, state.fresh = frame.viewport, UNKNOWN, True
    if state.spared or frame.dropped_frames is not UNSET:
        _count_drops(state, frame.dropped_frames)


def decide(
    question: Question, *, remaining: int | None = None, sizes_kbit: Sequence[Sequence[float]] | None = None
) -> Decision:  # fmt: skip
    """The rung to fetch next, by what `observe` has seen.

    `remaining` is how many segments are left to fetch, if not what the lecture's length says, `sizes_kbit` the sizes at
    each rung of the next one, and of those after it as far as they are known. The state remembers the decision, which
    stands until there is news.
    """
    state = question.state
    if state.fresh or state.rung is None:
        state.rung, state.reason, state.abandon = _decide(question, remaining, sizes_kbit)
        state.fresh = False
        kbps = question.ladder[state.rung].br
        # Of what was decided in the middle of a download the segment tells nothing.
        state.stood_kbps = 0.0 if kbps == state.decided_kbps or state.crawl_kbps else state.decided_kbps
        state.decided_kbps = kbps
    etp = round(1 / state.inverse_kbps) if state.inverse_kbps else None
    mb, du = -int(-question.ladder[state.rung].br // 1), question.fair_kbps < inf
    return Decision(state.rung, mb, etp, state.reason, state.abandon, du)


# What is learned ------------------------------------------------------------------------------------------------------


def _learn_segment(state: QualityState, br_kbps: float, size_bytes: float, ms: float, ttfb_ms: float) -> None:
    kbps = transfer_kbps(size_bytes, ms, ttfb_ms)
    kbps = 1.0 if kbps < 1.0 else kbps if kbps < MAX_KBPS else MAX_KBPS
    if state.samples == 0:
        _expect_the_usual(state)
    elif state.samples > 1:
        count_shortfall(state, kbps)
    state.learn(kbps)
    wait_s = ttfb_ms / 1000
    state.wait_s = wait_s if wait_s < LONGEST_WAIT_S else LONGEST_WAIT_S
    state.crawl_kbps = 0.0
    state.fresh = True
    if br_kbps >= 1:  # no rung is below
        state.fetched_kbps = br_kbps
        if state.stood_kbps:
            was_late = abs(br_kbps - state.stood_kbps) < abs(br_kbps - state.decided_kbps)
            state.late += LATE_WEIGHT * (was_late - state.late)
            state.stood_kbps = 0.0
        ratio = size_bytes * 8 / 1000 / (br_kbps * state.segment_s)
        state.excess = (SMALLEST if ratio < SMALLEST else ratio if ratio < LARGEST else LARGEST) - 1


def count_shortfall(state: QualityState, kbps: float) -> None:
    """Fold in how much longer than the level promises a segment took; before the level learns of it."""
    short = 1 / (kbps * state.inverse_kbps) - 1 - SHORT_BY
    short = 0.0 if short < 0 else short if short < MOST_SHORT else MOST_SHORT
    count = state.samples + OWN_AFTER - 1
    state.shortfall += (short - state.shortfall) / (count if count < REMEMBERED else REMEMBERED)


def _expect_the_usual(state: QualityState) -> None:
    if state.prior_kbps:
        state.learn(state.prior_kbps)


def _hear(state: QualityState, told_kbps: float | None, loading_kbps: float | None) -> None:
    """The player's own figure: all there is from players that do not tell their segments; from others it is news only
    of a download under way that crawls, or no more."""
    if not told_kbps:
        return
    if told_kbps == state.told_kbps:
        state.fresh = state.fresh or state.crawl_kbps > 0  # the buffer is shorter than it was
        return
    state.told_kbps = told_kbps
    if state.wait_s is None:
        if state.samples == 0:
            _expect_the_usual(state)
        state.learn(max(told_kbps, 1.0))
        state.fresh = True
    elif told_kbps < CRAWLS * state.newest_kbps:
        state.crawl_kbps, state.loading_kbps, state.fresh = max(told_kbps, 1.0), loading_kbps or 0.0, True
    elif state.crawl_kbps:
        state.crawl_kbps, state.fresh = 0.0, True


def _play_at(state: QualityState, rate: float | None) -> None:
    if rate is not None and 0 < rate != state.playback_rate:
        state.playback_rate, state.fresh = rate, True


def _count_drops(state: QualityState, dropped: int | UnsetType) -> None:
    if state.spared:
        state.spared -= 1
        if not state.spared:
            state.heavy_kbps, state.ceiling, state.fresh = 0.0, UNKNOWN, True
    if dropped is UNSET:
        return
    state.dropping += 0.2 * (min(dropped, 60) - state.dropping)
    if state.dropping > DROPS and state.fetched_kbps:
        state.heavy_kbps, state.spared, state.dropping = state.fetched_kbps, SPARED_REPORTS, 0.0
        state.ceiling, state.fresh = UNKNOWN, True


# What is decided ------------------------------------------------------------------------------------------------------


def _decide(
    question: Question, remaining: int | None, sizes_kbit: Sequence[Sequence[float]] | None
) -> tuple[int, str, bool]:  # fmt: skip
    """The rung of the offer that is worth most, why, and whether to give up what is being fetched for it."""
    state = question.state
    if state.samples == 0:
        return 0, NOT_MEASURED, False
    offer = question.offer
    table, steps = offer.table, offer.steps
    belief: Belief = state if not state.crawl_kbps else state.after(state.crawl_kbps)
    rate = min(max(state.playback_rate, SLOWEST_RATE), FASTEST_RATE)
    buffer_s = offer.segment_s if state.buffer_ms is None else state.buffer_ms / 1000
    wait_s = state.wait_s or 0.0
    shown_kbps = state.fetched_kbps
    remaining = question.remaining() if remaining is None else remaining
    if obeys_late(state) and not state.crawl_kbps:
        shown_kbps = state.decided_kbps
        unseen_kbps = UNSEEN_SHARE * min(1 / belief.inverse_kbps, belief.newest_kbps)
        takes_s = wait_s + shown_kbps * offer.segment_s * (1 + SCENE_LASTS * state.excess) / unseen_kbps
        buffer_s = max(buffer_s - takes_s * rate, 0.0) + offer.segment_s
        remaining = None if remaining is None else max(remaining - 1, 1)
    if remaining is None or remaining >= SIGHT:
        buffer_s *= min(max(HELD_MS / state.target_ms, LEAST_PART), 1.0)
    last = _last_share(state, shown_kbps, offer)
    if sizes_kbit is None:
        # Seconds that a segment of the top bitrate takes, at the slower of level and newest sample.
        slow_s = max(belief.inverse_kbps, 1 / belief.newest_kbps) * offer.top_kbps * table.segment_s * rate
        excess = SCENE_LASTS * state.excess * slow_s
        buffer_s = (buffer_s - (wait_s - table.rtt_s) * rate) / offer.stretch
        buffers_s = [buffer_s - excess * step.share for step in steps]
        slowed = rate * (CALM_TAKES if state.shortfall < CALM else 1.0) * (1 + SCENE_LINGERS * state.excess)
        worths = table.worth(table.horizon(remaining), belief, slowed, steps, buffers_s)
    else:
        worths = search.worth(
            offer, belief, sizes_kbit, buffer_s=buffer_s / offer.stretch, wait_s=wait_s, rate=rate, last=last,
            remaining=remaining,
        )  # fmt: skip
    # Where sizes are known the search has looked at what a drop may cost.
    most_kbps = _most_after_drop(state, belief, rate) if sizes_kbit is None else MAX_KBPS
    best, most = 0, float("-inf")
    for rung, (step, worth) in enumerate(zip(steps, worths, strict=True)):
        share = step.share
        value = worth + share if last is None else worth + share - abs(share - last)
        if value > most and (rung == 0 or (worth > table.floor and offer.bitrates_kbps[rung] <= most_kbps)):
            best, most = rung, value
    reason = question.top_reason if best == offer.top else _why(state, belief, offer, best)
    return best, reason, state.crawl_kbps > 0 and _outlasts_buffer(state, offer, best, rate)


def _outlasts_buffer(state: QualityState, offer: Offer, rung: int, rate: float) -> bool:
    """Whether to give up the download that crawls for `rung`: it would end so long after the buffer that the stall
    costs more than the picture. Not before the buffer is short, for until then the network may come back."""
    anew_kbps = offer.bitrates_kbps[rung]
    if state.buffer_ms is None or state.loading_kbps <= anew_kbps:
        return False
    buffer_s = state.buffer_ms / 1000 / rate
    # It may have begun later, after a pause at a full buffer: then it is thought to be further than it is, and kept.
    gone_s = (max(state.full_ms - state.buffer_ms, 0.0) / rate + state.stalled_ms) / 1000
    if gone_s < PATIENCE_S or buffer_s > PRESSED_SEGMENTS * offer.segment_s:
        return False
    left_s = state.loading_kbps * offer.segment_s / state.crawl_kbps - gone_s
    anew_s = anew_kbps * offer.segment_s / state.crawl_kbps
    return left_s - max(buffer_s, anew_s) > (state.loading_kbps - anew_kbps) / offer.top_kbps


def _most_after_drop(state: QualityState, belief: Belief, rate: float) -> float:
    """The highest bitrate that is no gamble now."""
    share = belief.newest_kbps * belief.inverse_kbps
    if share >= DROPPED_SHARE:
        return MAX_KBPS
    part = AT_STAKE if share < COLLAPSED_SHARE else AT_STAKE + share
    spare_s = part * min(state.buffer_ms or 0.0, AT_STAKE_MS) / 1000 / rate
    return max(spare_s * belief.newest_kbps / state.segment_s, 0.0)


def _last_share(state: QualityState, shown_kbps: float, offer: Offer) -> float | None:
    """The bitrate shown last, as a share of the highest allowed; None before the first."""
    if shown_kbps:
        return offer.steps[bisect_left(offer.middles_kbps, shown_kbps)].share
    return None if state.rung is None else offer.steps[min(state.rung, offer.top)].share


def _why(state: QualityState, belief: Belief, offer: Offer, rung: int) -> str:
    """Why no higher rung, in words."""
    level_kbps = 1 / belief.inverse_kbps / max(state.playback_rate, SLOWEST_RATE)
    if state.starved or (state.buffer_ms is not None and state.buffer_ms < offer.segment_s * LOW_BUFFER_MS_PER_S):
        return LOW_BUFFER
    if belief.newest_kbps * belief.inverse_kbps < SLOWED_SHARE:
        return SLOWED
    if offer.bitrates_kbps[rung] > level_kbps:
        return ON_BUFFER
    if offer.bitrates_kbps[rung + 1] >= level_kbps:
        return NARROW
    return UNSTEADY if belief.deviation > UNSTEADY_DEVIATION else FILLING


def _ceiling(
    state: QualityState, ladder: Sequence[Rung], viewport_px: tuple[int, int] | None, save_data: bool, fair_kbps: float
) -> tuple[int, str]:  # fmt: skip
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
    if ladder[top].br > fair_kbps and top:
        top = max((i for i, rung in enumerate(ladder[:top]) if rung.br <= fair_kbps), default=0)
        reason = SHARED
    return top, reason


def _covers(rung: Rung, viewport_px: tuple[int, int]) -> bool:
    """Whether a picture of this rung fills the viewport: fitted inside it, the tighter side decides."""
    if not rung.width or not rung.height:
        return False
    return rung.width >= viewport_px[0] or rung.height >= viewport_px[1]

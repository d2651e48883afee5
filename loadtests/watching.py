"""A viewing segment by segment: what a policy decides, a network delivers, and a learner sees.

Quality as the field measures it (Yin et al. 2015; Mao et al. 2017), per segment: Mbit/s of the rung, less `STALL` per
second of stall, startup counted in, less every change of Mbit/s. `STALL` is 4.3 for their ladder, whose top is
4.3 Mbit/s; other ladders are charged their own top.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from loadtests.networks import Network

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Video:
    """What is watched: `sizes_kbit[segment][rung]`; the player buffers `cap_s` at most."""

    ladder_kbps: tuple[float, ...]
    segment_s: float
    sizes_kbit: list[list[float]]
    cap_s: float = 30.0

    @property
    def mbps(self) -> Array:
        return np.asarray(self.ladder_kbps) / 1000

    @property
    def stall_cost(self) -> float:
        """Per second."""
        return self.ladder_kbps[-1] / 1000


# The ladder of the papers: 240p to 1080p.
PAPERS_KBPS = (300.0, 750.0, 1200.0, 1850.0, 2850.0, 4300.0)


def video(
    seed: int, *, ladder_kbps: Sequence[float] = PAPERS_KBPS, segment_s: float = 4.0, segments: int = 64,
    cap_s: float = 30.0,
) -> Video:  # fmt: skip
    """A video with scenes: sizes vary around their bitrates as encoders' do, together over the rungs."""
    rng = np.random.default_rng(seed)
    scene, factors = 0.0, []
    for _ in range(segments):
        scene = 0.7 * scene + rng.normal(0, 0.16)
        factors.append(np.exp(scene + rng.normal(0, 0.04, len(ladder_kbps))))
    bounded = np.clip(np.array(factors) / np.mean(factors, axis=0), 0.5, 1.8)
    sizes = bounded / bounded.mean(axis=0) * np.asarray(ladder_kbps) * segment_s
    return Video(tuple(ladder_kbps), segment_s, sizes.tolist(), cap_s)


@dataclass(slots=True)
class View:
    """What a policy may see before it asks for segment `index`; lists are per segment fetched so far."""

    index: int = 0
    remaining: int = 0  # segments left, this one included
    buffer_s: float = 0.0
    last_rung: int = -1
    rtt_s: float = 0.0
    playback_rate: float = 1.0
    throughput_kbps: list[float] = field(default_factory=list)  # size / (round trip + transfer)
    sizes_kbit: list[float] = field(default_factory=list)
    download_s: list[float] = field(default_factory=list)
    next_sizes: Array | None = None  # [<= 5, rungs] kbit, or unknown
    prior_kbps: tuple[float, float, int] | None = None


class Policy(Protocol):
    """Whatever decides."""

    name: str

    def reset(self, ladder_kbps: Sequence[float], segment_seconds: float) -> None:
        """A session begins."""

    def decide(self, obs: Any) -> int:
        """The rung of the next segment."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One viewing, as it was."""

    rungs: list[int]
    stall_s: float
    startup_s: float

    def quality(self, of: Video) -> float:
        """Mean per segment."""
        shown = of.mbps[self.rungs]
        changes = float(np.abs(np.diff(shown)).sum())
        return (float(shown.sum()) - of.stall_cost * (self.stall_s + self.startup_s) - changes) / len(self.rungs)

    def rebuffer_share(self, of: Video) -> float:
        """Stalls as a share of the time watched."""
        return self.stall_s / (len(self.rungs) * of.segment_s + self.stall_s)


def watch(
    policy: Policy, network: Network, of: Video, *, sizes_known: bool = False, playback_rate: float = 1.0,
    lag: bool = False, leaves_after: int | None = None, gives_up: bool = False,
) -> Seen:  # fmt: skip
    """One viewing.

    With `lag` a decision is a segment old when it is obeyed, as it is for a server that hears of a segment when the
    next one is asked for already. With `gives_up` the policy is asked every second of a download for the rung to fetch
    instead, or None; what had come is lost. A learner who `leaves_after` so many segments has not said so before.
    """
    policy.reset(of.ladder_kbps, of.segment_s)
    view = View(rtt_s=network.rtt_s, playback_rate=playback_rate)
    segments = len(of.sizes_kbit)
    now_s = stall_s = startup_s = 0.0
    rungs: list[int] = []
    obeyed = 0
    for index in range(min(segments, leaves_after or segments)):
        view.index, view.remaining = index, segments - index
        view.next_sizes = np.asarray(of.sizes_kbit[index : index + 5]) if sizes_known else None
        decided = min(max(int(policy.decide(view)), 0), len(of.ladder_kbps) - 1)
        rung, obeyed = (obeyed, decided) if lag else (decided, decided)
        lost_s = 0.0
        if gives_up and index:
            rung, lost_s = _until_given_up(policy, view, network, of, now_s, rung)
        kbit = of.sizes_kbit[index][rung]
        end_s = network.finish_s(now_s + lost_s + network.rtt_s, kbit)
        took_s = end_s - now_s
        now_s = end_s
        if index == 0:
            startup_s = took_s
        else:
            drained_s = took_s * playback_rate
            stall_s += max(drained_s - view.buffer_s, 0.0) / playback_rate
            view.buffer_s = max(view.buffer_s - drained_s, 0.0)
        view.buffer_s += of.segment_s
        if view.buffer_s > of.cap_s:
            now_s += (view.buffer_s - of.cap_s) / playback_rate
            view.buffer_s = of.cap_s
        view.throughput_kbps.append(kbit / (took_s - lost_s))
        view.sizes_kbit.append(kbit)
        view.download_s.append(took_s - lost_s)
        view.last_rung = rung
        rungs.append(rung)
    return Seen(rungs, stall_s, startup_s)


def _until_given_up(policy: Any, view: View, network: Network, of: Video, now_s: float, rung: int) -> tuple[int, float]:
    """The rung that is fetched in the end, and the seconds lost on what was given up for it."""
    begun_s, lost_s = now_s, 0.0
    second = 1.0
    while begun_s + second < network.finish_s(begun_s + network.rtt_s, of.sizes_kbit[view.index][rung]):
        got_kbit = network.sent(begun_s + network.rtt_s, begun_s + second)
        instead = policy.gives_up(view, rung, got_kbit, second, lost_s + second)
        if instead is not None and instead < rung:
            rung, lost_s = instead, lost_s + second
            begun_s, second = now_s + lost_s, 0.0
        second += 1.0
    return rung, lost_s


def optimum(
    network: Network, of: Video, *, playback_rate: float = 1.0, leaves_after: int | None = None,
    buffer_cell_s: float = 0.5, time_cell_s: float = 4.0,
) -> float:  # fmt: skip
    """The best mean quality of who knows the whole network, and the learner's leaving, before.

    Forward dynamic programming; of all paths that reach the same rung, half-second of buffer and four seconds of time
    only the best goes on, with its exact figures, so that what is found can be reached: a lower bound, close to the
    optimum.
    """
    mbps, cost, rungs = of.mbps, of.stall_cost, len(of.ladder_kbps)
    sizes = np.asarray(of.sizes_kbit[:leaves_after])
    now = _finish_all(network, np.full(rungs, network.rtt_s), sizes[0])
    worth, buffer_s, last = mbps - cost * now, np.full(rungs, of.segment_s), np.arange(rungs)
    for index in range(1, len(sizes)):
        rung = np.tile(np.arange(rungs), len(now))
        before, shown = np.repeat(now, rungs), np.repeat(last, rungs)
        end = _finish_all(network, before + network.rtt_s, sizes[index][rung])
        left = np.repeat(buffer_s, rungs) - (end - before) * playback_rate
        stall_s = np.maximum(-left, 0) / playback_rate
        value = np.repeat(worth, rungs) + mbps[rung] - cost * stall_s - np.abs(mbps[rung] - mbps[shown])
        filled = np.maximum(left, 0) + of.segment_s
        idle = np.maximum(filled - of.cap_s, 0)
        end, filled = end + idle / playback_rate, filled - idle
        cell = (
            (filled / buffer_cell_s).astype(np.int64) * 65_536 + (end / time_cell_s).astype(np.int64)
        ) * rungs + rung
        order = np.lexsort((-value, cell))
        order = order[value[order] > value.max() - cost * of.cap_s * 0.5 - 2 * (mbps[-1] - mbps[0])]
        chosen = order[np.r_[True, np.diff(cell[order]) != 0]]
        if len(chosen) > 6000:
            chosen = chosen[np.argsort(-value[chosen])[:6000]]
        now, buffer_s, worth, last = end[chosen], filled[chosen], value[chosen], rung[chosen]
    return float(worth.max()) / len(sizes)


def _finish_all(network: Network, start_s: Array, kbit: Array) -> Array:
    sent, period = np.asarray(network.sent_kbit), len(network.kbps)
    kbps = np.asarray(network.kbps)
    loops, phase = np.divmod(start_s, period)
    second = np.minimum(phase.astype(int), period - 1)
    more, target = np.divmod(sent[second] + (phase - second) * kbps[second] + kbit, sent[-1])
    at = np.clip(np.searchsorted(sent, target, side="left"), 1, period)
    return (loops + more) * period + at - 1 + (target - sent[at - 1]) / kbps[at - 1]

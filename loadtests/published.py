"""Published quality decisions, from their papers' and players' descriptions, to measure ours against."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np


def harmonic(values: Sequence[float]) -> float:
    """The mean for rates over equal amounts."""
    return len(values) / sum(1 / value for value in values)


class Published:
    """What they share."""

    name = ""

    def reset(self, ladder_kbps: Sequence[float], segment_seconds: float) -> None:
        self.ladder, self.segment_s, self.top = list(ladder_kbps), segment_seconds, len(ladder_kbps) - 1
        self.begin()

    def begin(self) -> None:
        """Forget the session before."""

    def highest_within(self, kbps: float) -> int:
        return max((rung for rung, bitrate in enumerate(self.ladder) if bitrate <= kbps), default=0)


class Rate(Published):
    """The harmonic mean of the last five segments (as in FESTIVE, Jiang et al., CoNEXT 2012)."""

    name = "rate"

    def decide(self, obs: Any) -> int:
        return self.highest_within(harmonic(obs.throughput_kbps[-5:])) if obs.throughput_kbps else 0


class BufferBased(Published):
    """BBA (Huang et al., SIGCOMM 2014) with the reservoir of 5 s and cushion of 10 s of the Pensieve paper."""

    name = "buffer-based"

    def decide(self, obs: Any) -> int:
        return int(self.top * min(max((obs.buffer_s - 5) / 10, 0.0), 1.0))


class Bola(Published):
    """BOLA-BASIC (Spiteri et al., INFOCOM 2016): a utility of ln(size), gamma p = 5."""

    name = "bola"

    def __init__(self, cap_s: float = 30.0) -> None:
        self.cap_s = cap_s

    def begin(self) -> None:
        self.utility = [math.log(bitrate / self.ladder[0]) for bitrate in self.ladder]
        self.v = (self.cap_s / self.segment_s - 1) / (self.utility[-1] + 5)

    def decide(self, obs: Any) -> int:
        level = obs.buffer_s / self.segment_s
        worth = [(self.v * (u + 5) - level) / b for u, b in zip(self.utility, self.ladder, strict=True)]
        return max(range(self.top + 1), key=lambda rung: (worth[rung], rung))


class HlsJs(Published):
    """hls.js' rule as its documentation has it: the lesser of two exponential means (half-lives 3 s and 9 s), 0.7 of
    it to go up and 0.95 to stay, and a download that fits into the buffer."""

    name = "hls.js"

    def begin(self) -> None:
        self.means, self.seconds, self.heard = [0.0, 0.0], 0.0, 0

    def decide(self, obs: Any) -> int:
        for took_s, kbit in zip(obs.download_s[self.heard :], obs.sizes_kbit[self.heard :], strict=True):
            for which, half_life_s in enumerate((3.0, 9.0)):
                keep = 0.5 ** (took_s / half_life_s)
                self.means[which] = keep * self.means[which] + (1 - keep) * kbit / took_s
            self.seconds += took_s
        self.heard = len(obs.download_s)
        if not self.seconds:
            return 0
        weights = [1 - 0.5 ** (self.seconds / half_life_s) for half_life_s in (3.0, 9.0)]
        kbps = min(mean / weight for mean, weight in zip(self.means, weights, strict=True))
        for allowed_s in (obs.buffer_s, obs.buffer_s + 4):
            for rung in range(self.top, -1, -1):
                spent = kbps * (0.95 if rung <= obs.last_rung else 0.7)
                if self.ladder[rung] <= spent and self.ladder[rung] * self.segment_s / spent + obs.rtt_s <= allowed_s:
                    return rung
        return 0


class RobustMpc(Published):
    """RobustMPC (Yin et al., SIGCOMM 2015): the best of all sequences of five, were throughput the harmonic mean of
    five segments, less the worst error of the last five predictions."""

    name = "RobustMPC"
    horizon = 5

    def __init__(self, cap_s: float = 30.0) -> None:
        self.cap_s = cap_s

    def begin(self) -> None:
        self.errors: list[float] = []
        self.predicted = 0.0
        self.mbps = np.asarray(self.ladder) / 1000

    def decide(self, obs: Any) -> int:
        measured = obs.throughput_kbps
        if not measured:
            return 0
        if self.predicted:
            self.errors.append(abs(self.predicted - measured[-1]) / measured[-1])
        self.predicted = harmonic(measured[-5:])
        kbps = self.predicted / (1 + max(self.errors[-5:], default=0.0)) / getattr(obs, "playback_rate", 1.0)
        ahead = min(self.horizon, obs.remaining)
        if obs.next_sizes is None:
            sizes = np.tile(np.asarray(self.ladder) * self.segment_s, (ahead, 1))
        else:
            sizes = obs.next_sizes[:ahead]
        return self._search(sizes / kbps, obs.buffer_s, obs.last_rung)

    def _search(self, takes_s: Any, buffer_s: float, last_rung: int) -> int:
        mbps, rungs = self.mbps, self.top + 1
        worth, buffer, shown = np.zeros(1), np.full(1, buffer_s), np.full(1, mbps[last_rung])
        for row in takes_s:
            left = buffer[:, None] - row
            value = worth[:, None] + mbps - mbps[-1] * np.maximum(-left, 0) - np.abs(mbps - shown[:, None])
            worth, buffer = value.ravel(), np.minimum(np.maximum(left, 0) + self.segment_s, self.cap_s).ravel()
            shown = np.tile(mbps, len(worth) // rungs)
        return int(worth.argmax()) // rungs ** (len(takes_s) - 1)


def all_published(cap_s: float = 30.0) -> list[Any]:
    """One of each."""
    return [Rate(), BufferBased(), Bola(cap_s), HlsJs(), RobustMpc(cap_s)]

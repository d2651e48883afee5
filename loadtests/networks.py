"""Networks to judge quality decisions on: recorded ones from a file, and seeded families of made-up ones.

A network is a mean capacity for each second and a round trip. The families are meant to differ in kind, not only in
rate: what stays put, what wanders, what drops out and comes back, what drops and stays down.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

SECONDS = 320
# Means outside are drawn again: below nothing can be watched, above everything is easy.
MEAN_KBPS = (450, 9000)
SLOWEST_KBPS, FASTEST_KBPS = 5.0, 60_000.0
# What lies in a view's beginning is startup, and what is shorter is ridden out by any buffer.
BEGUN_S, SHORT_S = 30, 20

Rng = np.random.Generator
Rates = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Network:
    """`kbps[i]` holds during second i; a session that lasts longer begins again at 0."""

    name: str
    family: str
    rtt_s: float
    kbps: list[float]
    sent_kbit: list[float]  # from 0 until second i

    @classmethod
    def of(cls, name: str, family: str, rtt_s: float, kbps: list[float]) -> Network:
        return cls(name, family, rtt_s, kbps, [0.0, *accumulate(kbps)])

    def finish_s(self, start_s: float, kbit: float) -> float:
        """When what is sent from `start_s` on has arrived."""
        loops, phase = divmod(start_s, len(self.kbps))
        second = int(phase)
        total = self.sent_kbit[-1]
        before = self.sent_kbit[second] + (phase - second) * self.kbps[second]
        more, target = divmod(before + kbit, total)
        at = max(bisect_left(self.sent_kbit, target), 1)
        into = (target - self.sent_kbit[at - 1]) / self.kbps[at - 1]
        return (loops + more) * len(self.kbps) + at - 1 + into

    def sent(self, start_s: float, end_s: float) -> float:
        """kbit that arrive from `start_s` until `end_s`."""
        return self._sent_until(end_s) - self._sent_until(start_s)

    def _sent_until(self, at_s: float) -> float:
        loops, phase = divmod(at_s, len(self.kbps))
        second = int(phase)
        return loops * self.sent_kbit[-1] + self.sent_kbit[second] + (phase - second) * self.kbps[second]


def recorded(path: Path) -> list[Network]:
    """Traces as JSON lines: `id`, `family`, `rtt_ms`, `kbps`, one figure a second."""
    found = []
    with path.open() as lines:
        for line in lines:
            trace = json.loads(line)
            kbps = [max(float(k), 1e-3) for k in trace["kbps"]]
            found.append(Network.of(trace["id"], trace["family"], trace.get("rtt_ms", 80) / 1000, kbps))
    return found


def falls_short(network: Network, kbps: float, seconds: int) -> bool:
    """Whether a view of so many seconds may stall there: the network carries so much in the mean, and less for SHORT_S
    together, after the first BEGUN_S. Says nothing of who decides."""
    carried = np.resize(network.kbps, seconds)
    later = np.convolve(carried[BEGUN_S:], np.full(SHORT_S, 1 / SHORT_S), "valid")
    return bool(carried.mean() > kbps > later.min())


def evenly(over: Sequence[Network], most: int) -> list[Network]:
    """At most so many of them, from each family as many as from the others or all that it has."""
    families: dict[str, list[Network]] = {}
    for network in over:
        families.setdefault(network.family, []).append(network)
    chosen: list[Network] = []
    for number, group in enumerate(sorted(families.values(), key=len)):
        share = min(len(group), (most - len(chosen)) // (len(families) - number))
        chosen += [group[len(group) * at // share] for at in range(share)]
    return chosen


def generated(seed: int, each: int, families: list[str] | None = None) -> list[Network]:
    """`each` networks of every family; one seed always gives the same."""
    made = []
    for number, (family, (make, rtt_ms)) in enumerate(FAMILIES.items()):
        if families is not None and family not in families:
            continue
        for index in range(each):
            rng = np.random.default_rng([seed, number, index])
            rates = next(r for r in _tries(make, rng) if MEAN_KBPS[0] <= r.mean() <= MEAN_KBPS[1])
            kbps = [round(float(k), 1) for k in np.clip(rates, SLOWEST_KBPS, FASTEST_KBPS)]
            made.append(Network.of(f"{family}-{seed}-{index}", family, between(rng, *rtt_ms) / 1000, kbps))
    return made


def _tries(make: Callable[[Rng], Rates], rng: Rng) -> Iterator[Rates]:
    while True:
        yield make(rng)


def between(rng: Rng, low: float, high: float) -> float:
    """Drawn evenly by orders of magnitude."""
    return math.exp(rng.uniform(math.log(low), math.log(high)))


def wander(rng: Rng, memory_s: float, deviation: float) -> Rates:
    """A factor that wanders around 1 (an AR(1) process of its logarithm) and forgets within `memory_s`."""
    keep = math.exp(-1 / memory_s)
    shocks = rng.normal(0, deviation * math.sqrt(1 - keep * keep), SECONDS)
    shocks[0] = rng.normal(0, deviation)
    logs = np.empty(SECONDS)
    value = 0.0
    for i, shock in enumerate(shocks):
        logs[i] = value = keep * value + shock
    return np.exp(logs)


def pieces(rng: Rng, shortest_s: float, longest_s: float, low_kbps: float, high_kbps: float) -> Rates:
    """Levels that hold for a while each."""
    rates = np.empty(SECONDS)
    at = 0
    while at < SECONDS:
        length = int(rng.uniform(shortest_s, longest_s)) + 1
        rates[at : at + length] = between(rng, low_kbps, high_kbps)
        at += length
    return rates


def dips(rng: Rng, rates: Rates, every_s: float, lasting_s: tuple[float, float], share: tuple[float, float]) -> Rates:
    """Now and then only a share of the rate, for a while."""
    at = int(rng.exponential(every_s))
    while at < SECONDS:
        length = int(rng.uniform(*lasting_s)) + 1
        rates[at : at + length] *= between(rng, *share)
        at += length + int(rng.exponential(every_s)) + 1
    return rates


def cable(rng: Rng) -> Rates:
    """A steady line: hardly any noise, rare short dips."""
    rates = between(rng, 600, 8000) * wander(rng, rng.uniform(0.5, 5), rng.uniform(0.005, 0.06))
    return dips(rng, rates, rng.uniform(80, 1000), (2, 8), (0.2, 0.8))


def stationary(rng: Rng) -> Rates:
    """Noise without memory around one level."""
    return between(rng, 500, 7000) * wander(rng, 0.5, rng.uniform(0.05, 0.4))


def blocks(rng: Rng) -> Rates:
    """Means over some seconds that differ without memory, as coarse measurements do; the level rarely moves."""
    length, deviation = int(rng.choice([4, 5, 10])), rng.uniform(0.03, 0.5)
    noise = np.exp(np.repeat(rng.normal(0, deviation, SECONDS // length + 1), length)[:SECONDS])
    return pieces(rng, 60, 400, 600, 6000) * noise


def bursty(rng: Rng) -> Rates:
    """Noise with memory."""
    return between(rng, 600, 5000) * wander(rng, between(rng, 2, 40), rng.uniform(0.3, 0.9))


def markov(rng: Rng) -> Rates:
    """A few states, mostly with jumps to the next ones."""
    states = np.sort(np.exp(rng.uniform(math.log(300), math.log(7000), int(rng.integers(2, 7)))))
    stay = 1 - 1 / between(rng, 3, 40)
    state, rates = int(rng.integers(len(states))), np.empty(SECONDS)
    for second in range(SECONDS):
        if rng.random() > stay:
            near = min(len(states) - 1, max(0, state + int(rng.choice([-1, 1]))))
            state = near if rng.random() < 0.7 else int(rng.integers(len(states)))
        rates[second] = states[state]
    return rates * wander(rng, 0.7, rng.uniform(0.02, 0.25))


def dropouts(rng: Rng) -> Rates:
    """A good network that is gone for 2 to 15 s now and then."""
    rates = between(rng, 900, 7000) * wander(rng, rng.uniform(0.5, 6), rng.uniform(0.05, 0.35))
    return np.maximum(dips(rng, rates, rng.uniform(15, 70), (2, 15), (0.02, 0.3)), 30)


def regimes(rng: Rng) -> Rates:
    """Levels without any order that hold for 15 to 60 s."""
    return pieces(rng, 15, 60, 250, between(rng, 2500, 9000)) * wander(rng, 1, rng.uniform(0.03, 0.3))


def collapses(rng: Rng) -> Rates:
    """Flat while the buffer fills, then a tenth to a twentieth of it for 15 to 60 s."""
    high = between(rng, 3000, 9000)
    rates = np.full(SECONDS, high)
    at = int(rng.uniform(35, 70))
    while at < SECONDS:
        length = int(rng.uniform(15, 60))
        rates[at : at + length] = high / rng.uniform(10, 20)
        at += length + int(rng.uniform(35, 90))
    return np.maximum(rates * wander(rng, 0.5, rng.uniform(0.01, 0.15)), 100)


def lte(rng: Rng) -> Rates:
    """Slow and fast fading, with handovers."""
    rates = between(rng, 1200, 9000) * wander(rng, rng.uniform(20, 60), rng.uniform(0.2, 0.6))
    rates *= wander(rng, rng.uniform(1, 4), rng.uniform(0.2, 0.5))
    return np.maximum(dips(rng, rates, rng.uniform(30, 200), (1, 3), (0.05, 0.4)), 40)


def umts(rng: Rng) -> Rates:
    """Slow, with fading and outages."""
    rates = between(rng, 500, 2500) * wander(rng, rng.uniform(8, 30), rng.uniform(0.25, 0.6))
    rates *= wander(rng, 1.5, rng.uniform(0.1, 0.35))
    return np.maximum(dips(rng, rates, 90, (2, 14), (0.01, 0.2)), 20)


def wifi(rng: Rng) -> Rates:
    """Neighbours who use the air for some seconds."""
    rates = between(rng, 1500, 9000) * wander(rng, 0.7, rng.uniform(0.1, 0.3))
    return np.maximum(dips(rng, rates, 25, (1, 16), (0.15, 0.6)), 50)


def dsl(rng: Rng) -> Rates:
    """A steady line that others in the house share for a while."""
    rates = between(rng, 700, 8000) * wander(rng, 0.5, rng.uniform(0.01, 0.08))
    at = int(rng.exponential(60))
    while at < SECONDS:
        length = int(rng.exponential(30)) + 3
        rates[at : at + length] /= rng.integers(2, 5)
        at += length + int(rng.exponential(60)) + 3
    return np.maximum(rates, 60)


def satellite(rng: Rng) -> Rates:
    """Another rate every 15 s, sometimes with a gap between; round trips up to two thirds of a second."""
    rates = between(rng, 1500, 9000) * wander(rng, 2, rng.uniform(0.1, 0.3))
    for start in range(0, SECONDS, 15):
        rates[start : start + 15] *= math.exp(rng.normal(0, 0.35))
        if rng.random() < 0.25:
            rates[start : start + int(rng.integers(1, 4))] *= 0.1
    return np.maximum(rates, 40)


def train(rng: Rng) -> Rates:
    """Nearer to and farther from masts."""
    phase = 2 * np.pi * np.arange(SECONDS) / rng.uniform(40, 160) + rng.uniform(0, 2 * np.pi)
    rates = between(rng, 800, 5000) * np.exp(rng.uniform(0.4, 1.3) * np.sin(phase))
    return np.maximum(rates * wander(rng, 2, rng.uniform(0.1, 0.4)), 30)


def shaped(rng: Rng) -> Rates:
    """A provider's limit, with faster bursts at the start and now and then."""
    rates, faster = np.full(SECONDS, between(rng, 500, 4000)), rng.uniform(1.5, 5)
    at = int(rng.uniform(5, 60))
    rates[:at] *= faster
    while at < SECONDS:
        at += int(rng.exponential(80)) + 20
        rates[at : at + int(rng.uniform(3, 15))] *= faster
    return rates * wander(rng, 0.5, rng.uniform(0.01, 0.1))


def switching(rng: Rng) -> Rates:
    """Another flow that comes and goes."""
    high = between(rng, 2000, 8000)
    low, stays_high_s, stays_low_s = high * rng.uniform(0.1, 0.5), between(rng, 3, 30), between(rng, 2, 20)
    rates, at, is_high = np.empty(SECONDS), 0, bool(rng.random() < 0.5)
    while at < SECONDS:
        length = int(rng.exponential(stays_high_s if is_high else stays_low_s)) + 1
        rates[at : at + length] = high if is_high else low
        at, is_high = at + length, not is_high
    return np.maximum(rates * wander(rng, 0.5, rng.uniform(0.02, 0.2)), 60)


USUAL_RTT_MS = (15.0, 200.0)
FAMILIES: dict[str, tuple[Callable[[Rng], Rates], tuple[float, float]]] = {
    "cable": (cable, (10.0, 60.0)),
    "stationary": (stationary, USUAL_RTT_MS),
    "blocks": (blocks, USUAL_RTT_MS),
    "bursty": (bursty, USUAL_RTT_MS),
    "markov": (markov, USUAL_RTT_MS),
    "dropouts": (dropouts, USUAL_RTT_MS),
    "regimes": (regimes, USUAL_RTT_MS),
    "collapses": (collapses, USUAL_RTT_MS),
    "lte": (lte, (30.0, 90.0)),
    "umts": (umts, (60.0, 250.0)),
    "wifi": (wifi, (10.0, 60.0)),
    "dsl": (dsl, (15.0, 60.0)),
    "satellite": (satellite, (30.0, 650.0)),
    "train": (train, USUAL_RTT_MS),
    "shaped": (shaped, USUAL_RTT_MS),
    "switching": (switching, USUAL_RTT_MS),
}

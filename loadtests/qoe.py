"""The quality bench: our decisions beside the published ones and the best possible, on networks made up or recorded.

`bin/bench qoe` runs it. Nothing here is of the server but `actors.video_session.quality`, the policy that ships,
driven by the same reports that a player sends.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from actors.video_session import quality
from actors.video_session.lookahead import Table, load, transfer_kbps
from actors.video_session.messages import Cmcd, Rung, Segment, Telemetry
from loadtests import networks, published
from loadtests.networks import Network
from loadtests.watching import PAPERS_KBPS, Policy, Seen, Video, optimum, video, watch
from server.data.neighbours import FEWEST

Array = np.ndarray[Any, np.dtype[Any]]

REFERENCE = "RobustMPC"
OURS = "Lectern"
TRIALS = 2000


class Lectern:
    """The product's own policy, told what a player would report and asked as the session's actor asks."""

    name = OURS

    def __init__(self, tables: Sequence[Table] | None = None) -> None:
        self.tables = tables

    def reset(self, ladder_kbps: Sequence[float], segment_seconds: float) -> None:
        self.ladder = [Rung(rung, float(kbps)) for rung, kbps in enumerate(ladder_kbps)]
        self.segment_s = segment_seconds
        self.state = quality.QualityState()
        table = min(self.tables, key=lambda t: abs(t.segment_s - segment_seconds)) if self.tables else None
        self.question = quality.Question(self.state, self.ladder, table=table)
        self.told = 0

    def decide(self, obs: Any) -> int:
        prior = getattr(obs, "prior_kbps", None)  # (lower quartile, median, count) of others on this network
        if not self.told and prior is not None and prior[2] >= FEWEST:
            self.state.prior_kbps = prior[1]
        quality.observe(self.state, self._report(obs))
        sizes_kbit = None if obs.next_sizes is None else obs.next_sizes.tolist()
        return quality.decide(self.question, remaining=obs.remaining, sizes_kbit=sizes_kbit).rung

    def gives_up(self, obs: Any, rung: int, got_kbit: float, gone_s: float, since_s: float) -> int | None:
        """The rung to fetch instead of what has been on its way for `gone_s`; a report every second says how far it is.
        `since_s` is since the newest segment had come."""
        drained_s = since_s * obs.playback_rate
        cmcd = Cmcd(
            buffer_length_ms=max(obs.buffer_s - drained_s, 0.0) * 1000,
            encoded_bitrate_kbps=self.ladder[rung].br,
            measured_throughput_kbps=max(min(got_kbit / gone_s, self.state.newest_kbps), 1.0),
            playback_rate=obs.playback_rate,
        )
        if drained_s > obs.buffer_s:
            cmcd.starved_ms = min(since_s - obs.buffer_s / obs.playback_rate, 1.0) * 1000
        quality.observe(self.state, Telemetry(position=0.0, cmcd=cmcd))
        decision = quality.decide(self.question, remaining=obs.remaining)
        return decision.rung if decision.abandon else None

    def _report(self, obs: Any) -> Telemetry:
        """What the player tells once it has a segment."""
        segments = []
        for kbit, took_s in zip(obs.sizes_kbit[self.told :], obs.download_s[self.told :], strict=True):
            br = self.ladder[obs.last_rung].br
            segments.append(Segment(br=br, bytes=kbit * 125, ms=took_s * 1000, ttfb_ms=obs.rtt_s * 1000))
        self.told = len(obs.download_s)
        cmcd = Cmcd(
            buffer_length_ms=obs.buffer_s * 1000,
            object_duration_ms=self.segment_s * 1000,
            playback_rate=getattr(obs, "playback_rate", 1.0),
        )
        return Telemetry(position=0.0, cmcd=cmcd, segments=segments)


class Remembering:
    """A policy whose viewings' throughputs are kept, as the server would see them."""

    def __init__(self, policy: Policy) -> None:
        self.policy, self.name = policy, policy.name
        self.view: Any = None

    def reset(self, ladder_kbps: Sequence[float], segment_seconds: float) -> None:
        self.policy.reset(ladder_kbps, segment_seconds)

    def decide(self, obs: Any) -> int:
        self.view = obs
        return self.policy.decide(obs)

    @property
    def transfers_kbps(self) -> list[float]:
        view = self.view
        return [
            transfer_kbps(kbit * 125, took_s * 1000, view.rtt_s * 1000)
            for kbit, took_s in zip(view.sizes_kbit, view.download_s, strict=True)
        ]


@dataclass(frozen=True)
class Case:
    """A way of watching that the bench judges."""

    name: str
    about: str
    make_video: Callable[[], Video] = lambda: video(7)
    sizes_known: bool = False
    playback_rate: float = 1.0
    lag: bool = False
    gives_up: bool = False  # ours may give up a download; the published policies do not know how to
    # Learners who leave at any moment, or after a few segments; they have not said so.
    leaves_after: tuple[int, int] | None = None

    def stays(self, number: int) -> int | None:
        """How many segments the learner on this network sees; None: all."""
        if self.leaves_after is None:
            return None
        return int(np.random.default_rng([17, number]).integers(*self.leaves_after, endpoint=True))

    def optimum(self, number: int, network: Network) -> float:
        """The best that could be reached there."""
        return optimum(network, self.make_video(), playback_rate=self.playback_rate, leaves_after=self.stays(number))


CASES = (
    Case("plain", "4 s segments, the papers' ladder, sizes unknown: what ships is judged by this"),
    Case("sizes known", "sizes of the next segments known, as from an index", sizes_known=True),
    Case("lag", "every decision a segment late, for all", lag=True),
    Case("gives up", "ours gives up downloads that would outlast the buffer", gives_up=True),
    Case("double speed", "played at 2x", playback_rate=2.0),
    Case("leaves early", "left after 5 to 60 segments", leaves_after=(5, 60)),
    Case("short views", "left within 30 s", leaves_after=(2, 7)),
    Case("2 s segments", "", lambda: video(7, segment_s=2.0, segments=128)),
    Case("6 s segments", "", lambda: video(7, segment_s=6.0, segments=43)),
    Case("small buffer", "20 s at most", lambda: video(7, cap_s=20.0)),
    Case("other ladder", "400 to 6000 kbit/s, four rungs", lambda: video(7, ladder_kbps=(400, 1100, 2600, 6000))),
    Case("fine ladder", "nine rungs to 3000 kbit/s",
         lambda: video(7, ladder_kbps=(145, 240, 365, 560, 800, 1200, 1700, 2300, 3000))),
)  # fmt: skip


@dataclass(frozen=True)
class Judged:
    """One policy over all networks of a case."""

    quality: Array
    rebuffer_share: Array


def judge(policy: Policy, over: Sequence[Network], case: Case) -> Judged:
    """Watch them all."""
    of = case.make_video()
    seen: list[Seen] = []
    for number, network in enumerate(over):
        seen.append(
            watch(
                policy, network, of, sizes_known=case.sizes_known, playback_rate=case.playback_rate, lag=case.lag,
                leaves_after=case.stays(number), gives_up=case.gives_up and isinstance(policy, Lectern),
            )
        )  # fmt: skip
    return Judged(np.array([s.quality(of) for s in seen]), np.array([s.rebuffer_share(of) for s in seen]))


def interval(ours: Array, theirs: Array, best: Array, families: Sequence[str]) -> tuple[float, float, float]:
    """How far ours is ahead, as a share of the optimum, with its 95 % bootstrap interval; networks are drawn anew
    within their families."""
    rng = np.random.default_rng(1)
    groups = [np.flatnonzero(np.asarray(families) == family) for family in dict.fromkeys(families)]
    ahead = []
    for _ in range(TRIALS):
        drawn = np.concatenate([group[rng.integers(0, len(group), len(group))] for group in groups])
        ahead.append((ours[drawn] - theirs[drawn]).mean() / best[drawn].mean())
    low, high = np.percentile(ahead, [2.5, 97.5])
    return float((ours - theirs).mean() / best.mean()), float(low), float(high)


def compare(
    over: Sequence[Network], case: Case, policies: Sequence[Policy], best: Array | None = None
) -> dict[str, Any]:  # fmt: skip
    """A case's figures, ready for JSON; shares are of the offline optimum, which takes longest unless it is known."""
    judged = {policy.name: judge(policy, over, case) for policy in policies}
    return figures_of(over, case, judged, optima(over, case) if best is None else best)


def optima(over: Sequence[Network], case: Case) -> Array:
    """The best that could be reached on each."""
    return np.array([case.optimum(number, network) for number, network in enumerate(over)])


def figures_of(over: Sequence[Network], case: Case, judged: Mapping[str, Judged], best: Array) -> dict[str, Any]:
    """What policies came to, by name, as figures."""
    families = [network.family for network in over]
    rows = {}
    for name, one in judged.items():
        ahead, low, high = interval(one.quality, judged[REFERENCE].quality, best, families)
        rows[name] = {
            "share": float(one.quality.mean() / best.mean()),
            "rebuffer_share": float(one.rebuffer_share.mean()),
            "ahead": ahead,
            "ahead_95": [low, high],
            "families": {
                family: float(one.quality[chosen].mean() / best[chosen].mean())
                for family, chosen in _by_family(families).items()
            },
        }
    return {"case": case.name, "about": case.about, "policies": rows}


def _by_family(families: Sequence[str]) -> Mapping[str, Array]:
    return {family: np.flatnonzero(np.asarray(families) == family) for family in dict.fromkeys(families)}


def show(figures: Mapping[str, Any], *, families: bool) -> None:
    """Print a case."""
    print(f"\n{figures['case']}: {figures['about']}" if figures["about"] else f"\n{figures['case']}")
    print(f"{'':14}{'% of optimum':>14}{'rebuffer %':>12}   ahead of {REFERENCE}, points [95 %]")
    for name, row in figures["policies"].items():
        low, high = row["ahead_95"]
        ahead = "" if name == REFERENCE else f"   {100 * row['ahead']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
        print(f"{name:14}{100 * row['share']:14.1f}{100 * row['rebuffer_share']:12.2f}{ahead}")
    if families:
        for family, ours in figures["policies"][OURS]["families"].items():
            theirs = figures["policies"][REFERENCE]["families"][family]
            print(f"    {family:14}{100 * ours:10.1f}   {REFERENCE} {100 * theirs:.1f}")


def decision_us(over: Sequence[Network]) -> float:
    """Microseconds that the policy itself takes to observe a report and decide, the median over all segments."""
    remembered: list[Any] = []

    class Timed(Lectern):
        def decide(self, obs: Any) -> int:
            report = self._report(obs)
            started = time.perf_counter_ns()
            quality.observe(self.state, report)
            decision = quality.decide(self.question)
            remembered.append(time.perf_counter_ns() - started)
            return decision.rung

    of, policy = video(7), Timed()
    for network in over:
        watch(policy, network, of)
    return float(np.median(remembered)) / 1000


def plot(figures: Mapping[str, Any], path: Path) -> None:
    """Shares of the optimum by family, ours and the reference's, as an SVG."""
    ours, theirs = (figures["policies"][name]["families"] for name in (OURS, REFERENCE))
    names = sorted(ours, key=lambda family: ours[family])
    row, left, width = 22, 120, 560
    height = row * len(names) + 62
    x = lambda share: left + max(share, 0.0) * (width - left - 24)  # noqa: E731
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        'font-size="12">',
        '<rect width="100%" height="100%" fill="#fff"/>',
        f'<circle cx="{left}" cy="16" r="5" fill="#1f6feb"/><text x="{left + 10}" y="20">{OURS}</text>',
        f'<circle cx="{left + 90}" cy="16" r="5" fill="#fff" stroke="#666" stroke-width="2"/>',
        f'<text x="{left + 100}" y="20">{REFERENCE}</text>',
    ]
    for tick in (0, 0.25, 0.5, 0.75, 1):
        parts.append(f'<line x1="{x(tick)}" x2="{x(tick)}" y1="32" y2="{height - 26}" stroke="#ddd"/>')
        label = f'<text x="{x(tick)}" y="{height - 10}" text-anchor="middle" fill="#555">'
        parts.append(f"{label}{100 * tick:.0f} %</text>")
    for number, family in enumerate(reversed(names)):
        y = 46 + row * number
        parts.append(f'<text x="{left - 10}" y="{y + 4}" text-anchor="end">{family}</text>')
        a, b = x(theirs[family]), x(ours[family])
        parts.append(f'<line x1="{a}" x2="{b}" y1="{y}" y2="{y}" stroke="#9bbcf0" stroke-width="3"/>')
        parts.append(f'<circle cx="{a}" cy="{y}" r="5" fill="#fff" stroke="#666" stroke-width="2"/>')
        parts.append(f'<circle cx="{b}" cy="{y}" r="5" fill="#1f6feb"/>')
    path.write_text("\n".join([*parts, "</svg>"]) + "\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="bin/bench qoe",
        description="Quality decisions on generated networks, or on recorded ones: the share of what could be reached "
        "by who knows the future, and rebuffering, beside published policies.",
    )
    parser.add_argument("--traces", type=Path, help="recorded networks: JSON lines with id, family, rtt_ms, kbps")
    parser.add_argument("--only", nargs="*", metavar="FAMILY", help="generated networks of these families alone")
    parser.add_argument("--tables", type=Path, help="tables of `bin/fit-quality --out` instead of those that ship")
    parser.add_argument("--each", type=int, default=20, help="generated networks of each family (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the generated ones (%(default)s)")
    known = ", ".join(case.name for case in CASES)
    parser.add_argument("--cases", nargs="*", default=["plain"], metavar="CASE", help=f"of: {known}; or all")
    parser.add_argument("--families", action="store_true", help="also by family")
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--plot", type=Path, help="draw the first case by family, as an SVG")
    options = parser.parse_args(arguments)
    if options.traces:
        over = networks.recorded(options.traces)
    else:
        over = networks.generated(options.seed, options.each, options.only)
    tables = load(options.tables.read_bytes()) if options.tables else None
    chosen = [case for case in CASES if case.name in options.cases or "all" in options.cases]
    print(f"{len(over)} networks, {len({n.family for n in over})} families; {decision_us(over[:50]):.1f} us a decision")
    results = []
    for case in chosen:
        cap_s = case.make_video().cap_s
        results.append(compare(over, case, [*published.all_published(cap_s), Lectern(tables)]))
        show(results[-1], families=options.families)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    if options.plot:
        plot(results[0], options.plot)


__all__ = ["PAPERS_KBPS", "Lectern", "compare", "judge", "main"]

if __name__ == "__main__":
    main()

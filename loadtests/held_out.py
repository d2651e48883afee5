"""Decisions on kinds of networks that their tables never saw, by `bin/bench held-out`.

Tables are fitted anew without some families, and judged on those, until every family had its turn: so far do they carry
to networks that nobody thought of. What is fitted by hand (weights, `quality`'s constants) is not held out.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from actors.video_session.lookahead import Table, load
from loadtests import fit, networks, published, qoe
from loadtests.networks import Network
from loadtests.qoe import Array, Case, Judged

CASES = ("plain", "gives up", "sizes known")
# The share of the optimum that RobustMPC has on usual networks; the families here are harder than that.
USUAL_SHARE = 0.855

# The tables for networks of a family.
Tables = Callable[[str], Sequence[Table]]


def fitted_apart(groups: int, each: int) -> Tables:
    """Tables for every family that were fitted without it, and without the others of its group."""
    families = list(networks.FAMILIES)
    segments_s = (qoe.CASES[0].make_video().segment_s,)
    made: dict[str, Sequence[Table]] = {}
    for held in (families[start::groups] for start in range(groups)):
        tables = load(fit.made_without(held, each, segments_s))
        made.update(dict.fromkeys(held, tables))
    return made.__getitem__


def judge_apart(over: Sequence[Network], case: Case, tables: Tables) -> Judged:
    """Ours over all networks, each family by its own tables."""
    worth, stalled = np.empty(len(over)), np.empty(len(over))
    for family in dict.fromkeys(network.family for network in over):
        at = [number for number, network in enumerate(over) if network.family == family]
        judged = qoe.judge(qoe.Lectern(tables(family)), [over[number] for number in at], case)
        worth[at], stalled[at] = judged.quality, judged.rebuffer_share
    return Judged(worth, stalled)


def usual(over: Sequence[Network], theirs: Array, best: Array) -> list[int]:
    """The networks of the families that are easiest for `theirs`, as many as it has the usual share of the best on. If
    the luck of the draw is on somebody's side there, it is on theirs."""
    families = [np.flatnonzero(np.array([n.family for n in over]) == f) for f in dict.fromkeys(n.family for n in over)]
    families.sort(key=lambda at: theirs[at].sum() / best[at].sum(), reverse=True)
    found: list[int] = families[0].tolist()
    for at in families[1:]:
        longer = [*found, *at.tolist()]
        if theirs[longer].sum() < USUAL_SHARE * best[longer].sum():
            break
        found = longer
    return found


def compare(over: Sequence[Network], case: Case, tables: Tables, best: Array) -> list[Mapping[str, Any]]:
    """A case's figures over all networks, and over the usual ones among them, beside the published policies'."""
    judged = {policy.name: qoe.judge(policy, over, case) for policy in published.all_published(case.make_video().cap_s)}
    judged[qoe.OURS] = judge_apart(over, case, tables)
    at = usual(over, judged[qoe.REFERENCE].quality, best)
    easier = {name: Judged(one.quality[at], one.rebuffer_share[at]) for name, one in judged.items()}
    about = f"the easiest families, on which {qoe.REFERENCE} has {100 * USUAL_SHARE:.1f} % of the optimum"
    return [
        qoe.figures_of(over, case, judged, best),
        qoe.figures_of([over[number] for number in at], replace(case, about=about), easier, best[at]),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="bin/bench held-out",
        description="Quality decisions on generated networks of families that their tables never saw, beside published "
        "policies: on all, and on the easiest families, as many as RobustMPC has "
        f"{100 * USUAL_SHARE:.1f} %% of the optimum on.",
    )
    parser.add_argument("--groups", type=int, default=4, help="fits, each without its share of families (%(default)s)")
    parser.add_argument("--fit-each", type=int, default=fit.EACH, help="networks of a family to fit to (%(default)s)")
    parser.add_argument("--each", type=int, default=40, help="networks of a family to judge on (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the latter (%(default)s)")
    known = ", ".join(CASES)
    parser.add_argument("--cases", nargs="*", choices=CASES, default=CASES[:2], metavar="CASE", help=f"of: {known}")
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args(arguments)
    tables = fitted_apart(options.groups, options.fit_each)
    over = networks.generated(options.seed, options.each)
    best = qoe.optima(over, qoe.CASES[0])
    results = []
    for case in (case for case in qoe.CASES if case.name in options.cases):
        results += compare(over, case, tables, best)
        for figures in results[-2:]:
            qoe.show(figures, families=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()

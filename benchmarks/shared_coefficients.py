"""Shared lines (`--share coefficients`), for which no dynamic program is known: how far the search may still be.

python benchmarks/shared_coefficients.py [--seeds N] [FUNCTION ...]: mean squared error over scales 2^-3 .. 2^-6 of the
default search; of the best of N long ones from other starts, each polished by turns (the cuts of every scale by dynamic
programming for given lines, then the best lines for given cuts); of one shared set of breakpoints; and the bound, the
mean of the optima of each scale on its own.
"""

from __future__ import annotations

import argparse

import numpy as np

from lutc.compiler.problem import prepare
from lutc.compiler.request import Request
from lutc.compiler.sharing import SharedCuts
from lutc.compiler.solve import segment_costs
from lutc.costs.points import Points
from lutc.formats.codes import Inputs
from lutc.search.exact import exact
from lutc.search.shared_coefficients import SharedCosts, SharedSettings, shared_coefficients

SCALES = tuple(Inputs(8, 2.0**-b) for b in range(3, 7))
LONG = SharedSettings(population=64, generations=200, patience=40, reach=12)


def recut(samples: list, lines: tuple, left, right) -> np.ndarray:
    """The best cuts (scales, segments + 1) of every scale for given lines, in their order."""
    found = []
    for s in samples:
        slopes = [left.slope, *lines[0], right.slope] if right else [left.slope, *lines[0]]
        intercepts = [left.intercept, *lines[1], right.intercept] if right else [left.intercept, *lines[1]]
        errors = (np.outer(slopes, s.x) + np.array(intercepts)[:, None] - s.y) ** 2
        sums = np.concatenate([np.zeros((len(slopes), 1)), np.cumsum(errors, axis=1)], axis=1)
        best, origins = sums[0].copy(), []
        for line in range(1, len(slopes)):  # best[j]: lines up to this one hold the samples before j
            gain = best - sums[line]
            origin = np.array([int(np.argmin(gain[: j + 1])) for j in range(gain.size)])
            best = gain[origin] + sums[line]
            origins.append(origin)
        at, cuts = sums.shape[1] - 1, []
        for origin in reversed(origins):
            at = int(origin[at])
            cuts.append(at)
        cuts = cuts[::-1]
        found.append(cuts if right else [*cuts, sums.shape[1] - 1])
    return np.array(found)


def polished(costs: SharedCosts, samples: list, result, left, right) -> float:
    """Cost once cuts and lines, each the best for the other, change no more."""
    cost, lines = result.cost, result.lines
    while True:
        cuts = recut(samples, lines, left, right)
        new = float(costs.total(cuts[None])[0])
        if not new < cost * (1 - 1e-9):
            return cost
        slope, intercept, _ = costs.lines(costs.entry_sums(cuts[None]))
        cost, lines = new, (slope[0], intercept[0])


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("functions", nargs="*", default=["gelu", "silu", "sigmoid", "exp"])
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    print(
        "| | entries | default search | best of long ones | above it | shared breakpoints | bound | above the bound |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name in args.functions:
        for entries in (8, 16):
            problem, tasks = prepare(Request.of(name, entries, inputs=SCALES))
            samples, tails = [task.samples for task in tasks], (problem.left, problem.right)
            cuts = SharedCuts(tasks, *problem.range)
            shared = exact(segment_costs(problem, tasks[0], Points.shared(samples, list(cuts.index))), entries)
            costs, start = SharedCosts(samples, problem.format, *tails), cuts.index[:, shared.cuts]
            default = shared_coefficients(costs, start).cost
            own = [exact(segment_costs(problem, t, Points.of(t.samples)), entries) for t in tasks]
            starts = [start, np.stack([result.cuts for result in own])]
            long = min(
                polished(costs, samples, shared_coefficients(costs, starts[seed % 2], seed, LONG), *tails)
                for seed in range(args.seeds)
            )
            bound = float(np.mean([result.cost for result in own]))
            figures = [default, long, default / long - 1, shared.cost, bound, default / bound - 1]
            text = [f"{100 * f:.1f} %" if at in (2, 5) else f"{f:.3g}" for at, f in enumerate(figures)]
            print(f"| {name} | {entries} |", " | ".join(text), "|", flush=True)


if __name__ == "__main__":
    main()

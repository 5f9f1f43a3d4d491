"""Tables for several scales at once: one set of breakpoints and lines (GQA-LUT's way of storing), or lines alone
shared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from lutc.compiler.build import build
from lutc.compiler.problem import Problem, Task
from lutc.compiler.solve import relative_gap, search_costs, segment_costs
from lutc.costs.points import Points
from lutc.errors import LutcError
from lutc.measures import rounded
from lutc.samples.samples import Samples
from lutc.search.exact import exact
from lutc.search.problem import SearchProblem
from lutc.search.shared_coefficients import SharedCosts, shared_coefficients
from lutc.table.bodies import without_empty_segments
from lutc.table.table import Table


class GivenBreakpoints:
    """A lattice whose breakpoint at a cut is known beforehand, whatever the lines on both sides are."""

    def __init__(self, breakpoints: np.ndarray):
        self.breakpoints = breakpoints

    def breakpoint(self, cut: int, *lines) -> float:
        """Of the cut at this position."""
        return float(self.breakpoints[cut])

    between = outside = breakpoint


class SharedCuts:
    """Real cut places p and, per scale, the sample index at which p falls once it is rounded to that scale's grid (half
    to even).

    Places are those at which some scale's rounding changes and one between each two of them, so that every way of
    rounding occurs; places that no scale can tell apart are merged.
    """

    def __init__(self, tasks: Sequence[Task], lo: float, hi: float):
        scales = [task.inputs.scale for task in tasks]
        below = lo - 2 * max(scales)  # from where every scale rounds to below its samples
        changes = np.unique(
            np.concatenate(
                [(np.arange(np.floor(below / scale), np.ceil(hi / scale) + 1) + 0.5) * scale for scale in scales]
            )
        )
        places = np.sort(np.concatenate([changes, (changes[1:] + changes[:-1]) / 2]))
        self.rounded = [np.rint(places / scale) * scale for scale in scales]
        index = np.stack([np.searchsorted(task.samples.x, at, side="right") for task, at in zip(tasks, self.rounded)])
        new = np.append(True, (np.diff(index, axis=1) != 0).any(axis=0))
        # the last of the places below all samples, the first of every other run
        keep = np.flatnonzero(new)
        if keep.size > 1:
            keep[0] = keep[1] - 1
        self.places, self.index = places[keep], index[:, keep]
        self.rounded = [at[keep] for at in self.rounded]

    def lattice(self, scale: int) -> GivenBreakpoints:
        """Breakpoints of one scale by cut position, as `build` asks for them."""
        return GivenBreakpoints(self.rounded[scale])


def solve_shared(
    problem: Problem, tasks: Sequence[Task], progress: Callable[[int], object] | None
) -> tuple[dict[str, Table], dict]:
    """Tables by key and the record of the search, for `share` "all" and "coefficients"."""
    samples = [task.samples for task in tasks]
    cuts = SharedCuts(tasks, *problem.range)
    costs = segment_costs(problem, tasks[0], Points.shared(samples, list(cuts.index)))
    best = exact(costs, problem.request.storage.entries)
    if problem.request.storage.share == "all":
        result = search_costs(problem, costs, progress=progress)
        lines, lattices, own_cuts = (
            costs.line(result.cuts[:-1], result.cuts[1:]),
            map(cuts.lattice, range(len(tasks))),
            [result.cuts] * len(tasks),
        )
        reference = {
            "cost": rounded(result.cost),
            "optimum": rounded(best.cost),
            "gap": relative_gap(result.cost, best.cost),
        }
        reference |= {} if costs.exact else {"lines": "rounded"}
        shared = {"breakpoints": cuts.places[result.cuts]}
    else:
        result = shared_coefficients(
            SharedCosts(samples, problem.format, problem.left, problem.right),
            cuts.index[:, best.cuts],
            problem.request.search.seed,
            progress=progress,
        )
        lines, lattices, own_cuts = result.lines, (task.lattice for task in tasks), result.cuts
        # Nothing that shares lines beats the optimum of each scale on its own.
        own = [
            exact(segment_costs(problem, task, Points.of(task.samples)), problem.request.storage.entries).cost
            for task in tasks
        ]
        bound = float(np.mean(own))
        reference = {"cost": rounded(result.cost), "cost_with_shared_breakpoints": rounded(best.cost)}
        reference |= {"lower_bound": rounded(bound), "gap": relative_gap(result.cost, bound)}
        reference["own_optimum"] = {task.key: rounded(cost) for task, cost in zip(tasks, own)}
        shared = {}
    tables = {
        task.key: build(at, lines, lattice, problem.left, problem.right, problem.format, problem.prologue)
        for task, at, lattice in zip(tasks, own_cuts, lattices)
    }
    return tables, {**result.record, **reference, "shared": {**shared, "slopes": lines[0], "intercepts": lines[1]}}


def solve_classic(
    problem: Problem, tasks: Sequence[Task], progress: Callable[[int], object] | None
) -> tuple[dict[str, Table], dict]:
    """GQA-LUT as published: one evolution on a dense grid, breakpoints rounded per scale."""
    request, (lo, hi) = problem.request, problem.range
    powers = sorted(task.inputs.power for task in tasks if task.inputs.power is not None)
    if len(powers) < len(tasks):
        raise LutcError("the classic search rounds breakpoints to grids 2**-b: give scales that are powers of two")
    x = np.arange(lo, hi, 0.01)
    given = SearchProblem(
        request.storage.entries,
        samples=Samples(x, problem.f(x), np.ones(x.size)),
        format=problem.format,
        left=problem.left,
        right=problem.right,
        seed=request.search.seed,
        f=problem.f,
        powers=(powers[0], powers[-1]),
        progress=progress,
    )
    found = request.found_by.solve(given, request.settings)
    slopes, intercepts = found.lines
    tables, optimum, gap = {}, {}, {}
    for task in tasks:
        breakpoints = np.rint(found.cuts / task.inputs.scale) * task.inputs.scale
        body = without_empty_segments(breakpoints, slopes, intercepts)
        table = tables[task.key] = Table(body, None, problem.left, problem.right, problem.format.name)
        best = exact(segment_costs(problem, task, Points.of(task.samples)), request.storage.entries).cost
        cost = float(np.mean((table(task.samples.x) - task.samples.y) ** 2))
        optimum[task.key], gap[task.key] = rounded(best), relative_gap(cost, best)
    shared = {"breakpoints": found.cuts, "slopes": slopes, "intercepts": intercepts}
    return tables, {**found.record, "cost": rounded(found.cost), "optimum": optimum, "gap": gap, "shared": shared}

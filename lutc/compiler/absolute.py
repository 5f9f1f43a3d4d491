"""Errors without sums of squares: absolute ones and those of output codes, as costs of segments and as searches of
their own over many samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lutc.certify.proof import EXACT_LINES, relative_gap
from lutc.compiler.problem import Problem, Task
from lutc.costs.pairs import PairObjective, absolute_objective, codes_objective, cost_of, maximum_objective
from lutc.costs.points import Points
from lutc.costs.runs import absolute_runs, code_runs
from lutc.costs.segments import SegmentCosts, absolute_tails, segments_beside, squared_tails
from lutc.errors import LutcError
from lutc.measures import rounded
from lutc.samples.samples import Samples
from lutc.search.absolute_cells import AbsoluteCells
from lutc.search.exact import exact
from lutc.search.refine import near
from lutc.search.result import SearchResult
from lutc.search.segmentation import Segmentation, best_cuts, segmentation

PROVEN = 1e-5  # relative: so little over its bound a table is the optimum, but for the rounding of fine coefficients
_FINE = 1e-4  # relative; cuts of real lines will do as well for stored ones
_LOOSE = 1e-2  # relative; then the cuts of least squared error are tried beside
_REACH, _MOVES = 4, 8  # samples to each side of a cut that it may move by at once; how often


def pair_objective(problem: Problem, task: Task, points: Points) -> PairObjective:
    """What a line costs at a sample, where that is no squared error."""
    request = problem.request
    if request.error.objective == "absolute":
        return absolute_objective(points)
    if request.error.objective == "maximum":
        return maximum_objective(points)
    if problem.prologue is not None:
        raise LutcError("the objective codes works on whole tables; leave `symmetry` out")
    assert task.inputs is not None and request.storage.out is not None
    return codes_objective(points, task.inputs, request.storage.out, problem.format)


def run_costs(problem: Problem, task: Task, points: Points, objective: PairObjective, bound: float) -> SegmentCosts:
    """Those of coefficients of more than 8 bits, absolute or of output codes."""
    tails, out = (problem.left, problem.right), problem.request.storage.out
    if problem.request.error.objective == "absolute":
        return absolute_runs(points, problem.format, *tails, objective, bound)
    assert task.inputs is not None and out is not None
    return code_runs(points, task.inputs, out, problem.format, *tails, objective, bound)


def least_absolute(problem: Problem, samples: Samples) -> tuple[AbsoluteCells, np.ndarray, float, float]:
    """(cells, cuts, cost, bound) of the best real lines in absolute errors."""
    points, tails = Points.of(samples), (problem.left, problem.right)
    segments = segments_beside((tails[0] is not None, tails[1] is not None), problem.request.storage.entries)
    cells = AbsoluteCells.of(points, *absolute_tails(points, *tails))
    cuts, cost, bound = best_cuts(cells, segments)
    cuts = np.concatenate([cuts, np.full(segments + 1 - cuts.size, cuts[-1])])
    return cells, cuts, cost, max(min(bound, cost) - cells.nothing, 0.0)


def over_absolute(problem: Problem, task: Task) -> tuple[SearchResult, tuple, dict]:
    """Absolute errors over many samples, whichever search is named: the proven cuts of the best real lines, moved where
    stored coefficients want others.
    """
    cells, cuts, real, bound = least_absolute(problem, task.samples)
    cost, *lines = cells.lines(cuts, problem.format)
    if cost > bound * (1.0 + _LOOSE) + cells.nothing:  # a loose bound leads cuts astray
        points, tails = Points.of(task.samples), squared_tails(Points.of(task.samples), problem.left, problem.right)
        other = segmentation(points, *tails, cuts.size - 1, problem.format).cuts
        found, *known = cells.lines(other, problem.format)
        cost, cuts, lines = (found, other, known) if found < cost else (cost, cuts, lines)
    if cost > bound * (1.0 + _FINE) + cells.nothing:
        cost, cuts, lines = _moved(problem, task, cost, cuts, lines)
    proven = cost <= bound * (1.0 + PROVEN)
    facts: dict[str, Any] = {"cost": rounded(cost), "optimum" if proven else "lower_bound": rounded(bound)}
    facts |= {"gap": relative_gap(cost, bound), "rounding": relative_gap(cost, max(real, bound))}
    if not proven:
        facts["bound_of"] = "real lines"
    if real <= cells.straight < cost:
        facts = {"cost": facts["cost"], "lower_bound": 0.0, "bound_of": EXACT_LINES}
    return SearchResult(cuts, cost, {"name": problem.request.found_by.name}), tuple(lines), facts


def over_windows(problem: Problem, task: Task, found: Segmentation) -> tuple[SearchResult, tuple, dict]:
    """Errors of output codes over many samples: `found`, of least squared error, moved. Nothing is proven of it."""
    objective, tails = pair_objective(problem, task, task.points()), (problem.left, problem.right)
    cuts: Any = found.cuts
    lines: Any = found.lines
    cost = cost_of(task.points(), objective, cuts, lines, *tails)
    cost, cuts, lines = _moved(problem, task, cost, cuts, lines)
    return SearchResult(cuts, cost, {"name": problem.request.found_by.name}), lines, {"cost": rounded(cost)}


def _moved(problem: Problem, task: Task, cost: float, cuts: np.ndarray, lines: Sequence) -> tuple:
    """(cost, cuts, lines) of a table by dynamic programming in windows around its cuts, moved on while that helps."""
    objective = pair_objective(problem, task, task.points())
    for _ in range(_MOVES):
        positions = near(cuts, _REACH, len(task.samples))
        costs = run_costs(problem, task, task.points(positions), objective, cost)
        result = exact(costs, problem.request.storage.entries)
        if not result.cost < cost * (1.0 - PROVEN):
            break
        cost, cuts, lines = result.cost, positions[result.cuts], costs.line(result.cuts[:-1], result.cuts[1:])
    return cost, cuts, lines

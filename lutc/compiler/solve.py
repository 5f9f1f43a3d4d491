"""One task solved: its costs, the search over them, and how far the result is from what is proven."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lutc.compiler.problem import Problem, Task
from lutc.costs.pairs import absolute_objective, codes_objective, cost_of, maximum_objective, pair_costs
from lutc.costs.points import Points
from lutc.costs.segments import DENSE_LIMIT, SegmentCosts, real_costs, squared_costs
from lutc.errors import LutcError
from lutc.measures import rounded
from lutc.samples.tolerance import ErrorBound
from lutc.search.exact import exact
from lutc.search.genetic import genetic
from lutc.search.gradient import gradient
from lutc.search.greedy import greedy
from lutc.search.quadratic import QuadraticCosts, quadratic
from lutc.search.refine import BOUND_CELLS, candidates, lower_bound, refined
from lutc.search.result import SearchResult

UNSEEN = 1e-9  # of the mean of H's diagonal, for codes that the calibration did not meet
GENETIC_LIMIT = 1024  # positions up to which the genetic search sees every sample at once


def segment_costs(problem: Problem, task: Task, points: Points) -> SegmentCosts:
    """Costs under the request's objective."""
    request, tails = problem.request, (problem.left, problem.right)
    if request.objective in ("squared", "relative", "layer-diagonal"):
        return squared_costs(points, problem.format, *tails)
    if request.objective == "codes":
        if problem.prologue is not None:
            raise LutcError("the objective codes works on whole tables; leave --symmetry out")
        objective = codes_objective(points, task.inputs, request.out, problem.format)
    else:
        objective = absolute_objective(points) if request.objective == "absolute" else maximum_objective(points)
    squared = squared_costs(points, problem.format, *tails)
    known = exact(squared, request.entries)
    bound = cost_of(points, objective, known.cuts, squared.line(known.cuts[:-1], known.cuts[1:]), *tails)
    return pair_costs(points, problem.format, *tails, objective, bound)


def search_costs(problem: Problem, costs: SegmentCosts, start=None, progress=None) -> SearchResult:
    """The request's search over costs; cuts `start` come from the same search over coarser cuts, and one run refines
    them.
    """
    request = problem.request
    if request.search == "exact":
        return exact(costs, request.entries)
    settings = request.genetic if start is None else replace(request.genetic, restarts=1)
    return genetic(costs, request.entries, request.seed, settings, start, progress)


def relative_gap(cost: float, reference: float) -> float:
    """(cost - reference) / max(reference, 1e-12), to 6 digits; rounding noise below 1e-9 counts as none."""
    gap = (cost - reference) / max(reference, 1e-12)
    return 0.0 if abs(gap) < 1e-9 else float(f"{gap:.6g}")


def one_table(problem: Problem, task: Task, progress) -> tuple[SearchResult, tuple, dict]:
    """(result over sample positions, its lines, what is proven of it)."""
    request, samples = problem.request, task.samples

    def costs_at(positions=None):
        return segment_costs(problem, task, task.points(positions))

    dense = costs_at() if len(samples) <= DENSE_LIMIT else None
    if dense is not None and (request.search == "exact" or len(samples) <= GENETIC_LIMIT):
        costs, result = dense, search_costs(problem, dense, progress=progress)
        cuts = result.cuts
    else:
        result, positions, costs = refined(
            samples, costs_at, lambda costs, start: search_costs(problem, costs, start, progress)
        )
        cuts = positions[result.cuts]
    facts = {"cost": rounded(result.cost)}
    if dense is not None:
        reference = facts["optimum"] = result.cost if request.search == "exact" else exact(dense, request.entries).cost
    else:
        finest = real_costs(Points.of(samples, candidates(samples, BOUND_CELLS)), problem.left, problem.right)
        bounds = [lower_bound(finest, request.entries)]
        if costs.exact:  # then the costs of rounded lines are bounds too
            bounds.append(lower_bound(costs_at(candidates(samples, GENETIC_LIMIT)), request.entries))
        reference = facts["lower_bound"] = max(bounds)
    facts["gap"] = relative_gap(result.cost, reference)
    facts = {name: rounded(fact) for name, fact in facts.items()}
    if not costs.exact:
        facts["lines"] = "rounded"
    return replace(result, cuts=cuts), costs.line(result.cuts[:-1], result.cuts[1:]), facts


def quadratic_costs(problem: Problem, task: Task) -> QuadraticCosts:
    """Costs of whole tables under the objective layer, what a table adds to the error of the exact function on codes,
    or layer-total, the whole error, for a table can make up for some of what rounding and clipping the inputs loses.
    """
    matrix = task.error.matrix
    matrix = matrix + UNSEEN * np.trace(matrix) / len(matrix) * np.eye(len(matrix))
    whole = (
        {"offset": task.error.offset, "constant": task.error.floor}
        if problem.request.objective == "layer-total"
        else {}
    )
    return QuadraticCosts(
        task.samples, matrix, problem.format, problem.left, problem.right, between=task.between, **whole
    )


def layer_table(problem: Problem, task: Task, progress) -> tuple[SearchResult, tuple, dict]:
    """The table whose error the next layer feels least."""
    request = problem.request
    result = quadratic(quadratic_costs(problem, task), request.entries, request.seed, request.quadratic, progress)
    return result, result.lines, {"cost": rounded(result.cost)}


def within_bound(problem: Problem, task: Task, progress) -> tuple[SearchResult, tuple, dict]:
    """The fewest entries within the request's error bound."""
    bound = ErrorBound.parse(problem.request.max_error)
    s = task.samples
    y = problem.function(s.x)
    if problem.prologue is not None:  # the stored half answers for both signs: the smaller value sets a relative bound
        y = np.minimum(np.abs(y), np.abs(problem.function(-s.x)))
    tolerance = bound.tolerance(y, problem.request.out, problem.format, problem.request.inputs)
    result = greedy(s.x, s.y, tolerance, problem.format, problem.left, problem.right, problem.request.max_error)
    return result, result.lines, {"cost": rounded(result.cost)}


def learned(problem: Problem, task: Task, progress) -> tuple[SearchResult, tuple, dict]:
    """A table learned by gradient, and how far it is from the best one with real coefficients."""
    request, samples, tails = problem.request, task.samples, (problem.left, problem.right)
    result = gradient(
        samples, request.entries, problem.format, *tails, request.objective, request.seed, request.gradient, progress
    )
    facts = {"cost": rounded(result.cost)}
    if request.objective != "absolute":
        if len(samples) <= DENSE_LIMIT:
            bound = exact(real_costs(Points.of(samples), *tails), request.entries).cost
        else:
            bound = lower_bound(
                real_costs(Points.of(samples, candidates(samples, BOUND_CELLS)), *tails), request.entries
            )
        facts |= {"lower_bound": rounded(bound), "gap": relative_gap(result.cost, bound)}
    return result, result.lines, facts

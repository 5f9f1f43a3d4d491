"""One task solved: its costs, the search over them, and how far the result is from what is proven."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from lutc.certify.proof import EXACT_LINES, relative_gap
from lutc.compiler.absolute import PROVEN, least_absolute, over_absolute, over_windows, pair_objective, run_costs
from lutc.compiler.problem import Problem, Task
from lutc.costs.objectives import SQUARED
from lutc.costs.pairs import (
    PAIRS_LIMIT,
    cost_of,
    pair_costs,
    ruled_objective,
)
from lutc.costs.points import Points
from lutc.costs.segments import (
    DENSE_LIMIT,
    SegmentCosts,
    ruled_costs,
    segments_beside,
    squared_costs,
    squared_tails,
)
from lutc.errors import LutcError
from lutc.formats.format import Format
from lutc.measures import rounded
from lutc.samples.samples import Samples
from lutc.samples.tolerance import ErrorBound
from lutc.search.exact import exact
from lutc.search.problem import SearchProblem
from lutc.search.quadratic import QuadraticCosts
from lutc.search.refine import candidates, lower_bound, near, refined
from lutc.search.result import SearchResult
from lutc.search.sample_cells import STRAIGHT
from lutc.search.segmentation import Segmentation, segmentation
from lutc.search.strips import least_error

UNSEEN = 1e-9  # of the mean of H's diagonal, for codes that the calibration did not meet
GENETIC_LIMIT = 1024  # positions up to which the genetic search sees every sample at once


def segment_costs(problem: Problem, task: Task, points: Points) -> SegmentCosts:
    """Costs under the request's objective."""
    request, tails, rules = problem.request, (problem.left, problem.right), problem.rules
    squared = squared_costs(points, problem.format, *tails) if rules is None else ruled_costs(points, rules, *tails)
    if request.error.objective in (*SQUARED, "layer-diagonal"):
        return squared
    objective = pair_objective(problem, task, points)
    if rules is not None:
        objective = ruled_objective(objective, points, rules)
    known = exact(squared, request.storage.entries)
    bound = cost_of(points, objective, known.cuts, squared.line(known.cuts[:-1], known.cuts[1:]), *tails)
    if problem.format.bits > 8 and rules is None and request.error.objective != "maximum":
        return run_costs(problem, task, points, objective, bound)
    return pair_costs(points, problem.format, *tails, objective, bound, rules)


def search_costs(
    problem: Problem,
    costs: SegmentCosts,
    start: Sequence[int] | None = None,
    progress: Callable[[int], object] | None = None,
    settings: Any = None,
) -> SearchResult:
    """The request's search over costs, beginning with cuts `start`, with other settings than the request's if these are
    given.
    """
    return _found(problem, settings, costs=costs, start=start, progress=progress)


def _found(problem: Problem, settings: Any = None, **what) -> SearchResult:
    """What the request's search makes of costs or samples."""
    request = problem.request
    given = SearchProblem(
        request.storage.entries,
        format=problem.format,
        left=problem.left,
        right=problem.right,
        objective=request.error.objective,
        seed=request.search.seed,
        **what,
    )
    return request.found_by.solve(given, settings or request.settings)


def over_segments(
    problem: Problem, task: Task, progress: Callable[[int], object] | None
) -> tuple[SearchResult, tuple, dict]:
    """(result over sample positions, its lines, what is proven of it)."""
    request, samples = problem.request, task.samples
    if request.storage.cut_step > 1:
        return _over_steps(problem, task, progress)
    proven = request.found_by.name == "exact"
    squared = request.error.objective in (*SQUARED, "layer-diagonal")
    if squared and (not request.inputs.coded or len(samples) > DENSE_LIMIT):
        return _over_many(problem, task, progress)
    wide = problem.format.bits > 8 or len(samples) > PAIRS_LIMIT
    if request.error.objective == "maximum" and problem.rules is None and wide:
        return _over_strips(problem, task)

    if request.error.objective in ("absolute", "codes") and len(samples) > PAIRS_LIMIT and problem.rules is None:
        if request.error.objective == "absolute":
            return over_absolute(problem, task)
        return over_windows(problem, task, best_lines(problem, samples, problem.format))

    def costs_at(positions: np.ndarray | None = None) -> SegmentCosts:
        return segment_costs(problem, task, task.points(positions))

    dense = costs_at() if len(samples) <= DENSE_LIMIT else None
    if dense is not None and (proven or len(samples) <= GENETIC_LIMIT):
        costs, result = dense, search_costs(problem, dense, progress=progress)
        cuts = result.cuts
    else:
        result, positions, costs = refined(
            samples, costs_at, lambda costs, start: search_costs(problem, costs, start, progress)
        )
        cuts = positions[result.cuts]
    facts = {"cost": result.cost}
    if dense is not None:
        reference = facts["optimum"] = result.cost if proven else exact(dense, request.storage.entries).cost
    else:
        coarse = costs_at(candidates(samples, GENETIC_LIMIT))
        reference = facts["lower_bound"] = lower_bound(coarse, request.storage.entries)
    facts = {name: rounded(fact) for name, fact in facts.items()}
    facts["gap"] = relative_gap(result.cost, reference)
    if not costs.exact:
        facts["lines"] = "rounded"
    return replace(result, cuts=cuts), costs.line(result.cuts[:-1], result.cuts[1:]), facts


def _over_steps(
    problem: Problem, task: Task, progress: Callable[[int], object] | None
) -> tuple[SearchResult, tuple, dict]:
    """The same with cuts at every `cut_step`-th code alone."""
    step, inputs = problem.request.storage.cut_step, task.inputs
    assert inputs is not None
    cells = (np.rint(task.samples.x / inputs.scale).astype(np.int64) + inputs.zero_point) // step
    positions = np.concatenate([[0], np.flatnonzero(np.diff(cells)) + 1, [cells.size]])
    if positions.size > DENSE_LIMIT:
        raise LutcError(
            f"{positions.size - 1} places for cuts are too many; give a `cut_step` of at least "
            f"{step * (1 << int(positions.size // DENSE_LIMIT).bit_length())}"
        )
    costs = segment_costs(problem, task, task.points(positions))
    result = search_costs(problem, costs, progress=progress)
    least = result if problem.request.found_by.name == "exact" else exact(costs, problem.request.storage.entries)
    facts = {"cost": result.cost, "optimum": least.cost, "gap": relative_gap(result.cost, least.cost)}
    known = {name: rounded(fact) for name, fact in facts.items()}
    if not costs.exact:
        known["lines"] = "rounded"
    return replace(result, cuts=positions[result.cuts]), costs.line(result.cuts[:-1], result.cuts[1:]), known


def best_lines(
    problem: Problem, samples: Samples, fmt: Format | None = None, real: Segmentation | None = None
) -> Segmentation:
    """The best table with real coefficients, or with those of `fmt`."""
    points, tails = Points.of(samples), (problem.left, problem.right)
    segments = segments_beside((tails[0] is not None, tails[1] is not None), problem.request.storage.entries)
    return segmentation(points, *squared_tails(points, *tails), segments, fmt, real)


def _over_many(
    problem: Problem, task: Task, progress: Callable[[int], object] | None
) -> tuple[SearchResult, tuple, dict]:
    """`over_segments` for floats and wide codes: the proven optimum over all cuts, which leaves a search nothing to
    find. Where promises bind, or coefficients are not all numbers of a format, it is where the search begins.
    """
    samples, genetic = task.samples, problem.request.found_by.name != "exact"
    real = best_lines(problem, samples)
    stored = best_lines(problem, samples, problem.format, real)
    result = SearchResult(stored.cuts, stored.cost, {"name": "exact"}, stored.lines)
    before, lines = stored.cost, stored.lines
    if problem.rules is not None:
        before, result, lines = _searched(problem, task, stored.cuts, progress)
    if genetic:
        record = {"name": "genetic", "seed": problem.request.search.seed, **asdict(problem.request.settings)}
        result = replace(result, record=record)
    reference = max(stored.bound, real.bound)  # the best real lines bound all others
    proven = problem.rules is None and stored.cost <= reference * (1.0 + PROVEN)
    facts = {"cost": rounded(result.cost), "optimum" if proven else "lower_bound": rounded(reference)}
    facts |= {"gap": relative_gap(result.cost, reference), "rounding": relative_gap(stored.cost, real.cost)}
    if not proven:
        facts["bound_of"] = "real lines" if real.bound >= stored.bound else f"lines in {problem.format.name}"
    y, weight = samples.y, samples.weight / samples.weight.sum()
    if reference <= STRAIGHT * float(weight @ y**2) and result.cost > reference:
        facts = {"cost": facts["cost"], "lower_bound": 0.0, "bound_of": EXACT_LINES}
    if genetic:
        facts["share"] = relative_gap(before, result.cost)
    return result, lines, facts


def _over_strips(problem: Problem, task: Task) -> tuple[SearchResult, tuple, dict]:
    """The least largest error, of any format over any number of samples, proven whichever search is named."""
    s, tails = task.samples, (problem.left, problem.right)
    segments = segments_beside((tails[0] is not None, tails[1] is not None), problem.request.storage.entries)
    found, cost, bound = least_error(s.x, s.y, s.weight / s.weight.max(), segments, problem.format, *tails)
    result = SearchResult(found.cuts, cost, {"name": problem.request.found_by.name})
    proven = cost <= bound * (1.0 + PROVEN)
    facts = {"cost": rounded(cost), "optimum" if proven else "lower_bound": rounded(cost if proven else bound)}
    return result, found.lines, {**facts, "gap": relative_gap(cost, cost if proven else bound)}


def _searched(problem: Problem, task: Task, cuts: np.ndarray, progress) -> tuple[float, SearchResult, tuple]:
    """(cost before the genetic search, result over samples, its lines): dynamic programming in windows that begin
    around `cuts`, and from there one run of the genetic search, if that is asked for.
    """
    request, samples, entries = problem.request, task.samples, problem.request.storage.entries

    def costs_at(positions: np.ndarray) -> SegmentCosts:
        return segment_costs(problem, task, task.points(positions))

    result, positions, costs = refined(samples, costs_at, lambda costs, start: exact(costs, entries), cuts)
    before = result.cost
    if request.found_by.name != "exact":
        found = positions[result.cuts]
        positions = near(found, 1, len(samples))
        costs, start = costs_at(positions), np.searchsorted(positions, found)
        result = search_costs(problem, costs, start, progress, replace(request.settings, restarts=1, agreement=1))
    lines = costs.line(result.cuts[:-1], result.cuts[1:])
    return before, replace(result, cuts=positions[result.cuts]), lines


def quadratic_costs(problem: Problem, task: Task) -> QuadraticCosts:
    """Costs of whole tables under the objective layer, what a table adds to the error of the exact function on codes,
    or layer-total, the whole error, for a table can make up for some of what rounding and clipping the inputs loses.
    """
    matrix = task.error.matrix
    matrix = matrix + UNSEEN * np.trace(matrix) / len(matrix) * np.eye(len(matrix))
    whole = (
        {"offset": task.error.offset, "constant": task.error.floor}
        if problem.request.error.objective == "layer-total"
        else {}
    )
    return QuadraticCosts(
        task.samples, matrix, problem.format, problem.left, problem.right, between=task.between, **whole
    )


def over_tables(
    problem: Problem, task: Task, progress: Callable[[int], object] | None
) -> tuple[SearchResult, tuple, dict]:
    """The table whose error the next layer feels least."""
    result = _found(problem, costs=quadratic_costs(problem, task), progress=progress)
    return result, result.lines, {"cost": rounded(result.cost)}


def over_samples(
    problem: Problem, task: Task, progress: Callable[[int], object] | None
) -> tuple[SearchResult, tuple, dict]:
    """The table of a search that chooses its lines itself: the fewest entries within the request's error bound, or the
    best one that is found, and how far it is from what real coefficients could do.
    """
    if problem.request.found_by.bounded:
        return _within_bound(problem, task, progress)
    result = _found(problem, samples=task.samples, progress=progress, rules=problem.rules)
    return result, result.lines, {"cost": rounded(result.cost), **_gap(problem, task.samples, result)}


def _within_bound(problem: Problem, task: Task, progress) -> tuple[SearchResult, tuple, dict]:
    bound = ErrorBound.parse(problem.request.error.max_error)
    s = task.samples
    y = problem.function(s.x)
    if problem.prologue is not None:  # the stored half answers for both signs: the smaller value sets a relative bound
        y = np.minimum(np.abs(y), np.abs(problem.function(-s.x)))
    tolerance = bound.tolerance(y, problem.request.storage.out, problem.format, problem.request.inputs.inputs)
    described = problem.request.error.max_error
    result = _found(problem, samples=s, tolerance=tolerance, described=described, progress=progress)
    return result, result.lines, {"cost": rounded(result.cost)}


def _gap(problem: Problem, samples: Samples, result: SearchResult) -> dict:
    """The least cost of lines with real coefficients, and the gap to it; {} where that cost is of another kind."""
    objective = problem.request.error.objective
    if objective in SQUARED:
        bound = best_lines(problem, samples).bound
    elif objective == "absolute":
        bound = least_absolute(problem, samples)[-1]
    else:
        return {}
    return {"lower_bound": rounded(bound), "gap": relative_gap(result.cost, bound)}

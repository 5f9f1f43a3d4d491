"""Promises as rules of the search: which lines a segment may hold, and how they join."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from lutc.compiler.problem import Problem, Task
from lutc.compiler.solve import best_lines, over_samples, over_segments, pair_objective, relative_gap, segment_costs
from lutc.costs.lines import Ordinals
from lutc.costs.objectives import SQUARED
from lutc.costs.points import Points
from lutc.costs.rules import FORBIDDEN, Rules
from lutc.costs.runs import thresholds
from lutc.costs.segments import DENSE_LIMIT, SegmentCosts, real_costs, ruled_costs, squared_costs, tail_costs
from lutc.errors import LutcError
from lutc.formats.codes import round_to_codes
from lutc.formats.format import get
from lutc.functions import Line
from lutc.measures import rounded
from lutc.search.exact import exact
from lutc.search.joined import JOINED_LIMIT, Joins, joined, joined_below
from lutc.search.result import SearchResult
from lutc.search.tied import TiedErrors, TiedProblem, tied


def over_promises(
    problem: Problem, task: Task, progress: Callable[[int], object] | None
) -> tuple[SearchResult, tuple, dict]:
    """(result over sample positions, its lines, what is proven of it), and `without_promises`: the proven optimum of
    the same table that promises nothing, where there is one.
    """
    request, promised = problem.request, problem.promised
    names, entries = ", ".join(request.error.promises), request.storage.entries
    squared = request.error.objective in (*SQUARED, "layer-diagonal")
    if request.found_by.takes == "samples":
        if problem.prologue is not None or promised.joined:
            raise LutcError(
                f"the {request.found_by.name} search keeps through-zero and bounded, without range reduction; given "
                f"{names}: leave the others out, or add `prologue` none"
            )
        return over_samples(problem, task, progress)
    if not promised.joined:
        result, lines, facts = over_segments(problem, task, progress)
        if result.cost >= FORBIDDEN / 2:
            raise LutcError(
                f"no table of {entries} entries keeps its promises ({names}); use more entries or promise less"
            )
    else:
        result, facts = _over_joins(problem, task)
        lines = result.lines or ()
    if "without_promises" not in facts and squared and len(task.samples) <= DENSE_LIMIT:
        plain = exact(_plain_costs(problem, task), entries).cost
        facts["without_promises"] = rounded(plain)
        facts["price"] = max(relative_gap(result.cost, plain), 0.0)
    return result, lines, facts


def _over_joins(problem: Problem, task: Task) -> tuple[SearchResult, dict]:
    """(result with its lines, what is proven of it) where neighbouring lines must join."""
    rules, promised, entries = problem.rules, problem.promised, problem.request.storage.entries
    assert rules is not None
    tails, beyond, fmt = (problem.left, problem.right), _beyond(problem, task), rules.intercepts.format
    joins = Joins(promised.rise, promised.bend, (fmt.step / 2 if fmt.is_fixed else 0.0) if promised.meet else -1.0)
    squared = problem.request.error.objective in (*SQUARED, "layer-diagonal")
    if squared and task.inputs is not None and len(task.samples) <= JOINED_LIMIT and rules.exhaustive and fmt.is_fixed:
        points = task.points()
        result = joined(points, segment_costs(problem, task, points), rules, joins, entries, *tails, beyond)
        return result, {"cost": rounded(result.cost), "optimum": rounded(result.cost), "gap": 0.0}
    if not squared:
        return _over_other_errors(problem, task, joins)
    free, points = best_lines(problem, task.samples), Points.of(task.samples)
    asked = TiedProblem(points, rules, joins, *tails, beyond, task.inputs is None)
    found, bound = tied(asked, free.cuts), free.bound
    if task.inputs is not None and len(task.samples) <= JOINED_LIMIT and fmt.is_fixed and fmt.bits <= 16:
        costs = segment_costs(problem, task, points)
        costs = costs if costs.exact else real_costs(points, *tails)
        best, bound = joined_below(points, costs, rules, joins, entries, *tails, beyond, found.cost)
        if best is None:
            found = _from_coarse(problem, task, asked, found)
            best, bound = joined_below(points, costs, rules, joins, entries, *tails, beyond, found.cost)
        if best is not None:
            return best, {"cost": rounded(best.cost), "optimum": rounded(best.cost), "gap": 0.0}
    facts = {"cost": rounded(found.cost), "lower_bound": rounded(bound)}
    return found, {**facts, "gap": relative_gap(found.cost, bound)}


def _from_coarse(problem: Problem, task: Task, asked: TiedProblem, found: SearchResult) -> SearchResult:
    """`found`, or the table near the optimum in 8 bits, if that is better: few codes have many tables that join, far
    from each other.
    """
    fmt, joins, tails = problem.format, asked.joins, (problem.left, problem.right)
    coarse = get(f"q{fmt.integer_bits}.{max(7 - fmt.integer_bits, 1)}")
    if problem.numbers is not None or not coarse.bits <= 8:
        return found
    rules = replace(asked.rules, slopes=Ordinals(coarse), intercepts=Ordinals(coarse))
    joins = replace(joins, meet=coarse.step / 2 if joins.meet >= 0.0 else -1.0)
    try:
        costs = ruled_costs(asked.points, rules, *tails)
        start = joined(asked.points, costs, rules, joins, problem.request.storage.entries, *tails, asked.beyond)
        other = tied(asked, start.cuts, start.lines)
    except LutcError:  # no table in so few bits, or none near it
        return found
    return other if other.cost < found.cost else found


def _over_other_errors(problem: Problem, task: Task, joins: Joins) -> tuple[SearchResult, dict]:
    """The same under absolute and largest errors and those of output codes, beside the optimum without promises."""
    request, tails, points = problem.request, (problem.left, problem.right), Points.of(task.samples)
    plain = replace(problem, request=replace(request, error=replace(request.error, promises=())))
    free, lines, known = over_segments(plain, task, None)
    objective, rules = pair_objective(problem, task, points), problem.rules
    assert rules is not None

    def error(tail: Line) -> np.ndarray:
        k, t = np.array([tail.slope]), np.array([tail.intercept])
        return np.array([objective.error(k, t, n)[0] for n in range(points.size)])

    kind = {"absolute": 1, "maximum": 2, "codes": 3}[request.error.objective]
    coded = _coded(problem, task) if kind == 3 else None
    errors = TiedErrors(kind, tail_costs(points, *tails, error, objective.combine), coded)
    asked = TiedProblem(points, rules, joins, *tails, _beyond(problem, task), task.inputs is None, errors)
    found = tied(asked, free.cuts, lines)
    facts = {"cost": rounded(found.cost)}
    bound = known.get("optimum", known.get("lower_bound"))
    if bound is None:
        return found, facts
    bound = min(bound, facts["cost"])  # both have six digits
    return found, {**facts, "lower_bound": bound, "gap": relative_gap(facts["cost"], bound)}


def _coded(problem: Problem, task: Task) -> tuple:
    """What output codes follow from, as `lutc.search.tied_kernels.price` takes it."""
    inputs, out, samples = task.inputs, problem.request.storage.out, task.samples
    assert inputs is not None and out is not None
    codes = np.rint(samples.x / inputs.scale).astype(np.int64)
    wanted = round_to_codes(out, samples.y).astype(np.int64) - out.minimum
    return codes, wanted, thresholds(inputs, out, problem.format), problem.format.step, inputs.scale, out.scale


def _plain_costs(problem: Problem, task: Task) -> SegmentCosts:
    """Squared costs in the same numbers, of tables that promise nothing."""
    tails = (problem.left, problem.right)
    if problem.numbers is None:
        return squared_costs(task.points(), problem.format, *tails)
    slopes, intercepts = (Ordinals(problem.format, chosen.values) for chosen in problem.numbers)
    return ruled_costs(task.points(), Rules(slopes, intercepts), *tails)


def _beyond(problem: Problem, task: Task) -> tuple[bool, bool]:
    """Whether inputs lie beyond the samples on either side."""
    if task.inputs is None:
        return True, True
    x = task.inputs.x()
    return bool(np.any(x < task.samples.x[0])), bool(np.any(x > task.samples.x[-1]))

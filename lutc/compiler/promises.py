"""Promises as rules of the search: which lines a segment may hold, and how they join."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lutc.compiler.problem import Problem, Task
from lutc.compiler.solve import over_samples, over_segments, relative_gap, segment_costs
from lutc.costs.lines import Ordinals
from lutc.costs.objectives import SQUARED
from lutc.costs.rules import FORBIDDEN, Rules
from lutc.costs.segments import DENSE_LIMIT, SegmentCosts, ruled_costs, squared_costs
from lutc.errors import LutcError
from lutc.measures import rounded
from lutc.search.exact import exact
from lutc.search.joined import JOINED_LIMIT, Joins, joined
from lutc.search.result import SearchResult


def over_promises(
    problem: Problem, task: Task, progress: Callable[[int], object] | None
) -> tuple[SearchResult, tuple, dict]:
    """(result over sample positions, its lines, what is proven of it), and `without_promises`: the proven optimum of
    the same table that promises nothing, where there is one.
    """
    request, promised = problem.request, problem.promised
    names, entries = ", ".join(request.error.promises), request.storage.entries
    tails, squared = (problem.left, problem.right), request.error.objective in (*SQUARED, "layer-diagonal")
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
        rules = problem.rules
        assert rules is not None
        if len(task.samples) > JOINED_LIMIT or not rules.exhaustive or not rules.intercepts.format.is_fixed:
            raise LutcError(
                f"{names}: kept over at most {JOINED_LIMIT} input codes, with fixed-point coefficients of at most 8 "
                f"bits; given {len(task.samples)} inputs and {problem.format.name}: promise through-zero and bounded "
                "alone, or use fewer bits"
            )
        points = task.points()
        costs = segment_costs(problem, task, points)
        joins = Joins(promised.rise, promised.bend, rules.intercepts.format.step / 2 if promised.meet else -1.0)
        result = joined(points, costs, rules, joins, entries, *tails, _beyond(problem, task))
        lines = result.lines or ()
        facts = {"cost": rounded(result.cost), "optimum": rounded(result.cost), "gap": 0.0}
    if squared and len(task.samples) <= DENSE_LIMIT:
        plain = exact(_plain_costs(problem, task), entries).cost
        facts["without_promises"] = rounded(plain)
        facts["price"] = relative_gap(result.cost, plain)
    return result, lines, facts


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

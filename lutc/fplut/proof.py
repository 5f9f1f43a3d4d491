"""What is proven of a floating-point table: its cost beside bounds that no such table goes below."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from lutc.certify.proof import relative_gap
from lutc.costs.intervals import IntervalCosts
from lutc.errors import LutcError
from lutc.fplut.problem import IntervalProblem, make_problem
from lutc.functions import Function
from lutc.measures import rounded
from lutc.search.cutpoints_bound import bound_of_edges, lower_bound
from lutc.table.bodies import Cells, Exponents
from lutc.table.prologues import AbsPrologue, ExponentPrologue, PeriodPrologue
from lutc.table.table import Table
from lutc.table.table_set import TableSet

_AGREE = 1e-4  # figures have six digits


def proven(problem: IntervalProblem, settings: Any, tables: Mapping[str, Table], records: Mapping[str, dict]) -> dict:
    """The records of the search, by key of the table, with what is proven under sums of errors (relative, absolute,
    ulp): `cost`, the mean over the inputs; `lower_bound`, what no table of so many pieces goes below, equally wide or
    not, joined or not, its values of any format; `gap` between them; `values_gap`, to what no values at the table's own
    edges go below.
    """
    if problem.norm != "l1" or settings.arithmetic != "fp32":
        return dict(records)
    costs = _costs(problem)
    by_pieces: dict[int, float] = {}  # the bound is of real lines, the same whatever values are stored as
    facts = {}
    for key in sorted(tables, key=lambda key: _cost(problem, tables[key])):
        cost, edges = _cost(problem, tables[key]), _edges(tables[key])
        if edges.size not in by_pieces:
            by_pieces[edges.size] = lower_bound(costs, edges.size - 1, cost)
        bound, own = by_pieces[edges.size], bound_of_edges(costs, edges)
        figures = {"cost": rounded(problem.mean(cost)), "lower_bound": rounded(problem.mean(bound))}
        figures["gap"] = relative_gap(figures["cost"], figures["lower_bound"])
        facts[key] = figures | {"values_gap": relative_gap(problem.mean(cost), problem.mean(own))}
    given: dict[str, Any] = {} if settings.range is None else {"range": list(problem.range)}
    given |= {} if settings.tails else {"tails": False}
    return {key: {**records[key], **given, **facts[key]} for key in records}


def bounded(tables: TableSet) -> bool:
    """Whether a file names a cost and a bound of floating-point tables over cut points or exponents."""
    return any(True for _ in _told(tables))


def costs_told(tables: TableSet, fn: Function) -> list[str]:
    """Where the cost that a file names is not that of its table, by key."""
    wrong = []
    for key, record in _told(tables):
        problem = _problem(tables, fn, key, record)
        cost = problem.mean(_cost(problem, tables[key]))
        if not abs(cost - record["cost"]) <= _AGREE * cost + 1e-15:
            wrong.append(f"search.{key}.cost is {record['cost']:g}, but the table's error is {cost:g}")
    return wrong


def reproved_bounds(tables: TableSet, fn: Function) -> list[str]:
    """Where a bound that a file names is above what is proven, by key."""
    wrong, found = [], {}
    for key, record in sorted(_told(tables), key=lambda told: told[1]["cost"]):
        problem, pieces = _problem(tables, fn, key, record), _edges(tables[key]).size - 1
        if pieces not in found:
            cost = _cost(problem, tables[key])
            found[pieces] = problem.mean(lower_bound(_costs(problem), pieces, cost))
        if record["lower_bound"] > found[pieces] * (1.0 + _AGREE) + 1e-15:
            wrong.append(f"search.{key}.lower_bound is {record['lower_bound']:g}, but {found[pieces]:g} is proven")
    return wrong


def _told(tables: TableSet) -> Iterator[tuple[str, Mapping]]:
    search = tables.meta.get("search")
    for key, record in search.items() if isinstance(search, Mapping) else ():
        if key in tables and isinstance(record, Mapping) and {"cost", "lower_bound", "input"} <= record.keys():
            yield key, record


def _problem(tables: TableSet, fn: Function, key: str, record: Mapping) -> IntervalProblem:
    interval = tuple(record["range"]) if "range" in record else None
    choice, tails = _choice(tables[key]), record.get("tails", True)
    return make_problem(fn, tables.meta["objective"], choice, record["input"], interval, tails)


def _choice(table: Table) -> str:
    """The prologue, as `lutc.compiler.prologue.make_prologue` names it."""
    if isinstance(table.prologue, AbsPrologue):
        return "abs"
    return "reduce" if isinstance(table.prologue, (ExponentPrologue, PeriodPrologue)) else "none"


def _edges(table: Table) -> np.ndarray:
    body = table.body
    if not isinstance(body, (Cells, Exponents)):
        raise LutcError(f"a table of {body.payload} has no pieces over cut points or exponents to be bounded by")
    return body.edges


def _costs(problem: IntervalProblem) -> IntervalCosts:
    targets = replace(problem.targets, cap=np.inf)
    return IntervalCosts(targets, problem.places, problem.f, "l1", np.asarray, problem.left, problem.right)


def _cost(problem: IntervalProblem, table: Table) -> float:
    """The sum of weight * |error| over the targets."""
    t = problem.targets
    error = np.abs(table.evaluate_reduced(t.x) - t.y)
    if not np.isfinite(error).all():
        raise LutcError(f"the table has no finite value at {t.x[~np.isfinite(error)][0]:g}, behind its prologue")
    return float(t.weight @ error)

"""Exponent-addressed tables: mantissa bits per binade of a 16-bit input, chosen within a budget of values.

The bits are an exact dynamic program over the binades, outward neighbours joined where one piece serves several, on the
same interval costs as the cut points; the values are then fitted as those of any table.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lutc import formats
from lutc.costs.intervals import IntervalCosts
from lutc.errors import LutcError
from lutc.fplut.problem import IntervalProblem, through_zero
from lutc.fplut.values import STORE, fitted
from lutc.measures import rounded
from lutc.table.bodies import Exponents, binades
from lutc.table.table import Table


def build_exponents(problem: IntervalProblem, settings: Any, key: str) -> tuple[Table, dict]:
    """A table with exponent addressing and values stored as `key`, and the record of its search.

    Fitted values of few bits make up for what rounding samples costs, so the bits chosen for exact values are tried
    too.
    """
    stores = (STORE[key], np.asarray) if settings.values == "fitted" else (STORE[key],)
    found = [_allocate(problem, settings, key, store) for store in stores]
    _, bits, values, sampled = min(found, key=lambda result: result[0])
    record = {"name": "exponents", "input": settings.input, "values": settings.values, "budget": settings.budget}
    record["sampled"] = rounded(problem.mean(sampled))

    def table_of(values: np.ndarray) -> Table:
        body = Exponents(settings.input, bits, values)
        return Table(body, problem.prologue, problem.left, problem.right, key, problem.domain)

    table = table_of(values)
    if problem.zero is not None and not through_zero(table):  # 0 bounds a binade
        edges = table.body.edges
        table = table_of(fitted(problem, edges, _continued(problem)(edges), key, zero=True)[0])
    return table, record


def _allocate(problem: IntervalProblem, settings, key: str, store) -> tuple[float, tuple[int, ...], np.ndarray, float]:
    """(cost, mantissa bits, values, cost of sampled values) of the best allocation under costs of values rounded by
    `store`.
    """
    bounds, f = binades(settings.input), _continued(problem)
    middle = (bounds.size - 1) // 2
    used = np.flatnonzero((bounds[:-1] <= problem.targets.x[-1]) & (bounds[1:] >= problem.targets.x[0]))
    costs = IntervalCosts(problem.targets, bounds, f, problem.norm, store, problem.left, problem.right)
    sampled, path = _knapsack(
        costs, int(used[0]), int(used[-1]) + 1, middle, settings.budget - 1, formats.get(settings.input).mantissa_bits
    )
    bits = np.full(bounds.size - 1, Exponents.OUTSIDE)
    for start, end, count in path:
        bits[start:end] = Exponents.JOINED
        bits[start if start >= middle else end - 1] = count
    bits = tuple(bits.tolist())
    edges = Exponents(settings.input, bits, np.zeros(1 + sum(1 << count for *_, count in path))).edges
    if settings.values == "sampled":
        return sampled, bits, STORE[key](f(edges)), sampled
    values, cost = fitted(problem, edges, f(edges), key)
    outside = costs.combine(costs.outside_left(path[0][0]), costs.outside_right(path[-1][1]))
    return float(costs.combine(cost, outside)), bits, values, sampled


def _continued(problem: IntervalProblem):
    """f, beyond the samples held at its value there: an edge may lie where f is infinite, in a binade that holds
    samples.
    """
    low, high = problem.targets.x[0], problem.targets.x[-1]
    largest = formats.get(problem.input).max

    def f(x):
        value = problem.f(x)
        inside = problem.f(np.clip(x, low, high))
        return np.where(np.isfinite(value) & (np.abs(value) <= 2.0 * largest), value, inside)

    return f


def _knapsack(
    costs, first: int, last: int, middle: int, budget: int, most_bits: int
) -> tuple[float, list[tuple[int, int, int]]]:
    """Least cost with at most `budget` pieces, and the runs (start, end, bits) of binades it takes: several share one
    piece (bits 0).

    costs: intervals between the bounds of binades. middle: position of zero, which no run crosses. value[p][n] is the
    least cost of all samples below bound p with n pieces spent.
    """
    if budget < 1:
        raise LutcError(f"an exponent-addressed table has at least 2 values; given a budget of {budget + 1}")
    positions = np.arange(first, last + 1)
    single = {
        b: costs.interval(positions[:-1], positions[1:], 1 << b)
        for b in range(min(most_bits, budget.bit_length() - 1) + 1)
    }
    value = np.full((last + 1, budget + 1), np.inf)
    value[first:, 0] = costs.outside_left(positions)
    back = np.zeros((last + 1, budget + 1, 2), np.int64)
    for end in range(first + 1, last + 1):
        near = middle if first <= middle < end else first
        starts = np.arange(near, end)
        joined = costs.interval(starts, np.full_like(starts, end), 1)
        moves = [(end - 1, bits, single[bits][end - 1 - first]) for bits in single]
        moves += [(int(start), 0, cost) for start, cost in zip(starts[:-1], joined[:-1]) if np.isfinite(cost)]
        for start, bits, cost in moves:
            spent = 1 << bits
            reached = costs.combine(value[start, : budget + 1 - spent], cost)
            better = reached < value[end, spent:]
            value[end, spent:][better] = reached[better]
            back[end, spent:][better] = start, bits
    finished = costs.combine(value[first : last + 1], costs.outside_right(positions)[:, None])
    finished[:, 0] = np.inf  # a table has a piece
    end, spent = (int(i) for i in np.unravel_index(finished.argmin(), finished.shape))
    end += first
    cost, path = float(finished.min()), []
    if not np.isfinite(cost):
        remedy = "raise the budget, narrow the range, use a prologue or store values of a wider format"
        raise LutcError(f"no table of {budget + 1} values keeps the error finite; {remedy}")
    while spent:
        start, bits = (int(i) for i in back[end, spent])
        path.append((start, end, bits))
        end, spent = start, spent - (1 << bits)
    return cost, path[::-1]

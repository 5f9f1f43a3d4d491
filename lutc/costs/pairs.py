"""Segment costs for objectives without a closed form: absolute, maximum, and the error of rounded output codes.

All pairs (slope, intercept) of an 8-bit format, 65,536 of them, are carried along as a segment grows by one cell, so
the cost of every segment is exact. A pair that has cost more than `bound` is dropped for good: errors only grow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lutc.costs.points import Points
from lutc.costs.rules import FORBIDDEN, Rules
from lutc.costs.segments import SegmentCosts, tail_costs
from lutc.errors import LutcError
from lutc.formats.codes import Inputs, round_to_codes
from lutc.formats.format import Format
from lutc.formats.requantise import requantise, requantiser, scaled_intercepts
from lutc.functions import Line

PAIRS_LIMIT = 1024  # positions; the work is their square times the pairs that survive
# Among tables with the same code errors the one with the smaller real error is taken: it decides ties and nothing else.
TIE = 2.0**-24

PairError = Callable[[np.ndarray, np.ndarray, int], np.ndarray]


@dataclass(frozen=True)
class PairObjective:
    """error(slopes, intercepts, n) -> weighted error of sample n for each pair; `combine` adds errors up or takes the
    largest.
    """

    error: PairError
    combine: np.ufunc


def absolute_objective(points: Points) -> PairObjective:
    """Weighted mean absolute error."""
    return PairObjective(lambda k, t, n: points.weight[n] * np.abs(k * points.x[n] + t - points.y[n]), np.add)


def maximum_objective(points: Points) -> PairObjective:
    """Largest absolute error; weights count relative to the largest weight."""
    weight = points.weight / points.weight.max()
    return PairObjective(lambda k, t, n: weight[n] * np.abs(k * points.x[n] + t - points.y[n]), np.maximum)


def codes_objective(points: Points, inputs: Inputs, out: Inputs, fmt: Format) -> PairObjective:
    """Weighted mean squared error of the output codes, by the integer arithmetic of `lutc.table.integer`, against the
    rounded exact function.

    points must be codes of `inputs`, one sample per code.
    """
    if not fmt.is_fixed:
        raise LutcError(
            "the objective codes is a matter of integer arithmetic: it takes fixed-point coefficients (q1.6, ...); "
            f"given {fmt.name}"
        )
    step = 2.0**-fmt.fraction_bits
    multiplier, shift = requantiser(inputs.scale * step / out.scale)
    centred = np.rint(points.x / inputs.scale).astype(np.int64)
    target = round_to_codes(out, points.y)
    real = points.y / out.scale

    def error(k, t, n):
        acc = np.rint(k / step).astype(np.int64) * centred[n] + scaled_intercepts(np.rint(t / step), inputs)
        codes = np.clip(requantise(acc, multiplier, shift, out.rounding) + out.zero_point, out.minimum, out.maximum)
        miss = np.minimum(np.abs((k * points.x[n] + t) / out.scale - real[n]), 2.0**10)
        return points.weight[n] * ((codes - target[n]) ** 2 + TIE * miss**2)

    return PairObjective(error, np.add)


def ruled_objective(objective: PairObjective, points: Points, rules: Rules) -> PairObjective:
    """The same where a pair that breaks the rules at a sample costs FORBIDDEN."""

    def error(k, t, n):
        value = k * points.x[n] + t
        broken = (value < rules.low) | (value > rules.high)
        if rules.zero and points.x[n] == 0.0:
            broken |= t != 0.0
        return np.where(broken, FORBIDDEN, objective.error(k, t, n))

    return PairObjective(error, objective.combine)


def pair_costs(
    points: Points,
    fmt: Format,
    left: Line | None,
    right: Line | None,
    objective: PairObjective,
    bound: float = np.inf,
    rules: Rules | None = None,
) -> SegmentCosts:
    """Exact costs for a format of at most 8 bits and at most 1,024 positions.

    A run that costs more than `bound` (the cost of some known table, so no optimum uses the run) is not extended
    further: longer ones get a stand-in above the bound that grows with their length. rules: which numbers there are.
    """
    if rules is not None:
        sets = [part.value(np.arange(part.low, part.high + 1)) for part in (rules.slopes, rules.intercepts)]
    else:
        sets = [fmt.values() if fmt.bits <= 8 else np.empty(0)] * 2
    if not 0 < sets[0].size * sets[1].size <= 1 << 16 or points.size > PAIRS_LIMIT:
        raise LutcError(_too_many(points.size, fmt, rules))
    slopes, intercepts = (v.ravel() for v in np.meshgrid(*sets, indexing="ij"))
    members = np.split(
        np.argsort(points.cell, kind="stable"), np.searchsorted(np.sort(points.cell), np.arange(1, points.size))
    )
    first = [_cell_errors(objective, slopes, intercepts, cell) for cell in members]
    limit = bound * (1.0 + 1e-9) + 1e-15  # `bound` was summed in another order
    matrix = np.full((points.size + 1, points.size + 1), np.inf).T
    np.fill_diagonal(matrix, 0.0)
    for i in range(points.size):
        pairs, cost = np.arange(slopes.size), np.zeros(slopes.size)
        for j in range(i, points.size):
            cost = objective.combine(cost, first[j] if pairs.size == slopes.size else first[j][pairs])
            matrix[i, j + 1] = lowest = cost.min()
            if lowest > limit:
                matrix[i, j + 1 :] = lowest * (1.0 + np.arange(points.size - j) / points.size)
                break
            keep = cost <= limit
            if 2 * keep.sum() < keep.size:
                pairs, cost = pairs[keep], cost[keep]

    def line(starts, stops):
        best = []
        for i, j in zip(starts, stops):
            best.append(int(objective.combine.reduce(np.stack(first[i:j])).argmin()) if j > i else 0)
        return slopes[best], intercepts[best]

    def tail_error(tail):
        k, t = np.array([tail.slope]), np.array([tail.intercept])
        return np.array([objective.error(k, t, n)[0] for n in range(points.x.size)])

    tails = tail_costs(points, left, right, tail_error, objective.combine)
    return SegmentCosts(matrix, *tails, line, True, (left is not None, right is not None), objective.combine)


def _too_many(positions: int, fmt: Format, rules: Rules | None) -> str:
    if positions > PAIRS_LIMIT:
        given, allowed = f"{positions} inputs", f"at most {PAIRS_LIMIT} inputs"
    else:
        given, allowed = f"numbers in {fmt.name}", "coefficients of at most 8 bits (q1.6, ...)"
    under = "with promises or own `slopes` and `intercepts` " if rules is not None else ""
    return (
        f"{under}the objectives absolute, maximum and codes take {allowed}; given {given}: use the squared objective, "
        "a narrower format or fewer input bits"
    )


def _cell_errors(objective: PairObjective, slopes: np.ndarray, intercepts: np.ndarray, cell: np.ndarray) -> np.ndarray:
    errors = np.zeros(slopes.size)
    for n in cell:
        errors = objective.combine(errors, objective.error(slopes, intercepts, n))
    return errors


def cost_of(
    points: Points,
    objective: PairObjective,
    cuts: Sequence[int],
    lines: Sequence[tuple[float, float]],
    left: Line | None,
    right: Line | None,
) -> float:
    """Cost of a given table: cuts (m + 1,), lines (slopes, intercepts). It bounds the optimum from above."""
    slopes = np.concatenate([[left.slope if left else 0.0], lines[0], [right.slope if right else 0.0]])
    intercepts = np.concatenate([[left.intercept if left else 0.0], lines[1], [right.intercept if right else 0.0]])
    index = np.searchsorted(cuts, points.cell, side="right")
    errors = [objective.error(slopes[i : i + 1], intercepts[i : i + 1], n)[0] for n, i in enumerate(index)]
    return float(objective.combine.reduce(np.array(errors)))

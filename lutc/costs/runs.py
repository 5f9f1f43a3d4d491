"""Segment costs under the absolute error and the error of output codes, for coefficients of any width: the best line of
every run of cells, found for itself (`lutc.costs.run_kernels`), where pairs of 8 bits can be carried along instead
(`lutc.costs.pairs`).
"""

from __future__ import annotations

import numpy as np

from lutc.costs.pairs import TIE, PairObjective
from lutc.costs.points import Points
from lutc.costs.segments import SegmentCosts, tail_costs
from lutc.formats.codes import Inputs, round_to_codes
from lutc.formats.format import Format
from lutc.formats.numbers import numbers_of
from lutc.formats.requantise import requantise, requantiser
from lutc.functions import Line

PROVEN_LIMIT = 1024  # samples up to which lines are proven the best for output codes
_FAR = 1 << 40  # no accumulator is that far out
_ROOM = 520  # places of change for a sample
_FARTHEST = 2.0**10  # steps of the output, from which a real error decides no tie more


def absolute_runs(
    points: Points, fmt: Format, left: Line | None, right: Line | None, objective: PairObjective, bound: float = np.inf
) -> SegmentCosts:
    """Weighted mean absolute errors. A run that costs more than `bound` (the cost of some known table) has a stand-in.

    points: ascending in x, as cells hold them.
    """
    from lutc.costs.run_kernels import absolute_runs as runs  # brings numba

    matrix, slopes, intercepts = _room(points.size)
    args = (points.x, points.y, points.weight, _offsets(points), numbers_of(fmt), _limit(bound))
    proven = runs(*args, matrix, slopes, intercepts)
    return _costs(points, (matrix, slopes, intercepts), left, right, objective, bool(proven))


def code_runs(
    points: Points,
    inputs: Inputs,
    out: Inputs,
    fmt: Format,
    left: Line | None,
    right: Line | None,
    objective: PairObjective,
    bound: float = np.inf,
) -> SegmentCosts:
    """Weighted mean squared errors of output codes, and next to nothing of the real error. Proven for up to
    `PROVEN_LIMIT` samples, and outputs of 8 bits, or where the first line is off by at most 256 codes (weighted root
    of the sum); elsewhere those next to the least-squares line are tried.
    """
    from lutc.costs.run_kernels import code_runs as runs  # brings numba

    matrix, slopes, intercepts = _room(points.size)
    target = round_to_codes(out, points.y).astype(np.int64) - out.minimum
    step, samples = fmt.step, points.x.size
    limits = (int(fmt.codes(fmt.min)), int(fmt.codes(fmt.max)))
    codes = np.rint(points.x / inputs.scale).astype(np.int64)
    judged = (codes, points.x, points.y, target, points.weight, _offsets(points), _limit(bound))
    numbers = (limits, step, inputs.scale, thresholds(inputs, out, fmt))
    room = _ROOM * samples if samples <= PROVEN_LIMIT else 1
    proven = runs(*judged, *numbers, room, np.zeros_like(matrix), matrix, slopes, intercepts)
    slopes *= step
    intercepts *= step
    costs = _costs(points, (matrix, slopes, intercepts), left, right, objective, bool(proven))
    _break_ties(points, costs, slopes, intercepts, out.scale, _limit(bound))
    return costs


def thresholds(inputs: Inputs, out: Inputs, fmt: Format) -> np.ndarray:
    """(levels - 1,) int64: entry c is the least accumulator whose output code is at least out.minimum + c + 1."""
    multiplier, shift = requantiser(inputs.scale * fmt.step / out.scale)
    wanted = np.arange(out.minimum + 1, out.maximum + 1)
    low, high = np.full(wanted.size, -_FAR), np.full(wanted.size, _FAR)  # below at low, reached at high or nowhere
    bits = max(0, 62 - multiplier.bit_length())
    low, high = np.maximum(low, -(1 << min(40, bits))), np.minimum(high, 1 << min(40, bits))
    reached = requantise(high, multiplier, shift, out.rounding) + out.zero_point >= wanted
    always = requantise(low, multiplier, shift, out.rounding) + out.zero_point >= wanted
    for _ in range(42):
        middle = (low + high) >> 1
        over = requantise(middle, multiplier, shift, out.rounding) + out.zero_point >= wanted
        low, high = np.where(over, low, middle), np.where(over, middle, high)
    return np.where(always, -_FAR, np.where(reached, high, _FAR))


def _break_ties(points: Points, costs: SegmentCosts, slopes, intercepts, scale: float, limit: float) -> None:
    """Add the share of real errors, as `lutc.costs.pairs.codes_objective` has it, to the costs of all runs of lines."""
    offsets = _offsets(points)
    for i in range(points.size):
        stops = i + 1 + np.flatnonzero(costs.matrix[i, i + 1 :] <= limit)
        if stops.size:
            x, y, w = (part[offsets[i] : offsets[stops[-1]]] for part in (points.x, points.y, points.weight))
            off = (np.outer(slopes[i, stops], x) + intercepts[i, stops, None] - y) / scale
            parts = TIE * w * np.minimum(np.abs(off), _FARTHEST) ** 2
            sums = np.concatenate([np.zeros((stops.size, 1)), np.cumsum(parts, axis=1)], axis=1)
            costs.matrix[i, stops] += sums[np.arange(stops.size), offsets[stops] - offsets[i]]


def _room(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Costs as `SegmentCosts` holds them, slopes and intercepts, each (size + 1, size + 1)."""
    matrix = np.full((size + 1, size + 1), np.inf).T
    np.fill_diagonal(matrix, 0.0)
    return matrix, np.zeros((size + 1, size + 1)), np.zeros((size + 1, size + 1))


def _offsets(points: Points) -> np.ndarray:
    return np.searchsorted(points.cell, np.arange(points.size + 1))


def _limit(bound: float) -> float:
    return bound * (1.0 + 1e-9) + 1e-15  # `bound` was summed in another order


def _costs(points: Points, found: tuple, left, right, objective: PairObjective, proven: bool) -> SegmentCosts:
    matrix, slopes, intercepts = found

    def line(starts, stops):
        return slopes[starts, stops], intercepts[starts, stops]

    def tail_error(tail: Line) -> np.ndarray:
        k, t = np.array([tail.slope]), np.array([tail.intercept])
        return np.array([objective.error(k, t, n)[0] for n in range(points.x.size)])

    before, after = tail_costs(points, left, right, tail_error, objective.combine)
    tails = (left is not None, right is not None)
    return SegmentCosts(matrix, before, after, line, proven, tails, objective.combine)

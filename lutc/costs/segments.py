"""The cost of every segment: for any run of samples the best line with representable coefficients, and its error.

A search sees a `SegmentCosts` and nothing else. Positions 0..size bound `size` cells of samples; a segment [i, j) holds
cells i..j-1, and `matrix[i, j]` is its cost. Costs of segments combine to the cost of a table by `combine` (np.add, or
np.maximum for the largest error). Weights are normalised, so the squared cost of a table *is* its weighted mean squared
error.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from lutc.costs.lines import Moments, Ordinals, _slope, best_lines
from lutc.costs.points import Points
from lutc.costs.rules import FORBIDDEN, Ends, Rules, ruled_lines
from lutc.errors import LutcError
from lutc.formats.format import Format
from lutc.functions import Line

DENSE_LIMIT = 4096  # positions for which the whole matrix (128 MiB) is worth its memory
_BATCH = 1 << 16  # segments fitted at once: the arrays stay in the cache


@dataclass(frozen=True, eq=False)
class SegmentCosts:
    """matrix: float64 (size + 1, size + 1), inf below the diagonal, 0 on it.

    left, right: (size + 1,) cost of the tail over cells [0, i) and [i, size); 0 only for the empty one, else inf, where
    there is no tail. line(i, j): slopes and intercepts (float64, representable) of segments [i, j), arrays in, arrays
    out. exact: whether matrix is the optimum over all representable lines. tails: how many of left and right are real.
    """

    matrix: np.ndarray
    left: np.ndarray
    right: np.ndarray
    line: Callable = field(repr=False)
    exact: bool
    tails: tuple[bool, bool]
    combine: np.ufunc = np.add

    @property
    def size(self) -> int:
        return self.matrix.shape[0] - 1

    def total(self, cuts: np.ndarray) -> np.ndarray:
        """Cost of tables: cuts (..., m + 1) ascending positions; segment s is [cuts[s], cuts[s + 1]), the tails lie
        outside.
        """
        cuts = np.asarray(cuts)
        inner = self.combine.reduce(self.matrix[cuts[..., :-1], cuts[..., 1:]], axis=-1, initial=0.0)
        return self.combine(self.combine(inner, self.left[cuts[..., 0]]), self.right[cuts[..., -1]])

    def segments(self, entries: int) -> int:
        """Segments left for the search when `entries` include the tails."""
        return segments_beside(self.tails, entries)


def segments_beside(tails: tuple[bool, bool], entries: int) -> int:
    """Segments left for a search when `entries` include the tails; LutcError where they do not suffice for those."""
    inner = entries - sum(tails)
    if inner < 0 or entries < 1:
        raise LutcError(f"{entries} entries cannot hold {sum(tails)} tails; use more entries or free `tails`")
    return inner


def squared_costs(points: Points, fmt: Format, left: Line | None, right: Line | None) -> SegmentCosts:
    """Weighted mean squared error. Exact for coefficients of up to 8 bits, best rounded neighbours beyond.

    Relative squared error is the same with weights 1 / max(|y|, floor)^2.
    """
    ordinals = Ordinals(fmt)
    return _costs(points, lambda moments, i, j: best_lines(moments, ordinals), left, right)


def ruled_costs(points: Points, rules: Rules, left: Line | None, right: Line | None) -> SegmentCosts:
    """The same under rules; a segment or a tail that cannot keep them costs FORBIDDEN."""
    ends, x = Ends.of(points, rules.whole), points.x[: points.own]

    def fit(moments, i, j):
        return ruled_lines(moments, *ends.of_runs(i, j), rules)

    costs = _costs(points, fit, left, right)
    cells = points.cell[: x.size]
    for tail, line, ahead in ((costs.left, left, True), (costs.right, right, False)):
        if line is not None:
            broken = np.bincount(cells[~rules.tail_allowed(line, x)], minlength=points.size)
            held = np.append(0, np.cumsum(broken)) if ahead else np.append(np.cumsum(broken[::-1])[::-1], 0)
            if rules.whole and not ahead:  # it holds from the last sample before it on
                held[1:] += broken
            tail[held > 0] = FORBIDDEN
    return costs


def real_costs(points: Points, left: Line | None, right: Line | None) -> SegmentCosts:
    """The same with real coefficients (least squares): below the cost of every format, and quick."""
    return _costs(points, _least_squares, left, right)


def _least_squares(moments: Moments, i, j) -> tuple[np.ndarray, np.ndarray, np.ndarray, bool]:
    slope = _slope(moments)
    return slope, moments.y - slope * moments.x, np.maximum(moments.yy - slope * moments.xy, 0.0), True


def _costs(points: Points, fit: Callable, left: Line | None, right: Line | None) -> SegmentCosts:
    """Costs of all segments by growing every run one cell at a time; fit(moments, i, j) -> slopes, intercepts, errors,
    proven, of the runs [i, j).
    """
    size = points.size
    if size > DENSE_LIMIT:
        raise LutcError(f"segment costs take at most {DENSE_LIMIT} positions; given {size}")
    cells = Moments.of(points)
    matrix = np.full((size + 1, size + 1), np.inf).T  # column by column in memory: dynamic programming reads columns
    flat = matrix.T.reshape(-1)
    flat[:: size + 2] = 0.0
    exact, runs, where, pending = True, [], [], 0
    run = cells
    for length in range(1, size + 1):
        if length > 1:
            run = run[slice(0, size + 1 - length)] + cells[slice(length - 1, size)]
        runs.append(run)
        where.append(slice(length * (size + 1), None, size + 2))
        pending += run.w.size
        if pending >= _BATCH or length == size:
            starts = [np.arange(r.w.size) for r in runs]
            stops = [start + size + 1 - start.size for start in starts]
            *_, cost, proven = fit(Moments.join(runs), np.concatenate(starts), np.concatenate(stops))
            exact &= proven
            for part, values in zip(where, np.split(cost, np.cumsum([r.w.size for r in runs])[:-1])):
                flat[part] = values
            runs, where, pending = [], [], 0

    def line(i, j):
        slopes, intercepts = np.zeros(len(i)), np.zeros(len(i))
        used = [s for s, (start, stop) in enumerate(zip(i, j)) if stop > start]
        if used:
            runs = [functools.reduce(Moments.__add__, (cells[c : c + 1] for c in range(i[s], j[s]))) for s in used]
            slopes[used], intercepts[used], *_ = fit(Moments.join(runs), np.asarray(i)[used], np.asarray(j)[used])
        return slopes, intercepts

    tails = squared_tails(points, left, right)
    return SegmentCosts(matrix, *tails, line, exact, (left is not None, right is not None))


def squared_tails(points: Points, left: Line | None, right: Line | None) -> tuple[np.ndarray, np.ndarray]:
    """Weighted squared errors of the tails, as `tail_costs` gives them."""

    def error(tail: Line) -> np.ndarray:
        return points.weight * (tail.slope * points.x + tail.intercept - points.y) ** 2

    return tail_costs(points, left, right, error)


def absolute_tails(points: Points, left: Line | None, right: Line | None) -> tuple[np.ndarray, np.ndarray]:
    """The same of weighted absolute errors."""

    def error(tail: Line) -> np.ndarray:
        return points.weight * np.abs(tail.slope * points.x + tail.intercept - points.y)

    return tail_costs(points, left, right, error)


def tail_costs(
    points: Points, left: Line | None, right: Line | None, error: Callable, combine: np.ufunc = np.add
) -> tuple[np.ndarray, np.ndarray]:
    """Costs (size + 1,) of the left tail over cells [0, i) and the right one over [i, size); error(line) gives the cost
    of each sample.
    """

    def cumulate(values):
        cells = np.zeros(points.size)
        combine.at(cells, points.cell, values)
        return np.append(0.0, combine.accumulate(cells)), np.append(combine.accumulate(cells[::-1])[::-1], 0.0)

    none_left, none_right = np.full(points.size + 1, np.inf), np.full(points.size + 1, np.inf)
    none_left[0] = none_right[-1] = 0.0
    return (
        none_left if left is None else cumulate(error(left))[0],
        none_right if right is None else cumulate(error(right))[1],
    )

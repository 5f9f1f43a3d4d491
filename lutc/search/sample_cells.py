"""Samples in cells between positions, and the squared errors of the best lines over runs of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from lutc.costs.points import Points
from lutc.formats.format import Format
from lutc.formats.numbers import numbers_of

ROUNDING = 1e-9  # relative; less is the noise of float64
_CLOSE = 1e-3  # relative: so near to its bound a table with stored coefficients may stay
_NOTHING, _ZERO = 1e-17, 1e-28  # of the cost of a single line, and of y^2; likewise
STRAIGHT = 1e-24  # of y^2: a cost that is that of an exact line, fitted in float64


@dataclass(frozen=True, eq=False)
class SampleCells:
    """moments: (6, size) weight, mean x, mean y, squares of x about its mean, and the slope and squared error of the
    best line, for each cell. left, right: (size + 1,) what the tails cost before and after each position. numbers: that
    lines are stored in, as of `stored_line`; empty for real ones.
    """

    moments: np.ndarray
    left: np.ndarray
    right: np.ndarray
    numbers: np.ndarray
    power = 4.0

    @classmethod
    def of(cls, points: Points, left: np.ndarray, right: np.ndarray, fmt: Format | None = None) -> SampleCells:
        order = np.argsort(points.cell, kind="stable")
        w, x, y = (values[order] for values in (points.weight, points.x, points.y))
        none = np.zeros(w.size)
        starts = np.searchsorted(points.cell[order], np.arange(points.size))
        return cls(_joined(np.stack([w, x, y, none, none, none]), starts), left, right, numbers_of(fmt))

    @cached_property
    def single(self) -> float:
        """Cost of a single line."""
        return self.cost(np.array([0, self.size]))

    @cached_property
    def nothing(self) -> float:
        """A cost that is the noise of float64."""
        return _NOTHING * self.single + _ZERO * float(self.moments[0] @ self.moments[2] ** 2)

    @cached_property
    def straight(self) -> float:
        """A cost that rounding leaves of lines without error."""
        return max(self.nothing, STRAIGHT * float(self.moments[0] @ self.moments[2] ** 2))

    @property
    def size(self) -> int:
        return self.moments.shape[1]

    @property
    def x(self) -> np.ndarray:
        """Where cells are, (size,)."""
        return self.moments[1]

    def equal(self, cost: float, bound: float) -> bool:
        """Whether what is between is noise."""
        return cost <= bound * (1.0 + ROUNDING) + self.nothing

    def close(self, cost: float, bound: float) -> bool:
        """Whether no more is worth proving: nothing is left, or little of lines that are dear to price."""
        return self.equal(cost, bound) or self.numbers.size > 0 and cost <= bound * (1.0 + _CLOSE)

    def span(self, segments: int) -> int:
        """Positions that share a frame: half of those of a segment, if that is not too few or too many."""
        return min(max(self.size // (2 * segments), 4), 128)

    def merged(self, positions: np.ndarray) -> SampleCells:
        """Cells between `positions` (ascending, from 0 to size)."""
        joined = _joined(self.moments, positions[:-1])
        return replace(self, moments=joined, left=self.left[positions], right=self.right[positions])

    def reversed(self) -> SampleCells:
        moments = np.ascontiguousarray(self.moments[:, ::-1])
        return replace(self, moments=moments, left=self.right[::-1].copy(), right=self.left[::-1].copy())

    def penalised(self, penalty: float, slack: float, segments: int) -> tuple[np.ndarray, ...]:
        """`lutc.search.segmentation_kernels.penalised` over these cells."""
        from lutc.search.segmentation_kernels import penalised  # brings numba

        return penalised(self.moments, self.left, self.numbers, penalty, slack, self.span(segments))

    def layered(self, penalty: float, slack: float, ranges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`lutc.search.segmentation_kernels.layered` over these cells, and starts that a way within `slack` of the best
        for a penalty can have.
        """
        from lutc.search.segmentation_kernels import layered  # brings numba

        segments = ranges.shape[0] - 1
        lows, span = self.penalised(penalty, slack, segments)[3], self.span(segments)
        return layered(self.moments, self.left, self.numbers, lows, span, ranges)

    def cost(self, cuts: np.ndarray) -> float:
        """Of the best lines between cuts."""
        from lutc.search.segmentation_kernels import lines_between  # brings numba

        errors = lines_between(self.moments, cuts, self.numbers)[2]
        return float(self.left[cuts[0]] + errors.sum() + self.right[cuts[-1]])


def _joined(moments: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Moments of runs of cells; run r is [starts[r], starts[r + 1]). Errors are summed about the line itself: nothing
    cancels.
    """
    w, x, y, xx, slope, error = moments
    lengths = np.diff(np.append(starts, w.size))

    def add(values):
        return np.where(lengths > 0, np.add.reduceat(np.append(values, 0.0), starts), 0.0)

    def spread(values):
        return np.repeat(values, lengths)

    weight = add(w)
    share = np.where(spread(weight) > 0.0, w, 1.0)  # cells without weight still have a place
    whole = np.maximum(add(share), np.finfo(float).tiny)
    mean_x, mean_y = add(share * x) / whole, add(share * y) / whole
    dx, dy = x - spread(mean_x), y - spread(mean_y)
    squares = add(xx + w * dx * dx)
    tilt = add(slope * xx + w * dx * dy) / np.where(squares > 0.0, squares, 1.0)
    rest = dy - spread(tilt) * dx
    errors = add(error + (slope - spread(tilt)) ** 2 * xx + w * rest * rest)
    return np.stack([weight, mean_x, mean_y, squares, tilt, errors])

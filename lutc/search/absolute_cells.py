"""Samples between positions, and bounds on the absolute errors of the best lines over runs of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from lutc.costs.intervals import prefix_sums
from lutc.costs.points import Points
from lutc.costs.targets import regions
from lutc.formats.format import Format
from lutc.formats.numbers import numbers_of

_NOISE = 2.0**-48  # of the sum of weight * |y|: float64's
_EQUAL, _CLOSE = 1e-6, 1e-4  # relative; less is not worth another sweep, not worth dynamic programming by layers
_MOST = 1 << 24  # runs that are priced for those


@dataclass(frozen=True, eq=False)
class AbsoluteCells:
    """samples: x, y, weight, region and `sums`, as the kernels of `lutc.search.absolute_sweeps` take them. at: (size +
    1,) samples at which positions are. left, right: (size + 1,) what the tails cost before and after each position.
    """

    samples: tuple[np.ndarray, ...]
    at: np.ndarray
    left: np.ndarray
    right: np.ndarray
    power = 2.0

    @classmethod
    def of(cls, points: Points, left: np.ndarray, right: np.ndarray) -> AbsoluteCells:
        """One cell per sample: points ascending in x."""
        samples = _samples(points.x, points.y, points.weight, regions(points.x, points.y))
        return cls(samples, np.arange(points.size + 1), left, right)

    @property
    def size(self) -> int:
        return self.at.size - 1

    @property
    def x(self) -> np.ndarray:
        return self.samples[0][self.at[:-1]]

    @cached_property
    def single(self) -> float:
        """Cost of a single line."""
        return self.cost(np.array([0, self.size]))

    @cached_property
    def nothing(self) -> float:
        """A cost that is the noise of float64."""
        return _NOISE * float(self.samples[2] @ np.abs(self.samples[1]))

    @property
    def straight(self) -> float:
        """A cost that rounding leaves of lines without error."""
        return self.nothing

    def equal(self, cost: float, bound: float) -> bool:
        return cost <= bound * (1.0 + _EQUAL) + self.nothing

    def close(self, cost: float, bound: float) -> bool:
        return cost <= bound * (1.0 + _CLOSE) + self.nothing

    def merged(self, positions: np.ndarray) -> AbsoluteCells:
        return replace(self, at=self.at[positions], left=self.left[positions], right=self.right[positions])

    def reversed(self) -> AbsoluteCells:
        x, y, weight, region, _ = self.samples
        samples = _samples(-x[::-1], y[::-1].copy(), weight[::-1].copy(), (region[-1] - region)[::-1].copy())
        return replace(
            self,
            samples=samples,
            at=(x.size - self.at)[::-1].copy(),
            left=self.right[::-1].copy(),
            right=self.left[::-1].copy(),
        )

    def penalised(self, penalty: float, slack: float, segments: int) -> tuple[np.ndarray, ...]:
        """`lutc.search.absolute_sweeps.penalised` over these positions."""
        from lutc.search.absolute_sweeps import penalised  # brings numba

        return penalised(*self.samples, self.at, self.left, penalty, slack)

    def layered(self, penalty: float, slack: float, ranges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`lutc.search.absolute_sweeps.layered` over these positions, and starts that a way within `slack` of the best
        for a penalty can have.
        """
        from lutc.search.absolute_sweeps import layered, prices  # brings numba

        lows = self.penalised(penalty, slack, 0)[3]
        return layered(*prices(*self.samples, self.at, lows), lows, self.left, ranges)

    def lines(self, cuts: np.ndarray, fmt: Format) -> tuple[float, np.ndarray, np.ndarray]:
        """(cost, slopes, intercepts) of the best lines in `fmt` between cuts."""
        from lutc.costs.run_kernels import absolute_lines  # brings numba

        errors, slopes, intercepts = absolute_lines(*self.samples[:3], self.at[cuts], numbers_of(fmt))
        return float(self.left[cuts[0]] + errors.sum() + self.right[cuts[-1]]), slopes, intercepts

    def cost(self, cuts: np.ndarray) -> float:
        """Of the best lines between cuts, or next to nothing below it."""
        from lutc.search.absolute_sweeps import prices_between  # brings numba

        parts = prices_between(*self.samples, self.at[cuts])
        return float(self.left[cuts[0]] + parts.sum() + self.right[cuts[-1]])


def _samples(x: np.ndarray, y: np.ndarray, weight: np.ndarray, region: np.ndarray) -> tuple[np.ndarray, ...]:
    sums = np.stack([part for values in (weight, weight * x, weight * y) for part in prefix_sums(values)], axis=1)
    return np.ascontiguousarray(x), y, weight, region, sums

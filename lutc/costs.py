"""The cost of every segment: for any run of samples the best line with representable coefficients, and its error.

A search sees a `SegmentCosts` and nothing else. Positions 0..size bound `size` cells of samples; a segment [i, j) holds cells i..j-1, and
`matrix[i, j]` is its cost. Costs of segments combine to the cost of a table by `combine` (np.add, or np.maximum for the largest error).
Weights are normalised, so the squared cost of a table *is* its weighted mean squared error.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from lutc.errors import LutcError
from lutc.formats import Format
from lutc.functions import Line
from lutc.samples import Samples

DENSE_LIMIT = 4096  # positions for which the whole matrix (128 MiB) is worth its memory
_BATCH = 1 << 16  # segments fitted at once: the arrays stay in the cache
_WINDOW = 8  # slopes tried to each side where a format has too many to be exhausted (named `rounded` in the file)
_EXHAUSTIVE_BITS = 8
# Costs that differ by less, relatively or against y^2, are equal but for float64: the slope tried first, nearest to the optimum, is kept.
_EQUAL, _NOISE = 1e-10, 1e-28


@dataclass(frozen=True, eq=False)
class Points:
    """Samples sorted into cells: x, y, weight (sum 1), cell (int, 0..size-1), each of shape (n,)."""

    x: np.ndarray
    y: np.ndarray
    weight: np.ndarray
    cell: np.ndarray
    size: int

    @classmethod
    def of(cls, samples: Samples, positions: np.ndarray | None = None, between: Samples | None = None) -> Points:
        """One cell per sample, or cells between `positions` (ascending sample indices from 0 to n).

        between: more points, each in the cell of the sample at or after it; their weights count relative to the samples' sum.
        """
        n = len(samples)
        cell = np.arange(n) if positions is None else np.searchsorted(positions, np.arange(n), side="right") - 1
        size = n if positions is None else len(positions) - 1
        total = samples.weight.sum()
        if between is None:
            return cls(samples.x, samples.y, samples.weight / total, cell, size)
        cells = np.concatenate([cell, cell[np.searchsorted(samples.x, between.x)]])
        x, y, weight = (np.concatenate([getattr(samples, name), getattr(between, name)]) for name in ("x", "y", "weight"))
        return cls(x, y, weight / total, cells, size)

    @classmethod
    def shared(cls, samples: list[Samples], positions: list[np.ndarray]) -> Points:
        """Several scales behind one set of cuts: positions[s][p] is the sample index in scale s at which cut p falls. Each scale weighs the same."""
        cells = [np.searchsorted(at, np.arange(len(s)), side="right") - 1 for s, at in zip(samples, positions)]
        weight = [s.weight / s.weight.sum() / len(samples) for s in samples]
        x, y, weight, cell = (np.concatenate(v) for v in ([s.x for s in samples], [s.y for s in samples], weight, cells))
        return cls(x, y, weight, cell, len(positions[0]) - 1)


@dataclass(frozen=True, eq=False)
class SegmentCosts:
    """matrix: float64 (size + 1, size + 1), inf below the diagonal, 0 on it.

    left, right: (size + 1,) cost of the tail over cells [0, i) and [i, size); 0 only for the empty one, else inf, where there is no tail.
    line(i, j): slopes and intercepts (float64, representable) of segments [i, j), arrays in, arrays out. exact: whether matrix is the
    optimum over all representable lines. tails: how many of left and right are real.
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
        """Cost of tables: cuts (..., m + 1) ascending positions; segment s is [cuts[s], cuts[s + 1]), the tails lie outside."""
        cuts = np.asarray(cuts)
        inner = self.combine.reduce(self.matrix[cuts[..., :-1], cuts[..., 1:]], axis=-1, initial=0.0)
        return self.combine(self.combine(inner, self.left[cuts[..., 0]]), self.right[cuts[..., -1]])

    def segments(self, entries: int) -> int:
        """Segments left for the search when `entries` include the tails."""
        inner = entries - sum(self.tails)
        if inner < 0 or entries < 1:
            raise LutcError(f"{entries} entries cannot hold {sum(self.tails)} tails; use more entries or --tails free")
        return inner


class Ordinals:
    """The values of a format numbered in ascending order, so that a search can step from one to the next."""

    def __init__(self, fmt: Format):
        self.format = fmt
        if fmt.kind == "fixed":
            self.low, self.high = round(fmt.min / fmt.step), round(fmt.max / fmt.step)
        elif fmt.bits <= 16:
            self._values = fmt.values()
            self.low, self.high = 0, self._values.size - 1
        else:
            self.low, self.high = self.nearest(np.float64(fmt.min)), self.nearest(np.float64(fmt.max))

    def nearest(self, x) -> np.ndarray:
        """Number (int64) of the representable value nearest to x, saturating."""
        if self.format.kind == "fixed":
            return np.clip(np.rint(x / self.format.step), self.low, self.high).astype(np.int64)
        value = self.format.round(x)
        if self.format.bits <= 16:
            return np.searchsorted(self._values, value)
        bits = np.asarray(value, np.float32).view(np.int32).astype(np.int64)
        return np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)

    def round(self, x) -> np.ndarray:
        """format.round, quicker for fixed point; x must not be NaN."""
        if self.format.kind == "fixed":
            return np.clip(np.rint(x / self.format.step), self.low, self.high) * self.format.step + 0.0  # no -0
        return self.format.round(x)

    def value(self, number) -> np.ndarray:
        """Value (float64) of a number."""
        if self.format.kind == "fixed":
            return number * self.format.step
        if self.format.bits <= 16:
            return self._values[number]
        bits = np.where(number < 0, np.int64(-(2**31)) - number, number).astype(np.int32)
        return bits.view(np.float32).astype(np.float64)


@dataclass(eq=False)
class Moments:
    """Weight, means and centred second moments of runs of samples; adding two is free of cancellation (Chan, Golub, LeVeque 1983).

    tilt: secant to the sample before the run. It picks the slope where a run is a single x and any slope would do, so that a table stays
    sensible between the samples too.
    """

    w: np.ndarray
    x: np.ndarray
    y: np.ndarray
    xx: np.ndarray
    xy: np.ndarray
    yy: np.ndarray
    tilt: np.ndarray

    @classmethod
    def of(cls, points: Points) -> Moments:
        """One run per cell."""

        def add(values):
            return np.bincount(points.cell, values, points.size)

        w = add(points.weight)
        safe = np.where(w > 0, w, 1.0)
        x, y = add(points.weight * points.x) / safe, add(points.weight * points.y) / safe
        dx, dy = points.x - x[points.cell], points.y - y[points.cell]
        # the rounded means are off by a little: a second pass takes the remainder out
        rx, ry = add(points.weight * dx) / safe, add(points.weight * dy) / safe
        dx, dy = dx - rx[points.cell], dy - ry[points.cell]
        x, y = x + rx, y + ry
        with np.errstate(invalid="ignore", divide="ignore"):
            secant = np.nan_to_num(np.diff(y) / np.diff(x), nan=0.0, posinf=0.0, neginf=0.0)
        tilt = np.concatenate([secant[:1], secant]) if secant.size else np.zeros(points.size)
        return cls(w, x, y, add(points.weight * dx * dx), add(points.weight * dx * dy), add(points.weight * dy * dy), tilt)

    def __getitem__(self, index) -> Moments:
        return Moments(*(getattr(self, name)[index] for name in self.__dataclass_fields__))

    def __add__(self, other: Moments) -> Moments:
        w = self.w + other.w
        with np.errstate(invalid="ignore", divide="ignore"):
            share = np.where(w > 0, other.w / w, 0.0)
        dx, dy, between = other.x - self.x, other.y - self.y, self.w * share
        return Moments(
            w,
            self.x + share * dx,
            self.y + share * dy,
            self.xx + other.xx + between * dx * dx,
            self.xy + other.xy + between * dx * dy,
            self.yy + other.yy + between * dy * dy,
            self.tilt,
        )

    @staticmethod
    def join(runs: list[Moments]) -> Moments:
        return Moments(*(np.concatenate([getattr(run, name) for run in runs]) for name in Moments.__dataclass_fields__))


def _slope(moments: Moments) -> np.ndarray:
    """Least-squares slopes."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(moments.xx > 0, moments.xy / moments.xx, moments.tilt)


def best_lines(moments: Moments, ordinals: Ordinals) -> tuple[np.ndarray, np.ndarray, np.ndarray, bool]:
    """Best representable line of each run: slopes, intercepts, weighted squared errors (each (n,)), and whether they are proven optimal.

    error(k, t) = residual + xx (k - k*)^2 + w (y - k x - t)^2. Slopes are tried outward from the least-squares slope k* until the second
    term alone exceeds the best sum found; the best t for a slope is its rounded optimum. Formats of more than 8 bits stop after a window.
    """
    optimum = _slope(moments)
    residual = np.maximum(moments.yy - optimum * moments.xy, 0.0)
    noise = _NOISE * (moments.w * moments.y**2)
    centre = ordinals.nearest(optimum)
    excess = np.full(centre.shape, np.inf)
    slope, intercept = np.zeros_like(excess), np.zeros_like(excess)
    active = np.arange(centre.size)
    limit = ordinals.high - ordinals.low if ordinals.format.bits <= _EXHAUSTIVE_BITS else _WINDOW
    exact = True
    for step in range(limit + 1):
        m, best = moments[active], excess[active]
        alive = np.zeros(active.size, bool)
        for number in (centre[active] + step, centre[active] - step)[: 2 if step else 1]:
            inside = (number >= ordinals.low) & (number <= ordinals.high)
            k = ordinals.value(np.clip(number, ordinals.low, ordinals.high))
            penalty = m.xx * (k - optimum[active]) ** 2
            want = m.y - k * m.x
            t = ordinals.round(want)
            cost = np.where(inside, penalty + m.w * (want - t) ** 2, np.inf)
            better = cost < best * (1.0 - _EQUAL) - noise[active]
            slope[active[better]], intercept[active[better]] = k[better], t[better]
            best = np.where(better, cost, best)
            alive |= inside & (penalty < best)
        excess[active] = best
        active = active[alive]
        if not active.size:
            break
    else:
        exact = limit != _WINDOW
    return slope, intercept, residual + excess, exact


def squared_costs(points: Points, fmt: Format, left: Line | None, right: Line | None) -> SegmentCosts:
    """Weighted mean squared error. Exact for coefficients of up to 8 bits, best rounded neighbours beyond.

    Relative squared error is the same with weights 1 / max(|y|, floor)^2.
    """
    ordinals = Ordinals(fmt)
    return _costs(points, lambda moments: best_lines(moments, ordinals), left, right)


def real_costs(points: Points, left: Line | None, right: Line | None) -> SegmentCosts:
    """The same with real coefficients (least squares): below the cost of every format, and quick."""
    return _costs(points, _least_squares, left, right)


def _least_squares(moments: Moments) -> tuple[np.ndarray, np.ndarray, np.ndarray, bool]:
    slope = _slope(moments)
    return slope, moments.y - slope * moments.x, np.maximum(moments.yy - slope * moments.xy, 0.0), True


def _costs(points: Points, fit: Callable, left: Line | None, right: Line | None) -> SegmentCosts:
    """Costs of all segments by growing every run one cell at a time; fit(moments) -> slopes, intercepts, errors, proven."""
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
            *_, cost, proven = fit(Moments.join(runs))
            exact &= proven
            for part, values in zip(where, np.split(cost, np.cumsum([r.w.size for r in runs])[:-1])):
                flat[part] = values
            runs, where, pending = [], [], 0

    def line(i, j):
        slopes, intercepts = np.zeros(len(i)), np.zeros(len(i))
        used = [s for s, (start, stop) in enumerate(zip(i, j)) if stop > start]
        if used:
            runs = [functools.reduce(Moments.__add__, (cells[c : c + 1] for c in range(i[s], j[s]))) for s in used]
            slopes[used], intercepts[used], *_ = fit(Moments.join(runs))
        return slopes, intercepts

    tails = tail_costs(points, left, right, lambda tail: points.weight * (tail.slope * points.x + tail.intercept - points.y) ** 2)
    return SegmentCosts(matrix, *tails, line, exact, (left is not None, right is not None))


def tail_costs(points: Points, left: Line | None, right: Line | None, error: Callable, combine: np.ufunc = np.add) -> tuple[np.ndarray, np.ndarray]:
    """Costs (size + 1,) of the left tail over cells [0, i) and the right one over [i, size); error(line) gives the cost of each sample."""

    def cumulate(values):
        cells = np.zeros(points.size)
        combine.at(cells, points.cell, values)
        return np.append(0.0, combine.accumulate(cells)), np.append(combine.accumulate(cells[::-1])[::-1], 0.0)

    none_left, none_right = np.full(points.size + 1, np.inf), np.full(points.size + 1, np.inf)
    none_left[0] = none_right[-1] = 0.0
    return (none_left if left is None else cumulate(error(left))[0], none_right if right is None else cumulate(error(right))[1])

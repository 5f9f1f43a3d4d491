"""What a function does over an interval, found by sampling: whether it rises or falls, how it bends, where it lies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lutc.functions.kinds import Line

_POINTS = 1 << 14  # of an even grid over the interval
_NOISE = 2.0**-46  # of the largest value: differences below are rounding of float64
_FAR = np.array([2.0**14, 2.0**16, 2.0**20])  # where a function is looked at for its tail
_ZOOMS = 6  # times that a turn is looked for again within two steps of the grid


@dataclass(frozen=True)
class Shape:
    """sign: 1 where the function rises (or is convex) throughout, -1 where it falls (is concave), 0 where it does
    both; then `at` is the x where it first changes.
    """

    sign: int
    at: float | None = None


def direction(f: Callable, lo: float, hi: float) -> Shape:
    """Whether f rises (1) or falls (-1) over [lo, hi]; a constant does either and counts as rising."""
    return _sign(f, lo, hi, 1)


def curvature(f: Callable, lo: float, hi: float) -> Shape:
    """Whether f is convex (1) or concave (-1) over [lo, hi]; a line is either and counts as convex."""
    return _sign(f, lo, hi, 2)


def extent(f: Callable, lo: float, hi: float) -> tuple[float, float]:
    """Least and greatest value of f over [lo, hi], to the precision of float64 for a smooth function."""
    return -_greatest(lambda x: -np.asarray(f(x)), lo, hi), _greatest(f, lo, hi)


def line_far_out(f: Callable, side: float) -> Line | None:
    """The line on which f lies at three far points, to the left (side -1) or to the right (1); None where it lies on
    none.
    """
    far = side * _FAR
    y = np.asarray(f(far), np.float64)
    if not np.isfinite(y).all():
        return None
    gradient = (y[2] - y[1]) / (far[2] - far[1])
    intercept = y[1] - gradient * far[1]
    off = np.abs(gradient * far + intercept - y)
    return Line(float(gradient), float(intercept)) if (off <= 1e-9 * np.maximum(np.abs(y), 1e-3)).all() else None


def _grid(f: Callable, lo: float, hi: float, points: int) -> tuple[np.ndarray, np.ndarray]:
    x = np.linspace(lo, hi, points)
    y = np.asarray(f(x), np.float64)
    return x[np.isfinite(y)], y[np.isfinite(y)]


def _sign(f: Callable, lo: float, hi: float, order: int) -> Shape:
    x, y = _grid(f, lo, hi, _POINTS >> (3 * (order - 1)))  # second differences of a fine grid drown in rounding
    change = np.diff(y, order)
    clear = np.flatnonzero(np.abs(change) > _NOISE * np.abs(y).max(initial=0.0))
    if not clear.size:
        return Shape(1)
    signs = np.sign(change[clear])
    other = np.flatnonzero(signs != signs[0])
    if not other.size:
        return Shape(int(signs[0]))
    if order == 2:
        return Shape(0, float(x[clear[other[0]] + 1]))
    left, right = x[clear[other[0] - 1]], x[clear[other[0]] + 1]
    return Shape(0, _place(lambda v: signs[0] * np.asarray(f(v)), left, right))


def _place(f: Callable, lo: float, hi: float) -> float:
    """Where f is greatest between lo and hi."""
    for _ in range(_ZOOMS):
        x, y = _grid(f, lo, hi, 33)
        best = int(np.argmax(y))
        lo, hi = x[max(best - 1, 0)], x[min(best + 1, x.size - 1)]
    return float(x[best])


def _greatest(f: Callable, lo: float, hi: float) -> float:
    x, y = _grid(f, lo, hi, _POINTS)
    best = int(np.argmax(y))
    at = _place(f, x[max(best - 1, 0)], x[min(best + 1, x.size - 1)])
    return float(max(y[best], np.asarray(f(np.array([at])))[0]))

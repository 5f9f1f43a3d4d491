"""The best line with representable coefficients for a run of samples, from the run's moments."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from lutc.costs.points import Points
from lutc.formats.format import Format

_WINDOW = 8  # slopes tried to each side where a format has too many to be exhausted (named `rounded` in the file)
_EXHAUSTIVE_BITS = 8
# Costs that differ by less, relatively or against y^2, are equal but for float64: the slope tried first, nearest to the
# optimum, is kept.
_EQUAL, _NOISE = 1e-10, 1e-28


class Ordinals:
    """The values of a format numbered in ascending order, so that a search can step from one to the next.

    values: ascending, float64, where only some of the format's are allowed.
    """

    def __init__(self, fmt: Format, values: np.ndarray | None = None):
        self.format, self._values, self._chosen = fmt, values, values is not None
        if values is not None:
            self.low, self.high = 0, values.size - 1
        elif fmt.kind == "fixed":
            self.low, self.high = round(fmt.min / fmt.step), round(fmt.max / fmt.step)
        elif fmt.bits <= 16:
            self._values = fmt.values()
            self.low, self.high = 0, self._values.size - 1
        else:
            self.low, self.high = self.nearest(np.float64(fmt.min)), self.nearest(np.float64(fmt.max))

    @property
    def chosen(self) -> bool:
        """Whether only some of the format's values are allowed."""
        return self._chosen

    def nearest(self, x: ArrayLike) -> np.ndarray:
        """Number (int64) of the representable value nearest to x, saturating."""
        if self._chosen:
            middle = (self._values[1:] + self._values[:-1]) / 2
            return np.searchsorted(middle, x)
        if self.format.kind == "fixed":
            return np.clip(np.rint(x / self.format.step), self.low, self.high).astype(np.int64)
        value = self.format.round(x)
        if self.format.bits <= 16:
            return np.searchsorted(self._values, value)
        bits = np.asarray(value, np.float32).view(np.int32).astype(np.int64)
        return np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)

    def round(self, x: ArrayLike) -> np.ndarray:
        """format.round, quicker for fixed point; x must not be NaN."""
        if self._chosen:
            return self.value(self.nearest(x))
        if self.format.kind == "fixed":
            return np.clip(np.rint(x / self.format.step), self.low, self.high) * self.format.step + 0.0  # no -0
        return self.format.round(x)

    def value(self, number: ArrayLike) -> np.ndarray:
        """Value (float64) of a number."""
        if self._chosen:
            return self._values[number]
        if self.format.kind == "fixed":
            return number * self.format.step
        if self.format.bits <= 16:
            return self._values[number]
        bits = np.where(number < 0, np.int64(-(2**31)) - number, number).astype(np.int32)
        return bits.view(np.float32).astype(np.float64)


@dataclass(eq=False)
class Moments:
    """Weight, means and centred second moments of runs of samples; adding two is free of cancellation (Chan, Golub,
    LeVeque 1983).

    tilt: secant to the sample before the run. It picks the slope where a run is a single x and any slope would do, so
    that a table stays sensible between the samples too.
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
        return cls(
            w, x, y, add(points.weight * dx * dx), add(points.weight * dx * dy), add(points.weight * dy * dy), tilt
        )

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
    """Best representable line of each run: slopes, intercepts, weighted squared errors (each (n,)), and whether they
    are proven optimal.

    error(k, t) = residual + xx (k - k*)^2 + w (y - k x - t)^2. Slopes are tried outward from the least-squares slope k*
    until the second term alone exceeds the best sum found; the best t for a slope is its rounded optimum. Formats of
    more than 8 bits stop after a window.
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

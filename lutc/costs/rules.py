"""Lines under rules: a slope from one set of numbers, an intercept from another, values that stay within bounds over
the run, and an intercept of 0 where the run holds x = 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lutc.costs.lines import _EQUAL, _EXHAUSTIVE_BITS, _NOISE, _WINDOW, Moments, Ordinals, _slope
from lutc.costs.points import Points
from lutc.formats.format import Format
from lutc.functions import Line

FORBIDDEN = 1e30  # stands for the cost of a segment that no line may hold; finite, for costs are subtracted


@dataclass(frozen=True, eq=False)
class Rules:
    """slopes, intercepts: the numbers that there are. zero: whether the line that holds x = 0 has the intercept 0.
    low, high: of the values at every sample. sign: 1 for slopes >= 0, -1 for slopes <= 0, 0 for any. whole: whether
    low and high also hold between the samples, from the breakpoint on.
    """

    slopes: Ordinals
    intercepts: Ordinals
    zero: bool = False
    low: float = -np.inf
    high: float = np.inf
    sign: int = 0
    whole: bool = False

    @classmethod
    def of(cls, fmt: Format, **rules) -> Rules:
        """Slopes and intercepts in one format."""
        return cls(Ordinals(fmt), Ordinals(fmt), **rules)

    @property
    def exhaustive(self) -> bool:
        """Whether every slope is tried."""
        return self.slopes.high - self.slopes.low < 1 << _EXHAUSTIVE_BITS

    def tail_allowed(self, line: Line, x: np.ndarray) -> np.ndarray:
        """Whether a tail may hold each sample x (n,): within the bounds, and nothing but 0 at 0."""
        value = line.slope * x + line.intercept
        allowed = (value >= self.low) & (value <= self.high)
        return allowed & ~((x == 0.0) & (value != 0.0)) if self.zero else allowed


@dataclass(frozen=True, eq=False)
class Ends:
    """Where runs of cells begin and end. first, last: (size,) x of the first sample at or after the start of a cell,
    and of the last at or before its end; a run without samples has first > last.
    """

    first: np.ndarray
    last: np.ndarray
    whole: bool

    @classmethod
    def of(cls, points: Points, whole: bool = False) -> Ends:
        """Of the samples themselves; `whole`: runs begin where the one before them ends."""
        x = points.x[: points.own]
        first, last = np.full(points.size, np.inf), np.full(points.size, -np.inf)
        np.minimum.at(first, points.cell[: x.size], x)
        np.maximum.at(last, points.cell[: x.size], x)
        return cls(np.minimum.accumulate(first[::-1])[::-1], np.maximum.accumulate(last), whole)

    def of_runs(self, i: np.ndarray, j: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(first x, last x, whether x = 0 lies within) of runs [i, j); a breakpoint belongs to the left."""
        before = np.where(i > 0, self.last[i - 1], -np.inf)
        first, last = self.first[i], self.last[j - 1]
        start = np.where(np.isfinite(before), before, first) if self.whole else first
        return start, last, (before < 0.0) & (last >= 0.0) & (first <= last)


def ruled_lines(
    moments: Moments, first: np.ndarray, last: np.ndarray, zero: np.ndarray, rules: Rules
) -> tuple[np.ndarray, np.ndarray, np.ndarray, bool]:
    """Best line of each run that keeps the rules, as `lutc.costs.lines.best_lines` finds it without: slopes,
    intercepts, weighted squared errors (FORBIDDEN where there is none), and whether they are proven optimal.

    For a slope, the bounds at both ends of the run leave an interval of intercepts, and the best is the least-squares
    one moved into it. Slopes are tried outward from the best real one that keeps the rules, until the error of the
    slope alone exceeds the best sum.
    """
    zero = zero & rules.zero
    optimum = _slope(moments)
    residual = np.maximum(moments.yy - optimum * moments.xy, 0.0)
    noise = _NOISE * (moments.w * moments.y**2)
    low, high = rules.slopes.low, rules.slopes.high
    if rules.sign:
        nought = int(rules.slopes.nearest(np.float64(0.0)))
        low, high = (nought, high) if rules.sign > 0 else (low, nought)
    centre = np.clip(rules.slopes.nearest(_real_slope(moments, first, last, zero, rules, optimum)), low, high)
    excess, penalty_here = np.full(centre.shape, np.inf), moments.xx * (rules.slopes.value(centre) - optimum) ** 2
    slope, intercept = np.zeros_like(excess), np.zeros_like(excess)
    active, exact = np.arange(centre.size), True
    limit = high - low if rules.exhaustive else _WINDOW
    for step in range(limit + 1):
        m, best = moments[active], excess[active]
        alive = np.zeros(active.size, bool)
        for number in (centre[active] + step, centre[active] - step)[: 2 if step else 1]:
            inside = (number >= low) & (number <= high)
            k = rules.slopes.value(np.clip(number, low, high))
            penalty = m.xx * (k - optimum[active]) ** 2
            want = m.y - k * m.x
            t, kept = _intercepts(k, want, first[active], last[active], zero[active], rules)
            cost = np.where(inside & kept, penalty + m.w * (want - t) ** 2, np.inf)
            better = cost < best * (1.0 - _EQUAL) - noise[active]
            slope[active[better]], intercept[active[better]] = k[better], t[better]
            best = np.where(better, cost, best)
            # towards the least-squares slope errors fall again before they rise
            alive |= inside & ((penalty < best) | (penalty < penalty_here[active]))
        excess[active] = best
        active = active[alive]
        if not active.size:
            break
    else:
        exact = limit != _WINDOW
    return slope, intercept, np.where(np.isfinite(excess), residual + excess, FORBIDDEN), exact


def _intercepts(k, want, first, last, zero, rules: Rules) -> tuple[np.ndarray, np.ndarray]:
    """The best stored intercept of each slope k, and whether there is one."""
    t = np.where(zero, 0.0, rules.intercepts.round(want))
    with np.errstate(invalid="ignore"):
        ends = np.stack([k * first, k * last])
        ends = np.where(first <= last, ends, 0.0)
    empty = first > last
    lowest, highest = rules.low - ends.min(axis=0), rules.high - ends.max(axis=0)
    inside = (t >= lowest) & (t <= highest) | empty
    out = np.flatnonzero(~inside & ~zero)
    if out.size:
        number = rules.intercepts.nearest(np.clip(t[out], lowest[out], highest[out]))
        value = rules.intercepts.value(number)
        number = number + (value < lowest[out]) - (value > highest[out])
        number = np.clip(number, rules.intercepts.low, rules.intercepts.high)
        t[out] = rules.intercepts.value(number)
        inside[out] = (t[out] >= lowest[out]) & (t[out] <= highest[out])
    # the sums that the table itself will form, rounding included
    value = ends + t
    return t, inside & (((value >= rules.low) & (value <= rules.high)).all(axis=0) | empty)


def _real_slope(moments: Moments, first, last, zero, rules: Rules, optimum: np.ndarray) -> np.ndarray:
    """Slopes of the best real lines that keep the rules (where one is anchored, least squares about the anchor)."""
    through = np.where(zero, _about(moments, 0.0, 0.0), optimum)
    if not (np.isfinite(rules.low) or np.isfinite(rules.high)):
        return through
    start = np.where(zero, 0.0, moments.y - through * moments.x)
    ends = np.stack([through * first + start, through * last + start])
    out = np.flatnonzero(((ends < rules.low) | (ends > rules.high)).any(axis=0) & (first <= last))
    if not out.size:
        return through
    m, a, b, fixed = moments[out], first[out], last[out], zero[out]
    best, lowest = through[out].copy(), np.full(out.size, np.inf)
    span = np.where(b > a, b - a, 1.0)
    for x, other in ((a, b), (b, a)):
        for bound in (rules.low, rules.high):
            if not np.isfinite(bound):
                continue
            far = bound + np.array([[0.0], [rules.high - rules.low]]) if np.isfinite(rules.high - rules.low) else bound
            slopes = [_about(m, x, bound), np.zeros_like(a)]
            slopes += [np.where(b > a, (v - bound) / np.where(x == a, span, -span), 0.0) for v in np.atleast_1d(far)]
            for k in slopes:
                at = np.where(fixed, 0.0, bound - k * x)
                k = np.where(fixed & (x != 0.0), (bound - at) / np.where(x != 0.0, x, 1.0), k)
                value = k * other + at
                slack = 1e-12 * (1.0 + np.abs(value))
                kept = (value >= rules.low - slack) & (value <= rules.high + slack)
                cost = m.xx * (k - optimum[out]) ** 2 + m.w * (m.y - k * m.x - at) ** 2
                better = kept & (cost < lowest)
                best, lowest = np.where(better, k, best), np.where(better, cost, lowest)
    through[out] = best
    return through


def _about(moments: Moments, x, y) -> np.ndarray:
    """Least-squares slopes of lines through (x, y)."""
    dx, dy = moments.x - x, moments.y - y
    spread = moments.xx + moments.w * dx * dx
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(spread > 0, (moments.xy + moments.w * dx * dy) / spread, moments.tilt)

"""A table as segments: what its plans are made from.

A table without range reduction is a piecewise-linear function of x, whatever its addressing: `segments` reads its cuts
off the table's own `segment`, by bisection over the floats, so that the rule at a cut stays written in one place.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from lutc import table as tables
from lutc.errors import LutcError
from lutc.table.table import Table


@dataclass(frozen=True, eq=False)
class Segments:
    """A piecewise-linear function in float64: n lines, n - 1 strictly increasing thresholds, segment = number of
    thresholds <= x.
    """

    thresholds: np.ndarray
    slopes: np.ndarray
    intercepts: np.ndarray

    def index(self, x: ArrayLike) -> np.ndarray:
        """Segment of each x (int64); the last for NaN."""
        return np.searchsorted(self.thresholds, x, side="right")


def _float_of(order: np.ndarray, dtype: str) -> np.ndarray:
    """The float (as float64) at each place of the order -inf ... -0 = 0 ... +inf, place 0 being zero; fp32 or fp64."""
    if dtype == "fp64":
        return np.copysign(np.abs(order).view(np.float64), order.astype(np.float64))
    return np.copysign(np.abs(order).astype(np.uint32).view(np.float32).astype(np.float64), order.astype(np.float64))


def _thresholds(index, count: int, dtype: str) -> np.ndarray:
    """Smallest value of the format where index(x) >= i, for i = 1 ... count - 1; NaN where there is none."""
    top = (
        np.array([np.inf]).view(np.int64)[0]
        if dtype == "fp64"
        else np.int64(np.array([np.inf], np.float32).view(np.int32)[0])
    )
    wanted = np.arange(1, count)
    low, high = np.full(count - 1, -top), np.full(count - 1, top)
    while (low < high).any():
        middle = (low >> 1) + (high >> 1) + (low & high & 1)  # floor of the mean without overflow
        reached = index(_float_of(middle, dtype)) >= wanted
        low, high = np.where(reached, low, middle + 1), np.where(reached, middle, high)
        low = np.minimum(low, high)
    found = _float_of(high, dtype)
    return np.where(index(found) >= wanted, found, np.nan)


def reduced_segments(table: Table, dtype: str) -> Segments:
    """Segments of body and tails, without the prologue."""
    body = table.body
    index, lines = body.segment, None
    if isinstance(body, tables.Lines):
        slopes, intercepts = body.slopes, body.intercepts
    elif isinstance(body, tables.Direct):
        slopes, intercepts = np.zeros(body.values.size), body.values
    else:
        slopes = np.diff(body.values) / np.diff(body.edges)
        intercepts = body.values[:-1] - slopes * body.edges[:-1]
        before, after = table.left is not None, table.right is not None
        lines = ([table.left] if before else []), ([table.right] if after else [])
        slopes = np.concatenate([[t.slope for t in lines[0]], slopes, [t.slope for t in lines[1]]])
        intercepts = np.concatenate([[t.intercept for t in lines[0]], intercepts, [t.intercept for t in lines[1]]])

        def index(x):
            inside = body.segment(x) + before
            inside = np.where(before & (x < body.cut_points[0]), 0, inside)
            return np.where(after & (x >= body.cut_points[-1]), slopes.size - 1, inside)

    return _compact(_thresholds(index, slopes.size, dtype), slopes, intercepts)


def _compact(thresholds, slopes, intercepts) -> Segments:
    """Drop segments that no input reaches: NaN thresholds at the end, equal ones, and what lies before a threshold of
    -inf.
    """
    reached = ~np.isnan(thresholds)
    thresholds, slopes, intercepts = thresholds[reached], slopes[np.r_[True, reached]], intercepts[np.r_[True, reached]]
    ends = np.append(thresholds, np.nan)
    keep = np.append(thresholds[:-1] < thresholds[1:], True) if thresholds.size else np.array([], bool)
    first = not (thresholds.size and thresholds[0] == -np.inf)
    # Segment i + 1 starts at thresholds[i]; of several that start at one point the last holds.
    starts = ends[:-1][keep]
    slopes, intercepts = np.r_[slopes[:1], slopes[1:][keep]], np.r_[intercepts[:1], intercepts[1:][keep]]
    return Segments(starts, slopes, intercepts) if first else Segments(starts[1:], slopes[1:], intercepts[1:])


def _unfold(half: Segments, prologue, dtype: str) -> Segments:
    """A table of |x| as segments of x."""
    skip = int(half.index(0.0))
    cuts, slopes, intercepts = half.thresholds[skip:], half.slopes[skip:], half.intercepts[skip:]
    # x <= -cut lies outside: the inner segment starts at the next value of the format above -cut.
    number = np.float64 if dtype == "fp64" else np.float32
    mirrored = np.nextafter((-cuts[::-1]).astype(number), number(np.inf)).astype(np.float64)
    return _compact(np.concatenate([mirrored, [0.0], cuts]), *prologue.unfolded(slopes, intercepts))


def _restricted(lines: Segments, domain, dtype: str) -> Segments:
    """A domain as segments: lines of NaN outside, and one of infinity, which holds for a single value, at a pole."""
    number = np.float64 if dtype == "fp64" else np.float32

    def overlaid(lines: Segments, start: float, stop: float, slope: float, intercept: float) -> Segments:
        cuts = np.union1d(lines.thresholds, [cut for cut in (start, stop) if np.isfinite(cut)])
        begins = np.append(-np.inf, cuts)
        there, old = (begins >= start) & (begins < stop), lines.index(begins)
        return Segments(
            cuts, np.where(there, slope, lines.slopes[old]), np.where(there, intercept, lines.intercepts[old])
        )

    for bound, pole, low in ((domain.low, domain.low_pole, True), (domain.high, domain.high_pole, False)):
        if bound is None:
            continue
        nearest = number(bound)
        at = float(
            np.nextafter(nearest, number(np.inf)) if nearest < bound else nearest
        )  # the first value at the bound or above it
        past = float(np.nextafter(number(at), number(np.inf))) if at == bound else at
        if pole and at == bound:
            lines = overlaid(lines, at, past, 0.0, pole * np.inf)
        lines = overlaid(lines, -np.inf, at, np.nan, np.nan) if low else overlaid(lines, past, np.inf, np.nan, np.nan)
    return lines


def segments(table: Table, dtype: str = "fp32") -> Segments:
    """The table as one piecewise-linear function of the float inputs of `dtype` ('fp64', else thresholds are float32
    values).

    An `abs` prologue is unfolded. Error for tables with an exponent or period prologue, which are not piecewise linear
    in x.
    """
    arithmetic = "fp64" if dtype == "fp64" else "fp32"
    if table.prologue is not None and not isinstance(table.prologue, tables.AbsPrologue):
        raise LutcError(
            f"a table with the prologue {table.prologue.kind!r} is not piecewise linear; lower it as 'direct', "
            "'reduced' or 'reference'"
        )
    lines = reduced_segments(table, arithmetic)
    lines = lines if table.prologue is None else _unfold(lines, table.prologue, arithmetic)
    return lines if table.domain is None else _restricted(lines, table.domain, arithmetic)


def slope(table: Table, x: ArrayLike) -> np.ndarray:
    """Derivative of the table at x by the segment of x (float64, any shape): the gradient of `grad="table"`. NaN for
    NaN.
    """
    x = np.asarray(x, np.float64)
    prologue = table.prologue
    if prologue is None or isinstance(prologue, tables.AbsPrologue):
        lines = segments(table, "fp64")
        return np.where(np.isnan(x), np.nan, lines.slopes[lines.index(x)])
    reduced = reduced_segments(table, "fp64")
    with np.errstate(all="ignore"):
        if isinstance(prologue, tables.ExponentPrologue):
            magnitude = np.abs(x)
            regular = np.isfinite(x) & (magnitude > 0)
            mantissa, exponent = np.frexp(np.where(regular, magnitude, 1.0))
            e = (exponent - 1) // prologue.step
            inner = reduced.slopes[reduced.index(np.ldexp(mantissa, exponent - prologue.step * e))]
            power = prologue.growth - prologue.step
            value = np.ldexp(inner, power * e)
            limit = np.exp2(power * np.where(magnitude == 0, -np.inf, np.inf))
            value = np.where(regular, value, reduced.slopes[reduced.index(1.0)] * limit)
            value = (
                np.where(np.signbit(x), -value, value) if prologue.even else value
            )  # the derivative of an even function is odd
            return np.where(np.isnan(x) | ((x < 0) & (not prologue.odd) & (not prologue.even)), np.nan, value)
        finite = np.where(np.isfinite(x), x, 0.0)
        r = np.mod(finite, prologue.period)
        n = np.clip(prologue.growth * np.rint((finite - r) / prologue.period), -1 << 20, 1 << 20).astype(np.int64)
        value = np.ldexp(reduced.slopes[reduced.index(r)], n)
        return np.where(
            np.isfinite(x),
            value,
            np.where(prologue.growth & (x < 0), 0.0, np.where(prologue.growth & (x > 0), np.inf, np.nan)),
        )

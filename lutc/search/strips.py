"""The least largest error, for any format and any number of samples.

Whether so many segments keep an error is told by the longest extension from the left: what fits a run fits every part
of it. The error is found by bisection; each step is linear in the samples but for a logarithm (hulls: O'Rourke 1981).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lutc.errors import LutcError
from lutc.formats.format import Format
from lutc.formats.numbers import numbers_of
from lutc.functions import Line

_EXACT = 1e-7  # relative, to which the least error is found
_NOTHING = 1e-16  # of the largest |y|; less is the noise of float64
_WIDER = 60  # times that the first bound may be widened until a table keeps it


@dataclass(frozen=True, eq=False)
class Strips:
    """cuts: (m + 1,), sample indices, and lines (slopes, intercepts), each (m,). sure: whether fewer segments could not
    keep the bound.
    """

    cuts: np.ndarray
    lines: tuple[np.ndarray, np.ndarray]
    sure: bool


def longest(
    x: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    fmt: Format | None,
    left: Line | None,
    right: Line | None,
    most: int | None = None,
) -> Strips:
    """The fewest segments between low and high, each (n,), at every x (n,), up to `most` of them and one more. Where a
    sample has no line, the last cut is that sample's index and not the right tail's.
    """
    from lutc.search.strip_kernels import strips  # brings numba

    start, stop = tails_within(x, low, high, left, right)
    most = x.size if most is None else min(most, x.size)
    cuts, slopes, intercepts, sure = strips(x, low, high, numbers_of(fmt), start, stop, most)
    return Strips(cuts, (slopes, intercepts), bool(sure))


def tails_within(
    x: np.ndarray, low: np.ndarray, high: np.ndarray, left: Line | None, right: Line | None
) -> tuple[int, int]:
    """First sample behind the longest left tail, and the first of the longest right tail behind that."""

    def within(tail: Line) -> np.ndarray:
        value = tail.slope * x + tail.intercept
        return (value >= low) & (value <= high)

    start = int(np.argmin(np.append(within(left), False))) if left else 0
    stop = x.size - int(np.argmin(np.append(within(right)[::-1], False))) if right else x.size
    return start, max(start, stop)


def least_error(
    x: np.ndarray,
    y: np.ndarray,
    weight: np.ndarray,
    segments: int,
    fmt: Format | None,
    left: Line | None,
    right: Line | None,
) -> tuple[Strips, float, float]:
    """(table, its largest error, a bound below that of every table of at most `segments` segments). Errors count by
    weight (n,), of which the largest is 1. LutcError where the format holds no such table at all.
    """
    with np.errstate(divide="ignore"):
        scale = 1.0 / weight

    def within(error: float) -> tuple[Strips | None, bool]:
        low, high = y - error * scale, y + error * scale
        found = longest(x, low, high, fmt, left, right, segments)
        stop = tails_within(x, low, high, left, right)[1]
        return (found if found.cuts.size - 1 <= segments and found.cuts[-1] >= stop else None), found.sure

    upper, best = max(float(np.abs(y).max()), 1e-300), None
    nothing = _NOTHING * upper
    for _ in range(_WIDER):
        best, _ = within(upper)
        if best is not None:
            break
        upper *= 4.0
    if best is None:
        raise LutcError("no line of the coefficients' format comes near the function; use a format with more range")
    upper, lower, bound = _worst(x, y, weight, best, left, right), 0.0, 0.0
    while upper - lower > _EXACT * upper and upper > nothing:
        middle = (lower + upper) / 2.0 if lower > 0.0 else upper / 16.0
        found, sure = within(middle)
        if found is not None:
            best, upper = found, min(middle, _worst(x, y, weight, found, left, right))
        else:
            lower = middle
            bound = middle if sure else bound
    return best, upper, bound if upper > nothing else upper


def _worst(x, y, weight, table: Strips, left: Line | None, right: Line | None) -> float:
    """Largest weighted error of a table."""
    index = np.searchsorted(table.cuts, np.arange(x.size), side="right")
    ends = [(line.slope, line.intercept) if line else (0.0, 0.0) for line in (left, right)]
    slopes, intercepts = (np.concatenate([[ends[0][c]], table.lines[c], [ends[1][c]]]) for c in range(2))
    return float(np.max(weight * np.abs(slopes[index] * x + intercepts[index] - y), initial=0.0))

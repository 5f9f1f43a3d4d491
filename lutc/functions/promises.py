"""Promises that a table may keep of its function, and what each means for this one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from lutc.errors import LutcError
from lutc.functions import shape
from lutc.functions.kinds import Function

PROMISES = {
    "monotone": "values never fall where the function rises throughout, never rise where it falls",
    "through-zero": "the value at 0 is exactly 0",
    "bounded": "values stay between the least and the greatest value of the function, its tails included",
    "continuous": "at a breakpoint the lines on both sides are at most half a step of the intercepts apart",
    "convex": "values bend one way, as the function does: convex or concave",
}


@dataclass(frozen=True)
class Promised:
    """rise: 1 for a table that must not fall, -1 for one that must not rise, 0 for any. bend: likewise 1 for convex, -1
    for concave. zero, meet: whether "through-zero" and "continuous" are promised. low, high: bounds of the values.
    """

    rise: int = 0
    bend: int = 0
    zero: bool = False
    meet: bool = False
    low: float = -np.inf
    high: float = np.inf

    @property
    def joined(self) -> bool:
        """Whether a promise ties neighbouring lines to each other."""
        return bool(self.rise or self.bend or self.meet)


def ordered(names: Iterable[str]) -> tuple[str, ...]:
    """Names of promises, each once, as `PROMISES` has them; LutcError for one that there is not."""
    names = (names,) if isinstance(names, str) else tuple(names)
    for name in names:
        if name not in PROMISES:
            raise LutcError(f"unknown promise {name!r:.40}; choose among {', '.join(PROMISES)}")
    return tuple(name for name in PROMISES if name in names)


def promised(fn: Function, names: Iterable[str], lo: float, hi: float, tails: bool = True) -> Promised:
    """What the promises mean for fn over [lo, hi], and beyond with its tails; LutcError for one that fn itself does not
    keep there.
    """
    names = ordered(names)
    left, right = (fn.left, fn.right) if tails else (None, None)
    where, leave = f"over [{lo:g}, {hi:g}]", "leave that promise out or give another range"
    rise = bend = 0
    low, high = -np.inf, np.inf
    if "monotone" in names:
        found = shape.direction(fn, lo, hi)
        if not found.sign:
            at = 0.0 if abs(found.at or 0.0) < 1e-9 * (hi - lo) else found.at
            raise LutcError(f"{fn.name} is not monotone {where}: it turns at x = {at:.6g}; {leave}")
        rise = found.sign
    if "convex" in names:
        found = shape.curvature(fn, lo, hi)
        if not found.sign:
            raise LutcError(
                f"{fn.name} is neither convex nor concave {where}: it bends the other way from x = {found.at:.4g} on; "
                f"{leave}"
            )
        bend = found.sign
    if "through-zero" in names:
        if not lo <= 0.0 <= hi:
            raise LutcError(
                f"x = 0 lies outside [{lo:g}, {hi:g}], so no table can be promised to go through zero there"
            )
        value = float(np.asarray(fn(np.zeros(1)))[0])
        if value != 0.0:
            raise LutcError(f"{fn.name}(0) is {value:.6g}, not 0; leave the promise through-zero out")
    if "bounded" in names:
        low, high = shape.extent(fn, lo, hi)
        for tail, outward in ((left, -1.0), (right, 1.0)):
            if tail is not None and tail.slope == 0.0:
                low, high = min(low, tail.intercept), max(high, tail.intercept)
            elif tail is not None:
                low, high = (-np.inf, high) if tail.slope * outward < 0.0 else (low, np.inf)
        if low == -np.inf and high == np.inf:
            raise LutcError(f"{fn.name} has no bounds with its tails; leave the promise bounded out")
    return Promised(rise, bend, "through-zero" in names, "continuous" in names, low, high)

"""From cuts to a table: breakpoints in real x, tails at the ends, empty segments left out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lutc.errors import LutcError
from lutc.formats.codes import Inputs
from lutc.formats.format import Format
from lutc.functions import Line
from lutc.table.bodies import without_empty_segments
from lutc.table.prologues import Prologue
from lutc.table.table import Table

_DENSE = 8192  # points at which the place of a tail outside the codes is judged
_HALF = (
    np.arange(32) + 0.5
) / 64  # points at which that of a breakpoint between two codes is, in steps from the code to its left


def rounded_tail(tail: Line | None, fmt: Format, name: str, low: float = -np.inf, high: float = np.inf) -> Line | None:
    """The tail in the coefficient format, a constant one within [low, high]; LutcError where the format cannot hold
    it.
    """
    if tail is None:
        return None
    for what, value in (("slope", tail.slope), ("intercept", tail.intercept)):
        if not fmt.min <= value <= fmt.max:
            raise LutcError(
                f"{fmt.name} cannot hold the tail {what} {value:g} of {name}: its values reach from {fmt.min:g} to "
                f"{fmt.max:g}"
            )
    intercept = float(fmt.round(tail.intercept))
    if tail.slope == 0.0 and not low <= intercept <= high:
        below, above = fmt.neighbours(tail.intercept)
        intercept = float(above if intercept < low else below)
    return Line(float(fmt.round(tail.slope)), intercept)


class Lattice:
    """The x between which cuts lie: a cut at position p has the breakpoint x[p - 1], so that x[p - 1] still belongs to
    the left.

    All places from x[p - 1] up to x[p] are one to the codes. With `halves` the breakpoint between two segments that are
    no tails may also lie in the middle, from where an x is rounded to x[p]: wherever the squared error of float inputs
    in between is less. A unit that compares codes stores the code to its left all the same.

    Cuts at position 0 or n lie outside the samples: there a tail holds for no sample, and its breakpoint is put on the
    lattice continued with the end's spacing, between the samples and the end of [lo, hi], where the squared error of
    float inputs in [lo, hi] is least. With `held` it stays next to the samples. With `steps` (codes, and how many of
    them make a step) it goes on to the next code at which a step ends.
    """

    def __init__(
        self,
        x: np.ndarray,
        f: Callable,
        lo: float,
        hi: float,
        halves: bool = False,
        held: bool = False,
        steps: tuple[Inputs, int] | None = None,
    ):
        self.x, self.f, self.lo, self.hi, self.halves, self.held, self.steps = x, f, lo, hi, halves, held, steps

    def breakpoint(self, position: int) -> float:
        if position > 0:
            return float(self.x[position - 1])
        return float(self.x[0] - self._step(0))

    def between(self, position: int, before: Line, after: Line) -> float:
        """Breakpoint of a cut inside the samples between two segments."""
        start = self.breakpoint(position)
        if not self.halves or not 0 < position < self.x.size:
            return start
        step = float(self.x[position]) - start
        x = start + step * _HALF
        y = np.asarray(self.f(x), np.float64)
        error = [np.sum((entry.slope * x + entry.intercept - y) ** 2) for entry in (before, after)]
        return start + step / 2 if error[0] < error[1] else start

    def outside(self, position: int, tail: Line, end: Line) -> float:
        """Breakpoint of a tail cut; `end` is the segment beside the tail."""
        n = self.x.size
        if 0 < position < n or self.held:
            return self.breakpoint(position)
        left = position == 0
        step = self._step(0 if left else n - 2)
        first = self.x[0] - step if left else self.x[-1]
        if self.steps is not None:
            inputs, size = self.steps
            code = int(np.rint(first / inputs.scale)) + inputs.zero_point + 1
            code = code // size * size if left else -(-code // size) * size
            return inputs.scale * (code - 1 - inputs.zero_point)
        reach = first - self.lo if left else self.hi - first
        farthest = max(0, int(np.floor(reach / step + 1e-9)))
        if farthest == 0:
            return float(first)
        steps = np.unique(
            np.linspace(0, farthest, min(farthest + 1, _DENSE)).round()
        )  # all, or as many as there are points to judge them at
        candidates = first + (-step if left else step) * steps
        grid = np.linspace(self.lo, first, _DENSE) if left else np.linspace(first, self.hi, _DENSE)
        with np.errstate(invalid="ignore"):
            gain = (tail.slope * grid + tail.intercept - self.f(grid)) ** 2 - (
                end.slope * grid + end.intercept - self.f(grid)
            ) ** 2
        # error of a candidate c up to a constant: the sum of `gain` where the tail holds (x <= c on the left, x > c on
        # the right)
        total = np.append(0.0, np.cumsum(gain))
        counts = np.searchsorted(grid, candidates, side="right")
        cost = total[counts] if left else total[-1] - total[counts]
        return float(candidates[np.argmin(cost)])

    def _step(self, at: int) -> float:
        return float(self.x[at + 1] - self.x[at]) if self.x.size > 1 else 1.0


def build(
    cuts: np.ndarray,
    lines: tuple[np.ndarray, np.ndarray],
    lattice: Lattice,
    left: Line | None,
    right: Line | None,
    fmt: Format,
    prologue: Prologue | None = None,
) -> Table:
    """Table of cuts (m + 1,) and lines (slopes, intercepts, each (m,)); segment s holds samples cuts[s]..cuts[s + 1] -
    1.
    """
    keep = np.flatnonzero(np.diff(cuts) > 0)
    entries = [Line(float(k), float(t)) for k, t in zip(lines[0][keep], lines[1][keep])]
    starts, stops = [int(cuts[s]) for s in keep], [int(cuts[s + 1]) for s in keep]
    breakpoints = [
        lattice.between(p, before, after)
        if before != left and after != right
        else lattice.breakpoint(p)  # a segment may have a tail's line
        for p, before, after in zip(starts[1:], entries, entries[1:])
    ]
    if not entries:
        breakpoints = [lattice.breakpoint(int(cuts[0]))] if left and right else []
    else:
        if left:
            breakpoints.insert(0, lattice.outside(starts[0], left, entries[0]))
        if right:
            breakpoints.append(lattice.outside(stops[-1], right, entries[-1]))
    entries = [left] * (left is not None) + entries + [right] * (right is not None)
    # a breakpoint between equal lines (a segment that found its tail's line) tells nothing apart
    apart = [i for i in range(len(breakpoints)) if entries[i] != entries[i + 1]]
    entries, breakpoints = entries[:1] + [entries[i + 1] for i in apart], [breakpoints[i] for i in apart]
    body = without_empty_segments(breakpoints, [e.slope for e in entries], [e.intercept for e in entries])
    return Table(body, prologue, left, right, fmt.name)

"""What an interval of equal pieces costs, for any pair of cut points: the weighted error of interpolating f between its
piece edges.

A search sees an `IntervalCosts` and nothing else. Positions 0..size - 1 number the places where a cut may stand (the
values of a 16-bit format, ascending). Between inflections f is convex or concave, so f minus a chord changes its sign
at most twice: three binary searches find where, and the L1 error is a difference of prefix sums. An interval of P
pieces so costs O(P log n), however many samples it holds. Short runs, and the other norms, are summed directly. Prefix
sums are pairs of doubles: errors of 1e-9 of the summed values matter.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from lutc.costs.targets import NORMS, Targets
from lutc.errors import LutcError
from lutc.functions import Line


def edges_between(start: np.ndarray, end: np.ndarray, pieces: int) -> np.ndarray:
    """Piece edges (..., pieces + 1) of intervals [start, end): start + i * (end - start) / pieces rounded to float32,
    as tables have them.
    """
    start, end = np.asarray(start, np.float64)[..., None], np.asarray(end, np.float64)[..., None]
    edges = np.concatenate([start + np.arange(pieces) * (end - start) / pieces, end], axis=-1)
    with np.errstate(over="ignore"):
        single = edges.astype(np.float32).astype(np.float64)
    return np.where(np.isinf(single), edges, single)  # 2^128 bounds the last binade of bf16


def prefix_sums(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Prefix sums (n + 1,) of values (n,) as high + low: numpy's cumsum adds in order, and the rounding error of each
    addition is known (Knuth's two-sum).
    """
    high = np.append(0.0, np.cumsum(values))
    before, after = high[:-1], high[1:]
    part = after - before
    return high, np.append(0.0, np.cumsum((before - (after - part)) + (values - part)))


@dataclass(frozen=True, eq=False)
class IntervalCosts:
    """Costs of intervals between `cuts`, with values sampled from f at the piece edges and rounded by `store`.

    targets: the samples. cuts: (size,) float64, ascending. f: float64 in, float64 out. norm: "l1", "l2" or "max".
    store: rounding of the stored values, float64 to float64. left, right: tails; a cut at position p leaves the samples
    below to the left tail, those at or above to the right one. Without a tail the first (last) cut must be the first
    (last) sample or lie beyond it, else the cost is infinite. Costs are sums (or maxima) over samples. knot: a place
    where a piece must end if an interval holds it, else the cost is infinite.
    """

    targets: Targets
    cuts: np.ndarray
    f: Callable = field(repr=False)
    norm: str = "l1"
    store: Callable = field(default=np.asarray, repr=False)
    left: Line | None = None
    right: Line | None = None
    knot: float | None = None

    def __post_init__(self):
        if self.norm not in NORMS:
            raise LutcError(f"unknown norm {self.norm!r}; known: {', '.join(NORMS)}")

    @property
    def size(self) -> int:
        return self.cuts.size

    @property
    def combine(self) -> np.ufunc:
        return np.maximum if self.norm == "max" else np.add

    @functools.cached_property
    def sums(self) -> np.ndarray:
        """Prefix sums (n + 1, 6) of weight, weight * x and weight * y, each as high and low part."""
        t = self.targets
        weight, first, second = (prefix_sums(v) for v in (t.weight, t.weight * t.x, t.weight * t.y))
        return np.stack([*weight, *first, *second], axis=1)

    def interval(self, start: np.ndarray, end: np.ndarray, pieces: int, limit: float = np.inf) -> np.ndarray:
        """Costs of intervals [cuts[start], cuts[end]) of `pieces` pieces, infinite where they exceed `limit`; start and
        end are integer arrays of one shape, so is the result.
        """
        start, end = np.broadcast_arrays(start, end)
        edges = edges_between(self.cuts[start.ravel()], self.cuts[end.ravel()], pieces)
        with np.errstate(all="ignore"):
            values = self.store(self.f(edges))
        t = self.targets
        from lutc.costs import interval_kernels  # brings numba

        region = np.arange(len(t)) if t.region is None else t.region
        costs = interval_kernels.interval_costs(
            t.x, t.y, t.weight, region, self.sums, edges, values, NORMS.index(self.norm), t.cap, limit
        )
        if self.knot is not None:
            held = (edges[:, 0] < self.knot) & (self.knot < edges[:, -1])
            costs[held & ~(edges == self.knot).any(axis=1)] = np.inf
        return np.where(np.isnan(costs), np.inf, costs).reshape(start.shape)

    def outside_left(self, position: np.ndarray) -> np.ndarray:
        """Cost of the samples below a first cut at each position."""
        return self.outside[0][np.searchsorted(self.targets.x, self.cuts[position])]

    def outside_right(self, position: np.ndarray) -> np.ndarray:
        """Cost of the samples at or above a last cut at each position."""
        return self.outside[1][np.searchsorted(self.targets.x, self.cuts[position])]

    @functools.cached_property
    def outside(self) -> tuple[np.ndarray, np.ndarray]:
        """Costs (n + 1,) of the samples before each under the left tail, and from each on under the right one."""
        n, combine = len(self.targets), self.combine
        below, above = np.full(n + 1, np.inf), np.full(n + 1, np.inf)
        below[0] = above[-1] = above[-2] = 0.0
        if self.left is not None:
            below[1:] = combine.accumulate(self.targets.line_cost(self.left, self.norm))
        if self.right is not None:
            above[:-1] = combine.accumulate(self.targets.line_cost(self.right, self.norm)[::-1])[::-1]
        return below, above

"""The optimum where neighbouring lines must agree at a cut: tables that rise, that bend one way, or that have no jumps.

Dynamic programming over labels: a table up to a cut is its cost and where its last line stands at the cut. Of two such
tables the one that costs no less and allows no more can be forgotten, and so can one whose cost, with the least that
the rest of a table can cost, exceeds a limit. What is cheapest below the limit is the optimum; if there is nothing
below it, it is raised.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lutc.costs.lines import Moments
from lutc.costs.points import Points
from lutc.costs.rules import FORBIDDEN, Rules
from lutc.costs.segments import SegmentCosts
from lutc.errors import LutcError
from lutc.functions import Line
from lutc.search.result import SearchResult

JOINED_LIMIT = 1024  # positions
_BUDGET = 100_000_000  # lines and labels tried where not all can be
_SLACKS = (1e-3, 1e-2, 0.05, 0.2, 1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0)  # of the optimum without joins


@dataclass(frozen=True)
class Joins:
    """rise: 1 where values must not fall from one side of a cut to the other, -1 where they must not rise, 0 where they
    may. bend: 1 for convex, -1 for concave. meet: how far the lines at a cut may be apart there, negative for any.
    """

    rise: int = 0
    bend: int = 0
    meet: float = -1.0

    def __bool__(self) -> bool:
        return self.rise != 0 or self.bend != 0 or self.meet >= 0.0


def joined(
    points: Points,
    costs: SegmentCosts,
    rules: Rules,
    joins: Joins,
    entries: int,
    left: Line | None,
    right: Line | None,
    beyond: tuple[bool, bool] = (True, True),
) -> SearchResult:
    """The best table of at most `entries` entries whose lines join so, proven over all cuts and all lines of the rules.

    points: one cell for each sample; costs: of its segments under the rules, squared. beyond: whether inputs lie beyond
    the samples on either side, to which a tail beyond all samples must join on. LutcError where
    no table within a few thousand times the cost of the best without joins keeps them.
    """
    if points.size > JOINED_LIMIT or not rules.exhaustive:
        raise LutcError(f"lines are joined over at most {JOINED_LIMIT} positions, in slopes of at most 8 bits")
    task = _Task.of(points, costs, rules, joins, entries, left, right, beyond)
    base, spread = task.rests[-1], float(np.max(np.abs(points.y)) ** 2 + 1e-30)
    if not base < FORBIDDEN / 2:
        raise LutcError(f"no table of {entries} entries keeps these promises; use more entries or promise less")
    for slack in _SLACKS:
        found = task.within(base + slack * max(base, 1e-9 * spread))
        if found is not None:
            return found
    raise LutcError(
        f"no table of {entries} entries keeps these promises with an error of less than {_SLACKS[-1]:g} times that of "
        "the best one without; use more entries or promise less"
    )


def joined_below(
    points: Points,
    costs: SegmentCosts,
    rules: Rules,
    joins: Joins,
    entries: int,
    left: Line | None,
    right: Line | None,
    beyond: tuple[bool, bool],
    known: float,
) -> tuple[SearchResult | None, float]:
    """(the best table, a bound below all) where a table of cost `known` is there and lines may be too many to try them
    all: then None, and the highest bound that is proven by trying `_BUDGET` of them.

    costs: no segment costs less. The rest as of `joined`.
    """
    task = _Task.of(points, costs, rules, joins, entries, left, right, beyond)
    base = bound = task.rests[-1]
    budget = np.array([_BUDGET])
    slacks = [slack for slack in _SLACKS if base * (1.0 + 2.0 * slack) < known]
    for limit in [base * (1.0 + slack) for slack in slacks] + [known]:
        found = task.within(limit, budget)
        if budget[0] < 0:
            return None, bound
        if found is not None:
            return found, found.cost
        bound = limit
    return None, bound


def _moments(points: Points) -> np.ndarray:
    """(6, n + 1, n + 1): weight, mean x, mean y, xx, least-squares slope and its error of every run of cells."""
    n, cells = points.size, Moments.of(points)
    found = np.zeros((6, n + 1, n + 1))
    run = cells
    for length in range(1, n + 1):
        if length > 1:
            run = run[slice(0, n + 1 - length)] + cells[slice(length - 1, n)]
        start = np.arange(n + 1 - length)
        with np.errstate(invalid="ignore", divide="ignore"):
            slope = np.where(run.xx > 0, run.xy / run.xx, run.tilt)
        residual = np.maximum(run.yy - slope * run.xy, 0.0)
        found[:, start, start + length] = np.stack([run.w, run.x, run.y, run.xx, slope, residual])
    return found


def _rests(costs: SegmentCosts, entries: int) -> list:
    """rests[r]: (n + 1,) least cost of what follows a cut with at most r segments more, joins or not; and at the end
    the least cost of a whole table.
    """
    rests = [costs.right]
    for _ in range(costs.segments(entries)):
        rests.append((costs.matrix + rests[-1]).min(axis=1))
    return [*rests, float((costs.left + rests[-1]).min())]


@dataclass(frozen=True, eq=False)
class _Task:
    costs: SegmentCosts
    rules: Rules
    joins: Joins
    entries: int
    left: Line | None
    right: Line | None
    beyond: tuple[bool, bool]
    edge: np.ndarray
    moments: np.ndarray
    rests: list

    @classmethod
    def of(cls, points: Points, costs: SegmentCosts, rules: Rules, joins: Joins, entries: int, *ends: Any) -> _Task:
        """ends: the tails, and whether inputs lie beyond the samples."""
        x = points.x[: points.size]
        step = (x[1] - x[0], x[-1] - x[-2]) if x.size > 1 else (1.0, 1.0)
        edge = np.concatenate([[x[0] - step[0]], x, [x[-1] + step[1]]])
        left, right, beyond = ends
        return cls(costs, rules, joins, entries, left, right, beyond, edge, _moments(points), _rests(costs, entries))

    def within(self, limit: float, budget: np.ndarray | None = None) -> SearchResult | None:
        """The best table that costs at most `limit`; None where there is none. budget: (1,) lines that may be tried,
        counted down; what is found below 0 means nothing.
        """
        budget = np.array([np.iinfo(np.int64).max]) if budget is None else budget
        from lutc.search.joined_kernels import reach, useful  # brings numba

        limit = limit * (1.0 + 1e-9)
        segments, n = self.costs.segments(self.entries), self.costs.size
        rules = self.rules
        slopes, intercepts = (
            numbers.value(np.arange(numbers.low, numbers.high + 1)) for numbers in (rules.slopes, rules.intercepts)
        )
        joins = (self.joins.rise, self.joins.bend, self.joins.meet)
        v, u, cost, offsets = self._first(limit, segments)
        layers, best, room = [], (np.inf, -1, -1, -1), np.empty((1 << 14, 7))
        for layer in range(segments + 1):
            for position in range(n + 1):
                best = min(best, self._closed(position, v, u, cost, offsets, layer))
            if layer == segments or not cost.size:
                break
            rest, found = self.rests[segments - layer - 1], [np.empty((0, 7))]
            for j in range(1, n + 1):
                args = (
                    *(j, offsets, v, u, cost, self.moments, self.costs.matrix, rest[j], limit, slopes, intercepts),
                    *(rules.low, rules.high, rules.zero, self.edge, joins, budget),
                )
                count = reach(*args, room)
                if count > len(room):
                    room = np.empty((2 * count, 7))
                    count = reach(*args, room)
                if budget[0] < 0:
                    return None
                rows = room[:count][np.argsort(room[:count, 2], kind="stable")]
                found.append(rows[useful(rows, joins, budget)])
            sizes = [len(rows) for rows in found]
            rows = np.concatenate(found)
            layers.append(rows)
            v, u, cost = (np.ascontiguousarray(rows[:, column]) for column in range(3))
            offsets = np.append(0, np.cumsum(sizes))
        return self._traced(layers, *best) if best[0] <= limit else None

    def _first(self, limit: float, segments: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Labels before the first segment: the left tail up to a cut, or nothing at all."""
        n = self.costs.size
        starts = np.flatnonzero(self.costs.left + self.rests[segments] <= limit) if self.left else np.zeros(1, np.int64)
        offsets = np.searchsorted(starts, np.arange(n + 2))
        if self.left is None:
            return np.full(1, np.nan), np.full(1, np.nan), np.zeros(1), offsets
        k, t = self.left.slope, self.left.intercept
        v, u = k * self.edge[starts] + t, k * self.edge[starts + 1] + t
        if not self.beyond[0]:
            v[starts == 0] = np.nan
        return v, u, self.costs.left[starts], offsets

    def _closed(self, position: int, v, u, cost, offsets, layer: int) -> tuple[float, int, int, int]:
        """(cost, layer, position, label) of the cheapest table that ends at a position, the right tail behind it."""
        from lutc.search.joined_kernels import fits  # brings numba

        if not np.isfinite(self.costs.right[position]):
            return np.inf, -1, -1, -1
        for label in range(offsets[position], offsets[position + 1]):
            free = self.right is None or (position == self.costs.size and not self.beyond[1])
            joined_on = free or bool(np.isnan(v[label]))
            if self.right is not None and not joined_on:
                k, t = self.right.slope, self.right.intercept
                before, at = k * self.edge[position] + t, k * self.edge[position + 1] + t
                joined_on = fits(self.joins.rise, self.joins.bend, self.joins.meet, v[label], u[label], before, at)
            if joined_on:
                return float(cost[label] + self.costs.right[position]), layer, position, label
        return np.inf, -1, -1, -1

    def _traced(self, layers: list, cost: float, layer: int, position: int, label: int) -> SearchResult:
        """The table whose last segment, the `layer`th, ends at `position` in a label."""
        chosen = []
        for layer_rows in reversed(layers[:layer]):
            chosen.append(layer_rows[label])
            label = int(chosen[-1][6])
        rows = np.array(chosen[::-1]).reshape(-1, 7)
        cuts = np.append(rows[:, 3], position).astype(np.int64)
        return SearchResult(cuts, cost, {"name": "exact"}, (rows[:, 4].copy(), rows[:, 5].copy()))

"""Tables whose lines must join, of any numbers and any number of samples: found, not proven.

Dynamic programming over a few cuts and lines near those of a known table, whatever they cost, again and again: cuts and
lines move to what was best, and what is tried draws nearer. Every line that is tried is one of the stored numbers, and
every join is checked on its values, so that the table keeps what it promises as it is stored.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lutc.costs.points import Points
from lutc.costs.rules import Rules
from lutc.costs.segments import squared_tails
from lutc.errors import LutcError
from lutc.formats.format import get
from lutc.formats.numbers import numbers_of
from lutc.functions import Line
from lutc.search.joined import Joins
from lutc.search.result import SearchResult

_PASSES = 40
_NEARER = 0.6  # what the spacing of lines is multiplied by where the best one lay within
_FINE = 0.02  # of a segment's error, below which a spacing is small enough
_ROOM = 4.0  # times the error of a segment that a table may cost more and still be gone on with
_GAIN = 1e-4  # relative; passes that gain less do not count
_WIDER = 3  # times that more is tried where no table is found
_POSITIONS, _SLOPES, _INTERCEPTS = 1, 3, 1  # tried to each side
_KEPT = 8  # labels at a cut, for every condition that they are to meet once more


@dataclass(frozen=True, eq=False)
class JoinPlaces:
    """at: (n + 1,) the breakpoint of every cut, behind: the first input after it, judged: where a line is compared with
    the one before it if values are to rise, begin: the first x of a line that counts for bounds.
    """

    at: np.ndarray
    behind: np.ndarray
    judged: np.ndarray
    begin: np.ndarray

    @classmethod
    def of(cls, x: np.ndarray, floats: bool, bends: bool) -> JoinPlaces:
        """Of samples x (n,). floats: inputs are all values of 16-bit formats, not the samples alone. bends: lines cross
        behind the breakpoint, and are judged where they have.
        """
        step = (x[1] - x[0], x[-1] - x[-2]) if x.size > 1 else (1.0, 1.0)
        edge = np.concatenate([[x[0] - step[0]], x, [x[-1] + step[1]]])
        at, behind = edge[:-1], edge[1:].copy()
        if not floats:
            return cls(at, behind, behind, behind)
        for name in ("fp16", "bf16"):
            values = get(name).values()
            after = np.searchsorted(values, at, side="right")
            behind = np.minimum(behind, values[np.minimum(after, values.size - 1)])
        return cls(at, behind, behind, behind) if bends else cls(at, behind, at, np.append(x[0], at[1:]))


@dataclass(frozen=True, eq=False)
class TiedErrors:
    """Errors other than squared ones: kind and coded as of `lutc.search.tied_kernels.price`, what the tails cost before
    and after every cut (n + 1,), and how errors of segments make that of a table.
    """

    kind: int
    tails: tuple[np.ndarray, np.ndarray]
    coded: tuple | None = None

    @property
    def of_nothing(self) -> tuple:
        none = np.zeros(0, np.int64)
        return self.coded or (none, none, none, 1.0, 1.0, 1.0)


@dataclass(frozen=True, eq=False)
class TiedProblem:
    """What a table is to be found for. points: one cell for each sample, x ascending. beyond: whether inputs lie beyond
    the samples on either side, to which a tail must join on. floats: inputs are floats. errors: None for squared ones.
    """

    points: Points
    rules: Rules
    joins: Joins
    left: Line | None
    right: Line | None
    beyond: tuple[bool, bool] = (True, True)
    floats: bool = False
    errors: TiedErrors | None = None


def tied(problem: TiedProblem, cuts: np.ndarray, lines: tuple[np.ndarray, np.ndarray] | None = None) -> SearchResult:
    """A table near the one of cuts (segments + 1,), sample indices, and lines (slopes, intercepts), (segments,) each,
    by default those of least squared error. LutcError where none is found that joins.
    """
    work = _Work.of(problem)
    full = np.flatnonzero(np.diff(cuts) > 0)
    if cuts.size > 1 and not full.size:  # the tails alone are best; a segment between them may take the line of either
        cuts, lines = np.clip([cuts[0] - 1, cuts[0] + 1], 0, problem.points.size), None
    cuts = np.unique(cuts)
    if cuts.size < 2:
        raise LutcError("no table of so few entries keeps these promises; use more entries or promise less")
    state = work.start(cuts, None if lines is None else np.stack([part[full] for part in lines], axis=1))
    best, tried = None, (_SLOPES, _INTERCEPTS, _POSITIONS, _KEPT)
    for _ in range(_WIDER):
        found = work.swept(state, tried)
        if found is not None:
            best = found
            break
        more = 4 if problem.joins.bend else 2  # lines cross between two inputs at few cuts
        tried = (2 * tried[0], 2 * tried[1], more * tried[2], tried[3])
    if best is None:
        raise LutcError(
            f"no table of {cuts.size - 1} segments that keeps these promises was found; use more entries, finer "
            "coefficients or promise less"
        )
    idle = 0
    for _ in range(_PASSES):
        state = work.nearer(state, best)
        found = work.swept(state, tried)
        if found is None:
            break
        idle = idle + 1 if found.cost >= best.cost * (1.0 - _GAIN) else 0
        if found.cost < best.cost:
            best = found
        if idle >= 3 and state.fine:
            break
    return SearchResult(
        best.cuts, work.cost(best), {"name": "exact"}, (best.lines[:, 0].copy(), best.lines[:, 1].copy())
    )


@dataclass(frozen=True, eq=False)
class _Table:
    """cuts: (segments + 1,); lines: (segments, 2) slopes and intercepts."""

    cuts: np.ndarray
    lines: np.ndarray
    cost: float


@dataclass(frozen=True, eq=False)
class _State:
    """A table, and how far from it is tried: spacing (segments, 2) of slopes and intercepts, strides (segments + 1,) of
    cuts. error: (segments,) of the best lines, root of the mean square.
    """

    table: _Table
    spacing: np.ndarray
    strides: np.ndarray
    error: np.ndarray

    @property
    def fine(self) -> bool:
        """Whether nothing nearer is worth trying."""
        return bool((self.strides == 1).all() and (self.spacing[:, 1] <= _FINE * self.error).all())


@dataclass(frozen=True, eq=False)
class _Work:
    problem: TiedProblem
    x: np.ndarray
    y: np.ndarray
    w: np.ndarray
    places: np.ndarray
    tails: np.ndarray
    tail_costs: np.ndarray

    @classmethod
    def of(cls, problem: TiedProblem) -> _Work:
        points, own = problem.points, problem.points.size
        x, y, w = (values[:own] for values in (points.x, points.y, points.weight))
        edges = JoinPlaces.of(x, problem.floats, problem.joins.bend != 0)
        ends = (problem.left, problem.right)
        tails = np.array([[line.slope, line.intercept] if line else [np.nan, np.nan] for line in ends])
        if problem.errors is None:
            costs = np.stack(squared_tails(Points(x, y, w, np.arange(own), own), *ends))
        else:
            costs = np.stack(problem.errors.tails)
            w = w / w.max() if problem.errors.kind == 2 else w
        for line, cost, ahead in ((problem.left, costs[0], True), (problem.right, costs[1], False)):
            if line is not None:
                broken = ~problem.rules.tail_allowed(line, x)
                held = np.append(0, np.cumsum(broken)) if ahead else np.append(np.cumsum(broken[::-1])[::-1], 0)
                cost[held > 0] = np.inf
        if problem.right is not None and problem.floats:
            costs[1, 1:][~problem.rules.tail_allowed(problem.right, x)] = np.inf
        places = np.stack([edges.at, edges.behind, edges.judged, edges.begin])
        return cls(problem, x, y, w, places, tails, costs)

    def start(self, cuts: np.ndarray, known: np.ndarray | None) -> _State:
        lines, error = np.zeros((cuts.size - 1, 2)), np.zeros(cuts.size - 1)
        for s, (i, j) in enumerate(zip(cuts[:-1], cuts[1:])):
            w, x, y = self.w[i:j], self.x[i:j], self.y[i:j]
            total = max(w.sum(), 1e-300)
            mx, my = w @ x / total, w @ y / total
            spread = w @ (x - mx) ** 2
            k = w @ ((x - mx) * (y - my)) / spread if spread > 0.0 else self._secant(i)
            lines[s] = k, my - k * mx
            error[s] = np.sqrt(w @ (k * x + lines[s, 1] - y) ** 2 / total)
        error = np.maximum(error, 0.1 * np.sqrt(np.mean(error**2)) + 1e-12 * np.abs(self.y).max())
        length = np.maximum(self.x[cuts[1:] - 1] - self.x[cuts[:-1]], np.diff(self.places[0, cuts]))
        spacing = np.stack([error / length, error], axis=1)
        lines = lines if known is None else known
        runs = np.diff(cuts)
        beside = np.minimum(np.append(runs, runs[-1]), np.insert(runs, 0, runs[0]))
        return _State(_Table(cuts, lines, np.inf), spacing, np.maximum(beside // 8, 1), error)

    def _secant(self, i: int) -> float:
        """Slope at a sample that is a segment of its own."""
        i = min(max(i, 1), self.x.size - 1)
        return float((self.y[i] - self.y[i - 1]) / (self.x[i] - self.x[i - 1])) if self.x.size > 1 else 0.0

    def nearer(self, state: _State, best: _Table) -> _State:
        moved = np.abs(best.cuts - state.table.cuts)
        strides = np.where(moved < state.strides, -(-state.strides // 2), state.strides)
        middle = (self.places[0, best.cuts[1:]] + self.places[0, best.cuts[:-1]]) / 2.0
        slope, shift = (best.lines - state.table.lines).T
        moved = np.stack([np.abs(slope), np.abs(slope * middle + shift)], axis=1)
        inside = (moved < np.array([1.5, 2.5]) * state.spacing).all(axis=1, keepdims=True)
        return _State(best, np.where(inside, _NEARER * state.spacing, state.spacing), strides, state.error)

    def swept(self, state: _State, tried: tuple[int, ...]) -> _Table | None:
        """The best table of one sweep around a state."""
        from lutc.search.tied_kernels import sweep  # brings numba

        slopes, intercepts, positions, kept = tried
        problem, rules, n = self.problem, self.problem.rules, self.x.size
        windows = state.table.cuts[:, None] + np.arange(-positions, positions + 1) * state.strides[:, None]
        windows[(windows < 0) | (windows > n)] = -1
        if problem.left is None:
            windows[0] = np.where(np.arange(windows.shape[1]) == 0, 0, -1)
        if problem.right is None:
            windows[-1] = np.where(np.arange(windows.shape[1]) == 0, n, -1)
        kept *= 1 + (problem.joins.meet >= 0.0) + 3 * (problem.joins.bend != 0)
        fmt, errors = rules.intercepts.format, problem.errors or TiedErrors(0, (self.y, self.y))
        cost, cuts, lines = sweep(
            *(self.x, self.y, self.w, self.places, self.tails, self.tail_costs, windows, state.table.cuts),
            *(
                state.table.lines,
                self.limits(state),
                state.spacing,
                numbers_of(fmt),
                _chosen(rules.slopes),
                _chosen(rules.intercepts),
            ),
            (problem.joins.rise, problem.joins.bend, problem.joins.meet),
            *((rules.zero, rules.low, rules.high), problem.floats or not fmt.is_fixed, problem.beyond),
            *(errors.kind, errors.of_nothing, (slopes, intercepts), kept),
        )
        return _Table(cuts, lines, cost) if np.isfinite(cost) else None

    def limits(self, state: _State) -> np.ndarray:
        """(segments,) what a table that is worth going on with costs at most up to the end of each segment."""
        if not np.isfinite(state.table.cost):
            return np.full(len(state.table.lines), np.inf)
        if self.problem.errors is not None:
            return np.full(len(state.table.lines), state.table.cost)
        cuts, lines = state.table.cuts, state.table.lines
        k, t = (np.repeat(lines[:, c], np.diff(cuts)) for c in range(2))
        own = slice(cuts[0], cuts[-1])
        errors = self.w[own] * (k * self.x[own] + t - self.y[own]) ** 2
        sums = np.add.reduceat(errors, cuts[:-1] - cuts[0])
        return self.tail_costs[0, cuts[0]] + np.cumsum(sums) + _ROOM * (sums + sums.mean())

    def cost(self, table: _Table) -> float:
        """Of a table, squared errors summed sample by sample."""
        if self.problem.errors is not None:
            return table.cost
        k, t = (np.repeat(table.lines[:, c], np.diff(table.cuts)) for c in range(2))
        own = slice(table.cuts[0], table.cuts[-1])
        errors = self.w[own] * (k * self.x[own] + t - self.y[own]) ** 2
        return float(errors.sum() + self.tail_costs[0, table.cuts[0]] + self.tail_costs[1, table.cuts[-1]])


def _chosen(ordinals) -> np.ndarray:
    """The numbers of a set, ascending; empty where it is all of a format."""
    return ordinals.value(np.arange(ordinals.low, ordinals.high + 1)) if ordinals.chosen else np.zeros(0)

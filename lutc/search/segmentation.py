"""The best lines for any number of samples, proven: least squares over all cuts.

Each segment pays a penalty beside its error; the best cuts for a penalty are one sweep over the samples (Jackson et al.
2005; Killick, Fearnhead, Eckley 2012), and the penalty is moved until they have the segments that were asked for. Then
they are the optimum. Where no penalty gives that number, the best sum of cost and penalties is a bound below every
table, and few positions are left at which a better table than the best known could cut: over those, dynamic programming
by the number of segments finds the optimum.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from lutc.costs.points import Points
from lutc.formats.format import Format
from lutc.formats.numbers import numbers_of

_COARSE = 2048  # cells over which a first penalty is found
_SWEEPS = 40
_ROUNDING = 1e-9  # relative; less is the noise of float64
# Relative: so near to its bound a table with stored coefficients may stay, and so near to real lines their cuts do.
_CLOSE, _FINE = 1e-3, 2e-4
_NOTHING, _ZERO = 1e-17, 1e-28  # of the cost of a single line, and of y^2; likewise
_STRAIGHT = 1e-24  # of y^2: a cost that is that of an exact line, fitted in float64
# Positions tried around known cuts, in samples from them: few, then more.
_NEAR = tuple(
    np.unique([0, *(sign * base**k for k in range(size) for sign in (-1, 1))]) for base, size in ((8, 4), (2, 13))
)


@dataclass(frozen=True, eq=False)
class Segmentation:
    """cuts: (m + 1,) ascending positions, segment s is [cuts[s], cuts[s + 1]), tails outside. cost: of the best real
    lines between them. bound: no cuts cost less; equal to `cost` where that is proven to be the optimum.
    """

    cuts: np.ndarray
    cost: float
    bound: float
    lines: tuple[np.ndarray, np.ndarray]

    @property
    def proven(self) -> bool:
        """Whether the cuts are an optimum."""
        return self.cost == self.bound


@dataclass(frozen=True, eq=False)
class SampleCells:
    """moments: (6, size) weight, mean x, mean y, squares of x about its mean, and the slope and squared error of the
    best line, for each cell. left, right: (size + 1,) what the tails cost before and after each position. numbers: that
    lines are stored in, as of `stored_line`; empty for real ones.
    """

    moments: np.ndarray
    left: np.ndarray
    right: np.ndarray
    numbers: np.ndarray

    @classmethod
    def of(cls, points: Points, left: np.ndarray, right: np.ndarray, fmt: Format | None = None) -> SampleCells:
        order = np.argsort(points.cell, kind="stable")
        w, x, y = (values[order] for values in (points.weight, points.x, points.y))
        none = np.zeros(w.size)
        starts = np.searchsorted(points.cell[order], np.arange(points.size))
        return cls(_joined(np.stack([w, x, y, none, none, none]), starts), left, right, numbers_of(fmt))

    @cached_property
    def single(self) -> float:
        """Cost of a single line."""
        return self.cost(np.array([0, self.size]))

    @cached_property
    def nothing(self) -> float:
        """A cost that is the noise of float64."""
        return _NOTHING * self.single + _ZERO * float(self.moments[0] @ self.moments[2] ** 2)

    @cached_property
    def straight(self) -> float:
        """A cost that rounding leaves of lines without error."""
        return max(self.nothing, _STRAIGHT * float(self.moments[0] @ self.moments[2] ** 2))

    @property
    def size(self) -> int:
        return self.moments.shape[1]

    def close(self, cost: float, bound: float) -> bool:
        """Whether no more is worth proving: nothing is left, or little of lines that are dear to price."""
        return _equal(self, cost, bound) or self.numbers.size > 0 and cost <= bound * (1.0 + _CLOSE)

    def span(self, segments: int) -> int:
        """Positions that share a frame: half of those of a segment, if that is not too few or too many."""
        return min(max(self.size // (2 * segments), 4), 128)

    def merged(self, positions: np.ndarray) -> SampleCells:
        """Cells between `positions` (ascending, from 0 to size)."""
        joined = _joined(self.moments, positions[:-1])
        return replace(self, moments=joined, left=self.left[positions], right=self.right[positions])

    def reversed(self) -> SampleCells:
        moments = np.ascontiguousarray(self.moments[:, ::-1])
        return replace(self, moments=moments, left=self.right[::-1].copy(), right=self.left[::-1].copy())

    def penalised(self, penalty: float, slack: float, segments: int) -> tuple[np.ndarray, ...]:
        """`lutc.search.segmentation_kernels.penalised` over these cells."""
        from lutc.search.segmentation_kernels import penalised  # brings numba

        return penalised(self.moments, self.left, self.numbers, penalty, slack, self.span(segments))

    def cost(self, cuts: np.ndarray) -> float:
        """Of the best lines between cuts."""
        from lutc.search.segmentation_kernels import lines_between  # brings numba

        errors = lines_between(self.moments, cuts, self.numbers)[2]
        return float(self.left[cuts[0]] + errors.sum() + self.right[cuts[-1]])


def _joined(moments: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Moments of runs of cells; run r is [starts[r], starts[r + 1]). Errors are summed about the line itself: nothing
    cancels.
    """
    w, x, y, xx, slope, error = moments
    lengths = np.diff(np.append(starts, w.size))

    def add(values):
        return np.where(lengths > 0, np.add.reduceat(np.append(values, 0.0), starts), 0.0)

    def spread(values):
        return np.repeat(values, lengths)

    weight = add(w)
    share = np.where(spread(weight) > 0.0, w, 1.0)  # cells without weight still have a place
    whole = np.maximum(add(share), np.finfo(float).tiny)
    mean_x, mean_y = add(share * x) / whole, add(share * y) / whole
    dx, dy = x - spread(mean_x), y - spread(mean_y)
    squares = add(xx + w * dx * dx)
    tilt = add(slope * xx + w * dx * dy) / np.where(squares > 0.0, squares, 1.0)
    rest = dy - spread(tilt) * dx
    errors = add(error + (slope - spread(tilt)) ** 2 * xx + w * rest * rest)
    return np.stack([weight, mean_x, mean_y, squares, tilt, errors])


@dataclass(frozen=True, eq=False)
class _Way:
    """The best table for a penalty: its cuts, their number of segments and cost, and the sum of cost and penalties."""

    penalty: float
    cuts: np.ndarray
    segments: int
    cost: float
    total: float

    def bound(self, segments: int) -> float:
        """What no table of at most `segments` segments is below."""
        return max(self.total - self.penalty * segments, 0.0)


def segmentation(
    points: Points,
    left: np.ndarray,
    right: np.ndarray,
    segments: int,
    fmt: Format | None = None,
    real: Segmentation | None = None,
) -> Segmentation:
    """The best lines in at most `segments` segments: real ones, or with slopes and intercepts in `fmt`, to 0.1 % at
    least. left, right: (size + 1,) costs of the tails over cells [0, i) and [i, size), as of
    `lutc.costs.segments.tail_costs`. real: the best real lines, whose cuts will do where the format is fine.
    """
    cells = SampleCells.of(points, left, right, fmt)
    if real is not None:
        cost = cells.cost(real.cuts)
        exact = real.cost <= cells.straight  # of lines without error rounding alone is left, which cuts hardly change
        if exact or cost <= real.bound * (1.0 + _FINE) + cells.nothing:
            return _result(cells, real.cuts, cost, real.bound, segments)
    if segments == 0:
        cuts = np.array([int(np.argmin(left + right))])
        cost = float((left + right)[cuts[0]])
        return _result(cells, cuts, cost, cost, segments)
    if cells.single <= cells.straight:  # a straight function: every penalty is noise
        return _result(cells, np.array([0, cells.size]), cells.single, 0.0, segments)
    penalty = None
    if cells.size > 2 * _COARSE:
        few, many, _ = _between(cells.merged(_even(cells, _COARSE)), segments, None)
        penalty = few.penalty if many is None else math.sqrt(few.penalty * many.penalty)
    few, many, highest = _between(cells, segments, penalty)
    if many is None or cells.close(few.cost, highest.bound(segments)):
        return _result(cells, few.cuts, few.cost, highest.bound(segments), segments)
    return _finished(cells, few, many, highest, segments)


def _equal(cells: SampleCells, cost: float, bound: float) -> bool:
    return cost <= bound * (1.0 + _ROUNDING) + cells.nothing


def _result(cells: SampleCells, cuts: np.ndarray, cost: float, bound: float, segments: int) -> Segmentation:
    from lutc.search.segmentation_kernels import lines_between  # brings numba

    cuts = np.concatenate([cuts, np.full(segments + 1 - cuts.size, cuts[-1])])
    slopes, intercepts, _ = lines_between(cells.moments, cuts, cells.numbers)
    return Segmentation(cuts, cost, cost if _equal(cells, cost, bound) else bound, (slopes, intercepts))


def _even(cells: SampleCells, count: int) -> np.ndarray:
    """Positions, half of them equally spaced in number, half in x."""
    x = cells.moments[1]
    by_number = np.linspace(0, cells.size, count // 2 + 1).round().astype(np.int64)
    by_x = np.searchsorted(x, np.linspace(x[0], x[-1], count // 2 + 1))
    return np.unique(np.concatenate([by_number, by_x]))


def _best(cells: SampleCells, penalty: float, segments: int) -> _Way:
    cost, origin, count, _ = cells.penalised(penalty, 0.0, segments)
    end = int(np.argmin(cost + cells.right))
    cuts = [end]
    while origin[cuts[-1]] >= 0:
        cuts.append(int(origin[cuts[-1]]))
    found = np.array(cuts[::-1])
    return _Way(penalty, found, int(count[end]), cells.cost(found), float(cost[end] + cells.right[end]))


def _between(cells: SampleCells, segments: int, penalty: float | None) -> tuple[_Way, _Way | None, _Way]:
    """(few, many, highest): the best tables of at most and of more than `segments` segments that some penalty gives,
    None where that is none; the one whose penalty gives the greatest bound below all tables of at most `segments`.

    The next penalty tried is that at which two tables cost the same, or, while they are far apart, one between theirs,
    as if errors fell with the fourth power of the segments.
    """
    if penalty is None:
        penalty = cells.single * segments**-5.0
    few = many = highest = None
    edge, growth = False, 2.0
    for _ in range(_SWEEPS):
        way = _best(cells, max(penalty, cells.nothing / segments, 1e-300), segments)
        if highest is None or way.bound(segments) > highest.bound(segments):
            highest = way
        if edge and few is not None and many is not None and not few.segments < way.segments < many.segments:
            break
        if way.segments <= segments:
            few = way if few is None or way.segments > few.segments else few
        else:
            many = way if many is None or way.segments < many.segments else many
        if few is not None and _equal(cells, few.cost, highest.bound(segments)):
            break
        if many is None or few is None:
            factor = max(growth, ((way.segments + 0.5) / (segments + 0.5)) ** (5.0 if few is None else -5.0))
            penalty = way.penalty * factor if few is None else way.penalty / factor
            growth *= 2.0
            continue
        edge = many.segments - few.segments <= 2 or few.segments == 0 or few.penalty <= many.penalty
        if edge:
            penalty = (few.cost - many.cost) / (many.segments - few.segments)
        else:
            share = math.log((segments + 0.5) / few.segments) / math.log(many.segments / few.segments)
            tried, penalty = way.penalty, few.penalty * (many.penalty / few.penalty) ** share
            edge = tried == penalty
    assert few is not None and highest is not None
    return few, many, highest


def _finished(cells: SampleCells, few: _Way, many: _Way, highest: _Way, segments: int) -> Segmentation:
    """The optimum between the tables of two penalties: first one near their cuts, then one over all that is left."""
    left = _Left.of(cells, highest.penalty, segments)
    known = np.concatenate([few.cuts, many.cuts])[:, None]
    around = [np.isin(np.arange(cells.size + 1), known + offsets) for offsets in _NEAR]
    cuts, cost = few.cuts, few.cost
    for positions in (*around, np.ones(cells.size + 1, bool)):
        if cells.close(cost, highest.bound(segments)):
            return _result(cells, cuts, cost, highest.bound(segments), segments)
        found, least = _by_layers(cells, left, positions, cost)
        if least < cost:
            cuts, cost = found, least
    return _result(cells, cuts, cost, cost, segments)


@dataclass(frozen=True, eq=False)
class _Left:
    """What is left of a search for at most `segments` segments: by a few penalties, the best sums (size + 1,) on the
    way to each position and from there on.
    """

    penalties: tuple[float, ...]
    there: list[np.ndarray]
    back: list[np.ndarray]
    segments: int

    @classmethod
    def of(cls, cells: SampleCells, penalty: float, segments: int) -> _Left:
        """`penalty` gives the best bound; two a little to both sides of it limit the segments behind a position."""
        apart, back = 1.0 + 8.0 / segments, cells.reversed()
        penalties = (penalty, penalty / apart, penalty * apart)
        return cls(
            penalties,
            [cells.penalised(p, 0.0, segments)[0] for p in penalties],
            [back.penalised(p, 0.0, segments)[0][::-1] for p in penalties],
            segments,
        )

    def counts(self, limit: float) -> tuple[np.ndarray, np.ndarray]:
        """The fewest and the most segments that a table of cost `limit` or less can have behind a cut at each position;
        fewest > most where no such table cuts.
        """
        fewest, most = np.zeros(self.there[0].size), np.full(self.there[0].size, float(self.segments))
        for first, there in zip(self.penalties, self.there):
            for then, back in zip(self.penalties, self.back):
                room = limit - (there + back - then * self.segments)
                if then > first:
                    most = np.minimum(most, room / (then - first))
                elif then < first:
                    fewest = np.maximum(fewest, -room / (first - then))
                else:
                    most[room < 0.0] = -1.0
        return np.ceil(fewest - 1e-6), np.floor(most + 1e-6)


def _by_layers(cells: SampleCells, left: _Left, use: np.ndarray, known: float) -> tuple[np.ndarray, float]:
    """The best cuts at positions that `use` (size + 1,) allows and their cost, if that is no more than `known`."""
    from lutc.search.segmentation_kernels import layered  # brings numba

    limit = known * (1.0 + _ROUNDING)
    fewest, most = left.counts(limit)
    use = use & (fewest <= most)
    use[[0, -1]] = True
    positions = np.flatnonzero(use)
    fewest, most = fewest[positions], most[positions]
    merged = cells.merged(positions)
    ranges = np.zeros((left.segments + 1, 2), np.int64)
    for count in range(left.segments + 1):
        held = np.flatnonzero((fewest <= count) & (count <= most))
        if not held.size:  # nothing as good
            return np.array([0]), np.inf
        ranges[count] = held[[0, -1]]
    penalty = left.penalties[0]
    total = (left.there[0] + cells.right).min()
    slack = limit + penalty * left.segments - total
    lows, span = merged.penalised(penalty, slack, left.segments)[3], merged.span(left.segments)
    cost, origins = layered(merged.moments, merged.left, merged.numbers, lows, span, ranges)
    cuts = [int(np.argmin(cost + merged.right))]
    for origin in origins[::-1]:
        if origin[cuts[-1]] >= 0:
            cuts.append(int(origin[cuts[-1]]))
    found = positions[np.array(cuts[::-1])]
    return found, cells.cost(found)

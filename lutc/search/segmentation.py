"""The best lines for any number of samples, proven: least squares over all cuts.

Each segment pays a penalty beside its error; the best cuts for a penalty are one sweep over the samples (Jackson et al.
2005; Killick, Fearnhead, Eckley 2012), and the penalty is moved until they have the segments that were asked for. Then
they are the optimum. Where no penalty gives that number, the best sum of cost and penalties is a bound below every
table, and few positions are left at which a better table than the best known could cut: over those, dynamic programming
by the number of segments finds the optimum.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from lutc.costs.points import Points
from lutc.formats.format import Format
from lutc.search.sample_cells import ROUNDING, SampleCells

_COARSE = 2048  # cells over which a first penalty is found
_SWEEPS = 40
_FINE = 2e-4  # relative: so near to real lines the cuts of stored ones do as well
# Positions tried around known cuts, in samples from them: few, then more.
_NEAR = tuple(
    np.unique([0, *(sign * base**k for k in range(size) for sign in (-1, 1))]) for base, size in ((8, 4), (2, 13))
)


class PricedCells(Protocol):
    """What cuts are chosen by: cells of samples, and what the best lines over runs of them cost."""

    @property
    def power(self) -> float: ...  # of the segments, with which errors fall
    @property
    def left(self) -> np.ndarray: ...
    @property
    def right(self) -> np.ndarray: ...
    @property
    def size(self) -> int: ...
    @property
    def x(self) -> np.ndarray: ...
    @property
    def single(self) -> float: ...
    @property
    def nothing(self) -> float: ...
    @property
    def straight(self) -> float: ...
    def equal(self, cost: float, bound: float) -> bool: ...
    def close(self, cost: float, bound: float) -> bool: ...
    def merged(self, positions: np.ndarray) -> PricedCells: ...
    def reversed(self) -> PricedCells: ...
    def penalised(self, penalty: float, slack: float, segments: int) -> tuple[np.ndarray, ...]: ...
    def layered(self, penalty: float, slack: float, ranges: np.ndarray) -> tuple[np.ndarray, np.ndarray]: ...
    def cost(self, cuts: np.ndarray) -> float: ...


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
    return _result(cells, *best_cuts(cells, segments), segments)


def best_cuts(cells: PricedCells, segments: int) -> tuple[np.ndarray, float, float]:
    """(cuts, their cost, a bound below that of all cuts) of at most `segments` segments."""
    if segments == 0:
        cuts = np.array([int(np.argmin(cells.left + cells.right))])
        cost = float((cells.left + cells.right)[cuts[0]])
        return cuts, cost, cost
    if cells.single <= cells.straight:  # a straight function: every penalty is noise
        return np.array([0, cells.size]), cells.single, 0.0
    penalty = None
    if cells.size > 2 * _COARSE:
        few, many, _ = _between(cells.merged(_even(cells, _COARSE)), segments, None)
        penalty = few.penalty if many is None else math.sqrt(few.penalty * many.penalty)
    few, many, highest = _between(cells, segments, penalty)
    if many is None or cells.close(few.cost, highest.bound(segments)):
        return few.cuts, few.cost, highest.bound(segments)
    return _finished(cells, few, many, highest, segments)


def _result(cells: SampleCells, cuts: np.ndarray, cost: float, bound: float, segments: int) -> Segmentation:
    from lutc.search.segmentation_kernels import lines_between  # brings numba

    cuts = np.concatenate([cuts, np.full(segments + 1 - cuts.size, cuts[-1])])
    slopes, intercepts, _ = lines_between(cells.moments, cuts, cells.numbers)
    return Segmentation(cuts, cost, cost if cells.equal(cost, bound) else bound, (slopes, intercepts))


def _even(cells: PricedCells, count: int) -> np.ndarray:
    """Positions, half of them equally spaced in number, half in x."""
    x = cells.x
    by_number = np.linspace(0, cells.size, count // 2 + 1).round().astype(np.int64)
    by_x = np.searchsorted(x, np.linspace(x[0], x[-1], count // 2 + 1))
    return np.unique(np.concatenate([by_number, by_x]))


def _best(cells: PricedCells, penalty: float, segments: int) -> _Way:
    cost, origin, count, _ = cells.penalised(penalty, 0.0, segments)
    end = int(np.argmin(cost + cells.right))
    cuts = [end]
    while origin[cuts[-1]] >= 0:
        cuts.append(int(origin[cuts[-1]]))
    found = np.array(cuts[::-1])
    return _Way(penalty, found, int(count[end]), cells.cost(found), float(cost[end] + cells.right[end]))


def _between(cells: PricedCells, segments: int, penalty: float | None) -> tuple[_Way, _Way | None, _Way]:
    """(few, many, highest): the best tables of at most and of more than `segments` segments that some penalty gives,
    None where that is none; the one whose penalty gives the greatest bound below all tables of at most `segments`.

    The next penalty tried is that at which two tables cost the same, or, while they are far apart, one between theirs,
    as if errors fell with a power of the segments.
    """
    if penalty is None:
        penalty = cells.single * segments ** -(cells.power + 1.0)
    few = many = highest = None
    edge, growth, exponent = False, 2.0, cells.power + 1.0
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
        if few is not None and cells.equal(few.cost, highest.bound(segments)):
            break
        if many is None or few is None:
            factor = max(growth, ((way.segments + 0.5) / (segments + 0.5)) ** (exponent if few is None else -exponent))
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


def _finished(
    cells: PricedCells, few: _Way, many: _Way, highest: _Way, segments: int
) -> tuple[np.ndarray, float, float]:
    """`best_cuts` between those of two penalties: first the best near their cuts, then over all that is left."""
    left = _Left.of(cells, highest.penalty, segments)
    known = np.concatenate([few.cuts, many.cuts])[:, None]
    around = [np.isin(np.arange(cells.size + 1), known + offsets) for offsets in _NEAR]
    cuts, cost = few.cuts, few.cost
    for positions in (*around, np.ones(cells.size + 1, bool)):
        if cells.close(cost, highest.bound(segments)):
            return cuts, cost, highest.bound(segments)
        found, least = _by_layers(cells, left, positions, cost)
        if least < cost:
            cuts, cost = found, least
    return cuts, cost, cost


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
    def of(cls, cells: PricedCells, penalty: float, segments: int) -> _Left:
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


def _by_layers(cells: PricedCells, left: _Left, use: np.ndarray, known: float) -> tuple[np.ndarray, float]:
    """The best cuts at positions that `use` (size + 1,) allows and their cost, if that is no more than `known`."""
    limit = known * (1.0 + ROUNDING)
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
    cost, origins = merged.layered(penalty, slack, ranges)
    cuts = [int(np.argmin(cost + merged.right))]
    for origin in origins[::-1]:
        if origin[cuts[-1]] >= 0:
            cuts.append(int(origin[cuts[-1]]))
    found = positions[np.array(cuts[::-1])]
    return found, cells.cost(found)

"""Cut points for tables of intervals with equal pieces (FPLUT): dynamic programming over candidates, refined to single
positions.

A search sees costs only, an object such as `lutc.costs.intervals.IntervalCosts`: positions 0..size - 1 where a cut may
stand, `interval(start, end, pieces)`, `outside_left(position)`, `outside_right(position)` and `combine` (np.add or
np.maximum).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lutc.errors import LutcError
from lutc.search.problem import SearchProblem
from lutc.search.result import SearchResult
from lutc.search.search import Search

if TYPE_CHECKING:
    from lutc.costs.half_intervals import HalfCosts
    from lutc.costs.intervals import IntervalCosts

# Candidates of each start; coarse: for costs that are slow.
COARSE = {"quick": (256,), "best": (192, 256, 320, 400), "coarse": (64,)}
_FIRST = 64  # candidates of a first solution, whose cost limits the intervals that are priced in full
_REACH = 4  # neighbours tried to each side of a cut while refining
_WIDE, _PAIRS = 1024, 8  # neighbours of two cuts tried together, and how many pairs of them are refined
_PIECES_GRID, _MOST_PIECES = 80, 128  # candidates, and pieces of one interval, where the pieces are searched too
_REMEDY = "use more cut points, a wider range, a prologue or values of a wider format"


@dataclass(frozen=True)
class CutPointSettings:
    """pieces: powers of two, one for each interval. quality: how many starts, a key of COARSE. anchors: positions
    always tried, such as kinks.
    """

    pieces: tuple[int, ...]
    quality: str = "quick"
    anchors: tuple[int, ...] = ()


def _result(positions: Sequence[int], pieces: Sequence[int], cost: float) -> SearchResult:
    return SearchResult(np.asarray(positions, np.int64), cost, {"name": "cutpoints"}, pieces=tuple(pieces))


def total(costs: IntervalCosts | HalfCosts, positions: Sequence[int] | np.ndarray, pieces: Sequence[int]) -> float:
    """Cost of given cuts."""
    positions = np.asarray(positions)
    value = costs.combine(costs.outside_left(positions[0]), costs.outside_right(positions[-1]))
    for i, count in enumerate(pieces):
        value = costs.combine(value, costs.interval(positions[i], positions[i + 1], count))
    return float(value)


def search(
    costs: IntervalCosts | HalfCosts, pieces: Sequence[int], quality: str = "quick", anchors: Sequence[int] = ()
) -> SearchResult:
    """The best cuts found for intervals of `pieces[0]`, `pieces[1]`, ... pieces. anchors: positions always tried, such
    as kinks.

    Exact over each coarse set of candidates (dynamic programming), then over windows around the best that shrink to
    single positions. Raises LutcError where no cuts have a finite cost.
    """
    if costs.size <= len(pieces):
        raise LutcError(
            f"{len(pieces)} intervals need {len(pieces) + 1} different cut points; only {costs.size} values lie in the "
            "range"
        )
    most = min(COARSE[quality]) // 2
    if len(pieces) >= most:
        raise LutcError(
            f"this search places at most {most} cut points; given {len(pieces) + 1}: use fewer, or give the cut points "
            "themselves"
        )
    anchors = np.asarray(anchors, np.int64)
    grids = [_candidates(costs, count, anchors) for count in COARSE[quality]]
    known = _start(costs, pieces, _candidates(costs, _FIRST, anchors))
    found = []
    for grid in grids:
        found.append(refine(costs, _start(costs, pieces, grid, known), anchors))
        known = min(found, key=lambda result: result.cost)
    best = known
    if not np.isfinite(best.cost):
        raise LutcError(f"no {len(pieces) + 1} cut points keep the error finite; {_REMEDY}")
    return best


def search_pieces(
    costs: IntervalCosts | HalfCosts, intervals: int, budget: int, anchors: Sequence[int] = ()
) -> SearchResult:
    """Cuts and the pieces between them, powers of two with at most `budget` in all: exact over coarse candidates, then
    refined.
    """
    if costs.size <= intervals or budget < intervals:
        raise LutcError(
            f"{intervals} intervals take {intervals + 1} cut points and at least {intervals} pieces; given "
            f"{costs.size} and {budget}"
        )
    candidates = _candidates(costs, _PIECES_GRID, np.asarray(anchors, np.int64))
    counts = [1 << k for k in range(min(_MOST_PIECES, budget - intervals + 1).bit_length())]
    matrices = {count: _matrix(costs, candidates, candidates, count) for count in counts}
    value = np.full((budget + 1, candidates.size), np.inf)
    value[0] = costs.outside_left(candidates)
    choices = []
    for _ in range(intervals):
        after = np.full_like(value, np.inf)
        choice = np.zeros((*value.shape, 2), np.int64)
        for count, matrix in matrices.items():
            for spent in np.flatnonzero(np.isfinite(value[: budget + 1 - count]).any(axis=1)):
                joined = costs.combine(value[spent][:, None], matrix)
                reached = joined.min(axis=0)
                better = reached < after[spent + count]
                after[spent + count][better] = reached[better]
                choice[spent + count][better, 0], choice[spent + count][better, 1] = (
                    joined.argmin(axis=0)[better],
                    count,
                )
        value = after
        choices.append(choice)
    finished = costs.combine(value, costs.outside_right(candidates)[None, :])
    spent, at = (int(i) for i in np.unravel_index(finished.argmin(), finished.shape))
    if not np.isfinite(finished[spent, at]):
        raise LutcError(f"no {intervals + 1} cut points keep the error finite; {_REMEDY}")
    positions, pieces = [int(candidates[at])], []
    for choice in reversed(choices):
        at, count = (int(i) for i in choice[spent, at])
        positions.append(int(candidates[at]))
        pieces.append(count)
        spent -= count
    return refine(costs, _result(positions[::-1], pieces[::-1], 0.0), anchors)


def _candidates(costs, count: int, anchors: np.ndarray) -> np.ndarray:
    """So many positions, evenly spaced, and the anchors."""
    return np.union1d(np.linspace(0, costs.size - 1, count).astype(np.int64), anchors)


def _matrix(costs, rows, columns, pieces: int, limit: float = np.inf) -> np.ndarray:
    """Costs of intervals from each of `rows` to each of `columns`, inf beyond `limit` and where they do not ascend."""
    matrix = np.full((rows.size, columns.size), np.inf)
    a, b = np.nonzero(rows[:, None] < columns[None, :])
    matrix[a, b] = costs.interval(rows[a], columns[b], pieces, limit)
    return matrix


def _chain(costs, pieces, options, matrices) -> SearchResult:
    """Dynamic programming: cut i stands at one of options[i]; matrices[i] holds the costs of interval i."""
    value, back = costs.outside_left(options[0]), []
    for matrix in matrices:
        joined = costs.combine(value[:, None], matrix)
        back.append(joined.argmin(axis=0))
        value = joined.min(axis=0)
    value = costs.combine(value, costs.outside_right(options[-1]))
    at = int(value.argmin())
    cost, path = float(value[at]), [at]
    for choice in reversed(back):
        path.append(int(choice[path[-1]]))
    return _result([int(o[p]) for o, p in zip(options, reversed(path))], pieces, cost)


def _start(costs, pieces, candidates, known: SearchResult | None = None) -> SearchResult:
    """The best cuts at candidates. known: good cuts; no interval of the best ones costs more than what these do once
    they are moved to the nearest candidates.
    """
    if candidates.size <= len(pieces):
        candidates = np.arange(candidates[0], candidates[-1] + 1)
    limit = np.inf
    if known is not None and np.isfinite(known.cost):
        between = (candidates[1:] + candidates[:-1]) / 2
        limit = total(costs, candidates[np.searchsorted(between, known.cuts)], pieces) * (1.0 + 1e-9)
    matrices = {count: _matrix(costs, candidates, candidates, count, limit) for count in set(pieces)}
    return _chain(costs, pieces, [candidates] * (len(pieces) + 1), [matrices[count] for count in pieces])


def refine(costs: IntervalCosts | HalfCosts, start: SearchResult, anchors: Sequence[int] = ()) -> SearchResult:
    """The best cuts reached from `start` by moving all of them at once, each to an anchor or by a few steps that shrink
    to single positions.
    """
    best = _result(start.cuts, start.pieces, total(costs, start.cuts, start.pieces))
    step = max(1, costs.size // 512)
    window = np.arange(-_REACH, _REACH + 1)
    pieces = start.pieces
    while np.isfinite(start.cost):
        options = [
            np.union1d(np.clip(p + step * window, 0, costs.size - 1), anchors).astype(np.int64) for p in best.cuts
        ]
        matrices = [_matrix(costs, options[i], options[i + 1], count) for i, count in enumerate(pieces)]
        better = _chain(costs, pieces, options, matrices)
        if better.cost < best.cost:
            best = better
        elif step == 1:
            break
        else:
            step = (step + 1) // 2 if step > 2 else 1
    return best


def through(
    costs: IntervalCosts, start: SearchResult, position: int, anchors: Sequence[int] = ()
) -> SearchResult | None:
    """The best cuts reached from `start` that put the end of a piece at `position`, a place between them, which a
    `knot` of the costs asks for: by moving one or both cuts beside it, then all. None where these cost infinitely much.
    """
    cuts = start.cuts
    after = int(np.searchsorted(cuts, position))
    if not 0 < after < len(cuts):
        return None
    starts = []
    for pairs in _around(costs.cuts, cuts[after - 1], cuts[after], position, start.pieces[after - 1]):
        rows = np.tile(cuts, (len(pairs), 1))
        rows[:, after - 1 : after + 1] = pairs
        rows = rows[(np.diff(rows, axis=1) > 0).all(axis=1)]
        value = costs.combine(costs.outside_left(rows[:, 0]), costs.outside_right(rows[:, -1]))
        for i, count in enumerate(start.pieces):
            value = costs.combine(value, costs.interval(rows[:, i], rows[:, i + 1], count))
        if np.isfinite(value).any():
            starts.append(_result(rows[value.argmin()], start.pieces, float(value.min())))
    best = sorted(starts, key=lambda result: result.cost)[:_PAIRS]
    return min((refine(costs, pair, anchors) for pair in best), key=lambda result: result.cost, default=None)


def _around(places: np.ndarray, before: int, behind: int, position: int, pieces: int) -> list[np.ndarray]:
    """Positions (n, 2) for two cuts near `before` and `behind`, of which one is at `position`, or between which it ends
    the first piece, the second, ...
    """
    left = np.arange(max(before - _WIDE, 0), position)
    pairs = [np.array([[position, behind]]), np.array([[before, position]])]
    for k in range(1, pieces):
        end = places[position] + (places[position] - places[left]) * (pieces - k) / k
        right = np.minimum(np.searchsorted(places, end), places.size - 1)
        keep = (places[right] == end) & (np.abs(right - behind) <= _WIDE)
        pairs.append(np.stack([left[keep], right[keep]], axis=1))
    return pairs


def solve(problem: SearchProblem, settings: CutPointSettings) -> SearchResult:
    """`search` over the problem's interval costs."""
    return search(problem.costs, settings.pieces, settings.quality, settings.anchors)


SEARCH = Search(
    "cutpoints",
    "floating-point values over fp16 cut points (FPLUT)",
    CutPointSettings,
    solve,
    takes="intervals",
    objectives=("squared", "relative", "absolute", "maximum", "ulp"),
    codes=False,
    symmetry=False,
    weights=False,
)

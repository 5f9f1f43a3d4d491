"""Many samples: a search over candidate cuts, refined in shrinking windows down to single samples.

Segment costs over N positions need N^2 numbers. Beyond `DENSE_LIMIT` samples a search runs over a few hundred candidate positions, then
over windows around the cuts it found, with half the spacing each time. The result is not proven optimal; `lower_bound` says how far it can be.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lutc.costs import SegmentCosts
from lutc.samples import Samples
from lutc.search.result import SearchResult

CANDIDATES = 512


def candidates(samples: Samples, count: int = CANDIDATES) -> np.ndarray:
    """Ascending sample indices from 0 to n: half of them equally spaced in index, half in x."""
    n = len(samples)
    by_index = np.linspace(0, n, count // 2 + 1).round().astype(np.int64)
    by_x = np.searchsorted(samples.x, np.linspace(samples.x[0], samples.x[-1], count // 2 + 1))
    return np.unique(np.concatenate([by_index, by_x]))


def refined(
    samples: Samples, costs_at: Callable[[np.ndarray], SegmentCosts], search: Callable[[SegmentCosts, np.ndarray | None], SearchResult]
) -> tuple[SearchResult, np.ndarray, SegmentCosts, SegmentCosts]:
    """(result, positions, costs, first costs): the result's cuts index `positions`, which index the samples.

    costs_at(positions) gives the costs over cells between positions; search(costs, start) a table, beginning with cuts `start`.
    """
    positions = candidates(samples)
    first = costs = costs_at(positions)
    result = search(costs, None)
    while True:
        found = positions[result.cuts]
        finer = _windows(positions, result.cuts, len(samples))
        if finer.size == positions.size and (finer == positions).all():
            return result, positions, costs, first
        better_costs = costs_at(finer)
        better = search(better_costs, np.searchsorted(finer, found))
        done = better.cost >= result.cost and _spacing(finer, better.cuts) == 1
        positions, costs, result = finer, better_costs, better
        if done:
            return result, positions, costs, first


def _spacing(positions: np.ndarray, cuts: np.ndarray) -> int:
    """Largest distance from a cut to a neighbouring candidate."""
    gaps = np.diff(positions)
    return int(max((gaps[max(c - 1, 0) : c + 1].max(initial=1) for c in np.unique(cuts)), default=1))


def _windows(positions: np.ndarray, cuts: np.ndarray, n: int) -> np.ndarray:
    """Candidates around each cut: the span of its two neighbours to each side, filled more finely; the cuts and both ends stay."""
    unique = np.unique(cuts)
    share = max(8, CANDIDATES // max(1, unique.size))
    parts = [np.array([0, n]), positions[unique]]
    for cut in unique:
        low, high = positions[max(cut - 2, 0)], positions[min(cut + 2, positions.size - 1)]
        parts.append(np.linspace(low, high, share).round().astype(np.int64))
    return np.unique(np.concatenate(parts))


def lower_bound(costs: SegmentCosts, entries: int) -> float:
    """A cost no table can go below, wherever between candidates its cuts lie: a segment from inside cell i to inside cell j costs at least
    the cells strictly between. Valid for additive costs and for the largest error alike."""
    segments = costs.segments(entries)
    size = costs.size
    inner = np.full((size, size), np.inf)
    inner[np.tril_indices(size)] = 0.0  # inner[i, j]: cells i + 1 .. j - 1
    rows, columns = np.triu_indices(size, 1)
    inner[rows, columns] = costs.matrix[rows + 1, columns]
    inner[np.tril_indices(size, -1)] = np.inf
    tails = costs.tails
    best = costs.left[:-1].copy() if tails[0] else np.where(np.arange(size) == 0, 0.0, np.inf)
    if not tails[0] and segments:
        best, segments = costs.matrix[0, :-1].copy(), segments - 1
    for _ in range(max(0, segments - (not tails[1]))):
        reached = costs.combine(best[:, None], inner).min(axis=0)
        if (reached >= best).all():
            break
        best = np.minimum(best, reached)
    end = costs.right[1:] if tails[1] else costs.matrix[1:, -1]
    return float(costs.combine(best, end).min())

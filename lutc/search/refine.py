"""Many samples: a search over candidate cuts, refined in shrinking windows down to single samples.

Segment costs over N positions need N^2 numbers. Beyond `DENSE_LIMIT` samples a search runs over a few hundred candidate
positions, then over windows around the cuts it found, a quarter as wide each time. The result is not proven optimal;
`lower_bound` says how far it can be. Squared errors have a proof of their own (`lutc.search.segmentation`).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lutc.costs.segments import SegmentCosts
from lutc.samples.samples import Samples
from lutc.search.result import SearchResult

CANDIDATES = 512
_ROUNDS = 24
_PROGRESS = 1e-9  # relative; less is the noise of float64


def candidates(samples: Samples, count: int = CANDIDATES) -> np.ndarray:
    """Ascending sample indices from 0 to n: half of them equally spaced in index, half in x."""
    n = len(samples)
    by_index = np.linspace(0, n, count // 2 + 1).round().astype(np.int64)
    by_x = np.searchsorted(samples.x, np.linspace(samples.x[0], samples.x[-1], count // 2 + 1))
    return np.unique(np.concatenate([by_index, by_x]))


def refined(
    samples: Samples,
    costs_at: Callable[[np.ndarray], SegmentCosts],
    search: Callable[[SegmentCosts, np.ndarray | None], SearchResult],
    known: np.ndarray | None = None,
) -> tuple[SearchResult, np.ndarray, SegmentCosts]:
    """(result, positions, costs): the result's cuts index `positions`, which index the samples.

    costs_at(positions) gives the costs over cells between positions; search(costs, start) a table, beginning with cuts
    `start`. known: cuts, sample indices, that are among the first positions.
    """
    positions = candidates(samples) if known is None else np.union1d(candidates(samples), known)
    costs = costs_at(positions)
    result = search(costs, None if known is None else np.searchsorted(positions, known))
    reach = int(np.diff(positions).max())
    for _ in range(_ROUNDS):
        found = positions[result.cuts]
        finer, dense = _windows(found, reach, len(samples))
        finer_costs = costs_at(finer)
        finer_result = search(finer_costs, np.searchsorted(finer, found))
        gained = finer_result.cost < result.cost * (1.0 - _PROGRESS)
        if gained:
            positions, costs, result = finer, finer_costs, finer_result
        if dense and not gained:
            break
        reach = reach if dense else -(-reach // 4)
    return result, positions, costs


def near(cuts: np.ndarray, reach: int, n: int) -> np.ndarray:
    """Positions at most `reach` samples from each cut, and both ends."""
    around = np.clip(np.unique(cuts)[:, None] + np.arange(-reach, reach + 1), 0, n)
    return np.unique(np.concatenate([[0, n], around.ravel()]))


def _windows(cuts: np.ndarray, reach: int, n: int) -> tuple[np.ndarray, bool]:
    """Positions within `reach` of each cut, both ends and the cuts among them; and whether they are
    every sample there.
    """
    unique = np.unique(cuts)
    share = max(8, CANDIDATES // unique.size)  # 8 points a window still cover the next, a quarter as wide
    dense = 2 * reach + 1 <= share
    offsets = np.arange(-reach, reach + 1) if dense else np.linspace(-reach, reach, share).round().astype(np.int64)
    around = np.clip(unique[:, None] + offsets, 0, n).ravel()
    return np.unique(np.concatenate([[0, n], unique, around])), dense


def lower_bound(costs: SegmentCosts, entries: int) -> float:
    """A cost no table can go below, wherever between candidates its cuts lie: a segment from inside cell i to inside
    cell j costs at least the cells strictly between. Valid for additive costs and for the largest error alike.
    """
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

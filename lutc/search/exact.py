"""The optimum by dynamic programming over all cuts (Bellman 1961): O(entries * positions^2)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lutc.costs.segments import SegmentCosts
from lutc.search.problem import SearchProblem
from lutc.search.result import SearchResult
from lutc.search.search import Search


@dataclass(frozen=True)
class ExactSettings:
    """It has none: the optimum is the optimum."""


_BLOCK = 128  # columns handled at once


def exact(costs: SegmentCosts, entries: int) -> SearchResult:
    """The best table of at most `entries` entries (tails included), proven over all cuts and, where `costs.exact`, all
    representable lines.
    """
    segments = costs.segments(entries)
    best = costs.left
    steps = []
    for _ in range(segments):
        reached, origin = _extend(costs, best)
        if (reached == best).all():  # one segment more changes nothing
            break
        best = reached
        steps.append(origin)
    total = costs.combine(best, costs.right)
    cuts = [int(np.argmin(total))]
    cost = float(total[cuts[0]])
    for origin in reversed(steps):
        cuts.append(int(origin[cuts[-1]]))
    return SearchResult(np.array(cuts[::-1] + cuts[:1] * (segments - len(steps))), cost, {"name": "exact"})


def _extend(costs: SegmentCosts, best: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """best[j] after one more segment [i, j), and the i it starts at; i = j is the empty segment."""
    columns = costs.matrix.T
    reached, origin = np.empty_like(best), np.empty(best.size, np.int32)
    for start in range(0, best.size, _BLOCK):
        stop = min(start + _BLOCK, best.size)
        sums = costs.combine(columns[start:stop, :stop], best[:stop])
        origin[start:stop] = sums.argmin(axis=1)
        reached[start:stop] = sums[np.arange(stop - start), origin[start:stop]]
    return reached, origin


def solve(problem: SearchProblem, settings: ExactSettings) -> SearchResult:
    """`exact` over the problem's segment costs."""
    return exact(problem.costs, problem.entries)


SEARCH = Search(
    "exact",
    "the proven optimum",
    ExactSettings,
    solve,
    takes="segments",
    objectives=("squared", "relative", "absolute", "maximum", "codes", "layer-diagonal"),
    shares=("none", "all"),
)

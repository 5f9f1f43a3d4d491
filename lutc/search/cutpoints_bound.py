"""Lower bounds on the error of tables of so many pieces: without continuity.

Every piece gets the best line of its own, whatever its neighbours. Over given piece edges the sum of those is a bound
for any values there. Over any edges the number of pieces enters as a penalty for each, so that
min(sum of costs + penalty * pieces) - penalty * budget is a bound for every penalty; the minimum is one sweep over the
samples, as in `lutc.search.segmentation`. That the pieces of an interval are equally wide is left out.
"""

from __future__ import annotations

import numpy as np

from lutc.costs.intervals import IntervalCosts
from lutc.errors import LutcError

_MARKS = 8192  # places for ends while a penalty is looked for
_SWEEPS = 3  # for that
_NOISE = 2.0**-48  # of the sum of weight * |y|: float64's


def lower_bound(costs: IntervalCosts, pieces: int, cost: float) -> float:
    """No piecewise-linear function of `pieces` pieces, joined or not, with the tails of `costs` outside, has a smaller
    sum of weight * |error| over the targets.

    cost: that of a known table, which tells the penalty's magnitude. The cap of targets is left out.
    """
    t, left, right = _checked(costs), costs.outside[0], costs.outside[1]
    from lutc.search.absolute_kernels import penalised  # brings numba

    penalty, best = 0.5 * cost / pieces, 0.0
    for block in (*[-(-len(t) // _MARKS)] * _SWEEPS, 1) if cost > 0.0 else ():
        total, used = penalised(t.x, t.y, t.weight, t.region, costs.sums, left, right, penalty, block)
        best = max(best, total - penalty * pieces)
        penalty *= (max(used, 1) / pieces) ** 3  # errors fall with the square of the pieces
    return max(min(best, cost) - _noise(costs), 0.0)


def bound_of_edges(costs: IntervalCosts, edges: np.ndarray) -> float:
    """What no values at these piece edges (ascending) go below in that sum."""
    t = _checked(costs)
    from lutc.search.absolute_kernels import run_cost  # brings numba

    at = np.searchsorted(t.x, edges)
    parts = [run_cost(t.x, t.y, t.weight, t.region, costs.sums, a, b) for a, b in zip(at[:-1], at[1:])]
    return max(float(costs.outside[0][at[0]] + sum(parts) + costs.outside[1][at[-1]]) - _noise(costs), 0.0)


def _checked(costs: IntervalCosts):
    if costs.targets.region is None or costs.norm != "l1":
        raise LutcError("a bound on absolute errors needs the norm l1 and to know where the function is convex")
    return costs.targets


def _noise(costs: IntervalCosts) -> float:
    return _NOISE * float(np.sum(costs.targets.weight * np.abs(costs.targets.y)))

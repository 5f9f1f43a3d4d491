"""A lower bound on the error of any table of so many pieces: dynamic programming without continuity.

Every piece gets the best line of its own, whatever its neighbours, and ends anywhere. Where f is convex or concave, the
least L1 error of a line is the value of its dual: signs s in [-1, 1] with sum(w s) = sum(w s x) = 0 give sum(w s f),
whatever the line; the best ones are -1 in a window that holds half of the weight and half of the moment. The number of
pieces enters as a Lagrange multiplier, so that min(sum of costs + multiplier * pieces) - multiplier * budget is a bound
for every multiplier. Piece ends are counted by blocks of samples; the block that holds an end is left out of both
pieces, which keeps it a bound.
"""

from __future__ import annotations

import numpy as np

from lutc.costs.intervals import IntervalCosts
from lutc.costs.targets import Targets
from lutc.errors import LutcError
from lutc.jit import njit

_COARSE, _FINE = 32, 8  # samples in a block: while the multiplier is searched, and for the bound
_STEPS = 6


def lower_bound(targets: Targets, pieces: int, cost: float) -> float:
    """No piecewise-linear function of `pieces` pieces, joined or not, has a smaller sum of weight * |error| over the
    targets.

    cost: that of a known table, which tells the multiplier's magnitude. Targets need their regions. Segments longer
    than those that gain by being halved are not considered, as in any optimum.
    """
    if targets.region is None:
        raise LutcError("a lower bound needs to know where the function is convex and where concave")
    sums = IntervalCosts(targets, targets.x, np.asarray)._sums
    # The error falls with the square of the pieces, so that at the optimum one more saves twice the mean cost of a
    # piece.
    low, high = 0.01 * cost / pieces, 2.0 * cost / pieces
    for _ in range(_STEPS):  # the dearer a piece, the fewer
        multiplier = np.sqrt(low * high)
        low, high = (
            (multiplier, high)
            if _relaxed(targets.x, targets.region, sums, multiplier, _COARSE)[1] > pieces
            else (low, multiplier)
        )
    bounds = [
        _relaxed(targets.x, targets.region, sums, multiplier, _FINE)[0] - multiplier * pieces
        for multiplier in (low, high)
    ]
    return max(0.0, *bounds)


@njit
def _moments(sums, i, j, base):
    """Weight, first moment about base, and weighted sum of f over [i, j)."""
    weight = (sums[j, 0] - sums[i, 0]) + (sums[j, 1] - sums[i, 1])
    first = (sums[j, 2] - sums[i, 2]) + (sums[j, 3] - sums[i, 3])
    return weight, first - base * weight, (sums[j, 4] - sums[i, 4]) + (sums[j, 5] - sums[i, 5])


@njit
def _window(x, sums, p, j, half, base):
    """First moment and sum of f of the window that starts at p and holds `half` of weight, its last sample in part."""
    low, high = p, j - 1
    while low < high:  # the last q with weight of [p, q) at most half
        middle = (low + high + 1) // 2
        if _moments(sums, p, middle, base)[0] <= half:
            low = middle
        else:
            high = middle - 1
    weight, first, f = _moments(sums, p, low, base)
    last_weight, last_first, last_f = _moments(sums, low, low + 1, base)
    share = min(max((half - weight) / last_weight, 0.0), 1.0) if last_weight > 0 else 0.0
    return first + share * last_first, f + share * last_f


@njit
def line_cost(x, sums, i, j):
    """A bound on the sum of weight * |f - line| over samples [i, j) on which f is convex, or concave, for any line.

    Two windows that start at neighbouring samples are mixed so that the moment is met; with three or more samples of
    fractional sign that falls short of the best signs by a little, which matters for runs of a few samples only.
    """
    if j - i < 3:
        return 0.0
    base = x[(i + j) // 2]
    weight, first, f = _moments(sums, i, j, base)
    half = weight / 2
    low, high = i, j - 1
    while low < high:  # the last start whose window holds at most half of the moment and fits
        middle = (low + high + 1) // 2
        if _moments(sums, middle, j, base)[0] >= half and _window(x, sums, middle, j, half, base)[0] <= first / 2:
            low = middle
        else:
            high = middle - 1
    first_a, f_a = _window(x, sums, low, j, half, base)
    if low + 1 >= j or _moments(sums, low + 1, j, base)[0] < half:
        return 0.0  # no second window to balance the moment with: 0 is a bound too
    first_b, f_b = _window(x, sums, low + 1, j, half, base)
    if not first_b > first_a:
        return 0.0
    share = (first_b - first / 2) / (first_b - first_a)
    if share < 0.0 or share > 1.0:
        return 0.0
    return abs(f - 2 * (share * f_a + (1 - share) * f_b))


@njit
def _cost(x, region, sums, i, j):
    """line_cost, added up over the regions that [i, j) crosses: separate lines cost no more than one."""
    total = 0.0
    while i < j:
        end = j if region[j - 1] == region[i] else i + np.searchsorted(region[i:j], region[i] + 1)
        total += line_cost(x, sums, i, end)
        i = end
    return total


@njit
def _relaxed(x, region, sums, multiplier, block):
    """(least cost + multiplier * pieces over all partitions, pieces of it); ends lie in blocks, which cost nothing."""
    n = x.size
    blocks = (n + block - 1) // block
    value = np.full(blocks + 2, np.inf)  # of the block in which an end lies; 0 and blocks + 1: the ends of everything
    used = np.zeros(blocks + 2, np.int64)
    value[0] = 0.0
    for u in range(blocks + 1):
        if value[u] == np.inf:
            continue
        start = u * block  # the first sample behind block u - 1 of samples
        for v in range(u + 1, blocks + 2):
            end = min((v - 1) * block, n)
            whole = _cost(x, region, sums, start, end)
            total = value[u] + whole + multiplier
            if total < value[v]:
                value[v] = total
                used[v] = used[u] + 1
            if whole > multiplier:
                middle = (start + end) // 2
                if whole - _cost(x, region, sums, start, middle) - _cost(x, region, sums, middle, end) > 2 * multiplier:
                    break
    return value[blocks + 1], used[blocks + 1]

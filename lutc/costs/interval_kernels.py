"""Compiled loops over samples (numba; imported only when a table is compiled). What they compute is said where they are
called.
"""

import numpy as np

from lutc.costs.targets import PENALTY
from lutc.jit import njit

L1, L2, MAX = 0, 1, 2  # positions in interval_costs.NORMS
_DIRECT = 48  # samples up to which a plain sum is quicker than the binary searches


@njit
def _error(x, y, k, base, value, slope):
    return y[k] - (value + slope * (x[k] - base))


@njit
def direct_cost(x, y, w, i, j, base, value, slope, norm, cap):
    """Cost of the samples [i, j) under value + slope * (x - base). In L1 what exceeds `cap` counts `PENALTY` times
    more.
    """
    total = 0.0
    if norm == L1:
        for k in range(i, j):
            e = w[k] * abs(_error(x, y, k, base, value, slope))
            total += e + PENALTY * max(e - cap, 0.0)
    elif norm == L2:
        for k in range(i, j):
            e = _error(x, y, k, base, value, slope)
            total += w[k] * e * e
    else:
        for k in range(i, j):
            total = max(total, w[k] * abs(_error(x, y, k, base, value, slope)))
    return total


@njit
def turn(x, y, i, j, slope):
    """Sample in [i, j) at which f minus a line of that slope is extreme: the first behind which f's own slope has
    passed it.
    """
    rising = (y[j - 1] - y[j - 2]) * (x[i + 1] - x[i]) >= (y[i + 1] - y[i]) * (x[j - 1] - x[j - 2])
    low, high = i, j - 1
    while low < high:
        middle = (low + high) // 2
        if ((y[middle + 1] - y[middle]) < slope * (x[middle + 1] - x[middle])) == rising:
            low = middle + 1
        else:
            high = middle
    return low


@njit
def crossing(x, y, i, j, base, value, slope):
    """First k in [i, j) whose error has not the sign of sample i's, j if there is none; the errors of [i, j) are
    monotone.
    """
    positive = _error(x, y, i, base, value, slope) > 0
    low, high = i, j
    while low < high:
        middle = (low + high) // 2
        if (_error(x, y, middle, base, value, slope) > 0) == positive:
            low = middle + 1
        else:
            high = middle
    return low


@njit
def _run(sums, i, j, base, value, slope):
    """|sum of weighted errors| over [i, j)."""
    weight = (sums[j, 0] - sums[i, 0]) + (sums[j, 1] - sums[i, 1])
    first = (sums[j, 2] - sums[i, 2]) + (sums[j, 3] - sums[i, 3])
    second = (sums[j, 4] - sums[i, 4]) + (sums[j, 5] - sums[i, 5])
    return abs((second - value * weight) - slope * (first - base * weight))


@njit
def _piece(x, y, w, region, sums, i, j, base, value, slope, norm, cap):
    """Cost of the samples [i, j): in runs where f is convex or concave, each by the prefix sums between its sign
    changes.

    The cap is left to the fit of the values and to direct sums.
    """
    if norm != L1 or j - i <= _DIRECT:
        return direct_cost(x, y, w, i, j, base, value, slope, norm, cap)
    total = 0.0
    while i < j:
        end = j
        if region[j - 1] != region[i]:
            end = i + np.searchsorted(region[i:j], region[i] + 1)
        if end - i <= _DIRECT:
            total += direct_cost(x, y, w, i, end, base, value, slope, norm, cap)
        else:
            middle = turn(x, y, i, end, slope)
            one = crossing(x, y, i, middle, base, value, slope) if middle > i else i
            two = crossing(x, y, middle, end, base, value, slope)
            total += _run(sums, i, one, base, value, slope) + _run(sums, one, middle, base, value, slope)
            total += _run(sums, middle, two, base, value, slope) + _run(sums, two, end, base, value, slope)
        i = end
    return total


@njit
def _first_at_or_above(x, start, bound):
    """First index >= start with x[index] >= bound: strides that double, then halves."""
    low, step = start, 32
    while low + step < x.size and x[low + step] < bound:
        low += step
        step *= 2
    high = min(x.size, low + step)
    while low < high:
        middle = (low + high) // 2
        if x[middle] < bound:
            low = middle + 1
        else:
            high = middle
    return low


@njit
def interval_costs(x, y, w, region, sums, edges, values, norm, cap, limit):
    """Cost of each row of pieces: edges and values (rows, pieces + 1); inf beyond `limit` and where edges coincide."""
    rows, columns = edges.shape
    result = np.zeros(rows)
    for row in range(rows):
        total = 0.0
        i = _first_at_or_above(x, 0, edges[row, 0])
        for p in range(columns - 1):
            low, high = edges[row, p], edges[row, p + 1]
            if not low < high:
                total = np.inf
                break
            j = _first_at_or_above(x, i, high)
            if j > i:
                slope = (values[row, p + 1] - values[row, p]) / (high - low)
                cost = _piece(x, y, w, region, sums, i, j, low, values[row, p], slope, norm, cap)
                total = max(total, cost) if norm == MAX else total + cost
                if total > limit:
                    total = np.inf
                    break
            i = j
        result[row] = total
    return result


@njit
def best_values(x, y, w, start, edges, options, norm, cap):
    """Choose one of options[k] (edges, n) for the value at each edge so that the whole costs least: dynamic programming
    along the chain.

    start (pieces + 1,): first sample of each piece, and the end of the last. Returns (choice (edges,) int64, cost).
    """
    size, n = options.shape
    best = np.zeros(n)
    back = np.zeros((size, n), np.int64)
    for p in range(size - 1):
        after = np.full(n, np.inf)
        width = edges[p + 1] - edges[p]
        for b in range(n):
            for a in range(n):
                slope = (options[p + 1, b] - options[p, a]) / width
                cost = direct_cost(x, y, w, start[p], start[p + 1], edges[p], options[p, a], slope, norm, cap)
                cost = max(best[a], cost) if norm == MAX else best[a] + cost
                if cost < after[b]:
                    after[b] = cost
                    back[p + 1, b] = a
        best = after
    choice = np.zeros(size, np.int64)
    choice[size - 1] = np.argmin(best)
    for p in range(size - 1, 0, -1):
        choice[p - 1] = back[p, choice[p]]
    return choice, best[choice[size - 1]]

"""What the best line costs in a weighted sum of absolute errors, bounded from below (numba).

Where f is convex or concave, that is the value of its dual: signs s in [-1, 1] with sum(w s) = sum(w s x) = 0 give
sum(w s f), whatever the line; the best ones are -1 in a window that holds half of the weight and half of the moment.
"""

from __future__ import annotations

import numpy as np

from lutc.jit import njit

FEW = 10  # samples up to which the best line is found by trying all through two of them


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
def few_cost(x, y, w, i, j):
    """The least sum of weight * |f - line| over a few samples: some best line goes through two of them."""
    least = np.inf
    for p in range(i, j):
        for q in range(p + 1, j):
            slope, cost = (y[q] - y[p]) / (x[q] - x[p]), 0.0
            for k in range(i, j):
                cost += w[k] * abs(y[k] - y[p] - slope * (x[k] - x[p]))
                if cost >= least:
                    break
            least = min(least, cost)
    return least


@njit
def run_cost(x, y, w, region, sums, i, j):
    """A bound on the sum of weight * |f - line| over samples [i, j) for any line: `line_cost`, added up over the
    regions that they cross, for separate lines cost no more than one.
    """
    if j - i < 3:
        return 0.0
    if j - i <= FEW:
        return few_cost(x, y, w, i, j)
    total = 0.0
    while i < j:
        end = j if region[j - 1] == region[i] else i + np.searchsorted(region[i:j], region[i] + 1)
        total += line_cost(x, sums, i, end)
        i = end
    return total


@njit
def penalised(x, y, w, region, sums, left, right, penalty, block):
    """(a bound on the least cost of lines with a `penalty` for each, between a left and a right tail; their number).

    left, right: (n + 1,) what the tails cost before and from each sample on. Ends lie between two of the marks that
    stand `block` samples apart, and the samples there belong to no line; with a block of 1 they lie at marks. A start
    is dropped for good once its cost so far exceeds the best: a line never costs less than two that part its samples.
    It is priced again only when its last price is below the best at hand.
    """
    n, shift = x.size, min(block - 1, 1)
    marks = (n + block - 1) // block
    value = np.full(marks + 2, np.inf)  # of starting a line at each mark
    used = np.zeros(marks + 2, np.int64)
    low = np.full(marks + 2, -np.inf)
    value[0] = left[0]
    for k in range(marks + 1):
        value[k + shift] = left[min(k * block, n)]
    best, lines, first, before = np.inf, 0, 0, 0  # before: where the best line so far starts, tried first
    for k in range(marks + 1):
        stop = min(k * block, n)
        least, count = value[k] + penalty, used[k] + 1
        for trial in range(first - 1, k):
            start = max(before, first) if trial < first else trial
            if start < k and low[start] < least and value[start] + penalty < least:
                low[start] = value[start] + penalty + run_cost(x, y, w, region, sums, start * block, stop)
                if low[start] < least:
                    least, count, before = low[start], used[start] + 1, start
        if least < value[k + shift]:
            value[k + shift], used[k + shift] = least, count
        ended = least + right[min((k + shift) * block, n)]
        if ended < best:
            best, lines = ended, count
        while first < k and low[first] - penalty >= value[k + shift]:
            first += 1
    return best, lines

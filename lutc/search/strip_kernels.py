"""Lines that stay between two bounds at every sample (numba).

low, high: (n,), at x ascending. For a slope k the intercepts that keep a run are those from max(low - k x) to
min(high - k x); only samples on the hulls of low and of high decide, and the length of that interval is concave in k.
"""

from __future__ import annotations

import numpy as np

from lutc.formats.neighbours import beyond, nearest
from lutc.jit import njit

_TRIED = 2048  # slopes to each side at most
_STEPS = 200


@njit
def _hull(x, y, i, j, sign, hull):
    """Indices of the samples i..j - 1 on the hull above `sign` * y; how many."""
    count = 0
    for c in range(i, j):
        if not np.isfinite(y[c]):
            continue
        while count > 1:
            a, b = hull[count - 2], hull[count - 1]
            turn = (x[b] - x[a]) * (y[c] - y[a]) - (x[c] - x[a]) * (y[b] - y[a])
            if sign * turn < 0.0:
                break
            count -= 1
        hull[count] = c
        count += 1
    return count


@njit
def _limits(x, low, high, above, n_above, below, n_below, k):
    """(least intercept, its sample, greatest intercept, its sample) for the slope k."""
    least, at_least, greatest, at_greatest = -np.inf, -1, np.inf, -1
    for h in range(n_above):
        c = above[h]
        t = low[c] - k * x[c]
        if t > least:
            least, at_least = t, c
    for h in range(n_below):
        c = below[h]
        t = high[c] - k * x[c]
        if t < greatest:
            greatest, at_greatest = t, c
    return least, at_least, greatest, at_greatest


@njit
def _widest(x, low, high, above, n_above, below, n_below):
    """(slope, width): where intercepts have the most room, or, where that is enough to tell, a bound below 0 on it."""
    if n_above == 0 or n_below == 0:
        return 0.0, np.inf
    first, last = above[0], above[n_above - 1]
    k = (low[last] - low[first]) / (x[last] - x[first]) if last > first else 0.0
    rising_k, rising_w, rising_d, falling_k, falling_w, falling_d = -np.inf, 0.0, 0.0, np.inf, 0.0, 0.0
    best, best_k = -np.inf, k
    for _ in range(_STEPS):
        least, p, greatest, q = _limits(x, low, high, above, n_above, below, n_below, k)
        width, turn = greatest - least, x[p] - x[q]
        if width > best:
            best, best_k = width, k
        if turn == 0.0:
            break
        if turn > 0.0:
            rising_k, rising_w, rising_d = k, width, turn
        else:
            falling_k, falling_w, falling_d = k, width, turn
        if np.isinf(rising_k) or np.isinf(falling_k):
            step = max(1.0, abs(k))
            k = k + step if turn > 0.0 else k - step
            continue
        # no width is above both tangents
        k = (falling_w - rising_w + rising_d * rising_k - falling_d * falling_k) / (rising_d - falling_d)
        if not rising_k < k < falling_k:
            break
        bound = rising_w + rising_d * (k - rising_k)
        if bound < 0.0 and best < 0.0:
            return best_k, bound
    return best_k, best


@njit
def strip_line(x, low, high, numbers, i, j, above, below):
    """(found, slope, intercept, sure): a line within the bounds at samples i..j - 1, representable where `numbers` is
    not empty (as of `lutc.search.segmentation_kernels.stored_line`); sure: where none is found, that there is none.
    """
    n_above, n_below = _hull(x, low, i, j, 1.0, above), _hull(x, high, i, j, -1.0, below)
    centre, width = _widest(x, low, high, above, n_above, below, n_below)
    if width < 0.0:
        return False, 0.0, 0.0, True
    least, _, greatest, _ = _limits(x, low, high, above, n_above, below, n_below, centre)
    if numbers.size == 0:
        return True, centre, _middle(least, greatest), True
    middle = _middle(least, greatest)
    for slopes_first in (
        True,
        False,
    ):  # a thin strip may hold too many slopes to try, but few intercepts, or the reverse
        sure = True
        for side in range(2):
            sign = 1.0 if side == 0 else -1.0
            start = centre if slopes_first else middle
            given = nearest(numbers, start)
            if side == 1:
                given = beyond(numbers, given, sign)
            for tried in range(_TRIED + 1):
                if not np.isfinite(given):
                    break
                if slopes_first:
                    least, _, greatest, _ = _limits(x, low, high, above, n_above, below, n_below, given)
                else:
                    least, greatest = _slopes(x, low, high, above, n_above, below, n_below, given)
                if least > greatest and (given - start) * sign >= 0.0:
                    break
                other = nearest(numbers, _middle(least, greatest))
                if least <= other <= greatest:
                    return True, given if slopes_first else other, other if slopes_first else given, True
                given = beyond(numbers, given, sign)
                sure = sure and tried < _TRIED
        if sure:
            return False, 0.0, 0.0, True
    return False, 0.0, 0.0, False


@njit
def _middle(least, greatest):
    """Of an interval, which may be endless."""
    if np.isfinite(least) and np.isfinite(greatest):
        return (least + greatest) / 2.0
    if np.isfinite(least):
        return least
    return greatest if np.isfinite(greatest) else 0.0


@njit
def _slopes(x, low, high, above, n_above, below, n_below, t):
    """(least, greatest) slope for the intercept t."""
    least, greatest = -np.inf, np.inf
    for side in range(2):
        for h in range(n_above if side == 0 else n_below):
            c = above[h] if side == 0 else below[h]
            room = (low[c] if side == 0 else high[c]) - t
            if x[c] == 0.0:
                if (room > 0.0) == (side == 0) and room != 0.0:
                    return np.inf, -np.inf
            elif (x[c] > 0.0) == (side == 0):
                least = max(least, room / x[c])
            else:
                greatest = min(greatest, room / x[c])
    return least, greatest


@njit
def strips(x, low, high, numbers, start, stop, most):
    """(cuts, slopes, intercepts, sure): from `start` every run as long as it can be, until `stop` or more than `most`
    runs; cuts end before `stop` where a sample has no line. sure: whether no run could have been longer.
    """
    above, below = np.empty(x.size, np.int64), np.empty(x.size, np.int64)
    cuts, slopes, intercepts = np.empty(most + 2, np.int64), np.empty(most + 1), np.empty(most + 1)
    cuts[0] = start
    count, sure, length = 0, True, 16
    while cuts[count] < stop and count <= most:
        i, reach, end = cuts[count], max(length, 1), stop + 1
        found, fails = 0, end - i  # the longest length known to fit, and the shortest known not to
        while fails - found > 1:
            trial = found + reach if fails == end - i else (found + fails) // 2
            trial = min(trial, fails - 1)
            fits, k, t, certain = strip_line(x, low, high, numbers, i, i + trial, above, below)
            if fits:
                found, slopes[count], intercepts[count] = trial, k, t
                reach *= 2
            else:
                fails = trial
                sure = sure and certain
        if found == 0:
            break
        count += 1
        cuts[count] = i + found
        length = found // 2
    return cuts[: count + 1], slopes[:count], intercepts[:count], sure

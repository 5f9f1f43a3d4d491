"""The best representable line of a run of samples, by absolute error and by errors of output codes (numba).

Samples are x, y and weight w, each (n,), ascending in x; a run is samples i..j - 1. Numbers of a format are as of
`lutc.formats.numbers.numbers_of`.
"""

from __future__ import annotations

import math

import numpy as np

from lutc.formats.neighbours import beyond, nearest
from lutc.jit import njit

_TRIED = 8192  # slopes to each side at most
_PIVOTS = 50
_EQUAL = 1e-12  # relative: sums that are equal but for float64
_SAME = 1e-9  # likewise of sums of squared codes
_LEVELS = 256  # steps of the output that a code may be off; beyond, lines near the least-squares one are tried alone
_NODES = 50_000  # intervals of slopes at most
_NEAR = 3  # codes to each side of the least-squares line where no more is tried


@njit
def _median(values, weight, size):
    """A weighted median of values[:size], the middle of all where it is an interval."""
    order = np.argsort(values[:size])
    half = 0.0
    for c in range(size):
        half += weight[c]
    half /= 2.0
    below = 0.0
    for c in range(size):
        below += weight[order[c]]
        if below > half * (1.0 + _EQUAL) or c == size - 1:
            return values[order[c]]
        if below >= half * (1.0 - _EQUAL):
            return (values[order[c]] + values[order[c + 1]]) / 2.0
    return 0.0


@njit
def _absolute(x, y, w, i, j, k, t):
    total = 0.0
    for c in range(i, j):
        total += w[c] * abs(k * x[c] + t - y[c])
    return total


@njit
def _real_slope(x, y, w, i, j, k, rest, share):
    """Slope of a line of least absolute error, from a first one: lines through one sample, turned about it until they
    meet another, and then about that one. Where neither helps, no line is better.
    """
    for c in range(i, j):
        rest[c - i], share[c - i] = y[c] - k * x[c], w[c]
    t = _median(rest, share, j - i)
    best, pivot, stale = _absolute(x, y, w, i, j, k, t), i, 0
    for c in range(i, j):
        if abs(rest[c - i] - t) < abs(rest[pivot - i] - t):
            pivot = c
    for _ in range(_PIVOTS):
        size, met = 0, pivot
        for c in range(i, j):
            if x[c] != x[pivot]:
                rest[size] = (y[c] - y[pivot]) / (x[c] - x[pivot])
                share[size] = w[c] * abs(x[c] - x[pivot])
                size += 1
        if size == 0:
            break
        turned, nearest_slope = _median(rest, share, size), np.inf
        for c in range(i, j):
            if x[c] != x[pivot]:
                slope = (y[c] - y[pivot]) / (x[c] - x[pivot])
                if abs(slope - turned) < abs(nearest_slope - turned):
                    nearest_slope, met = slope, c
        cost = _absolute(x, y, w, i, j, nearest_slope, y[pivot] - nearest_slope * x[pivot])
        if cost < best * (1.0 - _EQUAL):
            best, k, stale = cost, nearest_slope, 0
        else:
            stale += 1
            if stale == 2:
                break
        pivot = met
    return k


@njit
def absolute_line(x, y, w, i, j, numbers, start, rest, share):
    """(error, slope, intercept, real slope, proven) of the representable line of least absolute error; start: a slope
    to begin with; rest, share: room for j - i numbers.

    For a slope the best real intercept is a median, and the best stored one is next to it. The error with real
    intercepts is convex in the slope, so slopes are tried outward until it exceeds the best stored one.
    """
    real = _real_slope(x, y, w, i, j, start, rest, share)
    best, slope, intercept, proven = np.inf, 0.0, 0.0, True
    single = x[j - 1] == x[i]  # then every slope has a line through it, and their rests repeat
    for side in range(2):
        sign = 1.0 if side == 0 else -1.0
        first = k = nearest(numbers, real)
        if side == 1:
            k = beyond(numbers, k, sign)
        before, inside = np.inf, True
        for tried in range(_TRIED + 1):
            if not math.isfinite(k):
                break
            for c in range(i, j):
                rest[c - i], share[c - i] = y[c] - k * x[c], w[c]
            t = _median(rest, share, j - i)
            least = _absolute(x, y, w, i, j, k, t)
            if tried > 0 and least >= best * (1.0 - _EQUAL) and least >= before:
                break
            before = least
            near = nearest(numbers, t)
            inside = inside and abs(near - t) <= numbers[1]
            for given in (near, beyond(numbers, near, 1.0 if near <= t else -1.0)):
                if math.isfinite(given):
                    cost = _absolute(x, y, w, i, j, k, given)
                    if cost < best * (1.0 - _EQUAL):
                        best, slope, intercept = cost, k, given
            k = beyond(numbers, k, sign)
            moved = (k - first) * x[i] / numbers[1]
            if single and inside and numbers[0] > 64 and moved == np.rint(moved):
                break
            proven = proven and tried < _TRIED
    return best, slope, intercept, real, proven


@njit
def code_errors(q, target, w, i, j, slope, intercept, thresholds):
    """Weighted squared errors of codes of a line in integers: acc = slope * q + intercept; thresholds[c] is the least
    acc whose code is c + 1 above the least code.
    """
    total = 0.0
    for c in range(i, j):
        off = np.searchsorted(thresholds, slope * q[c] + intercept, side="right") - target[c]
        total += w[c] * off * off
    return total


@njit
def _scaled(t, scale):
    return math.floor(t / scale + 0.5)


@njit
def _least_intercept(acc, scale):
    """The least intercept code whose scaled one is at least `acc`."""
    t = math.ceil((acc - 0.5) * scale)
    while _scaled(t, scale) < acc:
        t += 1
    while _scaled(t - 1, scale) >= acc:
        t -= 1
    return t


@njit
def _steps(q, target, w, i, j, low, high, anchor, thresholds, best, at, change):
    """(cost far below, steps): where the least error that a slope in low..high leaves changes with acc at q = anchor.

    A code that is off by more than sqrt(best / w) costs more than `best`; it counts as one more than that.
    """
    count, far = 0, 0.0
    for c in range(i, j):
        if w[c] <= 0.0:
            continue
        depth = int(min(math.sqrt(best / w[c]), float(_LEVELS))) + 1
        turn = q[c] - anchor
        least, most = min(low * turn, high * turn), max(low * turn, high * turn)
        under, over = min(depth, target[c]), min(depth, thresholds.size - target[c])
        far += w[c] * under * under
        for off in range(1, under + 1):
            at[count], change[count] = thresholds[target[c] - off] - most, -w[c] * (2 * off - 1)
            count += 1
        for off in range(1, over + 1):
            at[count], change[count] = thresholds[target[c] + off - 1] - least, w[c] * (2 * off - 1)
            count += 1
    return far, count


@njit
def _lowest(far, at, change, count):
    """Least sum over all places."""
    order = np.argsort(at[:count])
    total = least = far
    for c in range(count):
        total += change[order[c]]
        if c == count - 1 or at[order[c + 1]] != at[order[c]]:
            least = min(least, total)
    return least


@njit
def _best_intercept(q, target, w, i, j, slope, want, thresholds, limits, scale, best, at, change):
    """(error, intercept code) of the best intercept for a slope, of several the nearest to `want`."""
    far, count = _steps(q, target, w, i, j, slope, slope, 0, thresholds, best, at, change)
    for c in range(count):
        at[c] = _least_intercept(at[c], scale)
    order = np.argsort(at[:count])
    total, least, found, c = far, np.inf, limits[0], 0
    low = limits[0]
    while True:
        while c < count and at[order[c]] <= low:
            total += change[order[c]]
            c += 1
        high = min(at[order[c]] - 1, limits[1]) if c < count else limits[1]
        near = min(max(want, low), high)
        if total < least - _SAME or (total <= least + _SAME and abs(near - want) < abs(found - want)):
            least, found = min(total, least), near
        if c == count or at[order[c]] > limits[1]:
            return least, found
        low = at[order[c]]


@njit
def codes_line(q, x, y, target, w, i, j, floor, limit, around, limits, step, scale, thresholds, at, change, stack):
    """(error, slope code, intercept code, proven) of the line whose output codes are the least off, weighted squared.

    around: slope codes to begin with, the first of the least-squares line. floor: no line costs less; limit: more is
    not told apart. limits: least and greatest code of a coefficient, and `step` what one stands for. at, change: room.
    Intervals of slopes are halved, those first that lie next to the least-squares slope, while the error that one of
    them could at least have is below the best.
    """
    weight, mean_x, mean_y, heaviest = 0.0, 0.0, 0.0, 0.0
    for c in range(i, j):
        weight += w[c]
        mean_x += w[c] * x[c]
        mean_y += w[c] * y[c]
        heaviest = max(heaviest, w[c])
    if weight <= 0.0:
        return 0.0, min(max(around[0], limits[0]), limits[1]), 0, True
    mean_x, mean_y = mean_x / weight, mean_y / weight
    best, slope, intercept = np.inf, 0, 0
    for given in around:
        k = min(max(given, limits[0]), limits[1])
        middle = min(max(int(np.rint(mean_y / step - k * mean_x)), limits[0]), limits[1])
        for t in range(max(middle - _NEAR, limits[0]), min(middle + _NEAR, limits[1]) + 1):
            cost = code_errors(q, target, w, i, j, k, _scaled(t, scale), thresholds)
            nearer = abs(t - middle) < abs(intercept - middle) and k == slope
            if cost < best - _SAME or (cost <= best + _SAME and nearer):
                best, slope, intercept = cost, k, t
    if best <= floor + _SAME:
        return best, slope, intercept, True
    far_off = min(math.sqrt(best / heaviest), thresholds.size) > _LEVELS
    if far_off or 2 * (j - i) * (_LEVELS + 1) > at.size:
        return best, slope, intercept, False
    limit = min(limit, 1e300)
    middle, anchor = around[0], q[(i + j) // 2]
    count, nodes, sure = 1, 0, True
    stack[0, 0], stack[0, 1] = limits[0], limits[1]
    while count > 0:
        count -= 1
        low, high = stack[count, 0], stack[count, 1]
        nodes += 1
        if nodes > _NODES:
            return best, slope, intercept, False
        bound = min(best, limit)
        if low == high:
            want = int(np.rint(mean_y / step - low * mean_x))
            error, t = _best_intercept(q, target, w, i, j, low, want, thresholds, limits, scale, bound, at, change)
            if error < bound - _SAME:
                cost = code_errors(q, target, w, i, j, low, _scaled(t, scale), thresholds)
                sure = sure and cost <= error + _SAME
                if cost < best - _SAME:
                    best, slope, intercept = cost, low, t
                if best <= floor + _SAME:
                    break
            continue
        far, size = _steps(q, target, w, i, j, low, high, anchor, thresholds, bound, at, change)
        if _lowest(far, at, change, size) >= bound - _SAME:
            continue
        half = low + (high - low) // 2
        nearer_low = middle <= half
        for part in range(2):  # the one that is looked at first comes last
            upper = (part == 0) == nearer_low
            stack[count, 0], stack[count, 1] = (half + 1, high) if upper else (low, half)
            count += 1
    return best, slope, intercept, sure


@njit
def absolute_runs(x, y, w, offsets, numbers, limit, matrix, slopes, intercepts):
    """Write the least absolute error of every run of cells, and its line; whether all are proven. offsets: (size + 1,)
    first sample of each cell. Runs that cost more than `limit` get a stand-in above it that grows with their length.
    """
    size, proven = offsets.size - 1, True
    rest, share = np.empty(x.size), np.empty(x.size)
    for i in range(size):
        before = max(offsets[i] - 1, 0)
        after = before + 1 if before + 1 < x.size else before
        real = (y[after] - y[before]) / (x[after] - x[before]) if after > before else 0.0
        for j in range(i + 1, size + 1):
            cost, slope, intercept, real, sure = absolute_line(
                x, y, w, offsets[i], offsets[j], numbers, real, rest, share
            )
            proven = proven and sure
            matrix[i, j], slopes[i, j], intercepts[i, j] = cost, slope, intercept
            if cost > limit:
                for more in range(j + 1, size + 1):
                    matrix[i, more] = cost * (1.0 + (more - j) / size)
                break
    return proven


@njit
def absolute_lines(x, y, w, cuts, numbers):
    """(errors, slopes, intercepts), each (segments,), of the best representable lines between samples `cuts`."""
    errors, slopes, intercepts = np.zeros(cuts.size - 1), np.zeros(cuts.size - 1), np.zeros(cuts.size - 1)
    rest, share = np.empty(x.size), np.empty(x.size)
    for s in range(cuts.size - 1):
        i, j = cuts[s], cuts[s + 1]
        if i < j:
            start = (y[j - 1] - y[i]) / (x[j - 1] - x[i]) if j - i > 1 else 0.0
            errors[s], slopes[s], intercepts[s] = absolute_line(x, y, w, i, j, numbers, start, rest, share)[:3]
    return errors, slopes, intercepts


@njit
def _least_squares_slope(x, y, w, i, j):
    weight, mean_x, mean_y, xx, xy = 0.0, 0.0, 0.0, 0.0, 0.0
    for c in range(i, j):
        weight += w[c]
        mean_x += w[c] * x[c]
        mean_y += w[c] * y[c]
    if weight > 0.0:
        mean_x, mean_y = mean_x / weight, mean_y / weight
    for c in range(i, j):
        xx += w[c] * (x[c] - mean_x) ** 2
        xy += w[c] * (x[c] - mean_x) * (y[c] - mean_y)
    if xx > 0.0:
        return xy / xx
    before = max(i - 1, 0)
    after = before + 1 if before + 1 < x.size else before
    return (y[after] - y[before]) / (x[after] - x[before]) if after > before else 0.0


@njit
def code_runs(
    q, x, y, target, w, offsets, limit, limits, step, scale, thresholds, room, floors, matrix, slopes, intercepts
):
    """The same for weighted squared errors of output codes, as `codes_line` finds them; slopes and intercepts are codes
    of coefficients. room: how many places of change may be kept; floors: (size + 1, size + 1) of zeros, for the errors.
    """
    size, proven = offsets.size - 1, True
    at, change, stack = np.empty(room, np.int64), np.empty(room), np.empty((128, 2), np.int64)
    around = np.empty(2, np.int64)
    for i in range(size - 1, -1, -1):
        for j in range(i + 1, size + 1):
            a, b = offsets[i], offsets[j]
            around[0] = int(np.rint(_least_squares_slope(x, y, w, a, b) / step))
            around[1] = int(slopes[i, j - 1]) if j > i + 1 else around[0]
            floor = max(floors[i, j - 1], floors[i + 1, j])
            cost, slope, intercept, sure = codes_line(
                q, x, y, target, w, a, b, floor, limit, around, limits, step, scale, thresholds, at, change, stack
            )
            proven = proven and sure
            matrix[i, j], slopes[i, j], intercepts[i, j], floors[i, j] = cost, slope, intercept, min(cost, limit)
            if cost > limit:
                for more in range(j + 1, size + 1):
                    matrix[i, more], floors[i, more] = cost * (1.0 + (more - j) / size), limit
                break
    return proven

"""What the best line of a run of samples costs in a sum of weight * |error|, bounded from below (numba).

The bound is the value of a dual: signs s in [-1, 1] with sum(w s) = sum(w s x) = 0 give sum(w s y), whatever the line.
Signs are +1 and -1 by turns; the window between two changes of sign is moved until both sums vanish, with at most two
fractions, at its ends. Where f is convex or concave there are two changes, and the bound is the least sum itself; over
an inflection the other changes are where the best real line, found by Newton's method or by halving, crosses f.
"""

from __future__ import annotations

import math

import numpy as np

from lutc.costs.interval_kernels import crossing, turn
from lutc.jit import njit
from lutc.search.absolute_kernels import FEW, few_cost
from lutc.search.absolute_windows import line_cost, sum_of, window

CHANGES = 26  # room for changes of sign, and both ends
_STEPS = 8  # of Newton's method
_HALVINGS = 48
_FINE = 2.0**-16  # of the error of a line; steps between lines that are no matter
_NOISE = 2.0**-49  # of the values: float64's
_NEAR = 3e-5  # relative; so near to the least sum a bound may stay


@njit
def _changes(x, y, region, i, j, value, slope, at):
    """(number, first sign) of the changes of sign of y - value - slope * (x - x[i]) over [i, j), written to `at` behind
    i and with j behind them; number -1 where they are too many.
    """
    base, count, first, sign = x[i], 0, 0.0, 0.0
    at[0] = i
    begin = i
    while begin < j:
        end = j if region[j - 1] == region[begin] else begin + np.searchsorted(region[begin:j], region[begin] + 1)
        middle = turn(x, y, begin, end, slope) if end - begin > 1 else begin
        for part in range(2):
            a, b = (begin, middle) if part == 0 else (middle, end)
            if a >= b:
                continue
            here = 1.0 if y[a] - (value + slope * (x[a] - base)) > 0.0 else -1.0
            passed = crossing(x, y, a, b, base, value, slope)
            for place, side in ((a, here), (passed, -here)):
                if place < b:
                    if sign == 0.0:
                        first = side
                    elif side != sign:
                        count += 1
                        if count + 2 > at.size:
                            return -1, first
                        at[count] = place
                    sign = side
        begin = end
    at[count + 1] = j
    return count, first


@njit
def _signed(sums, k, at, count, first):
    """Sum over all samples with their signs of weight (k = 0), weight * x (2), weight * y (4)."""
    total, sign = 0.0, first
    for c in range(count + 1):
        total += sign * sum_of(sums, k, at[c], at[c + 1])
        sign = -sign
    return total


@njit
def _fitted(x, y, region, sums, i, j, line, at):
    """(count, first sign, sum) of the changes of sign about the best real line; line: (value at x[i], slope), a first
    one, replaced by the best. count is -1 where changes are too many.

    Newton's method: a change of sign adds its samples' weight by how steeply the error passes 0 there. While that finds
    no better line, the same of a line whose errors are spread evenly is added (Levenberg).
    """
    best, found, first, damping = np.inf, -1, 0.0, 0.0
    value, slope = line[0], line[1]
    trial = np.empty_like(at)
    total = sum_of(sums, 0, i, j)
    middle, span = sum_of(sums, 2, i, j) - x[i] * total, x[j - 1] - x[i]
    a, b, c, weight, moment = 0.0, 0.0, 0.0, 0.0, 0.0
    for _ in range(_STEPS):
        count, sign = _changes(x, y, region, i, j, value, slope, trial)
        if count < 0:
            return found, first, best
        weight_here = _signed(sums, 0, trial, count, sign)
        moment_here = _signed(sums, 2, trial, count, sign) - x[i] * weight_here
        cost = _signed(sums, 4, trial, count, sign) - value * weight_here - slope * moment_here
        if cost < best:
            same = found == count
            for k in range(count + 2):
                same = same and at[k] == trial[k]
                at[k] = trial[k]
            best, found, first, weight, moment = cost, count, sign, weight_here, moment_here
            line[0], line[1] = value, slope
            if same:
                break
            damping *= 0.1
            a, b, c = 0.0, 0.0, 0.0
            for k in range(1, count + 1):
                p, q = trial[k] - 1, trial[k]
                rise = abs((y[q] - y[p]) - slope * (x[q] - x[p]))
                if rise > 0.0:
                    here, dense = 0.5 * (x[p] + x[q]) - x[i], sum_of(sums, 0, p, q + 1) / rise
                    a, b, c = a + dense, b + dense * here, c + dense * here * here
        else:
            damping = max(4.0 * damping, 0.25)
        even = damping * total / best if best > 0.0 else 0.0
        for _ in range(2):
            aa, bb, cc = a + even * total, b + even * middle, c + even * total * span * span / 3.0
            whole = aa * cc - bb * bb
            if whole > 1e-6 * aa * cc:
                break
            even = total / best if best > 0.0 else 0.0
            damping = max(damping, 1.0)
        if not whole > 0.0:
            break
        value = line[0] + (cc * weight - bb * moment) / whole
        slope = line[1] + (aa * moment - bb * weight) / whole
    return found, first, best


@njit
def _level(x, y, region, sums, i, j, value, slope, step, at):
    """(value at x[i], moment) of the line of that slope with as much weight above as below: by halving about a first
    value; moment of the signs about x[i].
    """
    low, high, fall = -np.inf, np.inf, step
    moment = 0.0
    for _ in range(_HALVINGS):
        count, sign = _changes(x, y, region, i, j, value, slope, at)
        if count < 0:
            return np.nan, 0.0
        weight = _signed(sums, 0, at, count, sign)
        moment = _signed(sums, 2, at, count, sign) - x[i] * weight
        if weight > 0.0:
            low = value
        elif weight < 0.0:
            high = value
        else:
            break
        if math.isinf(low) or math.isinf(high):
            value, fall = (value + fall if weight > 0.0 else value - fall), 4.0 * fall
        else:
            if high - low < _FINE * step:
                break
            value = 0.5 * (low + high)
    return value, moment


@njit
def _halved(x, y, region, sums, i, j, line, mean, at):
    """The best real line, `line`, by halving slopes: a sum of absolute errors is convex. mean: the error of a line that
    is known, by the weight, which tells steps. Whether it is found.
    """
    step = mean / (x[j - 1] - x[i])
    low, high, rise, value, slope = -np.inf, np.inf, step, line[0], line[1]
    for _ in range(_HALVINGS):
        value, moment = _level(x, y, region, sums, i, j, value, slope, mean, at)
        if math.isnan(value):
            return False
        line[0], line[1] = value, slope
        if moment > 0.0:
            low = slope
        else:
            high = slope
        if math.isinf(low) or math.isinf(high):
            slope, rise = (slope + rise if moment > 0.0 else slope - rise), 4.0 * rise
        else:
            if high - low < _FINE * step:
                break
            slope = 0.5 * (low + high)
    return True


@njit
def _balanced(x, sums, i, j, count, first, at):
    """The value of the dual for signs that change as in `at`, one window between two changes moved until both sums
    vanish: of the one for which that is the greatest; -1 where there is none.
    """
    best, base, sign = -1.0, x[i], first
    weight, f = _signed(sums, 0, at, count, first), _signed(sums, 4, at, count, first)
    moment = _signed(sums, 2, at, count, first) - base * weight
    for c in range(1, count):
        sign = -sign  # that of the window between changes c and c + 1
        held = sum_of(sums, 0, at[c], at[c + 1])
        inner = sum_of(sums, 2, at[c], at[c + 1]) - base * held
        wanted, wanted_moment = held - 0.5 * sign * weight, inner - 0.5 * sign * moment
        part, p = window(x, sums, at[c - 1], at[c + 2], wanted, wanted_moment, base, at[c])
        if p >= 0:
            best = max(best, f + 2.0 * sign * (part - sum_of(sums, 4, at[c], at[c + 1])))
    return best


@njit
def _bent_cost(x, y, region, sums, i, j, line, at):
    """A bound on the least sum over samples [i, j) that hold inflections, from the signs about the best real line; -1
    where it is not found. line: see `_fitted`.
    """
    count, first, cost = _fitted(x, y, region, sums, i, j, line, at)
    if count < 0:
        return -1.0
    best, weight = _balanced(x, sums, i, j, count, first, at), sum_of(sums, 0, i, j)
    if cost <= _NOISE * weight * max(abs(y[i]), abs(y[j - 1])):
        return max(best, 0.0)
    if cost > best * (1.0 + _NEAR):
        if _halved(x, y, region, sums, i, j, line, cost / weight, at):
            count, first = _changes(x, y, region, i, j, line[0], line[1], at)
            best = max(best, _balanced(x, sums, i, j, count, first, at))
    return best


@njit
def run_cost(x, y, w, region, sums, i, j, guess, line, at):
    """A bound on the sum of weight * |y - line| over samples [i, j) for any line, near the least one.

    guess (1,), line (2,): where to begin, from the last run of the same start, and left there for the next; a slope
    that is no number is none. at: room for changes of sign.
    """
    if j - i < 3:
        return 0.0
    if j - i <= FEW:
        return few_cost(x, y, w, i, j)
    if region[i] == region[j - 1]:
        cost, guess[0] = line_cost(x, sums, i, j, guess[0] if guess[0] > i else i + (j - i) // 6)
        return cost
    for _ in range(2):
        known = not math.isnan(line[1])
        if not known:
            p, q = i + (j - i) // 6, i + 5 * (j - i) // 6
            line[1] = (y[q] - y[p]) / (x[q] - x[p])
            line[0] = y[p] - line[1] * (x[p] - x[i])
        cost = _bent_cost(x, y, region, sums, i, j, line, at)
        if cost >= 0.0:
            return cost
        line[1] = np.nan
        if not known:
            break
    total = 0.0
    while i < j:  # separate lines cost no more than one
        end = j if region[j - 1] == region[i] else i + np.searchsorted(region[i:j], region[i] + 1)
        total += line_cost(x, sums, i, end, i + (end - i) // 6)[0]
        i = end
    return total

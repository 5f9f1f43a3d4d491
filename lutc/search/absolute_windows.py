"""Where signs +1 and -1 by turns balance: windows of samples that hold a weight and a moment (numba).

`sums`: (n + 1, 6) prefix sums of weight, weight * x and weight * y, each as high and low part.
"""

from __future__ import annotations

from lutc.jit import njit


@njit
def sum_of(sums, k, i, j):
    """Over [i, j) of weight (k = 0), weight * x (2), weight * y (4)."""
    return (sums[j, k] - sums[i, k]) + (sums[j, k + 1] - sums[i, k + 1])


@njit
def _reach(sums, p, high, weight, guess):
    """Last q in [p, high] with weight of [p, q) at most `weight`, sought outward from a guess."""
    a, b, step = p, high, 1
    q = min(max(guess, p), high)
    if sum_of(sums, 0, p, q) <= weight:
        a = q
        while a + step <= high:
            if sum_of(sums, 0, p, a + step) > weight:
                b = a + step - 1
                break
            a, step = a + step, 2 * step
    else:
        b = q - 1
        while b - step >= p:
            if sum_of(sums, 0, p, b - step) <= weight:
                a = b - step
                break
            b, step = b - step - 1, 2 * step
    while a < b:
        q = (a + b + 1) // 2
        if sum_of(sums, 0, p, q) <= weight:
            a = q
        else:
            b = q - 1
    return a


@njit
def _from(x, sums, p, high, weight, base, guess):
    """(fits, q, moment about base, sum of weight * y) of the window that starts at p and holds `weight`, sample q in
    part; whether it ends by `high`.
    """
    q = _reach(sums, p, high, weight, guess)
    held = sum_of(sums, 0, p, q)
    moment, f, rest = sum_of(sums, 2, p, q) - base * held, sum_of(sums, 4, p, q), weight - held
    if rest > 0.0:
        if q >= high:
            return False, q, moment, f
        last = sum_of(sums, 0, q, q + 1)
        share = min(rest / last, 1.0) if last > 0.0 else 0.0
        moment += share * (sum_of(sums, 2, q, q + 1) - base * last)
        f += share * sum_of(sums, 4, q, q + 1)
    return True, q, moment, f


@njit
def window(x, sums, low, high, weight, moment, base, guess):
    """(sum of weight * y, first sample) of the window in [low, high) that holds `weight` and `moment` about base, the
    samples at its ends in part; first sample -1 where there is none. guess: a first sample.
    """
    if not weight > 0.0:
        return 0.0, -1
    a, b, step, length = low, high - 1, 1, (high - low) // 2
    p = min(max(guess, low), high - 1)
    fits, q, m, f = _from(x, sums, p, high, weight, base, p + length)
    length = q - p
    if fits and m <= moment:
        a = p
        while a + step < high:
            fits, q, m, f = _from(x, sums, a + step, high, weight, base, a + step + length)
            if not fits or m > moment:
                b = a + step - 1
                break
            a, length, step = a + step, q - a - step, 2 * step
    else:
        b = p - 1
        while b - step >= low:
            fits, q, m, f = _from(x, sums, b - step, high, weight, base, b - step + length)
            if fits and m <= moment:
                a = b - step
                break
            b, length, step = b - step - 1, q - b + step, 2 * step
    while a < b:
        p = (a + b + 1) // 2
        fits, q, m, f = _from(x, sums, p, high, weight, base, p + length)
        length = q - p
        if fits and m <= moment:
            a = p
        else:
            b = p - 1
    if a >= high:
        return 0.0, -1
    fits, q, m, f = _from(x, sums, a, high, weight, base, a + length)
    if not fits or m > moment:
        return 0.0, -1
    after, end, m_after, f_after = _from(x, sums, a + 1, high, weight, base, q)
    # between two starts the end passes samples; in between moment and sum are linear in the part that is left out
    own, left, right = sum_of(sums, 0, a, a + 1), q + 1, min(end, high)
    own_moment, own_f = sum_of(sums, 2, a, a + 1) - base * own, sum_of(sums, 4, a, a + 1)
    while left <= right and own > 0.0:
        middle = (left + right) // 2
        held = sum_of(sums, 0, a, middle)
        share = (held - weight) / own
        m_here = sum_of(sums, 2, a, middle) - base * held - share * own_moment
        f_here = sum_of(sums, 4, a, middle) - share * own_f
        if m_here <= moment:
            m, f, left = m_here, f_here, middle + 1
        else:
            after, m_after, f_after, right = True, m_here, f_here, middle - 1
    if not after or m_after < moment:
        return 0.0, -1
    share = (moment - m) / (m_after - m) if m_after > m else 0.0
    return f + share * (f_after - f), a


@njit
def line_cost(x, sums, i, j, guess):
    """(least sum of weight * |y - line| over samples [i, j) on which f is convex, or concave; where the line first
    crosses f, to begin with next time). 0 is a bound where no signs are found.
    """
    if j - i < 3:
        return 0.0, i
    base, weight = x[i], sum_of(sums, 0, i, j)
    moment = sum_of(sums, 2, i, j) - base * weight
    f, p = window(x, sums, i, j, 0.5 * weight, 0.5 * moment, base, guess)
    return (abs(sum_of(sums, 4, i, j) - 2.0 * f), p) if p >= 0 else (0.0, i)

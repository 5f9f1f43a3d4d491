"""Softmax and norms of float32 rows on the CPU: one numba function per operator around the table's own kernel (lutc.nn.cpu), row by row,
with what is in between in the first-level cache; rows are shared among the threads."""

from __future__ import annotations

import math
from functools import cache

import numpy as np

from lutc.nn import cpu

FLOOR = np.float32(-87.0)  # as in lutc.nn.rows
_FEW = 1 << 15  # elements up to which one thread is as fast
_LANES = 16  # partial results of a reduction side by side, which the compiler turns into vector instructions


@cpu.compiled
def _largest(x, lanes):
    """Maximum of a row, NaN left out; lanes: scratch of _LANES float32."""
    n, lanes[:] = x.size, -np.inf
    whole = n - n % _LANES
    for i in range(0, whole, _LANES):
        for j in range(_LANES):
            lanes[j] = x[i + j] if x[i + j] > lanes[j] else lanes[j]
    top = np.float32(-np.inf)
    for i in range(whole, n):
        top = x[i] if x[i] > top else top
    for j in range(_LANES):
        top = lanes[j] if lanes[j] > top else top
    return top


@cpu.compiled
def _sum(x, middle, power, lanes):
    """Sum of (x - middle) ** power over a row, power 1 or 2, float64; lanes: scratch of _LANES float64."""
    n, lanes[:] = x.size, 0.0
    whole = n - n % _LANES
    total = 0.0
    if power == 1:
        for i in range(0, whole, _LANES):
            for j in range(_LANES):
                lanes[j] += x[i + j]
        for i in range(whole, n):
            total += x[i]
    else:
        for i in range(0, whole, _LANES):
            for j in range(_LANES):
                lanes[j] += (x[i + j] - middle) * (x[i + j] - middle)
        for i in range(whole, n):
            total += (x[i] - middle) * (x[i] - middle)
    for j in range(_LANES):
        total += lanes[j]
    return total


@cache
def _softmax(exp, reciprocal, by_period: bool):
    divide = reciprocal is None
    reciprocal = exp if divide else reciprocal  # numba wants a function there

    @cpu.compiled
    def run(x, out, words, arguments, r_words, r_arguments, inverse, high, low, last):
        rows, n = x.shape
        d, w, body, bits = np.empty(n, np.float32), np.empty(n, np.float32), np.empty(n, np.float32), np.empty(n, np.int32)
        power = bits.view(np.float32)
        one, root, lanes, wide = np.empty(1, np.float32), np.empty(1, np.float32), np.empty(_LANES, np.float32), np.empty(_LANES, np.float64)
        for row in range(rows):
            top = _largest(x[row], lanes)  # a NaN comes back through its own weight
            for i in range(n):
                d[i] = x[row, i] - top
            if by_period:
                for i in range(n):
                    inside = d[i] if d[i] > FLOOR else FLOOR
                    k = np.floor(inside * inverse)
                    bits[i] = (np.int32(k) + np.int32(127)) << 23  # 2**k
                    r = (inside - k * high) - k * low
                    w[i] = min(max(r, np.float32(0.0)), last)
                exp(w.ctypes.data, body.ctypes.data, n, words.ctypes.data, words.size, *arguments)
                for i in range(n):
                    w[i] = body[i] * power[i] if d[i] == d[i] else d[i]
            else:
                exp(d.ctypes.data, w.ctypes.data, n, words.ctypes.data, words.size, *arguments)
            for i in range(n):
                w[i] = np.float32(0.0) if (w[i] < 0) | (d[i] < FLOOR) else w[i]
            total = _sum(w, np.float32(0.0), 1, wide)
            factor = np.float32(1.0 / total)
            if not divide and total == total:
                mantissa, exponent = math.frexp(np.float32(total))
                one[0] = 2 * mantissa
                reciprocal(one.ctypes.data, root.ctypes.data, 1, r_words.ctypes.data, r_words.size, *r_arguments)
                factor = np.float32(math.ldexp(root[0], 1 - exponent))
            for i in range(n):
                out[row, i] = w[i] * factor

    return run


@cache
def _norm(rsqrt):
    @cpu.compiled
    def run(x, out, mean, variance, weight, bias, eps, centred, words, arguments):
        rows, n = x.shape
        one, root, wide = np.empty(1, np.float32), np.empty(1, np.float32), np.empty(_LANES, np.float64)
        for row in range(rows):
            middle = np.float32(0.0)
            if centred:
                middle = np.float32(_sum(x[row], middle, 1, wide) / n)
            spread = np.float32(_sum(x[row], middle, 2, wide) / n)
            mean[row, 0], variance[row, 0] = middle, spread
            v = np.float32(spread + eps)
            factor = np.float32(np.nan)
            if v > 0 and v < np.inf:
                mantissa, exponent = math.frexp(v)
                half = (exponent - 1) >> 1
                one[0] = math.ldexp(mantissa, exponent - 2 * half)
                rsqrt(one.ctypes.data, root.ctypes.data, 1, words.ctypes.data, words.size, *arguments)
                factor = np.float32(math.ldexp(root[0], -half))
            elif v == 0:
                factor = np.float32(np.inf)
            elif v == np.inf:
                factor = np.float32(0.0)
            for i in range(n):
                out[row, i] = (x[row, i] - middle) * factor
            if weight.size:
                for i in range(n):
                    out[row, i] *= weight[i]
            if bias.size:
                for i in range(n):
                    out[row, i] += bias[i]

    return run


def _shared(kernel, per_row: tuple, rest: tuple, threads: int) -> None:
    """kernel(*per_row, *rest) with the rows of the arrays in per_row shared among threads."""
    rows = per_row[0].shape[0]
    parts = min(threads, rows) if per_row[0].size > _FEW else 1
    step = -(-rows // parts)
    jobs = [cpu._pool(threads).submit(kernel, *(array[a : a + step] for array in per_row), *rest) for a in range(step, rows, step)]
    kernel(*(array[:step] for array in per_row), *rest)
    for job in jobs:
        job.result()


def softmax(x: np.ndarray, out: np.ndarray, exp, reciprocal, period: float, threads: int) -> None:
    """out = softmax of the rows of x, float32 (rows, n). exp, reciprocal: (words, meta); the latter None to divide."""
    exp_kernel, arguments = cpu._numbers(tuple(exp[1]), False)
    by, by_arguments = (None, arguments) if reciprocal is None else cpu._numbers(tuple(reciprocal[1]), False)
    high = math.ldexp(round(math.ldexp(period, 14)), -14)
    numbers = (np.float32(1 / period if period else 0.0), np.float32(high), np.float32(period - high), np.float32(period * (1 - 2.0**-24)))
    rest = (exp[0], arguments, exp[0] if reciprocal is None else reciprocal[0], by_arguments, *numbers)
    _shared(_softmax(exp_kernel, by, bool(period)), (x, out), rest, threads)


def norm(x, weight, bias, out, mean, variance, eps: float, centred: bool, plan, threads: int) -> None:
    """out = LayerNorm (`centred`) or RMSNorm of the rows of x, float32 (rows, n); mean, variance (rows, 1); weight, bias (n,) or empty."""
    kernel, arguments = cpu._numbers(tuple(plan[1]), False)
    _shared(_norm(kernel), (x, out, mean, variance), (weight, bias, np.float64(eps), centred, plan[0], arguments), threads)

"""Softmax and norms of float32 rows on the CPU: one numba function per operator around the table's own kernel (lutc.nn.cpu), row by row,
with what is in between in the first-level cache; rows are shared among the threads."""

from __future__ import annotations

import math
from functools import cache

import numpy as np

from lutc.nn import cpu

FLOOR = np.float32(-87.0)  # as in lutc.nn.rows
_FEW = 1 << 15  # elements up to which one thread is as fast


@cache
def _softmax(exp, reciprocal, by_period: bool):
    divide = reciprocal is None
    reciprocal = exp if divide else reciprocal  # numba wants a function there

    @cpu.compiled
    def run(x, out, words, arguments, r_words, r_arguments, period, high, last):
        rows, n = x.shape
        d, w, k, body = np.empty(n, np.float32), np.empty(n, np.float32), np.empty(n, np.float32), np.empty(n, np.float32)
        one, root = np.empty(1, np.float32), np.empty(1, np.float32)
        for row in range(rows):
            top = np.float32(-np.inf)
            for i in range(n):
                top = x[row, i] if x[row, i] > top else top  # a NaN comes back through its own weight
            for i in range(n):
                d[i] = x[row, i] - top
            if by_period:
                for i in range(n):
                    inside = d[i] if d[i] > FLOOR else FLOOR
                    k[i] = np.floor(inside / period)
                    r = (inside - k[i] * high) - k[i] * (period - high)
                    w[i] = min(max(r, np.float32(0.0)), last)
                exp(w.ctypes.data, body.ctypes.data, n, words.ctypes.data, words.size, *arguments)
                for i in range(n):
                    w[i] = body[i] * np.float32(2.0) ** k[i] if d[i] == d[i] else d[i]
            else:
                exp(d.ctypes.data, w.ctypes.data, n, words.ctypes.data, words.size, *arguments)
            total = 0.0
            for i in range(n):
                v = np.float32(0.0) if w[i] < 0 or d[i] < FLOOR else w[i]
                w[i] = v
                total += v
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
        one, root = np.empty(1, np.float32), np.empty(1, np.float32)
        for row in range(rows):
            middle = np.float32(0.0)
            if centred:
                total = 0.0
                for i in range(n):
                    total += x[row, i]
                middle = np.float32(total / n)
            squares = 0.0
            for i in range(n):
                deviation = x[row, i] - middle
                squares += deviation * deviation
            spread = np.float32(squares / n)
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
                y = (x[row, i] - middle) * factor
                y = y * weight[i] if weight.size else y
                out[row, i] = y + bias[i] if bias.size else y

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
    numbers = (np.float32(period), np.float32(high), np.float32(period * (1 - 2.0**-24)))
    rest = (exp[0], arguments, exp[0] if reciprocal is None else reciprocal[0], by_arguments, *numbers)
    _shared(_softmax(exp_kernel, by, bool(period)), (x, out), rest, threads)


def norm(x, weight, bias, out, mean, variance, eps: float, centred: bool, plan, threads: int) -> None:
    """out = LayerNorm (`centred`) or RMSNorm of the rows of x, float32 (rows, n); mean, variance (rows, 1); weight, bias (n,) or empty."""
    kernel, arguments = cpu._numbers(tuple(plan[1]), False)
    _shared(_norm(kernel), (x, out, mean, variance), (weight, bias, np.float64(eps), centred, plan[0], arguments), threads)

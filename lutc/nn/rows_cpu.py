"""Softmax and norms of float32 rows on the CPU: one numba function per operator around the table's own kernel (lutc.nn.cpu), row by row,
with what is in between in the first-level cache; rows are shared among the threads."""

from __future__ import annotations

import math
from functools import cache

import numpy as np

from lutc.nn import cpu
from lutc.nn.cpu_base import compiled, float_bits, float_of

FLOOR = np.float32(-87.0)  # as in lutc.nn.rows
_BLOCK = 512  # elements of a row between two steps, which stay in the first-level cache
_FEW = 1 << 15  # elements up to which one thread is as fast


@compiled
def _ordered(bits):
    """Bits of a float32 to integers in the order of the numbers, and back: its own inverse."""
    return bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFFFFFF))


@compiled
def _largest(x):
    """Maximum of a row, NaN if one with a clear sign bit is among them; others are left out. On integers, which vectorises."""
    top = np.int32(-(2**31))
    for i in range(x.size):
        top = max(top, _ordered(float_bits(x[i])))
    return float_of(_ordered(top))


@compiled(reorder=True)
def _sum(x):
    """Sum of a row in float64."""
    total = 0.0
    for i in range(x.size):
        total += np.float64(x[i])
    return total


@compiled(reorder=True)
def _spread(x, middle):
    """Sum of the squared distances from the middle, each rounded to float32, in float64."""
    total = 0.0
    for i in range(x.size):
        total += np.float64((x[i] - middle) * (x[i] - middle))
    return total


@cache
def _softmax(exp, reciprocal, by_period: bool):
    divide = reciprocal is None
    reciprocal = exp if divide else reciprocal  # numba wants a function there

    @compiled
    def run(x, out, words, arguments, r_words, r_arguments, inverse, high, low, last):
        rows, n = x.shape
        w, d, r, power = np.empty(n, np.float32), np.empty(_BLOCK, np.float32), np.empty(_BLOCK, np.float32), np.empty(_BLOCK, np.float32)
        one, root = np.empty(1, np.float32), np.empty(1, np.float32)
        for row in range(rows):
            source, target = x[row], out[row]
            top = _largest(source)  # a NaN comes back through its own weight
            for start in range(0, n, _BLOCK):
                part, body = source[start : start + _BLOCK], w[start : start + _BLOCK]
                m = part.size
                for i in range(m):
                    d[i] = part[i] - top
                if by_period:
                    for i in range(m):
                        inside = d[i] if d[i] > FLOOR else FLOOR
                        k = np.floor(inside * inverse)
                        power[i] = float_of((np.int32(k) + np.int32(127)) << np.int32(23))  # 2**k
                        rest = (inside - k * high) - k * low
                        rest = rest if rest > np.float32(0.0) else np.float32(0.0)
                        r[i] = rest if rest < last else last
                    exp(r.ctypes.data, body.ctypes.data, m, words.ctypes.data, words.size, *arguments)
                    for i in range(m):
                        value = body[i] * power[i]
                        value = np.float32(0.0) if (value < 0) | (d[i] < FLOOR) else value
                        body[i] = value if d[i] == d[i] else d[i]
                else:
                    exp(d.ctypes.data, body.ctypes.data, m, words.ctypes.data, words.size, *arguments)
                    for i in range(m):
                        body[i] = np.float32(0.0) if (body[i] < 0) | (d[i] < FLOOR) else body[i]
            total = _sum(w)
            factor = np.float32(1.0 / total)
            if not divide and total == total:
                mantissa, exponent = math.frexp(np.float32(total))
                one[0] = 2 * mantissa
                reciprocal(one.ctypes.data, root.ctypes.data, 1, r_words.ctypes.data, r_words.size, *r_arguments)
                factor = np.float32(math.ldexp(root[0], 1 - exponent))
            for i in range(n):
                target[i] = w[i] * factor

    return run


@cache
def _norm(rsqrt):
    @compiled
    def run(x, out, mean, variance, weight, bias, eps, centred, words, arguments):
        rows, n = x.shape
        one, root = np.empty(1, np.float32), np.empty(1, np.float32)
        for row in range(rows):
            source, target = x[row], out[row]
            middle = np.float32(_sum(source) / n) if centred else np.float32(0.0)
            spread = np.float32(_spread(source, middle) / n)
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
            if weight.size and bias.size:
                for i in range(n):
                    target[i] = (source[i] - middle) * factor * weight[i] + bias[i]
            elif weight.size:
                for i in range(n):
                    target[i] = (source[i] - middle) * factor * weight[i]
            elif bias.size:
                for i in range(n):
                    target[i] = (source[i] - middle) * factor + bias[i]
            else:
                for i in range(n):
                    target[i] = (source[i] - middle) * factor

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

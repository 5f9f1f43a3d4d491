"""Softmax and norms of float32 rows on the CPU: one numba function per operator around the table's own kernel (lutc.nn.cpu), row by row,
with what is in between in the first-level cache; rows are shared among the threads."""

from __future__ import annotations

import ctypes
import math

import numpy as np

from lutc.nn import cpu, cpu_team
from lutc.nn.cpu_base import TASK, call_kernel, compiled, double_of, float_bits, float_of, floats, integers, native, packed, single

FLOOR = np.float32(-87.0)  # as in lutc.nn.rows
_BLOCK = 512  # elements of a row between two steps, which stay in the first-level cache
_FEW = 1 << 14  # elements for each thread below which one is as fast


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


@native(TASK)
def _softmax(first, last, job):
    """Rows first ... last - 1. r_kernel 0 divides; without by_period the exp table takes every d <= 0."""
    numbers = integers(job)
    x_at, out_at, n, exp, words, of_exp = numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], numbers[5]
    r_kernel, r_words, of_r, by_period = numbers[6], numbers[7], numbers[8], numbers[9] != 0
    inverse, high, low, end = single(numbers[10]), single(numbers[11]), single(numbers[12]), single(numbers[13])
    w, d, r, power = np.empty(n, np.float32), np.empty(_BLOCK, np.float32), np.empty(_BLOCK, np.float32), np.empty(_BLOCK, np.float32)
    one, root = np.empty(1, np.float32), np.empty(1, np.float32)
    for row in range(first, last):
        source, target = floats(x_at + 4 * n * row, n), floats(out_at + 4 * n * row, n)
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
                    r[i] = rest if rest < end else end
                call_kernel(exp, r.ctypes.data, body.ctypes.data, m, words, of_exp)
                for i in range(m):
                    value = body[i] * power[i]
                    value = np.float32(0.0) if (value < 0) | (d[i] < FLOOR) else value
                    body[i] = value if d[i] == d[i] else d[i]
            else:
                call_kernel(exp, d.ctypes.data, body.ctypes.data, m, words, of_exp)
                for i in range(m):
                    body[i] = np.float32(0.0) if (body[i] < 0) | (d[i] < FLOOR) else body[i]
        total = _sum(w)
        factor = np.float32(1.0 / total)
        if r_kernel != 0 and total == total:
            mantissa, exponent = math.frexp(np.float32(total))
            one[0] = 2 * mantissa
            call_kernel(r_kernel, one.ctypes.data, root.ctypes.data, 1, r_words, of_r)
            factor = np.float32(math.ldexp(root[0], 1 - exponent))
        for i in range(n):
            target[i] = w[i] * factor


@native(TASK)
def _norm(first, last, job):
    """Rows first ... last - 1; addresses of weight and bias are 0 where there is none."""
    numbers = integers(job)
    x_at, out_at, mean_at, variance_at, n = numbers[0], numbers[1], numbers[2], numbers[3], numbers[4]
    weight_at, bias_at, eps, centred = numbers[5], numbers[6], double_of(numbers[7]), numbers[8] != 0
    rsqrt, words, of_rsqrt = numbers[9], numbers[10], numbers[11]
    weight, bias, mean, variance = floats(weight_at, n), floats(bias_at, n), floats(mean_at, last), floats(variance_at, last)
    one, root = np.empty(1, np.float32), np.empty(1, np.float32)
    for row in range(first, last):
        source, target = floats(x_at + 4 * n * row, n), floats(out_at + 4 * n * row, n)
        middle = np.float32(_sum(source) / n) if centred else np.float32(0.0)
        spread = np.float32(_spread(source, middle) / n)
        mean[row], variance[row] = middle, spread
        v = np.float32(spread + eps)
        factor = np.float32(np.nan)
        if v > 0 and v < np.inf:
            mantissa, exponent = math.frexp(v)
            half = (exponent - 1) >> 1
            one[0] = math.ldexp(mantissa, exponent - 2 * half)
            call_kernel(rsqrt, one.ctypes.data, root.ctypes.data, 1, words, of_rsqrt)
            factor = np.float32(math.ldexp(root[0], -half))
        elif v == 0:
            factor = np.float32(np.inf)
        elif v == np.inf:
            factor = np.float32(0.0)
        if weight_at and bias_at:
            for i in range(n):
                target[i] = (source[i] - middle) * factor * weight[i] + bias[i]
        elif weight_at:
            for i in range(n):
                target[i] = (source[i] - middle) * factor * weight[i]
        elif bias_at:
            for i in range(n):
                target[i] = (source[i] - middle) * factor + bias[i]
        else:
            for i in range(n):
                target[i] = (source[i] - middle) * factor


def _at(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def softmax(x: np.ndarray, out: np.ndarray, exp, reciprocal, period: float, threads: int) -> None:
    """out = softmax of the rows of x, float32 (rows, n), contiguous. exp, reciprocal: (words, meta); the latter None to divide."""
    kernel, numbers = cpu.kernel_of(tuple(exp[1]), False)
    by = 0, 0, 0
    if reciprocal is not None:
        r_kernel, r_numbers = cpu.kernel_of(tuple(reciprocal[1]), False)
        by = r_kernel.address, _at(reciprocal[0]), ctypes.addressof(r_numbers)
    high = math.ldexp(round(math.ldexp(period, 14)), -14)
    periods = [np.float32(v) for v in (1 / period if period else 0.0, high, period - high, period * (1 - 2.0**-24))]
    rows, n = x.shape
    tables = kernel.address, _at(exp[0]), ctypes.addressof(numbers), *by
    cpu_team.run(_softmax, rows, max(1, _FEW // n), packed(_at(x), _at(out), n, *tables, period != 0, *periods), threads)


def norm(x, weight, bias, out, mean, variance, eps: float, centred: bool, plan, threads: int) -> None:
    """out = LayerNorm (`centred`) or RMSNorm of the rows of x, float32 (rows, n); mean, variance (rows, 1); weight, bias (n,) or None. Contiguous."""
    kernel, numbers = cpu.kernel_of(tuple(plan[1]), False)
    rows, n = x.shape
    affine = (0 if p is None else _at(p) for p in (weight, bias))
    job = packed(*map(_at, (x, out, mean, variance)), n, *affine, np.float64(eps), centred, kernel.address, _at(plan[0]), ctypes.addressof(numbers))
    cpu_team.run(_norm, rows, max(1, _FEW // n), job, threads)

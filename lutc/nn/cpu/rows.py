"""Softmax and norms of rows on the CPU: one numba function per operator around the table's own kernel (lutc.nn.cpu),
row by row, with what is in between in the cache; rows are shared among the threads. All is computed in float32; 16-bit
rows are widened and rounded on the way.
"""

from __future__ import annotations

import ctypes
import math

import numpy as np
import torch
from torch import Tensor

from lutc.nn import cpu
from lutc.nn.cpu import team
from lutc.nn.cpu.base import (
    TASK,
    call_kernel,
    codes,
    compiled,
    double_of,
    float_bits,
    float_of,
    floats,
    integers,
    native,
    packed,
    single,
)
from lutc.nn.cpu.half import BF16, FORMATS, FP16, FP32, from_bf16, from_fp16, to_bf16, to_fp16
from lutc.nn.lowered import DTYPES

FLOOR = np.float32(-87.0)  # as in lutc.nn.rows
_BLOCK = 512  # elements of a row between two steps, which stay in the first-level cache
_FEW = 1 << 14  # elements for each thread below which one is as fast


@compiled
def _ordered(bits):
    """Bits of a float32 to integers in the order of the numbers, and back: its own inverse."""
    return bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFFFFFF))


@compiled
def _largest(x):
    """Maximum of a row, NaN if one with a clear sign bit is among them; others are left out. On integers, which
    vectorises.
    """
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


@compiled
def _read(at, n, form, room):
    """The row at an address as float32: itself, or widened into `room`."""
    if form == FP32:
        return floats(at, n)
    row = codes(at, n)
    if form == FP16:
        for i in range(n):
            room[i] = from_fp16(row[i])
    else:
        for i in range(n):
            room[i] = from_bf16(row[i])
    return room


@compiled
def _write(at, n, form, values):
    """Round a row of float32 to the 16 bits of its form."""
    row = codes(at, n)
    if form == FP16:
        for i in range(n):
            row[i] = to_fp16(values[i])
    elif form == BF16:
        for i in range(n):
            row[i] = to_bf16(values[i])


@native(TASK)
def _softmax(first, last, job):
    """Rows first ... last - 1. r_kernel 0 divides; without by_period the exp table takes every d <= 0."""
    numbers = integers(job)
    form, x_at, out_at, n, exp, words, of_exp = (
        numbers[0],
        numbers[1],
        numbers[2],
        numbers[3],
        numbers[4],
        numbers[5],
        numbers[6],
    )
    r_kernel, r_words, of_r, by_period = numbers[7], numbers[8], numbers[9], numbers[10] != 0
    inverse, high, low, end = single(numbers[11]), single(numbers[12]), single(numbers[13]), single(numbers[14])
    width = 4 if form == FP32 else 2
    room = np.empty(0 if form == FP32 else n, np.float32)
    w, d, r, power = (
        np.empty(n, np.float32),
        np.empty(_BLOCK, np.float32),
        np.empty(_BLOCK, np.float32),
        np.empty(_BLOCK, np.float32),
    )
    one, root = np.empty(1, np.float32), np.empty(1, np.float32)
    for row in range(first, last):
        source, target_at = _read(x_at + width * n * row, n, form, room), out_at + width * n * row
        target = floats(target_at, n) if form == FP32 else room
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
        _write(target_at, n, form, target)


@native(TASK)
def _norm(first, last, job):
    """Rows first ... last - 1; addresses of weight and bias are 0 where there is none."""
    numbers = integers(job)
    form, x_at, out_at, mean_at, variance_at, n = numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], numbers[5]
    weight_at, bias_at, eps, centred = numbers[6], numbers[7], double_of(numbers[8]), numbers[9] != 0
    rsqrt, words, of_rsqrt = numbers[10], numbers[11], numbers[12]
    width = 4 if form == FP32 else 2
    wide, result = (
        np.empty(0 if form == FP32 else n, np.float32),
        np.empty(0 if form == FP32 else n, np.float32),
    )  # two, or loops do not vectorise
    weight, bias, mean, variance = (
        floats(weight_at, n),
        floats(bias_at, n),
        floats(mean_at, last),
        floats(variance_at, last),
    )
    one, root = np.empty(1, np.float32), np.empty(1, np.float32)
    for row in range(first, last):
        source, target_at = _read(x_at + width * n * row, n, form, wide), out_at + width * n * row
        target = floats(target_at, n) if form == FP32 else result
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
        _write(target_at, n, form, target)


def _table(plan) -> tuple[ctypes.Array, tuple[int, int, int]]:
    """What must live while a plan is used, and the addresses of its kernel, words and numbers."""
    words, meta = plan
    kernel, numbers = cpu.kernel_of(tuple(meta), False)
    return numbers, (kernel.address, words.data_ptr(), ctypes.addressof(numbers))


def softmax(x: Tensor, out: Tensor, exp, reciprocal, period: float) -> None:
    """out = softmax of the rows of x, (rows, n), 16 or 32 bits, both contiguous. exp, reciprocal: (words, meta); the
    latter None to divide.
    """
    exp_numbers, table = _table(exp)
    r_numbers, r_table = (None, (0, 0, 0)) if reciprocal is None else _table(reciprocal)
    high = math.ldexp(round(math.ldexp(period, 14)), -14)
    periods = [np.float32(v) for v in (1 / period if period else 0.0, high, period - high, period * (1 - 2.0**-24))]
    rows, n = x.shape
    job = packed(FORMATS[DTYPES[x.dtype]], x.data_ptr(), out.data_ptr(), n, *table, *r_table, period != 0, *periods)
    team.run(_softmax, rows, max(1, _FEW // n), job, torch.get_num_threads())


def norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    out: Tensor,
    mean: Tensor,
    variance: Tensor,
    eps: float,
    centred: bool,
    plan,
) -> None:
    """out = LayerNorm (`centred`) or RMSNorm of the rows of x, (rows, n), 16 or 32 bits; mean, variance: float32 (rows,
    1); weight, bias (n,).

    All are contiguous.
    """
    numbers, table = _table(plan)
    rows, n = x.shape
    affine = [None if p is None else p.float() for p in (weight, bias)]
    given = (x, out, mean, variance)
    at_affine = (0 if p is None else p.data_ptr() for p in affine)
    job = packed(
        FORMATS[DTYPES[x.dtype]], *(t.data_ptr() for t in given), n, *at_affine, np.float64(eps), centred, *table
    )
    team.run(_norm, rows, max(1, _FEW // n), job, torch.get_num_threads())

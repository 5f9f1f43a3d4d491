"""Softmax and norms of rows on the CPU: one numba function per operator around the table's own kernel (lutc.nn.cpu),
row by row, with what is in between in the cache; rows are shared among the threads. All is computed in float32; 16-bit
rows are widened and rounded on the way.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence

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
)
from lutc.nn.cpu.half import BF16, FORMATS, FP16, FP32, from_bf16, from_fp16, to_bf16, to_fp16, widened, written
from lutc.nn.cpu.weights import BLOCK, aligned, room, table_of, weigh
from lutc.nn.lowered import DTYPES

_LEAST = 1 << 14  # elements for each thread below which one is as fast
_PART = 1 << 11  # elements of a row of 16 bits that are widened at once
_FEW = 1 << 11  # elements of the rows that are worked on together, so that a table is asked once for all of them


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
def _sum_of_fp16(row):
    total = np.float32(0.0)
    for i in range(row.size):
        total += from_fp16(row[i])
    return total


@compiled(reorder=True)
def _sum_of_bf16(row):
    total = np.float32(0.0)
    for i in range(row.size):
        total += from_bf16(row[i])
    return total


@compiled(reorder=True)
def _spread_of_fp32(row, middle):
    total = np.float32(0.0)
    for i in range(row.size):
        total += (row[i] - middle) * (row[i] - middle)
    return total


@compiled(reorder=True)
def _spread_of_fp16(row, middle):
    total = np.float32(0.0)
    for i in range(row.size):
        distance = from_fp16(row[i]) - middle
        total += distance * distance
    return total


@compiled(reorder=True)
def _spread_of_bf16(row, middle):
    total = np.float32(0.0)
    for i in range(row.size):
        distance = from_bf16(row[i]) - middle
        total += distance * distance
    return total


@compiled
def _mean(at, n, form, room):
    """Mean of the row at an address: its sum in float64; of 16 bits that of BLOCK in float32 unless that
    overflows.
    """
    if form == FP32:
        return np.float32(_sum(floats(at, n)) / n)
    total = 0.0
    for block in range(0, n, BLOCK):
        m, few = min(BLOCK, n - block), at + 2 * block
        part = np.float64(_sum_of_fp16(codes(few, m)) if form == FP16 else _sum_of_bf16(codes(few, m)))
        total += part if abs(part) < np.inf else _sum(floats(widened(few, m, form, room), m))
    return np.float32(total / n)


@compiled
def _spread(at, n, form, middle, room):
    """Sum of the squared distances of the row at an address from the middle, each rounded to float32: of BLOCK in
    float32 unless that overflows, of these in float64.
    """
    width, total = 4 if form == FP32 else 2, 0.0
    for block in range(0, n, BLOCK):
        m, few = min(BLOCK, n - block), at + width * block
        if form == FP32:
            part = np.float64(_spread_of_fp32(floats(few, m), middle))
        elif form == FP16:
            part = np.float64(_spread_of_fp16(codes(few, m), middle))
        else:
            part = np.float64(_spread_of_bf16(codes(few, m), middle))
        if not part < np.inf:
            part, row = 0.0, floats(widened(few, m, form, room), m)
            for i in range(m):
                part += np.float64((row[i] - middle) * (row[i] - middle))
        total += part
    return total


@compiled
def _write_scaled(at, n, form, values, factor):
    """values * factor in the form of a row at an address, which float32 has for values already."""
    row = codes(at, n)
    if form == FP16:
        for i in range(n):
            row[i] = to_fp16(values[i] * factor)
    elif form == BF16:
        for i in range(n):
            row[i] = to_bf16(values[i] * factor)
    else:
        for i in range(n):
            values[i] *= factor


@native(TASK)
def _softmax(first, last, job):
    """Rows first ... last - 1, some at a time: weights, then 1 / sums, then their products. r_kernel 0 divides."""
    numbers = integers(job)
    form, x_at, out_at, n, exp_at = numbers[0], numbers[1], numbers[2], numbers[3], numbers[4]
    r_kernel, r_words, of_r = numbers[5], numbers[6], numbers[7]
    width, few = 4 if form == FP32 else 2, max(1, _FEW // n)
    wide = np.empty(0 if form == FP32 else few * n, np.float32)
    mantissas, factors, exponents = np.empty(few, np.float32), np.empty(few, np.float32), np.empty(few, np.int32)
    work = room(exp_at)
    room_at = aligned(work)
    for start in range(first, last, few):
        rows = min(few, last - start)
        for i in range(rows):
            at = width * n * (start + i)
            source = floats(widened(x_at + at, n, form, wide[i * n : (i + 1) * n]), n)
            target = floats(out_at + at, n) if form == FP32 else source
            top, total = _largest(source), 0.0  # a NaN comes back through its own weight
            part_at, body_at = source.ctypes.data, target.ctypes.data
            for block in range(0, n, BLOCK):
                at, m = 4 * block, min(BLOCK, n - block)
                total += np.float64(weigh(exp_at, room_at, part_at + at, top, body_at + at, m))
            factors[i] = np.float32(1.0 / total)
            if r_kernel != 0:
                mantissa, exponents[i] = math.frexp(np.float32(total)) if total == total else (total, 0)
                mantissas[i] = 2 * mantissa
        if r_kernel != 0:
            call_kernel(r_kernel, mantissas.ctypes.data, factors.ctypes.data, rows, r_words, of_r)
            for i in range(rows):
                factors[i] = math.ldexp(factors[i], 1 - exponents[i])
        for i in range(rows):
            at = out_at + width * n * (start + i)
            target = floats(at, n) if form == FP32 else wide[i * n : (i + 1) * n]
            _write_scaled(at, n, form, target, factors[i])
    work[0] = 0  # it lives until here


@compiled
def _affine(source, target, middle, factor, weight, bias, weighed, biased):
    """(source - middle) * factor, perhaps times weight, perhaps plus bias."""
    n = source.size
    if weighed and biased:
        for i in range(n):
            target[i] = (source[i] - middle) * factor * weight[i] + bias[i]
    elif weighed:
        for i in range(n):
            target[i] = (source[i] - middle) * factor * weight[i]
    elif biased:
        for i in range(n):
            target[i] = (source[i] - middle) * factor + bias[i]
    else:
        for i in range(n):
            target[i] = (source[i] - middle) * factor


@native(TASK)
def _norm(first, last, job):
    """Rows first ... last - 1, some at a time: means and variances, then 1 / deviations, then the products; 16 bits are
    widened anew for each. Addresses of weight and bias are 0 where there is none.
    """
    numbers = integers(job)
    form, x_at, out_at, mean_at, variance_at, n = numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], numbers[5]
    weight_at, bias_at, eps, centred = numbers[6], numbers[7], double_of(numbers[8]), numbers[9] != 0
    rsqrt, words, of_rsqrt = numbers[10], numbers[11], numbers[12]
    width, few = 4 if form == FP32 else 2, max(1, _FEW // n)
    size = n if form == FP32 else _PART
    work = np.empty(2 * _PART + 16, np.float32)
    part_at = aligned(work)
    part, result = floats(part_at, _PART), floats(part_at + 4 * _PART, _PART)
    mean, variance = floats(mean_at, last), floats(variance_at, last)
    mantissas, factors, halves = np.empty(few, np.float32), np.empty(few, np.float32), np.empty(few, np.int32)
    for start in range(first, last, few):
        rows = min(few, last - start)
        for i in range(rows):
            row = start + i
            at = x_at + width * n * row
            middle = _mean(at, n, form, part) if centred else np.float32(0.0)
            spread = np.float32(_spread(at, n, form, middle, part) / n)
            mean[row], variance[row] = middle, spread
            v = np.float32(spread + eps)
            mantissa, exponent = math.frexp(v if v > 0 and v < np.inf else np.float32(1.0))
            halves[i] = (exponent - 1) >> 1
            mantissas[i] = math.ldexp(mantissa, exponent - 2 * halves[i])
        call_kernel(rsqrt, mantissas.ctypes.data, factors.ctypes.data, rows, words, of_rsqrt)
        for i in range(rows):
            row = start + i
            v = np.float32(variance[row] + eps)
            factor = np.float32(math.ldexp(factors[i], -halves[i]))
            if not (v > 0 and v < np.inf):
                factor = np.float32(np.inf if v == 0 else 0.0 if v == np.inf else np.nan)
            for block in range(0, n, size):
                m, at = min(size, n - block), width * (n * row + block)
                source = floats(widened(x_at + at, m, form, part), m)
                target = floats(out_at + at, m) if form == FP32 else result
                weight, bias = floats(weight_at + 4 * block, m), floats(bias_at + 4 * block, m)
                _affine(source, target, mean[row], factor, weight, bias, weight_at != 0, bias_at != 0)
                written(target, out_at + at, m, form)
    work[0] = 0  # it lives until here


def _table(plan) -> tuple[ctypes.Array, tuple[int, int, int]]:
    """What must live while a plan is used, and the addresses of its kernel, words and numbers."""
    words, meta = plan
    kernel, numbers = cpu.kernel_of(tuple(meta), False)
    return numbers, (kernel.address, words.data_ptr(), ctypes.addressof(numbers))


def softmax(
    x: Tensor,
    out: Tensor,
    exp: tuple[Tensor, Sequence[int]],
    reciprocal: tuple[Tensor, Sequence[int]] | None,
    period: float,
) -> None:
    """out = softmax of the rows of x, (rows, n), 16 or 32 bits, both contiguous. exp, reciprocal: (words, meta); the
    latter None to divide.
    """
    exp_table, exp_numbers = table_of(exp, period)
    r_numbers, r_table = (None, (0, 0, 0)) if reciprocal is None else _table(reciprocal)
    rows, n = x.shape
    at_exp = ctypes.addressof(exp_table)
    job = packed(FORMATS[DTYPES[x.dtype]], x.data_ptr(), out.data_ptr(), n, at_exp, *r_table)
    team.run(_softmax, rows, max(1, _LEAST // n), job, torch.get_num_threads())


def norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    out: Tensor,
    mean: Tensor,
    variance: Tensor,
    eps: float,
    centred: bool,
    plan: tuple[Tensor, Sequence[int]],
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
    team.run(_norm, rows, max(1, _LEAST // n), job, torch.get_num_threads())

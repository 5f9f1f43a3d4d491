"""Norms of rows on the CPU: one numba function around the table's own kernel (lutc.nn.cpu), row by row, with what is in
between in the cache; rows are shared among the threads. All is computed in float32; 16-bit rows are widened and rounded
on the way.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

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
from lutc.nn.cpu.half import FORMATS, FP16, FP32, from_bf16, from_fp16, widened, written
from lutc.nn.cpu.weights import BLOCK, aligned, plain_table
from lutc.nn.lowered import DTYPES

_LEAST = 1 << 14  # elements for each thread below which one is as fast
_PART = 1 << 11  # elements of a row of 16 bits that are widened at once
_FEW = 1 << 11  # elements of the rows that are worked on together, so that a table is asked once for all of them


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


@compiled
def _apart(v):
    """(m, 2^-e) of v = m 4^e, 1 <= m < 4; of 1 where v is not positive and finite."""
    v = v if v > np.float32(0.0) and v < np.float32(np.inf) else np.float32(1.0)
    small = v < np.float32(2.0**-126)
    bits = float_bits(v * np.float32(2.0**24) if small else v)
    exponent = (bits >> np.int32(23)) - np.int32(127)
    mantissa = float_of((bits & np.int32(0x7FFFFF)) | ((np.int32(127) + (exponent & np.int32(1))) << np.int32(23)))
    half = (exponent >> np.int32(1)) - np.int32(12 if small else 0)
    return mantissa, float_of(np.int32((np.int32(127) - half) << np.int32(23)))


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
    work = np.empty(2 * _PART + 16, np.float32)
    part_at = aligned(work)
    part, result = floats(part_at, _PART), floats(part_at + 4 * _PART, _PART)
    mean, variance = floats(mean_at, last), floats(variance_at, last)
    mantissas, factors, powers = np.empty(few, np.float32), np.empty(few, np.float32), np.empty(few, np.float32)
    for start in range(first, last, few):
        rows = min(few, last - start)
        for i in range(rows):
            row = start + i
            at = x_at + width * n * row
            middle = _mean(at, n, form, part) if centred else np.float32(0.0)
            spread = np.float32(_spread(at, n, form, middle, part) / n)
            mean[row], variance[row] = middle, spread
            mantissas[i], powers[i] = _apart(np.float32(spread + eps))
        call_kernel(rsqrt, mantissas.ctypes.data, factors.ctypes.data, rows, words, of_rsqrt)
        for i in range(rows):
            row = start + i
            v = np.float32(variance[row] + eps)
            factor = factors[i] * powers[i]
            if not (v > 0 and v < np.inf):
                factor = np.float32(np.inf if v == 0 else 0.0 if v == np.inf else np.nan)
            for block in range(0, n, _PART):
                m, at = min(_PART, n - block), width * (n * row + block)
                source = floats(widened(x_at + at, m, form, part), m)
                target = floats(out_at + at, m) if form == FP32 else result
                weight, bias = floats(weight_at + 4 * block, m), floats(bias_at + 4 * block, m)
                _affine(source, target, mean[row], factor, weight, bias, weight_at != 0, bias_at != 0)
                written(target, out_at + at, m, form)
    work[0] = 0  # it lives until here


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
    numbers, table = plain_table(plan)
    rows, n = x.shape
    affine = [None if p is None else p.float() for p in (weight, bias)]
    given = (x, out, mean, variance)
    at_affine = (0 if p is None else p.data_ptr() for p in affine)
    job = packed(
        FORMATS[DTYPES[x.dtype]], *(t.data_ptr() for t in given), n, *at_affine, np.float64(eps), centred, *table
    )
    team.run(_norm, rows, max(1, _LEAST // n), job, torch.get_num_threads())

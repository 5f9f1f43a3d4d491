"""Weights of attention on the CPU: a table's exponential over a block of scores, in place, with the sums of its rows.

One numba function around the table's own kernel (lutc.nn.cpu); rows are shared among the threads; float32.
"""

from __future__ import annotations

import ctypes
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lutc.measures import EXP_FLOOR
from lutc.nn import cpu
from lutc.nn.cpu import team
from lutc.nn.cpu.base import TASK, call_kernel, compiled, float_of, floats, integers, native, packed, single

FLOOR = np.float32(EXP_FLOOR)
_BLOCK = 512  # elements of a row between two steps, which stay in the first-level cache
_FEW = 1 << 14  # elements for each thread below which one is as fast


@compiled(reorder=True)
def _sum(x):
    total = np.float32(0.0)
    for i in range(x.size):
        total += x[i]
    return total


@native(TASK)
def _weights(first, last, job):
    """Rows first ... last - 1. Without by_period the table takes every d <= 0."""
    numbers = integers(job)
    x_at, n, top_at, sum_at = numbers[0], numbers[1], numbers[2], numbers[3]
    exp, words, of_exp, by_period = numbers[4], numbers[5], numbers[6], numbers[7] != 0
    inverse, high, low, end = single(numbers[8]), single(numbers[9]), single(numbers[10]), single(numbers[11])
    tops, sums = floats(top_at, last), floats(sum_at, last)
    d, r, power = (np.empty(_BLOCK, np.float32), np.empty(_BLOCK, np.float32), np.empty(_BLOCK, np.float32))
    for row in range(first, last):
        line, top, total = floats(x_at + 4 * n * row, n), tops[row], np.float32(0.0)
        for start in range(0, n, _BLOCK):
            body = line[start : start + _BLOCK]
            m = body.size
            for i in range(m):
                d[i] = body[i] - top
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
            total += _sum(body)
        sums[row] = total


def weights(x: Tensor, top: Tensor, exp: Any, period: float) -> Tensor:
    """T(x - top) in the place of x, (rows, n), contiguous float32; top (rows,). Returns the sums of the rows, (rows,).

    exp: (words, meta) of the table's vector plan.
    """
    words, meta = exp
    kernel, numbers = cpu.kernel_of(tuple(meta), False)
    high = math.ldexp(round(math.ldexp(period, 14)), -14)
    periods = [np.float32(v) for v in (1 / period if period else 0.0, high, period - high, period * (1 - 2.0**-24))]
    rows, n = x.shape
    top = top.contiguous()
    sums = torch.empty(rows, dtype=torch.float32)
    at = x.data_ptr(), n, top.data_ptr(), sums.data_ptr()
    job = packed(*at, kernel.address, words.data_ptr(), ctypes.addressof(numbers), period != 0, *periods)
    team.run(_weights, rows, max(1, _FEW // n), job, torch.get_num_threads())
    return sums

"""Weights of attention on the CPU: a table's exponential over a block of scores, in place, with the sums of its rows.

One numba function around the table's own kernel (lutc.nn.cpu); rows are shared among the threads; float32.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lutc.nn.cpu import team
from lutc.nn.cpu.base import TASK, floats, integers, native, packed
from lutc.nn.cpu.weights import BLOCK, aligned, room, table_of, weigh

_FEW = 1 << 14  # elements for each thread below which one is as fast


@native(TASK)
def _weights(first, last, job):
    """Rows first ... last - 1."""
    numbers = integers(job)
    x_at, n, top_at, sum_at, exp_at = numbers[0], numbers[1], numbers[2], numbers[3], numbers[4]
    tops, sums = floats(top_at, last), floats(sum_at, last)
    work = room(exp_at)
    room_at = aligned(work)
    for row in range(first, last):
        line, total = x_at + 4 * n * row, 0.0
        for block in range(0, n, BLOCK):
            at, m = line + 4 * block, min(BLOCK, n - block)
            total += np.float64(weigh(exp_at, room_at, at, tops[row], at, m))
        sums[row] = total
    work[0] = 0  # it lives until here


def weights(x: Tensor, top: Tensor, exp: Any, period: float) -> Tensor:
    """T(x - top) in the place of x, (rows, n), contiguous float32; top (rows,). Returns the sums of the rows, (rows,).

    exp: the table's `Plans` (`lutc.nn.row_tables`).
    """
    table, numbers = table_of(exp, period)
    rows, n = x.shape
    top = top.contiguous()
    sums = torch.empty(rows, dtype=torch.float32)
    job = packed(x.data_ptr(), n, top.data_ptr(), sums.data_ptr(), ctypes.addressof(table))
    team.run(_weights, rows, max(1, _FEW // n), job, torch.get_num_threads())
    return sums

"""Counting float32 values into the bins of a histogram on a CPU, one pass over each."""

from __future__ import annotations

import numpy as np

from lutc.jit import njit


@njit
def count(x, counts, residues, ends):
    """Every value of x, float32 (n,), into the bin of its upper 16 bits: counts, and sums of the lower 16 bits, int64
    (65536,). ends: smallest and largest finite value so far, float32 (2,).
    """
    bits = x.view(np.uint32)
    low, high = ends[0], ends[1]
    for i in range(x.size):
        code = bits[i] >> np.uint32(16)
        counts[code] += 1
        residues[code] += bits[i] & np.uint32(0xFFFF)
        if (code & np.uint32(0x7F80)) != np.uint32(0x7F80):
            low, high = min(low, x[i]), max(high, x[i])
    ends[0], ends[1] = low, high


@njit
def count_below_maximum(x, floor, counts, residues, ends):
    """The same of x - max(x) of every row of x, float32 (rows, n), without elements of `floor` or less, whose number
    comes back. A row with NaN is NaN.
    """
    masked, n = 0, x.shape[1]
    row = np.empty(n, np.float32)
    for i in range(x.shape[0]):
        most = x[i, 0]
        for j in range(n):
            if x[i, j] > most or np.isnan(x[i, j]):
                most = x[i, j]
                if np.isnan(most):
                    break
        kept = 0
        for j in range(n):
            if x[i, j] <= floor:
                masked += 1
            else:
                row[kept] = x[i, j] - most
                kept += 1
        count(row[:kept], counts, residues, ends)
    return masked

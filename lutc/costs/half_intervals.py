"""Costs of intervals that run in fp16 arithmetic, every addition and multiplication rounded: what a search for such
hardware minimises.

The steps are those of `lutc.certify.arithmetic`, in numba. Imported only where such a search is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lutc.costs.intervals import IntervalCosts, edges_between
from lutc.costs.targets import NORMS
from lutc.formats.float16 import bits_of, value_of
from lutc.formats.float16_numba import add, mul
from lutc.jit import njit

_VALUES = value_of(np.arange(1 << 16).astype(np.uint16))
_MINUS = bits_of(-np.arange(2048.0)).astype(np.int64)  # bits of -n


@dataclass(frozen=True, eq=False)
class HalfCosts:
    """`IntervalCosts` of the same cuts and tails, with the interpolation computed in fp16; every `stride`-th sample is
    looked at.
    """

    exact: IntervalCosts
    truncate: bool
    stride: int = 8

    @property
    def size(self) -> int:
        return self.exact.size

    @property
    def combine(self) -> np.ufunc:
        return self.exact.combine

    def outside_left(self, position: np.ndarray) -> np.ndarray:
        return self.exact.outside_left(position)

    def outside_right(self, position: np.ndarray) -> np.ndarray:
        return self.exact.outside_right(position)

    def interval(self, start: np.ndarray, end: np.ndarray, pieces: int, limit: float = np.inf) -> np.ndarray:
        """Costs of intervals [cuts[start], cuts[end]) of `pieces` pieces, as `IntervalCosts.interval`, limit unused."""
        start, end = np.broadcast_arrays(start, end)
        low, high = self.exact.cuts[start.ravel()], self.exact.cuts[end.ravel()]
        edges = edges_between(low, high, pieces)
        t = self.exact.targets
        x, y, w = (v[:: self.stride] for v in (t.x, t.y, t.weight))
        with np.errstate(all="ignore"):
            values = bits_of(self.exact.f(edges)).astype(np.int64)
            factor = pieces / (high - low)
            power = np.clip(np.floor(np.log2(factor)), -14, 15)
            shift, rest = bits_of(np.exp2(power)).astype(np.int64), bits_of(factor * np.exp2(-power)).astype(np.int64)
        first, last = np.searchsorted(x, low), np.searchsorted(x, high)
        norm = NORMS.index(self.exact.norm)
        constants = np.stack([first, last, bits_of(-low).astype(np.int64), shift, rest], axis=1)
        cost = _intervals(bits_of(x).astype(np.int64), y, w, _VALUES, _MINUS, constants, values, self.truncate, norm)
        return (cost * (1 if norm == 2 else self.stride)).reshape(start.shape)


@njit
def _intervals(x, y, w, value_of_bits, minus, constants, values, truncate, norm):
    rows, pieces = values.shape[0], values.shape[1] - 1
    result = np.zeros(rows)
    for row in range(rows):
        total = 0.0
        for k in range(constants[row, 0], constants[row, 1]):
            offset = add(x[k], constants[row, 2], truncate)
            position = mul(mul(offset, constants[row, 3], truncate), constants[row, 4], truncate)
            whole = int(min(max(np.floor(value_of_bits[position]), 0.0), pieces - 1.0))
            fraction = add(position, minus[whole], truncate)
            low, high = values[row, whole], values[row, whole + 1]
            got = add(low, mul(fraction, add(high, low ^ 0x8000, truncate), truncate), truncate)
            error = abs(value_of_bits[got] - y[k])
            if not error < np.inf:
                error = 1e30
            if norm == 0:
                total += w[k] * error
            elif norm == 1:
                total += w[k] * error * error
            else:
                total = max(total, w[k] * error)
        result[row] = total
    return result

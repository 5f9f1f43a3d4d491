"""Plans: the plain arrays that a kernel needs to evaluate a table, and their evaluation in numpy, the model for every
backend.

A plan serves one dtype. All here but `DirectPlan` compute slope * x + intercept in float32 (`lutc.lower.reduced_plans`
has those in float64) with the segment found in one of a few ways, on numbers from `lutc.lower`: `thresholds` are values
of the arithmetic's format, ascending, closed on the left: segment = number of thresholds <= x. NaN thresholds pad and
never count. Non-finite inputs: NaN gives NaN; where an end segment is flat, `x_min` / `x_max` are finite and x is
clamped to them first, which keeps 0 * inf out.

`words()` is the plan as one int32 vector and `meta` the integers that go with it; a runtime needs no more than these
two.
"""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np
from numpy.typing import ArrayLike

FLAT_LEFT, FLAT_RIGHT = 1, 2
KIND_CODES = {"uniform": 1, "cells": 2, "search": 3, "direct": 4, "reference": 5, "reduced": 6}
DTYPES = {
    "fp16": np.dtype(np.float16),
    "bf16": np.dtype(ml_dtypes.bfloat16),
    "fp32": np.dtype(np.float32),
    "fp64": np.dtype(np.float64),
}
LARGEST = float(np.finfo(np.float32).max)


def all_codes(dtype: str) -> np.ndarray:
    """All 65,536 values of a 16-bit dtype, in the order of their codes (0x0000 ... 0xffff)."""
    return np.arange(65536, dtype=np.uint16).view(DTYPES[dtype])


def widened(x: ArrayLike) -> np.ndarray:
    """Any float dtype -> float64; every NaN becomes the quiet one, since signalling ones raise
    warnings in arithmetic.
    """
    with np.errstate(invalid="ignore"):
        wide = np.asarray(x).astype(np.float64)
    return np.where(np.isnan(wide), np.nan, wide)


def round_to(values: ArrayLike, dtype: str) -> np.ndarray:
    """float64 -> dtype in one rounding, ties to even; what exceeds the largest value becomes infinite, as in IEEE
    arithmetic.
    """
    values = np.asarray(values, np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        if dtype != "bf16":
            return values.astype(DTYPES[dtype])
        # A cast to bf16 goes through float32 and may round twice: round to odd there, so that the second rounding
        # decides alone.
        single = values.astype(np.float32)
        bits = single.view(np.uint32)
        away = np.abs(single.astype(np.float64)) > np.abs(values)
        inexact = np.isfinite(values) & (single.astype(np.float64) != values)
        down = np.where(
            away, bits - np.uint32(1), bits
        )  # truncated towards zero; an overflow to infinity comes back to the largest value
        return (
            np.where(inexact, down | np.uint32(1), bits).astype(np.uint32).view(np.float32).astype(ml_dtypes.bfloat16)
        )


def _words(*arrays) -> np.ndarray:
    """Arrays of float32 or int32, end to end, as their int32 bit patterns."""
    return np.concatenate([np.ascontiguousarray(a).reshape(-1).view(np.int32) for a in arrays])


def _pairs(slopes, intercepts) -> np.ndarray:
    """(slope, intercept) side by side, so that one 8-byte access brings both."""
    return np.stack([slopes, intercepts], axis=-1).astype(np.float32)


@dataclass(frozen=True, eq=False)
class _Linear:
    """What the float32 plans share. `slopes` and `intercepts` (float32): one per segment, or per cell in `Uniform`."""

    dtype: str
    slopes: np.ndarray
    intercepts: np.ndarray
    flat_left: bool
    flat_right: bool

    @property
    def flags(self) -> int:
        return FLAT_LEFT * self.flat_left + FLAT_RIGHT * self.flat_right

    @property
    def x_min(self) -> float:
        return -LARGEST if self.flat_left else -np.inf

    @property
    def x_max(self) -> float:
        return LARGEST if self.flat_right else np.inf

    def _at(self, x):
        x = np.asarray(x).astype(np.float32)
        x = np.where(x < self.x_min, np.float32(self.x_min), np.where(x > self.x_max, np.float32(self.x_max), x))
        return x, self.index(x)

    def __call__(self, x) -> np.ndarray:
        """x of the plan's dtype, any shape -> the same dtype and shape. Multiply and add are rounded once, as every
        backend means to.
        """
        with np.errstate(all="ignore"):
            x, i = self._at(x)
            exact = (
                self.slopes[i].astype(np.float64) * x + self.intercepts[i]
            )  # the product of two float32 is exact in float64
            return exact.astype(np.float32).astype(DTYPES[self.dtype])

    def unfused(self, x: ArrayLike) -> np.ndarray:
        """As `__call__`, with the product rounded before the addition, as hardware without a fused
        multiply-add does.
        """
        with np.errstate(all="ignore"):
            x, i = self._at(x)
            return (self.slopes[i] * x + self.intercepts[i]).astype(DTYPES[self.dtype])

    def slope(self, x: ArrayLike) -> np.ndarray:
        """Slope of the segment of x, in the plan's dtype; NaN for NaN."""
        with np.errstate(all="ignore"):
            clamped, i = self._at(x)
            return np.where(np.isnan(clamped), np.float32(np.nan), self.slopes[i]).astype(DTYPES[self.dtype])


@dataclass(frozen=True, eq=False)
class UniformPlan(_Linear):
    """Cells (c, c + 1] * 2**-bits: cell = ceil(x * 2**bits) - 1, clamped in float to [first, first + n); one line per
    cell.
    """

    bits: int
    first: int
    kind = "uniform"

    def index(self, x: ArrayLike) -> np.ndarray:
        last = self.first + self.slopes.size - 1
        with np.errstate(over="ignore"):
            scaled = np.asarray(x, np.float32) * np.float32(2.0**self.bits)
        cell = np.fmax(np.fmin(np.ceil(scaled), last + 1), self.first + 1) - (
            self.first + 1
        )  # fmin, fmax: NaN falls into the last
        return cell.astype(np.int64)

    @property
    def meta(self) -> tuple[int, ...]:
        return KIND_CODES[self.kind], self.flags, self.slopes.size, self.bits, self.first

    def words(self) -> np.ndarray:
        return _words(_pairs(self.slopes, self.intercepts))


@dataclass(frozen=True, eq=False)
class CellsPlan(_Linear):
    """Cells by sign and top bits of float32, at most one threshold in each.

    key = magnitude bits >> shift, clamped to [first, last]; `last` is (of positive, of negative) x. cell = key - first,
    behind the positive cells for x with a set sign bit. segment = base[cell] + (x >= thresholds[cell]); a threshold of
    -inf is one below every x.

    In `words()` the lines stand from right to left, the leftmost twice, and a cell holds the place of its rightmost
    line: place + (x < threshold), which a GPU has from the sign of x - threshold. For this a threshold of 0 is stored
    as -0: -0 - -0 is +0.
    """

    shift: int
    first: int
    last: tuple[int, int]
    thresholds: np.ndarray
    base: np.ndarray
    kind = "cells"

    def index(self, x: ArrayLike) -> np.ndarray:
        bits = np.ascontiguousarray(x, np.float32).view(np.uint32).reshape(np.shape(x))
        key = ((bits & np.uint32(0x7FFFFFFF)) >> np.uint32(self.shift)).astype(np.int64)
        negative = bits >> np.uint32(31) != 0
        cell = np.clip(key, self.first, np.where(negative, self.last[1], self.last[0])) - self.first
        cell = cell + np.where(negative, self.last[0] - self.first + 1, 0)
        return self.base[cell] + (x >= self.thresholds[cell])

    @property
    def meta(self) -> tuple[int, ...]:
        return KIND_CODES[self.kind], self.flags, self.slopes.size, self.shift, self.first, *self.last

    def words(self) -> np.ndarray:
        thresholds = np.where(self.thresholds == 0, -0.0, self.thresholds).astype(np.float32)
        rightmost = self.base + 1
        lines = _pairs(
            np.append(self.slopes[::-1], self.slopes[0]), np.append(self.intercepts[::-1], self.intercepts[0])
        )
        return _words(
            lines, np.stack([thresholds.view(np.int32), (self.slopes.size - 1 - rightmost).astype(np.int32)], axis=-1)
        )


def edge(key: int, shift: int) -> float:
    """The float32 whose bits are key << shift: the smallest magnitude in a cell."""
    return float(np.int32(key << shift).view(np.float32))


@dataclass(frozen=True, eq=False)
class SearchPlan(_Linear):
    """Branchless search among 2**steps - 1 thresholds, padded with NaN, as slopes and intercepts are padded with the
    last segment.
    """

    thresholds: np.ndarray
    kind = "search"

    @property
    def steps(self) -> int:
        return int(self.slopes.size).bit_length() - 1

    def index(self, x: ArrayLike) -> np.ndarray:
        position = np.zeros(np.shape(x), np.int64)
        for step in reversed(range(self.steps)):
            ahead = position + (1 << step)
            position = np.where(x >= self.thresholds[ahead - 1], ahead, position)
        return position

    @property
    def meta(self) -> tuple[int, ...]:
        return (
            KIND_CODES[self.kind],
            self.flags,
            self.slopes.size,
            self.steps,
            int((~np.isnan(self.thresholds)).sum()) + 1,
        )

    def words(self) -> np.ndarray:
        # One pad word keeps the pairs behind the thresholds on 8 bytes.
        return _words(self.thresholds.astype(np.float32), np.zeros(1, np.float32), _pairs(self.slopes, self.intercepts))


@dataclass(frozen=True, eq=False)
class DirectPlan:
    """One value and one slope per code of a 16-bit dtype: 65,536 of each, rounded once from float64. Serves any table
    at all.
    """

    dtype: str
    values: np.ndarray
    slopes: np.ndarray
    kind = "direct"

    @staticmethod
    def _code(x, dtype) -> np.ndarray:
        return np.ascontiguousarray(x, DTYPES[dtype]).view(np.uint16).reshape(np.shape(x))

    def __call__(self, x) -> np.ndarray:
        """x of the plan's dtype, any shape -> the same dtype and shape."""
        return self.values[self._code(x, self.dtype)]

    def slope(self, x: ArrayLike) -> np.ndarray:
        return self.slopes[self._code(x, self.dtype)]

    @property
    def meta(self) -> tuple[int, ...]:
        return KIND_CODES[self.kind], 0, 65536

    def words(self) -> np.ndarray:
        """Values in words [0, 32768), slopes in [32768, 65536); two codes to a word, the even one in its lower half."""
        return _words(self.values, self.slopes)

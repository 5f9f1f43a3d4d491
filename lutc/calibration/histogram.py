"""A histogram of any float32 values in fixed memory, without a range known beforehand, that merges exactly.

A bin holds the values whose float32 bit patterns agree in the upper 16 bits (sign, exponent, 7 mantissa bits: a bf16
value and what lies between it and the next one away from zero). Beside its count a bin has the sum of the lower 16
bits, an integer, so that its mean is exact and adding histograms loses nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from lutc.errors import LutcError
from lutc.formats.codes import Inputs

BINS = 1 << 16
INFINITE = (0x7F80, 0xFF80)  # bins of +inf and -inf; NaN lies in the bins behind each


@dataclass(frozen=True, eq=False)
class Histogram:
    """Finite values by bin. codes: uint16 (n,), strictly increasing, the bins that occur; counts: int64 (n,), positive;
    residues: int64 (n,), sums of the lower 16 bits of the values of a bin. low, high: smallest and largest value, exact
    (0 and 0 where there is none).
    """

    codes: np.ndarray
    counts: np.ndarray
    residues: np.ndarray
    low: float = 0.0
    high: float = 0.0

    def __post_init__(self):
        codes, counts, residues = (np.asarray(a) for a in (self.codes, self.counts, self.residues))
        if codes.dtype != np.uint16 or counts.dtype != np.int64 or residues.dtype != np.int64 or codes.ndim != 1:
            raise LutcError(
                f"a histogram is uint16 codes with int64 counts and residues; given {codes.dtype}, {counts.dtype}, "
                f"{residues.dtype}"
            )
        if not codes.shape == counts.shape == residues.shape or (np.diff(codes.astype(np.int64)) <= 0).any():
            raise LutcError("codes, counts and residues of a histogram have one length, and codes increase")
        if (
            (counts <= 0).any()
            or (residues < 0).any()
            or (residues > counts * 0xFFFF).any()
            or ((codes & 0x7F80) == 0x7F80).any()
        ):
            raise LutcError(
                "counts of a histogram are positive, residues lie in [0, 65535 count], codes are of finite values"
            )
        if not self.low <= self.high or not np.isfinite([self.low, self.high]).all():
            raise LutcError(
                f"a histogram reaches from its smallest to its largest value; given {self.low} and {self.high}"
            )

    @classmethod
    def of(cls, x: ArrayLike, times: ArrayLike | None = None) -> Histogram:
        """Of an array of finite numbers, rounded to float32; LutcError for others. times: how often each occurs, whole
        numbers (n,), once where it is left out.
        """
        x = np.ascontiguousarray(x, np.float32).ravel()
        if not np.isfinite(x).all():
            raise LutcError("a histogram takes finite float32 values")
        bits = x.view(np.uint32)
        codes = (bits >> 16).astype(np.int64)
        if times is None:
            counts = np.bincount(codes, minlength=BINS)
            residues = np.bincount(codes, bits & 0xFFFF, BINS).astype(np.int64)
        else:
            often = np.asarray(times, np.int64).ravel()
            counts, residues = np.zeros(BINS, np.int64), np.zeros(BINS, np.int64)
            np.add.at(counts, codes, often)
            np.add.at(residues, codes, often * (bits & 0xFFFF).astype(np.int64))
        return cls.dense(counts, residues, *((float(x.min()), float(x.max())) if x.size else (0.0, 0.0)))

    @classmethod
    def dense(cls, counts: np.ndarray, residues: np.ndarray, low: float, high: float) -> Histogram:
        """From counts and residues of all 65,536 bins, int64; bins of infinities and NaN are left out."""
        codes = np.flatnonzero(counts)
        codes = codes[(codes & 0x7F80) != 0x7F80]
        return cls(codes.astype(np.uint16), counts[codes].astype(np.int64), residues[codes].astype(np.int64), low, high)

    def __add__(self, other: Histogram) -> Histogram:
        """The histogram of both sets of values; no rounding anywhere."""
        if not self.count or not other.count:
            return self if self.count else other
        codes, index = np.unique(np.concatenate([self.codes, other.codes]), return_inverse=True)
        counts, residues = np.zeros(codes.size, np.int64), np.zeros(codes.size, np.int64)
        np.add.at(counts, index, np.concatenate([self.counts, other.counts]))
        np.add.at(residues, index, np.concatenate([self.residues, other.residues]))
        return Histogram(codes, counts, residues, min(self.low, other.low), max(self.high, other.high))

    def __eq__(self, other) -> bool:
        if not isinstance(other, Histogram):
            return NotImplemented
        arrays = ((self.codes, other.codes), (self.counts, other.counts), (self.residues, other.residues))
        return all(np.array_equal(a, b) for a, b in arrays) and (self.low, self.high) == (other.low, other.high)

    @cached_property
    def count(self) -> int:
        return int(self.counts.sum())

    @cached_property
    def _bins(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Of the bins that occur, ascending by value: lower and upper edge, mean value (float64) and count (int64)."""
        near = (self.codes.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
        far = ((self.codes.astype(np.uint32) + 1) << 16).view(np.float32).astype(np.float64)
        far = np.where(np.isfinite(far), far, np.copysign(2.0**128, near))
        mean = near + (far - near) * (self.residues / self.counts / 65536.0)
        order = np.argsort(np.where(np.signbit(near), -1.0 - self.codes, self.codes))
        return np.minimum(near, far)[order], np.maximum(near, far)[order], mean[order], self.counts[order]

    @property
    def points(self) -> tuple[np.ndarray, np.ndarray]:
        """(x, n): mean value of every bin that occurs, float64, ascending, and its count, int64. A bin is at most 2^-7
        of its value wide.
        """
        return self._bins[2], self._bins[3]

    @property
    def bins(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(lower edges, upper edges, counts) of the bins that occur, ascending by value."""
        lower, upper, _, n = self._bins
        return lower, upper, n

    @cached_property
    def spread(self) -> np.ndarray:
        """Variance inside every bin of `points`, float64: that of an even density; 0 where all values of a bin are its
        bf16 value.
        """
        lower, upper, mean, _ = self._bins
        return np.where((mean == lower) | (mean == upper), 0.0, (upper - lower) ** 2 / 12)

    @cached_property
    def mean(self) -> float:
        """Mean of the values, 0 where there are none."""
        x, n = self.points
        return float(x @ n / self.count) if self.count else 0.0

    @cached_property
    def deviation(self) -> float:
        """Standard deviation, 0 where there are none."""
        x, n = self.points
        return float(np.sqrt(((x - self.mean) ** 2 + self.spread) @ n / self.count)) if self.count else 0.0

    def quantile(self, p: ArrayLike) -> np.ndarray:
        """Values below which the share p lies, float64, shape of p: to the width of a bin, exact at 0 and 1."""
        if not self.count:
            raise LutcError("nothing was observed, so there are no quantiles")
        p = np.asarray(p, np.float64)
        x, n = self.points
        at = np.searchsorted(np.cumsum(n), p * self.count, side="left")
        inner = np.clip(x[np.minimum(at, x.size - 1)], self.low, self.high)
        return np.where(p <= 0, self.low, np.where(p >= 1, self.high, inner))[()]

    def reach(self, share: float) -> float:
        """|x| that the share of the values does not exceed, to the width of a bin; 0 where nothing was observed."""
        x, n = self.points
        if not x.size:
            return 0.0
        order = np.argsort(np.abs(x), kind="stable")
        at = min(int(np.searchsorted(np.cumsum(n[order]), share * self.count)), x.size - 1)
        return float(np.abs(x[order][at]))

    def outside(self, lo: float, hi: float) -> float:
        """Share of the values below lo or above hi, to the width of a bin; 0 where nothing was observed."""
        x, n = self.points
        return float(n[(x < lo) | (x > hi)].sum() / self.count) if self.count else 0.0

    def of_codes(self, inputs: Inputs) -> np.ndarray:
        """How many values quantise to each code, clamped ones at the ends included: int64 (2**bits,), ascending codes.

        Each bin goes to the code of its mean. With bf16 values that is exact. With float32 values and a scale 2**-b it
        is exact for codes of up to 8 bits, but for values midway between two codes: edges of codes are edges of bins.
        """
        x, n = self.points
        counts = np.zeros(inputs.maximum - inputs.minimum + 1, np.int64)
        np.add.at(counts, inputs.quantise(x) - inputs.minimum, n)
        return counts

    def on(self, x: np.ndarray) -> np.ndarray:
        """How many values each x of an ascending grid stands for, float64, shape of x: a bin is shared evenly by the x
        inside it, or goes to the nearest one where none is. Values beyond the ends of the grid are left out.
        """
        lower, upper, mean, n = self._bins
        inside = (mean >= x[0]) & (mean <= x[-1])
        lower, upper, mean, n = lower[inside], upper[inside], mean[inside], n[inside]
        first, last = np.searchsorted(x, lower, "left"), np.searchsorted(x, upper, "left")
        alone = first == last
        right = np.clip(np.searchsorted(x, mean), 1, max(x.size - 1, 1))
        nearest = np.where(
            mean - x[right - 1] <= x[np.minimum(right, x.size - 1)] - mean, right - 1, np.minimum(right, x.size - 1)
        )
        first, last = np.where(alone, nearest, first), np.where(alone, nearest + 1, last)
        share = n / (last - first)
        steps = np.zeros(x.size + 1)
        np.add.at(steps, first, share)
        np.add.at(steps, last, -share)
        return np.maximum(np.cumsum(steps[:-1]), 0.0)

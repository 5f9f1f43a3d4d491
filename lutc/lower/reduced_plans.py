"""Plans in float64: `Reference`, which serves every table, and `Reduced`, the quick one behind range reduction for
float32.

Range reduction is written down as (name, ...): ("exponent", step, growth, sign, offset) for x = m 2^(step e), m in [1,
2^step), f(x) = T(m) 2^(growth e) + offset e, and ("period", growth, period) for x = n period + r, f(x) = T(r) 2^(growth
n). sign: POSITIVE (negative x give NaN), ODD or EVEN.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from lutc.lower.plans import KIND_CODES, round_to, widened
from lutc.table.prologues import ExponentPrologue, PeriodPrologue

POSITIVE, ODD, EVEN = 0, 1, 2
NONE, EXPONENT, PERIOD = 0, 1, 2
_REDUCTIONS = {"": NONE, "exponent": EXPONENT, "period": PERIOD}


def reduction_of(prologue: ExponentPrologue | PeriodPrologue) -> tuple:
    """That of an exponent or period prologue."""
    if prologue.kind == "exponent":
        return (
            "exponent",
            prologue.step,
            prologue.growth,
            ODD if prologue.odd else EVEN if prologue.even else POSITIVE,
            prologue.offset,
        )
    return "period", prologue.growth, prologue.period


@dataclass(frozen=True, eq=False)
class _Wide:
    """What both share: the table itself as evaluation, and how meta and words begin."""

    dtype: str
    thresholds: np.ndarray
    slopes: np.ndarray
    intercepts: np.ndarray
    evaluate: object = field(repr=False)
    evaluate_slope: object = field(repr=False)
    reduction: tuple = ()

    def __call__(self, x) -> np.ndarray:
        """x of the plan's dtype, any shape -> the same dtype and shape; the table's float64 value rounded once."""
        return round_to(self.evaluate(widened(x)), self.dtype)

    def slope(self, x: ArrayLike) -> np.ndarray:
        return round_to(self.evaluate_slope(widened(x)), self.dtype)

    @property
    def meta(self) -> tuple[int, ...]:
        """(kind, 0, segments, reduction, step, growth, sign); reduction 0 none, 1 exponent, 2 period."""
        name = self.reduction[0] if self.reduction else ""
        numbers = self.reduction[1:4] if name == "exponent" else (0, self.reduction[1] if name else 0, 0)
        return KIND_CODES[self.kind], 0, self.slopes.size, _REDUCTIONS[name], *numbers

    @property
    def constant(self) -> float:
        """The offset or the period."""
        return float(self.reduction[-1]) if self.reduction else 0.0


@dataclass(frozen=True, eq=False)
class Reference(_Wide):
    """float64 thresholds (n - 1), slopes and intercepts (n) of the reduced table: right for every table and dtype, not
    fast.
    """

    kind = "reference"

    def words(self) -> np.ndarray:
        """float64 thresholds, slopes, intercepts, and the constant."""
        return (
            np.concatenate([self.thresholds, self.slopes, self.intercepts, [self.constant]])
            .astype(np.float64)
            .view(np.int32)
        )


@dataclass(frozen=True, eq=False)
class Reduced(_Wide):
    """The same with cells by the top bits of the reduced input r, a float64 that is not negative, at most one threshold
    in each.

    cell = (bits of r >> shift) clamped to [first, last], less first; segment = base[cell] + (r >= thresholds[cell]),
    thresholds -inf where there is none. What `Reference` gives but for a fused multiply-add in float64, so the same
    float32 but for ties within 2^-29 of an ulp.
    """

    base: np.ndarray = None
    shift: int = 0
    first: int = 0
    kind = "reduced"

    def index(self, r: np.ndarray) -> np.ndarray:
        """Segment of reduced inputs (float64)."""
        r = np.ascontiguousarray(r, np.float64)
        cell = np.clip(r.view(np.int64) >> self.shift, self.first, self.first + self.base.size - 1) - self.first
        return self.base[cell] + (r >= self.thresholds[cell])

    @property
    def meta(self) -> tuple[int, ...]:
        return *super().meta, self.base.size, self.shift, self.first

    def words(self) -> np.ndarray:
        """float64 constant, thresholds, (slope, intercept) pairs with the leftmost twice, and the int32 segments right
        of each threshold.

        The line of r in a cell is pair base + 1 + (r >= threshold).
        """
        pairs = np.stack(
            [np.append(self.slopes[0], self.slopes), np.append(self.intercepts[0], self.intercepts)], axis=-1
        )
        wide = np.concatenate([[self.constant], self.thresholds, pairs.reshape(-1)]).astype(np.float64)
        return np.concatenate([wide.view(np.int32), (self.base + 1).astype(np.int32)])

"""Range reduction in front of a table: numbers only, evaluated in float64. NaN stays NaN.

A prologue is called with the body's evaluation and x: it reduces x, evaluates, and puts the result back together.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lutc.checks import freeze, is_finite, is_int, vector
from lutc.errors import LutcError


def line(slope: float | np.ndarray, intercept: float | np.ndarray, x: np.ndarray) -> np.ndarray:
    """slope * x + intercept in float64, elementwise; a slope of 0 gives the intercept even at x = +-inf."""
    with np.errstate(invalid="ignore", over="ignore"):
        product = np.where(
            np.asarray(slope) == 0.0, np.where(np.isnan(x), np.nan, 0.0), slope * np.asarray(x, np.float64)
        )
        return product + intercept


@dataclass(frozen=True)
class AbsPrologue:
    """T is stored for |x| only: f(x) = factor * T(|x|) + slope * x + intercept, one (factor, slope, intercept) for x >=
    0, one for x < 0.
    """

    positive: tuple[float, float, float]
    negative: tuple[float, float, float]

    kind = "abs"

    def __post_init__(self):
        for name in ("positive", "negative"):
            values = tuple(float(v) for v in vector(f"prologue {name}", getattr(self, name)))
            if len(values) != 3:
                raise LutcError(f"prologue {name} must be [factor, slope, intercept]; given {list(values)}")
            freeze(self, **{name: values})

    def __call__(self, body, x) -> np.ndarray:
        x = np.asarray(x, np.float64)
        factor, slope, intercept = (
            np.where((x >= 0)[..., None], self.positive, self.negative)
            .reshape(*x.shape, 3)
            .transpose(-1, *range(x.ndim))
        )
        return line(factor, line(slope, intercept, x), body(np.abs(x)))

    def unfolded(self, slopes: np.ndarray, intercepts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(slopes, intercepts), shape (2 n,), of the lines of x, ascending in x, that n lines of |x| stand for."""
        (right, slope, intercept), (left, left_slope, left_intercept) = self.positive, self.negative
        return (
            np.concatenate([(left_slope - left * slopes)[::-1], right * slopes + slope]),
            np.concatenate([(left * intercepts + left_intercept)[::-1], right * intercepts + intercept]),
        )


@dataclass(frozen=True)
class ExponentPrologue:
    """x = m * 2**(step * e), m in [1, 2**step): f(x) = T(m) * 2**(growth * e) + offset * e.

    0 and inf count as e = -inf and inf with m = 1. With `odd` the sign of x is copied to the result, with `even` it
    does not matter; without either negative x give NaN, and -0 keeps its sign where there is no offset, as 1/sqrt(-0) =
    -inf.
    """

    step: int
    growth: int
    offset: float = 0.0
    odd: bool = False
    even: bool = False

    kind = "exponent"

    def __post_init__(self):
        whole = is_int(self.step) and is_int(self.growth) and isinstance(self.odd, bool) and isinstance(self.even, bool)
        if not whole or self.step not in (1, 2) or not -2 <= self.growth <= 2 or not is_finite(self.offset):
            raise LutcError(
                "prologue exponent takes step 1 or 2, growth -2..2, a finite offset, odd and even true or false; "
                f"given {str(self):.120}"
            )
        if self.odd and self.even:
            raise LutcError("a prologue exponent is odd or even, not both")

    def __call__(self, body, x) -> np.ndarray:
        x = np.asarray(x, np.float64)
        magnitude = np.abs(x)
        mantissa, exponent = np.frexp(magnitude)
        e = (exponent - 1) // self.step
        regular = np.isfinite(magnitude) & (magnitude > 0)
        m = np.where(regular, np.ldexp(mantissa, exponent - self.step * e), 1.0)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            value = np.ldexp(body(m), self.growth * e) + self.offset * e
            limit = np.where(magnitude == 0, -np.inf, np.inf)
            ends = body(np.ones_like(m)) * np.exp2(line(self.growth, 0.0, limit)) + line(self.offset, 0.0, limit)
            value = np.where(regular, value, ends)
            if not self.even:
                signed = self.odd or (magnitude == 0) & (self.offset == 0)
                value = np.where(signed, np.copysign(value, x), np.where(x < 0, np.nan, value))
        return np.where(np.isnan(x), np.nan, value)


@dataclass(frozen=True)
class PeriodPrologue:
    """x = n * period + r, r in [0, period): f(x) = T(r) * 2**(growth * n). +-inf give the limit for growth > 0, else
    NaN.
    """

    period: float
    growth: int = 0

    kind = "period"

    def __post_init__(self):
        if not (is_finite(self.period) and self.period > 0) or not is_int(self.growth) or self.growth not in (0, 1):
            raise LutcError(f"prologue period takes a positive period and growth 0 or 1; given {str(self):.120}")

    def __call__(self, body, x) -> np.ndarray:
        x = np.asarray(x, np.float64)
        finite = np.where(np.isfinite(x), x, 0.0)
        r = np.mod(finite, self.period)  # exact in float64, unlike x - n * period
        n = np.rint((finite - r) / self.period)
        with np.errstate(over="ignore", under="ignore"):
            value = np.ldexp(body(r), np.clip(self.growth * n, -1 << 20, 1 << 20).astype(np.int64))
        ends = np.where(x > 0, np.inf, 0.0) if self.growth else np.full_like(x, np.nan)
        return np.where(np.isfinite(x), value, np.where(np.isnan(x), np.nan, ends))


Prologue = AbsPrologue | ExponentPrologue | PeriodPrologue

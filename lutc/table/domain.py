"""Where a table answers at all: outside its domain it gives NaN, as the function does."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from lutc.checks import is_finite, is_int
from lutc.errors import LutcError
from lutc.functions import Function


@dataclass(frozen=True)
class Domain:
    """[low, high] in x; None for no bound on that side. Outside lies NaN.

    low_pole, high_pole: 0, or the sign of the infinity that the function has at that very bound (log at 0: -1).
    """

    low: float | None = None
    high: float | None = None
    low_pole: int = 0
    high_pole: int = 0

    def __post_init__(self):
        bounds, poles = (self.low, self.high), (self.low_pole, self.high_pole)
        if not all(bound is None or is_finite(bound) for bound in bounds) or not all(
            is_int(pole) and -1 <= pole <= 1 for pole in poles
        ):
            raise LutcError(f"a domain takes finite bounds or null, and poles -1, 0 or 1; given {str(self):.120}")
        if any(pole and bound is None for bound, pole in zip(bounds, poles)):
            raise LutcError(f"a pole of the domain stands at its bound; given {str(self):.120}")
        if None not in bounds and not self.low < self.high:
            raise LutcError(f"the bounds of a domain increase; given {self.low:g} and {self.high:g}")

    @classmethod
    def of(cls, fn: Function) -> Domain | None:
        """That of a Function, None where it is defined for every x."""
        ends = np.asarray(fn.domain, np.float64)
        if not np.isfinite(ends).any():
            return None
        values = np.asarray(fn(ends), np.float64)
        poles = np.where(np.isfinite(ends) & np.isinf(values), np.sign(values), 0)
        low, high = (float(end) if np.isfinite(end) else None for end in ends)
        left, right = (int(pole) for pole in poles)
        return cls(low, high, left, right)

    def restrict(self, values: ArrayLike, x: ArrayLike) -> np.ndarray:
        """values (float64) at x, with NaN and the infinities put where they belong."""
        x = np.asarray(x, np.float64)
        result = np.where(np.isnan(x), np.nan, values)
        for bound, pole, beyond in ((self.low, self.low_pole, np.less), (self.high, self.high_pole, np.greater)):
            if bound is not None:
                result = np.where(beyond(x, bound), np.nan, result)
            if pole:
                result = np.where(x == bound, pole * np.inf, result)
        return result

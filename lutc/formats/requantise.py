"""Requantising an accumulator: the integer rule by a multiplier and a shift, and what fits int32."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from lutc.errors import LutcError
from lutc.formats.codes import HALF_AWAY, HALF_EVEN, HALF_UP, Inputs

INT32_MAX = 2**31 - 1
_LARGEST_RATIO = 2.0**31  # beyond it acc * multiplier << -shift would leave int64


def requantiser(ratio: float) -> tuple[int, int]:
    """(multiplier, shift) with ratio = multiplier * 2**-shift: multiplier 1 for powers of two, else an int32 in [2**30,
    2**31).
    """
    if not 0 < ratio < _LARGEST_RATIO:
        raise LutcError(
            "the ratio of scales (input scale * coefficient step / output scale) must be positive and below 2^31; "
            f"given {ratio:g}"
        )
    mantissa, exponent = math.frexp(ratio)
    if mantissa == 0.5:
        return 1, 1 - exponent
    multiplier, shift = round(mantissa * 2**31), 31 - exponent
    if multiplier == 2**31:  # rounded up to the next power of two
        return 1, shift - 31
    return multiplier, shift


def requantise(acc: ArrayLike, multiplier: int, shift: int, rounding: str = HALF_UP) -> np.ndarray:
    """round(acc * multiplier * 2**-shift) in int64: (p + h) >> s for s > 0, p << -s otherwise, with p = acc * m and
    half = 1 << (s - 1). h = half rounds halves up; half - 1 for p < 0 away from zero; half - 1 + the last bit of p >> s
    to even.
    """
    product = np.asarray(acc, np.int64) * multiplier
    if shift > 62:  # |product| < 2**62, so the result rounds to 0
        return np.zeros_like(product)
    return (product + half_of(product, shift, rounding)) >> shift if shift > 0 else product << -shift


def half_of(product: Any, shift: Any, rounding: str) -> Any:
    """What is added to `product` before its right shift by `shift` > 0: integers, arrays or tensors of int64."""
    half = (shift - shift + 1) << (shift - 1)  # 1 of the kind of `shift`
    if rounding == HALF_AWAY:
        return half - (product < 0) * 1
    if rounding == HALF_EVEN:
        return half - 1 + ((product >> shift) & 1)
    return half


def scaled_intercepts(codes: ArrayLike, inputs: Inputs) -> np.ndarray:
    """t' of intercepts given as integer codes t: t << b for a scale 2**-b, else floor(t / S + 1/2)."""
    exact = np.floor(np.asarray(codes, np.float64) / inputs.scale + 0.5)
    return np.clip(exact, -(2.0**62), 2.0**62).astype(np.int64)  # what leaves int32 is refused behind this

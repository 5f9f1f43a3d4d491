"""Requantising an accumulator: the integer rule by a multiplier and a shift, and what fits int32."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from lutc.errors import LutcError
from lutc.formats.codes import Inputs

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


def requantise(acc: ArrayLike, multiplier: int, shift: int) -> np.ndarray:
    """round(acc * multiplier * 2**-shift), half up, in int64: (acc * m + (1 << (s - 1))) >> s for s > 0, acc * m << -s
    otherwise.
    """
    product = np.asarray(acc, np.int64) * multiplier
    if shift > 62:  # |product| < 2**62, so the result rounds to 0
        return np.zeros_like(product)
    return (product + (1 << (shift - 1))) >> shift if shift > 0 else product << -shift


def scaled_intercepts(codes: ArrayLike, inputs: Inputs) -> np.ndarray:
    """t' of intercepts given as integer codes t: t << b for a scale 2**-b, else floor(t / S + 1/2)."""
    return np.floor(np.asarray(codes, np.float64) / inputs.scale + 0.5).astype(np.int64)

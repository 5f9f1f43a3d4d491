"""The bits of bfloat16, and float16 from and to it, to nearest even: the ports of a unit of fp16 arithmetic."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from lutc.formats.float16 import bits_of, value_of

BFLOAT16_NAN = 0x7FC0


def bfloat16_value(bits: ArrayLike) -> np.ndarray:
    """The value (float64) of bfloat16 bits."""
    wide = np.asarray(bits, np.uint32) << np.uint32(16)
    with np.errstate(invalid="ignore"):  # signalling NaN
        return wide.view(np.float32).astype(np.float64)


def float16_of_bfloat16(bits: ArrayLike) -> np.ndarray:
    """float16 bits (uint16) of the value of bfloat16 bits: infinity from 65520 on, subnormals rounded; NaN is some
    NaN.
    """
    return bits_of(bfloat16_value(bits))


def bfloat16_of_float16(bits: ArrayLike) -> np.ndarray:
    """bfloat16 bits (uint16) of the value of float16 bits, all of which are in its range; NaN is 0x7FC0."""
    value = value_of(bits)
    with np.errstate(invalid="ignore"):
        wide = value.astype(np.float32).view(np.uint32)  # exact
    rounded = (wide + np.uint32(0x7FFF) + ((wide >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(value), BFLOAT16_NAN, rounded).astype(np.uint16)

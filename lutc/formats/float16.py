"""fp16 addition and multiplication on the bit level, as hardware does them: rounded to nearest even, or truncated.

Operands and results are the 16 bits of a float16 as unsigned integers. `rne` is IEEE 754: correctly rounded, ties to
even, subnormals kept, overflow to infinity. `trunc` is a cheaper unit: an addition aligns the smaller operand and drops
the bits shifted out, without a guard bit; a product is cut off; what is too large becomes the largest finite value. In
both, infinities and NaN behave as IEEE says, x + -x is +0, and a NaN result is the quiet 0x7E00.

`float16_add`, `float16_mul`: numpy, any shapes that broadcast. `lutc.formats.float16.numba_add`, `numba_mul`: scalars
for numba's nopython code. `lutc.kernels.float16`: the same in Triton.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from lutc.errors import LutcError

ROUNDINGS = ("rne", "trunc")
INFINITY, NAN, LARGEST = 0x7C00, 0x7E00, 0x7BFF


def bits_of(x: ArrayLike) -> np.ndarray:
    """The bits (uint16) of values rounded to the nearest float16; float64 in any shape."""
    with np.errstate(over="ignore"):
        return np.asarray(x, np.float64).astype(np.float16).view(np.uint16)


def value_of(bits: ArrayLike) -> np.ndarray:
    """The value (float64) of float16 bits."""
    return np.asarray(bits, np.uint16).view(np.float16).astype(np.float64)


def _truncates(rounding: str) -> bool:
    if rounding not in ROUNDINGS:
        raise LutcError(f"unknown rounding {rounding!r}; choose one of {', '.join(ROUNDINGS)}")
    return rounding == "trunc"


def _operand(bits) -> np.ndarray:
    return np.asarray(bits).astype(np.uint16).astype(np.int32)


def _unpack(magnitude):
    """Exponent (of a subnormal: 1) and significand (11 bits)."""
    field = magnitude >> 10
    return np.maximum(field, 1), (magnitude & 0x3FF) | ((field > 0).astype(np.int32) << 10)


def _finish(sign, magnitude, invalid, infinite, truncate):
    """The result's bits. A carry out of the significand has already gone into the exponent."""
    magnitude = np.where(magnitude >= INFINITY, LARGEST if truncate else INFINITY, magnitude)
    magnitude = np.where(infinite, INFINITY, magnitude) | sign
    return np.where(invalid, NAN, magnitude).astype(np.uint16)


def float16_add(a: ArrayLike, b: ArrayLike, rounding: str = "rne") -> np.ndarray:
    """a + b: bits of float16 in, uint16 bits out."""
    truncate = _truncates(rounding)
    a, b = np.broadcast_arrays(_operand(a), _operand(b))
    swap = (a & 0x7FFF) < (b & 0x7FFF)
    a, b = np.where(swap, b, a), np.where(swap, a, b)
    large, small, sign = a & 0x7FFF, b & 0x7FFF, a & 0x8000
    differ = ((a ^ b) & 0x8000) != 0
    invalid = (large > INFINITY) | ((large == INFINITY) & (small == INFINITY) & differ)
    exponent, x = _unpack(large)
    small_exponent, y = _unpack(small)
    shift = np.minimum(exponent - small_exponent, 15)
    # Three bits below the significand: guard, round, and whether any lower bit was set.
    x, y = x << 3, y << 3
    dropped = (y & ((1 << shift) - 1)) != 0
    y = (y >> (shift + 3)) << 3 if truncate else (y >> shift) | dropped
    total = np.where(differ, x - y, x + y)
    carry = total >> 14
    total = np.where(carry > 0, (total >> 1) | (total & 1), total)
    exponent = exponent + carry
    for step in (8, 4, 2, 1):
        move = (total < (1 << (14 - step))) & (exponent > step)
        total, exponent = np.where(move, total << step, total), np.where(move, exponent - step, exponent)
    kept, rest = total >> 3, total & 7
    if not truncate:
        kept = kept + ((rest > 4) | ((rest == 4) & ((kept & 1) == 1)))
    sign = np.where((total == 0) & differ, 0, sign)
    magnitude = np.where(total == 0, 0, ((exponent - 1) << 10) + kept)
    return _finish(sign, magnitude, invalid, large == INFINITY, truncate)


def float16_mul(a: ArrayLike, b: ArrayLike, rounding: str = "rne") -> np.ndarray:
    """a * b: bits of float16 in, uint16 bits out."""
    truncate = _truncates(rounding)
    a, b = np.broadcast_arrays(_operand(a), _operand(b))
    sign, a, b = (a ^ b) & 0x8000, a & 0x7FFF, b & 0x7FFF
    infinite, zero = (a == INFINITY) | (b == INFINITY), (a == 0) | (b == 0)
    invalid = (a > INFINITY) | (b > INFINITY) | (infinite & zero)
    (a_exponent, x), (b_exponent, y) = _unpack(a), _unpack(b)
    product, exponent = x * y, a_exponent + b_exponent - 14  # of a product in [2^21, 2^22)
    for step in (16, 8, 4, 2, 1):
        move = product < (1 << (22 - step))
        product, exponent = np.where(move, product << step, product), np.where(move, exponent - step, exponent)
    shift = 11 + np.clip(1 - exponent, 0, 12)  # by 23 nothing is left
    kept, rest, half = product >> shift, product & ((1 << shift) - 1), 1 << (shift - 1)
    if not truncate:
        kept = kept + ((rest > half) | ((rest == half) & ((kept & 1) == 1)))
    magnitude = np.where(zero, 0, ((np.maximum(exponent, 1) - 1) << 10) + kept)
    return _finish(sign, magnitude, invalid, infinite, truncate)

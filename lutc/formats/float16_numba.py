"""float16 addition and multiplication on bits for numba's nopython code; `lutc.formats.float16` says what they do.
Imported only where it is used.
"""

import numpy as np

from lutc.formats.float16 import INFINITY, LARGEST, NAN
from lutc.jit import njit


@njit
def _pack(sign, exponent, kept, truncate):
    magnitude = ((exponent - 1) << 10) + kept
    if magnitude >= INFINITY:
        magnitude = LARGEST if truncate else INFINITY
    return sign | magnitude


@njit
def add(a, b, truncate):
    """a + b; a, b and the result are float16 bits as integers."""
    a, b = np.int64(a), np.int64(b)
    if (a & 0x7FFF) < (b & 0x7FFF):
        a, b = b, a
    large, small = a & 0x7FFF, b & 0x7FFF
    sign, differ = a & 0x8000, (a ^ b) & 0x8000
    if large > INFINITY:
        return NAN
    if large == INFINITY:
        return NAN if small == INFINITY and differ else a
    exponent, small_exponent = max(large >> 10, 1), max(small >> 10, 1)
    x = ((large & 0x3FF) | (1024 if large >= 1024 else 0)) << 3
    y = ((small & 0x3FF) | (1024 if small >= 1024 else 0)) << 3
    shift = min(exponent - small_exponent, 15)
    if truncate:
        y = (y >> (shift + 3)) << 3
    else:
        y = (y >> shift) | (1 if y & ((1 << shift) - 1) else 0)
    total = x - y if differ else x + y
    if total == 0:
        return 0 if differ else sign
    if total >> 14:
        total = (total >> 1) | (total & 1)
        exponent += 1
    while total < 1 << 13 and exponent > 1:
        total <<= 1
        exponent -= 1
    kept, rest = total >> 3, total & 7
    if not truncate and (rest > 4 or (rest == 4 and kept & 1)):
        kept += 1
    return _pack(sign, exponent, kept, truncate)


@njit
def mul(a, b, truncate):
    """a * b; a, b and the result are float16 bits as integers."""
    a, b = np.int64(a), np.int64(b)
    sign = (a ^ b) & 0x8000
    a, b = a & 0x7FFF, b & 0x7FFF
    if a > INFINITY or b > INFINITY:
        return NAN
    if a == INFINITY or b == INFINITY:
        return NAN if a == 0 or b == 0 else sign | INFINITY
    if a == 0 or b == 0:
        return sign
    exponent = max(a >> 10, 1) + max(b >> 10, 1) - 14
    product = ((a & 0x3FF) | (1024 if a >= 1024 else 0)) * ((b & 0x3FF) | (1024 if b >= 1024 else 0))
    while product < 1 << 21:
        product <<= 1
        exponent -= 1
    shift = 11 + min(max(1 - exponent, 0), 12)
    kept, rest, half = product >> shift, product & ((1 << shift) - 1), 1 << (shift - 1)
    if not truncate and (rest > half or (rest == half and kept & 1)):
        kept += 1
    return _pack(sign, max(exponent, 1), kept, truncate)

"""float16 arithmetic on bits: nearest even against numpy's, truncation against exact integer arithmetic."""

import numpy as np
import pytest

from lutc.errors import LutcError
from lutc.formats.float16 import float16_add, float16_mul

# Both sides of every boundary: zeros, subnormals, the smallest normal, 1, powers of two, the largest, infinity, NaN;
# both signs.
_POSITIVE = [
    0,
    1,
    2,
    3,
    0x1FF,
    0x200,
    0x3FE,
    0x3FF,
    0x400,
    0x401,
    0x7FF,
    0x800,
    0x3BFF,
    0x3C00,
    0x3C01,
    0x3FFF,
    0x4000,
    0x4001,
]
_POSITIVE += [0x6BFF, 0x6C00, 0x77FF, 0x7800, 0x7801, 0x7BFE, 0x7BFF, 0x7C00, 0x7C01, 0x7E00, 0x7FFF] + [
    k << 10 for k in range(1, 31)
]
BOUNDARY = np.array(_POSITIVE + [b | 0x8000 for b in _POSITIVE], np.uint16)


def pairs(kind: str):
    rng = np.random.default_rng(0)
    every = np.arange(1 << 16).astype(np.uint16)
    if kind == "random":
        return rng.integers(0, 1 << 16, 2_000_000).astype(np.uint16), rng.integers(0, 1 << 16, 2_000_000).astype(
            np.uint16
        )
    if kind == "boundary":  # every code with every boundary code
        return np.repeat(every, BOUNDARY.size), np.tile(BOUNDARY, every.size)
    near = rng.integers(0, 1 << 16, 2_000_000)  # near in exponent, so that additions cancel and tie
    return near.astype(np.uint16), ((near ^ 0x8000) + rng.integers(-5000, 5000, near.size)).astype(np.uint16)


KINDS = ("random", "boundary", "structured")


def same(got, want):
    nan = (want & 0x7FFF) > 0x7C00
    assert got.dtype == np.uint16
    assert (((got & 0x7FFF) > 0x7C00) == nan).all()
    wrong = np.flatnonzero((got != want) & ~nan)
    assert wrong.size == 0, (wrong.size, got[wrong[:3]], want[wrong[:3]])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("operation, ours", [(np.add, float16_add), (np.multiply, float16_mul)])
def test_nearest_even_is_ieee(operation, ours, kind):
    a, b = pairs(kind)
    with np.errstate(all="ignore"):
        want = operation(a.view(np.float16), b.view(np.float16)).view(np.uint16)
    same(ours(a, b), want)


def integer(bits):
    """The value of finite float16 bits as an integer multiple of 2^-24."""
    magnitude = bits.astype(np.int64) & 0x7FFF
    field = magnitude >> 10
    significand = (magnitude & 0x3FF) + ((field > 0) << 10)
    return np.where(bits & 0x8000, -1, 1) * (significand << (np.maximum(field, 1) - 1))


def truncated(sign, numerator, shift):
    """Bits of sign * (numerator >> shift) * 2^-24 cut off to float16, the largest finite value where it exceeds it."""
    whole = numerator >> shift
    width = np.frexp(whole.astype(np.float64))[1]  # bits of the integer: exact below 2^53
    drop = np.maximum(width - 11, 0)
    kept = whole >> drop
    magnitude = np.minimum((drop << 10) + kept, 0x7BFF)  # kept holds the hidden bit where drop > 0 or kept >= 1024
    return (np.where(sign, 0x8000, 0) | magnitude).astype(np.uint16)


def finite(a, b):
    keep = ((a & 0x7C00) != 0x7C00) & ((b & 0x7C00) != 0x7C00)
    return a[keep], b[keep]


@pytest.mark.parametrize("kind", KINDS)
def test_truncated_addition(kind):
    """The smaller operand loses every bit below the larger one's last; the sum of what is left is cut off."""
    a, b = finite(*pairs(kind))
    swap = (a & 0x7FFF) < (b & 0x7FFF)
    large, small = np.where(swap, b, a), np.where(swap, a, b)
    last = np.maximum((large.astype(np.int64) & 0x7FFF) >> 10, 1) - 1
    x, y = integer(large), integer(small)
    aligned = np.sign(y) * ((np.abs(y) >> last) << last)
    total = x + aligned
    # a sum of zero is +0 unless both operands are negative
    negative = np.where(total == 0, (large & small & 0x8000) != 0, total < 0)
    same(float16_add(a, b, "trunc"), truncated(negative, np.abs(total), 0))


@pytest.mark.parametrize("kind", KINDS)
def test_truncated_multiplication(kind):
    a, b = finite(*pairs(kind))
    x, y = np.abs(integer(a)), np.abs(integer(b))
    # |x y| < 2^80, so the significands (11 bits each) are multiplied and the powers of two kept apart
    shift_a, shift_b = (np.maximum((v.astype(np.int64) & 0x7FFF) >> 10, 1) - 1 for v in (a, b))
    product = (x >> shift_a) * (y >> shift_b)
    power = shift_a + shift_b - 24  # product * 2^power in units of 2^-24
    large = np.where(power >= 0, product << np.clip(power, 0, 40), product >> np.clip(-power, 0, 62))
    same(float16_mul(a, b, "trunc"), truncated(((a ^ b) & 0x8000) != 0, large, 0))


@pytest.mark.parametrize("rounding", ["rne", "trunc"])
def test_infinities_and_nan(rounding):
    inf, ninf, nan, one, zero = 0x7C00, 0xFC00, 0x7E00, 0x3C00, 0
    assert float16_add(inf, one, rounding) == inf and float16_add(ninf, one, rounding) == ninf
    assert float16_add(inf, inf, rounding) == inf and float16_add(inf, ninf, rounding) == nan
    assert float16_mul(ninf, one, rounding) == ninf and float16_mul(inf, zero, rounding) == nan
    assert float16_add(nan, one, rounding) == nan and float16_mul(one, 0xFE01, rounding) == nan


def test_overflow():
    assert float16_add(0x7BFF, 0x7BFF) == 0x7C00 and float16_mul(0xFBFF, 0x4000) == 0xFC00
    assert float16_add(0x7BFF, 0x7BFF, "trunc") == 0x7BFF and float16_mul(0xFBFF, 0x4000, "trunc") == 0xFBFF


def test_shapes_broadcast():
    assert float16_add(np.zeros((3, 1), np.uint16), np.zeros(4, np.uint16)).shape == (3, 4)


def test_unknown_rounding():
    with pytest.raises(LutcError, match="rne, trunc"):
        float16_add(0, 0, "up")


@pytest.mark.parametrize("rounding", ["rne", "trunc"])
@pytest.mark.parametrize("kind", KINDS)
def test_numba_equals_numpy(kind, rounding):
    from numba import njit

    from lutc.formats.float16_numba import add, mul

    @njit
    def run(a, b, truncate, sums, products):
        for i in range(a.size):
            sums[i] = add(a[i], b[i], truncate)
            products[i] = mul(a[i], b[i], truncate)

    a, b = (v[::7] for v in pairs(kind))
    sums, products = np.empty_like(a), np.empty_like(a)
    run(a, b, rounding == "trunc", sums, products)
    assert np.array_equal(sums, float16_add(a, b, rounding))
    assert np.array_equal(products, float16_mul(a, b, rounding))

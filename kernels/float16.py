"""float16 addition and multiplication on the bit level in Triton; `lutc.formats.float16` says what the two roundings do
and is their oracle.

c = float16_add(a, b, TRUNCATE)      # a, b, c: blocks of float16; TRUNCATE: a compile-time flag, 0 for nearest even
"""

import torch
import triton
import triton.language as tl

_INFINITY = tl.constexpr(0x7C00)
_NAN = tl.constexpr(0x7E00)
_LARGEST = tl.constexpr(0x7BFF)


@triton.jit
def _bits(x):
    return x.to(tl.int16, bitcast=True).to(tl.int32) & 0xFFFF


@triton.jit
def _significand(magnitude):
    return (magnitude & 0x3FF) | (magnitude >= 0x400).to(tl.int32) << 10


@triton.jit
def _finish(sign, magnitude, invalid, infinite, TRUNCATE: tl.constexpr):
    magnitude = tl.where(magnitude >= _INFINITY, _LARGEST if TRUNCATE else _INFINITY, magnitude)
    magnitude = tl.where(infinite, _INFINITY, magnitude) | sign
    return tl.where(invalid, _NAN, magnitude).to(tl.int16).to(tl.float16, bitcast=True)


@triton.jit
def float16_add(a, b, TRUNCATE: tl.constexpr):
    """a + b of two float16 blocks of one shape."""
    a, b = _bits(a), _bits(b)
    swap = (a & 0x7FFF) < (b & 0x7FFF)
    a, b = tl.where(swap, b, a), tl.where(swap, a, b)
    large, small, sign = a & 0x7FFF, b & 0x7FFF, a & 0x8000
    differ = ((a ^ b) & 0x8000) != 0
    invalid = (large > _INFINITY) | ((large == _INFINITY) & (small == _INFINITY) & differ)
    exponent = tl.maximum(large >> 10, 1)
    shift = tl.minimum(exponent - tl.maximum(small >> 10, 1), 15)
    x, y = _significand(large) << 3, _significand(small) << 3
    if TRUNCATE:
        y = (y >> (shift + 3)) << 3
    else:
        y = (y >> shift) | ((y & ((1 << shift) - 1)) != 0).to(tl.int32)
    total = tl.where(differ, x - y, x + y)
    carry = total >> 14
    total = tl.where(carry > 0, (total >> 1) | (total & 1), total)
    exponent += carry
    for i in tl.static_range(4):
        step = 8 >> i  # constant in each round
        move = (total < (1 << (14 - step))) & (exponent > step)
        total, exponent = tl.where(move, total << step, total), tl.where(move, exponent - step, exponent)
    kept, rest = total >> 3, total & 7
    if not TRUNCATE:
        kept += ((rest > 4) | ((rest == 4) & ((kept & 1) == 1))).to(tl.int32)
    sign = tl.where((total == 0) & differ, 0, sign)
    magnitude = tl.where(total == 0, 0, ((exponent - 1) << 10) + kept)
    return _finish(sign, magnitude, invalid, large == _INFINITY, TRUNCATE)


@triton.jit
def float16_mul(a, b, TRUNCATE: tl.constexpr):
    """a * b of two float16 blocks of one shape."""
    a, b = _bits(a), _bits(b)
    sign = (a ^ b) & 0x8000
    a, b = a & 0x7FFF, b & 0x7FFF
    infinite, zero = (a == _INFINITY) | (b == _INFINITY), (a == 0) | (b == 0)
    invalid = (a > _INFINITY) | (b > _INFINITY) | (infinite & zero)
    product = _significand(a) * _significand(b)
    exponent = tl.maximum(a >> 10, 1) + tl.maximum(b >> 10, 1) - 14
    for i in tl.static_range(5):
        step = 16 >> i
        move = product < (1 << (22 - step))
        product, exponent = tl.where(move, product << step, product), tl.where(move, exponent - step, exponent)
    shift = 11 + tl.minimum(tl.maximum(1 - exponent, 0), 12)
    kept, rest, half = product >> shift, product & ((1 << shift) - 1), 1 << (shift - 1)
    if not TRUNCATE:
        kept += ((rest > half) | ((rest == half) & ((kept & 1) == 1))).to(tl.int32)
    magnitude = tl.where(zero, 0, ((tl.maximum(exponent, 1) - 1) << 10) + kept)
    return _finish(sign, magnitude, invalid, infinite, TRUNCATE)


@triton.jit
def arithmetic_kernel(a, b, sums, products, n_elements, TRUNCATE: tl.constexpr, BLOCK: tl.constexpr):
    """Both results of n_elements pairs of float16."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n_elements
    x, y = tl.load(a + at, inside), tl.load(b + at, inside)
    tl.store(sums + at, float16_add(x, y, TRUNCATE), inside)
    tl.store(products + at, float16_mul(x, y, TRUNCATE), inside)


def launch(
    a: torch.Tensor, b: torch.Tensor, sums: torch.Tensor, products: torch.Tensor, truncate: bool, block: int = 1024
) -> None:
    """Sums and products of contiguous float16 tensors of one size, into given ones."""
    n = a.numel()
    with torch.cuda.device_of(a):
        arithmetic_kernel[(triton.cdiv(n, block),)](
            a, b, sums, products, n, TRUNCATE=truncate, BLOCK=block, enable_fp_fusion=False
        )

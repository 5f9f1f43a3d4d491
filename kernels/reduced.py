"""Range reduction in Triton: the `reduced` plans (lutc.lower.reduced_plans) as device functions, float32 in, float64 in
between, float32 out.

FLAGS holds what is constant in a function's reduction: bits 0-1 its kind (1 exponent, 2 period), 2-3 the sign (0
positive x only, 1 odd, 2 even), 4 step - 1, 5 up: growth + 2. p0 ... p3: segments, cells, shift, first cell.
"""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl

BIAS = tl.constexpr(1023)
MANTISSA = tl.constexpr((1 << 52) - 1)
MOST = tl.constexpr(1000.0)  # periods beyond which 2^n T(r) is 0 or infinite in float32, whatever r is
INFINITY = tl.constexpr(float("inf"))


def arguments(meta: Sequence[int]) -> dict:
    """Keyword arguments of the device functions, but for x and words."""
    kind, _, segments, reduction, step, growth, sign, cells, shift, first = meta
    flags = reduction | sign << 2 | max(step - 1, 0) << 4 | (growth + 2) << 5
    return {"p0": segments, "p1": cells, "p2": shift, "p3": first, "p4": 0, "p5": 0, "KIND": kind, "FLAGS": flags}


@triton.jit
def _power(e):
    """2**e for -1022 <= e <= 1023 (int64)."""
    return ((e + BIAS) << 52).to(tl.float64, bitcast=True)


@triton.jit
def _line(r, words, segments, cells, shift, first):
    """(slope, intercept) of reduced inputs, float64 and not negative."""
    wide = words.to(tl.pointer_type(tl.float64))
    key = r.to(tl.int64, bitcast=True) >> shift
    cell = (tl.minimum(tl.maximum(key, first), first + cells - 1) - first).to(tl.int32)
    right = tl.load(words + 2 * (1 + cells + 2 * segments + 2) + cell)
    pair = wide + 1 + cells + 2 * (right + (r >= tl.load(wide + 1 + cell)).to(tl.int32))
    return tl.load(pair), tl.load(pair + 1)


@triton.jit
def _exponent(x, words, segments, cells, shift, first, FLAGS: tl.constexpr, SLOPE: tl.constexpr):
    SIGN: tl.constexpr = FLAGS >> 2 & 3
    HALVING: tl.constexpr = FLAGS >> 4 & 1
    POWER: tl.constexpr = (FLAGS >> 5) - 2 - (HALVING + 1 if SLOPE else 0)
    v = x.to(tl.float64)
    magnitude = tl.abs(v)
    bits = magnitude.to(tl.int64, bitcast=True)
    regular = (magnitude > 0.0) & (magnitude < INFINITY)
    bits = tl.where(regular, bits, BIAS << 52)  # 1
    whole = (bits >> 52) - BIAS
    e = whole >> HALVING
    m = ((bits & MANTISSA) | ((whole - (e << HALVING) + BIAS) << 52)).to(tl.float64, bitcast=True)
    slope, intercept = _line(m, words, segments, cells, shift, first)
    body = slope if SLOPE else tl.fma(slope, m, intercept)
    value = body * _power(POWER * e)
    offset = tl.load(words.to(tl.pointer_type(tl.float64)))
    if POWER > 0:
        value = tl.where(regular, value, tl.where(magnitude > 0.0, body * INFINITY, 0.0))
    elif POWER < 0:
        value = tl.where(regular, value, tl.where(magnitude > 0.0, 0.0, body * INFINITY))
    if not SLOPE:
        limit = tl.where(magnitude > 0.0, INFINITY, -INFINITY)
        value += tl.where(offset != 0.0, offset * tl.where(regular, e.to(tl.float64), limit), 0.0)
    below = v.to(tl.int64, bitcast=True) < 0
    if SIGN == (2 if SLOPE else 1):
        value = tl.where(below, -value, value)
    if SIGN == 0:
        if not SLOPE:
            value = tl.where(offset == 0.0, tl.where(below & (magnitude == 0.0), -value, value), value)
        value = tl.where(v < 0.0, float("nan"), value)
    return tl.where(v == v, value, v)


@triton.jit
def _period(x, words, segments, cells, shift, first, FLAGS: tl.constexpr, SLOPE: tl.constexpr):
    GROWTH: tl.constexpr = (FLAGS >> 5) - 2
    v = x.to(tl.float64)
    whole = tl.load(words.to(tl.pointer_type(tl.float64)))
    inverse = 1.0 / whole
    if GROWTH:
        r = tl.minimum(tl.maximum(v, -whole * MOST), whole * MOST)
    else:  # take off whole periods, 52 bits of their number at a time, for the 126 that float32 may have: exact
        for _ in tl.static_range(2):
            v = tl.fma(-_truncated(v * inverse), whole, v)
        r = v  # NaN for infinite x
    count = tl.floor(r * inverse)  # may be off by one
    here, up = tl.fma(-count, whole, r), tl.fma(-1.0 - count, whole, r)
    less = here < 0.0
    r = tl.where(up >= 0.0, up, tl.where(less, tl.fma(1.0 - count, whole, r), here))
    count = tl.where(up >= 0.0, count + 1.0, tl.where(less, count - 1.0, count))
    slope, intercept = _line(r, words, segments, cells, shift, first)
    value = slope if SLOPE else tl.fma(slope, r, intercept)
    if GROWTH:
        value *= _power(tl.where(v == v, count, 0.0).to(tl.int64))
    return tl.where(v == v, value, v)


@triton.jit
def _truncated(x):
    return tl.where(x < 0.0, tl.ceil(x), tl.floor(x))


@triton.jit
def evaluate(x, words, p0, p1, p2, p3, FLAGS: tl.constexpr, SLOPE: tl.constexpr):
    """table(x), or with SLOPE its derivative, for a float32 block; NaN gives NaN."""
    if FLAGS & 3 == 1:
        value = _exponent(x, words, p0, p1, p2, p3, FLAGS, SLOPE)
    else:
        value = _period(x, words, p0, p1, p2, p3, FLAGS, SLOPE)
    return value.to(tl.float32)

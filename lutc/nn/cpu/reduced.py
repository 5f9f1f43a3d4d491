"""Range reduction on the CPU: numba kernels of the `reduced` plans (lutc.lower.reduced_plans), float32 in and out,
float64 in between.

One kernel per kind of reduction, with what a function's reduction is as constants: loops hold no branches then, and as
results go to a local block first, which nothing else can point to, they become vector instructions. Powers of two are
made from their bits.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numba.extending
import numpy as np

from lutc.lower.reduced_plans import EVEN, ODD, POSITIVE
from lutc.nn.cpu.base import TABLE_KERNEL, compiled, double_bits, double_of, floats, integers, native, plan_words

_BLOCK = 512  # results at a time
_BIAS = np.int64(1023)
_MOST = np.float64(1000.0)  # periods beyond which 2^n T(r) is 0 or infinite in float32, whatever r is


@numba.extending.intrinsic
def _fma(typing, a, b, c):
    """a * b + c rounded once."""

    def generate(context, builder, signature, arguments):
        return builder.fma(*arguments)

    return numba.float64(numba.float64, numba.float64, numba.float64), generate


@compiled
def _power(e):
    """2**e for -1022 <= e <= 1023."""
    return double_of((e + _BIAS) << np.int64(52))


@compiled
def _tables(words, segments, cells):
    """constant, thresholds, lines (slope, intercept, ...) and bases of a plan's words."""
    wide = words[: 2 * (1 + cells + 2 * segments + 2)].view(np.float64)
    return wide[0], wide[1 : 1 + cells], wide[1 + cells :], words[2 * (1 + cells + 2 * segments + 2) :]


@compiled
def _line(r, thresholds, lines, bases, shift, first, last):
    """(slope, intercept) of a reduced input, which is not negative."""
    key = double_bits(r) >> shift
    key = key if key > first else first
    cell = (key if key < last else last) - first
    pair = np.uint64(2) * np.uint64(bases[np.uint64(cell)] + np.int32(r >= thresholds[np.uint64(cell)]))
    return lines[pair], lines[pair + np.uint64(1)]


@cache
def exponent(slope_only: bool, step: int, growth: int, sign: int) -> Callable:
    """The kernel of an exponent prologue."""
    halving, power = np.int64(step - 1), np.int64(growth - step if slope_only else growth)
    growing, shrinking = (
        np.float64(np.inf if power > 0 else 0.0 if power else 1.0),
        np.float64(np.inf if power < 0 else 0.0 if power else 1.0),
    )
    signed, positive = sign == (EVEN if slope_only else ODD), sign == POSITIVE

    @native(TABLE_KERNEL)
    def run(x_at, out_at, n, words_at, numbers_at):
        x, out, words, numbers = floats(x_at, n), floats(out_at, n), plan_words(words_at), integers(numbers_at)
        segments, cells, shift, first = numbers[0], numbers[1], numbers[2], numbers[3]
        offset, thresholds, lines, bases = _tables(words, segments, cells)
        last = first + cells - 1
        slope, intercept = _line(1.0, thresholds, lines, bases, shift, first, last)
        end = slope if slope_only else slope + intercept
        offset = 0.0 if slope_only else offset
        step_to_limit = np.inf * offset if offset != 0.0 else 0.0
        at_zero, at_infinity = end * shrinking - step_to_limit, end * growing + step_to_limit
        keeps_zero = positive and offset == 0.0 and not slope_only
        local = np.empty(_BLOCK, np.float32)
        for start in range(0, n, _BLOCK):
            part = x[start : start + _BLOCK]
            for i in range(part.size):
                v = np.float64(part[i])
                magnitude = abs(v)
                bits = double_bits(magnitude)
                whole = (bits >> np.int64(52)) - _BIAS
                e = whole >> halving
                m = double_of((bits & np.int64(0xFFFFFFFFFFFFF)) | ((whole - (e << halving) + _BIAS) << np.int64(52)))
                slope, intercept = _line(m, thresholds, lines, bases, shift, first, last)
                exponent = power * e
                exponent = exponent if exponent > -1022 else np.int64(-1022)
                exponent = exponent if exponent < 1023 else np.int64(1023)
                value = (slope if slope_only else slope * m + intercept) * _power(exponent) + offset * np.float64(e)
                value = at_zero if magnitude == 0.0 else value
                value = at_infinity if magnitude == np.inf else value
                if signed:
                    value = -value if bits != double_bits(v) else value
                if positive:
                    value = -value if keeps_zero and v == 0.0 and bits != double_bits(v) else value
                    value = np.nan if v < 0.0 else value
                local[i] = np.float32(value if v == v else v)
            out[start : start + _BLOCK] = local[: part.size]

    return run


@cache
def period(slope_only: bool, growth: int) -> Callable:
    """The kernel of a period prologue."""

    @native(TABLE_KERNEL)
    def run(x_at, out_at, n, words_at, numbers_at):
        x, out, words, numbers = floats(x_at, n), floats(out_at, n), plan_words(words_at), integers(numbers_at)
        segments, cells, shift, first = numbers[0], numbers[1], numbers[2], numbers[3]
        whole, thresholds, lines, bases = _tables(words, segments, cells)
        last = first + cells - 1
        inverse, reach = 1.0 / whole, whole * _MOST
        local = np.empty(_BLOCK, np.float32)
        for start in range(0, n, _BLOCK):
            part = x[start : start + _BLOCK]
            for i in range(part.size):
                v = np.float64(part[i])
                if growth:  # beyond so many periods the result is 0 or infinite
                    r = v if v > -reach else -reach
                    r = r if r < reach else reach
                # take off whole periods, 52 bits of their number at a time, for the 126 that float32 may have: exact
                else:
                    r = _fma(-np.trunc(v * inverse), whole, v)
                    r = _fma(-np.trunc(r * inverse), whole, r)
                count = np.floor(r * inverse)  # may be off by one
                down, here, up = _fma(1.0 - count, whole, r), _fma(-count, whole, r), _fma(-1.0 - count, whole, r)
                count = count + 1.0 if up >= 0.0 else (count - 1.0 if here < 0.0 else count)
                r = up if up >= 0.0 else (down if here < 0.0 else here)
                slope, intercept = _line(r, thresholds, lines, bases, shift, first, last)
                value = slope if slope_only else slope * r + intercept
                if growth:
                    local[i] = np.float32(value * _power(np.int64(np.int32(count))) if v == v else v)
                else:
                    local[i] = np.float32(value if r == r else r)
            out[start : start + _BLOCK] = local[: part.size]

    return run

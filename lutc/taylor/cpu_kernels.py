"""The numba functions behind `lutc.taylor.cpu`; importing this imports numba."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch
from llvmlite import ir
from numba import float32, int64, njit, types
from numba.core.typing import signature
from numba.extending import intrinsic

# fastmath lets the sums be vectorised; NaN and infinity keep their meaning.
_FLAGS = {"reassoc", "contract", "nsz", "arcp"}
_CACHE_LINE = 64
# Bytes of a matrix asked for before they are read.
_AHEAD = 24 << 10


@intrinsic
def _from_half(context, code):
    def generate(_, builder, __, arguments):
        return builder.fpext(builder.bitcast(arguments[0], ir.HalfType()), ir.FloatType())

    return signature(types.float32, types.uint16), generate


@intrinsic
def _from_bfloat(context, code):
    def generate(_, builder, __, arguments):
        wide = builder.shl(builder.zext(arguments[0], ir.IntType(32)), ir.Constant(ir.IntType(32), 16))
        return builder.bitcast(wide, ir.FloatType())

    return signature(types.float32, types.uint16), generate


@intrinsic
def _prefetch(context, address):
    """Ask for the cache line at `address` (int64) in the second-level cache; any address is allowed."""

    def generate(target, builder, _, arguments):
        pointer, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
        function = builder.module.declare_intrinsic("llvm.prefetch", [pointer], kind)
        builder.call(function, [builder.inttoptr(arguments[0], pointer), number(0), number(2), number(1)])
        return target.get_dummy_value()

    return signature(types.void, types.int64), generate


@njit
def _fetch_ahead(matrix, o):
    """Two rows of `matrix`, _AHEAD bytes after row o. The processor's own prefetching stops at each page; a large table
    is not in any cache. It has places for some 50 lines at once: four rows of floats would wait for half of the time.
    """
    start = matrix.ctypes.data + o * matrix.strides[0] + _AHEAD
    for line in range(0, 2 * matrix.strides[0], _CACHE_LINE):
        _prefetch(int64(start + line))


@njit
def _from_float(value):
    return value


@njit
def _from_int8(value):
    return float32(value)


def _dots(decode):
    """Products of all rows of a matrix [o, d], decoded, with one vector or with four at once: each y [o]."""

    # Two outputs share each load of the vector, and hide the latency of the additions.
    @njit(fastmath=_FLAGS, nogil=True)
    def one(x, matrix, y):
        outputs, width = matrix.shape
        for o in range(0, outputs - 1, 2):
            _fetch_ahead(matrix, o)
            s0, s1 = matrix[o], matrix[o + 1]
            a0 = a1 = float32(0)
            for i in range(width):
                a0, a1 = a0 + decode(s0[i]) * x[i], a1 + decode(s1[i]) * x[i]
            y[o], y[o + 1] = a0, a1
        if outputs % 2:
            a0 = float32(0)
            for i in range(width):
                a0 += decode(matrix[outputs - 1, i]) * x[i]
            y[outputs - 1] = a0

    # Four vectors also share each load of the matrix, and its decoding.
    @njit(fastmath=_FLAGS, nogil=True)
    def four(x0, x1, x2, x3, matrix, y0, y1, y2, y3):
        outputs, width = matrix.shape
        for o in range(0, outputs - 1, 2):
            _fetch_ahead(matrix, o)
            s0, s1 = matrix[o], matrix[o + 1]
            a0 = a1 = b0 = b1 = c0 = c1 = d0 = d1 = float32(0)
            for i in range(width):
                m0, m1 = decode(s0[i]), decode(s1[i])
                a0, a1 = a0 + m0 * x0[i], a1 + m1 * x0[i]
                b0, b1 = b0 + m0 * x1[i], b1 + m1 * x1[i]
                c0, c1 = c0 + m0 * x2[i], c1 + m1 * x2[i]
                d0, d1 = d0 + m0 * x3[i], d1 + m1 * x3[i]
            y0[o], y0[o + 1] = a0, a1
            y1[o], y1[o + 1] = b0, b1
            y2[o], y2[o + 1] = c0, c1
            y3[o], y3[o + 1] = d0, d1
        if outputs % 2:
            o = outputs - 1
            a0 = b0 = c0 = d0 = float32(0)
            for i in range(width):
                m0 = decode(matrix[o, i])
                a0, b0, c0, d0 = a0 + m0 * x0[i], b0 + m0 * x1[i], c0 + m0 * x2[i], d0 + m0 * x3[i]
            y0[o], y1[o], y2[o], y3[o] = a0, b0, c0, d0

    return one, four


_one_float, _four_floats = _dots(_from_float)


@njit(nogil=True)
def routed(x, centres, half_norms, owner):
    """owner[n] = argmax of x[n] . c - |c|^2 / 2, the first on a tie; 0 for a row with NaN."""
    scores = np.empty((4, len(centres)), np.float32)
    for first in range(0, len(x), 4):
        rows = min(4, len(x) - first)
        if rows == 1:
            _one_float(x[first], centres, scores[0])
        else:
            # With fewer than four rows left some are computed twice.
            a, b, c, d = x[first], x[first + 1], x[first + min(2, rows - 1)], x[first + rows - 1]
            _four_floats(a, b, c, d, centres, scores[0], scores[1], scores[min(2, rows - 1)], scores[rows - 1])
        for n in range(rows):
            best, where = float32(-np.inf), 0
            for k in range(len(centres)):
                score = scores[n, k] - half_norms[k]
                if score > best:
                    best, where = score, k
            owner[first + n] = where


@njit(nogil=True)
def joined(x, weights, offsets, z):
    """z[n] = x[n], then weights @ x[n] + offsets: what kept neurons are applied to. Four rows share each weight."""
    d = x.shape[1]
    for first in range(0, len(x), 4):
        rows = min(4, len(x) - first)
        if rows == 1:
            _one_float(x[first], weights, z[first, d:])
        else:
            b, c, last = first + 1, first + min(2, rows - 1), first + rows - 1
            _four_floats(x[first], x[b], x[c], x[last], weights, z[first, d:], z[b, d:], z[c, d:], z[last, d:])
        for n in range(first, first + rows):
            z[n, :d] = x[n]
            for i in range(len(weights)):
                z[n, d + i] += offsets[i]


@njit(fastmath=_FLAGS, nogil=True)
def _relu(t):
    for i in range(len(t)):
        t[i] = t[i] if t[i] > 0 or t[i] != t[i] else float32(0)


# Of erf(x) = x P(x^2) / Q(x^2) on [-4, 4] in float32, within 2 ulp: Eigen's minimax fit (generic_fast_erf_float).
_P = tuple(
    np.float32(value)
    for value in (
        -2.72614225801306e-10,
        2.77068142495902e-08,
        -2.10102402082508e-06,
        -5.69250639462346e-05,
        -7.34990630326855e-04,
        -2.95459980854025e-03,
        -1.60960333262415e-02,
    )
)
_Q = tuple(
    np.float32(value)
    for value in (
        -1.45660718464996e-05,
        -2.13374055278905e-04,
        -1.68282697438203e-03,
        -7.37332916720468e-03,
        -1.42647390514189e-02,
    )
)


@njit(fastmath=_FLAGS, nogil=True)
def _gelu(t):
    for i in range(len(t)):
        # Written so that NaN passes all comparisons. Left of -4 the function is 0 in float32, whatever it is times.
        x = t[i] * float32(0.7071067811865476)
        left = float32(0) if x < float32(-4) else float32(0.5) * t[i]
        x = float32(-4) if x < float32(-4) else x
        x = float32(4) if x > float32(4) else x
        s = x * x
        p = _P[0]
        p = p * s + _P[1]
        p = p * s + _P[2]
        p = p * s + _P[3]
        p = p * s + _P[4]
        p = p * s + _P[5]
        p = p * s + _P[6]
        q = _Q[0]
        q = q * s + _Q[1]
        q = q * s + _Q[2]
        q = q * s + _Q[3]
        q = q * s + _Q[4]
        t[i] = left * (float32(1) + x * p / q)


# Functions of kept neurons that are computed in the kernel; others are torch's, between two calls.
ACTIVATIONS = {"relu": _relu, "gelu": _gelu}


def _product(decode, scaled: bool):
    """y[n] = bias + scales * (decode(slopes) @ z[n]) for the centre owner[n], n in the order of `sequence`: equal
    centres in one run.
    """
    one, four = _dots(decode)

    @njit(nogil=True)
    def multiplied(z, owner, sequence, slopes, scales, bias, y):
        first, count = 0, len(sequence)
        while first < count:
            k = owner[sequence[first]]
            last = first
            while last + 1 < count and last - first < 3 and owner[sequence[last + 1]] == k:
                last += 1
            a, d = sequence[first], sequence[last]
            if first == last:
                one(z[a], slopes[k], y[a])
            else:
                b, c = sequence[first + 1], sequence[min(first + 2, last)]
                four(z[a], z[b], z[c], z[d], slopes[k], y[a], y[b], y[c], y[d])
            for place in range(first, last + 1):
                n = sequence[place]
                for o in range(y.shape[1]):
                    y[n, o] = (y[n, o] * scales[k, o] if scaled else y[n, o]) + bias[k, o]
            first = last + 1

    return multiplied


def _whole(multiplied):
    @njit(nogil=True)
    def whole(x, z, centres, half_norms, slopes, scales, bias, y):
        owner = np.zeros(len(x), np.int64)
        if len(centres) > 1:
            routed(x, centres, half_norms, owner)
        sequence = np.argsort(owner) if len(x) > 1 else np.zeros(len(x), np.int64)
        multiplied(z, owner, sequence, slopes, scales, bias, y)

    return whole


# By the slopes' dtype; 16-bit floats come as their codes.
PRODUCT = {
    torch.float32: _product(_from_float, False),
    torch.float16: _product(_from_half, False),
    torch.bfloat16: _product(_from_bfloat, False),
    torch.int8: _product(_from_int8, True),
}
WHOLE = {dtype: _whole(multiplied) for dtype, multiplied in PRODUCT.items()}


@functools.cache
def whole_with_neurons(dtype: torch.dtype, activation: str) -> Callable:
    """WHOLE of slopes of `dtype` with kept neurons of a function in ACTIVATIONS before it, in one call. `columns` is
    empty where columns have no scales.
    """
    whole, activate = WHOLE[dtype], ACTIVATIONS[activation]

    @njit(nogil=True)
    def with_neurons(x, weights, offsets, columns, centres, half_norms, slopes, scales, bias, y):
        z = np.empty((len(x), x.shape[1] + len(weights)), np.float32)
        joined(x, weights, offsets, z)
        for n in range(len(x)):
            activate(z[n, x.shape[1] :])
            for i in range(len(columns)):
                z[n, i] *= columns[i]
        whole(x, z, centres, half_norms, slopes, scales, bias, y)

    return with_neurons

"""The numba functions behind `lutc.taylor.cpu`; importing this imports numba."""

from __future__ import annotations

import numpy as np
import torch
from llvmlite import ir
from numba import float32, njit, types
from numba.core.typing import signature
from numba.extending import intrinsic

# fastmath lets the sums be vectorised; NaN and infinity keep their meaning.
_FLAGS = {"reassoc", "contract", "nsz", "arcp"}


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


@njit
def _from_float(value):
    return value


@njit
def _from_int8(value):
    return float32(value)


@njit(fastmath=_FLAGS, nogil=True)
def routed(x, centres, half_norms, owner):
    """owner[n] = argmax of x[n] . c - |c|^2 / 2, the first on a tie; 0 for a row with NaN."""
    for n in range(x.shape[0]):
        best, where = float32(-np.inf), 0
        for k in range(centres.shape[0]):
            score = -half_norms[k]
            for i in range(x.shape[1]):
                score += x[n, i] * centres[k, i]
            if score > best:
                best, where = score, k
        owner[n] = where


def _product(decode, scaled: bool):
    """y[n] = bias + scales * (decode(slopes) @ z[n]) for the centre owner[n], n in the order of `sequence`."""

    # Four outputs share each load of z; four sums also hide the latency of the additions.
    @njit(fastmath=_FLAGS, nogil=True)
    def multiplied(z, owner, sequence, slopes, scales, bias, y):
        outputs, width = slopes.shape[1], slopes.shape[2]
        for n in sequence:
            k = owner[n]
            row = z[n]
            for o in range(0, outputs - outputs % 4, 4):
                s0, s1, s2, s3 = slopes[k, o], slopes[k, o + 1], slopes[k, o + 2], slopes[k, o + 3]
                a0, a1, a2, a3 = float32(0), float32(0), float32(0), float32(0)
                for i in range(width):
                    a0 += decode(s0[i]) * row[i]
                    a1 += decode(s1[i]) * row[i]
                    a2 += decode(s2[i]) * row[i]
                    a3 += decode(s3[i]) * row[i]
                if scaled:
                    a0, a1, a2, a3 = a0 * scales[k, o], a1 * scales[k, o + 1], a2 * scales[k, o + 2], a3 * scales[k, o + 3]
                y[n, o], y[n, o + 1], y[n, o + 2], y[n, o + 3] = a0 + bias[k, o], a1 + bias[k, o + 1], a2 + bias[k, o + 2], a3 + bias[k, o + 3]
            for o in range(outputs - outputs % 4, outputs):
                a0 = float32(0)
                for i in range(width):
                    a0 += decode(slopes[k, o, i]) * row[i]
                y[n, o] = (a0 * scales[k, o] if scaled else a0) + bias[k, o]

    return multiplied


def _whole(multiplied):
    @njit(nogil=True)
    def whole(x, centres, half_norms, slopes, scales, bias, y):
        owner = np.zeros(len(x), np.int64)
        if len(centres) > 1:
            routed(x, centres, half_norms, owner)
        sequence = np.argsort(owner) if len(x) > 1 else np.zeros(len(x), np.int64)
        multiplied(x, owner, sequence, slopes, scales, bias, y)

    return whole


# By the slopes' dtype; 16-bit floats come as their codes.
PRODUCT = {
    torch.float32: _product(_from_float, False),
    torch.float16: _product(_from_half, False),
    torch.bfloat16: _product(_from_bfloat, False),
    torch.int8: _product(_from_int8, True),
}
WHOLE = {dtype: _whole(multiplied) for dtype, multiplied in PRODUCT.items()}

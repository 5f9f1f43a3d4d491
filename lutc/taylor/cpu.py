"""numba kernels for small batches on a CPU: routing and product in one pass over the rows, without a sort's or a dispatch's fixed cost.

fp16 and bf16 slopes are read as their 16-bit codes and widened in registers, int8 slopes likewise, so that a batch moves half or a
quarter of the bytes: at small batches the slopes' bytes are the time. All arithmetic is float32.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor

# Up to this many rows the numba kernel is used; beyond, sorting and one matrix product per centre are faster.
SMALL_BATCH = 64


class Bound:
    """Routing and product of one table in a single call, with the table's arrays at hand: at batch 1 each look-up of a tensor counts.

    The arrays share the tensors' memory, so training shows; `valid` tells whether the tensors still lie where they did.
    """

    def __init__(self, centres: Tensor, half_norms: Tensor, slopes: Tensor, scales: Tensor | None, bias: Tensor):
        self.tensors = (centres, slopes, bias)
        self.places = self._places()
        self.width, self.outputs = slopes.shape[2], slopes.shape[1]
        slopes, offsets = slopes.detach(), bias.detach().numpy()
        codes = slopes.view(torch.uint16) if slopes.dtype in (torch.float16, torch.bfloat16) else slopes
        self.arrays = (centres.numpy(), half_norms.numpy(), codes.numpy(), offsets if scales is None else scales.numpy(), offsets)
        self.kernel = _kernels()[2][slopes.dtype]

    def _places(self) -> tuple[int, int, int]:
        a, b, c = self.tensors
        return a.data_ptr(), b.data_ptr(), c.data_ptr()

    def valid(self) -> bool:
        return self._places() == self.places

    def __call__(self, x: Tensor) -> Tensor:
        """x [..., d] float32 and contiguous, at most SMALL_BATCH rows -> [..., o]."""
        rows = x.numpy().reshape(-1, self.width)
        y = np.empty((len(rows), self.outputs), np.float32)
        self.kernel(rows, *self.arrays, y)
        return torch.from_numpy(y.reshape(*x.shape[:-1], self.outputs) if x.ndim != 2 else y)


def route(x: Tensor, centres: Tensor, half_norms: Tensor) -> Tensor:
    """Nearest centre (int64 [n]) of each row of x [n, d], all float32 and contiguous."""
    owner = np.empty(len(x), np.int64)
    _kernels()[0](x.numpy(), centres.numpy(), half_norms.numpy(), owner)
    return torch.from_numpy(owner)


def product(z: Tensor, owner: Tensor, slopes: Tensor, scales: Tensor | None, bias: Tensor) -> Tensor:
    """y[n] = bias[owner[n]] + scales * slopes[owner[n]] @ z[n] for z [n, p] float32, slopes [k, o, p] in any storage format."""
    where = owner.numpy()
    y = np.empty((len(z), slopes.shape[1]), np.float32)
    codes = slopes.view(torch.uint16) if slopes.dtype in (torch.float16, torch.bfloat16) else slopes
    # Rows of one centre follow each other, so that its slopes are still in the cache.
    sequence = np.argsort(where, kind="stable")
    offsets = bias.numpy()
    # Without int8 the scales are never read; the bias stands in so that the kernel has one signature.
    _kernels()[1][slopes.dtype](z.numpy(), where, sequence, codes.numpy(), offsets if scales is None else scales.numpy(), offsets, y)
    return torch.from_numpy(y)


@functools.cache
def _kernels():
    from numba import float32, njit, types
    from numba.core.typing import signature
    from numba.extending import intrinsic

    @intrinsic
    def from_half(context, code):
        def generate(_, builder, __, arguments):
            from llvmlite import ir

            return builder.fpext(builder.bitcast(arguments[0], ir.HalfType()), ir.FloatType())

        return signature(types.float32, types.uint16), generate

    @intrinsic
    def from_bfloat(context, code):
        def generate(_, builder, __, arguments):
            from llvmlite import ir

            wide = builder.shl(builder.zext(arguments[0], ir.IntType(32)), ir.Constant(ir.IntType(32), 16))
            return builder.bitcast(wide, ir.FloatType())

        return signature(types.float32, types.uint16), generate

    # fastmath lets the sums be vectorised; NaN and infinity keep their meaning.
    flags = {"reassoc", "contract", "nsz", "arcp"}

    @njit(fastmath=flags, nogil=True)
    def routed(x, centres, half_norms, owner):
        for n in range(x.shape[0]):
            best, where = float32(-np.inf), 0
            for k in range(centres.shape[0]):
                score = -half_norms[k]
                for i in range(x.shape[1]):
                    score += x[n, i] * centres[k, i]
                if score > best:
                    best, where = score, k
            owner[n] = where

    def build(decode, scaled):
        # Four outputs share each load of z; four sums also hide the latency of the additions.
        @njit(fastmath=flags, nogil=True)
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

    def build_whole(multiplied):
        @njit(nogil=True)
        def whole(x, centres, half_norms, slopes, scales, bias, y):
            owner = np.zeros(len(x), np.int64)
            if len(centres) > 1:
                routed(x, centres, half_norms, owner)
            sequence = np.argsort(owner) if len(x) > 1 else np.zeros(len(x), np.int64)
            multiplied(x, owner, sequence, slopes, scales, bias, y)

        return whole

    same = njit(lambda value: value)
    widened = njit(lambda value: float32(value))
    products = {
        torch.float32: build(same, False),
        torch.float16: build(from_half, False),
        torch.bfloat16: build(from_bfloat, False),
        torch.int8: build(widened, True),
    }
    return routed, products, {dtype: build_whole(product) for dtype, product in products.items()}

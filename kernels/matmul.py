"""A matrix product with a table in its epilogue: how `lutc.kernels.pwl.evaluate` is called from a kernel of one's own.

    out = table(a @ b + bias)

The accumulator is float32, and so is the table's input: the product is not rounded before the table, unlike table(a @
b) in two steps.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from lutc.kernels import pwl


@triton.jit(do_not_specialize=["p0", "p1", "p2", "p3", "p4", "p5"])
def _matmul(
    a_ptr, b_ptr, bias_ptr, out_ptr, m, n, k, a_row, a_column, b_row, b_column, words, p0, p1, p2, p3, p4, p5,
    KIND: tl.constexpr, FLAGS: tl.constexpr, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0).to(tl.int64) * M + tl.arange(0, M)
    columns = tl.program_id(1).to(tl.int64) * N + tl.arange(0, N)
    inner = tl.arange(0, K).to(tl.int64)
    step = tl.full((), K, tl.int64)  # strides of 32 bits times it may need more
    row_inside, column_inside = rows < m, columns < n
    a_block = a_ptr + rows[:, None] * a_row + inner[None, :] * a_column
    b_block = b_ptr + inner[:, None] * b_row + columns[None, :] * b_column
    total = tl.zeros((M, N), tl.float32)
    for start in range(0, k, K):
        inside = inner < k - start
        a = tl.load(a_block, mask=row_inside[:, None] & inside[None, :], other=0.0)
        b = tl.load(b_block, mask=inside[:, None] & column_inside[None, :], other=0.0)
        total = tl.dot(a, b, total, input_precision="ieee")
        a_block += step * a_column
        b_block += step * b_row
    total += tl.load(bias_ptr + columns, mask=column_inside, other=0.0).to(tl.float32)[None, :]
    value = pwl.evaluate(total, words, p0, p1, p2, p3, p4, p5, KIND, FLAGS)
    out = out_ptr + rows[:, None] * n + columns[None, :]
    tl.store(out, value.to(out_ptr.dtype.element_ty), mask=row_inside[:, None] & column_inside[None, :])


def linear_lut(
    a: torch.Tensor, b: torch.Tensor, bias: torch.Tensor, words: torch.Tensor, meta: Sequence[int]
) -> torch.Tensor:
    """table(a @ b + bias): a (m, k), b (k, n), bias (n,), one dtype of float32, float16, bfloat16; a float32 plan.
    Returns (m, n).
    """
    (m, k), n = a.shape, b.shape[1]
    out = torch.empty(m, n, dtype=a.dtype, device=a.device)
    block = {"M": 64, "N": 64, "K": 32}
    grid = (triton.cdiv(m, block["M"]), triton.cdiv(n, block["N"]))
    options = {
        "num_warps": 4,
        "enable_fp_fusion": True,
    }  # the product gains by it; the table's own multiply-adds are fused anyway
    with torch.cuda.device_of(a):
        _matmul[grid](
            a, b, bias, out, m, n, k, *a.stride(), *b.stride(), words, **pwl.arguments(meta), **block, **options
        )
    return out

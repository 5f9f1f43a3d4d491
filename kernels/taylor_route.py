"""Routing of Taylor-MLP: the distances' matrix product and their argmin in one kernel, so that the [n, k] scores are
never stored.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK_N, BLOCK_K, BLOCK_D = 64, 64, 32


@triton.jit
def taylor_route_kernel(
    x_ptr,
    centres_ptr,
    half_norms_ptr,
    owner_ptr,
    n,
    k,
    d,
    x_stride,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """owner[n] = argmax over centres of x . c - |c|^2 / 2, the first on a tie. x [n, d] rows x_stride apart, centres
    [k, d] contiguous.
    """
    rows = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    best = tl.full([BLOCK_N], -float("inf"), tl.float32)
    where = tl.zeros([BLOCK_N], tl.int32)
    for first in range(0, k, BLOCK_K):
        columns = first + tl.arange(0, BLOCK_K)
        score = tl.zeros([BLOCK_N, BLOCK_K], tl.float32)
        for start in range(0, d, BLOCK_D):
            depth = start + tl.arange(0, BLOCK_D)
            x = tl.load(
                x_ptr + rows[:, None] * x_stride + depth[None, :],
                mask=(rows[:, None] < n) & (depth[None, :] < d),
                other=0.0,
            )
            c = tl.load(
                centres_ptr + columns[None, :] * d + depth[:, None],
                mask=(columns[None, :] < k) & (depth[:, None] < d),
                other=0.0,
            )
            # tf32 would send inputs near a boundary to another centre than the CPU does.
            score = tl.dot(x, c, score, input_precision="ieee")
        score -= tl.load(half_norms_ptr + columns, mask=columns < k, other=float("inf"))[None, :]
        # A row with NaN gets index 0; argmax over NaN alone is not defined.
        score = tl.where(score == score, score, -float("inf"))
        highest = tl.max(score, 1)
        first_highest = tl.argmax(score, 1)
        # Strictly greater: the first centre wins a tie.
        better = highest > best
        where = tl.where(better, first + first_highest, where)
        best = tl.where(better, highest, best)
    tl.store(owner_ptr + rows, where.to(tl.int64), mask=rows < n)


def route(x: Tensor, centres: Tensor, half_norms: Tensor) -> Tensor:
    """Nearest centre (int64 [n]) of each row of x [n, d] float32; rows may be strided. centres [k, d], half_norms [k]
    float32, contiguous.
    """
    x = x if x.stride(1) == 1 else x.contiguous()
    owner = torch.empty(len(x), dtype=torch.int64, device=x.device)
    if len(x):
        grid = (triton.cdiv(len(x), BLOCK_N),)
        with torch.cuda.device_of(x):
            sizes = len(x), len(centres), x.shape[1], x.stride(0)
            taylor_route_kernel[grid](
                x, centres, half_norms, owner, *sizes, BLOCK_N, BLOCK_K, BLOCK_D, enable_fp_fusion=True
            )
    return owner

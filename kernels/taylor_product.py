"""The grouped product of Taylor-MLP: each row times its own centre's matrix, gathered and scattered
inside the kernel.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK_N, BLOCK_O, BLOCK_P = 32, 64, 32


@triton.jit
def taylor_product_kernel(
    z_ptr,
    sequence_ptr,
    tile_centre_ptr,
    tile_first_ptr,
    tile_end_ptr,
    slopes_ptr,
    scales_ptr,
    bias_ptr,
    y_ptr,
    o,
    p,
    z_stride,
    slopes_stride_k,
    slopes_stride_o,
    slopes_stride_p,
    SCALED: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """One tile: rows sequence[first:end] of one centre times BLOCK_O of its outputs. A tile with first
    >= end is empty.
    """
    tile = tl.program_id(0)
    first = tl.load(tile_first_ptr + tile)
    end = tl.load(tile_end_ptr + tile)
    if first < end:
        centre = tl.load(tile_centre_ptr + tile).to(tl.int64)
        places = first + tl.arange(0, BLOCK_N)
        inside = places < end
        rows = tl.load(sequence_ptr + places, mask=inside, other=0)
        outputs = tl.program_id(1) * BLOCK_O + tl.arange(0, BLOCK_O)
        matrix = slopes_ptr + centre * slopes_stride_k
        total = tl.zeros([BLOCK_N, BLOCK_O], tl.float32)
        for start in range(0, p, BLOCK_P):
            depth = start + tl.arange(0, BLOCK_P)
            z = tl.load(
                z_ptr + rows[:, None] * z_stride + depth[None, :],
                mask=inside[:, None] & (depth[None, :] < p),
                other=0.0,
            )
            s = tl.load(
                matrix + outputs[None, :] * slopes_stride_o + depth[:, None] * slopes_stride_p,
                mask=(outputs[None, :] < o) & (depth[:, None] < p),
                other=0.0,
            )
            total = tl.dot(z, s.to(tl.float32), total, input_precision="ieee")
        if SCALED:
            total *= tl.load(scales_ptr + centre * o + outputs, mask=outputs < o, other=0.0)[None, :]
        total += tl.load(bias_ptr + centre * o + outputs, mask=outputs < o, other=0.0)[None, :]
        tl.store(y_ptr + rows[:, None] * o + outputs[None, :], total, mask=inside[:, None] & (outputs[None, :] < o))


def product(z: Tensor, owner: Tensor, slopes: Tensor, scales: Tensor | None, bias: Tensor) -> Tensor:
    """y[n] = bias[a] + scales[a] * (slopes[a] @ z[n]), a = owner[n]: z [n, p] float32, slopes [k, o, p] of any strides
    -> [n, o] float32.
    """
    z = z if z.stride(1) == 1 else z.contiguous()
    k, o, p = slopes.shape
    y = torch.empty(len(z), o, device=z.device)
    if not len(z):
        return y
    sequence = torch.argsort(owner)
    centre, first, end = tiles(owner, k)
    grid = (len(first), triton.cdiv(o, BLOCK_O))
    with torch.cuda.device_of(z):
        taylor_product_kernel[grid](
            z, sequence, centre, first, end, slopes, bias if scales is None else scales, bias, y,
            o, p, z.stride(0), *slopes.stride(), scales is not None, BLOCK_N, BLOCK_O, BLOCK_P, enable_fp_fusion=True,
        )  # fmt: skip
    return y


def tiles(owner: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Centre, first and end place (in the sorted order) of each tile of at most BLOCK_N rows of one centre.

    Their number, n / BLOCK_N + k, is an upper bound that needs no synchronisation with the device; tiles past the last
    are empty.
    """
    # Not bincount: it waits for the device to learn the largest index.
    counts = torch.zeros(k, dtype=torch.int64, device=owner.device).index_add_(0, owner, torch.ones_like(owner))
    ends = counts.cumsum(0)
    tile_ends = ((counts + BLOCK_N - 1) // BLOCK_N).cumsum(0)
    tile = torch.arange(triton.cdiv(len(owner), BLOCK_N) + k, device=owner.device)
    centre = torch.searchsorted(tile_ends, tile, right=True).clamp_max(k - 1)
    within = tile - (tile_ends - (counts + BLOCK_N - 1) // BLOCK_N)[centre]
    first = (ends - counts)[centre] + within * BLOCK_N
    return centre, first, torch.minimum(first + BLOCK_N, ends[centre])

"""Codes through a table: one output for every bit pattern of a code, and floats through the code of each."""

import torch
import triton
import triton.language as tl

BLOCK, WARPS = 4096, 8  # 16 codes of a byte for each thread, one access


@triton.jit
def codes_kernel(q, table, out, n_elements, MASK: tl.constexpr, BLOCK: tl.constexpr):
    """out[i] = table[q[i]], the table in the order of unsigned codes."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n_elements
    place = tl.load(q + at, mask=inside, other=0).to(tl.int32) & MASK
    tl.store(out + at, tl.load(table + place, mask=inside, other=0), mask=inside)


@triton.jit
def through_codes_kernel(x, scale, values, out, n_elements, low, high, zero, nan, BLOCK: tl.constexpr):
    """out[i] = values[code of x[i]], rounded half to even and clamped to [low, high], both less the zero point; `zero`
    and `nan`: the places of the zero point and of NaN. scale: one float32 in memory.
    """
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n_elements
    given = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    step = tl.math.div_rn(given, tl.load(scale))
    known = step == step
    step = tl.where(known, step, 0.0)
    step = tl.minimum(tl.maximum(step, low - 1.0), high + 1.0)
    step = (
        step + 12582912.0
    ) - 12582912.0  # 1.5 * 2^23: what is added to it is rounded to a whole number, half to even
    step = tl.minimum(tl.maximum(step, low), high)
    place = tl.where(known, step.to(tl.int32) + zero, nan)
    tl.store(out + at, tl.load(values + place, mask=inside, other=0.0), mask=inside)


def codes(q: torch.Tensor, table: torch.Tensor, out: torch.Tensor) -> None:
    """Write table[q] to `out`; all without gaps, in the same order. table: by unsigned code."""
    grid = (triton.cdiv(q.numel(), BLOCK),)
    mask = (1 << 8 * q.itemsize) - 1
    codes_kernel[grid](q, table, out, q.numel(), mask, BLOCK, num_warps=WARPS)


def through_codes(
    x: torch.Tensor, scale: torch.Tensor, values: torch.Tensor, out: torch.Tensor, limits: tuple[int, int, int]
) -> None:
    """Write values[code of x] to `out`. scale: float32, one element; values: of the dtype of `out`, of all codes and
    then of NaN; limits: smallest and largest code, zero point, of at most 16 bits.
    """
    lowest, highest, zero_point = limits
    grid = (triton.cdiv(x.numel(), BLOCK),)
    ends = float(lowest - zero_point), float(highest - zero_point)
    places = zero_point - lowest, highest - lowest + 1
    through_codes_kernel[grid](x, scale, values, out, x.numel(), *ends, *places, BLOCK, num_warps=WARPS)

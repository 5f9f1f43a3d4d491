"""`lutc.nn.integer_ops` in plain torch operations, in int64, for devices without a kernel."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lutc.hardware.rows import DEVIATION_BITS
from lutc.nn.integer_lines import requantise


def leading_one(x: Tensor) -> Tensor:
    index = torch.zeros_like(x)
    for step in (32, 16, 8, 4, 2, 1):
        large = x >= 1 << step
        index = index + large * step
        x = torch.where(large, x >> step, x)
    return index


def shift_to(x: Tensor, places: Tensor) -> Tensor:
    right = (-places).clamp(min=0)
    return torch.where(right > 0, ((x >> (right - 1).clamp(min=0)) + 1) >> 1, x << places.clamp(min=0))


def _divide(numerator: Tensor, n: int) -> Tensor:
    return torch.div(2 * numerator + n, 2 * n, rounding_mode="floor")


def roots(mantissa: Tensor, cuts: Tensor, slopes: Tensor, intercepts: Tensor, multiplier: int, shift: int) -> Tensor:
    index = torch.bucketize(mantissa.contiguous(), cuts.to(torch.int64))
    return requantise(slopes.to(torch.int64)[index] * mantissa + intercepts[index], multiplier, shift)


def softmax(
    q: Tensor,
    mask: Tensor | None,
    weights: Tensor,
    cuts: Tensor,
    slopes: Tensor,
    intercepts: Tensor,
    numbers: Sequence[int],
    dtype: torch.dtype,
) -> Tensor:
    r_multiplier, r_shift, multiplier, shift, zero_point, lowest, highest = numbers
    if q.numel() == 0:
        return torch.empty(q.shape, dtype=dtype, device=q.device)
    size = 1 << 8 * q.itemsize
    q = q.to(torch.int64)
    top = (q if mask is None else q.masked_fill(~mask, -size // 2)).amax(dim=-1, keepdim=True)
    found = weights.to(torch.int32)[q - top + size - 1].to(torch.int64)
    found = found if mask is None else found.masked_fill(~mask, 0)
    total = found.sum(dim=-1, keepdim=True).clamp(min=1)
    leading = leading_one(total)
    root = roots(shift_to(total, 14 - leading).clamp(max=32767), cuts, slopes, intercepts, r_multiplier, r_shift)
    codes = requantise(found * root, multiplier, shift + leading) + zero_point
    return codes.clamp(lowest, highest).to(dtype)


def norm(
    q: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    cuts: Tensor,
    slopes: Tensor,
    intercepts: Tensor,
    numbers: Sequence[int],
    dtype: torch.dtype,
) -> Tensor:
    r_multiplier, r_shift, centred, offset, fraction, epsilon, dropped, *hide, multiplier, shift = numbers[:11]
    zero_point, lowest, highest = numbers[11:]
    n = q.shape[-1]
    c = q.to(torch.int64) - offset
    rest = torch.zeros_like(c[..., :1])
    if centred:
        total = c.sum(dim=-1, keepdim=True)
        mean = _divide(total, n)
        c, rest = c - mean, total - n * mean
    squares = (c.square().sum(dim=-1, keepdim=True) << fraction) - _divide(rest.square() << fraction, n)
    spread = (squares + epsilon).clamp(min=1)
    half = leading_one(spread) >> 1
    mantissa = shift_to(spread, 13 - 2 * half).clamp(max=32767)
    product = ((c << DEVIATION_BITS) - _divide(rest << DEVIATION_BITS, n)) * roots(
        mantissa, cuts, slopes, intercepts, r_multiplier, r_shift
    )
    product = (product + ((1 << dropped) >> 1)) >> dropped
    acc = requantise(product, hide[0], hide[1] + half).clamp(-32768, 32767)
    acc = acc if weight is None else acc * weight
    acc = acc if bias is None else acc + bias
    return (requantise(acc, multiplier, shift) + zero_point).clamp(lowest, highest).to(dtype)

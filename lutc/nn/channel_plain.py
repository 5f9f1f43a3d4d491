"""What `lutc.nn.channel_ops` does in plain torch operations: for devices without kernels, for float64, as the kernels'
oracle, and for exports. Arguments are those of the operators.
"""

from __future__ import annotations

import torch

from lutc.nn.nearest import wide_dtype
from lutc.nn.through_codes import _backward_plain as _backward_of_all
from lutc.nn.through_codes import _room_for_codes


def along(vector: torch.Tensor, x: torch.Tensor, axis: int) -> torch.Tensor:
    """A vector of channels in the shape in which it meets x."""
    return vector.reshape([-1 if i == axis else 1 for i in range(x.ndim)])


def codes(q, tables, rows, axis):
    places = q.to(torch.int64) & ((1 << 8 * q.itemsize) - 1)
    return torch.empty_like(q, dtype=tables.dtype).copy_(tables[along(rows.to(torch.int64), q, axis), places])


def steps(x, scales, zeros, axis, lowest, highest):
    """x / scale, the code of x less the zero point, lowest and highest of these; in float32, float64 for float64."""
    wide = wide_dtype(x)
    zero = along(zeros, x, axis).to(wide)
    step, low, high = x.to(wide) / along(scales, x, axis).to(wide), lowest - zero, highest - zero
    return step, torch.round(step).clamp(low, high), low, high


def inside(x, scales, zeros, axis, lowest, highest):
    """Whether x rounds to a code without being clamped; not NaN."""
    step, _, low, high = steps(x, scales, zeros, axis, lowest, highest)
    return (step >= low - 0.5) & (step <= high + 0.5)


def deviation(x, scales, zeros, axis, lowest, highest):
    """As `lutc.nn.through_codes.deviation`."""
    step, code, low, high = steps(x, scales, zeros, axis, lowest, highest)
    within = (step >= low - 0.5) & (step <= high + 0.5)
    return torch.where(code.isnan(), 0.0, torch.where(within, code - step, code))


def places(x, scales, zeros, axis, lowest, highest):
    """Where the code of x stands among all codes, int64; NaN stands behind the last."""
    _, code, low, _ = steps(x, scales, zeros, axis, lowest, highest)
    return (code - low).nan_to_num(highest - lowest + 1).to(torch.int64)


def at_places(values, rows, places, axis):
    """values[row, place]"""
    return values[along(rows.to(torch.int64), places, axis), places]


def through(x, scales, zeros, values, rows, axis, lowest, highest):
    given = x, scales, zeros, axis, lowest, highest
    if values is None:
        _, code, _, _ = steps(*given)
        return (code * along(scales, x, axis).to(code.dtype)).to(x.dtype)
    return at_places(values, rows, places(*given), axis).to(x.dtype)


def through_as_x(x, *given):
    return torch.empty_like(x).copy_(through(x, *given))


def kept(x, scales, zeros, values, rows, axis, lowest, highest, with_codes):
    given = scales, zeros, axis, lowest, highest
    bits = torch.nn.functional.pad(inside(x, *given).to(torch.uint8).reshape(-1), (0, -x.numel() % 8))
    weights = 1 << torch.arange(8, dtype=torch.uint8, device=x.device)
    within = (bits.reshape(-1, 8) * weights).sum(1, dtype=torch.uint8)
    codes = _room_for_codes(x, lowest, highest, with_codes)
    if with_codes:
        codes.copy_(places(x, *given))
    return through_as_x(x, scales, zeros, values, rows, axis, lowest, highest), codes, within


def backward(gradient, codes, within, slopes, rows, axis):
    place = (codes.to(torch.int64) & ((1 << 8 * codes.itemsize) - 1)).clamp(max=slopes.shape[1] - 1)
    wide = wide_dtype(gradient)
    product = gradient.to(wide) * at_places(slopes, rows, place, axis).to(wide)
    return _backward_of_all(product.to(gradient.dtype), codes, within, None)


def backward_with_scales(gradient, x, scales, zeros, slopes, rows, axis, lowest, highest):
    given, product = (x, scales, zeros, axis, lowest, highest), gradient.to(wide_dtype(x))
    if slopes is not None:
        product = product * at_places(slopes, rows, places(*given), axis).to(product.dtype)
    to_x = torch.where(inside(*given), product, 0.0).to(x.dtype)
    others = [dim for dim in range(x.ndim) if dim != axis]
    sums = product * deviation(*given)
    return torch.empty_like(x).copy_(to_x), sums.sum(others) if others else sums

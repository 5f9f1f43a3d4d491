"""Codes and floats through the tables of their channels, in one pass (`lutc.nn.channels` has the layouts). The channel
of element i is i // inner % channels, `inner` being the elements behind the channels' axis.
"""

import torch
import triton
import triton.language as tl

BLOCK = 1024


@triton.jit
def _channel(at, channels, inner):
    return (at // inner) % channels


@triton.jit(do_not_specialize=["n", "channels", "inner"])
def codes_kernel(q, tables, out, n, channels, inner, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    """out[i] = tables[channel, q[i]], each channel's SIZE outputs in the order of unsigned codes."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    place = tl.load(q + at, mask=inside, other=0).to(tl.int32) & (SIZE - 1)
    tl.store(out + at, tl.load(tables + _channel(at, channels, inner) * SIZE + place, mask=inside), mask=inside)


@triton.jit(do_not_specialize=["n", "channels", "inner", "lowest", "highest"])
def through_kernel(
    x, scales, zeros, values, out, n, channels, inner, lowest, highest, VALUES: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """out[i] = values[channel, place of x[i]]: 0 below the codes, the codes from 1 on, one above them, one for NaN.
    Without VALUES scale * (code less the zero point).
    """
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    channel = _channel(at, channels, inner)
    zero = tl.load(zeros + channel, mask=inside, other=0)
    low, high, codes = (lowest - zero).to(tl.float32), (highest - zero).to(tl.float32), highest - lowest + 1
    wide = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    scale = tl.load(scales + channel, mask=inside, other=1.0)
    step = tl.math.div_rn(wide, scale)
    known = step == step
    code = tl.minimum(tl.maximum(tl.where(known, step, 0.0), low - 1.0), high + 1.0)
    code = (code + 12582912.0) - 12582912.0  # added to 1.5 * 2^23 it is rounded to a whole number, half to even
    code = tl.minimum(tl.maximum(code, low), high)
    if VALUES:
        place = (code - low).to(tl.int32) + 1
        place = tl.where(step < low - 0.5, 0, tl.where(step > high + 0.5, codes + 1, place))
        value = tl.load(values + channel * (codes + 3) + tl.where(known, place, codes + 2), mask=inside)
    else:
        value = tl.where(known, code * scale, wide)
    tl.store(out + at, value.to(out.dtype.element_ty), mask=inside)


def codes(q: torch.Tensor, tables: torch.Tensor, out: torch.Tensor, sides: tuple[int, int, int]) -> None:
    """Look codes up in the tables of their channels, all contiguous. sides: elements before, along and behind the axis
    of the channels.
    """
    _, channels, inner = sides
    grid = (triton.cdiv(q.numel(), BLOCK),)
    codes_kernel[grid](q, tables, out, q.numel(), channels, inner, tables.shape[1], BLOCK)


def through(
    x: torch.Tensor,
    scales: torch.Tensor,
    zeros: torch.Tensor,
    values: torch.Tensor | None,
    out: torch.Tensor,
    sides: tuple[int, int, int],
    ends: tuple[int, int],
) -> None:
    """Take floats of 16 or 32 bits through the codes of their channels, all contiguous. scales: float32; zeros: int32;
    values: of the type of x; ends: smallest and largest code. Without values scale * (code - zero point).
    """
    _, channels, inner = sides
    grid = (triton.cdiv(x.numel(), BLOCK),)
    given = scales if values is None else values
    through_kernel[grid](x, scales, zeros, given, out, x.numel(), channels, inner, *ends, values is not None, BLOCK)

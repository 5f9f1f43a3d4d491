"""Tensors with a scale, a zero point and so a table of their own for every channel, in one pass:

    codes_by_channel(q, tables, axis)                          tables[channel, code], codes to codes or float32
    through_channels(x, scales, zeros, values, axis, ends...)  values[channel, place of x's code], floats to floats

A channel is an index of dimension `axis` >= 0. tables: (channels, 256 or 65,536), in the order of unsigned codes.
scales: float64 (channels,); zeros, the zero points: int32 (channels,); ends: smallest and largest code. values: float32
(channels, codes + 3): below the codes, the codes ascending, above them, NaN; x lies below or above where it does not
round to a code without being clamped. Without values the result is scale * (code - zero point). On a CPU they run
`lutc.nn.cpu.channels`, on a GPU `lutc.kernels.channels`; elsewhere, and for float64, plain torch operations do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from lutc.errors import LutcError
from lutc.nn import portable
from lutc.nn.cpu import channels as cpu
from lutc.nn.lowered import has_triton
from lutc.nn.nearest import wide_dtype

library = torch.library.Library("lutc", "FRAGMENT")
library.define("codes_by_channel(Tensor q, Tensor tables, int axis) -> Tensor")
library.define(
    "through_channels(Tensor x, Tensor scales, Tensor zeros, Tensor? values, int axis, int lowest, int highest)"
    " -> Tensor"
)


def per_channel(name: str, given: Any, kind: type) -> tuple:
    """A vector of one number for each channel, from a sequence, an array or a tensor, as Python's numbers."""
    if isinstance(given, torch.Tensor):
        given = given.detach().cpu().numpy()
    shape = np.shape(given)
    if len(shape) != 1 or not shape[0]:
        raise LutcError(f"`{name}` with an axis has one number for each channel; given shape {tuple(shape)}")
    numbers = tuple(value.item() if isinstance(value, np.generic) else value for value in given)
    wrong = next((v for v in numbers if isinstance(v, bool) or not isinstance(v, (int, kind))), None)
    if wrong is not None:
        raise LutcError(f"`{name}` of a channel is {'a whole' if kind is int else 'a'} number; given {wrong!r:.40}")
    return numbers


def scales_and_zeros(scale: Any, zero_point: Any, axis: Any) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """Of all channels, from one number or one for each; LutcError where they do not fit each other."""
    if isinstance(axis, bool) or not isinstance(axis, int):
        raise LutcError(f"`axis` is the dimension of the channels, a whole number; given {axis!r:.40}")
    scales = per_channel("scale", scale, float)
    wrong = next((v for v in scales if not (math.isfinite(v) and v > 0)), None)
    if wrong is not None:
        raise LutcError(f"the scale of a channel is a positive finite number; given {wrong!r:.40}")
    alone = isinstance(zero_point, int) and not isinstance(zero_point, bool)
    zeros = (zero_point,) * len(scales) if alone else per_channel("zero_point", zero_point, int)
    if len(zeros) != len(scales):
        raise LutcError(
            f"`scale` is of {len(scales)} channels, `zero_point` of {len(zeros)}; give one number, or one for each"
        )
    return tuple(map(float, scales)), zeros


def check_zero_points(zero_point: Any, bits: int, minimum: int) -> None:
    """LutcError where one, or one of several, is none of the codes of `bits` bits from `minimum` up."""
    maximum = minimum + (1 << bits) - 1
    for given in zero_point if isinstance(zero_point, tuple) else (zero_point,):
        if isinstance(given, bool) or not isinstance(given, int) or not minimum <= given <= maximum:
            kind = "" if minimum else "unsigned "
            raise LutcError(
                f"the zero point of {kind}{bits}-bit codes lies in {minimum}..{maximum}; given {given!r:.40}"
            )


def dimension(x: torch.Tensor, axis: int, channels: int) -> int:
    """The axis counted from 0; LutcError where x has no such dimension, or one of another length."""
    if not -x.ndim <= axis < x.ndim or x.shape[axis] != channels:
        raise LutcError(
            f"scales of {channels} channels along axis {axis} take tensors with that many there; given shape "
            f"{tuple(x.shape)}"
        )
    return axis % x.ndim


def with_ends(values: torch.Tensor, clamped: bool) -> torch.Tensor:
    """(channels, codes and NaN) as `through_channels` takes it, float32: beyond the codes the end codes' values where
    `clamped`, else 0.
    """
    values = values.to(torch.float32)
    ends = (values[:, :1], values[:, -2:-1]) if clamped else (torch.zeros_like(values[:, :1]),) * 2
    return torch.cat([ends[0], values[:, :-1], ends[1], values[:, -1:]], 1).contiguous()


def _along(vector: torch.Tensor, x: torch.Tensor, axis: int) -> torch.Tensor:
    return vector.reshape([-1 if i == axis else 1 for i in range(x.ndim)])


def _sides(x: torch.Tensor, axis: int) -> tuple[int, int, int]:
    """Elements before, along and behind the axis."""
    return math.prod(x.shape[:axis]), x.shape[axis], math.prod(x.shape[axis + 1 :])


def _check(name: str, x: torch.Tensor, axis: int, tables: torch.Tensor, wanted: int) -> None:
    """The kernels look up without asking: tables of another shape would be read out of bounds."""
    if not 0 <= axis < x.ndim or tables.shape != (x.shape[axis], wanted):
        raise LutcError(
            f"{name} takes a table of {wanted} for each channel along axis {axis}; given {tuple(tables.shape)} for a "
            f"tensor of shape {tuple(x.shape)}"
        )


# --- codes


def _codes_plain(q, tables, axis):
    places = q.to(torch.int64) & ((1 << 8 * q.itemsize) - 1)
    channel = _along(torch.arange(q.shape[axis], device=q.device), q, axis)
    return tables[channel, places]


def _codes_cpu(q, tables, axis):
    _check("codes_by_channel", q, axis, tables, 1 << 8 * q.itemsize)
    out, source, tables = torch.empty_like(q, dtype=tables.dtype), q.contiguous(), tables.contiguous()
    target = out if out.is_contiguous() else torch.empty_like(source, dtype=tables.dtype)
    widths = q.itemsize, tables.itemsize
    addresses = source.data_ptr(), target.data_ptr(), tables.data_ptr()
    cpu.look_up(*addresses, _sides(q, axis), widths, torch.get_num_threads())
    return out if target is out else out.copy_(target)


def _codes_cuda(q, tables, axis):
    _check("codes_by_channel", q, axis, tables, 1 << 8 * q.itemsize)
    if not has_triton() or not q.numel():
        return _codes_plain(q, tables, axis)
    from lutc.kernels import channels as kernels  # brings triton

    source = q.contiguous()
    target = torch.empty_like(source, dtype=tables.dtype)
    kernels.codes(source, tables.contiguous(), target, _sides(q, axis))
    return torch.empty_like(q, dtype=tables.dtype).copy_(target)


# --- floats


def _steps(x, scales, zeros, axis, lowest, highest):
    """x / scale, lowest and highest code less the zero point, of which x takes the nearest; in float32 or float64."""
    wide = wide_dtype(x)
    zero = _along(zeros, x, axis).to(wide)
    return x.to(wide) / _along(scales, x, axis).to(wide), lowest - zero, highest - zero


def _inside(x, scales, zeros, axis, lowest, highest):
    """Whether x rounds to a code without being clamped; not NaN."""
    steps, low, high = _steps(x, scales, zeros, axis, lowest, highest)
    return (steps >= low - 0.5) & (steps <= high + 0.5)


def _through_plain(x, scales, zeros, values, axis, lowest, highest):
    steps, low, high = _steps(x, scales, zeros, axis, lowest, highest)
    code = torch.round(steps).clamp(low, high)
    if values is None:
        return (code * _along(scales, x, axis).to(code.dtype)).to(x.dtype)
    place = torch.where(steps < low - 0.5, 0.0, torch.where(steps > high + 0.5, highest - lowest + 2.0, code - low + 1))
    place = torch.where(x.isnan(), highest - lowest + 3.0, place).to(torch.int64)
    return values[_along(torch.arange(x.shape[axis], device=x.device), x, axis), place].to(x.dtype)


def _float_tensors(x, scales, zeros, values, axis, lowest, highest):
    """Scales, zero points and values as kernels read them."""
    if values is not None:
        _check("through_channels", x, axis, values, highest - lowest + 4)
        values = values.contiguous()
    _check("through_channels", x, axis, scales[:, None], 1)
    _check("through_channels", x, axis, zeros[:, None], 1)
    return scales.to(torch.float32).contiguous(), zeros.to(torch.int32).contiguous(), values


def _through_cpu(x, scales, zeros, values, axis, lowest, highest):
    given = _float_tensors(x, scales, zeros, values, axis, lowest, highest)
    if x.dtype == torch.float64:
        return _through_plain(x, scales, zeros, values, axis, lowest, highest)
    source = x.to(torch.float32).contiguous()  # 16 bits are widened before and rounded behind
    target = torch.empty_like(source)
    addresses = (0 if tensor is None else tensor.data_ptr() for tensor in (source, target, *given))
    cpu.through(*addresses, _sides(x, axis), (lowest, highest), torch.get_num_threads())
    return target if x.is_contiguous() and x.dtype == torch.float32 else torch.empty_like(x).copy_(target)


def _through_cuda(x, scales, zeros, values, axis, lowest, highest):
    given = _float_tensors(x, scales, zeros, values, axis, lowest, highest)
    if x.dtype == torch.float64 or not has_triton() or not x.numel():
        return _through_plain(x, scales, zeros, values, axis, lowest, highest)
    from lutc.kernels import channels as kernels  # brings triton

    source = x.contiguous()
    target = torch.empty_like(source)
    *of_channels, values = given
    values = None if values is None else values.to(x.dtype)
    kernels.through(source, *of_channels, values, target, _sides(x, axis), (lowest, highest))
    return torch.empty_like(x).copy_(target)


for _key, _by_codes, _by_floats in (
    ("CompositeExplicitAutograd", _codes_plain, _through_plain),
    ("CPU", _codes_cpu, _through_cpu),
    ("CUDA", _codes_cuda, _through_cuda),
):
    library.impl("codes_by_channel", _by_codes, _key)
    library.impl("through_channels", _by_floats, _key)
torch.library.register_fake(
    "lutc::codes_by_channel", lambda q, tables, axis: torch.empty_like(q, dtype=tables.dtype), lib=library
)
torch.library.register_fake("lutc::through_channels", lambda x, *rest: torch.empty_like(x), lib=library)


class _Through(torch.autograd.Function):
    """The derivative is `slopes`, laid out as values are, 0 beyond the codes; None is 1 within the codes."""

    @staticmethod
    def forward(x, scales, zeros, values, slopes, axis, ends):
        return torch.ops.lutc.through_channels(x, scales, zeros, values, axis, *ends)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, scales, zeros, _, slopes, ctx.axis, ctx.ends = inputs
        ctx.save_for_backward(x, scales, zeros, slopes)

    @staticmethod
    def backward(ctx, gradient):
        x, scales, zeros, slopes = ctx.saved_tensors
        if slopes is None:
            to_x = torch.where(_inside(x, scales, zeros, ctx.axis, *ctx.ends), gradient, 0.0)
        else:
            to_x = gradient * torch.ops.lutc.through_channels(x, scales, zeros, slopes, ctx.axis, *ctx.ends)
        return to_x, None, None, None, None, None, None


def look_up(
    x: torch.Tensor,
    scales: torch.Tensor,
    zeros: torch.Tensor,
    values: torch.Tensor | None,
    slopes: torch.Tensor | None,
    axis: int,
    ends: Sequence[int],
) -> torch.Tensor:
    """`through_channels` with the derivative `slopes`, float32 (channels, codes + 3) as values are, or 1 within the
    codes; in x's dtype.
    """
    if portable.wanted():
        return _through_plain(x, scales, zeros, values, axis, *ends)
    return _Through.apply(x, scales, zeros, values, slopes, axis, tuple(ends))

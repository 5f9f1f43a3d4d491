"""A scale, a zero point and so a table for every channel: what is given for them, checked, and floats through the codes
of their channels with straight-through gradients, as `lutc.nn.straight_through` has them for one scale.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from lutc.checks import is_int
from lutc.errors import LutcError
from lutc.nn import channel_plain as plain
from lutc.nn import transforms
from lutc.nn.channel_ops import library as _library  # noqa: F401  (registers the operators)
from lutc.nn.nearest import wide_dtype

LEAST, MOST = 2.0**-64, 2.0**64  # scales that codes may have

_ops = torch.ops.lutc


def per_channel(name: str, given: Any, kind: type) -> tuple:
    """A vector of one number for each channel, from a sequence, an array or a tensor, as Python's numbers."""
    if isinstance(given, torch.Tensor):
        given = given.detach().cpu().numpy()
    try:
        shape = np.shape(given)
    except ValueError:
        raise LutcError(f"`{name}` with an axis has one number for each channel; given {given!r:.60}") from None
    if len(shape) != 1 or not shape[0]:
        raise LutcError(f"`{name}` with an axis has one number for each channel; given shape {tuple(shape)}")
    numbers = tuple(value.item() if isinstance(value, np.generic) else value for value in given)
    wrong = next((v for v in numbers if isinstance(v, bool) or not isinstance(v, (int, kind))), None)
    if wrong is not None:
        raise LutcError(f"`{name}` of a channel is {'a whole' if kind is int else 'a'} number; given {wrong!r:.40}")
    return numbers


def check_scales(scales: Sequence[float]) -> None:
    """LutcError where one is no positive finite number."""
    for given in scales:
        if not (math.isfinite(given) and given > 0):
            raise LutcError(f"the scale of a channel is a positive finite number; given {given!r:.40}")
        if not LEAST <= given <= MOST:
            raise LutcError(f"the scale of a channel lies between 2^-64 and 2^64; given {given!r:.40}")


def check_signed(signed: Any) -> None:
    """LutcError where it is neither True nor False."""
    if not isinstance(signed, bool):
        raise LutcError(f"`signed` is True (int8, int16) or False (uint8); given {signed!r:.40}")


def whole(number: Any) -> Any:
    """A whole number of numpy's as Python's; all else as it is."""
    return int(number) if is_int(number) else number


def check_axis(axis: Any, channels: Any) -> None:
    """LutcError where the axis, or the number of channels, is no whole number, or channels go without an axis."""
    if axis is None:
        if channels is not None:
            raise LutcError("`channels` is the number of scales along an axis; give `axis` too, or leave it out")
        return
    if isinstance(axis, bool) or not isinstance(axis, int):
        raise LutcError(f"`axis` is the dimension of the channels, a whole number; given {axis!r:.40}")
    if channels is not None and (isinstance(channels, bool) or not isinstance(channels, int) or channels < 1):
        raise LutcError(f"`channels` is their number, a positive whole number; given {channels!r:.40}")


def given_channels(scale: Any, zero_point: Any, axis: Any, channels: int | None = None) -> tuple[Any, Any, int | None]:
    """Scales, zero points and number of channels as they are held. scale: one for each channel, as Python's numbers
    then, a Parameter of so many, which is learned as it is, or None, which every call gives; zero_point: one number, or
    one for each. LutcError where they do not fit each other.
    """
    check_axis(axis, channels)
    lengths = {"channels": channels}
    if isinstance(scale, torch.nn.Parameter):
        if scale.ndim != 1 or not len(scale) or not scale.is_floating_point():
            raise LutcError(
                f"a learned scale with an axis is a float for each channel; given shape {tuple(scale.shape)} of "
                f"{scale.dtype}"
            )
        lengths["scale"] = len(scale)
    elif scale is not None:
        scale = tuple(map(float, per_channel("scale", scale, float)))
        check_scales(scale)
        lengths["scale"] = len(scale)
    alone = isinstance(zero_point, int) and not isinstance(zero_point, bool)
    if not alone:
        zero_point = per_channel("zero_point", zero_point, int)
        lengths["zero_point"] = len(zero_point)
    known = {name: length for name, length in lengths.items() if length is not None}
    if len(set(known.values())) > 1:
        told = ", ".join(f"`{name}` of {length}" for name, length in known.items())
        raise LutcError(f"every channel has one scale and one zero point; given {told}")
    count = next(iter(known.values()), None)
    if alone and isinstance(scale, tuple):
        zero_point = (zero_point,) * len(scale)
    return scale, zero_point, count


def scales_of_call(scale: Any, channels: int, device: torch.device) -> torch.Tensor:
    """The scales that a call gives, one for each channel: as they are, if a tensor of floats, else float64; on the
    device. LutcError where they are not as many numbers.
    """
    if not (isinstance(scale, torch.Tensor) and scale.is_floating_point()):
        scale = torch.tensor(per_channel("scale", scale, float), dtype=torch.float64)
    if scale.shape != (channels,):
        raise LutcError(f"the input has {channels} channels, and a scale for each; given shape {tuple(scale.shape)}")
    return scale.to(device)


def check_zero_points(zero_point: Any, bits: int, minimum: int) -> None:
    """LutcError where one, or one of several, is none of the codes of `bits` bits from `minimum` up."""
    maximum = minimum + (1 << bits) - 1
    for given in zero_point if isinstance(zero_point, tuple) else (zero_point,):
        if isinstance(given, bool) or not isinstance(given, int) or not minimum <= given <= maximum:
            kind = "" if minimum else "unsigned "
            raise LutcError(
                f"the zero point of {kind}{bits}-bit codes lies in {minimum}..{maximum}; given {given!r:.40}"
            )


def dimension(x: torch.Tensor, axis: int, channels: int | None) -> tuple[int, int]:
    """The axis counted from 0, and the channels along it; LutcError where x has no such dimension, or `channels`, where
    their number is known, is another.
    """
    if not -x.ndim <= axis < x.ndim or channels is not None and x.shape[axis] != channels:
        told = "channels" if channels is None else f"{channels} channels"
        many = "such a dimension" if channels is None else "that many there"
        raise LutcError(f"scales of {told} along axis {axis} take tensors with {many}; given shape {tuple(x.shape)}")
    return axis % x.ndim, x.shape[axis]


def channel_samples(x: torch.Tensor, axis: int, count: int) -> torch.Tensor:
    """Some `count` elements of x in all, and some 256 of every channel where that is more: (channels, n)."""
    x = x.reshape(math.prod(x.shape[:axis]), x.shape[axis], math.prod(x.shape[axis + 1 :]))
    each = max(count // max(x.shape[1], 1), 256)
    step = max(1, x.shape[0] * x.shape[2] // each)
    # odd steps, so that they do not meet the same few places again and again; along what lies side by side first
    near = (min(step, x.shape[2]) - 1) // 2 * 2 + 1 if x.shape[2] else 1
    far = (step // near - 1) // 2 * 2 + 1
    return x[::far, :, ::near].movedim(1, 0).flatten(1)


class _FixedScales(torch.autograd.Function):
    """(values of x's codes, codes, bits)"""

    generate_vmap_rule = True

    @staticmethod
    def forward(x, scales, zeros, values, slopes, rows, axis, lowest, highest):
        return _ops.through_channels_kept(x, scales, zeros, values, rows, axis, lowest, highest, slopes is not None)

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, codes, within = output
        ctx.axis = inputs[6]
        ctx.mark_non_differentiable(codes, within)
        ctx.set_materialize_grads(False)  # or codes and bits would get gradients of zeros
        ctx.save_for_backward(codes, within, inputs[4], inputs[5])

    @staticmethod
    def backward(ctx, gradient, *_):
        to_x = None if gradient is None else _Backward.apply(gradient, *ctx.saved_tensors, ctx.axis)
        return to_x, *[None] * 8


class _Backward(torch.autograd.Function):
    """gradient * slope, 0 where x was clamped: linear in the gradient, constant in all else."""

    generate_vmap_rule = True

    @staticmethod
    def forward(gradient, codes, within, slopes, rows, axis):
        if slopes is None:
            return _ops.through_codes_backward(gradient, codes, within, None)
        return _ops.through_channels_backward(gradient, codes, within, slopes, rows, axis)

    @staticmethod
    def setup_context(ctx, inputs, output):
        *tensors, ctx.axis = inputs[1:]
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx, gradient):
        return _Backward.apply(gradient, *ctx.saved_tensors, ctx.axis), *[None] * 5


class _LearnedScales(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, scales, zeros, values, slopes, rows, axis, lowest, highest, rate):
        return _ops.through_channels(x, scales, zeros, values, rows, axis, lowest, highest)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, scales, zeros, _, slopes, rows, *ctx.numbers, ctx.rate = inputs
        ctx.save_for_backward(x, scales, zeros, slopes, rows)

    @staticmethod
    def backward(ctx, gradient):
        saved = ctx.saved_tensors  # once: checkpointing makes them again at the first
        to_x, to_scales = _BackwardWithScales.apply(gradient, *saved, *ctx.numbers)
        return to_x, (to_scales * ctx.rate).to(saved[1].dtype), *[None] * 8


class _BackwardWithScales(torch.autograd.Function):
    """Gradients of x and of the scales; their own, for second derivatives, in plain operations."""

    generate_vmap_rule = True

    @staticmethod
    def forward(gradient, x, scales, zeros, slopes, rows, axis, lowest, highest):
        return _ops.through_channels_backward_with_scales(
            gradient, x, scales, zeros, slopes, rows, axis, lowest, highest
        )

    @staticmethod
    def setup_context(ctx, inputs, output):
        *tensors, ctx.axis, ctx.lowest, ctx.highest = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx, of_x, of_scales):
        gradient, x, scales, zeros, slopes, rows = ctx.saved_tensors
        given, wide = (x, scales, zeros, ctx.axis, ctx.lowest, ctx.highest), wide_dtype(x)
        kept, scale = plain.inside(*given), plain.along(scales, x, ctx.axis).to(wide)
        of_scale = plain.along(of_scales, x, ctx.axis)
        slope = 1.0 if slopes is None else plain.at_places(slopes, rows, plain.places(*given), ctx.axis).to(wide)
        through = torch.where(kept, of_x.to(wide), 0.0) + of_scale * plain.deviation(*given)
        by_scale = torch.where(kept, gradient.to(wide) * slope * of_scale, 0.0) / scale
        to_scales = by_scale * x.to(wide) / scale
        others = [dim for dim in range(x.ndim) if dim != ctx.axis]
        to_scales = to_scales.sum(others) if others else to_scales
        to_gradient = (through * slope).to(gradient.dtype)
        return to_gradient, -by_scale.to(x.dtype), to_scales.to(scales.dtype), *[None] * 6


def look_up(
    x: torch.Tensor,
    scales: torch.Tensor,
    zeros: torch.Tensor,
    values: torch.Tensor | None,
    slopes: torch.Tensor | None,
    rows: torch.Tensor,
    axis: int,
    ends: Sequence[int],
    rate: float = 1.0,
) -> torch.Tensor:
    """values[row of the channel, code of x], in the dtype of x, with the derivative slopes[row, code], or 1 within the
    codes; without values scale * (code - zero point). Arguments as `lutc.nn.channel_ops` has them; a gradient of the
    scales is multiplied by `rate`.
    """
    given = scales, zeros, values
    needed = torch.is_grad_enabled() and (x.requires_grad or scales.requires_grad)
    if not (needed or transforms.differentiates()):
        return _ops.through_channels(x, *given, rows, axis, *ends)
    if scales.requires_grad:
        return _LearnedScales.apply(x, *given, slopes, rows, axis, *ends, rate)
    return _FixedScales.apply(x, *given, slopes, rows, axis, *ends)[0]

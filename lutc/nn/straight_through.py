"""Rounding to codes with straight-through gradients: to real values, and through a table of responses per code.

Arithmetic is float32, float64 for float64 inputs; results have the input's dtype. Everywhere `limits` = (smallest code,
largest code, zero point), `scale` is a 0-d tensor on the device of x that may need a gradient, and `rate` a number by
which that gradient is multiplied. Values and slopes are of all codes ascending and then of NaN, float.

The backward pass takes one pass over the elements (`lutc.nn.through_codes`). Where the scale needs a gradient it reads
x again, for that gradient is made of what rounding took away; else it needs no floats: the codes and one bit for each x
are kept, or with slopes of 1 the bits alone.
"""

from __future__ import annotations

import torch

from lutc.nn import onnx_nodes, portable, transforms
from lutc.nn.nearest import Limits, index, nearest_code, wide_dtype
from lutc.nn.through_codes import deviation, inside

_ops = torch.ops.lutc


class _FixedScale(torch.autograd.Function):
    """(values of x's codes, codes, bits)"""

    generate_vmap_rule = True

    @staticmethod
    def forward(x, scale, values, slopes, limits):
        return _ops.through_codes_kept(x, scale, values, *limits, slopes is not None)

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, codes, within = output
        ctx.mark_non_differentiable(codes, within)
        ctx.set_materialize_grads(False)  # or codes and bits would get gradients of zeros
        ctx.save_for_backward(codes, within, inputs[3])

    @staticmethod
    def backward(ctx, gradient, *_):
        to_x = None if gradient is None else _Backward.apply(gradient, *ctx.saved_tensors)
        return to_x, None, None, None, None


class _Backward(torch.autograd.Function):
    """gradient * slope, 0 where x was clamped: linear in the gradient, constant in all else."""

    generate_vmap_rule = True

    @staticmethod
    def forward(gradient, codes, within, slopes):
        return _ops.through_codes_backward(gradient, codes, within, slopes)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx, gradient):
        return _Backward.apply(gradient, *ctx.saved_tensors), None, None, None


class _LearnedScale(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, scale, values, slopes, limits, rate):
        return _ops.through_codes(x, scale, values, *limits)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, scale, _, slopes, ctx.limits, ctx.rate = inputs
        ctx.save_for_backward(x, scale, slopes)

    @staticmethod
    def backward(ctx, gradient):
        x, scale, slopes = ctx.saved_tensors
        to_x, to_scale = _BackwardWithScale.apply(gradient, x, scale, slopes, ctx.limits)
        return to_x, (to_scale * ctx.rate).to(scale.dtype), None, None, None, None


class _BackwardWithScale(torch.autograd.Function):
    """Gradients of x and of the scale; their own, for second derivatives, in plain operations."""

    generate_vmap_rule = True

    @staticmethod
    def forward(gradient, x, scale, slopes, limits):
        return _ops.through_codes_backward_with_scale(gradient, x, scale, slopes, *limits)

    @staticmethod
    def setup_context(ctx, inputs, output):
        *tensors, ctx.limits = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx, of_x, of_scale):
        gradient, x, scale, slopes = ctx.saved_tensors
        wide, kept = wide_dtype(x), inside(x, scale, *ctx.limits)
        slope = 1.0 if slopes is None else slopes.to(wide)[index(x, scale, ctx.limits)]
        through = torch.where(kept, of_x.to(wide), 0.0) + of_scale * deviation(x, scale, *ctx.limits)
        by_scale = torch.where(kept, gradient.to(wide) * slope * of_scale, 0.0) / scale.to(wide)
        to_scale = (by_scale * x.to(wide)).sum() / scale.to(wide)
        return (through * slope).to(gradient.dtype), -by_scale.to(x.dtype), to_scale.to(scale.dtype), None, None


def quantise_and_return(x: torch.Tensor, scale: torch.Tensor, limits: Limits, rate: float = 1.0) -> torch.Tensor:
    """scale * (code of x less the zero point), in the dtype of x."""
    if onnx_nodes.exporting() and x.dtype != torch.float64:
        codes = onnx_nodes.nearest_codes(x.float(), scale, limits, torch.int8 if limits[0] < 0 else torch.uint8)
        return torch.where(x.isnan(), x, onnx_nodes.real_values_of(codes, scale, limits[2]).to(x.dtype))
    if portable.wanted():
        return (nearest_code(x, scale, limits) * scale.to(wide_dtype(x))).to(x.dtype)
    return look_up(x, scale, real_values(x, scale, limits), None, limits, rate)


def real_values(x: torch.Tensor, scale: torch.Tensor, limits: Limits) -> torch.Tensor:
    """Of all codes ascending, and NaN, in what x is computed in."""
    lowest, highest, zero_point = limits
    codes = torch.arange(lowest - zero_point, highest - zero_point + 1, dtype=wide_dtype(x), device=x.device)
    return torch.nn.functional.pad(codes * scale.detach().to(codes.dtype), (0, 1), value=torch.nan)


def look_up(
    x: torch.Tensor,
    scale: torch.Tensor,
    values: torch.Tensor,
    slopes: torch.Tensor | None,
    limits: Limits,
    rate: float = 1.0,
) -> torch.Tensor:
    """values[code of x], in the dtype of x, with the derivative slopes[code], or 1."""
    if portable.wanted():
        return values.to(wide_dtype(x))[index(x, scale, limits)].to(x.dtype)
    needed = torch.is_grad_enabled() and (x.requires_grad or scale.requires_grad)
    if not (needed or transforms.active()):
        return _ops.through_codes(x, scale, values, *limits)
    if scale.requires_grad:
        return _LearnedScale.apply(x, scale, values, slopes, limits, rate)
    return _FixedScale.apply(x, scale, values, slopes, limits)[0]

"""Rounding to codes with straight-through gradients: to real values, and through a table of responses per code.

Arithmetic is float32, float64 for float64 inputs; results have the input's dtype. Everywhere `limits` = (smallest code,
largest code, zero point), `scale` is a 0-d tensor on the device of x that may need a gradient, and `rate` a number by
which that gradient is multiplied.
"""

from __future__ import annotations

import torch

from lutc.nn import code_ops as _code_ops  # noqa: F401  (registers torch.ops.lutc.through_codes)
from lutc.nn.nearest import Limits, index, nearest_code, wide_dtype


def _gradients(gradient, x, scale, limits: Limits, rate: float, wanted) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Of x, the incoming gradient within the codes (0 outside and for NaN); of the scale, eq. 3 of LSQ
    (arXiv:1902.08153) times rate. Within is what rounds to a code without being clamped, as torch's own fake
    quantisation has it; LSQ's ends half a step earlier.
    """
    lowest, highest, zero_point = limits
    dtype = wide_dtype(x)
    steps = x.to(dtype) / scale.to(dtype)
    inside = (steps >= lowest - zero_point - 0.5) & (steps <= highest - zero_point + 0.5)
    to_x = torch.where(inside, gradient, 0.0)
    if not wanted:
        return to_x, None
    code = nearest_code(x, scale, limits)
    slope = torch.where(x.isnan(), 0.0, torch.where(inside, code - steps, code))
    return to_x, ((gradient.to(dtype) * slope).sum() * rate).to(scale.dtype)


class _QuantiseAndReturn(torch.autograd.Function):
    @staticmethod
    def forward(x, scale, limits, rate):
        return (nearest_code(x, scale, limits) * scale.to(wide_dtype(x))).to(x.dtype)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, scale, ctx.limits, ctx.rate = inputs
        ctx.save_for_backward(x, scale)

    @staticmethod
    def backward(ctx, gradient):
        x, scale = ctx.saved_tensors
        return *_gradients(gradient, x, scale, ctx.limits, ctx.rate, ctx.needs_input_grad[1]), None, None


class _LookUp(torch.autograd.Function):
    @staticmethod
    def forward(x, scale, values, slopes, limits, rate):
        return torch.ops.lutc.through_codes(x, scale, values, *limits)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, scale, _, slopes, ctx.limits, ctx.rate = inputs
        ctx.save_for_backward(x, scale, slopes)

    @staticmethod
    def backward(ctx, gradient):
        x, scale, slopes = ctx.saved_tensors
        slope = slopes.to(wide_dtype(x))[index(x, scale, ctx.limits)]
        gradient = (gradient.to(slope.dtype) * slope).to(gradient.dtype)
        return *_gradients(gradient, x, scale, ctx.limits, ctx.rate, ctx.needs_input_grad[1]), None, None, None, None


def quantise_and_return(x: torch.Tensor, scale: torch.Tensor, limits: Limits, rate: float = 1.0) -> torch.Tensor:
    """scale * (code of x less the zero point), in the dtype of x."""
    return _QuantiseAndReturn.apply(x, scale, limits, rate)


def look_up(
    x: torch.Tensor, scale: torch.Tensor, values: torch.Tensor, slopes: torch.Tensor, limits: Limits, rate: float = 1.0
) -> torch.Tensor:
    """values[code of x], in the dtype of x, with the derivative slopes[code]. values, slopes: of all codes ascending
    and then of NaN, float.
    """
    return _LookUp.apply(x, scale, values, slopes, limits, rate)

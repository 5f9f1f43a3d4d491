"""Softmax and norms over rows with tables inside: custom operators, their gradients, and the torch form that serves
every device.

A table comes as a `RowTable`: float32 plans for the kernels (Triton on CUDA, numba on the CPU) and its float64 plan,
which serves float64 inputs and other devices. Arithmetic is float32, or float64 for float64 inputs; results are rounded
once to the input's dtype. Registered as `lutc.nn.ops` is.
"""

from __future__ import annotations

import math

import torch

from lutc import measures
from lutc.nn import plain
from lutc.nn.batched import is_batched, one_by_one
from lutc.nn.cpu import norms as norms_cpu
from lutc.nn.cpu import softmax as softmax_cpu
from lutc.nn.lowered import has_triton
from lutc.nn.row_tables import Plans, check_device, plans_of

# exp(-87) is the last above float32's smallest normal number, exp(-708) float64's: below, a softmax weight is 0
# whatever the table's tail is, so masked elements weigh nothing.
EXP_FLOOR = {torch.float32: measures.EXP_FLOOR, torch.float64: -708.0}
_CHUNK = 1 << 22  # elements that are worked on in torch operations at a time: temporaries of 16 MiB


def _evaluate(x: torch.Tensor, plans: Plans) -> torch.Tensor:
    """A table at x (float32 or float64) in plain torch operations."""
    words, meta = plans.exact
    return plain.evaluate(x.double(), words, meta, False).to(x.dtype)


def _power(exponent: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """2**exponent of int32 exponents of normal numbers, from its bits."""
    if dtype == torch.float64:
        return ((exponent.to(torch.int64).clamp(-1022, 1023) + 1023) << 52).view(torch.float64)
    return ((exponent.clamp(-126, 127) + 127) << 23).view(torch.float32)


def exp(d: torch.Tensor, plans: Plans, period: float) -> torch.Tensor:
    """Weights exp(d), d <= 0 or NaN: never negative, 0 below the floor."""
    if period:
        n = torch.floor(torch.where(d.isfinite(), d, 0.0) / period)
        # period in two parts, the first short enough for an exact product with n
        high = math.ldexp(round(math.ldexp(period, 14)), -14)
        r = ((d - n * high) - n * (period - high)).clamp(
            0.0, math.nextafter(period, 0.0) if d.dtype == torch.float64 else period * (1 - 2.0**-24)
        )
        weights = _evaluate(r, plans) * _power(n.to(torch.int32), d.dtype)
    else:
        weights = _evaluate(d, plans)
    return weights.clamp(min=0.0).masked_fill(d < EXP_FLOOR[d.dtype], 0.0)


def reciprocal(s: torch.Tensor, plans: Plans) -> torch.Tensor:
    """1 / s by the table on [1, 2) and the exponent, s positive, finite or NaN."""
    mantissa, exponent = torch.frexp(s)
    return _evaluate(2 * mantissa, plans) * _power(1 - exponent, s.dtype)


def _rsqrt(v: torch.Tensor, plans) -> torch.Tensor:
    """1 / sqrt(v) by the table on [1, 4) and the exponent, v >= 0; 0 gives inf, inf gives 0, NaN and negative v NaN."""
    regular = (v > 0) & v.isfinite()
    mantissa, exponent = torch.frexp(torch.where(regular, v, 1.0))
    half = torch.div(exponent - 1, 2, rounding_mode="floor")
    value = _evaluate(mantissa * _power(exponent - 2 * half, v.dtype), plans) * _power(-half, v.dtype)
    return torch.where(regular, value, torch.rsqrt(v))


def _softmax_rows(x, plans, period):
    weights = exp(x - x.amax(-1, keepdim=True), plans[0], period)
    total = weights.sum(-1, keepdim=True)
    return weights * reciprocal(total, plans[1]) if len(plans) > 1 else weights / total


def _norm_rows(x, weight, bias, eps, centred, plans):
    mean = x.mean(-1, keepdim=True) if centred else torch.zeros_like(x[:, :1])
    deviation = x - mean if centred else x
    variance = deviation.square().mean(-1, keepdim=True)
    y = deviation * _rsqrt(variance + eps, plans[0])
    y = y if weight is None else y * weight.to(x.dtype)
    return y if bias is None else y + bias.to(x.dtype), mean, variance


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _fused(x: torch.Tensor) -> bool:
    return x.is_cuda and x.dtype != torch.float64 and has_triton()


def _compiled(x: torch.Tensor) -> bool:
    """Whether numba serves x; what it computes is float32."""
    return x.device.type == "cpu" and x.dtype != torch.float64


def _chunks(x: torch.Tensor):
    """Ranges of rows that are worked on together in torch operations."""
    rows, n = x.shape
    step = max(1, _CHUNK // n)
    return ((start, min(start + step, rows)) for start in range(0, rows, step))


library = torch.library.Library("lutc", "FRAGMENT")
library.define("softmax(Tensor x, Tensor[] words, int[] meta, float period) -> Tensor")
library.define(
    "norm(Tensor x, Tensor? weight, Tensor? bias, float eps, bool centred, Tensor[] words, int[] meta)"
    " -> (Tensor, Tensor, Tensor)"
)
softmax, norm = torch.ops.lutc.softmax.default, torch.ops.lutc.norm.default


def _softmax(x: torch.Tensor, words: list[torch.Tensor], meta: list[int], period: float) -> torch.Tensor:
    """Rows of a (rows, n) tensor; the result is contiguous. words, meta: of the exp table and perhaps the reciprocal's,
    in all their forms.
    """
    check_device(x, words)
    x, plans = x.contiguous(), plans_of(words, meta)
    out = torch.empty_like(x)
    if x.numel() == 0:
        return out
    if _fused(x):
        from lutc.kernels.softmax import softmax as launch  # brings triton

        launch(x, out, plans[0].fast, plans[1].fast if len(plans) > 1 else None, period)
        return out
    if _compiled(x):
        softmax_cpu.softmax(x, out, plans[0], plans[1].vector if len(plans) > 1 else None, period)
        return out
    for start, end in _chunks(x):
        out[start:end] = _softmax_rows(x[start:end].to(_wide(x.dtype)), plans, period)
    return out


def _fake_softmax(x, words, meta, period):
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def softmax_derivative(y: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """The exact softmax's derivative, which is symmetric, at the table's result y, times a gradient or a tangent."""
    wide, gradient = y.to(_wide(y.dtype)), gradient.to(_wide(gradient.dtype))
    return (wide * (gradient - (gradient * wide).sum(-1, keepdim=True))).to(y.dtype)


def _save_softmax(ctx, inputs, output):
    ctx.plans = len(inputs[1])
    ctx.save_for_backward(output)


def _softmax_backward(ctx, gradient):
    return softmax_derivative(ctx.saved_tensors[0], gradient), [None] * ctx.plans, None, None


def _vmap_softmax(info, dims, x, words, meta, period):
    if is_batched(dims[1]):
        return one_by_one(softmax, info, dims, x, words, meta, period)
    x = x.movedim(dims[0], 0)
    return softmax(x.reshape(-1, x.shape[-1]), words, meta, period).view(x.shape), 0


def _norm(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    eps: float,
    centred: bool,
    words: list[torch.Tensor],
    meta: list[int],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """LayerNorm (`centred`) or RMSNorm of the rows of a (rows, n) tensor, contiguous: (y, mean, variance), the latter
    two (rows, 1).
    """
    check_device(x, (*words, weight, bias))
    x, wide, plans = x.contiguous(), _wide(x.dtype), plans_of(words, meta)
    weight, bias = (None if p is None else p.contiguous() for p in (weight, bias))
    out = torch.empty_like(x)
    mean, variance = (torch.empty(x.shape[0], 1, dtype=wide, device=x.device) for _ in range(2))
    if x.numel() == 0:
        return out, mean.fill_(torch.nan), variance.fill_(torch.nan)
    if _fused(x):
        from lutc.kernels.norm import norm as launch  # brings triton

        launch(x, weight, bias, out, mean, variance, eps, centred, plans[0].fast)
        return out, mean, variance
    if _compiled(x):
        norms_cpu.norm(x, weight, bias, out, mean, variance, eps, centred, plans[0].vector)
        return out, mean, variance
    for start, end in _chunks(x):
        rows = _norm_rows(x[start:end].to(wide), weight, bias, eps, centred, plans)
        out[start:end], mean[start:end], variance[start:end] = rows
    return out, mean, variance


def _fake_norm(x, weight, bias, eps, centred, words, meta):
    return torch.empty_like(x, memory_format=torch.contiguous_format), *(
        x.new_empty((x.shape[0], 1), dtype=_wide(x.dtype)) for _ in range(2)
    )


def _save_norm(ctx, inputs, output):
    x, weight, bias, ctx.eps, ctx.centred, words, _ = inputs
    ctx.plans = len(words)
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.set_materialize_grads(True)
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(x, weight, *output[1:])


def normal(
    x: torch.Tensor, mean: torch.Tensor, variance: torch.Tensor, eps: float, centred: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """(normalised x, 1 / deviation), for derivatives. Where these are to be differentiated again, mean and variance
    become functions of x.
    """
    x = x.to(mean.dtype)
    if torch.is_grad_enabled():
        mean = x.mean(-1, keepdim=True) if centred else mean
        variance = (x - mean).square().mean(-1, keepdim=True)
    root = torch.rsqrt(variance + eps)
    return (x - mean) * root, root


def across(v: torch.Tensor, normal: torch.Tensor, root: torch.Tensor, centred: bool) -> torch.Tensor:
    """v times the exact norm's derivative in x, a symmetric matrix, without the weight."""
    v = v - normal * (v * normal).mean(-1, keepdim=True) - (v.mean(-1, keepdim=True) if centred else 0.0)
    return v * root


def norm_gradients(
    gradient: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias_dtype: torch.dtype | None,
    mean: torch.Tensor,
    variance: torch.Tensor,
    eps: float,
    centred: bool,
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """Of x, weight and bias (None where there is none): the exact norm's."""
    y, root = normal(x, mean, variance, eps, centred)
    gradient = gradient.to(y.dtype)
    to_x = across(gradient if weight is None else gradient * weight.to(y.dtype), y, root, centred).to(x.dtype)
    to_weight = None if weight is None else (gradient * y).sum(0).to(weight.dtype)
    return to_x, to_weight, None if bias_dtype is None else gradient.sum(0).to(bias_dtype)


def _norm_backward(ctx, gradient, *_):
    x, weight, mean, variance = ctx.saved_tensors
    gradients = norm_gradients(gradient, x, weight, ctx.bias_dtype, mean, variance, ctx.eps, ctx.centred)
    return *gradients, None, None, [None] * ctx.plans, None


def _vmap_norm(info, dims, x, weight, bias, eps, centred, words, meta):
    if is_batched((dims[1], dims[2], dims[5])):
        return one_by_one(norm, info, dims, x, weight, bias, eps, centred, words, meta)
    x = x.movedim(dims[0], 0)
    results = norm(x.reshape(-1, x.shape[-1]), weight, bias, eps, centred, words, meta)
    return tuple(result.view(*x.shape[:2], -1) for result in results), (0, 0, 0)


for name, run, fake, save, backward, vmap in (
    ("softmax", _softmax, _fake_softmax, _save_softmax, _softmax_backward, _vmap_softmax),
    ("norm", _norm, _fake_norm, _save_norm, _norm_backward, _vmap_norm),
):
    library.impl(name, run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"lutc::{name}", fake, lib=library)
    torch.library.register_autograd(f"lutc::{name}", backward, setup_context=save, lib=library)
    torch.library.register_vmap(f"lutc::{name}", vmap, lib=library)

"""The two operations of a compiled MLP as torch operators: routing, and the product of each row with its own centre's
matrix.

Opaque to torch.compile (no graph breaks), differentiable where that has a meaning: the product in its rows, slopes and
bias; routing is piecewise constant. CPU: numba, or with several threads and many rows a matrix product per centre.
CUDA: Triton.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lutc.errors import LutcError
from lutc.taylor import cpu
from lutc.taylor.cluster import rows_of_centres


def _route(x: Tensor, centres: Tensor, half_norms: Tensor) -> Tensor:
    if len(centres) == 1:
        return torch.zeros(len(x), dtype=torch.int64, device=x.device)
    if x.is_cuda:
        from lutc.kernels.taylor_route import route  # brings triton

        return route(x, centres, half_norms)
    if len(x) <= cpu.SMALL_BATCH:
        return cpu.route(x.contiguous(), centres, half_norms)
    return torch.addmm(half_norms.neg(), x, centres.T).argmax(1)


def _grouped_linear(z: Tensor, owner: Tensor, slopes: Tensor, scales: Tensor | None, bias: Tensor) -> Tensor:
    if z.is_cuda:
        from lutc.kernels.taylor_product import product  # brings triton

        return product(z, owner, slopes, scales, bias)
    if z.dtype != torch.float32:
        bias = bias.to(z.dtype)
    if len(slopes) == 1 and len(z) > cpu.SMALL_BATCH:
        return torch.addmm(bias[0], z, real(slopes[0], None if scales is None else scales[0]).to(z.dtype).T)
    if z.dtype == torch.float32 and slopes.is_contiguous() and cpu.serves(len(z), len(slopes)):
        return cpu.product(z.contiguous(), owner, slopes, scales, bias)
    sequence = torch.argsort(owner)
    counts = torch.bincount(owner, minlength=len(slopes)).tolist()
    rows = z.index_select(0, sequence)
    y = z.new_empty(len(z), slopes.shape[1])
    start = 0
    for index, count in enumerate(counts):
        if count:
            matrix = real(slopes[index], None if scales is None else scales[index]).to(z.dtype)
            torch.addmm(bias[index], rows[start : start + count], matrix.T, out=y[start : start + count])
            start += count
    result = torch.empty_like(y)
    result[sequence] = y
    return result


def real(slopes: Tensor, scales: Tensor | None) -> Tensor:
    """Slopes [..., o, p] of any storage format as float32; `scales` [..., o] belong to int8."""
    slopes = slopes.float()
    return slopes if scales is None else slopes * scales[..., None]


@torch.library.custom_op("lutc::taylor_route", mutates_args=())
def route(x: Tensor, centres: Tensor, half_norms: Tensor) -> Tensor:
    """Nearest centre of each row: x [n, d], centres [k, d], half_norms [k] = |c|^2 / 2, all float32 -> int64 [n]; first
    on a tie.

    The index of a row with NaN is any valid index.
    """
    return _route(x, centres, half_norms)


@route.register_fake
def _(x, centres, half_norms):
    return x.new_empty(len(x), dtype=torch.int64)


@torch.library.custom_op("lutc::grouped_linear", mutates_args=())
def grouped_linear(z: Tensor, owner: Tensor, slopes: Tensor, scales: Tensor | None, bias: Tensor) -> Tensor:
    """y[n] = bias[a] + slopes[a] @ z[n] with a = owner[n]: z [n, p] float32, owner int64 [n], slopes [k, o, p], bias
    [k, o] -> [n, o] float32.

    slopes are float32, float16, bfloat16, or int8 with `scales` [k, o] float32; sums are float32. On the CPU z may be
    bfloat16 or float16, as under autocast: products and result are then of that dtype.
    """
    return _grouped_linear(z, owner, slopes, scales, bias)


@grouped_linear.register_fake
def _(z, owner, slopes, scales, bias):
    return z.new_empty(len(z), slopes.shape[1])


def _keep(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _backward(ctx, gradient: Tensor):
    z, owner, slopes, scales, bias = ctx.saved_tensors
    gradient = gradient.contiguous()
    to_z = to_slopes = to_bias = None
    if ctx.needs_input_grad[0]:
        # The transposed product, with the scales moved to its input side.
        scaled = gradient if scales is None else gradient * scales[owner]
        to_z = grouped_linear(
            scaled,
            owner,
            slopes.transpose(1, 2),
            _ones_like_scales(scales, slopes),
            bias.new_zeros(len(bias), z.shape[1]),
        )
    if ctx.needs_input_grad[2]:
        to_slopes = _slope_gradient(z, owner, gradient, len(slopes)).to(slopes.dtype)
    if ctx.needs_input_grad[4]:
        to_bias = torch.zeros_like(bias).index_add_(0, owner, gradient.to(bias.dtype))
    return to_z, None, to_slopes, None, to_bias


def _ones_like_scales(scales: Tensor | None, slopes: Tensor) -> Tensor | None:
    return None if scales is None else scales.new_ones(len(slopes), slopes.shape[2])


@torch.library.custom_op("lutc::slope_gradient", mutates_args=())
def _slope_gradient(z: Tensor, owner: Tensor, gradient: Tensor, k: int) -> Tensor:
    """sum over the rows of each centre of gradient[n] z[n]^T: [k, o, p] float32."""
    sequence = torch.argsort(owner)
    counts = torch.bincount(owner, minlength=k).tolist()
    result = z.new_empty(k, gradient.shape[1], z.shape[1], dtype=torch.float32)
    for index, rows in enumerate(sequence.split(counts)):
        result[index] = gradient[rows].T @ z[rows] if len(rows) else 0
    return result


@_slope_gradient.register_fake
def _(z, owner, gradient, k):
    return z.new_empty(k, gradient.shape[1], z.shape[1], dtype=torch.float32)


grouped_linear.register_autograd(_backward, setup_context=_keep)


@torch.library.custom_op("lutc::chosen_linear", mutates_args=())
def chosen_linear(x: Tensor, owner: Tensor, weights: Tensor, offsets: Tensor, chosen: Tensor) -> Tensor:
    """y[n] = weights[c] @ x[n] + offsets[c] with c = chosen[owner[n]]: x [n, d], owner int64 [n], weights [m, d],
    offsets [m], chosen int32 [k, p] -> [n, p] in x's dtype; float32, or float16 and bfloat16 as under autocast.
    """
    if x.is_cuda:
        return _grouped_linear(x, owner, weights[chosen.long()], None, offsets[chosen.long()])
    y = x.new_empty(len(x), chosen.shape[1])
    weights, offsets = weights.to(x.dtype), offsets.to(x.dtype)
    for own, rows in zip(chosen.long(), rows_of_centres(owner, len(chosen))):
        if len(rows):
            y[rows] = torch.addmm(offsets[own], x[rows], weights[own].T)
    return y


@chosen_linear.register_fake
def _(x, owner, weights, offsets, chosen):
    return x.new_empty(len(x), chosen.shape[1])


@torch.library.custom_op("lutc::chosen_gradient", mutates_args=())
def _chosen_gradient(
    x: Tensor, owner: Tensor, weights: Tensor, chosen: Tensor, gradient: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `chosen_linear` to x, weights and offsets (both float32)."""
    to_x, to_weights = torch.empty_like(x), torch.zeros_like(weights, dtype=torch.float32)
    to_offsets = to_weights.new_zeros(len(weights))
    weights = weights.to(x.dtype)
    for own, rows in zip(chosen.long(), rows_of_centres(owner, len(chosen))):
        if len(rows):
            part = gradient[rows]
            to_x[rows] = part @ weights[own]
            to_weights.index_add_(0, own, (part.T @ x[rows]).float())
            to_offsets.index_add_(0, own, part.sum(0, dtype=torch.float32))
    return to_x, to_weights, to_offsets


@_chosen_gradient.register_fake
def _(x, owner, weights, chosen, gradient):
    wide = weights.new_empty(weights.shape, dtype=torch.float32)
    return torch.empty_like(x), wide, wide.new_empty(len(weights))


def _chosen_backward(ctx, gradient: Tensor):
    x, owner, weights, _, chosen = ctx.saved_tensors
    to_x, to_weights, to_offsets = _chosen_gradient(x, owner, weights, chosen, gradient.contiguous())
    return to_x, None, to_weights.to(weights.dtype), to_offsets.to(weights.dtype), None


chosen_linear.register_autograd(_chosen_backward, setup_context=_keep)


def check_device(x: Tensor, centres: Tensor) -> None:
    """LutcError where an input and a table are on different devices, or on one without kernels."""
    if x.device != centres.device:
        raise LutcError(f"the input is on {x.device}, the table on {centres.device}; move one of them with .to(device)")
    if x.device.type not in ("cpu", "cuda"):
        raise LutcError(f"there are no kernels for {x.device.type}; use cpu or cuda")

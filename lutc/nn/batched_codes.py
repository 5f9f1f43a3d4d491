"""The batching rules of `torch.vmap` for the operators of `lutc.nn.through_codes` and `lutc.nn.channel_ops`: one call
for a batch of floats, and with a scale for each element of the batch one over so many channels.

The bits that forward passes keep fill whole bytes for each element of the batch: one whose size is no multiple of 8 is
filled up with NaN, which is inside nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from lutc.nn.batched import is_batched, one_by_one

_ops = torch.ops.lutc


def _first(x: torch.Tensor, dim: int | None, size: int) -> torch.Tensor:
    """With the batch dimension first, also where there is none."""
    return x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0)


def _rows(x: torch.Tensor, fill: float = 0.0) -> torch.Tensor:
    """(batch, elements), these filled up to a multiple of 8"""
    rows = x.reshape(len(x), math.prod(x.shape[1:]))
    return F.pad(rows, (0, -rows.shape[1] % 8), value=fill) if rows.shape[1] % 8 else rows


def _as(rows: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    return rows[:, : math.prod(shape[1:])].reshape(shape)


def _as_channels(given, scale, zero_point, table, dims, size):
    """x or gradients, and scales, zero points, tables and rows of as many channels as the batch has elements."""
    scales = _first(scale, dims[0], size).reshape(size)
    zeros = torch.full((size,), zero_point, dtype=torch.int32, device=scales.device)
    if table is not None:
        table = table.movedim(dims[1], 0) if dims[1] is not None else table[None]
    many = table is not None and dims[1] is not None
    rows = torch.arange(size) if many else torch.zeros(size)
    return *given, scales, zeros, table, rows.to(scales.device, torch.int32)


def through(info: Any, dims: Any, x, scale, values, lowest, highest, zero_point):
    if not is_batched(dims[1:]):
        return _ops.through_codes(x, scale, values, lowest, highest, zero_point), dims[0]
    x = _first(x, dims[0], info.batch_size)
    flat = x.reshape(len(x), -1) if x.numel() else x.reshape(len(x), 0)
    given = _as_channels((flat,), scale, zero_point, values, dims[1:3], info.batch_size)
    return _ops.through_channels(*given, 0, lowest, highest).reshape(x.shape), 0


def kept(info: Any, dims: Any, x, scale, values, lowest, highest, zero_point, with_codes):
    if is_batched(dims[1:]):
        return one_by_one(
            _ops.through_codes_kept.default, info, dims, x, scale, values, lowest, highest, zero_point, with_codes
        )
    x = x.movedim(dims[0], 0)
    rows = _rows(x, math.nan)
    out, codes, within = _ops.through_codes_kept(rows, scale, values, lowest, highest, zero_point, with_codes)
    codes = _as(codes, x.shape) if with_codes else codes.reshape(1, 0).expand(len(x), 0)
    return (_as(out, x.shape), codes, within.reshape(len(x), -1)), (0, 0, 0)


def _gradients(info, dims, gradient, codes, within):
    """Gradients, codes (where there are any) and bits, each element of the batch of whole bytes; shape of the first."""
    gradient = _first(gradient, dims[0], info.batch_size)
    codes, within = _first(codes, dims[1], info.batch_size), _first(within, dims[2], info.batch_size)
    return gradient, codes, within.reshape(-1)


def backward(info: Any, dims: Any, gradient, codes, within, slopes):
    if is_batched(dims[3:]):
        return one_by_one(_ops.through_codes_backward.default, info, dims, gradient, codes, within, slopes)
    gradient, codes, within = _gradients(info, dims, gradient, codes, within)
    codes = _rows(codes) if codes.shape == gradient.shape else codes
    return _as(_ops.through_codes_backward(_rows(gradient), codes, within, slopes), gradient.shape), 0


def backward_with_scale(info: Any, dims: Any, gradient, x, scale, slopes, lowest, highest, zero_point):
    gradient, x = _first(gradient, dims[0], info.batch_size), _first(x, dims[1], info.batch_size)
    flat = tuple(side.reshape(len(x), math.prod(x.shape[1:])) for side in (gradient, x))
    given = _as_channels(flat, scale, zero_point, slopes, dims[2:4], info.batch_size)
    to_x, to_scales = _ops.through_channels_backward_with_scales(*given, 0, lowest, highest)
    return (to_x.reshape(x.shape), to_scales), (0, 0)


def kept_of_channels(info: Any, dims: Any, x, *given):
    """given: as the operator has them, the axis at 4."""
    x_at, size = dims[0], 0 if dims[0] is None else x.numel() // max(1, info.batch_size)
    if is_batched(dims[1:]) or size % 8:
        return one_by_one(_ops.through_channels_kept.default, info, dims, x, *given)
    *tables, axis, lowest, highest, with_codes = given
    x = x.movedim(x_at, 0)
    out, codes, within = _ops.through_channels_kept(x, *tables, axis + 1, lowest, highest, with_codes)
    codes = codes if with_codes else codes.reshape(1, 0).expand(len(x), 0)
    return (out, codes, within.reshape(len(x), -1)), (0, 0, 0)


def backward_of_channels(info: Any, dims: Any, gradient, codes, within, slopes, rows, axis):
    size = (gradient.numel() // info.batch_size) if dims[0] is not None else gradient.numel()
    if is_batched(dims[3:]) or size % 8:
        return one_by_one(
            _ops.through_channels_backward.default, info, dims, gradient, codes, within, slopes, rows, axis
        )
    gradient, codes, within = _gradients(info, dims, gradient, codes, within)
    return _ops.through_channels_backward(gradient, codes, within, slopes, rows, axis + 1), 0


def along_one_more(operator: Callable, axis_at: int) -> Callable:
    """The rule of an operator whose argument `axis_at` is the axis: one call with a dimension more, where nothing but
    the first argument has it.
    """

    def rule(info, dims, *arguments):
        if dims[0] is None or is_batched(dims[1:]):
            return one_by_one(operator, info, dims, *arguments)
        x, *others = arguments
        others[axis_at - 1] += 1
        return operator(x.movedim(dims[0], 0), *others), 0

    return rule

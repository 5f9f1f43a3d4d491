"""Norms over channels, groups and batches in terms of a LayerNorm without weights: each is one over rows that are laid
out for it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

T = torch.Tensor
Normalise = Callable[..., T]  # (rows (..., n), (n,), None, None, eps) -> rows of mean 0 and variance 1


def of_batch(module: nn.Module) -> bool:
    """Whether a batch norm computes the statistics of its batch now; with its running ones it is a line."""
    return module.training or module.running_mean is None


def group_norm(
    normalise: Normalise, input: T, num_groups: int, weight: T | None = None, bias: T | None = None, eps: float = 1e-5
) -> T:
    """`F.group_norm`."""
    if not input.numel() or input.ndim < 2 or input.shape[1] % num_groups:
        return F.group_norm(input, num_groups, weight, bias, eps)
    rows = _wide(input).reshape(input.shape[0], num_groups, -1)
    return _affine(_plain(normalise, rows, eps).reshape(input.shape), weight, bias, input)


def instance_norm(
    normalise: Normalise,
    input: T,
    running_mean: T | None = None,
    running_var: T | None = None,
    weight: T | None = None,
    bias: T | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> T:
    """`F.instance_norm`."""
    given = running_mean, running_var, weight, bias, use_input_stats, momentum, eps
    if not use_input_stats or not input.numel() or input.ndim < 3 or input.shape[2:].numel() == 1:
        return F.instance_norm(input, *given)
    if running_mean is not None:
        _keep_statistics(F.instance_norm, input, given)
    rows = _wide(input).flatten(2)
    return _affine(_plain(normalise, rows, eps).reshape(input.shape), weight, bias, input)


def batch_norm(
    normalise: Normalise,
    input: T,
    running_mean: T | None,
    running_var: T | None,
    weight: T | None = None,
    bias: T | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> T:
    """`F.batch_norm`; where it takes running statistics it is a line, and stays."""
    given = running_mean, running_var, weight, bias, training, momentum, eps
    if not training or input.ndim < 2 or input.numel() <= input.shape[1]:
        return F.batch_norm(input, *given)
    if running_mean is not None:
        _keep_statistics(F.batch_norm, input, given)
    channels = _wide(input).movedim(1, 0)
    rows = _plain(normalise, channels.flatten(1), eps)
    return _affine(rows.reshape(channels.shape).movedim(0, 1), weight, bias, input)


def _keep_statistics(norm: Callable, input: T, given: tuple) -> None:
    """The running statistics move as the exact norm moves them."""
    with torch.no_grad():
        norm(input.detach(), *given)


def _wide(x: T) -> T:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _plain(normalise: Normalise, rows: T, eps: float) -> T:
    return normalise(rows, rows.shape[-1:], None, None, eps)


def _affine(y: T, weight: T | None, bias: T | None, input: T) -> T:
    shape = (1, -1, *(1,) * (y.ndim - 2))
    y = y if weight is None else y * weight.view(shape)
    return (y if bias is None else y + bias.view(shape)).to(input.dtype)

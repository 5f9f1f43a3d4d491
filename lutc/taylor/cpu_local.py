"""A small batch through a table with neurons of each centre's own, Jacobians of a rank, or both, in one numba call."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch
from numba import float32, njit
from torch import Tensor

from lutc.taylor.cpu import SharedMemory, use_huge_pages
from lutc.taylor.cpu_kernels import _FLAGS, ACTIVATIONS, PRODUCT, routed


@njit(fastmath=_FLAGS, nogil=True)
def _chosen_rows(x, weights, offsets, chosen, z):
    """z[i] = weights[chosen[i]] . x + offsets[chosen[i]]; four rows share each load of x."""
    count, width = len(chosen), len(x)
    for i in range(0, count - count % 4, 4):
        c0, c1, c2, c3 = chosen[i], chosen[i + 1], chosen[i + 2], chosen[i + 3]
        w0, w1, w2, w3 = weights[c0], weights[c1], weights[c2], weights[c3]
        a0 = a1 = a2 = a3 = float32(0)
        for j in range(width):
            a0, a1, a2, a3 = a0 + w0[j] * x[j], a1 + w1[j] * x[j], a2 + w2[j] * x[j], a3 + w3[j] * x[j]
        z[i], z[i + 1], z[i + 2], z[i + 3] = a0 + offsets[c0], a1 + offsets[c1], a2 + offsets[c2], a3 + offsets[c3]
    for i in range(count - count % 4, count):
        row = weights[chosen[i]]
        a0 = float32(0)
        for j in range(width):
            a0 += row[j] * x[j]
        z[i] = a0 + offsets[chosen[i]]


@functools.cache
def _whole(slopes: torch.dtype, projections: torch.dtype | None, activation: str | None, local: bool) -> Callable:
    """Routing, projections (or the inputs themselves), neurons and product. `local`: chosen are each centre's numbers;
    else it holds one row for all. `columns` is empty where columns have no scales.
    """
    multiplied, projected = PRODUCT[slopes], PRODUCT[projections or torch.float32]
    low, neurons, activate = projections is not None, activation is not None, ACTIVATIONS[activation or "relu"]

    @njit(nogil=True)
    def whole(x, projections, zeros, weights, offsets, chosen, columns, centres, half_norms, slopes, scales, bias, y):
        owner = np.zeros(len(x), np.int64)
        if len(centres) > 1:
            routed(x, centres, half_norms, owner)
        sequence = np.argsort(owner) if len(x) > 1 else np.zeros(len(x), np.int64)
        z = np.empty((len(x), slopes.shape[2]), np.float32)
        first = zeros.shape[1] if low else x.shape[1]
        if low:
            projected(x, owner, sequence, projections, zeros, zeros, z[:, :first])
        else:
            z[:, :first] = x
        for n in range(len(x)):
            if neurons:
                _chosen_rows(x[n], weights, offsets, chosen[owner[n] if local else 0], z[n, first:])
                activate(z[n, first:])
            for i in range(len(columns)):
                z[n, i] *= columns[i]
        multiplied(z, owner, sequence, slopes, scales, bias, y)

    return whole


class LocalBound(SharedMemory):
    """As `lutc.taylor.cpu.Bound`, for a `TaylorMLP` with `chosen` or `projections` and neurons of a function in
    ACTIVATIONS, if any.
    """

    def __init__(self, module):
        rest = [x for x in (module.projections, module.weights, module.offsets) if x is not None]
        super().__init__([module.centres, module.slopes, module.bias, *rest])
        self.width, self.outputs = module.in_features, module.out_features
        bias, empty = _array(module.bias), np.empty(0, np.float32)
        low, neurons, local = module.projections is not None, module.weights is not None, module.chosen is not None
        kept = np.arange(len(module.weights), dtype=np.int32)[None] if neurons and not local else None
        self.arguments = (
            _array(module.projections) if low else bias[:, None],
            np.zeros((module.k, module.rank), np.float32) if low else bias,
            _array(module.weights) if neurons else bias,
            _array(module.offsets) if neurons else empty,
            (_array(module.chosen) if local else kept) if neurons else np.empty((1, 0), np.int32),
            empty if module.columns is None else _array(module.columns),
            _array(module.centres),
            _array(module.half_norms),
            _array(module.slopes),
            bias if module.scales is None else _array(module.scales),
            bias,
        )
        dtype = module.projections.dtype if low else None
        self.kernel = _whole(module.slopes.dtype, dtype, module.activation, local)
        use_huge_pages(module.slopes.detach())

    def __call__(self, x: Tensor) -> Tensor:
        """x [..., d] float32 and contiguous, a few rows -> [..., o]."""
        rows = x.numpy().reshape(-1, self.width)
        y = np.empty((len(rows), self.outputs), np.float32)
        self.kernel(rows, *self.arguments, y)
        return torch.from_numpy(y.reshape(*x.shape[:-1], self.outputs))


def serves(activation: str | None) -> bool:
    return activation is None or activation in ACTIVATIONS


def _array(tensor: Tensor) -> np.ndarray:
    """The tensor's memory; 16-bit floats as their codes."""
    tensor = tensor.detach()
    return (tensor.view(torch.uint16) if tensor.dtype in (torch.float16, torch.bfloat16) else tensor).numpy()

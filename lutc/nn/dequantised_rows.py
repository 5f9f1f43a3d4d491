"""Integer softmax and norms in a float model: floats are quantised, go through the integer operator, and come back as
floats.
"""

from __future__ import annotations

import copy

import torch
from torch.nn import Parameter

from lutc.errors import LutcError
from lutc.nn.integer_norm import IntegerLayerNorm, IntegerRMSNorm, _IntegerNorm
from lutc.nn.integer_softmax import CODES, IntegerSoftmax
from lutc.nn.row_tables import check_device, check_float
from lutc.nn.scripting import Unscripted


def _codes(x: torch.Tensor, scale: float, zero_point: int, bits: int) -> torch.Tensor:
    """round(x / scale) + zero_point, half to even, clamped; in float32, float64 for float64. NaN is the code of 0."""
    limits = torch.iinfo(CODES[bits])
    wide = x if x.dtype == torch.float64 else x.float()
    steps = (wide / scale).round().nan_to_num(0.0) + zero_point
    return steps.clamp(limits.min, limits.max).to(CODES[bits])


class DequantisedSoftmax(Unscripted):
    """`integer` (an IntegerSoftmax) on floats: code = round(x / scale), clamped; the probabilities of its output codes.

    x: any float dtype and shape, along `dim`, without a gradient; the same come out. Elements of -inf or below half
    finfo.min (a mask) take no part, and a row of them alone is 0; smaller numbers of a mask are scores, and clamped.
    NaN makes its row NaN, an infinity above 0 saturates.
    """

    rescale: str | None = None  # attention materialises its scores

    def __init__(self, integer: IntegerSoftmax):
        super().__init__()
        self.integer, self.dim = copy.deepcopy(integer), integer.dim
        self.integer.dim = -1

    def along(self, x: torch.Tensor, dim: int) -> torch.Tensor:
        """The softmax along `dim`."""
        check_float(x, type(self).__name__)
        check_device(x, (self.integer.weights,))
        if x.ndim == 0:
            return self.along(x[None], 0)[0]
        rows = x.transpose(dim, -1)
        seen = ~(rows <= torch.finfo(x.dtype).min / 2)
        codes = self.integer(_codes(rows, self.integer.scale, 0, self.integer.model.bits), seen)
        shares = self.integer.dequantise(codes).masked_fill(rows.isnan().any(-1, keepdim=True), torch.nan)
        return shares.to(x.dtype).transpose(dim, -1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.along(x, self.dim)


def _renew(module: DequantisedNorm, _) -> None:
    module.renew()


class DequantisedNorm(Unscripted):
    """`integer` (an IntegerLayerNorm or IntegerRMSNorm) on floats: code = round(x / scale) + zero_point, clamped; the
    values of its output codes.

    x: any float dtype, rows of `normalized_shape`, without a gradient; the same come out. NaN makes its row NaN, an
    infinity saturates. weight, bias: the float parameters, which may be shared; the integers of the operator are theirs
    as of the last `renew()`, which loading a checkpoint does. offset: as of LUTRMSNorm.
    """

    offset = 0.0

    def __init__(self, integer: IntegerLayerNorm | IntegerRMSNorm):
        super().__init__()
        self.integer: _IntegerNorm = copy.deepcopy(integer)
        self.centred = integer.centred
        self.normalized_shape: tuple[int, ...] = (integer.model.n,)
        self.eps: float | None = 1e-5
        self.weight: Parameter | None
        self.bias: Parameter | None
        self.register_parameter("weight", None)
        self.register_parameter("bias", None)
        self.register_load_state_dict_post_hook(_renew)

    def renew(self) -> None:
        """Make the integer operator for the parameters and eps; LutcError where they do not fit its scales."""
        held = next((p for p in (self.weight, self.bias) if p is not None), None)
        if held is not None and held.is_meta:
            raise LutcError("an integer norm is made of weights; these are on the meta device: load the model whole")
        weight, bias = (None if p is None else p.detach().double().reshape(-1) for p in (self.weight, self.bias))
        weight = None if weight is None else weight + self.offset
        eps = torch.finfo(torch.float32).eps if self.eps is None else self.eps
        integer = self.integer.remade(weight, bias, eps, torch.Size(self.normalized_shape).numel())
        self.integer = integer if held is None else integer.to(held.device)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        check_float(x, type(self).__name__)
        check_device(x, self.integer.buffers())
        shape, model = tuple(self.normalized_shape), self.integer.model
        if tuple(x.shape[x.ndim - len(shape) :]) != shape:
            raise LutcError(f"this norm over {shape} takes tensors that end in this shape; given {tuple(x.shape)}")
        rows = x.flatten(-len(shape))
        y = self.integer.dequantise(self.integer(_codes(rows, self.integer.scale, model.zero_point, model.bits)))
        return y.masked_fill(rows.isnan().any(-1, keepdim=True), torch.nan).to(x.dtype).reshape(x.shape)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}"

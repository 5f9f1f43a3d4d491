"""Softmax in integers only: codes of 8 or 16 bits in and out."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

from lutc.checks import is_int
from lutc.errors import LutcError
from lutc.formats.requantise import requantiser
from lutc.hardware.rows import EXP_BITS, ROOT_BITS, IntegerSoftmaxModel, OutputCodes
from lutc.nn import integer_ops, onnx_nodes, portable
from lutc.nn.integer_lines import TorchIntegerLines, check_codes, requantise
from lutc.nn.refilled import Refilled
from lutc.table.library import TableSource

CODES = {8: torch.int8, 16: torch.int16}


def _weigh_anew(module: IntegerSoftmax, _) -> None:
    module._fill(module.exp.cuts.device)


class IntegerSoftmax(Refilled):
    """Softmax of int8 codes x = scale * (q - z), with bits=16 of int16 codes; z cancels. One pass on a CPU or GPU, bit
    for bit `lutc.hardware.rows.IntegerSoftmaxModel` (`self.model`).

    exp, reciprocal: tables over codes, by name, path or TableSet; exp of the scale nearest to `scale` (a table over
    8-bit codes serves 16 bits where both reach as far, at 256 times the scale), the reciprocal best on [1, 2).
    out_dtype: torch.uint8 (default), uint16, int8 or int16; out_zero_point: by default its smallest code; a code stands
    for out_scale * (code - out_zero_point). out_scale: 2**-8 by default, for 16 bits 2**-16: requantisation is a shift,
    and a probability of 1 saturates at the largest code. Where a long row leaves codes of 0 alone, a CPU says so once
    for each length, with the out_scale to take (ScaleWarning).

    forward(q, mask=None): mask, broadcast to q, is True where an element takes part; a row without any gives codes of
    0. LutcError for rows that could overflow the int32 sum (beyond about half a million), other dtypes of codes, and
    tables that do not serve.
    """

    weights: torch.Tensor

    def __init__(
        self,
        exp: TableSource = "exp_8",
        reciprocal: TableSource = "reci_8",
        scale: float = 2.0**-4,
        *,
        bits: int = 8,
        out_scale: float | None = None,
        out_zero_point: int | None = None,
        out_dtype: torch.dtype = torch.uint8,
        dim: int = -1,
    ):
        super().__init__()
        if out_dtype not in integer_ops.OUTPUTS:
            allowed = ", ".join(map(str, integer_ops.OUTPUTS))
            raise LutcError(f"out_dtype is one of {allowed}; given {out_dtype}")
        if not is_int(dim):
            raise LutcError(f"dim is the dimension of the softmax, a whole number; given {dim!r:.40}")
        limits = torch.iinfo(out_dtype)
        zero_point = limits.min if out_zero_point is None else out_zero_point
        out_scale = 2.0**-limits.bits if out_scale is None else out_scale
        out = OutputCodes(out_scale, zero_point, limits.min, limits.max)
        self.model = IntegerSoftmaxModel.build(exp, reciprocal, scale, out, bits)
        self.exp, self.reciprocal = TorchIntegerLines(self.model.exp), TorchIntegerLines(self.model.reciprocal)
        self.scale, self.out_dtype, self.dim = float(scale), out_dtype, dim
        roots = requantiser(self.model.reciprocal.unit * 2.0**ROOT_BITS)
        share = requantiser(2.0**-ROOT_BITS / out_scale)
        self.numbers = [*roots, *share, out.zero_point, out.minimum, out.maximum]
        self._fill(torch.device("cpu"))
        self.register_load_state_dict_post_hook(_weigh_anew)

    def _fill(self, device: torch.device) -> None:
        """Weights of every difference of two codes, ascending; those above 0, which only masked elements have, weigh
        0.
        """
        size = 1 << self.model.bits
        acc = self.exp.accumulate(torch.arange(1 - size, 1, dtype=torch.int32, device=device))
        weights = requantise(acc, *requantiser(self.exp.unit * 2.0**EXP_BITS)).clamp(0, (2 << EXP_BITS) - 1)
        weights = torch.cat([weights, torch.zeros(size + 1, dtype=torch.int64, device=device)])[: 2 * size]
        self.register_buffer("weights", weights.to(torch.int16), persistent=False)

    def forward(self, q: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        check_codes(q, CODES[self.model.bits], "IntegerSoftmax" if self.model.bits == 8 else "IntegerSoftmax(bits=16)")
        if q.ndim == 0:
            raise LutcError("a softmax needs at least one dimension; given a zero-dimensional tensor")
        if not -q.ndim <= self.dim < q.ndim:
            raise LutcError(f"this softmax is along dimension {self.dim}; given shape {tuple(q.shape)}")
        if mask is not None:
            check_codes(mask, torch.bool, "the mask of IntegerSoftmax")
            try:
                mask = mask.expand(q.shape)
            except RuntimeError as error:
                raise LutcError(
                    f"the mask of IntegerSoftmax broadcasts to the codes, {tuple(q.shape)}; given {tuple(mask.shape)}"
                ) from error
            mask = mask.transpose(self.dim, -1)
        return self._rows(q.transpose(self.dim, -1), mask).transpose(self.dim, -1)

    def _rows(self, q: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        self.model.check_row(q.shape[-1])
        if portable.wanted():
            softmax = partial(portable.integer_softmax, model=self.model, dtype=self.out_dtype)
            return onnx_nodes.local_function("IntegerSoftmax", softmax, q, mask)
        roots = self.reciprocal.cuts, self.reciprocal.slopes, self.reciprocal.intercepts
        return torch.ops.lutc.integer_softmax(q, mask, self.weights, *roots, self.numbers, self.out_dtype)

    def dequantise(self, codes: torch.Tensor) -> torch.Tensor:
        """Probabilities (float32) of output codes."""
        return (codes.to(torch.int32) - self.model.out.zero_point).to(torch.float32) * np.float32(
            self.model.out.scale
        ).item()

    def extra_repr(self) -> str:
        return f"scale={self.scale:g}, out_scale={self.model.out.scale:g}, out_dtype={self.out_dtype}, dim={self.dim}"

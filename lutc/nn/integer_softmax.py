"""Softmax in integers only: int8 codes in, 8-bit codes out."""

from __future__ import annotations

import numpy as np
import torch

from lutc.errors import LutcError
from lutc.formats.requantise import requantiser
from lutc.hardware.rows import EXP_BITS, RECIPROCAL_INPUTS, ROOT_BITS, IntegerSoftmaxModel, OutputCodes
from lutc.nn import portable
from lutc.nn.integer_lines import TorchIntegerLines, check_codes, leading_one, requantise, shift_to


class IntegerSoftmax(torch.nn.Module):
    """Softmax of int8 codes x = scale * (q - z); z cancels. Bit for bit `lutc.hardware.rows.IntegerSoftmaxModel`
    (`self.model`).

    exp, reciprocal: tables over codes, by name, path or TableSet; exp of the scale nearest to `scale`, the reciprocal
    best on [1, 2). out_dtype uint8 (default: codes 0..255) or int8 (zero point -128 by default): a code stands for
    out_scale * (code - out_zero_point). out_scale 2**-8 by default: requantisation is a shift, and a probability of 1
    saturates at 255/256. forward(q, mask=None): mask, broadcast to q, is True where an element takes part; a row
    without any gives codes of 0. LutcError for rows that could overflow the int32 sum (beyond about half a million),
    dtypes other than int8, and tables that do not serve.
    """

    def __init__(
        self,
        exp="exp_8",
        reciprocal="reci_8",
        scale: float = 2.0**-4,
        *,
        out_scale: float = 2.0**-8,
        out_zero_point: int | None = None,
        out_dtype: torch.dtype = torch.uint8,
        dim: int = -1,
    ):
        super().__init__()
        if out_dtype not in (torch.uint8, torch.int8):
            raise LutcError(f"out_dtype is torch.uint8 or torch.int8; given {out_dtype}")
        limits = torch.iinfo(out_dtype)
        zero_point = limits.min if out_zero_point is None else out_zero_point
        self.model = IntegerSoftmaxModel.build(
            exp, reciprocal, scale, OutputCodes(out_scale, zero_point, limits.min, limits.max)
        )
        self.exp, self.reciprocal = TorchIntegerLines(self.model.exp), TorchIntegerLines(self.model.reciprocal)
        self.scale, self.out_dtype, self.dim = float(scale), out_dtype, dim

    def forward(self, q: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        check_codes(q, torch.int8, "IntegerSoftmax")
        if q.ndim == 0:
            raise LutcError("a softmax needs at least one dimension; given a zero-dimensional tensor")
        if mask is not None:
            check_codes(mask, torch.bool, "the mask of IntegerSoftmax")
            mask = mask.expand(q.shape).transpose(self.dim, -1)
        return self._rows(q.transpose(self.dim, -1), mask).transpose(self.dim, -1)

    def _rows(self, q: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        self.model.check_row(q.shape[-1])
        if portable.wanted():
            return portable.integer_softmax(q, mask, self.model, self.out_dtype)
        if q.numel() == 0:
            return torch.empty_like(q, dtype=self.out_dtype)
        q = q.to(torch.int32)
        top = (q if mask is None else q.masked_fill(~mask, -128)).amax(dim=-1, keepdim=True)
        acc = self.exp.accumulate((q - top).clamp(max=0))
        weights = (
            requantise(acc, *requantiser(self.exp.unit * 2.0**EXP_BITS)).clamp(0, (2 << EXP_BITS) - 1).to(torch.int32)
        )
        if mask is not None:
            weights = weights.masked_fill(~mask, 0)
        total = weights.sum(dim=-1, keepdim=True, dtype=torch.int32).clamp(min=1)
        leading = leading_one(total)
        mantissa = shift_to(total, 14 - leading).clamp(max=RECIPROCAL_INPUTS.maximum)
        roots = requantise(
            self.reciprocal.accumulate(mantissa), *requantiser(self.reciprocal.unit * 2.0**ROOT_BITS)
        ).to(torch.int32)
        out = self.model.out
        multiplier, shift = requantiser(2.0**-ROOT_BITS / out.scale)
        codes = requantise(weights * roots, multiplier, shift + leading) + out.zero_point
        return codes.clamp(out.minimum, out.maximum).to(self.out_dtype)

    def dequantise(self, codes: torch.Tensor) -> torch.Tensor:
        """Probabilities (float32) of output codes."""
        return (codes.to(torch.int32) - self.model.out.zero_point).to(torch.float32) * np.float32(
            self.model.out.scale
        ).item()

    def extra_repr(self) -> str:
        return f"scale={self.scale:g}, out_scale={self.model.out.scale:g}, out_dtype={self.out_dtype}, dim={self.dim}"

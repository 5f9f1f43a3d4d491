"""Softmax and norms whose table is looked up by quantised inputs: x - max(x) as codes, the mantissa of a norm's mean
square as codes.

Each holds the table's value at every code, 2^bits float32 numbers, and takes one for each input: plain torch, on any
device.
"""

from __future__ import annotations

from typing import Any

import torch

from lutc.errors import LutcError
from lutc.formats.codes import Inputs
from lutc.nn.norm import LUTLayerNorm, LUTRMSNorm
from lutc.nn.row_tables import check_float
from lutc.nn.scripting import Unscripted
from lutc.table.table_set import TableSet


class CodeTable(Unscripted):
    """Values of a table at the codes of a float input: float32 (2^bits,), of the set's only table over codes.

    forward(x): x of any shape, float32 or float64, quantised (half to even, clamped); the same shape and dtype. NaN
    stays NaN.
    """

    values: torch.Tensor

    def __init__(self, tables: TableSet):
        super().__init__()
        if len(tables) != 1 or not tables.inputs:
            raise LutcError(f"one table over codes is needed here; '{tables.name}' holds {', '.join(tables)}")
        ((key, table),) = tables.items()
        self.inputs = tables.inputs[key]
        values, text = table(self.inputs.x()), bytearray(tables.dumps().encode())
        self.register_buffer("values", torch.from_numpy(values).to(torch.float32), persistent=False)
        self.register_buffer("table", torch.frombuffer(text, dtype=torch.uint8))  # so that a checkpoint carries it

    def _apply(self, fn, recurse=True):
        """`.half()` moves the values, it does not round them."""
        values = self.values
        super()._apply(fn, recurse)
        self.values = values.to(self.values.device)
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inputs: Inputs = self.inputs
        codes = (x / inputs.scale).round().add_(inputs.zero_point - inputs.minimum)
        codes = codes.nan_to_num(0.0).clamp_(0, self.values.numel() - 1)
        return torch.where(x.isnan(), x, self.values[codes.long()].to(x.dtype))


class CodeSoftmax(Unscripted):
    """softmax(x) = w / sum(w), w the exp table at the code of x - max(x); the division is exact.

    exp: a TableSet with one table over codes. x: any float dtype and shape, along `dim`; elements of -inf or finfo.min
    (a mask) weigh 0, a row of them alone is NaN or uniform, as torch's.
    """

    rescale: str | None = None  # attention materialises its scores

    def __init__(self, exp: TableSet, dim: int | None = -1):
        super().__init__()
        self.exp, self.dim = CodeTable(exp), dim

    def along(self, x: torch.Tensor, dim: int) -> torch.Tensor:
        """The softmax along `dim`."""
        check_float(x, "CodeSoftmax")
        wide = x if x.dtype == torch.float64 else x.float()
        d = wide - wide.amax(dim, keepdim=True)
        masked = (x <= torch.finfo(x.dtype).min / 2) & (d < 0)
        w = self.exp(d).clamp_min(0).masked_fill(masked, 0.0)
        return (w / w.sum(dim, keepdim=True)).to(x.dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.dim is None:
            raise LutcError("CodeSoftmax has no dim; give it one")
        return self.along(x, self.dim)


class _Coded:
    """The rsqrt of a norm by a table over codes of m, where mean square = m 4^e, m in [1, 4)."""

    centred: bool
    code_table: CodeTable

    def normalise(self, input: torch.Tensor, normalized_shape, weight=None, *options: Any, **named: Any):
        """`F.layer_norm` or `F.rms_norm` with the table; same arguments."""
        names = ("bias", "eps") if self.centred else ("eps",)
        given = dict(zip(names, options)) | named
        check_float(input, type(self).__name__)
        x = input if input.dtype == torch.float64 else input.float()
        dims = tuple(range(-len(tuple(normalized_shape)), 0))
        eps = given.get("eps", 1e-5)
        if self.centred:
            x = x - x.mean(dims, keepdim=True)
        spread = x.square().mean(dims, keepdim=True) + (torch.finfo(input.dtype).eps if eps is None else eps)
        mantissa, exponent = torch.frexp(spread)  # mantissa in [0.5, 1)
        half = torch.div(exponent - 1, 2, rounding_mode="floor")
        y = x * torch.ldexp(self.code_table(torch.ldexp(mantissa, exponent - 2 * half)), -half)
        if weight is not None:
            y = y * weight
        if given.get("bias") is not None:
            y = y + given["bias"]
        return y.to(input.dtype)


class CodeLayerNorm(_Coded, LUTLayerNorm):
    """LayerNorm whose 1/sqrt(variance + eps) is a table over codes of its mantissa; otherwise as LUTLayerNorm."""

    def __init__(self, rsqrt: TableSet):
        super().__init__(1, elementwise_affine=False, rsqrt=rsqrt)
        self.code_table = CodeTable(rsqrt)


class CodeRMSNorm(_Coded, LUTRMSNorm):
    """RMSNorm whose 1/sqrt(mean of squares + eps) is a table over codes of its mantissa; otherwise as LUTRMSNorm."""

    def __init__(self, rsqrt: TableSet):
        super().__init__(1, elementwise_affine=False, rsqrt=rsqrt)
        self.code_table = CodeTable(rsqrt)

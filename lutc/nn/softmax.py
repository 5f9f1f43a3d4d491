"""Softmax with an exp table, and a reciprocal table or an exact division."""

from __future__ import annotations

from functools import partial

import torch

from lutc.certify.coverage import EXP, RECIPROCAL
from lutc.errors import LutcError
from lutc.nn import onnx_nodes, portable, rows, transforms
from lutc.nn.row_tables import RowOperator, check_device, check_float
from lutc.nn.traced import is_traced, leaf
from lutc.table.library import TableSource


class LUTSoftmax(RowOperator):
    """softmax(x) = w / sum(w), w = exp_table(x - max x), along `dim`.

    exp, reciprocal: name, path, TableSet or Table (compare-lines or cells, with or without range reduction). The table
    of a set that is best on the interval needed is used: exp on (-inf, 0], 1/x on [1, 2), the sum's exponent being set
    aside; LutcError where none comes within an eighth. reciprocal=None divides exactly.

    x: float16, bfloat16, float32, float64, any shape and stride; the same comes out. Sums are float32 (float64 for
    float64), so no row overflows. As with torch.softmax, NaN and +inf make their row NaN, elements of -inf or finfo.min
    weigh 0 unless the whole row is such (NaN, uniform). A negative table value counts as 0. Gradient: the exact
    softmax's derivative at the table's result.
    """

    rescale: str | None = None  # in a patched model: how its attention goes in blocks; None: the whole matrix at once

    def __init__(self, exp: TableSource = "exp_fplut", reciprocal: TableSource | None = None, dim: int = -1):
        super().__init__()
        self.dim = dim
        self.hold("exp", exp, EXP)
        if reciprocal is not None:
            self.hold("reciprocal", reciprocal, RECIPROCAL)

    def along(self, x: torch.Tensor, dim: int) -> torch.Tensor:
        """The softmax along `dim`."""
        check_float(x, "LUTSoftmax")
        words = self.words
        check_device(x, words)
        if x.ndim == 0:
            return self.along(x[None], dim)[0]
        moved = x.transpose(dim, -1)
        if portable.wanted():
            floor = rows.EXP_FLOOR[torch.float64 if x.dtype == torch.float64 else torch.float32]
            held = self.held
            traced = partial(portable.softmax, exp=held["exp"], reciprocal=held.get("reciprocal"), floor=floor)
            return onnx_nodes.local_function("LUTSoftmax", traced, moved).transpose(dim, -1)
        flat = moved.reshape(-1, x.shape[dim]).contiguous() if x.numel() else moved.reshape(0, 1)
        _, period = self.tables["exp"]
        softmax = transforms.softmax if transforms.active() else rows.softmax
        return softmax(flat, words, self.meta, period).view(moved.shape).transpose(dim, -1)

    def log_along(self, x: torch.Tensor, dim: int) -> torch.Tensor:
        """The logarithm of the softmax along `dim`, x - max x - log(sum(w)): the logarithm is exact, one for each row,
        so that what weighs nothing is as low as it should be.
        """
        if x.ndim == 0:
            return self.log_along(x[None], dim)[0]
        if not x.numel():
            return x.clone()
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        largest, where = wide.max(dim, keepdim=True)
        return (wide - largest + self.along(wide, dim).gather(dim, where).log()).to(x.dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if is_traced(x):
            return leaf(self, x)
        if self.dim is None:
            raise LutcError("LUTSoftmax has no dim; give it one")
        return self.along(x, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, {' and '.join(self.tables)} by table"

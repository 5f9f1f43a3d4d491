"""Integer arithmetic of an int8 table: what exported C computes, to the last bit, on every machine.

Sums of floats depend on their order; sums of integers do not. An input is rounded to 16-bit codes twice, with a step of
its own each time (its largest magnitude over 32,767): once as it is, to find the centre, once as what the slopes
multiply. All sums are of integers and exact; what is left are a few single operations in IEEE arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lutc.errors import LutcError
from lutc.taylor.table import TaylorTable, features, hidden

CODE_MAX = 32767
# An input no larger than this is 0: its step would be subnormal.
LEAST = 1e-30


@dataclass(frozen=True)
class IntegerRouting:
    """codes [k, d] (int16): centre = code * step. half_norms [k] (float64): |centre|^2 / 2 / step."""

    codes: Tensor
    step: float
    half_norms: Tensor

    @classmethod
    def of(cls, centres: Tensor) -> IntegerRouting:
        """Of centres [k, d] in any float dtype."""
        centres = centres.double()
        step = float(centres.abs().max().clamp_min(LEAST)) / CODE_MAX
        codes = (centres / step).round()
        return cls(codes.to(torch.int16), step, (codes * codes).sum(1) * (step / 2))

    def nearest(self, x: Tensor) -> Tensor:
        """Index [n] (int64) of the centre nearest to each row of x [n, d] (float32), the first one on a tie."""
        codes, step = coded(x)
        dots = codes.double() @ self.codes.double().to(x.device).T
        return (dots - self.half_norms.to(x.device) / step.double()[:, None]).argmax(1)


def coded(x: Tensor) -> tuple[Tensor, Tensor]:
    """Codes of x [n, d] (float32, whole numbers from -32767 to 32767) and their steps [n] (float32)."""
    largest = x.abs().amax(1)
    step = torch.where(largest > LEAST, largest / CODE_MAX, torch.ones_like(largest))
    return (x / step[:, None]).round(), step


def evaluate(table: TaylorTable, x: Tensor) -> Tensor:
    """y [n, o] (float32) of an int8 table at x [n, d] (float32) in integer arithmetic; a row with NaN or infinity gives
    NaN. Kept neurons are computed in float: with them the last bits are torch's own. No fallback.

    Sums are taken in float64, which holds them exactly. Raises LutcError for a table of another format.
    """
    refuse_local(table)
    if table.scales is None:
        raise LutcError(f"integer arithmetic needs int8 slopes, the table is {table.format}; store it as int8")
    finite = torch.isfinite(x).all(1)
    x = torch.where(finite[:, None], x, 0.0)
    owner = IntegerRouting.of(table.centres).nearest(x)
    z = features(x - table.centres.float()[owner], table.order)
    if table.weights is not None and table.offsets is not None and table.activation is not None:
        z = torch.cat([z, hidden(x, table.weights, table.offsets, table.activation)], 1)
    codes, step = coded(z if table.columns is None else z * table.columns)
    y = x.new_empty(len(x), table.out_features)
    for index in owner.unique().tolist():
        rows = owner == index
        sums = codes[rows].double() @ table.slopes[index].double().T
        fine = sums * table.scales[index].double() * step[rows].double()[:, None]
        y[rows] = table.values[index].float() + fine.float()
    return torch.where(finite[:, None], y, torch.nan)


class IntegerTaylorMLP(nn.Module):
    """An int8 table as a module in integer arithmetic: x [..., d] to [..., o] in x's dtype, on the CPU, without
    gradients. For the accuracy that exported C will have; `TaylorMLP`, whose sums are floats, is faster.
    """

    def __init__(self, table: TaylorTable):
        super().__init__()
        refuse_fallback(table)
        refuse_local(table)
        self._table, self.radii = table, None
        self.in_features, self.out_features = table.in_features, table.out_features

    def table(self) -> TaylorTable:
        return self._table

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, self.in_features).float()
        return evaluate(self._table, rows).to(x.dtype).reshape(*x.shape[:-1], self.out_features)


def refuse_fallback(table: TaylorTable) -> None:
    """LutcError for a table that needs the exact MLP beside it."""
    if table.radii is not None:
        raise LutcError(
            "the table has a fallback to the exact MLP, which is not exported; fit it with --fallback 0 (the default)"
        )


def refuse_local(table: TaylorTable) -> None:
    """LutcError for a table whose first product is each centre's own: neither C nor integer arithmetic has it."""
    if table.chosen is not None or table.projections is not None:
        raise LutcError(
            "neurons of each centre's own and Jacobians of a rank run in torch and ONNX alone; for C and integers fit "
            "without --local and --rank"
        )

"""Integer arithmetic of an int8 table: what exported C computes, to the last bit, on every machine.

Sums of floats depend on their order; sums of integers do not. An input is rounded to 16-bit codes with a step of its
own (its largest magnitude over 32,767) wherever it meets a matrix: as it is, to find the centre; less its centre, where
Jacobians are products; as what the slopes multiply. All sums are of integers and exact; what is left are a few single
operations in IEEE arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lutc.errors import LutcError
from lutc.taylor.table import TaylorTable, features

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
    """Codes of x [n, d] (float32, whole numbers from -32767 to 32767) and their steps [n] (float32). A row with NaN or
    infinity has codes 0 and the step NaN.
    """
    largest = x.abs().amax(1)
    finite = torch.isfinite(largest)
    step = torch.where(largest > LEAST, largest / CODE_MAX, torch.ones_like(largest)).where(finite, torch.nan)
    return (x / step[:, None]).round().where(finite[:, None], 0.0), step


def coded_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Codes (int16) of the rows [..., d] of a matrix in any float dtype, and the scale [...] (float32) of each row."""
    rows = rows.double()
    scales = (rows.abs().amax(-1).clamp_min(LEAST) / CODE_MAX).float()
    codes = (rows / scales.double()[..., None]).round().clamp(-CODE_MAX, CODE_MAX)
    return codes.to(torch.int16), scales


def evaluate(table: TaylorTable, x: Tensor) -> Tensor:
    """y [n, o] (float32) of an int8 table at x [n, d] (float32) in integer arithmetic; a row with NaN or infinity gives
    NaN, and so does one whose square, for order 2, is infinity. Kept neurons are computed in float: with them the last
    bits are torch's own. No fallback.

    Sums are taken in float64, which holds them exactly. Raises LutcError for a table of another format.
    """
    if table.scales is None:
        raise LutcError(f"integer arithmetic needs int8 slopes, the table is {table.format}; store it as int8")
    owner = IntegerRouting.of(table.centres).nearest(x)
    y = x.new_empty(len(x), table.out_features)
    for index in owner.unique().tolist():
        rows = owner == index
        z = _features(table, x[rows], index)
        codes, step = coded(z if table.columns is None else z * table.columns)
        fine = _product(codes, step, table.slopes[index], table.scales[index])
        y[rows] = table.values[index].float() + fine
    return y


def _features(table: TaylorTable, x: Tensor, index: int) -> Tensor:
    """`TaylorTable.features` of x [n, d] about the centre `index`, projected in integers: [n, p]."""
    z = features(x - table.centres[index].float(), table.order)
    if table.projections is not None:
        z = _product(*coded(z), *coded_rows(table.projections[index]))
    return table.with_neurons(z, x, index)


def _product(codes: Tensor, step: Tensor, matrix: Tensor, scales: Tensor) -> Tensor:
    """matrix [o, d], codes with a scale per row, times vectors [n, d], codes with a step each: [n, o] (float32)."""
    sums = codes.double() @ matrix.double().T
    return (sums * scales.double() * step.double()[:, None]).float()


class IntegerTaylorMLP(nn.Module):
    """An int8 table as a module in integer arithmetic: x [..., d] to [..., o] in x's dtype, on the CPU, without
    gradients. For the accuracy that exported C will have; `TaylorMLP`, whose sums are floats, is faster.
    """

    def __init__(self, table: TaylorTable):
        super().__init__()
        refuse_fallback(table)
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

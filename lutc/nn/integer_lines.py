"""A fixed-point table in torch integers: comparators, one multiplication, one addition (lutc.table.integer is its numpy
model).
"""

from __future__ import annotations

import torch

from lutc.errors import LutcError
from lutc.formats.codes import HALF_UP
from lutc.formats.requantise import half_of
from lutc.nn.nearest import described
from lutc.nn.refilled import Refilled
from lutc.table.integer import IntegerLines


def requantise(
    acc: torch.Tensor, multiplier: int | torch.Tensor, shift: int | torch.Tensor, rounding: str = HALF_UP
) -> torch.Tensor:
    """round(acc * multiplier * 2**-shift), int64; a tensor of shifts (>= 0) goes with acc elementwise. rounding: of
    halves, one of `lutc.formats.ROUNDINGS`.
    """
    product = acc.to(torch.int64) * multiplier
    if isinstance(shift, torch.Tensor):
        shift = shift.to(torch.int64).clamp(0, 62)
        half = torch.where(shift > 0, half_of(product, shift.clamp(min=1), rounding), 0)
        return (product + half) >> shift
    if shift > 62:
        return torch.zeros_like(product)
    return (product + half_of(product, shift, rounding)) >> shift if shift > 0 else product << -shift


def check_codes(q: torch.Tensor, dtype: torch.dtype, who: str) -> None:
    if not isinstance(q, torch.Tensor) or q.dtype != dtype or q.layout != torch.strided:
        raise LutcError(f"{who} takes {dtype} codes; given {described(q)}")


class TorchIntegerLines(Refilled):
    """lutc.table.integer.IntegerLines as int32 buffers. `accumulate(centred)`: int32 codes less the zero point in,
    int32 acc out, any shape.
    """

    cuts: torch.Tensor
    slopes: torch.Tensor
    intercepts: torch.Tensor

    def __init__(self, lines: IntegerLines):
        super().__init__()
        self.unit, self.lines = lines.unit, lines
        self._fill(torch.device("cpu"))

    def _fill(self, device: torch.device) -> None:
        for name in ("cuts", "slopes", "intercepts"):
            self.register_buffer(name, torch.from_numpy(getattr(self.lines, name)).to(device, torch.int32))

    def segment(self, centred: torch.Tensor) -> torch.Tensor:
        return torch.bucketize(centred.contiguous(), self.cuts, out_int32=True)

    def accumulate(self, centred: torch.Tensor) -> torch.Tensor:
        index = self.segment(centred)
        return self.slopes[index] * centred + self.intercepts[index]

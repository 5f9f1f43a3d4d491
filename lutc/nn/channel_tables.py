"""A table for each channel."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from lutc.errors import LutcError
from lutc.nn.lut import LUT
from lutc.table.table_set import TableSet


class ChannelLUT(nn.Module):
    """A table of its own for every channel, as a PReLU has a slope for each: LUT i on channel i of dimension `dim`.

    tables: one for each channel, whatever LUT takes; equal ones are held once. Inputs and results as those of LUT.
    LutcError for an input with another number of channels.
    """

    def __init__(self, tables: Sequence[str | TableSet], dim: int = 1):
        super().__init__()
        if not tables:
            raise LutcError("a ChannelLUT takes a table for each channel; given none")
        self.dim, self.channels = dim, len(tables)
        distinct: dict[str, tuple[LUT, list[int]]] = {}
        for channel, source in enumerate(tables):
            lut = LUT(source)
            distinct.setdefault(lut.tables.dumps(), (lut, []))[1].append(channel)
        self.luts = nn.ModuleList(lut for lut, _ in distinct.values())
        for i, (_, members) in enumerate(distinct.values()):
            self.register_buffer(f"channels_{i}", torch.tensor(members))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Table c at channel c: shape, dtype and device of x."""
        if not -x.ndim <= self.dim < x.ndim or x.shape[self.dim] != self.channels:
            raise LutcError(
                f"this ChannelLUT has {self.channels} tables for dimension {self.dim}; given {tuple(x.shape)}"
            )
        y = torch.empty_like(x)
        for i, lut in enumerate(self.luts):
            members = self.get_buffer(f"channels_{i}")
            y = y.index_copy(self.dim, members, lut(x.index_select(self.dim, members)))
        return y

    def extra_repr(self) -> str:
        return f"{self.channels} channels of dimension {self.dim}, {len(self.luts)} tables"

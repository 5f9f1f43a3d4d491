"""GQA-LUT's own class (arXiv:2403.19591), so that its users change one import: `from lutc.nn import gqa_lut_pwl`."""

from __future__ import annotations

import math
import os

import torch

from lutc.errors import LutcError
from lutc.functions import FUNCTIONS, get, in_torch, known
from lutc.nn.refilled import Refilled
from lutc.table.table_set import read


class gqa_lut_pwl(Refilled):  # noqa: N801  (the name is its users')
    """Piecewise-linear tables per power-of-two scale.

    pwl_type: function name, GQA-LUT's spellings included ("gelu", "hswish", "exp", "reci", "sqrt_reci"). pwl_dir: path
    of the JSON file, GQA-LUT's or ours. decimal_bit: the finest power 2**-decimal_bit whose table is used.

    forward(input, scale): `input` holds integers q in a float tensor, x = q * scale. The table is that of the power
    -int(log2 scale), truncated toward zero and clipped to [0, decimal_bit]; with breakpoints p and lines k, t the
    result is (k q + t / scale) scale, segment by torch.bucketize(q, p / scale): q at a breakpoint belongs to the left.
    Gradients are the exact function's at q * scale, for input and scale.
    """

    def __init__(self, pwl_type: str, pwl_dir: str | os.PathLike, decimal_bit: int = 6):
        super().__init__()
        tables = read(pwl_dir)
        if not known(pwl_type):
            raise LutcError(f"unknown pwl_type {pwl_type!r}; known: {', '.join(FUNCTIONS)}")
        if tables.function != get(pwl_type).name:
            raise LutcError(
                f"{pwl_dir} holds tables of '{tables.name}', not of '{pwl_type}'; give the file of {pwl_type}"
            )
        if isinstance(decimal_bit, bool) or not isinstance(decimal_bit, int) or decimal_bit < 0:
            raise LutcError(f"decimal_bit is a whole number from 0; given {decimal_bit!r}")
        missing = [str(power) for power in range(decimal_bit + 1) if str(power) not in tables]
        if missing:
            raise LutcError(
                f"{pwl_dir} has no table for 2**-{', 2**-'.join(missing)}; it has {', '.join(tables)}: lower "
                "decimal_bit or recompile"
            )
        self.pwl_type, self.decimal_bit = pwl_type, decimal_bit
        self._function = tables.function
        for power in range(decimal_bit + 1):
            table = tables[str(power)]
            if table.body.payload != "lines" or table.prologue is not None:
                raise LutcError(
                    f"{pwl_dir}: gqa_lut_pwl takes plain lines, without a prologue; use lutc.nn.LUT for this file"
                )
        self._bodies = [tables[str(power)].body for power in range(decimal_bit + 1)]
        self._fill(torch.device("cpu"))

    def _fill(self, device: torch.device) -> None:
        for power, body in enumerate(self._bodies):
            for name in ("breakpoints", "slopes", "intercepts"):
                # Bit patterns: .half() must not round a table.
                values = torch.tensor(getattr(body, name), dtype=torch.float32, device="cpu").view(torch.int32)
                self.register_buffer(f"{name}_{power}", values.to(device))

    def power(self, scale: float) -> int:
        """The power of the table that serves `scale`."""
        return min(max(-int(math.log2(scale)), 0), self.decimal_bit)

    def forward(self, input: torch.Tensor, scale: float | torch.Tensor) -> torch.Tensor:
        if not isinstance(input, torch.Tensor) or not input.is_floating_point():
            given = input.dtype if isinstance(input, torch.Tensor) else type(input).__name__
            raise LutcError(f"gqa_lut_pwl takes integers in a float tensor; given {given}")
        number = float(scale.detach()) if isinstance(scale, torch.Tensor) and scale.numel() == 1 else scale
        if not isinstance(number, (int, float)) or not (math.isfinite(number) and number > 0):
            raise LutcError(f"scale is one positive finite number; given {scale}")
        power = self.power(number)
        dtype = torch.float64 if input.dtype == torch.float64 else torch.float32
        patterns = (getattr(self, f"{name}_{power}") for name in ("breakpoints", "slopes", "intercepts"))
        points, slopes, intercepts = (pattern.view(torch.float32).to(dtype) for pattern in patterns)
        q = input.detach().to(dtype)
        index = torch.bucketize(q.contiguous(), points / number)
        values = ((slopes[index] * q + intercepts[index] / number) * number).to(input.dtype)
        x = input * scale
        if torch.is_grad_enabled() and x.requires_grad:
            values = values + (x - x.detach()) * in_torch.derivative(self._function, x.detach())
        return values

    def extra_repr(self) -> str:
        return f"'{self.pwl_type}', decimal_bit={self.decimal_bit}"

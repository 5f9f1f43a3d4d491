"""What a table over codes answers to all codes, at scales that are tensors: the integer rule of `lutc.table.integer`,
whose integers are exact in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from lutc.formats.codes import Inputs, Outputs
from lutc.formats.requantise import INT32_MAX
from lutc.functions import in_torch
from lutc.nn.integer_lines import requantise
from lutc.table.integer import integer_lines, unfold
from lutc.table.table import Table
from lutc.table.table_set import TableSet

SIDES = ("scales", "steps", "cuts", "slopes", "intercepts")
LARGEST_RATIO = 2.0**30  # of the scale of the accumulator to that of the output, where the scale is a tensor


@dataclass(frozen=True)
class Coding:
    """Codes as a module takes and gives them: smallest and largest, dtype, what is taken from unsigned ones so that the
    rule sees signed ones, and the outputs, signed, or None for float32.
    """

    lowest: int
    highest: int
    dtype: torch.dtype
    offset: int
    out: Outputs | None


def answers(
    sides: Sequence[torch.Tensor],
    coding: Coding,
    scales: torch.Tensor,
    zeros: torch.Tensor | int,
    requantised: Callable,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of all codes, ascending, at n scales (float64, (n,)) and zero points (one, or (n,)): x, the slope of the segment,
    outputs, codes or float32, and their real values, NaN where the rule does not hold, all (n, codes), float64 but for
    outputs; and whether it holds, (n,): the scale is positive, accumulators keep to int32, and the output scale is in
    reach. sides: tables as `side_by_side` has them; requantised(acc, ratio, rounding): acc * ratio, rounded, int64.
    """
    keys, steps, cuts, slopes, intercepts = sides
    key = (keys - torch.log2(scales)[:, None]).abs().argmin(1)
    step, cuts, slopes, intercepts = (side.index_select(0, key) for side in (steps, cuts, slopes, intercepts))
    scales, step = scales[:, None], step[:, None]
    intercepts = torch.floor(intercepts / scales + 0.5)
    codes = torch.arange(coding.lowest, coding.highest + 1, dtype=torch.float64, device=scales.device)
    centred = codes - (zeros if isinstance(zeros, int) else zeros[:, None])
    x = centred * scales
    segment = (cuts[:, None] < x[:, :, None]).sum(-1)
    slope = slopes.gather(1, segment)
    acc, unit = slope * centred + intercepts.gather(1, segment), scales * step
    reach = slopes.abs() * centred.abs().amax(-1, keepdim=True) + intercepts.abs()
    held = (scales > 0) & (reach.amax(1, keepdim=True) <= INT32_MAX)
    if coding.out is None:
        values = acc * unit
        outputs = values.to(torch.float32)
    else:
        out = coding.out
        codes = (requantised(acc, unit / out.scale, out.rounding) + out.zero_point).clamp(out.minimum, out.maximum)
        outputs = (codes + coding.offset).to(coding.dtype)
        values = dequantised(codes, out)
        held = held & (unit / out.scale < LARGEST_RATIO)
    return x, slope * step, outputs, torch.where(held, values, torch.nan), held[:, 0]


def responses(
    sides: Sequence[torch.Tensor], function: str, coding: Coding, scales: torch.Tensor, zeros: torch.Tensor | int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Outputs (n, codes), real values and derivatives, float64, with one more for NaN (n, codes + 1), and whether the
    rule holds, as `answers` has them. The derivative is that of the function, of the table where torch knows none.
    """
    x, slopes, outputs, values, held = answers(sides, coding, scales, zeros, _requantised)
    slopes = derivatives(function, coding, x, outputs, slopes)
    return outputs, F.pad(values, (0, 1), value=math.nan), slopes, held


def derivatives(
    function: str, coding: Coding, x: torch.Tensor, outputs: torch.Tensor | None, slopes: torch.Tensor | None = None
) -> torch.Tensor:
    """The derivatives that `responses` gives, of x (n, codes) with these outputs, codes or None; slopes: of the table,
    for functions that torch does not know.
    """
    found = in_torch.derivative(function, x) if in_torch.known(function) or slopes is None else slopes
    if coding.out is not None and outputs is not None:
        codes = outputs.to(torch.int64) - coding.offset
        # Saturated output codes do not move with the input.
        found = torch.where((codes == coding.out.minimum) | (codes == coding.out.maximum), 0.0, found)
    return F.pad(found, (0, 1))


def dequantised(codes: torch.Tensor, out: Outputs) -> torch.Tensor:
    """Of signed output codes, as float64: float32 products with the float32 scale, as DequantizeLinear's are."""
    scale = torch.full((), out.scale, dtype=torch.float32, device=codes.device)
    return ((codes - out.zero_point).to(torch.float32) * scale).to(torch.float64)


def side_by_side(tables: TableSet) -> dict[str, np.ndarray]:
    """Of all tables over codes, in the order of the keys, in float64: scales (log2) and steps 2**-F (keys); cuts (keys,
    n - 1), where the segment of x is the number of cuts < x; slopes and intercepts (keys, n) as integers. Shorter
    tables end in cuts at infinity and their last line again.
    """
    parts = [(inputs.scale, *_line_codes(tables[key])) for key, inputs in tables.inputs.items()]
    most = max(len(slopes) for _, _, _, slopes, _ in parts)
    rows = []
    for scale, step, cuts, slopes, intercepts in parts:
        missing = (0, most - len(slopes))
        lines = (np.pad(values, missing, mode="edge") for values in (slopes, intercepts))
        rows.append((math.log2(scale), step, np.pad(cuts, missing, constant_values=np.inf), *lines))
    return {name: np.array(column, np.float64) for name, column in zip(SIDES, zip(*rows), strict=True)}


def _line_codes(table: Table) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
    """(2**-F, breakpoints, slopes / 2**-F, intercepts / 2**-F) of fixed-point lines; LutcError for other tables."""
    lines = integer_lines(table, Inputs(2, 1.0))  # refuses them
    body, step = unfold(table), lines.unit
    return step, body.breakpoints, np.rint(body.slopes / step), np.rint(body.intercepts / step)


def _requantised(acc: torch.Tensor, ratio: torch.Tensor, rounding: str) -> torch.Tensor:
    """round(acc * ratio) by the integer rule (`lutc.formats.requantise`), int64; ratio: a tensor, 0 < ratio < 2^31."""
    mantissa, exponent = torch.frexp(ratio)
    multiplier, shift = torch.round(mantissa * 2.0**31).to(torch.int64), 31 - exponent.to(torch.int64)
    return torch.where(shift > 62, 0, requantise(acc.to(torch.int64), multiplier, shift.clamp(min=1), rounding))

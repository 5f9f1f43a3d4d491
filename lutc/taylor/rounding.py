"""Slopes as int8 codes with a scale for each row and one for each column.

A slope's error counts times what its input varies by. An input that hardly varies has slopes far above the others' in
every row; a scale that held them would round away the rest of the row, though that is what the output is made of.
"""

from __future__ import annotations

import torch
from torch import Tensor

INT8_MAX = 127
# Scales of a row that are tried, in terms of the one that holds its largest slope.
_SHARES = torch.logspace(0, -2, 41, dtype=torch.float64).tolist()


def int8_slopes(slopes: Tensor, squares: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Codes (int8 [k, o, p]), scales of rows [k, o] and of columns [p] (float32) of slopes [k, o, p] (float64).

    `squares` [k, p] (float64) are the mean squares of what each column is multiplied with. Each row then gets the scale
    with the least mean squared error at its output, slopes beyond it end at 127, and columns are in units of their
    slopes or of their inputs, whichever loses less. None: the largest slope of each row is held.
    """
    columns = _root_mean_squares(slopes)
    if squares is None:
        scaled = slopes / columns.double()
        scales = (scaled.abs().amax(2) / INT8_MAX).clamp_min(1e-30).float()
        return _codes(scaled, scales.double()).to(torch.int8), scales, columns
    inputs = _positive(squares.mean(0).sqrt()).reciprocal().float()
    return min((_least(slopes, squares, one) for one in (columns, inputs)), key=lambda found: found[0])[1]


def _least(slopes: Tensor, squares: Tensor, columns: Tensor) -> tuple[float, tuple[Tensor, Tensor, Tensor]]:
    """The sum of the mean squared errors at the outputs for these scales of columns, and what `int8_slopes` returns."""
    weights = squares * columns.double().square()
    scaled = slopes / columns.double()
    scales = torch.stack([_row_scales(*one) for one in zip(scaled, weights, strict=True)]).clamp_min(1e-30).float()
    codes = _codes(scaled, scales.double())
    errors = (codes * scales.double()[..., None] - scaled).square() * weights[:, None]
    return float(errors.sum()), (codes.to(torch.int8), scales, columns)


def _row_scales(rows: Tensor, weight: Tensor) -> Tensor:
    """Scales [o] for rows [o, p] with the least sum of weight [p] times the squared error, of those tried."""
    largest = (rows.abs().amax(1) / INT8_MAX).clamp_min(1e-30)
    tried = torch.stack([largest * share for share in _SHARES])
    errors = torch.stack([(_codes(rows, scale) * scale[:, None] - rows).square() @ weight for scale in tried])
    return tried.gather(0, errors.argmin(0, keepdim=True))[0]


def _codes(slopes: Tensor, scales: Tensor) -> Tensor:
    return (slopes / scales[..., None]).round().clamp(-INT8_MAX, INT8_MAX)


def _root_mean_squares(slopes: Tensor) -> Tensor:
    """The root mean square of each column [p], each row taken in units of its own."""
    rows = slopes.square().mean(2, keepdim=True).clamp_min(1e-60)
    return _positive((slopes.square() / rows).mean((0, 1)).sqrt()).float()


def _positive(columns: Tensor) -> Tensor:
    return columns.clamp_min(1e-6 * float(columns.max()) or 1.0)

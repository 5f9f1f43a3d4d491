"""Integer-only arithmetic of a table, in numpy: the model that hardware and every integer backend is held to, bit by
bit.

With coefficients of F fraction bits, k and t as integers, and input codes q at scale S and zero point z: acc (int32) =
k * (q - z) + t', t' = floor(t_real * 2**F / S + 1/2), which is t << b for S = 2**-b; acc stands for acc * S * 2**-F.
Output code = z_out + requantise(acc), saturated; halves round up, or as the output codes say (`lutc.formats.Outputs`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from lutc import formats
from lutc.errors import LutcError
from lutc.formats.codes import Inputs
from lutc.formats.requantise import INT32_MAX, requantise, requantiser, scaled_intercepts
from lutc.table.bodies import Lines, without_empty_segments
from lutc.table.prologues import AbsPrologue
from lutc.table.table import Table

_FAR = 2.0**40  # no code is that far out


@dataclass(frozen=True, eq=False)
class IntegerLines:
    """A `Lines` table as a unit of comparators, one multiplier and one adder sees it.

    cuts: int64 (n - 1), codes: the segment of q is the number of cuts < q - zero_point. slopes, intercepts: int64 (n),
    the latter scaled (t'). acc = slopes[i] * (q - zero_point) + intercepts[i] fits int32; it stands for acc * unit.
    """

    cuts: np.ndarray
    slopes: np.ndarray
    intercepts: np.ndarray
    inputs: Inputs
    unit: float

    def accumulate(self, q: ArrayLike) -> np.ndarray:
        centred = np.asarray(q, np.int64) - self.inputs.zero_point
        index = np.searchsorted(self.cuts, centred, side="left")
        return self.slopes[index] * centred + self.intercepts[index]

    def __call__(self, q, out: Inputs) -> np.ndarray:
        """Output codes (int64) of input codes q."""
        codes = requantise(self.accumulate(q), *requantiser(self.unit / out.scale), out.rounding) + out.zero_point
        return np.clip(codes, out.minimum, out.maximum)


def cut_codes(breakpoints: ArrayLike, scale: float) -> np.ndarray:
    """Largest integers c (int64) with scale * c <= breakpoint in float64, whichever way breakpoint / scale rounds."""
    breakpoints = np.asarray(breakpoints, np.float64)
    nearest = np.rint(breakpoints / scale)
    candidates = nearest + np.array([[-1.0], [0.0], [1.0]])
    return np.clip(np.where(scale * candidates <= breakpoints, candidates, -np.inf).max(axis=0), -_FAR, _FAR).astype(
        np.int64
    )


def integer_lines(table: Table, inputs: Inputs) -> IntegerLines:
    """Integer form of a table of fixed-point lines. A table stored by symmetry is unfolded first (see `unfold`).

    A breakpoint becomes the largest centred code c with scale * c <= breakpoint, which keeps `x <= breakpoint` exactly.
    """
    fmt = formats.get(table.coefficients)
    if not isinstance(table.body, Lines) or fmt.kind != "fixed":
        raise LutcError(
            "integer arithmetic takes a table of lines with fixed-point coefficients (q1.6, ...); given "
            f"{table.body.addressing} x "
            f"{table.body.payload} in {table.coefficients}"
        )
    if table.prologue is not None and not isinstance(table.prologue, AbsPrologue):
        raise LutcError(
            "integer arithmetic takes a table without prologue or stored by symmetry; given prologue "
            f"{table.prologue.kind}"
        )
    body = unfold(table)
    step = 2.0**-fmt.fraction_bits
    slopes, intercepts = (np.rint(values / step) for values in (body.slopes, body.intercepts))
    if (slopes * step != body.slopes).any() or (intercepts * step != body.intercepts).any():
        raise LutcError(
            f"the table's coefficients are not multiples of 2**-{fmt.fraction_bits} ({fmt.name}), so integer "
            "arithmetic cannot hold them"
        )
    lines = IntegerLines(
        cuts=cut_codes(body.breakpoints, inputs.scale),
        slopes=slopes.astype(np.int64),
        intercepts=scaled_intercepts(intercepts, inputs),
        inputs=inputs,
        unit=inputs.scale * step,
    )
    largest = max(abs(inputs.minimum - inputs.zero_point), abs(inputs.maximum - inputs.zero_point))
    bound = int(np.max(np.abs(lines.slopes) * largest + np.abs(lines.intercepts)))
    if bound > INT32_MAX:
        raise LutcError(
            f"the accumulator could reach {bound}, beyond int32; use a coarser scale, fewer input bits or fewer "
            "fraction bits"
        )
    return lines


def unfold(table: Table) -> Lines:
    """The lines of a table over all x, both sides of a symmetry written out.

    On the negative side the cells [b, b') of |x| turn around, so a breakpoint -b moves to the next representable point
    below: codes lie on a lattice, and -b - tiny keeps `|x| <= b` on the same line.
    """
    body, prologue = table.body, table.prologue
    if prologue is None:
        return body
    return without_empty_segments(  # a cut at |x| = 0 leaves nothing of its segment on the negative side
        np.concatenate([np.nextafter(-body.breakpoints[::-1], -np.inf), [np.nextafter(0.0, -1.0)], body.breakpoints]),
        *prologue.unfolded(body.slopes, body.intercepts),
    )


def evaluate(table: Table, q: ArrayLike, inputs: Inputs, out: Inputs | None = None) -> np.ndarray:
    """Output codes (int64) with `out`, else the real value acc * S * 2**-F as float64."""
    lines = integer_lines(table, inputs)
    return lines(q, out) if out is not None else lines.accumulate(q) * lines.unit

"""The coefficients' format where none is given: the function's own, or a wider one where that cannot hold it."""

from __future__ import annotations

import math

import numpy as np

from lutc.errors import LutcError
from lutc.formats.codes import Inputs
from lutc.formats.format import get as format_of
from lutc.functions import Function
from lutc.samples.samples import Samples, code_samples

_SHARE = 0.01  # of the function's spread that a step may be


def chosen_format(fn: Function, inputs: tuple[Inputs, ...], out: Inputs | None, ranged: bool) -> str:
    """Name of the first of the function's own format, fixed point of 8 bits, of 16 bits, and fp32 that holds slopes and
    intercepts and, as near as 16 bits get, with more than 8 bits of output one step of the output.

    inputs: codes; the format holds lines through neighbouring codes in the function's range at every scale. ranged:
    whether the range is not the function's own, so that its own format may not hold it.
    """
    own, judged = format_of(fn.coefficients), _judged(fn, inputs)
    most = max(judged, key=len, default=None)
    if not own.is_fixed or most is None or len(most) < 3:
        return own.name
    tails = [value for line in (fn.left, fn.right) if line is not None for value in (line.slope, line.intercept)]
    largest = float(np.abs(np.concatenate([tails, *map(_lines, judged)])).max())
    spread = float(np.std(most.y))
    needed = out.scale if out is not None and out.bits > 8 else math.inf
    small = 0.0 < spread < own.step
    if not (ranged and largest > own.max + own.step) and not small and own.step <= needed:
        return own.name
    coarsest = _SHARE * spread
    for bits, step in ((7, min(coarsest, needed)), (15, min(coarsest, needed)), (15, coarsest)):
        for whole in range(bits + 1):
            if 2.0**whole - 2.0 ** (whole - bits) >= largest and 2.0 ** (whole - bits) <= step:
                return f"q{whole}.{bits - whole}"
    return "fp32"


def _judged(fn: Function, inputs: tuple[Inputs, ...]) -> list[Samples]:
    """The codes in the range, of every scale that has some."""
    found = []
    for codes in inputs:
        try:
            found.append(code_samples(fn, codes, *fn.range))
        except LutcError:  # no code lies in the range, which is said elsewhere
            continue
    return found


def _lines(samples: Samples) -> np.ndarray:
    """Slopes and intercepts of the secants between neighbouring samples."""
    slopes = np.diff(samples.y) / np.diff(samples.x)
    return np.concatenate([slopes, samples.y[1:] - slopes * samples.x[1:]])

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

    inputs: codes, of which those with most of them in the function's range are judged. ranged: whether the range is not
    the function's own, so that its own format may not hold it.
    """
    own = format_of(fn.coefficients)
    samples = _most(fn, inputs)
    if not own.is_fixed or samples is None or len(samples) < 3:
        return own.name
    slopes = np.diff(samples.y) / np.diff(samples.x)
    tails = [value for line in (fn.left, fn.right) if line is not None for value in (line.slope, line.intercept)]
    largest = max(float(np.abs(part).max()) for part in (slopes, samples.y[1:] - slopes * samples.x[1:], [0.0, *tails]))
    spread = float(np.std(samples.y))
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


def _most(fn: Function, inputs: tuple[Inputs, ...]) -> Samples | None:
    """Of the codes in the range, those that are most."""
    found = []
    for codes in inputs:
        try:
            found.append(code_samples(fn, codes, *fn.range))
        except LutcError:  # no code lies in the range, which is said elsewhere
            continue
    return max(found, key=len, default=None)

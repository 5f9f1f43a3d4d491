"""Values of a format next to a number (numba): the nearest one, and the next one beyond."""

from __future__ import annotations

import math

import numpy as np

from lutc.jit import njit


@njit
def spacing_of(numbers, magnitude):
    """Distance from a value of this magnitude to the next larger one."""
    if magnitude == 0.0:
        return numbers[1]
    exponent = math.frexp(magnitude)[1] - 1
    return max(math.ldexp(1.0, int(max(exponent - numbers[0], -1100.0))), numbers[1])


@njit
def nearest(numbers, value):
    """The representable value nearest to `value`, ties to even, within the format's range."""
    spacing = spacing_of(numbers, abs(value))
    return min(max(np.rint(value / spacing) * spacing, numbers[2]), numbers[3])


@njit
def beyond(numbers, value, sign):
    """The next representable value above one, or with `sign` -1 below it, infinite beyond the range."""
    value *= sign
    spacing = spacing_of(numbers, abs(value))
    if value < 0.0 and math.frexp(-value)[0] == 0.5:  # towards 0 spacings halve at a power of two
        spacing = max(spacing / 2.0, numbers[1])
    end = numbers[3] if sign > 0.0 else -numbers[2]
    return sign * (value + spacing if value + spacing <= end else np.inf)

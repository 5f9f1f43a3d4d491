"""What the C++ of several units writes alike."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

import numpy as np

from lutc.hardware.bits import signed_bits


def integer_type(bits: int, signed: bool = True) -> str:
    """The narrowest standard integer of at least `bits` bits."""
    width = next(width for width in (8, 16, 32, 64) if bits <= width)
    return f"{'' if signed else 'u'}int{width}_t"


def type_of(values: np.ndarray) -> str:
    return integer_type(signed_bits(int(values.min()), int(values.max()))) if values.size else "int8_t"


def number(value: int) -> str:
    value = int(value)
    return f"INT64_C({value})" if abs(value) >> 31 else str(value)


def braced(values: Iterable[int]) -> str:
    """{1, 2, ...}, wrapped."""
    text = ", ".join(number(value) for value in values)
    return "{" + "\n      ".join(textwrap.wrap(text, 110)) + "}"


def lines_type(cuts: np.ndarray, slopes: np.ndarray, intercepts: np.ndarray) -> str:
    return f"lutc::Lines<{type_of(cuts)}, {type_of(slopes)}, {type_of(intercepts)}, {slopes.size}>"


def lines_function(name: str, kind: str, parts: Sequence[np.ndarray], prefix: str = "inline") -> str:
    """A function that gives a constant table of lines."""
    cuts, slopes, intercepts = parts
    held = ", ".join(braced(values) for values in (cuts if cuts.size else np.zeros(1, int), slopes, intercepts))
    return f"{prefix} const {kind}& {name}() {{\n  static const {kind} lines = {{{held}}};\n  return lines;\n}}"


def ratio(multiplier: int, shift: int) -> str:
    """Of `requantiser`: beyond 62 places nothing is left."""
    if shift > 62:
        return "{0, 0}"
    return f"{{{number(multiplier << max(-shift, 0))}, {max(shift, 0)}}}"

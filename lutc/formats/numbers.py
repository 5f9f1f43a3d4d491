"""Sets of numbers that a slope or an intercept may be taken from, narrower than the format that holds them: powers of
two and sums of them, which need no multiplier, and fixed point of another width or without a sign.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field

import numpy as np

from lutc.errors import LutcError
from lutc.formats.format import Format, get

_SUMS = 4  # most powers of two in a sum
_FIXED = re.compile(r"(u?)q(\d{1,2})\.(\d{1,2})", re.ASCII)
_ALLOWED = (
    f"pot (a power of two), apot:N (sums of N, up to {_SUMS}), qI.F with a sign or uqI.F without, of 2 to 16 bits in "
    "all"
)


@dataclass(frozen=True)
class Numbers:
    """name: as given. bits: of the code of one number. values: ascending, float64, 0 among them. format: signed fixed
    point that holds them all. terms: powers of two in a number, 0 where it needs a multiplier.
    """

    name: str
    bits: int
    format: Format
    terms: int = 0
    values: np.ndarray = field(default_factory=lambda: np.zeros(1), repr=False, compare=False)

    @property
    def shifts(self) -> bool:
        """Whether a product with a number is a sum of shifts."""
        return self.terms > 0


def numbers(text: str, grid: Format) -> Numbers:
    """The set called `text`: "pot", "apot:2", "q1.4", "uq2.6". grid: fixed point whose step and range powers of two
    keep to. LutcError for anything else.
    """
    name = str(text).strip().lower()
    fixed = _FIXED.fullmatch(name)
    if fixed:
        unsigned, integer, fraction = bool(fixed[1]), int(fixed[2]), int(fixed[3])
        bits = integer + fraction + (not unsigned)
        if not 2 <= bits <= 16:
            raise LutcError(f"slopes and intercepts of {text} have {bits} bits; allowed are {_ALLOWED}")
        least = 0 if unsigned else -(1 << (integer + fraction))
        values = np.arange(least, 1 << (integer + fraction)) * 2.0**-fraction
        return Numbers(name, bits, get(f"q{integer}.{fraction}"), 0, values)
    terms = 1 if name == "pot" else int(name[5:]) if re.fullmatch(r"apot:\d", name) else 0
    if not 1 <= terms <= _SUMS:
        raise LutcError(f"slopes and intercepts of {str(text)!r:.40} are not known; allowed are {_ALLOWED}")
    if not grid.is_fixed:
        raise LutcError(f"powers of two keep to a fixed-point grid (`coefficients` q1.6, ...); given {grid.name}")
    powers = 2.0 ** np.arange(-grid.fraction_bits, max(grid.integer_bits, 1 - grid.fraction_bits))
    single = np.concatenate([[0.0], powers, -powers])
    sums = [sum(chosen) for chosen in itertools.combinations_with_replacement(single, terms)]
    values = np.unique([value for value in sums if grid.min <= value <= grid.max]) + 0.0
    # a sign and an exponent, or nothing, for every term
    return Numbers(name, terms * int(np.ceil(np.log2(single.size))), grid, terms, values)


def holder(*sets: Numbers) -> Format:
    """The narrowest signed fixed point that holds numbers of all sets."""
    integer, fraction = (max(getattr(s.format, part) for s in sets) for part in ("integer_bits", "fraction_bits"))
    return get(f"q{integer}.{fraction}")


def numbers_of(fmt: Format | None) -> np.ndarray:
    """A format as kernels take it: bits of its mantissa (fixed point has one spacing), smallest step, ends; empty for
    real numbers.
    """
    if fmt is None:
        return np.zeros(0)
    mantissa, smallest = (10_000, fmt.step) if fmt.is_fixed else (fmt.mantissa_bits, fmt.smallest_subnormal)
    return np.array([mantissa, smallest, fmt.min, fmt.max], np.float64)

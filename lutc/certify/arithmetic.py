"""A float table computed as a machine computes it: in fp32, or in fp16 bit by bit, rounded to nearest even or
truncated.

`in_arithmetic(table, name)` gives the table as a function of float64 inputs, whose error is then measured, not guessed.
In fp16 every addition and multiplication is one of `lutc.formats.float16`; constants are rounded to nearest;
comparisons, powers of two and the bits of an exponent cost nothing and are exact. The inputs are rounded to fp16 first.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from lutc.errors import LutcError
from lutc.formats.float16 import bits_of, float16_add, float16_mul, value_of
from lutc.table.bodies import Cells, Direct, Exponents, Lines
from lutc.table.prologues import AbsPrologue, ExponentPrologue, PeriodPrologue
from lutc.table.table import Table

ARITHMETICS = ("float64", "fp32", "fp16_rne", "fp16_trunc")
_SIGN = np.uint16(0x8000)


def in_arithmetic(table: Table, name: str) -> Callable[[np.ndarray], np.ndarray]:
    """float64 -> float64, any shape. float64: the table itself. fp32: interpolation in fp32 behind an exact prologue.
    fp16_rne, fp16_trunc: all of it in fp16.
    """
    if name not in ARITHMETICS:
        raise LutcError(f"unknown arithmetic {name!r}; choose one of {', '.join(ARITHMETICS)}")
    if name == "float64":
        return table
    computed = _in_single(table) if name == "fp32" else _in_half(table, name.removeprefix("fp16_"))
    return computed if table.domain is None else lambda x: table.domain.restrict(computed(x), x)


def _in_single(table: Table) -> Callable:
    body, prologue = partial(_single, table), table.prologue
    return body if prologue is None else lambda x: prologue(body, np.asarray(x, np.float64))


def _in_half(table: Table, rounding: str) -> Callable:
    half = _Half(table, rounding)
    return lambda x: value_of(half(bits_of(x)))


def _single(table: Table, x) -> np.ndarray:
    """Body and tails in float32: value + slope * (x - edge), or slope * x + intercept."""
    x, body = np.asarray(x, np.float32), table.body
    with np.errstate(all="ignore"):
        if isinstance(body, Direct):
            return body(x)
        i = body.segment(x)
        if isinstance(body, Lines):
            return _line32(body.slopes[i], body.intercepts[i], x).astype(np.float64)
        values, edges = body.values.astype(np.float32), body.edges.astype(np.float32)
        slopes = (np.diff(body.values) / np.diff(body.edges)).astype(np.float32)
        finite = np.where(np.isfinite(x), x, np.float32(0.0))
        y = np.where(np.isfinite(x), values[i] + slopes[i] * (finite - edges[i]), _line32(slopes[i], values[i], x))
        cuts = body.cut_points
        if table.left is not None:
            y = np.where(x < cuts[0], _line32(table.left.slope, table.left.intercept, x), y)
        if table.right is not None:
            y = np.where(x >= cuts[-1], _line32(table.right.slope, table.right.intercept, x), y)
        return y.astype(np.float64)


def _line32(slope, intercept, x) -> np.ndarray:
    slope, intercept = np.asarray(slope, np.float32), np.asarray(intercept, np.float32)
    return np.where((slope == 0) & ~np.isnan(x), np.float32(0.0), slope * x) + intercept


class _Half:
    """A table in fp16: uint16 bits in, uint16 bits out."""

    def __init__(self, table: Table, rounding: str):
        if isinstance(table.body, Direct):
            raise LutcError("a direct table computes nothing; there is no fp16 arithmetic to measure")
        self.table, self.rounding = table, rounding

    def add(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return float16_add(a, b, self.rounding)

    def mul(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return float16_mul(a, b, self.rounding)

    def scaled(self, a: np.ndarray, factor: float | np.ndarray) -> np.ndarray:
        """a * factor for a factor beyond fp16's range or precision at its ends: by a power of two, which is a shift,
        and by the rest.
        """
        power = np.clip(np.floor(np.log2(factor)), -14, 15)
        return self.mul(self.mul(a, bits_of(np.exp2(power))), bits_of(factor * np.exp2(-power)))

    def line(self, slope: float | np.ndarray, intercept: float | np.ndarray, x: np.ndarray) -> np.ndarray:
        flat = (np.asarray(slope) == 0.0) & ~np.isnan(value_of(x))
        return np.where(flat, bits_of(intercept), self.add(self.mul(bits_of(slope), x), bits_of(intercept)))

    def __call__(self, x):
        prologue = self.table.prologue
        if prologue is None:
            return self.reduced(x)
        if isinstance(prologue, AbsPrologue):
            return self.absolute(prologue, x)
        return self.exponent(prologue, x) if isinstance(prologue, ExponentPrologue) else self.period(prologue, x)

    def reduced(self, x: np.ndarray) -> np.ndarray:
        """Body and tails."""
        body, left, right = self.table.body, self.table.left, self.table.right
        value = value_of(x)
        if isinstance(body, Lines):
            i = body.segment(value)
            return self.line(body.slopes[i], body.intercepts[i], x)
        piece, fraction = self.cells(body, x) if isinstance(body, Cells) else self.binades(body, x)
        values = bits_of(body.values)
        step = self.add(values[piece + 1], values[piece] ^ _SIGN)
        result = self.add(values[piece], self.mul(fraction, step))
        if left is not None:
            result = np.where(value < body.cut_points[0], self.line(left.slope, left.intercept, x), result)
        if right is not None:
            result = np.where(value >= body.cut_points[-1], self.line(right.slope, right.intercept, x), result)
        return result

    def cells(self, body: Cells, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The piece and where in it x lies: the interval by comparison, then (x - cut) * pieces / width, its integer
        part and the rest.
        """
        cuts, pieces = body.cut_points, np.asarray(body.pieces)
        value = value_of(x)
        interval = np.clip(np.searchsorted(cuts, value, side="right") - 1, 0, pieces.size - 1)
        offset = self.add(x, bits_of(-cuts[interval]))
        position = self.scaled(offset, (pieces / np.diff(cuts))[interval])
        whole = np.clip(np.nan_to_num(np.floor(value_of(position))), 0, pieces[interval] - 1)
        first = np.append(0, np.cumsum(pieces))[interval]
        return first + whole.astype(np.int64), self.add(position, bits_of(-whole))

    def binades(self, body: Exponents, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The piece by the bits of x, and its lower bits, normalised; a joined piece takes a multiplication."""
        piece = body.segment(value_of(x))
        width = np.diff(body.edges)[piece]
        return piece, self.scaled(self.add(x, bits_of(-body.edges[piece])), 1.0 / width)

    def absolute(self, prologue: AbsPrologue, x: np.ndarray) -> np.ndarray:
        positive = value_of(x) >= 0
        factor, slope, intercept = (np.where(positive, p, n) for p, n in zip(prologue.positive, prologue.negative))
        inner = self.reduced(x & np.uint16(0x7FFF))
        rest = np.where((slope == 0) & (intercept == 0), np.uint16(0), self.line(slope, intercept, x))
        return self.add(self.line(factor, 0.0, inner), rest)

    def shifted(self, x: np.ndarray, power: np.ndarray) -> np.ndarray:
        """x * 2^power, in two steps: a power may lie beyond fp16's own."""
        near = np.clip(power, -14, 15)
        return self.mul(self.mul(x, bits_of(np.exp2(near))), bits_of(np.exp2(np.clip(power - near, -24, 15))))

    def exponent(self, prologue: ExponentPrologue, x: np.ndarray) -> np.ndarray:
        value = np.abs(value_of(x))
        mantissa, e = np.frexp(value)
        e = (e - 1) // prologue.step
        regular = np.isfinite(value) & (value > 0)
        m = np.where(regular, np.ldexp(mantissa, np.frexp(value)[1] - prologue.step * e), 1.0)
        result = self.shifted(self.reduced(bits_of(m)), prologue.growth * e)
        if prologue.offset:
            result = self.add(result, self.mul(bits_of(np.full_like(value, prologue.offset)), bits_of(e)))
        result = np.where(prologue.odd, result | (x & _SIGN), result).astype(np.uint16)
        return np.where(
            regular & (prologue.odd | prologue.even | (value_of(x) > 0)), result, bits_of(self.table(value_of(x)))
        )

    def period(self, prologue: PeriodPrologue, x: np.ndarray) -> np.ndarray:
        """x - n * period with the period in two parts (Cody and Waite), the first of 6 bits, so that its multiples are
        exact for small n.
        """
        value = value_of(x)
        finite = np.isfinite(value)
        n = np.floor(np.where(finite, value, 0.0) / prologue.period)
        if prologue.growth:  # beyond these the result is 0 or too large, whatever the remainder
            far = np.abs(n) > 64
            x, n = np.where(far, np.uint16(0), x), np.clip(n, -64, 64)
            count = bits_of(np.where(far, 0.0, -n))
        else:
            count = bits_of(-n)
        scale = np.exp2(np.floor(np.log2(prologue.period)) - 5)
        high = np.rint(prologue.period / scale) * scale
        r = self.add(x, self.mul(count, bits_of(np.full_like(value, high))))
        r = self.add(r, self.mul(count, bits_of(np.full_like(value, prologue.period - high))))
        result = self.reduced(r)
        if prologue.growth:
            result = self.shifted(result, n)
        return np.where(finite, result, bits_of(self.table(value)))

"""Signals that know which numbers they can hold: every operation declares one as wide as its result needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lutc.hardware.bits import signed_bits
from lutc.hardware.rtl.verilog import extended, literal
from lutc.table.integer import IntegerLines


@dataclass(frozen=True)
class Ranged:
    """A signed signal of numbers low to high."""

    name: str
    low: int
    high: int

    @property
    def bits(self) -> int:
        return signed_bits(self.low, self.high)


def constant(value: int) -> Ranged:
    return Ranged(literal(value, signed_bits(value, value)), value, value)


class Arithmetic:
    """Lines of a module that compute with ranged signals."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def declare(self, name: str, low: int, high: int) -> Ranged:
        signal = Ranged(name, low, high)
        self.lines.append(f"  logic signed [{signal.bits - 1}:0] {name};")
        return signal

    def let(self, name: str, low: int, high: int, value: str) -> Ranged:
        signal = self.declare(name, low, high)
        self.lines.append(f"  assign {name} = {value};")
        return signal

    @staticmethod
    def wide(a: Ranged, bits: int) -> str:
        return literal(a.low, bits) if a.low == a.high else extended(a.name, a.bits, bits)

    def add(self, name: str, a: Ranged, b: Ranged) -> Ranged:
        bits = self._holding(a.low + b.low, a.high + b.high, a, b)
        return self._cut(name, bits, a.low + b.low, a.high + b.high, f"{self.wide(a, bits)} + {self.wide(b, bits)}")

    def subtract(self, name: str, a: Ranged, b: Ranged) -> Ranged:
        low, high = a.low - b.high, a.high - b.low
        bits = self._holding(low, high, a, b)
        return self._cut(name, bits, low, high, f"{self.wide(a, bits)} - {self.wide(b, bits)}")

    def multiply(self, name: str, a: Ranged, b: Ranged) -> Ranged:
        corners = [x * y for x in (a.low, a.high) for y in (b.low, b.high)]
        low, high = (0, max(corners)) if a is b and a.low < 0 < a.high else (min(corners), max(corners))
        bits = self._holding(low, high, a, b)
        return self._cut(name, bits, low, high, f"{self.wide(a, bits)} * {self.wide(b, bits)}")

    def left(self, name: str, a: Ranged, places: int) -> Ranged:
        return self.multiply(name, a, constant(1 << places)) if places else a

    def right(self, name: str, a: Ranged, places: int) -> Ranged:
        """a / 2^places, rounded half up."""
        if not places:
            return a
        half = self.add(f"{name}_half", a, constant(1 << (places - 1)))
        return self._cut(name, half.bits, half.low >> places, half.high >> places, f"{half.name} >>> {places}")

    def clip(self, name: str, a: Ranged, low: int, high: int) -> Ranged:
        low, high = max(low, min(a.low, high)), min(high, max(a.high, low))
        bits = signed_bits(low, high)
        text = f"{a.name}[{bits - 1}:0]" if bits < a.bits else self.wide(a, bits)
        text = f"{a.name} > {literal(high, a.bits)} ? {literal(high, bits)} : {text}" if a.high > high else text
        text = f"{a.name} < {literal(low, a.bits)} ? {literal(low, bits)} : {text}" if a.low < low else text
        return self.let(name, low, high, text)

    def requantised(self, name: str, a: Ranged, multiplier: int, shift: int) -> Ranged:
        """round(a multiplier 2^-shift), half up."""
        product = self.multiply(f"{name}_product", a, constant(multiplier << max(-shift, 0)))
        if shift > 62:
            return constant(0)
        return self.right(name, product, max(shift, 0))

    def shifted(self, name: str, a: Ranged, multiplier: int, places: Ranged, places_bits: int) -> Ranged:
        """round(a multiplier 2^-places), half up; places, a signal of places_bits bits, is at least 1."""
        product = self.multiply(f"{name}_product", a, constant(multiplier))
        largest = 1 << (min(places.high, product.bits) - 1)
        bits = max(signed_bits(product.low, product.high + largest), places_bits)
        far = f"{places.name} > {literal(product.bits, places_bits)}" if places.high > product.bits else ""
        amount = f"{name}_places"
        self.lines.append(f"  logic [{places_bits - 1}:0] {amount};")
        self.lines.append(f"  assign {amount} = $unsigned({places.name});")
        self.let(f"{name}_half", 0, (1 << (bits - 1)) - 1, f"{literal(1, bits)} <<< ({amount} - {places_bits}'d1)")
        self.let(f"{name}_sum", -(1 << (bits - 1)), (1 << (bits - 1)) - 1, f"{self.wide(product, bits)} + {name}_half")
        low, high = (product.low >> places.low) - 1, (product.high >> places.low) + 1
        value = f"{name}_sum >>> {amount}"
        value = f"({far}) ? {literal(0, bits)} : ({value})" if far else value
        return self._cut(name, bits, low, high, value)

    def divided(self, name: str, a: Ranged, n: int) -> Ranged:
        """a / n rounded half up, by a product with 1 / n wide enough to be exact: floor((2 a + n + 2 n k) / (2 n)) - k
        of numbers that k makes positive.
        """
        if n == 1:
            return a
        k = max(0, -(a.low // n)) + 1
        twice = self.left(f"{name}_twice", a, 1)
        moved = self.add(f"{name}_moved", twice, constant(n + 2 * n * k))
        places = (2 * n).bit_length() + moved.high.bit_length()
        factor = -(-(1 << places) // (2 * n))
        product = self.multiply(f"{name}_product", moved, constant(factor))
        low, high = (2 * a.low + n) // (2 * n), (2 * a.high + n) // (2 * n)
        whole = self._cut(f"{name}_whole", product.bits, low + k, high + k, f"{product.name} >>> {places}")
        return self.subtract(name, whole, constant(k))

    def leading(self, name: str, a: Ranged) -> Ranged:
        """Index of the highest set bit of a positive number."""
        top = max(a.high.bit_length() - 1, 0)
        signal = self.declare(name, 0, top)
        chain = "".join(f"{a.name}[{p}] ? {literal(p, signal.bits)} : " for p in range(top, 0, -1))
        self.lines.append(f"  assign {name} = {chain}{literal(0, signal.bits)};")
        return signal

    def line(self, name: str, a: Ranged, lines: IntegerLines) -> Ranged:
        """acc = slope a + intercept of the segment of a."""
        values = np.arange(a.low, a.high + 1)
        used = np.unique(np.searchsorted(lines.cuts, values, side="left"))
        parts = []
        for part, numbers in (("slope", lines.slopes[used]), ("intercept", lines.intercepts[used])):
            low, high = int(numbers.min()), int(numbers.max())
            bits = signed_bits(low, high)
            text = literal(int(numbers[0]), bits)
            for cut, number in zip(lines.cuts[used[1:] - 1], numbers[1:]):
                text = f"{a.name} > {literal(int(cut), a.bits)} ? {literal(int(number), bits)} :\n    {text}"
            parts.append(self.let(f"{name}_{part}", low, high, text) if low < high else constant(low))
        product = self.multiply(f"{name}_rise", a, parts[0])
        acc = lines.accumulate(values)
        bits = max(product.bits, parts[1].bits, signed_bits(int(acc.min()), int(acc.max())))
        total = f"{self.wide(product, bits)} + {self.wide(parts[1], bits)}"
        return self._cut(name, bits, int(acc.min()), int(acc.max()), total)

    def narrowed(self, name: str, a: Ranged, low: int, high: int) -> Ranged:
        """A number that is known to lie within low to high."""
        return self._cut(name, a.bits, low, high, a.name)

    def normalised(
        self, name: str, a: Ranged, index: Ranged, places: Callable[[int], int], low: int, high: int
    ) -> Ranged:
        """a 2^places(index), rounded half up, at most `high`; places(i) is known to bring it to `low` or more."""
        bits = max(a.bits, signed_bits(0, high + 1)) + 1
        grown = self.wide(a, bits)
        text = ""
        for i in range(index.high, index.low - 1, -1):
            up = places(i)
            half = f"({grown} + {literal(1 << (-up - 1), bits)}) >>> {-up}" if up < 0 else f"{grown} <<< {up}"
            text += f"{index.name} == {literal(i, index.bits)} ? ({half}) :\n    " if i > index.low else f"({half})"
        moved = self.let(f"{name}_moved", -(1 << (bits - 1)), (1 << (bits - 1)) - 1, text)
        return self.clip(name, moved, low, high)

    def register(self, name: str, a: Ranged, when: str = "") -> Ranged:
        """a, a cycle later."""
        signal = self.declare(name, a.low, a.high)
        self.lines.append(f"  always_ff @(posedge clk) {f'if ({when}) ' if when else ''}{name} <= {a.name};")
        return signal

    @staticmethod
    def _holding(low: int, high: int, *operands: Ranged) -> int:
        return max(signed_bits(low, high), *(operand.bits for operand in operands))

    def _cut(self, name: str, bits: int, low: int, high: int, value: str) -> Ranged:
        """A value of `bits` bits into the signal that its range needs."""
        if signed_bits(low, high) >= bits:  # a bound that is not reached
            least, most = max(low, -(1 << (bits - 1))), min(high, (1 << (bits - 1)) - 1)
            return (
                self.let(name, least, most, value)
                if signed_bits(least, most) == bits
                else self.let(name, -(1 << (bits - 1)), (1 << (bits - 1)) - 1, value)
            )
        self.let(f"{name}_all", -(1 << (bits - 1)), (1 << (bits - 1)) - 1, value)
        signal = self.let(name, low, high, f"{name}_all[{signed_bits(low, high) - 1}:0]")
        self.lines.append(f"  logic {name}_unused;")
        self.lines.append(f"  assign {name}_unused = &{{1'b0, {name}_all[{bits - 1}:{signal.bits}]}};")
        return signal

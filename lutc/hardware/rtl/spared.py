"""What a unit of lines can be spared: comparators, where bits of the code address its segments, and the multiplier,
where every slope is a sum of few powers of two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lutc.errors import LutcError
from lutc.hardware.export.units import Unit
from lutc.hardware.rtl.verilog import extended, literal, signal

MOST_TERMS = 4  # powers of two of a slope


@dataclass(frozen=True)
class EvenCells:
    """The code less `offset`, without its lowest `step` bits, is the number of a cell; entries[i] is the entry of cell
    number first + i.
    """

    step: int
    offset: int
    first: int
    entries: np.ndarray

    @classmethod
    def of(cls, unit: Unit, cuts: np.ndarray) -> EvenCells:
        """The widest cells between whose borders all cuts (ascending, the last codes of their segments) lie."""
        inputs = unit.inputs
        starts = cuts + 1
        step = max(s for s in range(inputs.bits) if np.unique(starts % (1 << s)).size <= 1)
        if step == 0:
            raise LutcError(
                f"the cuts of '{unit.key}' ({', '.join(map(str, cuts[:4]))} ...) do not lie at a step of a power of "
                "two of codes, so bits cannot address its segments; compile it with --cut-step"
            )
        offset = int(starts[0] % (1 << step)) if cuts.size else 0
        first, last = (inputs.minimum - offset) >> step, (inputs.maximum - offset) >> step
        begins = (np.arange(first, last + 1) << step) + offset
        return cls(step, offset, first, np.searchsorted(cuts, np.maximum(begins, inputs.minimum), side="left"))

    def text(self, name: str, q_bits: int, words: Sequence[str], target: str) -> tuple[list[str], list[str]]:
        """(lines that make the cell's number, the case that chooses among `words` by entry)."""
        if len(words) == 1:
            return [], [f"{target} = {words[0]};"]
        wide = q_bits + (self.offset > 0)
        bits = max(wide - self.step, 1)
        source = "in_data"
        lines = []
        if self.offset:
            lines = [
                signal(f"{name}_moved", wide),
                f"  assign {name}_moved = {extended('in_data', q_bits, wide)} - {literal(self.offset, wide)};",
            ]
            source = f"{name}_moved"
        lines += [signal(name, bits, False), f"  assign {name} = {source}[{wide - 1}:{self.step}];"]
        if self.offset and self.step:
            lines += [
                signal(f"{name}_unused", 1, False),
                f"  assign {name}_unused = &{{1'b0, {source}[{self.step - 1}:0]}};",
            ]
        cases = [f"case ({name})"]
        for i, entry in enumerate(self.entries):
            last = i == self.entries.size - 1
            label = "default" if last else f"{bits}'d{(self.first + i) & ((1 << bits) - 1)}"
            cases.append(f"  {label}: {target} = {words[entry]};")
        return lines, [*cases, "endcase"]


@dataclass(frozen=True)
class Shifts:
    """Slopes as words of `terms` fields {negative, present, places}, the first one lowest; places counts from `least`,
    in `places_bits` bits.
    """

    terms: int
    least: int
    places_bits: int

    @classmethod
    def of(cls, slopes: np.ndarray, key: str) -> Shifts:
        """Of all slopes of a unit. LutcError where one needs too many powers of two."""
        every = {int(k): powers(int(k)) for k in np.unique(slopes)}
        worst = max(every, key=lambda k: len(every[k]))
        if len(every[worst]) > MOST_TERMS:
            raise LutcError(
                f"a slope of '{key}' ({worst}) is a sum of {len(every[worst])} powers of two; without a multiplier a "
                f"unit takes {MOST_TERMS} at most: compile the table with --slopes pot or apot:2"
            )
        places = [place for terms in every.values() for place, _ in terms] or [0]
        return cls(max(1, len(every[worst])), min(places), max(1, (max(places) - min(places)).bit_length()))

    @property
    def field_bits(self) -> int:
        return 2 + self.places_bits

    @property
    def bits(self) -> int:
        return self.terms * self.field_bits

    def word(self, slope: int) -> str:
        value = 0
        for i, (place, negative) in enumerate(powers(slope)):
            field = (int(negative) << (self.places_bits + 1)) | (1 << self.places_bits) | (place - self.least)
            value |= field << (i * self.field_bits)
        return f"{self.bits}'h{value:x}"

    def text(self, slope: str, operand: str, operand_bits: int, bits: int) -> list[str]:
        """Lines that make `product`, of `bits` bits."""
        lines, terms = [], []
        for i in range(self.terms):
            low = i * self.field_bits
            lines += [
                signal(f"shifted_{i}", bits),
                signal(f"term_{i}", bits),
                f"  assign shifted_{i} = {extended(operand, operand_bits, bits)} <<< {self.least} "
                f"<<< {slope}[{low + self.places_bits - 1}:{low}];",
                f"  assign term_{i} = ~{slope}[{low + self.places_bits}] ? {literal(0, bits)} : "
                f"{slope}[{low + self.places_bits + 1}] ? -shifted_{i} : shifted_{i};",
            ]
            terms.append(f"term_{i}")
        return [*lines, signal("product", bits), f"  assign product = {' + '.join(terms)};"]


def powers(value: int) -> list[tuple[int, bool]]:
    """(place, negative) of the fewest signed powers of two that add up to the value: its non-adjacent form."""
    found, place = [], 0
    while value:
        if value & 1:
            digit = 2 - (value & 3)
            found.append((place, digit < 0))
            value -= digit
        value >>= 1
        place += 1
    return found

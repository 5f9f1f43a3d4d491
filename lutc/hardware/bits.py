"""What a table costs in hardware: bits stored, comparators, multiplier and accumulator widths. Counts, not gates or
nanoseconds.

The unit counted compares the input code with every breakpoint at once, picks one slope and one intercept, multiplies
and adds: acc = k (q - z) + t' (see `lutc.table.integer`). A direct table is addressed by the code and needs none of
these.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lutc import formats, hardware
from lutc.errors import LutcError
from lutc.formats.codes import Inputs
from lutc.formats.format import Format
from lutc.formats.numbers import Numbers, numbers
from lutc.formats.requantise import scaled_intercepts
from lutc.table.bodies import Direct, Lines
from lutc.table.integer import integer_lines
from lutc.table.prologues import AbsPrologue
from lutc.table.table import Table


@dataclass(frozen=True)
class Cost:
    """entries: segments, or values of a direct table. stored_bits: all memory. comparators: as many as breakpoints,
    each `comparator_bits` wide.

    multiplier: widths of its two operands in bits, slope and centred input. adder: width in which no coefficients of
    the format overflow. A unit that needs none of them has 0.
    """

    entries: int
    stored_bits: int
    comparators: int
    comparator_bits: int
    multiplier: tuple[int, int]
    adder: int

    @property
    def gate_figures(self) -> tuple[float, float, float]:
        """What gates are estimated by: partial products, of which two entries, the tails, need next to none; bits of
        slopes and intercepts; bits of the comparators.
        """
        compared = self.comparators * self.comparator_bits
        return self.multiplier_bits * (1.0 - 2.0 / self.entries), self.stored_bits - compared, compared

    @property
    def gates(self) -> float:
        """An estimate of the generic gates of a unit of constants; half of all are within 13 % of synthesis."""
        if not self.adder:
            return DIRECT_GATES * self.stored_bits
        return sum(weight * figure for weight, figure in zip(GATES, self.gate_figures))

    @property
    def multiplier_bits(self) -> int:
        """Partial products, one AND gate each: what a multiplier's area grows with."""
        return self.multiplier[0] * self.multiplier[1]


# what an exploration can minimise: name -> (what it is called, its figure)
FIGURES = {
    "bits": ("stored bits", lambda cost: cost.stored_bits),
    "comparators": ("comparators", lambda cost: cost.comparators),
    "multiplier": ("partial products of the multiplier", lambda cost: cost.multiplier_bits),
    "entries": ("entries", lambda cost: cost.entries),
    "gates": ("estimated gates", lambda cost: round(cost.gates)),
}
# Gates of a unit of constants with output codes, for each of `Cost.gate_figures`, and of a direct table for each bit:
# by least squares over units that Yosys synthesised (`python benchmarks/gates.py`)
GATES = (4.28, 0.525, 0.457)
DIRECT_GATES = 0.0679


def signed_bits(low: int, high: int) -> int:
    """Width of the two's complement numbers that hold low..high."""
    return 1 + max(int(high).bit_length(), (-int(low) - 1).bit_length() if low < 0 else 0)


def lines_cost(
    entries: int,
    fmt: Format,
    inputs: Inputs,
    half: bool = False,
    breakpoint_bits: int | None = None,
    chosen: tuple[Numbers, Numbers] | None = None,
    comparators: bool = True,
) -> Cost:
    """Cost of `entries` lines with fixed-point coefficients over codes.

    half: stored for |x|, an identity (one more addition) gives the other side. breakpoint_bits: by default those of a
    code, one less for |code|: a breakpoint between codes is stored as the code to its left. An intercept is stored in
    the coefficients' format where the scale is a power of two (t' = t << b is wiring), else as the wider t'. chosen:
    numbers of slopes and intercepts, where they are narrower than the format that holds them; a slope by shifts has a
    row of partial products for each of its powers of two. comparators: off, the top bits of a code address the
    segments, and no breakpoints are stored.
    """
    centred = signed_bits(inputs.minimum - inputs.zero_point, inputs.maximum - inputs.zero_point)
    if breakpoint_bits is None:
        breakpoint_bits = centred - 1 if half else inputs.bits
    shift = max(0, int(np.ceil(-np.log2(inputs.scale))))
    slope_bits, both, terms = fmt.bits, 2 * fmt.bits, 0
    if chosen is not None:
        slope_bits, both, terms = chosen[0].bits, chosen[0].bits + chosen[1].bits, chosen[0].terms
    compared, breakpoint_bits = (entries - 1, breakpoint_bits) if comparators else (0, 0)
    stored = entries * (both + (0 if inputs.power is not None else shift)) + compared * breakpoint_bits
    return Cost(entries, stored, compared, breakpoint_bits, (terms or slope_bits, centred), _adder(fmt, inputs, half))


def _adder(fmt: Format, inputs: Inputs, half: bool) -> int:
    """Width of every product, intercept and sum of any coefficients of the format; half: and of the identity, which
    adds x or 1.
    """
    low, high = inputs.minimum - inputs.zero_point, inputs.maximum - inputs.zero_point
    codes = (0, max(-low, high)) if half else (low, high)
    least, most = -(1 << (fmt.bits - 1)), (1 << (fmt.bits - 1)) - 1
    products = [k * q for k in (least, most) for q in codes]
    intercepts = [int(t) for t in scaled_intercepts([least, most], inputs)]
    sums = [min(products) + intercepts[0], max(products) + intercepts[1]]
    if half:
        added = [
            low << fmt.fraction_bits,
            max(high << fmt.fraction_bits, int(scaled_intercepts(1 << fmt.fraction_bits, inputs))),
        ]
        sums += [sign * total + x for sign in (1, -1) for total in sums for x in added]
    every = [*products, *intercepts, *sums]
    return signed_bits(min(every), max(every))


def uniform_cost(entries: int, fmt: Format, inputs: Inputs, half: bool, tails: int) -> Cost:
    """Cost of equal segments of a power of two of codes: the top bits of the code address them, comparators are needed
    for the tails alone.
    """
    searched = lines_cost(entries, fmt, inputs, half)
    stored = searched.stored_bits - (entries - 1) * searched.comparator_bits
    return Cost(entries, stored, tails, searched.comparator_bits if tails else 0, searched.multiplier, searched.adder)


def direct_cost(inputs: Inputs, value_bits: int) -> Cost:
    """Cost of one value per input code."""
    return Cost(1 << inputs.bits, value_bits << inputs.bits, 0, 0, (0, 0), 0)


def cost(table: Table, inputs: Inputs, meta: Mapping[str, Any] | None = None) -> Cost:
    """Cost of a table of lines, whole or stored by symmetry, or of a direct table, over codes of `inputs`. meta: of the
    table's set, which names slopes and intercepts that are narrower than the format that holds both, and a step of
    cuts. LutcError for other tables.
    """
    meta = meta or {}
    fmt = formats.get(table.coefficients)
    if isinstance(table.body, Direct):
        return direct_cost(inputs, fmt.bits)
    if not isinstance(table.body, Lines) or not isinstance(table.prologue, (AbsPrologue, type(None))):
        kind = f"{table.body.addressing} x {table.body.payload}" + (
            f" behind a prologue {table.prologue.kind}" if table.prologue else ""
        )
        raise LutcError(
            "hardware figures are for tables of lines over codes, whole or stored by symmetry, and direct ones; given "
            f"{kind}"
        )
    if not fmt.is_fixed:
        raise LutcError(f"hardware figures are for fixed-point coefficients (q1.6, ...); given {fmt.name}")
    chosen = None
    if "slopes" in meta and "intercepts" in meta:
        chosen = numbers(meta["slopes"], fmt), numbers(meta["intercepts"], fmt)
    stepped = meta.get("cut_step", 1) > 1
    return lines_cost(table.entries, fmt, inputs, table.prologue is not None, None, chosen, not stepped)


def accumulator_bits(table: Table, inputs: Inputs) -> int:
    """Width that holds every product, intercept and sum of a fixed-point table over all codes of `inputs`."""
    lines, q = integer_lines(table, inputs), inputs.codes()
    total = lines.accumulate(q)
    index = np.searchsorted(lines.cuts, q - inputs.zero_point, side="left")
    values = np.concatenate([total, lines.intercepts[index], total - lines.intercepts[index]])
    return signed_bits(int(values.min()), int(values.max()))


def together(costs: Iterable[Cost]) -> Cost:
    """Several tables in one unit, one in use at a time: memory adds up, comparators and multiplier are those of the
    largest.
    """
    costs = list(costs)
    return Cost(
        max(c.entries for c in costs),
        sum(c.stored_bits for c in costs),
        max(c.comparators for c in costs),
        max(c.comparator_bits for c in costs),
        max((c.multiplier for c in costs), key=lambda m: m[0] * m[1]),
        max(c.adder for c in costs),
    )


def shared_breakpoint_bits(interval: tuple[float, float], inputs: Sequence[Inputs], half: bool = False) -> int:
    """Breakpoints shared by scales are stored once, in steps of a quarter of the finest scale, and rounded to the scale
    in use.
    """
    step = min(i.scale for i in inputs) / 4
    lo, hi = (int(np.floor(interval[0] / step)), int(np.ceil(interval[1] / step)))
    return hardware.signed_bits(0, max(-lo, hi)) - 1 if half else hardware.signed_bits(lo, hi)

"""A unit for lines over codes: comparators in parallel, one multiplier, one adder, a requantiser.

Steps, each of which can end in a register: the segment with its slope and intercept; the product; the sum; the output
code. `latency` registers in all, the last behind the output.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lutc.errors import LutcError
from lutc.hardware.export.units import Unit
from lutc.hardware.rtl.requantiser import Requantiser
from lutc.hardware.rtl.spared import EvenCells, Shifts
from lutc.hardware.rtl.verilog import Pipeline, Ports, extended, literal, signal, width_of

LATENCIES = range(5)


# which of the four steps end in a register: the last one first, then those that take longest
REGISTERS = {0: "", 1: "d", 2: "ad", 3: "abd", 4: "abcd"}


def line_unit(
    name: str,
    units: Sequence[Unit],
    latency: int,
    loadable: bool = False,
    *,
    comparators: bool = True,
    multiplier: bool = True,
) -> LineUnit:
    """The unit of the module `name`. Several: one after another by `in_select`, which all codes carry. loadable: cuts,
    slopes and intercepts are registers, written as its `words` say. comparators, multiplier: see
    `lutc.hardware.rtl.spared`.
    """
    if latency not in LATENCIES:
        raise LutcError(f"a unit of lines has a latency of 0 to 4 cycles; given {latency}")
    shapes = {(unit.inputs.bits, None if unit.out is None else unit.out.bits) for unit in units}
    if len(shapes) > 1:
        raise LutcError("tables in one unit have inputs and outputs of the same width; export them one by one")
    if loadable:
        return LoadableUnit(name, list(units), latency)
    return LineUnit(name, list(units), latency, comparators, multiplier)


class LineUnit:
    """Widths of a unit's signals, its requantisers, and its SystemVerilog."""

    load = (0, 0)

    def __init__(self, name: str, units: list[Unit], latency: int, comparators: bool = True, multiplier: bool = True):
        self.name, self.units, self.latency, self.comparators = name, units, latency, comparators
        self.q_bits = units[0].inputs.bits
        self.select_bits = max(len(units) - 1, 0).bit_length()
        parts = [_signals(unit) for unit in units]
        self.centred_bits, self.slope_bits, self.intercept_bits, self.product_bits, self.acc_bits = (
            max(width_of(part[i]) for part in parts) for i in range(5)
        )
        self.shifts: Shifts | None = None
        if multiplier:
            self.product_bits = max(self.product_bits, self.slope_bits, self.centred_bits)
        else:
            self.shifts = Shifts.of(np.concatenate([part[1] for part in parts]), units[0].key)
            self.product_bits = max(self.product_bits, self.centred_bits)
            self.slope_bits = self.shifts.bits
        self.acc_bits = max(self.acc_bits, self.product_bits, self.intercept_bits)
        self.requantisers = [
            None if unit.out is None else Requantiser.least(unit.acc, *unit.requantiser, unit.out) for unit in units
        ]
        self.out_bits = self.acc_bits if units[0].out is None else units[0].out.bits

    def words(self) -> np.ndarray | None:
        """Address and data (entries, 2) of every register; None where numbers are constants."""
        return None

    def text(self) -> tuple[str, Ports]:
        """SystemVerilog and ports."""
        ports = Ports(self.q_bits, self.out_bits, self.latency, self.select_bits, self.load)
        pipe = Pipeline(self.latency)
        lines = [*self._centred(), *self._coefficients()]
        registers = REGISTERS[self.latency]

        def stage(step: str, names) -> None:
            if self.select_bits:
                source, target = f"select_{chr(ord(step) - 1)}" if step != "a" else "in_select", f"select_{step}"
                names = [*names, (source, target, self.select_bits, False)] if step in "abc" else names
            pipe.stage(step in registers, names)
            lines.extend(pipe.lines)
            pipe.lines.clear()

        slope, intercept = self.slope_bits, self.intercept_bits
        stage(
            "a",
            [
                ("slope", "slope_a", slope, True),
                ("intercept", "intercept_a", intercept, True),
                ("centred", "centred_a", self.centred_bits, True),
            ],
        )
        bits = self.product_bits
        if self.shifts is None:
            lines.append(signal("product", bits))
            factors = extended("slope_a", slope, bits), extended("centred_a", self.centred_bits, bits)
            lines.append(f"  assign product = {factors[0]} * {factors[1]};")
        else:
            lines += self.shifts.text("slope_a", "centred_a", self.centred_bits, bits)
        stage("b", [("product", "product_b", bits, True), ("intercept_a", "intercept_b", intercept, True)])
        lines.append(signal("acc", self.acc_bits))
        terms = extended("product_b", bits, self.acc_bits), extended("intercept_b", intercept, self.acc_bits)
        lines.append(f"  assign acc = {terms[0]} + {terms[1]};")
        stage("c", [("acc", "acc_c", self.acc_bits, True)])
        lines += self._codes()
        stage("d", [("code", "code_d", self.out_bits, True)])
        lines.append("  assign out_data = code_d;")
        return "\n".join([ports.text(self.name), *pipe.control(), *lines, "endmodule"]) + "\n", ports

    def _by_scale(self, name: str, choices: list[list[str]], select: str) -> list[str]:
        """A case of `select`, a body for each unit; the last one also for numbers that no unit has."""
        if len(choices) == 1:
            body = choices[0]
            if len(body) == 1:
                return [f"  assign {body[0]}"]
            return ["  always_comb begin", *(f"    {line}" for line in body), "  end"]
        lines = ["  always_comb begin", f"    case ({select})"]
        for i, body in enumerate(choices):
            label = "default" if i == len(choices) - 1 else f"{self.select_bits}'d{i}"
            lines += [f"      {label}: begin", *(f"        {line}" for line in body), "      end"]
        return [*lines, "    endcase", "  end"]

    def _centred(self) -> list[str]:
        """The input code less the zero point."""
        bits = self.centred_bits
        grown = extended("in_data", self.q_bits, bits)
        choices = [
            [f"centred = {grown}{f' - {literal(u.inputs.zero_point, bits)}' if u.inputs.zero_point else ''};"]
            for u in self.units
        ]
        if all(choice == choices[0] for choice in choices):
            choices = choices[:1]
        return [signal("centred", bits), *self._by_scale("centred", choices, "in_select")]

    def _coefficients(self) -> list[str]:
        """Slope and intercept by comparison of the code with all cuts at once, where the last cut below it decides, or
        by bits of the code.
        """
        lines = [signal("slope", self.slope_bits), signal("intercept", self.intercept_bits)]
        bodies = []
        for i, unit in enumerate(self.units):
            cuts, slopes, intercepts = trimmed(unit)
            words = [f"{{{self._slope(k)}, {literal(t, self.intercept_bits)}}}" for k, t in zip(slopes, intercepts)]
            if not self.comparators:
                name = f"place_{i}" if len(self.units) > 1 else "place"
                made, body = EvenCells.of(unit, cuts).text(name, self.q_bits, words, "{slope, intercept}")
                lines += made
                bodies.append(body)
                continue
            chosen = [f"{{slope, intercept}} = {word};" for word in words]
            body = [chosen[0]]
            body += [f"if (in_data > {literal(cut, self.q_bits)}) {text}" for cut, text in zip(cuts, chosen[1:])]
            bodies.append(body)
        return [*lines, *self._by_scale("line", bodies, "in_select")]

    def _slope(self, value: int) -> str:
        return literal(value, self.slope_bits) if self.shifts is None else self.shifts.word(int(value))

    def _codes(self) -> list[str]:
        if self.units[0].out is None:
            return [signal("code", self.out_bits), "  assign code = acc_c;"]
        alike = len(set(self.requantisers)) == 1
        if alike:
            return self.requantisers[0].text("acc_c", self.acc_bits, "code")
        lines = [signal("code", self.out_bits)]
        for i, requantiser in enumerate(self.requantisers):
            lines += requantiser.text("acc_c", self.acc_bits, f"code_{i}")
        choices = [[f"code = code_{i};"] for i in range(len(self.units))]
        return [*lines, *self._by_scale("code", choices, "select_c")]


class LoadableUnit(LineUnit):
    """Coefficients in registers, a word {cut, slope, intercept} for each entry, whose cut bounds it on the left. Widths
    hold any cut, slope and intercept as wide as those of the units, and any accumulator of them.
    """

    def __init__(self, name: str, units: list[Unit], latency: int):
        super().__init__(name, units, latency)
        self.slope_bits = max(unit.slope_bits for unit in units)
        self.intercept_bits = max(unit.intercept_bits + unit.intercept_shift for unit in units)
        self.product_bits = self.slope_bits + self.centred_bits
        self.acc_bits = max(self.product_bits, self.intercept_bits) + 1
        reach = (1 << (self.acc_bits - 1)) - 1
        self.requantisers = [
            None if unit.out is None else Requantiser.of(reach, *unit.requantiser, unit.out) for unit in units
        ]
        self.out_bits = self.acc_bits if units[0].out is None else units[0].out.bits
        self.index_bits = max((unit.slopes.size - 1).bit_length() for unit in units)
        self.load = (
            max(1, self.select_bits + self.index_bits),
            self.q_bits + self.slope_bits + self.intercept_bits,
        )

    def words(self) -> np.ndarray:
        found = []
        for at, unit in enumerate(self.units):
            cuts = np.append(unit.inputs.minimum, unit.cuts)  # the first entry has none
            for i, (cut, slope, intercept) in enumerate(
                zip(cuts, unit.slopes, unit.intercepts << unit.intercept_shift)
            ):
                word = 0
                for value, bits in ((cut, self.q_bits), (slope, self.slope_bits), (intercept, self.intercept_bits)):
                    word = (word << bits) | (int(value) & ((1 << bits) - 1))
                found.append(((at << self.index_bits) | i, word))
        return np.array(found, np.int64)

    def _coefficients(self) -> list[str]:
        address, data = self.load
        line, n = self.slope_bits + self.intercept_bits, max(unit.slopes.size for unit in self.units)
        lines = [
            f"  logic [{data - 1}:0] entries [0:{(len(self.units) << self.index_bits) - 1}];",
            "  always_ff @(posedge clk) if (load_valid) entries[load_address] <= load_data;",
            signal("slope", self.slope_bits),
            signal("intercept", self.intercept_bits),
            *(f"  logic [{data - 1}:0] entry_{i};" for i in range(n)),
        ]
        for i in range(n):
            index = [f"{self.index_bits}'d{i}"] if self.index_bits else []
            place = [*(["in_select"] if self.select_bits else []), *index]
            lines.append(
                f"  assign entry_{i} = entries[{{{', '.join(place)}}}];" if place else "  assign entry_0 = entries[0];"
            )
        lines.append("  assign {slope, intercept} =")
        lines += [
            f"    in_data > $signed(entry_{i}[{data - 1}:{line}]) ? entry_{i}[{line - 1}:0] :"
            for i in range(n - 1, 0, -1)
        ]
        lines.append(f"    entry_0[{line - 1}:0];")
        return [*lines, "  logic entry_unused;", f"  assign entry_unused = &{{1'b0, entry_0[{data - 1}:{line}]}};"]


def trimmed(unit: Unit) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cuts, slopes and whole intercepts without the entries that only fill a unit up to the size of others."""
    n = int((unit.cuts < unit.inputs.maximum).sum())
    return unit.cuts[:n], unit.slopes[: n + 1], unit.intercepts[: n + 1] << unit.intercept_shift


def _signals(unit: Unit) -> tuple[np.ndarray, ...]:
    """Values that centred code, slope, intercept, product and accumulator have over all codes."""
    cuts, slopes, intercepts = trimmed(unit)
    q = unit.inputs.codes()
    index = np.searchsorted(cuts, q, side="left")
    centred = q - unit.inputs.zero_point
    return centred, slopes, intercepts, slopes[index] * centred, unit.acc

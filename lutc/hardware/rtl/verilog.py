"""Pieces of SystemVerilog that generators share: literals, extension, signals, pipeline registers, the ports of a
stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lutc.hardware.bits import signed_bits


def literal(value: int, bits: int) -> str:
    """A signed constant of `bits` bits."""
    value = int(value)
    if value == -(1 << (bits - 1)):  # -8'sd128 has a magnitude that 8 signed bits do not hold
        return f"{bits}'sh{1 << (bits - 1):x}"
    return f"{bits}'sd{value}" if value >= 0 else f"-{bits}'sd{-value}"


def extended(name: str, bits: int, to: int) -> str:
    """A signed signal, sign-extended to `to` bits."""
    if to == bits:
        return name
    return f"$signed({{{{{to - bits}{{{name}[{bits - 1}]}}}}, {name}}})"


def width_of(*values) -> int:
    """Bits of two's complement that hold all numbers of the arrays."""
    return signed_bits(min(int(np.min(v)) for v in values), max(int(np.max(v)) for v in values))


def signal(name: str, bits: int, signed: bool = True) -> str:
    kind = "logic signed" if signed else "logic"
    return f"  {kind}{f' [{bits - 1}:0]' if bits > 1 or signed else ''} {name};"


@dataclass(frozen=True)
class Ports:
    """A stream: words in and out with valid and ready. Without registers there is no clock. `select` chooses among
    `scales` tables. `load`: bits of address and data of the port that writes coefficients; 0 without one.
    """

    in_bits: int
    out_bits: int
    latency: int
    select_bits: int = 0
    load: tuple[int, int] = (0, 0)
    last: bool = False

    @property
    def clocked(self) -> bool:
        return self.latency > 0 or self.load[0] > 0

    def named(self) -> list[tuple[str, str, int, bool]]:
        """(direction, name, bits, signed) of each port, in order."""
        ports = [("input", "clk", 1, False)] if self.clocked else []
        ports += [("input", "rst", 1, False)] if self.latency else []
        if self.load[0]:
            ports += [
                ("input", "load_valid", 1, False),
                ("input", "load_address", self.load[0], False),
                ("input", "load_data", self.load[1], False),
            ]
        ports += [("input", "in_valid", 1, False), ("output", "in_ready", 1, False)]
        ports += [("input", "in_select", self.select_bits, False)] if self.select_bits else []
        ports += [("input", "in_last", 1, False)] if self.last else []
        ports += [("input", "in_data", self.in_bits, True)]
        ports += [("output", "out_valid", 1, False), ("input", "out_ready", 1, False)]
        ports += [("output", "out_last", 1, False)] if self.last else []
        return [*ports, ("output", "out_data", self.out_bits, True)]

    def text(self, module: str) -> str:
        lines = [
            f"  {direction} logic{' signed' if signed else ''}{f' [{bits - 1}:0]' if bits > 1 or signed else ''} {name}"
            for direction, name, bits, signed in self.named()
        ]
        return f"module {module} (\n" + ",\n".join(lines) + "\n);"


class Pipeline:
    """Registers between the steps of a unit, all of which hold while an output waits for `out_ready`."""

    def __init__(self, latency: int):
        self.latency, self.lines, self.registers = latency, [], 0

    def stage(self, registered: bool, names: Sequence[tuple[str, str, int, bool]]) -> None:
        """(source, target, bits, signed) of each signal that passes."""
        self.lines += [signal(target, bits, signed) for _, target, bits, signed in names]
        if not registered:
            self.lines += [f"  assign {target} = {source};" for source, target, _, _ in names]
            return
        self.registers += 1
        moves = [f"    {target} <= {source};" for source, target, _, _ in names]
        self.lines += ["  always_ff @(posedge clk) if (advance) begin", *moves, "  end"]

    def control(self) -> list[str]:
        """The valid bits beside the registers."""
        n = self.latency
        if n == 0:
            return ["  assign in_ready = out_ready;", "  assign out_valid = in_valid;"]
        following = "in_valid" if n == 1 else f"{{valid[{n - 2}:0], in_valid}}"
        return [
            signal("valid", n, False),
            "  logic advance;",
            f"  assign out_valid = {'valid' if n == 1 else f'valid[{n - 1}]'};",
            "  assign advance = out_ready | ~out_valid;",
            "  assign in_ready = advance;",
            "  always_ff @(posedge clk)",
            f"    if (rst) valid <= {n}'d0;",
            f"    else if (advance) valid <= {following};",
        ]

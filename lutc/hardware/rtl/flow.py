"""A unit written down in steps: signals by name, each of them available under the register it passed last."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lutc.hardware.rtl.verilog import Pipeline, Ports, signal

Field = tuple[str, int, np.ndarray | Sequence[int]]  # name, bits, a value for each choice


class Flow:
    """Lines of a module in the order of the data. Signals are unsigned; `wire("y", 4, f"{flow('x')} + 4'd1")`."""

    def __init__(self, module: str, latency: int, rounding: str):
        self.module, self.rounding = module, rounding
        self.pipe = Pipeline(latency)
        self.bits: dict[str, int] = {}
        self.current: dict[str, str] = {}
        self.instances = 0

    def __call__(self, name: str) -> str:
        return self.current[name]

    def line(self, text: str) -> None:
        self.pipe.lines.append(f"  {text}")

    def declare(self, name: str, bits: int) -> None:
        self.bits[name], self.current[name] = bits, name
        self.pipe.lines.append(signal(name, bits, False))

    def wire(self, name: str, bits: int, value: str) -> None:
        self.declare(name, bits)
        self.line(f"assign {name} = {value};")

    def operate(self, operation: str, name: str, a: str, b: str) -> None:
        """name = a + b (`add`) or a * b (`mul`) in fp16."""
        self.declare(name, 16)
        self.instances += 1
        unit = f"lutc_fp16_{operation}_{self.rounding}"
        self.line(f"{unit} {operation}_{self.instances} (.a({a}), .b({b}), .result({name}));")

    def convert(self, conversion: str, name: str, a: str) -> None:
        """name = a in another format."""
        self.declare(name, 16)
        self.line(f"lutc_{conversion} {name}_converted (.a({a}), .result({name}));")

    def chosen(self, fields: Sequence[Field], conditions: Sequence[str]) -> None:
        """Fields (name, bits, values): the first value, or that of the last condition that holds."""
        for name, bits, _ in fields:
            self.declare(name, bits)
        names = ", ".join(name for name, _, _ in fields)
        words = [self._word(fields, i) for i in range(len(fields[0][2]))]
        cases = list(zip(conditions, words[1:]))[::-1]
        self.choice(f"{{{names}}}", cases, words[0])

    @staticmethod
    def _word(fields: Sequence[Field], at: int) -> str:
        return "{" + ", ".join(f"{bits}'h{int(values[at]):x}" for _, bits, values in fields) + "}"

    def choice(self, target: str, cases: Sequence[tuple[str, str]], otherwise: str) -> None:
        """target = the text of the first condition that holds. Icarus has no selects of bits in always_comb."""
        if not cases:
            self.line(f"assign {target} = {otherwise};")
            return
        self.line(f"assign {target} =")
        for condition, text in cases:
            self.line(f"  ({condition}) ? {text} :")
        self.line(f"  {otherwise};")

    def table(self, fields: Sequence[Field], address: str, bits: int, keys: Sequence[int] | np.ndarray) -> None:
        """Fields by address, a case: keys[i] is the address of the i-th values; others read the last."""
        for name, width, _ in fields:
            self.declare(name, width)
        names = ", ".join(name for name, _, _ in fields)
        if len(keys) == 1:
            self.line(f"assign {{{names}}} = {self._word(fields, 0)};")
            return
        self.line("always_comb begin")
        self.line(f"  case ({address})")
        for i, key in enumerate(keys):
            label = "default" if i == len(keys) - 1 else f"{bits}'h{int(key) & ((1 << bits) - 1):x}"
            self.line(f"    {label}: {{{names}}} = {self._word(fields, i)};")
        self.line("  endcase")
        self.line("end")

    def stage(self, step: str, registered: bool, live: Sequence[str]) -> None:
        """What goes on to the next step, through a register or not."""
        names = [(self(name), f"{name}_{step}", self.bits[name], False) for name in live if name in self.bits]
        self.pipe.stage(registered, names)
        self.current = {name: f"{name}_{step}" for name in live if name in self.bits}

    def text(self, ports: Ports, output: str) -> str:
        lines = [ports.text(self.module), *self.pipe.control(), *self.pipe.lines]
        return "\n".join([*lines, f"  assign out_data = {output};", "endmodule"]) + "\n"


def integer_to_half(flow: Flow, source: str, bits: int, target: str) -> None:
    """target: the 15 bits of magnitude of an unsigned integer, rounded to nearest even; infinity beyond."""

    def case(p: int) -> str:
        if p > 15:
            return "15'h7c00"
        field = f"5'd{15 + p}"
        if p == 0:
            return f"{{{field}, 10'd0}}"
        if p <= 10:
            low = f", {10 - p}'d0" if p < 10 else ""
            return f"{{{field}, {source}[{p - 1}:0]{low}}}"
        guard, below = f"{source}[{p - 11}]", f"(|{source}[{p - 12}:0])" if p > 11 else "1'b0"
        return f"({{{field}, {source}[{p - 1}:{p - 10}]}} + {{14'd0, {guard} & ({below} | {source}[{p - 10}])}})"

    flow.declare(target, 15)
    flow.choice(target, [(f"{source}[{p}]", case(p)) for p in reversed(range(bits))], "15'd0")


def ordered(bits: np.ndarray) -> np.ndarray:
    """Unsigned keys of fp16 bits that ascend with the values; -0 comes before 0."""
    bits = np.asarray(bits, np.int64)
    return np.where(bits & 0x8000, ~bits & 0xFFFF, bits | 0x8000)

"""Pieces of VHDL that the unit and its bench share."""

from __future__ import annotations

import re
from collections.abc import Sequence

from lutc.hardware.rtl.verilog import Ports


def vhdl_name(name: str) -> str:
    """VHDL's identifiers have no two underscores in a row and none at the end."""
    return re.sub("_+", "_", name).strip("_")


def constant(value: int, bits: int) -> str:
    """A signed constant; integers of VHDL have 32 bits, so that wide ones are written bit by bit."""
    value = int(value)
    if bits <= 31:
        return f"to_signed({value}, {bits})"
    return f'signed\'("{value & ((1 << bits) - 1):0{bits}b}")'


def kind(bits: int, signed: bool) -> str:
    return f"{'signed' if signed else 'std_logic_vector'}({bits - 1} downto 0)"


def signal(name: str, bits: int, signed: bool = True) -> str:
    return f"  signal {name} : {kind(bits, signed)};"


def port_kind(name: str, bits: int) -> str:
    """Valid, ready and clock are single; words are vectors, even of one bit."""
    return "std_logic" if name in ("clk", "rst") or name.endswith(("_valid", "_ready")) else kind(bits, False)


def entity(name: str, ports: Ports) -> str:
    lines = [
        f"    {port} : {'in' if direction == 'input' else 'out'} {port_kind(port, bits)}"
        for direction, port, bits, _ in ports.named()
    ]
    return f"entity {name} is\n  port (\n" + ";\n".join(lines) + f"\n  );\nend entity {name};"


LIBRARIES = "library ieee;\nuse ieee.std_logic_1164.all;\nuse ieee.numeric_std.all;\n"


def clocked(body: Sequence[str], when: str = "") -> list[str]:
    """A process at the rising edge."""
    inner = [f"      {line}" for line in body]
    if when:
        inner = [f"      if {when} then", *(f"  {line}" for line in inner), "      end if;"]
    return ["  process (clk) begin", "    if rising_edge(clk) then", *inner, "    end if;", "  end process;"]

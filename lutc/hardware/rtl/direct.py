"""A unit for a direct table: one output code for each input code, left to logic synthesis, or a memory from a file."""

from __future__ import annotations

import numpy as np

from lutc.errors import LutcError
from lutc.hardware.export.text import hex_words
from lutc.hardware.rtl.verilog import Pipeline, Ports, signal

LARGEST_CASE = 10  # bits of input up to which the table is a case statement: any tool makes logic or a memory of it


def module(name: str, values: np.ndarray, in_bits: int, out_bits: int, latency: int) -> tuple[str, Ports, np.ndarray]:
    """SystemVerilog, ports and the words by the bits of the code. values: (2^in_bits,) by input code ascending."""
    if latency not in (0, 1, 2):
        raise LutcError(f"a unit of a direct table has a latency of 0 to 2 cycles; given {latency}")
    words = np.roll(values, values.size // 2)
    ports, pipe = Ports(in_bits, out_bits, latency), Pipeline(latency)
    pipe.stage(latency == 2, [("in_data", "address", in_bits, False)])
    digits = (in_bits + 3) // 4
    if in_bits <= LARGEST_CASE:
        table = [signal("value", out_bits), "  always_comb begin", "    case (address)"]
        texts = hex_words(words, out_bits)
        for at, word in enumerate(texts):
            label = "default" if at == len(texts) - 1 else f"{in_bits}'h{at:0{digits}x}"
            table.append(f"      {label}: value = {out_bits}'sh{word};")
        table += ["    endcase", "  end"]
    else:
        table = [
            f"  logic signed [{out_bits - 1}:0] words [0:{words.size - 1}];",
            f'  initial $readmemh("{name}_words.memh", words);',
            signal("value", out_bits),
            "  assign value = words[address];",
        ]
    pipe.lines += table
    pipe.stage(latency > 0, [("value", "value_out", out_bits, True)])
    lines = [ports.text(name), *pipe.control(), *pipe.lines, "  assign out_data = value_out;", "endmodule"]
    return "\n".join(lines) + "\n", ports, words

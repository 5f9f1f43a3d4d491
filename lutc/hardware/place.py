"""How fast a unit runs on an iCE40 once Yosys has synthesised and nextpnr placed and routed it.

Every input of the unit comes from a register and every output goes into one, which a chain of registers fills and
empties, so that pins neither run out nor count: the frequency is that of paths between registers, for a combinational
unit that of the whole unit.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

from lutc.errors import LutcError
from lutc.hardware import tools
from lutc.hardware.rtl.verilog import Ports

# target of `lutc.hardware.synth` -> (options of Yosys, device of nextpnr): HX8K and UP5K
DEVICES = {
    "ice40": ("", ["--hx8k", "--package", "ct256"]),
    "ice40up": ("-device u -dsp ", ["--up5k", "--package", "sg48"]),
}
_WANTED_MHZ = 200  # what nextpnr works towards


def frequency(sources: Mapping[str, str], module: str, ports: Ports, target: str) -> float | None:
    """MHz of `module` for `target`, one of DEVICES; None where the device has too few cells. sources: texts by file
    name, of SystemVerilog and of the memories that it reads.
    """
    tools.need("yosys")
    tools.need("nextpnr-ice40")
    options, device = DEVICES[target]
    with tempfile.TemporaryDirectory(prefix="lutc-") as temporary:
        work = Path(temporary)
        for name, text in {**sources, "lutc_timed.sv": _between_registers(module, ports)}.items():
            (work / name).write_text(text, encoding="utf-8")
        read = " ".join(name for name in [*sources, "lutc_timed.sv"] if name.endswith(".sv"))
        made = f"synth_ice40 {options}-top lutc_timed -json timed.json"
        tools.run(["yosys", "-q", "-p", f"read_verilog -sv {read}; {made}"], work)
        settings = ["--freq", str(_WANTED_MHZ), "--timing-allow-fail", "--pcf-allow-unconstrained", "--seed", "1"]
        command = ["nextpnr-ice40", "-q", *device, *settings, "--json", "timed.json", "--report", "report.json"]
        try:
            tools.run(command, work)
        except LutcError as error:
            if "bels remaining" in str(error).lower():
                return None
            raise
        clocks = json.loads((work / "report.json").read_text())["fmax"]
    (clock,) = clocks.values()
    return float(clock["achieved"])


def _between_registers(module: str, ports: Ports) -> str:
    connected, bits = [], {"input": 0, "output": 0}
    for direction, name, width, _ in ports.named():
        if name in ("clk", "rst"):
            connected.append(f".{name}({name})")
            continue
        low, source = bits[direction], {"input": "given", "output": "answer"}[direction]
        bits[direction] += width
        connected.append(f".{name}({source}[{low + width - 1}:{low}])")
    settings = {"given": bits["input"] - 1, "answer": bits["output"] - 1, "module": module}
    return _TIMED % {**settings, "connections": ", ".join(connected)}


_TIMED = """\
module lutc_timed (
  input logic clk,
  input logic rst,
  input logic serial_in,
  input logic load,
  output logic serial_out
);
  logic [%(given)d:0] given;
  logic [%(answer)d:0] answer;
  logic [%(answer)d:0] taken;
  logic [%(answer)d:0] leaving;
  always_ff @(posedge clk) begin
    given <= {given[%(given)d - 1:0], serial_in};
    taken <= answer;
    leaving <= load ? taken : {leaving[%(answer)d - 1:0], 1'b0};
  end
  assign serial_out = leaving[%(answer)d];
  %(module)s dut (%(connections)s);
endmodule
"""

"""What the units of a hand-over (`lutc.hardware.handover`) take, by Yosys: cells for ice40 (without and with
multipliers), xc7 and plain gates; and how fast they run on an ice40, where nextpnr is installed.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from lutc.errors import LutcError
from lutc.hardware import handover, place, tools
from lutc.hardware.rtl.verilog import Ports

# target -> Yosys' commands behind reading; the last one leaves a netlist of its cells
TARGETS = {
    "ice40": "synth_ice40 -top {top}; flatten; opt_clean",
    "ice40up": "synth_ice40 -device u -dsp -top {top}; flatten; opt_clean",
    "xc7": "synth_xilinx -family xc7 -noiopad -top {top}; flatten; opt_clean",
    "gates": "synth -flatten -top {top}; abc -g AND,OR,XOR,MUX,NAND,NOR,XNOR; opt_clean",
}
# kinds of cells that are counted apart, by the names that begin them
_KINDS = {
    "luts": ("SB_LUT4", "LUT"),
    "carries": ("SB_CARRY", "CARRY4"),
    "flip_flops": ("SB_DFF", "FD", "$_DFF", "$_SDFF"),
    "dsps": ("SB_MAC16", "DSP48"),
    "memories": ("SB_RAM40", "RAMB", "RAM64", "RAM32"),
    "gates": ("$_AND_", "$_OR_", "$_XOR_", "$_MUX_", "$_NAND_", "$_NOR_", "$_XNOR_", "$_NOT_", "$_ANDNOT_", "$_ORNOT_"),
}


@dataclass(frozen=True)
class CellCounts:
    """Cells of one module for one target. depth: cells on the longest path between registers or ports. mhz: of the
    placed unit (`lutc.hardware.place`), where that was done.
    """

    module: str
    target: str
    luts: int
    carries: int
    flip_flops: int
    dsps: int
    memories: int
    gates: int
    depth: int
    mhz: float | None = None


def synthesise(folder: Path, targets: tuple[str, ...] = tuple(TARGETS)) -> list[CellCounts]:
    """Every module of the folder for every target; for an ice40 its frequency too, where nextpnr is installed and the
    device has the cells. LutcError where Yosys is missing or fails, or the folder holds no SystemVerilog.
    """
    manifest = handover.read(folder)
    if manifest["format"] != "sv":
        raise LutcError(f"synthesis reads SystemVerilog; {folder} holds {manifest['format']}")
    unknown = [target for target in targets if target not in TARGETS]
    if unknown:
        raise LutcError(f"unknown target {unknown[0]!r}; choose one of {', '.join(TARGETS)}")
    tools.need("yosys")
    sources = {name: (folder / name).read_text(encoding="utf-8") for name in manifest["sources"]}
    ports = {stream.module: stream.ports for stream in handover.again(folder, manifest).streams}
    return [_placed(cells(sources, module, target), sources, ports[module]) for module in ports for target in targets]


def _placed(found: CellCounts, sources: Mapping[str, str], ports: Ports) -> CellCounts:
    if found.target not in place.DEVICES or not tools.installed("nextpnr-ice40"):
        return found
    return replace(found, mhz=place.frequency(sources, found.module, ports, found.target))


def cells(sources: Mapping[str, str], module: str, target: str) -> CellCounts:
    """What `module` takes; sources: texts by file name, of SystemVerilog and of the memories that it reads."""
    tools.need("yosys")
    with tempfile.TemporaryDirectory(prefix="lutc-") as temporary:
        for name, text in sources.items():
            (Path(temporary) / name).write_text(text, encoding="utf-8")
        read = " ".join(name for name in sources if name.endswith(".sv"))
        return _cells(Path(temporary), read, module, target)


def _cells(work: Path, sources: str, module: str, target: str) -> CellCounts:
    script = f"read_verilog -sv {sources}; {TARGETS[target].format(top=module)}; tee -o stat.json stat -json; ltp -noff"
    said = tools.run(["yosys", "-p", script], work)
    data = json.loads((work / "stat.json").read_text())
    (found,) = data["modules"].values()
    counts = dict.fromkeys(_KINDS, 0)
    for cell, number in found["num_cells_by_type"].items():
        for kind, names in _KINDS.items():
            if cell.startswith(names):
                counts[kind] += int(number)
                break
    depth = re.findall(r"Longest topological path in \S+ \(length=(\d+)\)", said)
    return CellCounts(module, target, **counts, depth=int(depth[-1]) if depth else 0)

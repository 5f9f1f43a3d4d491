"""A table as files that other tools take: one module for each format, and the registry of them.

A format is a function of a name and the units (`lutc.hardware.export.units`) that gives texts by file name. A new one
is a file here and a line in FORMATS.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lutc.errors import LutcError
from lutc.hardware.export import c, gqa_lut, lut256, lut513, memory, nn_lut, tabular
from lutc.hardware.export.text import identifier
from lutc.hardware.export.units import Unit, units

__all__ = ["FORMATS", "LUT513", "TABLE_FORMATS", "lut513", "Unit", "render", "units"]

# name -> (what it is, its files' texts)
FORMATS: dict[str, tuple[str, Callable[[str, Sequence[Unit]], dict[str, str]]]] = {
    "memh": ("hex words for $readmemh", memory.renderer(memory.memh, "memh")),
    "coe": ("the same for Vivado's block memories", memory.renderer(memory.coe, "coe")),
    "mif": ("the same for Quartus", memory.renderer(memory.mif, "mif")),
    "ihex": ("the same as Intel HEX", memory.renderer(memory.intel_hex, "hex")),
    "c": ("a C header", c.render),
    "csv": ("CSV", tabular.render),
    "lut256": ("256 output codes for TOSA, LiteRT, XNNPACK", lut256.render),
}

# The same for formats that take tables as they are, of floats too: name -> (what it is, function of name, tables, keys)
TABLE_FORMATS: dict[str, tuple[str, Callable[..., dict[str, str]]]] = {
    "gqa-lut": ("the JSON of GQA-LUT's runtime", gqa_lut.render),
    "nn-lut": ("the JSON of NN-LUT, a file for each table", nn_lut.render),
}
LUT513 = "513 int16 knots for LiteRT and TOSA, fitted"


def render(name: str, exported: Sequence[Unit], kind: str) -> dict[str, str]:
    """Texts by file name. name: begins the files' names, and those of what is in them."""
    if kind not in FORMATS:
        raise LutcError(f"unknown format {kind!r} to export; choose one of {', '.join(FORMATS)}")
    check_keys(exported)
    return FORMATS[kind][1](unit_name(name), exported)


def unit_name(name: str) -> str:
    """An identifier of C, Verilog and VHDL."""
    return identifier(name if name[:1].isalpha() else f"table_{name}")


def check_keys(exported: Sequence[Unit]) -> None:
    """LutcError where keys become one identifier."""
    if len({identifier(unit.key) for unit in exported}) < len(exported):
        raise LutcError(
            f"the names of two tables differ in signs alone ({', '.join(unit.key for unit in exported)}); export them "
            "one by one (--key)"
        )

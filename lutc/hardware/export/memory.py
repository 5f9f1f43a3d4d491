"""The numbers of units as images of memories: hex words for $readmemh, Xilinx .coe, Intel (Altera) .mif, Intel HEX.

Golden words stand at the address that the bits of the input code make.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from lutc.hardware.export.tabular import parameters
from lutc.hardware.export.text import hex_words, identifier
from lutc.hardware.export.units import Unit

Image = Callable[[np.ndarray, int, str], str]


def memh(values: np.ndarray, bits: int, meaning: str) -> str:
    head = f"// {values.size} words of {bits} bits, two's complement: {meaning}\n"
    return head + "".join(f"{word}\n" for word in hex_words(values, bits))


def coe(values: np.ndarray, bits: int, meaning: str) -> str:
    """Vivado's block memory generator: radix, then all words, commas between, a semicolon behind."""
    words = ",\n".join(hex_words(values, bits))
    return f"; {values.size} words of {bits} bits, two's complement: {meaning}\nmemory_initialization_radix=16;\n" + (
        f"memory_initialization_vector=\n{words};\n"
    )


def mif(values: np.ndarray, bits: int, meaning: str) -> str:
    """Quartus: depth and width, then address : word."""
    words = "".join(f"{at:x} : {word};\n" for at, word in enumerate(hex_words(values, bits)))
    return (
        f"-- {meaning}, two's complement\nDEPTH = {values.size};\nWIDTH = {bits};\nADDRESS_RADIX = HEX;\n"
        f"DATA_RADIX = HEX;\nCONTENT\nBEGIN\n{words}END;\n"
    )


def intel_hex(values: np.ndarray, bits: int, meaning: str) -> str:
    """Records of 16 bytes; a word takes whole bytes, the lowest first, sign-extended. Beyond 64 KiB an upper address
    precedes.
    """
    size = (bits + 7) // 8
    data = b"".join((int(value) & ((1 << 8 * size) - 1)).to_bytes(size, "little") for value in values)
    lines = []
    for at in range(0, len(data), 16):
        if at and at % 0x10000 == 0:
            lines.append(_record(4, 0, (at >> 16).to_bytes(2, "big")))
        lines.append(_record(0, at & 0xFFFF, data[at : at + 16]))
    return "\n".join([*lines, _record(1, 0, b"")]) + "\n"


def _record(kind: int, address: int, data: bytes) -> str:
    body = bytes([len(data), address >> 8, address & 0xFF, kind]) + data
    return ":" + (body + bytes([-sum(body) & 0xFF])).hex().upper()


def renderer(image: Image, suffix: str) -> Callable[[str, Sequence[Unit]], dict[str, str]]:
    """Writes cuts, slopes, intercepts and golden vectors of each unit as images."""

    def render(name: str, exported: Sequence[Unit]) -> dict[str, str]:
        files = parameters(name, exported)
        for unit in exported:
            for part, values in _parts(unit).items():
                if values[0].size:
                    files[f"{name}_{identifier(unit.key)}_{part}.{suffix}"] = image(*values)
        return files

    return render


def _parts(unit: Unit) -> dict[str, tuple[np.ndarray, int, str]]:
    half = unit.acc.size // 2
    parts = {
        "cuts": (unit.cuts, unit.inputs.bits, "the segment of q is the number of cuts < q"),
        "slopes": (unit.slopes, unit.slope_bits, f"{unit.fraction_bits} fraction bits"),
        "intercepts": (unit.intercepts, unit.intercept_bits, f"to be shifted left by {unit.intercept_shift}"),
        "acc": (np.roll(unit.acc, half), unit.acc_bits, "golden accumulators by the bits of q"),
    }
    if unit.out:
        parts["codes"] = (np.roll(unit.codes, half), unit.out.bits, "golden output codes by the bits of q")
    return parts

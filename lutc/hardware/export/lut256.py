"""256 output codes of an 8-bit unit, as runtimes with a table of bytes take them.

By code ascending, from -128: TOSA's TABLE, LiteRT's (TensorFlow Lite's) int8 kernels, which add 128 to the code. By the
bits of the code, from 0: XNNPACK's x8-lut and loops that index by an unsigned byte. Either is the other one rotated.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from lutc.errors import LutcError
from lutc.formats.codes import Inputs
from lutc.hardware.export.text import c_array, identifier
from lutc.hardware.export.units import Unit


def render(name: str, exported: Sequence[Unit]) -> dict[str, str]:
    """NAME_KEY_lut256.h, both orders, and NAME_KEY_tosa.json, the operator's attribute."""
    files = {}
    for unit in exported:
        if unit.out is None:
            raise LutcError("a table of 256 codes needs an output scale; give --out-scale")
        if unit.inputs.bits != 8 or unit.out.bits != 8:
            raise LutcError(
                f"a table of 256 codes takes 8 bits to 8 bits; '{unit.key}' has {unit.inputs.bits} and {unit.out.bits}"
            )
        prefix = f"{name}_{identifier(unit.key)}"
        said = (
            f"/* {prefix}: input scale {unit.inputs.scale!r}, zero point {unit.inputs.zero_point}; output scale "
            f"{unit.out.scale!r}, zero point {unit.out.zero_point}, {unit.out.rounding} */"
        )
        ascending, by_bits = unit.codes, np.roll(unit.codes, 128)
        files[f"{prefix}_lut256.h"] = "\n".join(
            [
                said,
                f"#ifndef {prefix.upper()}_LUT256_H",
                f"#define {prefix.upper()}_LUT256_H",
                "#include <stdint.h>",
                "/* out = ascending[q + 128] */",
                c_array(f"{prefix}_ascending", ascending, 8),
                "/* out = by_bits[(uint8_t)q] */",
                c_array(f"{prefix}_by_bits", by_bits, 8),
                "#endif",
                "",
            ]
        )
        files[f"{prefix}_tosa.json"] = json.dumps(tosa(unit.inputs, unit.out, ascending)) + "\n"
    return files


def tosa(inputs: Inputs, out: Inputs, values: np.ndarray) -> dict:
    """Of TOSA's TABLE operator: type, scales, the attribute `table`."""
    return {
        "op": "TABLE",
        "type": f"int{inputs.bits}",
        "input": {"scale": inputs.scale, "zero_point": inputs.zero_point},
        "output": {"scale": out.scale, "zero_point": out.zero_point},
        "table": [int(value) for value in values],
    }

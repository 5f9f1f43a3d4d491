"""A C99 header: arrays, functions, golden vectors."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from lutc.formats.codes import HALF_AWAY, HALF_EVEN, HALF_UP
from lutc.hardware.export.text import c_array, identifier
from lutc.hardware.export.units import Unit


def render(name: str, exported: Sequence[Unit]) -> dict[str, str]:
    return {f"{name}.h": _header(name, exported)}


def _header(name: str, exported: Sequence[Unit]) -> str:
    guard = f"{name.upper()}_H"
    parts = [
        f"/* {name}: tables of lines, exported by lutc. Define {name.upper()}_GOLDEN for the golden vectors, by input "
        "code ascending. */"
    ]
    parts += [f"#ifndef {guard}\n#define {guard}\n#include <stdint.h>"]
    return (
        "\n\n".join(
            [
                *parts,
                *(_unit(name, f"{name}_{identifier(unit.key)}", unit) for unit in exported),
                f"#endif /* {guard} */",
            ]
        )
        + "\n"
    )


def _unit(name: str, prefix: str, unit: Unit) -> str:
    inputs = unit.inputs
    said = ", ".join(
        f"{key} {identifier(value) if key == 'key' else value}" for key, value in unit.parameters().items()
    )
    text = ["\n   ".join(textwrap.wrap(f"/* {said} */", 120))]
    text += [
        c_array(f"{prefix}_{part}", values, bits)
        for part, values, bits in (
            ("cuts", unit.cuts, inputs.bits),
            ("slopes", unit.slopes, unit.slope_bits),
            ("intercepts", unit.intercepts, unit.intercept_bits),
        )
        if values.size
    ]
    count = f"    for (int n = 0; n < {unit.cuts.size}; ++n) i += {prefix}_cuts[n] < q;\n" if unit.cuts.size else ""
    text.append(
        f"static inline int32_t {prefix}_acc(int32_t q) {{\n    int i = 0;\n{count}"
        f"    return {prefix}_slopes[i] * (q - ({inputs.zero_point})) + {prefix}_intercepts[i] * "
        f"INT32_C({1 << unit.intercept_shift});\n}}"
    )
    golden = [c_array(f"{prefix}_golden_acc", unit.acc, 32)]
    if unit.out:
        m, s = unit.requantiser
        product = f"{prefix}_acc(q) * INT64_C({m << max(-s, 0)})"
        half = {
            HALF_UP: f"(INT64_C(1) << {s - 1})",
            HALF_AWAY: f"(INT64_C(1) << {s - 1}) - (product < 0)",
            HALF_EVEN: f"(INT64_C(1) << {s - 1}) - 1 + ((product >> {s}) & 1)",
        }[unit.out.rounding]
        rounded = "0" if s > 62 else f"(product + {half}) >> {s}" if s > 0 else "product"
        held = "" if s > 62 else f"    int64_t product = {product};\n"
        text.append(
            f"static inline int32_t {prefix}(int32_t q) {{\n{held}"
            f"    int64_t code = ({rounded}) + ({unit.out.zero_point});\n"
            f"    return code < {unit.out.minimum} ? {unit.out.minimum} : code > {unit.out.maximum} ? "
            f"{unit.out.maximum} : (int32_t)code;\n}}"
        )
        golden.append(c_array(f"{prefix}_golden", unit.codes, unit.out.bits))
    return "\n".join([*text, f"#ifdef {name.upper()}_GOLDEN", *golden, "#endif"])

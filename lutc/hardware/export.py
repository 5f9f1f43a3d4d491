"""A table as files that a hardware flow takes: its integers and golden vectors as a C header, CSV, or hex words for
$readmemh.

Each key is a unit of its own, with the same number of entries. The rule that it follows stands in docs/hardware.md: acc
= slopes[i] * (q - zero_point) + (intercepts[i] << intercept_shift), i the number of cuts < q; code = requantised acc,
saturated.
"""

from __future__ import annotations

import csv
import io
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lutc import formats
from lutc.errors import LutcError
from lutc.formats.codes import Inputs
from lutc.formats.requantise import requantiser
from lutc.hardware.bits import accumulator_bits, signed_bits
from lutc.table.integer import integer_lines
from lutc.table.table_set import TableSet

RENDERERS = ("memh", "c", "csv")


@dataclass(frozen=True, eq=False)
class Unit:
    """cuts: (n - 1,) input codes, ascending. slopes, intercepts: (n,). All int64; segments that no code reaches are
    left out, and the last one is repeated behind cuts at the largest code, beyond which lies none, until there are n
    entries.

    acc_bits: width that holds every product, intercept and sum. acc: (2^bits,) of every input code, ascending; codes:
    the output codes, with `out`. requantiser: multiplier and shift to them.
    """

    key: str
    inputs: Inputs
    cuts: np.ndarray
    slopes: np.ndarray
    intercepts: np.ndarray
    slope_bits: int
    intercept_bits: int
    acc_bits: int
    fraction_bits: int
    intercept_shift: int
    acc: np.ndarray
    out: Inputs | None
    requantiser: tuple[int, int] | None
    codes: np.ndarray | None

    def parameters(self) -> dict:
        """Every number of the unit but its arrays."""
        own = {
            "key": self.key,
            "input_bits": self.inputs.bits,
            "input_scale": self.inputs.scale,
            "input_zero_point": self.inputs.zero_point,
            "entries": self.slopes.size,
            **{
                name: getattr(self, name)
                for name in ("slope_bits", "intercept_bits", "acc_bits", "fraction_bits", "intercept_shift")
            },
        }
        if self.out is None:
            return own
        multiplier, shift = self.requantiser
        out = {"output_bits": self.out.bits, "output_scale": self.out.scale, "output_zero_point": self.out.zero_point}
        return {**own, **out, "multiplier": multiplier, "shift": shift}


def units(tables: TableSet, keys: Sequence[str] | None = None, out: Inputs | None = None) -> list[Unit]:
    """The units of a set's tables, of `keys` if given. out: the output codes, by default those that the file names.

    LutcError for tables of float inputs, and for those that integer arithmetic cannot hold.
    """
    keys = list(dict.fromkeys(map(str, tables if keys is None else keys)))
    if out is None and "output" in tables.meta:
        out = Inputs(**tables.meta["output"])
    floats = [key for key in keys if tables[key] is not None and key not in tables.inputs]
    if floats:
        raise LutcError(
            f"integer units take tables over input codes; '{floats[0]}' of '{tables.name}' is one of float inputs"
        )
    reached = {key: _reached(tables, key) for key in keys}
    entries = max(slopes.size for _, slopes, _ in reached.values())
    return [_unit(tables, key, *reached[key], entries, out) for key in keys]


def _reached(tables: TableSet, key: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cuts, slopes and scaled intercepts of the segments that some code reaches; a cut is the last
    code of its segment.
    """
    inputs = tables.inputs[key]
    lines, q = integer_lines(tables[key], inputs), inputs.codes()
    segment = np.searchsorted(lines.cuts, q - inputs.zero_point, side="left")
    used, first = np.unique(segment, return_index=True)
    return q[first[1:] - 1], lines.slopes[used], lines.intercepts[used]


def _unit(tables: TableSet, key: str, cuts, slopes, intercepts, entries: int, out: Inputs | None) -> Unit:
    inputs, fmt = tables.inputs[key], formats.get(tables[key].coefficients)
    lines, q, spare = integer_lines(tables[key], inputs), inputs.codes(), entries - slopes.size
    shift = (
        max(0, inputs.power or 0) if intercepts.any() else 0
    )  # t' = t << b at a scale 2^-b; at others t' is stored as it is
    cuts = np.append(cuts, np.full(spare, inputs.maximum))
    slopes, intercepts = (np.append(values, np.repeat(values[-1], spare)) for values in (slopes, intercepts >> shift))
    acc_bits = accumulator_bits(tables[key], inputs)
    widths = [max(fmt.bits, signed_bits(int(v.min()), int(v.max()))) for v in (slopes, intercepts)]
    to_codes = None if out is None else requantiser(lines.unit / out.scale)
    codes = None if out is None else lines(q, out)
    return Unit(
        key,
        inputs,
        cuts,
        slopes,
        intercepts,
        *widths,
        acc_bits,
        fmt.fraction_bits,
        shift,
        lines.accumulate(q),
        out,
        to_codes,
        codes,
    )


def render(name: str, exported: Sequence[Unit], kind: str) -> dict[str, str]:
    """Texts by file name. kind: "c" gives NAME.h; "csv" and "memh" give NAME.csv, a row of parameters for each unit,
    and a few files for each.
    """
    if kind not in RENDERERS:
        raise LutcError(f"unknown format {kind!r} to export; choose one of {', '.join(RENDERERS)}")
    name = _identifier(name if name[:1].isalpha() else f"table_{name}")
    if len({_identifier(unit.key) for unit in exported}) < len(exported):
        raise LutcError(
            f"the names of two tables differ in signs alone ({', '.join(unit.key for unit in exported)}); export them "
            "one by one (--key)"
        )
    if kind == "c":
        return {f"{name}.h": _c_header(name, exported)}
    files = {
        f"{name}.csv": _csv([list(exported[0].parameters()), *(list(unit.parameters().values()) for unit in exported)])
    }
    for unit in exported:
        files |= (_csv_files if kind == "csv" else _memh_files)(f"{name}_{_identifier(unit.key)}", unit)
    return files


def _identifier(text: str) -> str:
    """Letters, digits and underscores, as C and Verilog take them in the middle of a name."""
    return re.sub(r"\W", "_", text, flags=re.ASCII)


def _csv(rows) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _csv_files(name: str, unit: Unit) -> dict[str, str]:
    lines = zip(range(unit.slopes.size), [*unit.cuts, ""], unit.slopes, unit.intercepts)
    columns = [unit.inputs.codes(), unit.acc] + ([unit.codes] if unit.out else [])
    return {
        f"{name}_lines.csv": _csv([["segment", "cut", "slope", "intercept"], *lines]),
        f"{name}_golden.csv": _csv([["q", "acc", "code"][: len(columns)], *zip(*columns)]),
    }


def _memh_files(name: str, unit: Unit) -> dict[str, str]:
    """Golden words stand at the address that the bits of the input code make."""
    half = unit.acc.size // 2
    arrays = {
        "cuts": (unit.cuts, unit.inputs.bits, "the segment of q is the number of cuts < q"),
        "slopes": (unit.slopes, unit.slope_bits, f"{unit.fraction_bits} fraction bits"),
        "intercepts": (unit.intercepts, unit.intercept_bits, f"to be shifted left by {unit.intercept_shift}"),
        "acc": (np.roll(unit.acc, half), unit.acc_bits, "golden accumulators by the bits of q"),
    }
    if unit.out:
        arrays["codes"] = (np.roll(unit.codes, half), unit.out.bits, "golden output codes by the bits of q")
    return {f"{name}_{part}.memh": _words(*values) for part, values in arrays.items()}


def _words(values: np.ndarray, bits: int, meaning: str) -> str:
    digits, mask = (bits + 3) // 4, (1 << bits) - 1
    head = f"// {values.size} words of {bits} bits, two's complement: {meaning}\n"
    return head + "".join(f"{int(value) & mask:0{digits}x}\n" for value in values)


# --- C
# ----------------------------------------------------------------------------------------------------------------------


def _c_header(name: str, exported: Sequence[Unit]) -> str:
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
                *(_c_unit(name, f"{name}_{_identifier(unit.key)}", unit) for unit in exported),
                f"#endif /* {guard} */",
            ]
        )
        + "\n"
    )


def _c_unit(name: str, prefix: str, unit: Unit) -> str:
    inputs = unit.inputs
    said = ", ".join(
        f"{key} {_identifier(value) if key == 'key' else value}" for key, value in unit.parameters().items()
    )
    text = ["\n   ".join(textwrap.wrap(f"/* {said} */", 120))]
    text += [
        _c_array(f"{prefix}_{part}", values, bits)
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
    golden = [_c_array(f"{prefix}_golden_acc", unit.acc, 32)]
    if unit.out:
        m, s = unit.requantiser
        product = f"{prefix}_acc(q) * INT64_C({m << max(-s, 0)})"
        rounded = "0" if s > 62 else f"({product} + (INT64_C(1) << {s - 1})) >> {s}" if s > 0 else product
        text.append(
            f"static inline int32_t {prefix}(int32_t q) {{\n    int64_t code = ({rounded}) + ({unit.out.zero_point});\n"
            f"    return code < {unit.out.minimum} ? {unit.out.minimum} : code > {unit.out.maximum} ? "
            f"{unit.out.maximum} : (int32_t)code;\n}}"
        )
        golden.append(_c_array(f"{prefix}_golden", unit.codes, unit.out.bits))
    return "\n".join([*text, f"#ifdef {name.upper()}_GOLDEN", *golden, "#endif"])


def _c_array(name: str, values: np.ndarray, bits: int) -> str:
    kind = next(f"int{width}_t" for width in (8, 16, 32) if bits <= width)
    lines = [", ".join(map(str, values[at : at + 16])) for at in range(0, values.size, 16)]
    body = lines[0] if len(lines) == 1 else "\n    " + ",\n    ".join(lines) + "\n"
    return f"static const {kind} {name}[{values.size}] = {{{body}}};"

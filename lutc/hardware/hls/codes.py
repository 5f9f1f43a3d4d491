"""C++ of units over input codes: lines, constant or handed in, and direct tables."""

from __future__ import annotations

import numpy as np

from lutc.hardware.export.units import Unit
from lutc.hardware.hls.text import braced, integer_type, lines_function, lines_type, number
from lutc.hardware.rtl.lines import LineUnit, LoadableUnit, trimmed
from lutc.hardware.rtl.requantiser import Requantiser


def lines(module: str, made: LineUnit) -> str:
    """Functions of the module: code = MODULE([lines,] [select,] q). `lines` points to the table of each scale."""
    units, loadable = made.units, isinstance(made, LoadableUnit)
    code, result = integer_type(made.q_bits), integer_type(made.out_bits)
    parts = [_parts(unit, loadable) for unit in units]
    if loadable:
        same = f"lutc::Lines<{code}, {integer_type(made.slope_bits)}, {integer_type(made.intercept_bits)}, "
        kinds = [f"{same}{max(p[1].size for p in parts)}>"] * len(units)
    else:
        kinds = [lines_type(*p) for p in parts]
    several = len(units) > 1
    text = []
    for i, (unit, kind) in enumerate(zip(units, kinds)):
        name = f"{module}_{i}" if several else module
        text.append(lines_function(f"{name}_lines", kind, parts[i]))
        steps = "\n".join(_steps(unit, made.acc_bits, made.requantisers[i], result))
        table = "lines" if loadable else f"{name}_lines()"
        argument = f"const {kind}& lines, " if loadable else ""
        text.append(f"inline {result} {name}({argument}{code} q) {{\n{steps.replace('@', table)}\n}}")
    if several:
        argument, given = (f"const {kinds[0]}* lines, ", "lines[{}], ") if loadable else ("", "")
        cases = [
            f"    {'default' if i == len(units) - 1 else f'case {i}'}: return {module}_{i}({given.format(i)}q);"
            for i in range(len(units))
        ]
        head = f"inline {result} {module}({argument}int select, {code} q) {{\n  switch (select) {{\n"
        text.append(head + "\n".join(cases) + "\n  }\n}")
    return "\n\n".join(text)


def _parts(unit: Unit, loadable: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if loadable:
        return unit.cuts, unit.slopes, unit.intercepts << unit.intercept_shift
    return trimmed(unit)


def _steps(unit: Unit, acc_bits: int, requantiser: Requantiser | None, result: str) -> list[str]:
    acc = f"lutc::accumulate<{integer_type(max(acc_bits, 32))}>(@, q, {unit.inputs.zero_point})"
    if requantiser is None:
        return [f"  return static_cast<{result}>({acc});"]
    out, m, shift = requantiser.out, requantiser.multiplier, requantiser.shift
    if shift > 62:  # beyond the 64 bits of a product nothing is left of it
        m, shift = 0, 0
    wide = "int32_t" if max(requantiser.bits, acc_bits) <= 32 and shift <= 31 else "int64_t"
    product = f"static_cast<{wide}>({acc})" + (f" * {number(m)}" if m != 1 else "")
    whole = f"lutc::rounded_shift<{wide}>({product}, {shift}, lutc::{out.rounding})"
    whole += f" + {number(out.zero_point)}" if out.zero_point else ""
    return [f"  return lutc::saturated<{result}, {wide}>(", f"      {whole}, {out.minimum}, {out.maximum});"]


def direct(module: str, unit: Unit) -> str:
    """code = MODULE(q): an output code for each input code."""
    assert unit.out is not None and unit.codes is not None
    kind, values = integer_type(unit.out.bits), unit.codes
    return (
        f"inline {kind} {module}({integer_type(unit.inputs.bits)} q) {{\n"
        f"  static const {kind} codes[{values.size}] = {braced(values)};\n"
        f"  return codes[q - ({unit.inputs.minimum})];\n}}"
    )

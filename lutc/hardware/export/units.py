"""The integers of a table's units, and what they answer to every input code.

Each key is a unit of its own, with the same number of entries. The rule that it follows stands in docs/hardware.md: acc
= slopes[i] * (q - zero_point) + (intercepts[i] << intercept_shift), i the number of cuts < q; code = requantised acc,
saturated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lutc import formats
from lutc.errors import LutcError
from lutc.formats.codes import Inputs, Outputs
from lutc.formats.requantise import requantiser
from lutc.hardware.bits import accumulator_bits, signed_bits
from lutc.table.integer import integer_lines
from lutc.table.table_set import TableSet


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
        return {**own, **out, "multiplier": multiplier, "shift": shift, "rounding": self.out.rounding}


def units(tables: TableSet, keys: Sequence[str] | None = None, out: Inputs | None = None) -> list[Unit]:
    """The units of a set's tables, of `keys` if given. out: the output codes, by default those that the file names.

    LutcError for tables of float inputs, and for those that integer arithmetic cannot hold.
    """
    keys = list(dict.fromkeys(map(str, tables if keys is None else keys)))
    if out is None and "output" in tables.meta:
        out = Outputs(**tables.meta["output"])
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

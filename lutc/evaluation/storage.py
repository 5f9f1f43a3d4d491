"""Bytes that a table takes, counted from its numbers, not from its JSON."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from lutc import formats, hardware
from lutc.formats.codes import Inputs
from lutc.hardware.bits import shared_breakpoint_bits
from lutc.table.bodies import Cells, Exponents, Lines
from lutc.table.table import Table
from lutc.table.table_set import TableSet


def table_bytes(table: Table, inputs: Inputs | None = None, meta: Mapping[str, Any] | None = None) -> int:
    """Of one table, meta: of its set. Coefficients or values in their format, breakpoints as input codes or in that
    format, cut points in fp16 where they fit, a byte for each number of pieces, 4 bits for each binade's mantissa bits,
    and two numbers for each tail that is no entry.
    """
    width = formats.get(table.coefficients).bits
    if isinstance(table.body, Lines):
        if inputs is not None and formats.get(table.coefficients).is_fixed:
            return math.ceil(hardware.cost(table, inputs, meta).stored_bits / 8)
        return math.ceil((2 * table.entries + table.body.breakpoints.size) * width / 8)
    bits = table.entries * width + 2 * width * sum(tail is not None for tail in (table.left, table.right))
    if isinstance(table.body, Cells):
        cuts = table.body.cut_points
        bits += cuts.size * (16 if np.array_equal(formats.get("fp16").round(cuts), cuts) else 32) + 8 * len(
            table.body.pieces
        )
    elif isinstance(table.body, Exponents):
        bits += 4 * len(table.body.mantissa_bits)
    return math.ceil(bits / 8)


def used_bytes(used: Iterable[tuple[TableSet, str]]) -> int:
    """Of the tables (set, key) that a model uses. The same numbers for several layers or scales count once; so does a
    set whose breakpoints and lines all scales share, at the width of breakpoints that can be rounded to each.
    """
    distinct = {}
    for tables, key in used:
        if "breakpoints" in tables.meta.get("search", {}).get("shared", {}):
            distinct[tables.dumps()] = _shared_bytes(tables)
        else:
            distinct[TableSet("any", {"any": tables[key]}).dumps()] = table_bytes(
                tables[key], tables.inputs.get(key), tables.meta
            )
    return sum(distinct.values())


def _shared_bytes(tables: TableSet) -> int:
    largest = max(tables.values(), key=lambda table: table.entries)
    width = shared_breakpoint_bits(tables.range, list(tables.inputs.values()))
    cost = hardware.lines_cost(
        largest.entries, formats.get(largest.coefficients), next(iter(tables.inputs.values())), breakpoint_bits=width
    )
    return math.ceil(cost.stored_bits / 8)

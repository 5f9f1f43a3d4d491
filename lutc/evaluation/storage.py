"""Bytes that a table takes, counted from its numbers, not from its JSON."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from lutc import formats, hardware
from lutc.samples import Inputs
from lutc.table import Cells, Exponents, Lines, Table
from lutc.tablefile import TableSet


def table_bytes(table: Table, inputs: Inputs | None = None) -> int:
    """Of one table: coefficients or values in their format, breakpoints as input codes or in that format, cut points in fp16 where they fit, a byte
    for each number of pieces, 4 bits for each binade's mantissa bits, and two numbers for each tail that is no entry."""
    width = formats.get(table.coefficients).bits
    if isinstance(table.body, Lines):
        if inputs is not None and formats.get(table.coefficients).is_fixed:
            return math.ceil(hardware.cost(table, inputs).stored_bits / 8)
        return math.ceil((2 * table.entries + table.body.breakpoints.size) * width / 8)
    bits = table.entries * width + 2 * width * sum(tail is not None for tail in (table.left, table.right))
    if isinstance(table.body, Cells):
        cuts = table.body.cut_points
        bits += cuts.size * (16 if np.array_equal(formats.get("fp16").round(cuts), cuts) else 32) + 8 * len(table.body.pieces)
    elif isinstance(table.body, Exponents):
        bits += 4 * len(table.body.mantissa_bits)
    return math.ceil(bits / 8)


def used_bytes(used: Iterable[tuple[TableSet, str]]) -> int:
    """Of the tables (set, key) that a model uses; one that several layers use counts once."""
    distinct = {}
    for tables, key in used:
        inputs = tables.inputs.get(key)
        distinct[TableSet(tables.name, {key: tables[key]}, {} if inputs is None else {key: inputs}, tables.function).dumps()] = (tables[key], inputs)
    return sum(table_bytes(*entry) for entry in distinct.values())

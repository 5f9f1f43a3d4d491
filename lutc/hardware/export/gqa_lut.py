"""Tables of lines in the layout of GQA-LUT's files (DAC 2024)."""

from __future__ import annotations

import json
from collections.abc import Sequence

from lutc.errors import LutcError
from lutc.table.bodies import Lines
from lutc.table.integer import unfold
from lutc.table.prologues import AbsPrologue
from lutc.table.table import Table
from lutc.table.table_set import TableSet


def lines_of(tables: TableSet, key: str) -> Lines:
    """A table's lines over all x. LutcError where it has other than lines."""
    table: Table = tables[key]
    if not isinstance(table.body, Lines) or not isinstance(table.prologue, (AbsPrologue, type(None))):
        raise LutcError(f"'{key}' of '{tables.name}' is no table of lines over x; this layout holds nothing else")
    return unfold(table)


def render(name: str, tables: TableSet, keys: Sequence[str]) -> dict[str, str]:
    """NAME_gqa_lut.json: {function: {key: breakpoints, slopes, intercepts}}, lists of numbers. Its runtime has the rule
    of ours: x on a breakpoint belongs to the left.
    """
    held = {key: lines_of(tables, key) for key in keys}
    data = {
        tables.name: {
            key: {part: getattr(body, part).tolist() for part in ("breakpoints", "slopes", "intercepts")}
            for key, body in held.items()
        }
    }
    return {f"{name}_gqa_lut.json": json.dumps(data, indent=1, allow_nan=False) + "\n"}

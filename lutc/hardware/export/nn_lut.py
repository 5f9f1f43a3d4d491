"""Tables of lines in the layout of NN-LUT's files (DAC 2022): a file for each table, `op`, `cut_points`, `slopes` and
`biases`, floats.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from lutc.hardware.export.gqa_lut import lines_of
from lutc.hardware.export.text import identifier
from lutc.table.table_set import TableSet


def render(name: str, tables: TableSet, keys: Sequence[str]) -> dict[str, str]:
    """NAME_KEY_nn_lut.json for each key. NN-LUT's own files have -Infinity and Infinity around the cut points, which
    are no JSON; here the inner ones stand alone.
    """
    files = {}
    for key in keys:
        body = lines_of(tables, key)
        parts = {"cut_points": body.breakpoints, "slopes": body.slopes, "biases": body.intercepts}
        data = {"op": tables.name, **{part: values.tolist() for part, values in parts.items()}}
        files[f"{name}_{identifier(key)}_nn_lut.json"] = json.dumps(data, indent=1, allow_nan=False) + "\n"
    return files

"""From a table set to the text of its file: indented JSON, numbers of a list on one line, no NaN or Infinity."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from lutc.errors import LutcError
from lutc.table.bodies import Cells, Exponents, Lines
from lutc.table.domain import Domain

if TYPE_CHECKING:
    from lutc.table.table_set import TableSet

SCHEMA = 1


def _plain(value):
    """Numbers as JSON has them: whole arrays to lists, numpy scalars to Python's."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def dump(data: dict) -> str:
    """The file's text: indented by two, lists of numbers on one line."""
    try:
        return _text(_plain(data), "\n") + "\n"
    except ValueError as error:
        raise LutcError(f"a table file holds no NaN or Infinity ({error})") from error
    except RecursionError as error:
        raise LutcError("the table's record is nested too deeply for a file") from error


def _text(value, indent: str) -> str:
    """JSON of a plain value; `indent` is the line break before the bracket that closes it."""
    inner = indent + "  "
    if isinstance(value, dict) and value:
        items = (f"{json.dumps(key, ensure_ascii=False)}: {_text(item, inner)}" for key, item in value.items())
        return "{" + ",".join(inner + item for item in items) + indent + "}"
    if isinstance(value, list) and any(isinstance(item, (str, dict, list)) for item in value):
        return "[" + ",".join(inner + _text(item, inner) for item in value) + indent + "]"
    return json.dumps(value, allow_nan=False, ensure_ascii=False)


def _body_to_json(body) -> dict:
    if isinstance(body, Lines):
        return {"breakpoints": body.breakpoints, "slopes": body.slopes, "intercepts": body.intercepts}
    if isinstance(body, Cells):
        return {"cut_points": body.cut_points, "pieces": body.pieces, "values": body.values}
    if isinstance(body, Exponents):
        return {"mantissa_bits": body.mantissa_bits, "values": body.values}
    return {"values": body.values}


def _prologue_to_json(prologue) -> str | dict:
    if prologue is None:
        return "none"
    return {"kind": prologue.kind, **{name: getattr(prologue, name) for name in prologue.__dataclass_fields__}}


def to_json(tables: TableSet) -> dict:
    """A TableSet as the file's dict."""
    first = next(iter(tables.values()))
    tails = {
        side: {"slope": t.slope, "intercept": t.intercept} if t else None
        for side, t in (("left", first.left), ("right", first.right))
    }
    own = {
        "schema": SCHEMA,
        "function": tables.function,
        "prologue": _prologue_to_json(first.prologue),
        "addressing": first.body.addressing,
        "payload": first.body.payload,
        "tails": tails,
        "inputs": {
            key: {"bits": i.bits, "scale": i.scale, "zero_point": i.zero_point} for key, i in tables.inputs.items()
        },
    }
    if first.domain is not None:
        own["domain"] = {name: getattr(first.domain, name) for name in Domain.__dataclass_fields__}
    if isinstance(first.body, Exponents):
        own["input"] = first.body.input
    if first.body.payload == "lines":
        own["coefficients"] = first.coefficients
    return {
        tables.name: {key: _body_to_json(table.body) for key, table in tables.tables.items()},
        "lutc": {**own, **tables.meta},
    }

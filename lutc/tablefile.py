"""Table sets and their JSON files: GQA-LUT's layout plus a "lutc" object, validated on loading, written atomically.

    {"gelu": {"0": {"breakpoints": [...], "slopes": [...], "intercepts": [...]}, ...}, "lutc": {"schema": 1, ...}}

Files of GQA-LUT (no "lutc" key, repeated breakpoints) and of NN-LUT ("op", "cut_points", "slopes", "biases") load too. No file holds NaN
or Infinity; an imported NN-LUT file may have infinite end cut points, which are dropped.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lutc import formats, functions
from lutc.errors import LutcError
from lutc.files import atomic_write
from lutc.functions import Line
from lutc.samples import Inputs
from lutc.table import AbsPrologue, Cells, Direct, Domain, ExponentPrologue, Exponents, Lines, PeriodPrologue, Table, without_empty_segments

SCHEMA = 1
LARGEST_FILE = 64 << 20  # bytes; a 65,536-entry table in three formats stays below


@dataclass(frozen=True, eq=False)
class TableSet(Mapping):
    """Tables of one function by key: "0".."6" for int8 codes at scale 2**-key (GQA-LUT), "fp16"/"bf16"/"fp32" for float tables, or a label.

    name: top key of the file, as typed. function: the registry's name, a user's 'module:attribute', or None for a foreign file whose name
    is not known. inputs: key -> Inputs for tables over codes. meta: everything else under "lutc" (search, certificate, objective, ...).
    """

    name: str
    tables: Mapping[str, Table]
    inputs: Mapping[str, Inputs] = field(default_factory=dict)
    function: str | None = None
    meta: Mapping = field(default_factory=dict)

    def __post_init__(self):
        if self.name == "lutc":
            raise LutcError("a table set is called anything but 'lutc', the key of its record in the file; choose another name (--name)")
        if not self.tables:
            raise LutcError(f"a table file holds at least one table; '{self.name}' has none")
        unknown = set(self.inputs) - set(self.tables)
        if unknown:
            raise LutcError(f"inputs name tables that are not there: {', '.join(sorted(unknown))}; there are {', '.join(self.tables)}")

        bounded = [key for key in self.inputs if self.tables[key].domain is not None]
        if bounded:
            raise LutcError(f"table '{bounded[0]}' has a domain, outside which lies NaN, but codes as inputs, which have none")

    def __repr__(self) -> str:
        return f"<TableSet {self.name}: {', '.join(f'{key!r}: {table!r}' for key, table in self.tables.items())}>"

    def __getitem__(self, key: str) -> Table:
        try:
            return self.tables[str(key)]
        except KeyError:
            raise LutcError(f"no table '{key}' in '{self.name}'; there are {', '.join(self.tables)}") from None

    def __contains__(self, key) -> bool:
        return str(key) in self.tables

    def __iter__(self) -> Iterator[str]:
        return iter(self.tables)

    def __len__(self) -> int:
        return len(self.tables)

    @property
    def range(self) -> tuple[float, float] | None:
        """The range it was compiled for, else the function's default, else None."""
        if "range" in self.meta:
            return tuple(self.meta["range"])
        known = functions.FUNCTIONS.get(self.function)
        return known.range if known else None

    def key_for_scale(self, scale: float) -> str:
        """Key whose input scale is nearest to `scale` on a log axis: a scale outside the keys clips to the nearest, as GQA-LUT does."""
        if not (math.isfinite(scale) and scale > 0):
            raise LutcError(f"an input scale is a positive finite number; given {scale}")
        if not self.inputs:
            raise LutcError(f"'{self.name}' holds float tables ({', '.join(self.tables)}), which have no input scale: leave the scale out")
        return min(self.inputs, key=lambda key: abs(math.log2(self.inputs[key].scale / scale)))

    @property
    def default_key(self) -> str:
        """fp32 where there is one; among tables over codes the finest scale whose codes cover the range; else the first key."""
        if "fp32" in self.tables:
            return "fp32"
        lo, hi = self.range or (0.0, 0.0)
        covering = [key for key, inputs in self.inputs.items() if inputs.x()[0] <= lo and inputs.x()[-1] + inputs.scale >= hi]
        if covering:
            return min(covering, key=lambda key: self.inputs[key].scale)
        return max(self.inputs, key=lambda key: self.inputs[key].scale) if self.inputs else next(iter(self.tables))

    def dumps(self) -> str:
        """The file's text; the same set gives the same bytes."""
        return _dump(to_json(self))

    def save(self, path: str | os.PathLike) -> None:
        """Write the file atomically."""
        atomic_write(path, self.dumps())


def read(path: str | os.PathLike) -> TableSet:
    """Load and validate a file; LutcError names the file and what is wrong with it."""
    path = Path(path)
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise LutcError(f"{path} is larger than {LARGEST_FILE >> 20} MiB, so it is no table file")
        text = path.read_text(encoding="utf-8-sig")  # editors on Windows begin a file with a mark
    except OSError as error:
        raise LutcError(f"cannot read {path}: {error.strerror or error}; give the path of a table file") from error
    except UnicodeDecodeError as error:
        raise LutcError(f"{path} is no text file, so no table file") from error
    try:
        return loads(text)
    except LutcError as error:
        raise LutcError(f"{path}: {error}") from error


def loads(text: str) -> TableSet:
    """A TableSet from a file's text."""
    constants = []  # NaN, Infinity, -Infinity: no JSON, but in files of NN-LUT
    try:
        data = json.loads(
            text, object_pairs_hook=_unique, parse_int=_integer, parse_float=_real, parse_constant=lambda name: constants.append(name) or float(name)
        )
    except (json.JSONDecodeError, RecursionError) as error:
        raise LutcError(f"not valid JSON ({error}); the file is broken or cut off") from error
    if not isinstance(data, dict):
        raise LutcError("a table file is a JSON object")
    if {"op", "cut_points", "slopes", "biases"} <= set(data):
        return _from_nn_lut(data)
    if constants:
        raise LutcError(f"a table file holds no {constants[0]}; the file was written by something else or altered")
    return _from_json(data)


def _integer(digits: str) -> int:
    _real(digits)
    return int(digits)


def _real(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise LutcError(f"the number {digits:.20}... is beyond float64; the file is broken")
    return value


def _unique(pairs) -> dict:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise LutcError("a key stands twice in one object; the file is ambiguous")
    return result


# --- writing ---------------------------------------------------------------------------------------------------------------------------


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


def _dump(data: dict) -> str:
    """Indented by two, lists of numbers on one line."""
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
    """The file as a dict."""
    first = next(iter(tables.values()))
    tails = {side: {"slope": t.slope, "intercept": t.intercept} if t else None for side, t in (("left", first.left), ("right", first.right))}
    own = {
        "schema": SCHEMA,
        "function": tables.function,
        "prologue": _prologue_to_json(first.prologue),
        "addressing": first.body.addressing,
        "payload": first.body.payload,
        "tails": tails,
        "inputs": {key: {"bits": i.bits, "scale": i.scale, "zero_point": i.zero_point} for key, i in tables.inputs.items()},
    }
    if first.domain is not None:
        own["domain"] = {name: getattr(first.domain, name) for name in Domain.__dataclass_fields__}
    if isinstance(first.body, Exponents):
        own["input"] = first.body.input
    if first.body.payload == "lines":
        own["coefficients"] = first.coefficients
    return {tables.name: {key: _body_to_json(table.body) for key, table in tables.tables.items()}, "lutc": {**own, **tables.meta}}


# --- reading ---------------------------------------------------------------------------------------------------------------------------


def _object(value, what: str) -> dict:
    if not isinstance(value, dict):
        raise LutcError(f"{what} must be an object; given {str(value):.60}")
    return value


def _numbers(entry: dict, name: str, where: str) -> list:
    if name not in entry:
        raise LutcError(f"{where} has no '{name}'; it has {', '.join(map(str, entry)) or 'nothing'}")
    values = entry[name]
    if not isinstance(values, list) or not all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values):
        raise LutcError(f"{where}: '{name}' must be a list of numbers")
    return values


def _lines(breakpoints: list, slopes: list, intercepts: list, where: str) -> Lines:
    if not len(slopes) == len(intercepts) == len(breakpoints) + 1:
        raise LutcError(f"{where}: n breakpoints need n + 1 slopes and intercepts; given {len(breakpoints)}, {len(slopes)} and {len(intercepts)}")
    return without_empty_segments(breakpoints, slopes, intercepts)


def _body(entry, addressing: str, payload: str, inputs: Inputs | str | None, where: str):
    """inputs: those of a direct table, and the name of the input format of an exponent-addressed one."""
    entry = _object(entry, where)
    if (addressing, payload) == ("compare", "lines"):
        return _lines(*(_numbers(entry, name, where) for name in ("breakpoints", "slopes", "intercepts")), where)
    if (addressing, payload) == ("cells", "values"):
        return Cells(_numbers(entry, "cut_points", where), tuple(_numbers(entry, "pieces", where)), _numbers(entry, "values", where))
    if (addressing, payload) == ("direct", "values"):
        if inputs is None:
            raise LutcError(f"{where}: a direct table needs an entry under 'inputs'")
        return Direct(_numbers(entry, "values", where), inputs.bits, inputs.scale, inputs.zero_point)
    if (addressing, payload) == ("exponent", "values"):
        return Exponents(inputs, tuple(_numbers(entry, "mantissa_bits", where)), _numbers(entry, "values", where))
    known = "compare x lines, cells x values, exponent x values, direct x values"
    raise LutcError(f"unknown addressing {addressing!r} with payload {payload!r}; known: {known}")


PROLOGUES = {cls.kind: cls for cls in (AbsPrologue, ExponentPrologue, PeriodPrologue)}


def _prologue(value):
    if value in (None, "none"):
        return None
    value = dict(_object(value, "prologue"))
    kind = value.pop("kind", None)
    if not isinstance(kind, str) or kind not in PROLOGUES:
        raise LutcError(f"unknown prologue {kind!r}; known: none, {', '.join(PROLOGUES)}")
    return _construct(PROLOGUES[kind], value, f"prologue {kind}")


def _construct(cls, values, what: str):
    try:
        return cls(**_object(values, what))
    except TypeError as error:
        raise LutcError(f"{what}: {str(error).replace('__init__() ', '')}") from error


def _from_json(data: dict) -> TableSet:
    names = [key for key in data if key != "lutc"]
    if len(names) != 1:
        raise LutcError(f"a table file has one function and perhaps 'lutc' at its top; given {', '.join(map(str, data)) or 'nothing'}")
    name = names[0]
    entries = _object(data[name], f"'{name}'")
    own = dict(_object(data.get("lutc", {}), "'lutc'"))
    foreign = "lutc" not in data
    if not foreign and own.pop("schema", None) != SCHEMA:
        raise LutcError(f"schema {data['lutc'].get('schema')!r} is not known here; this version reads schema {SCHEMA}: update lutc or recompile")
    if foreign:
        if not all(re.fullmatch(r"\d{1,2}", key) for key in entries):
            raise LutcError(f"without 'lutc' this must be a GQA-LUT file, whose keys are powers 0, 1, ...; given {', '.join(entries) or 'nothing'}")
        own = {"inputs": {key: {"scale": 2.0 ** -int(key)} for key in entries}, "coefficients": "q1.6", "origin": "gqa-lut"}
        own["function"] = _canonical(name)
    inputs = {key: _construct(Inputs, value, f"inputs '{key}'") for key, value in _object(own.pop("inputs", {}), "inputs").items()}
    addressing, payload = own.pop("addressing", "compare"), own.pop("payload", "lines")
    prologue = _prologue(own.pop("prologue", None))
    tails = _object(own.pop("tails", None) or {}, "tails")
    left, right = (None if tails.get(side) is None else _construct(Line, tails[side], f"{side} tail") for side in ("left", "right"))
    domain = own.pop("domain", None)
    domain = None if domain is None else _construct(Domain, domain, "domain")
    coefficients = own.pop("coefficients", None)
    bits_of = own.pop("input", None) if addressing == "exponent" else None
    tables = {}
    for key, entry in entries.items():
        body = _body(entry, addressing, payload, bits_of or inputs.get(key), f"table '{key}'")
        fmt = formats.get(coefficients if payload == "lines" and coefficients else key if key in ("fp16", "bf16", "fp32") else "fp32")
        if not foreign:
            _check_format(body, fmt, key)
        tables[key] = Table(body, prologue, left, right, fmt.name, domain)
    function = own.pop("function", None)
    if not (function is None or isinstance(function, str)):
        raise LutcError(f"'function' is the name of one, or null; given {str(function):.60}")
    _check_meta(own)
    return TableSet(name, tables, inputs, function, own)


def _check_meta(meta: dict) -> None:
    """What others rely on; the rest is a record for people."""
    if "range" in meta:
        ends = _numbers(meta, "range", "'lutc'")
        if len(ends) != 2 or not ends[0] < ends[1]:
            raise LutcError(f"'range' is two numbers in ascending order; given {str(ends):.60}")
    if "output" in meta:
        _construct(Inputs, meta["output"], "output")
    for part in ("certificate", "search"):
        if part in meta:
            _object(meta[part], f"'{part}'")


def _check_format(body, fmt, key: str) -> None:
    values = np.concatenate([body.slopes, body.intercepts]) if isinstance(body, Lines) else body.values
    bad = ~np.asarray(fmt.holds(values))
    if bad.any():
        raise LutcError(f"table '{key}': {float(values[bad][0])!r} is not a value of {fmt.name}; the file was altered or its format is wrong")


def _canonical(name: str) -> str | None:
    """The registry's name of a function, None where it is not known."""
    try:
        return functions.get(name).name
    except LutcError:
        return None


def _from_nn_lut(data: dict) -> TableSet:
    where = "NN-LUT table"
    name = str(data["op"])
    cuts = _numbers(data, "cut_points", where)
    inner = cuts[1:-1] if len(cuts) >= 2 and cuts[0] == -math.inf and cuts[-1] == math.inf else cuts
    body = _lines(inner, _numbers(data, "slopes", where), _numbers(data, "biases", where), where)
    fp32 = formats.get("fp32")
    body = Lines(body.breakpoints, fp32.round(body.slopes), fp32.round(body.intercepts))
    function = _canonical(name)
    return TableSet(name, {"fp32": Table(body)}, {}, function, {"origin": "nn-lut"})

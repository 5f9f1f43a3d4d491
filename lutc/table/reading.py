"""From the text of a file to the fields of a table set, checked: lutc's own files, GQA-LUT's (no "lutc" key, repeated
breakpoints), and NN-LUT's ("op", "cut_points", "slopes", "biases"), which may have infinite end cut points; those are
dropped.
"""

from __future__ import annotations

import json
import math
import re

import numpy as np

from lutc import formats, functions
from lutc.errors import LutcError
from lutc.formats.codes import Inputs, Outputs
from lutc.formats.numbers import numbers
from lutc.functions import Line
from lutc.functions.promises import ordered
from lutc.table.bodies import Cells, Direct, Exponents, Lines, without_empty_segments
from lutc.table.domain import Domain
from lutc.table.prologues import AbsPrologue, ExponentPrologue, PeriodPrologue
from lutc.table.table import Table
from lutc.table.writing import SCHEMA


def parse(text: str) -> dict:
    """The fields of a TableSet from a file's text, by name."""
    constants = []  # NaN, Infinity, -Infinity: no JSON, but in files of NN-LUT
    try:
        data = json.loads(
            text,
            object_pairs_hook=_unique,
            parse_int=_integer,
            parse_float=_real,
            parse_constant=lambda name: constants.append(name) or float(name),
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
        raise LutcError(
            f"{where}: n breakpoints need n + 1 slopes and intercepts; given {len(breakpoints)}, {len(slopes)} and "
            f"{len(intercepts)}"
        )
    return without_empty_segments(breakpoints, slopes, intercepts)


def _body(entry, addressing: str, payload: str, inputs: Inputs | str | None, where: str):
    """inputs: those of a direct table, and the name of the input format of an exponent-addressed one."""
    entry = _object(entry, where)
    if (addressing, payload) == ("compare", "lines"):
        return _lines(*(_numbers(entry, name, where) for name in ("breakpoints", "slopes", "intercepts")), where)
    if (addressing, payload) == ("cells", "values"):
        return Cells(
            _numbers(entry, "cut_points", where),
            tuple(_numbers(entry, "pieces", where)),
            _numbers(entry, "values", where),
        )
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


def _from_json(data: dict) -> dict:
    names = [key for key in data if key != "lutc"]
    if len(names) != 1:
        raise LutcError(
            "a table file has one function and perhaps 'lutc' at its top; given "
            f"{', '.join(map(str, data)) or 'nothing'}"
        )
    name = names[0]
    entries = _object(data[name], f"'{name}'")
    own = dict(_object(data.get("lutc", {}), "'lutc'"))
    foreign = "lutc" not in data
    if not foreign and own.pop("schema", None) != SCHEMA:
        raise LutcError(
            f"schema {data['lutc'].get('schema')!r} is not known here; this version reads schema {SCHEMA}: update lutc "
            "or recompile"
        )
    if foreign:
        if not all(re.fullmatch(r"\d{1,2}", key) for key in entries):
            raise LutcError(
                "without 'lutc' this must be a GQA-LUT file, whose keys are powers 0, 1, ...; given "
                f"{', '.join(entries) or 'nothing'}"
            )
        own = {
            "inputs": {key: {"scale": 2.0 ** -int(key)} for key in entries},
            "coefficients": "q1.6",
            "origin": "gqa-lut",
        }
        own["function"] = _canonical(name)
    inputs = {
        key: _construct(Inputs, value, f"inputs '{key}'")
        for key, value in _object(own.pop("inputs", {}), "inputs").items()
    }
    addressing, payload = own.pop("addressing", "compare"), own.pop("payload", "lines")
    prologue = _prologue(own.pop("prologue", None))
    tails = _object(own.pop("tails", None) or {}, "tails")
    left, right = (
        None if tails.get(side) is None else _construct(Line, tails[side], f"{side} tail") for side in ("left", "right")
    )
    domain = own.pop("domain", None)
    domain = None if domain is None else _construct(Domain, domain, "domain")
    coefficients = own.pop("coefficients", None)
    bits_of = own.pop("input", None) if addressing == "exponent" else None
    tables = {}
    for key, entry in entries.items():
        body = _body(entry, addressing, payload, bits_of or inputs.get(key), f"table '{key}'")
        fmt = formats.get(
            coefficients if payload == "lines" and coefficients else key if key in ("fp16", "bf16", "fp32") else "fp32"
        )
        if not foreign:
            _check_format(body, fmt, key)
        if isinstance(body, Lines) and not foreign:
            _check_numbers(body, own, fmt, key)
        tables[key] = Table(body, prologue, left, right, fmt.name, domain)
    function = own.pop("function", None)
    if not (function is None or isinstance(function, str)):
        raise LutcError(f"'function' is the name of one, or null; given {str(function):.60}")
    _check_meta(own)
    return {"name": name, "tables": tables, "inputs": inputs, "function": function, "meta": own}


def _check_meta(meta: dict) -> None:
    """What others rely on; the rest is a record for people."""
    if "range" in meta:
        ends = _numbers(meta, "range", "'lutc'")
        if len(ends) != 2 or not ends[0] < ends[1]:
            raise LutcError(f"'range' is two numbers in ascending order; given {str(ends):.60}")
    if "promises" in meta:
        given = meta["promises"]
        if not isinstance(given, list) or not all(isinstance(name, str) for name in given):
            raise LutcError(f"'promises' is a list of names; given {str(given):.60}")
        ordered(given)
    if "output" in meta:
        _construct(Outputs, meta["output"], "output")
    for part in ("certificate", "search", "exceptions"):
        if part in meta:
            _object(meta[part], f"'{part}'")
    for where, exception in meta.get("exceptions", {}).items():
        _object(exception, f"the exception {where:.40}")


def _check_format(body, fmt, key: str) -> None:
    values = np.concatenate([body.slopes, body.intercepts]) if isinstance(body, Lines) else body.values
    bad = ~np.asarray(fmt.holds(values))
    if bad.any():
        raise LutcError(
            f"table '{key}': {float(values[bad][0])!r} is not a value of {fmt.name}; the file was altered or its "
            "format is wrong"
        )


def _check_numbers(body: Lines, own: dict, fmt, key: str) -> None:
    """Slopes and intercepts are of the narrower sets that the file names."""
    for what in ("slopes", "intercepts"):
        if own.get(what) is not None:
            bad = ~np.isin(getattr(body, what), numbers(own[what], fmt).values)
            if bad.any():
                raise LutcError(
                    f"table '{key}': {what} hold {float(getattr(body, what)[bad][0])!r}, which is none of {own[what]}; "
                    "the file was altered"
                )


def _canonical(name: str) -> str | None:
    """The registry's name of a function, None where it is not known."""
    try:
        return functions.get(name).name
    except LutcError:
        return None


def _from_nn_lut(data: dict) -> dict:
    where = "NN-LUT table"
    name = str(data["op"])
    cuts = _numbers(data, "cut_points", where)
    inner = cuts[1:-1] if len(cuts) >= 2 and cuts[0] == -math.inf and cuts[-1] == math.inf else cuts
    body = _lines(inner, _numbers(data, "slopes", where), _numbers(data, "biases", where), where)
    fp32 = formats.get("fp32")
    body = Lines(body.breakpoints, fp32.round(body.slopes), fp32.round(body.intercepts))
    function = _canonical(name)
    return {"name": name, "tables": {"fp32": Table(body)}, "function": function, "meta": {"origin": "nn-lut"}}

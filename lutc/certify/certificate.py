"""Errors of the stored, rounded table over every input there is. Nothing here knows how a table was made.

A certificate has, per key of a table over codes: `range` (codes in the default range), `domain` (all codes), `float` (a
dense grid over the range, for float inputs) and, with an output scale, `output` (codes that differ from the rounded
exact function). Tables in float formats are certified over all values of fp16 and bf16. Inputs where the function is
undefined or infinite are counted apart. Figures have 6 digits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from lutc import formats, functions
from lutc.certify.floats import float_certificate
from lutc.certify.promises import promises_kept
from lutc.errors import LutcError
from lutc.formats.codes import Inputs, Outputs, round_to_codes
from lutc.functions import Function, Line, sampled
from lutc.functions.sampled import GRID
from lutc.measures import rounded
from lutc.table.bodies import Lines
from lutc.table.integer import integer_lines
from lutc.table.table import Table
from lutc.table.table_set import TableSet

_AGREE = 1e-5  # a claim holds if it is equal at 5 digits


def certify(tables: TableSet, fn: Function | None = None) -> dict:
    """Certificate of every table in the set, by key. fn: the function it stands for, by default the one that the file
    names.
    """
    fn = fn or function_of(tables)
    lo, hi = tables.range or fn.range
    output, names = tables.meta.get("output"), tables.meta.get("promises", ())
    certificate = {
        key: _certificate(table, fn, lo, hi, tables.inputs.get(key), Outputs(**output) if output else None)
        for key, table in tables.items()
    }
    fn = replace(fn, range=(lo, hi))
    for key, table in tables.items() if names else ():
        if key in tables.inputs:
            certificate[key]["promises"] = promises_kept(table, fn, names, tables.inputs[key].x())
        else:
            for dtype, figures in certificate[key].items():
                figures["promises"] = promises_kept(table, fn, names, formats.get(dtype).values(), True)
    return certificate


def function_of(tables: TableSet) -> Function:
    """The function that a set names; LutcError where it is none of lutc's own: a file must not make its reader import
    and run code. Of a function that only its caller knows the file carries a sample, and that is taken for it.
    """
    known = functions.find(tables.function)
    if known is None and "function_sample" in tables.meta and tables.range is not None:
        sample, inputs = tables.meta["function_sample"], tables.inputs.values()
        return sampled.from_record(tables.function or tables.name, sample, tables.range, inputs)
    if known is None:
        named = tables.function or tables.name
        raise LutcError(
            f"the table is of {named!r}, no function of lutc's own; say which function it stands for (`function`)"
        )
    return known


def _certificate(table: Table, fn: Function, lo: float, hi: float, inputs: Inputs | None, out: Inputs | None) -> dict:
    if inputs is None:
        return float_certificate(table, replace(fn, range=(lo, hi)))
    x = inputs.x()
    certificate = {
        "entries": table.entries,
        "range": errors(table, fn, x[(x >= lo) & (x <= hi)]),
        "domain": errors(table, fn, x),
    }
    certificate["float"] = errors(table, fn, np.linspace(lo, hi, GRID))
    tails = {
        side: tail_deviation(tail, exact)
        for side, tail, exact in (("left", table.left, fn.left), ("right", table.right, fn.right))
        if tail and exact
    }
    if tails and table.prologue is None:
        certificate["tail_deviation"] = tails
    if out is not None:
        certificate["output"] = code_errors(table, fn, inputs, out, lo, hi)
    return certificate


def tail_deviation(tail: Line, exact: Line) -> dict:
    """How far a stored tail is from the function's own."""
    return {"slope": rounded(tail.slope - exact.slope), "intercept": rounded(tail.intercept - exact.intercept)}


def errors(evaluate: Callable, fn: Callable, x: np.ndarray) -> dict:
    """Mean squared, mean absolute and worst absolute error (with where) over inputs x; `undefined`: inputs where fn is
    not finite.
    """
    y = np.asarray(fn(x), np.float64)
    finite = np.isfinite(y)
    if not finite.any():
        return {"inputs": 0, "undefined": int(x.size)}
    x, error = x[finite], np.abs(evaluate(x[finite]) - y[finite])
    if not np.isfinite(error).all():
        raise LutcError(
            f"the table has no finite value at x = {x[~np.isfinite(error)][0]:g}, where the function has one: it "
            "cannot be certified"
        )
    worst = int(np.argmax(error))
    return {
        "inputs": int(x.size),
        "undefined": int((~finite).sum()),
        "mean_squared": rounded(np.mean(error**2)),
        "mean_absolute": rounded(np.mean(error)),
        "worst_absolute": {"error": rounded(error[worst]), "x": float(x[worst])},
    }


def code_errors(table: Table, fn: Callable, inputs: Inputs, out: Inputs, lo: float, hi: float) -> dict:
    """Output codes of all input codes in [lo, hi] against the rounded exact function: how many are
    wrong, by how much.
    """
    q, x = inputs.codes(), inputs.x()
    y = np.asarray(fn(x), np.float64)
    use = (x >= lo) & (x <= hi) & np.isfinite(y)
    fixed = isinstance(table.body, Lines) and formats.get(table.coefficients).kind == "fixed"
    codes = integer_lines(table, inputs)(q[use], out) if fixed else round_to_codes(out, table(x[use]))
    miss = np.abs(codes - round_to_codes(out, y[use]))
    return {
        "inputs": int(use.sum()),
        "wrong": int((miss > 0).sum()),
        "largest": int(miss.max(initial=0)),
        "squared": int((miss**2).sum()),
    }


def right_rule(table: Table) -> Callable:
    """The table with x equal to a breakpoint taken to the right segment, as GQA-LUT's search (not its runtime) does."""
    body = table.body
    if not isinstance(body, Lines):
        raise LutcError("the right rule at a breakpoint is a matter of tables of lines")

    def evaluate(x):
        index = np.searchsorted(body.breakpoints, x, side="right")
        return body.slopes[index] * x + body.intercepts[index]

    return evaluate


def check(claimed: Mapping, found: Mapping) -> list[str]:
    """Where a file's certificate differs from the recomputed one: one line each, empty where every claim holds."""
    return list(_differences(claimed, found, ""))


def _differences(claimed, found, path: str):
    if isinstance(found, Mapping) and isinstance(claimed, Mapping):
        for key in [*found, *(key for key in claimed if key not in found)]:
            if key == "x" and key in claimed and key in found and claimed[key] in (found[key], -found[key]):
                # a symmetric table is as wrong at -x: which of the two is found first is up to the last bit of f
                continue
            where = f"{path}.{key}" if path else str(key)
            if key not in claimed or key not in found:
                wrong = "the file does not say" if key not in claimed else "the file claims what is not there"
                yield f"{where}: {wrong}"
            else:
                yield from _differences(claimed[key], found[key], where)
    elif isinstance(found, (int, float)) and isinstance(claimed, (int, float)) and not isinstance(claimed, bool):
        if not math.isclose(claimed, found, rel_tol=_AGREE, abs_tol=0.0):
            yield f"{path}: the file says {claimed:g}, recomputed {found:g}"
    elif claimed != found:
        yield f"{path}: the file says {claimed!r:.60}, recomputed {found!r:.60}"

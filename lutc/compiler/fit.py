"""Whether a table's errors are its format's: far beyond what as many lines with real coefficients reach."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from lutc.certify.proof import EXACT_LINES
from lutc.costs.points import Points
from lutc.costs.segments import DENSE_LIMIT, real_costs
from lutc.formats.codes import Outputs, round_to_codes
from lutc.formats.format import get as format_of
from lutc.functions import Function
from lutc.samples.samples import Samples, code_samples, grid_samples
from lutc.search.exact import exact
from lutc.table.bodies import Lines
from lutc.table.table import Table
from lutc.table.table_set import TableSet

_SHARE = 0.01  # of the function's own spread, beyond which an error is looked into
_FLAT = 1e-9  # of its values: a spread that is that of a constant
_TIMES = 10.0  # as large as the error of real coefficients: then the format is to blame


def misfit(tables: TableSet, fn: Function, entries: int = 1) -> str | None:
    """Why the coefficients' format cannot hold `fn`, and one of 16 bits that can; None where it does: where the root
    mean squared error over the codes in the range is at most 1 % of the function's standard deviation there (10 % where
    it is below the format's step), or at most ten times that of as many lines with real coefficients. Only tables of
    fixed-point lines over codes are judged, at every scale. entries: that were asked for, of which the table may use
    fewer. Tables of float inputs are judged by what their record says that rounding costs, under the squared objective.
    """
    lo, hi = tables.range or fn.range
    if not tables.inputs:
        return _misfit_of_floats(tables, fn, lo, hi)
    if tables.meta.get("search", {}).get("name") in ("classic", "greedy"):  # may miss what it can do; keeps a bound
        return None
    fixed = {key: table for key, table in tables.items() if _of_fixed_lines(table)}
    seen = _seen(tables)
    judged = {key: code_samples(fn, tables.inputs[key], lo, hi) for key in fixed}
    judged = {key: replace(samples, y=seen(samples.y)) for key, samples in judged.items()}
    excess = {}
    for key, samples in judged.items():
        if 2 < len(samples) <= DENSE_LIMIT:
            error, spread = _error(fixed[key], samples, seen), float(np.std(samples.y))
            flat = spread <= _FLAT * np.abs(samples.y).max()  # of a constant any error counts by the step alone
            some, step = math.inf if flat else 10 * _SHARE * spread, format_of(fixed[key].coefficients).step
            excess[key] = error / max(_SHARE * spread, min(step, some), 1e-300)
    for key in sorted((key for key in excess if excess[key] > 1.0), key=lambda key: -excess[key]):
        error = _error(fixed[key], judged[key], seen)
        if why := _blamed(fixed[key], judged[key], error, fn, entries, f"over [{lo:g}, {hi:g}]: at '{key}'"):
            if {"slopes", "intercepts"} <= tables.meta.keys():
                own = f"slopes in {tables.meta['slopes']} and intercepts in {tables.meta['intercepts']}"
                why = f"{own}{why.removeprefix(fixed[key].coefficients).partition('; take ')[0]}; take wider ones"
            return why
    return None


def _of_fixed_lines(table: Table) -> bool:
    return isinstance(table.body, Lines) and table.coefficients.startswith("q") and table.prologue is None


def _seen(tables: TableSet) -> Callable[[np.ndarray], np.ndarray]:
    """What is judged of a value: itself, or the output code that it becomes, where those are what was minimised."""
    if tables.meta.get("objective") != "codes":
        return lambda values: values
    out = Outputs(**tables.meta["output"])
    return lambda values: (round_to_codes(out, values) - out.zero_point) * out.scale


def _error(table: Table, samples: Samples, seen: Callable[[np.ndarray], np.ndarray]) -> float:
    return float(np.sqrt(np.mean((seen(table(samples.x)) - samples.y) ** 2)))


def _blamed(table: Table, samples: Samples, error: float, fn: Function, entries: int, where: str) -> str | None:
    """The line on a table whose error is far beyond that of real lines."""
    costs = real_costs(Points.of(samples), table.left, table.right)
    best = exact(costs, min(max(entries, table.entries), len(samples)))  # empty segments are merged
    spread = float(np.std(samples.y))
    if error <= _TIMES * math.sqrt(best.cost):
        return None
    slopes, intercepts = costs.line(best.cuts[:-1], best.cuts[1:])
    largest = max(np.abs(slopes).max(), np.abs(intercepts).max())
    whole = max(0, math.floor(math.log2(largest)) + 1) if largest > 0 else 0
    wanted = f"q{whole}.{15 - whole}" if whole <= 15 and 2.0 ** (whole - 15) <= spread else "a floating-point one"
    return (
        f"{table.coefficients} cannot hold {fn.name} {where} the error is {error:.3g} (root mean square), where as "
        f"many lines with real coefficients reach {math.sqrt(best.cost):.3g}; take {wanted} (`coefficients`)"
    )


def _misfit_of_floats(tables: TableSet, fn: Function, lo: float, hi: float) -> str | None:
    search = tables.meta.get("search", {})
    straight = {key: math.inf for key, lines in search.get("bound_of", {}).items() if lines == EXACT_LINES}
    for key, rounding in {**search.get("rounding", {}), **straight}.items():
        error = math.sqrt(search["cost"][key])
        y = grid_samples(fn, lo, hi).y
        spread, largest = float(np.std(y)), float(np.abs(y).max(initial=0.0))
        if spread <= _FLAT * largest and error <= format_of(tables[key].coefficients).ulp(largest):
            continue
        if tables.meta.get("objective") != "squared" or error <= _SHARE * spread or 1.0 + rounding <= _TIMES**2:
            continue
        return (
            f"{tables[key].coefficients} cannot hold {fn.name} over [{lo:g}, {hi:g}]: the error is {error:.3g} (root "
            f"mean square), where as many lines with real coefficients reach {error / math.sqrt(1.0 + rounding):.3g}; "
            "take fp32 (`coefficients`)"
        )
    return None


def coarse(tables: TableSet) -> str | None:
    """A line on fixed-point coefficients whose step is coarser than one of an output of more than 8 bits, and than 16
    bits could have it; None otherwise.
    """
    out, table = tables.meta.get("output"), next(iter(tables.values()))
    if out is None or out["bits"] <= 8 or not table.coefficients.startswith("q"):
        return None
    fmt = format_of(table.coefficients)
    fraction = min(math.ceil(-math.log2(out["scale"])), 15 - fmt.integer_bits)
    if fmt.step <= out["scale"] or fraction <= fmt.fraction_bits:
        return None
    finer = f"q{fmt.integer_bits}.{fraction}"
    steps = fmt.step / out["scale"]
    return f"one step of {fmt.name} is {steps:g} steps of the output; take {finer} (--coefficients)"

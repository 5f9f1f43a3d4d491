"""Tables made in the tests themselves, without a search: equal pieces, least-squares lines, coefficients rounded to the
format.
"""

import itertools

import numpy as np

from lutc import functions
from lutc.formats.codes import Inputs
from lutc.table.bodies import Cells, Lines
from lutc.table.table import Table
from lutc.table.table_set import TableSet


def fitted_lines(fn, lo, hi, entries, grid, step=None, left=None, right=None) -> Table:
    """`entries` segments over [lo, hi] (tails included), breakpoints on `grid`, coefficients on `step`
    (None: floats).
    """
    inner = entries - (left is not None) - (right is not None)
    cuts = np.unique(np.round(np.linspace(lo, hi, inner + 1) / grid) * grid)
    slopes, intercepts = [], []
    for a, b in itertools.pairwise(cuts):
        x = np.linspace(a, b, 65)
        k, t = np.polyfit(x, fn(x), 1)
        if step is not None:
            k = np.round(k / step) * step
            t = np.round(np.mean(fn(x) - k * x) / step) * step
        slopes.append(k)
        intercepts.append(t)
    breakpoints = list(cuts[1:-1])
    if left is not None:
        slopes.insert(0, left.slope), intercepts.insert(0, left.intercept), breakpoints.insert(0, cuts[0])
    if right is not None:
        slopes.append(right.slope), intercepts.append(right.intercept), breakpoints.append(cuts[-1])
    name = "fp32" if step is None else {2.0**-6: "q1.6", 2.0**-5: "q2.5"}[step]
    if step is None:
        slopes, intercepts = np.float32(slopes), np.float32(intercepts)
    return Table(
        Lines(np.array(breakpoints), np.array(slopes), np.array(intercepts)), left=left, right=right, coefficients=name
    )


def int_tables(name, entries=8, powers=range(7), step=2.0**-6) -> TableSet:
    """A set over int8 codes at scales 2**-b."""
    fn = functions.get(name)
    if fn.coefficients == "q2.5":
        step = 2.0**-5
    hi = fn.range[1]
    tables, inputs = {}, {}
    for b in powers:
        lo = np.ceil(fn.range[0] * 2.0**b) / 2.0**b
        top = min(hi, 127 / 2.0**b) if fn.right is None else hi
        # A table with few codes in its range gets fewer entries: a piece is at least one step of the grid.
        count = min(entries, int((top - lo) * 2.0**b) + (fn.left is not None) + (fn.right is not None))
        tables[str(b)] = fitted_lines(fn, lo, top, count, 2.0**-b, step, fn.left, fn.right)
        inputs[str(b)] = Inputs(8, 2.0**-b)
    return TableSet(name, tables, inputs, fn.name)


def float_tables(name, lo, hi, entries=32) -> TableSet:
    """fp32 lines over [lo, hi] with the function's tails."""
    fn = functions.get(name)
    return TableSet(name, {"fp32": fitted_lines(fn, lo, hi, entries, 2.0**-20, None, fn.left, fn.right)}, {}, fn.name)


def cell_tables(name, cuts, pieces, left=None, right=None) -> TableSet:
    """Cells x values (FPLUT), sampled from the function."""
    fn = functions.get(name)
    body = Cells(np.array(cuts, float), tuple(pieces), np.zeros(sum(pieces) + 1))
    return TableSet(
        name,
        {"fp32": Table(Cells(body.cut_points, body.pieces, np.float32(fn(body.edges))), left=left, right=right)},
        {},
        fn.name,
    )

"""Tables of every addressing, prologue and tail, made by hand, and inputs at which backends tend to disagree."""

import numpy as np

from lutc.formats.codes import Inputs
from lutc.functions import Line
from lutc.lower import plans
from lutc.lower.segments import segments
from lutc.table.bodies import Cells, Direct, Lines
from lutc.table.domain import Domain
from lutc.table.prologues import AbsPrologue, ExponentPrologue, PeriodPrologue
from lutc.table.table import Table
from lutc.table.table_set import TableSet

CUTS = [-20.359375, -17.109375, -8.3671875, -1.9755859375, -0.255615234375, -0.007244110107421875]
CUTS += [0.0072174072265625, 0.228515625, 1.58203125, 10.46875, 65504.0]  # arXiv:2602.02988
PIECES = (1,) + (32,) * 8 + (1,)


def _q(values) -> np.ndarray:
    return np.asarray(values, float) / 64


def _silu(x):
    return x / (1 + np.exp(-x))


def _floats(seed: int, entries: int) -> Table:
    rng = np.random.default_rng(seed)
    return Table(
        Lines(
            *(
                np.float32(v)
                for v in (np.sort(rng.normal(size=entries - 1) * 2), rng.normal(size=entries), rng.normal(size=entries))
            )
        )
    )


def _cells(left, right) -> Table:
    edges = Cells(CUTS, PIECES, np.zeros(sum(PIECES) + 1)).edges
    return Table(Cells(CUTS, PIECES, np.float32(_silu(edges))), left=left, right=right)


GRID = Lines(
    [-3, -1.25, -0.5, 0.25, 0.75, 1.5, 2.75], _q([0, -6, -3, 20, 60, 70, 66, 64]), _q([0, -15, -11, -1, 0, -4, -6, 0])
)
FLAT = Lines([-4, -2, 0, 2, 4], _q([0, 4, 12, 12, 4, 0]), _q([0, 20, 30, 30, 44, 64]))
TABLES = {
    "grid": Table(GRID, left=Line(0, 0), right=Line(1, 0), coefficients="q1.6"),
    "flat ends": Table(FLAT, left=Line(0, 0), right=Line(0, 1), coefficients="q1.6"),
    "right of 0": Table(Lines([1.0, 1.5, 3.0], _q([0, -20, -10, 0]), _q([64, 80, 60, 20])), coefficients="q1.6"),
    "one line": Table(Lines([], [0.5], [-0.25])),
    "floats": _floats(0, 16),
    "many floats": _floats(1, 200),
    "close": Table(
        Lines(np.float32([1.0, 1.0000001, 1.0000002, 5.0]), [1.0, 2.0, 3.0, 4.0, 5.0], [0.0, 1.0, 2.0, 3.0, 4.0])
    ),
    "abs": Table(
        Lines([0.5, 1, 2.5], _q([-30, -10, 8, 0]), _q([0, -8, -20, 0])),
        AbsPrologue((1, 1, 0), (1, 0, 0)),
        None,
        Line(0, 0),
        "q1.6",
    ),
    "odd": Table(
        Lines([1.0, 2.0], _q([60, 20, 0]), _q([0, 40, 64])),
        AbsPrologue((1, 0, 0), (-1, 0, 0)),
        None,
        Line(0, 1),
        "q1.6",
    ),
    "cells": _cells(None, None),
    "cells with tails": _cells(Line(0, 0), Line(1, 0)),
    "codes": Table(Direct(np.float32(np.random.default_rng(2).normal(size=256)), 8, 1 / 32, 3)),
    "reciprocal": Table(Lines([1.25, 1.5], _q([-50, -40, -30]), _q([114, 100, 84])), ExponentPrologue(1, -1, 0, True)),
    "logarithm": Table(
        Lines([1.25, 1.5], _q([60, 50, 40]), _q([-60, -47, -32])), ExponentPrologue(1, 0, 0.6931471805599453)
    ),
    "square": Table(Lines([1.25, 1.5], _q([140, 170, 220]), _q([-78, -116, -190])), ExponentPrologue(1, 2, even=True)),
    "two steps": Table(
        Lines([1.25, 1.5, 2.75], _q([-25, -19, -12, -7]), _q([88, 80, 70, 60])), ExponentPrologue(2, -1)
    ),
    "exponential": Table(
        Lines(np.float32([0.25, 0.4]), _q([72, 90, 110]), _q([64, 60, 52])), PeriodPrologue(0.6931471805599453, 1)
    ),
    "bounded": Table(Lines([-0.5, 0.5], _q([60, -40, 50]), _q([0, 32, 10])), domain=Domain(-1.5, 0.75, 0, 1)),
    "from a pole": Table(
        Lines([1.0, 2.0], _q([60, 20, 0]), _q([0, 40, 64])), left=None, right=Line(0, 1), domain=Domain(0.0, None, -1)
    ),
    "sine": Table(
        Lines(np.float32([1.25, 3, 4.5]), _q([60, -40, -30, 50]), _q([0, 32, 10, -30])),
        PeriodPrologue(6.283185307179586),
    ),
}
PIECEWISE = [name for name, table in TABLES.items() if table.prologue is None or table.prologue.kind == "abs"]
SPECIAL = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 1e-38, -1e-38, 3e38, -3e38, 65504.0, -65504.0])


def inputs(table: Table, dtype: str = "fp32") -> np.ndarray:
    """All codes of a 16-bit dtype; else every cut and both its neighbours, special values and normal ones."""
    if dtype in ("fp16", "bf16"):
        return plans.all_codes(dtype)
    number = plans.DTYPES[dtype]
    plain = table.prologue is None or table.prologue.kind == "abs"
    cuts = (segments(table, dtype).thresholds if plain else table.body.breakpoints).astype(number)
    around = [cuts, np.nextafter(cuts, number.type(np.inf)), np.nextafter(cuts, number.type(-np.inf))]
    rng = np.random.default_rng(3)
    return np.concatenate([*around, SPECIAL.astype(number), (rng.normal(size=3001) * 4).astype(number)])


def same(a, b) -> np.ndarray:
    """Elementwise equality; NaN equals NaN."""
    a, b = plans.widened(a), plans.widened(b)
    return (a == b) | (np.isnan(a) & np.isnan(b))


def table_set(name: str) -> TableSet:
    table = TABLES[name]
    if isinstance(table.body, Direct):
        return TableSet(
            name, {"codes": table}, {"codes": Inputs(table.body.bits, table.body.scale, table.body.zero_point)}
        )
    return TableSet(name, {"fp32" if table.coefficients == "fp32" else "5": table})

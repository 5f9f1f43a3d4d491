"""How far a table stands for its function: to which ends, and to infinity behind range reduction and tails."""

from __future__ import annotations

import math

from lutc import functions
from lutc.functions import Line
from lutc.table.bodies import Cells, Exponents, Lines
from lutc.table.prologues import AbsPrologue
from lutc.table.table import Table
from lutc.table.table_set import TableSet

_SAME = 1e-3  # an end segment as near as that to a tail is one


def reach(tables: TableSet, key: str) -> tuple[float, float]:
    """(lo, hi) of x; beyond, the end segment or piece goes on, where there is no tail. Of tables of lines the ends are
    those of the range that they were made for, (-inf, inf) where a file does not say, and an end segment that is the
    function's tail counts as one; of cells their cut points.
    """
    table = tables[key]
    if table.prologue is not None and not isinstance(table.prologue, AbsPrologue):
        return -math.inf, math.inf
    lo, hi = _ends(tables, table)
    if table.prologue is not None:
        far = math.inf if table.right is not None else max(abs(lo), abs(hi))
        return -far, far
    left, right = table.left is not None, table.right is not None
    fn = functions.find(tables.function)
    if isinstance(table.body, Lines) and fn is not None:
        left, right = left or _is_line(table.body, 0, fn.left), right or _is_line(table.body, -1, fn.right)
    return -math.inf if left else lo, math.inf if right else hi


def _is_line(body: Lines, end: int, tail: Line | None) -> bool:
    if tail is None:
        return False
    off = abs(body.slopes[end] - tail.slope), abs(body.intercepts[end] - tail.intercept)
    return max(off) <= _SAME


def _ends(tables: TableSet, table: Table) -> tuple[float, float]:
    if isinstance(table.body, (Cells, Exponents)):
        return float(table.body.edges[0]), float(table.body.edges[-1])
    return tables.range or (-math.inf, math.inf)

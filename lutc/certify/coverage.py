"""Which table of a set serves an interval: composed operators (softmax, norms) need exp on (-inf, 0], 1/x on [1, 2),
1/sqrt(x) on [1, 4).

A table is judged by what it computes, not by what its file claims: the worst error over a dense grid of the interval
decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lutc import functions
from lutc.errors import LutcError
from lutc.table.library import TableSource, as_table_set
from lutc.table.table import Table
from lutc.table.table_set import TableSet

# Two lines over [1, 2) are within 2 % of 1/x; a table off by an eighth was made for another interval or function.
TOLERANCE = 0.125
_POINTS = 4096


@dataclass(frozen=True)
class Interval:
    """[lo, hi), with hi itself where `closed`, on which `function` is needed; errors are absolute or relative."""

    function: str
    lo: float
    hi: float
    closed: bool
    relative: bool

    def points(self) -> np.ndarray:
        last = self.hi if self.closed else np.nextafter(self.hi, self.lo)
        return np.append(np.linspace(self.lo, self.hi, _POINTS, endpoint=False), last)

    def __str__(self) -> str:
        return f"[{self.lo:g}, {self.hi:g}{']' if self.closed else ')'}"


# exp(-16) = 1e-7; from there to -inf every useful table is its left tail.
EXP = Interval("exp", -16.0, 0.0, closed=True, relative=False)
RECIPROCAL = Interval("reciprocal", 1.0, 2.0, closed=False, relative=True)
RSQRT = Interval("rsqrt", 1.0, 4.0, closed=False, relative=True)


def worst_error(table: Table, interval: Interval) -> float:
    """Largest error of the table over the interval, inf where it is not finite."""
    x = interval.points()
    exact = functions.get(interval.function)(x)
    error = np.abs(table(x) - exact)
    return float(np.max(np.nan_to_num(error / exact if interval.relative else error, nan=np.inf, posinf=np.inf)))


def serving_key(source: TableSource, interval: Interval, keys: Sequence[str] | None = None) -> tuple[TableSet, str]:
    """The set and the key of its table that is best on the interval, among `keys` if given.

    Raises LutcError for a table of another function and where no table of the set comes within an eighth of the
    function everywhere.
    """
    tables = as_table_set(source)
    if tables.function not in (None, interval.function):
        needed = interval.function
        raise LutcError(
            f"a table of {needed} is needed here; '{tables.name}' is one of {tables.function}: give a table of {needed}"
        )
    errors = {key: worst_error(tables[key], interval) for key in (tables if keys is None else keys)}
    best = min(errors, key=lambda key: errors[key])
    if not errors[best] <= TOLERANCE:
        kind = "relative" if interval.relative else "absolute"
        raise LutcError(
            f"no table in '{tables.name}' covers {interval.function} on {interval}: the best, '{best}', has {kind} "
            "error "
            f"{errors[best]:.3g} there and {TOLERANCE:g} is allowed; compile it over a range that holds this interval "
            "(`range`)"
        )
    return tables, best

"""Tables: frozen, self-validating, and evaluated in float64 as the reference for every backend.

A table is a prologue (range reduction), a body (addressing and payload) and tails. All of them are numbers; nothing
here knows a function's name, JSON or torch. Inputs and outputs of every evaluation are float64 arrays of any shape. NaN
stays NaN; +-inf follow the end segment or the tail, with the intercept alone where a slope is 0.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from lutc.checks import is_finite
from lutc.errors import LutcError
from lutc.functions import Line
from lutc.table.bodies import Cells, Direct, Exponents, Lines, binades, without_empty_segments
from lutc.table.domain import Domain
from lutc.table.prologues import AbsPrologue, ExponentPrologue, PeriodPrologue, Prologue, line

__all__ = [
    "AbsPrologue",
    "Body",
    "Cells",
    "Direct",
    "Domain",
    "ExponentPrologue",
    "Exponents",
    "Lines",
    "PeriodPrologue",
    "Prologue",
    "Table",
    "binades",
    "line",
    "without_empty_segments",
]


Body = Lines | Cells | Exponents | Direct


@dataclass(frozen=True, eq=False)
class Table:
    """body over a prologue, with tails and a domain. `left` / `right`: the line that holds outside the body; None where
    the end segment goes on.

    For `Lines` the tails are the first and last entries themselves (checked). For `Cells` and `Exponents` they hold for
    x < first cut point and x >= last cut point. Tails act on the reduced input, behind the prologue; the domain is that
    of x itself, None for all x.
    """

    body: Body
    prologue: Prologue | None = None
    left: Line | None = None
    right: Line | None = None
    coefficients: str = field(default="fp32")
    domain: Domain | None = None

    def __post_init__(self):
        for tail, side in ((self.left, "left"), (self.right, "right")):
            if tail is not None and not (is_finite(tail.slope) and is_finite(tail.intercept)):
                raise LutcError(f"the {side} tail is a line with a finite slope and intercept; given {str(tail):.120}")
            if tail is not None and isinstance(self.body, Direct):
                raise LutcError(f"a direct table has a value for every code and no {side} tail; given {tail}")
        if self.domain is not None and self.prologue is not None and not isinstance(self.prologue, AbsPrologue):
            raise LutcError(
                f"range reduction by {self.prologue.kind} has a domain of its own; given another, {self.domain}"
            )
        if isinstance(self.body, Lines):
            for tail, end, side in ((self.left, 0, "left"), (self.right, -1, "right")):
                entry = Line(float(self.body.slopes[end]), float(self.body.intercepts[end]))
                if tail is not None and tail != entry:
                    raise LutcError(
                        f"the {side} tail {tail} must be the {'first' if end == 0 else 'last'} entry of the table, "
                        f"which is {entry}"
                    )

    def __repr__(self) -> str:
        kind = "" if self.prologue is None else f" behind {self.prologue.kind}"
        return (
            f"<Table {self.entries} {'entries' if isinstance(self.body, Lines) else 'values'}, "
            f"{self.coefficients}{kind}>"
        )

    @property
    def entries(self) -> int:
        """Segments of a `Lines` body, values of the others."""
        return self.body.entries

    def evaluate_reduced(self, x: ArrayLike) -> np.ndarray:
        """Body and tails, without the prologue."""
        x = np.asarray(x, np.float64)
        value = self.body(x)
        if isinstance(self.body, Lines):
            return value
        if self.left is not None:
            value = np.where(x < self.body.cut_points[0], line(self.left.slope, self.left.intercept, x), value)
        if self.right is not None:
            value = np.where(x >= self.body.cut_points[-1], line(self.right.slope, self.right.intercept, x), value)
        return value

    def __call__(self, x) -> np.ndarray:
        """The table's value at x: float64 in, float64 out, any shape."""
        x = np.asarray(x, np.float64)
        value = self.prologue(self.evaluate_reduced, x) if self.prologue is not None else self.evaluate_reduced(x)
        return value if self.domain is None else self.domain.restrict(value, x)

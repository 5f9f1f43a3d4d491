"""What a patch puts in a function's place."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

from torch import nn

from lutc.errors import LutcError
from lutc.functions import in_torch
from lutc.nn.dequantised_rows import DequantisedNorm
from lutc.nn.lut import LUT
from lutc.nn.patching.quantised import behind, quantised_function
from lutc.table.table_set import TableSet

_EVERYWHERE = (-math.inf, math.inf)


@dataclass(frozen=True)
class Operator:
    """A module to put in a function's place, and the name that a report gives it. tables: what it was made of, if it
    was asked for by a table. exact_outside: whether the function itself runs where the table holds no more. error: of a
    table that was made for the place, for the report.
    """

    module: nn.Module
    name: str
    tables: TableSet | None = None
    exact_outside: bool = False
    error: str = ""

    @property
    def function(self) -> str | None:
        """Registry name of the function it stands for, None where it does not say."""
        return getattr(getattr(self.module, "tables", None), "function", None)

    @property
    def answers_calls(self) -> bool:
        """Whether it can stand in for a call in a forward: an integer norm is made of weights, which a call brings."""
        return not isinstance(self.module, DequantisedNorm)

    @property
    def open_ends(self) -> bool:
        """Whether a line goes on somewhere, where the function does not."""
        return not self.exact_outside and getattr(self.module, "ends", _EVERYWHERE) != _EVERYWHERE

    @property
    def note(self) -> str:
        """What a report adds: the error, and where the table ends."""
        ends = getattr(self.module, "ends", _EVERYWHERE)
        if ends == _EVERYWHERE:
            return self.error
        goes_on = "the exact function runs" if self.exact_outside else "its last segment goes on as a line"
        beyond = f"beyond {' and '.join(f'{end:g}' for end in ends if math.isfinite(end))} {goes_on}"
        return f"{self.error}; {beyond}" if self.error else beyond

    def fresh(self, path: str, exact: Any = None) -> nn.Module:
        """A module for the site at `path`, where `exact` (a module or function; None for calls in a forward) stands. A
        table goes behind the quantiser that stands there.
        """
        if self.tables is not None and quantised_function(exact) is not None:
            return behind(exact.quantise, self.tables)
        if self.exact_outside and self.tables is not None and not in_torch.known(self.tables.function):
            if exact is None:
                raise LutcError(
                    f"outside='exact' runs the function itself, which torch does not know of {self.tables.function!r}, "
                    f"and at {path} there is only a call: give a module that computes it"
                )
            return LUT(self.tables, outside=exact)
        return copy.deepcopy(self.module)


def table_operator(tables: TableSet, name: str, outside: str, error: str = "") -> Operator:
    """A table as an operator. outside: "table", or "exact" for the function itself beyond the table's ends."""
    exact = outside == "exact"
    known = exact and in_torch.known(tables.function)
    return Operator(LUT(tables, outside="exact" if known else "table"), name, tables, exact, error)

"""The prologue of a table: the function's own range reduction, half of a symmetric function, or none."""

from __future__ import annotations

from lutc.errors import LutcError
from lutc.functions import FUNCTIONS, Function
from lutc.table.prologues import AbsPrologue, ExponentPrologue, PeriodPrologue, Prologue

PROLOGUES = ("auto", "none", "reduce", "abs")


def make_prologue(fn: Function, choice: str) -> Prologue | None:
    """The prologue that is meant: "auto", range reduction where the function has one, or |x| if it is even; "none";
    "reduce"; "abs".
    """
    if choice not in PROLOGUES:
        raise LutcError(f"unknown prologue {choice!r}; choose one of {', '.join(PROLOGUES)}")
    if choice == "abs":
        if fn.symmetry is None:
            known = ", ".join(name for name, other in FUNCTIONS.items() if other.symmetry is not None)
            raise LutcError(f"{fn.name} has no symmetry to store half of; functions that have: {known}")
        return AbsPrologue(fn.symmetry.positive, fn.symmetry.negative)
    if choice == "reduce" and fn.reduction is None:
        known = ", ".join(name for name, other in FUNCTIONS.items() if other.reduction is not None)
        raise LutcError(f"{fn.name} has no range reduction; functions that have: {known}")
    if (
        choice == "auto"
        and fn.reduction is None
        and fn.symmetry is not None
        and fn.symmetry.positive == fn.symmetry.negative
    ):
        return AbsPrologue(
            fn.symmetry.positive, fn.symmetry.negative
        )  # an even function: nothing but its half is needed
    if choice == "none" or fn.reduction is None:
        return None
    reduction = fn.reduction
    if reduction.kind == "period":
        return PeriodPrologue(reduction.period, reduction.growth)
    return ExponentPrologue(reduction.step, reduction.growth, reduction.offset, reduction.odd, reduction.even)


def _reduced_range(prologue, r) -> tuple[float, float]:
    if prologue.kind == "exponent":
        return 1.0, 2.0**prologue.step
    return (0.0, prologue.period) if prologue.kind == "period" else (float(r[0]), float(r[-1]))

"""FPLUT: floating-point tables over fp16 cut points (arXiv:2602.02988).

The chain: function -> problem (samples behind range reduction) -> interval costs -> cut points -> values -> Table ->
certificate -> TableSet.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

import lutc
from lutc import formats, functions
from lutc.certify.certificate import certify
from lutc.certify.floats import certify_float
from lutc.compiler.prologue import PROLOGUES
from lutc.costs.intervals import IntervalCosts, edges_between
from lutc.errors import LutcError
from lutc.fplut.exponents import build_exponents
from lutc.fplut.problem import NORM_OF, IntervalProblem, make_problem, through_zero
from lutc.fplut.proof import proven
from lutc.fplut.values import STORE, fitted
from lutc.functions import Function
from lutc.measures import RELATIVE_FLOOR, rounded
from lutc.search import cutpoints
from lutc.table.bodies import Cells
from lutc.table.table import Table
from lutc.table.table_set import TableSet

__all__ = ["ADDRESSING", "FORMATS", "NORM_OF", "PROLOGUES", "QUALITIES", "VALUES", "FplutSettings", "compile_fplut"]

ADDRESSING = ("cells", "exponent")
FORMATS = tuple(STORE)
PROMISE = 0.01  # relative error, for every input; a table that exceeds it says where and why
QUALITIES = ("quick", "best")
ARITHMETICS = ("fp32", "fp16_rne", "fp16_trunc")
VALUES = ("fitted", "sampled")


@dataclass(frozen=True)
class FplutSettings:
    """What to compile, besides the function.

    cut_points: fixed ones, None to search for `n_cut_points`. pieces: of every interval but the first and the last,
    which have one; or a tuple, one per interval; or None for the best powers of two of the same total. values: "fitted"
    or "sampled". formats: of the stored values, one table each. input: the 16-bit format whose values are the samples,
    and the cut points. budget: values of a table with exponent addressing. range: of x, None for wherever the function
    is finite. tails: False lets the end pieces go on. arithmetic: what the table will be computed in; "fp16_rne" and
    "fp16_trunc" search for values stored as fp16 with every step rounded so. proof: whether the file says what no such
    table goes below, which takes longer than the search.
    """

    cut_points: tuple[float, ...] | None = None
    n_cut_points: int = 11
    pieces: int | tuple[int, ...] | None = 32
    objective: str = "relative"
    values: str = "fitted"
    addressing: str = "cells"
    formats: tuple[str, ...] = ("fp16", "fp32")
    prologue: str = "auto"
    quality: str = "quick"
    input: str = "fp16"
    budget: int = 259
    range: tuple[float, float] | None = None
    tails: bool = True
    arithmetic: str = "fp32"
    proof: bool = True

    def __post_init__(self):
        choices = {
            "objective": NORM_OF,
            "values": VALUES,
            "addressing": ADDRESSING,
            "prologue": PROLOGUES,
            "quality": QUALITIES,
        }
        choices["arithmetic"] = ARITHMETICS
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise LutcError(f"unknown {name} {getattr(self, name)!r}; choose one of {', '.join(allowed)}")
        unknown = [name for name in self.formats if name not in FORMATS]
        if unknown or not self.formats:
            raise LutcError(f"values are stored as {', '.join(FORMATS)}; given {', '.join(unknown) or 'none'}")
        if self.arithmetic != "fp32" and (
            self.formats != ("fp16",) or self.addressing != "cells" or self.input != "fp16" or self.pieces is None
        ):
            raise LutcError(
                "a search for fp16 arithmetic takes values stored as fp16 alone, fp16 inputs, cells and given pieces"
            )
        if self.cut_points is not None:
            object.__setattr__(self, "cut_points", tuple(float(cut) for cut in self.cut_points))
            object.__setattr__(self, "n_cut_points", len(self.cut_points))
            if self.prologue == "auto":
                object.__setattr__(self, "prologue", "none")  # cut points given are those of x
        if self.n_cut_points < 3:
            raise LutcError(f"a table has at least 3 cut points; given {self.n_cut_points}")
        if self.pieces is not None:
            object.__setattr__(self, "pieces", self._pieces(self.pieces))

    def _pieces(self, given) -> tuple[int, ...]:
        intervals = self.n_cut_points - 1
        pieces = _equal_pieces(self.n_cut_points, given) if isinstance(given, int) else tuple(given)
        if len(pieces) != intervals:
            raise LutcError(
                f"{self.n_cut_points} cut points bound {intervals} intervals; given pieces for {len(pieces)}"
            )
        if not all(isinstance(p, int) and not isinstance(p, bool) and p > 0 and p & (p - 1) == 0 for p in pieces):
            raise LutcError(
                f"pieces are powers of two (1, 2, 4, ..., 32, 64); given {', '.join(map(str, sorted(set(pieces))))}"
            )
        return pieces


def _equal_pieces(n_cut_points: int, count: int = 32) -> tuple[int, ...]:
    """The usual pieces of each interval: one in the first and the last."""
    return (1, *(count,) * (n_cut_points - 3), 1)


def compile_fplut(fn: Function | str, *, name: str | None = None, **options) -> TableSet:
    """Compile a function into a table set with one table per stored format; options are the fields of `FplutSettings`.

    fn: a Function or a registered name. name: top key of the file. The same call gives the same bytes. LutcError for
    whatever cannot be compiled: cut points that do not increase, leave the domain or are no values of the input format,
    a function that is not finite between them, pieces that are no powers of two.
    """
    settings = FplutSettings(**options)
    typed = fn if isinstance(fn, str) else fn.name
    fn = functions.load(fn) if isinstance(fn, str) else fn
    problem = make_problem(fn, settings.objective, settings.prologue, settings.input, settings.range, settings.tails)
    build = build_exponents if settings.addressing == "exponent" else build_cells
    built = {key: build(problem, settings, key) for key in settings.formats}
    tables = {key: table for key, (table, _) in built.items()}
    records = {key: record for key, (_, record) in built.items()}
    meta = {
        "range": list(fn.range),
        "objective": settings.objective,
        "search": proven(problem, settings, tables, records) if settings.proof else records,
    }
    if problem.function.range[0] <= 0.0 <= problem.function.range[1] and problem.zero is not None:
        meta |= {"promises": ["through-zero"]} if all(map(through_zero, tables.values())) else {}
    found = {
        f"{key} values, {dtype} inputs": exception(problem, tables[key], dtype)
        for key in tables
        for dtype in ("fp16", "bf16")
    }
    if any(found.values()):
        meta["exceptions"] = {where: why for where, why in found.items() if why}
    compiled = TableSet(name or typed, tables, {}, fn.name, meta)
    return replace(compiled, meta={**meta, "certificate": certify(compiled, fn), "version": lutc.__version__})


def exception(problem: IntervalProblem, table: Table, dtype: str) -> dict | None:
    """Where the table is off by more than 1 % relative on inputs of `dtype`, and why; None where it nowhere is."""
    fmt, fn = formats.get(dtype), problem.function
    x = fmt.values()
    y = fn(x)
    with np.errstate(all="ignore"):
        error = np.abs(table(x) - y) / np.maximum(np.abs(y), RELATIVE_FLOOR)
    off = np.isfinite(y) & (np.abs(y) <= fmt.max) & ~(error <= PROMISE)
    if not off.any():
        return None
    x, y = x[off], y[off]
    if table.prologue is not None and table.prologue.kind == "period":
        why = "the remainder after so many periods is beyond float64"
    elif ((x < problem.range[0]) | (x > problem.range[1])).all():
        why = (
            f"outside [{problem.range[0]:g}, {problem.range[1]:g}], which the table was made for; a tail or end piece "
            "goes on there"
        )
    elif table.prologue is not None and np.abs(y).max() < 2.0**-4:
        why = (
            f"next to a zero of the function, where the steps of {table.coefficients} values between range reductions "
            "are large beside it"
        )
    else:
        why = (
            f"more octaves than {table.entries} values can follow, and inputs outside [{problem.range[0]:g}, "
            f"{problem.range[1]:g}]"
        )
    return {"inputs": int(off.sum()), "from": float(x[0]), "to": float(x[-1]), "why": why}


def build_cells(problem: IntervalProblem, settings: FplutSettings, key: str) -> tuple[Table, dict]:
    """A table with cut points and values stored as `key`, and the record of its search."""
    store = STORE[key]
    # The cap makes most candidates look alike, so that the search starts without it and ends with it.
    free, costs = (
        IntervalCosts(
            replace(problem.targets, cap=cap),
            problem.places,
            problem.f,
            problem.norm,
            store,
            problem.left,
            problem.right,
        )
        for cap in (np.inf, problem.targets.cap)
    )
    record = {"name": "cutpoints", "input": settings.input, "values": settings.values}
    if settings.cut_points is not None:
        positions, pieces = _positions(problem, settings), settings.pieces or _equal_pieces(settings.n_cut_points)
        record["cut_points"] = "given"
    else:
        if settings.arithmetic != "fp32":
            from lutc.costs.half_intervals import HalfCosts  # brings numba

            free = costs = HalfCosts(free, settings.arithmetic == "fp16_trunc")
            record["arithmetic"] = settings.arithmetic
        equal = settings.pieces or _equal_pieces(settings.n_cut_points)
        found = cutpoints.search(
            free, equal, settings.quality if settings.arithmetic == "fp32" else "coarse", problem.anchors
        )
        if settings.pieces is None:
            other = cutpoints.search_pieces(free, len(equal), sum(equal), problem.anchors)
            found = min(found, other, key=lambda result: result.cost)
            record["pieces"] = "searched"
        found = cutpoints.refine(costs, found, problem.anchors)
        positions, pieces = found.cuts, found.pieces
        record |= {"cut_points": "searched", "quality": settings.quality, "sampled": rounded(problem.mean(found.cost))}
    table = _table(problem, settings, key, positions, pieces)
    zero = problem.zero
    if zero is not None and not through_zero(table):
        other = None
        if settings.cut_points is None and settings.arithmetic == "fp32" and not (table.body.edges == 0.0).any():
            other = cutpoints.through(replace(costs, knot=0.0), found, zero, problem.anchors)
        if other is not None:
            record["sampled"] = rounded(problem.mean(other.cost))
            positions, pieces = other.cuts, other.pieces
        if other is not None or (table.body.edges == 0.0).any():
            table = _table(problem, settings, key, positions, pieces, zero=True)
    return table, record


def _table(problem: IntervalProblem, settings: FplutSettings, key: str, positions, pieces, zero: bool = False) -> Table:
    """The table of these cuts with values stored as `key`; zero: the value at an edge at 0 is 0."""
    store, cuts = STORE[key], problem.places[list(positions)]
    edges = np.append(
        np.concatenate([edges_between(cuts[i], cuts[i + 1], p)[:-1] for i, p in enumerate(pieces)]), cuts[-1]
    )
    with np.errstate(all="ignore"):
        values = problem.f(edges)
    if not np.isfinite(values).all():
        raise LutcError(
            f"{problem.function.name} is not finite at {edges[~np.isfinite(values)][0]:g}, between its cuts; move the "
            "cut points"
        )
    sampled = store(values)
    values = fitted(problem, edges, values, key, zero)[0] if settings.values == "fitted" else sampled
    if not np.isfinite(values).all():
        raise LutcError(
            f"{problem.function.name} exceeds the range of {key} between its cuts; store the values as fp32 or narrow "
            "the range"
        )
    table, other = (
        Table(Cells(cuts, pieces, v), problem.prologue, problem.left, problem.right, key, problem.domain)
        for v in (values, sampled)
    )
    if (
        settings.arithmetic != "fp32"
    ):  # values are fitted for exact interpolation: where rounding undoes that, samples are better
        table = min(
            table,
            other,
            key=lambda t: certify_float(t, problem.function, "fp16", settings.arithmetic)["domain"]["mean_relative"],
        )
    return table


def _positions(problem: IntervalProblem, settings: FplutSettings) -> np.ndarray:
    """Where fixed cut points stand among the problem's places; LutcError for those that cannot."""
    cuts, places, fmt = np.asarray(settings.cut_points), problem.places, formats.get(settings.input)
    bad = ~(np.isfinite(cuts) & np.asarray(fmt.holds(cuts)))
    if bad.any():
        raise LutcError(
            f"cut point {cuts[bad][0]:.17g} is no finite value of {fmt.name}; the nearest is "
            f"{float(fmt.round(cuts[bad][0])):.17g}"
        )
    if (np.diff(cuts) <= 0).any():
        at = int(np.argmax(np.diff(cuts) <= 0))
        raise LutcError(f"cut points increase strictly; given {cuts[at]:g} before {cuts[at + 1]:g}")
    name, where = problem.function.name, f"[{places[0]:g}, {places[-1]:g}]"
    if cuts[0] < places[0] or cuts[-1] > places[-1]:
        raise LutcError(
            f"cut points of {name} lie in {where}, where it is finite in {fmt.name}; given {cuts[0]:g} to {cuts[-1]:g}"
        )
    reduction = problem.prologue
    if reduction is not None and (cuts[0] > problem.targets.x[0] or cuts[-1] < problem.targets.x[-1]):
        raise LutcError(
            f"behind its prologue {name} is looked up in {where}; the first and last cut point must span that"
        )
    return np.searchsorted(places, cuts)

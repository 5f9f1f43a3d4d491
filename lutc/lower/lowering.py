"""Lowering: Table + dtype -> Plan.

`lower` picks the first plan that fits the table's segments (`lutc.lower.segments`). 16-bit plans that compute are taken
only if they equal the float64 evaluation, rounded once, on all 65,536 codes, with a fused and with an unfused
multiply-add.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lutc import table as tables
from lutc.errors import LutcError
from lutc.lower import plans, reduced_plans
from lutc.lower.reduced_plans import Reduced, Reference
from lutc.lower.segments import Segments, reduced_segments, segments, slope
from lutc.table.table import Table

MAX_CELLS = 4096  # of equal width
MAX_BIT_CELLS = (
    16384  # of those found by the bits of a float; a CPU searches 259 values in the time of five such accesses
)
MIN_CHAIN, MAX_CHAIN = 8, 16  # sizes that have kernels of their own
_INFINITY = 0x7F800000
DTYPE_NAMES = tuple(plans.DTYPES)


def single(lines: Segments) -> tuple[np.ndarray, np.ndarray]:
    """Slopes and intercepts in float32. What rounding a slope costs at the end of its segment nearest to 0 goes into
    the intercept.
    """
    slopes = lines.slopes.astype(np.float32)
    start, end = np.r_[-np.inf, lines.thresholds], np.r_[lines.thresholds, np.inf]
    near = np.where(start > 0, start, np.where(end < 0, end, 0.0))
    near = np.clip(near, -plans.LARGEST, plans.LARGEST)
    return slopes, (lines.intercepts + (lines.slopes - slopes) * near).astype(np.float32)


def _uniform(lines: Segments, common: dict):
    before = np.nextafter(lines.thresholds.astype(np.float32), np.float32(-np.inf)).astype(np.float64)
    before = np.where(np.abs(before) == 0, 0.0, before)
    bits = next(
        (
            b
            for b in range(24)
            if (np.abs(before * 2.0**b) < 2.0**22).all() and (before * 2.0**b == np.rint(before * 2.0**b)).all()
        ),
        None,
    )
    if bits is None:
        return None
    grid = (before * 2.0**bits).astype(np.int64)
    # The cells reach at least to the one left of 0, which is where a GPU's conversion puts a NaN.
    first, last = (min(int(grid[0]) - 1, -1), max(int(grid[-1]), -1)) if grid.size else (-1, -1)
    if last - first + 1 > MAX_CELLS:
        return None
    segment = np.searchsorted(grid, np.arange(first, last + 1), side="right")
    per_cell = {name: common[name][segment] for name in ("slopes", "intercepts")}
    return plans.UniformPlan(bits=bits, first=first, **{**common, **per_cell})


def _magnitude(bits) -> np.ndarray:
    return np.asarray(bits, np.int64).astype(np.uint32).view(np.float32).astype(np.float64)


def _cells(lines: Segments, common: dict):
    cuts = lines.thresholds
    normal = [
        np.abs(cuts[sign * cuts >= 2.0**-126]).astype(np.float32).view(np.uint32).astype(np.int64) for sign in (1, -1)
    ]
    smallest = min((int(bits.min()) for bits in normal if bits.size), default=0)
    for shift in range(23, 8, -1):
        first = max((smallest >> shift) - 1, 0)
        last = tuple(int(bits.max() >> shift) + 1 if bits.size else first for bits in normal)
        if last[0] + last[1] - 2 * first + 2 > MAX_BIT_CELLS or max(last) >= _INFINITY >> shift:
            return None
        starts, ends = [], []
        for sign, high in zip((1, -1), last, strict=True):
            keys = np.arange(first, high + 1)
            near = np.where(
                keys == first, 0.0, _magnitude(keys << shift)
            )  # smallest and largest magnitude of each cell
            far = np.where(keys == high, np.inf, _magnitude(((keys + 1) << shift) - 1))
            starts.append(lines.index(near if sign > 0 else -far))
            ends.append(lines.index(far if sign > 0 else -near))
        start, end = np.concatenate(starts), np.concatenate(ends)
        if (end - start <= 1).all():
            threshold = np.where(end > start, np.append(cuts, np.nan)[start], -np.inf).astype(np.float32)
            return plans.CellsPlan(
                shift=shift, first=first, last=last, thresholds=threshold, base=(end - 1).astype(np.int32), **common
            )
    return None


def _search(lines: Segments, common: dict, least: int = 2):  # 2: pairs behind an even number of words lie on 8 bytes
    size = max(least, 1 << (lines.slopes.size - 1).bit_length())
    pad = size - lines.slopes.size
    thresholds = np.append(lines.thresholds, np.full(pad, np.nan)).astype(np.float32)
    padded = {name: np.append(common[name], np.repeat(common[name][-1], pad)) for name in ("slopes", "intercepts")}
    return plans.SearchPlan(thresholds=thresholds, **{**common, **padded})


def _chain(lines: Segments, common: dict):
    return _search(lines, common, MIN_CHAIN) if lines.slopes.size <= MAX_CHAIN else None


def _direct(table, dtype: str):
    x = plans.widened(plans.all_codes(dtype))
    return plans.DirectPlan(dtype, plans.round_to(table(x), dtype), plans.round_to(slope(table, x), dtype))


def _reference(table, dtype: str):
    prologue = table.prologue
    plain = prologue is None or isinstance(prologue, tables.AbsPrologue)
    lines, reduction = (
        (segments(table, "fp64"), ())
        if plain
        else (reduced_segments(table, "fp64"), reduced_plans.reduction_of(prologue))
    )
    return Reference(
        dtype, lines.thresholds, lines.slopes, lines.intercepts, table, lambda x: slope(table, x), reduction
    )


def _reduced(table, dtype: str):
    """Cells over the bits of the reduced input; None where some cell would hold two thresholds."""
    lines = reduced_segments(table, "fp64")
    top = 2.0**table.prologue.step if isinstance(table.prologue, tables.ExponentPrologue) else table.prologue.period
    inside = (lines.thresholds > 0) & (lines.thresholds <= top)  # the others tell no reduced inputs apart
    cuts = lines.thresholds[inside]
    segment = np.append(lines.index(0.0), np.flatnonzero(inside) + 1)
    bits = (cuts if cuts.size else np.ones(1)).view(np.int64)
    for shift in range(52, 36, -1):
        first, last = int(bits[0] >> shift) - 1, int(bits[-1] >> shift) + 1
        if last - first + 1 > MAX_BIT_CELLS:
            return None
        starts = (np.arange(first + 1, last + 1) << shift).view(np.float64)
        before = np.append(
            0, np.searchsorted(cuts, starts, side="left")
        )  # cuts below each cell, those on its start counted within
        count = np.diff(np.append(before, cuts.size))
        if (count <= 1).all():
            thresholds = np.where(count == 1, np.append(cuts, np.nan)[before], -np.inf)
            parts = (
                dtype,
                thresholds,
                lines.slopes[segment],
                lines.intercepts[segment],
                table,
                lambda x: slope(table, x),
            )
            base = (before + count - 1).astype(np.int32)
            return Reduced(*parts, reduced_plans.reduction_of(table.prologue), base, shift, first)
    return None


_LINEAR = {"chain": _chain, "uniform": _uniform, "cells": _cells, "search": _search}


def _exact(plan, table) -> bool:
    """Whether a 16-bit plan equals the table's float64 value rounded once on every code, fused or not."""
    x = plans.all_codes(plan.dtype)
    want = plans.round_to(table(plans.widened(x)), plan.dtype)
    nan = np.isnan(want)
    return all((((got := run(x)) == want) | (nan & np.isnan(got))).all() for run in (plan, plan.unfused))


def default_kinds(dtype: str) -> tuple[str, ...]:
    """Order in which `lower` tries: a direct table at 16 bits, arithmetic in fp32, float64 in fp64."""
    return {"fp64": ("reference",), "fp32": ("uniform", "cells", "search", "reduced", "reference")}.get(
        dtype, ("direct",)
    )


def lower(table: Table, dtype: str = "fp32", kinds: tuple[str, ...] | None = None) -> Any:
    """The first plan of `kinds` that fits `table` for inputs and outputs of `dtype` ('fp32', 'fp16', 'bf16', 'fp64').

    kinds: names among 'chain' (a search over 8 or 16 segments, for compare chains), 'uniform', 'cells', 'search',
    'direct', 'reduced' (fp32 behind an exponent or period prologue), 'reference'; by default those of
    `default_kinds(dtype)`. A plan fits where it holds the table within its limits and, at 16 bits, is exact on every
    code. 'search' fits every table without range reduction in fp32, 'direct' every table at 16 bits, 'reference' every
    table. Raises LutcError for an unknown dtype or kind, and where none fits.
    """
    if dtype not in plans.DTYPES:
        raise LutcError(f"unknown dtype {dtype!r}; known: {', '.join(DTYPE_NAMES)}")
    kinds = default_kinds(dtype) if kinds is None else tuple(kinds)
    half_width = dtype in ("fp16", "bf16")
    plain = table.prologue is None or isinstance(table.prologue, tables.AbsPrologue)
    lines = None
    for kind in kinds:
        if kind == "reference":
            return _reference(table, dtype)
        if kind == "direct":
            if half_width:
                return _direct(table, dtype)
        elif kind == "reduced":
            plan = None if plain or dtype != "fp32" else _reduced(table, dtype)
            if plan is not None:
                return plan
        elif kind not in _LINEAR:
            raise LutcError(f"unknown plan {kind!r}; known: {', '.join([*_LINEAR, 'direct', 'reduced', 'reference'])}")
        elif plain and dtype != "fp64":
            lines = lines or segments(table)
            if lines.thresholds.size and not (
                -plans.LARGEST < lines.thresholds[0] and lines.thresholds[-1] <= plans.LARGEST
            ):
                continue  # a segment of infinity alone, which the clamp to finite x would miss
            slopes, intercepts = single(lines)
            flat = {"flat_left": bool(slopes[0] == 0), "flat_right": bool(slopes[-1] == 0)}
            plan = _LINEAR[kind](lines, {"dtype": dtype, "slopes": slopes, "intercepts": intercepts, **flat})
            if plan is not None and (not half_width or _exact(plan, table)):
                return plan
    raise LutcError(
        f"none of the plans {', '.join(kinds)} fits this table in {dtype}; add 'reference', which fits every table"
    )

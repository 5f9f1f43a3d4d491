"""What the designs of a front take when Yosys synthesises their units: measured cells beside estimated costs."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from lutc import functions
from lutc.compiler import pipeline
from lutc.compiler.problem import scale_key
from lutc.errors import LutcError
from lutc.explore.baselines import SHIFTS, Baseline, compile_shared, uniform_table
from lutc.explore.designs import Design, Space
from lutc.explore.evolution import Exploration, compile_design
from lutc.formats.codes import round_to_codes
from lutc.hardware import handover, tools
from lutc.hardware.export.memory import memh
from lutc.hardware.options import Options
from lutc.hardware.rtl import direct
from lutc.hardware.synth import TARGETS, CellCounts, cells
from lutc.table.table import Table
from lutc.table.table_set import TableSet


def measure(
    found: Exploration, target: str, progress: Callable[[int], object] | None = None
) -> tuple[list[CellCounts], list[CellCounts | None]]:
    """Cells of each design of the front and of each baseline, combinational units with output codes. A set that is
    shared by GQA-LUT's scales is measured at the one that is explored. None of baselines for several scales other than
    those by shifts. progress(1) after each.

    LutcError without output codes, for an unknown target, or where Yosys is missing or fails.
    """
    if found.space.out is None:
        raise LutcError("cells are measured of units that give output codes; give `out`")
    if target not in TARGETS:
        raise LutcError(f"unknown target {target!r}; choose one of {', '.join(TARGETS)}")
    tools.need("yosys")
    made: list[dict[str, str] | None] = [_design(found.space, design) for design in found.front]
    made += [_baseline(found.space, baseline) for baseline in found.baselines]

    def measured(sources: dict[str, str] | None) -> CellCounts | None:
        result = None if sources is None else cells(sources, "t", target)
        if progress is not None:
            progress(1)
        return result

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        every = list(pool.map(measured, made))
    n = len(found.front)
    return [one for one in every[:n] if one is not None], every[n:]


def size(measured: CellCounts) -> int:
    """Gates of the generic target; elsewhere LUTs, with what a DSP stands for where there are some (100 LUTs)."""
    return measured.gates if measured.target == "gates" else measured.luts + 100 * measured.dsps


def undominated(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Of (error, size): whether no other is at most as large in both and smaller in one."""
    return [
        not any((e <= error and s <= area) and (e < error or s < area) for e, s in points) for error, area in points
    ]


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's, ties sharing their mean rank; NaN of fewer than two different values."""

    def ranks(values: Sequence[float]) -> np.ndarray:
        _, index, counts = np.unique(values, return_inverse=True, return_counts=True)
        last = np.cumsum(counts)
        return (last - (counts - 1) / 2.0)[index]

    first, second = ranks(a), ranks(b)
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")
    return float(np.corrcoef(first, second)[0, 1])


def _unit(tables: TableSet, space: Space, slopes: str = "", cut_step: int = 1) -> dict[str, str]:
    together = len(tables) > 1
    options = Options(out=space.out, latency=0, together=together, comparators=cut_step == 1, multiplier=not slopes)
    sources = handover.design("sv", "t", tables, options).sources
    if together:
        return sources
    (module,) = (name.removesuffix(".sv") for name in sources if name.endswith(".sv"))
    return {name: text.replace(f"module {module} ", "module t ") for name, text in sources.items()}


def _design(space: Space, design: Design) -> dict[str, str]:
    choice = design.choice
    return _unit(compile_design(space, design, "t"), space, choice.slopes, choice.cut_step)


def _baseline(space: Space, baseline: Baseline) -> dict[str, str] | None:
    if len(space.inputs) == 1 and baseline.kind == "direct":
        return _direct(space)
    if len(space.inputs) == 1 and baseline.kind == "shared":
        tables, key = compile_shared(space, baseline.cost.entries), scale_key(space.inputs[0])
        return _unit(_of_one(space, tables[key]), space)
    if len(space.inputs) == 1 and baseline.kind == "uniform":
        # one that is stored for |x| is written out whole, and then its cuts lie at no step
        step = 1 if baseline.half else baseline.cut_step
        return _unit(_of_one(space, uniform_table(space, baseline)), space, cut_step=step)
    if baseline.kind not in SHIFTS:
        return None
    tables = pipeline.compile(
        space.function,
        baseline.cost.entries,
        search="exact",
        inputs=space.inputs,
        range=space.range,
        tails=space.tails,
        coefficients=baseline.coefficients,
        slopes=baseline.kind,
        name="t",
    )
    return _unit(tables, space, baseline.kind)


def _of_one(space: Space, table: Table) -> TableSet:
    (inputs,) = space.inputs
    return TableSet("t", {"t": table}, {"t": inputs}, space.function)


def _direct(space: Space) -> dict[str, str]:
    """The rounded exact function of every code."""
    (inputs,), out = space.inputs, space.out
    assert out is not None
    with np.errstate(all="ignore"):
        values = np.asarray(functions.load(space.function, space.range)(inputs.x()), np.float64)
    codes = round_to_codes(out, np.nan_to_num(values))
    text, _, words = direct.module("t", codes, inputs.bits, out.bits, 0)
    if inputs.bits <= direct.LARGEST_CASE:
        return {"t.sv": text}
    return {"t.sv": text, "t_words.memh": memh(words, out.bits, "output codes by the bits of the input")}

"""What searched tables are held against: direct tables, uniform ones, and one set for all scales as
GQA-LUT stores it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from lutc import formats, hardware
from lutc.compiler import pipeline
from lutc.compiler.build import build
from lutc.compiler.problem import prepare, scale_key
from lutc.compiler.request import INT8, Request
from lutc.compiler.solve import segment_costs
from lutc.costs.points import Points
from lutc.costs.segments import SegmentCosts
from lutc.errors import LutcError
from lutc.explore.designs import Choice, Space, Workbench, places
from lutc.formats.codes import round_to_codes
from lutc.formats.numbers import numbers
from lutc.hardware.bits import Cost, shared_breakpoint_bits
from lutc.search.exact import exact
from lutc.table.table import Table
from lutc.table.table_set import TableSet

_VALUE_BITS = (8, 16)  # of a direct table where no output codes say it
_SHARED_ENTRIES = (8, 16, 32)
SHIFTS = ("pot", "apot:2")  # slopes that need no multiplier
_SHIFT_GAIN = 0.1  # of the error, for the next one to be listed
_SHIFT_ENTRIES = (4, 6, 8, 12, 16, 24, 32, 48, 64)
_CELLS = 64  # most segments of a uniform table


@dataclass(frozen=True)
class Baseline:
    """kind: "direct", "uniform", "pot", "apot:2" or "shared". error and cost as in `Design`.

    coefficients: format of the lines or values. half: stored for |x|. share: "all" where one table serves several
    scales. cut_step: codes of a uniform segment, at the finest scale.
    """

    kind: str
    coefficients: str
    half: bool
    error: float
    cost: Cost
    share: str = "none"
    cut_step: int = 1


def baselines(bench: Workbench) -> list[Baseline]:
    """All that make sense in the bench's space; of the uniform ones and those by shifts those that no
    other of the kind beats in error and stored bits.
    """
    shifts = [found for kind in SHIFTS for found in _best(_by_shifts(bench, kind), _SHIFT_GAIN)]
    return [*_direct(bench), *_best(_uniform(bench)), *shifts, *_shared(bench)]


def _best(found: Iterator[Baseline], gain: float = 1e-9) -> list[Baseline]:
    best, lowest = [], np.inf
    for baseline in sorted(found, key=lambda b: (b.cost.stored_bits, b.error)):
        if baseline.error < lowest * (1 - gain):
            best.append(baseline)
            lowest = baseline.error
    return best


def _direct(bench: Workbench) -> Iterator[Baseline]:
    space, out = bench.space, bench.space.out
    x = [bench.x(at) for at in range(len(space.inputs))]
    y = [np.asarray(bench.function(part), np.float64) for part in x]
    if out is not None:
        values = [out.scale * (round_to_codes(out, part) - out.zero_point) for part in y]
        choices = [
            (f"int{out.bits}", out.bits, float(np.mean([_error(space.objective, *pair) for pair in zip(values, y)])))
        ]
    else:
        choices = []
        for bits in _VALUE_BITS:
            fixed = [formats.get(f"q{i}.{bits - 1 - i}") for i in range(bits)]
            errors = [float(np.mean([_error(space.objective, fmt.round(part), part) for part in y])) for fmt in fixed]
            choices.append((fixed[int(np.argmin(errors))].name, bits, min(errors)))
    for name, bits, error in choices:
        yield Baseline(
            "direct",
            name,
            False,
            error,
            hardware.together(hardware.direct_cost(inputs, bits) for inputs in space.inputs),
        )


def _error(objective: str, value: np.ndarray, y: np.ndarray) -> float:
    """Error of values in the objective's unit; stored output codes are the rounded exact function, so none of them is
    wrong.
    """
    difference = value - y
    if objective == "codes":
        return 0.0
    if objective == "squared":
        return float(np.mean(difference**2))
    return float(np.max(np.abs(difference)) if objective == "maximum" else np.mean(np.abs(difference)))


def _uniform(bench: Workbench) -> Iterator[Baseline]:
    """Equal segments of a power of two of codes; with several scales they have the same width in x, and are also shared
    by all of them.
    """
    inputs = bench.space.inputs
    finest = min(i.scale for i in inputs)
    for half, names in bench.formats.items():
        for name in names:
            fmt, own = formats.get(name), bench.costs(name, half, "none")
            tails = sum(own[0].tails)
            for shift in range(max(i.bits for i in inputs)):
                width = finest * 2.0**shift
                found = [_equal_segments(bench, costs, half, at, width) for at, costs in enumerate(own)]
                if all(found):
                    cost = hardware.together(
                        hardware.uniform_cost(n, fmt, i, half, tails) for (n, _), i in zip(found, inputs)
                    )
                    error = bench.error([error for _, error in found])
                    yield Baseline("uniform", name, half, error, cost, cut_step=1 << shift)
                if "all" in bench.sharing and (one := _equal_shared_segments(bench, name, half, width)):
                    cost = hardware.uniform_cost(one[0], fmt, inputs[0], half, tails)
                    yield Baseline("uniform", name, half, bench.error([one[1]]), cost, "all", 1 << shift)


def _equal_segments(
    bench: Workbench, costs: SegmentCosts, half: bool, at: int, width: float
) -> tuple[int, float] | None:
    """(entries, cost) of segments of `width`, or of one code where codes are wider. None where there are too many."""
    return _judged(costs, _equal_cuts(bench, half, at, width))


def _equal_cuts(bench: Workbench, half: bool, at: int, width: float) -> np.ndarray:
    """Which of the bench's places, that may be coarser than the codes, are ends of segments of `width`."""
    x, inputs = _samples(bench, half, at), bench.space.inputs[at]
    shift = max(0, round(np.log2(width / inputs.scale)))
    return np.flatnonzero(np.isin(places(x, inputs), places(x, inputs, shift)))


def _samples(bench: Workbench, half: bool, at: int) -> np.ndarray:
    x = bench.x(at)
    return np.unique(np.abs(x)) if half else x


def uniform_table(space: Space, baseline: Baseline) -> Table:
    """The table of a uniform baseline of one scale."""
    bench, (inputs,), half = Workbench(space), space.inputs, baseline.half
    problem, (task,) = bench.tasks(baseline.coefficients, half)
    (costs,) = bench.costs(baseline.coefficients, half, "none")
    cuts = _trimmed(costs, _equal_cuts(bench, half, 0, inputs.scale * baseline.cut_step))
    positions = places(_samples(bench, half, 0), inputs)[cuts]
    lines = costs.line(cuts[:-1], cuts[1:])
    table = build(positions, lines, task.lattice, problem.left, problem.right, problem.format, problem.prologue)
    return replace(table, domain=problem.domain)


def _equal_shared_segments(bench: Workbench, name: str, half: bool, width: float) -> tuple[int, float] | None:
    """(entries, cost) of segments [n width, (n + 1) width) that all scales share."""
    problem, tasks = bench.tasks(name, half)
    first, last = (round_(end / width) for round_, end in zip((np.floor, np.ceil), problem.range))
    edges = width * np.arange(first, last + 1)
    if edges.size > _CELLS + 1:
        return None
    positions = [
        np.searchsorted(task.samples.x, [*edges, np.inf]) for task in tasks
    ]  # a code at the range's end is a cell of its own
    costs = segment_costs(problem, tasks[0], Points.shared([task.samples for task in tasks], positions))
    return _judged(costs, np.arange(costs.size + 1))


def _judged(costs: SegmentCosts, cuts: np.ndarray) -> tuple[int, float] | None:
    """(entries, cost) of a table with these cuts; None where there are too many."""
    cuts = _trimmed(costs, cuts)
    entries = cuts.size - 1 + sum(costs.tails)
    return (entries, float(costs.total(cuts))) if 2 <= entries <= _CELLS else None


def _trimmed(costs: SegmentCosts, cuts: np.ndarray) -> np.ndarray:
    """The cuts but for those of end segments that tails take where that costs nothing."""
    while cuts.size > 1 and costs.tails[0] and costs.total(cuts[1:]) <= costs.total(cuts):
        cuts = cuts[1:]
    while cuts.size > 1 and costs.tails[1] and costs.total(cuts[:-1]) <= costs.total(cuts):
        cuts = cuts[:-1]
    return cuts


def _by_shifts(bench: Workbench, kind: str) -> Iterator[Baseline]:
    """Tables whose slopes are powers of two or sums of two, so that there is no multiplier (arXiv:2602.22352)."""
    space = bench.space
    if space.objective != "squared":
        return
    for name in bench.formats.get(False, ()):
        fmt = formats.get(name)
        if fmt.bits > 12:
            continue
        chosen = (numbers(kind, fmt), numbers(name, fmt))
        request = Request.of(space.function, 2, **bench.options(Choice(2, name, slopes=kind)))
        try:
            problem, tasks = prepare(request)
        except LutcError:  # no such slope is near enough to a tail's
            continue
        costs = [segment_costs(problem, t, Points.of(t.samples, places(t.samples.x, t.inputs))) for t in tasks]
        most = min(bench.most_entries[False], _CELLS)
        for entries in (n for n in _SHIFT_ENTRIES if n <= most):
            found = [exact(cost, entries) for cost in costs]
            used = [int((np.diff(r.cuts) > 0).sum()) + sum(c.tails) for r, c in zip(found, costs)]
            cost = hardware.together(
                hardware.lines_cost(max(2, n), fmt, i, chosen=chosen) for n, i in zip(used, space.inputs)
            )
            yield Baseline(kind, name, False, bench.error([result.cost for result in found]), cost)


def _shared(bench: Workbench) -> Iterator[Baseline]:
    """The best set of breakpoints and lines for all of GQA-LUT's scales, judged at the one scale explored."""
    space = bench.space
    if len(space.inputs) > 1 or space.inputs[0] not in INT8 or space.objective not in ("squared", "codes"):
        return  # several scales: sharing is a choice of its own
    key, inputs, fmt = scale_key(space.inputs[0]), space.inputs[0], formats.get(bench.function.coefficients)
    for entries in _SHARED_ENTRIES:
        try:
            tables = compile_shared(space, entries)
        except (
            LutcError
        ):  # the function has too few codes at some scale, or does not fit its default format over this range
            return
        cost = hardware.lines_cost(
            entries, fmt, inputs, breakpoint_bits=shared_breakpoint_bits(bench.function.range, INT8)
        )
        certificate = tables.meta["certificate"][key]
        codes = space.objective == "codes"
        error = float(certificate["output"]["squared"]) if codes else certificate["range"]["mean_squared"]
        yield Baseline("shared", fmt.name, False, error, cost, "all")


def compile_shared(space: Space, entries: int) -> TableSet:
    """The best set of breakpoints and lines for all of GQA-LUT's scales."""
    settings = {"range": space.range, "tails": space.tails, "out": space.out}
    return pipeline.compile(space.function, entries, share="all", search="exact", force=True, **settings)

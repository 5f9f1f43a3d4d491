"""The chain: function -> samples -> segment costs -> search -> cuts -> table -> certificate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

import lutc
from lutc import functions
from lutc.calibration.layer_error import LayerError, LayerErrors
from lutc.calibration.weights import Measured
from lutc.certify.certificate import certify
from lutc.certify.promises import broken
from lutc.compiler.build import build
from lutc.compiler.fit import misfit
from lutc.compiler.problem import Problem, Task, prepare
from lutc.compiler.promises import over_promises
from lutc.compiler.request import INT8, Request
from lutc.compiler.sharing import solve_classic, solve_shared
from lutc.compiler.solve import over_samples, over_segments, over_tables
from lutc.errors import LutcError
from lutc.formats.codes import Inputs, output_record
from lutc.functions import Function, sampled
from lutc.measures import rounded
from lutc.table.table import Table
from lutc.table.table_set import TableSet

_CONSTANT = 0.999  # share of a function's variance that is left where a table is no better than a constant


def compile(
    function: str | Callable | Function = "gelu",
    entries: int = 8,
    *,
    range: tuple[float, float] | None = None,
    inputs: Inputs | Sequence[Inputs] | str = INT8,
    coefficients: str | None = None,
    slopes: str | None = None,
    intercepts: str | None = None,
    search: str = "genetic",
    objective: str = "squared",
    out: Inputs | None = None,
    share: str = "none",
    cut_step: int = 1,
    tails: str = "exact",
    symmetry: bool = False,
    prologue: str = "auto",
    weights: str | Callable | Measured | LayerErrors | None = None,
    max_error: str | float | None = None,
    promises: Sequence[str] = (),
    seed: int = 42,
    settings: Any = None,
    name: str | None = None,
    force: bool = False,
    progress: Callable[[int], object] | None = None,
    **mistyped: object,
) -> TableSet:
    """Compile a table set.

    function: a name or an alias, "package.module:name", or any callable of numbers, numpy arrays or torch tensors
    (a partial, a module), which needs a `range`. entries: segments of a table at most, tails included. inputs: codes
    (`lutc.formats.Inputs`, one table for each), "fp16" or "bf16" (every value), or "grid". search: a name of
    `lutc.search.registry.SEARCHES`, with its own settings. name: top key of the file, by default the function as typed.
    The other options stand with the parts of `lutc.compiler.request.Request`. force: whether a table goes on whose
    coefficients' format cannot hold the function (`lutc.compiler.fit`), which is an error otherwise; with `weights`
    none is judged so.

    LutcError for whatever cannot be compiled. The same request gives the same bytes.
    """
    request = Request.of(
        function,
        entries,
        range=range,
        inputs=inputs,
        coefficients=coefficients,
        slopes=slopes,
        intercepts=intercepts,
        search=search,
        objective=objective,
        out=out,
        share=share,
        cut_step=cut_step,
        tails=tails,
        symmetry=symmetry,
        prologue=prologue,
        weights=weights,
        max_error=max_error,
        promises=promises,
        seed=seed,
        settings=settings,
        **mistyped,
    )
    compiled = compile_request(request, name=name, progress=progress)
    if not force and "weights" not in compiled.meta:
        fn = functions.load(request.function.function, request.function.range)
        if why := misfit(compiled, fn, request.storage.entries):
            raise LutcError(f"{why}, or go on with `force`")
    return compiled


def compile_request(
    request: Request, *, name: str | None = None, progress: Callable[[int], object] | None = None
) -> TableSet:
    """The table set that a request asks for. name: top key of the file, by default the function as typed."""
    problem, tasks = prepare(request)
    tables, search = _solve(problem, tasks, progress)
    for task in tasks:
        # layer-total leaves the function on purpose where inputs were clipped, codes where outputs saturate
        if problem.request.error.objective not in ("layer-total", "codes"):
            _check_fit(problem, task, tables[task.key])
    meta = {"range": list(problem.function.range), **_settings(problem, tables, tasks), "search": search}
    inputs = {task.key: task.inputs for task in tasks if task.inputs is not None}
    if not functions.known(problem.function.name):
        meta["function_sample"] = sampled.record(problem.function, list(inputs.values()))
    typed = request.function.function
    typed = typed if isinstance(typed, str) else typed.name
    compiled = TableSet(name or typed, tables, inputs, problem.function.name, meta)
    # A function that a file can only sample: float tables are judged by that sample, as every reader of the file will.
    judge = None if "function_sample" in meta and not inputs else problem.function
    certificate = certify(compiled, judge)
    if lost := broken(certificate):
        raise LutcError(f"a promise is not kept by the table that was found ({lost[0]}); give another range or entries")
    return replace(compiled, meta={**meta, "certificate": certificate, "version": lutc.__version__})


def _solve(
    problem: Problem, tasks: list[Task], progress: Callable[[int], object] | None
) -> tuple[dict[str, Table], dict]:
    """Tables by key, and the record of the search."""
    request = problem.request
    if request.found_by.takes == "function":
        return solve_classic(problem, tasks, progress)
    if request.storage.share != "none":
        return solve_shared(problem, tasks, progress)
    tables: dict[str, Table] = {}
    record: dict[str, Any] = {}
    for task in tasks:
        solve = {"segments": over_segments, "tables": over_tables, "samples": over_samples}[request.found_by.takes]
        solve = over_promises if request.error.promises else solve
        result, lines, facts = solve(problem, task, progress)
        table = build(result.cuts, lines, task.lattice, problem.left, problem.right, problem.format, problem.prologue)
        tables[task.key] = replace(table, domain=problem.domain)
        whole = {"proven": record["proven"] and result.record["proven"]} if "proven" in record else {}
        record = {**result.record, **record, **whole}
        for name, fact in facts.items():
            record.setdefault(name, {})[task.key] = fact
    return tables, record


def _settings(problem: Problem, tables: dict[str, Table], tasks: list[Task]) -> dict:
    """The settings that shape the tables, as the file records them, and with weights by a model the
    error that it sees.
    """
    request = problem.request
    settings: dict[str, Any] = {"objective": request.error.objective, "share": request.storage.share}
    if not request.inputs.coded:
        settings["float_inputs"] = request.inputs.inputs
    if request.function.tails == "free":
        settings["free_tails"] = True
    for what, chosen in zip(("slopes", "intercepts"), problem.numbers or ()):
        settings[what] = chosen.name
    if request.storage.cut_step > 1:
        settings["cut_step"] = request.storage.cut_step
    if request.error.promises:
        settings["promises"] = list(request.error.promises)
    if isinstance(request.inputs.weights, Measured):
        seen = {
            task.key: rounded(request.inputs.weights.mean_squared(tables[task.key], problem.function, task.inputs))
            for task in tasks
        }
        settings["weights"] = {**request.inputs.weights.record, "mean_squared": seen}
    elif request.inputs.weights is not None:
        settings["weights"] = request.inputs.weights if isinstance(request.inputs.weights, str) else "measured"
    felt = {task.key: _felt(task, task.error, tables[task.key]) for task in tasks if task.error is not None}
    if felt:
        settings["layer_error"] = felt
    if request.storage.out is not None:
        settings["output"] = output_record(request.storage.out)
    return settings


def _felt(task: Task, felt: LayerError, table: Table) -> dict:
    """What the next layer feels of a table: its mean squared error beside that of the exact function on the same codes,
    and whose error it is.
    """
    values, s = table(task.samples.x), task.samples
    added, whole = felt.error(values, s.y), felt.total(values, s.y)
    return {
        "mean_squared": rounded(whole),
        "exact_on_codes": rounded(felt.floor),
        "added": rounded(added),
        **felt.record,
    }


def _check_fit(problem: Problem, task: Task, table: Table) -> None:
    """A table no better than a constant, and wrong by more than a step of the format, means that the format cannot hold
    the function at all.
    """
    s, fmt = task.samples, problem.format
    weight, error = s.weight / s.weight.sum(), table.evaluate_reduced(s.x) - s.y
    spread = weight @ (s.y - weight @ s.y) ** 2
    if len(s) > 2 and weight @ error**2 >= _CONSTANT * spread and np.abs(error).max() > fmt.ulp(np.abs(s.y).max()):
        raise LutcError(
            f"{fmt.name} (from {fmt.min:g} to {fmt.max:g}) cannot hold {problem.function.name} over "
            f"[{problem.range[0]:g}, {problem.range[1]:g}]: "
            "the best table is no better than a constant; use a format with more integer bits, more entries or a "
            "smaller range"
        )

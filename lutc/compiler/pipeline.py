"""The chain: function -> samples -> segment costs -> search -> cuts -> table -> certificate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

import lutc
from lutc.calibration.weights import Measured
from lutc.certify.certificate import certify
from lutc.compiler.build import build
from lutc.compiler.problem import Problem, Task, prepare
from lutc.compiler.request import Request
from lutc.compiler.sharing import solve_classic, solve_shared
from lutc.compiler.solve import layer_table, learned, one_table, within_bound
from lutc.errors import LutcError
from lutc.measures import rounded
from lutc.table.table import Table
from lutc.table.table_set import TableSet

_CONSTANT = 0.999  # share of a function's variance that is left where a table is no better than a constant


def compile(
    function: str = "gelu",
    entries: int = 8,
    *,
    name: str | None = None,
    progress: Callable[[int], object] | None = None,
    **options,
) -> TableSet:
    """Compile a table set; options are the fields of `Request`. name: top key of the file, by default the function as
    typed.

    LutcError for whatever cannot be compiled. The same request gives the same bytes.
    """
    problem, tasks = prepare(Request(function, entries, **options))
    tables, search = _solve(problem, tasks, progress)
    for task in tasks:
        if problem.request.objective != "layer-total":  # which leaves the function on purpose where inputs were clipped
            _check_fit(problem, task, tables[task.key])
    meta = {"range": list(problem.function.range), **_settings(problem, tables, tasks), "search": search}
    inputs = {task.key: task.inputs for task in tasks if task.inputs is not None}
    compiled = TableSet(name or function, tables, inputs, problem.function.name, meta)
    certificate = certify(compiled, problem.function)
    return replace(compiled, meta={**meta, "certificate": certificate, "version": lutc.__version__})


def _solve(problem: Problem, tasks: list[Task], progress) -> tuple[dict[str, Table], dict]:
    """Tables by key, and the record of the search."""
    request = problem.request
    if request.search == "classic":
        return solve_classic(problem, tasks, progress)
    if request.share != "none":
        return solve_shared(problem, tasks, progress)
    tables, record = {}, {}
    for task in tasks:
        by_objective = {"layer": layer_table, "layer-total": layer_table}.get(request.objective, one_table)
        solve = {"greedy": within_bound, "gradient": learned}.get(request.search, by_objective)
        result, lines, facts = solve(problem, task, progress)
        table = build(result.cuts, lines, task.lattice, problem.left, problem.right, problem.format, problem.prologue)
        tables[task.key] = replace(table, domain=problem.domain)
        record = {**result.record, **record}
        for name, fact in facts.items():
            record.setdefault(name, {})[task.key] = fact
    return tables, record


def _settings(problem: Problem, tables: dict[str, Table], tasks: list[Task]) -> dict:
    """The settings that shape the tables, as the file records them, and with weights by a model the
    error that it sees.
    """
    request = problem.request
    settings = {"objective": request.objective, "share": request.share}
    if request.tails == "free":
        settings["free_tails"] = True
    if isinstance(request.weights, Measured):
        seen = {
            task.key: rounded(request.weights.mean_squared(tables[task.key], problem.function, task.inputs))
            for task in tasks
        }
        settings["weights"] = {**request.weights.record, "mean_squared": seen}
    elif request.weights is not None:
        settings["weights"] = request.weights if isinstance(request.weights, str) else "measured"
    felt = {task.key: _felt(task, tables[task.key]) for task in tasks if task.error is not None}
    if felt:
        settings["layer_error"] = felt
    if request.out is not None:
        settings["output"] = {
            "bits": request.out.bits,
            "scale": request.out.scale,
            "zero_point": request.out.zero_point,
        }
    return settings


def _felt(task: Task, table: Table) -> dict:
    """What the next layer feels of a table: its mean squared error beside that of the exact function on the same codes,
    and whose error it is.
    """
    values, s = table(task.samples.x), task.samples
    added, whole = task.error.error(values, s.y), task.error.total(values, s.y)
    return {
        "mean_squared": rounded(whole),
        "exact_on_codes": rounded(task.error.floor),
        "added": rounded(added),
        **task.error.record,
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

"""The chain: function -> samples -> segment costs -> search -> cuts -> table -> certificate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

import lutc
from lutc import formats, functions
from lutc.bounds import ErrorBound
from lutc.build import Lattice, build, rounded_tail
from lutc.certify import certify, rounded
from lutc.costs import DENSE_LIMIT, Points, SegmentCosts, real_costs, squared_costs
from lutc.errors import LutcError
from lutc.formats import Format
from lutc.fplut.problem import make_prologue
from lutc.functions import Function, Line
from lutc.pair_costs import absolute_objective, codes_objective, cost_of, maximum_objective, pair_costs
from lutc.refine import BOUND_CELLS, candidates, lower_bound, refined
from lutc.samples import Inputs, Samples, code_samples, format_samples, grid_samples
from lutc.search.exact import exact
from lutc.search.genetic import GeneticSettings, genetic
from lutc.search.gradient import GradientSettings, gradient
from lutc.search.greedy import greedy
from lutc.search.result import SearchResult
from lutc.table import AbsPrologue, Prologue, Table
from lutc.tablefile import TableSet

INT8 = tuple(Inputs(8, 2.0**-b) for b in range(7))
FLOAT_INPUTS = {"fp16": "fp16", "bf16": "bf16", "grid": "fp32"}  # float inputs and the coefficients they get by default
OBJECTIVES = ("squared", "relative", "absolute", "maximum", "codes")
SEARCHES = ("genetic", "exact", "greedy", "classic", "gradient")
SHARING = ("none", "all", "coefficients")
RELATIVE_FLOOR = 2.0**-14
GENETIC_LIMIT = 1024  # positions up to which the genetic search sees every sample at once


@dataclass(frozen=True)
class Request:
    """What to compile. Every field has GQA-LUT's default where it has one.

    inputs: a tuple of Inputs (codes), or "fp16" / "bf16" (every finite value), or "grid" (4,096 points). out: the output codes, for the
    objective "codes" and for the certificate. max_error: for the greedy search, which then chooses the entries itself. share: one table
    per scale, one set of breakpoints and lines for all, or lines alone shared. weights: see `lutc.samples`. prologue: "reduce" stores the
    function's range reduction, behind which a table of float inputs holds for every x; "auto" does so for the gradient search.
    """

    function: str = "gelu"
    entries: int = 8
    range: tuple[float, float] | None = None
    inputs: tuple[Inputs, ...] | str = INT8
    coefficients: str | None = None
    search: str = "genetic"
    objective: str = "squared"
    out: Inputs | None = None
    share: str = "none"
    tails: str = "exact"
    symmetry: bool = False
    prologue: str = "auto"
    weights: str | Callable | None = None
    max_error: str | None = None
    seed: int = 42
    genetic: GeneticSettings = field(default_factory=GeneticSettings)
    gradient: GradientSettings = field(default_factory=GradientSettings)
    generations: int = 500  # of the classic search

    def __post_init__(self):
        for name, value, allowed in (
            ("search", self.search, SEARCHES),
            ("objective", self.objective, OBJECTIVES),
            ("share", self.share, SHARING),
            ("tails", self.tails, ("exact", "free")),
            ("prologue", self.prologue, ("auto", "none", "reduce")),
        ):
            if value not in allowed:
                raise LutcError(f"unknown {name} {value!r}; choose one of {', '.join(allowed)}")
        if self.entries < 2:
            raise LutcError(f"a table has at least 2 entries; given {self.entries}")
        if isinstance(self.inputs, str) and self.inputs not in FLOAT_INPUTS:
            raise LutcError(f"unknown inputs {self.inputs!r}; choose codes by bits and scale, or one of {', '.join(FLOAT_INPUTS)}")
        if self.objective == "codes" and (self.out is None or isinstance(self.inputs, str)):
            raise LutcError("the objective codes needs input codes and an output scale (--out-scale)")
        if (self.search == "greedy") != (self.max_error is not None):
            raise LutcError("the greedy search and an error bound (--max-error) go together: give both or neither")
        if self.share != "none" and (isinstance(self.inputs, str) or self.search in ("greedy", "classic", "gradient")):
            raise LutcError("sharing over scales needs input codes and the genetic or the exact search")
        if self.prologue == "reduce" and (isinstance(self.inputs, tuple) or self.search == "greedy" or self.symmetry or self.weights is not None):
            raise LutcError("range reduction takes float inputs of uniform weight, no symmetry, and any search but greedy")
        if self.share == "coefficients" and (self.search != "genetic" or self.objective not in ("squared", "relative")):
            raise LutcError("sharing coefficients takes the genetic search and a squared objective")
        if self.search == "classic" and (isinstance(self.inputs, str) or self.objective != "squared" or self.symmetry or self.weights is not None):
            raise LutcError("the classic search is GQA-LUT's own: input codes, squared objective, uniform weights, no symmetry")


@dataclass(frozen=True, eq=False)
class Task:
    """One scale (or float input) of a request, ready for a search. Behind a symmetry f, samples, tails and range are those of the stored half."""

    key: str
    samples: Samples
    inputs: Inputs | None
    lattice: Lattice


@dataclass(frozen=True, eq=False)
class Problem:
    """What all tasks of a request share."""

    request: Request
    function: Function
    f: Callable
    range: tuple[float, float]
    left: Line | None
    right: Line | None
    format: Format
    prologue: Prologue | None

    @property
    def interval(self) -> tuple[float, float]:
        """Where the samples lie, before a symmetry folds them: the function's range, or what range reduction leaves of every x."""
        return self.function.range if self.prologue is None or isinstance(self.prologue, AbsPrologue) else self.range


def compile(
    function: str = "gelu", entries: int = 8, *, name: str | None = None, progress: Callable[[int], object] | None = None, **options
) -> TableSet:
    """Compile a table set; options are the fields of `Request`. name: top key of the file, by default the function as typed.

    LutcError for whatever cannot be compiled. The same request gives the same bytes.
    """
    request = Request(function, entries, **options)
    problem, tasks = prepare(request)
    tables, search = _solve(problem, tasks, progress)
    for task in tasks:
        _check_fit(problem, task, tables[task.key])
    meta = {"range": list(problem.function.range), **_settings(request), "search": search}
    inputs = {task.key: task.inputs for task in tasks if task.inputs is not None}
    compiled = TableSet(name or function, tables, inputs, problem.function.name, meta)
    certificate = certify(compiled, problem.function)
    return replace(compiled, meta={**meta, "certificate": certificate, "version": lutc.__version__})


def _settings(request: Request) -> dict:
    """The settings that shape the table, as the file records them."""
    settings = {"objective": request.objective, "share": request.share}
    if request.tails == "free":
        settings["free_tails"] = True
    if request.weights is not None:
        settings["weights"] = request.weights if isinstance(request.weights, str) else "measured"
    if request.out is not None:
        settings["output"] = {"bits": request.out.bits, "scale": request.out.scale, "zero_point": request.out.zero_point}
    return settings


def prepare(request: Request) -> tuple[Problem, list[Task]]:
    """The problem that a request stands for, and a task per input scale."""
    problem = _problem(request)
    return problem, _tasks(problem)


def _problem(request: Request) -> Problem:
    fn = functions.load(request.function, request.range)
    default = FLOAT_INPUTS[request.inputs] if isinstance(request.inputs, str) else fn.coefficients
    fmt = formats.get(request.coefficients or default)
    f, (lo, hi), left, right, prologue = fn, fn.range, fn.left, fn.right, None
    if request.symmetry:
        if fn.symmetry is None:
            known = ", ".join(name for name, other in functions.FUNCTIONS.items() if other.symmetry is not None)
            raise LutcError(f"{fn.name} has no symmetry to store half of; functions that have: {known}")
        f, left, right = fn.symmetry.h, None, fn.symmetry.right
        lo, hi = 0.0 if lo <= 0.0 <= hi else min(abs(lo), abs(hi)), max(abs(lo), abs(hi))
        prologue = AbsPrologue(fn.symmetry.positive, fn.symmetry.negative)
    elif _reduces(request, fn):
        prologue, left, right = make_prologue(fn, "reduce"), None, None
        lo, hi = (1.0, 2.0**prologue.step) if prologue.kind == "exponent" else (0.0, prologue.period)
    if request.tails == "free":
        left = right = None
    left, right = (rounded_tail(tail, fmt, fn.name) for tail in (left, right))
    return Problem(request, fn, f, (lo, hi), left, right, fmt, prologue)


def _reduces(request: Request, fn: Function) -> bool:
    if request.prologue != "auto":
        return request.prologue == "reduce"
    return request.search == "gradient" and isinstance(request.inputs, str) and fn.reduction is not None and request.weights is None


def scale_key(inputs: Inputs) -> str:
    """GQA-LUT's key b for a scale 2**-b without zero point, else a label that tells scale and zero point."""
    if inputs.power is not None and inputs.zero_point == 0:
        return str(inputs.power)
    return f"{inputs.scale:.9g}" + (f"z{inputs.zero_point}" if inputs.zero_point else "")


def _tasks(problem: Problem) -> list[Task]:
    request, fn = problem.request, problem.function
    tasks = []
    for inputs in ("float",) if isinstance(request.inputs, str) else request.inputs:
        if request.inputs == "grid":
            samples = grid_samples(fn, *problem.interval, weight=request.weights)
        elif isinstance(request.inputs, str):
            samples = format_samples(fn, request.inputs, *problem.interval, weight=request.weights)
        else:
            if request.inputs == INT8 and not ((inputs.x() >= fn.range[0]) & (inputs.x() <= fn.range[1])).any():
                continue  # of the default scales those count that have a code in the range
            samples = code_samples(fn, inputs, *fn.range, weight=request.weights)
        if isinstance(problem.prologue, AbsPrologue):
            samples = _folded(samples, problem.f)
        if request.objective == "relative":
            samples = replace(samples, weight=samples.weight / np.maximum(np.abs(fn(samples.x)), RELATIVE_FLOOR) ** 2)
        codes = not isinstance(request.inputs, str)
        key = scale_key(inputs) if codes else problem.format.name
        tasks.append(Task(key, samples, inputs if codes else None, Lattice(samples.x, problem.f, *problem.range)))
    if not tasks:
        raise LutcError(f"no code at the default scales lies in [{fn.range[0]:g}, {fn.range[1]:g}]; give scales or another range")
    if len({task.key for task in tasks}) < len(tasks):
        raise LutcError(f"each input scale may stand once; given {', '.join(task.key for task in tasks)}")
    most = max(len(task.samples) for task in tasks)
    if request.max_error is None and request.entries > most:
        raise LutcError(f"{request.entries} entries are more than the {most} samples of the finest scale in the range; use at most {most}")
    return tasks


def _folded(samples: Samples, half: Callable) -> Samples:
    """Samples of |x|: the stored half answers for both signs, so weights of x and -x add up."""
    x, index = np.unique(np.abs(samples.x), return_inverse=True)
    return Samples(x, np.asarray(half(x), np.float64), np.bincount(index, samples.weight, x.size))


def segment_costs(problem: Problem, task: Task, points: Points) -> SegmentCosts:
    """Costs under the request's objective."""
    request, tails = problem.request, (problem.left, problem.right)
    if request.objective in ("squared", "relative"):
        return squared_costs(points, problem.format, *tails)
    if request.objective == "codes":
        if problem.prologue is not None:
            raise LutcError("the objective codes works on whole tables; leave --symmetry out")
        objective = codes_objective(points, task.inputs, request.out, problem.format)
    else:
        objective = absolute_objective(points) if request.objective == "absolute" else maximum_objective(points)
    squared = squared_costs(points, problem.format, *tails)
    known = exact(squared, request.entries)
    bound = cost_of(points, objective, known.cuts, squared.line(known.cuts[:-1], known.cuts[1:]), *tails)
    return pair_costs(points, problem.format, *tails, objective, bound)


def search_costs(problem: Problem, costs: SegmentCosts, start=None, progress=None) -> SearchResult:
    """The request's search over costs."""
    request = problem.request
    if request.search == "exact":
        return exact(costs, request.entries)
    if start is None:
        return genetic(costs, request.entries, request.seed, request.genetic, progress=progress)
    # a start comes from the same search over coarser cuts: one run refines it, and the file tells of the first
    result = genetic(costs, request.entries, request.seed, replace(request.genetic, restarts=1), start, progress)
    return replace(result, record={**result.record, "restarts": request.genetic.restarts})


def _solve(problem: Problem, tasks: list[Task], progress) -> tuple[dict[str, Table], dict]:
    """Tables by key, and the record of the search."""
    request = problem.request
    if request.search == "classic":
        from lutc.sharing import solve_classic

        return solve_classic(problem, tasks, progress)
    if request.share != "none":
        from lutc.sharing import solve_shared

        return solve_shared(problem, tasks, progress)
    tables, record = {}, {}
    for task in tasks:
        solve = {"greedy": _within_bound, "gradient": _learned}.get(request.search, _one_table)
        result, lines, facts = solve(problem, task, progress)
        tables[task.key] = build(result.cuts, lines, task.lattice, problem.left, problem.right, problem.format, problem.prologue)
        record = {**result.record, **record}
        for name, fact in facts.items():
            record.setdefault(name, {})[task.key] = fact
    return tables, record


def relative_gap(cost: float, reference: float) -> float:
    """(cost - reference) / max(reference, 1e-12), to 6 digits; rounding noise below 1e-9 counts as none."""
    gap = (cost - reference) / max(reference, 1e-12)
    return 0.0 if abs(gap) < 1e-9 else float(f"{gap:.6g}")


def _one_table(problem: Problem, task: Task, progress) -> tuple[SearchResult, tuple, dict]:
    """(result over sample positions, its lines, what is proven of it)."""
    request, samples = problem.request, task.samples

    def costs_at(positions=None):
        return segment_costs(problem, task, Points.of(samples, positions))

    dense = costs_at() if len(samples) <= DENSE_LIMIT else None
    if dense is not None and (request.search == "exact" or len(samples) <= GENETIC_LIMIT):
        costs, result = dense, search_costs(problem, dense, progress=progress)
        cuts = result.cuts
    else:
        result, positions, costs = refined(samples, costs_at, lambda costs, start: search_costs(problem, costs, start, progress))
        cuts = positions[result.cuts]
    facts = {"cost": rounded(result.cost)}
    if dense is not None:
        reference = facts["optimum"] = result.cost if request.search == "exact" else exact(dense, request.entries).cost
    else:
        finest = real_costs(Points.of(samples, candidates(samples, BOUND_CELLS)), problem.left, problem.right)
        bounds = [lower_bound(finest, request.entries)]
        if costs.exact:  # then the costs of rounded lines are bounds too
            bounds.append(lower_bound(costs_at(candidates(samples, GENETIC_LIMIT)), request.entries))
        reference = facts["lower_bound"] = max(bounds)
    facts["gap"] = relative_gap(result.cost, reference)
    facts = {name: rounded(fact) for name, fact in facts.items()}
    if not costs.exact:
        facts["lines"] = "rounded"
    return replace(result, cuts=cuts), costs.line(result.cuts[:-1], result.cuts[1:]), facts


def _within_bound(problem: Problem, task: Task, progress) -> tuple[SearchResult, tuple, dict]:
    """The fewest entries within the request's error bound."""
    bound = ErrorBound.parse(problem.request.max_error)
    s = task.samples
    y = problem.function(s.x)
    if problem.prologue is not None:  # the stored half answers for both signs: the smaller value sets a relative bound
        y = np.minimum(np.abs(y), np.abs(problem.function(-s.x)))
    tolerance = bound.tolerance(y, problem.request.out, problem.format, problem.request.inputs)
    result = greedy(s.x, s.y, tolerance, problem.format, problem.left, problem.right, problem.request.max_error)
    return result, result.lines, {"cost": rounded(result.cost)}


def _learned(problem: Problem, task: Task, progress) -> tuple[SearchResult, tuple, dict]:
    """A table learned by gradient, and how far it is from the best one with real coefficients."""
    request, samples, tails = problem.request, task.samples, (problem.left, problem.right)
    result = gradient(samples, request.entries, problem.format, *tails, request.objective, request.seed, request.gradient, progress)
    facts = {"cost": rounded(result.cost)}
    if request.objective != "absolute":
        if len(samples) <= DENSE_LIMIT:
            bound = exact(real_costs(Points.of(samples), *tails), request.entries).cost
        else:
            bound = lower_bound(real_costs(Points.of(samples, candidates(samples, BOUND_CELLS)), *tails), request.entries)
        facts |= {"lower_bound": rounded(bound), "gap": relative_gap(result.cost, bound)}
    return result, result.lines, facts


def _check_fit(problem: Problem, task: Task, table: Table) -> None:
    """A table no better than a constant means that the format cannot hold the function at all."""
    s = task.samples
    weight = s.weight / s.weight.sum()
    spread = weight @ (s.y - weight @ s.y) ** 2
    if len(s) > 2 and spread > 0 and weight @ (table.evaluate_reduced(s.x) - s.y) ** 2 >= spread:
        fmt = problem.format
        raise LutcError(
            f"{fmt.name} (from {fmt.min:g} to {fmt.max:g}) cannot hold {problem.function.name} over [{problem.range[0]:g}, {problem.range[1]:g}]: "
            "the best table is no better than a constant; use a format with more integer bits or a smaller range"
        )

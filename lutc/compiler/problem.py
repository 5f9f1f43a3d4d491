"""A request as a problem with one task per input scale, ready for a search."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from lutc import formats, functions
from lutc.calibration.layer_error import LayerError, LayerErrors
from lutc.calibration.weights import Measured, is_calibration, measured
from lutc.compiler.build import Lattice, rounded_tail
from lutc.compiler.chosen import chosen_format
from lutc.compiler.prologue import make_prologue
from lutc.compiler.request import FLOAT_INPUTS, INT8, Request
from lutc.costs.lines import Ordinals
from lutc.costs.objectives import LAYER, SQUARED
from lutc.costs.points import TIE_WEIGHT, Points
from lutc.costs.rules import Rules
from lutc.errors import LutcError
from lutc.formats.codes import Inputs
from lutc.formats.format import Format
from lutc.formats.numbers import Numbers, holder, numbers
from lutc.functions import Function, Line
from lutc.functions.promises import Promised, promised
from lutc.measures import RELATIVE_FLOOR
from lutc.samples.samples import Samples, code_samples, format_samples, grid_samples
from lutc.table.domain import Domain
from lutc.table.prologues import AbsPrologue, Prologue

TIE_POINTS = 8  # between two codes, together of TIE_WEIGHT against a code
TIES_LIMIT = 1024  # samples; beyond, codes are dense


@dataclass(frozen=True, eq=False)
class Task:
    """One scale (or float input) of a request, ready for a search. Behind a symmetry f, samples, tails and range are
    those of the stored half.
    """

    key: str
    samples: Samples
    inputs: Inputs | None
    lattice: Lattice
    between: Samples | None = None
    error: LayerError | None = None

    def points(self, positions: np.ndarray | None = None) -> Points:
        """Samples in cells, ties between tables broken by the error of float inputs between the codes."""
        return Points.of(self.samples, positions, self.between)


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
    numbers: tuple[Numbers, Numbers] | None = None

    @cached_property
    def promised(self) -> Promised:
        """What the request's promises mean for the function over its range."""
        request = self.request
        return promised(self.function, request.error.promises, *self.range, request.function.tails != "free")

    @cached_property
    def rules(self) -> Rules | None:
        """What a line of a segment must keep, None where it may be any."""
        if not self.request.error.promises and self.numbers is None:
            return None
        what = self.promised
        kinds = {"zero": what.zero, "low": what.low, "high": what.high, "sign": what.rise}
        kinds["whole"] = not self.request.inputs.coded
        if self.numbers is not None:
            return Rules(*(Ordinals(self.format, chosen.values) for chosen in self.numbers), **kinds)
        return Rules.of(self.format, **kinds)

    @property
    def domain(self) -> Domain | None:
        """Of a table of float inputs; codes go through integer arithmetic, which has no NaN, and range reduction has a
        domain of its own.
        """
        return Domain.of(self.function) if not self.request.inputs.coded and not _reduced(self.prologue) else None

    @property
    def interval(self) -> tuple[float, float]:
        """Where the samples lie, before a symmetry folds them: the function's range, or what range reduction leaves of
        every x.
        """
        return self.range if _reduced(self.prologue) else self.function.range


def _reduced(prologue: Prologue | None) -> bool:
    """Whether the prologue reduces every x to a short interval, unlike a symmetry."""
    return prologue is not None and not isinstance(prologue, AbsPrologue)


def prepare(request: Request) -> tuple[Problem, list[Task]]:
    """The problem that a request stands for, and a task per input scale."""
    problem = _problem(_weighed(request))
    return problem, _tasks(problem)


def _weighed(request: Request) -> Request:
    """The request with its calibration read, and the range that follows from it."""
    weights = request.inputs.weights
    if is_calibration(weights):
        weights = measured(weights, request.function.function)
        request = replace(request, inputs=replace(request.inputs, weights=weights))
    errors = _layer_errors(request)
    if errors is not None and errors.errors and request.inputs.inputs == INT8:
        codes = tuple(error.inputs for error in errors.errors)
        request = replace(request, inputs=replace(request.inputs, inputs=codes))
    if isinstance(weights, Measured) and request.function.range is None:
        fn = functions.load(request.function.function, None)
        inputs = request.inputs.inputs if request.inputs.coded else None
        interval = weights.range(fn, fn.range, inputs)
        request = replace(request, function=replace(request.function, range=interval))
    return request


def _layer_errors(request: Request) -> LayerErrors | None:
    """What the next layer feels, where the objective asks for it."""
    if request.error.objective not in LAYER:
        return None
    errors = request.inputs.weights.errors if isinstance(request.inputs.weights, Measured) else request.inputs.weights
    if not isinstance(errors, LayerErrors):
        raise LutcError(
            f"the objective {request.error.objective} needs a layer of a calibration (`weights` "
            f"calibration.json:LAYER); given {errors!s:.40}"
        )
    return errors


def _problem(request: Request) -> Problem:
    fn = functions.load(request.function.function, request.function.range)
    fmt, chosen = _numbers(request, formats.get(request.storage.coefficients or _default_format(request, fn)))
    f, (lo, hi), left, right, prologue = fn, fn.range, fn.left, fn.right, None
    if request.function.symmetry:
        if fn.symmetry is None:
            known = ", ".join(name for name, other in functions.FUNCTIONS.items() if other.symmetry is not None)
            raise LutcError(f"{fn.name} has no symmetry to store half of; functions that have: {known}")
        f, left, right = fn.symmetry.h, None, fn.symmetry.right
        lo, hi = 0.0 if lo <= 0.0 <= hi else min(abs(lo), abs(hi)), max(abs(lo), abs(hi))
        prologue = AbsPrologue(fn.symmetry.positive, fn.symmetry.negative)
    elif _reduces(request, fn):
        prologue, left, right = make_prologue(fn, "reduce"), None, None
        lo, hi = (1.0, 2.0**prologue.step) if prologue.kind == "exponent" else (0.0, prologue.period)
    if request.function.tails == "free":
        left = right = None
    problem = Problem(request, fn, f, (lo, hi), left, right, fmt, prologue, chosen)
    low, high = (problem.promised.low, problem.promised.high) if request.error.promises else (-np.inf, np.inf)
    left, right = (rounded_tail(tail, fmt, fn.name, low, high) for tail in (left, right))
    if chosen is not None:
        left, right = (_chosen_tail(tail, chosen, fn.name) for tail in (left, right))
    return replace(problem, left=left, right=right)


def _default_format(request: Request, fn: Function) -> str:
    """Of coefficients that the request leaves open: for floats that of the inputs, for codes one that holds the
    function where the search can take any.
    """
    inputs, storage = request.inputs.inputs, request.storage
    if isinstance(inputs, str):
        return FLOAT_INPUTS[inputs]
    free = storage.slopes is None and storage.intercepts is None and not request.function.symmetry
    objective = request.error.objective
    if not free or objective in ("ulp", *LAYER) or request.search.search == "classic":
        return fn.coefficients
    known = functions.known(fn.name)
    chosen = chosen_format(fn, inputs, storage.out, known and fn.range != functions.get(fn.name).range)
    return fn.coefficients if objective == "codes" and not formats.get(chosen).is_fixed else chosen


def _numbers(request: Request, fmt: Format) -> tuple[Format, tuple[Numbers, Numbers] | None]:
    """The format that holds slopes and intercepts, and the numbers that each may be, None for all of the format."""
    slopes, intercepts = request.storage.slopes, request.storage.intercepts
    if slopes is None and intercepts is None:
        return fmt, None
    if not fmt.is_fixed:
        raise LutcError(f"numbers for `slopes` and `intercepts` are fixed point; leave out `coefficients` {fmt.name}")
    grid = numbers(intercepts, fmt).format if intercepts is not None else fmt
    sets = (numbers(slopes or fmt.name, grid), numbers(intercepts or fmt.name, fmt))
    return holder(*sets), sets


def _chosen_tail(tail: Line | None, sets: tuple[Numbers, Numbers], name: str) -> Line | None:
    """The tail in the numbers that there are; LutcError where they do not reach so far."""
    if tail is None:
        return None
    stored = []
    for what, value, chosen in zip(("slope", "intercept"), (tail.slope, tail.intercept), sets):
        nearest = float(chosen.values[np.argmin(np.abs(chosen.values - value))])
        beyond = value < chosen.values[0] or value > chosen.values[-1]
        if beyond and abs(nearest - value) > chosen.format.step:
            raise LutcError(
                f"{what}s of {chosen.name} reach from {chosen.values[0]:g} to {chosen.values[-1]:g} and cannot hold "
                f"the tail {what} {value:g} of {name}; give them another format, or free tails (`tails`)"
            )
        stored.append(nearest)
    return Line(*stored)


def _reduces(request: Request, fn: Function) -> bool:
    if request.function.prologue != "auto":
        return request.function.prologue == "reduce"
    return (
        request.search.search == "gradient"
        and not request.inputs.coded
        and fn.reduction is not None
        and request.inputs.weights is None
    )


def scale_key(inputs: Inputs) -> str:
    """GQA-LUT's key b for a scale 2**-b without zero point, else a label that tells scale and zero point."""
    if inputs.power is not None and inputs.zero_point == 0:
        return str(inputs.power)
    return f"{inputs.scale:.9g}" + (f"z{inputs.zero_point}" if inputs.zero_point else "")


def _tasks(problem: Problem) -> list[Task]:
    request, fn = problem.request, problem.function
    tasks, errors = [], _layer_errors(request)
    for inputs in ("float",) if not request.inputs.coded else request.inputs.inputs:
        if request.inputs.inputs == "grid":
            samples = grid_samples(fn, *problem.interval, weight=request.inputs.weights)
        elif not request.inputs.coded:
            samples = format_samples(fn, request.inputs.inputs, *problem.interval, weight=request.inputs.weights)
        else:
            if request.inputs.inputs == INT8 and not ((inputs.x() >= fn.range[0]) & (inputs.x() <= fn.range[1])).any():
                continue  # of the default scales those count that have a code in the range
            lo, hi = fn.range if errors is None else (-np.inf, np.inf)
            samples = code_samples(fn, inputs, lo, hi, weight=request.inputs.weights if errors is None else errors)
            if _targets_clamped(request):
                samples = replace(samples, y=request.inputs.weights.targets(fn, inputs)[np.isin(inputs.x(), samples.x)])
        if isinstance(problem.prologue, AbsPrologue):
            samples = _folded(samples, problem.f)
        if request.error.objective == "relative":
            samples = replace(samples, weight=samples.weight / np.maximum(np.abs(fn(samples.x)), RELATIVE_FLOOR) ** 2)
        codes = request.inputs.coded
        error = None if errors is None else errors.at(inputs)
        key = scale_key(inputs) if codes else problem.format.name
        ties = codes and request.error.objective in (*SQUARED, *LAYER) and len(samples) <= TIES_LIMIT
        even = (
            samples if error is None else replace(samples, weight=np.ones(len(samples)))
        )  # a layer may feel nothing at many codes
        between = _between(even, problem.f) if ties else None
        held = "continuous" in request.error.promises or (not codes and problem.promised.joined)
        steps = (inputs, request.storage.cut_step) if request.storage.cut_step > 1 else None
        lattice = Lattice(samples.x, problem.f, *problem.range, halves=codes and not held, held=held, steps=steps)
        tasks.append(Task(key, samples, inputs if codes else None, lattice, between, error))
    if not tasks:
        raise LutcError(
            f"no code at the default scales lies in [{fn.range[0]:g}, {fn.range[1]:g}]; give scales or another range"
        )
    if len({task.key for task in tasks}) < len(tasks):
        raise LutcError(f"each input scale may stand once; given {', '.join(task.key for task in tasks)}")
    most = max(len(task.samples) for task in tasks)
    if request.error.max_error is None and request.storage.entries > most:
        raise LutcError(
            f"{request.storage.entries} entries are more than the {most} samples of the finest scale in the range; "
            f"use at most {most}"
        )
    return tasks


def _targets_clamped(request: Request) -> bool:
    """Whether tables are to make up for inputs beyond the codes: for least squares, of one layer's inputs (others may
    end elsewhere), and where each scale has a whole table of its own.
    """
    if not isinstance(request.inputs.weights, Measured) or request.inputs.weights.pooled:
        return False
    return request.error.objective == "squared" and request.storage.share == "none" and not request.function.symmetry


def _between(samples: Samples, f: Callable) -> Samples | None:
    """Points between the codes with next to no weight. At coarse scales many tables are equally good on the codes, most
    of them absurd between them; these points choose among the best, and change nothing else.
    """
    gaps = np.diff(samples.x)
    share = (np.arange(TIE_POINTS) + 0.5) / TIE_POINTS
    x = (samples.x[:-1, None] + gaps[:, None] * share).ravel()
    y = np.asarray(f(x), np.float64)
    weight = np.repeat(samples.weight[1:], TIE_POINTS) * (TIE_WEIGHT / TIE_POINTS)
    finite = np.isfinite(y)
    return Samples(x[finite], y[finite], weight[finite]) if finite.any() else None


def _folded(samples: Samples, half: Callable) -> Samples:
    """Samples of |x|: the stored half answers for both signs, so weights of x and -x add up."""
    x, index = np.unique(np.abs(samples.x), return_inverse=True)
    return Samples(x, np.asarray(half(x), np.float64), np.bincount(index, samples.weight, x.size))

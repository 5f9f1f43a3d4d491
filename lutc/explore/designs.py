"""Designs of a table: what there is to choose from, and the error and hardware cost of each choice.

The best table of a choice is the exact optimum over its segment costs, so a design is a fact and not the luck of a
search.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from lutc import formats, functions, hardware
from lutc.compiler.problem import Problem, Task, prepare
from lutc.compiler.request import Request
from lutc.compiler.sharing import SharedCuts
from lutc.compiler.solve import segment_costs
from lutc.costs.points import Points
from lutc.costs.segments import SegmentCosts
from lutc.errors import LutcError
from lutc.formats.codes import Inputs
from lutc.formats.numbers import numbers
from lutc.hardware.bits import Cost, shared_breakpoint_bits
from lutc.search.exact import exact

POSITIONS = 512  # places for breakpoints while exploring; a table that is written is searched with all of them
OBJECTIVES = {
    "squared": "mean squared error",
    "absolute": "mean absolute error",
    "maximum": "largest error",
    "codes": "squared error of output codes, summed",
}
PAIR_OBJECTIVES = ("absolute", "maximum", "codes")  # their segment costs take coefficients of at most 8 bits
_MOST_BITS = 16  # of a coefficient


@dataclass(frozen=True)
class Space:
    """What there is to choose from. inputs: one or more scales; entries, fraction_bits: (fewest, most); symmetry:
    whether halves are tried.

    objective: a key of OBJECTIVES. out, range, tails: as in `lutc.compiler.request.Request`.
    """

    function: str
    inputs: tuple[Inputs, ...] = (Inputs(8, 2.0**-4),)
    out: Inputs | None = None
    objective: str = "squared"
    range: tuple[float, float] | None = None
    entries: tuple[int, int] = (2, 64)
    fraction_bits: tuple[int, int] = (3, 10)
    symmetry: bool = True
    tails: str = "exact"

    def __post_init__(self):
        for name, (low, high), least, most in (
            ("entries", self.entries, 2, 256),
            ("fraction bits", self.fraction_bits, 1, 15),
        ):
            if not least <= low <= high <= most:
                raise LutcError(f"{name} to explore are a range within {least}..{most}; given {low} to {high}")
        if self.objective not in OBJECTIVES:
            raise LutcError(f"objectives to explore are {', '.join(OBJECTIVES)}; given {self.objective!r}")
        if not self.inputs:
            raise LutcError("an exploration needs at least one input scale")


@dataclass(frozen=True, order=True)
class Choice:
    """What `lutc compile` needs to make a design's table."""

    entries: int
    coefficients: str
    symmetry: bool = False
    share: str = "none"
    slopes: str = ""
    cut_step: int = 1


@dataclass(frozen=True)
class Design:
    """A choice with its error (see `Workbench.error`) and its cost. proven: the error is the choice's optimum.

    Errors have 9 digits, so that designs equal but for rounding are equal.
    """

    choice: Choice
    error: float
    cost: Cost
    proven: bool


@dataclass(eq=False)
class Workbench:
    """Designs of a space, each searched once: segment costs are kept per (format, half, sharing), designs per choice.

    formats: names to choose from, per half (False, and True where the function has a symmetry). sharing: "none", and
    "all" with several scales. spared: slopes by shifts and cuts at a step of codes are to choose from too.
    """

    space: Space
    spared: bool = False
    designs: dict[Choice, Design] = field(default_factory=dict)
    _costs: dict[tuple, list[SegmentCosts]] = field(default_factory=dict)
    _thinned: set[tuple] = field(default_factory=set)  # keys of _costs with fewer places for breakpoints than there are

    def __post_init__(self):
        space = self.space
        self.function = functions.load(space.function, space.range)
        pairs = space.objective in PAIR_OBJECTIVES
        halves = (
            (False, True)
            if space.symmetry and self.function.symmetry is not None and space.objective != "codes"
            else (False,)
        )
        self.sharing = ("none", "all") if len(space.inputs) > 1 and not pairs else ("none",)
        self.formats = {half: names for half in halves if (names := self._formats(half, 8 if pairs else _MOST_BITS))}
        if not self.formats:
            low, high = space.fraction_bits
            raise LutcError(
                f"no format with {low} to {high} fraction bits serves {self.function.name} under the objective "
                f"{space.objective}"
                f"{', which takes 8 bits in all' if pairs else ''}; change `fraction_bits`"
            )
        # fewer samples behind a symmetry, fewer entries; the coarsest problem is also the check that the space can be
        # compiled at all
        self.most_entries = {
            half: min(space.entries[1], max(len(task.samples) for task in self.tasks(names[0], half)[1]))
            for half, names in self.formats.items()
        }

    def _formats(self, half: bool, width: int) -> list[str]:
        """From the fewest integer bits that hold the tails to half a step up to one more than the function's default
        format has.
        """
        tails = (self.function.symmetry.right,) if half else (self.function.left, self.function.right)
        values = [
            v
            for tail in tails
            if tail is not None and self.space.tails == "exact"
            for v in (tail.slope, tail.intercept)
        ]
        low, high = self.space.fraction_bits
        most = formats.get(self.function.coefficients).integer_bits + 1
        names = [formats.get(f"q{i}.{f}") for f in range(low, high + 1) for i in range(most + 1) if 1 + i + f <= width]
        return [fmt.name for fmt in names if all(abs(fmt.round(v) - v) <= fmt.step / 2 for v in values)]

    def options(self, choice: Choice) -> dict:
        """The fields of `lutc.compiler.request.Request`, beside function and entries, that make a choice's table."""
        s = self.space
        same = {"inputs": s.inputs, "objective": s.objective, "out": s.out, "range": s.range, "tails": s.tails}
        return {
            **same,
            "coefficients": choice.coefficients,
            "symmetry": choice.symmetry,
            "share": choice.share,
            "slopes": choice.slopes or None,
            "cut_step": choice.cut_step,
            "search": "exact",
        }

    def tasks(self, coefficients: str, half: bool, slopes: str = "") -> tuple[Problem, list[Task]]:
        """What the compiler makes of a format: its problem and a task per scale."""
        choice = Choice(0, coefficients, half, slopes=slopes)
        return prepare(Request.of(self.space.function, self.space.entries[0], **self.options(choice)))

    def costs(
        self, coefficients: str, half: bool, share: str, slopes: str = "", cut_step: int = 1
    ) -> list[SegmentCosts]:
        """Segment costs per scale, or one for all scales where they share a table."""
        key = (coefficients, half, share, slopes, cut_step)
        if key not in self._costs:
            self._costs[key] = self._segment_costs(*key)
        return self._costs[key]

    def _segment_costs(
        self, coefficients: str, half: bool, share: str, slopes: str, cut_step: int
    ) -> list[SegmentCosts]:
        problem, tasks = self.tasks(coefficients, half, slopes)
        if share == "all":
            index = SharedCuts(tasks, *problem.range).index
            kept = np.linspace(0, index.shape[1] - 1, min(index.shape[1], POSITIONS + 1)).round().astype(np.int64)
            thinned = kept.size < index.shape[1]
            points = [Points.shared([task.samples for task in tasks], list(index[:, kept]))]
        elif cut_step > 1:
            thinned = False
            step = cut_step.bit_length() - 1
            points = [Points.of(task.samples, places(task.samples.x, task.inputs, step)) for task in tasks]
        elif self.space.objective in PAIR_OBJECTIVES:
            thinned, points = False, [Points.of(task.samples) for task in tasks]
        else:
            points = [Points.of(task.samples, places(task.samples.x, task.inputs)) for task in tasks]
            thinned = any(at.size < len(task.samples) for at, task in zip(points, tasks))
        if thinned:
            self._thinned.add((coefficients, half, share, slopes, cut_step))
        return [segment_costs(problem, task, at) for task, at in zip(tasks, points)]

    def design(self, choice: Choice) -> Design:
        """The best table of a choice. Its own choice names the entries that it really uses."""
        if choice not in self.designs:
            try:
                self.designs[choice] = self._search(choice)
            except LutcError:  # no such slope is near enough to a tail's
                if not choice.slopes:
                    raise
                self.designs[choice] = self._search(replace(choice, slopes=""))
        return self.designs[choice]

    def _search(self, choice: Choice) -> Design:
        key = (choice.coefficients, choice.symmetry, choice.share, choice.slopes, choice.cut_step)
        every = self.costs(*key)
        found = [exact(costs, choice.entries) for costs in every]
        entries = [int((np.diff(result.cuts) > 0).sum()) + sum(costs.tails) for result, costs in zip(found, every)]
        error = self.error([result.cost for result in found])
        proven = all(costs.exact for costs in every) and key not in self._thinned
        choice = replace(choice, entries=max(2, *entries))
        return Design(
            choice,
            float(f"{error:.9g}"),
            self.cost(entries, *key),
            proven,
        )

    def cost(
        self, entries: list[int], coefficients: str, half: bool, share: str, slopes: str = "", cut_step: int = 1
    ) -> Cost:
        """Cost of a set: entries per scale, or of the one table that all share."""
        fmt, breakpoint_bits = formats.get(coefficients), None
        chosen = (numbers(slopes, fmt), numbers(coefficients, fmt)) if slopes else None
        if share == "all":
            breakpoint_bits = shared_breakpoint_bits(self.function.range, self.space.inputs, half)
        return hardware.together(
            hardware.lines_cost(n, fmt, i, half, breakpoint_bits, chosen, cut_step == 1)
            for n, i in zip(entries, self.space.inputs)
        )

    def error(self, costs: list[float]) -> float:
        """Error of a set by the costs of its searches, one per scale or one for all: their mean.

        Under `codes` it is the squared error of the output codes summed over all codes, a whole number: the trifle in
        the costs that tells ties apart is taken out.
        """
        if self.space.objective != "codes":
            return float(np.mean(costs))
        return float(sum(np.rint(cost * self.x(at).size) for at, cost in enumerate(costs)))

    def x(self, at: int) -> np.ndarray:
        """Real values of the input codes at scale number `at` in the range, where the function is finite."""
        x, (lo, hi) = self.space.inputs[at].x(), self.function.range
        return x[(x >= lo) & (x <= hi) & np.isfinite(self.function(x))]


def places(x: np.ndarray, inputs: Inputs, shift: int = 0) -> np.ndarray:
    """Positions (sample indices from 0 to n) at which the code's bits above the lowest `shift` change.

    shift 0 is every code, made coarser until at most POSITIONS cells are left. x: samples that are codes, or their
    magnitudes, ascending.
    """
    q = np.rint(x / inputs.scale).astype(np.int64) + inputs.zero_point
    while True:
        cells = q >> shift
        inner = np.flatnonzero(np.diff(cells)) + 1
        if inner.size < POSITIONS:
            return np.concatenate([[0], inner, [x.size]])
        shift += 1

"""From a function to what a search sees: samples behind range reduction, their weights, and where cut
points may stand.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from lutc import formats
from lutc.certify.arithmetic import in_arithmetic
from lutc.compiler.prologue import _reduced_range, make_prologue
from lutc.costs.targets import Targets, regions
from lutc.errors import LutcError
from lutc.functions import Function, Line
from lutc.functions.registry import checked_range
from lutc.measures import RELATIVE_FLOOR
from lutc.table.domain import Domain
from lutc.table.prologues import AbsPrologue, ExponentPrologue, PeriodPrologue, Prologue
from lutc.table.table import Table

RELATIVE_CAP = 0.009  # relative error of one input beyond which a small mean no longer pays; tables promise 1 %
NORM_OF = {"relative": "l1", "absolute": "l1", "squared": "l2", "ulp": "l1", "maximum": "max"}
_KINK, _KINK_RATIO, _MOST_ANCHORS = 1e-3, 4.0, 16


@dataclass(frozen=True, eq=False)
class IntervalProblem:
    """What is searched and fitted, in terms of the reduced input r behind the prologue.

    f: of r. targets: all finite values of `input` (16 bits) in the range where the function is finite in that format,
    behind the prologue; equal r are one sample. places: values a cut point may take, ascending. left, right: tails of
    r. count: inputs behind the targets.
    """

    function: Function
    objective: str
    input: str
    f: Callable = field(repr=False)
    targets: Targets = field(repr=False)
    places: np.ndarray = field(repr=False)
    prologue: AbsPrologue | ExponentPrologue | PeriodPrologue | None
    left: Line | None
    right: Line | None
    range: tuple[float, float]
    count: int

    @property
    def anchors(self) -> np.ndarray:
        """Places (positions) worth a cut: on both sides of a jump, next to kinks, which show as jumps of the slope,
        inflections and 0.
        """
        x = self.places
        with np.errstate(all="ignore"):
            slope = np.diff(self.f(x)) / np.diff(x)
            jump = np.abs(np.diff(slope))
            step = np.abs(np.diff(self.f(x)))
        beside = np.maximum(np.append(0.0, step[:-1]), np.append(step[1:], 0.0))
        gaps = np.flatnonzero((step > _KINK_RATIO * beside) & (step > _KINK))
        around = np.maximum(np.append(0.0, jump[:-1]), np.append(jump[1:], 0.0))
        kinks = np.flatnonzero(jump > np.maximum(_KINK_RATIO * around, _KINK)) + 1
        points = np.append(np.asarray(self.function.inflections or (), np.float64), 0.0)
        points = points[(points >= x[0]) & (points <= x[-1])]
        worth = np.concatenate([gaps, gaps + 1, kinks, np.searchsorted(x, points)])
        return np.unique(worth)[:_MOST_ANCHORS]

    @property
    def zero(self) -> int | None:
        """Position among the places of 0 where the function has f(0) = 0, None elsewhere."""
        at = int(np.searchsorted(self.places, 0.0))
        inside = at < self.places.size and self.places[at] == 0.0
        return at if inside and self.f(np.zeros(1))[0] == 0.0 and self.function(np.zeros(1))[0] == 0.0 else None

    @property
    def domain(self) -> Domain | None:
        """Of x, for the table; range reduction by exponent or period has its own."""
        return Domain.of(self.function) if self.prologue is None or isinstance(self.prologue, AbsPrologue) else None

    @property
    def norm(self) -> str:
        return NORM_OF[self.objective]

    def mean(self, cost: float) -> float:
        """A cost as the objective's figure: the mean over inputs, or the largest."""
        return cost if self.norm == "max" else cost / self.count


def through_zero(table: Table) -> bool:
    """Whether the table is exactly 0 at 0, in float64 and interpolated in fp32."""
    return all(in_arithmetic(table, name)(np.zeros(1))[0] == 0.0 for name in ("float64", "fp32"))


def finite_range(fn: Function, fmt: formats.Format) -> tuple[float, float]:
    """The longest run of finite values of the format on which the function is finite in that format too, as its first
    and last value.

    At a pole, and between two such runs, the one with the larger values is taken.
    """
    x = fmt.values()
    y = fn(x)
    good = np.isfinite(y) & (np.abs(y) <= fmt.max)
    ends = np.flatnonzero(np.diff(np.concatenate([[0], good.astype(np.int8), [0]])))
    starts, stops = ends[::2], ends[1::2]
    if not starts.size:
        raise LutcError(f"{fn.name} is finite at no value of {fmt.name}")
    best = max(range(starts.size), key=lambda i: (stops[i] - starts[i], starts[i]))
    return float(x[starts[best]]), float(x[stops[best] - 1])


def make_problem(
    fn: Function, objective: str, prologue: str, input: str, range: tuple[float, float] | None, tails: bool
) -> IntervalProblem:
    """range: of x, None for wherever the function is finite. Without `tails` the end pieces go on instead."""
    if objective not in NORM_OF:
        raise LutcError(f"unknown objective {objective!r}; choose one of {', '.join(NORM_OF)}")
    if input not in ("fp16", "bf16"):
        raise LutcError(f"tables are judged over all inputs of fp16 or bf16; given {input!r}")
    fmt, reduction = formats.get(input), make_prologue(fn, prologue)
    x = fmt.values()
    if range is not None:
        range = checked_range(fn, *range)
    elif reduction is None or reduction.kind == "abs":
        range = finite_range(fn, fmt)
    else:
        range = (float(x[0]), float(x[-1]))
    x = x[(x >= range[0]) & (x <= range[1])]
    y = fn(x)
    keep = np.isfinite(y) & (np.abs(y) <= fmt.max)
    if reduction is None and not keep.all():
        at = x[~keep][0]
        raise LutcError(
            f"{fn.name} is not finite in {input} at {at:g}, between its cuts; give a `range` where it is, or use its "
            "prologue"
        )
    x, y = x[keep], y[keep]
    weight = _weight(objective, fmt, y)
    f, left, right = fn.f, fn.left, fn.right
    places = x
    if reduction is not None:
        r, gain = reduced(reduction, x)
        weight = weight * (gain * gain if NORM_OF[objective] == "l2" else gain)
        f, left, right = (fn.symmetry.h, None, fn.symmetry.right) if reduction.kind == "abs" else (fn.f, None, None)
        x, weight = _merged(r, weight, NORM_OF[objective])
        places = _places(fmt, *_reduced_range(reduction, x))
        y = f(x)
    if not tails:
        left = right = None
    known = fn.inflections is not None and (
        reduction is None or reduction.kind != "abs"
    )  # those of f, not of the half that is stored
    region = np.searchsorted(np.asarray(fn.inflections), x) if known else regions(x, y)
    cap = RELATIVE_CAP if objective == "relative" else np.inf
    if (
        reduction is not None
    ):  # a sample stands for several inputs: two of opposite sign, or so many that the cap would mean another thing
        cap = 2 * cap if reduction.kind == "abs" else np.inf
    targets = Targets(x, y, weight, region, cap)
    return IntervalProblem(fn, objective, input, f, targets, places, reduction, left, right, range, int(keep.sum()))


def _weight(objective: str, fmt: formats.Format, y: np.ndarray) -> np.ndarray:
    if objective in ("relative", "maximum"):
        return 1.0 / np.maximum(np.abs(y), RELATIVE_FLOOR)
    return 1.0 / fmt.ulp(y) if objective == "ulp" else np.ones_like(y)


def reduced(prologue: Prologue | None, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The input r that the body sees for each x, and by what factor an error there grows; both float64, shape of x."""
    seen = []

    def body(value):
        def evaluate(r):
            seen.append(np.asarray(r, np.float64))
            return np.full(np.shape(r), value)

        return evaluate

    gain = np.abs(prologue(body(1.0), x) - prologue(body(0.0), x))
    return seen[0], gain


def _merged(r, weight, norm: str):
    unique, inverse = np.unique(r, return_inverse=True)
    total = np.zeros_like(unique)
    (np.maximum if norm == "max" else np.add).at(total, inverse, weight)
    return unique, total


def _places(fmt: formats.Format, low: float, high: float) -> np.ndarray:
    """Values of the format from the last at or below `low` to the first at or above `high`."""
    values = fmt.values()
    return values[np.searchsorted(values, low, side="right") - 1 : np.searchsorted(values, high) + 1]

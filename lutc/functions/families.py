"""Functions with parameters: a family makes one Function for each choice of them, and `entries` holds those that lutc
knows.

What a member needs beside its values follows from the parameters: its range holds what bends, and its coefficient
format the chords of sixteen even pieces and the tails.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from lutc.errors import LutcError
from lutc.formats.format import get as format_of
from lutc.functions import parametric as p
from lutc.functions.kinds import IDENTITY, ODD, RAMP, ZERO, Function, Line, Symmetry
from lutc.functions.spelling import spelled

_SHORT = 3  # integer bits that 8-bit coefficients can spare; beyond, their steps are too large and 16 bits are taken


@dataclass(frozen=True)
class With:
    """f(x, *values), as a function of x that can be compared and pickled."""

    f: Callable[..., np.ndarray]
    values: tuple[float, ...]

    def __call__(self, x) -> np.ndarray:
        return self.f(x, *self.values)


@dataclass(frozen=True)
class Parameter:
    """A number with a default; positive: above 0."""

    name: str
    default: float
    positive: bool = False

    def checked(self, value: float, function: str) -> float:
        """The value, once it is a finite number that the parameter may have."""
        if not math.isfinite(value) or self.positive and value <= 0:
            kind = "a positive number" if self.positive else "a finite number"
            raise LutcError(f"{self.name} of {function} is {kind}, by default {self.default:g}; given {value:g}")
        return value


@dataclass(frozen=True)
class Family:
    """make: from the parameters, in order, to a Function, whose name and format are put in here."""

    name: str
    parameters: tuple[Parameter, ...]
    make: Callable[..., Function]

    def member(self, given: Mapping[str, float] | None = None) -> Function:
        """The function at the parameters given, the others at their defaults; LutcError for a parameter that there is
        not, or a value that it may not have.
        """
        given = dict(given or {})
        unknown = [name for name in given if name not in {one.name for one in self.parameters}]
        if unknown:
            there = ", ".join(f"{one.name}={one.default:g}" for one in self.parameters)
            raise LutcError(f"{self.name} has no parameter {unknown[0]!r}; it has {there}")
        values = tuple(one.checked(float(given.get(one.name, one.default)), self.name) for one in self.parameters)
        own = {one.name: value for one, value in zip(self.parameters, values) if value != one.default}
        fn = self.make(*values)
        named = tuple((one.name, value) for one, value in zip(self.parameters, values))
        return replace(fn, name=spelled(self.name, own), coefficients=_narrowest(fn), parameters=named)


def _narrowest(fn: Function) -> str:
    """The narrowest fixed point, of 8 bits or else 16, that holds tails, and chords over sixteenths of the range within
    a step.
    """
    x = np.linspace(*fn.range, 17)
    y = fn(x)
    slopes = np.diff(y) / np.diff(x)
    chords = np.concatenate((slopes, y[:-1] - slopes * x[:-1]))
    tails = np.array([value for tail in (fn.left, fn.right) if tail for value in (tail.slope, tail.intercept)] or [0.0])
    for whole in range(1, 16):
        name = f"q{whole}.{(7 if whole <= _SHORT else 15) - whole}"
        fmt = format_of(name)
        inside = fmt.min - fmt.step <= chords.min() and chords.max() <= fmt.max + fmt.step
        if inside and fmt.min <= tails.min() and tails.max() <= fmt.max:
            return name
    return "fp32"


def _leaky(slope: float) -> Function:
    return _function(
        p.leaky_relu, p.leaky_relu_derivative, (slope,), 4.0, left=Line(slope, 0.0), right=IDENTITY, inflections=()
    )


def _elu(alpha: float) -> Function:
    bends = () if alpha <= 1.0 else (0.0,)  # beyond, the slope falls at 0
    left = Line(0.0, -alpha)
    return _function(p.elu, p.elu_derivative, (alpha,), 4.0, left=left, right=IDENTITY, inflections=bends)


def _celu(alpha: float) -> Function:
    reach = 4.0 * max(1.0, alpha)
    left = Line(0.0, -alpha)
    return _function(p.celu, p.celu_derivative, (alpha,), reach, left=left, right=IDENTITY, inflections=())


def _softplus(beta: float) -> Function:
    symmetry = Symmetry(With(p.softplus_half, (beta,)), **RAMP, right=ZERO)
    return _function(
        p.softplus, p.softplus_derivative, (beta,), 8.0 / beta,
        left=ZERO, right=IDENTITY, symmetry=symmetry, inflections=(),
    )  # fmt: skip


def _hardtanh(low: float, high: float) -> Function:
    if not low < high:
        raise LutcError(f"hardtanh clips to [min_val, max_val], min_val below max_val; given {low:g} and {high:g}")
    middle, half = (low + high) / 2.0, (high - low) / 2.0
    fn = _function(
        p.hardtanh, p.hardtanh_derivative, (low, high), 1.0,
        left=Line(0.0, low), right=Line(0.0, high), inflections=(middle,),
    )  # fmt: skip
    return replace(fn, range=(middle - 4.0 * half, middle + 4.0 * half))


def _hardshrink(threshold: float) -> Function:
    bends = (-threshold, 0.0, threshold)
    symmetry = Symmetry(With(p.hardshrink, (threshold,)), **ODD, right=IDENTITY)
    return _function(
        p.hardshrink, p.shrink_derivative, (threshold,), max(4.0, 8.0 * threshold),
        left=IDENTITY, right=IDENTITY, symmetry=symmetry, inflections=bends,
    )  # fmt: skip


def _softshrink(threshold: float) -> Function:
    symmetry = Symmetry(With(p.softshrink, (threshold,)), **ODD, right=Line(1.0, -threshold))
    return _function(
        p.softshrink, p.shrink_derivative, (threshold,), max(4.0, 8.0 * threshold),
        left=Line(1.0, threshold), right=Line(1.0, -threshold), symmetry=symmetry, inflections=(0.0,),
    )  # fmt: skip


def _snake(alpha: float) -> Function:
    return _function(p.snake, p.snake_derivative, (alpha,), 4.0)


def _softcap(cap: float) -> Function:
    symmetry = Symmetry(With(p.softcap, (cap,)), **ODD, right=Line(0.0, cap))
    return _function(
        p.softcap, p.softcap_derivative, (cap,), 4.0 * cap,
        left=Line(0.0, -cap), right=Line(0.0, cap), symmetry=symmetry, inflections=(0.0,),
    )  # fmt: skip


def _xielu(alpha_p: float, alpha_n: float, beta: float) -> Function:
    left = Line(beta - alpha_n, -alpha_n)
    fn = _function(p.xielu, p.xielu_derivative, (alpha_p, alpha_n, beta), 4.0, left=left, inflections=())
    return replace(fn, range=(-4.0, 2.0))


def _swigluoai(alpha: float, limit: float) -> Function:
    bend = 2.3993572805154677 / alpha
    right = Line(0.0, float(p.swigluoai(limit, alpha, limit)))
    fn = _function(
        p.swigluoai, p.swigluoai_derivative, (alpha, limit), 1.0,
        left=ZERO, right=right, inflections=(-bend, min(bend, limit)),
    )  # fmt: skip
    return replace(fn, range=(-8.0, limit + 1.0))


def _function(f: Callable, derivative: Callable, values: tuple[float, ...], reach: float, **facts) -> Function:
    """Over [-reach, reach]."""
    return Function("", With(f, values), With(derivative, values), (-reach, reach), **facts)


LEAKY_RELU = Family("leaky_relu", (Parameter("negative_slope", 0.01),), _leaky)
PRELU = Family("prelu", (Parameter("weight", 0.25),), _leaky)
ELU = Family("elu", (Parameter("alpha", 1.0, positive=True),), _elu)
CELU = Family("celu", (Parameter("alpha", 1.0, positive=True),), _celu)
SOFTPLUS = Family("softplus", (Parameter("beta", 1.0, positive=True),), _softplus)
HARDTANH = Family("hardtanh", (Parameter("min_val", -1.0), Parameter("max_val", 1.0)), _hardtanh)
HARDSHRINK = Family("hardshrink", (Parameter("lambd", 0.5, positive=True),), _hardshrink)
SOFTSHRINK = Family("softshrink", (Parameter("lambd", 0.5, positive=True),), _softshrink)
SNAKE = Family("snake", (Parameter("alpha", 1.0, positive=True),), _snake)
SOFTCAP = Family("softcap", (Parameter("cap", 30.0, positive=True),), _softcap)
XIELU = Family(
    "xielu",
    (Parameter("alpha_p", 0.8, positive=True), Parameter("alpha_n", 0.8, positive=True), Parameter("beta", 0.5)),
    _xielu,
)
SWIGLUOAI = Family(
    "swigluoai", (Parameter("alpha", 1.702, positive=True), Parameter("limit", 7.0, positive=True)), _swigluoai
)

"""What is known of a function besides its values: numbers only, so that a table can store them and no runtime looks up
a name.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Line:
    """A tail: f(x) tends to slope * x + intercept far out; a constant has slope 0."""

    slope: float
    intercept: float


@dataclass(frozen=True)
class Symmetry:
    """f(x) = factor * h(|x|) + slope * x + intercept, with one (factor, slope, intercept) for x >= 0 and one for x < 0.

    `h` (float64, on x >= 0) is the part that a table stores and is computed without cancellation; `right` is its tail,
    None where it has none. Odd functions are (1, 0, 0) and (-1, 0, 0); sigmoid is 1 - h and h; gelu(x) = relu(x) +
    h(|x|).
    """

    h: Callable[[np.ndarray], np.ndarray]
    positive: tuple[float, float, float]
    negative: tuple[float, float, float]
    right: Line | None


@dataclass(frozen=True)
class Reduction:
    """Range reduction, which lets a table over a short range serve every input.

    kind "exponent": x = m * 2**(step * e), m in [1, 2**step), and f(x) = f(m) * 2**(growth * e) + offset * e. With
    `odd` the sign of x is set aside and put back on the result, with `even` it is dropped; without either negative x
    are outside the domain. kind "period": x = n * period + r, r in [0, period), and f(x) = f(r) * 2**(growth * n).
    """

    kind: str
    growth: int
    step: int = 0
    offset: float = 0.0
    odd: bool = False
    even: bool = False
    period: float = 0.0


@dataclass(frozen=True)
class Function:
    """A scalar function with what a compiler needs to know of it. Calling it evaluates it.

    `f` and `derivative` take and return float64 of any shape, never warn, and keep NaN. At +-inf they give the limit,
    NaN where there is none. Outside the domain they are NaN; at a pole infinite, as torch's functions are. At a kink
    the derivative follows torch.

    domain: where f is real, (lo, hi); `lo_open` / `hi_open` say that f is not finite at that end. `poles`: points
    inside where it is not finite. range: default interval for a search, (lo, hi). left, right: tails; None where f has
    none, and the end segment goes on. coefficients: name of the narrowest 8-bit fixed-point format that holds slopes
    and intercepts of good lines over `range`. inflections: ascending points between which f is convex or concave (kinks
    included), in one period for functions with kind "period" and growth 0; None where unknown. parameters: (name,
    value) of each parameter that the function has; those that differ from the default stand in its name, as in
    "elu(alpha=0.5)".
    """

    name: str
    f: Callable[[np.ndarray], np.ndarray]
    derivative: Callable[[np.ndarray], np.ndarray] | None
    range: tuple[float, float]
    coefficients: str = "q1.6"
    domain: tuple[float, float] = (-np.inf, np.inf)
    lo_open: bool = False
    hi_open: bool = False
    poles: tuple[float, ...] = ()
    left: Line | None = None
    right: Line | None = None
    symmetry: Symmetry | None = None
    reduction: Reduction | None = None
    inflections: tuple[float, ...] | None = None
    aliases: tuple[str, ...] = ()
    parameters: tuple[tuple[str, float], ...] = ()

    def __call__(self, x) -> np.ndarray:
        return self.f(x)


ZERO, ONE, IDENTITY = Line(0.0, 0.0), Line(0.0, 1.0), Line(1.0, 0.0)
# (factor, slope, intercept) of a Symmetry for x >= 0 and x < 0
ODD = {"positive": (1.0, 0.0, 0.0), "negative": (-1.0, 0.0, 0.0)}
EVEN = {"positive": (1.0, 0.0, 0.0), "negative": (1.0, 0.0, 0.0)}
RAMP = {"positive": (1.0, 1.0, 0.0), "negative": (1.0, 0.0, 0.0)}  # relu(x) + h(|x|)
STEP = {"positive": (-1.0, 0.0, 1.0), "negative": (1.0, 0.0, 0.0)}  # 1 - h(x) and h(-x)

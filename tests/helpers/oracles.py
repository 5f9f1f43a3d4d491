"""Slow, plain answers to hold the compiler against: brute force over coefficients, full enumeration over cuts."""

import itertools

import numpy as np

from lutc import formats, functions
from lutc.compiler.build import rounded_tail
from lutc.costs.points import Points
from lutc.costs.segments import squared_costs
from lutc.formats.codes import Inputs
from lutc.samples.samples import Samples, code_samples


def grid(fmt) -> np.ndarray:
    """All values of a format of up to 8 bits."""
    return formats.get(fmt).values()


def line_errors(x, y, slopes, intercepts) -> np.ndarray:
    """slope * x + intercept - y for all pairs: (slopes, intercepts, n)."""
    return slopes[:, None, None] * x + intercepts[None, :, None] - y


def best_squared(x, y, weight, fmt) -> float:
    """Least weighted squared error of any representable line, by trying every pair of coefficients."""
    values = grid(fmt)
    return float(((line_errors(x, y, values, values) ** 2) @ weight).min())


def tables(size: int, segments: int, tails: tuple[bool, bool]):
    """All cuts (segments + 1) of `size` samples; without a tail the end cut stands at the end."""
    first = range(size + 1) if tails[0] else (0,)
    last = range(size + 1) if tails[1] else (size,)
    for start, stop in itertools.product(first, last):
        if start <= stop:
            for inner in itertools.combinations_with_replacement(range(start, stop + 1), segments - 1):
                yield (start, *inner, stop)


def best_table(costs, segments: int) -> float:
    """Cost of the best of all tables, summed segment by segment."""
    best = np.inf
    for cuts in tables(costs.size, segments, costs.tails):
        parts = [costs.left[cuts[0]], costs.right[cuts[-1]], *(costs.matrix[i, j] for i, j in zip(cuts, cuts[1:]))]
        best = min(best, max(parts) if costs.combine is np.maximum else sum(parts))
    return best


def tails_of(fn, fmt) -> tuple:
    return tuple(rounded_tail(tail, formats.get(fmt), fn.name) for tail in (fn.left, fn.right))


def int8_samples(name: str, power: int) -> Samples:
    fn = functions.get(name)
    return code_samples(fn, Inputs(8, 2.0**-power), *fn.range)


def int8_costs(name: str, power: int, tails: bool = True):
    """Squared costs of a function at int8 scale 2**-power with its own format."""
    fn = functions.get(name)
    left, right = tails_of(fn, fn.coefficients) if tails else (None, None)
    return squared_costs(Points.of(int8_samples(name, power)), formats.get(fn.coefficients), left, right)


def random_samples(rng, n: int) -> Samples:
    """A few samples of nothing in particular, with uneven weights, on the grid 2^-4."""
    x = np.sort(rng.choice(np.arange(-32, 33), n, replace=False)) / 16
    return Samples(x, rng.normal(0.0, 0.7, n), rng.uniform(0.1, 2.0, n))

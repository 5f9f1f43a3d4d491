"""Where a table is judged: the codes of a quantised input, all finite values of a 16-bit format, or a dense grid, with
a weight each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lutc import formats
from lutc.errors import LutcError
from lutc.formats.codes import Inputs
from lutc.functions import Function


@dataclass(frozen=True, eq=False)
class Samples:
    """x (float64, strictly increasing), y = f(x), weight >= 0, all of shape (n,). A cut may stand at every x, and
    between codes only there.
    """

    x: np.ndarray
    y: np.ndarray
    weight: np.ndarray

    def __len__(self) -> int:
        return self.x.size


def _weights(x: np.ndarray, weight) -> np.ndarray:
    """`weight`: None (uniform), "gauss", "gauss:SIGMA" or "gauss:MEAN:SIGMA" (normal density), a callable of x, or one
    weight for each x.
    """
    if weight is None or isinstance(weight, str) and weight == "uniform":
        return np.ones_like(x)
    if callable(weight) or isinstance(weight, np.ndarray):
        values = np.asarray(weight(x) if callable(weight) else weight, np.float64)
    else:
        name, *numbers = str(weight).split(":")
        try:
            mean, sigma = [0.0, 1.0] if not numbers else [float(number) for number in ("0", *numbers)[-2:]]
        except ValueError:
            mean = sigma = np.nan
        if name != "gauss" or len(numbers) > 2 or not (np.isfinite([mean, sigma]).all() and sigma > 0):
            raise LutcError(
                "weights are 'uniform', 'gauss', 'gauss:SIGMA' or 'gauss:MEAN:SIGMA' with a positive SIGMA, "
                f"calibration.json:LAYER, or a file of samples (.npy, .csv, .txt); given {weight!r}"
            )
        values = np.exp(-0.5 * ((x - mean) / sigma) ** 2)
    if values.shape != x.shape or not np.isfinite(values).all() or (values < 0).any() or not (values > 0).any():
        raise LutcError("weights must be finite, not negative, and positive somewhere in the range")
    return values


def _sample(fn: Function, x: np.ndarray, weight) -> Samples:
    y = np.asarray(fn(x), np.float64)
    finite = np.isfinite(y)
    weight = weight[finite] if isinstance(weight, np.ndarray) else weight
    return Samples(x[finite], y[finite], _weights(x[finite], weight))


def code_samples(fn: Function, inputs: Inputs, lo: float, hi: float, weight: Callable | None = None) -> Samples:
    """The codes whose real value lies in [lo, hi] and where fn is finite. A weight that knows codes (`of_codes`) is
    asked for theirs.
    """
    x = inputs.x()
    use, of_codes = (x >= lo) & (x <= hi), getattr(weight, "of_codes", None)
    samples = _sample(fn, x[use], of_codes(inputs)[use] if of_codes is not None else weight)
    if not len(samples):
        raise LutcError(
            f"no code of {inputs.bits} bits at scale {inputs.scale:g} lies in [{lo:g}, {hi:g}]; its codes reach from "
            f"{x[0]:g} to {x[-1]:g}: "
            "choose another scale or range"
        )
    return samples


def format_samples(fn: Function, name: str, lo: float, hi: float, weight: Callable | None = None) -> Samples:
    """All finite values of fp16 or bf16 in [lo, hi] where fn is finite."""
    fmt = formats.get(name)
    if fmt.bits != 16 or fmt.kind != "float":
        raise LutcError(f"samples are all values of fp16 or bf16; given {name}")
    x = fmt.values()
    return _sample(fn, x[(x >= lo) & (x <= hi)], weight)


def grid_samples(fn: Function, lo: float, hi: float, points: int = 4096, weight: Callable | None = None) -> Samples:
    """`points` equally spaced x, both ends included."""
    return _sample(fn, np.linspace(lo, hi, points), weight)

"""Scale and zero point of a quantised input from what was observed, and what is lost by them.

The mapping is y = x / scale + zero_point, rounded half to even and clamped to the codes; its inverse is x' = scale * (y
- zero_point). What comes back differs from x by at most scale / 2 where y was not clamped (rounding) and by more beyond
(clipping); `loss` says by how much on what was seen.

What a model feels is not the difference of x but that of f(x), f being the function that is fed with it: clipping large
inputs of SiLU costs much, clipping very negative ones nothing. `for_layer` therefore measures behind the layer's
function.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from lutc.calibration.file import Calibration, Layer
from lutc.calibration.histogram import Histogram
from lutc.errors import LutcError
from lutc.formats.codes import Inputs
from lutc.functions import find

METHODS = ("min-max", "percentile", "least-squares", "power-of-two")
PERCENTILE = 99.9
_COARSE, _FINE, _ROUNDS = (
    256,
    16,
    2,
)  # scales tried by least squares: over all sizes, then around the best, again and again
_SLICES = 4  # of a bin, when a loss is measured
_OCTAVES = 6  # scales go down to 2^-(bits + 6) of the one that clips nothing


@dataclass(frozen=True)
class Loss:
    """What quantising and restoring loses, of x or of f(x). clipped: share of values beyond the codes by more than half
    a step. rounding, clipping: mean squared error of the others and of these, both over all values. signal_to_noise: 10
    log10(mean(f(x)^2) / mean squared error) in dB; None where nothing is lost, -inf where f is infinite at a code that
    is used.
    """

    clipped: float
    rounding: float
    clipping: float
    signal_to_noise: float | None

    @property
    def mean_squared(self) -> float:
        return self.rounding + self.clipping


def quantise(x: ArrayLike, inputs: Inputs) -> np.ndarray:
    """y = x / scale + zero_point, rounded half to even, clamped: int64, shape of x. NaN becomes the zero point."""
    return inputs.quantise(x)


def restore(codes: ArrayLike, inputs: Inputs) -> np.ndarray:
    """x' = scale * (y - zero_point), float64, shape of codes."""
    return inputs.scale * (np.asarray(codes, np.float64) - inputs.zero_point)


def loss(histogram: Histogram, inputs: Inputs, function: Callable | None = None) -> Loss:
    """What is lost on the values of a histogram, taken as even inside a bin: within a few percent. function: behind
    which to measure, on float64.
    """
    means, n = _points(histogram)
    width = np.sqrt(12 * histogram.spread)
    x = (means[:, None] + width[:, None] * ((np.arange(_SLICES) + 0.5) / _SLICES - 0.5)).ravel()
    share = np.repeat(n / n.sum() / _SLICES, _SLICES)
    back, spread = restore(inputs.quantise(x), inputs), np.repeat(histogram.spread, _SLICES) / _SLICES**2
    exact = x if function is None else function(x)
    error = (back - x) ** 2 + spread if function is None else (function(back) - exact) ** 2
    ends = restore([inputs.minimum - 0.5, inputs.maximum + 0.5], inputs)
    beyond = (x < ends[0]) | (x > ends[1])
    rounding, clipping = float(share[~beyond] @ error[~beyond]), float(share[beyond] @ error[beyond])
    noise, signal = rounding + clipping, float(share @ exact**2)
    ratio = None
    if noise > 0 and signal > 0:
        ratio = float(10 * np.log10(signal / noise)) if np.isfinite(noise) else -np.inf
    return Loss(float(share[beyond].sum()), rounding, clipping, ratio)


def for_layer(layer: Layer, method: str = "power-of-two", bits: int = 8, symmetric: bool = True) -> Inputs:
    """Bits, scale and zero point of a layer's inputs, with squared errors measured behind its function."""
    return choose(layer.histogram, method, bits, symmetric, function=find(layer.function))


def choose(
    histogram: Histogram,
    method: str = "power-of-two",
    bits: int = 8,
    symmetric: bool = True,
    percentile: float = PERCENTILE,
    function: Callable | None = None,
) -> Inputs:
    """Bits, scale and zero point for the values of a histogram.

    min-max: nothing is clipped. percentile: what lies beyond the central `percentile` % is clipped. least-squares: the
    least mean squared difference between x and what comes back, over all scales. power-of-two: likewise over the scales
    2^-b. function: these two compare its values of x and of what comes back (unless it is not finite at codes that
    every scale needs). symmetric: zero point 0; else the codes cover [low, high], widened to hold 0, so that 0 is a
    code. Raises LutcError for unknown methods and where nothing but 0 was observed.
    """
    if method not in METHODS:
        raise LutcError(f"unknown method {method!r} for a scale; choose one of {', '.join(METHODS)}")
    Inputs(bits)  # refuses widths
    if not 50 < percentile <= 100:
        raise LutcError(f"a percentile for a scale lies above 50 and is at most 100; given {percentile:g}")
    x, n = _points(histogram)
    if method in ("min-max", "percentile"):
        share = 1.0 if method == "min-max" else percentile / 100
        lo, hi = (histogram.low, histogram.high) if share == 1.0 else _central(histogram, share, symmetric)
        return from_range(lo, hi, bits, symmetric)
    best = _least if method == "least-squares" else _least_power
    if function is not None:
        cost = _cost(x, n, function)
        found = best(cost, histogram, bits, symmetric)
        if np.isfinite(cost(found)):
            return found
    return best(_cost(x, n), histogram, bits, symmetric)


def from_range(low: float, high: float, bits: int = 8, symmetric: bool = True) -> Inputs:
    """The finest scale whose codes reach from low to high, which are widened to hold 0."""
    low, high = min(low, 0.0), max(high, 0.0)
    half = 1 << (bits - 1)
    if not (np.isfinite([low, high]).all() and low < high):
        raise LutcError(f"a scale needs values that are finite and not all 0; given a range from {low:g} to {high:g}")
    if symmetric:
        return Inputs(bits, _held(max(-low / half, high / (half - 1))))
    scale = _held((high - low) / (2 * half - 1))
    return Inputs(bits, scale, int(np.clip(np.rint(-half - low / scale), -half, half - 1)))


def per_channel(
    low: np.ndarray, high: np.ndarray, method: str = "min-max", bits: int = 8, symmetric: bool = True
) -> list[Inputs]:
    """One for each channel from its range, float (channels,): "min-max", or "power-of-two", the finest 2^-b that clips
    nothing. A channel that was always 0 gets scale 1.
    """
    if method not in ("min-max", "power-of-two"):
        raise LutcError(f"of a channel its range is known: choose min-max or power-of-two, not {method!r}")
    found = []
    for lo, hi in zip(np.asarray(low, np.float64), np.asarray(high, np.float64), strict=True):
        inputs = Inputs(bits) if lo == hi == 0 else from_range(lo, hi, bits, symmetric)
        if method == "power-of-two" and inputs.power is None:
            inputs = _zero_at(2.0 ** np.ceil(np.log2(inputs.scale)), bits, symmetric, min(lo, 0.0))
        found.append(inputs)
    return found


@dataclass(frozen=True)
class LayerScales:
    """How the inputs of every layer of a calibration become codes: `lutc.patch` takes it as `quantise=`, and a
    calibration alone for one with these defaults.

    method, bits, symmetric: as of `for_layer`; per_channel: one `Inputs` for every channel, from its range (min-max or
    power-of-two), along the axis that the calibration has seen; axis: the same, for files that do not say it. signed:
    False counts codes from 0 on (uint8), so that a zero point z becomes z + 2^(bits - 1).
    """

    calibration: Calibration
    method: str = "power-of-two"
    bits: int = 8
    symmetric: bool = True
    signed: bool = True
    per_channel: bool = False
    axis: int | None = None

    def of(self, path: str) -> Inputs | list[Inputs]:
        """Of the layer of a path, counted as signed codes."""
        layer = self.calibration.layers[path]
        if not self.per_channel:
            return for_layer(layer, self.method, self.bits, self.symmetric)
        if layer.channel_low is None or layer.channel_high is None:
            raise LutcError(
                f"the calibration has no ranges of the channels of '{path}', which are kept of activations alone whose "
                "number of channels stays; leave per_channel out, or calibrate with another channel_axis"
            )
        return per_channel(layer.channel_low, layer.channel_high, self.method, self.bits, self.symmetric)

    def axis_of(self, path: str) -> int:
        """The dimension of the channels of a layer's input; LutcError where another than the calibration's is asked
        for.
        """
        seen = self.calibration.layers[path].channel_axis
        if seen is not None and self.axis not in (None, seen):
            raise LutcError(
                f"the calibration has the ranges of channels of '{path}' along axis {seen}, not {self.axis}; leave "
                f"axis= out, or calibrate with channel_axis={self.axis}"
            )
        return seen if seen is not None else -1 if self.axis is None else self.axis


def _points(histogram: Histogram) -> tuple[np.ndarray, np.ndarray]:
    if histogram.low == histogram.high == 0:
        raise LutcError("a scale needs values that are not all 0; nothing else was observed")
    return histogram.points


def _held(scale: float) -> float:
    """A scale within what `Inputs` takes."""
    return float(np.clip(scale, 2.0**-64, 2.0**64))


def _central(histogram: Histogram, share: float, symmetric: bool) -> tuple[float, float]:
    """The central share of the values: of |x|, or between two quantiles."""
    if not symmetric:
        lo, hi = histogram.quantile([(1 - share) / 2, (1 + share) / 2])
        return (lo, hi) if min(lo, 0.0) < max(hi, 0.0) else (histogram.low, histogram.high)
    reach = histogram.reach(share) or max(-histogram.low, histogram.high)
    return -reach, reach


def _cost(x: np.ndarray, n: np.ndarray, function: Callable | None = None) -> Callable[[Inputs], float]:
    """Summed squared error of `Inputs`, of x or behind a function."""
    exact = x if function is None else function(x)

    def cost(inputs: Inputs) -> float:
        back = (
            np.clip(np.rint(x / inputs.scale), inputs.minimum - inputs.zero_point, inputs.maximum - inputs.zero_point)
            * inputs.scale
        )
        found = float(n @ ((back if function is None else function(back)) - exact) ** 2)
        return found if np.isfinite(found) else np.inf

    return cost


def _zero_at(scale: float, bits: int, symmetric: bool, low: float) -> Inputs:
    """Of one scale, with the zero point that puts `low` at the lowest code."""
    half = 1 << (bits - 1)
    return Inputs(bits, _held(scale), 0 if symmetric else int(np.clip(-half - np.rint(low / scale), -half, half - 1)))


def _best_at(cost: Callable, scale: float, bits: int, symmetric: bool) -> Inputs:
    """Of one scale, with the best zero point: a grid of them, then ever smaller steps. Moving it changes only what is
    clipped at either end.
    """
    scale, half = _held(scale), 1 << (bits - 1)
    if symmetric:
        return Inputs(bits, scale)
    step = max(1, half // 8)
    best = min((Inputs(bits, scale, z) for z in range(-half, half, step)), key=cost)
    while step > 1:
        step //= 2
        near = [Inputs(bits, scale, z) for z in (best.zero_point - step, best.zero_point + step) if -half <= z < half]
        best = min([best, *near], key=cost)
    return best


def _least_power(cost: Callable, histogram: Histogram, bits: int, symmetric: bool) -> Inputs:
    """Of the scales 2^-b."""
    widest = np.ceil(np.log2(from_range(histogram.low, histogram.high, bits, symmetric).scale))
    powers = np.clip(np.arange(widest, widest - bits - _OCTAVES, -1), -64, 64)
    return min((_best_at(cost, 2.0 ** float(power), bits, symmetric) for power in powers), key=cost)


def _least(cost: Callable, histogram: Histogram, bits: int, symmetric: bool) -> Inputs:
    """Of all scales: from the widest useful one down, spaced evenly on a log axis, then ever closer around the best."""
    widest = from_range(histogram.low, histogram.high, bits, symmetric).scale
    near, far = widest * 2.0 ** -(bits + _OCTAVES), widest * 1.05
    best: list[Inputs] = []
    for tried in (_COARSE, *[_FINE] * _ROUNDS):
        candidates = [_best_at(cost, float(scale), bits, symmetric) for scale in np.geomspace(near, far, tried)]
        best = [min([*best, *candidates], key=cost)]
        ratio = (far / near) ** (1 / (tried - 1))
        near, far = best[0].scale / ratio, best[0].scale * ratio
    return best[0]

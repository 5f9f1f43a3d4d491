"""Weights of a table's inputs as a model feeds them: from a calibration to what the compiler minimises."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lutc import functions
from lutc.calibration.file import read
from lutc.calibration.histogram import Histogram
from lutc.calibration.layer_error import LayerErrors, errors_of
from lutc.calibration.sample_file import is_sample_file, read_samples
from lutc.errors import LutcError
from lutc.formats.codes import Inputs
from lutc.functions import Function, alike

_SLICES = 16  # of a bin, where an error is measured
EVEN, EVEN_FLOATS = (
    0.001,
    0.01,
)  # share of the weight that all codes (all float inputs) have alike: other data will bring what was not observed


@dataclass(frozen=True, eq=False)
class Measured:
    """Weights by what was observed. histogram: of the layer's inputs, or of all layers of the function together.
    record: where they come from, as the table's file tells it. errors: what the layer after a single layer feels.
    """

    histogram: Histogram
    record: dict
    errors: LayerErrors = LayerErrors("", ())

    def of_codes(self, inputs: Inputs) -> np.ndarray:
        """Weight of every code, ascending, float64 (2**bits,), sum 1: how often it occurs, clamped inputs at the ends
        included.
        """
        counts = self.histogram.of_codes(inputs)
        return (1 - EVEN) * counts / counts.sum() + EVEN / counts.size

    @property
    def pooled(self) -> bool:
        """Whether these are the inputs of several layers."""
        return self.record.get("layers", 1) > 1

    def targets(self, fn: Callable, inputs: Inputs) -> np.ndarray:
        """What a table should give at every code, ascending, float64 (2**bits,): fn there, but at the first and last
        code, which inputs beyond are clamped to, the mean of fn over all their inputs by weight, the even share being
        inputs at the code itself. That is what least squares ask for. In between, such a mean would also undo what
        rounding shifts, which a running model was not found to gain by.
        """
        x, n = self.histogram.points
        y, codes, found = (
            np.asarray(fn(x), np.float64),
            inputs.quantise(x) - inputs.minimum,
            np.asarray(fn(inputs.x()), np.float64),
        )
        even = EVEN / (1 - EVEN) * n.sum() / found.size
        for end in (0, -1):
            here = (codes == end % found.size) & np.isfinite(y)
            found[end] = (n[here] @ y[here] + even * found[end]) / (n[here].sum() + even)
        return found

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Weight of every x of an ascending grid of float inputs, float64, shape of x, sum 1."""
        counts = self.histogram.on(x)
        if not counts.sum() > 0:
            h = self.histogram
            raise LutcError(
                f"no observed input lies in [{x[0]:g}, {x[-1]:g}]; they reach from {h.low:g} to {h.high:g}: give "
                "another `range`"
            )
        return (1 - EVEN_FLOATS) * counts / counts.sum() + EVEN_FLOATS / counts.size

    def range(
        self, fn: Callable, default: tuple[float, float], inputs: tuple[Inputs, ...] | None
    ) -> tuple[float, float]:
        """The default range of fn widened to what was observed, where fn is finite there; in codes where there are."""
        seen = (
            self.histogram.points[0]
            if inputs is None
            else np.concatenate([i.x()[self.histogram.of_codes(i) > 0] for i in inputs])
        )
        ends = np.append(seen, [self.histogram.low, self.histogram.high] if inputs is None else [])
        ends = ends[np.isfinite(fn(ends))]
        return (min(default[0], float(ends.min())), max(default[1], float(ends.max()))) if ends.size else default

    def mean_squared(self, table: Callable, fn: Callable, inputs: Inputs | None) -> float:
        """The error that the model sees: mean of (table(x') - fn(x))^2 over all x observed where fn is finite, x' being
        the value of the code of x, so that rounding and clipping count, or for float inputs (None) x itself. The table
        may be fn: what the codes cost by themselves. Values of a bin are taken as even inside it, which is right within
        a few percent.
        """
        means, n = self.histogram.points
        width = np.sqrt(12 * self.histogram.spread)
        x, n = (
            (means[:, None] + width[:, None] * ((np.arange(_SLICES) + 0.5) / _SLICES - 0.5)).ravel(),
            np.repeat(n, _SLICES),
        )
        y, given = (
            np.asarray(fn(x), np.float64),
            x if inputs is None else inputs.scale * (inputs.quantise(x) - inputs.zero_point),
        )
        use = np.isfinite(y) & np.isfinite(fn(given))
        return float(n[use] @ (table(given[use]) - y[use]) ** 2 / n[use].sum()) if use.any() else 0.0


def is_calibration(weights: object) -> bool:
    """Whether the text names what was observed: a path that ends in .json, perhaps with a layer behind a colon, or a
    file of samples.
    """
    return isinstance(weights, str) and (weights.endswith(".json") or ".json:" in weights or is_sample_file(weights))


def measured(source: str, function: str | Function) -> Measured:
    """Weights from `calibration.json:LAYER`, or from `calibration.json`, all its layers of the function pooled.
    LutcError for a layer that is not there or is fed to another function. A file of samples (`.npy`, `.csv`, `.txt`)
    is of whatever function is compiled.
    """
    if is_sample_file(source):
        histogram, record = read_samples(source)
        return Measured(histogram, record | {"values": histogram.count})
    path, _, name = source.partition(".json:")
    path = source if not name else f"{path}.json"
    calibration = read(path)
    name_given = function.name if isinstance(function, Function) else function
    known = functions.find(name_given)
    wanted = name_given if known is None else known.name
    record = {
        "file": path.replace("\\", "/").rpartition("/")[2],
        "sha256": calibration.digest,
        "model": calibration.model["name"],
    }
    if name:
        name, layer = calibration.layer(name)
        if not alike(layer.function, wanted):
            others = [other for other, one in calibration.layers.items() if alike(one.function, wanted)]
            hint = (
                f"its layers of {wanted} are {', '.join(others[:3])}{', ...' if len(others) > 3 else ''}"
                if others
                else f"it has none of {wanted}"
            )
            raise LutcError(f"{path}: {name} is a layer of {layer.function}, not of {wanted}; {hint}")
        layers, record = [layer], record | {"layer": name}
    else:
        layers = list(
            calibration.of_function(
                next((layer.function for layer in calibration.layers.values() if alike(layer.function, wanted)), wanted)
            ).values()
        )
        record |= {"layers": len(layers)}
    histogram = layers[0].histogram
    for layer in layers[1:]:
        histogram = histogram + layer.histogram
    if not histogram.count:
        raise LutcError(
            f"{path}: {name or wanted} was never reached by the data, so there is nothing to weigh by; calibrate on "
            "other data"
        )
    errors = errors_of(name, layers[0]) if name else LayerErrors("", ())
    return Measured(histogram, record | {"values": histogram.count}, errors)

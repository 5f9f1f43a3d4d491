"""A picture of a calibration: for every function the density of its inputs, one line of the picture a layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lutc.calibration.file import Calibration, Layer
from lutc.calibration.statistics import REDUCED
from lutc.errors import LutcError
from lutc.functions import find
from lutc.plots.figure import INK, ORANGE, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLUMNS = 400  # of a picture
_LABELS = 16  # layers up to which each is named
_FAINTEST = 1e-6  # share of a layer's inputs in one column that is drawn palest


def calibration_figure(calibration: Calibration) -> Figure:
    """One panel for every operator and function: a line for each layer that was reached, darker where more inputs lie;
    marks at the 0.1 % and 99.9 % quantiles; the default range of the function's tables between dashed lines. LutcError
    where no layer was reached.
    """
    groups: dict[tuple[str, str, str], list[tuple[str, Layer]]] = {}
    for name, layer in calibration.layers.items():
        if layer.histogram.count:
            groups.setdefault((layer.operator, layer.function, layer.quantity), []).append((name, layer))
    if not groups:
        raise LutcError("no layer was reached, so there is nothing to draw")
    heights = [1.1 + 0.22 * min(max(len(layers), 2), _LABELS) for layers in groups.values()]
    with new_figure(9.0, sum(heights)) as figure:
        panels = figure.subplots(len(groups), 1, squeeze=False, height_ratios=heights)[:, 0]
        for panel, ((operator, function, quantity), layers) in zip(panels, groups.items(), strict=True):
            known = None if operator in REDUCED else find(function)
            _draw(panel, layers, () if known is None else known.range)
            kind = operator if operator == "activation" else operator.replace("_", " ")
            panel.set_title(f"{function}, {kind}: {quantity} of {len(layers)} layer{'s' * (len(layers) > 1)}")
        figure.colorbar(
            panels[0].collections[0],
            ax=list(panels),
            label="share of a layer's inputs",
            aspect=40,
            pad=0.01,
            fraction=0.03,
        )
    return figure


def _draw(panel, layers: list[tuple[str, Layer]], usual_range: tuple[float, ...]) -> None:
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import MaxNLocator

    lo, hi = min(layer.histogram.low for _, layer in layers), max(layer.histogram.high for _, layer in layers)
    if lo > 0 and hi / lo > 50:
        edges = np.geomspace(lo, hi * 1.0001, _COLUMNS + 1)
        panel.set_xscale("log")
    else:
        # Linear around 0, logarithmic beyond the usual size of inputs, so that outliers do not squeeze the rest.
        usual = float(np.median([layer.histogram.deviation for _, layer in layers])) or max(abs(lo), abs(hi), 1e-30)
        narrow = lo * hi > 0 or max(abs(lo), abs(hi)) < 6 * usual
        if lo == hi:
            lo, hi = lo - (abs(lo) or 1.0), hi + (abs(hi) or 1.0)
        if narrow:
            edges = np.linspace(lo, hi, _COLUMNS + 1)
            panel.xaxis.set_major_locator(MaxNLocator(7))
        else:
            edges = usual * np.sinh(np.linspace(np.arcsinh(lo / usual), np.arcsinh(hi / usual), _COLUMNS + 1))
            panel.set_xscale("asinh", linear_width=usual)
            largest = max(abs(lo), abs(hi))
            decades = 10.0 ** np.arange(np.ceil(np.log10(usual)), np.ceil(np.log10(largest)) + 1)
            ticks = np.concatenate([[0.0], decades, 3 * decades, -decades, -3 * decades])
            panel.set_xticks(np.sort(ticks[(ticks >= lo) & (ticks <= hi)]))
        panel.xaxis.set_major_formatter("{x:g}")
    shares = np.array([_shares(layer, edges) for _, layer in layers])
    rows = np.arange(len(layers) + 1) - 0.5
    panel.pcolormesh(
        edges, rows, np.ma.masked_less(shares, 1e-300), cmap="Blues", norm=LogNorm(_FAINTEST, 0.1), rasterized=True
    )
    ends = np.array([layer.histogram.quantile([0.001, 0.999]) for _, layer in layers])
    for column in ends.T:
        panel.plot(column, np.arange(len(layers)), "|", color=INK, markersize=5, markeredgewidth=1.2, zorder=3)
    for end in usual_range:
        if edges[0] <= end <= edges[-1]:
            panel.axvline(end, color=ORANGE, linestyle="--", linewidth=1)
    panel.set_ylim(len(layers) - 0.5, -0.5)
    step = -(-len(layers) // _LABELS)
    panel.set_yticks(np.arange(0, len(layers), step), [name for name, _ in layers[::step]], fontsize=7)
    panel.minorticks_off()


def _shares(layer: Layer, edges: np.ndarray) -> np.ndarray:
    """Share of the inputs between neighbouring edges, those of a bin spread evenly over it."""
    lower, upper, n = layer.histogram.bins
    cumulated = np.append(0.0, np.cumsum(n)) / layer.histogram.count
    at = np.searchsorted(upper, edges, side="right")
    inside = np.minimum(at, lower.size - 1)
    part = np.clip((edges - lower[inside]) / np.maximum(upper[inside] - lower[inside], 1e-300), 0.0, 1.0)
    below = cumulated[np.minimum(at, n.size)] + np.where(at < n.size, part * n[inside] / layer.histogram.count, 0.0)
    below[-1] = 1.0
    return np.diff(np.append(0.0, below[1:]))

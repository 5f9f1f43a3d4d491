"""What a calibration's file says of a layer in numbers, all derived from its histogram."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lutc.functions import find

if TYPE_CHECKING:
    from lutc.calibration.file import Layer

QUANTILES = (0.0001, 0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999, 0.9999)
FAR = 6.0  # standard deviations from the mean beyond which a value counts as an outlier
REDUCED = ("layer_norm", "rms_norm")  # operators that look up in [1, 4), whatever their inputs
_CHANNELS = 3  # that are named


def statistics(layer: Layer) -> dict:
    """Count, range, mean, standard deviation, quantiles, outliers and the share outside the default range of the
    function's tables, as JSON values. A norm reduces what it looks up by its exponent, so that no input of one is
    outside: there is no share.

    outliers: share of values more than 6 standard deviations from the mean; `tail`: largest |x| over the 99.9 %
    quantile of |x|; `channels`: those of largest |x| with it, where channels were observed.
    """
    h = layer.histogram
    told: dict[str, Any] = {"count": h.count}
    if not h.count:
        return told
    usual, largest = h.reach(0.999), max(abs(h.low), abs(h.high))
    outliers: dict[str, Any] = {
        "share": h.outside(h.mean - FAR * h.deviation, h.mean + FAR * h.deviation),
        "tail": largest / usual if usual else None,
    }
    if layer.channel_low is not None and layer.channel_high is not None:
        peak = np.maximum(np.abs(layer.channel_low), np.abs(layer.channel_high)).astype(np.float64)
        top = np.argsort(-peak, kind="stable")[:_CHANNELS]
        outliers["channels"] = {str(int(c)): float(peak[c]) for c in top}
    told |= {"low": h.low, "high": h.high, "mean": h.mean, "deviation": h.deviation}
    told |= {
        "quantiles": {f"{p:g}": float(value) for p, value in zip(QUANTILES, h.quantile(QUANTILES), strict=True)},
        "outliers": outliers,
    }
    fn = find(layer.function)
    if fn is not None and layer.operator not in REDUCED:
        lo, hi = fn.range
        told["outside"] = {"range": [lo, hi], "share": h.outside(lo, hi)}
    return told

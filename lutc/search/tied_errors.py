"""What lines cost over runs of samples, as the search for tables whose lines join asks for it (numba)."""

from __future__ import annotations

import numpy as np

from lutc.jit import njit

TIE, FARTHEST = 2.0**-24, 2.0**10  # of real errors beside those of output codes, as of `lutc.costs.pairs`


@njit
def sums_of(x, y, w, low, high, line, sums):
    """Prefix sums (6, high - low + 1) over samples low..high - 1 of weight, and with d = x - x[low], r = y - line, of
    d, d^2, r, r d, r^2 by weight.
    """
    sums[:, 0] = 0.0
    for n in range(low, high):
        d, r = x[n] - x[low], y[n] - (line[0] * x[n] + line[1])
        c = n - low
        sums[0, c + 1] = sums[0, c] + w[n]
        sums[1, c + 1] = sums[1, c] + w[n] * d
        sums[2, c + 1] = sums[2, c] + w[n] * d * d
        sums[3, c + 1] = sums[3, c] + w[n] * r
        sums[4, c + 1] = sums[4, c] + w[n] * r * d
        sums[5, c + 1] = sums[5, c] + w[n] * r * r


@njit
def fitted(sums, i, j):
    """(weight, mean d, spread of d, slope, mean r, residual) of the run [i, j) of prefix sums."""
    s = sums[:, j] - sums[:, i]
    if s[0] <= 0.0:
        return 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    mean, middle = s[1] / s[0], s[3] / s[0]
    spread, tilt = s[2] - mean * s[1], s[4] - mean * s[3]
    if j - i < 2 or spread <= 0.0:
        return s[0], mean, 0.0, 0.0, middle, max(s[5] - middle * s[3], 0.0)
    slope = tilt / spread
    return s[0], mean, spread, slope, middle, max(s[5] - middle * s[3] - slope * tilt, 0.0)


@njit
def price(objective, x, y, w, coded, i, j, k, t):
    """Of a line over samples i..j - 1: 1, the sum of absolute errors by weight; 2, the largest; 3, the sum of squared
    errors of output codes and next to nothing of the real ones.

    coded: input codes about their zero point, wanted output codes from 0 up, the least accumulators of those above 0,
    and the steps of coefficients, inputs and outputs.
    """
    total = 0.0
    centred, wanted, thresholds, step, scale, out = coded
    slope, shift = 0, 0
    if objective == 3:
        slope, shift = int(np.rint(k / step)), int(np.floor(np.rint(t / step) / scale + 0.5))
    for n in range(i, j):
        error = abs(k * x[n] + t - y[n])
        if objective == 3:
            off = np.searchsorted(thresholds, slope * centred[n] + shift, side="right") - wanted[n]
            total += w[n] * (off * off + TIE * min(error / out, FARTHEST) ** 2)
        elif objective == 1:
            total += w[n] * error
        else:
            total = max(total, w[n] * error)
    return total

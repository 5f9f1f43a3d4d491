"""Sweeps over positions where a segment costs its least sum of weight * |error|, bounded from below (numba)."""

from __future__ import annotations

import math

import numpy as np

from lutc.jit import njit
from lutc.search.absolute_duals import CHANGES, run_cost

_GROUP = 32  # starts that are skipped together


@njit
def penalised(x, y, w, region, sums, at, first, penalty, slack):
    """(cost, origin, count, lows) of the best way to each position 0..size, each segment paying `penalty`.

    at: (size + 1,) samples at which the positions are. first: (size + 1,) what it costs to begin at a position. origin:
    where the last segment starts, -1 where there is none; count: segments so far. lows: (size + 1,) below where no
    segment to a position starts that is part of a way within `slack` of the best. Starts are skipped and dropped as in
    `lutc.search.segmentation_kernels.penalised`: a bound on a run is below the price of every run that holds it.
    """
    size = at.size - 1
    cost, origin = first.copy(), np.full(size + 1, -1)
    count, lows = np.zeros(size + 1, np.int64), np.zeros(size + 1, np.int64)
    value, least = np.full(size + 1, np.inf), np.full(size // _GROUP + 2, np.inf)
    guess, lines, signs = np.zeros((size + 1, 1), np.int64), np.full((size + 1, 2), np.nan), np.empty(CHANGES, np.int64)
    margin, low, before = penalty + slack, 0, 0
    value[0] = least[0] = cost[0] + penalty
    for j in range(1, size + 1):
        best, start = cost[j], -1
        lows[j] = low
        if before >= low and math.isfinite(cost[before]):
            price = run_cost(x, y, w, region, sums, at[before], at[j], guess[before], lines[before], signs)
            value[before] = max(value[before], cost[before] + penalty + price)
            if value[before] < best:
                best, start = value[before], before
        for group in range(low // _GROUP, (j - 1) // _GROUP + 1):
            if least[group] >= best:
                continue
            least[group] = np.inf
            for i in range(max(group * _GROUP, low), min((group + 1) * _GROUP, j)):
                if value[i] < best:
                    price = run_cost(x, y, w, region, sums, at[i], at[j], guess[i], lines[i], signs)
                    reached = max(value[i], cost[i] + penalty + price)
                    if reached < best:
                        best, start = reached, i
                    value[i] = reached if reached < best + margin else np.inf
                least[group] = min(least[group], value[i])
        cost[j], origin[j] = best, start
        if start >= 0:
            count[j], before = count[start] + 1, start
        value[j] = best + penalty
        least[j // _GROUP] = min(least[j // _GROUP], value[j])
        while low < j and value[low] >= best + margin:
            low += 1
    return cost, origin, count, lows


@njit
def prices(x, y, w, region, sums, at, lows):
    """(offsets (size + 2,), prices): of the runs [i, j) with lows[j] <= i < j, those of j from offsets[j] on."""
    size = at.size - 1
    offsets = np.zeros(size + 2, np.int64)
    for j in range(size + 1):
        offsets[j + 1] = offsets[j] + j - lows[j]
    found = np.empty(offsets[size + 1])
    guess, lines, signs = np.zeros((size + 1, 1), np.int64), np.full((size + 1, 2), np.nan), np.empty(CHANGES, np.int64)
    for j in range(1, size + 1):
        for i in range(lows[j], j):
            found[offsets[j] + i - lows[j]] = run_cost(x, y, w, region, sums, at[i], at[j], guess[i], lines[i], signs)
    return offsets, found


@njit
def layered(offsets, price, lows, first, ranges):
    """(cost, origins) as of `lutc.search.segmentation_kernels.layered`, over runs priced by `prices`."""
    size, segments = first.size - 1, ranges.shape[0] - 1
    cost = np.full(size + 1, np.inf)
    cost[ranges[0, 0] : ranges[0, 1] + 1] = first[ranges[0, 0] : ranges[0, 1] + 1]
    origins = np.full((segments, size + 1), -1, np.int32)
    for layer in range(segments):
        reached = np.full(size + 1, np.inf)
        for j in range(ranges[layer + 1, 0], ranges[layer + 1, 1] + 1):
            best, start = cost[j], -1
            for i in range(max(lows[j], ranges[layer, 0]), min(j, ranges[layer, 1] + 1)):
                value = cost[i] + price[offsets[j] + i - lows[j]]
                if value < best:
                    best, start = value, i
            reached[j], origins[layer, j] = best, start
        cost = reached
    return cost, origins


@njit
def prices_between(x, y, w, region, sums, cuts):
    """(segments,): of the runs between samples `cuts`."""
    found, signs = np.zeros(cuts.size - 1), np.empty(CHANGES, np.int64)
    for s in range(cuts.size - 1):
        guess, line = np.zeros(1, np.int64), np.full(2, np.nan)
        found[s] = run_cost(x, y, w, region, sums, cuts[s], cuts[s + 1], guess, line, signs)
    return found

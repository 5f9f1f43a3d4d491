"""Sweeps over positions for `lutc.search.segmentation` (numba).

Both keep for every start i a value that no segment from i can go below: the cost of reaching i and of the segment from
i to where it was last priced. A longer segment costs no less, so a start is priced again only once that value is below
the best known for the position at hand. Starts are held in groups with their least value, and whole groups are passed
over.
"""

from __future__ import annotations

import math

import numpy as np

from lutc.formats.neighbours import beyond, nearest
from lutc.jit import njit

_GROUP = 32  # starts that are passed over together
_TRIED = 4096  # slopes at most
_CANCELLED = 1e-7  # squares about the mean, of those about the frame's beginning, below which they are summed anew


@njit
def _frame(cells, start, stop, sums):
    """Prefix sums of weight, x, y, xx, xy, yy over cells start..stop - 1, as (7, 2, size + 1) sums and what rounding
    left out of them; the last is the frame's slope, at `start`. x and y are measured from the secant over the cells:
    what remains is little larger than errors.
    """
    x0, y0 = cells[1, start], cells[2, start]
    slope = 0.0
    if cells[1, stop - 1] != x0:
        slope = (cells[2, stop - 1] - y0) / (cells[1, stop - 1] - x0)
    sums[:, :, start] = 0.0
    sums[6, 0, start] = slope
    terms = np.empty(6)
    for c in range(start, stop):
        w, dx = cells[0, c], cells[1, c] - x0
        dy = cells[2, c] - y0 - slope * dx
        tilt = cells[4, c] - slope
        xy = tilt * cells[3, c]
        terms[0], terms[1], terms[2] = w, w * dx, w * dy
        terms[3] = w * dx * dx + cells[3, c]
        terms[4] = w * dx * dy + xy
        terms[5] = w * dy * dy + tilt * xy + cells[5, c]
        for k in range(6):
            before, term = sums[k, 0, c], terms[k]
            total = before + term
            part = total - before
            sums[k, 0, c + 1] = total
            sums[k, 1, c + 1] = sums[k, 1, c] + ((before - (total - part)) + (term - part))


@njit
def _moments(cells, start, sums, i, j):
    """(weight, mean x, mean y, squares of x about it, slope, squared error) of the best line over cells i..j - 1;
    sums: of the frame that begins at `start`.
    """
    w = (sums[0, 0, j] - sums[0, 0, i]) + (sums[0, 1, j] - sums[0, 1, i])
    if w <= 0.0:
        return 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    x = (sums[1, 0, j] - sums[1, 0, i]) + (sums[1, 1, j] - sums[1, 1, i])
    y = (sums[2, 0, j] - sums[2, 0, i]) + (sums[2, 1, j] - sums[2, 1, i])
    whole = (sums[3, 0, j] - sums[3, 0, i]) + (sums[3, 1, j] - sums[3, 1, i])
    xx = whole - x * x / w
    if xx <= _CANCELLED * whole:
        return moments_of(cells, i, j)
    xy = (sums[4, 0, j] - sums[4, 0, i]) + (sums[4, 1, j] - sums[4, 1, i]) - x * y / w
    yy = (sums[5, 0, j] - sums[5, 0, i]) + (sums[5, 1, j] - sums[5, 1, i]) - y * y / w
    secant = sums[6, 0, start]
    tilt = xy / xx
    return (
        w,
        cells[1, start] + x / w,
        cells[2, start] + (secant * x + y) / w,
        xx,
        secant + tilt,
        max(yy - tilt * xy, 0.0),
    )


@njit
def moments_of(cells, i, j):
    """The same cell by cell, for runs that are short beside their frame."""
    w, x, y = 0.0, 0.0, 0.0
    for c in range(i, j):
        w += cells[0, c]
        x += cells[0, c] * (cells[1, c] - cells[1, i])
        y += cells[0, c] * (cells[2, c] - cells[2, i])
    if w <= 0.0:
        return 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    x, y = cells[1, i] + x / w, cells[2, i] + y / w
    xx, xy = 0.0, 0.0
    for c in range(i, j):
        dx, dy = cells[1, c] - x, cells[2, c] - y
        xx += cells[0, c] * dx * dx + cells[3, c]
        xy += cells[0, c] * dx * dy + cells[4, c] * cells[3, c]
    slope = xy / xx if xx > 0.0 else 0.0
    error = 0.0
    for c in range(i, j):
        rest = cells[2, c] - y - slope * (cells[1, c] - x)
        error += cells[0, c] * rest * rest + (cells[4, c] - slope) ** 2 * cells[3, c] + cells[5, c]
    return w, x, y, xx, slope, error


@njit
def stored_line(numbers, w, x, y, xx, slope, limit):
    """(excess, slope, intercept) of the representable line of least squared error: what it costs more than the best
    real one, xx (k - slope)^2 + w (y - k x - t)^2. Where no line costs less than `limit` more, a lower bound of that.

    numbers: bits of the mantissa, smallest step, least and greatest value. Slopes are tried outward from the best real
    one until the first term alone exceeds the best sum.
    """
    k = up = down = nearest(numbers, slope)
    best, best_slope, best_intercept, penalty = np.inf, k, 0.0, 0.0
    for _ in range(_TRIED):
        penalty = xx * (k - slope) ** 2
        if penalty >= min(best, limit) or not math.isfinite(k):
            return min(best, penalty), best_slope, best_intercept
        want = y - k * x
        t = nearest(numbers, want)
        cost = penalty + w * (want - t) ** 2
        if cost < best:
            best, best_slope, best_intercept = cost, k, t
        if k == up:
            up = beyond(numbers, up, 1.0)
        if k == down:
            down = beyond(numbers, down, -1.0)
        k = up if up - slope <= slope - down else down
    return (min(best, penalty) if xx > 0.0 else 0.0), best_slope, best_intercept


@njit
def _priced(cells, start, sums, i, j, numbers, limit):
    """Squared error of the best line over cells i..j - 1, real where `numbers` is empty; where that is `limit` or more,
    a bound below it that is `limit` or more.
    """
    w, x, y, xx, slope, error = _moments(cells, start, sums, i, j)
    if numbers.size == 0 or w <= 0.0 or error >= limit:
        return error
    return error + stored_line(numbers, w, x, y, xx, slope, limit - error)[0]


@njit
def penalised(cells, first, numbers, penalty, slack, span):
    """(cost, origin, count, lows) of the best way to each position 0..size, each segment paying `penalty`.

    cells: (6, size), see `lutc.search.sample_cells.SampleCells`. first: (size + 1,) what it costs to begin at a
    position. origin: where the last segment starts, -1 where there is none; count: segments so far. lows: for each
    `span` positions, below where no segment to them starts that is part of a way within `slack` of the best. A frame
    serves so many positions: fewer than a segment holds.

    A start is dropped for good once its cost so far exceeds the best (Killick, Fearnhead, Eckley 2012): a segment never
    costs less than two that part it.
    """
    size = cells.shape[1]
    cost, origin = first.copy(), np.full(size + 1, -1)
    count = np.zeros(size + 1, np.int64)
    value = np.full(size + 1, np.inf)
    least = np.full(size // _GROUP + 2, np.inf)
    sums = np.empty((7, 2, size + 1))
    lows = np.zeros(-(-size // span), np.int64)
    margin = penalty + slack
    low, before = 0, 0  # first start that is not dropped; where the best last segment so far starts
    value[0] = least[0] = cost[0] + penalty
    for block in range(0, size, span):
        stop = min(block + span, size)
        lows[block // span] = low
        frame = low
        _frame(cells, frame, stop, sums)
        for j in range(block + 1, stop + 1):
            best, start = cost[j], -1
            if before >= low and math.isfinite(cost[before]):
                reached = cost[before] + penalty
                reached += _priced(cells, frame, sums, before, j, numbers, best - reached)
                value[before] = max(value[before], reached)
                if reached < best:
                    best, start = reached, before
            for group in range(low // _GROUP, (j - 1) // _GROUP + 1):
                if least[group] >= best:
                    continue
                least[group] = np.inf
                for i in range(max(group * _GROUP, low), min((group + 1) * _GROUP, j)):
                    if value[i] < best:
                        reached = cost[i] + penalty
                        reached += _priced(cells, frame, sums, i, j, numbers, best - reached)
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
def layered(cells, first, numbers, lows, span, ranges):
    """(cost, origins): the best way to each position 0..size by at most as many segments as there are layers, and for
    each layer where the last segment starts, -1 where one fewer does as well; int32 (segments, size + 1).

    lows, span: as of `penalised`. ranges: (segments + 1, 2) first and last position at which a way that matters has so
    many segments behind it; beyond them ways are left out.
    """
    size, segments = cells.shape[1], ranges.shape[0] - 1
    cost = np.full(size + 1, np.inf)
    cost[ranges[0, 0] : ranges[0, 1] + 1] = first[ranges[0, 0] : ranges[0, 1] + 1]
    origins = np.full((segments, size + 1), -1, np.int32)
    value, least = np.full(size + 1, np.inf), np.empty(size // _GROUP + 1)
    sums = np.empty((7, 2, size + 1))
    for layer in range(segments):
        begin, end = ranges[layer, 0], ranges[layer, 1]
        value[:] = cost
        for group in range(begin // _GROUP, end // _GROUP + 1):
            least[group] = np.min(value[group * _GROUP : (group + 1) * _GROUP])
        reached_by, before = np.full(size + 1, np.inf), -1
        here, there = ranges[layer + 1, 0], ranges[layer + 1, 1]
        for block in range(max(here - 1, 0) // span * span, there, span):
            low, stop = max(lows[block // span], begin), min(block + span, there)
            frame = min(low, block)
            _frame(cells, frame, stop, sums)
            for j in range(max(block + 1, here), stop + 1):
                best, start = cost[j], -1
                if before >= low:
                    limit = best - cost[before]
                    value[before] = cost[before] + _priced(cells, frame, sums, before, j, numbers, limit)
                    if value[before] < best:
                        best, start = value[before], before
                last = min(j - 1, end)
                for group in range(low // _GROUP, last // _GROUP + 1):
                    if least[group] >= best:
                        continue
                    for i in range(max(group * _GROUP, low), min((group + 1) * _GROUP, last + 1)):
                        if value[i] < best:
                            limit = best - cost[i]
                            value[i] = cost[i] + _priced(cells, frame, sums, i, j, numbers, limit)
                            if value[i] < best:
                                best, start = value[i], i
                    least[group] = np.min(value[group * _GROUP : (group + 1) * _GROUP])
                reached_by[j], origins[layer, j] = best, start
                if start >= 0:
                    before = start
        if here == 0:
            reached_by[0] = cost[0]
        cost = reached_by
    return cost, origins


@njit
def lines_between(cells, cuts, numbers):
    """(slopes, intercepts, errors), each (segments,): the best lines between cuts, real where `numbers` is empty."""
    slopes, intercepts, errors = np.zeros(cuts.size - 1), np.zeros(cuts.size - 1), np.zeros(cuts.size - 1)
    for s in range(cuts.size - 1):
        if cuts[s + 1] > cuts[s]:
            w, x, y, xx, slope, error = moments_of(cells, cuts[s], cuts[s + 1])
            slopes[s], intercepts[s], errors[s] = slope, y - slope * x, error
            if numbers.size and w > 0.0:
                excess, slopes[s], intercepts[s] = stored_line(numbers, w, x, y, xx, slope, np.inf)
                errors[s] = error + w * (y - slopes[s] * x - intercepts[s]) ** 2 + xx * (slopes[s] - slope) ** 2
    return slopes, intercepts, errors

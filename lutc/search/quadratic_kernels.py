"""Numba kernels of `lutc.search.quadratic`: the best representable lines for given cuts under a dense quadratic error,
and descent on the cuts.

Costs arrive as `sums`, prefix sums over the codes: sums[0..2][i, j] of H, x H (x of the row) and x H x over rows < i
and columns < j, and
`linear`, (2, n + 1), of h and x h, for the cost  sum_ab v_a H_ab v_b - 2 sum_a h_a v_a + constant  of values
v = slope x + intercept.
Parameters are interleaved: theta[2 s] is the slope of segment s, theta[2 s + 1] its intercept, both as codes of the
format's step.
"""

from __future__ import annotations

import numpy as np

from lutc.jit import njit
from lutc.search.closest import closest, nearest_plane

_SWEEPS = 50  # of the descent on lines; it ends by itself long before
_WINDOW = 4  # slopes tried to each side


@njit
def _block(sums, i0, i1, j0, j1, out, row, column, step):
    """The 2 x 2 block of the normal matrix of segments [i0, i1) and [j0, j1), in units of codes."""
    unit = step * step
    h = sums[0, i1, j1] - sums[0, i0, j1] - sums[0, i1, j0] + sums[0, i0, j0]
    xh = sums[1, i1, j1] - sums[1, i0, j1] - sums[1, i1, j0] + sums[1, i0, j0]
    hx = sums[1, j1, i1] - sums[1, j0, i1] - sums[1, j1, i0] + sums[1, j0, i0]
    xhx = sums[2, i1, j1] - sums[2, i0, j1] - sums[2, i1, j0] + sums[2, i0, j0]
    out[2 * row, 2 * column] = unit * xhx
    out[2 * row, 2 * column + 1] = unit * xh
    out[2 * row + 1, 2 * column] = unit * hx
    out[2 * row + 1, 2 * column + 1] = unit * h


@njit
def normal_equations(bounds, sums, linear, step):
    """(matrix, vector) of all segments [bounds[s], bounds[s + 1]), tails included, in units of codes."""
    count = bounds.size - 1
    matrix, vector = np.empty((2 * count, 2 * count)), np.empty(2 * count)
    for s in range(count):
        vector[2 * s] = step * (linear[1, bounds[s + 1]] - linear[1, bounds[s]])
        vector[2 * s + 1] = step * (linear[0, bounds[s + 1]] - linear[0, bounds[s]])
        for r in range(s, count):
            _block(sums, bounds[s], bounds[s + 1], bounds[r], bounds[r + 1], matrix, s, r, step)
            if r > s:
                for a in range(2):
                    for b in range(2):
                        matrix[2 * r + b, 2 * s + a] = matrix[2 * s + a, 2 * r + b]
    return matrix, vector


@njit
def descend_lines(theta, matrix, vector, low, high):
    """Put one segment after the other on its best representable line, the others held, in place, until none gains. A
    trial costs O(1).
    """
    gradient = matrix @ theta - vector
    least = 1e-13 * (abs(theta @ (gradient + vector)) + abs(vector @ theta)) + 1e-300
    for _ in range(_SWEEPS):
        moved = False
        for k in range(0, theta.size, 2):
            t = k + 1
            best, best_dk, best_dt = -least, 0.0, 0.0
            for offset in range(-_WINDOW, _WINDOW + 1):
                dk = min(max(theta[k] + offset, low), high) - theta[k]
                slope = gradient[t] + matrix[t, k] * dk
                dt = 0.0
                if matrix[t, t] > 0.0:
                    dt = min(max(theta[t] + np.rint(-slope / matrix[t, t]), low), high) - theta[t]
                change = dk * (2.0 * gradient[k] + matrix[k, k] * dk) + dt * (2.0 * slope + matrix[t, t] * dt)
                if change < best:
                    best, best_dk, best_dt = change, dk, dt
            if best_dk != 0.0 or best_dt != 0.0:
                theta[k] += best_dk
                theta[t] += best_dt
                gradient += matrix[:, k] * best_dk + matrix[:, t] * best_dt
                moved = True
        if not moved:
            break


@njit
def fit(cuts, sums, linear, tails, step, low, high, nodes):
    """(cost without its constant, theta, whether proven best) for cuts (m + 1,); tails: (2, 2) codes of the left and
    the right one.

    An empty segment gets the line 0. Positions before cuts[0] and from cuts[m] on belong to the tails.
    """
    last = sums.shape[1] - 1
    bounds = np.empty(cuts.size + 2, np.int64)
    bounds[0], bounds[-1] = 0, last
    bounds[1:-1] = cuts
    full, vector = normal_equations(bounds, sums, linear, step)
    ends = np.zeros(vector.size)
    ends[:2], ends[-2:] = tails[0], tails[1]
    felt = full @ ends
    fixed = ends @ felt - 2.0 * (vector @ ends)
    inner, right = full[2:-2, 2:-2].copy(), vector[2:-2] - felt[2:-2]
    theta = nearest_plane(inner, right, low, high)
    descend_lines(theta, inner, right, low, high)
    theta, proven = closest(inner, right, theta, low, high, nodes)
    for s in range(cuts.size - 1):
        if cuts[s] == cuts[s + 1]:
            theta[2 * s] = theta[2 * s + 1] = 0.0
    return fixed + theta @ (inner @ theta) - 2.0 * (right @ theta), theta, proven


@njit
def descend_cuts(cuts, offsets, sums, linear, tails, free, step, low, high, nodes, sweeps):
    """In place: each cut moves to the best of `offsets` between its neighbours, until `sweeps` are over or none moves.
    Returns the cost.
    """
    size = sums.shape[1] - 1
    for i in range(cuts.size):
        cuts[i] = min(max(cuts[i], 0), size)
    cuts.sort()
    if not free[0]:
        cuts[0] = 0
    if not free[1]:
        cuts[-1] = size
    best = fit(cuts, sums, linear, tails, step, low, high, nodes)[0]
    for _ in range(sweeps):
        moved = False
        for at in range(cuts.size):
            if (at == 0 and not free[0]) or (at == cuts.size - 1 and not free[1]):
                continue
            here = cuts[at]
            place = here
            lowest = cuts[at - 1] if at > 0 else 0
            highest = cuts[at + 1] if at < cuts.size - 1 else size
            for offset in offsets:
                if offset != 0 and lowest <= here + offset <= highest:
                    cuts[at] = here + offset
                    cost = fit(cuts, sums, linear, tails, step, low, high, nodes)[0]
                    if cost < best - 1e-12 * abs(best):
                        best, place = cost, here + offset
            cuts[at] = place
            moved |= place != here
        if not moved:
            break
    return best

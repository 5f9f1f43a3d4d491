"""Integer least squares in a box: the integers theta of least theta' M theta - 2 v' theta, M positive semi-definite
(numba).

Slopes and intercepts of a table are such integers (codes of a format), two for each segment. The unknowns are first
changed to slope and value near the middle of the segment, which keeps them integers and makes M nearly diagonal; then
the tree of all integers is searched depth first, nearest values first (Schnorr and Euchner 1994, as in Agrell et al.
2002).
"""

from __future__ import annotations

import numpy as np

from lutc.jit import njit

_RIDGE = 1e-11  # relative to the diagonal: a segment without weight must not stop the factorisation
_SLACK = 1e-4  # relative gain over the best excess below which a branch is not worth a visit


@njit
def _factorise(matrix):
    """Lower Cholesky factor of matrix + ridge."""
    n = matrix.shape[0]
    factor = np.zeros((n, n))
    largest = 0.0
    for i in range(n):
        largest = max(largest, matrix[i, i])
    for i in range(n):
        for j in range(i + 1):
            total = matrix[i, j]
            for k in range(j):
                total -= factor[i, k] * factor[j, k]
            if i == j:
                factor[i, i] = np.sqrt(max(total + _RIDGE * matrix[i, i], 1e-15 * largest + 1e-300))
            else:
                factor[i, j] = total / factor[j, j]
    return factor


@njit
def _reduced(factor, vector):
    """y with factor y = vector."""
    y = np.empty(vector.size)
    for i in range(vector.size):
        total = vector[i]
        for k in range(i):
            total -= factor[i, k] * y[k]
        y[i] = total / factor[i, i]
    return y


@njit
def nearest_plane(matrix, vector, low, high):
    """Integers near the minimum: the real solution rounded one by one from the last, the others solved again each time
    (Babai 1986).
    """
    n = vector.size
    factor = _factorise(matrix)
    y = _reduced(factor, vector)
    theta = np.empty(n)
    for i in range(n - 1, -1, -1):
        total = y[i]
        for k in range(i + 1, n):
            total -= factor[k, i] * theta[k]
        theta[i] = min(max(np.rint(total / factor[i, i]), low), high)
    return theta


@njit
def _centred(matrix, vector):
    """(matrix, vector, shift) for slope and t' = t + shift * slope of each segment, so that the two hardly interact."""
    shift = np.zeros(vector.size // 2)
    matrix, vector = matrix.copy(), vector.copy()
    for s in range(shift.size):
        k, t = 2 * s, 2 * s + 1
        if matrix[t, t] > 0.0:
            shift[s] = np.rint(matrix[k, t] / matrix[t, t])
            matrix[:, k] -= shift[s] * matrix[:, t]
            matrix[k, :] -= shift[s] * matrix[t, :]
            vector[k] -= shift[s] * vector[t]
    return matrix, vector, shift


@njit
def closest(matrix, vector, start, low, high, nodes):
    """(theta, proven) with every theta in [low, high], no worse than `start`; at most `nodes` nodes of the tree are
    visited.

    proven: the whole tree was searched, so theta is the optimum, to 1e-4 of its excess over the real optimum.
    """
    n = vector.size
    centred, target, shift = _centred(matrix, vector)
    factor = _factorise(centred)
    y = _reduced(factor, target)
    best, x = start.copy(), start.copy()
    for s in range(n // 2):
        best[2 * s + 1] += shift[s] * best[2 * s]
    excess = np.sum((y - factor.T @ best) ** 2)
    centre, up, down, lowest, highest = np.empty(n), np.empty(n), np.empty(n), np.empty(n), np.empty(n)
    reached = np.zeros(n + 1)
    at, entered, visited = n - 1, True, 0
    while at < n and visited < nodes:
        visited += 1
        if entered:
            entered = False
            total = y[at]
            for k in range(at + 1, n):
                total -= factor[k, at] * x[k]
            centre[at] = total / factor[at, at]
            c = shift[at // 2]
            if at % 2:  # t' = t + c k with t and k anywhere in the box
                lowest[at], highest[at] = low + min(c * low, c * high), high + max(c * low, c * high)
            else:  # k such that t = t' - c k is in the box
                lowest[at], highest[at] = low, high
                if c != 0.0:
                    ends = (x[at + 1] - high) / c, (x[at + 1] - low) / c
                    lowest[at], highest[at] = max(low, np.ceil(min(ends))), min(high, np.floor(max(ends)))
            up[at] = max(np.ceil(centre[at]), lowest[at])
            down[at] = min(up[at] - 1.0, highest[at])
        if up[at] <= highest[at] and (down[at] < lowest[at] or up[at] - centre[at] <= centre[at] - down[at]):
            x[at] = up[at]
            up[at] += 1.0
        elif down[at] >= lowest[at]:
            x[at] = down[at]
            down[at] -= 1.0
        else:
            at += 1
            continue
        distance = reached[at + 1] + (factor[at, at] * (x[at] - centre[at])) ** 2
        if distance >= excess * (1.0 - _SLACK):
            at += 1
        elif at > 0:
            reached[at] = distance
            at -= 1
            entered = True
        else:
            excess = distance
            best[:] = x
    for s in range(n // 2):
        best[2 * s + 1] -= shift[s] * best[2 * s]
    return best, at >= n
